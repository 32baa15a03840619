"""Runs stages in this process: for tests, notebooks, debuggers, and machines without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from lcia import embedders
from lcia.config import AssistantConfig, LoraConfig
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
        self._loaded: tuple[Assistant, Predictor] | None = None
        self._key: tuple[str, AssistantConfig | None, LoraConfig | None] = ("", None, None)
        self._accelerator: Accelerator | None = None

    def shard(self, stages: Sequence[ShardStage]) -> None:
        for stage in stages:
            if not self.store.has(stage.key):
                with self.store.publish(stage.key, stage.record) as folder:
                    write_source(stage.source, stage.instruction, stage.max_samples, stage.data, folder)

    def embed(self, stages: Sequence[EmbedStage]) -> None:
        # One of each kind: a text or image encoder takes seconds to load.
        built = cache(embedders.build)
        for stage in stages:
            if not self.store.has(stage.key):
                with self.store.publish(stage.key, stage.record) as folder:
                    embed_shards(self.store.fetch(stage.shards), stage.embedder, folder, built(stage.embedder))

    def tune(self, trains: Sequence[TrainStage], evals: Sequence[EvalStage]) -> None:
        for stage in trains:
            if not self.store.has(stage.key):
                assistant, _ = self._load(stage.base, stage.assistant, stage.lora)
                fit_stage(stage, assistant, self.store, self._options, self._device(), self._observe)
        for wanted in evals:
            if not self.store.has(wanted.key):
                _, predictor = self._load(wanted.base, wanted.assistant, None)
                evaluate_stage(wanted, predictor, self.store, self._shower(wanted))

    def _load(self, base: str, config: AssistantConfig, lora: LoraConfig | None) -> tuple[Assistant, Predictor]:
        """The model that was used last where it fits: answering takes any form of LoRA (None)."""
        from lcia import assistants

        key = (base, config, lora)
        if self._loaded is None or self._key[:2] != key[:2] or (lora is not None and self._key[2] != lora):
            assistant = assistants.build(config, lora or LoraConfig(), device=str(self._device().device))
            self._loaded = (assistant, Predictor(assistant, self.store, self._eval_batch_size))
            self._key = key
        return self._loaded

    def _device(self) -> Accelerator:
        from accelerate import Accelerator

        self._accelerator = self._accelerator or Accelerator()
        return self._accelerator

    def _shower(self, stage: EvalStage) -> Callable[[int, int], None]:
        def show(done: int, rows: int) -> None:
            self._observe(Progress(stage.key, "eval", stage.label, done, rows, {}))

        return show
