"""Tensors of any number and size as one list of chunks, and the launches of lcia.ema.triton_kernels over it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lcia.ema.buffers import Whole
from lcia.ema.rules import Kind

Kernels: TypeAlias = Literal["auto", "torch", "triton"]
Types: TypeAlias = tuple[torch.dtype | None, ...]


CHUNK = 1 << 16
"""Entries of one program: enough programs to fill a GPU, few enough partial sums not to matter."""


@dataclass(frozen=True)
class Chunks:
    """`rows` [chunks, 4] int64: tensor, start, stop, number of the chunk, in order of the tensors; `firsts`
    [tensors + 1]: where each tensor's chunks begin."""

    rows: Tensor
    firsts: Tensor

    @classmethod
    def of(cls, sizes: Sequence[int], device: torch.device, size: int | None = None) -> Chunks:
        rows, firsts, size = list[tuple[int, ...]](), [0], size or CHUNK
        for tensor, entries in enumerate(sizes):
            for start in range(0, entries, size):
                rows.append((tensor, start, min(start + size, entries), len(rows)))
            firsts.append(len(rows))
        as_tensor = {"dtype": torch.int64, "device": device}
        return cls(torch.tensor(rows, **as_tensor).view(-1, 4), torch.tensor(firsts, **as_tensor))  # type: ignore[arg-type]

    def only(self, tensors: set[int]) -> Tensor:
        """The rows of some tensors."""
        wanted = [place for place, row in enumerate(self.rows.tolist()) if row[0] in tensors]
        return self.rows[torch.tensor(wanted, dtype=torch.int64, device=self.rows.device)]


def wanted(kernels: Kernels, device: torch.device) -> bool:
    """Whether the passes run as kernels: on a GPU where Triton is installed, unless the options say otherwise.

    Raises:
        ValueError: `triton` is asked for and not installed.
    """
    if kernels == "torch" or (kernels == "auto" and device.type != "cuda"):
        return False
    found = importlib.util.find_spec("triton") is not None
    if not found and kernels == "triton":
        raise ValueError("kernels='triton' needs the package triton: install it, or leave kernels at 'auto'")
    return found


@dataclass(frozen=True)
class Row:
    """One tensor's buffers by column of triton_kernels.COLUMNS; what is missing or None does not exist."""

    columns: Mapping[str, Tensor | None]

    def types(self, names: Sequence[str]) -> Types:
        return tuple(None if (found := self.columns.get(name)) is None else found.dtype for name in names)

    def addresses(self, names: Sequence[str]) -> list[int]:
        return [0 if (found := self.columns.get(name)) is None else found.data_ptr() for name in names]


class Launcher:
    """Sends addresses to the device and launches a kernel once for each mixture of types (mostly one)."""

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self.device, self.chunks = device, Chunks.of(sizes, device)
        self._even = CHUNK % 16 == 0 and not any(size % 16 for size in sizes)
        self._rows: dict[tuple[Types, tuple[Types, ...]], Tensor] = {}

    def launch(self, kernel: Any, rows: Sequence[Row], typed: Mapping[str, str], *values: Any, **fixed: Any) -> None:
        """kernel[chunks](table, chunks, *values, types, fixed); `typed`: the kernel's name of a type -> the column
        that has it. Nothing waits for the device."""
        from lcia.ema import triton_kernels

        addresses = [row.addresses(triton_kernels.COLUMNS) for row in rows]
        aligned = self._even and not any(number % 16 for row in addresses for number in row)
        # From pinned memory nothing waits; torch keeps that memory until the copy is done.
        host = torch.tensor(addresses, dtype=torch.int64, pin_memory=self.device.type == "cuda")
        table = host.to(self.device, non_blocking=True)
        for types, chunks in self._groups([row.types(list(typed.values())) for row in rows]):
            names = {
                name: triton_kernels.TYPES[dtype or torch.float32] for name, dtype in zip(typed, types, strict=True)
            }
            if len(chunks):
                kernel[(len(chunks),)](
                    table, chunks, *values, **names, **fixed, ALIGNED=aligned, SIZE=triton_kernels.SIZE
                )

    def _groups(self, types: Sequence[Types]) -> list[tuple[Types, Tensor]]:
        """(types, chunks of the tensors that have them)."""
        everything, found = tuple(types), []
        for mixture in dict.fromkeys(everything):
            key = mixture, everything
            if key not in self._rows:
                same = {place for place, other in enumerate(everything) if other == mixture}
                self._rows[key] = self.chunks.rows if len(same) == len(everything) else self.chunks.only(same)
            found.append((mixture, self._rows[key]))
        return found

    def move(self, pairs: Sequence[tuple[Tensor, Tensor]], weight: Tensor) -> None:
        """average += weight (theta - average) for each (theta, average); weight [tensors] fp64, 0: left alone."""
        from lcia.ema import triton_kernels

        rows = [Row({"theta": theta, "average": average}) for theta, average in pairs]
        self.launch(triton_kernels.move_kernel, rows, {"THETA": "theta", "WIDE": "average"}, weight)


class TritonSweep:
    """The passes of a scalar rule as three launches: measure, gather, move. The parts hold the buffers."""

    def __init__(self, parts: Sequence[Whole], kind: Kind, device: torch.device) -> None:
        self.parts, self.kind = parts, kind
        self.launcher = Launcher([part.star.numel() for part in parts], device)
        self._one = torch.ones((), dtype=torch.float64, device=device)

    def measure(self, gradients: Sequence[Tensor | None], made: Tensor | None) -> Tensor:
        """The sums of every tensor, [tensors, 4] fp64; afterwards weights and gradients are those of this step."""
        from lcia.ema import triton_kernels

        # The rows live until the launch: a gradient that does not lie in one piece is a copy that they alone hold.
        rows = [self._row(part, gradient, made) for part, gradient in zip(self.parts, gradients, strict=True)]
        chunks = self.launcher.chunks
        partial = torch.zeros(len(chunks.rows), 4, dtype=torch.float64, device=self.launcher.device)
        sums = torch.zeros(len(self.parts), 4, dtype=torch.float64, device=self.launcher.device)
        typed = {"THETA": "theta", "GRADIENT": "gradient", "LAST": "last", "WIDE": "average"}
        weights = self.parts[0].weights is not None
        made = self._one if made is None else made
        self.launcher.launch(triton_kernels.measure_kernel, rows, typed, made, partial,
                             PRODUCTS=self.kind == "products", WEIGHTS=weights)  # fmt: skip
        triton_kernels.gather_kernel[(len(self.parts),)](partial, chunks.firsts, sums)
        return sums

    def _row(self, part: Whole, gradient: Tensor | None, made: Tensor | None) -> Row:
        columns = {"theta": part.theta, "average": part.star, "weights": part.weights}
        if gradient is None:
            return Row(columns)
        columns["gradient"] = gradient.reshape(-1)
        if not part.needs.gradients:
            return Row(columns)
        last = part.previous.get(gradient)
        hold = part.previous.prepare(gradient, made)
        # A buffer that was just made holds the last gradient already, or zeros before the first: then the change
        # means nothing and is not used.
        return Row({**columns, "last": last if hold is None else hold, "hold": hold})

    def move(self, weight: Tensor) -> None:
        """theta* += weight (theta - theta*) for every tensor; weight [tensors] fp64, 0: left alone."""
        self.launcher.move([(part.theta, part.star) for part in self.parts], weight)
