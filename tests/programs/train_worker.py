"""Gloo processes train stages of the tiny LLaVA in several layouts; the first one of each writes what came out.

Run as a script with the path of an empty folder. It leaves a store per layout and figures.json.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.fsdp
import torch.distributed.tensor
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image, ImageDraw
from tqdm import tqdm

from lcia import assistants
from lcia.config.assistants import LoraConfig, TinyConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.ema import Curvature, DynamicEma
from lcia.ema.sharding import flat, whole
from lcia.embedders import tfidf  # noqa: F401 (here, not in each process)
from lcia.local import LocalExecutor, silent
from lcia.protocols import Assistant, Observer, Progress
from lcia.run import Prepared, prepare
from lcia.stage import TrainStage
from lcia.store.folders import Store
from lcia.training import train
from lcia.training.parallel import gather_verified, wrap
from lcia.training.train import ADAPTER, TrainOptions, train_stage
from tests import checkpoints

STEPS, SAVED_AT = 3, 2
LONGEST_S = 300.0
"""For a job that takes seconds: one that takes longer hangs. Its processes then print where they are, and end."""
STRATEGIES: dict[str, dict[str, Any]] = {
    "sequential": {"kind": "sequential"},
    "paper": {"kind": "paper"},
    "curvature": {"kind": "curvature", "lambda": 0.3, "pull": 1000.0},
    # Four workers have three, three, two and two of the rows. Factors of 192 are sketched, those of 96 are whole.
    "kronecker": {"kind": "kronecker", "rows": 10, "k": 96},
}
OF_OTHERS: dict[str, dict[str, Any]] = {
    "lwf": {"kind": "lwf", "mask_target": True},
    "olora": {"kind": "olora"},
    "regular_ewc": {"kind": "regular_ewc", "on": "product", "rows": 10, "pull": 300.0},
    # With the paper's epsilon the fallback would decide everywhere.
    "pema": {"kind": "pema", "epsilon": 2.0},
}
"""In the layouts of COMPARED alone, one for each mechanism: the model at other weights, an adapter beside another, rows
seen once more, whole tensors in a step. Most share their first stage with plain tuning."""
BASELINES: dict[str, dict[str, Any]] = {
    "gpm": {"strategy": {"kind": "gpm", "rows": 10}},
    "experts": {"strategy": STRATEGIES["curvature"], "lora": {"experts": 4}},
}
"""Each with a base and a store of its own."""
TRAINING = {"max_steps": STEPS, "batch_size": 8, "max_grad_norm": 0.5}
STREAM = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 32, "test_size": 4},
    "training": TRAINING,
    "grouping": {"enabled": False},
}


@dataclass(frozen=True)
class Layout:
    """`precision` of the base and of all that is trained on it (on a bfloat16 base that is float32, under autocast)."""

    workers: int
    parallelism: Any
    precision: str = "float64"

    @property
    def name(self) -> str:
        return f"{self.parallelism}-{self.workers}-{self.precision}"


LAYOUTS = [Layout(1, "ddp"), Layout(2, "ddp"), Layout(2, "fsdp2"), Layout(4, "ddp"), Layout(4, "fsdp2")]
OTHERS = [
    Layout(1, "fsdp2"),
    *(Layout(*layout, "float32") for layout in ((1, "ddp"), (2, "ddp"), (2, "fsdp2"))),
    *(Layout(2, parallelism, "bfloat16") for parallelism in ("ddp", "fsdp2")),
]
SAVING = Layout(2, "fsdp2")
COMPARED = (Layout(1, "ddp"), SAVING)


@dataclass
class Worker:
    """One process of a layout."""

    layout: Layout
    folder: Path
    accelerator: Accelerator

    def assistant(self, train_projector: bool = False, experts: int = 1) -> Assistant:
        checkpointing = self.layout.precision == "bfloat16"
        config = TinyConfig(train_projector=train_projector)
        built = assistants.build(
            config, LoraConfig(experts=experts), gradient_checkpointing=checkpointing, device="cpu"
        )
        built.module.to(getattr(torch, self.layout.precision))
        return built

    def options(self, **values: int) -> TrainOptions:
        # One worker and each of two accumulate two micro-batches, each of four has one.
        micro_batch = {1: 4, 2: 2, 4: 2}[self.layout.workers]
        saving = SAVED_AT if self.layout == SAVING else STEPS
        settings = {"micro_batch": micro_batch, "save_steps": saving, "logging_steps": 1, **values}
        return TrainOptions(parallelism=self.layout.parallelism, **settings)

    def fit(self, stage: TrainStage, assistant: Assistant, store: Store, observe: Observer = silent) -> None:
        train_stage(stage, assistant, train.Worker(store, self.accelerator, self.options(), observe))

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)


def planned(config: dict[str, Any], store: Store) -> Prepared:
    [prepared] = prepare([parse(RunConfig, config, "test")], LocalExecutor(store))
    return prepared


# What the processes do --------------------------------------------------------------------------------------------


def chains(worker: Worker) -> dict[str, Any]:
    """Both stages of every strategy, all on one loaded base; outside of LAYOUTS of those that keep something."""
    assistant, store = worker.assistant(), Store(str(worker.folder / worker.layout.name))
    given = STRATEGIES | (OF_OTHERS if worker.layout in COMPARED else {})
    for name in given if worker.layout in LAYOUTS else ("curvature", "kronecker"):
        training = {**TRAINING, "bf16": worker.layout.precision == "bfloat16"}
        config = {**STREAM, "training": training, "strategy": given[name]}
        for number, stage in enumerate(planned(config, store).plan.trains):
            keep = partial(_set_aside, store, worker.folder / "aside" / name)
            aside = keep if worker.layout == SAVING and number == 1 and name in STRATEGIES else silent
            worker.fit(stage, assistant, store, aside)
    return {"share": _share(assistant, worker.accelerator)}


def _set_aside(store: Store, target: Path, progress: Progress) -> None:
    """Keeps a copy of the store as it is in the middle of the second stage, checkpoints and all."""
    if progress.step == SAVED_AT + 1:
        shutil.copytree(store.base, target)


def _share(assistant: Assistant, accelerator: Accelerator) -> list[float]:
    """The part of all entries that each worker holds."""
    parameters = list(assistant.module.parameters())
    mine = sum(flat(p).numel() for p in parameters) / sum(p.numel() for p in parameters)
    shares: list[float] = accelerator.gather(torch.tensor([mine], dtype=torch.float64)).tolist()
    return shares


def continued(worker: Worker) -> dict[str, Any]:
    """What SAVING left in the middle of its second stage, ended in this layout."""
    assistant = worker.assistant()
    for name, strategy in STRATEGIES.items():
        root = worker.folder / f"continued-{worker.layout.name}" / name
        if worker.is_main:
            shutil.copytree(worker.folder / "aside" / name, root)
        worker.accelerator.wait_for_everyone()
        _second_stage(worker, assistant, strategy, Store(str(root)))
    return {}


FAMILIES = {"causal": checkpoints.llama, "seq2seq": checkpoints.t5}


def families(worker: Worker) -> dict[str, Any]:
    """Both stages of the default on models of text alone."""
    tasks = [{"name": name, "train": "text.json", "test": "text.json"} for name in ("one", "two")]
    for kind in FAMILIES:
        store = Store(str(worker.folder / f"{kind}-{worker.layout.name}"))
        config = {
            "benchmark": {"kind": "custom", "root": str(worker.folder / "base"), "tasks": tasks},
            "assistant": {"kind": kind, "model": str(worker.folder / "base" / kind), "dtype": "float32"},
            "training": TRAINING, "strategy": STRATEGIES["kronecker"], "grouping": {"enabled": False},
        }  # fmt: skip
        if worker.is_main:
            planned(config, store)
        worker.accelerator.wait_for_everyone()
        stages = planned(config, store).plan.trains
        assistant = assistants.build(stages[0].assistant, stages[0].lora, device="cpu")
        assistant.module.double()
        for stage in stages:
            worker.fit(stage, assistant, store)
    return {"share": _share(assistant, worker.accelerator)}


def details(worker: Worker) -> dict[str, Any]:
    """What needs two workers and no chain of stages."""
    again(worker)
    return {"fresh": fresh(worker), **quarrel(worker)}


def again(worker: Worker) -> None:
    """The second stage on a base that no other stage was trained on."""
    root = worker.folder / "again"
    if worker.is_main:
        shutil.copytree(worker.folder / "aside" / "curvature", root, ignore=shutil.ignore_patterns("partial"))
    worker.accelerator.wait_for_everyone()
    _second_stage(worker, worker.assistant(), STRATEGIES["curvature"], Store(str(root)))


def _second_stage(worker: Worker, assistant: Assistant, strategy: dict[str, Any], store: Store) -> None:
    stage = planned({**STREAM, "strategy": strategy}, store).plan.trains[1]
    worker.fit(stage, assistant, store)


def one_step(worker: Worker) -> dict[str, Any]:
    """A first stage of one step, which no rounding of an earlier one can have changed."""
    store = Store(str(worker.folder / f"one_step-{worker.layout.name}"))
    if worker.is_main:
        shutil.copytree(worker.folder / "base", store.base, dirs_exist_ok=True)
    worker.accelerator.wait_for_everyone()
    config = {**STREAM, "training": {**TRAINING, "max_steps": 1, "bf16": True}}
    config["strategy"] = STRATEGIES["curvature"]
    stage = planned(config, store).plan.trains[0]
    worker.fit(stage, worker.assistant(), store)
    return {}


def mixed(worker: Worker) -> dict[str, Any]:
    """Two tasks of rows with and without pictures, one at a time, and a projector that is trained."""
    assistant = worker.assistant(train_projector=True)
    store = Store(str(worker.folder / f"mixed-{worker.layout.name}"))
    if worker.is_main:
        shutil.copytree(worker.folder / "base", store.base, dirs_exist_ok=True)
    worker.accelerator.wait_for_everyone()
    tasks = [{"name": name, "train": "mixed.json", "test": "mixed.json"} for name in ("mixed", "again")]
    for name in ("curvature", "kronecker"):
        config = {
            "benchmark": {"kind": "custom", "root": str(worker.folder / "base"), "tasks": tasks},
            "assistant": {"kind": "tiny", "train_projector": True},
            "grouping": {"enabled": False},
            "training": {**TRAINING, "projector_learning_rate": 1e-3},
            "strategy": STRATEGIES[name],
        }
        for stage in planned(config, store).plan.trains:
            one_by_one = train.Worker(store, worker.accelerator, worker.options(micro_batch=1), silent)
            train_stage(stage, assistant, one_by_one)
    return {}


def baselines(worker: Worker) -> dict[str, Any]:
    """Both stages of every method of BASELINES."""
    for name, method in BASELINES.items():
        store = Store(str(worker.folder / f"{name}-{worker.layout.name}"))
        if worker.is_main:
            shutil.copytree(worker.folder / "base", store.base, dirs_exist_ok=True)
        worker.accelerator.wait_for_everyone()
        assistant = worker.assistant(experts=method.get("lora", {"experts": 1})["experts"])
        for stage in planned({**STREAM, **method}, store).plan.trains:
            worker.fit(stage, assistant, store)
    return {}


def fresh(worker: Worker) -> dict[str, float]:
    """Largest difference between an adapter that was put into shards and the same one on a whole base."""
    found = {}
    for projector in (False, True):
        plain, sharded = worker.assistant(projector), worker.assistant(projector)
        sharded.adapters.add(ADAPTER, seed=1)
        wrap(sharded, "fsdp2", worker.accelerator)
        for seed in (7, 8):
            plain.adapters.add(f"plain{seed}", seed)
            sharded.adapters.add(ADAPTER, seed)
            found[f"{projector} {seed}"] = _apart(sharded.adapters.trainable(), plain.adapters.trainable())
        plain.adapters.save("plain7", worker.folder / f"plain-{worker.accelerator.process_index}-{projector}")
        sharded.adapters.load(ADAPTER, worker.folder / f"plain-{worker.accelerator.process_index}-{projector}")
        plain.adapters.use("plain7")
        found[f"{projector} loaded"] = _apart(sharded.adapters.trainable(), plain.adapters.trainable())
    return found


def _apart(found: dict[str, Any], expected: dict[str, Any]) -> float:
    assert found.keys() == expected.keys()
    return max(float((whole(found[name].detach()) - value.detach()).abs().max()) for name, value in expected.items())


def quarrel(worker: Worker) -> dict[str, str]:
    """What the end of a stage says when one worker's copy has one other bit."""
    copy = torch.arange(6.0).view(2, 3)
    _, checksum = gather_verified({"a": copy}, worker.accelerator)
    if worker.accelerator.process_index == 1:
        copy[1, 1] = copy[1, 1].nextafter(torch.tensor(9.0))
    try:
        gather_verified({"a": copy}, worker.accelerator)
    except RuntimeError as error:
        return {"checksum": checksum, "quarrel": str(error)}
    return {"checksum": checksum}


