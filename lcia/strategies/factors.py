"""The curvature of linear layers as two factors, each a sum over rows, kept as a few directions and a diagonal.

Of a row's gradient M [out, in] of a layer's whole weights, S_x = sum M'M and S_g = sum M M' (docs/method.md 2,
`kronecker`). M is never formed: with inputs x and output gradients g of the row's tokens M = g'x, so M'M = x'(g g')x.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

X, G = "inputs", "outputs"
DIAGONAL = ".diagonal"


def probes(width: int, k: int) -> Tensor:
    """The random signs [width, k] that every factor of this width is multiplied with, on all machines and in all
    stages: only so do sketches add up."""
    generator = torch.Generator().manual_seed(width)
    return torch.randint(0, 2, (width, k), generator=generator, dtype=torch.int8) * 2 - 1


@dataclass(frozen=True)
class Factor:
    """A symmetric matrix [n, n] to multiply with: whole, or `directions` @ directions' + diag(`diagonal`). A stack of
    them has one more dimension in front everywhere."""

    diagonal: Tensor
    """[n]"""
    directions: Tensor
    """[n, k]"""
    whole: Tensor | None = None
    """[n, n]; then the two others are not used."""

    @classmethod
    def stack(cls, factors: Sequence[Factor]) -> Factor:
        """Of matrices of one size, all whole or none; the only one as it is."""
        if len(factors) == 1:
            return factors[0]
        wholes = [factor.whole for factor in factors if factor.whole is not None]
        diagonals, directions = [f.diagonal for f in factors], [f.directions for f in factors]
        return cls(torch.stack(diagonals), torch.stack(directions), torch.stack(wholes) if wholes else None)

    def times(self, rows: Tensor) -> Tensor:
        """rows [m, n] @ the matrix."""
        if self.whole is not None:
            return rows @ self.whole
        return rows * self.diagonal.unsqueeze(-2) + (rows @ self.directions) @ self.directions.mT


@dataclass(frozen=True)
class Sketch:
    """S @ probes and the diagonal of a symmetric S [n, n]. Both are linear in S: sketches of sums are sums of sketches.
    Where k reaches n, the probes are the unit matrix, so that `product` is S itself."""

    product: Tensor
    """[n, min(k, n)]"""
    diagonal: Tensor
    """[n]"""

    @classmethod
    def zeros(cls, width: int, k: int, like: Tensor) -> Sketch:
        """Of nothing, with `like`'s device and precision."""
        return cls(like.new_zeros(width, min(k, width)), like.new_zeros(width))

    @property
    def is_whole(self) -> bool:
        return self.product.shape[0] == self.product.shape[1]

    def add(self, rows: Tensor, gram: Tensor) -> None:
        """S += sum over rows of r' gram r; rows [rows, tokens, n], gram [rows, tokens, tokens]."""
        weighted = (gram @ rows).flatten(0, 1)
        flat = rows.flatten(0, 1)
        self.diagonal.add_((flat * weighted).sum(0))
        if not self.is_whole:
            weighted = weighted @ probes(*self.product.shape).to(weighted)
        self.product.addmm_(flat.T, weighted)

    def factor(self) -> Factor:
        """S, or what Nystrom's approximation makes of the sketch, with the diagonal put right.

        Y (probes' Y)^-1 Y' is the best that can be said of S from Y = S @ probes (Tropp et al. 2017, algorithm 3).
        Directions that lie below the rounding of Y are left out.
        """
        if self.is_whole:
            return Factor(self.diagonal, self.product[:, :0], whole=(self.product + self.product.T) / 2)
        product = self.product.double()
        core = probes(*product.shape).to(product).T @ product
        values, vectors = torch.linalg.eigh((core + core.T) / 2)
        floor = values.abs().max() * torch.finfo(self.product.dtype).eps * len(values) * 10
        directions = product @ (vectors * torch.where(values > floor, values.rsqrt(), 0.0))
        rest = (self.diagonal - directions.square().sum(1)).clamp_min(0)
        return Factor(rest.to(self.diagonal.dtype), directions.to(self.product.dtype))


@dataclass(frozen=True)
class Curvature:
    """Both factors of one layer. Their traces are equal: the sum of all squared entries of all M."""

    inputs: Sketch
    outputs: Sketch

    @classmethod
    def zeros(cls, shape: tuple[int, int], k: int, like: Tensor) -> Curvature:
        """Of no rows; `shape` is (out, in)."""
        return cls(Sketch.zeros(shape[1], k, like), Sketch.zeros(shape[0], k, like))

    @property
    def trace(self) -> Tensor:
        return self.inputs.diagonal.sum()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.inputs.product, self.inputs.diagonal, self.outputs.product, self.outputs.diagonal

    def add(self, x: Tensor, g: Tensor) -> None:
        """The rows with inputs x [rows, tokens, in] and gradients g [rows, tokens, out] of their own losses."""
        x, g = x.to(self.inputs.product.dtype), g.to(self.outputs.product.dtype)
        self.inputs.add(x, g @ g.mT)
        self.outputs.add(g, x @ x.mT)

    def scale_(self, factor: Tensor) -> None:
        for tensor in self.tensors:
            tensor.mul_(factor)

    def __add__(self, other: Curvature) -> Curvature:
        """That of both tasks.

        Raises:
            ValueError: they were sketched with different k.
        """
        pairs = list(zip(self.tensors, other.tensors, strict=True))
        if any(mine.shape != theirs.shape for mine, theirs in pairs):
            raise ValueError(
                f"curvatures of {list(self.inputs.product.shape)} and {list(other.inputs.product.shape)} cannot be "
                "added: strategy.k must be the same in all stages of an adapter"
            )
        product_x, diagonal_x, product_g, diagonal_g = (mine + theirs for mine, theirs in pairs)
        return Curvature(Sketch(product_x, diagonal_x), Sketch(product_g, diagonal_g))


def named(curvature: Curvature, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a layer's curvature by the keys they are stored under."""
    for side, sketch in ((X, curvature.inputs), (G, curvature.outputs)):
        yield f"{name}.{side}", sketch.product
        yield f"{name}.{side}{DIAGONAL}", sketch.diagonal


def stored(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Curvature:
    """The inverse of named(), on the device and in the precision of `like`."""
    sketches = [
        Sketch(tensors[f"{name}.{side}"].to(like), tensors[f"{name}.{side}{DIAGONAL}"].to(like)) for side in (X, G)
    ]
    return Curvature(*sketches)
