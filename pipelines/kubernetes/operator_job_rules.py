"""What the API server's schema cannot say and the operator (v1.7.0) refuses only after submit: a function per rule."""

from __future__ import annotations

import re

import yaml

from pipelines.kubernetes.manifest import Job, Manifest, Rule, complaint_if

NAME_LIMIT = 47
"""The operator appends to a RayJob's name what must still fit a label of 63 characters."""

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")


def name_fits(job: Job) -> list[str]:
    length = len(job.name)
    return complaint_if(length > NAME_LIMIT, f"the name has {length} characters: {NAME_LIMIT} are allowed")


def name_is_a_label(job: Job) -> list[str]:
    wrong = not DNS_1035.fullmatch(job.name)
    return complaint_if(wrong, f"the name {job.name!r} is not a DNS-1035 label: use a-z, 0-9 and -, a letter first")


def mode_is_known(job: Job) -> list[str]:
    """Neither the API server nor the operator notices a typo here: the job just never starts."""
    wrong = job.mode not in MODES
    return complaint_if(wrong, f"submissionMode {job.mode!r} is unknown; choose from {', '.join(MODES)}")


def manager_is_known(job: Job) -> list[str]:
    manager = job.spec.get("managedBy", MANAGERS[0])
    return complaint_if(manager not in MANAGERS, f"managedBy {manager!r} is unknown; choose from {', '.join(MANAGERS)}")


def suspended_job_shuts_down(job: Job) -> list[str]:
    wrong = bool(job.spec.get("suspend")) and not job.shuts_down
    return complaint_if(wrong, "suspend needs shutdownAfterJobFinishes")


def ttl_is_not_negative(job: Job) -> list[str]:
    wrong = job.number("ttlSecondsAfterFinished") < 0
    return complaint_if(wrong, "ttlSecondsAfterFinished is negative: give 0 or more")


def ttl_needs_shutdown(job: Job) -> list[str]:
    wrong = job.number("ttlSecondsAfterFinished") > 0 and not job.shuts_down
    return complaint_if(wrong, "ttlSecondsAfterFinished needs shutdownAfterJobFinishes")


def backoff_is_not_negative(job: Job) -> list[str]:
    return complaint_if(job.number("backoffLimit") < 0, "backoffLimit is negative: give 0 or more")


def deadlines_are_positive(job: Job) -> list[str]:
    keys = ("activeDeadlineSeconds", "preRunningDeadlineSeconds")
    wrong = [key for key in keys if key in job.spec and job.number(key) <= 0]
    return [f"{key} is not positive: give seconds, or leave it out" for key in wrong]


def cluster_is_given(job: Job) -> list[str]:
    wrong = not job.spec.get("rayClusterSpec") and not job.selector
    return complaint_if(wrong, "one of rayClusterSpec and clusterSelector must be set")


def selector_names_a_cluster(job: Job) -> list[str]:
    wrong = bool(job.selector) and not job.selector.get("ray.io/cluster")
    return complaint_if(wrong, "clusterSelector has no ray.io/cluster: name the cluster there")


def selected_cluster_is_not_suspended(job: Job) -> list[str]:
    wrong = bool(job.selector and job.spec.get("suspend"))
    return complaint_if(wrong, "clusterSelector cannot be combined with suspend: remove one of them")


def selected_cluster_has_no_sidecar(job: Job) -> list[str]:
    wrong = bool(job.selector) and job.mode == "SidecarMode"
    return complaint_if(wrong, "clusterSelector cannot be combined with SidecarMode: choose another submissionMode")


def interactive_job_is_not_retried(job: Job) -> list[str]:
    wrong = job.mode == "InteractiveMode" and job.number("backoffLimit") > 0
    return complaint_if(wrong, "InteractiveMode cannot have a backoffLimit: remove it")


def sidecar_has_no_submitter(job: Job) -> list[str]:
    keys = ("submitterPodTemplate", "submitterConfig")
    return [f"SidecarMode takes no {key}: remove it" for key in keys if job.mode == "SidecarMode" and job.spec.get(key)]


def sidecar_head_never_restarts(job: Job) -> list[str]:
    wrong = job.mode == "SidecarMode" and job.restart_policy(job.head) != "Never"
    return complaint_if(wrong, "SidecarMode needs the head's restartPolicy Never or unset")


def runtime_env_is_a_mapping(job: Job) -> list[str]:
    try:
        parsed = yaml.safe_load(job.spec.get("runtimeEnvYAML") or "{}")
    except yaml.YAMLError as error:
        return [f"runtimeEnvYAML is not YAML: {error}"]
    wrong = not isinstance(parsed, dict)
    return complaint_if(wrong, "runtimeEnvYAML is not a mapping: write for example env_vars: {NAME: value}")


