"""The gradients of the last step, held without a copy where that is safe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Keeping: TypeAlias = Literal["auto", "copy", "bfloat16"]

PROOF = 3
"""Steps in a row that must leave a gradient alone before it is held by reference. One is too few: DDP moves its
buckets once, after the first backward pass."""

OVERWRITTEN = (
    "the gradients of the last step were overwritten although earlier ones were dropped: "
    "make the average with previous_gradient='copy'"
)


@dataclass(frozen=True)
class Reference:
    """A gradient that is still the loop's, with the version at which it was right."""

    tensor: Tensor
    version: int

    def intact(self, successor: Tensor) -> bool:
        """Whether nobody has written to it: the next gradient lives elsewhere and no in-place change was made."""
        apart = self.tensor.untyped_storage().data_ptr() != successor.untyped_storage().data_ptr()
        return apart and self.tensor._version == self.version


class PreviousGradients:
    """One gradient per tensor.

    `auto` copies at first and watches whether the loop drops its gradients (zero_grad(set_to_none=True)) or writes into
    them again (set_to_none=False, DDP's gradient_as_bucket_view, CUDA graphs). Only where they are dropped it goes
    over to references. A loop that changes its habit later is an error: the gradient is lost by then.
    """

    def __init__(self, tensors: int, keeping: Keeping) -> None:
        self.keeping = keeping
        self.held: list[Tensor | None] = [None] * tensors
        self.references: list[Reference | None] = [None] * tensors
        self.by_reference = [False] * tensors
        self._intact = [0] * tensors

    def get(self, place: int, gradient: Tensor) -> Tensor | None:
        """The last step's gradient [entries] of one tensor, given this step's; None before the first."""
        if self.by_reference[place]:
            reference = self.references[place]
            assert reference is not None
            if not reference.intact(gradient):
                raise RuntimeError(OVERWRITTEN)
            return reference.tensor.reshape(-1)
        return self.held[place]

    def keep(self, place: int, gradient: Tensor, made: Tensor | None) -> None:
        """Holds this step's gradient; where `made` is 0 (a step that the device skipped) the old one stays."""
        last = self.get(place, gradient)
        if made is not None or self.keeping != "auto":
            self._hold(place, gradient, last, made)
            self.references[place] = None
            return
        probe = self.references[place]
        self._intact[place] = self._intact[place] + 1 if probe is not None and probe.intact(gradient) else 0
        if self._intact[place] >= PROOF:
            self.by_reference[place], self.held[place] = True, None
        else:
            self._hold(place, gradient, last, None)
        self.references[place] = Reference(gradient, gradient._version)

    def _hold(self, place: int, gradient: Tensor, last: Tensor | None, made: Tensor | None) -> None:
        fresh = gradient.reshape(-1)
        if made is not None:
            fresh = torch.where(made > 0, fresh, torch.zeros_like(fresh) if last is None else last.to(fresh.dtype))
        held = self.held[place]
        if held is None:
            dtype = torch.bfloat16 if self.keeping == "bfloat16" else fresh.dtype
            self.held[place] = fresh.to(dtype, copy=True)
        else:
            held.copy_(fresh)
        self.by_reference[place] = False

    def load(self, place: int, gradient: Tensor) -> None:
        """Takes over a saved gradient [entries]; references start anew."""
        dtype = torch.bfloat16 if self.keeping == "bfloat16" else gradient.dtype
        self.held[place] = gradient.to(dtype, copy=True)
        self.by_reference[place], self.references[place], self._intact[place] = False, None, 0

    def value(self, place: int) -> Tensor | None:
        """The gradient [entries] as it would be saved; None before the first."""
        reference = self.references[place]
        if self.by_reference[place] and reference is not None:
            if reference.tensor._version != reference.version:
                raise RuntimeError(OVERWRITTEN)
            return reference.tensor.reshape(-1)
        return self.held[place]
