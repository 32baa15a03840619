"""The gradient of the last step, held without a copy where that is safe."""

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
    """A gradient that is the loop's own tensor, with its version when it was held."""

    tensor: Tensor
    version: int

    def intact(self, successor: Tensor) -> bool:
        """Whether it still holds that gradient: the next one lies in other memory, and this one was not written to."""
        apart = self.tensor.untyped_storage().data_ptr() != successor.untyped_storage().data_ptr()
        return apart and self.tensor._version == self.version


class PreviousGradient:
    """The last gradient of one tensor.

    `auto` copies at first and watches whether the loop drops its gradients (zero_grad(set_to_none=True)) or writes into
    them again (set_to_none=False, DDP's gradient_as_bucket_view, CUDA graphs). Only where they are dropped it goes
    over to references. If the loop starts to write into them later, `get` raises: the last gradient is lost by then.
    """

    def __init__(self, keeping: Keeping) -> None:
        self.keeping = keeping
        self.held: Tensor | None = None
        self.reference: Reference | None = None
        self.by_reference = False
        self._intact = 0

    def get(self, gradient: Tensor) -> Tensor | None:
        """The last step's gradient [entries], given this step's; None before the first."""
        if not self.by_reference:
            return self.held
        assert self.reference is not None
        if not self.reference.intact(gradient):
            raise RuntimeError(OVERWRITTEN)
        return self.reference.tensor.reshape(-1)

    def keep(self, gradient: Tensor, made: Tensor | None) -> None:
        """Holds this step's gradient; where `made` is 0 (a step that the device skipped) the old one stays."""
        target = self.prepare(gradient, made)
        if target is None:
            return
        fresh = gradient.reshape(-1).to(target.dtype)
        target.copy_(fresh if made is None else torch.where(made > 0, fresh, target))

    def prepare(self, gradient: Tensor, made: Tensor | None) -> Tensor | None:
        """Decides how this step's gradient is held: the buffer [entries] to copy it into (with the last one still in
        it), or None where the reference is enough."""
        last = self.get(gradient)
        if made is None and self.keeping == "auto":
            probe = self.reference
            self._intact = self._intact + 1 if probe is not None and probe.intact(gradient) else 0
            self.reference = Reference(gradient, gradient._version)
            if self._intact >= PROOF:
                self.by_reference, self.held = True, None
                return None
        else:
            self.reference = None
        self.by_reference = False
        if self.held is None:
            dtype = torch.bfloat16 if self.keeping == "bfloat16" else gradient.dtype
            self.held = torch.zeros(gradient.numel(), dtype=dtype, device=gradient.device)
            if last is not None:
                self.held.copy_(last)
        return self.held

    def load(self, gradient: Tensor) -> None:
        """Takes over a saved gradient [entries] as a copy; whether references are safe has to be shown again."""
        dtype = torch.bfloat16 if self.keeping == "bfloat16" else gradient.dtype
        self.held = gradient.to(dtype, copy=True)
        self.by_reference, self.reference, self._intact = False, None, 0

    def value(self) -> Tensor | None:
        """The gradient [entries] as it would be saved; None before the first."""
        if self.by_reference and self.reference is not None:
            if self.reference.tensor._version != self.reference.version:
                raise RuntimeError(OVERWRITTEN)
            return self.reference.tensor.reshape(-1)
        return self.held
