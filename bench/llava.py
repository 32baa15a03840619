"""A training step of LLaVA as in the paper's experiments, under every strategy: python -m bench.llava --json FILE.

Random weights of LLaVA-7B's shape (or a small one), LoRA r 128 with dropout in all linear layers of the language model,
bf16, gradient checkpointing, rows as in the paper: sixteen of 2,048 tokens on one GPU. Of each strategy the second
stage of an adapter is measured, after a first one of one step: then there is something to protect. Needs torch,
transformers, peft and pydantic; no Ray.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.gpu import Clock, Day, forget, generation, machine, memory, trained_of
from bench.gpu_model import SHAPES as DAY_SHAPES
from bench.gpu_model import VISION_7B, Shape, checkpointed, patches, training_batch
from lcia import strategies
from lcia.assistants.experts import route
from lcia.config.strategies import StrategyConfig
from lcia.protocols import Batch, Look, Strategy, Trained

SHAPES = {
    "7b": replace(DAY_SHAPES["7b"], batch=16, tokens=2048),
    "small": Shape(
        rank=32,
        batch=2,
        tokens=256,
        new_tokens=16,
        text={"vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
              "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64},
        vision={"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4,
                "image_size": 112},
    ),
    "tiny": DAY_SHAPES["tiny"],
}  # fmt: skip
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "B200": 2250.0}
"""Dense bf16 TFLOP/s of the data sheets, by a part of the device's name."""
WARM = 2
"""Steps before the clock counts."""
KINDS: dict[str, Any] = {get_args(section.model_fields["kind"].annotation)[0]: section
                         for section in get_args(StrategyConfig)}  # fmt: skip
GIVEN: Mapping[str, Mapping[str, Any]] = {"fixed": {"beta": 0.99}}
"""Constants that a strategy has no default for."""
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ewc-lora": ("regular_ewc", {"on": "product"}),
    "lwf-masked": ("lwf", {"mask_target": True}),
    "mean-teacher-student": ("mean_teacher", {"stored": "student"}),
}
"""Strategies with another setting that costs something else."""
MOELORA, EXPERTS = "moelora", 4
"""Plain tuning of an adapter that is shared out among experts."""
NAMES = (*KINDS, *VARIANTS, MOELORA)


@dataclass(frozen=True)
class Bench:
    """What is measured: a day's model and the rows of a step."""

    day: Day
    rows: dict[str, Tensor]
    clock: Clock

    def loss_and_logits(self) -> tuple[Tensor, Tensor]:
        """Summed over the answer tokens, as in the project's loop."""
        logits = self.logits()
        scores = logits[:, :-1].flatten(0, 1).float()
        return F.cross_entropy(scores, self.rows["labels"][:, 1:].flatten(), reduction="sum"), logits

    def logits(self) -> Tensor:
        inputs = {key: value for key, value in self.rows.items() if key != "labels"}
        with torch.autocast(self.day.device, torch.bfloat16):
            logits: Tensor = self.day.model(**inputs, use_cache=False).logits
        return logits


# A stage ----------------------------------------------------------------------------------------------------------


def config_of(name: str, rows: int) -> Any:
    """The configuration of one of NAMES; of its rows at a task's end it sees those of a step."""
    kind, given = VARIANTS.get(name, ("sequential" if name == MOELORA else name, {}))
    section = KINDS[kind]
    few = {"rows": rows} if "rows" in section.model_fields else {}
    return section(kind=kind, **GIVEN.get(kind, {}), **given, **few)


