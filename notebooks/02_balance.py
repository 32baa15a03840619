# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The balance weight
#
# An average of weights, `theta* = beta theta* + (1 - beta) theta`, is to keep an old task while a new one is learnt.
# Every rule for beta in `lcia.ema` is followed here on a problem of two weights, where all minima are known. It shows
# how the rules work, not how good they are: for that see `docs/results`.

# %%
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

# %matplotlib inline
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from lcia.ema import Curvature, DynamicEma, Fixed, Official, Options, Paper, Proximal
from lcia.protocols import Trained, TunedLinear
from lcia.strategies.factors import Curvature as Factors
from lcia.strategies.factors import named
from lcia.strategies.kronecker import KRONECKER, Kronecker, KroneckerStrategy

torch.set_default_dtype(torch.float64)
plt.rcParams.update({"figure.dpi": 70, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})

# %% [markdown]
# ## Two tasks
#
# A linear layer with two inputs learns `y = w x + noise`. Its loss is a quadratic: the curvature is the mean of `x' x`,
# the minimum follows from least squares. The old task's inputs vary along one direction and hardly along the other one;
# the new task's vary alike in both. The old directions lie at 45 degrees to the weights: the two inputs are correlated,
# as those of a real layer are.


# %%
@dataclass(frozen=True)
class Task:
    """Rows x [n, 2] with answers y [n, outputs]."""

    x: Tensor
    y: Tensor

    @cached_property
    def curvature(self) -> Tensor:
        return self.x.T @ self.x / len(self.x)

    @cached_property
    def best(self) -> Tensor:
        """The weights [outputs, 2] with the least loss."""
        return torch.linalg.lstsq(self.x, self.y).solution.T

    def loss(self, w: Tensor) -> float:
        """Per output, above the least one."""
        away = w - self.best
        return float((away @ self.curvature * away).sum(1).mean() / 2)


def draw(angle: float, seed: int, best: tuple[float, float], spread: tuple[float, float]) -> Task:
    """`best` and `spread` (the mean squares of the inputs) along two directions, which are turned by `angle`."""
    seeded = torch.Generator().manual_seed(seed)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    # Columns at right angles, so that the spread is met exactly.
    columns = torch.linalg.qr(torch.randn(256, 2, generator=seeded))[0] * math.sqrt(256)
    x = columns @ torch.tensor(spread).sqrt().diag() @ turn.T
    return Task(x, x @ turn @ torch.tensor(best)[:, None] + torch.randn(256, 1, generator=seeded))


def pair(angle: float) -> tuple[Task, Task]:
    return draw(angle, 1, (2.0, 0.0), (2.0, 0.01)), draw(angle, 2, (3.0, 3.0), (0.5, 0.5))


old, new = pair(math.pi / 4)
for name, task in {"old": old, "new": new}.items():
    print(name, "minimum:", *(f"{value:.2f}" for value in task.best.flatten().tolist()), end="; ")
    print("curvature:", *(f"{value:.3f}" for value in task.curvature.flatten().tolist()))


# %% [markdown]
# ## Learning
#
# A hundred steps of plain gradient descent on 16 rows each; the rate falls to zero along a cosine.

# %%
STEPS = 100


@dataclass(frozen=True)
class Way:
    """How a task is learnt: `attach` gets the optimizer, `after` is called after each step. With the loss times `scale`
    the rate is divided by it, so that the weights go the same way."""

    attach: Callable[[torch.optim.Optimizer], object]
    after: Callable[[], None] = lambda: None
    scale: float = 1.0


def at(weights: Tensor) -> nn.Linear:
    """A layer with these weights [outputs, 2]."""
    layer = nn.Linear(2, len(weights), bias=False)
    with torch.no_grad():
        layer.weight.copy_(weights)
    return layer


def learn(task: Task, layer: nn.Linear, way: Way) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3 / way.scale)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    way.attach(optimizer)
    seeded = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        rows = torch.randint(len(task.x), (16,), generator=seeded)
        loss = (layer(task.x[rows]) - task.y[rows]).square().sum(1).mean() / 2
        (way.scale * loss).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        way.after()


# %% [markdown]
# ## All rules on one way
#
# An average changes nothing of the way of theta, so one training carries all of them. `fixed` is set so that 0.3 of the
# old average is left at the end. `curvature` alone is told of the old task: it gets `F_old`, the mean squared gradient
# of each weight while the old task was learnt.

