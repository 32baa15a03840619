"""The operator's part: one RayJob from its first pod to its end, with new pods for lost workers and a new cluster for a
lost head."""

from __future__ import annotations

import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.kubernetes.manifest import Manifest
from tests.replay import pods
from tests.replay.lab import Lab, Pod, Setting
from tests.replay.pods import Cluster

POLL_S = 0.25
READY_S, DONE_S = 400.0, 1500.0
WORKER = 'bash -c "$1" || exit 1; shift; while true; do "$@"; sleep 1; done'
"""The init container, then the main one, which is started again whenever it ends (restartPolicy Always)."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Surroundings:
    """What a namespace holds beside a job: folders by the names of their claims, values by secret and key."""

    claims: Mapping[str, Path]
    secrets: Mapping[tuple[str, str], str] = field(default_factory=dict)


@dataclass
class Attempt:
    """One cluster of a RayJob. `groups`: the worker group of each worker pod; `out_of_sight`: the operator has given it
    up, though its pods live on."""

    cluster: Cluster
    token: str
    head: Pod
    workers: dict[str, Pod] = field(default_factory=dict)
    groups: dict[str, Manifest] = field(default_factory=dict)
    submitter: Pod | None = None
    out_of_sight: bool = False

    def of_group(self, name: str) -> list[Pod]:
        """The worker pods of a group."""
        return [pod for pod in self.workers.values() if self.groups[pod.name]["groupName"] == name]


class Replay:
    """A RayJob that runs in a lab. `events`: what happened when, in seconds since the start."""

    def __init__(self, lab: Lab, manifests: list[Manifest], around: Surroundings) -> None:
        self._lab, self._around, self._secrets = lab, around, dict(around.secrets)
        self._config_map, self.job = manifests
        self.attempts: list[Attempt] = []
        self.events: list[tuple[float, str]] = []
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._started, self._pods = time.monotonic(), 0

    @property
    def attempt(self) -> Attempt:
        """The newest one."""
        return self.attempts[-1]

    @property
    def logs(self) -> str:
        """What the submitters have followed: the output of the drivers."""
        return "".join(a.submitter.log.read_text() for a in self.attempts if a.submitter)

    def tell(self, event: str) -> None:
        self.events.append((time.monotonic() - self._started, event))

    def lose(self, pod: Pod) -> None:
        """Ends a pod without notice, as the loss of its machine would."""
        self._lab.kill(pod)

    def lose_sight(self) -> None:
        """Gives up the newest attempt and leaves its pods alone, as when nothing hears of its nodes any more."""
        self.attempt.out_of_sight = True

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Does something when so much time has passed and the job still runs."""
        self._later.append((time.monotonic() + seconds, do))

    def run(self, disturb: Callable[[Replay], None] = lambda replay: None) -> str:
        """Runs the job to its end and returns its status; `disturb` is called several times a second."""
        deadline = time.monotonic() + DONE_S
        while True:
            self._begin_attempt()
            status = self._follow(disturb, deadline)
            self.tell(f"attempt {len(self.attempts)}: {status}")
            if status == "SUCCEEDED" or len(self.attempts) > self.job["spec"]["backoffLimit"]:
                return status
            if not self.attempt.out_of_sight:
                self.end_attempt()

    def end_attempt(self) -> None:
        """Deletes the pods of the newest attempt."""
        attempt = self.attempt
        for pod in (attempt.head, *attempt.workers.values(), *([attempt.submitter] if attempt.submitter else [])):
            self._lab.kill(pod)

    def _begin_attempt(self) -> None:
        name = self.job["metadata"]["name"]
        cluster = Cluster(self.job, f"{name}-{secrets.token_hex(3)[:5]}", f"{name}-{secrets.token_hex(3)[:5]}")
        token = secrets.token_urlsafe(32)
        self._secrets[cluster.name, "auth_token"] = token
        head = self._start(pods.head_pod(cluster, f"{cluster.name}-head"), cluster)
        self.attempts.append(Attempt(cluster, token, head))
        self.tell(f"attempt {len(self.attempts)}: head started")
        # The operator makes all pods at once. Here they share a few cores, and Ray gives each 15 s to start.
        self._wait_until_ready()
        for group in cluster.spec["workerGroupSpecs"]:
            for _ in range(group["replicas"]):
                self._add_worker(group)
                self._wait_until_ready()
        self.tell(f"head and {len(self.attempt.workers)} workers ready")
        manifest = pods.submitter(cluster)["spec"]["template"]
        manifest["metadata"] = {"name": f"{cluster.name}-submitter", "labels": {}}
        manifest["spec"]["volumes"] = []
        self.attempt.submitter = self._start(manifest, cluster)

    def _add_worker(self, group: Manifest) -> None:
        self._pods += 1
        attempt, name = self.attempt, f"{self.attempt.cluster.name}-{group['groupName']}-worker-{self._pods}"
        attempt.workers[name] = self._start(pods.worker_pod(attempt.cluster, group, name), attempt.cluster)
        attempt.groups[name] = group

    def _start(self, manifest: Manifest, cluster: Cluster) -> Pod:
        container = manifest["spec"]["containers"][0]
        command = [*container["command"], *container["args"]]
        for waiting in manifest["spec"].get("initContainers", []):
            command = ["/bin/bash", "-c", WORKER, "pod", waiting["args"][0], *command]
        head = manifest["metadata"]["labels"].get("ray.io/node-type") == "head"
        where = (cluster.service, f"{cluster.service}.{cluster.namespace}", cluster.head_name)
        manifest["metadata"]["namespace"] = cluster.namespace
        environment = pods.resolved(container["env"], manifest, self._secrets)
        names = where if head else ()
        setting = Setting(
            manifest["metadata"]["name"], environment, self._mounts(manifest), names, _shared_memory(manifest)
        )
        return self._lab.start(setting, command)

    def _mounts(self, manifest: Manifest) -> dict[str, Path]:
        volumes = {volume["name"]: volume for volume in manifest["spec"]["volumes"]}
        mounts = manifest["spec"]["containers"][0].get("volumeMounts", [])
        return {m["mountPath"]: self._folder(volumes[m["name"]]) for m in mounts if m["mountPath"] != "/dev/shm"}

    def _folder(self, volume: Manifest) -> Path:
        if "persistentVolumeClaim" in volume:
            return self._around.claims[volume["persistentVolumeClaim"]["claimName"]]
        assert volume["configMap"]["name"] == self._config_map["metadata"]["name"]
        folder = self._lab.folder / "config-map"
        folder.mkdir(exist_ok=True)
        for name, text in self._config_map["data"].items():
            (folder / name).write_text(text)
        return folder

    def _wait_until_ready(self) -> None:
        """The operator sends a job when the readiness probe of every pod has answered."""
        deadline = time.monotonic() + READY_S
        for pod in (self.attempt.head, *self.attempt.workers.values()):
            while not _healthy(pod):
                if not pod.alive or time.monotonic() > deadline:
                    raise RuntimeError(f"{pod.name} is not ready: {pod.log.read_text()[-3000:]}")
                time.sleep(POLL_S)

    def _follow(self, disturb: Callable[[Replay], None], deadline: float) -> str:
        """Until the job has ended or the head is lost; lost workers get new pods, a lost submitter a new one."""
        while time.monotonic() < deadline:
            disturb(self)
            self._do_what_is_due()
            attempt = self.attempt
            if attempt.out_of_sight:
                return "OUT OF SIGHT"
            if not attempt.head.alive:
                return "HEAD LOST"
            for name, pod in list(attempt.workers.items()):
                if not pod.alive:
                    del attempt.workers[name]
                    self._add_worker(attempt.groups[name])
                    self.tell(f"a new pod for {_short(name)}")
            assert attempt.submitter is not None
            if not attempt.submitter.alive:
                return self._status()
            time.sleep(POLL_S)
        raise TimeoutError(f"the job has not ended: {self.logs[-3000:]}")

    def _do_what_is_due(self) -> None:
        due = [do for when, do in self._later if when <= time.monotonic()]
        self._later = [(when, do) for when, do in self._later if when > time.monotonic()]
        for do in due:
            do()

    def _status(self) -> str:
        """The status of the job, asked of the dashboard as the operator does."""
        attempt = self.attempt
        for _ in range(40):
            answer = ask(attempt, f"/api/jobs/{attempt.cluster.submission}")
            if answer["status"] in ENDED:
                return str(answer["status"])
            time.sleep(POLL_S)
        raise TimeoutError(f"the log has ended, and the job is {answer['status']}: {self.logs[-3000:]}")


def ask(attempt: Attempt, path: str, token: str | None = None) -> dict[str, Any]:
    """What the dashboard of an attempt answers; with its token unless another, or an empty one for none, is given."""
    token = attempt.token if token is None else token
    header = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"http://{attempt.head.address}:{pods.PORTS['dashboard']}{path}"
    with urllib.request.urlopen(urllib.request.Request(url, headers=header), timeout=10) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def _healthy(pod: Pod) -> bool:
    try:
        with urllib.request.urlopen(f"http://{pod.address}:{pods.AGENT_PORT}/api/healthz", timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _shared_memory(manifest: Manifest) -> str:
    """The size of a pod's /dev/shm; a container runtime gives 64 MiB where the pod asks for nothing."""
    for volume in manifest["spec"]["volumes"]:
        if (volume.get("emptyDir") or {}).get("medium") == "Memory":
            return str(int(pods.amount(volume["emptyDir"]["sizeLimit"])))
    return "64m"


def _short(pod: str) -> str:
    return pod.split("-", 3)[-1]
