"""Figures of several runs beside each other: those of a session, or of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lcia.metrics.matrix import AccuracyMatrix
from lcia.report.figures.style import COLOURS, INK, LINES, MARKERS, MOST_LINES, once, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    figure = Figure(figsize=(2.4 * columns + 0.4, 1.9 * rows + 0.5 + 0.16 * (len(drawn) // 3)))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, task in zip(panels, tasks, strict=False):
        _draw_curves(panel, task, drawn)
    for spare in panels[len(tasks) :]:
        spare.set_axis_off()
    figure.supxlabel("tasks trained", fontsize=9)
    figure.supylabel("score in percent", fontsize=9)
    handles, labels = once(*panels[: len(tasks)])
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


@styled
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
    figure.legend(*once(axes), loc="outside upper center", ncols=3)
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
        figure.legend(*once(axes), loc="outside upper center", ncols=1 if len(max(orders, key=len)) > 40 else 3)
    return figure
