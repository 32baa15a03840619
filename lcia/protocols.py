"""The contracts between the method and what it drives. Everything here is small on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from lcia.types import Sample

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

Batch = Mapping[str, "Tensor"]
UNTRAINED = -100
"""Label of a token that is not part of an answer; torch's cross entropy skips it."""


@dataclass(frozen=True, eq=False)
class TunedLinear:
    """A linear layer that is tuned; its parameters may be shards.

    With `down`: y = (W + scale * up @ down) x, where W [out, in] is frozen and up [out, r], down [r, in] are trained.
    Without: y = up x + bias, where up [out, in] itself is trained, and bias [out] if there is one.
    """

    name: str
    """Holds no name of an adapter."""
    module: torch.nn.Module
    """Is called with x [..., in] and returns y [..., out]."""
    up: torch.nn.Parameter
    down: torch.nn.Parameter | None = None
    bias: torch.nn.Parameter | None = None
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), where a trained bias is one more input that is always 1."""
        inputs = (self.up if self.down is None else self.down).shape[1]
        return self.up.shape[0], inputs + (self.bias is not None)


class TrainingRows(Protocol):
    """The rows that a stage is trained on, by row number."""

    def __len__(self) -> int: ...

    def take(self, indices: Sequence[int]) -> list[Sample]:
        """The samples at these row numbers, in this order; equal numbers are allowed."""

    def lengths(self) -> NDArray[np.int64]:
        """[rows]; stands for the tokens of a sample where samples of like length are put together."""


class Adapters(Protocol):
    """The LoRA adapters g0, g1, ... on one frozen base."""

    @property
    def module(self) -> torch.nn.Module:
        """The base alone until the first adapter, then the base with all of them."""

    def add(self, name: str, seed: int) -> None:
        """Adds a fresh LoRA; the same seed gives the same weights. It becomes the active, trainable one."""

    def load(self, name: str, folder: Path) -> None:
        """Loads a stock PEFT folder under `name`, in place of what had that name; active and trainable."""

    def save(self, name: str, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Writes adapter_model.safetensors and adapter_config.json straight into `folder`. `weights` are whole tensors
        by the names of trainable(), to be given where the model lies in shards; None: the module's own. Their LoRA may
        be of another rank than the module's, the same in all layers: it is written with the same scale."""

    def use(self, name: str | None) -> None:
        """Makes `name` the active adapter; None: the bare base."""

    def merge(self, name: str) -> None:
        """Makes `name` the active adapter and adds it to the weights of the base, which answers faster and rounds
        otherwise. Whatever is called next gives the base its own weights back, bit for bit."""

    def drop(self, name: str) -> None:
        """Forgets the adapter. Afterwards the bare base is active."""

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Trainable parameters by a name that does not hold the adapter's name (the key they are saved under)."""

    def layers(self) -> tuple[TunedLinear, ...]:
        """The linear layers that the parameters of trainable() are in."""


class Assistant(Protocol):
    """A multimodal model that is tuned through its adapters."""

    adapters: Adapters

    @property
    def module(self) -> torch.nn.Module:
        """That of the adapters."""

    def in_projector(self, name: str) -> bool:
        """Whether a name of trainable() is of the projector between vision and language, which has a learning rate of
        its own."""

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """input_ids, attention_mask, labels [batch, tokens] and pixel_values; labels are UNTRAINED except on answers.

        Runs ahead of the step in a thread of its own. What it draws from python's `random` and from numpy follows from
        (seed, step, rank); torch's generators belong to the model.
        """

    def logits(self, module: torch.nn.Module, batch: Batch) -> Tensor:
        """[batch, tokens, vocabulary], through `module` (self.module or its DDP wrapper)."""

    def answer(self, samples: Sequence[Sample], max_new_tokens: int) -> list[str]:
        """Greedy answers, one per sample, with the active adapter."""

    def text(self, ids: Sequence[int]) -> str:
        """Tokens as text for people: the many tokens of an image are shown as their number."""


LogitsAt = Callable[[Batch, Mapping[str, "Tensor"]], "Tensor"]
"""[batch, tokens, vocabulary] of a micro-batch with other weights in the place of the trained ones: by the names of the
parameters and distributed as they are. Without dropout and without a graph; the parameters have their own bits again
afterwards, so that it may be called between the forward and the backward pass of a step. A collective call where
parameters are sharded."""


