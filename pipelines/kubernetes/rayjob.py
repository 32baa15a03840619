"""A run or a study as a KubeRay RayJob or RayCronJob: rendered from the configuration that the pods will read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from lcia.types import InputError
from pipelines.cluster import CLAIM_PATH, CONFIG_PATH, ClusterConfig, PoolConfig, SecretKey
from pipelines.kubernetes.check import Document, check
from pipelines.kubernetes.manifest import Manifest, to_yaml
from pipelines.kubernetes.operator_cron_rules import CRON_NAME_LIMIT
from pipelines.kubernetes.operator_job_rules import NAME_LIMIT
from pipelines.kubernetes.paths import on_the_pods
from pipelines.kubernetes.pods import ACTOR_POOL, TRAIN_POOL, Pool, pools
from pipelines.kubernetes.submission import Submission
from pipelines.launch import LaunchConfig

Kind = Literal["RayJob", "RayCronJob"]

NAME_LIMITS: dict[Kind, int] = {"RayJob": NAME_LIMIT, "RayCronJob": CRON_NAME_LIMIT}
OBJECT_STORE_SHARE = {ACTOR_POOL: 0.3, TRAIN_POOL: 0.1}
"""Of a pod's memory: actors pass blocks of images on, train workers only read the shards."""
SPARE_SECONDS = 5
"""What a pod gets beyond its notice, to end in order."""
NOTICE_POLL_SECONDS = "1"
"""How often Ray Train looks for notices; its own 5 seconds are a fifth of what a spot node gives."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the objects of one submission are called."""

    job: str
    config_map: str
    namespace: str


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
        **_submitter(names, cluster),
        "rayClusterSpec": _ray(names, cluster, needed, launch),
    }
    manifests = [_config_map(names, cluster, files), _object(names, cluster, spec, kind)]
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


def _labels(names: Names, cluster: ClusterConfig) -> dict[str, str]:
    ours = {"app.kubernetes.io/name": "lcia", "app.kubernetes.io/part-of": "lcia", "lcia/run": names.job}
    return {**cluster.labels, **ours}


def _annotations(cluster: ClusterConfig) -> Manifest:
    return {"annotations": dict(cluster.annotations)} if cluster.annotations else {}


