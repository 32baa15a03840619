"""The average is the same on one process and on many: DDP, FSDP2 and hybrid sharding over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"

pytestmark = pytest.mark.numeric

DDP = ("ddp-2", "ddp-4", "ddp-2-bucket-view")
SHARDED = ("fsdp-2", "fsdp-4", "hybrid-2x2")
RULES = ("paper", "official", "proximal", "curvature")


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, Any]:
    """Distances from a plain run, measured once by four processes for all tests of this file."""
    file = tmp_path_factory.mktemp("ema") / "figures.json"
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, str(PROGRAMS / "ema_worker.py"), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", DDP + SHARDED)
@pytest.mark.parametrize("bars", [("float64", 1e-12, 1e-12), ("float32", 1e-5, 1e-4)])
def test_beta_and_average_do_not_depend_on_the_number_of_processes(
    figures: dict[str, Any], rule: str, layout: str, bars: tuple[str, float, float]
) -> None:
    dtype, beta, star = bars
    found = figures[f"{layout} {rule} {dtype}"]
    assert found["star"] <= star
    if rule != "curvature":
        assert found["dynamic"] >= 0.5
        assert found["beta"] <= beta


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", SHARDED)
def test_statistics_are_those_of_the_whole_model(figures: dict[str, Any], rule: str, layout: str) -> None:
    assert figures[f"{layout} {rule} float64"]["statistics"] <= 1e-9


@pytest.mark.parametrize("layout", DDP + SHARDED)
def test_swapping_works_in_place_on_shards(figures: dict[str, Any], layout: str) -> None:
    found = figures[f"{layout} paper float64"]
    assert found["swapped"] <= 1e-12
    assert found["restored"] == 0


def test_a_sharded_step_costs_one_all_reduce_and_any_other_none(figures: dict[str, Any]) -> None:
    expected = {**dict.fromkeys(DDP, 0), "fsdp-1": 0, **dict.fromkeys(SHARDED, 1)}
    assert figures["collectives"] == expected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", ["one", "fsdp-4"])
def test_what_two_processes_saved_continues_on_one_and_on_four(figures: dict[str, Any], rule: str, layout: str) -> None:
    assert figures["resumed"][f"{rule} {layout}"] <= 1e-12
