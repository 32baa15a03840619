"""Ray Train: one worker group that trains whatever chain of stages the broker hands out, publishing each as it ends.

Starting a group costs most of a minute of imports, a stage costs seconds on the tiny model: groups outlive stages.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lcia.protocols import Assistant
from lcia.stage import TrainStage
from lcia.store.lease import Lease, SupersededError, unguarded
from pipelines.exits import StageFailedError, describe
from pipelines.launch import LaunchConfig
from pipelines.stages import notices
from pipelines.stages.broker import Broker, BrokerHandle, find_broker
from pipelines.stages.pools import on_pool
from pipelines.stages.work import NotYet, SessionOver, Training, until_over

if TYPE_CHECKING:
    from accelerate import Accelerator

PERMANENT = (ValueError, FloatingPointError, SupersededError)
"""Errors (InputError is one of them) that a second try would end with too: data and configuration alone decide them, or
another attempt has taken over."""

WAITS_FOR_PODS = 120
"""How often workers that could not start, for lack of a pod, are tried again: a new pod takes minutes, a try half a
minute (RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S). Elsewhere what cannot be placed at once never can be."""


def serve(launch: LaunchConfig, broker: BrokerHandle, group: str, folder: str, lease: Lease | None = None) -> None:
    """Trains until the broker closes. Blocks; Ray Train starts killed workers again, `max_failures` times.

    `folder`: a private one of this machine, if all workers run on it, else empty. `lease`: what checkpoints are written
    under.

    Raises:
        StageFailedError: workers or the controller were lost more often than that.
    """
    import ray
    from ray.train import TrainingFailedError

    while True:
        given_up = broker.ask(Broker.count_given_up)
        try:
            _trainer(launch, broker, group, folder, lease).fit()
            return
        except (TrainingFailedError, ray.exceptions.RayActorError) as error:
            # A stage that fails for good may cost its workers, but says nothing about the next stage.
            if broker.ask(Broker.count_given_up) == given_up:
                stage = broker.ask(Broker.training_of, group)
                raise StageFailedError(_why_lost(error, stage, launch)) from error


def _why_lost(error: Exception, stage: str, launch: LaunchConfig) -> str:
    """Why a training group came to its end, for people."""
    from ray.exceptions import RayActorError
    from ray.train import ControllerError, WorkerGroupError

    where = f" while training {stage}" if stage else ""
    cause = next(iter(error.worker_failures.values()), error) if isinstance(error, WorkerGroupError) else error
    if isinstance(error, ControllerError):
        return f"Ray Train could not go on{where}: {error.controller_failure}"
    if cause is error:
        return f"the process that directs the training workers ended{where}: it was killed, for lack of memory perhaps"
    times = f"{launch.max_failures + 1} times in all (launch.max_failures is {launch.max_failures})"
    if isinstance(cause, RayActorError):
        return f"training workers ended{where}, {times}: they were killed, for lack of memory perhaps"
    return f"training failed{where}, {times}; the last error: {describe(cause)}"


def _trainer(launch: LaunchConfig, broker: BrokerHandle, group: str, folder: str, lease: Lease | None) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    resources = {"CPU": launch.cpus_per_worker}
    if launch.gpus_per_worker:
        resources["GPU"] = launch.gpus_per_worker
    selector = on_pool("train")
    scaling = ScalingConfig(
        num_workers=launch.num_workers, use_gpu=launch.gpus_per_worker > 0, resources_per_worker=resources,
        label_selector=selector or None,
    )  # fmt: skip
    failures = FailureConfig(
        max_failures=launch.max_failures,
        max_preemption_failures=-1 if launch.max_preemptions is None else launch.max_preemptions,
        controller_failure_limit=WAITS_FOR_PODS if selector else 0,
    )
    name = f"{broker.name}-{group}-{uuid.uuid4().hex[:6]}"
    attempt = (lease.name, lease.attempt) if lease else None
    settings = {"launch": launch.model_dump(mode="json"), "broker": broker.name, "group": group, "attempt": attempt,
                "notices": notices.expected()}  # fmt: skip
    options = {
        "train_loop_config": settings,
        "scaling_config": scaling,
        "run_config": RunConfig(name=name, storage_path=folder or f"{launch.root}/ray", failure_config=failures),
    }
    if folder:
        from pipelines.stages.onenode import OneNodeTrainer

        return OneNodeTrainer(_work, folder=folder, **options)
    from ray.train.torch import TorchTrainer

    return TorchTrainer(_work, **options)


def _work(settings: dict[str, Any]) -> None:
    """The loop of one training worker: ask, train, publish, until the session is over."""
    import torch
    from accelerate import Accelerator

    from lcia.store.folders import Store
    from lcia.training.train import TrainOptions, Worker, train_stage

    launch = LaunchConfig.model_validate(settings["launch"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    # Autocast is the stage's (training.bf16); an environment variable of accelerate must not bring another.
    accelerator = Accelerator(mixed_precision="no", cpu=launch.gpus_per_worker == 0)
    options = TrainOptions(
        launch.per_device_train_batch_size, launch.save_steps, launch.logging_steps, launch.parallelism
    )
    if settings["notices"]:
        options = replace(options, save_now=notices.save_on_notice())
    lease = Lease(launch.root, *settings["attempt"]) if settings["attempt"] else None
    broker = find_broker(settings["broker"])
    store = Store(launch.store_root, copies=launch.cache_shards, guard=lease.check if lease else unguarded)
    worker = Worker(store, accelerator, options, broker.tell)
    loaded: dict[str, Assistant] = {}
    for work in until_over(lambda: _next(accelerator, broker, settings["group"])):
        stage = work.stage
        try:
            if stage.model_key not in loaded:
                loaded.clear()
                loaded[stage.model_key] = _load(stage, launch, accelerator)
            train_stage(stage, loaded[stage.model_key], worker)
        except Exception as error:
            loaded.clear()
            _report_error(broker, work, error)
            # Other workers may wait for this one inside a collective: then the group has to start again.
            if accelerator.num_processes > 1 or not isinstance(error, PERMANENT):
                raise
        else:
            if accelerator.is_main_process:
                broker.ask(Broker.finish, stage.key)


def _report_error(broker: BrokerHandle, work: Training, error: Exception) -> None:
    """Tells the broker why a stage failed, unless another worker is the reason."""
    from torch.distributed import DistError

    if not isinstance(error, DistError) and "gloo" not in str(error):
        broker.ask(Broker.report_error, work, describe(error), isinstance(error, PERMANENT))


def _load(stage: TrainStage, launch: LaunchConfig, accelerator: Accelerator) -> Assistant:
    """The base of a stage, where the model before it was."""
    from lcia import assistants
    from lcia.training.parallel import base_device

    # A model is full of cycles: without this its memory would still be taken while the next one is read.
    accelerator.free_memory()
    return assistants.build(
        stage.assistant,
        stage.lora,
        gradient_checkpointing=launch.gradient_checkpointing,
        attn_implementation=launch.attn_implementation,
        device=base_device(launch.parallelism, accelerator),
    )


def _next(accelerator: Accelerator, broker: BrokerHandle, group: str) -> Training | NotYet | SessionOver:
    """Rank 0 asks the broker and tells the others."""
    from accelerate.utils import broadcast_object_list

    answer = broker.ask(Broker.next_training, group) if accelerator.is_main_process else None
    agreed: Training | NotYet | SessionOver = broadcast_object_list([answer])[0]
    return agreed