def _config_map(names: Names, cluster: ClusterConfig, files: dict[str, str]) -> Manifest:
    metadata = {"name": names.config_map, "namespace": names.namespace, "labels": _labels(names, cluster)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": files}


def _object(names: Names, cluster: ClusterConfig, spec: Manifest, kind: Kind) -> Manifest:
    """The RayJob, or the RayCronJob with that job as its template."""
    labels = _labels(names, cluster) | ({"kueue.x-k8s.io/queue-name": cluster.queue} if cluster.queue else {})
    metadata = {"name": names.job, "namespace": names.namespace, "labels": labels, **_annotations(cluster)}
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


def _submitter(names: Names, cluster: ClusterConfig) -> Manifest:
    """The submission mode; the operator's own submitter pod is one that a restricted namespace refuses."""
    if cluster.submission_mode != "K8sJobMode":
        return {"submissionMode": cluster.submission_mode}
    container = {
        "name": "ray-job-submitter",
        "image": cluster.image,
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": _container_security(),
    }
    spec = {**_pod_security(), **_scheduling(cluster), "restartPolicy": "Never", "containers": [container]}
    template = {"metadata": {"labels": _labels(names, cluster), **_annotations(cluster)}, "spec": spec}
    return {"submissionMode": "K8sJobMode", "submitterPodTemplate": template}


def _ray(names: Names, cluster: ClusterConfig, needed: list[Pool], launch: LaunchConfig) -> Manifest:
    return {
        "rayVersion": version("ray"),
        **_history(cluster),
        "headGroupSpec": {
            # No tasks on the head: it carries the driver, the GCS and the dashboard.
            "rayStartParams": {"num-cpus": "0"},
            "labels": {"lcia/pool": "head"},
            "template": _template(names, cluster, "head", cluster.head),
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
        "rayStartParams": {"object-store-memory": str(store)},
        "labels": {"lcia/pool": pool.name},
        "template": _template(names, cluster, pool.name, pool.config),
    }


def _history(cluster: ClusterConfig) -> Manifest:
    """The collector that the operator puts into every Ray pod, if its gate is on."""
    if (history := cluster.history_server) is None:
        return {}
    image = {"image": history.image} if history.image else {}
    return {"historyServerOptions": {"collectorOptions": {**image, "env": _variables(history.env, history.secrets)}}}


def _template(names: Names, cluster: ClusterConfig, pool: str, config: PoolConfig) -> Manifest:
    selector = {"kubernetes.io/arch": "amd64", **config.node_selector}
    if config.gpu and config.gpu_type:
        selector[config.gpu_label] = config.gpu_type
    grace = {"terminationGracePeriodSeconds": config.notice_seconds + SPARE_SECONDS} if config.notice_seconds else {}
    spec = {
        **_pod_security(),
        **_scheduling(cluster),
        **grace,
        "serviceAccountName": "lcia",
        "nodeSelector": selector,
        "tolerations": _tolerations(config),
        "containers": [_container(cluster, pool, config)],
        "volumes": _volumes(names, cluster),
    }
    labels = {**_labels(names, cluster), "lcia/pool": pool}
    return {"metadata": {"labels": labels, **_annotations(cluster)}, "spec": spec}


def _scheduling(cluster: ClusterConfig) -> Manifest:
    secrets = [{"name": name} for name in cluster.image_pull_secrets]
    priority = {"priorityClassName": cluster.priority_class} if cluster.priority_class else {}
    return {**priority, **({"imagePullSecrets": secrets} if secrets else {})}


def _tolerations(config: PoolConfig) -> list[Manifest]:
    gpu = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if config.gpu else []
    return gpu + [taint.model_dump(exclude_none=True) for taint in config.tolerations]


def _container(cluster: ClusterConfig, pool: str, config: PoolConfig) -> Manifest:
    """The first container of a Ray pod; the operator adds command, probes and /dev/shm."""
    limits: Manifest = {"cpu": str(config.cpu), "memory": config.memory}
    if config.gpu:
        limits["nvidia.com/gpu"] = str(config.gpu)
    if config.ephemeral_storage:
        limits["ephemeral-storage"] = config.ephemeral_storage
    return {
        "name": "ray-head" if pool == "head" else "ray-worker",
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "env": _environment(cluster),
        "resources": {"requests": dict(limits), "limits": limits},
        "securityContext": _container_security(),
        **_notice(config),
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_PATH, "readOnly": True},
            {"name": "runs", "mountPath": CLAIM_PATH},
            *(
                {"name": f"volume-{number}", "mountPath": volume.path, "readOnly": volume.read_only}
                for number, volume in enumerate(cluster.volumes)
            ),
        ],
    }


def _notice(config: PoolConfig) -> Manifest:
    """What a pod does between the order to end and its end: it tells Ray, and waits for the checkpoint."""
    if not (seconds := config.notice_seconds):
        return {}
    command = (
        f"ray drain-node --reason=DRAIN_NODE_REASON_PREEMPTION --reason-message='the pod was told to end' "
        f"--deadline-remaining-seconds={seconds}; sleep {seconds}"
    )
    return {"lifecycle": {"preStop": {"exec": {"command": ["/bin/bash", "-c", command]}}}}


def _environment(cluster: ClusterConfig) -> list[Manifest]:
    """Plain settings, then secrets by reference. RAY_AUTH_MODE must stay unset: it would switch token auth off."""
    plain = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": f"{CLAIM_PATH}/models",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": NOTICE_POLL_SECONDS,
        **cluster.env,
    }
    return _variables(plain, cluster.secrets)


def _variables(plain: Mapping[str, str], secrets: Sequence[SecretKey]) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in plain.items()] + [
        {"name": secret.variable, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
        for secret in secrets
    ]


def _volumes(names: Names, cluster: ClusterConfig) -> list[Manifest]:
    more = [
        {
            "name": f"volume-{number}",
            "persistentVolumeClaim": {"claimName": volume.claim, **({"readOnly": True} if volume.read_only else {})},
        }
        for number, volume in enumerate(cluster.volumes)
    ]
    return [
        {"name": "config", "configMap": {"name": names.config_map}},
        {"name": "runs", "persistentVolumeClaim": {"claimName": cluster.claim}},
        *more,
    ]


def _pod_security() -> Manifest:
    """What the `restricted` pod security standard asks of a pod; the group owns the volumes."""
    context = {
        "runAsUser": 1000,
        "runAsGroup": 100,
        "fsGroup": 100,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {"automountServiceAccountToken": False, "securityContext": context}


def _container_security() -> Manifest:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
