"""The `cluster:` block of a launch file: pods, image, volumes and schedule of a RayJob."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lcia.config.sections import Count, Section
from lcia.secrets import looks_secret

CLAIM_PATH, CONFIG_PATH = "/mnt/lcia", "/etc/lcia"
"""Where every pod finds the shared volume, and its two configuration files."""
OUR_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/part-of", "lcia/run", "lcia/pool")


class TolerationConfig(Section):
    """A taint of nodes that pods of a pool put up with."""

    key: str
    """Key of the taint."""
    operator: Literal["Equal", "Exists"] = "Exists"
    """Whether the taint's value must equal `value`, or may be any."""
    value: str | None = None
    """Value of the taint; with `Equal` only."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; null: every effect."""


class PoolConfig(Section):
    """Resources of one pod (KubeRay) that runs Ray workers of one kind."""

    cpu: Count = 4
    """CPUs of a pod."""
    memory: str = "16Gi"
    """Memory of a pod, as Kubernetes writes it: 16Gi, 500M."""
    gpu: Annotated[int, Field(ge=0)] = 0
    """GPUs of a pod."""
    gpu_type: str | None = None
    """Only nodes whose `gpu_label` has this value; null: any node."""
    gpu_label: str = "nvidia.com/gpu.product"
    """Label of nodes that names the type of their GPUs."""
    ephemeral_storage: str | None = None
    """Disk of a pod for Ray's logs, spilled objects and fetched shards, requested and limited: 50Gi; null: the node's
    default.
    """
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that the nodes of these pods must have."""
    tolerations: tuple[TolerationConfig, ...] = ()
    """Taints of nodes that these pods put up with; the one of NVIDIA's GPU nodes is added where a pod has GPUs."""
    spread_over: str | None = None
    """Label of nodes over whose values the pods of the pool are spread evenly where there is room, such as
    `kubernetes.io/hostname` or `topology.kubernetes.io/zone`; null: as the scheduler likes.
    """
    notice_seconds: Annotated[int, Field(ge=0)] = 0
    """Seconds that a pod of the pool lives on after it was told to end, for spot nodes: Ray gets a notice at once, and
    the stage in training saves a checkpoint at its next step. 0: no notice.
    """


class SecretKey(Section):
    """An environment variable and the Kubernetes secret that holds its value; no file of ours does."""

    variable: str
    """Environment variable of the pods."""
    name: str
    """Name of the Kubernetes secret."""
    key: str
    """Key in that secret."""


class VolumeConfig(Section):
    """A PersistentVolumeClaim that every Ray pod mounts beside the one for the runs: data, models."""

    claim: str
    """Name of the PersistentVolumeClaim."""
    path: str
    """Where the pods find it: an absolute path."""
    read_only: bool = True
    """false: the pods may write to it."""

    @field_validator("path")
    @classmethod
    def _is_a_place_of_its_own(cls, path: str) -> str:
        taken = [place for place in (CLAIM_PATH, CONFIG_PATH) if f"{path.rstrip('/')}/".startswith(f"{place}/")]
        if not path.startswith("/") or taken or not path.strip("/"):
            raise ValueError(f"give an absolute path that does not lie in {CLAIM_PATH} or {CONFIG_PATH}")
        return path.rstrip("/")


class HistoryServerConfig(Section):
    """KubeRay's collector beside every Ray pod: it keeps logs and events for the history server after the pods went."""

    image: str | None = None
    """Image of the collector; null: the operator's own."""
    env: dict[str, str] = Field(default_factory=dict)
    """Variables of the collector, such as the bucket that it writes to."""
    secrets: tuple[SecretKey, ...] = ()
    """Variables of the collector that come from Kubernetes secrets."""

    @field_validator("env")
    @classmethod
    def _env_holds_no_secret(cls, env: dict[str, str]) -> dict[str, str]:
        return _plain(env, "cluster.history_server.secrets")


