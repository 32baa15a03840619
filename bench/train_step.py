"""What Ray Train adds to a training step: python -m bench.train_step [--steps 400] [--json FILE].

The same stages are trained in this process (accelerate, no Ray) and by one worker of Ray Train, fed by the broker as in
any run. Start-up is left out: a step costs what a long stage takes beyond a short one, over their difference in steps.
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

from lcia.config import RunConfig
from lcia.load import parse
from lcia.run import Executor, prepare, steps_of

SHORT = 50


def configs(steps: int, rounds: int) -> list[RunConfig]:
    """Short and long stages in turn, so that a slow minute of the machine meets both."""
    base = {"benchmark": {"kind": "minicoin", "tasks": ["VQAv2"], "test_size": 10}, "strategy": {"kind": "sequential"}}
    return [
        parse(RunConfig, {**base, "seed": number, "training": {"max_steps": length}}, "bench")
        for number in range(rounds)
        for length in (SHORT, steps)
    ]


def seconds_per_step(chosen: Sequence[RunConfig], executor: Executor) -> list[float]:
    """One figure a round."""
    seconds, steps = [], []
    for prepared in prepare(chosen, executor):
        stage = prepared.plan.trains[0]
        executor.tune([stage], [])
        result = steps_of(stage, executor.store)[1]
        seconds.append(result["seconds"])
        steps.append(result["steps"])
    pairs = range(0, len(seconds), 2)
    return [(seconds[i + 1] - seconds[i]) / (steps[i + 1] - steps[i]) for i in pairs]


def measure(steps: int, rounds: int) -> dict[str, Any]:
    import torch

    from lcia.local import LocalExecutor
    from lcia.store import Store
    from pipelines.execute import session
    from pipelines.launch import LaunchConfig

    torch.set_num_threads(1)  # as Ray gives a worker of one CPU
    chosen = configs(steps, rounds)
    with tempfile.TemporaryDirectory() as name:
        plain = seconds_per_step(chosen, LocalExecutor(Store(str(Path(name) / "plain"))))
        with session(LaunchConfig(storage=str(Path(name) / "ray"), num_workers=1)) as executor:
            on_ray = seconds_per_step(chosen, executor)
    ratio = statistics.median(on_ray) / statistics.median(plain)
    return {"plain_ms": [1000 * s for s in plain], "ray_ms": [1000 * s for s in on_ray], "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
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
