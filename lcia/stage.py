"""A stage is a value: a frozen record whose hash is its identity.

A stage names what it builds on by key and carries only what it uses (no task order, no group number), so equal work has
equal keys and is done once, whoever asks for it.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from lcia.config import AssistantConfig, DataConfig, EmbedderConfig, LoraConfig, TrainingConfig
from lcia.methods import StrategyConfig
from lcia.sections import Section
from lcia.types import FileSource, GeneratedSource, InstructionRule, Split

SCHEMA = 1
"""Raised when equal records would no longer give equal results; every key changes with it."""


def digest(value: object) -> str:
    """32 hex digits of blake2b over the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class _Stage(Section):
    @cached_property
    def key(self) -> str:
        return digest({"schema": SCHEMA, **self.record})

    @cached_property
    def record(self) -> dict[str, object]:
        """The JSON form, from which the stage can be built again."""
        return self.model_dump(mode="json", by_alias=True)


class ShardStage(_Stage):
    """Rows of one task and split, validated and written as indexed Parquet shards."""

    kind: Literal["shard"] = "shard"
    task: str
    split: Split
    source: FileSource | GeneratedSource
    fingerprint: str
    instruction: InstructionRule
    max_samples: int | None = None
    max_image_pixels: int

    @property
    def data(self) -> DataConfig:
        """How the rows are read; how many bad ones are too many is the run's business, not the stage's."""
        return DataConfig(max_bad_fraction=1.0, max_image_pixels=self.max_image_pixels)

    @property
    def label(self) -> str:
        return f"{self.task}/{self.split}"


class EmbedStage(_Stage):
    """Features of the distinct instructions of one ShardStage."""

    kind: Literal["embed"] = "embed"
    shards: str
    embedder: EmbedderConfig

    @property
    def label(self) -> str:
        return self.shards[:8]


class TrainStage(_Stage):
    """Tuning one adapter on one task (several for multi-task) from one parent; no parent: a fresh LoRA.

    `first` says that the adapter has learnt no task before; then `strategy` is the configuration's first().
    """

    kind: Literal["train"] = "train"
    tasks: tuple[str, ...]
    shards: tuple[str, ...]
    parent: str | None
    first: bool
    base: str
    assistant: AssistantConfig
    lora: LoraConfig
    training: TrainingConfig
    strategy: Annotated[StrategyConfig, Field(discriminator="kind")]
    seed: int

    @property
    def model_key(self) -> str:
        """What a worker has to have loaded; stages that share it are trained without loading anew."""
        record = self.record
        return digest([record["base"], record["assistant"], record["lora"]])

    @property
    def label(self) -> str:
        return f"{self.tasks[0]} · {self.strategy.kind}" if len(self.tasks) == 1 else "multi-task"


class EvalStage(_Stage):
    """Answers to one task's questions, each by the adapter it is routed to (None: the bare base).

    `default` serves every instruction that `routes` does not name.
    """

    kind: Literal["eval"] = "eval"
    task: str
    shards: str
    base: str
    assistant: AssistantConfig
    default: str | None
    routes: tuple[tuple[str, str | None], ...] = ()
    max_new_tokens: int

    @property
    def label(self) -> str:
        return self.task

    @property
    def adapters(self) -> tuple[str, ...]:
        """Keys of the TrainStages that this stage needs."""
        keys = {self.default, *(key for _, key in self.routes)}
        return tuple(sorted(key for key in keys if key is not None))

    def adapter_of(self, instruction: str) -> str | None:
        """The key of the adapter that answers samples with this instruction."""
        return dict(self.routes).get(instruction, self.default)
