"""Every notebook runs from a clean kernel, and the stored one is the executed form of the script beside it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
Notebook = nbformat.NotebookNode

every = pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))


def script(name: str) -> Notebook:
    return jupytext.read(FOLDER / f"{name}.py")


def stored(name: str) -> Notebook:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@cache
def executed(name: str) -> Notebook:
    """The script executed now, in a folder of its own."""
    with TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        return NotebookClient(script(name), timeout=400, kernel_name="python3", resources=place).execute()


def code(notebook: Notebook) -> list[Notebook]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def said(notebook: Notebook) -> list[str]:
    """What each code cell printed."""
    return ["".join(out.text for out in cell.outputs if out.get("name") == "stdout") for cell in code(notebook)]


def pictures(notebook: Notebook) -> list[int]:
    """How many pictures each code cell drew."""
    return [sum("image/png" in out.get("data", {}) for out in cell.outputs) for cell in code(notebook)]


def shape(text: str) -> str:
    """The text without its figures and the width of its columns, which another processor may change."""
    return " ".join(re.sub(r"-?\d+\.\d+", "#", text).split())


@every
def test_the_stored_notebook_is_the_script(name: str) -> None:
    cells = [[(cell.cell_type, cell.source) for cell in each.cells] for each in (stored(name), script(name))]
    assert cells[0] == cells[1]


@every
def test_every_stored_cell_was_executed_in_order_and_without_an_error(name: str) -> None:
    cells = code(stored(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert {out.output_type for cell in cells for out in cell.outputs} <= {"stream", "display_data"}


@every
def test_no_output_names_a_place_of_the_machine_that_made_it(name: str) -> None:
    text = "".join(out.get("text", "") for cell in code(stored(name)) for out in cell.outputs)
    assert re.findall(r"(?<!\S)/\w+/\S+|site-packages", text) == []


@every
def test_executed_again_it_prints_what_is_stored_but_for_figures(name: str) -> None:
    assert [shape(text) for text in said(executed(name))] == [shape(text) for text in said(stored(name))]


@every
def test_executed_again_it_draws_as_many_pictures_as_are_stored(name: str) -> None:
    assert pictures(executed(name)) == pictures(stored(name))


def test_both_tasks_share_a_group_and_both_methods_fill_their_matrix() -> None:
    text = "".join(said(executed("01_quickstart")))
    assert "OCR-VQA joins g0" in text
    for method in ("sequential", "kronecker"):
        rows = re.findall(rf"^{method} +VQAv2 +OCR-VQA\n +VQAv2 +([\d.]+) *\n +OCR-VQA +([\d.]+) +([\d.]+)", text, re.M)
        assert len(rows) == 1
        assert all(0 <= float(score) <= 100 for score in rows[0])
