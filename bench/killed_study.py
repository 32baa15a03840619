"""A study that is killed twice beside one that is not: python -m bench.killed_study STUDY [KEY=VALUE ...].

The driver is killed (SIGKILL) when a third of the trainings are stored, then, started again, the driver with all of its
Ray when two thirds are; the third start ends. Both studies run on Ray, one after the other, each in a storage of its
own. Exit code 1 if their tables differ or anything was trained twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

TABLES = ("methods", "orders", "tasks", "comparisons", "effects")
"""Keys of summary.json that depend on results alone, not on times."""
POLL_S = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("keys", nargs="*")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compare([given.study, *given.keys], Path(folder))
    text = json.dumps(found, indent=1)
    if given.json:
        given.json.write_text(text + "\n")
    print(text)
    return 0 if found["same_tables"] and found["trained_twice"] == 0 else 1


def compare(study: Sequence[str], folder: Path) -> dict[str, Any]:
    """Both studies, and whether they came to the same."""
    started = time.perf_counter()
    whole = _finish(study, folder / "whole")
    undisturbed = time.perf_counter() - started
    distinct, home = whole["stages"]["distinct"], folder / "killed"
    starts = [_kill(study, home, distinct // 3, False), _kill(study, home, 2 * distinct // 3, True)]
    started = time.perf_counter()
    last = _finish(study, home)
    starts.append({"trained": last["stages"]["trained"], "seconds": time.perf_counter() - started})
    trained = sum(start["trained"] for start in starts)
    return {
        "study": list(study),
        "trainings": {name: whole["stages"][name] for name in ("asked", "distinct", "trained")},
        "undisturbed_seconds": undisturbed,
        "starts": starts,
        "trained_twice": trained - distinct,
        "same_tables": all(last.get(name) == whole.get(name) for name in TABLES),
        "methods": {"undisturbed": _short(whole), "killed_twice": _short(last)},
    }


def _command(study: Sequence[str], home: Path) -> list[str]:
    home.mkdir(exist_ok=True)
    launch = home / "launch.yaml"
    launch.write_text(f"storage: {home / 'runs'}\ntracking: {{enabled: false}}\n")
    return [sys.executable, "-m", "pipelines.cli", "study", *study, "--launch", str(launch), "--json"]


def _finish(study: Sequence[str], home: Path) -> dict[str, Any]:
    done = subprocess.run(_command(study, home), stdout=subprocess.PIPE, text=True, check=True)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def _kill(study: Sequence[str], home: Path, when: int, with_ray: bool) -> dict[str, Any]:
    """Starts a study and kills it when so many trainings are stored; tells how many this start has added."""
    started, before = time.perf_counter(), _stored(home)
    driver = psutil.Popen(_command(study, home), stdout=subprocess.DEVNULL)
    while _stored(home) < when:
        if driver.poll() is not None:
            raise RuntimeError(f"the study ended before {when} trainings were stored")
        time.sleep(POLL_S)
    family = driver.children(recursive=True)
    for victim in [*family, driver] if with_ray else [driver]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    # Without its driver Ray ends by itself; a training under way may still be published meanwhile.
    psutil.wait_procs([driver, *family], timeout=60)
    killed = "the driver and all of Ray" if with_ray else "the driver"
    return {"trained": _stored(home) - before, "seconds": time.perf_counter() - started, "killed": killed}


def _stored(home: Path) -> int:
    return len(list((home / "runs" / "store").glob("??/*/steps.jsonl")))


def _short(summary: Mapping[str, Any]) -> dict[str, Any]:
    """avg_acc of each method."""
    return {label: row["avg_acc"] for label, row in summary["methods"].items()}


if __name__ == "__main__":
    sys.exit(main())
