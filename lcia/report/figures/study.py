"""Figures of several runs beside each other: those of a session, or of a study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lcia.metrics.matrix import AccuracyMatrix
from lcia.metrics.stats import Spread
from lcia.report.figures.scales import Scale, set_x
from lcia.report.figures.style import COLOURS, INK, LINES, MARKERS, MOST_LINES, legend_columns, once, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SINGLE = 400
"""Single runs that are drawn beside their mean in a panel; more would not be seen, only make the page heavier."""
Measured: TypeAlias = Mapping[str, Sequence[tuple[Any, Spread]]]
"""Name -> a spread at each value of a scale."""


@dataclass(frozen=True, slots=True)
class Response:
    """What one varied number does to a score: name -> value of the number -> a score for each run with that value."""

    scale: Scale
    found: Mapping[str, Mapping[float, Sequence[float]]]


@styled
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
    width = 2.4 * columns + 0.4
    figure = Figure(figsize=(width, 1.9 * rows + 0.4 + _legend_height(drawn, width)))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, task in zip(panels, tasks, strict=False):
        _draw_curves(panel, task, drawn)
    for spare in panels[len(tasks) :]:
        spare.set_axis_off()
    figure.supxlabel("tasks trained", fontsize=9)
    figure.supylabel("score in percent", fontsize=9)
    _name_lines(figure, panels[: len(tasks)])
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


@styled
def trade_off(runs: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """What was learnt against what was forgotten: a small point for each run's (forgetting, new_acc), a large one for
    each name's mean. Best is up and to the left. At most MOST_LINES names are drawn."""
    from matplotlib.figure import Figure

    drawn = dict(list(runs.items())[:MOST_LINES])
    figure = Figure(figsize=(6.4, 3.8 + _legend_height(drawn, 6.4)))
    axes = figure.subplots()
    for number, (name, points) in enumerate(drawn.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS)]
        forgotten, learnt = np.array(points, np.float64).T
        axes.plot(forgotten, learnt, marker, color=colour, markersize=3, alpha=0.4, linestyle="none")
        axes.plot(forgotten.mean(), learnt.mean(), marker, color=colour, markersize=9, label=name, linestyle="none")
    axes.set(xlabel="forgetting in percent", ylabel="new_acc in percent")
    _name_lines(figure, [axes])
    return figure


@styled
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
        _name_lines(figure, [axes])
    return figure


@styled
def responses(panels: Sequence[Response], measure: str, averaged: bool) -> Figure:
    """A panel per varied number, a point per run. `averaged`: with a line through the means of each name, in a band of
    one standard deviation. At most MOST_LINES names are drawn."""
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width = 3.2 * columns + 0.4
    names = [name for panel in panels for name in panel.found]
    figure = Figure(figsize=(width, 2.4 * rows + 0.5 + _legend_height(dict.fromkeys(names), width)))
    places = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for panel, response in zip(places, panels, strict=False):
        _draw_response(panel, response, averaged)
    for spare in places[len(panels) :]:
        spare.set_axis_off()
    figure.supylabel(measure, fontsize=9)
    _name_lines(figure, places)
    return figure


def _draw_response(panel: Axes, response: Response, averaged: bool) -> None:
    set_x(panel, response.scale)
    few = sum(len(scores) for found in response.found.values() for scores in found.values()) <= MOST_SINGLE
    for number, (name, found) in enumerate(list(response.found.items())[:MOST_LINES]):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        single = [(value, score) for value in sorted(found) for score in found[value]]
        if averaged:
            _draw_means(panel, found, {"color": colour, "label": name}, marker + LINES[number // len(COLOURS)])
        if few or not averaged:
            size, label = (2, None) if averaged else (5, name)
            panel.plot(*zip(*single, strict=True), marker, color=colour, markersize=size, alpha=0.6, label=label)


def _draw_means(panel: Axes, found: Mapping[float, Sequence[float]], look: Mapping[str, Any], form: str) -> None:
    values = np.array(sorted(found))
    mean = np.array([np.mean(found[value]) for value in values])
    spread = np.array([np.std(found[value], ddof=1) if len(found[value]) > 1 else 0.0 for value in values])
    panel.plot(values, mean, form, markersize=4, **look)
    panel.fill_between(values, mean - spread, mean + spread, color=look["color"], alpha=0.2, linewidth=0)


@styled
def spreads_over(scale: Scale, panels: Mapping[str, Measured]) -> Figure:
    """A panel for each measure over the same scale: a line through the means of each name, standard deviations as bars.
    At most MOST_LINES names are drawn."""
    from matplotlib.figure import Figure

    width = 3.1 * len(panels) + 0.2
    names = [name for measured in panels.values() for name in measured]
    figure = Figure(figsize=(width, 2.6 + _legend_height(dict.fromkeys(names), width)))
    places = figure.subplots(1, len(panels), squeeze=False).ravel()
    for panel, (title, measured) in zip(places, panels.items(), strict=True):
        set_x(panel, scale)
        panel.set_title(title)
        for number, (name, found) in enumerate(list(measured.items())[:MOST_LINES]):
            form = MARKERS[number % len(MARKERS)] + LINES[number // len(COLOURS)]
            x, mean = [scale.x(value) for value, _ in found], [spread.mean for _, spread in found]
            bars = [spread.std or 0.0 for _, spread in found]
            colour = COLOURS[number % len(COLOURS)]
            panel.errorbar(x, mean, bars, fmt=form, color=colour, label=name, markersize=4, capsize=2)
    _name_lines(figure, places)
    return figure


def _name_lines(figure: Figure, panels: Iterable[Axes]) -> None:
    """A legend above the panels."""
    handles, labels = once(*panels)
    columns = legend_columns(labels, figure.get_figwidth())
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def _legend_height(names: Iterable[str], width: float) -> float:
    """Inches that it takes."""
    drawn = list(names)[:MOST_LINES]
    return 0.16 * -(-len(drawn) // legend_columns(drawn, width))
