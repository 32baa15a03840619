"""One TrainStage: a plain loop with accelerate, exact whatever the number of workers, and exact after a kill."""

from __future__ import annotations

import contextlib
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lcia import strategies
from lcia.data.shards import Rows
from lcia.ema.sharding import is_dtensor, whole
from lcia.protocols import Assistant, Batch, Observer, Progress
from lcia.stage import TrainStage
from lcia.store.folders import Checkpoints, Store
from lcia.training.checkpoint import Log, Loop, resume, save
from lcia.training.consensus import agreed
from lcia.training.finite import cause, check_weights
from lcia.training.parallel import check_even_split, gather_verified, refuse_engines, spread, synchronised
from lcia.training.result import KEPT, RESULT, STEPS, history
from lcia.training.sampling import Sampler, seed_of, total_steps
from lcia.types import Parallelism

if TYPE_CHECKING:
    from accelerate import Accelerator

ADAPTER = "tuned"
PROJECTOR = "multi_modal_projector"


@dataclass(frozen=True)
class FitOptions:
    """What the machine asks of the loop; none of it changes the result beyond rounding."""

    micro_batch: int = 16
    save_steps: int = 50
    logging_steps: int = 5
    parallelism: Parallelism = "ddp"


def fit_stage(stage: TrainStage, assistant: Assistant, store: Store, options: FitOptions,
              accelerator: Accelerator, observe: Observer) -> None:  # fmt: skip
    """Trains `stage` unless the store has it, and publishes adapter, kept tensors and step statistics.

    Every worker calls it; the main one writes. A partial checkpoint of the same stage is continued from, whatever the
    number of workers and the parallelism that left it. An assistant that was sharded (fsdp2 on several workers) goes on
    to the next stage as it is, and can do nothing else any more.

    Raises:
        InputError: the accelerator brings an engine or a precision of its own, or the batch cannot be split over
            sharding workers.
        FloatingPointError: loss, gradients or weights stopped being finite; raised by all workers. Nothing is
            published, and the assistant is ready for the next stage.
    """
    refuse_engines(accelerator)
    check_even_split(stage.training.batch_size, options.parallelism, accelerator)
    if agreed(int(store.has(stage.key)), accelerator):
        return
    started = time.perf_counter()
    rows = Rows([store.fetch(key) for key in stage.shards])
    kept = _begin(stage, assistant, store)
    module = spread(assistant, options.parallelism, accelerator)
    loop = _prepare(stage, assistant, accelerator, module, total_steps(stage.training, len(rows)))
    loop.strategy.start(loop.parameters, loop.optimizer, kept)
    log = resume(loop, store.checkpoints(stage.key))
    if aside := store.set_aside(stage.key):
        log.notes["set_aside"] = aside
    if accelerator.is_main_process and log.notes:
        observe(Progress(stage.key, "train", stage.label, loop.done, loop.steps, {}, history(log.notes)))
    with _told(loop):
        _train(loop, rows, options, store.checkpoints(stage.key), log, observe)
        kept = loop.strategy.finish()
        check_weights(loop.parameters, accelerator)
    theta, checksum = gather_verified(loop.parameters, accelerator)
    if accelerator.is_main_process:
        result = {"steps": loop.steps, "seconds": time.perf_counter() - started, "checksum": checksum,
                  "workers": accelerator.num_processes, "parallelism": options.parallelism, "rows": len(rows),
                  **log.notes}  # fmt: skip
        with store.publish(stage.key, stage.record) as folder:
            assistant.save_adapter(ADAPTER, folder, theta)
            _write(folder, kept, log.lines, result)
        store.checkpoints(stage.key).clear()
    accelerator.wait_for_everyone()
    _release(loop)


@contextlib.contextmanager
def _told(loop: Loop) -> Iterator[None]:
    """Says of a number that is not finite in which stage and step it came up; all workers come here together."""
    try:
        yield
    except FloatingPointError as error:
        _release(loop)
        stage = f"stage {loop.stage.label} ({loop.stage.key[:8]})"
        raise FloatingPointError(
            f"{stage} diverged at step {loop.done} of {loop.steps}: {error}. Nothing of it is kept as a result. Lower "
            "training.learning_rate or strategy.pull, or set training.max_grad_norm"
        ) from error


