"""A run on Ray of which something was killed at a random step, or damaged as well: it ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import config_file, launch_file, lcia, start


def test_a_run_goes_on_by_itself_when_a_worker_is_killed(finished: Path, tmp_path: Path) -> None:
    process = _started(tmp_path, "worker")
    _workers(process)[0].send_signal(signal.SIGKILL)
    assert process.wait(timeout=400) == 0
    assert any("resumed_at" in stage for stage in _stages(tmp_path))
    _assert_same_bits(tmp_path, finished)


def test_the_same_command_goes_on_where_the_driver_was_killed(finished: Path, tmp_path: Path) -> None:
    """At once, so that workers of the dead driver may still train and publish beside the new ones."""
    process = _started(tmp_path, "driver")
    orphans = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = _again(tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    _assert_same_bits(tmp_path, finished)
    assert psutil.wait_procs(orphans, timeout=60)[1] == []


@pytest.mark.parametrize("damaged", [False, True])
def test_the_same_command_goes_on_where_everything_was_killed(finished: Path, tmp_path: Path, damaged: bool) -> None:
    """As when a machine is lost; with damage it goes on from the checkpoint before the newest, and says so."""
    process = _started(tmp_path, f"everything{damaged}")
    children, workers = psutil.Process(process.pid).children(recursive=True), _workers(process)
    for victim in (*workers, psutil.Process(process.pid)):
        victim.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(children, timeout=60)
    before, newest = _checkpoints(tmp_path)[-2:]
    if damaged:
        _flip(newest / "state.safetensors")
    again = _again(tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    [stage] = [stage for stage in _stages(tmp_path) if "resumed_at" in stage]
    assert stage["resumed_at"] == [int((before if damaged else newest).name)]
    told = f"damaged checkpoints passed over: {newest.name}; " if damaged else ""
    told += f"continued after step {stage['resumed_at'][0]}"
    assert told in again.stderr
    assert told in (tmp_path / "runs" / "stream" / "report.html").read_text()
    assert stage.get("damaged_checkpoints", []) == ([newest.name] if damaged else [])
    _assert_same_bits(tmp_path, finished)


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(finished: Path, tmp_path: Path) -> None:
    process = _started(tmp_path, "interrupted")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130, err[-3000:]
    assert "To continue, run the same command again." in err
    assert "Traceback" not in err
    again = _again(tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert any("resumed_at" in stage for stage in _stages(tmp_path))
    _assert_same_bits(tmp_path, finished)


def _started(folder: Path, seed: str) -> subprocess.Popen[str]:
    """A run in the middle of its second stage, past a random step and with two checkpoints at least."""
    process = start("run", config_file(folder), "--launch", launch_file(folder))
    least, deadline = random.Random(seed).randint(10, 60), time.monotonic() + 300
    while not (found := _checkpoints(folder)) or int(found[-1].name) < least or len(found) < 2:
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)
    return process


def _again(folder: Path) -> subprocess.CompletedProcess[str]:
    return lcia("run", folder / "run.yaml", "--launch", folder / "launch.yaml")


def _checkpoints(folder: Path) -> list[Path]:
    """Mid-stage checkpoints of the second stage, oldest first."""
    store = folder / "runs" / "store"
    published = {path.parent.name for path in store.glob("??/*/steps.jsonl")}
    # The first stage's own checkpoints may still lie there for a moment after it is published.
    complete = (path.parent for path in store.glob("partial/*/*/complete.json") if published)
    return sorted(path for path in complete if path.parent.name not in published and path.name.isdigit())


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if "RayTrainWorker" in _title(child)]
    assert len(workers) == 2
    return workers


def _title(process: psutil.Process) -> str:
    """The name that Ray gives its worker; empty for one that has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _stages(folder: Path) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = json.loads((folder / "runs" / "stream" / "summary.json").read_text())["runs"][
        "stream"
    ]["stages"]
    return stages


def _assert_same_bits(folder: Path, finished: Path) -> None:
    """Adapters, importances and statistics of every stage."""
    for key in (stage["key"] for stage in _stages(folder)):
        one, two = (storage / "store" / key[:2] / key for storage in (folder / "runs", finished))
        for name in ("adapter_model.safetensors", "kept.safetensors", "steps.jsonl"):
            assert (one / name).read_bytes() == (two / name).read_bytes(), f"{name} of {key}"
