"""What the executor does before Ray is needed, and how it tells of failures; no Ray is started."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.run import Prepared, prepare
from lcia.types import InputError
from pipelines.exits import StageFailedError, describe
from pipelines.launch import LaunchConfig
from pipelines.stages.execute import RayExecutor, list_failures
from pipelines.stages.work import BUILDS_ON_IT

RUN = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 16, "test_size": 4},
    "training": {"max_steps": 2},
}


class RayStartsError(Exception):
    """Ray would have been started here."""


def refuse() -> Any:
    raise RayStartsError


def executor(folder: Path, *watchers: Any) -> RayExecutor:
    return RayExecutor(LaunchConfig(storage=str(folder)).settled(), refuse, *watchers)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prepared]:
    """A storage in which every stage of a run has a result, and its plan."""
    folder = tmp_path_factory.mktemp("cached")
    ready = RayExecutor(LaunchConfig(storage=str(folder)).settled(), lambda: None)  # type: ignore[arg-type,return-value]
    [prepared] = prepare([parse(RunConfig, RUN, "test")], ready)
    for stage in (*prepared.plan.trains, *prepared.plan.evals):
        with ready.store.publish(stage.key, stage.record) as result:
            (result / "something").write_text("")
    return folder, prepared


def test_where_every_result_is_in_the_store_ray_does_not_start(cached: tuple[Path, Prepared]) -> None:
    folder, before = cached
    here = executor(folder)
    [prepared] = prepare([before.config], here)
    here.train_and_evaluate(prepared.plan.trains, prepared.plan.evals)
    assert here.trained() == 0


@pytest.mark.parametrize("kind", ["trains", "evals"])
def test_one_missing_result_is_enough_for_ray_to_start(
    cached: tuple[Path, Prepared], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all data there nothing else would start the servers, and the run would wait for ever."""
    folder, prepared = cached
    here, [missing, *_] = executor(folder), getattr(prepared.plan, kind)
    usable = here.store.usable
    monkeypatch.setattr(here.store, "usable", lambda key, **how: key != missing.key and usable(key, **how))
    with pytest.raises(RayStartsError):
        here.train_and_evaluate(prepared.plan.trains, prepared.plan.evals)


def test_missing_data_starts_the_servers_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(RayStartsError):
        prepare([parse(RunConfig, RUN, "test")], executor(tmp_path))


def test_small_generated_data_is_written_without_ray(tmp_path: Path) -> None:
    code = f"""
        import sys
        from tests.unit.pipelines.stages.test_execute import RUN, LaunchConfig, RayExecutor, RunConfig, parse, prepare
        seen = {{}}
        here = RayExecutor(LaunchConfig(storage={str(tmp_path)!r}), lambda: None, lambda found: seen.update(found))
        prepare([parse(RunConfig, RUN, "test")], here)
        assert len(seen) == 10 and all(stage.done for stage in seen.values()), seen
        assert "ray" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)


def test_what_directs_training_on_one_machine_imports_no_torch() -> None:
    """The driver and Ray Train's controller; an import of torch costs each seconds before the first step."""
    code = "import sys, pipelines.stages.onenode, pipelines.stages.session, pipelines.stages.train\n"
    code += "assert 'ray.train' in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


# Failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_names_the_cause_first_and_then_what_was_not_done(cached: tuple[Path, Prepared]) -> None:
    _, prepared = cached
    first, second = prepared.plan.trains
    told = list_failures(
        (*prepared.plan.trains, *prepared.plan.evals), {first.key: "NaN at step 3", second.key: BUILDS_ON_IT}
    ).splitlines()
    assert told[0] == f"2 of {2 + len(prepared.plan.evals)} stages failed"
    assert told[1] == f"  train {first.label}: NaN at step 3"
    assert told[2] == f"  not done, because they build on what failed: train {second.label}"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InputError("no such file"), "no such file"),
        (StageFailedError("2 of 3 stages failed"), "2 of 3 stages failed"),
        (FloatingPointError("NaN in a.b"), "FloatingPointError: NaN in a.b"),
    ],
)
def test_only_errors_that_were_not_written_for_people_show_their_type(error: Exception, told: str) -> None:
    assert describe(error) == told