# %%
RETAIN = 0.3
RULES = {
    "fixed": Fixed(RETAIN ** (1 / STEPS)),
    "paper": Paper(lagrange=1.0, fallback=0.99, reduction="sum"),
    "official": Official(factor=2.0, fallback_alpha=0.01, reduction="sum"),
    "proximal": Proximal("relative", 60.0),
    "curvature": Curvature(lambda_=0.3, short_average=0.9, pull=0.0),
}
BOUNDS = {"proximal": Options(beta_min=0.97)}
PLAIN = "no average"


@dataclass(frozen=True)
class Trace:
    """The start, by name the weights and the beta of every step, and the statistics after the last one."""

    start: Tensor
    weights: dict[str, list[Tensor]]
    beta: dict[str, list[float]]
    last: dict[str, dict[str, float]]

    def gone(self, name: str, step: int = STEPS) -> float:
        """How far the average has gone from the start, as a share of how far theta has."""
        average, theta = self.weights[name][step - 1], self.weights[PLAIN][step - 1]
        return float((average - self.start).norm() / (theta - self.start).norm())


def carry(outputs: int = 1, scale: float = 1.0) -> Trace:
    """Learns the old task, then the new one with all averages; the layer holds one row of weights `outputs` times."""
    # Away from the minimum along the direction that the old task's inputs vary in: the other one is hardly learnt.
    layer = at((old.best - 1.5).repeat(outputs, 1))
    first = DynamicEma(layer.named_parameters(), Curvature(lambda_=0.0, short_average=0.9, pull=0.0))
    learn(Task(old.x, old.y.repeat(1, outputs)), layer, Way(first.attach, scale=scale))
    start, kept = layer.weight.detach().clone(), first.curvature()
    averages = {
        name: DynamicEma(
            layer.named_parameters(), rule, BOUNDS.get(name, Options()), kept if name == "curvature" else None
        )
        for name, rule in RULES.items()
    }
    trace = Trace(start[0], {name: [] for name in (PLAIN, *RULES)}, {name: [] for name in RULES}, {})

    def note() -> None:
        trace.weights[PLAIN].append(layer.weight[0].detach().clone())
        for name, average in averages.items():
            trace.weights[name].append(average.weights()["weight"][0].clone())
            trace.beta[name].append(average.statistics()["beta"])

    learn(
        Task(new.x, new.y.repeat(1, outputs)),
        layer,
        Way(lambda optimizer: [average.attach(optimizer) for average in averages.values()], note, scale),
    )
    trace.last.update({name: average.statistics() for name, average in averages.items()})
    return trace


one = carry()

# %% [markdown]
# `gone` is the distance from the old weights, as a share of theta's, after 15 steps and at the end. `retain` is the
# product of all betas: the share of the old average that is left.

# %%
heads = ("old loss", "new loss", "gone, 15", "gone", "beta", "retain", "fallback")
print(f"{'':12}", *(f"{head:>9}" for head in heads))
for name, points in one.weights.items():
    figures = [old.loss(points[-1]), new.loss(points[-1]), one.gone(name, 15), one.gone(name)]
    if name in RULES:
        figures += [sum(one.beta[name]) / STEPS, one.last[name]["retain"], one.last[name]["fallback"]]
    print(f"{name:12}", *(f"{figure:9.3f}" for figure in figures))

# %%
COLOURS = dict(zip(one.weights, ("0.6", "#4477AA", "#EE6677", "#228833", "#CCBB44", "#AA3377"), strict=True))


def contours(axes, task: Task, colour: str) -> None:
    """Where the task's loss is 0.1, 0.5 and 2."""
    a, b = torch.linspace(-2, 4, 80), torch.linspace(-1, 6, 80)
    away = torch.stack(torch.meshgrid(a, b, indexing="xy"), -1) - task.best[0]
    losses = (away @ task.curvature * away).sum(-1) / 2
    axes.contour(a, b, losses, [0.1, 0.5, 2.0], colors=colour, linewidths=1, alpha=0.4)


figure, (plane, betas) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for task, colour in ((old, "black"), (new, "tab:cyan")):
    contours(plane, task, colour)
for name, points in one.weights.items():
    way = torch.stack([one.start, *points])
    plane.plot(*way.T, color=COLOURS[name], linewidth=1.2)
    plane.plot(*way[-1], "o", color=COLOURS[name], label=name)
    if name in one.beta:
        betas.plot(range(1, STEPS + 1), one.beta[name], color=COLOURS[name], label=name, linewidth=1)
