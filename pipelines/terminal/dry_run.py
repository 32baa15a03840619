"""`lcia plan --dry-run`: what a run will be, told without its data and its weights."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, get_args

from lcia import benchmarks
from lcia.benchmarks import coin
from lcia.config.benchmarks import CoinConfig
from lcia.config.run import RunConfig
from lcia.models.memory import Placement, per_worker
from lcia.studies.config import StudyConfig
from lcia.training.sampling import total_steps
from lcia.types import Benchmark, InputError, Parallelism
from pipelines.launch import LaunchConfig
from pipelines.terminal.preflight import check_words
from pipelines.terminal.tables import add_row, console, new_table

if TYPE_CHECKING:
    from lcia.assistants.outline import Outline

GB = 1e9
TINY_LENGTH = 512
"""Most tokens of a row of the package's own models, which have no max_length."""


def dry_run(chosen: RunConfig | StudyConfig, where: LaunchConfig, shape: str | None, as_json: bool) -> None:
    """Prints the stages with their steps, the model's parts, and what a worker's memory will hold.

    Raises:
        InputError: a study is given; the order or a batch cannot be; nothing is known of the model's architecture.
    """
    if isinstance(chosen, StudyConfig):
        raise InputError("--dry-run is of one run: give a run's configuration, such as the study's base")
    from lcia.assistants.outline import outline

    check_words([chosen], where)
    stages, model = stages_of(chosen), outline(chosen.assistant, chosen.lora, shape)
    memory = memory_of(chosen, where, model)
    if as_json:
        print(json.dumps({"stages": stages, "model": _described(model), "memory": memory}, indent=1))
    else:
        _show(chosen, where, stages, model, memory)


def stages_of(config: RunConfig) -> list[dict[str, Any]]:
    """The trainings in their order: `tasks`, `batch_size`, `rows` and `steps`; None where rows are known once they are
    read."""
    benchmark = benchmarks.build(config.benchmark)
    order = benchmark.order(config.order)
    if not config.trains:
        return []
    return [
        _stage(config, benchmark, tasks) for tasks in ([(task,) for task in order] if config.is_stream else [order])
    ]


def _stage(config: RunConfig, benchmark: Benchmark, tasks: tuple[str, ...]) -> dict[str, Any]:
    counts = [_rows(config, benchmark, task) for task in tasks]
    known = [count for count in counts if count is not None]
    rows = sum(known) if len(known) == len(counts) else None
    training = config.training.of_tasks(tasks)
    steps = total_steps(training, rows or 0) if rows or training.max_steps else None
    return {"tasks": list(tasks), "batch_size": training.batch_size, "rows": rows, "steps": steps}


def _rows(config: RunConfig, benchmark: Benchmark, task: str) -> int | None:
    """Training rows of a task as far as they are known before they are read."""
    spec = benchmark[task]
    rows = spec.train.known_rows if spec.train else 0
    if rows is None and isinstance(config.benchmark, CoinConfig):
        whole = task.rpartition(".")[0] if spec.stretch else task
        rows = coin.TRAIN_ROWS.get(whole)
    if rows is None:
        return None
    rows = min(rows, spec.max_samples or rows)
    return len(range(spec.stretch.number, rows, spec.stretch.of)) if spec.stretch else rows


def memory_of(config: RunConfig, where: LaunchConfig, model: Outline) -> list[dict[str, Any]]:
    """GB of a worker's parts, under both kinds of parallelism, with and without gradient checkpointing; the largest
    batch's share, at the longest rows."""
    share = max(config.training.batch_sizes) // where.num_workers
    rows = min(where.per_device_train_batch_size, max(share, 1))
    place = Placement("ddp", where.num_workers, rows, getattr(config.assistant, "max_length", TINY_LENGTH), False)
    found: list[dict[str, Any]] = []
    for parallelism, checkpointing in product(get_args(Parallelism), (True, False)):
        each = replace(place, parallelism=parallelism, gradient_checkpointing=checkpointing)
        parts = per_worker(model, config, each).items()
        found.append({"parallelism": parallelism, "workers": each.workers, "rows": each.rows, "tokens": each.tokens,
                      "gradient_checkpointing": checkpointing,
                      "gb": {name: None if size is None else size / GB for name, size in parts}})  # fmt: skip
    return found


def _described(model: Outline) -> dict[str, Any]:
    return {"shape": model.shape, "parameters": model.parameters, "parts": dict(model.base), "lora": model.lora,
            "lora_tensors": model.lora_tensors, "projector": model.projector,
            "projector_tensors": model.projector_tensors, "layers": model.layers, "hidden": model.hidden,
            "intermediate": model.intermediate, "vocabulary": model.vocabulary}  # fmt: skip


def _show(
    config: RunConfig, where: LaunchConfig, stages: list[dict[str, Any]], model: Outline, memory: list[dict[str, Any]]
) -> None:
    table = new_table(f"stages of {config.name}", "trains", "batch", "rows", "steps")
    for stage in stages:
        numbers = ("?" if stage[name] is None else f"{stage[name]:,}" for name in ("batch_size", "rows", "steps"))
        add_row(table, ", ".join(stage["tasks"]), *numbers)
    console().print(table)
    print("which tasks share an adapter is decided by their instructions: `lcia group CONFIG`, with the data"
          if config.groups else "one adapter for all tasks")  # fmt: skip
    parts = new_table(f"model: {model.shape}", "part", "parameters", "tensors")
    for name, entries in model.base.items():
        add_row(parts, name, f"{entries:,}", "")
    add_row(parts, "adapter: LoRA", f"{model.lora:,}", str(model.lora_tensors))
    add_row(parts, "adapter: projector", f"{model.projector:,}", str(model.projector_tensors))
    console().print(parts, _memory_table(memory))
    if memory[0]["gb"]["strategy"] is None:
        print(f"what strategy {config.strategy.kind} holds is not counted: bench/llava.py measures it")


def _memory_table(memory: list[dict[str, Any]]) -> Any:
    first = memory[0]
    rows, tokens = first["rows"], first["tokens"]
    title = f"estimated GB of each of {first['workers']} workers, {rows} rows of {tokens} tokens at once"
    columns = (f"{m['parallelism']}{', checkpointing' * m['gradient_checkpointing']}" for m in memory)
    table = new_table(title, "", *columns)
    for name in first["gb"]:
        values = [m["gb"][name] for m in memory]
        add_row(table, name, *("?" if value is None else f"{value:.2f}" for value in values))
    return table
