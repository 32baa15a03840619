"""Where a run happens: nothing here can change what it is, so nothing here is hashed."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lcia.addresses import anchored, is_anchored
from lcia.config.sections import Count, Section
from lcia.types import InputError, Parallelism
from pipelines.cluster import ClusterConfig
from pipelines.placement import Demand

CPUS_PER_ACTOR = 1


class TrackingConfig(Section):
    """MLflow. `uri` null: MLFLOW_TRACKING_URI of the environment, else a SQLite file in the storage folder."""

    enabled: bool = True
    """false: no MLflow."""
    uri: str | None = None
    """Address of an MLflow server, or sqlite:///FILE; null: MLFLOW_TRACKING_URI of the environment, else mlflow.db in
    the storage folder.
    """
    experiment: str = "lcia"
    """Name of the MLflow experiment."""

    @classmethod
    def _instead(cls, address: str) -> str:
        if address.startswith(("http://", "https://")):
            return "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
        return "MLFLOW_TRACKING_URI in the environment, with tracking.uri null"


class LaunchConfig(Section):
    """Workers, devices, storage, tracking. The global batch is the run's, whatever stands here."""

    storage: str = "runs"
    """Where results, checkpoints and run folders lie: a folder, or a URL that all workers can write."""
    ray_address: str | None = None
    """Address of a Ray cluster that stands (`auto`, `ray://HOST:10001`); null: RAY_ADDRESS of the environment, else a
    Ray on this machine.
    """
    ray_auth: Literal["token", "none"] = "token"
    """What a Ray that listens beyond loopback must ask of who talks to it: a `token`, or nothing. Without one, who
    reaches its ports runs code there, so such a cluster is refused unless this is `none`. With a `cluster:` block the
    operator (KubeRay 1.5 or later) makes the token.
    """
    num_workers: Count = 1
    """Training workers of one stage; they share the global batch. A fixed number: docs/kubernetes.md says why."""
    train_groups: Count = 1
    """Stages trained side by side, each by `num_workers` workers."""
    parallelism: Parallelism = "ddp"
    """Whether a worker holds the whole model (`ddp`) or a shard of it (`fsdp2`, docs/sharding.md)."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    """CPUs of a training worker."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs of a training worker."""
    per_device_train_batch_size: Count = 16
    """Most rows that a worker computes at once; the rest of its share is accumulated."""
    per_device_eval_batch_size: Count = 50
    """Rows that an evaluation actor answers at once."""
    merge_adapters: bool = False
    """Whether an evaluation actor adds an adapter to the weights of its base while whole batches in a row are its own.
    That answers faster and takes memory for a second copy of the tuned weights. It rounds otherwise, in bfloat16
    visibly: where two words are nearly as likely, another may be answered, and stored results do not tell.
    """
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: slower, less memory."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """Which attention of transformers; null: its choice."""
    save_steps: Count = 50
    """Steps between two checkpoints of a stage."""
    logging_steps: Count = 5
    """Steps between two lines of a stage's log."""
    eval_actors: Count = 1
    """Actors that answer test rows; each holds the whole model."""
    embed_actors: Count = 1
    """Actors that embed instructions with a model."""
    gpus_per_actor: Annotated[float, Field(ge=0)] = 0
    """GPUs of an actor; a part of one is allowed."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """How often a stage's workers are started again before the stage counts as failed."""
    max_preemptions: Annotated[int, Field(ge=0)] | None = None
    """The same for workers whose node was taken away with a notice; null: as often as it happens."""
    cache_shards: bool = False
    """Whether workers and actors first copy the shards of a stage whole into the temporary folder of their machine.
    false: they read from `storage` the rows that they need, each with its checksum. Without effect where `storage` is a
    folder.
    """
    object_store_memory: Annotated[int, Field(ge=80_000_000)] | None = None
    """Bytes of Ray's object store; null: Ray's choice."""
    tracking: TrackingConfig = TrackingConfig()
    """MLflow."""
    cluster: ClusterConfig | None = None
    """Pods and image of a RayJob; null: no Kubernetes."""

    @model_validator(mode="before")
    @classmethod
    def _bf16_has_moved(cls, values: Any) -> Any:
        if isinstance(values, dict) and "bf16" in values:
            raise ValueError(
                "bf16 changes results, so it is a key of the run now: take it out of the launch file and put "
                "training.bf16 (true or false) into the run's configuration"
            )
        return values

    @field_validator("num_workers", mode="before")
    @classmethod
    def _workers_are_not_elastic(cls, value: Any) -> Any:
        if isinstance(value, list | tuple | dict) or (isinstance(value, str) and not value.strip().isdigit()):
            raise ValueError(
                "the number of workers is fixed: sums over another number of workers round differently, and a result "
                "must not depend on which nodes were free. Give one number, and grow by train_groups"
            )
        return value

    @field_validator("gpus_per_worker", "gpus_per_actor")
    @classmethod
    def _gpus_are_whole_or_a_part_of_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("Ray takes whole GPUs, or a part of one")
        return value

    @model_validator(mode="after")
    def _storage_is_absolute_or_local(self) -> LaunchConfig:
        if self.ray_address and not is_anchored(self.storage):
            raise ValueError(
                f"storage {self.storage!r} is relative, and the workers of a Ray cluster have other working folders: "
                "give an absolute path on a shared volume, or s3:// or gs://"
            )
        return self

    @property
    def root(self) -> str:
        """The storage folder, absolute."""
        return anchored(self.storage)

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

    def workers(self) -> Demand:
        """What the training workers of all groups hold."""
        return Demand(
            "training workers", self.train_groups * self.num_workers, self.cpus_per_worker, self.gpus_per_worker
        )

    def actors(self, embed: bool) -> Demand:
        """What the actors hold that answer and, where models `embed`, those that embed."""
        return Demand(
            "actors", self.eval_actors + (self.embed_actors if embed else 0), CPUS_PER_ACTOR, self.gpus_per_actor
        )

    def check_batch(self, batch_size: int) -> None:
        """Raises InputError if a global batch of `batch_size` cannot be split evenly over the workers."""
        if batch_size % self.num_workers:
            sizes = [size for size in nearest_multiples(batch_size, self.num_workers) if size]
            raise InputError(
                f"training.batch_size {batch_size} cannot be split over launch.num_workers {self.num_workers}: take "
                f"{_or(nearest_divisors(batch_size, self.num_workers))} workers, which changes no result beyond "
                f"rounding, or a batch of {_or(sizes)}, which does"
            )


def nearest_divisors(value: int, near: int) -> list[int]:
    """The divisors of `value` just below and, if there is one, just above `near`, which is none itself."""
    found = [count for count in range(1, value + 1) if value % count == 0]
    return [max(count for count in found if count < near), *[count for count in found if count > near][:1]]


def nearest_multiples(value: int, of: int) -> tuple[int, int]:
    """The multiples of `of` just below and above `value`; the lower one may be 0."""
    return value // of * of, value // of * of + of


def _or(numbers: list[int]) -> str:
    return " or ".join(map(str, numbers))
