"""Processes that end or stand still at a chosen point of their work; a fork server starts each in milliseconds."""

from __future__ import annotations

import gc
import importlib
import itertools
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from lcia import assistants
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor, silent
from lcia.protocols import Look, Observer, Progress
from lcia.run import prepare
from lcia.stage import TrainStage
from lcia.store.folders import Store
from lcia.store.scratch import staging
from lcia.training.look_back import LookAgain
from lcia.training.train import TrainOptions, Worker, train_stage

PLACES = {"local": "{}", "url": "fsspec+file://{}"}
"""One rename publishes in the first, files are uploaded one by one in the second."""
OPTIONS = TrainOptions(micro_batch=4, save_steps=1, logging_steps=1)
STREAM = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 16, "test_size": 2},
    "training": {"max_steps": 4, "batch_size": 4},
    "grouping": {"enabled": False},
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "curvature": {"kind": "curvature", "lambda": 0.3, "pull": 1000},
    "paper": {"kind": "paper"},
    "kronecker": {"kind": "kronecker", "rows": 10, "k": 96},
}
KEY = "ab" + "0" * 30
# What a training loads late, the fork server loads early: each of its processes then starts in milliseconds.
for _name in (
    "PIL.PngImagePlugin", "fsspec.implementations.local", "lcia.assistants.llava", "lcia.assistants.tiny",
    "lcia.embedders.tfidf", "lcia.ema.curvature", "lcia.strategies.ewc", "lcia.strategies.kronecker",
    "lcia.ema.rules",
    "peft.tuners.lora", "peft.utils.transformers_weight_conversion", "transformers.models.clip.image_processing_clip",
    "transformers.models.clip.modeling_clip", "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava", "transformers.models.llava.processing_llava",
    "transformers.optimization", "transformers.trainer_pt_utils",
):  # fmt: skip
    importlib.import_module(_name)


@dataclass(frozen=True)
class Fate:
    """What befalls a process: `sign` at its `change`-th touch of a file, after a `step` of its `stage`-th stage, or
    before the `look`-th batch of rows that it looks back at."""

    sign: int = signal.SIGKILL
    change: int = -1
    step: int = -1
    stage: int = 1
    look: int = -1


# What such a process does ---------------------------------------------------------------------------------------


def train(home: Path, place: str, strategy: str, fate: Fate) -> None:
    """Trains the stream's two stages, or goes on with them."""
    executor = _executor(home, place, lambda progress: _step(home, progress, trains, fate))
    trains = stages(executor, strategy)
    executor.train_and_evaluate(trains, [])


def train_in_pair(home: Path, rank: int, port: int, fate: Fate) -> None:
    """The second stage as one of two workers, each with its own view of the store."""
    # What Ray Train sets for its workers.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_TORCH_DEVICE": "cpu"}
    executor = _executor(home, "local", silent)
    stage = stages(executor, "curvature")[1]
    worker = Worker(executor.store, Accelerator(cpu=True), OPTIONS, silent)
    train_stage(stage, assistants.build(stage.assistant, stage.lora), worker)


def stages(executor: LocalExecutor, strategy: str) -> tuple[TrainStage, ...]:
    """Both stages of the stream; their data is made if need be."""
    config = parse(RunConfig, {**STREAM, "strategy": STRATEGIES[strategy]}, "test")
    return prepare([config], executor)[0].plan.trains


def _executor(home: Path, place: str, observe: Observer) -> LocalExecutor:
    return LocalExecutor(Store(root(home, place), home / "cache"), OPTIONS, observe)


def _step(home: Path, progress: Progress, trains: Sequence[TrainStage], fate: Fate) -> None:
    home.with_suffix(".told").write_text(progress.note)
    if (progress.stage, progress.step) == (trains[fate.stage].key, fate.step):
        os.kill(os.getpid(), fate.sign)


def housekeeping(home: Path, place: str, steps: int, fate: Fate) -> None:
    """What a stage of three steps does to its store, without the training; it stops short after `steps`."""
    store = Store(root(home, place), home / "cache")
    if store.has(KEY):
        return
    checkpoints = store.checkpoints(KEY)
    for step in range(_resumed(checkpoints, place) + 1, steps + 1):
        with checkpoints.save(step) as folder:
            _fill(folder, step)
    if steps == 3:
        with store.publish(KEY, {"kind": "train"}) as folder:
            _fill(folder, steps)
        checkpoints.clear()


