"""What the average costs: python -m bench.ema --device cpu|cuda --json FILE. Needs torch alone.

Medians of the ratios of interleaved rounds in one process; CPU time on a CPU, time by events on a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.ema_workloads import Tensors, Training, authors_loop, block_training, lora_shapes, tiny_training
from lcia.ema import Curvature, DynamicEma, Fixed, Official, Paper, Proximal
from lcia.ema.curvature import CurvatureAverage
from lcia.ema.hooks import Step
from lcia.ema.pema import PemaAverage

RULES: dict[str, Any] = {
    "fixed": Fixed(0.99),
    "paper": Paper(lagrange=1.0, fallback=0.99, reduction="sum"),
    "official": Official(factor=2.0, fallback_alpha=0.01, reduction="sum"),
    "proximal": Proximal("relative", 60.0),
    "curvature": Curvature(0.3, 0.9, 0.0),
    "curvature_with_pull": Curvature(0.3, 0.9, 1000.0),
    "curvature_with_pull_adam": Curvature(0.3, 0.9, 1000.0, "adam"),
}
Clock = Callable[[Callable[[], None]], float]


def seconds_cpu(action: Callable[[], None]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def seconds_cuda(action: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    action()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


def spent_on(
    actions: Mapping[str, Callable[[], None]], clock: Clock, rounds: int, prepare: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds of each action by round; every round runs all of them once, so that all meet the same weather."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 5):
        prepare()
        for name, action in actions.items():
            spent = clock(action)
            # The first rounds make buffers and warm the caches.
            if number >= 5:
                times[name].append(spent)
    return times


def ratio(top: list[float], bottom: list[float]) -> float:
    """Median over the rounds: a slow minute of the machine slows both."""
    return statistics.median(a / b for a, b in zip(top, bottom, strict=True))


def hook(tensors: Tensors, rule: Any) -> tuple[DynamicEma, Callable[[], None]]:
    """An average and what it does around one optimizer step."""
    names = [f"layers.{i // 14}.{i % 14}" for i in range(len(tensors.parameters))]
    parameters = dict(zip(names, tensors.parameters, strict=True))
    old = {n: torch.rand_like(p) for n, p in parameters.items()} if isinstance(rule, Curvature) else None
    average = DynamicEma(parameters, rule, old_curvature=old)
    engine, step = average.engine, Step()

    def act() -> None:
        if isinstance(engine, CurvatureAverage):
            engine.consolidation.before(step)
        engine.after(step)

    return average, act


def bytes_held(average: DynamicEma) -> int:
    """Bytes of all buffers that live from step to step."""
    engine = average.engine
    if isinstance(engine, CurvatureAverage):
        kept = engine.consolidation
        known = [buffer for pair in kept.known if pair is not None for buffer in pair]
        buffers = [*engine.short, *kept.moment.squares, *known]
    elif isinstance(engine, PemaAverage):
        buffers = engine.average
    else:
        buffers = [buffer for part in engine.buffers for buffer in part.kept.values()]
    return sum(buffer.numel() * buffer.element_size() for buffer in buffers)


def collectives(action: Callable[[], None]) -> int:
    """Calls of all_reduce in one step."""
    calls, original = 0, dist.all_reduce

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*args, **kwargs)

    dist.all_reduce = counting
    try:
        action()
    finally:
        dist.all_reduce = original
    return calls


def host_syncs(action: Callable[[], None], device: str) -> int | None:
    """Waits for the device in one step, as CUDA's debug mode reports them; None without a GPU."""
    if device == "cpu":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        action()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)


def measure_hooks(device: str, layers: int, rounds: int, clock: Clock) -> dict[str, dict[str, Any]]:
    """Every rule against the authors' loop and fused AdamW on the same tensors."""
    tensors = Tensors.make(lora_shapes(layers), device)
    adam = torch.optim.AdamW(tensors.parameters, lr=1e-6, fused=True)
    found: dict[str, dict[str, Any]] = {}
    for name, rule in RULES.items():
        average, act = hook(tensors, rule)
        actions = {"authors": authors_loop(tensors), "adam": lambda: (adam.step(), None)[1], "hook": act}
        spent = spent_on(actions, clock, rounds, tensors.next_gradients)
        tensors.next_gradients()
        found[name] = {
            "vs_authors_loop": ratio(spent["authors"], spent["hook"]),
            "vs_fused_adamw": ratio(spent["hook"], spent["adam"]),
            "host_syncs": host_syncs(act, device),
            "collectives": collectives(act),
            "bytes_per_param": bytes_held(average) / tensors.entries(),
            "milliseconds": 1000 * statistics.median(spent["hook"]),
        }
    return found


def step_shares(training: Training, rounds: int, clock: Clock) -> dict[str, float]:
    """Each hook's share of a training step (forward, backward, fused AdamW, and the hook itself)."""
    parameters = [p for p in training.model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    tensors = Tensors(parameters, ([], []))
    hooks = {name: hook(tensors, rule)[1] for name, rule in RULES.items()}

    def clear() -> None:
        adam.zero_grad()

    def step() -> None:
        training.backward()
        adam.step()

    spent = spent_on({"step": step, **hooks}, clock, rounds, clear)
    whole = {name: [a + b for a, b in zip(spent["step"], spent[name], strict=True)] for name in hooks}
    return {name: ratio(spent[name], whole[name]) for name in hooks}


def growth(device: str, rounds: int, clock: Clock) -> dict[str, dict[str, float]]:
    """Milliseconds of the rule `paper` against the number of equal tensors, and against the size of sixteen."""
    found: dict[str, dict[str, float]] = {"tensors_of_16k": {}, "entries_in_16_tensors": {}}
    for count in (16, 64, 256):
        tensors = Tensors.make([(128, 128)] * count, device)
        found["tensors_of_16k"][str(count)] = _milliseconds(tensors, clock, rounds)
    for width in (128, 512, 2048):
        tensors = Tensors.make([(128, width)] * 16, device)
        found["entries_in_16_tensors"][str(tensors.entries())] = _milliseconds(tensors, clock, rounds)
    return found


def _milliseconds(tensors: Tensors, clock: Clock, rounds: int) -> float:
    """Median of the rule `paper` on these tensors."""
    act = hook(tensors, RULES["paper"])[1]
    return 1000 * statistics.median(spent_on({"hook": act}, clock, rounds, tensors.next_gradients)["hook"])


def machine(device: str, layers: int) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    gpu = "measured" if device == "cuda" else "missing: no GPU figures in this file"
    return {"device": device, "name": name, "threads": torch.get_num_threads(), "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"), "lora_layers": layers, "gpu": gpu}  # fmt: skip


def measure(device: str, layers: int, rounds: int) -> dict[str, Any]:
    """All figures of one run."""
    clock = seconds_cpu if device == "cpu" else seconds_cuda
    rules = measure_hooks(device, layers, rounds, clock)
    for key, training, times in (("tiny", tiny_training, rounds), ("block", block_training, max(3, rounds // 4))):
        for name, share in step_shares(training(device), times, clock).items():
            rules[name][f"step_share_{key}"] = share
    return {"rules": rules, "growth": growth(device, rounds, clock), "machine": machine(device, layers)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--layers", type=int, default=1, help="decoder blocks whose LoRA tensors are averaged")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    text = json.dumps(measure(given.device, given.layers, given.rounds), indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
