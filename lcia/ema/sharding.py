"""Tensors that may be shards of distributed ones (DTensor): this process's part, and the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

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


def shard_groups(parameters: list[Tensor]) -> list[tuple[Any, list[int]]]:
    """Groups of processes that share tensors, each with the places of the tensors that it shares."""
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
