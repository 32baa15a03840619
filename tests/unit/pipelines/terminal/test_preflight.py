"""What cannot work is told before Ray starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcia.config.load import load, parse
from lcia.config.run import RunConfig
from lcia.types import InputError
from pipelines import cli
from pipelines.launch import LaunchConfig
from pipelines.terminal import preflight
from pipelines.terminal.preflight import check_plan, check_run, gpu_complaint

RUN = RunConfig()


def launch(folder: Path, **values: Any) -> LaunchConfig:
    return parse(LaunchConfig, {"storage": str(folder / "runs"), **values}, "test")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


CLIP = ["grouping.threshold=0.8", "grouping.embedder.kind=clip"]


def test_the_default_run_passes_and_leaves_nothing_but_the_storage_folder(tmp_path: Path) -> None:
    check_run([RUN], launch(tmp_path))
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


@pytest.mark.parametrize(
    ("overrides", "settings", "reason"),
    [
        (["order=[Cooking]"], {}, "order names Cooking"),
        (["training.batch_size=3"], {"num_workers": 2}, "cannot be split"),
        (["training.task_batch_sizes={GQA: 3}"], {"num_workers": 2}, "batch_size 3 cannot be split"),
        (["training.task_batch_sizes={Cooking: 4}"], {}, "task_batch_sizes names Cooking; there are ScienceQA"),
        (["assistant.kind=llava", "assistant.model=/nope"], {}, "assistant.model: there is no folder /nope"),
        (["lora.target_modules=nothing"], {}, "lora.target_modules: 'nothing' matches no layer"),
        (["grouping.embedder.kind=text", "grouping.embedder.model=/nope"], {}, "embedder.model: there is no folder"),
        ([*CLIP, "grouping.embedder.model=local-dir:/nope"], {}, "embedder.model: there is no folder /nope"),
        ([*CLIP, "grouping.embedder.pretrained=/nope"], {}, "embedder.pretrained: there is no file /nope"),
        (["benchmark={kind: coin, root: /nope}"], {}, "there is no /nope/ScienceQA/train.json"),
        ([], {"storage": "/proc/nope/runs"}, "storage: /proc/nope/runs cannot be written"),
        ([], {"storage": "nope://bucket"}, "nope"),
        ([], {"tracking": {"uri": "sqlite:////proc/nope/mlflow.db"}}, "tracking.uri: /proc/nope cannot be written"),
    ],
)
def test_what_a_run_lacks_is_named(tmp_path: Path, overrides: list[str], settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError) as caught:
        check_plan([load(RunConfig, None, overrides)], launch(tmp_path, **settings))
    assert reason in str(caught.value)


def test_of_many_runs_the_one_that_cannot_work_is_found(tmp_path: Path) -> None:
    wrong = load(RunConfig, None, ["lora.target_modules=nothing"])
    with pytest.raises(InputError, match="matches no layer"):
        check_plan([RUN, wrong, RUN], launch(tmp_path))


def test_an_embedder_that_is_not_used_need_not_be_there(tmp_path: Path) -> None:
    text = ["grouping.embedder.kind=text", "grouping.embedder.model=/nope"]
    for off in ("grouping.enabled=false", "protocol=multitask"):
        check_plan([load(RunConfig, None, [*text, off])], launch(tmp_path))


def test_only_the_tasks_of_the_order_and_the_splits_in_use_need_files(tmp_path: Path) -> None:
    for name in ("train.json", "test.json"):
        (tmp_path / name).write_text("[]")
    here = {"name": "here", "train": "train.json", "test": "test.json", "validation": "gone.json"}
    values = {"kind": "custom", "root": str(tmp_path), "tasks": [here, {"name": "gone", "train": "x", "test": "y"}]}
    config = parse(RunConfig, {"benchmark": values, "order": ["here"]}, "test")
    check_plan([config], launch(tmp_path))
    with pytest.raises(InputError, match=r"task gone, train: there is no .*/x"):
        check_plan([config.model_copy(update={"order": None})], launch(tmp_path))


def test_a_folder_of_images_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("train.json", "test.json"):
        (tmp_path / name).write_text("[]")
    task = {"name": "a", "train": "train.json", "test": "test.json", "image_root": "gone"}
    config = parse(RunConfig, {"benchmark": {"kind": "custom", "root": str(tmp_path), "tasks": [task]}}, "test")
    with pytest.raises(InputError, match=rf"the folder of its images, {tmp_path}/gone, is not there"):
        check_plan([config], launch(tmp_path))


def test_storage_behind_an_address_is_tried_with_a_file_that_is_gone_afterwards() -> None:
    import fsspec

    preflight.check_storage("memory://preflight/runs")
    assert fsspec.filesystem("memory").find("/preflight") == []


# GPUs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "there", "enough"),
    [
        ({"gpus_per_worker": 1}, 0, False),
        ({"gpus_per_worker": 1}, 1, True),
        ({"gpus_per_worker": 1, "num_workers": 2, "train_groups": 2}, 3, False),
        ({"gpus_per_worker": 1, "num_workers": 2, "train_groups": 2}, 4, True),
        ({"gpus_per_actor": 0.5, "eval_actors": 2}, 0, False),
        ({"gpus_per_worker": 1, "gpus_per_actor": 0.5}, 1, False),
        ({"gpus_per_worker": 0.1, "num_workers": 10}, 1, True),
        ({"gpus_per_worker": 0.6, "num_workers": 3}, 2, False),
        ({"gpus_per_worker": 0.6, "gpus_per_actor": 0.4, "num_workers": 2, "eval_actors": 2}, 2, True),
        ({"gpus_per_worker": 2, "gpus_per_actor": 0.5}, 2, False),
        ({"gpus_per_worker": 1}, None, True),
        ({"gpus_per_worker": 1, "ray_address": "auto"}, 0, True),
        ({}, 0, True),
    ],
)
def test_more_gpus_than_there_are_is_a_mistake_of_a_local_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], there: int | None, enough: bool
) -> None:
    monkeypatch.setattr(preflight, "gpus_here", lambda: there)
    told = gpu_complaint([RUN], launch(tmp_path, **settings))
    assert (told == "") is enough
    assert enough or f"this machine has {there or 'none'}" in told


def test_actors_that_embed_count_where_a_model_embeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "gpus_here", lambda: 1)
    text = load(RunConfig, None, ["grouping.embedder.kind=text", "grouping.embedder.model=x"])
    where = launch(tmp_path, gpus_per_actor=1)
    assert gpu_complaint([RUN], where) == ""
    assert "2 by gpus_per_actor" in gpu_complaint([text], where)


@pytest.mark.parametrize("verb", ["run", "quickstart", "study"])
def test_every_verb_that_starts_ray_looks_first(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray is out of reach here, so what comes after the look would fail otherwise."""
    monkeypatch.setattr(preflight, "gpus_here", lambda: 0)
    monkeypatch.setitem(__import__("sys").modules, "pipelines.stages.execute", None)
    files = {"run": "name: a\n", "study": "name: a\nmethods: {a: {}}\n"}
    (tmp_path / "file.yaml").write_text(files.get(verb, ""))
    named = [str(tmp_path / "file.yaml")] if verb in files else []
    storage = ["--storage", str(tmp_path)] if verb == "quickstart" else ["--set", f"storage={tmp_path}"]
    words = [verb, *named, *storage, "--set", "gpus_per_worker=1"]
    assert cli.guarded(lambda: cli.app(words, standalone_mode=False)) == 2
    assert "the launch asks for GPUs" in capsys.readouterr().err


def test_a_plan_for_another_machine_is_made_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preflight, "gpus_here", lambda: 0)
    (tmp_path / "run.yaml").write_text("benchmark: {tasks: [GQA], train_size: 4, test_size: 4}\n")
    words = ["plan", str(tmp_path / "run.yaml"), "--set", f"storage={tmp_path}", "--set", "gpus_per_worker=1"]
    assert cli.guarded(lambda: cli.app(words, standalone_mode=False)) == 0
    shown = capsys.readouterr()
    assert "note: `lcia run` would be refused here: the launch asks for GPUs" in shown.err
    assert "stages to do" in shown.out


def test_an_error_of_the_storages_driver_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable:
        def create_dir(self, path: str, *, recursive: bool) -> None:
            raise RuntimeError("no answer from https://key:hunter2@minio:9000")

    monkeypatch.setattr("lcia.data.filesystems.filesystem", lambda place: (Unreachable(), "bucket/runs"))
    with pytest.raises(
        InputError, match=r"storage s3://bucket/runs cannot be written: RuntimeError: no answer"
    ) as caught:
        preflight.check_storage("s3://bucket/runs")
    assert "hunter2" not in str(caught.value)
