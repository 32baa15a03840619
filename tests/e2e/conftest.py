"""Whole runs as a user would start them: the command line in a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import yaml

from pipelines import cli

STREAM = {
    "name": "stream",
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 120, "test_size": 24},
    # Long enough that a process which is to be killed in mid-stage is, on a fast machine too.
    "training": {"max_steps": 80},
    "strategy": {"kind": "curvature", "lambda": 1.0, "pull": 1000.0},
    "grouping": {"enabled": False},
}


def launch_file(folder: Path, **values: object) -> Path:
    """A launch with storage in `folder`, saving often."""
    path = folder / "launch.yaml"
    settings = {"storage": str(folder / "runs"), "num_workers": 2, "save_steps": 5, **values}
    path.write_text(yaml.safe_dump(settings))
    return path


def config_file(folder: Path, **values: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**STREAM, **values}))
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    """`lcia` with these arguments, its output kept."""
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
    environment = {**os.environ, "LCIA_DEBUG": "1", "COLUMNS": "160"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=_hear_ctrl_c
    )


def _hear_ctrl_c() -> None:
    """A shell that starts the tests in the background may have told all its descendants to ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def lcia(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`lcia` run to its end."""
    process = start(*arguments)
    out, err = process.communicate(timeout=500)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def training_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Ray's training workers of a command that runs."""
    return [
        child for child in psutil.Process(process.pid).children(recursive=True) if "RayTrainWorker" in _title(child)
    ]


def _title(process: psutil.Process) -> str:
    """The name that Ray gives its worker; empty for one that has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def call(*arguments: object) -> int:
    """`lcia` in this process, as main() would run it: for a command that starts no other process."""
    return cli.guarded(lambda: cli.app([str(a) for a in arguments], standalone_mode=False))
