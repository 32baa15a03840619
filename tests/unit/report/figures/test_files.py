"""Figures beside the page are drawn when what they show has changed, and only then."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcia.metrics.matrix import AccuracyMatrix
from lcia.report.figures import files
from lcia.report.figures.files import keep, shown_by
from lcia.report.figures.run import StageSteps, heat_map, loss_curves
from lcia.report.figures.scales import scale_of
from lcia.report.figures.study import Response, accuracy_curves, responses

A = AccuracyMatrix(("a", "b"), np.array([[80.0, np.nan], [60.0, 70.0]]))
B = AccuracyMatrix(("a", "b"), np.array([[80.0, np.nan], [60.0, 70.5]]))
STEPS = (StageSteps("one", ({"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0})),)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions that were called to draw."""
    seen: list[str] = []
    settled = files.settled
    monkeypatch.setattr(files, "settled", lambda sketch: seen.append(sketch.func.__name__) or settled(sketch))
    return seen


def test_a_figure_is_an_svg_for_the_page_and_a_picture(tmp_path: Path) -> None:
    text = keep(partial(heat_map, A), tmp_path, "matrix")
    assert (tmp_path / "matrix.svg").read_text() == text
    assert ElementTree.fromstring(text).get("data-shows") == shown_by(partial(heat_map, A))
    with Image.open(tmp_path / "matrix.png") as image:
        assert image.format == "PNG"


def test_what_shows_the_same_is_not_drawn_again(tmp_path: Path, drawn: list[str]) -> None:
    first = keep(partial(heat_map, A), tmp_path, "matrix")
    again = keep(partial(heat_map, AccuracyMatrix(A.tasks, A.scores.copy())), tmp_path, "matrix")
    assert (again, drawn) == (first, ["heat_map"])


def test_other_values_are_drawn(tmp_path: Path, drawn: list[str]) -> None:
    first = keep(partial(heat_map, A), tmp_path, "matrix")
    assert keep(partial(heat_map, B), tmp_path, "matrix") != first
    assert drawn == ["heat_map"] * 2


@pytest.mark.parametrize("lost", ["matrix.svg", "matrix.png"])
def test_a_lost_file_is_made_again(tmp_path: Path, drawn: list[str], lost: str) -> None:
    keep(partial(heat_map, A), tmp_path, "matrix")
    (tmp_path / lost).unlink()
    keep(partial(heat_map, A), tmp_path, "matrix")
    assert (tmp_path / lost).exists()
    assert len(drawn) == 2


def test_a_file_that_was_cut_off_is_made_again(tmp_path: Path, drawn: list[str]) -> None:
    text = keep(partial(heat_map, A), tmp_path, "matrix")
    (tmp_path / "matrix.svg").write_text(text[: len(text) // 2])
    keep(partial(heat_map, A), tmp_path, "matrix")
    assert len(drawn) == 2


def test_a_drawing_that_fails_leaves_nothing_that_says_it_is_done(tmp_path: Path) -> None:
    keep(partial(heat_map, A), tmp_path, "matrix")
    with pytest.raises(AttributeError):
        keep(partial(heat_map, "no matrix"), tmp_path, "matrix")
    assert not (tmp_path / "matrix.svg").exists()


RESPONSE = Response(scale_of("a.b", [1, 2]), {"m": {1: [3.0], 2: [4.0]}})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (partial(heat_map, A), partial(heat_map, replace(A, zero_shot=np.array([1.0, 2.0])))),
        (partial(heat_map, A), partial(accuracy_curves, {"a": [A]})),
        (partial(accuracy_curves, {"a": [A], "b": [B]}), partial(accuracy_curves, {"b": [B], "a": [A]})),
        (partial(loss_curves, STEPS), partial(loss_curves, (replace(STEPS[0], label="two"),))),
        (partial(responses, [RESPONSE], "m", averaged=True), partial(responses, [RESPONSE], "m", averaged=False)),
    ],
)  # fmt: skip
def test_what_looks_different_is_told_apart(one: files.Sketch, other: files.Sketch) -> None:
    assert shown_by(one) != shown_by(other)


def test_it_tells_by_the_code_that_draws_too(monkeypatch: pytest.MonkeyPatch) -> None:
    before = shown_by(partial(heat_map, A))
    monkeypatch.setattr(files, "_code", lambda: "another")
    assert shown_by(partial(heat_map, A)) != before


def test_a_value_that_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(TypeError, match=re.escape("plain values, not a object")):
        shown_by(partial(heat_map, object()))
