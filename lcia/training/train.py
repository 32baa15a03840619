"""One TrainStage: a plain loop with accelerate, exact whatever the number of workers, and exact after a kill."""

from __future__ import annotations

import contextlib
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lcia import strategies
from lcia.ema.sharding import is_dtensor, local, part_of, whole
from lcia.protocols import UNTRAINED, Assistant, Batch, Observer, Progress, Strategy, Trained, TrainingRows
from lcia.stage import TrainStage, digest
from lcia.store.background import Uploads
from lcia.store.folders import Checkpoints, Store
from lcia.training.checkpoint import State, resume, save
from lcia.training.drift import Start
from lcia.training.elsewhere import Elsewhere
from lcia.training.finite import cause, check_weights
from lcia.training.look_back import LookAgain
from lcia.training.parallel import check_even_split, from_main, gather_verified, refuse_engines, synchronised, wrap
from lcia.training.replay import own_rows, training_rows
from lcia.training.result import KEPT, RESULT, STEPS, WEIGHTS, history
from lcia.training.sampling import Sampler, seed_of, total_steps
from lcia.types import Parallelism

if TYPE_CHECKING:
    from accelerate import Accelerator

ADAPTER = "tuned"


@dataclass(frozen=True)
class TrainOptions:
    """What the machine asks of the loop; none of it changes the result beyond rounding."""

    micro_batch: int = 16
    save_steps: int = 50
    logging_steps: int = 5
    parallelism: Parallelism = "ddp"
    save_now: Callable[[], bool] = lambda: False
    """Whether to save a checkpoint now, because the machine is about to go; asked after every step. All workers call it
    as often, and get the same answer."""


@dataclass(frozen=True)
class Worker:
    """A process that trains: alone, or with others that do the same."""

    store: Store
    accelerator: Accelerator
    options: TrainOptions
    observe: Observer
    uploads: Uploads = field(default_factory=Uploads)


@dataclass
class Loop:
    """A stage in training, as one worker sees it. `module` is what gradients go through: the assistant's, or DDP's.
    `start`: the weights before the first step."""

    stage: TrainStage
    assistant: Assistant
    worker: Worker
    rows: TrainingRows
    module: torch.nn.Module
    steps: int
    state: State
    start: Start

    @property
    def accelerator(self) -> Accelerator:
        return self.worker.accelerator

    @property
    def checkpoints(self) -> Checkpoints:
        return self.worker.store.checkpoints(self.stage.key)

    def report(self, values: Mapping[str, float]) -> None:
        """Tells the observer how far the stage is; the main worker does."""
        if self.accelerator.is_main_process:
            done, note = self.state.done, history(self.state.notes)
            self.worker.observe(Progress(self.stage.key, "train", self.stage.label, done, self.steps, values, note))


def train_stage(stage: TrainStage, assistant: Assistant, worker: Worker) -> None:
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
    refuse_engines(worker.accelerator)
    check_even_split(stage.training.batch_size, worker.options.parallelism, worker.accelerator)
    if from_main(int(worker.store.has(stage.key)), worker.accelerator):
        return
    started = time.perf_counter()
    loop = _begin(stage, assistant, worker)
    with _explained(loop):
        _train(loop)
        kept = loop.state.strategy.finish(_look_back(loop))
        check_weights(loop.state.parameters, worker.accelerator)
        kl = loop.start.kl(assistant.module, _look_back(loop))
    _publish(loop, kept, kl, started)
    _release(loop)


# The beginning ----------------------------------------------------------------------------------------------------


