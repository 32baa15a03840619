"""Where a run happens: nothing here can change what it is, so nothing here is hashed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lcia.sections import Count, Section
from lcia.types import InputError, Parallelism


class PoolConfig(Section):
    """Resources of one pod (KubeRay) that runs Ray workers of one kind."""

    cpu: Count = 4
    memory: str = "16Gi"
    gpu: Annotated[int, Field(ge=0)] = 0
    gpu_type: str | None = None
    gpu_label: str = "nvidia.com/gpu.product"


class SecretKey(Section):
    """An environment variable and the Kubernetes secret that holds its value; no file of ours does."""

    variable: str
    name: str
    key: str


class ClusterConfig(Section):
    """The only block that Kubernetes needs besides the run itself; numbers of pods follow from the launch."""

    image: str
    namespace: str = "lcia"
    overlay: str = "local-kind"
    head: PoolConfig = PoolConfig(cpu=2, memory="8Gi")
    embed: PoolConfig = PoolConfig()
    train: PoolConfig = PoolConfig(cpu=8, memory="64Gi", gpu=1)
    queue: str | None = None
    deadline_seconds: Count = 86_400
    pre_running_deadline_seconds: Count = 3_600
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] = 3_600
    backoff_limit: Annotated[int, Field(ge=0)] = 2
    submission_mode: Literal["K8sJobMode", "HTTPMode"] = "K8sJobMode"
    claim: str = "lcia-runs"
    secrets: tuple[SecretKey, ...] = ()


class TrackingConfig(Section):
    """MLflow. `uri` null: MLFLOW_TRACKING_URI of the environment, else a SQLite file in the storage folder."""

    enabled: bool = True
    uri: str | None = None
    experiment: str = "lcia"


class LaunchConfig(Section):
    """Workers, devices, storage, tracking. The global batch is the run's, whatever stands here."""

    storage: str = "runs"
    ray_address: str | None = None
    num_workers: Count = 1
    train_groups: Count = 1
    parallelism: Parallelism = "ddp"
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    per_device_train_batch_size: Count = 16
    per_device_eval_batch_size: Count = 50
    gradient_checkpointing: bool = False
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    bf16: Literal["auto", "on", "off"] = "auto"
    save_steps: Count = 50
    logging_steps: Count = 5
    eval_actors: Count = 1
    embed_actors: Count = 1
    gpus_per_actor: Annotated[float, Field(ge=0)] = 0
    max_failures: Annotated[int, Field(ge=0)] = 2
    object_store_memory: Annotated[int, Field(ge=80_000_000)] | None = None
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig | None = None

    @model_validator(mode="after")
    def _storage_is_absolute_or_local(self) -> LaunchConfig:
        if self.ray_address and "://" not in self.storage and not os.path.isabs(self.storage):
            raise ValueError(
                f"storage {self.storage!r} is relative, and the workers of a Ray cluster have other working folders: "
                "give an absolute path on a shared volume, or s3:// or gs://"
            )
        return self

    @property
    def root(self) -> str:
        """The storage folder, absolute."""
        return self.storage if "://" in self.storage else str(Path(self.storage).absolute())

    def settled(self) -> LaunchConfig:
        """The same launch with its storage absolute: Ray's workers have working folders of their own."""
        return self.model_copy(update={"storage": self.root})

    @property
    def store_root(self) -> str:
        return f"{self.root}/store"

    @property
    def tracking_uri(self) -> str | None:
        """The MLflow server: the launch's, else that of the environment, whose address may hold a password."""
        return self.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or None

    @property
    def cpus(self) -> float:
        """CPUs that train workers and actors hold together; Ray Data's own tasks need one more."""
        return self.train_groups * self.num_workers * self.cpus_per_worker + self.eval_actors + self.embed_actors

    def check_batch(self, batch_size: int) -> None:
        """Raises InputError if a global batch of `batch_size` cannot be split evenly over the workers."""
        if batch_size % self.num_workers:
            raise InputError(
                f"training.batch_size {batch_size} cannot be split over launch.num_workers {self.num_workers}: "
                "make the batch a multiple of the workers"
            )
