"""Why averages of weights protect nothing, and entries little: python -m bench.why [--json FILE].

The figures behind docs/strategies.md. One task of MiniCoIN is learnt; then others are, each from the same weights.

- `averages`: how far the averages of the published rules have gone towards the new weights, step by step, and what the
  points between old and new weights are worth on both tasks, next to the pull of `kronecker`.
- `rises`: the rise of the old task's loss along those ways, as it is, and as three kinds of curvature predict it.

Needs no Ray; two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from bench.ema import machine
from lcia import assistants
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.data.rows import Rows
from lcia.ema import DynamicEma, Fixed, Official, Paper, Proximal, Rule
from lcia.local import LocalExecutor
from lcia.metrics.scoring import fitted
from lcia.protocols import UNTRAINED, Assistant, Look, Strategy, Trained
from lcia.run import prepare
from lcia.stage import TrainStage
from lcia.store.folders import Store
from lcia.strategies.factors import Curvature, Sketch, named
from lcia.strategies.kronecker import KRONECKER, Kronecker, KroneckerStrategy, curvature, softened_loss
from lcia.strategies.pulls import Pull, pulls
from lcia.training.sampling import Sampler, drawn, seed_of
from lcia.training.train import answer_loss

OLD, NEW, OTHERS = "VQAv2", "Grounding", ("ScienceQA", "ImageNet", "Grounding", "OCR-VQA")
KNOWN = Kronecker(gamma=5.0, rho=1.0, temperature=4.0, rows=128, k=32)
RULES: dict[str, Rule] = {
    "fixed 0.99": Fixed(0.99),
    "paper": Paper(1.0, 0.99, "sum"),
    "official": Official(2.0, 0.01, "sum"),
    "proximal": Proximal("relative", 60.0),
}
MIXES = [step / 10 for step in range(11)]
MEASURED, SCORED, EVERY = 64, 100, 5
"""Rows of the old task that its loss is measured on, rows of both tasks that are answered, steps between two looks."""

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Task:
    """One task's training rows, and questions with their answers."""

    stage: TrainStage
    rows: Rows
    questions: Rows
    score: Callable[[str, Any], float]


