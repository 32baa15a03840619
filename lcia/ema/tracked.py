"""The parameters that an average follows: their names, gradients and sums."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lcia.ema.sharding import flat, like, local, part_of, shard_groups

Scope: TypeAlias = Literal["tensor", "layer", "global"]
Missing: TypeAlias = Literal["error", "skip", "zero"]
Named: TypeAlias = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]


def layer_of(name: str) -> str:
    """A parameter's layer: its name up to the first number, else its module."""
    found = re.match(r"(?:.*?\.)??\d+(?=\.|$)", name)
    return found[0] if found else name.rpartition(".")[0]


def units_of(names: list[str], scope: Scope) -> list[int]:
    """For each tensor the number of the unit that shares its beta, in order of first appearance."""
    keys = {"tensor": names, "layer": [layer_of(name) for name in names], "global": [""] * len(names)}[scope]
    order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return [order[key] for key in keys]


def refuse_broken(names: list[str]) -> None:
    """Raises FloatingPointError if there are names of parameters whose gradients were not finite."""
    if names:
        more = ", ..." if len(names) > 3 else ""
        raise FloatingPointError(f"gradients of {len(names)} parameters were not finite ({', '.join(names[:3])}{more})")


class Tracked:
    """The trainable parameters by name; one that is tied under several names counts once, under its first."""

    def __init__(self, parameters: Named) -> None:
        pairs = list(parameters.items() if isinstance(parameters, Mapping) else parameters)
        by_identity: dict[int, tuple[str, Tensor]] = {}
        for name, parameter in pairs:
            if parameter.requires_grad:
                by_identity.setdefault(id(parameter), (name, parameter))
        self.names = [name for name, _ in by_identity.values()]
        self.parameters = [parameter for _, parameter in by_identity.values()]
        self._check()
        self.device = local(self.parameters[0]).device
        self.groups = shard_groups(self.parameters)

    def _check(self) -> None:
        if not self.parameters:
            raise ValueError("no parameter requires a gradient: give the parameters that the optimizer trains")
        if len(set(self.names)) != len(self.names):
            raise ValueError("two parameters have the same name: give each its own")
        devices = {local(parameter).device for parameter in self.parameters}
        if len(devices) > 1:
            raise ValueError(f"the parameters lie on several devices ({devices}): make one average for each device")
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if getattr(parameter, "_fsdp_flattened", False):
                raise ValueError(f"{name} is flattened by FSDP1, whose shards have no layout: use fully_shard (FSDP2)")

    def __len__(self) -> int:
        return len(self.names)

    def flat(self, place: int) -> Tensor:
        """This process's part of a parameter, [entries]."""
        return flat(self.parameters[place])

    def named(self, parts: Sequence[Tensor | None], prefix: str = "") -> dict[str, Tensor]:
        """One part [entries] of each parameter by prefixed name, in its shape and distribution; None is left out."""
        found = zip(self.names, self.parameters, parts, strict=True)
        return {prefix + name: like(part, parameter) for name, parameter, part in found if part is not None}

    def load(self, parts: Sequence[Tensor | None], prefix: str, state: Mapping[str, Tensor]) -> None:
        """Fills parts from what named() gave, distributed in any way."""
        for name, parameter, part in zip(self.names, self.parameters, parts, strict=True):
            if part is not None:
                part.copy_(part_of(state[prefix + name], parameter))

    def entries(self) -> list[int]:
        """Entries of each whole tensor, over all shards."""
        return [parameter.numel() for parameter in self.parameters]

    def gradients(self, missing: Missing) -> tuple[list[Tensor | None], list[int]]:
        """This process's part of each gradient, and the places of those that are missing (None, or zeros)."""
        found = [None if p.grad is None else local(p.grad) for p in self.parameters]
        absent = [place for place, gradient in enumerate(found) if gradient is None]
        if absent and missing == "error":
            names = ", ".join(self.names[place] for place in absent[:5])
            raise RuntimeError(
                f"{len(absent)} parameters got no gradient in this step ({names} ...): "
                "do not train them, or set missing_gradient to skip or zero"
            )
        if missing == "zero":
            for place in absent:
                found[place] = torch.zeros_like(local(self.parameters[place]))
        return found, absent

    def add_over_shards(self, sums: Tensor) -> Tensor:
        """Sums [tensors, k] over the shards of each tensor: one all-reduce for each group of sharding processes."""
        import torch.distributed as dist

        for group, rows in self.groups:
            if len(rows) == len(self):
                dist.all_reduce(sums, group=group)
            else:
                part = sums[rows]
                dist.all_reduce(part, group=group)
                sums[rows] = part
        return sums
