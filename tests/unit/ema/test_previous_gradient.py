"""The last gradient is held by reference only while that is the gradient it was."""

from __future__ import annotations

import torch
from torch import Tensor

from lcia.ema.previous_gradient import PROOF, PreviousGradient, Reference


def held(gradient: Tensor) -> Reference:
    return Reference(gradient, gradient._version)


def test_a_reference_is_intact_while_the_next_gradient_lies_elsewhere_and_nothing_was_written() -> None:
    assert held(torch.ones(3)).intact(torch.ones(3))


def test_a_reference_that_was_written_to_is_not_intact() -> None:
    reference = held(torch.ones(3))
    reference.tensor.mul_(2)
    assert not reference.intact(torch.ones(3))


def test_a_reference_whose_memory_the_next_gradient_has_taken_is_not_intact() -> None:
    gradient = torch.ones(6)
    # Another part of the same memory, as in a bucket of DDP: no version tells of what is written there next.
    assert not held(gradient[:3]).intact(gradient[3:])


def test_a_gradient_in_memory_that_is_used_again_is_copied_for_ever() -> None:
    previous, memory = PreviousGradient("auto"), torch.zeros(3)
    for number in range(2 * PROOF):
        memory.fill_(number)
        last = previous.get(memory)
        assert last is None or last.tolist() == [number - 1] * 3
        previous.keep(memory, None)
    assert not previous.by_reference


def test_a_gradient_that_is_dropped_is_held_without_a_copy_after_the_proof() -> None:
    previous = PreviousGradient("auto")
    gradients = [torch.full((3,), float(number)) for number in range(PROOF + 2)]
    for last, gradient in zip([None, *gradients], gradients, strict=False):
        found = previous.get(gradient)
        assert found is None if last is None else torch.equal(found, last)  # type: ignore[arg-type]
        previous.keep(gradient, None)
    assert previous.by_reference
    assert previous.held is None
