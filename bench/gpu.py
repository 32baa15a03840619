"""What only a GPU can show: python -m bench.gpu --shape 7b --device cuda --json FILE. Called by bench/gpu.sh.

1. exactness: every rule of the average against an oracle in double precision;
2. whole way: two tasks of MiniCoIN, trained and answered in this process;
3. training: what every rule adds to a step of a LLaVA-7B with LoRA r 128, random weights, bf16, gradient checkpointing;
4. looking back: what kronecker's pass at a task's end takes for the rows of a step;
5. generation: new tokens a second.

The file is written after each part, so that a call that is cut off leaves what it has. Later work adds a part to PARTS.
Needs torch, transformers and peft; the second part also pydantic, and is skipped with the reason where something lacks.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from bench import ema_oracle, kronecker
from bench.ema import RULES
from bench.gpu_model import SHAPES, Shape, batch, model, training_batch
from bench.resident import forget_peak, resident_mb
from lcia.ema import Curvature, DynamicEma
from lcia.protocols import Look, Trained, TunedLinear
from lcia.strategies.kronecker import curvature

BARS = {torch.float64: 1e-10, torch.float32: 1e-5}
"""The largest error of theta*, over the largest weight, by the precision of the weights."""
SHARE_BAR = 0.005
"""Of a step of the 7B model."""
WARM = 5
"""Steps before the clock counts: buffers are made, kernels are chosen."""


@dataclass
class Day:
    """One call: what it measures on, and for how many steps."""

    shape: Shape
    device: str
    steps: int

    @cached_property
    def model(self) -> Any:
        return model(self.shape, self.device)

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"


# 1 Exactness ------------------------------------------------------------------------------------------------------


def exactness(day: Day) -> dict[str, Any]:
    """Errors of each rule in both precisions, and whether they are within the bars."""
    found: dict[str, Any] = {}
    for name in ema_oracle.RULES:
        for dtype, bar in BARS.items():
            errors = ema_oracle.errors(name, day.device, dtype)
            good = max(errors["theta"], errors["pull"]) <= bar and errors["fallback"] < 0.5
            found[f"{name} {str(dtype).removeprefix('torch.')}"] = {**errors, "bar": bar, "good": good}
    return found


# 2 The whole way --------------------------------------------------------------------------------------------------


def whole_way(day: Day) -> dict[str, Any]:
    """Two tasks through the project's own loop and answers, on the device that accelerate finds."""
    try:
        from lcia.config.load import parse
        from lcia.config.run import RunConfig
        from lcia.local import LocalExecutor
        from lcia.metrics.matrix import avg_acc
        from lcia.run import run
        from lcia.store.folders import Store

        benchmark = {"kind": "minicoin", "tasks": ["VQAv2", "Grounding"], "train_size": 64, "test_size": 8}
        chosen = {"name": "gpu-day", "benchmark": benchmark, "training": {"max_steps": 2 * day.steps}}
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            (outcome,) = run([parse(RunConfig, chosen, "gpu-day")], LocalExecutor(Store(folder)))
    except ImportError as missing:
        return {"skipped": f"skipped: {missing}"}
    return {"avg_acc": avg_acc(outcome.matrix), "seconds": time.perf_counter() - started}


# 3 Training -------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds between moments: on a GPU by its events, on a CPU of this process alone, because others of the
    machine do not count."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu

    def now(self) -> Any:
        if not self.on_gpu:
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        if not self.on_gpu:
            return float(end - start)
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1000

    def watch_waits(self, mode: str) -> None:
        """`warn`: each wait for the device from here on is a warning; `default`: none."""
        if self.on_gpu:
            torch.cuda.set_sync_debug_mode(mode)


class Watched:
    """An optimizer whose steps note when an average's hooks begin and end, and how often these wait for the device."""

    def __init__(self, parameters: list[Any], clock: Clock) -> None:
        self.clock, self.moments, self.counting = clock, dict[str, Any](), False
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=clock.on_gpu)

    def attach(self, attach: Callable[[Any], object]) -> None:
        """Hooks run in the order in which they were registered, so the average's lie between ours."""
        self.optimizer.register_step_pre_hook(lambda *_: self._note("before", "warn"))
        self.optimizer.register_step_post_hook(lambda *_: self._note("stepped", "warn"))
        attach(self.optimizer)
        self.optimizer.register_step_pre_hook(lambda *_: self._note("ready", "default"))
        self.optimizer.register_step_post_hook(lambda *_: self._note("after", "default"))

    def _note(self, name: str, mode: str) -> None:
        if self.counting:
            self.clock.watch_waits(mode)
        else:
            self.moments[name] = self.clock.now()

    def hooks_seconds(self) -> float:
        at, seconds = self.moments, self.clock.seconds
        return seconds(at["before"], at["ready"]) + seconds(at["stepped"], at["after"])


