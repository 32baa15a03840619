"""What many task orders cost: python -m bench.orders [--json FILE].

- `plan`: all orders of eight tasks, with groups and ten instructions a task: expanded, planned, and their union made.
- `study`: all orders of seven tasks, executed by something that takes a millisecond a stage, and reported.

Each in a process of its own, so that its peak memory is its own. Needs no Ray.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcia.config.benchmarks import COIN_ORDER
from lcia.config.load import parse
from lcia.data.rows import Rows
from lcia.data.shards import count_rows
from lcia.evaluation.answers import write_answers
from lcia.local import LocalExecutor
from lcia.plan import union
from lcia.report import run_folder
from lcia.report.run_folder import Session
from lcia.run import complete, prepare
from lcia.stage import Asked, EvaluateStage, TrainStage
from lcia.store.folders import Store
from lcia.studies.config import StudyConfig
from lcia.studies.points import expand
from lcia.training.result import ADAPTER, RESULT, STEPS

MILLISECOND = 0.001
PARTS = ("plan", "study")


class Pretended(LocalExecutor):
    """Real data, and stages that take a millisecond: each training leaves empty files, each answer is right or wrong
    by its stage's key."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.executed = 0

    def train_and_evaluate(self, trains: Sequence[TrainStage], evals: Sequence[Asked]) -> None:
        for stage in trains:
            self._publish(stage, {**dict.fromkeys(ADAPTER, ""), STEPS: "", RESULT: json.dumps(_result())})
        for asked in evals:
            if isinstance(asked, EvaluateStage) and not self.store.has(asked.key):
                self._answer(asked)

    def _publish(self, stage: TrainStage, files: Mapping[str, str]) -> None:
        if self.store.has(stage.key):
            return
        time.sleep(MILLISECOND)
        self.executed += 1
        with self.store.publish(stage.key, stage.record) as folder:
            for name, text in files.items():
                (folder / name).write_text(text)

    def _answer(self, stage: EvaluateStage) -> None:
        time.sleep(MILLISECOND)
        self.executed += 1
        folder = self.store.fetch(stage.shards)
        samples = Rows([folder]).take(range(count_rows(folder)))
        right = int(stage.key, 16)
        records = [
            {"row": row, "id": s.id, "instruction": s.instruction, "question": "", "references": list(s.references),
             "prediction": s.references[0] if right >> row & 1 else "", "adapter": stage.adapter_of(s.instruction)}
            for row, s in enumerate(samples)
        ]  # fmt: skip
        with self.store.publish(stage.key, stage.record) as out:
            write_answers(records, MILLISECOND, out)


def _result() -> dict[str, Any]:
    return {"steps": 1, "seconds": MILLISECOND, "rows": 40, "workers": 1, "parallelism": "ddp", "checksum": ""}


def measure(part: str, tasks: int) -> dict[str, Any]:
    """Seconds of each step, and the peak of this process's memory with nothing but imports and one order, and at the
    end."""
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        executor = Pretended(Store(f"{folder}/store"))
        benchmark = {"kind": "minicoin", "tasks": COIN_ORDER[:tasks], "train_size": 40, "test_size": 20,
                     "instructions": "10type"}  # fmt: skip
        prepare([point.config for point in expand(_study(benchmark, "given"))], executor)
        clock.lap("data")
        before = _peak_mb()
        points = expand(_study(benchmark, "all"))
        clock.lap("expand")
        prepared = prepare([point.config for point in points], executor)
        clock.lap("plan")
        trains, evals = union(one.plan for one in prepared)
        clock.lap("union")
        counts = {"orders": len(points), "asked": sum(len(one.plan.rows) for one in prepared),
                  "trainings": len(trains), "evaluations": len(evals)}  # fmt: skip
        if part == "study":
            outcomes = complete(prepared, executor)
            clock.lap("execute and read")
            session = Session("orders", 0.0, {"stages": {}}, tuple(points))
            run_folder.write(outcomes, session, executor.store, Path(folder) / "run")
            clock.lap("report")
    grown = {"mb_before": before, "mb_at_peak": _peak_mb()}
    return {**counts, "executed": executor.executed, "seconds": clock.laps, **grown}


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _study(benchmark: Mapping[str, Any], orders: str) -> StudyConfig:
    values = {"name": "orders", "base": {"benchmark": benchmark}, "orders": orders}
    return parse(StudyConfig, values, "bench")


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 2)
        self._last = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--tasks", type=int, help="so many tasks in both parts (8 and 7)")
    parser.add_argument("--part", choices=PARTS, help="this one alone, in this process; prints JSON")
    given = parser.parse_args()
    if given.part:
        print(json.dumps(measure(given.part, given.tasks)))
        return
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d")}
    for part, tasks in zip(PARTS, (8, 7), strict=True):
        command = [sys.executable, "-m", "bench.orders", "--part", part, "--tasks", str(given.tasks or tasks)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[part] = json.loads(done.stdout)
        print(f"{part}: {json.dumps(found[part])}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
