"""CONTRIBUTING names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("lcia", "pipelines", "bench", "tests", "docs", "configs")
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUOTED = sorted(set(re.findall(r"`([\w./-]+(?:\.(?:py|md|yaml|svg|sh|ipynb)|/))`", TEXT)))
LINKED = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]


def test_it_names_the_stops_of_a_run() -> None:
    assert {"lcia/run.py", "lcia/plan.py", "lcia/training/train.py", "lcia/report/page.py"} <= set(QUOTED)


@pytest.mark.parametrize("name", QUOTED + LINKED)
def test_a_file_that_it_names_is_there(name: str) -> None:
    elsewhere = [path for folder in FOLDERS for path in (ROOT / folder).rglob(name)] if "/" not in name else []
    assert (ROOT / name).exists() or elsewhere