plane.set(xlabel="first weight", ylabel="second weight", title="old task: black, new task: cyan")
betas.set(xlabel="step", ylabel="beta", title="beta")
plane.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## What the published rule does
#
# The beta of `paper` compares the gradient with its change from one batch to the next. The mean beta looks careful, but
# now and then one is far below 1, and a few of them are enough to lose the old average: after 15 steps it has gone most
# of the way, at the end all of it. The losses are those of no average.
# `official` uses its fallback, a beta of 0.99, nearly always, and one of the few other steps takes it most of the way.
# `fixed` leaves exactly what it was told to leave.

# %%
assert sum(one.beta["paper"]) / STEPS > 0.7
assert one.last["paper"]["retain"] < 1e-6
assert one.gone("paper", 15) > 0.8
assert abs(old.loss(one.weights["paper"][-1]) - old.loss(one.weights[PLAIN][-1])) < 0.01
assert one.last["official"]["fallback"] > 0.9
assert min(one.beta["official"]) < 0.5
assert math.isclose(one.last["fixed"]["retain"], RETAIN)

# %% [markdown]
# ## The same way, other units
#
# Now the layer holds the same row of weights 400 times, as a tensor of a large model has many entries; and then the
# loss is multiplied by 100 and the rate divided by it. Theta goes the same way all three times. The answers of `paper`
# and `official` depend on sums over entries and on the scale of the gradient, so their betas change. The three others
# are the same to the last digits.

# %%
others = {"400 outputs": carry(outputs=400), "loss times 100": carry(scale=100.0)}
print(f"{'way gone at the end':20}", *(f"{name:>10}" for name in RULES))
for name, trace in {"as above": one, **others}.items():
    print(f"{name:20}", *(f"{trace.gone(rule):10.3f}" for rule in RULES))
print(f"{'mean beta':20}", *(f"{name:>10}" for name in RULES))
for name, trace in {"as above": one, **others}.items():
    print(f"{name:20}", *(f"{sum(trace.beta[rule]) / STEPS:10.3f}" for rule in RULES))

for trace in others.values():
    for name in (PLAIN, "fixed", "proximal", "curvature"):
        found, wanted = (torch.stack(each.weights[name]) for each in (trace, one))
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    assert trace.gone("paper") > 0.99
official = [trace.gone("official") for trace in (one, *others.values())]
assert max(official) - min(official) > 0.5

# %% [markdown]
# ## The line has no good point
#
# An average of weights lies between the old and the new ones. Compare the points on that line with what a pull does: it
# acts while the new task is learnt, and theta ends at the minimum of
# `new loss + strength / 2 (w - w_old)' F (w - w_old)`. With F the diagonal of the old curvature this is EWC, which
# knows entries (here the exact diagonal); with the whole matrix it is the idea of `kronecker`, which knows directions.
# The table has the least sum of both losses: on the line, over all strengths of a pull, and over all weights.

# %%
STRENGTHS = torch.logspace(-3, 3, 121)
KINDS = ("line", "entries", "directions")
Pair = tuple[Task, Task]


def known(kind: str, task: Task) -> Tensor:
    """What a pull of that kind is told of the task's curvature."""
    return task.curvature.diagonal().diag() if kind == "entries" else task.curvature


def reached(kind: str, tasks: Pair) -> list[Tensor]:
    """Weights [1, 2] at every mix of both minima, or at every strength of the pull."""
    before, after = tasks
    if kind == "line":
        return [torch.lerp(after.best, before.best, float(mix)) for mix in torch.linspace(0, 1, 121)]
    pulls = [strength * known(kind, before) for strength in STRENGTHS]
    return [minimum((before.best, pull), (after.best, after.curvature)) for pull in pulls]


def minimum(*quadratics: tuple[Tensor, Tensor]) -> Tensor:
    """Where the sum of quadratics, each given by its minimum and curvature, is least."""
    slope = sum(best @ curvature for best, curvature in quadratics)
    return torch.linalg.solve(sum(curvature for _, curvature in quadratics), slope.T).T


def least(points: list[Tensor], tasks: Pair) -> float:
    """The least sum of both losses."""
    return min(sum(task.loss(w) for task in tasks) for w in points)


