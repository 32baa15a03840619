"""The parameters that an average follows: this process's part of them, their gradients, and sums over shards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Scope: TypeAlias = Literal["tensor", "layer", "global"]
Missing: TypeAlias = Literal["error", "skip", "zero"]
Named: TypeAlias = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]


_PLAIN = (Tensor, torch.nn.Parameter)


def is_dtensor(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether the tensor is a shard of a distributed one."""
    if type(tensor) in _PLAIN or not hasattr(tensor, "placements"):
        return False
    # The import takes a second; only a model with such tensors needs it.
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, without a graph and sharing its memory."""
    if not is_dtensor(tensor):
        return tensor.detach()
    # A DTensor's own detach() would hide in-place changes of its part from the version counter.
    with torch.no_grad():
        return tensor.to_local()


def flat(tensor: Tensor) -> Tensor:
    """This process's part as [entries]; a copy where it does not lie in one piece."""
    return local(tensor).reshape(-1)


def like(part: Tensor, parameter: Tensor) -> Tensor:
    """`part` [entries], this process's part, in the shape and distribution of `parameter`."""
    shaped = part.view(local(parameter).shape)
    if not is_dtensor(parameter):
        return shaped
    from torch.distributed.tensor import DTensor

    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(
        shaped, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )


def part_of(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's part [entries] of a whole tensor, or of one that is distributed in any way, on its device."""
    if not is_dtensor(parameter):
        whole = value.full_tensor() if is_dtensor(value) else value
        return whole.detach().to(parameter.device).reshape(-1)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements
    if is_dtensor(value):
        return flat(value.redistribute(mesh, placements))
    # Every process holds the whole value, so nothing has to be sent.
    return flat(distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None))


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor on every process (a collective call where it is sharded)."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor


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
        self.groups = _shard_groups(self.parameters)

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

    def flat(self, index: int) -> Tensor:
        return flat(self.parameters[index])

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


def _shard_groups(parameters: list[Tensor]) -> list[tuple[Any, list[int]]]:
    # A replicated dimension holds equal sums already: adding over it would count every entry twice.
    groups: dict[Any, list[int]] = {}
    for place, parameter in enumerate(parameters):
        if not is_dtensor(parameter):
            continue
        mesh = parameter.device_mesh
        for dimension, placement in enumerate(parameter.placements):
            if placement.is_partial():
                raise ValueError("a parameter with partial placement has no entries of its own to average")
            if placement.is_shard() and mesh.size(dimension) > 1:
                groups.setdefault(mesh.get_group(dimension), []).append(place)
    return list(groups.items())
