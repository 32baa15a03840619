"""The report's figures; drawn without a display, saved as PNG or as SVG that takes its page's colours.

Every function imports matplotlib late. Names of tasks and runs are data: no text is read as a formula.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from lcia.metrics.matrix import AccuracyMatrix

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

# Paul Tol's "bright" scheme: told apart by colour-blind readers, visible on white and on near-black.
COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")
MARKERS = "osD^vP"
LINES = ("-", "--", ":", "-.")
"""With COLOURS and MARKERS they tell MOST_LINES lines apart."""
MOST_LINES = len(COLOURS) * len(LINES)
MOST_POINTS = 400
"""Steps of one stage that are drawn; more would not be seen, only make the page heavier."""
INK = "#1a1b1c"
"""Lines and letters; `svg` turns it into the page's own colour."""

STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lcia",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}

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


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


@_styled
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


@_styled
def accuracy_curves(runs: Mapping[str, Sequence[AccuracyMatrix]]) -> Figure:
    """One panel per task: the score on the task after every task trained since, a line per name.

    Of several matrices by one name the line is their mean, the band one standard deviation on either side. At most
    MOST_LINES names are drawn.
    """
    from matplotlib.figure import Figure

    drawn = dict(list(runs.items())[:MOST_LINES])
    tasks = list(dict.fromkeys(task for found in drawn.values() for matrix in found for task in matrix.tasks))
    columns = min(4, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(2.4 * columns + 0.4, 1.9 * rows + 0.5 + 0.16 * (len(drawn) // 3)))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, task in zip(panels, tasks, strict=False):
        _draw_curves(panel, task, drawn)
    for spare in panels[len(tasks) :]:
        spare.set_axis_off()
    figure.supxlabel("tasks trained", fontsize=9)
    figure.supylabel("score in percent", fontsize=9)
    handles, labels = _once(*panels[: len(tasks)])
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def _draw_curves(panel: Axes, task: str, runs: Mapping[str, Sequence[AccuracyMatrix]]) -> None:
    panel.set(title=task, ylim=(-3, 103))
    for number, (name, matrices) in enumerate(runs.items()):
        columns = [matrix.scores[:, matrix.tasks.index(task)] for matrix in matrices if task in matrix.tasks]
        if not columns:
            continue
        steps, mean, spread = _mean_curve(columns)
        colour = COLOURS[number % len(COLOURS)]
        style = MARKERS[number % len(MARKERS)] + LINES[number // len(COLOURS)]
        panel.plot(steps, mean, style, color=colour, label=name, markersize=4)
        if len(columns) > 1:
            panel.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    panel.set_xticks(range(1, max(len(m.tasks) for found in runs.values() for m in found) + 1))


def _mean_curve(columns: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.int64], ...]:
    """(tasks trained, mean, standard deviation) where any of the columns has a score; one of a single score is 0."""
    table = np.full((len(columns), max(len(column) for column in columns)), np.nan)
    for row, column in enumerate(columns):
        table[row, : len(column)] = column
    seen = np.flatnonzero(np.isfinite(table).any(axis=0))
    found = [table[np.isfinite(table[:, step]), step] for step in seen]
    spread = [np.std(scores, ddof=1) if len(scores) > 1 else 0.0 for scores in found]
    return seen + 1, np.array([scores.mean() for scores in found]), np.array(spread)


@_styled
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


@_styled
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
        axes.legend(*_once(axes), loc="center left", bbox_to_anchor=(1, 0.5))
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


@_styled
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
    pull.legend(*_once(pull), loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@_styled
def trade_off(runs: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """What was learnt against what was forgotten: a small point for each run's (forgetting, new_acc), a large one for
    each name's mean. Best is up and to the left. At most MOST_LINES names are drawn."""
    from matplotlib.figure import Figure

    drawn = dict(list(runs.items())[:MOST_LINES])
    figure = Figure(figsize=(6.4, 3.9 + 0.16 * (len(drawn) // 3)))
    axes = figure.subplots()
    for number, (name, points) in enumerate(drawn.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS)]
        forgotten, learnt = np.array(points, np.float64).T
        axes.plot(forgotten, learnt, marker, color=colour, markersize=3, alpha=0.4, linestyle="none")
        axes.plot(forgotten.mean(), learnt.mean(), marker, color=colour, markersize=9, label=name, linestyle="none")
    axes.set(xlabel="forgetting in percent", ylabel="new_acc in percent")
    figure.legend(*_once(axes), loc="outside upper center", ncols=3)
    return figure


@_styled
def strips(runs: Mapping[str, Sequence[tuple[str, float]]], metric: str) -> Figure:
    """One run, one point: a row per name, a colour and marker per order, so that it is seen which orders are hard."""
    from matplotlib.figure import Figure

    drawn = dict(list(runs.items())[:MOST_LINES])
    orders = list(dict.fromkeys(order for points in drawn.values() for order, _ in points))
    told = len(orders) <= len(COLOURS)
    figure = Figure(figsize=(6.8, 0.9 + 0.34 * len(drawn)))
    axes = figure.subplots()
    for row, points in enumerate(drawn.values()):
        for number, order in enumerate(orders):
            values = [value for at, value in points if at == order]
            # Of many orders only the spread can be seen.
            colour, marker, label = (COLOURS[number], MARKERS[number], order) if told else (INK, "|", None)
            axes.plot(values, [row] * len(values), marker, color=colour, linestyle="none", alpha=0.7, label=label)
    axes.set_yticks(range(len(drawn)), list(drawn))
    axes.set(xlabel=f"{metric} in percent", ylim=(len(drawn) - 0.5, -0.5))
    if told and len(orders) > 1:
        figure.legend(*_once(axes), loc="outside upper center", ncols=1 if len(max(orders, key=len)) > 40 else 3)
    return figure


@dataclass(frozen=True, slots=True)
class Stripe:
    """Thresholds from `low` to `high` and the group of each task there."""

    low: float
    high: float
    groups: tuple[int, ...]
    is_suggested: bool


@_styled
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


def _once(*axes: Axes) -> tuple[list[Artist], list[str]]:
    """Legend entries of all axes without repetition."""
    unique: dict[str, Artist] = {}
    for one in axes:
        handles, labels = one.get_legend_handles_labels()
        unique |= dict(zip(labels, handles, strict=True))
    return list(unique.values()), list(unique)


def save_png(figure: Figure, path: Path) -> Path:
    """Writes a white-backed PNG and returns its path."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=150, facecolor="white", metadata={"Software": None})
    return path


def svg(figure: Figure, name: str) -> str:
    """An <svg> element for inlining: transparent, in the page's text colour, its ids prefixed with `name`."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    element = text.getvalue()[text.getvalue().index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", element)
    return element.replace(INK, "currentColor")
