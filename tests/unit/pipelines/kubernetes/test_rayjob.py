"""What the rendered RayJob holds; the oracles are the operator's schemas, the core API's, and arithmetic by hand."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from lcia.config.grouping import GroupingConfig
from lcia.config.run import RunConfig, TrainingConfig
from lcia.studies.config import LogUniform, OptunaConfig, StudyConfig
from lcia.types import InputError
from pipelines.cluster import ClusterConfig, PoolConfig, SecretKey
from pipelines.kubernetes.manifest import to_yaml
from pipelines.kubernetes.pods import memory_bytes
from pipelines.kubernetes.rayjob import render_rayjob
from pipelines.kubernetes.schemas import complete, violations
from pipelines.kubernetes.submission import Submission
from pipelines.launch import LaunchConfig
from pipelines.stages.pools import LABEL, Pool

RUN_YAML = "# my run\nname: Quick Start!\nseed: 3\n"
RUN = RunConfig(name="Quick.Start", seed=3)
CLUSTER = ClusterConfig(image="lcia:0.1.0", embed=PoolConfig(cpu=4, memory="8Gi"), train=PoolConfig(cpu=8, gpu=2))
LAUNCH = LaunchConfig(
    storage="/mnt/lcia/runs",
    num_workers=4,
    train_groups=2,
    gpus_per_worker=1,
    eval_actors=3,
    embed_actors=2,
    cluster=CLUSTER,
)


def launched(**changes: Any) -> LaunchConfig:
    return LaunchConfig.model_validate({**LAUNCH.model_dump(), **changes})


def clustered(**changes: Any) -> LaunchConfig:
    return launched(cluster={**CLUSTER.model_dump(), **changes})


def job(launch: LaunchConfig = LAUNCH, run: RunConfig = RUN) -> dict[str, Any]:
    return render_rayjob(Submission.of(run, RUN_YAML), launch)[1]


def groups(launch: LaunchConfig = LAUNCH, run: RunConfig = RUN) -> dict[str, dict[str, Any]]:
    found: list[dict[str, Any]] = job(launch, run)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return {group["groupName"]: group for group in found}


def pods() -> list[dict[str, Any]]:
    """Pod specs of the head, the worker groups and the submitter."""
    spec = job()["spec"]
    templates = [spec["rayClusterSpec"]["headGroupSpec"]["template"], spec["submitterPodTemplate"]]
    return [template["spec"] for template in templates + [group["template"] for group in groups().values()]]


# The files.


def test_the_pods_read_the_run_file_byte_by_byte() -> None:
    assert render_rayjob(Submission.of(RUN, RUN_YAML), LAUNCH)[0]["data"]["run.yaml"] == RUN_YAML


def test_the_pods_read_the_same_launch() -> None:
    data = render_rayjob(Submission.of(RUN, RUN_YAML), LAUNCH)[0]["data"]["launch.yaml"]
    assert LaunchConfig.model_validate(yaml.safe_load(data)) == LAUNCH


def test_every_ray_pod_mounts_the_config_map_that_is_rendered() -> None:
    config_map, rayjob = render_rayjob(Submission.of(RUN, RUN_YAML), LAUNCH)
    cluster = rayjob["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        mounts = {
            mount["name"]: mount["mountPath"] for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]
        }
        assert volumes["config"]["configMap"]["name"] == config_map["metadata"]["name"]
        assert mounts == {"config": "/etc/lcia", "runs": "/mnt/lcia"}


def test_the_yaml_reads_back_and_shows_the_run_file_as_a_block() -> None:
    manifests = render_rayjob(Submission.of(RUN, RUN_YAML), LAUNCH)
    text = to_yaml(manifests)
    assert list(yaml.safe_load_all(text)) == manifests
    assert "run.yaml: |\n    # my run\n    name: Quick Start!\n" in text


# Against the schemas.


def test_the_job_satisfies_the_operators_schema(schemas: dict[str, Any]) -> None:
    assert violations(job(), schemas) == []


def test_the_job_over_http_satisfies_the_operators_schema(schemas: dict[str, Any]) -> None:
    assert (
        violations(
            job(clustered(submission_mode="HTTPMode", queue="gpu", train={"cpu": 8, "gpu": 2, "gpu_type": "L4"})),
            schemas,
        )
        == []
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("backoffLimits",), 2),
        (("ttlSecondsAfterFinished",), "an hour"),
        (("rayClusterSpec", "headGroupSpec", "template"), None),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("rayClusterSpec", "autoscalerOptions"), {"version": "v3"}),
    ],
)
def test_the_schema_refuses_a_planted_mistake(schemas: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    broken = job()
    place = broken["spec"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert len(violations(broken, schemas)) >= 1


def test_defaults_are_filled_in_and_nulls_dropped() -> None:
    schema = {
        "properties": {
            "a": {"default": 1},
            "b": {"properties": {"c": {"default": 2}}},
            "d": {"items": {"properties": {"e": {"default": 5}}}},
        }
    }
    assert complete({"a": None, "b": {}, "d": [{}, {"e": 6}]}, schema) == {
        "a": 1,
        "b": {"c": 2},
        "d": [{"e": 5}, {"e": 6}],
    }


def test_the_config_map_is_one_that_kubernetes_knows() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(render_rayjob(Submission.of(RUN, RUN_YAML), LAUNCH)[0], "1.33", strict=True)


def test_every_pod_is_one_that_kubernetes_knows() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for spec in pods():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        kubernetes_validate.validate(pod, "1.33", strict=True)


# Numbers of pods.


def test_pods_hold_exactly_the_workers_and_actors_asked_for() -> None:
    # 2 groups x 4 workers of 1 GPU on pods of 2: 4. Five actors and one CPU for Ray Data's tasks on pods of 4: 2.
    assert {name: group["replicas"] for name, group in groups().items()} == {"embed": 2, "train": 4}


def test_the_scarcer_of_cpu_and_gpu_decides() -> None:
    launch = launched(cpus_per_worker=8)
    assert groups(launch)["train"]["replicas"] == 8


def test_parts_of_a_gpu_share_one() -> None:
    launch = launched(
        gpus_per_worker=0.3, cpus_per_worker=0.5, cluster={**CLUSTER.model_dump(), "train": {"cpu": 8, "gpu": 1}}
    )
    assert groups(launch)["train"]["replicas"] == 3


def test_actors_that_fill_their_pods_leave_a_cpu_for_ray_data() -> None:
    launch = launched(eval_actors=2, embed_actors=2)
    assert groups(launch)["embed"]["replicas"] == 2


def test_groups_have_a_fixed_size() -> None:
    for group in groups().values():
        assert group["minReplicas"] == group["maxReplicas"] == group["replicas"]


def test_a_run_without_training_has_no_train_group() -> None:
    assert list(groups(run=RUN.model_copy(update={"protocol": "zero_shot"}))) == ["embed"]


def test_a_run_without_grouping_needs_no_embedding_actors() -> None:
    run = RUN.model_copy(update={"grouping": GroupingConfig(enabled=False)})
    assert groups(run=run)["embed"]["replicas"] == 1


# What KubeRay needs.


def test_ray_is_the_installed_one_and_the_head_takes_no_tasks() -> None:
    cluster = job()["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert {group["groupName"]: group["labels"][LABEL] for group in cluster["workerGroupSpecs"]} == {
        pool: pool for pool in get_args(Pool)
    }
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert {"dashboard-agent-grpc-port", "runtime-env-agent-port"} <= group["rayStartParams"].keys()


def test_the_entrypoint_is_fixed() -> None:
    assert job()["spec"]["entrypoint"] == "lcia run /etc/lcia/run.yaml --launch /etc/lcia/launch.yaml"


def test_the_object_store_is_a_tenth_of_a_train_pod_unless_given() -> None:
    assert groups()["train"]["rayStartParams"]["object-store-memory"] == str(16 * 2**30 // 10)
    given = groups(launched(object_store_memory=500_000_000))["train"]
    assert given["rayStartParams"]["object-store-memory"] == "500000000"


def test_limits_and_deadlines_are_those_of_the_launch() -> None:
    spec = job(
        clustered(deadline_seconds=60, backoff_limit=1, ttl_seconds_after_finished=5, pre_running_deadline_seconds=7)
    )["spec"]
    keys = ("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished", "preRunningDeadlineSeconds")
    assert [spec[key] for key in keys] == [60, 1, 5, 7]
    assert spec["shutdownAfterJobFinishes"] is True


def test_gpus_are_asked_for_in_the_train_pods_only() -> None:
    asked = {
        name: group["template"]["spec"]["containers"][0]["resources"]["limits"] for name, group in groups().items()
    }
    assert asked["train"]["nvidia.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in asked["embed"]


def test_a_gpu_type_selects_nodes() -> None:
    launch = clustered(train={"cpu": 8, "gpu": 2, "gpu_type": "NVIDIA-L4"})
    assert groups(launch)["train"]["template"]["spec"]["nodeSelector"]["nvidia.com/gpu.product"] == "NVIDIA-L4"


def test_no_pod_may_run_as_root_or_gain_privileges() -> None:
    for spec in pods():
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all(
            container["securityContext"]["capabilities"] == {"drop": ["ALL"]} for container in spec["containers"]
        )


def test_secrets_are_named_and_never_held() -> None:
    launch = clustered(secrets=[SecretKey(variable="AWS_SECRET_ACCESS_KEY", name="s3", key="secret").model_dump()])
    env = groups(launch)["train"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "secret"}}} in env


def test_models_come_from_the_volume_and_never_from_the_hub() -> None:
    env = groups()["embed"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in env
    assert {"name": "HF_HOME", "value": "/mnt/lcia/models"} in env


def test_a_queue_is_a_label() -> None:
    assert job(clustered(queue="gpu"))["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu"


# Names.


@pytest.mark.parametrize("name", ["a", "Quick.Start_1", "9lives", "x" * 63, "a" + "-" * 40 + "b"])
def test_any_run_name_becomes_a_name_that_kuberay_takes(name: str) -> None:
    found = job(run=RUN.model_copy(update={"name": name}))["metadata"]["name"]
    assert len(found) <= 47
    assert found[0].isalpha()


METHODS = {"plain": {"strategy.kind": "sequential"}, "joint": {"protocol": "multitask"}}
STUDY = StudyConfig(name="my.study", methods=METHODS)


def pools(study: StudyConfig) -> list[tuple[str, int]]:
    """Name and pods of each worker group of a study's job."""
    groups = render_rayjob(Submission.of(study), LAUNCH)[1]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return [(group["groupName"], group["replicas"]) for group in groups]


