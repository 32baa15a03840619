"""Training under a real Ray Train: two workers with a shard each come to what one process with the whole model does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor
from lcia.run import Outcome, run
from lcia.store.folders import Store
from lcia.training.train import TrainOptions
from pipelines.launch import LaunchConfig
from pipelines.stages.execute import RayExecutor
from pipelines.stages.session import session

Finished = tuple[Outcome, list[Path]]
"""What a run came to, and the folders of its training stages."""
ANSWERS = 40
RUN = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 64, "test_size": ANSWERS},
    "training": {"max_steps": 12},
    "grouping": {"enabled": False},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray, unless another module of this session left one running."""
    started = not ray.is_initialized()
    if started:
        ray.init(address="local", num_cpus=6, include_dashboard=False, object_store_memory=200 * 2**20)
    yield
    if started:
        ray.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run in this process: one worker, nothing sharded."""
    return _finished(
        LocalExecutor(Store(str(tmp_path_factory.mktemp("whole"))), TrainOptions(micro_batch=4, logging_steps=1))
    )


@pytest.fixture(scope="module")
def sharded(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run on Ray as this launch has it."""
    launch = LaunchConfig(storage=str(tmp_path_factory.mktemp("sharded")), num_workers=2, parallelism="fsdp2",
                          cpus_per_worker=0.5, logging_steps=1, per_device_train_batch_size=4)  # fmt: skip
    with session(launch) as executor:
        return _finished(executor)


def _finished(executor: LocalExecutor | RayExecutor) -> Finished:
    [outcome] = run([parse(RunConfig, RUN, "test")], executor)
    return outcome, [executor.store.fetch(stage.key) for stage in outcome.prepared.plan.trains]


def test_two_workers_trained_on_shards(sharded: Finished) -> None:
    stages = [json.loads((folder / "result.json").read_text()) for folder in sharded[1]]
    assert [(stage["workers"], stage["parallelism"], stage["steps"]) for stage in stages] == [(2, "fsdp2", 12)] * 2


def test_the_first_step_is_that_of_one_process_and_the_later_ones_learn_as_much(
    whole: Finished, sharded: Finished
) -> None:
    """Before Adam makes whole steps of roundings; test_train_distributed.py compares the adapters, in float64."""
    one, two = (_steps(folders[0]) for _, folders in (whole, sharded))
    for name in ("loss", "grad_norm"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-5)
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-3)
    assert two[-1]["loss"] < two[0]["loss"] / 2


def _steps(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_the_adapters_are_float32_and_have_the_names_and_shapes_of_one_process(
    whole: Finished, sharded: Finished
) -> None:
    for folders in zip(whole[1], sharded[1], strict=True):
        one, two = (load_file(folder / "adapter_model.safetensors") for folder in folders)
        assert {name: value.shape for name, value in two.items()} == {name: v.shape for name, v in one.items()}
        assert {value.dtype for value in two.values()} == {np.dtype(np.float32)}


def test_the_accuracy_matrix_is_what_one_process_makes_of_the_same_adapters(sharded: Finished, tmp_path: Path) -> None:
    outcome, folders = sharded
    shutil.copytree(folders[0].parents[1], tmp_path / "store")
    for stage in outcome.prepared.plan.evals:
        shutil.rmtree(tmp_path / "store" / stage.key[:2] / stage.key)
    [again] = run([outcome.prepared.config], LocalExecutor(Store(str(tmp_path / "store"))))
    np.testing.assert_array_equal(again.matrix.scores, outcome.matrix.scores)
    assert np.nanmax(outcome.matrix.scores) > 10
