"""One TrainStage: a plain loop with accelerate, exact whatever the number of workers, and exact after a kill."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lcia import strategies
from lcia.agree import agreed, choose
from lcia.protocols import Assistant, Batch, Observer, Progress, Strategy
from lcia.sampling import Sampler, total_steps
from lcia.shards import Rows
from lcia.stage import TrainStage
from lcia.staging import staging
from lcia.store import Checkpoints, Store, history

if TYPE_CHECKING:
    from accelerate import Accelerator

ADAPTER = "tuned"
PROJECTOR = "multi_modal_projector"
KEPT = "kept.safetensors"
STEPS = "steps.jsonl"
RESULT = "result.json"


@dataclass(frozen=True)
class FitOptions:
    """What the machine asks of the loop; none of it changes the result beyond rounding."""

    micro_batch: int = 16
    save_steps: int = 50
    logging_steps: int = 5


@dataclass
class Loop:
    """What one step touches."""

    stage: TrainStage
    assistant: Assistant
    accelerator: Accelerator
    module: torch.nn.Module
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    strategy: Strategy
    steps: int
    done: int = 0


def fit_stage(stage: TrainStage, assistant: Assistant, store: Store, options: FitOptions,
              accelerator: Accelerator, observe: Observer) -> None:  # fmt: skip
    """Trains `stage` unless the store has it, and publishes adapter, kept tensors and step statistics.

    Every worker calls it; the main one writes. A partial checkpoint of the same stage is continued from.
    """
    if agreed(int(store.has(stage.key)), accelerator):
        return
    started = time.perf_counter()
    rows = Rows([store.fetch(key) for key in stage.shards])
    loop = _prepare(stage, assistant, store, accelerator, len(rows))
    log = _resume(loop, store.checkpoints(stage.key))
    if accelerator.is_main_process and log.notes:
        observe(Progress(stage.key, "train", stage.label, loop.done, loop.steps, {}, history(log.notes)))
    _train(loop, rows, options, store.checkpoints(stage.key), log, observe)
    kept = loop.strategy.finish()
    checksum = _same_everywhere(loop)
    if accelerator.is_main_process:
        result = {"steps": loop.steps, "seconds": time.perf_counter() - started, "checksum": checksum,
                  "workers": accelerator.num_processes, "rows": len(rows), **log.notes}  # fmt: skip
        with store.publish(stage.key, stage.record) as folder:
            _write(folder, assistant, kept, log.lines, result)
        store.checkpoints(stage.key).clear()
    accelerator.wait_for_everyone()
    _release(loop)


def _write(folder: Path, assistant: Assistant, kept: dict[str, Tensor], lines: list[str], result: object) -> None:
    assistant.save_adapter(ADAPTER, folder)
    if kept:
        save_file({name: tensor.contiguous() for name, tensor in kept.items()}, folder / KEPT)
    (folder / STEPS).write_text("".join(lines))
    (folder / RESULT).write_text(json.dumps(result, indent=1, sort_keys=True))


def _prepare(stage: TrainStage, assistant: Assistant, store: Store, accelerator: Accelerator, rows: int) -> Loop:
    kept: dict[str, Tensor] = {}
    if stage.parent is None:
        assistant.add_adapter(ADAPTER, seed=stage.seed)
    else:
        folder = store.fetch(stage.parent)
        assistant.load_adapter(ADAPTER, folder)
        # A group that starts from the newest adapter inherits its weights, not what mattered to its tasks.
        if not stage.first and (folder / KEPT).exists():
            kept = load_file(folder / KEPT, device=str(accelerator.device))
    parameters = assistant.trainable()
    steps = total_steps(stage.training, rows)
    optimizer, scheduler = _optimizer(stage, parameters, steps)
    strategy = strategies.build(stage.strategy, steps)
    strategy.start(parameters, optimizer, kept)
    assistant.module.train()
    module = _wrap(assistant.module, accelerator)
    return Loop(stage, assistant, accelerator, module, parameters, optimizer, scheduler, strategy, steps)


def _wrap(module: torch.nn.Module, accelerator: Accelerator) -> torch.nn.Module:
    """Under DDP only what is trained is broadcast and reduced; the frozen base is equal by construction."""
    frozen = [n for n, p in module.named_parameters() if not p.requires_grad] + [n for n, _ in module.named_buffers()]
    module._ddp_params_and_buffers_to_ignore = frozen  # type: ignore[assignment]
    wrapped: torch.nn.Module = accelerator.prepare_model(module)
    return wrapped


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


@dataclass
class Log:
    """Lines of steps.jsonl so far, and what happened on the way to them."""

    lines: list[str]
    notes: dict[str, Any]


def _train(loop: Loop, rows: Rows, options: FitOptions, checkpoints: Checkpoints, log: Log, observe: Observer) -> None:
    training, accelerator = loop.stage.training, loop.accelerator
    lengths = rows.lengths if training.group_by_length else None
    sampler = Sampler(len(rows), training.batch_size, loop.stage.seed, lengths)
    clock = time.perf_counter()
    for step, batches in _ahead(loop, rows, sampler, options.micro_batch):
        loss, norm = _step(loop, batches, step)
        loop.done = step + 1
        if loop.done % options.logging_steps == 0 or loop.done == loop.steps:
            rate = float(loop.scheduler.get_last_lr()[0])
            line = {"loss": _mean(loss, accelerator), "learning_rate": rate, "grad_norm": norm}
            line |= loop.strategy.statistics()
            elapsed, clock = time.perf_counter() - clock, time.perf_counter()
            _report(loop, log, line, options.logging_steps * training.batch_size / elapsed, observe)
        if loop.done % options.save_steps == 0 and loop.done < loop.steps:
            _save(loop, checkpoints, log)


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
    """
    accelerator = loop.accelerator
    _seed(loop.stage.seed, step, accelerator.process_index)
    answers = torch.stack([(batch["labels"] != -100).sum() for batch in batches]).sum()
    tokens = accelerator.reduce(answers.to(accelerator.device))
    total = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches):
        last = number + 1 == len(batches)
        with torch.enable_grad(), contextlib.nullcontext() if last else accelerator.no_sync(loop.module):
            with accelerator.autocast():
                logits = loop.assistant.logits(loop.module, batch)
            loss = answer_loss(logits, batch["labels"].to(logits.device)) / tokens * accelerator.num_processes
            accelerator.backward(loss)
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(
        list(loop.parameters.values()), loop.stage.training.max_grad_norm or float("inf")
    )
    loop.optimizer.step()
    loop.scheduler.step()
    loop.optimizer.zero_grad(set_to_none=True)
    return total, float(norm)


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of the answer tokens. logits [batch, tokens, vocabulary], labels [batch, tokens]."""
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


def _seed(seed: int, step: int, rank: int) -> None:
    """Dropout's randomness follows from (seed, step, rank), so no generator state has to be saved."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


