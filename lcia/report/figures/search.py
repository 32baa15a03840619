"""The figure of a search: what each trial was given, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lcia.report.figures.scales import Scale, scale_of, told
from lcia.report.figures.style import INK, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# From low to high; each of the two ways has colours that are seen on white and on near-black, and none of them is grey.
LOW_TO_HIGH = ("#4477AA", "#B8508F", "#EE6677")
FAINT = "#8A9199"


@dataclass(frozen=True, slots=True)
class TrialLine:
    """One trial. `values`: one for each axis; `objective`: None of a trial that did not come to its end."""

    values: tuple[Any, ...]
    objective: float | None
    is_best: bool = False


@styled
def parallel_coordinates(scales: Sequence[Scale], trials: Sequence[TrialLine], objective: str) -> Figure:
    """An upright axis for each scale and a last one for the objective, a line per trial in the colour of its objective,
    the best one thick. A trial without one is a thin grey line that ends before the last axis."""
    from matplotlib.figure import Figure

    last = scale_of(objective, [trial.objective for trial in trials if trial.objective is not None])
    figure = Figure(figsize=(max(4.0, 1.5 * (len(scales) + 1)), 3.8))
    axes = figure.subplots()
    # The best one lies on top of the others, and those that were stopped below.
    for trial in sorted(trials, key=lambda trial: (trial.is_best, trial.objective is not None)):
        _draw_trial(axes, trial, scales, last)
    for x, scale in enumerate((*scales, last)):
        _draw_axis(axes, x, scale)
    axes.set_xticks(range(len(scales) + 1), [scale.key for scale in (*scales, last)], rotation=20, ha="right")
    axes.tick_params(length=0)
    axes.set(yticks=[], xlim=(-0.6, len(scales) + 0.2), ylim=(-0.1, 1.1))
    axes.spines[:].set_visible(False)
    return figure


def _draw_trial(axes: Axes, trial: TrialLine, scales: Sequence[Scale], last: Scale) -> None:
    places = [scale.along(value) for scale, value in zip(scales, trial.values, strict=True)]
    if trial.objective is None:
        axes.plot(range(len(places)), places, color=FAINT, linewidth=0.6, alpha=0.7)
        return
    place = last.along(trial.objective)
    width = 3.5 if trial.is_best else 1.2
    axes.plot(range(len(places) + 1), [*places, place], color=colours()(place), linewidth=width, alpha=0.9)


def _draw_axis(axes: Axes, x: int, scale: Scale) -> None:
    axes.plot([x, x], [0, 1], color=INK, linewidth=1)
    for value in scale.ticks:
        place = scale.along(value)
        if scale.is_number and len(scale.ticks) > 1:
            # Beyond the ends, where no line passes.
            axes.text(x, 1.02 if place else -0.02, told(value), ha="center", va="bottom" if place else "top")
        else:
            axes.text(x - 0.04, place, told(value), ha="right", va="center")


def colours() -> Colormap:
    """From the least objective to the greatest."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("objective", LOW_TO_HIGH)
