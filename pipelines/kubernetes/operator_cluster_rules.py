"""What the operator (v1.7.0) refuses in the cluster of a RayJob, a function per rule."""

from __future__ import annotations

import re

from pipelines.kubernetes.manifest import Job, Manifest, Rule, complaint_if, containers_of, variables

LABEL_NAME = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)")
LABEL_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
REDIS_SETTINGS = (
    "REDIS_PASSWORD",
    "RAY_REDIS_ADDRESS",
    "redis-password",
    "ray.io/ft-enabled",
    "ray.io/external-storage-namespace",
)
TOKEN_AUTH_SINCE = (2, 52)


def groups_have_a_container(job: Job) -> list[str]:
    wrong = [name for name, group in job.groups.items() if not containers_of(group)]
    return [f"group {name} has no container: add the one that runs Ray" for name in wrong]


def group_names_are_distinct(job: Job) -> list[str]:
    return complaint_if(len(job.groups) < 1 + len(job.workers), "two worker groups have the same name: rename one")


def replicas_are_in_range(job: Job) -> list[str]:
    def inside(group: Manifest) -> bool:
        low, high = group.get("minReplicas") or 0, group.get("maxReplicas", 2**31 - 1)
        return bool(low <= (group.get("replicas") or 0) <= high)

    wrong = [group.get("groupName") for group in job.workers if not inside(group)]
    return [f"group {name}: replicas must lie between minReplicas and maxReplicas" for name in wrong]


def resources_are_given_once(job: Job) -> list[str]:
    keys = ("num-cpus", "num-gpus", "memory", "resources")
    both = [n for n, g in job.groups.items() if g.get("resources") and any(k in job.start(g) for k in keys)]
    return [f"group {name} sets resources both directly and in rayStartParams: keep one" for name in both]


def labels_stand_in_their_field(job: Job) -> list[str]:
    wrong = [name for name, group in job.groups.items() if "labels" in job.start(group)]
    return [f"group {name}: use labels, not rayStartParams.labels" for name in wrong]


def labels_are_well_formed(job: Job) -> list[str]:
    pairs = [(n, key, value) for n, g in job.groups.items() for key, value in (g.get("labels") or {}).items()]
    wrong = [pair for pair in pairs if not _is_label(*pair[1:])]
    return [f"group {n}: label {key}={value} is malformed: use letters, digits, -, _ and ." for n, key, value in wrong]


def _is_label(key: str, value: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    prefix_ok = not slash or LABEL_PREFIX.fullmatch(prefix)
    return bool(prefix_ok and LABEL_NAME.fullmatch(name) and (not value or LABEL_NAME.fullmatch(value)))


def redis_goes_with_its_option(job: Job) -> list[str]:
    wrong = "RAY_REDIS_ADDRESS" in variables(job.head) and not job.fault_tolerant
    return complaint_if(wrong, "RAY_REDIS_ADDRESS is set without gcsFaultToleranceOptions: set redisAddress there")


def redis_is_configured_once(job: Job) -> list[str]:
    """With the option, everything about Redis belongs in it."""
    if "gcsFaultToleranceOptions" not in job.cluster:
        return []
    present = {*variables(job.head), *job.start(job.head), *job.annotations}
    names = [name for name in REDIS_SETTINGS if name in present]
    return [f"{name} contradicts gcsFaultToleranceOptions: set it there" for name in names]


def redis_user_stands_in_its_option(job: Job) -> list[str]:
    wrong = "redis-username" in job.start(job.head) or "REDIS_USERNAME" in variables(job.head)
    return complaint_if(wrong, "the Redis user belongs in gcsFaultToleranceOptions.redisUsername")


def autoscaler_variable_needs_autoscaling(job: Job) -> list[str]:
    value = variables(job.head).get("RAY_enable_autoscaler_v2")
    wrong = not job.autoscales and value in ("1", "true")
    return complaint_if(wrong, "RAY_enable_autoscaler_v2 needs enableInTreeAutoscaling")


def autoscaler_version_is_given_once(job: Job) -> list[str]:
    wrong = job.autoscales and bool(job.autoscaler) and "RAY_enable_autoscaler_v2" in variables(job.head)
    return complaint_if(wrong, "RAY_enable_autoscaler_v2 contradicts autoscalerOptions.version: remove the variable")


def autoscaled_pods_never_restart(job: Job) -> list[str]:
    wrong = [n for n, g in job.groups.items() if job.autoscaler == "v2" and job.restart_policy(g) != "Never"]
    return [f"group {name}: autoscaler v2 needs restartPolicy Never or unset" for name in wrong]


def autoscaled_groups_are_not_suspended(job: Job) -> list[str]:
    wrong = [group.get("groupName") for group in job.workers if job.autoscales and group.get("suspend")]
    return [f"group {name} cannot be suspended while autoscaling: remove suspend" for name in wrong]


def token_auth_knows_its_version(job: Job) -> list[str]:
    if job.auth_mode != "token":
        return []
    found = re.match(r"(\d+)\.(\d+)", str(job.cluster.get("rayVersion") or ""))
    recent = found is not None and (int(found[1]), int(found[2])) >= TOKEN_AUTH_SINCE
    return complaint_if(not recent, "token auth needs rayVersion, at least 2.52.0")


def network_policy_needs_its_gate(job: Job) -> list[str]:
    wrong = "networkPolicy" in job.cluster
    return complaint_if(wrong, "rayClusterSpec.networkPolicy needs a feature gate: use a NetworkPolicy of your own")


CLUSTER_RULES: tuple[Rule, ...] = (
    groups_have_a_container,
    group_names_are_distinct,
    replicas_are_in_range,
    resources_are_given_once,
    labels_stand_in_their_field,
    labels_are_well_formed,
    redis_goes_with_its_option,
    redis_is_configured_once,
    redis_user_stands_in_its_option,
    autoscaler_variable_needs_autoscaling,
    autoscaler_version_is_given_once,
    autoscaled_pods_never_restart,
    autoscaled_groups_are_not_suspended,
    token_auth_knows_its_version,
    network_policy_needs_its_gate,
)