def _begin(stage: TrainStage, assistant: Assistant, worker: Worker) -> Loop:
    """The loop before its first step, or after the last one that a checkpoint holds."""
    rows = training_rows(stage, worker.store)
    steps = total_steps(stage.training, len(rows))
    strategy = strategies.build(stage.strategy, steps)
    kept, parent = _give_adapter(stage, assistant, worker.store, strategy.beside)
    module = wrap(assistant, worker.options.parallelism, worker.accelerator)
    state = _fresh(stage, assistant, strategy, steps)
    loop = Loop(stage, assistant, worker, rows, module, steps, state, Start(state.parameters))
    assistant.module.train()
    elsewhere = Elsewhere(assistant, state.parameters, worker.accelerator, stage.training.bf16)
    trained = Trained(state.parameters, assistant.adapters.layers(), elsewhere, parent)
    strategy.start(trained, state.optimizer, kept)
    # Of a stage that has failed here, perhaps of this one.
    worker.uploads.drop()
    resume(loop.state, loop.checkpoints, worker.accelerator)
    if aside := worker.store.set_aside(stage.key):
        loop.state.notes["set_aside"] = aside
    if loop.state.notes:
        loop.report({})
    return loop


def _give_adapter(
    stage: TrainStage, assistant: Assistant, store: Store, beside: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gives the assistant the adapter that the stage trains; returns what the last stage of the one that it goes on
    from kept, and that one's weights where another is trained beside it."""
    adapters = assistant.adapters
    if stage.parent is None:
        adapters.add(ADAPTER, seed=stage.seed)
        return {}, {}
    folder, parent = store.fetch(stage.parent), dict[str, Tensor]()
    if beside:
        parent = load_file(folder / WEIGHTS)
        # Not the seed of the fresh adapter that the parent or one before it was: they would have the same A.
        adapters.add(ADAPTER, seed=int(digest([stage.seed, stage.parent])[:15], 16))
        _go_on(assistant, parent)
    else:
        adapters.load(ADAPTER, folder)
    # A group that starts from the newest adapter inherits its weights, not what mattered to its tasks.
    kept = load_file(folder / KEPT) if not stage.first and (folder / KEPT).exists() else {}
    return kept, parent


@torch.no_grad()
def _go_on(assistant: Assistant, weights: Mapping[str, Tensor]) -> None:
    """Puts weights into what is trained as it is, not by LoRA."""
    whole = {id(each) for layer in assistant.adapters.layers() if layer.down is None for each in (layer.up, layer.bias)}
    for name, parameter in assistant.adapters.trainable().items():
        if id(parameter) in whole:
            mine = local(parameter)
            mine.copy_(part_of(weights[name], parameter).view(mine.shape))


def _fresh(stage: TrainStage, assistant: Assistant, strategy: Strategy, steps: int) -> State:
    """The state before the first of `steps` steps; the projector, if it is trained, has a learning rate of its own."""
    from transformers import get_scheduler

    t, parameters = stage.training, assistant.adapters.trainable()
    projector = [p for n, p in parameters.items() if assistant.in_projector(n)]
    others = [p for n, p in parameters.items() if not assistant.in_projector(n)]
    groups = [{"params": others}] + ([{"params": projector, "lr": t.projector_learning_rate}] if projector else [])
    optimizer = torch.optim.AdamW(
        groups, lr=t.learning_rate, betas=(t.adam_beta1, t.adam_beta2), weight_decay=t.weight_decay
    )
    warmup = round(t.warmup_ratio * steps)
    scheduler = get_scheduler(t.lr_scheduler_type, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    return State(parameters, optimizer, scheduler, strategy)


# The loop ---------------------------------------------------------------------------------------------------------


def _train(loop: Loop) -> None:
    """All steps still to do, with a line for the log and a checkpoint now and then."""
    options, state = loop.worker.options, loop.state
    clock, waited, guard = time.perf_counter(), 0.0, torch.zeros((), device=loop.accelerator.device)
    for step, batches, wait in _prefetched(loop):
        state.done, waited = step + 1, waited + wait
        loss, norm = _step(loop, batches, step)
        # Zero until a loss is not finite, then NaN; it is read where the loop waits for the device anyway.
        guard += loss * 0
        if state.done % options.logging_steps == 0 or state.done == loop.steps:
            line = _line(loop, loss + guard, norm)
            elapsed, clock = time.perf_counter() - clock, time.perf_counter()
            speed = options.logging_steps * loop.stage.training.batch_size / elapsed
            _log(loop, line, {"samples_per_second": speed, "data_wait_share": min(waited / elapsed, 1.0)})
            waited = 0.0
        leaving, due = options.save_now(), state.done % options.save_steps == 0
        if (leaving or due) and state.done < loop.steps:
            save(state, loop.checkpoints, loop.accelerator, loop.worker.uploads)
            if leaving:
                loop.worker.uploads.settle()


def _line(loop: Loop, loss: Tensor, norm: float) -> dict[str, float]:
    """The figures of the last step; a collective call. `loss` is this worker's summand.

    Raises:
        FloatingPointError: the loss is not finite, on all workers.
    """
    mean = float(loop.accelerator.reduce(loss, reduction="mean"))
    if not math.isfinite(mean):
        raise FloatingPointError("the loss is not finite")
    rate = float(loop.state.scheduler.get_last_lr()[0])
    return {"loss": mean, "learning_rate": rate, "grad_norm": norm, **loop.state.strategy.statistics()}


def _log(loop: Loop, line: Mapping[str, float], pace: Mapping[str, float]) -> None:
    """`pace` is this machine's, so it is reported and not kept."""
    loop.state.lines.append(json.dumps({"step": loop.state.done, **line}) + "\n")
    loop.report({**line, **pace, "batch_size": loop.stage.training.batch_size})


def _prefetched(loop: Loop) -> Iterator[tuple[int, list[Batch], float]]:
    """The micro-batches of every step still to do, and the seconds that the loop waited for them; the next step's are
    decoded while this one runs."""
    training, accelerator, micro = loop.stage.training, loop.accelerator, loop.worker.options.micro_batch
    lengths = loop.rows.lengths if training.group_by_length else None
    sampler = Sampler(len(loop.rows), training.batch_size, loop.stage.seed, lengths)

    def batches(step: int) -> list[Batch]:
        share = sampler.share(step, accelerator.process_index, accelerator.num_processes)
        samples = loop.rows.take(share.tolist())
        _seed_samples(loop.stage.seed, step, accelerator.process_index)
        return [loop.assistant.collate(samples[i : i + micro]) for i in range(0, len(samples), micro)]

    with ThreadPoolExecutor(1) as pool:
        done = loop.state.done
        coming = pool.submit(batches, done) if done < loop.steps else None
        for step in range(done, loop.steps):
            assert coming is not None
            started = time.perf_counter()
            ready, wait = coming.result(), time.perf_counter() - started
            coming = pool.submit(batches, step + 1) if step + 1 < loop.steps else None
            yield step, ready, wait


def _step(loop: Loop, batches: Sequence[Batch], step: int) -> tuple[Tensor, float]:
    """One optimizer step over this worker's micro-batches; returns its loss summand and the gradient norm.

    The loss is the mean over the answer tokens of the *global* batch, so workers and micro-batches do not matter.

    Raises:
        FloatingPointError: the norm is not finite, which is the same on all workers; nothing has stepped.
    """
    accelerator = loop.accelerator
    torch.manual_seed(seed_of(loop.stage.seed, step, accelerator.process_index))
    answers = torch.stack([(batch["labels"] != UNTRAINED).sum() for batch in batches]).sum()
    tokens = accelerator.reduce(answers.to(accelerator.device))
    total = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches):
        last = number + 1 == len(batches)
        with torch.enable_grad(), synchronised(loop.module, accelerator, last):
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=loop.stage.training.bf16):
                logits = loop.assistant.logits(loop.module, batch)
            loss = answer_loss(logits, batch["labels"].to(logits.device))
            if (penalty := loop.state.strategy.penalty(logits, batch)) is not None:
                loss = loss + penalty
            loss = loss / tokens * accelerator.num_processes
            accelerator.backward(loss)
        total += loss.detach()
    norm = _clip(loop, total)
    loop.state.optimizer.step()
    loop.state.scheduler.step()
    loop.state.optimizer.zero_grad(set_to_none=True)
    return total, norm


