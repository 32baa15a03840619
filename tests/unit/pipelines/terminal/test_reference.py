"""Every key of every configuration says what it means, in the schema and on one page."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel

from lcia.config.benchmarks import ScorerName
from lcia.config.run import RunConfig
from lcia.metrics.matrix import MEASURES
from lcia.studies.config import StudyConfig
from pipelines.launch import LaunchConfig
from pipelines.terminal.reference import models_of, page

PAGE = Path(__file__).resolve().parents[4] / "docs" / "configuration.md"


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    inner = {one for info in model.model_fields.values() for one in models_of(info.annotation)}
    return {model, *(deep for one in inner for deep in sections(one))}


ALL = sorted({section for root in (RunConfig, StudyConfig, LaunchConfig) for section in sections(root)}, key=str)


def test_all_sections_are_looked_at() -> None:
    assert len(ALL) > 25


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_every_key_has_a_description(model: type[BaseModel]) -> None:
    assert [name for name, info in model.model_fields.items() if not (info.description or "").strip()] == []


def test_the_schema_carries_the_descriptions() -> None:
    found = LaunchConfig.model_json_schema()["properties"]["save_steps"]
    assert found["description"] == "Steps between two checkpoints of a stage."


def test_the_page_is_the_one_that_make_docs_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.mark.parametrize("key", ["scoring", "zero_shot", "upper_triangle", "protocol", "save_steps", "train_groups"])
def test_the_page_names_a_key(key: str) -> None:
    assert f"| `{key}` |" in page()


METRICS_PAGE = PAGE.with_name("metrics.md").read_text(encoding="utf-8")


def test_every_metric_has_a_row_with_its_meaning() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", METRICS_PAGE.split("## Comparing methods")[0], re.MULTILINE))
    assert named == set(MEASURES)


def test_every_scorer_has_a_row_with_its_meaning() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", METRICS_PAGE.split("## Scores")[1], re.MULTILINE))
    assert named == set(typing.get_args(ScorerName))
