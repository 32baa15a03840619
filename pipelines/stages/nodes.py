"""What each node of a Ray cluster has: versions, GPUs, and whether it reads and writes the storage."""

from __future__ import annotations

import contextlib
import platform
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lcia.data.filesystems import filesystem
from lcia.report.environment import PACKAGES, environment
from lcia.secrets import redacted
from pipelines.devices import gpus_here

PROBES = ".lcia-doctor"
"""Folder in the storage for files that are gone when the look is over."""
PATIENCE_S = 120.0
"""How long a node may take to answer; a worker process starts and imports first."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Node:
    """A node as Ray lists it."""

    key: str
    name: str
    cpus: float
    gpus: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a node says of itself. `trouble`: why it gave no answer; `storage`: why it cannot write there."""

    versions: Mapping[str, str] = field(default_factory=dict)
    gpus: int | None = None
    storage: str = ""
    trouble: str = ""


def versions() -> dict[str, str]:
    """Of Python and the packages that results are made with, in this process."""
    found = environment()
    return {"python": platform.python_version(), **{name: found[name] for name in PACKAGES}}


def nodes() -> list[Node]:
    """The nodes that are alive, the head first."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    alive.sort(key=lambda node: ("node:__internal_head__" not in node["Resources"], node["NodeManagerAddress"]))
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["Resources"].get("CPU", 0.0),
            int(node["Resources"].get("GPU", 0)),
        )
        for node in alive
    ]


def look(there: Sequence[Node], storage: str) -> dict[Node, Found]:
    """Asks every node about itself; each writes a file into the storage, and then reads those of all others."""
    folder = f"{storage.rstrip('/')}/{PROBES}/{uuid.uuid4().hex[:8]}"
    found = _each(there, _describe, folder)
    try:
        wrote = [node.key for node, one in found.items() if not one.trouble and not one.storage]
        read = _each([node for node in there if node.key in wrote], _read_all, folder, wrote)
    finally:
        _remove(folder)
    return {node: _with_reading(one, read[node]) if node in read else one for node, one in found.items()}


def _with_reading(found: Found, read: Found) -> Found:
    return Found(found.versions, found.gpus, read.storage, read.trouble)


def _each(there: Sequence[Node], ask: Callable[..., Found], *words: Any) -> dict[Node, Found]:
    """The answer of every node, all asked at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(ask)
    asked = {
        node: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.key, soft=False)).remote(
            node.key, *words
        )
        for node in there
    }
    return {node: _answer(reference) for node, reference in asked.items()}


def _answer(reference: Any) -> Found:
    import ray

    try:
        found: Found = ray.get(reference, timeout=PATIENCE_S)
    except ray.exceptions.GetTimeoutError:
        return Found(trouble=f"no answer within {PATIENCE_S:.0f} s")
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        return Found(trouble="lcia is not installed there" if "No module named" in last else last)
    return found


def _describe(key: str, folder: str) -> Found:
    """Runs on a node."""
    try:
        fs, path = filesystem(folder)
        fs.create_dir(path, recursive=True)
        with fs.open_output_stream(f"{path}/{key}") as stream:
            stream.write(key.encode())
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own; told to the user
        return Found(versions(), gpus_here(), f"cannot write: {_brief(error)}")
    return Found(versions(), gpus_here())


def _read_all(key: str, folder: str, wrote: Sequence[str]) -> Found:
    """Runs on a node."""
    try:
        fs, path = filesystem(folder)
        for other in wrote:
            with fs.open_input_stream(f"{path}/{other}") as stream:
                if stream.read() != other.encode():
                    return Found(storage="reads something else than another node has written")
    except Exception as error:  # noqa: BLE001 - the same
        return Found(storage=f"cannot read what another node has written: {_brief(error)}")
    return Found()


def _brief(error: Exception) -> str:
    return redacted(f"{type(error).__name__}: {error}".splitlines()[0])


def _remove(folder: str) -> None:
    # Where this fails, the look has told already that the storage cannot be used.
    with contextlib.suppress(Exception):
        fs, path = filesystem(folder)
        fs.delete_dir(path)
