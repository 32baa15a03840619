"""README's tree is the one that the packages describe."""

from __future__ import annotations

from pathlib import Path

from tools.write_tree import COLUMN, tree, written


def test_the_tree_in_readme_is_the_one_that_make_docs_writes(root: Path) -> None:
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert written(readme) == readme, "run `make docs`"


def test_every_module_has_a_line_with_words() -> None:
    for house in ("lcia", "pipelines"):
        lines = list(tree(Path(__file__).resolve().parents[3] / house))
        assert all(line[COLUMN:].strip() and line[COLUMN - 1] == " " for line in lines)


def test_a_list_gives_order_and_words_and_a_docstring_the_rest(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (room / "__init__.py").write_text('"""A room.\n\n- `b`: the first one\n"""\n')
    (room / "a.py").write_text('"""Speaks for itself: at length."""\n')
    (room / "b.py").write_text('"""Not this."""\n')
    words = [line.split(maxsplit=1) for line in tree(room)]
    assert words == [["room/", "A room"], ["b.py", "the first one"], ["a.py", "Speaks for itself"]]
