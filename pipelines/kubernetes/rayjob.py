"""A run or a study as a KubeRay RayJob or RayCronJob: rendered from the configuration that the pods will read."""

from __future__ import annotations

import hashlib
import re
from importlib.metadata import version
from typing import Literal

from lcia.types import InputError
from pipelines.cluster import CONFIG_PATH, ClusterConfig
from pipelines.kubernetes.check import Document, check
from pipelines.kubernetes.manifest import Manifest, to_yaml
from pipelines.kubernetes.operator_cron_rules import CRON_NAME_LIMIT
from pipelines.kubernetes.operator_job_rules import NAME_LIMIT
from pipelines.kubernetes.our_rules import OPEN_RAY
from pipelines.kubernetes.paths import on_the_pods
from pipelines.kubernetes.pods import ACTOR_POOL, TRAIN_POOL, Pool, pools
from pipelines.kubernetes.submission import Submission
from pipelines.kubernetes.templates import Names, labels_of, ray_template, submitter, variables
from pipelines.launch import LaunchConfig

Kind = Literal["RayJob", "RayCronJob"]

NAME_LIMITS: dict[Kind, int] = {"RayJob": NAME_LIMIT, "RayCronJob": CRON_NAME_LIMIT}
OBJECT_STORE_SHARE = {ACTOR_POOL: 0.3, TRAIN_POOL: 0.1}
"""Of a pod's memory: actors pass blocks of images on, train workers only read the shards."""

AGENT_PORTS = {"dashboard-agent-grpc-port": "52366", "runtime-env-agent-port": "52367"}
"""Beside the two that the operator sets. Where an agent draws its own, a raylet that does not hear of it within 15 s
(hard-coded) aborts: on a busy node a pod then never comes up."""


def render_rayjob(job: Submission, launch: LaunchConfig) -> list[Manifest]:
    """The ConfigMap with both configuration files and the RayJob that runs them.

    Raises:
        InputError: a placement that no cluster can satisfy, a path that the pods do not have, or whatever KubeRay
            would refuse.
    """
    return _render(job, launch, "RayJob")


def render_cron_job(job: Submission, launch: LaunchConfig) -> list[Manifest]:
    """The same as a RayCronJob, which starts the job again by the cluster's `schedule`.

    Raises:
        InputError: the same, or there is no schedule.
    """
    if not _cluster(launch).schedule:
        raise InputError("a RayCronJob needs cluster.schedule in the launch file, for example '0 2 * * *'")
    return _render(job, launch, "RayCronJob")


def _render(job: Submission, launch: LaunchConfig, kind: Kind) -> list[Manifest]:
    cluster = _cluster(launch)
    job = on_the_pods(job, cluster)
    launch_yaml = to_yaml([launch.model_dump(mode="json")])
    names = _names(job.name, job.text + launch_yaml, cluster.namespace, NAME_LIMITS[kind])
    files = {job.file: job.text, "launch.yaml": launch_yaml}
    needed = pools(job.configs, launch, cluster)
    # The command holds nothing of the user's: the submitter's shell would expand `$`, `;` and `&&` in it.
    spec = {
        "entrypoint": job.command(f"{CONFIG_PATH}/"),
        **_life(cluster),
        **submitter(names, cluster),
        "rayClusterSpec": _ray(names, cluster, needed, launch),
    }
    manifests = [_config_map(names, cluster, files), _object(names, launch, spec, kind)]
    if found := check([Document("rendered", manifest) for manifest in manifests]):
        raise InputError("KubeRay would refuse this job:\n" + "\n".join(map(str, found)))
    return manifests


def _cluster(launch: LaunchConfig) -> ClusterConfig:
    if launch.cluster is None:
        raise InputError("the launch file has no `cluster:` block: add one with at least `image:`, see configs/launch")
    if launch.ray_address not in (None, "auto"):
        raise InputError(f"a RayJob starts its own Ray cluster: remove ray_address {launch.ray_address!r}")
    return launch.cluster


def _names(run: str, content: str, namespace: str, limit: int) -> Names:
    """The digest of the content keeps two configurations of one name apart; a ConfigMap in use never changes."""
    slug = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    slug = slug if slug[:1].isalpha() else f"run-{slug}"
    digest = hashlib.blake2b(content.encode(), digest_size=4).hexdigest()
    job = f"{slug[: limit - len(digest) - 1].rstrip('-')}-{digest}"
    return Names(job, f"{job}-config", namespace)


def _config_map(names: Names, cluster: ClusterConfig, files: dict[str, str]) -> Manifest:
    metadata = {"name": names.config_map, "namespace": names.namespace, "labels": labels_of(names, cluster)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": files}


def _object(names: Names, launch: LaunchConfig, spec: Manifest, kind: Kind) -> Manifest:
    """The RayJob, or the RayCronJob with that job as its template."""
    cluster = _cluster(launch)
    labels = labels_of(names, cluster) | ({"kueue.x-k8s.io/queue-name": cluster.queue} if cluster.queue else {})
    told = {**cluster.annotations, **({OPEN_RAY: "true"} if launch.ray_auth == "none" else {})}
    metadata = {"name": names.job, "namespace": names.namespace, "labels": labels}
    metadata |= {"annotations": told} if told else {}
    if kind == "RayCronJob":
        zone = {"timeZone": cluster.time_zone} if cluster.time_zone else {}
        spec = {"schedule": cluster.schedule, **zone, "jobTemplate": spec}
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _life(cluster: ClusterConfig) -> Manifest:
    """How long the job may wait, run and stay; a retry builds a new cluster and resumes from the storage."""
    return {
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": cluster.ttl_seconds_after_finished,
        "activeDeadlineSeconds": cluster.deadline_seconds,
        "preRunningDeadlineSeconds": cluster.pre_running_deadline_seconds,
        "backoffLimit": cluster.backoff_limit,
        "runtimeEnvYAML": to_yaml([{"env_vars": {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30"}}]),
    }


def _ray(names: Names, cluster: ClusterConfig, needed: list[Pool], launch: LaunchConfig) -> Manifest:
    return {
        "rayVersion": version("ray"),
        **({"authOptions": {"mode": "token"}} if launch.ray_auth == "token" else {}),
        **_history(cluster),
        "headGroupSpec": {
            # No tasks on the head: it carries the driver, the GCS and the dashboard.
            "rayStartParams": {"num-cpus": "0", **AGENT_PORTS},
            "labels": {"lcia/pool": "head"},
            "template": ray_template(names, cluster, "head", cluster.head),
        },
        "workerGroupSpecs": [_group(names, cluster, pool, launch.object_store_memory) for pool in needed],
    }


def _group(names: Names, cluster: ClusterConfig, pool: Pool, object_store_memory: int | None) -> Manifest:
    """A worker group of fixed size: a training gang with a pod missing cannot start."""
    store = object_store_memory or int(OBJECT_STORE_SHARE[pool.name] * pool.memory)
    return {
        "groupName": pool.name,
        "replicas": pool.pods,
        "minReplicas": pool.pods,
        "maxReplicas": pool.pods,
        "rayStartParams": {"object-store-memory": str(store), **AGENT_PORTS},
        "labels": {"lcia/pool": pool.name},
        "template": ray_template(names, cluster, pool.name, pool.config),
    }


def _history(cluster: ClusterConfig) -> Manifest:
    """The collector that the operator puts into every Ray pod, if its gate is on."""
    if (history := cluster.history_server) is None:
        return {}
    image = {"image": history.image} if history.image else {}
    return {"historyServerOptions": {"collectorOptions": {**image, "env": variables(history.env, history.secrets)}}}
