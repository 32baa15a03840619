"""GPUs that programs may use."""

from __future__ import annotations

import pytest

from pipelines import devices
from pipelines.devices import gpus_here


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 4), ("", 0), ("-1", 0), ("0", 1), ("0,1", 2), ("1,-1,2", 1), ("0,1,2,3,4,5", 4)]
)
def test_gpus_hidden_from_programs_do_not_count(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int
) -> None:
    monkeypatch.setattr(devices, "_nvidia", lambda: 4)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_here() == count