def test_a_study_is_a_job_like_a_run() -> None:
    config_map, rayjob = render_rayjob(Submission.of(STUDY, "# mine\nname: my.study\n"), LAUNCH)
    assert config_map["data"]["study.yaml"] == "# mine\nname: my.study\n"
    assert set(config_map["data"]) == {"study.yaml", "launch.yaml"}
    assert rayjob["spec"]["entrypoint"] == "lcia study /etc/lcia/study.yaml --launch /etc/lcia/launch.yaml"
    assert rayjob["metadata"]["name"].startswith("my-study-")
    assert pools(STUDY) == [(name, group["replicas"]) for name, group in groups().items()]


def test_the_pools_of_a_study_are_for_all_of_its_runs() -> None:
    nothing = StudyConfig(name="s", methods={"zero": {"protocol": "zero_shot"}})
    asked = nothing.model_copy(update={"methods": {**nothing.methods, "plain": {}}})
    assert [len(pools(study)) for study in (nothing, asked)] == [1, 2]
    uneven = StudyConfig(name="s", vary={"training.batch_size": (16, 18)})
    with pytest.raises(InputError, match="batch_size 18 cannot be split"):
        render_rayjob(Submission.of(uneven), LAUNCH)


SEARCH = StudyConfig(
    name="s", orders="all", vary={"strategy.gamma": LogUniform(loguniform=(1, 30))}, search=OptunaConfig(num_samples=9)
)


