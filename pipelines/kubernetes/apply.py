"""A RayJob sent to a cluster and followed to its end, with its log."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lcia.types import InputError
from pipelines.kubernetes.kubectl import Kubectl, KubectlError, status_of
from pipelines.kubernetes.manifest import Manifest
from pipelines.kubernetes.submit import JobEnd

POLL_SECONDS = 5.0
PATIENCE = 60
"""Polls in a row that may fail before the cluster counts as lost."""
LOG_SECONDS = 10.0
"""How long the last lines of a log may take after the job has ended."""
ENDED = ("Complete", "Failed", "ValidationFailed")
"""Values of jobDeploymentStatus after which the operator does nothing any more."""


def apply(manifests: list[Manifest]) -> None:
    """Sends a ConfigMap with its RayJob or RayCronJob, and follows a RayJob to its end.

    Raises:
        InputError: the cluster does not take it.
        RuntimeError: the job has failed, or it or the cluster was lost from sight.
    """
    sent = manifests[-1]
    name, kubectl = sent["metadata"]["name"], Kubectl(sent["metadata"]["namespace"])
    try:
        kubectl.apply(manifests)
    except KubectlError as error:
        raise InputError(
            f"the cluster did not take {sent['kind']} {name}: {error} Is the context right (kubectl config "
            f"current-context), KubeRay v1.7 installed, and cluster/base applied to namespace {kubectl.namespace}?"
        ) from None
    _tell(f"{sent['kind']} {name} is in namespace {kubectl.namespace}")
    if sent["kind"] == "RayCronJob":
        _tell(f"it starts by the schedule {sent['spec']['schedule']}; look with: lcia launch status {name}")
        return
    _tell(f"Ctrl-C leaves it running; look with: lcia launch status {name}, end it with: lcia launch stop {name}")
    end = follow(kubectl, name)
    if not end.succeeded:
        raise RuntimeError(f"job {end.job} {end.status}: {end.message or 'no reason given'}")


def follow(kubectl: Kubectl, name: str) -> JobEnd:
    """Shows states and log of a RayJob until it has ended; a log stream that breaks is opened again.

    Raises:
        RuntimeError: the job is gone, or the cluster did not answer for a long time.
    """
    log, said = Log(kubectl, name), ""
    try:
        while True:
            manifest = _look(kubectl, name)
            status = status_of(manifest)
            state = str(status.get("jobDeploymentStatus") or "")
            if state and state != said:
                _tell(f"{name}: {state} {status.get('jobStatus') or ''}".rstrip())
                said = state
            if state in ENDED:
                return JobEnd(name, str(status.get("jobStatus") or state), reason(status))
            if state == "Running" and manifest["spec"].get("submissionMode", "K8sJobMode") == "K8sJobMode":
                log.open()
            time.sleep(POLL_SECONDS)
    finally:
        log.close()


def reason(status: Mapping[str, Any]) -> str:
    """Why a job is in its state, in the operator's words."""
    return ": ".join(str(status[key]) for key in ("reason", "message") if status.get(key))


def _look(kubectl: Kubectl, name: str) -> Manifest:
    """The RayJob; a cluster that does not answer is asked again for some minutes."""
    for _ in range(PATIENCE):
        try:
            manifest = kubectl.get("rayjob", name)
        except KubectlError as error:
            told = str(error)
            time.sleep(POLL_SECONDS)
        else:
            if manifest is None:
                raise RuntimeError(f"there is no RayJob {name} in namespace {kubectl.namespace} any more")
            return manifest
    raise RuntimeError(f"the cluster does not answer any more ({told}); the job may still run")


@dataclass
class Log:
    """The log of a RayJob's submitter; a retry has a new submitter of the same name."""

    kubectl: Kubectl
    name: str
    _stream: subprocess.Popen[bytes] | None = None
    _seen: str = ""
    """When the stream was seen alive: a new one goes on from there."""

    def open(self) -> None:
        """Starts the stream where there is none, or where it has ended."""
        if self._stream is None or self._stream.poll() is not None:
            since = [f"--since-time={self._seen}"] if self._seen else []
            self._stream = self.kubectl.logs(self.name, "--follow", *since)
        else:
            self._seen = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def close(self) -> None:
        """Lets the last lines come, but does not wait for ever."""
        if self._stream is None:
            return
        try:
            self._stream.wait(LOG_SECONDS)
        except subprocess.TimeoutExpired:
            self._stream.terminate()
            self._stream.wait()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
