"""A folder with two images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.data.rows import (
    png,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png())
    (tmp_path / "images" / "b.png").write_bytes(png(5, 5, "blue"))
    return tmp_path
