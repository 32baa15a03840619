"""Figures of one run: its matrix, what was looked at beside it, and what its training reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcia.metrics.companion import Companion
from lcia.metrics.matrix import AccuracyMatrix
from lcia.report.figures.style import COLOURS, INK, LINES, once, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 400
"""Steps of one stage that are drawn; more would not be seen, only make the page heavier."""
QUANTILES = ("beta_q05", "beta_q50", "beta_q95")
SHARES = {"fallback": "fallback", "at_beta_min": "at beta_min", "at_beta_max": "at beta_max"}
RISE = "old_loss_rise"
PULLS = {"pull_weight": "weight", "pull_capped": "share capped"}
"""Keys of a stage's step statistics, with what a reader calls them."""


@dataclass(frozen=True, slots=True)
class StageSteps:
    """Step statistics of one stage: rows of {"step": ..., "loss": ..., "beta_q50": ...}, and its bounds on beta."""

    label: str
    rows: tuple[Mapping[str, float], ...]
    bounds: tuple[float, float] | None = None

    def column(self, key: str) -> NDArray[np.float64]:
        """One value per row, nan where the row lacks it."""
        return np.array([row.get(key, np.nan) for row in self.rows], dtype=np.float64)

    @property
    def has_beta(self) -> bool:
        return self.has(QUANTILES[1])

    @property
    def has_pull(self) -> bool:
        return self.has(RISE)

    def has(self, key: str) -> bool:
        """Whether any row holds a figure by that name."""
        return bool(np.isfinite(self.column(key)).any())

    def thinned(self) -> StageSteps:
        """At most MOST_POINTS rows, evenly spread, the last one among them."""
        places = np.unique(np.linspace(0, len(self.rows) - 1, min(len(self.rows), MOST_POINTS)).round().astype(int))
        return StageSteps(self.label, tuple(self.rows[place] for place in places), self.bounds)


@styled
def heat_map(matrix: AccuracyMatrix) -> Figure:
    """Scores in percent: a row per trained task, a column per evaluated one."""
    from matplotlib.figure import Figure

    labels, values = zip(*matrix.rows(), strict=True)
    size = (1.6 + 0.75 * len(matrix.tasks), 1.2 + 0.45 * len(labels))
    figure = Figure(figsize=size)
    axes = figure.subplots()
    image = axes.imshow(np.array(values), cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(matrix.tasks)), matrix.tasks, rotation=30, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="evaluated on", ylabel="after training")
    _write_cells(axes, np.array(values))
    figure.colorbar(image, ax=axes, label="score in percent")
    return figure


def _write_cells(axes: Axes, values: NDArray[np.float64]) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > 55 else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)


@styled
def form_curves(matrix: AccuracyMatrix, normalised: AccuracyMatrix) -> Figure:
    """Mean score of the tasks learnt so far over the stream, and the same where case, articles and punctuation do not
    count: what lies between the two was lost to the form of answers alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.2))
    axes = figure.subplots()
    learnt = np.arange(1, len(matrix.tasks) + 1)
    for number, (name, scores) in enumerate((("as scored", matrix.scores), ("normalised", normalised.scores))):
        means = [row[:tasks].mean() for tasks, row in zip(learnt, scores, strict=True)]
        axes.plot(learnt, means, marker="o", markersize=3, color=COLOURS[number], linestyle=LINES[number], label=name)
    axes.set(xlabel="tasks trained", ylabel="mean, percent", xticks=learnt)
    axes.set_ylim(bottom=0)
    axes.legend(*once(axes), loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def companion_curves(table: Companion) -> Figure:
    """Every figure beside the matrix over the tasks learnt; those of commands in a panel of their own, for their units
    are not known."""
    from matplotlib.figure import Figure

    panels = [(label, names) for label, names in (("percent", table.tasks), ("command", table.external)) if names]
    figure = Figure(figsize=(7, 2.2 * len(panels)))
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False).ravel()
    for axes, (label, names) in zip(all_axes, panels, strict=True):
        for number, name in enumerate(names):
            values = table.values[:, table.columns.index(name)]
            known = np.flatnonzero(np.isfinite(values))
            style = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number // len(COLOURS) % len(LINES)]}
            axes.plot(known, values[known], marker="o", markersize=3, label=name, **style)
        axes.set(ylabel=label)
        axes.legend(*once(axes), loc="center left", bbox_to_anchor=(1, 0.5))
    all_axes[-1].set(xlabel="tasks trained", xticks=range(len(table.after)), xlim=(-0.2, len(table.after) - 0.8))
    return figure


@styled
def loss_curves(stages: Sequence[StageSteps]) -> Figure:
    """The training loss over the stream's optimizer steps, stage after stage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.2))
    axes = figure.subplots()
    start = 0.0
    for stage in (whole.thinned() for whole in stages):
        steps = start + stage.column("step")
        axes.plot(steps, stage.column("loss"), color=COLOURS[0], linewidth=1)
        _mark_start(axes, stage.label, start)
        start = float(steps.max(initial=start))
    axes.set(xlabel="optimizer steps over the stream", ylabel="loss")
    axes.set_ylim(bottom=0)
    return figure