def training(day: Day) -> dict[str, Any]:
    """Seconds, memory and waits of a step under each rule."""
    day.model.train()
    rows, trained = training_batch(day.shape, day.device), trained_of(day.model)
    attach: dict[str, Callable[[Any], object]] = {"none": lambda optimizer: None}
    attach |= {name: partial(_average, trained, rule) for name, rule in RULES.items()}
    attach |= {f"kronecker_{k}": partial(kronecker.started, trained, k=k) for k in kronecker.SIZES}
    return {name: _step_under(day, each, rows) for name, each in attach.items()}


def trained_of(model: Any) -> Trained:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    layers = [
        TunedLinear(name, m, m.lora_B["default"].weight, m.lora_A["default"].weight, scale=m.scaling["default"])
        for name, m in model.named_modules()
        if isinstance(m, LoraLayer)
    ]
    return Trained(named, layers)


def _step_under(day: Day, attach: Callable[[Any], object], rows: dict[str, Any]) -> dict[str, Any]:
    clock = Clock(day.on_gpu)
    parameters = [p for p in day.model.parameters() if p.requires_grad]
    forget(day)
    watched = Watched(parameters, clock)
    watched.attach(attach)

    def step() -> None:
        with torch.autocast(day.device, torch.bfloat16):
            loss = day.model(**rows).loss
        torch.autograd.backward(loss)
        watched.optimizer.step()
        watched.optimizer.zero_grad()

    hooks, wholes = [], []
    for _ in range(WARM + day.steps):
        start = clock.now()
        step()
        wholes.append(clock.seconds(start, clock.now()))
        hooks.append(watched.hooks_seconds())
    shares = [hook / whole for hook, whole in zip(hooks[WARM:], wholes[WARM:], strict=True)]
    return {
        "share": statistics.median(shares),
        "hook_ms": 1000 * statistics.median(hooks[WARM:]),
        "step_ms": 1000 * statistics.median(wholes[WARM:]),
        **memory(day, sum(p.numel() for p in parameters)),
        "waits": _waits(watched, step),
    }


def _average(trained: Trained, rule: Any, optimizer: Any) -> DynamicEma:
    named = trained.parameters
    old = {name: torch.rand_like(p) for name, p in named.items()} if isinstance(rule, Curvature) else None
    return DynamicEma(named, rule, old_curvature=old).attach(optimizer)


def forget(day: Day) -> None:
    """What the rule before held goes, so that peaks can be compared."""
    gc.collect()
    if day.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()


def memory(day: Day, parameters: int) -> dict[str, Any]:
    """Peak and what is held between steps, in GB, of the device, or of the whole process on a CPU."""
    if day.on_gpu:
        peak, held = torch.cuda.max_memory_allocated() / 1e9, torch.cuda.memory_allocated() / 1e9
    else:
        peak, held = (resident_mb(os.getpid(), field) / 1e3 for field in ("VmHWM", "VmRSS"))
    return {"peak_gb": peak, "held_gb": held, "trained": parameters}


