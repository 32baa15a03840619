"""Each rule lets the rendered job pass and refuses one job that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from lcia.config.run import RunConfig
from pipelines.cluster import ClusterConfig, PoolConfig
from pipelines.kubernetes import operator_cluster_rules as c
from pipelines.kubernetes import operator_job_rules as k
from pipelines.kubernetes import our_rules as p
from pipelines.kubernetes.check import RULES, Document, check
from pipelines.kubernetes.manifest import Job, Rule
from pipelines.kubernetes.rayjob import render_rayjob
from pipelines.kubernetes.submission import Submission
from pipelines.launch import LaunchConfig

LAUNCH = LaunchConfig(storage="/mnt/lcia", cluster=ClusterConfig(image="lcia:0.1.0", train=PoolConfig(cpu=8)))
SOUND = render_rayjob(Submission.of(RunConfig(name="a"), "name: a\n"), LAUNCH)
LEGACY = {"onSuccess": {"policy": "DeleteCluster"}, "onFailure": {"policy": "DeleteCluster"}}
SELECTED = {"clusterSelector": {"ray.io/cluster": "other"}, "rayClusterSpec": None}


def found(*manifests: dict[str, Any]) -> list[str]:
    """The messages of what all rules find."""
    return [finding.message for finding in check([Document("a.yaml", manifest) for manifest in manifests])]


Breaking = Callable[[dict[str, Any]], object]


def metadata(**changes: Any) -> Breaking:
    return lambda job: job["metadata"].update(changes)


def spec(**changes: Any) -> Breaking:
    return lambda job: job["spec"].update(changes)


def cluster(**changes: Any) -> Breaking:
    return lambda job: job["spec"]["rayClusterSpec"].update(changes)


def head(**changes: Any) -> Breaking:
    return lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].update(changes)


def start(**changes: str) -> Breaking:
    """Start parameters of the head; `_` stands for `-`."""
    new = {key.replace("_", "-"): value for key, value in changes.items()}
    return lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update(new)


def worker(index: int, **changes: Any) -> Breaking:
    return lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][index].update(changes)


def pod(index: int, **changes: Any) -> Breaking:
    return lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][index]["template"]["spec"].update(changes)


def head_pod(**changes: Any) -> Breaking:
    return lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].update(changes)


def container(**changes: Any) -> Breaking:
    """The head's first container."""
    return lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0].update(
        changes
    )


def variable(name: str, value: str = "x") -> Breaking:
    return container(env=[{"name": name, "value": value}])


def both(*edits: Breaking) -> Breaking:
    return lambda job: [edit(job) for edit in edits]


def rule(policy: str, state: str = "SUCCEEDED", delay: int = 0) -> dict[str, Any]:
    return {"policy": policy, "condition": {"jobStatus": state, "ttlSeconds": delay}}


def deletion(*rules: dict[str, Any]) -> Breaking:
    return spec(
        deletionStrategy={"deletionRules": list(rules)}, shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=0
    )


def autoscaling(version: str = "v2") -> Breaking:
    return cluster(enableInTreeAutoscaling=True, autoscalerOptions={"version": version})


FAULT_TOLERANT = cluster(gcsFaultToleranceOptions={"redisAddress": "redis:6379"})
QUEUED = metadata(labels={"kueue.x-k8s.io/queue-name": "gpu"})