def _write(folder: Path, kept: dict[str, Tensor], lines: list[str], result: object) -> None:
    if kept:
        save_file({name: tensor.contiguous() for name, tensor in kept.items()}, folder / KEPT)
    (folder / STEPS).write_text("".join(lines))
    (folder / RESULT).write_text(json.dumps(result, indent=1, sort_keys=True))


def _begin(stage: TrainStage, assistant: Assistant, store: Store) -> dict[str, Tensor]:
    """Gives the assistant the adapter that the stage starts from; returns what that one's last stage kept."""
    if stage.parent is None:
        assistant.add_adapter(ADAPTER, seed=stage.seed)
        return {}
    folder = store.fetch(stage.parent)
    assistant.load_adapter(ADAPTER, folder)
    # A group that starts from the newest adapter inherits its weights, not what mattered to its tasks.
    return load_file(folder / KEPT) if not stage.first and (folder / KEPT).exists() else {}


def _prepare(stage: TrainStage, assistant: Assistant, accelerator: Accelerator,
             module: torch.nn.Module, steps: int) -> Loop:  # fmt: skip
    parameters = assistant.trainable()
    optimizer, scheduler = _optimizer(stage, parameters, steps)
    assistant.module.train()
    strategy = strategies.build(stage.strategy, steps)
    return Loop(stage, assistant, accelerator, module, parameters, optimizer, scheduler, strategy, steps)


def _optimizer(
    stage: TrainStage, parameters: dict[str, torch.nn.Parameter], steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    from transformers import get_scheduler

    t = stage.training
    projector = [p for n, p in parameters.items() if PROJECTOR in n]
    adapter = [p for n, p in parameters.items() if PROJECTOR not in n]
    groups = [{"params": adapter}] + ([{"params": projector, "lr": t.projector_learning_rate}] if projector else [])
    optimizer = torch.optim.AdamW(
        groups, lr=t.learning_rate, betas=(t.adam_beta1, t.adam_beta2), weight_decay=t.weight_decay
    )
    warmup = round(t.warmup_ratio * steps)
    return optimizer, get_scheduler(t.lr_scheduler_type, optimizer, num_warmup_steps=warmup, num_training_steps=steps)


# The loop ---------------------------------------------------------------------------------------------------------


def _train(loop: Loop, rows: Rows, options: FitOptions, checkpoints: Checkpoints, log: Log, observe: Observer) -> None:
    training, accelerator = loop.stage.training, loop.accelerator
    lengths = rows.lengths if training.group_by_length else None
    sampler = Sampler(len(rows), training.batch_size, loop.stage.seed, lengths)
    clock, spoilt = time.perf_counter(), torch.zeros((), device=accelerator.device)
    for step, batches in _ahead(loop, rows, sampler, options.micro_batch):
        loop.done = step + 1
        loss, norm = _step(loop, batches, step)
        # Not finite from the first such loss on; it is read where the loop waits for the device anyway.
        spoilt += loss * 0
        if loop.done % options.logging_steps == 0 or loop.done == loop.steps:
            rate = float(loop.scheduler.get_last_lr()[0])
            line = {"loss": _mean(loss + spoilt, accelerator), "learning_rate": rate, "grad_norm": norm}
            if not math.isfinite(line["loss"]):
                raise FloatingPointError("the loss is not finite")
            line |= loop.strategy.statistics()
            elapsed, clock = time.perf_counter() - clock, time.perf_counter()
            _report(loop, log, line, options.logging_steps * training.batch_size / elapsed, observe)
        if loop.done % options.save_steps == 0 and loop.done < loop.steps:
            save(loop, checkpoints, log)


def _report(loop: Loop, log: Log, line: dict[str, float], speed: float, observe: Observer) -> None:
    if not loop.accelerator.is_main_process:
        return
    log.lines.append(json.dumps({"step": loop.done, **line}) + "\n")
    values = {**line, "samples_per_second": speed, "batch_size": loop.stage.training.batch_size}
    observe(Progress(loop.stage.key, "train", loop.stage.label, loop.done, loop.steps, values, history(log.notes)))


def _ahead(loop: Loop, rows: Rows, sampler: Sampler, micro: int) -> Iterator[tuple[int, list[Batch]]]:
    """The micro-batches of every step still to do; the next step's are decoded while this one runs."""
    accelerator = loop.accelerator

    def batches(step: int) -> list[Batch]:
        share = sampler.share(step, accelerator.process_index, accelerator.num_processes)
        samples = rows.take(share.tolist())
        _seed_samples(loop.stage.seed, step, accelerator.process_index)
        return [loop.assistant.collate(samples[i : i + micro]) for i in range(0, len(samples), micro)]

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batches, loop.done) if loop.done < loop.steps else None
        for step in range(loop.done, loop.steps):
            assert coming is not None
            ready, coming = coming.result(), pool.submit(batches, step + 1) if step + 1 < loop.steps else None
            yield step, ready


