"""Paths of a laptop in a job: rewritten, or refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.studies.config import StudyConfig
from lcia.types import InputError
from pipelines.cluster import ClusterConfig, PoolConfig, VolumeConfig
from pipelines.kubernetes.paths import check_full_paths
from pipelines.kubernetes.rayjob import render_rayjob
from pipelines.kubernetes.submission import Submission
from pipelines.launch import LaunchConfig

TASK = {"name": "a", "train": "a/train.json", "test": "a/test.json"}


def run(root: str = "/home/me/coin", **changes: Any) -> RunConfig:
    values = {"name": "r", "benchmark": {"kind": "custom", "root": root, "tasks": [TASK]}, **changes}
    return parse(RunConfig, values, "run.yaml")


def files(chosen: RunConfig | StudyConfig, text: str | None = None, **cluster: Any) -> dict[str, str]:
    """What the job's ConfigMap holds."""
    block = ClusterConfig(image="lcia:0.1.0", train=PoolConfig(cpu=8), **cluster)
    launch = LaunchConfig(storage="/mnt/lcia/runs", cluster=block)
    data: dict[str, str] = render_rayjob(Submission.of(chosen, text), launch)[0]["data"]
    return data


def test_a_path_that_no_volume_holds_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError) as caught:
        files(run())
    told = str(caught.value)
    assert told.startswith("task a, train: the pods have no /home/me/coin/a/train.json; they mount /mnt/lcia. Copy it")
    assert "cluster.data: {/home/me/coin/a: /mnt/lcia/data}" in told
    assert "docs/kubernetes.md" in told


def test_a_mapped_path_is_rewritten_in_the_file_that_the_pods_read() -> None:
    text = files(run(), data={"/home/me": "/mnt/lcia/me", "/home/me/coin": "/mnt/lcia/data/coin"})["run.yaml"]
    assert parse(RunConfig, yaml.safe_load(text), "r") == run("/mnt/lcia/data/coin")


def test_a_map_that_names_nothing_of_the_run_leaves_its_text_alone() -> None:
    text = "# mine\nname: r\nbenchmark: {kind: minicoin}\n"
    assert files(RunConfig(name="r"), text, data={"/home/me": "/mnt/lcia/me"})["run.yaml"] == text


def test_only_whole_folders_are_mapped() -> None:
    with pytest.raises(InputError, match=r"the pods have no /home/me/coin-2/a/train\.json"):
        files(run("/home/me/coin-2"), data={"/home/me/coin": "/mnt/lcia/coin"})


def test_a_study_is_mapped_as_a_run_is() -> None:
    study = parse(StudyConfig, {"name": "s", "base": run().model_dump(mode="json"), "seeds": [0, 1]}, "s")
    text = files(study, data={"/home/me": "/mnt/lcia"})["study.yaml"]
    assert yaml.safe_load(text)["base"]["benchmark"]["root"] == "/mnt/lcia/coin"


@pytest.mark.parametrize("root", ["/mnt/lcia/coin", "s3://bucket/coin"])
def test_what_the_pods_can_read_is_taken(root: str) -> None:
    assert "run.yaml" in files(run(root))


def test_another_volume_counts() -> None:
    volume = VolumeConfig(claim="coin", path="/data")
    assert "run.yaml" in files(run("/data/coin"), volumes=(volume,))


@pytest.mark.parametrize("kind", ["llava", "causal", "seq2seq"])
def test_models_in_folders_of_this_machine_are_refused_and_hub_ids_are_not(kind: str, tmp_path: Path) -> None:
    def told(model: str) -> None:
        files(run("/mnt/lcia/coin", assistant={"kind": kind, "model": model}))

    told("llava-hf/llava-1.5-7b-hf")
    told("/mnt/lcia/models/llava")
    with pytest.raises(InputError, match=f"assistant.model: the pods have no {tmp_path}"):
        told(str(tmp_path))


def test_a_clip_folder_is_mapped_behind_its_prefix() -> None:
    embedder = {"kind": "clip", "model": "local-dir:/home/me/clip"}
    config = run("/mnt/lcia/coin", grouping={"embedder": embedder, "threshold": 0.5})
    text = files(config, data={"/home/me": "/mnt/lcia"})["run.yaml"]
    assert yaml.safe_load(text)["grouping"]["embedder"]["model"] == "local-dir:/mnt/lcia/clip"


@pytest.mark.parametrize("root", ["coin", ""])
def test_a_job_on_a_head_refuses_relative_paths(root: str) -> None:
    with pytest.raises(InputError, match="is relative, and the job runs elsewhere"):
        check_full_paths([run(root)])


def test_a_job_on_a_head_takes_full_paths() -> None:
    check_full_paths([run(), RunConfig(name="r")])