class Bench:
    """The shipped tiny model with one adapter that has learnt OLD."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.store, self.tasks, self.steps = Store(str(folder)), dict[str, Task](), steps
        executor = LocalExecutor(self.store)
        for name in OTHERS:
            config = {"benchmark": {"kind": "minicoin", "tasks": [OLD, name]}, "grouping": {"enabled": False},
                      "training": {"max_steps": steps}}  # fmt: skip
            [prepared] = prepare([parse(RunConfig, config, "bench")], executor)
            for stage, spec in zip(prepared.plan.trains, prepared.benchmark.tasks, strict=True):
                asked = next(each for each in prepared.plan.evals if each.task == spec.name)
                rows, questions = self._rows(stage.shards), self._rows((asked.shards,))
                self.tasks[spec.name] = Task(stage, rows, questions, fitted(spec.strict, ()))
        executor.train_and_evaluate([self.tasks[OLD].stage], [])
        self.assistant: Assistant = assistants.build(prepared.config.assistant, prepared.config.lora)
        self.assistant.adapters.load("old", self.store.fetch(self.tasks[OLD].stage.key))
        self.trained = Trained(self.assistant.adapters.trainable(), self.assistant.adapters.layers())
        self.origin = self.weights()

    def _rows(self, keys: tuple[str, ...]) -> Rows:
        return Rows([self.store.fetch(key) for key in keys])

    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.trained.parameters.items()}

    def put(self, weights: Weights) -> None:
        with torch.no_grad():
            for name, parameter in self.trained.parameters.items():
                parameter.copy_(weights[name])

    def tune(self, name: str, strategy: Strategy, kept: Weights, follow: Callable[[Any], Callable[[], None]]) -> None:
        """Learns a task from the old weights; `follow` gets the optimizer and returns what is called after a step."""
        self.put(self.origin)
        task, training = self.tasks[name], self.tasks[name].stage.training
        optimizer = torch.optim.AdamW(self.trained.parameters.values(), lr=training.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        strategy.start(self.trained, optimizer, kept)
        after = follow(optimizer)
        sampler = Sampler(len(task.rows), training.batch_size, task.stage.seed)
        self.assistant.module.train()
        for step in range(self.steps):
            torch.manual_seed(seed_of(task.stage.seed, step, 0))
            batch = self.assistant.collate(task.rows.take(sampler.step(step).tolist()))
            loss = answer_loss(self.assistant.logits(self.assistant.module, batch), batch["labels"])
            torch.autograd.backward(loss / (batch["labels"] != UNTRAINED).sum())
            torch.nn.utils.clip_grad_norm_(self.trained.parameters.values(), training.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            after()

    @torch.inference_mode()
    def score(self, name: str) -> float:
        """Per cent of the first questions that are answered right."""
        task = self.tasks[name]
        samples = task.questions.take(range(min(SCORED, len(task.questions))))
        self.assistant.module.eval()
        answers = [
            text for at in range(0, len(samples), 50) for text in self.assistant.answer(samples[at : at + 50], 16)
        ]
        right = [task.score(text, sample.references) for text, sample in zip(answers, samples, strict=True)]
        return 100 * sum(right) / len(right)

    def look_back(self, count: int, alone: bool) -> Iterator[Look]:
        """Rows of the old task one by one, whatever `alone` says: so gradients are those of a row."""
        task = self.tasks[OLD]
        self.assistant.module.eval()
        for row in drawn(len(task.rows), count, task.stage.seed).tolist():
            batch = self.assistant.collate(task.rows.take([row]))
            yield Look(batch, (row,), lambda batch=batch: self.assistant.logits(self.assistant.module, batch))  # type: ignore[misc]


# Averages ---------------------------------------------------------------------------------------------------------


def averages(bench: Bench, known: Weights) -> dict[str, Any]:
    """Plain tuning carries all averages at once: they change nothing of its way."""
    followed: dict[str, DynamicEma] = {}
    gone: dict[str, list[float]] = {name: [] for name in RULES}

    def follow(optimizer: Any) -> Callable[[], None]:
        named = list(bench.trained.parameters.items())
        followed.update({name: DynamicEma(named, rule).attach(optimizer) for name, rule in RULES.items()})
        return note

    def note() -> None:
        whole = bench.weights()
        for name, average in followed.items():
            with average.swapped():
                gone[name].append(_length(bench.weights(), bench.origin) / _length(whole, bench.origin))

    def both() -> list[float]:
        return [bench.score(OLD), bench.score(NEW)]

    bench.tune(NEW, Strategy(), {}, follow)
    new, points = bench.weights(), {}
    for name, average in followed.items():
        with average.swapped():
            points[name] = both()
    line = []
    for mix in MIXES:
        bench.put({name: torch.lerp(new[name], bench.origin[name], mix) for name in new})
        line.append(both())
    bench.tune(NEW, KroneckerStrategy(KNOWN), known, lambda optimizer: lambda: None)
    points["kronecker"] = both()
    return {"tasks": [OLD, NEW], "gone": gone, "mixes": MIXES, "line": line, "points": points}


def _length(a: Weights, b: Weights) -> float:
    return float(torch.stack([(a[name] - b[name]).square().sum() for name in a]).sum().sqrt())


# Rises ------------------------------------------------------------------------------------------------------------


def rises(bench: Bench, layers: Mapping[str, Curvature], entries: Weights, known: Weights) -> dict[str, Any]:
    """The old task's loss along the ways of several tasks, learnt plainly and under kronecker's pull."""
    bench.put(bench.origin)
    alone = {name: Curvature(_entries(each.inputs), _entries(each.outputs)) for name, each in layers.items()}
    directions, diagonals = pulls(bench.trained.layers, layers), pulls(bench.trained.layers, alone)
    kinds: dict[str, Callable[[], float]] = {
        "entries of A and B": lambda: _by_entries(bench, entries),
        "entries of the product": lambda: _rise(diagonals),
        "directions of the product": lambda: _rise(directions),
    }
    measure = _measure(bench)
    found: list[dict[str, Any]] = []

    def follow(name: str, kind: str) -> Callable[[Any], Callable[[], None]]:
        steps = iter(range(1, bench.steps + 1))

        def note() -> None:
            step = next(steps)
            if step % EVERY == 0:
                predicted = {key: predict() for key, predict in kinds.items()}
                found.append({"task": name, "strategy": kind, "step": step, "rise": measure(), **predicted})
                bench.assistant.module.train()

        return lambda optimizer: note

    for name in OTHERS:
        bench.tune(name, Strategy(), {}, follow(name, "sequential"))
        bench.tune(name, KroneckerStrategy(KNOWN), known, follow(name, "kronecker"))
    real = [each["rise"] for each in found]
    ranks = {kind: float(spearmanr(real, [each[kind] for each in found])[0]) for kind in kinds}
    return {"old": OLD, "points": found, "rank_correlation": ranks}


def _entries(sketch: Sketch) -> Sketch:
    """The same matrix, of which the diagonal alone is known."""
    return Sketch(torch.zeros_like(sketch.product), sketch.diagonal)


@torch.no_grad()
def _rise(held: list[Pull]) -> float:
    """As curvature along the product predicts it, for q's row loss T CE(z / T, y) of second order: q / T."""
    return float(torch.stack([each()[0] for each in held]).sum()) / KNOWN.temperature


