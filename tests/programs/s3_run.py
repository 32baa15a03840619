"""python -m tests.programs.s3_run STORE: one small stream, trained and answered in one process."""

from __future__ import annotations

import sys

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor
from lcia.run import run
from lcia.store.folders import Store
from lcia.training.train import TrainOptions

STREAM = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 16, "test_size": 2},
    "training": {"max_steps": 4, "batch_size": 4},
    "grouping": {"enabled": False},
}


def stream(store: Store) -> None:
    """Runs it, with a checkpoint in the middle of each stage."""
    run([parse(RunConfig, STREAM, "stream")], LocalExecutor(store, TrainOptions(save_steps=2, logging_steps=1)))


if __name__ == "__main__":
    stream(Store(sys.argv[1]))
