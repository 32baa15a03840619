"""Where a run happens: what is refused before anything starts, and what follows from the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcia.config.load import parse
from lcia.types import InputError
from pipelines.launch import LaunchConfig


def _launch(**values: Any) -> LaunchConfig:
    return parse(LaunchConfig, values, "test")


def test_storage_is_absolute_wherever_it_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert _launch(storage="runs").store_root == f"{tmp_path}/runs/store"
    assert _launch(storage="/volume/runs").store_root == "/volume/runs/store"
    assert _launch(storage="s3://bucket/prefix").store_root == "s3://bucket/prefix/store"


def test_a_settled_launch_means_the_same_folder_to_a_process_that_works_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    sent = _launch(storage="runs").settled().model_dump(mode="json")
    monkeypatch.chdir("/")
    assert LaunchConfig.model_validate(sent).store_root == f"{tmp_path}/runs/store"


def test_a_cluster_refuses_storage_relative_to_nobody_knows_which_folder() -> None:
    with pytest.raises(InputError, match="give an absolute path on a shared volume"):
        _launch(storage="runs", ray_address="ray://head:10001")


@pytest.mark.parametrize("storage", ["/volume/runs", "s3://bucket/prefix"])
def test_a_cluster_takes_storage_that_all_workers_find(storage: str) -> None:
    assert _launch(storage=storage, ray_address="ray://head:10001").root == storage


@pytest.mark.parametrize(("workers", "batch"), [(1, 7), (2, 16), (4, 4)])
def test_a_batch_that_the_workers_share_evenly_is_taken(workers: int, batch: int) -> None:
    _launch(num_workers=workers).check_batch(batch)


@pytest.mark.parametrize(("workers", "batch"), [(2, 7), (4, 2)])
def test_a_batch_that_cannot_be_shared_evenly_is_refused_with_both_numbers(workers: int, batch: int) -> None:
    with pytest.raises(InputError, match=rf"batch_size {batch} .*num_workers {workers}:"):
        _launch(num_workers=workers).check_batch(batch)


@pytest.mark.parametrize(
    ("batch", "workers", "told"),
    [
        (16, 6, "take 4 or 8 workers, which changes no result beyond rounding, or a batch of 12 or 18, which does"),
        (4, 6, "take 4 workers, which changes no result beyond rounding, or a batch of 6, which does"),
    ],
)
def test_a_refused_batch_names_the_nearest_numbers_that_do(batch: int, workers: int, told: str) -> None:
    with pytest.raises(InputError) as caught:
        _launch(num_workers=workers).check_batch(batch)
    assert str(caught.value).endswith(told)


@pytest.mark.parametrize("given", ["2-8", [2, 8], {"min": 2, "max": 8}])
def test_elastic_workers_are_refused_with_the_reason(given: Any) -> None:
    with pytest.raises(InputError, match=r"num_workers: .*the number of workers is fixed: .*grow by train_groups"):
        _launch(num_workers=given)
    assert _launch(num_workers="4").num_workers == 4


@pytest.mark.parametrize("key", ["gpus_per_worker", "gpus_per_actor"])
def test_a_worker_takes_whole_gpus_or_a_part_of_one(key: str) -> None:
    with pytest.raises(InputError, match=rf"{key}: .*whole GPUs, or a part of one"):
        _launch(**{key: 1.5})


def test_the_cpus_of_a_launch_are_those_of_its_groups_and_actors() -> None:
    launch = _launch(train_groups=2, num_workers=3, cpus_per_worker=1.5, eval_actors=4, embed_actors=5)
    assert launch.cpus == 2 * 3 * 1.5 + 4 + 5


def test_workers_hold_the_whole_model_unless_the_launch_shards_it() -> None:
    assert _launch().parallelism == "ddp"
    assert _launch(num_workers=2, parallelism="fsdp2").parallelism == "fsdp2"
    with pytest.raises(InputError, match=r"parallelism: Input should be 'ddp' or 'fsdp2' \(given: zero3\)"):
        _launch(parallelism="zero3")


def test_all_mistakes_of_a_launch_are_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        _launch(num_worker=2, eval_actors=0, parallelism="maybe", cluster={"namespace": "lcia"})
    text = str(caught.value)
    assert "4 mistakes" in text
    assert "num_worker: unknown key; did you mean 'num_workers'?" in text
    assert "eval_actors: Input should be greater than or equal to 1 (given: 0)" in text
    assert "parallelism: " in text
    assert "cluster.image: Field required" in text


def test_a_launch_with_bf16_says_where_that_key_is_now() -> None:
    with pytest.raises(InputError, match=r"bf16 .* put training\.bf16 .* into the run's configuration"):
        _launch(bf16="auto")


def test_no_field_of_a_launch_is_one_of_a_run() -> None:
    from lcia.config.run import RunConfig

    assert not set(LaunchConfig.model_fields) & set(RunConfig.model_fields)


def test_the_environment_names_the_tracking_server_where_the_launch_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:password@db/mlflow")
    assert _launch().tracking_uri == "postgresql://user:password@db/mlflow"
    assert _launch(tracking={"uri": "http://here:5000"}).tracking_uri == "http://here:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert _launch().tracking_uri is None


@pytest.mark.parametrize(
    ("values", "instead"),
    [
        ({"storage": "s3://KEY:hunter2@bucket"}, "storage: .*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"ray_address": "ray://user:hunter2@head:10001", "storage": "/x"}, "ray_address: .*RAY_AUTH_TOKEN"),
        ({"tracking": {"uri": "https://user:hunter2@mlflow"}}, r"tracking\.uri: .*MLFLOW_TRACKING_PASSWORD"),
        ({"tracking": {"uri": "postgresql://u:hunter2@db/x"}}, r"tracking\.uri: .*MLFLOW_TRACKING_URI .*uri null"),
        ({"cluster": {"image": "https://u:hunter2@registry/lcia:1"}}, r"cluster\.image: .*in the environment"),
    ],
)
def test_an_address_with_a_password_names_the_variable_that_takes_it(values: dict[str, Any], instead: str) -> None:
    with pytest.raises(InputError, match=instead) as caught:
        _launch(**values)
    assert "hunter2" not in str(caught.value)
