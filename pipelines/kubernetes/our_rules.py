"""What KubeRay would accept and what would still fail, leak or starve: our own rules for a RayJob."""

from __future__ import annotations

import re

import yaml

from lcia.secrets import looks_secret
from pipelines.kubernetes.manifest import HEAD, Job, Manifest, Rule, complaint_if, containers_of, variables

SHELL = re.compile(r"[$;&|`<>\n]")
OPEN_RAY = "lcia/ray-without-token"
"""Annotation of a job whose Ray is to serve all who reach it."""


def config_maps_are_given(job: Job, present: set[str]) -> list[str]:
    """`present`: names of the ConfigMaps among the manifests."""
    volumes = [volume for group in job.groups.values() for volume in job.pod(group).get("volumes") or []]
    wanted = {volume["configMap"]["name"] for volume in volumes if volume.get("configMap")}
    return [f"ConfigMap {name} is mounted but not among the manifests: add it" for name in sorted(wanted - present)]


def ray_version_is_set(job: Job) -> list[str]:
    """Without it the operator's probes call wget, which the image does not have."""
    wrong = bool(job.cluster) and not job.cluster.get("rayVersion")
    return complaint_if(wrong, "rayVersion is not set: give the version of Ray in the image")


def images_are_pinned(job: Job) -> list[str]:
    wrong = [(name, image) for name, image in _images(job) if not _tag(image)]
    return [f"group {name}: image {image!r} has no fixed tag: name a version or a digest" for name, image in wrong]


def ray_images_have_the_version(job: Job) -> list[str]:
    version = str(job.cluster.get("rayVersion"))
    wrong = [image for _, image in _images(job) if "rayproject/ray" in image and not _tag(image).startswith(version)]
    return [f"image {image} is not of rayVersion {version}: make them equal" for image in wrong]


def _images(job: Job) -> list[tuple[str, str]]:
    return [(n, str(c.get("image") or "")) for n, group in job.groups.items() for c in containers_of(group)]


def _tag(image: str) -> str:
    """The tag or digest, empty where what it names may change."""
    if "@" in image:
        return image.rpartition("@")[2]
    tag = image.rpartition("/")[2].partition(":")[2]
    return "" if tag == "latest" else tag


def head_runs_no_tasks(job: Job) -> list[str]:
    wrong = bool(job.cluster) and job.start(job.head).get("num-cpus") != "0"
    return complaint_if(wrong, 'the head must have rayStartParams num-cpus "0"')


def shared_memory_is_the_operators(job: Job) -> list[str]:
    def mounts(group: Manifest) -> list[str]:
        return [mount.get("mountPath", "") for c in containers_of(group) for mount in c.get("volumeMounts") or []]

    wrong = [name for name, group in job.groups.items() if "/dev/shm" in mounts(group)]
    return [f"group {name} mounts /dev/shm, which the operator does itself: remove the mount" for name in wrong]


def training_has_an_object_store(job: Job) -> list[str]:
    wrong = [g for g in job.workers if g.get("groupName") == "train" and "object-store-memory" not in job.start(g)]
    return complaint_if(bool(wrong), "group train has no object-store-memory: set it in rayStartParams")


def training_has_a_fixed_size(job: Job) -> list[str]:
    """A gang with a pod missing cannot start, so a smaller one only wastes GPUs."""
    gangs = [group for group in job.workers if group.get("groupName") == "train"]
    wrong = any(len({g.get(k) for k in ("replicas", "minReplicas", "maxReplicas")}) > 1 for g in gangs)
    return complaint_if(wrong, "group train must have replicas = minReplicas = maxReplicas")


def secrets_come_by_reference(job: Job) -> list[str]:
    found = {name for group in job.groups.values() for name, value in variables(group).items() if value is not None}
    return [f"{name} looks like a secret and stands in the manifest: use secretKeyRef" for name in _secrets(found)]


def runtime_env_holds_no_secret(job: Job) -> list[str]:
    """The dashboard shows the runtime environment to everybody."""
    found = set(_runtime_env(job).get("env_vars") or {})
    return [f"{name} looks like a secret and stands in runtimeEnvYAML: use secretKeyRef" for name in _secrets(found)]


def runtime_env_holds_variables_only(job: Job) -> list[str]:
    extra = sorted(set(_runtime_env(job)) - {"env_vars"})
    return complaint_if(bool(extra), f"runtimeEnvYAML holds {', '.join(extra)}: that belongs in the image")


