"""The pods, the service and the submitter job that KubeRay v1.7.0 makes of a RayJob, as plain manifests.

Equal to what the real operator made of a sample (tests/unit/replay), without what only a scheduler or a kubelet reads.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pipelines.kubernetes.manifest import Manifest

OPERATOR = "v1.7.0"
DOMAIN = "svc.cluster.local"
GCS_PORT = 6379
PORTS = {"client": 10001, "dashboard": 8265, "gcs-server": GCS_PORT, "metrics": 8080}
AGENT_PORT = 52365
ULIMIT = "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; "
BOOLEANS_WITH_A_VALUE = frozenset({"log-color", "include-dashboard", "include-log-monitor"})
_UNITS = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


@dataclass(frozen=True)
class Cluster:
    """One RayCluster of a RayJob. A retry has another `name` and another `submission`."""

    job: Manifest
    name: str
    submission: str

    @property
    def namespace(self) -> str:
        return str(self.job["metadata"].get("namespace", "default"))

    @property
    def spec(self) -> Manifest:
        return dict(self.job["spec"]["rayClusterSpec"])

    @property
    def service(self) -> str:
        return f"{self.name}-head-svc"

    @property
    def head_name(self) -> str:
        """What pods call the head: its service, written out."""
        return f"{self.service}.{self.namespace}.{DOMAIN}"

    @property
    def dashboard(self) -> str:
        return f"{self.head_name}:{PORTS['dashboard']}"

    @property
    def secured(self) -> bool:
        """Whether every call to Ray needs the token that the operator keeps in a secret of the cluster's name."""
        return (self.spec.get("authOptions") or {}).get("mode") == "token"


# Pods -------------------------------------------------------------------------------------------------------------


def head_pod(cluster: Cluster, pod: str) -> Manifest:
    """The pod of the head."""
    group = cluster.spec["headGroupSpec"]
    command = start_command(group, {"dashboard-host": "0.0.0.0"}, head=True)
    return _pod(cluster, group, _Made(pod, "headgroup", "head", command))


def worker_pod(cluster: Cluster, group: Manifest, pod: str) -> Manifest:
    """A pod of a worker group; an init container waits for the head."""
    address = f"{cluster.head_name}:{GCS_PORT}"
    made = _Made(pod, group["groupName"], "worker", start_command(group, {"address": address}, head=False))
    manifest = _pod(cluster, group, made)
    main = manifest["spec"]["containers"][0]
    manifest["spec"]["initContainers"] = [
        {
            "name": "wait-gcs-ready",
            "command": ["/bin/bash", "-c", "--"],
            "args": [_wait_for_gcs(address)],
            "env": [*_own(group), *_auth(cluster), *_of_head(cluster)],
            "volumeMounts": [mount for mount in main["volumeMounts"] if mount["name"] != SHARED_MEMORY],
        }
    ]
    return manifest


SHARED_MEMORY = "shared-mem"


@dataclass(frozen=True)
class _Made:
    """What differs from pod to pod."""

    pod: str
    group: str
    kind: str
    command: str


def _pod(cluster: Cluster, group: Manifest, made: _Made) -> Manifest:
    container = group["template"]["spec"]["containers"][0]
    own = (group["template"].get("metadata") or {}).get("labels", {})
    labels = {
        **own,
        **(group.get("labels") or {}),
        "app.kubernetes.io/created-by": "kuberay-operator",
        "app.kubernetes.io/name": own.get("app.kubernetes.io/name", "kuberay"),
        "ray.io/cluster": cluster.name,
        "ray.io/group": made.group,
        "ray.io/identifier": f"{cluster.name}-{made.kind}",
        "ray.io/is-ray-node": "yes",
        "ray.io/node-type": made.kind,
    }
    names = ["gcs-server", "dashboard", "client", "metrics"] if made.kind == "head" else ["metrics"]
    main = {
        "name": container["name"],
        "command": ["/bin/bash", "-c", "--"],
        "args": [ULIMIT + made.command],
        "env": _environment(cluster, group, made),
        "ports": [{"name": name, "containerPort": PORTS[name], "protocol": "TCP"} for name in names],
        "resources": container.get("resources", {}),
        **_probes(5 if made.kind == "head" else 2),
        **_shared_memory(group),
    }
    return {"metadata": {"name": made.pod, "labels": labels}, "spec": {**_volumes(group), "containers": [main]}}


