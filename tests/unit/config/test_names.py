"""What a task may be called: one name, one file, in every file system."""

from __future__ import annotations

from typing import Any

import pytest

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.types import InputError


def benchmark(*names: str) -> dict[str, Any]:
    return {"kind": "custom", "tasks": [{"name": name, "train": "a.json", "test": "b.json"} for name in names]}


def tasks(*names: str) -> tuple[str, ...]:
    config = parse(RunConfig, {"benchmark": benchmark(*names)}, "test")
    return tuple(task.name for task in config.benchmark.tasks)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name",
    [
        "shape",
        "OCR-VQA",
        "A & B (1+2), v1.0_x",
        "Bildfragen für Ärzte",
        "画像の質問",
        "प्रश्न",
        "x" * 80,
        "数" * 66,
        "a..b",
        "-",
    ],
)
def test_a_name_that_can_be_a_files_is_taken(name: str) -> None:
    assert tasks(name) == (name,)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("a/b", "holds '/'"),
        ("../../x", "holds '/'"),
        ("/abs/x", "holds '/'"),
        ("a\\b", r"holds '\\\\'"),
        ("a\0b", r"holds '\\x00'"),
        ("a\nb", r"holds '\\n'"),
        ("a[/b]", r"holds '/', '\[', '\]'"),
        ("\ud800", r"holds '\\ud800'"),
        ("a\u202eb", "holds"),
        ("<b>", "holds '<', '>'"),
        (".", "start with a dot"),
        ("..", "start with a dot"),
        (".hidden", "start with a dot"),
        (" a", "end with a space"),
        ("a ", "end with a space"),
        ("x" * 81, "is too long"),
        ("数" * 67, "is too long"),
        ("x" * 300, "is too long"),
    ],
)
def test_a_name_that_cannot_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"benchmark\.tasks\.0\.name: .*{reason}"):
        tasks(name)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("a", "b", "a"), "more than once: a"),
        (("GQA", "gqa"), "'GQA' and 'gqa' differ too little"),
        (("Straße", "STRASSE"), "differ too little"),
        (("\u00e9", "e\u0301"), "differ too little"),
        ((), "there is no task"),
    ],
)
def test_names_that_a_file_system_may_take_for_one_are_refused(names: tuple[str, ...], reason: str) -> None:
    with pytest.raises(InputError, match=rf"benchmark\.tasks: .*{reason}"):
        tasks(*names)


@pytest.mark.parametrize("kind", ["minicoin", "coin"])
@pytest.mark.parametrize(
    ("names", "reason"), [(["GQA", "GQA"], "more than once"), (["../GQA"], "holds '/'"), ([], "no")]
)
def test_the_rules_hold_for_benchmarks_with_fixed_names_too(kind: str, names: list[str], reason: str) -> None:
    root = {"root": "x"} if kind == "coin" else {}
    with pytest.raises(InputError, match=reason):
        parse(RunConfig, {"benchmark": {"kind": kind, "tasks": names, **root}}, "test")
