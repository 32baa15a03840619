"""A rendered RayJob run as KubeRay's operator would run it: a head and three workers, each in namespaces of its own.

Its storage is on S3, Ray asks for a token, and a training worker's pod is killed in mid-stage. `python -m tests.replay`
runs other faults too; a head that is lost costs a second cluster, and more minutes than the tests have.
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
    return play(VARIANTS["s3"], tmp_path_factory.mktemp("replay") / "s3")


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


def test_a_lost_worker_costs_the_steps_since_the_last_checkpoint(played: Played, reference: Reference) -> None:
    told = played.replay.events
    [(fault, checkpoint)] = played.struck
    assert fault == "a training worker's pod killed"
    assert checkpoint >= MID_STAGE
    assert len(played.replay.attempts) == 1, told
    first, second = verdict.continued(played, reference).values()
    assert max(first, default=0) >= checkpoint, (first, told)
    # One more is allowed: a machine that stands still for seconds loses a worker's heartbeats as well.
    assert len(first + second) <= 2, (first, second, told)
    assert verdict.trained_in(played, 0) == ["VQAv2", "OCR-VQA"], told


def test_who_has_no_token_is_refused(played: Played) -> None:
    assert set(played.refused) <= {401, 403}


def test_no_secret_is_in_any_file_that_the_replay_has_left(played: Played) -> None:
    assert set(played.secrets) >= {"AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_PASSWORD", "RAY_AUTH_TOKEN 0"}
    assert len(list(played.folder.rglob("*"))) > 500
    assert played.leaks() == []


def test_nothing_of_the_lab_is_left(played: Played) -> None:
    assert all(not pod.alive for attempt in played.replay.attempts for pod in (attempt.head, *attempt.workers.values()))
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert played.bridge not in links
    mounts = Path("/proc/mounts").read_text()
    assert str(played.folder) not in mounts
    assert PREFIX in played.bridge