class ClusterConfig(Section):
    """The only block that Kubernetes needs besides the run itself; numbers of pods follow from the launch."""

    image: str
    """Container image, with a fixed tag or a digest."""
    image_by_digest: bool = False
    """Whether images must be named by their digest, `NAME@sha256:...`: nobody can move it, as a tag can be moved."""
    namespace: str = "lcia"
    """Kubernetes namespace."""
    head: PoolConfig = PoolConfig(cpu=2, memory="8Gi")
    """The pod of the Ray head, which runs no tasks."""
    embed: PoolConfig = PoolConfig()
    """Pods of the actors that embed and answer."""
    train: PoolConfig = PoolConfig(cpu=8, memory="64Gi", gpu=1)
    """Pods of the training workers."""
    queue: str | None = None
    """Name of the Kueue queue; null: none."""
    deadline_seconds: Count = 86_400
    """The job is stopped after so long."""
    pre_running_deadline_seconds: Count = 3_600
    """The job is stopped if its pods do not run after so long."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] = 3_600
    """How long the cluster stays after the end."""
    backoff_limit: Annotated[int, Field(ge=0)] = 2
    """How often a failed job is started again; it continues from the storage."""
    submission_mode: Literal["K8sJobMode", "HTTPMode"] = "K8sJobMode"
    """How the operator hands the command to Ray: by a pod of its own, or over HTTP."""
    claim: str = "lcia-runs"
    """Name of the PersistentVolumeClaim mounted in every pod at /mnt/lcia."""
    volumes: tuple[VolumeConfig, ...] = ()
    """More volumes of every Ray pod."""
    data: dict[str, str] = Field(default_factory=dict)
    """Where the pods find what lies elsewhere on this machine: `/home/me/coin: /mnt/lcia/data/coin`. Paths of the
    run that lie in a key are rewritten to its value.
    """
    secrets: tuple[SecretKey, ...] = ()
    """Environment variables that come from Kubernetes secrets."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of every Ray pod that anybody may read."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the job and all of its pods, beside our own."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations of the job and all of its pods."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of the Kubernetes secrets that open the registry of the image."""
    priority_class: str | None = None
    """PriorityClass of all pods; null: the cluster's default."""
    history_server: HistoryServerConfig | None = None
    """Keep logs and events for KubeRay's history server; the operator needs its gate RayClusterHistoryServer. null:
    Ray's logs go with the pods.
    """
    schedule: str | None = None
    """When `--target raycronjob` starts the job again, as cron writes it: `0 2 * * *` is every night at two."""
    time_zone: str | None = None
    """Time zone of `schedule`: Europe/Berlin; null: that of the operator."""

    @model_validator(mode="after")
    def _images_have_digests(self) -> ClusterConfig:
        images = [self.image, self.history_server.image if self.history_server else None]
        if self.image_by_digest and (moving := [image for image in images if image and "@sha256:" not in image]):
            raise ValueError(
                f"{', '.join(moving)}: image_by_digest asks for NAME@sha256:DIGEST; `docker buildx imagetools inspect "
                "NAME:TAG` prints the digest"
            )
        return self

    @field_validator("env")
    @classmethod
    def _env_holds_no_secret(cls, env: dict[str, str]) -> dict[str, str]:
        return _plain(env, "cluster.secrets")

    @field_validator("labels")
    @classmethod
    def _labels_are_not_ours(cls, labels: dict[str, str]) -> dict[str, str]:
        if taken := sorted(set(labels) & set(OUR_LABELS)):
            raise ValueError(f"{', '.join(taken)}: lcia sets this itself; choose another name")
        return labels

    @field_validator("data")
    @classmethod
    def _data_maps_whole_places(cls, data: dict[str, str]) -> dict[str, str]:
        for here, there in data.items():
            if not here.startswith("/") or not (there.startswith("/") or "://" in there):
                raise ValueError(f"{here}: {there}: map an absolute path here to an absolute path or a URL there")
        return {here.rstrip("/"): there.rstrip("/") for here, there in data.items()}


def _plain(env: dict[str, str], instead: str) -> dict[str, str]:
    if secret := sorted(filter(looks_secret, env)):
        raise ValueError(f"{', '.join(secret)} looks like a secret, and manifests are read by many: use {instead}")
    return env
