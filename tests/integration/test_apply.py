"""lcia launch --apply, status, logs and stop, with the real kubectl and an API server of ours that plays Kubernetes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import app, guarded
from pipelines.kubernetes import apply
from tests.kube_api import Kube, serving

LAUNCH = """
storage: /mnt/lcia/runs
cluster: {image: "lcia:0.1.0", train: {cpu: 8}, schedule: "0 2 * * *"}
"""
RUNNING = {
    "jobDeploymentStatus": "Running",
    "jobStatus": "RUNNING",
    "jobId": "run-x",
    "startTime": "2026-11-27T02:00:00Z",
}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
FAILED = {
    "jobDeploymentStatus": "Failed",
    "jobStatus": "FAILED",
    "reason": "AppFailed",
    "message": "exit code 1",
    "failed": 3,
}


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kube]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    (tmp_path / "run.yaml").write_text("name: r\n")
    (tmp_path / "launch.yaml").write_text(LAUNCH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(apply, "POLL_SECONDS", 0.05)
    with serving(tmp_path) as server:
        yield server


def lcia(*words: str) -> int:
    return guarded(lambda: app(list(words), standalone_mode=False))


def send(*words: str) -> int:
    return lcia("launch", "run.yaml", "--launch", "launch.yaml", "--apply", *words)


def name_of_job(capfd: pytest.CaptureFixture[str]) -> str:
    """What the same files are called, applied or not."""
    assert lcia("launch", "run.yaml", "--launch", "launch.yaml") == 0
    return next(line.split()[1] for line in capfd.readouterr().out.splitlines() if line.startswith("  name: r-"))[:-7]


def test_a_job_is_applied_and_followed_to_its_end(kube: Kube, capfd: pytest.CaptureFixture[str]) -> None:
    name = name_of_job(capfd)
    kube.add_submitter(name)
    kube.log = "one\ntwo\n"
    kube.states[name] = [{}, {"jobDeploymentStatus": "Initializing"}, RUNNING, RUNNING, DONE]
    assert send() == 0
    said = capfd.readouterr()
    assert [kind for kind, _ in kube.objects if kind in ("configmaps", "rayjobs")] == ["configmaps", "rayjobs"]
    assert all("fieldManager=lcia" in path for method, path in kube.asked if method == "PATCH")
    states = [line for line in said.err.splitlines() if line.startswith(f"{name}: ")]
    assert states == [f"{name}: Initializing", f"{name}: Running RUNNING", f"{name}: Complete SUCCEEDED"]
    assert "one\ntwo\n" in said.out


def test_a_job_that_fails_ends_with_one_and_its_reason(kube: Kube, capfd: pytest.CaptureFixture[str]) -> None:
    kube.states[name_of_job(capfd)] = [RUNNING, {"jobDeploymentStatus": "Retrying"}, FAILED]
    assert send() == 1
    assert "FAILED: AppFailed: exit code 1" in capfd.readouterr().err


def test_a_cluster_that_is_away_for_a_while_is_waited_for(kube: Kube, capfd: pytest.CaptureFixture[str]) -> None:
    kube.states[name_of_job(capfd)] = [DONE]
    kube.away = 3
    assert send() == 0


def test_a_cluster_that_is_gone_is_told_and_not_waited_for_for_ever(
    kube: Kube, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "PATIENCE", 2)
    kube.away = 9
    assert send() == 1
    assert "etcd is away" in capfd.readouterr().err


def test_what_the_server_refuses_ends_with_two_and_what_to_look_at(
    kube: Kube, capfd: pytest.CaptureFixture[str]
) -> None:
    kube.refuses = 'RayJob.ray.io "r" is invalid: spec.color: unknown field'
    assert send() == 2
    told = capfd.readouterr().err
    assert "spec.color: unknown field" in told
    assert "KubeRay v1.7 installed" in told


def test_a_rule_that_is_broken_sends_nothing(kube: Kube) -> None:
    assert send("--set", "cluster.image=lcia:latest") == 2
    assert kube.asked == []


def test_without_kubectl_the_message_says_so(
    kube: Kube, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert send() == 2
    assert "kubectl is not on the PATH" in capfd.readouterr().err


def test_a_scheduled_job_is_applied_and_not_waited_for(kube: Kube, capfd: pytest.CaptureFixture[str]) -> None:
    assert send("--target", "raycronjob") == 0
    assert "starts by the schedule 0 2 * * *" in capfd.readouterr().err
    (name,) = [name for kind, name in kube.objects if kind == "raycronjobs"]
    assert lcia("launch", "logs", name) == 2
    assert "has not started a job yet" in capfd.readouterr().err
    kube.add("rayjobs", made_by(name))
    kube.add_submitter("night")
    kube.log = "of the night\n"
    assert lcia("launch", "status", name) == 0
    assert "night (Complete)" in capfd.readouterr().out
    assert lcia("launch", "logs", name) == 0
    assert capfd.readouterr().out == "of the night\n"


def made_by(cron: str) -> dict[str, Any]:
    metadata = {"name": "night", "namespace": "lcia", "ownerReferences": [{"name": cron}]}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": {}, "status": DONE}


def test_status_logs_and_stop_of_a_job(kube: Kube, capfd: pytest.CaptureFixture[str]) -> None:
    kube.add("rayjobs", made_by("someone") | {"status": FAILED | {"startTime": "2026-11-27T02:00:00Z"}})
    kube.add_submitter("night")
    kube.log = "hello\n"
    assert lcia("launch", "status", "night", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["state"] == "Failed"
    assert found["reason"] == "AppFailed: exit code 1"
    assert found["failed attempts"] == 3
    assert lcia("launch", "logs", "night") == 0
    assert capfd.readouterr().out == "hello\n"
    assert lcia("launch", "stop", "night") == 0
    assert ("DELETE", "rayjobs/night") in kube.asked
    assert ("DELETE", "configmaps/night-config") in kube.asked
    assert lcia("launch", "status", "night") == 2
    assert "there is no RayJob or RayCronJob night in namespace lcia" in capfd.readouterr().err