def and_another(home: Path, place: str, fate: Fate) -> None:
    """The same to its end, then any other work on that store."""
    housekeeping(home, place, 3, fate)
    with Store(root(home, place)).publish("cd" + KEY[2:], {}) as folder:
        _fill(folder, 1)


def _resumed(checkpoints: Any, place: str) -> int:
    with staging(Path(tempfile.gettempdir())) as scratch:
        folder, damaged = checkpoints.load(scratch)
        # An upload may be cut off between two files; a rename may not.
        assert place == "url" or not damaged, damaged
        return 0 if folder is None else int((folder / "one").read_text())


def _fill(folder: Path, step: int) -> None:
    (folder / "one").write_text(str(step))
    (folder / "two").write_text(str(step) * 3)


# Starting it ----------------------------------------------------------------------------------------------------


def root(home: Path, place: str) -> str:
    return PLACES[place].format(home / "store")


def start(target: Callable[..., None], home: Path, *arguments: Any, fate: Fate | None = None) -> BaseProcess:
    """`target(home, *arguments, fate)` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_live, args=(target, home, arguments, fate or Fate()))
    process.start()
    return process


def run(target: Callable[..., None], home: Path, *arguments: Any, fate: Fate | None = None) -> int:
    """The exit code of such a process; below zero: the signal that killed it."""
    process = start(target, home, *arguments, fate=fate)
    process.join(300)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def touches(home: Path) -> int:
    """How often the process that ended last in `home` touched a file there."""
    return int((home / "touches").read_text())


def why(home: Path) -> str:
    """The traceback of the process that failed in `home`."""
    return (home / "error").read_text()


def wait_until_stopped(process: BaseProcess) -> bool:
    """False: it ended without having met its fate."""
    while process.is_alive():
        if psutil.Process(process.pid).status() == psutil.STATUS_STOPPED:
            return True
        time.sleep(0.005)
    return False


def _live(target: Callable[..., None], home: Path, arguments: tuple[Any, ...], fate: Fate) -> None:
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(home / "tmp")
    gc.freeze()
    torch.set_num_threads(1)
    touch = Touches(home, fate)
    sys.addaudithook(touch)
    _strike_while_looking_back(fate)
    try:
        target(home, *arguments, fate)
    except BaseException:
        (home / "error").write_text(traceback.format_exc())
        raise
    finally:
        touch.fate = Fate()
        (home / "touches").write_text(str(touch.count))


def _strike_while_looking_back(fate: Fate) -> None:
    plain, looks = LookAgain._look, itertools.count()

    def look(self: LookAgain, numbers: list[int], meant: int) -> Look:
        if next(looks) == fate.look:
            os.kill(os.getpid(), fate.sign)
        return plain(self, numbers, meant)

    LookAgain._look = look  # type: ignore[method-assign]


class Touches:
    """An audit hook that counts what a process does to files below `home`, and strikes at the chosen count.

    A file that is opened for writing counts twice: before it is there, and when it is there and empty. Reads count
    only where a process is to stand still: for one that dies they change nothing.
    """

    events = frozenset({"os.rename", "os.mkdir", "os.rmdir", "os.remove"})

    def __init__(self, home: Path, fate: Fate) -> None:
        self.home, self.fate, self.count = str(home), fate, 0
        self._quiet = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self._quiet or not (event == "open" or event in self.events):
            return
        below = str(args[0]).startswith(self.home)
        if event != "open":
            # shutil.rmtree names files relative to an open folder.
            if below or not os.path.isabs(str(args[0])):
                self._touch()
        elif below and args[2] & (os.O_WRONLY | os.O_RDWR):
            self._touch()
            self._create(str(args[0]))
            self._touch()
        elif below and self.fate.sign == signal.SIGSTOP:
            self._touch()

    def _touch(self) -> None:
        if self.count == self.fate.change:
            self.count += 1
            os.kill(os.getpid(), self.fate.sign)
        else:
            self.count += 1

    def _create(self, path: str) -> None:
        self._quiet = True
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        except OSError:
            pass  # the real one will fail too, and say so
        finally:
            self._quiet = False
