"""All 40,320 orders of CoIN's eight tasks planned one by one: how many trainings a study of them really asks for."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from lcia.config.benchmarks import COIN_ORDER
from lcia.config.grouping import TfidfConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.data.minicoin.rows import generate
from lcia.embedders.tfidf import TfidfEmbedder
from lcia.plan import Catalog, Planner, plan
from lcia.protocols import Features
from lcia.types import GeneratedSource


def instructions(task: str) -> Features:
    """As the generator writes them: one per task of type Origin."""
    samples = generate(GeneratedSource(task, "train", 20, 0), 0, 20)
    texts = tuple(dict.fromkeys(sample.instruction for sample in samples))
    return Features(texts, np.full(len(texts), 20 // len(texts)))


@pytest.mark.parametrize(("expand_from", "distinct"), [("fresh", 328), ("newest", 15_940)])
def test_all_orders_of_eight_tasks_ask_for_the_design_s_number_of_trainings(expand_from: str, distinct: int) -> None:
    config = parse(RunConfig, {"grouping": {"expand_from": expand_from}}, "test")
    planner = Planner(config, "base", TfidfEmbedder(TfidfConfig()).mean_similarity)
    at = [(task, split) for task in COIN_ORDER for split in ("train", "test")]
    known = {task: instructions(task) for task in COIN_ORDER}
    catalog = Catalog(COIN_ORDER, {(t, s): f"{t}/{s}" for t, s in at}, {(t, s): known[t] for t, s in at})  # type: ignore[arg-type]
    asked, keys = 0, set()
    for order in permutations(COIN_ORDER):
        trains = plan(planner, replace(catalog, order=order)).trains
        asked += len(trains)
        keys.update(stage.key for stage in trains)
    assert (asked, len(keys)) == (322_560, distinct)