angles = {0.0: pair(0.0), 22.5: pair(math.pi / 8), 45.0: (old, new)}
sums = {}
for angle, tasks in angles.items():
    sums[angle] = {kind: least(reached(kind, tasks), tasks) for kind in KINDS}
    sums[angle]["all weights"] = least([minimum(*((task.best, task.curvature) for task in tasks))], tasks)
print(f"{'turned by':>10}", *(f"{name:>12}" for name in sums[0.0]))
for angle, row in sums.items():
    print(f"{angle:10.1f}", *(f"{value:12.3f}" for value in row.values()))

# %% [markdown]
# The directions find the best weights at every angle; the line never comes near them. The entries find them where the
# old directions are the axes. At 45 degrees all entries of the old curvature are alike, so the pull leads along the
# line again. And the entries' diagonal may even be worse than a mix.

# %%
for row in sums.values():
    assert row["directions"] < 1.01 * row["all weights"]
    assert row["line"] > 2 * row["all weights"]
assert sums[0.0]["entries"] < 1.01 * sums[0.0]["all weights"]
assert math.isclose(sums[45.0]["entries"], sums[45.0]["line"], rel_tol=0.01)
assert sums[22.5]["entries"] > sums[22.5]["line"]

# %% [markdown]
# ## The same, trained
#
# `KroneckerStrategy` is the strategy that runs use, here with gamma 1: the old loss counts as much as the new one. Its
# two factors are sums over the old task's rows; with one output they amount to the old curvature. EWC is the rule
# `Curvature` with its pull alone.

# %%
factors = Factors.zeros((1, 2), 2, old.x)
factors.add(old.x[:, None], torch.ones(len(old.x), 1, 1))
factors.scale_(torch.tensor(1 / len(old.x)))


def directions(layer: nn.Linear, optimizer: torch.optim.Optimizer) -> KroneckerStrategy:
    strategy = KroneckerStrategy(Kronecker(gamma=1.0, rho=1.0, temperature=1.0, rows=len(old.x), k=2))
    tuned = TunedLinear("layer", layer, layer.weight)
    strategy.start(Trained({"layer": layer.weight}, (tuned,)), optimizer, dict(named(factors, KRONECKER + "layer")))
    return strategy


def entries(layer: nn.Linear, optimizer: torch.optim.Optimizer) -> DynamicEma:
    rule = Curvature(lambda_=0.0, short_average=0.0, pull=1.0)
    kept = {"weight": old.curvature.diagonal()[None]}
    return DynamicEma(layer.named_parameters(), rule, old_curvature=kept).attach(optimizer)


ends = {name: points[-1][None] for name, points in one.weights.items()}
for pull in (entries, directions):
    layer = at(one.start[None])
    learn(new, layer, Way(partial(pull, layer)))
    ends[pull.__name__] = layer.weight.detach().clone()
for name, w in ends.items():
    print(f"{name:12} old {old.loss(w):6.3f}   new {new.loss(w):6.3f}   sum {old.loss(w) + new.loss(w):6.3f}")

# %% [markdown]
# At gamma 1 the pull along directions is the gradient of the old loss itself (its cap, rho, hardly acts here). So theta
# ends where both tasks would be learnt together. No average comes near. `curvature`, an average per entry, leaves the
# line to the wrong side, and the pull along entries ends about on the line.

# %%
summed = {name: old.loss(w) + new.loss(w) for name, w in ends.items()}
assert summed["directions"] < 1.2 * sums[45.0]["all weights"]
assert all(value > 2 * summed["directions"] for name, value in summed.items() if name != "directions")

# %%
figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
for kind, style in zip(KINDS, ("-", "--", ":"), strict=True):
    losses = [(old.loss(w), new.loss(w)) for w in reached(kind, (old, new))]
    colour, width = ("black", 1) if kind != "line" else ("0.8", 4)
    axes.plot(*zip(*losses, strict=True), style, color=colour, linewidth=width, label=f"all points: {kind}")
for name, w in ends.items():
    # `paper` lies on it.
    if name != PLAIN:
        axes.plot(old.loss(w), new.loss(w), "o", color=COLOURS.get(name, "black"))
        axes.annotate(name, (old.loss(w), new.loss(w)), (4, 4), textcoords="offset points", fontsize=8)
axes.set(xlabel="old loss", ylabel="new loss")
axes.legend()
plt.show()
