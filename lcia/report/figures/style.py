"""What all figures have in common. They need no display; as SVG they take the colours of their page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

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


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A function that draws with STYLE."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def once(*axes: Axes) -> tuple[list[Artist], list[str]]:
    """Legend entries of all axes without repetition."""
    unique: dict[str, Artist] = {}
    for one in axes:
        handles, labels = one.get_legend_handles_labels()
        unique |= dict(zip(labels, handles, strict=True))
    return list(unique.values()), list(unique)


def legend_columns(labels: Iterable[str], width: float) -> int:
    """How many columns of a legend with such labels fit into a figure `width` inches wide, three at most."""
    # An inch holds about fourteen letters; mark and gap take the room of seven.
    longest = max((len(label) for label in labels), default=0) + 7
    return max(1, min(3, int(14 * width / longest)))


def settled(sketch: Callable[[], Figure]) -> Figure:
    """A figure whose parts have found their places once, and keep them in every format."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = sketch()
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
            figure.set_layout_engine("none")
    return figure


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