# Deletion strategies.


def deletion_is_one_kind(job: Job) -> list[str]:
    wrong = bool(job.deletion_rules and (job.on_success or job.on_failure))
    return complaint_if(wrong, "deletionRules cannot stand beside onSuccess and onFailure: keep one kind")


def deletion_is_complete(job: Job) -> list[str]:
    wrong = "deletionStrategy" in job.spec and not job.deletion_rules and not (job.on_success and job.on_failure)
    return complaint_if(wrong, "deletionStrategy needs both onSuccess and onFailure, or deletionRules")


def deletion_policies_are_set(job: Job) -> list[str]:
    found = {"onSuccess": job.on_success, "onFailure": job.on_failure}
    return [f"{key} has no policy: name one" for key, value in found.items() if value and not value.get("policy")]


def deletion_rules_exclude_shutdown(job: Job) -> list[str]:
    wrong = bool(job.deletion_rules) and job.shuts_down
    return complaint_if(wrong, "deletionRules cannot be combined with shutdownAfterJobFinishes: remove one of them")


def shutdown_deletes_something(job: Job) -> list[str]:
    wrong = job.shuts_down and "DeleteNone" in job.legacy_policies
    return complaint_if(wrong, "shutdownAfterJobFinishes contradicts the policy DeleteNone: remove one of them")


def selected_cluster_is_kept(job: Job) -> list[str]:
    wrong = bool(job.selector) and not {"DeleteCluster", "DeleteWorkers"}.isdisjoint(job.policies)
    return complaint_if(wrong, "a cluster found by clusterSelector cannot be deleted: choose DeleteSelf or DeleteNone")


def autoscaled_workers_are_not_deleted(job: Job) -> list[str]:
    wrong = job.autoscales and "DeleteWorkers" in job.policies
    return complaint_if(wrong, "DeleteWorkers does not work with autoscaling: choose DeleteCluster")


def deletion_condition_is_single(job: Job) -> list[str]:
    def states(rule: Manifest) -> int:
        condition = rule.get("condition") or {}
        return sum(key in condition for key in ("jobStatus", "jobDeploymentStatus"))

    wrong = [index for index, rule in enumerate(job.deletion_rules) if states(rule) != 1]
    return [f"deletionRules[{index}] needs one of jobStatus and jobDeploymentStatus" for index in wrong]


def deletion_rules_are_distinct(job: Job) -> list[str]:
    seen = [(_state(rule), rule.get("policy")) for rule in job.deletion_rules]
    return complaint_if(len(set(seen)) < len(seen), "two deletionRules have the same condition and policy: remove one")


def deletion_delays_are_ordered(job: Job) -> list[str]:
    """Workers go before their cluster, and the cluster before the job."""
    negative = any(_delay(rule) < 0 for rule in job.deletion_rules)
    wrong = complaint_if(negative, "a deletionRule has a negative ttlSeconds: give 0 or more")
    for state in sorted({_state(rule) for rule in job.deletion_rules}):
        delays = {rule.get("policy"): _delay(rule) for rule in job.deletion_rules if _state(rule) == state}
        ordered = [delays[policy] for policy in DELETION_ORDER if policy in delays]
        right = ordered == sorted(ordered)
        wrong += complaint_if(not right, f"deletionRules for {state}: order them as {', then '.join(DELETION_ORDER)}")
    return wrong


def _state(rule: Manifest) -> str:
    condition = rule.get("condition") or {}
    return str(condition.get("jobStatus") or condition.get("jobDeploymentStatus"))


def _delay(rule: Manifest) -> int:
    return int((rule.get("condition") or {}).get("ttlSeconds") or 0)


JOB_RULES: tuple[Rule, ...] = (
    name_fits,
    name_is_a_label,
    mode_is_known,
    manager_is_known,
    suspended_job_shuts_down,
    ttl_is_not_negative,
    ttl_needs_shutdown,
    backoff_is_not_negative,
    deadlines_are_positive,
    cluster_is_given,
    selector_names_a_cluster,
    selected_cluster_is_not_suspended,
    selected_cluster_has_no_sidecar,
    interactive_job_is_not_retried,
    sidecar_has_no_submitter,
    sidecar_head_never_restarts,
    runtime_env_is_a_mapping,
    deletion_is_one_kind,
    deletion_is_complete,
    deletion_policies_are_set,
    deletion_rules_exclude_shutdown,
    shutdown_deletes_something,
    selected_cluster_is_kept,
    autoscaled_workers_are_not_deleted,
    deletion_condition_is_single,
    deletion_rules_are_distinct,
    deletion_delays_are_ordered,
)
