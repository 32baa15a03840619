"""A rendered RayJob run as KubeRay's operator would run it: a head and three workers, each in namespaces of its own.

One job meets all faults that fit into it: S3, a token for Ray, a worker's pod killed in its first stage, its head in
the second. `python -m tests.replay` runs the faults one by one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replay import verdict
from tests.replay.lab import PREFIX, why_not
from tests.replay.stream import Reference, ReferenceRun
from tests.replay.variants import MID_STAGE, VARIANTS, Played, play

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    if reason := why_not():
        pytest.skip(reason)
    return play(VARIANTS["all"], tmp_path_factory.mktemp("replay") / "all")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, played: Played) -> Iterator[Reference]:
    """The same run by two plain processes."""
    run = ReferenceRun(tmp_path_factory.mktemp("reference"))
    try:
        yield run.finish()
    finally:
        run.stop()


def test_the_job_succeeds_with_the_bits_of_a_run_without_a_cluster(played: Played, reference: Reference) -> None:
    assert played.status == "SUCCEEDED", played.replay.logs[-3000:]
    assert verdict.differences(played, reference) == []


def test_a_lost_worker_costs_steps_and_a_lost_head_a_second_attempt(played: Played, reference: Reference) -> None:
    assert [told for told, _ in played.struck] == ["a training worker's pod killed", "the head's pod killed"]
    assert len(played.replay.attempts) == 2
    first, second = verdict.continued(played, reference).values()
    assert min(first) >= MID_STAGE
    assert min(second) >= MID_STAGE
    # What was finished before the head was lost is not trained again.
    assert verdict.trained_in(played, 1) == ["OCR-VQA"]


def test_who_has_no_token_is_refused(played: Played) -> None:
    assert set(played.refused) <= {401, 403}


def test_no_secret_is_in_any_file_that_the_replay_has_left(played: Played) -> None:
    assert set(played.secrets) >= {"AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_PASSWORD", "RAY_AUTH_TOKEN 1"}
    assert len(list(played.folder.rglob("*"))) > 500
    assert played.leaks() == []


def test_nothing_of_the_lab_is_left(played: Played) -> None:
    assert all(not pod.alive for attempt in played.replay.attempts for pod in (attempt.head, *attempt.workers.values()))
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert played.bridge not in links
    mounts = Path("/proc/mounts").read_text()
    assert str(played.folder) not in mounts
    assert PREFIX in played.bridge
