"""How far a session scales: python -m bench.scale broker|flight|workers|shard [--json FILE].

broker: all orders of six tasks, three seeds, on 8, 64 and 512 training groups: the real broker in a simulated clock.
flight: 1,000 runs that wait for the same stage, and how soon all of them know that it is done.
workers: one stage of the tiny model on 1, 2 and 4 workers: samples per second of wall and of CPU time.
shard: a million generated rows through ShardStage on Ray (--rows for fewer): rows per second, peak memory.
docs/scale.md tells what the figures mean for 8, 64 and 512 GPUs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import selectors
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lcia.config.load import parse
from lcia.config.run import RunConfig
from pipelines.launch import LaunchConfig
from pipelines.stages.broker import Broker
from pipelines.stages.session import session
from pipelines.stages.work import NotYet, SessionOver

TASKS, SEEDS = 6, 3
STAGE_SECONDS, SPREAD = 60.0, 0.2
GROUPS = (8, 64, 512)
WAITING = 1000
STEPS, BATCH = 60, 16
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    text = json.dumps({given.part: PARTS[given.part](given)}, indent=1)
    if given.json:
        given.json.write_text(text + "\n")
    print(text)


# The broker in a simulated clock ----------------------------------------------------------------------------------


class _Leaping(selectors.DefaultSelector):
    """Waits for nothing: tells how long it was asked to wait instead."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.waited += timeout or 0.0
        return super().select(0)


class _SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop whose clock moves only while nothing is to be done."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.waited


@dataclass(frozen=True)
class _Stage:
    """Stands for a training: all that the broker looks at."""

    key: str
    parent: str | None

    @property
    def label(self) -> str:
        return self.key


def _orders() -> list[_Stage]:
    """The distinct trainings of all orders: a tree for each seed."""
    found: dict[str, _Stage] = {}
    for seed, order in itertools.product(range(SEEDS), itertools.permutations("ABCDEF"[:TASKS])):
        for length in range(1, TASKS + 1):
            key = f"{seed}{''.join(order[:length])}"
            found[key] = _Stage(key, key[:-1] if length > 1 else None)
    return list(found.values())


async def _study(groups: int) -> dict[str, float]:
    broker, stages, draw = Broker(), _orders(), random.Random(0)
    clock, cpu = asyncio.get_running_loop().time, time.process_time()
    busy = 0.0
    await broker.add_trainings(stages)  # type: ignore[arg-type]

    async def train(group: str) -> None:
        nonlocal busy
        while not isinstance(work := await broker.next_training(group), SessionOver):
            if isinstance(work, NotYet):
                continue
            seconds = STAGE_SECONDS * draw.uniform(1 - SPREAD, 1 + SPREAD)
            await asyncio.sleep(seconds)
            busy += seconds
            await broker.finish(work.key)

    tasks = [asyncio.create_task(train(f"group{number}")) for number in range(groups)]
    number = await broker.follow([stage.key for stage in stages])
    while isinstance(await broker.wait(number), NotYet):
        pass
    wall, spent = clock(), time.process_time() - cpu
    await broker.close()
    await asyncio.gather(*tasks)
    return {
        "stages": len(stages),
        "hours": round(wall / 3600, 2),
        "groups_busy_percent": round(100 * busy / wall / groups, 1),
        "broker_cpu_s": round(spent, 2),
        "broker_busy_percent": round(100 * spent / wall, 3),
    }


def broker(_: argparse.Namespace) -> dict[str, Any]:
    """The trainings of all orders, a minute each, on 8, 64 and 512 groups."""
    found = {}
    for groups in GROUPS:
        loop = _SimulatedLoop()
        found[f"{groups} groups"] = loop.run_until_complete(_study(groups))
        loop.close()
    return found


# On Ray -----------------------------------------------------------------------------------------------------------


