"""The notebook runs from a clean kernel, and the stored one is the executed form of the script beside it."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
Notebook = nbformat.NotebookNode


@pytest.fixture(scope="module")
def script() -> Notebook:
    return jupytext.read(FOLDER / "01_quickstart.py")


@pytest.fixture(scope="module")
def stored() -> Notebook:
    return nbformat.read(FOLDER / "01_quickstart.ipynb", as_version=4)


@pytest.fixture(scope="module")
def executed(script: Notebook, tmp_path_factory: pytest.TempPathFactory) -> Notebook:
    """The script executed now, in a folder of its own."""
    place = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    return NotebookClient(script, timeout=400, kernel_name="python3", resources=place).execute()


def code(notebook: Notebook) -> list[Notebook]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def said(notebook: Notebook) -> list[str]:
    """What each code cell printed."""
    return ["".join(out.text for out in cell.outputs if out.get("name") == "stdout") for cell in code(notebook)]


def shape(text: str) -> str:
    """The text without its figures and the width of its columns, which another processor may change."""
    return " ".join(re.sub(r"-?\d+\.\d+", "#", text).split())


def test_the_stored_notebook_is_the_script(script: Notebook, stored: Notebook) -> None:
    assert [(cell.cell_type, cell.source) for cell in stored.cells] == [(c.cell_type, c.source) for c in script.cells]


def test_every_stored_cell_was_executed_in_order_and_without_an_error(stored: Notebook) -> None:
    assert [cell.execution_count for cell in code(stored)] == list(range(1, len(code(stored)) + 1))
    assert [out for cell in code(stored) for out in cell.outputs if out.output_type != "stream"] == []


def test_no_output_names_a_place_of_the_machine_that_made_it(stored: Notebook) -> None:
    text = "".join(out.get("text", "") for cell in code(stored) for out in cell.outputs)
    assert re.findall(r"(?<!\S)/\w+/\S+|site-packages", text) == []


def test_executed_again_it_prints_what_is_stored_but_for_figures(executed: Notebook, stored: Notebook) -> None:
    assert [shape(text) for text in said(executed)] == [shape(text) for text in said(stored)]


def test_both_tasks_share_a_group_and_both_methods_fill_their_matrix(executed: Notebook) -> None:
    text = "".join(said(executed))
    assert "OCR-VQA joins g0" in text
    for method in ("sequential", "kronecker"):
        rows = re.findall(rf"^{method} +VQAv2 +OCR-VQA\n +VQAv2 +([\d.]+) *\n +OCR-VQA +([\d.]+) +([\d.]+)", text, re.M)
        assert len(rows) == 1
        assert all(0 <= float(score) <= 100 for score in rows[0])
