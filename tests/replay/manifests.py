"""A RayJob rendered by our own command, and changed as an overlay would change it."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.kubernetes.manifest import Manifest

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"


def render(verb: str, config: Manifest, launch: Manifest, folder: Path) -> list[Manifest]:
    """ConfigMap and RayJob of a run or a study (`verb`), as `lcia launch` prints them for these files."""
    files = {verb: config, "launch": launch}
    for name, values in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    command = ["launch", folder / f"{verb}.yaml", "--launch", folder / "launch.yaml", "--target", "rayjob"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def with_component(job: Manifest, name: str) -> Manifest:
    """The RayJob with the patches of `cluster/components/<name>` applied."""
    folder = CLUSTER / "components" / name
    patches = [
        yaml.safe_load(patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text())
        for patch in yaml.safe_load((folder / "kustomization.yaml").read_text())["patches"]
    ]
    changed = copy.deepcopy(job)
    for operation in [operation for patch in patches for operation in patch]:
        _apply(changed, operation)
    return changed


def _apply(document: Any, operation: Manifest) -> None:
    """One operation of JSON6902: `test`, or `add` to a mapping or to the end of a list."""
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].strip("/").split("/")]
    place = document
    for part in way:
        place = place[int(part) if isinstance(place, list) else part]
    if operation["op"] == "test":
        found = place[int(last) if isinstance(place, list) else last]
        assert found == operation["value"], f"{operation['path']} is {found!r}, not {operation['value']!r}"
    elif isinstance(place, list):
        assert last == "-"
        place.append(operation["value"])
    else:
        place[last] = operation["value"]


def with_variables(job: Manifest, variables: Mapping[str, str]) -> Manifest:
    """The RayJob with plain variables added to its Ray containers."""
    changed = copy.deepcopy(job)
    ray = changed["spec"]["rayClusterSpec"]
    for group in (ray["headGroupSpec"], *ray["workerGroupSpecs"]):
        environment = group["template"]["spec"]["containers"][0]["env"]
        environment += [{"name": name, "value": value} for name, value in variables.items()]
    return changed
