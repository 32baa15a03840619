"""A study in this process, without Ray: one stage after the other on one device, for machines where a night is cheap.

    python -m bench.local_study configs/studies/instrdialog.yaml runs base.benchmark.root=/path/to/tasks

The same command after a kill continues: finished stages lie in FOLDER/store, and one that was cut off goes on from its
last checkpoint. FOLDER/NAME then holds what `lcia study` leaves, and `lcia report FOLDER/NAME` prints it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lcia.config.load import load
from lcia.evaluation.external import CommandFailedError
from lcia.local import LocalExecutor
from lcia.plan import union
from lcia.protocols import Progress
from lcia.report import run_folder
from lcia.report.run_folder import SUMMARY, Session
from lcia.run import Prepared, prepare, read_outcomes, whole
from lcia.store.folders import Store
from lcia.studies.config import StudyConfig
from lcia.studies.points import expand
from lcia.training.train import TrainOptions


def carry_out(study: StudyConfig, folder: Path, options: TrainOptions, eval_batch_size: int) -> Path:
    """Runs every point of the study and writes its folder, whose path is returned. Runs that fail are left out and
    named.

    Raises:
        FloatingPointError: no run is whole, because stages diverged.
        CommandFailedError: likewise, because commands failed.
    """
    started, points = time.perf_counter(), tuple(expand(study))
    executor = LocalExecutor(Store(str(folder / "store")), options, show, eval_batch_size)
    prepared = prepare([point.config for point in points], executor)
    finished: Sequence[Prepared] = prepared
    try:
        executor.train_and_evaluate(*union(one.plan for one in prepared))
    except (FloatingPointError, CommandFailedError) as error:
        if not (finished := whole(prepared, executor.store)):
            raise
        print(f"{len(prepared) - len(finished)} of {len(prepared)} runs are left out; the first reason: {error}")
    names = {one.config.name for one in finished}
    session = Session(
        study.name, time.perf_counter() - started, {},
        tuple(point for point in points if point.config.name in names),
        tuple(point.config.name for point in points if point.config.name not in names),
    )  # fmt: skip
    run_folder.write(read_outcomes(finished, executor.store), session, executor.store, folder / study.name)
    run_folder.write_keys(prepared, folder / study.name)
    return folder / study.name


def show(progress: Progress) -> None:
    """A line for every report of a stage."""
    values = " ".join(f"{name} {value:.4g}" for name, value in progress.values.items())
    clock = time.strftime("%H:%M:%S")
    print(f"{clock} {progress.kind} {progress.label} {progress.step}/{progress.steps} {values}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="study file (YAML)")
    parser.add_argument("folder", type=Path, help="where the store and the study's folder are")
    parser.add_argument("overrides", nargs="*", help="section.key=value, as often as you like")
    parser.add_argument("--micro-batch", type=int, default=8, help="rows that pass through the model at once")
    parser.add_argument("--eval-batch-size", type=int, default=32, help="rows that are answered at once")
    parser.add_argument("--save-steps", type=int, default=10, help="steps between two checkpoints of a stage")
    given = parser.parse_args()
    options = TrainOptions(micro_batch=given.micro_batch, save_steps=given.save_steps)
    chosen = load(StudyConfig, given.study, given.overrides)
    written = carry_out(chosen, given.folder, options, given.eval_batch_size)
    print(written)
    if json.loads((written / SUMMARY).read_text())["failed"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
