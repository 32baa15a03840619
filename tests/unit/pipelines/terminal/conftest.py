"""A storage folder as runs leave it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.storage import fill


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    fill(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(params=["{}", "fsspec+file://{}"], ids=["disk", "URL"])
def place(request: pytest.FixtureRequest, storage: Path) -> str:
    """The same storage, by its path and as one that is not a folder of this machine."""
    return str(request.param.format(storage))
