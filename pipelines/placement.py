"""Whether workers and actors fit on machines, before anything waits for resources that will never be there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HAIR = 1e-9
"""Thirds of a GPU add up to a hair more than one."""


@dataclass(frozen=True, slots=True)
class Demand:
    """`count` equal Ray workers or actors with the resources of one; `gpus` is whole, or a part of one."""

    what: str
    count: int
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.count} {self.what} of {self.cpus:g} CPU and {self.gpus:g} GPU each"


class Machine:
    """A machine that is being filled: its CPUs, and what is free of each of its GPUs."""

    def __init__(self, cpus: float, gpus: int) -> None:
        self.cpus, self.gpus = cpus, [1.0] * gpus

    def take(self, demand: Demand) -> bool:
        """Takes one of the demand's workers, if there is room. Parts of a GPU are parts of the same one."""
        share, number = (1.0, int(demand.gpus)) if demand.gpus >= 1 else (demand.gpus, 1 if demand.gpus else 0)
        fitting = sorted((free, index) for index, free in enumerate(self.gpus) if free >= share - HAIR)[:number]
        if demand.cpus > self.cpus + HAIR or len(fitting) < number:
            return False
        self.cpus -= demand.cpus
        for _, index in fitting:
            self.gpus[index] -= share
        return True


def unplaced(machines: Sequence[Machine], demands: Sequence[Demand]) -> list[Demand]:
    """What finds no room, with how many of each; the largest are placed first, each where the first room is."""
    left: list[Demand] = []
    for demand in sorted(demands, key=lambda one: (-one.gpus, -one.cpus)):
        missing = sum(not any(machine.take(demand) for machine in machines) for _ in range(demand.count))
        if missing:
            left.append(Demand(demand.what, missing, demand.cpus, demand.gpus))
    return left
