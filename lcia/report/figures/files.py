"""Figures as files, drawn again only where what they show, or how it is drawn, has changed.

Drawing takes longer than all else that a session does whose results are in the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lcia.report.figures.style import save_png, settled, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Sketch: TypeAlias = "partial[Figure]"
"""A function of this package and the plain values that it draws."""

OPENING, CLOSING = "<svg ", "</svg>"


def keep(sketch: Sketch, folder: Path, name: str) -> str:
    """Writes `name`.svg and `name`.png; returns the <svg> element, for inlining. Files that show the same stay."""
    element, picture = folder / f"{name}.svg", folder / f"{name}.png"
    opening = f'{OPENING}data-shows="{shown_by(sketch)}" '
    if picture.exists() and element.exists():
        kept = element.read_text(encoding="utf-8")
        if kept.startswith(opening) and kept.rstrip().endswith(CLOSING):
            return kept
    # It says that both are there: the first to go and the last to come.
    element.unlink(missing_ok=True)
    figure = settled(sketch)
    text = svg(figure, name).replace(OPENING, opening, 1)
    save_png(figure, picture)
    element.write_text(text, encoding="utf-8")
    return text


def shown_by(sketch: Sketch) -> str:
    """Digest of the values, and of the code that draws them."""
    values = json.dumps([sketch.args, sketch.keywords], default=_plain)
    return hashlib.blake2b(f"{_code()} {_name(sketch.func)} {values}".encode(), digest_size=16).hexdigest()


@cache
def _code() -> str:
    """Of this package and of what draws for it."""
    code = hashlib.blake2b(version("matplotlib").encode())
    for path in sorted(files("lcia.report.figures").iterdir(), key=lambda path: path.name):
        if path.name.endswith(".py"):
            code.update(path.read_bytes())
    return code.hexdigest()


def _name(function: Callable[..., object]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _plain(value: Any) -> Any:
    """What JSON has no form for, in one that tells different values apart."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"a figure shows plain values, not a {type(value).__name__}")
