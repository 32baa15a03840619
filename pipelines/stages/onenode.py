"""Ray Train on one machine: workers meet in a file, not at an open port, and torch is imported by workers only.

Ray's TorchTrainer imports torch in the driver and in the controller as well, and starts actors for datasets and for
clusters that lose nodes: some ten CPU-seconds before the first step, on a machine that has two cores perhaps.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback)
"""Rows are read by number, without Ray Data; and placement groups end with the Ray that one session has started."""

PARTING_SECONDS = 30.0


class OneNodeTrainer(DataParallelTrainer):  # type: ignore[misc]  # Ray carries no types here
    """As TorchTrainer, for workers of one machine. `folder`: a private one, for the files in which workers meet."""

    def __init__(self, loop: Callable[[dict[str, Any]], None], *, folder: str, **options: Any) -> None:
        super().__init__(loop, backend_config=OneNodeConfig(folder), **options)

    def _create_default_callbacks(self) -> list[Any]:
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, UNUSED)]


@dataclass
class OneNodeConfig(BackendConfig):  # type: ignore[misc]
    """What TorchConfig is to torch's backend."""

    folder: str
    timeout_s: int = 1800

    @property
    def backend_cls(self) -> type[_OneNodeBackend]:
        return _OneNodeBackend

    @property
    def train_func_context(self) -> Callable[[], contextlib.AbstractContextManager[None]]:
        return _on_own_device


class _OneNodeBackend(Backend):  # type: ignore[misc]
    """As torch's backend, without TCPStore, which would listen on all interfaces and ask for no token."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: OneNodeConfig) -> None:
        on_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        meeting = Path(backend_config.folder) / f"workers-{uuid.uuid4().hex}"
        ray.get([
            worker_group.execute_single_async(
                rank, _meet, backend="nccl" if on_gpus else "gloo", world_rank=rank, world_size=len(worker_group),
                init_method=f"file://{meeting}", timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ])  # fmt: skip

    def on_shutdown(self, worker_group: Any, backend_config: OneNodeConfig) -> None:
        parted = worker_group.execute_async(_part, len(worker_group) > 1)
        # Workers that were killed, or wait for one that was, do not part; they are ended all the same.
        with contextlib.suppress(ray.exceptions.GetTimeoutError):
            ray.get(parted, timeout=PARTING_SECONDS)


def _part(destroy_process_group: bool) -> None:
    """In a worker."""
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(destroy_process_group)


def _meet(**how: Any) -> None:
    """In a worker."""
    from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group

    _set_torch_distributed_env_vars()
    _setup_torch_process_group(**how)


@contextlib.contextmanager
def _on_own_device() -> Iterator[None]:
    """In a worker, around its loop."""
    from ray.train.torch.config import TorchConfigContextManager

    with TorchConfigContextManager():
        yield
