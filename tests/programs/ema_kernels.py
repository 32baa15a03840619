"""The average's kernels against its plain torch path, on the GPU where there is one, else in Triton's interpreter.

python -m tests.programs.ema_kernels FILE (with TRITON_INTERPRET=1 where there is no GPU): writes JSON.
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lcia.ema import triton_kernels, triton_launch
from lcia.ema.dynamic import Curvature, DynamicEma, Fixed, Official, Options, Paper, Proximal

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((37, 5), (4,), (2, 3, 7), (129,), (4, 1), (700,))
STEPS = 6
RULES: dict[str, Any] = {
    "fixed": Fixed(0.9),
    "paper": Paper(lagrange=0.8, fallback=0.99, reduction="sum"),
    "official": Official(factor=0.7, fallback_alpha=0.01, reduction="sum"),
    "proximal": Proximal("relative", 20.0),
    "curvature": Curvature(0.5, 0.9, 0.0),
    "curvature_with_pull": Curvature(0.5, 0.9, 3.0),
    "curvature_of_adam": Curvature(0.5, 0.9, 3.0, "adam"),
}
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "mixed": None}
CASES = [(rule, "fp32", "dropped") for rule in RULES]
CASES += [(rule, kind, "dropped") for rule in ("paper", "curvature_with_pull") for kind in ("fp64", "bf16", "mixed")]
CASES += [("proximal", "fp64", "dropped")]
CASES += [
    (rule, "fp32", habit) for rule in ("paper", "curvature_with_pull") for habit in ("in place", "missing", "scaled")
]


def parameters(kind: torch.dtype | None) -> dict[str, nn.Parameter]:
    """None: every second tensor in fp64."""
    random = torch.Generator().manual_seed(1)
    drawn = [torch.randn(shape, generator=random, dtype=torch.float64) for shape in SHAPES]
    types = [kind or (torch.float64 if place % 2 else torch.float32) for place in range(len(SHAPES))]
    pairs = enumerate(zip(drawn, types, strict=True))
    return {f"layers.{place // 2}.{place}": nn.Parameter(value.to(DEVICE, dtype)) for place, (value, dtype) in pairs}


class Descent(torch.optim.Adam):
    """Gradient descent with Adam's second moment beside it; scaled and void steps as in torch's fused optimizers."""

    def __init__(self, held: list[nn.Parameter]) -> None:
        super().__init__(held, betas=(0.9, 0.8))
        self.grad_scale: Tensor | None = None
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is None or (self.found_inf is not None and self.found_inf.item()):
                continue
            if self.grad_scale is not None:
                parameter.grad.div_(self.grad_scale)
            state = self.state[parameter]
            state.setdefault("exp_avg_sq", torch.zeros_like(parameter)).lerp_(parameter.grad.square(), 0.2)
            state["step"] = state.get("step", 0) + 1
            parameter.sub_(0.15 * parameter.grad)


class Loop:
    """A training whose gradients pull every entry to a goal; `habit` is what the loop does with old gradients."""

    def __init__(self, rule: Any, kind: torch.dtype | None, options: Options, habit: str) -> None:
        self.held, self.habit = parameters(kind), habit
        self.optimizer = Descent(list(self.held.values()))
        old = {n: torch.full_like(p, 0.2) for n, p in self.held.items()} if isinstance(rule, Curvature) else None
        if old is not None:
            del old["layers.0.1"]
        self.average = DynamicEma(self.held, rule, options, old).attach(self.optimizer)
        self.betas: list[Tensor] = []

    def run(self, steps: range) -> Loop:
        for step in steps:
            random = torch.Generator().manual_seed(step)
            for place, parameter in enumerate(self.held.values()):
                noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64).to(DEVICE)
                gradient = (parameter.detach().double() - 1 + 0.1 * noise).to(parameter.dtype)
                if self.habit == "missing" and place == 0:
                    # It does not lie in one piece, as that of a transposed product does not.
                    gradient = gradient.T.contiguous().T
                if self.habit == "missing" and place == 2 and step in (0, 4):
                    parameter.grad = None
                elif self.habit == "in place" and parameter.grad is not None:
                    parameter.grad.copy_(gradient)
                else:
                    parameter.grad = gradient
            self.step(step)
        return self

    def step(self, step: int) -> None:
        if self.habit == "scaled":
            # What a GradScaler leaves on a fused optimizer: scaled gradients, and on the device that a step is void.
            self.optimizer.grad_scale = torch.full((1,), 8.0, device=DEVICE)
            self.optimizer.found_inf = torch.full((1,), float(step in (2, 4)), device=DEVICE)
        self.optimizer.step()
        tally = getattr(self.average.engine, "tally", None)
        if tally is not None:
            self.betas.append(tally.beta.clone())
        if self.habit != "in place":
            self.optimizer.zero_grad()


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference of an entry, relative to its tensor's largest."""
    pairs = [(found[name].detach().double(), value.detach().double()) for name, value in expected.items()]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)


