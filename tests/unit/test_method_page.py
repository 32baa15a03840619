"""Code cites the sections of docs/method.md; every section that is cited is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("lcia", "pipelines", "bench", "tools", "tests", "docs")
TEXTS = [path for folder in FOLDERS for kind in ("py", "md") for path in sorted((ROOT / folder).rglob(f"*.{kind}"))]
CITED = [
    (str(path.relative_to(ROOT)), int(number))
    for path in TEXTS
    for number in re.findall(r"docs/method\.md (\d+)", path.read_text(encoding="utf-8"))
]
SECTIONS = [
    int(number) for number in re.findall(r"^## (\d+)\. ", (ROOT / "docs" / "method.md").read_text(), re.MULTILINE)
]


def test_the_page_has_its_eight_sections_in_order() -> None:
    assert SECTIONS == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_core_cites_the_page() -> None:
    assert {path for path, _ in CITED} >= {"lcia/ema/rules.py", "lcia/metrics/matrix.py", "lcia/metrics/scoring.py"}


@pytest.mark.parametrize(("path", "section"), CITED)
def test_a_cited_section_is_there(path: str, section: int) -> None:
    assert section in SECTIONS


def test_nothing_cites_a_page_outside_of_the_repository() -> None:
    outside = re.compile("METHOD" + r"(?: section)? \d")
    assert [str(path) for path in TEXTS if outside.search(path.read_text(encoding="utf-8"))] == []
