"""What starting costs: python -m bench.startup [--json FILE] [--repeat N].

In turn, each in processes of its own: Ray with one worker that imports torch and transformers, and nothing else (bare);
`lcia quickstart` in an empty storage (cold), up to its first line of training and to its end; the same again (cached).
Seconds of wall time and CPU seconds of all processes; medians, and ratios to bare.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

BARE = """
import os
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
ray.init(num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
@ray.remote
class Worker:
    def ready(self):
        import torch, transformers
        from transformers import LlavaForConditionalGeneration
        return True
ray.get(Worker.remote().ready.remote())
os._exit(0)
"""
TRAINS = re.compile(r"^\S+ +train .* step [1-9]", re.MULTILINE)
POLL_S = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    rounds = [_round() for _ in range(given.repeat)]
    found = {name: {key: _median(rounds, name, key) for key in rounds[0][name]} for name in rounds[0]}
    bare = found["bare"]["wall_s"]
    for figures in found.values():
        figures["to_bare"] = round(figures["wall_s"] / bare, 2)
    text = json.dumps({"cpus": os.cpu_count(), "rounds": given.repeat, **found}, indent=1)
    if given.json:
        given.json.write_text(text + "\n")
    print(text)


def _median(rounds: list[dict[str, dict[str, float]]], name: str, key: str) -> float:
    return round(statistics.median(one[name][key] for one in rounds), 1)


def _round() -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        quickstart = [sys.executable, "-m", "pipelines.cli", "quickstart", "--storage", f"{folder}/runs"]
        bare = _timed([sys.executable, "-c", BARE])
        cold, cached = _timed(quickstart), _timed(quickstart)
    bare.pop("first_step_s", None)
    cached.pop("first_step_s", None)
    return {"bare": bare, "cold": cold, "cached": cached}


def _timed(command: list[str]) -> dict[str, float]:
    """Runs a command to its end.

    Raises:
        RuntimeError: it has failed.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = psutil.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "160"})
        cpu: dict[int, float] = {}
        first: float | None = None
        while process.poll() is None:
            _note_cpu(process, cpu)
            if first is None and TRAINS.search(_text(out)):
                first = time.perf_counter() - started
            time.sleep(POLL_S)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(f"{' '.join(command[:4])} ended with {process.returncode}:\n{_text(out)[-2000:]}")
    found = {"wall_s": seconds, "cpu_s": sum(cpu.values())}
    return found | ({"first_step_s": first} if first is not None else {})


def _text(out: Any) -> str:
    out.flush()
    return os.pread(out.fileno(), 1 << 20, 0).decode(errors="replace")


def _note_cpu(process: psutil.Popen, cpu: dict[int, float]) -> None:
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return
    for one in family:
        try:
            times = one.cpu_times()
        except psutil.Error:
            continue
        cpu[one.pid] = times.user + times.system


if __name__ == "__main__":
    main()
