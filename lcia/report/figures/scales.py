"""Where values of a varied key lie on an axis: numbers to scale, other values at even places."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 30
"""Numbers whose greatest is more than so many times the least have a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The axis of one key. `values` are distinct: numbers in ascending order, or texts as they came."""

    key: str
    values: tuple[Any, ...]

    @property
    def is_number(self) -> bool:
        return are_numbers(self.values)

    @property
    def is_log(self) -> bool:
        return self.is_number and self.values[0] > 0 and self.values[-1] > WIDE * self.values[0]

    def x(self, value: Any) -> float:
        """Where the value lies on the x axis of a panel that set_x() has seen."""
        return float(value) if self.is_number else float(self.values.index(told(value)))

    def along(self, value: Any) -> float:
        """Where the value lies on an axis from 0 to 1; a single one lies in the middle."""
        low, at, high = (self._distance(each) for each in (self.values[0], value, self.values[-1]))
        return (at - low) / (high - low) if high > low else 0.5

    def _distance(self, value: Any) -> float:
        return math.log(value) if self.is_log else self.x(value)

    @property
    def ticks(self) -> tuple[Any, ...]:
        """Values to write beside an axis: all texts, of numbers the two ends."""
        return self.values if len(self.values) == 1 or not self.is_number else (self.values[0], self.values[-1])


def scale_of(key: str, values: Iterable[Any]) -> Scale:
    """With the distinct ones of the values; they are numbers only if all are."""
    found = list(values)
    if are_numbers(found):
        return Scale(key, tuple(sorted(set(found))))
    return Scale(key, tuple(dict.fromkeys(told(value) for value in found)))


def are_numbers(values: Sequence[Any]) -> TypeGuard[Sequence[float]]:
    return bool(values) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )


def told(value: Any) -> str:
    """A value in words."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def set_x(panel: Axes, scale: Scale) -> None:
    """Makes the scale the panel's x axis."""
    panel.set_xlabel(scale.key)
    if scale.is_log:
        panel.set_xscale("log")
        # The usual labels are formulas.
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
    elif not scale.is_number:
        panel.set_xticks(range(len(scale.values)), scale.values)
