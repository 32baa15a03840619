"""The small stream that is replayed, its launch, and what it must come to: the same trained without any cluster.

`python -m tests.replay.stream HOME` is one of two training workers of that reference.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.run import Prepared, prepare
from lcia.store.folders import Store
from tests.replay.lab import ENVIRONMENT, ROOT

NAME = "stream"
RUN: dict[str, Any] = {
    "name": NAME,
    # The quickstart's method on two of its tasks, long enough that a worker which is to be killed in mid-stage is.
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 120, "test_size": 24},
    "training": {"max_steps": 30},
    "strategy": {"kind": "kronecker"},
}
STUDY: dict[str, Any] = {
    "name": NAME,
    "base": {name: value for name, value in RUN.items() if name != "name"},
    "seeds": [0, 1],
}
SAVE_STEPS, LOGGING_STEPS = 5, 5
CLAIM = "lcia-runs"


def launch(storage: str, secrets: Sequence[Mapping[str, str]] = (), **changed: Any) -> dict[str, Any]:
    """configs/launch/kind.yaml with each of its two training workers on a pod of its own."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "configs/launch/kind.yaml").read_text())
    cluster = values["cluster"]
    cluster = {
        **cluster,
        "train": {**cluster["train"], "cpu": 1},
        "claim": CLAIM,
        "secrets": [dict(s) for s in secrets],
    }
    often = {"save_steps": SAVE_STEPS, "logging_steps": LOGGING_STEPS}
    return {**values, **often, "storage": storage, "cluster": cluster, **changed}


@dataclass(frozen=True)
class Reference:
    """The stream trained by two plain processes and answered by one of them: a plan, and its results in a store."""

    prepared: Prepared
    store: Store

    @property
    def keys(self) -> set[str]:
        return set(self.store.held())


class ReferenceRun:
    """The two processes that make a reference, started at once and waited for later."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        home.mkdir(parents=True, exist_ok=True)
        self._home = home
        self._workers = [self._start(rank, port) for rank in (0, 1)]

    def _start(self, rank: int, port: int) -> subprocess.Popen[bytes]:
        # What Ray Train sets for its workers.
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                 "OMP_NUM_THREADS": 1, "ACCELERATE_USE_CPU": "true"}  # fmt: skip
        environment = {**os.environ, **ENVIRONMENT, **{name: str(value) for name, value in ranks.items()}}
        with (self._home / f"worker-{rank}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.replay.stream", str(self._home)], stdout=log, stderr=log, env=environment
            )

    def finish(self) -> Reference:
        """Waits for it."""
        codes = [worker.wait(600) for worker in self._workers]
        assert codes == [0, 0], (self._home / "worker-0.log").read_text()[-3000:]
        executor = _executor(self._home)
        return Reference(prepare([parse(RunConfig, RUN, "test")], executor)[0], executor.store)

    def stop(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.wait()


def _executor(home: Path) -> Any:
    from lcia.local import LocalExecutor
    from lcia.training.train import TrainOptions

    values = launch("unused")
    options = TrainOptions(values["per_device_train_batch_size"], SAVE_STEPS, LOGGING_STEPS)
    return LocalExecutor(Store(str(home / "store"), home / "cache"), options)


def _work(home: Path) -> None:
    """One of the two workers; the first one also answers the test rows."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    executor = _executor(home)
    plan = prepare([parse(RunConfig, RUN, "test")], executor)[0].plan
    executor.train_and_evaluate(plan.trains, [])
    dist.destroy_process_group()
    if os.environ["RANK"] == "0":
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            del os.environ[name]
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        _executor(home).train_and_evaluate([], plan.evals)


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
