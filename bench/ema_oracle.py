"""theta* by the formulas of docs/method.md 2, one tensor after another in double precision; knows torch alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lcia.ema import Curvature, DynamicEma, Fixed, Official, Paper, Proximal

RULES: dict[str, Any] = {
    "fixed": Fixed(0.9),
    "paper": Paper(lagrange=1.0, fallback=0.99, reduction="sum"),
    "official": Official(factor=0.05, fallback_alpha=0.01, reduction="sum"),
    "proximal": Proximal("relative", 20.0),
    "curvature": Curvature(0.5, 0.9, 0.1),
}
"""With constants under which most betas of the story are dynamic."""
OLD = 0.01
"""F_old of every entry."""


@dataclass
class Story:
    """What one tensor went through: weights [steps + 1], gradients of the loss and as stepped with [steps]; fp64."""

    weights: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    stepped: list[Tensor] = field(default_factory=list)


def errors(name: str, device: str, dtype: torch.dtype, steps: int = 30) -> dict[str, float]:
    """A rule beside the oracle on one training: the largest error of theta* and of the pull, each over the largest
    value there; and `fallback`, the share of betas that were not dynamic."""
    stories, average = _told(RULES[name], device, dtype, steps)
    stars = {key: oracle(RULES[name], story) for key, story in stories.items()}
    found = average.weights()
    return {
        "theta": max(_off(found[key], star) for key, star in stars.items()),
        "pull": max(_off_pull(RULES[name], story) for story in stories.values()),
        "fallback": average.statistics().get("fallback", 0.0),
    }


def _off(value: Tensor, right: Tensor) -> float:
    return float((value.double().cpu() - right).abs().max() / right.abs().max())


def _off_pull(rule: Any, story: Story) -> float:
    """Error of the gradients that were stepped with: the loss's, plus pull F_old (theta - theta_0)."""
    pull = rule.pull if isinstance(rule, Curvature) else 0.0
    lived = zip(story.weights, story.gradients, story.stepped, strict=False)
    return max(_off(stepped, g + pull * OLD * (theta - story.weights[0])) for theta, g, stepped in lived)


def _told(rule: Any, device: str, dtype: torch.dtype, steps: int) -> tuple[dict[str, Story], DynamicEma]:
    """Trains a small network under the rule and writes down what each of its tensors goes through."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 20)).to(device, dtype)
    inputs = torch.randn(steps, 32, 20).to(device, dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    old = {n: torch.full_like(p, OLD) for n, p in model.named_parameters()} if isinstance(rule, Curvature) else None
    average = DynamicEma(model.named_parameters(), rule, old_curvature=old).attach(optimizer)
    stories = {name: Story([_kept(p)]) for name, p in model.named_parameters()}
    for x in inputs:
        torch.autograd.backward((model(x) - x.cumsum(1)).pow(2).mean())
        for name, parameter in model.named_parameters():
            stories[name].gradients.append(_kept(parameter.grad))
        optimizer.step()
        for name, parameter in model.named_parameters():
            stories[name].stepped.append(_kept(parameter.grad))
            stories[name].weights.append(_kept(parameter))
        optimizer.zero_grad()
    return stories, average


def _kept(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.detach().to("cpu", torch.float64, copy=True)


def oracle(rule: Any, story: Story) -> Tensor:
    """theta* at the end of the story."""
    if isinstance(rule, Curvature):
        return _curvature(rule, story)
    star, weigh = story.weights[0].clone(), BETAS[type(rule)]
    memory: list[float] = []
    for t, theta in enumerate(story.weights[1:]):
        beta = weigh(rule, Moment.of(story, t, star), memory)
        star = beta * star + (1 - beta) * theta
    return star


def _curvature(rule: Curvature, story: Story) -> Tensor:
    origin, short = story.weights[0], story.weights[0]
    for theta in story.weights[1:]:
        short = rule.short_average * short + (1 - rule.short_average) * theta
    own = sum(g * g for g in story.gradients) / len(story.gradients)
    beta = rule.lambda_ * OLD / (rule.lambda_ * OLD + own)
    return beta * origin + (1 - beta) * short


@dataclass(frozen=True)
class Moment:
    """One step of one tensor: d = theta - theta*, g, dg = g - last g, dtheta = theta - last theta. `first`: there is
    no last gradient."""

    d: Tensor
    g: Tensor
    dg: Tensor
    dtheta: Tensor
    first: bool

    @classmethod
    def of(cls, story: Story, t: int, star: Tensor) -> Moment:
        theta, last, g = story.weights[t + 1], story.weights[t], story.gradients[t]
        return cls(theta - star, g, g - story.gradients[max(t - 1, 0)], theta - last, t == 0)


def _fixed(rule: Fixed, at: Moment, memory: list[float]) -> float:
    return rule.beta


def _paper(rule: Paper, at: Moment, memory: list[float]) -> float:
    top = (1 / rule.lagrange + at.g.abs().sum()) * at.dtheta.abs().sum()
    beta = float(top / (at.d.abs().sum() * at.dg.abs().sum()))
    return beta if not at.first and 0 < beta < 1 else rule.fallback


def _official(rule: Official, at: Moment, memory: list[float]) -> float:
    alpha = float(rule.factor * (1 + at.g.abs().sum()) / (at.d.abs().sum() * at.dg.abs().sum()))
    return 1 - (alpha if not at.first and 0 < alpha < 1 else rule.fallback_alpha)


def _proximal(rule: Proximal, at: Moment, memory: list[float]) -> float:
    h = max(0.0, float((at.dg * at.dtheta).sum() / (at.dtheta * at.dtheta).sum()))
    if not at.first:
        memory.append(h)
    s = rule.strength * sum(memory) / max(1, len(memory))
    if s + h == 0:  # nothing has bent yet: a flat slope
        return rule.strength / (1 + rule.strength)
    beta = (s + float((at.g * at.d).sum() / (at.d * at.d).sum())) / (s + h)
    return min(max(beta, 0.0), 1.0)


BETAS: dict[type, Callable[[Any, Moment, list[float]], float]] = {
    Fixed: _fixed, Paper: _paper, Official: _official, Proximal: _proximal
}  # fmt: skip
