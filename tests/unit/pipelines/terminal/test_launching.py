"""Where `lcia launch` sends a run, and what it refuses before it sends anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.types import InputError
from pipelines.cluster import ClusterConfig, PoolConfig
from pipelines.launch import LaunchConfig
from pipelines.terminal.launching import Sending, launch

CLUSTER = ClusterConfig(image="lcia:0.1.0", train=PoolConfig(cpu=8), schedule="0 2 * * *")
WHERE = LaunchConfig(storage="/mnt/lcia", cluster=CLUSTER)
HEAD = Sending("jobs", "http://127.0.0.1:1")


@pytest.mark.parametrize(("target", "kind"), [("rayjob", "RayJob"), ("raycronjob", "RayCronJob")])
def test_a_target_prints_what_renders_to_the_same_run(
    capsys: pytest.CaptureFixture[str], target: str, kind: str
) -> None:
    run = RunConfig(name="mine", seed=4)
    launch(run, WHERE, Sending(target))
    config_map, job = yaml.safe_load_all(capsys.readouterr().out)
    assert RunConfig.model_validate(yaml.safe_load(config_map["data"]["run.yaml"])) == run
    assert job["kind"] == kind


def test_the_text_of_the_run_is_mounted_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    launch(RunConfig(name="mine"), WHERE, Sending(), "# mine\nname: mine\n")
    config_map, _ = yaml.safe_load_all(capsys.readouterr().out)
    assert config_map["data"]["run.yaml"] == "# mine\nname: mine\n"


def test_an_unknown_target_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"there is no target .slurm.: rayjob prints .*, raycronjob .*, jobs submits"):
        launch(RunConfig(), LaunchConfig(), Sending("slurm"))


def test_paths_of_this_machine_are_refused_before_a_job_is_sent_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give a full path"):
        launch(RunConfig(), LaunchConfig(storage="runs"), HEAD)
    task = {"name": "a", "train": "train.json", "test": "test.json"}
    run = parse(RunConfig, {"benchmark": {"kind": "custom", "root": "data", "tasks": [task]}}, "r")
    with pytest.raises(InputError, match=r"benchmark\.root .data. is relative"):
        launch(run, LaunchConfig(storage=str(tmp_path)), HEAD)