def _mark_start(axes: Axes, label: str, start: float) -> None:
    axes.axvline(start, color=INK, alpha=0.3, linewidth=0.8)
    # The task alone: what stands behind the dot is the run's strategy, and eight such labels would overlap.
    where: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate(label.split(" · ")[0], (start, 1), (3, 3), fontsize=8, **where)


@styled
def beta_trajectories(stages: Sequence[StageSteps]) -> Figure:
    """Median and 5-95 % band of beta over the stream's steps, with bounds; below, the shares of fallback and bounds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6))
    beta, shares = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    start = 0.0
    for stage in stages:
        start = _draw_stage(beta, shares, stage.thinned(), start)
    beta.set(ylabel="beta", ylim=(-0.03, 1.03))
    shares.set(xlabel="optimizer steps over the stream", ylabel="share", ylim=(-0.05, 1.05))
    for axes in (beta, shares):
        axes.legend(*once(axes), loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _draw_stage(beta: Axes, shares: Axes, stage: StageSteps, start: float) -> float:
    """Draws one stage from x = start; returns where the next one starts."""
    steps = start + stage.column("step")
    low, middle, high = (stage.column(key) for key in QUANTILES)
    beta.plot(steps, middle, color=COLOURS[0], label="median")
    beta.fill_between(steps, low, high, color=COLOURS[0], alpha=0.3, linewidth=0, label="5 to 95 %")
    end = float(steps.max(initial=start))
    for bound in stage.bounds or ():
        beta.hlines(bound, start, end, color=COLOURS[1], linestyle="--", label="bounds")
    for number, (key, name) in enumerate(SHARES.items(), start=2):
        # A rule without bounds cannot be at one: its beta of 0 or 1 is what it computed.
        if stage.has(key) and (stage.bounds or key == "fallback"):
            shares.plot(steps, stage.column(key), color=COLOURS[number], label=name)
    _mark_start(beta, stage.label, start)
    shares.axvline(start, color=INK, alpha=0.3, linewidth=0.8)
    return end


@styled
def pull_trajectories(stages: Sequence[StageSteps]) -> Figure:
    """The predicted rise of the old tasks' loss over the stream's steps; below, from each stage's start on, the mean
    weight of the pull and how often its cap bound."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6))
    rise, pull = figure.subplots(2, 1, sharex=True)
    start = 0.0
    for stage in (whole.thinned() for whole in stages):
        steps = start + stage.column("step")
        rise.plot(steps, stage.column(RISE), color=COLOURS[0])
        for number, (key, name) in enumerate(PULLS.items(), start=1):
            pull.plot(steps, stage.column(key), color=COLOURS[number], label=name)
        _mark_start(rise, stage.label, start)
        pull.axvline(start, color=INK, alpha=0.3, linewidth=0.8)
        start = float(steps.max(initial=start))
    rise.set(ylabel="nats per token")
    pull.set(xlabel="optimizer steps over the stream")
    for axes in (rise, pull):
        axes.set_ylim(bottom=0)
    pull.legend(*once(pull), loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
