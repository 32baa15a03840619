"""`lcia launch status|logs|stop`: a job that was sent, on Kubernetes or on a Ray head."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from lcia.types import InputError
from pipelines.kubernetes.apply import reason
from pipelines.kubernetes.kubectl import Kubectl, status_of
from pipelines.kubernetes.manifest import Manifest
from pipelines.kubernetes.submit import connect

Show = Callable[[str], object]


class Place(Protocol):
    """Where a job runs."""

    def status(self, name: str) -> dict[str, Any]:
        """Facts by name; raises InputError where there is no such job."""

    def logs(self, name: str, follow: bool) -> None:
        """Writes the log to stdout."""

    def stop(self, name: str) -> str:
        """Ends the job; says in a sentence what was done."""


def place(address: str, namespace: str) -> Place:
    """A Ray head where an address is given, else Kubernetes."""
    return RayHead(address) if address else Cluster(Kubectl(namespace))


def show_status(where: Place, name: str, as_json: bool) -> None:
    """Prints what is known of a job; raises InputError where there is none."""
    found = where.status(name)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        width = max(map(len, found))
        print("\n".join(f"{key:{width}}  {value}" for key, value in found.items()))


@dataclass(frozen=True, slots=True)
class Cluster:
    """RayJobs and RayCronJobs of a namespace."""

    kubectl: Kubectl

    def status(self, name: str) -> dict[str, Any]:
        manifest = self._find(name)
        found = _cron(manifest, self._made_by(name)) if manifest["kind"] == "RayCronJob" else _job(manifest)
        return {key: value for key, value in found.items() if value not in ("", None)}

    def logs(self, name: str, follow: bool) -> None:
        """Of a RayCronJob that of its newest job."""
        manifest = self._find(name)
        if manifest["kind"] == "RayCronJob":
            made = self._made_by(name)
            if not made:
                raise InputError(f"RayCronJob {name} has not started a job yet")
            manifest = made[-1]
            name = manifest["metadata"]["name"]
        if manifest["spec"].get("submissionMode", "K8sJobMode") != "K8sJobMode":
            raise InputError(
                f"{name} was submitted over HTTP and so has no pod with its log: ask the head, lcia launch logs "
                f"{status_of(manifest).get('jobId') or 'ID'} --address http://HEAD:8265"
            )
        if self.kubectl.logs(name, *(["--follow"] if follow else [])).wait():
            raise RuntimeError(f"there is no log of {name}: its pods have not started, or are gone")

    def stop(self, name: str) -> str:
        kind = self._find(name)["kind"]
        self.kubectl.delete(kind.lower(), name)
        self.kubectl.delete("configmap", f"{name}-config")
        return f"{kind} {name} is deleted, and its pods with it; what it has finished is in the storage"

    def _find(self, name: str) -> Manifest:
        for kind in ("rayjob", "raycronjob"):
            if manifest := self.kubectl.get(kind, name):
                return manifest
        raise InputError(f"there is no RayJob or RayCronJob {name} in namespace {self.kubectl.namespace}")

    def _made_by(self, name: str) -> list[Manifest]:
        """The jobs of a RayCronJob, the newest last."""
        made = [
            job
            for job in self.kubectl.all("rayjob")
            if any(owner.get("name") == name for owner in job["metadata"].get("ownerReferences") or [])
        ]
        return sorted(made, key=lambda job: str(job["metadata"].get("creationTimestamp")))


def _job(manifest: Manifest) -> dict[str, Any]:
    status = status_of(manifest)
    return {
        "job": manifest["metadata"]["name"],
        "state": status.get("jobDeploymentStatus") or "not seen by the operator yet",
        "status": status.get("jobStatus"),
        "reason": reason(status),
        "failed attempts": status.get("failed"),
        "started": status.get("startTime"),
        "ended": status.get("endTime"),
        "dashboard": status.get("dashboardURL"),
        "Ray job": status.get("jobId"),
    }


def _cron(manifest: Manifest, made: list[Manifest]) -> dict[str, Any]:
    spec = manifest["spec"]
    jobs = {job["metadata"]["name"]: status_of(job).get("jobDeploymentStatus") or "new" for job in made}
    return {
        "scheduled job": manifest["metadata"]["name"],
        "schedule": f"{spec['schedule']} {spec.get('timeZone') or ''}".strip(),
        "suspended": "yes" if spec.get("suspend") else "",
        "last start": status_of(manifest).get("lastScheduleTime"),
        "jobs": ", ".join(f"{name} ({state})" for name, state in jobs.items()),
    }


@dataclass(frozen=True, slots=True)
class RayHead:
    """Jobs that a Ray head took through its Jobs API."""

    address: str

    def status(self, name: str) -> dict[str, Any]:
        info = self._info(name)
        found = {
            "job": name,
            "status": info.status.value,
            "reason": info.message,
            "started": _when(info.start_time),
            "ended": _when(info.end_time),
        }
        return {key: value for key, value in found.items() if value}

    def logs(self, name: str, follow: bool) -> None:
        self._info(name)
        client = connect(self.address)
        if follow:
            asyncio.run(_print_all(client, name))
        else:
            print(client.get_job_logs(name), end="")

    def stop(self, name: str) -> str:
        if self._info(name).status.is_terminal():
            return f"job {name} has ended already"
        connect(self.address).stop_job(name)
        return f"job {name} was told to stop; what it has finished is in the storage"

    def _info(self, name: str) -> Any:
        client = connect(self.address)
        try:
            return client.get_job_info(name)
        except RuntimeError as error:
            if "does not exist" not in str(error):
                raise
            known = ", ".join(str(job.submission_id) for job in client.list_jobs() if job.submission_id)
            raise InputError(f"there is no job {name} at {self.address}; there are: {known or 'none'}") from None


async def _print_all(client: Any, name: str) -> None:
    async for text in client.tail_job_logs(name):
        print(text, end="", flush=True)


def _when(milliseconds: int | None) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}" if milliseconds else ""
