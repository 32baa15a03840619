"""How many pods a launch needs, and whether Ray could ever place its workers on them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lcia.addresses import is_url
from lcia.config.run import RunConfig
from lcia.types import InputError
from pipelines.cluster import CLAIM_PATH, ClusterConfig, PoolConfig
from pipelines.launch import LaunchConfig
from pipelines.placement import Demand

ACTOR_POOL, TRAIN_POOL = "embed", "train"
HEAD_MEMORY = 8 * 2**30
STORE_LIMIT = 0.8
"""Ray refuses an object store that leaves its workers less than a fifth of the memory."""

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True, slots=True)
class Pool:
    """A worker group: `pods` equal pods, `memory` bytes each."""

    name: str
    pods: int
    config: PoolConfig
    memory: int


def memory_bytes(quantity: str) -> int:
    """Bytes of a Kubernetes memory quantity such as 64Gi."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(k|M|G|T|Ki|Mi|Gi|Ti)?", quantity)
    if found is None:
        raise InputError(f"memory {quantity!r} is not a Kubernetes quantity: write for example 16Gi or 500M")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def pools(runs: Sequence[RunConfig], launch: LaunchConfig, cluster: ClusterConfig) -> list[Pool]:
    """The worker groups of a job in a fixed order; runs that train nothing have no train group.

    Raises InputError for what no cluster can place.
    """
    _check_storage(launch.storage)
    _check_head(cluster.head)
    for size in {size for run in runs for size in run.training.batch_sizes}:
        launch.check_batch(size)
    needed = [_pool(ACTOR_POOL, cluster.embed, launch.actors(embed=any(run.grouping.enabled for run in runs)))]
    if any(run.trains for run in runs):
        needed.append(_pool(TRAIN_POOL, cluster.train, launch.workers()))
    for pool in needed:
        _check_store(pool, launch.object_store_memory)
    return needed


def _pool(name: str, config: PoolConfig, demand: Demand) -> Pool:
    _check_gpus(name, config, demand)
    fit = _per_pod(config, demand)
    if fit == 0:
        raise InputError(
            f"cluster.{name}: one worker asks for {demand.cpus:g} CPU and {demand.gpus:g} GPU, a pod has {config.cpu} "
            f"CPU and {config.gpu} GPU, so it could never be placed: enlarge the pod or ask for less"
        )
    # Ray Data's own tasks take a CPU beside the actors, and neither the head nor a training gang has one to spare.
    spare = 1 if name == ACTOR_POOL else 0
    pods = max(math.ceil(demand.count / fit), math.ceil((demand.count * demand.cpus + spare) / config.cpu))
    return Pool(name, pods, config, memory_bytes(config.memory))


def _per_pod(config: PoolConfig, demand: Demand) -> int:
    # A hair more than nothing, because 0.3 / 0.1 lies just below 3.
    by_cpu = math.floor(config.cpu / demand.cpus + 1e-9)
    return min(by_cpu, math.floor(config.gpu / demand.gpus + 1e-9)) if demand.gpus else by_cpu


def _check_gpus(name: str, config: PoolConfig, demand: Demand) -> None:
    if config.gpu and not demand.gpus:
        key = "gpus_per_worker" if name == TRAIN_POOL else "gpus_per_actor"
        raise InputError(f"cluster.{name}.gpu is {config.gpu} but {key} is 0, so its GPUs would idle: set either")


def _check_head(head: PoolConfig) -> None:
    if memory_bytes(head.memory) < HEAD_MEMORY:
        raise InputError(f"cluster.head.memory {head.memory} is too small for driver and GCS: give at least 8Gi")
    if head.gpu:
        raise InputError("cluster.head.gpu must be 0: no task runs on the head")


def _check_storage(storage: str) -> None:
    if is_url(storage) or storage == CLAIM_PATH or storage.startswith(f"{CLAIM_PATH}/"):
        return
    raise InputError(
        f"storage {storage!r} lies on no volume that all pods share: use a folder under {CLAIM_PATH} (the claim) "
        "or s3:// or gs://"
    )


def _check_store(pool: Pool, object_store_memory: int | None) -> None:
    if object_store_memory and object_store_memory > STORE_LIMIT * pool.memory:
        raise InputError(
            f"object_store_memory {object_store_memory} does not fit cluster.{pool.name}.memory {pool.config.memory}: "
            f"give at most {int(STORE_LIMIT * pool.memory)}"
        )