def diverged(worker: Worker) -> dict[str, Any]:
    """What each worker says when one of them alone meets a loss that is not finite, and the next stage on that base."""
    assistant, store, rank = worker.assistant(), Store(str(worker.folder / f"diverged-{worker.layout.name}")), 1
    if worker.is_main:
        shutil.copytree(worker.folder / "base", store.base, dirs_exist_ok=True)
    worker.accelerator.wait_for_everyone()
    stage = planned({**STREAM, "strategy": STRATEGIES["curvature"]}, store).plan.trains[0]
    plain = train.answer_loss
    if worker.accelerator.process_index == rank:
        train.answer_loss = lambda logits, labels: plain(logits, labels) * float("nan")
    said = _complaint(lambda: worker.fit(stage, assistant, store))
    published = store.has(stage.key)
    train.answer_loss = plain
    worker.fit(stage, assistant, store)
    everyone: list[str] = gather_object([said])
    return {"said": everyone, "published": published, "shard": gather_object([_one_shard(worker, assistant)])}


def _one_shard(worker: Worker, assistant: Assistant) -> str:
    """What the curvature of trained parameters says on each worker where one worker's part alone is not finite."""
    if worker.layout.parallelism == "ddp":
        return ""
    parameters = assistant.adapters.trainable()
    optimizer = torch.optim.SGD(parameters.values(), lr=0.0)
    average = DynamicEma(parameters, Curvature(0.5, 0.9, 0.0)).attach(optimizer)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    if worker.accelerator.process_index == 1:
        flat(next(iter(parameters.values())).grad).fill_(float("nan"))  # type: ignore[arg-type]
    optimizer.step()
    optimizer.zero_grad()
    average.detach()
    return _complaint(average.statistics)


