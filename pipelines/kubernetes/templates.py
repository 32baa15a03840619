"""The pods of a job: what every one of them has, and what a pool of the cluster block adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.cluster import CLAIM_PATH, CONFIG_PATH, ClusterConfig, PoolConfig, SecretKey
from pipelines.kubernetes.manifest import Manifest

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


def labels_of(names: Names, cluster: ClusterConfig) -> dict[str, str]:
    """Labels of the job and its pods: the user's, and ours."""
    ours = {"app.kubernetes.io/name": "lcia", "app.kubernetes.io/part-of": "lcia", "lcia/run": names.job}
    return {**cluster.labels, **ours}


def annotations_of(cluster: ClusterConfig) -> Manifest:
    """The user's annotations as part of a metadata; nothing where there are none."""
    return {"annotations": dict(cluster.annotations)} if cluster.annotations else {}


def ray_template(names: Names, cluster: ClusterConfig, pool: str, config: PoolConfig) -> Manifest:
    """A pod of the head or of a worker group."""
    selector = {"kubernetes.io/arch": "amd64", **config.node_selector}
    if config.gpu and config.gpu_type:
        selector[config.gpu_label] = config.gpu_type
    grace = {"terminationGracePeriodSeconds": config.notice_seconds + SPARE_SECONDS} if config.notice_seconds else {}
    spec = {
        **_pod_security(),
        **_scheduling(cluster),
        **_spread(names, pool, config),
        **grace,
        "serviceAccountName": "lcia",
        "nodeSelector": selector,
        "tolerations": _tolerations(config),
        "containers": [_container(cluster, pool, config)],
        "volumes": _volumes(names, cluster),
    }
    labels = {**labels_of(names, cluster), "lcia/pool": pool}
    return {"metadata": {"labels": labels, **annotations_of(cluster)}, "spec": spec}


def submitter(names: Names, cluster: ClusterConfig) -> Manifest:
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
    template = {"metadata": {"labels": labels_of(names, cluster), **annotations_of(cluster)}, "spec": spec}
    return {"submissionMode": "K8sJobMode", "submitterPodTemplate": template}


def _scheduling(cluster: ClusterConfig) -> Manifest:
    secrets = [{"name": name} for name in cluster.image_pull_secrets]
    priority = {"priorityClassName": cluster.priority_class} if cluster.priority_class else {}
    return {**priority, **({"imagePullSecrets": secrets} if secrets else {})}


def _spread(names: Names, pool: str, config: PoolConfig) -> Manifest:
    """A wish: a gang that waits for the one missing place would not start at all."""
    if not config.spread_over:
        return {}
    same = {"matchLabels": {"lcia/run": names.job, "lcia/pool": pool}}
    wish = {"maxSkew": 1, "topologyKey": config.spread_over, "whenUnsatisfiable": "ScheduleAnyway"}
    return {"topologySpreadConstraints": [{**wish, "labelSelector": same}]}


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
    return variables(plain, cluster.secrets)


def variables(plain: Mapping[str, str], secrets: Sequence[SecretKey]) -> list[Manifest]:
    """An environment: plain variables, and those that come from secrets."""
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