def _clip(loop: Loop, loss: Tensor) -> float:
    """Clips the gradients as torch.nn.utils.clip_grad_norm_ does, in its two halves, so that a norm that is not finite
    is seen before it has reached every gradient; returns the norm before clipping."""
    parameters = list(loop.state.parameters.values())
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    value = float(whole(norm))
    if not math.isfinite(value):
        raise FloatingPointError(cause(loss, loop.state.parameters, loop.accelerator))
    torch.nn.utils.clip_grads_with_norm_(parameters, loop.stage.training.max_grad_norm or float("inf"), norm)
    return value


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of the answer tokens. logits [batch, tokens, vocabulary], labels [batch, tokens]."""
    scores = logits[:, :-1].flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(scores, labels[:, 1:].flatten(), ignore_index=UNTRAINED, reduction="sum")


def _seed_samples(seed: int, step: int, rank: int) -> None:
    """Seeds python's and numpy's generators for whatever collate draws from them (augmentation).

    They belong to the thread that prepares samples, torch's to the one that runs the model (dropout). Each is seeded
    from (seed, step, rank) at every step, so no generator's state has to be saved.
    """
    value = seed_of(seed, step, rank)
    random.seed(value)
    np.random.seed(value % 2**32)


# The end ----------------------------------------------------------------------------------------------------------


def _look_back(loop: Loop) -> LookAgain:
    return LookAgain(loop.stage, loop.assistant, own_rows(loop.rows), loop.accelerator, loop.worker.options.micro_batch)


@contextlib.contextmanager
def _explained(loop: Loop) -> Iterator[None]:
    """Adds stage, step and remedy to the error of a number that is not finite, which all workers raise together."""
    try:
        yield
    except FloatingPointError as error:
        _release(loop)
        stage = f"stage {loop.stage.label} ({loop.stage.key[:8]})"
        raise FloatingPointError(
            f"{stage} diverged at step {loop.state.done} of {loop.steps}: {error}. Nothing of it is kept as a result. "
            "Lower training.learning_rate or strategy.pull, or set training.max_grad_norm"
        ) from error


def _publish(loop: Loop, kept: dict[str, Tensor], kl: float, started: float) -> None:
    """The main worker writes the finished stage into the store; the others wait for it."""
    theta, checksum = gather_verified(loop.state.parameters, loop.accelerator)
    if loop.accelerator.is_main_process:
        result = {"steps": loop.steps, "seconds": time.perf_counter() - started, "checksum": checksum,
                  "workers": loop.accelerator.num_processes, "parallelism": loop.worker.options.parallelism,
                  "rows": len(loop.rows), "kl_from_start": kl, **loop.state.notes}  # fmt: skip
        with loop.worker.store.publish(loop.stage.key, loop.stage.record) as folder:
            loop.assistant.adapters.save(ADAPTER, folder, loop.state.strategy.stored(theta))
            _write(folder, kept, loop.state.lines, result)
        loop.worker.uploads.drop()
        loop.checkpoints.clear()
    loop.accelerator.wait_for_everyone()


def _write(folder: Path, kept: dict[str, Tensor], lines: list[str], result: object) -> None:
    if kept:
        save_file({name: tensor.contiguous() for name, tensor in kept.items()}, folder / KEPT)
    (folder / STEPS).write_text("".join(lines))
    (folder / RESULT).write_text(json.dumps(result, indent=1, sort_keys=True))


def _release(loop: Loop) -> None:
    loop.state.strategy.release()
    loop.state.optimizer.zero_grad(set_to_none=True)
    if not any(is_dtensor(parameter) for parameter in loop.state.parameters.values()):
        loop.assistant.adapters.drop(ADAPTER)
    loop.accelerator.free_memory()
    if dist.is_initialized():
        dist.barrier()
