"""`lcia launch check`: what it reads, what it says, and how it ends."""

from __future__ import annotations

import gzip
import io
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from lcia.config.run import RunConfig
from pipelines.cli import app, guarded
from pipelines.cluster import ClusterConfig, PoolConfig
from pipelines.kubernetes.manifest import to_yaml
from pipelines.kubernetes.rayjob import render_rayjob
from pipelines.kubernetes.submission import Submission
from pipelines.launch import LaunchConfig

LAUNCH = LaunchConfig(storage="/mnt/lcia", cluster=ClusterConfig(image="lcia:0.1.0", train=PoolConfig(cpu=8)))
CONFIG_MAP, JOB = render_rayjob(Submission.of(RunConfig(name="a"), "name: a\n"), LAUNCH)
NAME = JOB["metadata"]["name"]
MESSAGE = 'the head must have rayStartParams num-cpus "0"'


@pytest.fixture
def broken() -> dict[str, Any]:
    """The rendered job with a head that takes tasks."""
    job = deepcopy(JOB)
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = "4"
    return job


def write(folder: Path, *manifests: Any, name: str = "job.yaml") -> str:
    path = folder / name
    path.write_text(to_yaml(list(manifests)))
    return str(path)


def lcia(*arguments: str) -> int:
    return guarded(lambda: app(list(arguments), standalone_mode=False))


def test_a_sound_job_passes_with_a_line_that_says_what_was_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lcia("launch", "check", write(tmp_path, CONFIG_MAP, JOB)) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "RayJobs that keep all 61 rules: 1; other objects, which no rule is about: 1"


def test_a_finding_is_a_line_with_file_object_rule_and_remedy_and_ends_with_two(
    tmp_path: Path, broken: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, CONFIG_MAP, broken)
    assert lcia("launch", "check", file) == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"{file}: RayJob/{NAME}: head_runs_no_tasks: {MESSAGE}"]
    assert "findings: 1" in said.err


def test_the_findings_are_there_as_json(
    tmp_path: Path, broken: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, CONFIG_MAP, broken)
    assert lcia("launch", "check", file, "--json") == 2
    expected = {"file": file, "object": f"RayJob/{NAME}", "rule": "head_runs_no_tasks", "message": MESSAGE}
    assert json.loads(capsys.readouterr().out) == [expected]


def test_standard_input_is_a_file_named_by_a_dash(
    broken: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(to_yaml([CONFIG_MAP, broken])))
    assert lcia("launch", "check", "-") == 2
    assert capsys.readouterr().out.startswith(f"-: RayJob/{NAME}: head_runs_no_tasks")


def test_a_config_map_may_stand_in_another_file(tmp_path: Path) -> None:
    files = write(tmp_path, JOB), write(tmp_path, CONFIG_MAP, name="map.yaml")
    assert lcia("launch", "check", files[0]) == 2
    assert lcia("launch", "check", *files) == 0


def test_jobs_in_a_list_are_checked_one_by_one(
    tmp_path: Path, broken: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": [CONFIG_MAP, JOB, broken]}
    assert lcia("launch", "check", write(tmp_path, items)) == 2
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: [RayJob", "is not a file of YAML manifests"),
        ("- kind: RayJob\n", "a document in it is not a mapping"),
        ("kind: List\nitems: [1]\n", "a document in it is not a mapping"),
        ("kind: Service\n", "there is no RayJob in"),
        ("", "there is no RayJob in"),
    ],
)
def test_a_file_that_cannot_be_checked_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    assert lcia("launch", "check", str(path)) == 2
    said = capsys.readouterr().err
    assert told in said
    assert str(path) in said


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lcia("launch", "check", str(tmp_path / "none.yaml")) == 2
    assert "none.yaml is not a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spec",
    [
        "text",
        {"ttlSecondsAfterFinished": "soon"},
        {"rayClusterSpec": {"workerGroupSpecs": ["train"]}},
        {"rayClusterSpec": {"headGroupSpec": {"template": {"spec": {"containers": "one"}}}}},
        {"rayClusterSpec": {"headGroupSpec": {"template": {"spec": {"volumes": [{"configMap": 3}]}}}}},
        {"deletionStrategy": {"deletionRules": [None]}},
    ],
)
def test_a_value_of_a_wrong_type_is_a_finding_and_no_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: Any
) -> None:
    file = write(tmp_path, {"kind": "RayJob", "metadata": {"name": "a"}, "spec": spec})
    assert lcia("launch", "check", file) == 2
    assert f"{file}: RayJob/a: " in capsys.readouterr().out


def test_what_is_rendered_passes_the_check(capsys: pytest.CaptureFixture[str], root: Path, tmp_path: Path) -> None:
    launch = str(root / "configs" / "launch" / "kuberay.yaml")
    assert lcia("launch", str(root / "configs" / "minicoin.yaml"), "--launch", launch) == 0
    rendered = capsys.readouterr().out
    assert {manifest["kind"] for manifest in yaml.safe_load_all(rendered)} == {"ConfigMap", "RayJob"}
    path = tmp_path / "rendered.yaml"
    path.write_text(rendered)
    assert lcia("launch", "check", str(path)) == 0


def test_a_configuration_that_is_called_check_can_still_be_launched(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "check"
    config.write_text((root / "configs" / "minicoin.yaml").read_text())
    assert lcia("launch", str(config), "--launch", str(root / "configs" / "launch" / "kuberay.yaml")) == 0
    assert "kind: RayJob" in capsys.readouterr().out


def test_the_operators_schemas_are_used_where_a_file_of_them_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any file by kind, gzipped or not: here one that knows a single key of RayJobs, and one of ConfigMaps."""
    known = {"type": "object", "properties": {"spec": {"properties": {"backoffLimit": {"maximum": 1}}}}}
    text = json.dumps({"ray.io/v1|RayJob": known, "v1|ConfigMap": {"required": ["binaryData"]}}).encode()
    file = write(tmp_path, CONFIG_MAP, JOB)
    for name, data in (("schemas.json", text), ("schemas.json.gz", gzip.compress(text))):
        (tmp_path / name).write_bytes(data)
        assert lcia("launch", "check", file, "--schemas", str(tmp_path / name)) == 2
        first, second = capsys.readouterr().out.splitlines()
        assert first.endswith(f"ConfigMap/{NAME}-config: schema: $: 'binaryData' is a required property")
        assert second.endswith(f"RayJob/{NAME}: schema: $.spec.backoffLimit: 2 is greater than the maximum of 1")


@pytest.mark.parametrize("text", [None, "nothing", "[]", '{"RayJob": {}}'])
def test_a_file_without_schemas_is_refused(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "schemas.json"
    if text is not None:
        path.write_text(text)
    assert lcia("launch", "check", write(tmp_path, CONFIG_MAP, JOB), "--schemas", str(path)) == 2
    assert str(path) in capsys.readouterr().err