def _runtime_env(job: Job) -> Manifest:
    try:
        parsed = yaml.safe_load(job.spec.get("runtimeEnvYAML") or "{}")
    except yaml.YAMLError:
        return {}  # the operator's rule reports it
    return parsed if isinstance(parsed, dict) else {}


def _secrets(names: set[str]) -> list[str]:
    return sorted(name for name in names if looks_secret(name))


def entrypoint_needs_no_shell(job: Job) -> list[str]:
    entrypoint = str(job.spec.get("entrypoint") or "").strip()
    wrong = not entrypoint or SHELL.search(entrypoint) is not None
    return complaint_if(wrong, "the entrypoint is empty or has characters that a shell expands: write a plain command")


def ray_asks_for_a_token(job: Job) -> list[str]:
    """In a pod Ray listens on all interfaces."""
    says_so = str(job.annotations.get(OPEN_RAY) or "").lower() == "true"
    return complaint_if(
        job.auth_mode != "token" and not says_so,
        "who reaches the head's ports runs code in its pods: set rayClusterSpec.authOptions.mode to token (KubeRay 1.5 "
        f'or later), or say that you want it so with the annotation {OPEN_RAY}: "true"',
    )


def token_auth_is_not_overridden(job: Job) -> list[str]:
    """The operator leaves a variable alone that is already there, and so authentication would silently stay off."""
    names = [n for n, g in job.groups.items() if job.auth_mode == "token" and "RAY_AUTH_MODE" in variables(g)]
    return [f"group {name} sets RAY_AUTH_MODE, which overrides authOptions: remove it" for name in names]


def queued_job_that_grows_says_so(job: Job) -> list[str]:
    """Since its gate ElasticJobsViaWorkloadSlices, Kueue admits autoscaling jobs that carry its annotation."""
    elastic = str(job.annotations.get("kueue.x-k8s.io/elastic-job") or "").lower() == "true"
    wrong = "kueue.x-k8s.io/queue-name" in job.labels and job.autoscales and not elastic
    return complaint_if(
        wrong,
        'Kueue does not admit this autoscaling job: add the annotation kueue.x-k8s.io/elastic-job: "true", which needs '
        "Kueue's gate ElasticJobsViaWorkloadSlices, or remove the queue's label or autoscaling",
    )


def queued_job_leaves_suspend_alone(job: Job) -> list[str]:
    wrong = "kueue.x-k8s.io/queue-name" in job.labels and "suspend" in job.spec
    return complaint_if(wrong, "Kueue itself sets suspend: leave it out")


def pods_are_restricted(job: Job) -> list[str]:
    wrong = [name for name, group in job.groups.items() if not _is_restricted_pod(job.pod(group))]
    return [f"group {name}: the pod needs runAsNonRoot and the seccomp profile RuntimeDefault" for name in wrong]


def containers_are_restricted(job: Job) -> list[str]:
    pairs = [(name, container) for name, group in job.groups.items() for container in containers_of(group)]
    wrong = [name for name, container in pairs if not _is_restricted_container(container)]
    return [f"group {name}: containers need allowPrivilegeEscalation false, capabilities drop [ALL]" for name in wrong]


def _is_restricted_pod(pod: Manifest) -> bool:
    context = pod.get("securityContext") or {}
    profile = (context.get("seccompProfile") or {}).get("type")
    return context.get("runAsNonRoot") is True and profile == "RuntimeDefault"


def _is_restricted_container(container: Manifest) -> bool:
    context = container.get("securityContext") or {}
    dropped = (context.get("capabilities") or {}).get("drop")
    return context.get("allowPrivilegeEscalation") is False and dropped == ["ALL"]


def groups_are_named_apart_from_the_head(job: Job) -> list[str]:
    names = [group.get("groupName") for group in job.workers]
    return complaint_if(HEAD in names or "headgroup" in names, "a worker group has the head's name: rename it")


OUR_RULES: tuple[Rule, ...] = (
    ray_version_is_set,
    images_are_pinned,
    ray_images_have_the_version,
    head_runs_no_tasks,
    shared_memory_is_the_operators,
    training_has_an_object_store,
    training_has_a_fixed_size,
    secrets_come_by_reference,
    runtime_env_holds_no_secret,
    runtime_env_holds_variables_only,
    entrypoint_needs_no_shell,
    ray_asks_for_a_token,
    token_auth_is_not_overridden,
    queued_job_that_grows_says_so,
    queued_job_leaves_suspend_alone,
    pods_are_restricted,
    containers_are_restricted,
    groups_are_named_apart_from_the_head,
)