def _environment(cluster: Cluster, group: Manifest, made: _Made) -> list[Manifest]:
    own = [*_own(group), *_auth(cluster)]
    where = f"{cluster.head_name if made.kind == 'worker' else '127.0.0.1'}:{GCS_PORT}"
    added = [
        *(_of_head(cluster) if made.kind == "worker" else []),
        _field("RAY_CLUSTER_NAME", "metadata.labels['ray.io/cluster']"),
        _field("RAY_CLUSTER_NAMESPACE", "metadata.namespace"),
        _field("RAY_CLOUD_INSTANCE_ID", "metadata.name"),
        _field("RAY_NODE_TYPE_NAME", "metadata.labels['ray.io/group']"),
        {"name": "KUBERAY_GEN_RAY_START_CMD", "value": made.command},
        {"name": "RAY_PORT", "value": str(GCS_PORT)},
        {"name": "RAY_ADDRESS", "value": where},
        {"name": "RAY_USAGE_STATS_KUBERAY_IN_USE", "value": "1"},
        *([_value("RAY_USAGE_STATS_EXTRA_TAGS", f"kuberay_version={OPERATOR};kuberay_crd=RayJob")]
          if made.kind == "head" else []),
        {"name": "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE", "value": "1"},
    ]  # fmt: skip
    known = {variable["name"] for variable in own}
    return own + [variable for variable in added if variable["name"] not in known]


def _own(group: Manifest) -> list[Manifest]:
    return list(group["template"]["spec"]["containers"][0].get("env") or [])


def _of_head(cluster: Cluster) -> list[Manifest]:
    return [_value("FQ_RAY_IP", cluster.head_name), _value("RAY_IP", cluster.service)]


def _auth(cluster: Cluster) -> list[Manifest]:
    if not cluster.secured:
        return []
    reference = {"secretKeyRef": {"name": cluster.name, "key": "auth_token"}}
    return [_value("RAY_AUTH_MODE", "token"), {"name": "RAY_AUTH_TOKEN", "valueFrom": reference}]


def _value(name: str, value: str) -> Manifest:
    return {"name": name, "value": value}


def _field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _probes(timeout: int) -> Manifest:
    get = {"path": "/api/healthz", "port": AGENT_PORT, "scheme": "HTTP"}
    every = {"httpGet": get, "periodSeconds": 5, "successThreshold": 1, "timeoutSeconds": timeout}
    return {
        "livenessProbe": {**every, "failureThreshold": 120, "initialDelaySeconds": 30},
        "readinessProbe": {**every, "failureThreshold": 10, "initialDelaySeconds": 10},
    }


def _shared_memory(group: Manifest) -> Manifest:
    mounts = list(group["template"]["spec"]["containers"][0].get("volumeMounts") or [])
    if all(mount["mountPath"] != "/dev/shm" for mount in mounts):
        mounts.append({"name": SHARED_MEMORY, "mountPath": "/dev/shm"})
    return {"volumeMounts": mounts}


def _volumes(group: Manifest) -> Manifest:
    """The group's own volumes, and memory for Ray's object store where the group brings none."""
    spec = group["template"]["spec"]
    volumes = list(spec.get("volumes") or [])
    if any(mount["name"] == SHARED_MEMORY for mount in _shared_memory(group)["volumeMounts"]):
        size = spec["containers"][0]["resources"]["limits"]["memory"]
        volumes.append({"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": size}})
    return {"volumes": volumes}


# Commands ---------------------------------------------------------------------------------------------------------


def start_command(group: Manifest, given: Mapping[str, str], head: bool) -> str:
    """`ray start` with the parameters of a group, sorted, and what the operator adds to them."""
    resources = group["template"]["spec"]["containers"][0].get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    cpus = limits.get("cpu") or requests.get("cpu")
    gpus = next((count for name, count in sorted(limits.items()) if name.endswith("gpu") and amount(count)), None)
    found = {"num-cpus": cpus, "memory": limits.get("memory"), "num-gpus": gpus}
    labels = ",".join(f"{name}={value}" for name, value in sorted((group.get("labels") or {}).items()))
    parameters = {
        "metrics-export-port": "8080",
        "dashboard-agent-listen-port": str(AGENT_PORT),
        **{name: str(math.ceil(amount(value) - 1e-9)) for name, value in found.items() if value is not None},
        **given,
        **(group.get("rayStartParams") or {}),
        "block": "true",
        **({"labels": labels} if labels else {}),
    }
    flags = "".join(_flag(name, str(value)) for name, value in sorted(parameters.items()))
    return ("ray start --head " if head else "ray start ") + flags


def _flag(name: str, value: str) -> str:
    if value.lower() in ("true", "false") and name not in BOOLEANS_WITH_A_VALUE:
        return f" --{name} " if value.lower() == "true" else ""
    return f" --{name}={value} "


def amount(quantity: object) -> float:
    """A Kubernetes quantity such as 500m or 8Gi as a number."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", str(quantity))
    if found is None:
        raise ValueError(f"{quantity!r} is not a Kubernetes quantity")
    return float(found[1]) * _UNITS[found[2] or ""]


def _wait_for_gcs(address: str) -> str:
    """The operator's loop, with its own white space."""
    faq = "https://docs.ray.io/en/master/cluster/kubernetes/troubleshooting.html"
    lines = [
        (5, "SECONDS=0"),
        (5, "while true; do"),
        (6, "if (( SECONDS <= 120 )); then"),
        (7, f"if ray health-check --address {address} > /dev/null 2>&1; then"),
        (8, 'echo "GCS is ready."'),
        (8, "break"),
        (7, "fi"),
        (7, 'echo "$SECONDS seconds elapsed: Waiting for GCS to be ready."'),
        (6, "else"),
        (7, f"if ray health-check --address {address}; then"),
        (8, 'echo "GCS is ready. Any error messages above can be safely ignored."'),
        (8, "break"),
        (7, "fi"),
        (7, 'echo "$SECONDS seconds elapsed: Still waiting for GCS to be ready. '
            f'For troubleshooting, refer to the FAQ at {faq}."'),
        (6, "fi"),
        (6, "sleep 5"),
        (5, "done"),
        (4, ""),
    ]  # fmt: skip
    return "\n" + "\n".join("\t" * depth + line for depth, line in lines)


