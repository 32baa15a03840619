"""Figures are read back from the files that are written."""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from lcia.metrics.matrix import AccuracyMatrix
from lcia.report.figures.run import heat_map
from lcia.report.figures.study import accuracy_curves
from lcia.report.figures.style import INK, save_png, svg

NAN = np.nan
A = AccuracyMatrix(("a $x", "<b>&"), np.array([[80.0, NAN], [60.0, 70.0]]), np.array([10.0, 20.0]))
B = AccuracyMatrix(("a $x", "<b>&"), np.array([[75.0, NAN], [74.0, 71.0]]))


def test_a_png_is_a_real_picture(tmp_path):
    path = save_png(heat_map(A), tmp_path / "deep" / "matrix.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors(256) or []) > 10


@pytest.mark.filterwarnings("error")
def test_svg_is_well_formed_takes_the_pages_colour_and_names_are_no_formulas():
    text = svg(accuracy_curves({"one": [A], "two": [B]}), "curves")
    root = ElementTree.parse(io.StringIO(text)).getroot()
    words = {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"a $x", "<b>&", "one", "two"} <= words
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert all(name.startswith("curves-") for name in ids)
    assert "currentColor" in text
    assert INK not in text


def test_the_same_figure_is_the_same_svg():
    assert svg(heat_map(A), "m") == svg(heat_map(A), "m")