def _config(rows: int, steps: int) -> RunConfig:
    return parse(
        RunConfig,
        {
            "benchmark": {"kind": "minicoin", "tasks": ["VQAv2"], "train_size": rows, "test_size": 10},
            "training": {"max_steps": steps, "batch_size": BATCH},
            "grouping": {"enabled": False},
            "strategy": {"kind": "paper"},
        },
        "scale",
    )


def flight(_: argparse.Namespace) -> dict[str, Any]:
    """A thousand calls that wait for one stage, on a real broker actor, while a group asks for work."""
    import ray

    with tempfile.TemporaryDirectory() as folder, session(LaunchConfig(storage=folder)) as executor:
        handle = executor.connect()
        stage = _Stage("one", None)
        handle.ask(Broker.add_trainings, [stage])  # type: ignore[list-item]
        number = handle.ask(Broker.follow, ["one"])
        started = time.perf_counter()
        waiting = [handle.actor.wait.remote(number, 600.0) for _ in range(WAITING)]
        handle.ask(Broker.news, 0)
        asked = time.perf_counter()
        handle.ask(Broker.finish, "one")
        ray.get(waiting)
        ended = time.perf_counter()
    return {"waiting": WAITING, "all_ask_s": round(asked - started, 3), "all_know_s": round(ended - asked, 3)}


def workers(_: argparse.Namespace) -> dict[str, Any]:
    """One stage on 1, 2 and 4 workers; the training alone is timed, by its own log."""
    from lcia.run import prepare
    from lcia.training.result import TrainResult

    found: dict[str, Any] = {}
    for count in (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            launch = LaunchConfig(storage=folder, num_workers=count, cpus_per_worker=0.25, save_steps=STEPS)
            with session(launch) as executor, _Watched() as watched:
                [prepared] = prepare([_config(800, STEPS)], executor)
                executor.train_and_evaluate(prepared.plan.trains, ())
                result = TrainResult.read(executor.store.fetch(prepared.plan.trains[0].key))
            seconds = result.seconds
            found[f"{count} workers"] = {
                "samples_per_s": round(STEPS * BATCH / seconds, 1),
                "cpu_s": round(watched.cpu("RayTrainWorker"), 1),
            }
    one = found["1 workers"]["samples_per_s"]
    for row in found.values():
        row["against_one"] = round(row["samples_per_s"] / one, 2)
    return found


def shard(given: argparse.Namespace) -> dict[str, Any]:
    """Generated rows through ShardStage on Ray."""
    from lcia.run import prepare

    with (
        tempfile.TemporaryDirectory() as folder,
        session(LaunchConfig(storage=folder)) as executor,
        _Watched() as watched,
    ):
        started = time.perf_counter()
        prepare([_config(given.rows, 1)], executor)
        seconds = time.perf_counter() - started
    return {
        "rows": given.rows,
        "rows_per_s": round(given.rows / seconds),
        "driver_peak_mib": round(watched.own),
        "largest_worker_peak_mib": round(watched.largest("ray::")),
    }


class _Watched:
    """Memory and CPU time of this process and its children while a block runs."""

    def __enter__(self) -> _Watched:
        self.own = 0.0
        self._peaks: dict[tuple[int, str], float] = {}
        self._cpu: dict[tuple[int, str], float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.5):
            self.own = max(self.own, me.memory_info().rss / MIB)
            for child in me.children(recursive=True):
                try:
                    name = (child.pid, " ".join(child.cmdline()).strip())
                    times = child.cpu_times()
                    self._cpu[name] = times.user + times.system
                    self._peaks[name] = max(self._peaks.get(name, 0.0), child.memory_info().rss / MIB)
                except psutil.Error:
                    continue

    def cpu(self, title: str) -> float:
        """CPU seconds of all processes of this title."""
        return sum(seconds for (_, name), seconds in self._cpu.items() if title in name)

    def largest(self, title: str) -> float:
        """The most memory that one process of this title had, in MiB."""
        return max((peak for (_, name), peak in self._peaks.items() if title in name), default=0.0)


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "broker": broker, "flight": flight, "workers": workers, "shard": shard,
}  # fmt: skip


if __name__ == "__main__":
    main()
