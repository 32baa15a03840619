"""Figures of groups: which tasks share an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lcia.report.figures.style import COLOURS, INK, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Stripe:
    """Thresholds from `low` to `high` and the group of each task there."""

    low: float
    high: float
    groups: tuple[int, ...]
    is_suggested: bool


@styled
def groupings(tasks: Sequence[str], stripes: Sequence[Stripe]) -> Figure:
    """Which tasks share an adapter at which threshold: a row per task, one colour and number per group. Edges of the
    suggested thresholds are drawn through."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.9 + 0.36 * len(tasks)))
    axes = figure.subplots()
    # Tasks that stay together longest lie next to each other.
    rows = sorted(range(len(tasks)), key=lambda task: [stripe.groups[task] for stripe in stripes])
    span = stripes[-1].high - stripes[0].low
    for stripe in stripes:
        for row, task in enumerate(rows):
            group, width = stripe.groups[task], stripe.high - stripe.low
            axes.barh(row, width, left=stripe.low, height=0.9, color=COLOURS[group % len(COLOURS)], alpha=0.75)
            if width > span / 40:
                axes.text(stripe.low + width / 2, row, f"g{group}", ha="center", va="center", fontsize=7)
        if stripe.is_suggested:
            for edge in (stripe.low, stripe.high):
                axes.axvline(edge, color=INK, linewidth=1.5)
    axes.set_yticks(range(len(tasks)), [tasks[task] for task in rows])
    axes.set(xlabel="threshold", xlim=(stripes[0].low, stripes[-1].high), ylim=(len(tasks) - 0.5, -0.5))
    return figure
