"""A notice of Ray Train, faked: one checkpoint for each node that goes."""

from __future__ import annotations

import pytest
import ray.train
from ray.train import PreemptionInfo

from pipelines.stages.notices import expected, save_on_notice

ONE = PreemptionInfo(deadline_ms=1, preempted_node_to_ranks={"a": [0, 1]})
BOTH = PreemptionInfo(deadline_ms=1, preempted_node_to_ranks={"a": [0, 1], "b": [2]})


def test_each_node_that_goes_is_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    notices = iter([None, ONE, ONE, BOTH, BOTH, None])
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(notices))
    save_now = save_on_notice()
    assert [save_now() for _ in range(6)] == [False, True, False, True, False, False]


@pytest.mark.parametrize(("value", "looks"), [(None, True), ("1", True), ("0", False), ("false", False)])
def test_ray_train_looks_unless_it_is_told_not_to(
    monkeypatch: pytest.MonkeyPatch, value: str | None, looks: bool
) -> None:
    name = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
    monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert expected() == looks
