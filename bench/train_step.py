"""What Ray Train adds to a training step: python -m bench.train_step [--steps 300] [--json FILE].

The same stages are trained in this process (accelerate, no Ray), in this process while a Ray stands beside it and does
nothing, and by one worker of Ray Train, fed by the broker as in any run. Start-up is left out: a step costs what a long
stage takes beyond a short one, over their difference in steps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.run import Executor, prepare
from lcia.training.result import TrainResult

SHORT = 50
SETTLED = 40.0
"""Seconds after which the servers of a session have been imported and wait."""


def configs(steps: int, number: int) -> list[RunConfig]:
    """A short and a long stage with the seed `number`."""
    base = {"benchmark": {"kind": "minicoin", "tasks": ["VQAv2"], "test_size": 10}, "strategy": {"kind": "sequential"}}
    lengths = (SHORT, steps)
    return [parse(RunConfig, {**base, "seed": number, "training": {"max_steps": n}}, "bench") for n in lengths]


def milliseconds_per_step(chosen: Sequence[RunConfig], executor: Executor) -> float:
    """What the long stage took beyond the short one, over their difference in steps."""
    seconds, steps = [], []
    for prepared in prepare(chosen, executor):
        stage = prepared.plan.trains[0]
        executor.train_and_evaluate([stage], [])
        result = TrainResult.read(executor.store.fetch(stage.key)).result
        seconds.append(result["seconds"])
        steps.append(result["steps"])
    return float(1000 * (seconds[1] - seconds[0]) / (steps[1] - steps[0]))


def measure(steps: int, rounds: int) -> dict[str, Any]:
    """All three in turn, so that a slow minute of the machine meets them all."""
    import torch

    from lcia.local import LocalExecutor
    from lcia.store.folders import Store
    from pipelines.launch import LaunchConfig
    from pipelines.stages.session import session

    torch.set_num_threads(1)  # as Ray gives a worker of one CPU
    found: dict[str, list[float]] = {"plain": [], "beside_ray": [], "on_ray": []}
    with tempfile.TemporaryDirectory() as name:
        here = {where: LocalExecutor(Store(str(Path(name) / where))) for where in ("plain", "beside_ray")}
        for chosen in (configs(steps, number) for number in range(rounds)):
            found["plain"].append(milliseconds_per_step(chosen, here["plain"]))
            with session(LaunchConfig(storage=str(Path(name) / "ray"), num_workers=1)) as there:
                time.sleep(SETTLED)
                found["beside_ray"].append(milliseconds_per_step(chosen, here["beside_ray"]))
                found["on_ray"].append(milliseconds_per_step(chosen, there))
    return {
        "milliseconds": found,
        "ratio": _ratio(found["on_ray"], found["plain"]),
        "of_which_machine": _ratio(found["beside_ray"], found["plain"]),
        "of_which_train": _ratio(found["on_ray"], found["beside_ray"]),
    }


def _ratio(top: list[float], bottom: list[float]) -> float:
    """Median over the rounds."""
    return statistics.median(a / b for a, b in zip(top, bottom, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}"
    text = json.dumps({"machine": machine, "steps": given.steps, **measure(given.steps, given.rounds)}, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
