"""A stage is a value: a frozen record whose hash is its identity.

A stage names what it builds on by key and carries only what it uses (no task order, no group number), so equal work has
equal keys and is done once, however many runs ask for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from lcia.config.assistants import AssistantConfig, LlavaConfig, LoraConfig
from lcia.config.grouping import EmbedderConfig
from lcia.config.run import NoiseConfig, TrainingConfig
from lcia.config.sections import Section
from lcia.config.strategies import StrategyConfig
from lcia.types import InstructionRule, Source, Split, Stretch

SCHEMA = 2
"""Incremented when equal records would no longer give equal results; every key changes with it.

2: a base is known by its whole files or its commit (before: the first megabyte of each file, or a branch's name), and
answers of one model can no longer have been stored as another's.
"""

PLACES = ("model", "revision", "pretrained")
"""Fields that say where a model lies. They are not part of a key: what lies there is (`base`, `identity`), so a model
that is moved is the same model."""


def digest(value: object) -> str:
    """32 hex digits of blake2b over the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class _Stage(Section):
    @cached_property
    def key(self) -> str:
        return digest({"schema": SCHEMA, **self.identifying})

    @property
    def identifying(self) -> dict[str, object]:
        """The part of the record that can change the result."""
        return self.record

    @cached_property
    def record(self) -> dict[str, object]:
        """The JSON form, from which the stage can be built again."""
        return self.model_dump(mode="json", by_alias=True)


class ShardStage(_Stage):
    """Rows of one task and split, validated and written as indexed Parquet shards.

    Where files lie is not part of the key: `fingerprint` says what lies there.
    """

    kind: Literal["shard"] = "shard"
    task: str
    split: Split
    source: Source
    fingerprint: str
    instruction: InstructionRule
    max_samples: int | None = None
    max_image_pixels: int
    # Not written while tasks are whole: what is stored stays valid.
    stretch: Stretch | None = Field(default=None, exclude_if=lambda value: value is None)

    @property
    def identifying(self) -> dict[str, object]:
        return {**self.record, "source": self.source.identifying}

    @property
    def label(self) -> str:
        return f"{self.task}/{self.split}"


class EmbedStage(_Stage):
    """Features of the distinct instructions of one ShardStage; `identity` tells one model of the embedder from another
    (lcia.models.identity)."""

    kind: Literal["embed"] = "embed"
    shards: str
    embedder: EmbedderConfig
    identity: str

    @property
    def identifying(self) -> dict[str, object]:
        return {**self.record, "embedder": _placeless(self.embedder)}

    @property
    def label(self) -> str:
        return self.shards[:8]


def _placeless(config: Section) -> dict[str, object]:
    """The JSON form of a model's configuration, without where the model lies."""
    return config.model_dump(mode="json", by_alias=True, exclude=set(PLACES))


class _ModelStage(_Stage):
    """A stage of a model: `base` tells one frozen base from another (models.identity), `assistant` how it is used."""

    base: str
    assistant: AssistantConfig

    @property
    def identifying(self) -> dict[str, object]:
        return {**self.record, "assistant": _placeless(self.assistant)}

    @cached_property
    def base_key(self) -> str:
        """What has to be loaded to answer."""
        return digest([self.base, _placeless(self.assistant)])

    @property
    def model_key(self) -> str:
        """What a worker has to have loaded; stages that share it need no loading between them."""
        return self.base_key


class Replay(Section):
    """Rows of an adapter's earlier tasks that a later one is trained on as well: `share` of each of `shards`."""

    share: float
    shards: tuple[str, ...]

    def count(self, rows: int) -> int:
        """How many of so many rows of a task are kept: one at least."""
        return max(1, round(self.share * rows))


class TrainStage(_ModelStage):
    """Tuning one adapter on one task (several for multi-task) from one parent; no parent: a fresh LoRA.

    `first` says that the adapter has learnt no task before; then `strategy` is the configuration's first().
    """

    kind: Literal["train"] = "train"
    tasks: tuple[str, ...]
    shards: tuple[str, ...]
    parent: str | None
    first: bool
    lora: LoraConfig
    training: TrainingConfig
    strategy: Annotated[StrategyConfig, Field(discriminator="kind")]
    seed: int
    # Here and not in the shards, which runs with and without noise share. Not written where there is none.
    noise: NoiseConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    replay: Replay | None = Field(default=None, exclude_if=lambda value: value is None)

    @property
    def identifying(self) -> dict[str, object]:
        """A projector that is trained on a base in half precision is held in fp32. It was not at first, and did not
        move: such results are others."""
        model = self.assistant
        half = isinstance(model, LlavaConfig) and model.train_projector and model.dtype != "float32"
        return {**super().identifying, **({"projector": "float32"} if half else {})}

    @cached_property
    def model_key(self) -> str:
        """As for an evaluation, and the form of the LoRA that is added."""
        return digest([self.base_key, self.record["lora"]])

    def rows(self, counts: Mapping[str, int]) -> int:
        """How many rows are trained on; `counts`: those of all shards by their keys."""
        old = sum(self.replay.count(counts[key]) for key in self.replay.shards) if self.replay else 0
        return sum(counts[key] for key in self.shards) + old

    @property
    def label(self) -> str:
        return f"{self.tasks[0]} · {self.strategy.kind}" if len(self.tasks) == 1 else "multi-task"


@dataclass(frozen=True)
class Mixture:
    """Adapters that answer together: keys of TrainStages with their weights in the last `layers` of the decoder."""

    adapters: tuple[str, ...]
    weights: tuple[float, ...]
    layers: int

    @cached_property
    def key(self) -> str:
        """A name for the fused adapter."""
        return digest([self.adapters, self.weights, self.layers])

    @property
    def strongest(self) -> str:
        """The key of the adapter that counts most; the older one wins a tie."""
        return self.adapters[self.weights.index(max(self.weights))]


class Fusion(Section):
    """All `adapters` answer together; `weights`: of each in the last `layers`, by instruction (None: for all)."""

    adapters: tuple[str, ...]
    layers: int
    weights: tuple[tuple[str | None, tuple[float, ...]], ...]

    def of(self, instruction: str) -> Mixture:
        """What answers samples with this instruction."""
        known = dict(self.weights)
        return Mixture(self.adapters, known[instruction] if instruction in known else known[None], self.layers)


class EvaluateStage(_ModelStage):
    """Answers to one task's questions, each by the adapter it is routed to (None: the bare base).

    `default` serves every instruction that `routes` does not name. With a `fusion` several adapters answer together,
    and both are empty.
    """

    kind: Literal["eval"] = "eval"
    task: str
    shards: str
    default: str | None
    routes: tuple[tuple[str, str | None], ...] = ()
    max_new_tokens: int
    # Not written where one adapter answers: what is stored stays valid.
    fusion: Fusion | None = Field(default=None, exclude_if=lambda value: value is None)

    @property
    def label(self) -> str:
        return self.task

    @property
    def adapters(self) -> tuple[str, ...]:
        """Keys of the TrainStages that this stage needs."""
        keys = {self.default, *(key for _, key in self.routes), *(self.fusion.adapters if self.fusion else ())}
        return tuple(sorted(key for key in keys if key is not None))

    def adapter_of(self, instruction: str) -> str | Mixture | None:
        """The key of the adapter, or the adapters, that answer samples with this instruction."""
        if self.fusion:
            return self.fusion.of(instruction)
        return dict(self.routes).get(instruction, self.default)


class ExternalStage(_ModelStage):
    """What a command says of one adapter (None: of the bare base); `task`: what the adapter was trained on last.

    Evaluation actors run it, like answers. No training depends on it.
    """

    kind: Literal["external"] = "external"
    task: str
    adapter: str | None
    command: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"command after {self.task}" if self.adapter else "command on the untuned base"

    @property
    def adapters(self) -> tuple[str, ...]:
        """Keys of the TrainStages that this stage needs."""
        return () if self.adapter is None else (self.adapter,)


Asked: TypeAlias = EvaluateStage | ExternalStage
"""What is asked about adapters once they are trained."""
