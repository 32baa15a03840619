"""Writes README's tree of lcia/ and pipelines/ from the packages' own lists: python -m tools.write_tree README.md.

A package's `__init__` says in a line what each of its modules is for. A module that is not listed speaks for itself, in
the first words of its docstring. Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- tree: make docs -->\n```\n", "```\n<!-- end of tree -->"
COLUMN = 30
FIRST = ("__init__", "__main__")


def tree(folder: Path, depth: int = 0) -> Iterator[str]:
    """The folder, its modules in the order of its list, then its packages."""
    title, texts = _list(folder / "__init__.py")
    yield _line(f"{folder.name}/", title, depth)
    modules = [path.stem for path in sorted(folder.glob("*.py")) if path.stem not in FIRST]
    for name in sorted(modules, key=lambda name: list(texts).index(name) if name in texts else len(texts)):
        yield _line(f"{name}.py", texts.get(name) or _title(folder / f"{name}.py"), depth + 1)
    for package in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from tree(package, depth + 1)


def _line(name: str, text: str, depth: int) -> str:
    return f"{'  ' * depth + name:{COLUMN}}{text}"


def _list(init: Path) -> tuple[str, dict[str, str]]:
    """What a package is, and what its docstring says of each module."""
    docstring = _docstring(init)
    listed = re.findall(r"^- ((?:`\w+`(?:, )?)+): (.+)$", docstring, re.MULTILINE)
    texts = {name: text for names, text in listed for name in re.findall(r"\w+", names)}
    return docstring.partition("\n")[0].rstrip("."), texts


def _title(path: Path) -> str:
    """The first words of a docstring, up to a full stop or colon."""
    return re.split(r"[.:;](?:\s|$)", _docstring(path))[0].replace("\n", " ")


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def written(readme: str) -> str:
    """README with the tree as it is now."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    lines = [line for house in ("lcia", "pipelines") for line in tree(ROOT / house)]
    return f"{before}{BEGIN}{chr(10).join(lines)}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    given.file.write_text(written(given.file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
