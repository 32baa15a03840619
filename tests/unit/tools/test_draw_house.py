"""The picture of the rooms: it is drawn, holds every room, and leaves out what follows from other arrows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tools.draw_house import Room, arrows, floors, rooms

SVG = "{http://www.w3.org/2000/svg}"


def room(*uses: str) -> Room:
    return Room(1, 1, frozenset(uses))


def test_the_script_draws_every_room_and_every_arrow(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "house.svg"
    subprocess.run([sys.executable, "-m", "tools.draw_house", str(path)], cwd=root, check=True, timeout=60)
    picture = ElementTree.parse(path).getroot()
    names = [text.text for text in picture.iter(f"{SVG}text") if text.get("class") == "name"]
    assert sorted(names) == sorted(name.split(".")[1] for name in rooms(root))
    drawn = [shape for shape in picture.iter(f"{SVG}path") if shape.get("class") == "arrow"]
    assert len(drawn) == len(arrows(rooms(root)))


def test_every_room_has_a_floor_and_arrows_never_go_up(root: Path) -> None:
    levels = [floor for house in ("pipelines", "lcia") for floor in floors(root, house)]
    level = {name: number for number, floor in enumerate(levels) for name in floor}
    found = rooms(root)
    assert level.keys() == found.keys()
    assert [(a, b) for a, one in found.items() for b in one.uses if level[a] > level[b]] == []


def test_an_arrow_that_follows_from_others_is_left_out() -> None:
    house = {"a": room("b", "c", "d"), "b": room("c"), "c": room(), "d": room()}
    assert arrows(house) == [("a", "b"), ("a", "d"), ("b", "c")]


def test_late_imports_count(root: Path) -> None:
    assert "pipelines.terminal" in rooms(root)["pipelines.cli"].uses