# The job ----------------------------------------------------------------------------------------------------------


def submitter(cluster: Cluster) -> Manifest:
    """The Kubernetes Job that submits the RayJob's entrypoint and follows its log."""
    own: Manifest = cluster.job["spec"].get("submitterPodTemplate") or {}
    container = ((own.get("spec") or {}).get("containers") or [{}])[0]
    main = {
        "name": container.get("name", "ray-job-submitter"),
        "command": ["/bin/bash", "-ce", "--"],
        "args": [submit_script(cluster)],
        "env": [
            *(container.get("env") or []),
            _value("PYTHONUNBUFFERED", "1"),
            _value("RAY_DASHBOARD_ADDRESS", cluster.dashboard),
            _value("RAY_JOB_SUBMISSION_ID", cluster.submission),
            *_auth(cluster),
        ],
    }
    labels = {
        "app.kubernetes.io/created-by": "kuberay-operator",
        "ray.io/originated-from-cr-name": cluster.job["metadata"]["name"],
        "ray.io/originated-from-crd": "RayJob",
    }
    pod = {"spec": {"restartPolicy": "Never", "containers": [main]}}
    spec = {"backoffLimit": 2, "template": pod}
    return {"kind": "Job", "metadata": {"name": cluster.job["metadata"]["name"], "labels": labels}, "spec": spec}


def submit_script(cluster: Cluster) -> str:
    """What the submitter's shell runs: wait for the head, submit unless that was done, follow the log."""
    spec, address = cluster.job["spec"], f"http://{cluster.dashboard}"
    probe = (
        f"import urllib.request; r=urllib.request.urlopen('{address}/api/gcs_healthz', timeout=10); "
        "exit(0 if b'success' in r.read() else 1)"
    )
    wait = f'"Waiting for Ray Dashboard GCS to become healthy at {address} ..."'
    submit = [f"ray job submit --address {address} --no-wait"]
    if spec.get("runtimeEnvYAML"):
        submit.append(f"--runtime-env-json {_quoted(_compact(yaml.safe_load(spec['runtimeEnvYAML'])))}")
    if spec.get("metadata"):
        submit.append(f"--metadata-json {_quoted(_compact(spec['metadata']))}")
    submit.append(f"--submission-id {cluster.submission} -- {spec['entrypoint'].strip()}")
    return (
        f'until python -c "{probe}" >/dev/null 2>&1 ; do echo {wait} ; sleep 2 ; done ; '
        f"if ! ray job status --address {address} {cluster.submission} >/dev/null 2>&1 ; "
        f"then {' '.join(submit)} ; fi ; "
        f"ray job logs --address {address} --follow {cluster.submission}"
    )


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _quoted(text: str) -> str:
    """As Go quotes printable text."""
    return json.dumps(text, ensure_ascii=False)


def service(cluster: Cluster) -> Manifest:
    """The headless service by which pods find the head."""
    selector = {
        "app.kubernetes.io/created-by": "kuberay-operator",
        "app.kubernetes.io/name": "kuberay",
        "ray.io/cluster": cluster.name,
        "ray.io/identifier": f"{cluster.name}-head",
        "ray.io/node-type": "head",
    }
    ports = [
        {"name": name, "port": port, "targetPort": port, "protocol": "TCP", "appProtocol": "tcp"}
        for name, port in PORTS.items()
    ]
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "ports": ports, "selector": selector}
    return {"kind": "Service", "metadata": {"name": cluster.service, "namespace": cluster.namespace}, "spec": spec}


def resolved(variables: Sequence[Manifest], pod: Manifest, secrets: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """Variables as the kubelet gives them to a container. `secrets`: values by name and key; optional ones may lack."""
    found = {}
    for variable in variables:
        source: dict[str, Any] = variable.get("valueFrom") or {}
        if "fieldRef" in source:
            found[variable["name"]] = _field_of(pod, source["fieldRef"]["fieldPath"])
        elif "secretKeyRef" in source:
            reference = source["secretKeyRef"]
            place = (reference["name"], reference["key"])
            if place in secrets or not reference.get("optional"):
                found[variable["name"]] = secrets[place]
        else:
            found[variable["name"]] = variable.get("value", "")
    return found


def _field_of(pod: Manifest, path: str) -> str:
    if label := re.fullmatch(r"metadata\.labels\['(.+)'\]", path):
        return str(pod["metadata"]["labels"][label[1]])
    return str(pod["metadata"][path.removeprefix("metadata.")])