BROKEN: list[tuple[Rule, Breaking]] = [
    (k.name_fits, metadata(name="a" * 48)),
    (k.name_is_a_label, metadata(name="9lives")),
    (k.name_is_a_label, metadata(name="Upper")),
    (k.mode_is_known, spec(submissionMode="K8SJobMode")),
    (k.manager_is_known, spec(managedBy="me")),
    (k.suspended_job_shuts_down, spec(suspend=True, shutdownAfterJobFinishes=False)),
    (k.ttl_is_not_negative, spec(ttlSecondsAfterFinished=-1)),
    (k.ttl_needs_shutdown, spec(shutdownAfterJobFinishes=False)),
    (k.backoff_is_not_negative, spec(backoffLimit=-1)),
    (k.deadlines_are_positive, spec(activeDeadlineSeconds=0)),
    (k.deadlines_are_positive, spec(preRunningDeadlineSeconds=-5)),
    (k.cluster_is_given, spec(rayClusterSpec=None)),
    (k.selector_names_a_cluster, spec(clusterSelector={"app": "other"})),
    (k.selected_cluster_is_not_suspended, spec(**SELECTED, suspend=True)),
    (k.selected_cluster_has_no_sidecar, spec(**SELECTED, submissionMode="SidecarMode")),
    (k.interactive_job_is_not_retried, spec(submissionMode="InteractiveMode", backoffLimit=1)),
    (k.sidecar_has_no_submitter, spec(submissionMode="SidecarMode")),
    (
        k.sidecar_has_no_submitter,
        spec(submissionMode="SidecarMode", submitterPodTemplate=None, submitterConfig={"backoffLimit": 1}),
    ),
    (k.sidecar_head_never_restarts, both(spec(submissionMode="SidecarMode"), head_pod(restartPolicy="Always"))),
    (k.runtime_env_is_a_mapping, spec(runtimeEnvYAML="- a\n- b\n")),
    (k.runtime_env_is_a_mapping, spec(runtimeEnvYAML="env_vars: {")),
    (k.deletion_is_one_kind, spec(deletionStrategy={**LEGACY, "deletionRules": [rule("DeleteSelf")]})),
    (k.deletion_is_complete, spec(deletionStrategy={"onSuccess": {"policy": "DeleteSelf"}})),
    (k.deletion_is_complete, spec(deletionStrategy={})),
    (k.deletion_policies_are_set, spec(deletionStrategy={**LEGACY, "onFailure": {"later": True}})),
    (k.deletion_rules_exclude_shutdown, spec(deletionStrategy={"deletionRules": [rule("DeleteSelf")]})),
    (k.shutdown_deletes_something, spec(deletionStrategy={**LEGACY, "onFailure": {"policy": "DeleteNone"}})),
    (k.selected_cluster_is_kept, spec(**SELECTED, deletionStrategy=LEGACY)),
    (k.selected_cluster_is_kept, both(deletion(rule("DeleteWorkers")), spec(**SELECTED))),
    (k.autoscaled_workers_are_not_deleted, both(deletion(rule("DeleteWorkers")), autoscaling())),
    (k.deletion_condition_is_single, deletion({"policy": "DeleteSelf", "condition": {"ttlSeconds": 1}})),
    (
        k.deletion_condition_is_single,
        deletion({"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}}),
    ),
    (k.deletion_rules_are_distinct, deletion(rule("DeleteSelf", delay=1), rule("DeleteSelf", delay=2))),
    (k.deletion_delays_are_ordered, deletion(rule("DeleteWorkers", delay=9), rule("DeleteCluster", delay=1))),
    (k.deletion_delays_are_ordered, deletion(rule("DeleteSelf", delay=-1))),
    (c.groups_have_a_container, pod(1, containers=[])),
    (c.groups_have_a_container, head_pod(containers=None)),
    (c.group_names_are_distinct, worker(1, groupName="embed")),
    (c.replicas_are_in_range, worker(0, replicas=7, maxReplicas=3)),
    (c.resources_are_given_once, head(resources={"cpu": "4"})),
    (c.labels_stand_in_their_field, start(labels="a=b")),
    (c.labels_are_well_formed, worker(0, labels={"lcia/pool": "two words"})),
    (c.labels_are_well_formed, worker(0, labels={"UPPER/pool": "embed"})),
    (c.labels_are_well_formed, worker(0, labels={"a" * 64: "embed"})),
    (c.redis_goes_with_its_option, variable("RAY_REDIS_ADDRESS")),
    (c.redis_is_configured_once, both(FAULT_TOLERANT, variable("REDIS_PASSWORD"))),
    (c.redis_is_configured_once, both(FAULT_TOLERANT, start(redis_password="x"))),
    (c.redis_is_configured_once, both(FAULT_TOLERANT, metadata(annotations={"ray.io/ft-enabled": "true"}))),
    (c.redis_user_stands_in_its_option, variable("REDIS_USERNAME")),
    (c.redis_user_stands_in_its_option, start(redis_username="x")),
    (c.autoscaler_variable_needs_autoscaling, variable("RAY_enable_autoscaler_v2", "1")),
    (c.autoscaler_version_is_given_once, both(autoscaling(), variable("RAY_enable_autoscaler_v2", "0"))),
    (c.autoscaled_pods_never_restart, both(autoscaling(), pod(0, restartPolicy="Always"))),
    (c.autoscaled_groups_are_not_suspended, both(autoscaling(), worker(0, suspend=True))),
    (c.token_auth_knows_its_version, cluster(authOptions={"mode": "token"}, rayVersion=None)),
    (c.token_auth_knows_its_version, cluster(authOptions={"mode": "token"}, rayVersion="2.9.3")),
    (c.network_policy_needs_its_gate, cluster(networkPolicy={"mode": "DenyAll"})),
    (p.ray_version_is_set, cluster(rayVersion=None)),
    (p.images_are_pinned, container(image="lcia:latest")),
    (p.images_are_pinned, container(image="host:5000/lcia")),
    (p.ray_images_have_the_version, container(image="rayproject/ray:2.9.0-gpu")),
    (p.head_runs_no_tasks, start(num_cpus="4")),
    (p.shared_memory_is_the_operators, container(volumeMounts=[{"name": "shm", "mountPath": "/dev/shm"}])),
    (p.training_has_an_object_store, worker(1, rayStartParams={})),
    (p.training_has_a_fixed_size, worker(1, maxReplicas=8)),
    (p.secrets_come_by_reference, variable("HF_TOKEN")),
    (p.runtime_env_holds_no_secret, spec(runtimeEnvYAML="env_vars: {MLFLOW_TRACKING_PASSWORD: x}")),
    (p.runtime_env_holds_variables_only, spec(runtimeEnvYAML="pip: [torch]")),
    (p.entrypoint_needs_no_shell, spec(entrypoint="lcia run $HOME/run.yaml")),
    (p.entrypoint_needs_no_shell, spec(entrypoint="")),
    (p.ray_asks_for_a_token, cluster(authOptions=None)),
    (p.ray_asks_for_a_token, cluster(authOptions={"mode": "disabled"})),
    (
        p.token_auth_is_not_overridden,
        both(cluster(authOptions={"mode": "token"}), variable("RAY_AUTH_MODE", "disabled")),
    ),
    (p.queued_job_that_grows_says_so, both(QUEUED, autoscaling())),
    (p.queued_job_leaves_suspend_alone, both(QUEUED, spec(suspend=True))),
    (p.pods_are_restricted, pod(0, securityContext={"runAsNonRoot": True})),
    (p.pods_are_restricted, pod(0, securityContext={"seccompProfile": {"type": "RuntimeDefault"}})),
    (p.containers_are_restricted, container(securityContext={"capabilities": {"drop": ["ALL"]}})),
    (p.containers_are_restricted, container(securityContext={"allowPrivilegeEscalation": False})),
    (p.groups_are_named_apart_from_the_head, worker(0, groupName="headgroup")),
]


def broken_job(edit: Breaking) -> dict[str, Any]:
    job = deepcopy(SOUND[1])
    edit(job)
    return job


def test_the_rendered_job_breaks_no_rule() -> None:
    assert found(*SOUND) == []


def test_every_rule_is_tried_with_a_job_that_breaks_it() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULES)


@pytest.mark.parametrize(("rule", "edit"), BROKEN, ids=[rule.__name__ for rule, _ in BROKEN])
def test_a_broken_job_is_refused_by_its_rule(rule: Rule, edit: Breaking) -> None:
    assert rule(Job(SOUND[1])) == []
    assert len(rule(Job(broken_job(edit)))) == 1


def test_validation_collects_what_every_rule_finds() -> None:
    (one, first), (other, second) = BROKEN[0], BROKEN[-1]
    broken = broken_job(first)
    second(broken)
    assert one(Job(broken))
    assert other(Job(broken))
    assert set(found(SOUND[0], broken)) >= {*one(Job(broken)), *other(Job(broken))}


def test_a_config_map_that_is_mounted_must_be_rendered() -> None:
    (message,) = found(*SOUND[1:])
    assert f"ConfigMap {SOUND[0]['metadata']['name']} is mounted" in message


def test_an_empty_manifest_is_refused_rather_than_a_crash() -> None:
    assert "one of rayClusterSpec and clusterSelector must be set" in found({"kind": "RayJob"})


def test_deletion_rules_in_order_are_fine() -> None:
    sound = broken_job(
        deletion(rule("DeleteWorkers", delay=1), rule("DeleteCluster", delay=1), rule("DeleteSelf", "FAILED"))
    )
    assert found(SOUND[0], sound) == []


def test_autoscaling_with_version_two_is_fine() -> None:
    assert found(SOUND[0], broken_job(autoscaling())) == []


def test_an_elastic_job_may_wait_in_a_queue() -> None:
    elastic = metadata(labels={"kueue.x-k8s.io/queue-name": "gpu"}, annotations={"kueue.x-k8s.io/elastic-job": "true"})
    assert found(SOUND[0], broken_job(both(elastic, autoscaling()))) == []