def _mean(loss: Tensor, accelerator: Accelerator) -> float:
    return float(accelerator.reduce(loss, reduction="mean"))


# Checkpoints ------------------------------------------------------------------------------------------------------


def _save(loop: Loop, checkpoints: Checkpoints, log: Log) -> None:
    """Everything that a crash inside the stage would lose. The main worker writes; all hold the same state."""
    if loop.accelerator.is_main_process:
        state = loop.strategy.state_dict()
        tensors = {f"strategy.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        scalars = {k: v for k, v in state.items() if not isinstance(v, Tensor)}
        tensors |= {f"theta.{n}": p.detach() for n, p in loop.parameters.items()}
        tensors |= {
            f"optimizer.{n}.{k}": v for n, p in loop.parameters.items() for k, v in loop.optimizer.state[p].items()
        }
        with checkpoints.save(loop.done) as folder:
            save_file({name: t.contiguous().clone() for name, t in tensors.items()}, folder / "state.safetensors")
            facts = {"step": loop.done, "stage": loop.stage.key, "strategy": scalars, "lines": log.lines,
                     "scheduler": loop.scheduler.state_dict(), "notes": log.notes}  # fmt: skip
            (folder / "state.json").write_text(json.dumps(facts))
    loop.accelerator.wait_for_everyone()


def _resume(loop: Loop, checkpoints: Checkpoints) -> Log:
    with staging(Path(tempfile.gettempdir())) as scratch:
        folder, damaged = choose(loop.accelerator, checkpoints, scratch)
        notes: dict[str, Any] = {"damaged_checkpoints": damaged} if damaged else {}
        return Log([], notes) if folder is None else _load(loop, folder, notes)


def _load(loop: Loop, folder: Path, notes: dict[str, Any]) -> Log:
    facts = json.loads((folder / "state.json").read_text())
    tensors = load_file(folder / "state.safetensors", device=str(loop.accelerator.device))
    moments = loop.optimizer.state_dict()
    order = [n for g in (False, True) for n in loop.parameters if (PROJECTOR in n) is g]
    moments["state"] = {i: _below(tensors, f"optimizer.{n}.") for i, n in enumerate(order)}
    for name, parameter in loop.parameters.items():
        parameter.data.copy_(tensors[f"theta.{name}"])
    loop.scheduler.load_state_dict(facts["scheduler"])
    for group, rate in zip(moments["param_groups"], facts["scheduler"]["_last_lr"], strict=True):
        group["lr"] = rate
    loop.optimizer.load_state_dict(moments)
    loop.strategy.load_state_dict({**_below(tensors, "strategy."), **facts["strategy"]})
    loop.done = facts["step"]
    before = facts["notes"]
    notes = {name: [*before.get(name, []), *values] for name, values in (notes | {"resumed_at": [loop.done]}).items()}
    return Log(facts["lines"], {**before, **notes})


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


# The end ----------------------------------------------------------------------------------------------------------


def _same_everywhere(loop: Loop) -> str:
    """A checksum of the averaged weights, asserted equal on all workers."""
    bits = [p.detach().float().contiguous().view(torch.int32).long() for p in loop.parameters.values()]
    weights = [torch.arange(1, b.numel() + 1, device=b.device).view_as(b) for b in bits]
    mine = sum(((b * w).sum() for b, w in zip(bits, weights, strict=True)), torch.zeros((), dtype=torch.long))
    everywhere = loop.accelerator.gather(mine.to(loop.accelerator.device).view(1))
    if not bool((everywhere == everywhere[0]).all()):
        raise RuntimeError(f"the workers hold different averages after {loop.stage.label}: {everywhere.tolist()}")
    return f"{int(mine) & (2**64 - 1):016x}"


def _release(loop: Loop) -> None:
    loop.optimizer.zero_grad(set_to_none=True)
    loop.assistant.drop_adapter(ADAPTER)
    loop.accelerator.free_memory()
    if dist.is_initialized():
        dist.barrier()
