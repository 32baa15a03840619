"""Draws the rooms of lcia/ and pipelines/ and who imports whom: python -m tools.draw_house docs/house.svg.

A room is a package, or a module beside the packages. Floors are the layers of the import contracts in pyproject.toml.
An arrow that follows from others is left out. Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import ast
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
HOUSES = {
    "pipelines": "pipelines: Ray, MLflow, Kubernetes and the command line",
    "lcia": "lcia: the method, without Ray and MLflow",
}
WIDTH, MARGIN, FLOOR, TITLE = 1080, 20, 84, 34
BOX = (138, 42)
STYLE = """text { font: 12px sans-serif; fill: #1f2933; text-anchor: middle }
.name { font-weight: bold } .small { font-size: 10px; fill: #52606d } .title { text-anchor: start; font-weight: bold }
.house { fill: #f5f7fa; stroke: #cbd2d9 } .room { fill: #ffffff; stroke: #52606d }
.arrow { fill: none; stroke: #2f6f9f; stroke-opacity: .45; marker-end: url(#head) }"""


@dataclass(frozen=True)
class Room:
    """Files and lines of a room, and the rooms whose modules its own import."""

    files: int
    lines: int
    uses: frozenset[str]


def floors(root: Path, house: str) -> list[list[str]]:
    """Rooms by layer, the highest first."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers" and c["containers"] == [house])
    return [[f"{house}.{name}" for name in re.split(r"\s*[|:]\s*", layer)] for layer in layers]


def rooms(root: Path) -> dict[str, Room]:
    """Every room by its dotted name."""
    found: dict[str, list[Path]] = {}
    for house in HOUSES:
        for path in sorted((root / house).rglob("*.py")):
            if path.parent != root / house or path.stem != "__init__":
                found.setdefault(_room_of(path.relative_to(root).with_suffix("").parts), []).append(path)
    return {name: _room(name, paths) for name, paths in found.items()}


def _room(name: str, paths: Sequence[Path]) -> Room:
    texts = [path.read_text(encoding="utf-8") for path in paths]
    uses = {_room_of(parts) for text in texts for parts in _imports(ast.parse(text))}
    return Room(len(texts), sum(len(text.splitlines()) for text in texts), frozenset(uses - {name}))


def _room_of(parts: Sequence[str]) -> str:
    return ".".join(parts[:2])


def _imports(tree: ast.Module) -> Iterator[list[str]]:
    """Dotted names of our own that a module imports, early or late."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.split(".") for name in names if name.split(".")[0] in HOUSES)


def arrows(house: Mapping[str, Room]) -> list[tuple[str, str]]:
    """Who uses whom, without what follows from the others."""
    below = {name: _below(name, house) for name in house}
    return [
        (name, used)
        for name, room in house.items()
        for used in sorted(room.uses)
        if not any(used in below[other] for other in room.uses if other != used)
    ]


def _below(name: str, house: Mapping[str, Room]) -> set[str]:
    """All rooms that a room uses, directly or not."""
    seen: set[str] = set()
    todo = list(house[name].uses)
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo.extend(house[one].uses)
    return seen


def places(root: Path, drawn: Sequence[tuple[str, str]]) -> dict[str, tuple[float, float]]:
    """Centre of each box; on a floor the rooms stand below those that use them."""
    at: dict[str, tuple[float, float]] = {}
    y: float = MARGIN
    for house in HOUSES:
        y += TITLE
        for floor in floors(root, house):
            users = {name: [at[a][0] for a, b in drawn if b == name and a in at] for name in floor}
            ordered = sorted(floor, key=lambda name: sum(users[name]) / max(1, len(users[name])))
            step = (WIDTH - 2 * MARGIN) / len(ordered)
            at |= {name: (MARGIN + (i + 0.5) * step, y + BOX[1] / 2) for i, name in enumerate(ordered)}
            y += FLOOR
    return at


def svg(root: Path) -> str:
    """The picture."""
    house = rooms(root)
    drawn = arrows(house)
    at = places(root, drawn)
    height = max(y for _, y in at.values()) + BOX[1] / 2 + 2 * MARGIN
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}">',
        f"<title>{len(house)} rooms, {len(drawn)} arrows</title>",
        f"<style>{STYLE}</style>",
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#2f6f9f"/></marker>',
        *(_frame(name, at) for name in HOUSES),
        *(_arrow(at[one], at[other]) for one, other in drawn),
        *(_box(name, room, at[name]) for name, room in house.items()),
        "</svg>\n",
    ])  # fmt: skip


def _frame(house: str, at: Mapping[str, tuple[float, float]]) -> str:
    ys = [y for name, (_, y) in at.items() if name.startswith(f"{house}.")]
    top, bottom = min(ys) - BOX[1] / 2 - TITLE + 8, max(ys) + BOX[1] / 2 + 10
    width, left = WIDTH - MARGIN, MARGIN / 2
    frame = f'<rect class="house" x="{left}" y="{top}" width="{width}" height="{bottom - top}" rx="6"/>'
    return f'{frame}<text class="title" x="{MARGIN}" y="{top + 17}">{escape(HOUSES[house])}</text>'


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (to_x, to_y) = (start[0], start[1] + BOX[1] / 2), (end[0], end[1] - BOX[1] / 2)
    half = (y + to_y) / 2
    curve = f"M{x:.0f},{y:.0f} C{x:.0f},{half:.0f} {to_x:.0f},{half:.0f} {to_x:.0f},{to_y:.0f}"
    return f'<path class="arrow" d="{curve}"/>'


def _box(name: str, room: Room, at: tuple[float, float]) -> str:
    (width, height), (x, y) = BOX, at
    files = "1 file" if room.files == 1 else f"{room.files} files"
    corner = f'x="{x - width / 2:.0f}" y="{y - height / 2:.0f}"'
    box = f'<rect class="room" {corner} width="{width}" height="{height}" rx="4"/>'
    label = f'<text class="name" x="{x:.0f}" y="{y - 3:.0f}">{name.split(".")[1]}</text>'
    return f'{box}{label}<text class="small" x="{x:.0f}" y="{y + 13:.0f}">{files}, {room.lines} lines</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    given.file.write_text(svg(ROOT), encoding="utf-8")
    house = rooms(ROOT)
    uses = sum(len(room.uses) for room in house.values())
    print(f"rooms {len(house)}, imports between them {uses}, drawn {len(arrows(house))}")


if __name__ == "__main__":
    main()
