"""Runs stages in this process: for tests, notebooks, debuggers, and machines without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lcia.config import AssistantConfig, DataConfig, LoraConfig
from lcia.features import embed_shards
from lcia.fit import FitOptions, fit_stage
from lcia.predict import Predictor, evaluate_stage
from lcia.protocols import Assistant, Observer, Progress
from lcia.shards import write_source
from lcia.stage import EmbedStage, EvalStage, ShardStage, TrainStage
from lcia.store import Store

if TYPE_CHECKING:
    from accelerate import Accelerator


def silent(progress: Progress) -> None:
    """An observer that shows nothing."""


class LocalExecutor:
    """One stage after the other, on one device; the base is loaded once."""

    def __init__(
        self, store: Store, options: FitOptions | None = None, observe: Observer = silent, eval_batch_size: int = 50
    ) -> None:
        self.store, self._options, self._observe = store, options or FitOptions(), observe
        self._eval_batch_size = eval_batch_size
        self._bases: dict[str, tuple[Assistant, Predictor]] = {}
        self._accelerator: Accelerator | None = None

    def shard(self, stages: Sequence[ShardStage]) -> None:
        for stage in stages:
            if not self.store.has(stage.key):
                with self.store.publish(stage.key, stage.record) as folder:
                    write_stage(stage, folder)

    def embed(self, stages: Sequence[EmbedStage]) -> None:
        for stage in stages:
            if not self.store.has(stage.key):
                with self.store.publish(stage.key, stage.record) as folder:
                    embed_shards(self.store.fetch(stage.shards), stage.embedder, folder)

    def tune(self, trains: Sequence[TrainStage], evals: Sequence[EvalStage]) -> None:
        for stage in trains:
            if not self.store.has(stage.key):
                assistant, _ = self._base(stage.base, stage.assistant, stage.lora)
                fit_stage(stage, assistant, self.store, self._options, self._device(), self._observe)
        for wanted in evals:
            if not self.store.has(wanted.key):
                _, predictor = self._base(wanted.base, wanted.assistant, LoraConfig())
                evaluate_stage(wanted, predictor, self.store, self._shower(wanted))

    def _base(self, key: str, config: AssistantConfig, lora: LoraConfig) -> tuple[Assistant, Predictor]:
        from lcia import assistants

        if key not in self._bases:
            assistant = assistants.build(config, lora, device=str(self._device().device))
            self._bases = {key: (assistant, Predictor(assistant, self.store, self._eval_batch_size))}
        return self._bases[key]

    def _device(self) -> Accelerator:
        from accelerate import Accelerator

        self._accelerator = self._accelerator or Accelerator()
        return self._accelerator

    def _shower(self, stage: EvalStage) -> Observer:  # type: ignore[return]
        def show(done: int, rows: int) -> None:
            self._observe(Progress(stage.key, "eval", stage.label, done, rows, {}))

        return show  # type: ignore[return-value]


def write_stage(stage: ShardStage, folder: object) -> None:
    """Writes the shards of a stage; how many bad rows are too many is the run's business."""
    bears_all = DataConfig(max_bad_fraction=1.0, max_image_pixels=stage.max_image_pixels)
    write_source(stage.source, stage.instruction, stage.max_samples, bears_all, folder)  # type: ignore[arg-type]
