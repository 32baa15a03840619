"""The figures of docs/strategies.md are those of the stored measurement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tools.draw_why import FILES

SVG = "{http://www.w3.org/2000/svg}"


def test_the_figures_in_docs_show_what_was_measured(root: Path, tmp_path: Path) -> None:
    stored = root / "docs" / "results" / "why.json"
    subprocess.run([sys.executable, "-m", "tools.draw_why", stored, tmp_path], cwd=root, check=True, timeout=120)
    for file in FILES:
        drawn, shown = (_words(folder / file) for folder in (tmp_path, root / "docs"))
        assert drawn == shown
    figures = json.loads(stored.read_text())
    words = [word for file in FILES for word in _words(tmp_path / file)]
    assert set(figures["averages"]["points"]) <= set(words)
    for kind, rank in figures["rises"]["rank_correlation"].items():
        assert {kind, f"rank correlation {rank:.2f}"} <= set(words)


def _words(picture: Path) -> list[str]:
    return [line for text in ElementTree.parse(picture).getroot().iter(f"{SVG}text") for line in text.itertext()]
