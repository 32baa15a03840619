"""Training under a real Ray Train: two workers with a shard each come to what one process with the whole model does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file

from lcia.config import RunConfig
from lcia.fit import FitOptions
from lcia.load import parse
from lcia.local import LocalExecutor
from lcia.run import Outcome, run
from lcia.store import Store
from pipelines.execute import RayExecutor
from pipelines.launch import LaunchConfig
from pipelines.session import session

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
    return _finished(LocalExecutor(Store(str(tmp_path_factory.mktemp("whole"))), FitOptions(micro_batch=4)))


@pytest.fixture(scope="module")
def sharded(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run on Ray as this launch has it."""
    launch = LaunchConfig(storage=str(tmp_path_factory.mktemp("sharded")), num_workers=2, parallelism="fsdp2",
                          cpus_per_worker=0.5, per_device_train_batch_size=4)  # fmt: skip
    with session(launch) as executor:
        return _finished(executor)


def _finished(executor: LocalExecutor | RayExecutor) -> Finished:
    [outcome] = run([parse(RunConfig, RUN, "test")], executor)
    return outcome, [executor.store.fetch(stage.key) for stage in outcome.prepared.plan.trains]


def test_two_workers_trained_on_shards(sharded: Finished) -> None:
    stages = [json.loads((folder / "result.json").read_text()) for folder in sharded[1]]
    assert [(stage["workers"], stage["parallelism"], stage["steps"]) for stage in stages] == [(2, "fsdp2", 12)] * 2


def test_the_first_adapter_is_the_same_but_for_roundings(whole: Finished, sharded: Finished) -> None:
    one, two = (load_file(folders[0] / "adapter_model.safetensors") for _, folders in (whole, sharded))
    assert two.keys() == one.keys()
    differences = np.concatenate([np.abs(two[name] - one[name]).ravel() for name in one])
    # Adam divides by the size of a gradient, so where that is next to nothing rounding decides.
    assert (differences > 1e-5).mean() < 1e-3
    assert differences.max() <= 5e-4


def test_the_accuracy_matrix_is_the_same_but_for_one_answer(whole: Finished, sharded: Finished) -> None:
    one, two = (outcome.matrix.scores for outcome, _ in (whole, sharded))
    np.testing.assert_allclose(two, one, rtol=0, atol=100 / ANSWERS + 1e-9)
    assert np.nanmax(one) > 10