def _step(loop: Loop, batches: Sequence[Batch], step: int) -> tuple[Tensor, float]:
    """One optimizer step over this worker's micro-batches; returns its loss summand and the gradient norm.

    The loss is the mean over the answer tokens of the *global* batch, so workers and micro-batches do not matter.

    Raises:
        FloatingPointError: the norm is not finite, which is the same on all workers; nothing has stepped.
    """
    accelerator = loop.accelerator
    torch.manual_seed(seed_of(loop.stage.seed, step, accelerator.process_index))
    answers = torch.stack([(batch["labels"] != -100).sum() for batch in batches]).sum()
    tokens = accelerator.reduce(answers.to(accelerator.device))
    total = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches):
        last = number + 1 == len(batches)
        with torch.enable_grad(), synchronised(loop.module, accelerator, last):
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=loop.stage.training.bf16):
                logits = loop.assistant.logits(loop.module, batch)
            loss = answer_loss(logits, batch["labels"].to(logits.device)) / tokens * accelerator.num_processes
            accelerator.backward(loss)
        total += loss.detach()
    norm = _clip(loop, total)
    loop.optimizer.step()
    loop.scheduler.step()
    loop.optimizer.zero_grad(set_to_none=True)
    return total, norm


def _clip(loop: Loop, loss: Tensor) -> float:
    """Clips the gradients as torch.nn.utils.clip_grad_norm_ does, in its two halves, so that a norm that is not finite
    is seen before it has spoilt every gradient; returns the norm before clipping."""
    parameters = list(loop.parameters.values())
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    value = float(whole(norm))
    if not math.isfinite(value):
        raise FloatingPointError(cause(loss, loop.parameters, loop.accelerator))
    torch.nn.utils.clip_grads_with_norm_(parameters, loop.stage.training.max_grad_norm or float("inf"), norm)
    return value


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of the answer tokens. logits [batch, tokens, vocabulary], labels [batch, tokens]."""
    scores = logits[:, :-1].flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(scores, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")


def _seed_samples(seed: int, step: int, rank: int) -> None:
    """Seeds python's and numpy's generators for whatever collate draws from them (augmentation).

    They belong to the thread that prepares samples, torch's to the one that runs the model (dropout). Each is seeded
    from (seed, step, rank) at every step, so no generator's state has to be saved.
    """
    value = seed_of(seed, step, rank)
    random.seed(value)
    np.random.seed(value % 2**32)


def _mean(loss: Tensor, accelerator: Accelerator) -> float:
    return float(accelerator.reduce(loss, reduction="mean"))


# The end ----------------------------------------------------------------------------------------------------------


def _release(loop: Loop) -> None:
    loop.optimizer.zero_grad(set_to_none=True)
    if not any(is_dtensor(parameter) for parameter in loop.parameters.values()):
        loop.assistant.drop_adapter(ADAPTER)
    loop.accelerator.free_memory()
    if dist.is_initialized():
        dist.barrier()
