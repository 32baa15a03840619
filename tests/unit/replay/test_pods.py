"""What the replay makes of a RayJob against what the real operator (v1.7.0) made of it, and the lab's own DNS."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.replay import pods
from tests.replay.names import answer
from tests.replay.pods import Cluster

IN_POD = ("command", "args", "env", "ports", "livenessProbe", "readinessProbe", "resources", "volumeMounts")
LIMITS = {"cpu": "1", "memory": "2Gi"}
MOUNTS = [{"name": "run", "mountPath": "/etc/lcia"}, {"name": "shared", "mountPath": "/mnt/lcia"}]


def template(name: str, cpu: str, mounts: list[dict[str, str]], volumes: list[dict[str, Any]]) -> dict[str, Any]:
    resources = {"limits": LIMITS, "requests": {**LIMITS, "cpu": cpu}}
    container = {"name": name, "resources": resources, "volumeMounts": [*MOUNTS, *mounts]}
    return {"spec": {"containers": [container], "volumes": volumes}}


Golden = Callable[[str], list[dict[str, Any]]]

OWN_MEMORY = ([{"name": "dshm", "mountPath": "/dev/shm"}], [{"name": "dshm", "emptyDir": {"medium": "Memory"}}])
SAMPLE: dict[str, Any] = {
    "kind": "RayJob",
    "metadata": {"name": "lcia-study", "namespace": "lcia"},
    "spec": {
        "entrypoint": 'python /etc/lcia/driver.py --tag "$RAY_JOB_TAG"\n',
        "metadata": {"project": "lcia"},
        "runtimeEnvYAML": "env_vars:\n  RAY_JOB_TAG: from-runtime-env\n  MLFLOW_TRACKING_URI: http://mlflow:5000\n",
        "rayClusterSpec": {
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": template("ray-head", "500m", [], [])},
            "workerGroupSpecs": [
                {
                    "groupName": "embed",
                    "labels": {"lcia/pool": "embed"},
                    "template": template("ray-worker", "1", [], []),
                },
                {
                    "groupName": "train",
                    "labels": {"lcia/pool": "train"},
                    "rayStartParams": {"num-cpus": "2", "num-gpus": "1"},
                    "template": template("ray-worker", "1", *OWN_MEMORY),
                },
            ],
        },
    },
}
"""The RayJob that the real operator was given, as far as it shows in what it made."""
CLUSTER = Cluster(SAMPLE, "lcia-study-zbflt", "lcia-study-69gmk")


@pytest.fixture(scope="module")
def golden(shared: Callable[[str], Path]) -> Golden:
    folder = shared("kuberay")

    def read(name: str) -> list[dict[str, Any]]:
        found = json.loads((folder / f"golden-{name}.json").read_text())
        return list(found.get("items", [found]))

    return read


def ours(name: str) -> dict[str, Any]:
    if "head" in name:
        return pods.head_pod(CLUSTER, name)
    groups = {group["groupName"]: group for group in CLUSTER.spec["workerGroupSpecs"]}
    return pods.worker_pod(CLUSTER, groups["embed" if "embed" in name else "train"], name)


def test_pods_have_the_operators_commands_variables_ports_probes_and_mounts(
    golden: Golden,
) -> None:
    theirs = golden("pods")
    assert len(theirs) == 3
    for pod in theirs:
        made, [main] = ours(pod["metadata"]["name"]), pod["spec"]["containers"]
        assert {name: made["spec"]["containers"][0].get(name) for name in IN_POD} == {
            name: main[name] for name in IN_POD
        }
        labels = dict(pod["metadata"]["labels"])
        labels.pop("ray.io/worker-group-replica-index", None)
        assert made["metadata"]["labels"] == labels
        assert [v["name"] for v in made["spec"]["volumes"]] == [
            v["name"] for v in pod["spec"]["volumes"] if v["name"] not in ("run", "shared")
        ]


def test_workers_wait_for_the_head_as_the_operators_do(golden: Golden) -> None:
    waiting = {
        pod["metadata"]["name"]: pod["spec"]["initContainers"]
        for pod in golden("pods")
        if "worker" in pod["metadata"]["name"]
    }
    assert len(waiting) == 2
    for name, [init] in waiting.items():
        [made] = ours(name)["spec"]["initContainers"]
        same = ("name", "command", "args", "env")
        assert {key: made[key] for key in same} == {key: init[key] for key in same}


def test_the_submitter_runs_the_operators_script(golden: Golden) -> None:
    [job], made = golden("job"), pods.submitter(CLUSTER)
    [theirs], [main] = (one["spec"]["template"]["spec"]["containers"] for one in (job, made))
    same = ("name", "command", "args", "env")
    assert {key: main[key] for key in same} == {key: theirs[key] for key in same}
    assert made["metadata"]["labels"] == job["metadata"]["labels"]
    assert made["spec"]["backoffLimit"] == job["spec"]["backoffLimit"]
    assert made["spec"]["template"]["spec"]["restartPolicy"] == job["spec"]["template"]["spec"]["restartPolicy"]


def test_the_service_of_the_head_is_the_operators(golden: Golden) -> None:
    [theirs], made = golden("svc"), pods.service(CLUSTER)
    assert {name: theirs["spec"][name] for name in made["spec"]} == made["spec"]
    assert theirs["metadata"]["name"] == made["metadata"]["name"]


def test_with_a_token_every_pod_gets_it_from_the_clusters_secret(golden: Golden) -> None:
    [theirs] = golden("feat")
    wanted = [v for v in theirs["spec"]["containers"][0]["env"] if v["name"].startswith("RAY_AUTH")]
    guarded = deepcopy(SAMPLE)
    guarded["spec"]["rayClusterSpec"]["authOptions"] = {"mode": "token"}
    cluster = Cluster(guarded, "feat-9pk5t", "feat-7d2fg")
    group = cluster.spec["workerGroupSpecs"][0]
    head, worker = pods.head_pod(cluster, "h"), pods.worker_pod(cluster, group, "w")
    submitter = pods.submitter(cluster)["spec"]["template"]
    containers = [pod["spec"]["containers"][0] for pod in (head, worker, submitter)] + worker["spec"]["initContainers"]
    for container in containers:
        assert [v for v in container["env"] if v["name"].startswith("RAY_AUTH")] == wanted


def test_variables_are_resolved_as_the_kubelet_does() -> None:
    pod = {"metadata": {"name": "p", "namespace": "lcia", "labels": {"ray.io/group": "embed"}}}
    variables = [
        {"name": "A", "value": "1"},
        {"name": "B"},
        {"name": "GROUP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['ray.io/group']"}}},
        {"name": "SPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "LACKS", "valueFrom": {"secretKeyRef": {"name": "s", "key": "other", "optional": True}}},
    ]
    found = pods.resolved(variables, pod, {("s", "k"): "v"})
    assert found == {"A": "1", "B": "", "GROUP": "embed", "SPACE": "lcia", "SECRET": "v"}


@pytest.mark.parametrize(
    ("name", "kind", "code", "addresses"),
    [("Head.LCIA", 1, 0, ["10.0.0.9"]), ("head.lcia", 28, 0, []), ("nobody.lcia", 1, 3, [])],
    ids=["an address", "no address of the other kind", "no such name"],
)
def test_the_dns_server_answers_as_a_clusters_does(name: str, kind: int, code: int, addresses: list[str]) -> None:
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    query = b"\x12\x34" + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + question + struct.pack(">HH", kind, 1)
    reply = answer(query, {"head.lcia": "10.0.0.9"})
    identity, flags, questions, answers = struct.unpack(">HHHH", reply[:8])
    assert (identity, flags & 0xF, flags >> 15, questions, answers) == (0x1234, code, 1, 1, len(addresses))
    assert reply[12 : len(query)] == query[12:]
    assert [".".join(map(str, reply[-4:]))] * answers == addresses