def _by_entries(bench: Bench, entries: Weights) -> float:
    """As a curvature of each entry of A and B predicts it."""
    moved = [(p.detach() - bench.origin[name]).square() * entries[name] for name, p in bench.trained.parameters.items()]
    return float(torch.stack([each.sum() for each in moved]).sum()) / 2 / KNOWN.temperature


def _measure(bench: Bench) -> Callable[[], float]:
    """T KL(softmax(z0 / T) || softmax(z / T)) per answer token of rows that no curvature has seen."""
    task, hot = bench.tasks[OLD], KNOWN.temperature
    seen = set(drawn(len(task.rows), KNOWN.rows, task.stage.seed).tolist())
    numbers = [row for row in range(len(task.rows)) if row not in seen][:MEASURED]
    batch = bench.assistant.collate(task.rows.take(numbers))
    answers = batch["labels"][:, 1:] != UNTRAINED

    @torch.no_grad()
    def softened() -> Tensor:
        bench.assistant.module.eval()
        return (bench.assistant.logits(bench.assistant.module, batch)[:, :-1][answers] / hot).log_softmax(-1)

    old = softened()
    return lambda: hot * float(F.kl_div(softened(), old, log_target=True, reduction="batchmean"))


def curvatures(bench: Bench) -> tuple[dict[str, Curvature], dict[str, Tensor]]:
    """Of the same rows and drawn labels: the factors of each layer, and the mean square of each entry's gradient."""
    bench.put(bench.origin)
    entries = {name: torch.zeros_like(parameter) for name, parameter in bench.trained.parameters.items()}
    tokens = 0
    for look in bench.look_back(KNOWN.rows, True):
        loss, count = softened_loss(look, KNOWN.temperature)
        torch.autograd.backward(loss)
        tokens += int(count)
        for name, parameter in bench.trained.parameters.items():
            assert parameter.grad is not None, "every matrix of LoRA has a part in the loss"
            entries[name] += parameter.grad.square()
            parameter.grad = None
    return curvature(bench.trained, KNOWN, bench.look_back), {name: each / tokens for name, each in entries.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps per task")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.steps)
        layers, entries = curvatures(bench)
        known = dict(pair for name, each in layers.items() for pair in named(each, KRONECKER + name))
        found = {"machine": machine("cpu", len(layers)), "steps": given.steps, "averages": averages(bench, known),
                 "rises": rises(bench, layers, entries, known)}  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    _print(found)


def _print(found: Mapping[str, Any]) -> None:
    averages = found["averages"]
    old, new = averages["tasks"]
    print(f"{'weights':24s} way gone  {old} %  {new} %")
    for name, (kept, learnt) in averages["points"].items():
        gone = averages["gone"].get(name)
        print(f"{name:24s} {gone[-1] if gone else float('nan'):8.2f}  {kept:{len(old)}.0f}    {learnt:{len(new)}.0f}")
    for mix, (kept, learnt) in zip(averages["mixes"], averages["line"], strict=True):
        print(
            f"{'mix ' + format(mix, '.1f') + ' old':24s} {1 - mix:8.2f}  {kept:{len(old)}.0f}    {learnt:{len(new)}.0f}"
        )
    for kind, rank in found["rises"]["rank_correlation"].items():
        print(f"rank correlation of the predicted and the measured rise, {kind}: {rank:.2f}")


if __name__ == "__main__":
    main()
