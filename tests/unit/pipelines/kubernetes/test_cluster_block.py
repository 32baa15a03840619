"""Where each key of the cluster block ends up in a job, and which are refused with what to do instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcia.config.load import load, parse
from lcia.config.run import RunConfig
from lcia.types import InputError
from pipelines.cluster import ClusterConfig
from pipelines.kubernetes.our_rules import OPEN_RAY
from pipelines.kubernetes.rayjob import render_rayjob
from pipelines.kubernetes.schemas import violations
from pipelines.kubernetes.submission import Submission
from pipelines.launch import LaunchConfig

FULL: dict[str, Any] = {
    "image": "lcia:0.1.0",
    "head": {"cpu": 2, "memory": "8Gi", "ephemeral_storage": "20Gi"},
    "train": {
        "cpu": 8,
        "memory": "64Gi",
        "gpu": 1,
        "ephemeral_storage": "50Gi",
        "node_selector": {"pool": "spot"},
        "tolerations": [{"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}],
        "notice_seconds": 25,
        "spread_over": "topology.kubernetes.io/zone",
    },
    "labels": {"team": "vision"},
    "annotations": {"cost-centre": "42"},
    "env": {"NCCL_DEBUG": "WARN", "HF_HUB_OFFLINE": "0"},
    "volumes": [{"claim": "coin", "path": "/data/coin"}, {"claim": "out", "path": "/out", "read_only": False}],
    "image_pull_secrets": ["registry"],
    "priority_class": "batch",
    "history_server": {"env": {"BUCKET": "logs"}, "secrets": [{"variable": "AWS_TOKEN", "name": "s3", "key": "token"}]},
}


def launch(**changes: Any) -> LaunchConfig:
    values = {"storage": "/mnt/lcia/runs", "gpus_per_worker": 1, "cluster": {**FULL, **changes}}
    return parse(LaunchConfig, values, "launch.yaml")


def rendered(**changes: Any) -> dict[str, Any]:
    return render_rayjob(Submission.of(RunConfig(name="a")), launch(**changes))[1]


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return rendered()


def templates(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **groups, "submitter": job["spec"]["submitterPodTemplate"]}


def test_a_job_with_every_key_is_one_that_the_operator_and_kubernetes_take(
    job: dict[str, Any], schemas: dict[str, Any]
) -> None:
    assert violations(job, schemas) == []
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for template in templates(job).values():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, "1.33", strict=True)


def test_labels_annotations_priority_and_pull_secrets_are_on_the_job_and_every_pod(job: dict[str, Any]) -> None:
    for metadata in (job["metadata"], *(template["metadata"] for template in templates(job).values())):
        assert metadata["labels"]["team"] == "vision"
        assert metadata["labels"]["lcia/run"] == job["metadata"]["name"]
        assert metadata["annotations"] == {"cost-centre": "42"}
    for template in templates(job).values():
        assert template["spec"]["priorityClassName"] == "batch"
        assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_variables_are_in_every_ray_pod_and_go_before_ours(job: dict[str, Any]) -> None:
    for name in ("head", "embed", "train"):
        env = {one["name"]: one.get("value") for one in templates(job)[name]["spec"]["containers"][0]["env"]}
        assert env["NCCL_DEBUG"] == "WARN"
        assert env["HF_HUB_OFFLINE"] == "0"


def test_volumes_are_mounted_where_they_are_named(job: dict[str, Any]) -> None:
    for name in ("head", "embed", "train"):
        spec = templates(job)[name]["spec"]
        claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if v["name"] != "config"}
        mounts = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] != "config"]
        assert {(claims[m["name"]], m["mountPath"], m.get("readOnly", False)) for m in mounts} == {
            ("lcia-runs", "/mnt/lcia", False), ("coin", "/data/coin", True), ("out", "/out", False)
        }  # fmt: skip


def test_a_pool_has_its_own_nodes_and_disk(job: dict[str, Any]) -> None:
    train, embed = (templates(job)[name]["spec"] for name in ("train", "embed"))
    assert train["nodeSelector"]["pool"] == "spot"
    assert {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"} in train["tolerations"]
    assert train["containers"][0]["resources"]["requests"]["ephemeral-storage"] == "50Gi"
    assert "pool" not in embed["nodeSelector"]
    assert "ephemeral-storage" not in embed["containers"][0]["resources"]["requests"]


def test_a_pod_with_a_notice_tells_ray_before_it_ends(job: dict[str, Any]) -> None:
    train, embed = (templates(job)[name]["spec"] for name in ("train", "embed"))
    shell, _, command = train["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert shell == "/bin/bash"
    assert "ray drain-node --reason=DRAIN_NODE_REASON_PREEMPTION" in command
    assert "--deadline-remaining-seconds=25; sleep 25" in command
    assert train["terminationGracePeriodSeconds"] > 25
    assert "lifecycle" not in embed["containers"][0]


def test_the_collector_of_the_history_server_has_its_variables(job: dict[str, Any]) -> None:
    options = job["spec"]["rayClusterSpec"]["historyServerOptions"]["collectorOptions"]
    assert {"name": "BUCKET", "value": "logs"} in options["env"]
    assert {"name": "AWS_TOKEN", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "token"}}} in options["env"]


def test_what_is_not_asked_for_leaves_no_trace() -> None:
    plain = render_rayjob(Submission.of(RunConfig(name="a")), LaunchConfig(storage="/mnt/lcia", gpus_per_worker=1,
                          cluster=ClusterConfig(image="lcia:0.1.0")))[1]  # fmt: skip
    text = str(plain)
    absent = ("annotations", "priorityClassName", "imagePullSecrets", "historyServerOptions", "lifecycle", "ephemeral")
    assert not [word for word in absent if word in text]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"env": {"HF_TOKEN": "x"}}, "HF_TOKEN looks like a secret.*use cluster.secrets"),
        ({"history_server": {"env": {"AWS_SECRET_ACCESS_KEY": "x"}}}, "use cluster.history_server.secrets"),
        ({"labels": {"lcia/run": "mine"}}, "lcia/run: lcia sets this itself"),
        ({"volumes": [{"claim": "a", "path": "data"}]}, "give an absolute path"),
        ({"volumes": [{"claim": "a", "path": "/mnt/lcia/data"}]}, "does not lie in /mnt/lcia"),
        ({"volumes": [{"claim": "a", "path": "/"}]}, "give an absolute path"),
        ({"data": {"coin": "/mnt/lcia/coin"}}, "map an absolute path here"),
        ({"data": {"/coin": "coin"}}, "map an absolute path here"),
    ],
)
def test_a_value_that_would_leak_or_never_work_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        launch(**changes)


@pytest.mark.parametrize("name", ["kind", "kuberay", "spot"])
def test_the_shipped_launch_files_render(root: Path, schemas: dict[str, Any], name: str) -> None:
    shipped = load(LaunchConfig, root / "configs" / "launch" / f"{name}.yaml")
    assert violations(render_rayjob(Submission.of(RunConfig(name="a")), shipped)[1], schemas) == []


def test_the_pods_of_a_pool_are_spread_over_nodes_where_there_is_room(job: dict[str, Any]) -> None:
    specs = {name: template["spec"] for name, template in templates(job).items()}
    assert [name for name, spec in specs.items() if "topologySpreadConstraints" in spec] == ["train"]
    [wish] = specs["train"]["topologySpreadConstraints"]
    assert (wish["topologyKey"], wish["whenUnsatisfiable"]) == ("topology.kubernetes.io/zone", "ScheduleAnyway")
    labels = templates(job)["train"]["metadata"]["labels"]
    assert wish["labelSelector"]["matchLabels"].items() <= labels.items()


def test_an_image_without_its_digest_is_refused_where_digests_are_asked_for() -> None:
    digest = "registry/lcia@sha256:" + "0" * 64
    assert launch(image=digest, image_by_digest=True).cluster
    with pytest.raises(InputError, match=r"lcia:0.1.0: image_by_digest asks for NAME@sha256:DIGEST"):
        launch(image_by_digest=True)
    with pytest.raises(InputError, match="collector:1: image_by_digest"):
        launch(image=digest, image_by_digest=True, history_server={"image": "collector:1"})


def test_ray_asks_for_a_token_unless_the_launch_says_that_it_need_not() -> None:
    guarded = rendered()
    assert guarded["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert OPEN_RAY not in guarded["metadata"]["annotations"]
    values = {"storage": "/mnt/lcia/runs", "gpus_per_worker": 1, "cluster": FULL, "ray_auth": "none"}
    opened = render_rayjob(Submission.of(RunConfig(name="a")), parse(LaunchConfig, values, "launch.yaml"))[1]
    assert "authOptions" not in opened["spec"]["rayClusterSpec"]
    assert opened["metadata"]["annotations"][OPEN_RAY] == "true"