def _complaint(act: Callable[[], object]) -> str:
    try:
        act()
    except FloatingPointError as error:
        return str(error)
    return ""


# The processes ----------------------------------------------------------------------------------------------------

JOBS: dict[str, tuple[Callable[[Worker], dict[str, Any]], list[Layout]]] = {
    "chains": (chains, [*LAYOUTS, *OTHERS]),
    "continued": (continued, LAYOUTS),
    "one_step": (one_step, [Layout(2, parallelism, "bfloat16") for parallelism in ("ddp", "fsdp2")]),
    "mixed": (mixed, [Layout(1, "ddp"), Layout(2, "fsdp2")]),
    "baselines": (baselines, [Layout(1, "ddp"), Layout(2, "fsdp2")]),
    "families": (families, [Layout(1, "ddp"), Layout(2, "fsdp2")]),
    "details": (details, [SAVING]),
    "diverged": (diverged, [Layout(2, "ddp"), Layout(2, "fsdp2")]),
}


def work(rank: int, layout: Layout, folder: Path, job: str) -> None:
    torch.set_num_threads(1)
    # What was imported need not be looked through after every stage.
    gc.freeze()
    if layout.workers > 1:
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(layout.workers)}
        # accelerate asks for an address, though the processes meet in a file.
        os.environ |= {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        meeting = f"file://{folder}/meeting-{job}-{layout.name}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=layout.workers)
    worker = Worker(layout, folder, Accelerator(cpu=True))
    assert worker.accelerator.num_processes == layout.workers
    figures = JOBS[job][0](worker)
    if worker.is_main:
        (folder / f"{job}-{layout.name}.json").write_text(json.dumps(figures))
    if layout.workers > 1:
        dist.barrier()
        dist.destroy_process_group()


def draw(folder: Path) -> None:
    """Data for all, in a process of its own: forking one that has threads is not safe."""
    base = folder / "base"
    planned(STREAM, Store(str(base)))
    rows = []
    for number in range(24):
        colour = ("red", "green", "blue")[number % 3]
        asked = f"Is it {colour}?" if number % 2 else "<image>\nWhich colour?"
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": "yes" if number % 2 else colour}]
        rows.append({"id": str(number), "conversations": turns})
        if number % 2 == 0:
            picture = Image.new("RGB", (32, 32), "white")
            ImageDraw.Draw(picture).rectangle((4, 4, 27, 27), fill=colour)
            picture.save(base / f"{number}.png")
            rows[-1]["image"] = f"{number}.png"
    (base / "mixed.json").write_text(json.dumps(rows))
    (base / "text.json").write_text(json.dumps([row for row in rows if "image" not in row]))
    for kind, write in FAMILIES.items():
        write(base / kind)


def run(target: Callable[..., None], *arguments: list[Any]) -> None:
    """One forked process for each list of arguments; all must end well, and before LONGEST_S."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=target, args=tuple(given)) for given in arguments]
    for process in processes:
        process.start()
    deadline = time.monotonic() + LONGEST_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    if any(stuck := [process for process in processes if process.is_alive()]):
        codes = [process.exitcode for process in processes]
        for process in stuck:
            os.kill(process.pid or 0, signal.SIGUSR1)
            process.join(1.0)
            process.kill()
            process.join()
        sys.exit(f"{_called(target)} {arguments[0]} hung, its processes' exit codes: {codes}")
    if any(process.exitcode for process in processes):
        sys.exit(f"{_called(target)} {arguments[0]}: {[p.exitcode for p in processes]}")


def _called(target: Callable[..., None]) -> str:
    return getattr(target, "__name__", str(target))


def main(folder: Path) -> None:
    # Threads do not go along when a process forks, what they hold does: tqdm's would be one.
    tqdm.monitor_interval = 0
    # In every process, of all its threads, before `run` ends it.
    faulthandler.register(signal.SIGUSR1)
    # What is imported before the processes fork, they need not import each.
    assistants.build(TinyConfig(), device="cpu").adapters.add(ADAPTER, seed=0)
    run(draw, [folder])
    for job, (_, layouts) in JOBS.items():
        for layout in layouts:
            if job == "chains":
                shutil.copytree(folder / "base", folder / layout.name)
            run(work, *([rank, layout, folder, job] for rank in range(layout.workers)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
