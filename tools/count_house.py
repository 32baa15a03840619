"""Counts of a checkout: files and lines by folder, arrows between rooms, functions, tests.

python -m tools.count_house [CHECKOUT]
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("lcia", "pipelines")
MOST_ARGUMENTS = 5


def modules(root: Path) -> dict[str, Path]:
    """Dotted names and files of both packages."""
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    return {".".join(file.relative_to(root).with_suffix("").parts): file for file in files}


def room(module: str) -> str:
    """The folder of a module, at most two levels deep; of a module in the hall itself."""
    return ".".join(module.removesuffix(".__init__").split(".")[:2])


def imported(tree: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    """Modules of ours that a module imports, wherever in its text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known or f"{inner}.__init__" in known else node.module


def functions(tree: ast.AST) -> Iterator[tuple[int, int]]:
    """Lines and arguments (without self) of every function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            arguments = [argument for argument in given if argument.arg not in ("self", "cls")]
            yield (node.end_lineno or node.lineno) - node.lineno + 1, len(arguments)


def counts(root: Path) -> dict[str, object]:
    """All figures of a checkout."""
    known = modules(root)
    trees = {name: ast.parse(file.read_text()) for name, file in known.items()}
    files = Counter(str(file.parent.relative_to(root)) for file in known.values())
    lines = {package: sum(len(f.read_text().splitlines()) for n, f in known.items() if n.startswith(package))
             for package in PACKAGES}  # fmt: skip
    arrows = {
        (room(name), room(target))
        for name, tree in trees.items() for target in imported(tree, known)
        if target.split(".")[0] in PACKAGES and room(target) != room(name)
    }  # fmt: skip
    found = [function for tree in trees.values() for function in functions(tree)]
    tests = sum(
        node.name.startswith("test_")
        for file in (root / "tests").rglob("test_*.py") for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    )  # fmt: skip
    return {
        "files": dict(sorted(files.items())),
        "most files in a folder": max(files.values()),
        "lines": lines | {"both": sum(lines.values())},
        "rooms": len({room(name) for name in known}),
        "arrows between rooms": len(arrows),
        "functions": len(found),
        "median function": sorted(length for length, _ in found)[len(found) // 2],
        "longest function": max(length for length, _ in found),
        "functions over five arguments": sum(arguments > MOST_ARGUMENTS for _, arguments in found),
        "tests": tests,
    }


if __name__ == "__main__":
    for name, value in counts(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()).items():
        print(f"{name}: {value}")