def begun(bench: Bench, strategy: Strategy, kept: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    """The optimizer of a stage that a strategy has started."""
    trained = trained_of(bench.day.model)
    optimizer = torch.optim.AdamW(trained.parameters.values(), lr=1e-5, fused=bench.clock.on_gpu)
    strategy.start(replace(trained, **_more(bench, trained, strategy)), optimizer, kept)
    return optimizer


def _more(bench: Bench, trained: Trained, strategy: Strategy) -> dict[str, Any]:
    """What the contract offers to strategies that look at the model with other weights, or go on beside an adapter."""
    beside = trained.parameters if getattr(strategy, "beside", False) else {}
    offered = {
        "logits_at": lambda batch, weights: logits_at(bench, trained, weights),
        "parent": {name: parameter.detach().clone() for name, parameter in beside.items()},
    }
    return {each.name: offered[each.name] for each in fields(Trained) if each.name in offered}


@torch.no_grad()
def logits_at(bench: Bench, trained: Trained, weights: Mapping[str, Tensor]) -> Tensor:
    """The scores of the step's rows with other weights in the place of the trained ones, without dropout."""
    own = {name: parameter.detach().clone() for name, parameter in trained.parameters.items()}
    bench.day.model.eval()
    _put(trained, weights)
    try:
        return bench.logits()
    finally:
        _put(trained, own)
        bench.day.model.train()


@torch.no_grad()
def _put(trained: Trained, weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        trained.parameters[name].copy_(weight)


def step(bench: Bench, strategy: Strategy, optimizer: torch.optim.Optimizer) -> None:
    loss, logits = bench.loss_and_logits()
    batch: Batch = bench.rows
    if (penalty := strategy.penalty(logits, batch)) is not None:
        loss = loss + penalty
    answers = (bench.rows["labels"] != -100).sum()
    torch.autograd.backward(loss / answers)
    torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def looks(bench: Bench, rows: int, alone: bool) -> Iterator[Look]:
    """The step's rows again, all at once or one at a time."""
    size = 1 if alone else len(bench.rows["labels"])
    for start in range(0, min(rows, len(bench.rows["labels"])), size):
        part = replace(bench, rows={key: value[start : start + size] for key, value in bench.rows.items()})
        yield Look(part.rows, tuple(range(start, start + len(part.rows["labels"]))), part.logits)


def ended(bench: Bench, strategy: Strategy) -> dict[str, Tensor]:
    """What a stage keeps for the next one."""
    bench.day.model.eval()
    kept = strategy.finish(lambda rows, alone: looks(bench, rows, alone))
    bench.day.model.train()
    bench.day.model.zero_grad(set_to_none=True)
    release = getattr(strategy, "release", None)
    if release is not None:
        release()
    return kept


# Measuring --------------------------------------------------------------------------------------------------------


def under(bench: Bench, name: str) -> dict[str, Any]:
    """Milliseconds of the fastest step, since others of a machine only slow it down, and of a task's end; memory, and
    what is stored beside the adapter."""
    config, steps = config_of(name, bench.day.shape.batch), WARM + bench.day.steps
    first = strategies.build(config.first(), 1)
    step(bench, first, begun(bench, first, {}))
    kept = ended(bench, first)
    forget(bench.day)
    strategy, spent = strategies.build(config, steps), []
    optimizer = begun(bench, strategy, kept)
    for _ in range(steps):
        start = bench.clock.now()
        step(bench, strategy, optimizer)
        spent.append(bench.clock.seconds(start, bench.clock.now()))
    trained = sum(p.numel() for g in optimizer.param_groups for p in g["params"])
    found = {"step_ms": 1000 * min(spent[WARM:]), **memory(bench.day, trained)}
    start = bench.clock.now()
    stored = ended(bench, strategy)
    found["end_ms"] = 1000 * bench.clock.seconds(start, bench.clock.now())
    found["stored_mb"] = sum(t.numel() * t.element_size() for t in stored.values()) / 1e6
    return found


def _fastest(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """Of two measurements of the same; memory is that of the last."""
    return {**now, **{key: min(before[key], now[key]) for key in ("step_ms", "end_ms")}} if before else dict(now)


def flops(bench: Bench) -> float:
    """Of a step, without what checkpointing computes again: two for each weight and token forward, and two backward
    through frozen weights or four through trained ones; attention over half of all pairs of tokens."""
    shape, model = bench.day.shape, bench.day.model.get_base_model()
    tokens = shape.batch * shape.tokens
    text, layers = model.config.text_config, model.config.text_config.num_hidden_layers
    trained = sum(p.numel() for p in bench.day.model.parameters() if p.requires_grad)
    words = model.get_input_embeddings().weight.numel()
    language = sum(p.numel() for p in model.model.language_model.parameters()) - words - trained
    frozen = language + model.lm_head.weight.numel()
    attention = 3 * 2 * layers * tokens * shape.tokens * text.num_attention_heads * text.head_dim
    eye = sum(p.numel() for p in model.model.vision_tower.parameters())
    return float(tokens * (4 * frozen + 6 * trained) + attention + 2 * eye * shape.batch * (patches(shape) + 1))


def peak(bench: Bench) -> tuple[float, str]:
    """TFLOP/s that the device could do in bf16: of its data sheet, else of a large product."""
    name = torch.cuda.get_device_name() if bench.clock.on_gpu else ""
    for part, value in PEAKS.items():
        if part in name:
            return value, "data sheet"
    side = 1024
    a = torch.randn(side, side, dtype=torch.bfloat16, device=bench.day.device)
    spent = []
    for _ in range(8):
        start = bench.clock.now()
        a @ a
        spent.append(bench.clock.seconds(start, bench.clock.now()))
    return 2 * side**3 / min(spent) / 1e12, "a measured product"


def speed(bench: Bench, step_ms: float) -> dict[str, Any]:
    """Tokens a second, and the share of the device's arithmetic that a plain step uses (MFU)."""
    shape, (most, source) = bench.day.shape, peak(bench)
    reached = flops(bench) / (step_ms / 1000) / 1e12
    tokens = 1000 * shape.batch * shape.tokens / step_ms
    return {"tokens_per_second": tokens, "tflops": reached, "peak_tflops": most, "peak_from": source,
            "mfu": reached / most}  # fmt: skip


def measure(bench: Bench, names: list[str], write: Any, rounds: int = 1) -> dict[str, Any]:
    """All figures; `write` is called with them after each part, so that a call that is cut off leaves what it has.

    Strategies take turns in each of `rounds`, and the fastest counts: a machine that is slow for a minute is not taken
    for a slow strategy.
    """
    bench.day.model.train()
    shape = bench.day.shape
    eye = shape.vision.get("hidden_size", VISION_7B["hidden_size"])
    found: dict[str, Any] = {
        "shape": {"batch": shape.batch, "tokens": shape.tokens, "rank": shape.rank, "vision": eye,
                  "layers": bench.day.model.config.text_config.num_hidden_layers,
                  "hidden": bench.day.model.config.text_config.hidden_size},
        "training": {}, "errors": {},
    }  # fmt: skip

    def add(name: str) -> None:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            found["training"][name] = _fastest(found["training"].get(name), under(bench, name))
        except Exception:  # noqa: BLE001 - hours on a GPU are rare: the others are measured, and the call fails
            found["errors"][name] = traceback.format_exc()
            bench.day.model.zero_grad(set_to_none=True)
        forget(bench.day)
        write(found)

    for name in list(dict.fromkeys(["sequential", *(name for name in names if name != MOELORA)])) * rounds:
        add(name)
    plain = found["training"].get("sequential")
    if plain:
        found["speed"] = speed(bench, plain["step_ms"])
    found["generation"] = generation(bench.day)
    if MOELORA in names:
        # The last, because the routers stay.
        route(bench.day.model, "default", EXPERTS)
        checkpointed(bench.day.model)
        for _ in range(rounds):
            add(MOELORA)
    if plain:
        for each in found["training"].values():
            each["added"] = each["step_ms"] / plain["step_ms"] - 1
    write(found)
    return found


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines for people."""
    yield "  ".join(str(value) for value in found["machine"].values())
    yield f"{'strategy':22}{'step ms':>10}{'added %':>9}{'peak GB':>9}{'held GB':>9}{'end ms':>10}{'stored MB':>11}"
    for name, each in found["training"].items():
        gb = "".join(f"{each[key]:9.2f}" for key in ("peak_gb", "held_gb"))
        added = 100 * each.get("added", 0)
        yield f"{name:22}{each['step_ms']:10.1f}{added:9.1f}{gb}{each['end_ms']:10.1f}{each['stored_mb']:11.1f}"
    if fast := found.get("speed"):
        yield (f"{fast['tokens_per_second']:,.0f} tokens/s, {fast['tflops']:.2f} TFLOP/s, "
               f"MFU {100 * fast['mfu']:.1f} % of {fast['peak_tflops']:.1f} ({fast['peak_from']})")  # fmt: skip
    spoken = found["generation"]
    yield f"generation  {spoken['beside']:.0f} tokens/s, merged {spoken['merged']:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each strategy")
    parser.add_argument("--rounds", type=int, default=1, help="how often all strategies are measured in turn")
    parser.add_argument("--batch", type=int, help="rows of a step, in place of the shape's")
    parser.add_argument("--tokens", type=int, help="tokens of a row, in place of the shape's")
    parser.add_argument("--strategies", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--json", type=Path, default=Path("gpu-llava.json"))
    given = parser.parse_args()
    shape = SHAPES[given.shape]
    shape = replace(shape, batch=given.batch or shape.batch, tokens=given.tokens or shape.tokens)
    started = time.perf_counter()
    clock = "wall" if given.device != "cpu" else f"of the process, {torch.get_num_threads()} threads"
    head = {"machine": {**machine(given.shape, given.device), "clock": clock}}

    def write(found: Mapping[str, Any]) -> None:
        whole = {**head, "seconds": time.perf_counter() - started, **found}
        given.json.write_text(json.dumps(whole, indent=1) + "\n")

    day = Day(shape, given.device, given.steps)
    bench = Bench(day, training_batch(shape, given.device), Clock(day.on_gpu))
    found = measure(bench, given.strategies, write, given.rounds)
    print("\n".join([*found["errors"].values(), *table({**head, **found})]))
    sys.exit(1 if found["errors"] else 0)


if __name__ == "__main__":
    main()