@pytest.mark.parametrize("study", [STUDY, SEARCH])
def test_a_written_study_can_be_read_again(study: StudyConfig) -> None:
    text = Submission.of(study).text
    assert StudyConfig.model_validate(yaml.safe_load(text)) == study
    assert [name for name, _ in pools(study)] == ["embed", "train"]


def test_another_configuration_of_the_same_name_is_another_job() -> None:
    first, second = (
        render_rayjob(Submission.of(RUN, RUN_YAML), LAUNCH),
        render_rayjob(Submission.of(RUN, RUN_YAML + "# x"), LAUNCH),
    )
    assert first[0]["metadata"]["name"] != second[0]["metadata"]["name"]
    assert first == render_rayjob(Submission.of(RUN, RUN_YAML), LAUNCH)


# What can never work is refused.


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (launched(cluster=None), "no `cluster:` block"),
        (launched(ray_address="http://head:8265"), "remove ray_address"),
        (launched(storage="runs"), "no volume that all pods share"),
        (launched(storage="/mnt/lcia-other/runs"), "no volume that all pods share"),
        (launched(gpus_per_worker=4), "could never be placed"),
        (launched(cpus_per_worker=9), "could never be placed"),
        (launched(gpus_per_actor=0.5), "could never be placed"),
        (launched(gpus_per_worker=0), "would idle"),
        (launched(num_workers=3), "cannot be split"),
        (launched(object_store_memory=8_000_000_000), "does not fit cluster.embed"),
        (clustered(head={"cpu": 2, "memory": "4Gi"}), "give at least 8Gi"),
        (clustered(head={"cpu": 2, "memory": "8Gi", "gpu": 1}), "no task runs on the head"),
        (clustered(embed={"memory": "plenty"}), "not a Kubernetes quantity"),
        (clustered(image="lcia"), "has no fixed tag"),
        (clustered(image="lcia:latest"), "has no fixed tag"),
        (clustered(image="rayproject/ray:2.9.0"), "not of rayVersion"),
    ],
)
def test_a_job_that_can_never_run_is_refused_with_its_reason(launch: LaunchConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        render_rayjob(
            Submission.of(RUN.model_copy(update={"training": TrainingConfig(batch_size=16)}), RUN_YAML), launch
        )


@pytest.mark.parametrize("storage", ["s3://bucket/runs", "gs://bucket/runs", "/mnt/lcia"])
def test_shared_storage_is_taken(storage: str) -> None:
    assert job(launched(storage=storage))["kind"] == "RayJob"


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("2k", 2000), ("1.5Ki", 1536), ("64Gi", 68_719_476_736), ("3M", 3_000_000)]
)
def test_memory_quantities_are_bytes(text: str, size: int) -> None:
    assert memory_bytes(text) == size


def test_the_shipped_cluster_launch_renders(root: Path) -> None:
    launch = LaunchConfig.model_validate(yaml.safe_load((root / "configs" / "launch" / "kuberay.yaml").read_text()))
    # Four workers of 1 GPU on pods of 2; four actors of half a GPU on pods of 1.
    assert {name: group["replicas"] for name, group in groups(launch).items()} == {"embed": 2, "train": 2}
