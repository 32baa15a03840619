"""Runs stages in this process: for tests, notebooks, debuggers, and machines without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from lcia import embedders
from lcia.data.shards import write_source
from lcia.data.sources import Reading
from lcia.embedders.embed import embed_shards
from lcia.evaluation.evaluate import Predictor, evaluate_stage
from lcia.evaluation.external import CommandFailedError, judge
from lcia.protocols import Assistant, Observer, Progress
from lcia.stage import Asked, EmbedStage, EvaluateStage, ExternalStage, ShardStage, TrainStage
from lcia.store.folders import Store
from lcia.training.train import TrainOptions, Worker, train_stage

if TYPE_CHECKING:
    from accelerate import Accelerator


def silent(progress: Progress) -> None:
    """An observer that shows nothing."""


class LocalExecutor:
    """One stage after the other, on one device; the base is loaded once."""

    def __init__(
        self, store: Store, options: TrainOptions | None = None, observe: Observer = silent, eval_batch_size: int = 50
    ) -> None:
        self.store, self._options, self._observe = store, options or TrainOptions(), observe
        self._eval_batch_size = eval_batch_size
        self._loaded: tuple[Assistant, Predictor] | None = None
        self._serves: set[str] = set()
        """Model keys of the stages that the loaded model can execute."""
        self._accelerator: Accelerator | None = None

    def shard(self, stages: Sequence[ShardStage]) -> None:
        for stage in stages:
            if not self.store.usable(stage.key, in_ranges=True):
                reading = Reading.of(
                    stage.source, stage.instruction, stage.max_samples, stage.max_image_pixels, stage.stretch
                )
                with self.store.publish(stage.key, stage.record) as folder:
                    write_source(reading, folder)

    def embed(self, stages: Sequence[EmbedStage]) -> None:
        # Built once each: a text or image encoder takes seconds to load.
        built = cache(embedders.build)
        for stage in stages:
            if not self.store.usable(stage.key):
                with self.store.publish(stage.key, stage.record) as folder:
                    embed_shards(self.store.files(stage.shards), stage.embedder, folder, built(stage.embedder))

    def train_and_evaluate(self, trains: Sequence[TrainStage], evals: Sequence[Asked]) -> None:
        """Trains and evaluates one after the other; a stage that fails does not stop those that do not need it.

        Raises:
            FloatingPointError: the first stage that diverged, after everything else is done.
            CommandFailedError: the first command that failed, likewise.
        """
        failed: dict[str, str] = {}
        for stage in trains:
            if self.store.usable(stage.key):
                continue
            if stage.parent in failed:
                failed[stage.key] = failed[stage.parent]
            elif reason := self._train(stage):
                failed[stage.key] = reason
        wanted = [s for s in evals if not self.store.usable(s.key) and failed.keys().isdisjoint(s.adapters)]
        errors = [error for stage in wanted if (error := self._ask(stage))]
        for reason in failed.values():
            raise FloatingPointError(reason)
        for error in errors:
            raise error

    def _ask(self, stage: Asked) -> CommandFailedError | None:
        """Why a command failed; None where it did not, and for answers."""
        if isinstance(stage, EvaluateStage):
            evaluate_stage(stage, self._load(stage)[1], self.store, self._row_observer(stage))
            return None
        return self._judge(stage)

    def _judge(self, stage: ExternalStage) -> CommandFailedError | None:
        try:
            judge(stage, self.store)
        except CommandFailedError as error:
            return error
        return None

    def _train(self, stage: TrainStage) -> str:
        """Why the stage diverged; empty where it did not."""
        try:
            worker = Worker(self.store, self._device(), self._options, self._observe)
            train_stage(stage, self._load(stage)[0], worker)
        except FloatingPointError as error:
            # The text alone: the error's frames would keep optimizer and gradients in memory.
            return str(error)
        return ""

    def _load(self, stage: TrainStage | EvaluateStage) -> tuple[Assistant, Predictor]:
        """The loaded model where it serves the stage, else a new one; one that was loaded to train answers too."""
        from lcia import assistants

        if self._loaded is None or stage.model_key not in self._serves:
            lora = stage.lora if isinstance(stage, TrainStage) else None
            assistant = assistants.build(stage.assistant, lora, device=str(self._device().device))
            self._loaded = (assistant, Predictor(assistant, self.store, self._eval_batch_size))
            self._serves = {stage.model_key, stage.base_key}
        return self._loaded

    def _device(self) -> Accelerator:
        from accelerate import Accelerator

        # Autocast is the stage's (training.bf16); an environment variable of accelerate must not bring another.
        self._accelerator = self._accelerator or Accelerator(mixed_precision="no")
        return self._accelerator

    def _row_observer(self, stage: EvaluateStage) -> Callable[[int, int], None]:
        def show(done: int, rows: int) -> None:
            self._observe(Progress(stage.key, stage.kind, stage.label, done, rows, {}))

        return show