def _no_model(batch: Batch, weights: Mapping[str, Tensor]) -> Tensor:
    raise ValueError("this strategy compares the model with itself at other weights: give Trained(logits_at=...)")


@dataclass(frozen=True)
class Trained:
    """What a stage trains: parameters by name, the linear layers that they are in, and the model with other weights.

    `parent`: whole tensors of the adapter that the stage goes on from, by the names of the parameters, for a strategy
    whose stages train an adapter of their own (`Strategy.beside`); else empty.
    """

    parameters: Mapping[str, Tensor]
    layers: Sequence[TunedLinear] = ()
    logits_at: LogitsAt = _no_model
    parent: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Look:
    """Training rows that are seen once more with the weights that training ended with: without dropout, and in no
    graph before logits() is called. A row that only keeps a worker busy has no answer tokens."""

    batch: Batch
    """As Assistant.collate makes it."""
    seeds: tuple[int, ...]
    """One for each row; what is drawn for a row follows from it, whatever worker or batch the row is in."""
    logits: Callable[[], Tensor]
    """[rows, tokens, vocabulary], as in training."""


LookBack = Callable[[int, bool], Iterator[Look]]
"""This worker's share of so many of the stage's rows, the same rows whatever the number of workers; `True`: one row at
a time. All workers get the same number of looks."""


class Strategy:
    """What a method adds to plain LoRA tuning of one stage; as it stands: nothing (= sequential).

    The loop calls start, (load), penalty for every micro-batch, finish, stored, release, and statistics when it logs.
    What has to happen at an optimizer step, on the reduced and clipped gradients, a strategy does in hooks on the
    optimizer. Where parameters are sharded, all methods but penalty and release are collective calls.
    """

    beside: ClassVar[bool] = False
    """Whether a stage trains a fresh adapter beside its parent's, whose weights are then in Trained.parent, instead of
    going on with them. What is trained as it is (modules_to_save) goes on either way."""

    def start(self, trained: Trained, optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
        """Before the first step; the parameters hold the weights of the adapter that the stage goes on from (or fresh
        ones), `kept` what the adapter's last stage returned from finish() (empty for a first stage). May put other
        weights into the parameters, from which training then starts."""

    def penalty(self, logits: Tensor, batch: Batch) -> Tensor | None:
        """What is added to the summed loss of a micro-batch's answer tokens, 0-dim; None: nothing."""
        return None

    def finish(self, look_back: LookBack) -> dict[str, Tensor]:
        """Puts the averaged weights into the parameters; returns what the next stage of the adapter needs. May look at
        rows of the stage once more; gradients that this leaves mean nothing."""
        return {}

    def stored(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What is stored as the adapter, given the weights after finish(): whole tensors by the names of the
        parameters. The matrices of a layer's LoRA may have another rank. The main worker alone calls it."""
        return weights

    def release(self) -> None:
        """Takes off what was hung on the model's modules; the last call, whether the stage succeeded or not."""

    def statistics(self) -> dict[str, float]:
        """Figures of the last step (quantiles of beta, retain, shares of fallback and bounds, distance, pull)."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything a crash inside a stage would lose."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, eq=False)
class Features:
    """Distinct instructions of one task and split in order of first appearance, or of several tasks in alphabetical
    order; equal only to itself.

    `counts` [n]: samples that hold the instruction. `vectors` [n, dim], rows of unit length, or None where the
    similarity works on the texts themselves (tfidf).
    """

    texts: tuple[str, ...]
    counts: NDArray[np.int64]
    vectors: NDArray[np.float32] | None = None


class Embedder(Protocol):
    """Features of samples; embedders.similarity_of has the similarity that belongs to them."""

    def embed(self, samples: Sequence[Sample]) -> NDArray[np.float32] | None:
        """[samples, dim], unit rows; None: the texts are the features."""


@dataclass(frozen=True)
class Progress:
    """How far a stage is. `stage` is its key; `values`: loss, lr, grad_norm, samples_per_second, beta ...; `note`: what
    a user should be told of the stage, once; `done`: its result is in the store."""

    stage: str
    kind: Literal["shard", "embed", "train", "eval"]
    label: str
    step: int
    steps: int
    values: Mapping[str, float]
    note: str = ""
    done: bool = False


Observer = Callable[[Progress], None]
