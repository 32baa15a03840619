"""A run or a study as a KubeRay RayJob: rendered from the very configuration that the pods will read."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.metadata import version

from lcia.types import InputError
from pipelines.kubernetes.check import Document, check
from pipelines.kubernetes.manifest import Manifest, to_yaml
from pipelines.kubernetes.operator_job_rules import NAME_LIMIT
from pipelines.kubernetes.pods import ACTOR_POOL, CLAIM_PATH, TRAIN_POOL, Pool, pools
from pipelines.kubernetes.submission import Submission
from pipelines.launch import ClusterConfig, LaunchConfig, PoolConfig

CONFIG_PATH = "/etc/lcia"
OBJECT_STORE_SHARE = {ACTOR_POOL: 0.3, TRAIN_POOL: 0.1}
"""Of a pod's memory: actors pass blocks of images on, train workers only read the shards."""

AGENT_PORTS = {"dashboard-agent-grpc-port": "52366", "runtime-env-agent-port": "52367"}
"""Beside the two that the operator sets. Where an agent draws its own, a raylet that does not hear of it within 15 s
(hard-coded) aborts: on a busy node a pod then never comes up."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the objects of one submission are called."""

    job: str
    config_map: str
    namespace: str


def render_rayjob(job: Submission, launch: LaunchConfig) -> list[Manifest]:
    """The ConfigMap with both configuration files and the RayJob that runs them.

    Raises:
        InputError: a placement that no cluster can satisfy, or whatever KubeRay would refuse.
    """
    cluster = _cluster(launch)
    launch_yaml = to_yaml([launch.model_dump(mode="json")])
    names = _names(job.name, job.text + launch_yaml, cluster.namespace)
    files = {job.file: job.text, "launch.yaml": launch_yaml}
    # The command holds nothing of the user's: the submitter's shell would expand `$`, `;` and `&&` in it.
    spec = {"entrypoint": job.command(f"{CONFIG_PATH}/"), **_life(cluster)}
    needed = pools(job.configs, launch, cluster)
    manifests = [_config_map(names, files), _job(names, cluster, spec, needed, launch)]
    if found := check([Document("rendered", manifest) for manifest in manifests]):
        raise InputError("KubeRay would refuse this job:\n" + "\n".join(map(str, found)))
    return manifests


def _cluster(launch: LaunchConfig) -> ClusterConfig:
    if launch.cluster is None:
        raise InputError("the launch file has no `cluster:` block: add one with at least `image:`, see configs/launch")
    if launch.ray_address not in (None, "auto"):
        raise InputError(f"a RayJob starts its own Ray cluster: remove ray_address {launch.ray_address!r}")
    return launch.cluster


def _names(run: str, content: str, namespace: str) -> Names:
    """The digest of the content keeps two configurations of one name apart; a ConfigMap in use never changes."""
    slug = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    slug = slug if slug[:1].isalpha() else f"run-{slug}"
    digest = hashlib.blake2b(content.encode(), digest_size=4).hexdigest()
    job = f"{slug[: NAME_LIMIT - len(digest) - 1].rstrip('-')}-{digest}"
    return Names(job, f"{job}-config", namespace)


def _labels(names: Names) -> dict[str, str]:
    return {"app.kubernetes.io/name": "lcia", "app.kubernetes.io/part-of": "lcia", "lcia/run": names.job}


def _metadata(names: Names, name: str) -> Manifest:
    return {"name": name, "namespace": names.namespace, "labels": _labels(names)}


def _config_map(names: Names, files: dict[str, str]) -> Manifest:
    metadata = _metadata(names, names.config_map)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": files}


def _job(names: Names, cluster: ClusterConfig, spec: Manifest, needed: list[Pool], launch: LaunchConfig) -> Manifest:
    metadata = _metadata(names, names.job)
    if cluster.queue:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = cluster.queue
    spec = {**spec, **_submitter(names, cluster), "rayClusterSpec": _ray(names, cluster, needed, launch)}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


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
    spec = {**_pod_security(), "restartPolicy": "Never", "containers": [container]}
    template = {"metadata": {"labels": _labels(names)}, "spec": spec}
    return {"submissionMode": "K8sJobMode", "submitterPodTemplate": template}


def _ray(names: Names, cluster: ClusterConfig, needed: list[Pool], launch: LaunchConfig) -> Manifest:
    return {
        "rayVersion": version("ray"),
        "headGroupSpec": {
            # No tasks on the head: it carries the driver, the GCS and the dashboard.
            "rayStartParams": {"num-cpus": "0", **AGENT_PORTS},
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
        "rayStartParams": {"object-store-memory": str(store), **AGENT_PORTS},
        "labels": {"lcia/pool": pool.name},
        "template": _template(names, cluster, pool.name, pool.config),
    }


def _template(names: Names, cluster: ClusterConfig, pool: str, config: PoolConfig) -> Manifest:
    selector = {"kubernetes.io/arch": "amd64"}
    if config.gpu and config.gpu_type:
        selector[config.gpu_label] = config.gpu_type
    spec = {
        **_pod_security(),
        "serviceAccountName": "lcia",
        "nodeSelector": selector,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if config.gpu else [],
        "containers": [_container(cluster, pool, config)],
        "volumes": _volumes(names, cluster),
    }
    return {"metadata": {"labels": {**_labels(names), "lcia/pool": pool}}, "spec": spec}


def _container(cluster: ClusterConfig, pool: str, config: PoolConfig) -> Manifest:
    """The first container of a Ray pod; the operator adds command, probes and /dev/shm."""
    limits: Manifest = {"cpu": str(config.cpu), "memory": config.memory}
    if config.gpu:
        limits["nvidia.com/gpu"] = str(config.gpu)
    return {
        "name": "ray-head" if pool == "head" else "ray-worker",
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "env": _environment(cluster),
        "resources": {"requests": dict(limits), "limits": limits},
        "securityContext": _container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_PATH, "readOnly": True},
            {"name": "runs", "mountPath": CLAIM_PATH},
        ],
    }


def _environment(cluster: ClusterConfig) -> list[Manifest]:
    """Plain settings, then secrets by reference. RAY_AUTH_MODE must stay unset: it would switch token auth off."""
    plain = {"HF_HUB_OFFLINE": "1", "HF_HOME": f"{CLAIM_PATH}/models", "RAY_USAGE_STATS_ENABLED": "0"}
    return [{"name": name, "value": value} for name, value in plain.items()] + [
        {"name": secret.variable, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
        for secret in cluster.secrets
    ]


def _volumes(names: Names, cluster: ClusterConfig) -> list[Manifest]:
    return [
        {"name": "config", "configMap": {"name": names.config_map}},
        {"name": "runs", "persistentVolumeClaim": {"claimName": cluster.claim}},
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
