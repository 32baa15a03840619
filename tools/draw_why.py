"""Draws two figures of docs/strategies.md from what `bench.why` measured.

python -m tools.draw_why docs/results/why.json docs
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcia.report.figures.style import COLOURS, INK, LINES, MARKERS, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("why-averages.svg", "why-directions.svg")
WAYS = {"sequential": COLOURS[0], "kronecker": COLOURS[1]}


def averages(found: Mapping[str, Any]) -> Figure:
    """Left: how far each average has gone, step by step. Right: what the points on the line are worth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.4))
    way, worth = figure.subplots(1, 2)
    for number, (name, gone) in enumerate(found["gone"].items()):
        way.plot(range(1, len(gone) + 1), gone, LINES[number], color=COLOURS[number], label=name)
    way.set(xlabel="step of the new task", ylabel="share of the way from the old weights", ylim=(0, 1.05))
    way.set_title("The average ends where training ends")
    way.legend(loc="lower right")
    old, new = zip(*found["line"], strict=True)
    worth.plot(new, old, "-", color=INK, marker=".", linewidth=1, label="all mixes of old and new weights")
    for number, (name, (kept, learnt)) in enumerate(found["points"].items()):
        worth.plot(learnt, kept, MARKERS[number], color=COLOURS[number], markersize=8, label=name, alpha=0.8)
    first, second = found["tasks"]
    worth.set(xlabel=f"{second} (new), score in percent", ylabel=f"{first} (old), score in percent")
    worth.set_title("No point of the line has both tasks")
    worth.legend(loc="lower left")
    return figure


def directions(found: Mapping[str, Any]) -> Figure:
    """A panel for each kind of curvature: the rise that it predicts against the rise that is measured."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.4))
    panels = figure.subplots(1, len(found["rank_correlation"]), sharex=True, sharey=True)
    for panel, (kind, rank) in zip(panels, found["rank_correlation"].items(), strict=True):
        for way, colour in WAYS.items():
            mine = [each for each in found["points"] if each["strategy"] == way]
            measured, predicted = [each["rise"] for each in mine], [each[kind] for each in mine]
            panel.plot(measured, predicted, "o", color=colour, markersize=3, alpha=0.7, label=f"learnt under {way}")
        panel.set(xscale="log", yscale="log", xlabel="measured rise, nats per token")
        panel.set_title(f"{kind}\nrank correlation {rank:.2f}")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter("{x:g}")
        low, high = panel.get_xlim()
        panel.plot([low, high], [low, high], "-", color=INK, linewidth=0.8, zorder=0)
    panels[0].set_ylabel("predicted rise, nats per token")
    panels[0].legend(loc="upper left")
    return figure


def main() -> None:
    import matplotlib

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    found = json.loads(given.figures.read_text())
    with matplotlib.rc_context({**STYLE, "savefig.facecolor": "white"}):
        drawn = averages(found["averages"]), directions(found["rises"])
        for figure, file in zip(drawn, FILES, strict=True):
            figure.savefig(given.folder / file, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
