"""Ray Train: one worker group that trains whatever chain of stages the broker hands out, publishing each as it ends.

Starting a group costs most of a minute of imports, a stage costs seconds on the tiny model: groups outlive stages.
"""

from __future__ import annotations

import os
from typing import Any

from pipelines import broker as brokers
from pipelines.launch import LaunchConfig


def serve(launch: LaunchConfig, broker: str, group: str) -> None:
    """Runs a TorchTrainer until the broker closes. Blocks; Ray Train restarts killed workers `max_failures` times.

    Raises:
        ray.train.TrainingFailedError: a stage failed more often than that.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = {"CPU": launch.cpus_per_worker}
    if launch.gpus_per_worker:
        resources["GPU"] = launch.gpus_per_worker
    scaling = ScalingConfig(
        num_workers=launch.num_workers, use_gpu=launch.gpus_per_worker > 0, resources_per_worker=resources
    )
    failures = FailureConfig(max_failures=launch.max_failures, controller_failure_limit=0)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"launch": launch.model_dump(mode="json"), "broker": broker, "group": group},
        scaling_config=scaling,
        run_config=RunConfig(name=f"{broker}-{group}", storage_path=f"{launch.root}/ray", failure_config=failures),
    )
    trainer.fit()


def _work(settings: dict[str, Any]) -> None:
    """The loop of one training worker: ask, train, publish, until the broker says to go home."""
    import ray
    import torch
    from accelerate import Accelerator

    from lcia.fit import FitOptions, fit_stage
    from lcia.stage import TrainStage
    from lcia.store import Store

    launch = LaunchConfig.model_validate(settings["launch"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    # Autocast is the stage's (training.bf16); an environment variable of accelerate must not bring another.
    accelerator = Accelerator(mixed_precision="no", cpu=launch.gpus_per_worker == 0)
    options = FitOptions(
        launch.per_device_train_batch_size, launch.save_steps, launch.logging_steps, launch.parallelism
    )
    broker, store = brokers.connect(settings["broker"]), Store(launch.store_root)
    loaded: dict[str, Any] = {}
    while (order := _next(accelerator, broker, settings["group"])) != {}:
        if order is None:
            continue
        stage = TrainStage.model_validate(order["record"])
        if stage.model_key not in loaded:
            loaded.clear()
            loaded[stage.model_key] = _load(stage, launch, accelerator)

        def observe(progress: Any) -> None:
            broker.report.remote(progress.stage, vars(progress))

        fit_stage(stage, loaded[stage.model_key], store, options, accelerator, observe)
        if accelerator.is_main_process:
            ray.get(broker.finish.remote(stage.key))


def _load(stage: Any, launch: LaunchConfig, accelerator: Any) -> Any:
    """The base of a stage, where the model before it was."""
    from lcia import assistants
    from lcia.parallel import base_device

    # A model is full of cycles: without this its memory would still be taken while the next one is read.
    accelerator.free_memory()
    return assistants.build(
        stage.assistant,
        stage.lora,
        gradient_checkpointing=launch.gradient_checkpointing,
        attn_implementation=launch.attn_implementation,
        device=base_device(launch.parallelism, accelerator),
    )


def _next(accelerator: Any, broker: Any, group: str) -> dict[str, Any] | None:
    """Rank 0 asks the broker and tells the others."""
    import ray
    from accelerate.utils import broadcast_object_list

    order = [ray.get(broker.next_train.remote(group)) if accelerator.is_main_process else None]
    result: dict[str, Any] | None = broadcast_object_list(order)[0]
    return result