def compare(rule: Any, kind: torch.dtype | None, habit: str, **options: Any) -> dict[str, float]:
    """Triton beside torch over the same loop, with a restart of the Triton one in the middle."""
    missing = {"missing_gradient": "skip"} if habit == "missing" else {}
    settings = {**options, **missing}
    plain = Loop(rule, kind, Options(kernels="torch", **settings), habit).run(range(STEPS))
    fast = Loop(rule, kind, Options(kernels="triton", **settings), habit).run(range(STEPS // 2))
    theta = {name: parameter.detach().clone() for name, parameter in fast.held.items()}
    state = {key: value.clone() for key, value in fast.average.state_dict().items()}
    moments = deepcopy(fast.optimizer.state_dict())
    fast.run(range(STEPS // 2, STEPS))
    resumed = Loop(rule, kind, Options(kernels="triton", **settings), habit)
    for name, parameter in resumed.held.items():
        parameter.data.copy_(theta[name])
    resumed.optimizer.load_state_dict(moments)
    resumed.average.load_state_dict(state)
    resumed.run(range(STEPS // 2, STEPS))
    result = {
        "star": distance(fast.average.weights(), plain.average.weights()),
        "theta": distance(dict(fast.held), dict(plain.held)),
        "resumed": distance(resumed.average.weights(), fast.average.weights()),
    }
    if plain.betas:
        a, b = torch.stack(fast.betas), torch.stack(plain.betas)
        result["beta"] = float(((a - b).abs() / b).max())
        result["dynamic"] = float(((b[1:] - 0.99).abs() > 1e-9).logical_and(b[1:] < 1).double().mean())
    return result


def complaint(rule: Any, path: str) -> str:
    """What the average says of a gradient with one entry that is not finite, and that scalar averages are whole."""
    loop = Loop(rule, torch.float32, Options(kernels=path), "dropped").run(range(2))  # type: ignore[arg-type]
    for parameter in loop.held.values():
        parameter.grad = torch.full_like(parameter, 0.1)
    loop.held["layers.1.3"].grad.view(-1)[-1] = float("nan")  # type: ignore[union-attr]
    loop.optimizer.step()
    try:
        loop.average.apply_()
    except FloatingPointError as error:
        whole = isinstance(rule, Curvature) or all(bool(v.isfinite().all()) for v in loop.average.weights().values())
        return str(error) if whole else "theta* is not finite"
    return ""


def main(file: str) -> None:
    # Small, so that a tensor has several chunks, a chunk several blocks, and the last of both are not full.
    triton_launch.CHUNK, triton_kernels.SIZE = 500, 256
    results = {f"{rule} {kind} {habit}": compare(RULES[rule], DTYPES[kind], habit) for rule, kind, habit in CASES}
    for keeping in ("copy", "bfloat16"):
        results[f"paper fp32 {keeping}"] = compare(RULES["paper"], torch.float32, "dropped", previous_gradient=keeping)
    complaints = {name: [complaint(rule, path) for path in ("torch", "triton")] for name, rule in RULES.items()}
    Path(file).write_text(json.dumps({"device": DEVICE, "results": results, "complaints": complaints}))


if __name__ == "__main__":
    main(sys.argv[1])
