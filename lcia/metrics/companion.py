"""Figures beside the accuracy matrix: of tasks that are never trained, and what commands say of the adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Companion:
    """`values[j, i]`: figure i before any training (j = 0) or after the j-th task, nan where it is not known.

    Columns: `tasks`, which are never trained, in percent, then `external` figures in whatever unit their command has.
    `after` labels the rows.
    """

    tasks: tuple[str, ...]
    external: tuple[str, ...]
    after: tuple[str, ...]
    values: NDArray[np.float64]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.tasks, *self.external)

    def rows(self) -> list[tuple[str, NDArray[np.float64]]]:
        """Labelled rows, without those in which nothing is known."""
        labelled = zip(self.after, self.values, strict=True)
        return [(label, row) for label, row in labelled if not np.isnan(row).all()]

    def changes(self) -> dict[str, float | None]:
        """By column, the last figure minus that before any training; None where one is not known."""
        found = (self.values[-1] - self.values[0]).tolist()
        return {name: None if change != change else change for name, change in zip(self.columns, found, strict=True)}

    def points(self) -> Iterator[tuple[str, int, float]]:
        """(column, tasks learnt by then, figure) of all that is known."""
        for number, row in enumerate(self.values.tolist()):
            known = ((name, value) for name, value in zip(self.columns, row, strict=True) if value == value)
            yield from ((name, number, value) for name, value in known)


def to_json(table: Companion) -> dict[str, Any]:
    """A value for json.dumps; null where a figure is not known."""
    values = [[None if value != value else value for value in row] for row in table.values.tolist()]
    return {"tasks": list(table.tasks), "external": list(table.external), "after": list(table.after),
            "values": values, "changes": table.changes()}  # fmt: skip


def from_json(value: Mapping[str, Any]) -> Companion:
    """Reads `to_json`."""
    found = np.array(value["values"], dtype=np.float64)
    return Companion(tuple(value["tasks"]), tuple(value["external"]), tuple(value["after"]), found)
