"""Sketched Kronecker factors against matrices that are formed, in fp64."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from lcia.strategies.factors import Curvature, Factor, Sketch, named, probes, stored

OUT, IN = 6, 9
FULL = 16
DOUBLE = torch.zeros(0, dtype=torch.float64)


def rows(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs [count, 5, IN] and gradients [count, 5, OUT]."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(count, 5, width, dtype=torch.float64, generator=generator) for width in (IN, OUT)]
    return draw[0], draw[1]


def of(x: Tensor, g: Tensor, k: int = FULL) -> Curvature:
    found = Curvature.zeros((OUT, IN), k, DOUBLE)
    found.add(x, g)
    return found


def decaying(width: int = 40, rate: float = 0.7) -> Tensor:
    """A symmetric matrix [width, width] whose eigenvalues fall by `rate`."""
    generator = torch.Generator().manual_seed(3)
    basis, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))
    return (basis * rate ** torch.arange(width, dtype=torch.float64)) @ basis.T


def sketch(matrix: Tensor, k: int) -> Sketch:
    width = len(matrix)
    signs = torch.eye(width).to(matrix) if k >= width else probes(width, k).to(matrix)
    return Sketch(matrix @ signs, matrix.diagonal().clone())


def formed(factor: Factor) -> Tensor:
    return factor.times(torch.eye(len(factor.diagonal), dtype=factor.diagonal.dtype))


def test_factors_are_the_sums_over_rows_of_the_gradient_of_the_whole_weights() -> None:
    x, g = rows(7)
    gradients = [each_g.T @ each_x for each_x, each_g in zip(x, g, strict=True)]  # M of each row
    found = of(x, g)
    torch.testing.assert_close(formed(found.inputs.factor()), sum(m.T @ m for m in gradients), rtol=1e-12, atol=0)
    torch.testing.assert_close(formed(found.outputs.factor()), sum(m @ m.T for m in gradients), rtol=1e-12, atol=0)
    trace = sum(m.square().sum() for m in gradients)
    torch.testing.assert_close(found.trace, trace, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.outputs.diagonal.sum(), trace, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", [3, FULL])
def test_a_sketch_is_the_matrix_times_the_probes_of_its_width(k: int) -> None:
    x, g = rows(7)
    whole, sketched = of(x, g), of(x, g, k)
    for full, part in ((whole.inputs, sketched.inputs), (whole.outputs, sketched.outputs)):
        wanted = full.product if part.is_whole else full.product @ probes(*part.product.shape).double()
        torch.testing.assert_close(part.product, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(part.diagonal, full.product.diagonal(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", [3, FULL])
def test_batches_of_rows_and_tasks_add_up(k: int) -> None:
    x, g = rows(7)
    together, apart = of(x, g, k), of(x[:3], g[:3], k) + of(x[3:], g[3:], k)
    for mine, theirs in zip(together.tensors, apart.tensors, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_tokens_without_a_gradient_change_nothing() -> None:
    x, g = rows(2)
    padded = of(torch.cat([x, torch.ones(2, 3, IN).double()], 1), torch.cat([g, torch.zeros(2, 3, OUT).double()], 1), 3)
    for mine, theirs in zip(of(x, g, 3).tensors, padded.tensors, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_matrix_of_few_directions_is_known_whole() -> None:
    low = decaying(40, 0.5)
    values, vectors = torch.linalg.eigh(low)
    low = (vectors[:, -4:] * values[-4:]) @ vectors[:, -4:].T
    torch.testing.assert_close(formed(sketch(low, 8).factor()), low, rtol=0, atol=1e-10)


def test_more_directions_are_nearer_and_all_of_them_are_the_matrix() -> None:
    matrix = decaying()
    errors = [float((formed(sketch(matrix, k).factor()) - matrix).norm()) for k in (2, 4, 8, 16, 40)]
    assert errors == sorted(errors, reverse=True), errors
    assert errors[0] > 10 * errors[3]
    assert errors[-1] < 1e-12


def test_the_diagonal_is_exact_whatever_is_left_of_the_rest() -> None:
    matrix = decaying(rate=0.95)
    found = formed(sketch(matrix, 4).factor())
    torch.testing.assert_close(found.diagonal(), matrix.diagonal(), rtol=1e-9, atol=1e-12)


def test_single_precision_does_not_take_rounding_for_directions() -> None:
    matrix = decaying(rate=0.3)
    single = sketch(matrix.float(), 16).factor()
    assert single.directions is not None
    assert torch.isfinite(single.directions).all()
    assert float((formed(single).double() - matrix).norm()) < 1e-3


@pytest.mark.parametrize("k", [3, FULL])
def test_a_sketch_of_nothing_is_a_factor_of_zeros(k: int) -> None:
    assert formed(Sketch.zeros(9, k, DOUBLE).factor()).count_nonzero() == 0


def test_sketches_of_different_sizes_do_not_add_up() -> None:
    with pytest.raises(ValueError, match=r"strategy\.k must be the same"):
        of(*rows(2), 3) + of(*rows(2), 4)


def test_what_is_stored_comes_back() -> None:
    found = of(*rows(3), 3)
    kept = dict(named(found, "a.b"))
    assert sorted(kept) == ["a.b.inputs", "a.b.inputs.diagonal", "a.b.outputs", "a.b.outputs.diagonal"]
    for mine, theirs in zip(stored(kept, "a.b", DOUBLE).tensors, found.tensors, strict=True):
        assert torch.equal(mine, theirs)


def test_probes_are_the_same_signs_on_every_machine() -> None:
    """What a stage kept is of use only together with them."""
    signs = probes(96, 4)
    assert set(signs.unique().tolist()) == {-1, 1}
    assert hashlib.blake2b(signs.numpy().tobytes(), digest_size=8).hexdigest() == "58101a559e7e9c9d"