def _waits(watched: Watched, step: Callable[[], object]) -> int | None:
    """How often the hooks of one more step wait for the device; None without a GPU."""
    if not watched.clock.on_gpu:
        return None
    watched.counting = True
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        step()
    watched.clock.watch_waits("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)


# 4 Looking back ---------------------------------------------------------------------------------------------------


def looking_back(day: Day) -> dict[str, Any]:
    """Milliseconds of kronecker's pass over the rows of a step, and its peak memory, by directions kept."""
    rows, trained, clock = training_batch(day.shape, day.device), trained_of(day.model), Clock(day.on_gpu)

    def logits() -> Any:
        with torch.autocast(day.device, torch.bfloat16):
            return day.model(**rows).logits

    look = Look(rows, tuple(range(len(rows["labels"]))), logits)
    found: dict[str, Any] = {"rows": len(look.seeds)}
    for k in kronecker.SIZES:
        forget(day)
        seconds = []
        for _ in range(3):
            start = clock.now()
            curvature(trained, replace(kronecker.RULE, k=k), lambda count, alone: iter([look]))
            seconds.append(clock.seconds(start, clock.now()))
        found[f"k{k}"] = {"ms": 1000 * statistics.median(seconds), **memory(day, 0)}
    return found


# 5 Generation -----------------------------------------------------------------------------------------------------


def generation(day: Day) -> dict[str, Any]:
    """New tokens a second over a batch, greedy, with the adapter beside the weights and merged into them."""
    day.model.eval()
    day.model.get_base_model().gradient_checkpointing_disable()
    beside = _tokens_a_second(day)
    day.model.merge_adapter()
    merged = _tokens_a_second(day)
    day.model.unmerge_adapter()
    return {"beside": beside, "merged": merged, "batch": day.shape.batch, "new_tokens": day.shape.new_tokens}


@torch.inference_mode()
def _tokens_a_second(day: Day) -> float:
    rows, new = batch(day.shape, day.device, 24), day.shape.new_tokens
    clock = Clock(day.on_gpu)

    def answer(tokens: int) -> float:
        start = clock.now()
        with torch.autocast(day.device, torch.bfloat16):
            day.model.generate(
                **rows, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0, use_cache=True
            )
        return clock.seconds(start, clock.now())

    answer(2)
    return float(day.shape.batch * new / answer(new))


# All of it --------------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Day], dict[str, Any]]] = {
    "exactness": exactness,
    "whole_way": whole_way,
    "training": training,
    "looking_back": looking_back,
    "generation": generation,
}


def machine(shape: str, device: str) -> dict[str, Any]:
    import peft
    import transformers

    name = torch.cuda.get_device_name() if device != "cpu" else f"{platform.machine()}, {os.cpu_count()} cores"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    return {"device": name, "shape": shape, "date": time.strftime("%Y-%m-%d"), **versions}


def table(found: dict[str, Any]) -> Iterator[str]:
    """Lines for people."""
    yield "  ".join(str(value) for value in found["machine"].values())
    for name, errors in found.get("exactness", {}).items():
        verdict = "good" if errors["good"] else "WRONG"
        yield f"exact  {name:20} theta* {errors['theta']:8.1e}  pull {errors['pull']:8.1e}  {verdict}"
    if way := found.get("whole_way"):
        told = way.get("skipped") or "{seconds:.0f} s, avg_acc {avg_acc:.1f}".format(**way)
        yield f"whole way  {told}"
    yield f"{'rule':26}{'share %':>9}{'hook ms':>9}{'step ms':>9}{'peak GB':>9}{'held GB':>9}{'waits':>7}"
    for name, step in found.get("training", {}).items():
        memory = "".join(f"{step[key]:9.2f}" for key in ("peak_gb", "held_gb"))
        waits = "-" if step["waits"] is None else step["waits"]
        yield f"{name:26}{100 * step['share']:9.2f}{step['hook_ms']:9.2f}{step['step_ms']:9.0f}{memory}{waits:>7}"
    if passes := found.get("looking_back"):
        told = ", ".join(f"{name} {passes[name]['ms']:.0f} ms" for name in passes if name != "rows")
        yield f"looking back at {passes['rows']} rows  {told}"
    if speed := found.get("generation"):
        yield f"generation  {speed['beside']:.0f} tokens/s, merged {speed['merged']:.0f}"
    worst = max((step["share"] for step in found.get("training", {}).values()), default=0.0)
    yield f"largest share {100 * worst:.2f} %; the bar on a 7B model is {100 * SHARE_BAR} %"


def wrong(found: dict[str, Any]) -> list[str]:
    """The rules whose average is not exact."""
    return [name for name, errors in found.get("exactness", {}).items() if not errors["good"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=6, help="measured steps of each rule")
    parser.add_argument("--json", type=Path, default=Path("gpu-day.json"))
    given = parser.parse_args()
    day = Day(SHAPES[given.shape], given.device, given.steps)
    found: dict[str, Any] = {"machine": machine(given.shape, given.device), "seconds": {}, "errors": {}}
    for name, part in PARTS.items():
        started = time.perf_counter()
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            found[name] = part(day)
        except Exception:  # noqa: BLE001 - hours on a GPU are rare: the other parts are measured, and the call fails
            found["errors"][name] = traceback.format_exc()
        found["seconds"][name] = time.perf_counter() - started
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join([*found["errors"].values(), *table(found)]))
    sys.exit(1 if found["errors"] or wrong(found) else 0)


if __name__ == "__main__":
    main()
