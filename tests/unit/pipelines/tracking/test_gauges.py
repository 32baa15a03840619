"""Gauges of stages, and the dashboard that shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.util.metrics

from lcia.protocols import Progress
from pipelines.tracking.gauges import FIGURES, TAGS, Gauges

PREFIX = "ray_"
"""Ray puts it before every name."""
FIGURED = {"loss": 2.0, "samples_per_second": 8.0, "data_wait_share": 0.1, "pull_weight": 0.7}
STAGES = {
    "k" * 64: Progress("k" * 64, "train", "VQAv2 · é", 3, 4, FIGURED),
    "e" * 64: Progress("e" * 64, "eval", "VQAv2", 5, 5, {}, done=True),
}


class Recorded:
    """Stands for Ray's gauge."""

    made: dict[str, Recorded]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert (description, tag_keys) == (FIGURES[name].what, TAGS)
        self.values: dict[str, float] = {}
        assert name not in self.made
        self.made[name] = self

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tuple(tags) == TAGS
        assert len(tags["key"]) == 8
        self.values[f"{tags['session']} {tags['kind']} {tags['stage']}"] = value


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorded]:
    Recorded.made = {}
    monkeypatch.setattr(ray.util.metrics, "Gauge", Recorded)
    return Recorded.made


def test_every_stage_shows_what_it_has(recorded: dict[str, Recorded], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    gauges = Gauges("quickstart")
    gauges.watch(STAGES)
    gauges.watch(STAGES)
    train, evaluate = "quickstart train VQAv2 - ?", "quickstart eval VQAv2"
    assert {name: gauge.values for name, gauge in recorded.items()} == {
        "lcia_stage_progress": {train: 0.75, evaluate: 1.0},
        "lcia_stage_done": {train: 0.0, evaluate: 1.0},
        "lcia_samples_per_second": {train: 8.0},
        "lcia_data_wait_share": {train: 0.1},
        "lcia_loss": {train: 2.0},
        "lcia_pull": {train: 0.7},
    }


def test_without_ray_there_are_none(recorded: dict[str, Recorded]) -> None:
    assert not ray.is_initialized()
    Gauges("quickstart").watch(STAGES)
    assert recorded == {}


def test_the_dashboard_shows_every_figure_of_ours_and_only_those_that_ray_has(root: Path) -> None:
    dashboard = json.loads((root / "cluster" / "components" / "monitoring" / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for query in queries for name in re.findall(rf"{PREFIX}\w+", query)}
    ours = {name for name in named if name.startswith(f"{PREFIX}lcia_")}
    assert ours == {PREFIX + name for name in FIGURES}
    panels = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    known = {name for file in panels.glob("*.py") for name in re.findall(rf"{PREFIX}\w+", file.read_text())}
    assert named - ours <= known
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_labels_of_the_dashboard_are_tags_of_the_gauges(root: Path) -> None:
    text = (root / "cluster" / "components" / "monitoring" / "dashboard.json").read_text()
    dashboard: dict[str, Any] = json.loads(text)
    shown = {tag for panel in dashboard["panels"] if "ray_lcia_" in panel["targets"][0]["expr"]
             for tag in re.findall(r"{{(\w+)}}", panel["targets"][0]["legendFormat"])}  # fmt: skip
    assert shown <= set(TAGS)
