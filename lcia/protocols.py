"""The contracts between the method and what it drives. Everything here is small on purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lcia.types import Sample

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

Batch = Mapping[str, "Tensor"]


class Assistant(Protocol):
    """A multimodal model with LoRA adapters named g0, g1, ... on one frozen base."""

    module: torch.nn.Module

    def add_adapter(self, name: str, seed: int) -> None:
        """Adds a fresh LoRA; the same seed gives the same weights. It becomes the active, trainable one."""

    def load_adapter(self, name: str, folder: Path) -> None:
        """Loads a stock PEFT folder under `name`, in place of what had that name; active and trainable."""

    def save_adapter(self, name: str, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Writes adapter_model.safetensors and adapter_config.json straight into `folder`. `weights` are whole tensors
        by the names of trainable(), to be given where the model lies in shards; None: the module's own."""

    def use_adapter(self, name: str | None) -> None:
        """Makes `name` the active adapter; None: the bare base."""

    def drop_adapter(self, name: str) -> None: ...

    def shard(self, apply: Callable[[torch.nn.Module], object]) -> None:
        """Gives `apply` (fully_shard) every layer that each batch passes through, then the whole.

        From then on only the adapter that was active is trained: add_adapter and load_adapter put their weights in
        place of its own, and it can neither be dropped nor set aside.
        """

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Trainable parameters by a name that does not hold the adapter's name (the key they are saved under)."""

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """input_ids, attention_mask, labels [batch, tokens] and pixel_values; labels are -100 but on answer tokens.

        Runs ahead of the step in a thread of its own. What it draws from python's `random` and from numpy follows from
        (seed, step, rank); torch's generators belong to the model.
        """

    def logits(self, module: torch.nn.Module, batch: Batch) -> Tensor:
        """[batch, tokens, vocabulary], through `module` (self.module or its DDP wrapper)."""

    def answer(self, samples: Sequence[Sample], max_new_tokens: int) -> list[str]:
        """Greedy answers, one per sample, with the active adapter."""

    def lengths(self, samples: Sequence[Sample]) -> list[int]:
        """Tokens of each sample, images included; for grouping by length."""


class Strategy:
    """What a method adds to plain LoRA tuning of one stage; as it stands: nothing (= sequential).

    A strategy acts through hooks on the optimizer's step, so the loop calls nothing while it trains: start, (load),
    finish, and statistics when it logs. Where parameters are sharded, all of them are collective calls.
    """

    def start(
        self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]
    ) -> None:
        """Before the first step; `parameters` hold the weights that training starts from, `kept` what the adapter's
        last stage returned from finish() (empty for a first stage)."""

    def finish(self) -> dict[str, Tensor]:
        """Puts the averaged weights into the parameters; returns what the next stage of the adapter needs."""
        return {}

    def statistics(self) -> dict[str, float]:
        """Figures of the last step (quantiles of beta, retain, shares of fallback and bounds, distance, pull)."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything a crash inside a stage would lose."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, eq=False)
class Features:
    """Distinct instructions of one task and split, in order of first appearance; equal only to itself.

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
    """One line of a stage's progress. `values`: loss, lr, grad_norm, samples_per_second, beta ...; `note`: what a user
    should be told of the stage, once."""

    stage: str
    kind: str
    label: str
    step: int
    steps: int
    values: Mapping[str, float]
    note: str = ""


Observer = Callable[[Progress], None]
