"""Training workers of one machine meet in a file, not at an open port, to form their process group."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend


@dataclass
class OneNodeConfig(TorchConfig):  # type: ignore[misc]  # Ray carries no types here
    """As TorchConfig. `folder`: a private one of this machine, for the files in which workers meet."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[_OneNodeBackend]:
        return _OneNodeBackend


class _OneNodeBackend(_TorchBackend):  # type: ignore[misc]
    """As torch's backend, without TCPStore, which would listen on all interfaces and ask for no token."""

    def on_start(self, worker_group: Any, backend_config: OneNodeConfig) -> None:
        on_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        meeting = Path(backend_config.folder) / f"workers-{uuid.uuid4().hex}"
        worker_group.execute(_set_torch_distributed_env_vars)
        ray.get([
            worker_group.execute_single_async(
                rank, _setup_torch_process_group, backend="nccl" if on_gpus else "gloo", world_rank=rank,
                world_size=len(worker_group), init_method=f"file://{meeting}", timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ])  # fmt: skip
