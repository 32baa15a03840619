"""Where the balance weight comes from: the formulas of docs/method.md 2, and the named rules that apply them.

beta is the weight of the OLD average: theta* = beta theta* + (1 - beta) theta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Reduction: TypeAlias = Literal["sum", "mean"]
Moment: TypeAlias = Literal["own", "adam"]
Kind: TypeAlias = Literal["none", "norms", "products"]
"""What a rule measures of each tensor: only whether its gradient is finite, four L1 norms, or four inner products."""


def paper_beta(gradient: Tensor, change: Tensor, step: Tensor, drift: Tensor, lagrange: float) -> Tensor:
    """(1/lambda + |g|) |theta_t - theta_t-1| / (|d| |g_t - g_t-1|), d = theta_t - theta*_t-1; L1 norms, all [units]."""
    return (1 / lagrange + gradient) * step / (drift * change)


def official_alpha(gradient: Tensor, change: Tensor, drift: Tensor, factor: float) -> Tensor:
    """Weight of the NEW weights in the authors' code: factor (1 + |g|) / (|d| |g_t - g_t-1|); L1 norms, all [units]."""
    return factor * (1 + gradient) / (drift * change)


def secant_curvature(bend: Tensor, step_sq: Tensor) -> Tensor:
    """h = max(0, <dg, dtheta> / <dtheta, dtheta>) of two successive steps; [units]; 0/0 where nothing moved."""
    return (bend / step_sq).clamp(min=0)


def proximal_beta(drift_sq: Tensor, slope: Tensor, curvature: Tensor, stability: Tensor | float) -> Tensor:
    """Minimiser of s/2 (1-b)^2 <d,d> - b <g,d> + 1/2 b^2 h <d,d>; drift_sq = <d,d>, slope = <g,d>; all [units]."""
    return (stability + slope / drift_sq) / (stability + curvature)


def curvature_weight(old: Tensor, new: Tensor, lambda_: float) -> Tensor:
    """lambda F_old / (lambda F_old + F_t) per entry; 0 where neither knows the entry, so that it stays free."""
    kept = lambda_ * old
    return torch.where(kept > 0, kept / (kept + new), torch.zeros_like(kept))


class Norms(NamedTuple):
    """Columns of the sums of a rule of kind `norms`: |d|, |g|, |g_t - g_t-1|, |theta_t - theta_t-1|."""

    drift: Tensor
    gradient: Tensor
    change: Tensor
    step: Tensor


class Products(NamedTuple):
    """Columns of the sums of a rule of kind `products`: <d,d>, <g,d>, <dg,dtheta>, <dtheta,dtheta>."""

    drift_sq: Tensor
    slope: Tensor
    bend: Tensor
    step_sq: Tensor


@dataclass(frozen=True)
class UnitSums:
    """What a rule sees of one step: `values` [units, 4] fp64, `entries` [units], `known` [units] (gradients of this
    step and the last exist, and the step was made), `memory` [units, 2] that the rule may write."""

    values: Tensor
    entries: Tensor
    known: Tensor
    memory: Tensor

    def norms(self, reduction: Reduction) -> Norms:
        """The L1 columns, divided by the number of entries for the reduction `mean`."""
        values = self.values if reduction == "sum" else self.values / self.entries[:, None]
        return Norms(*values.unbind(1))

    def products(self) -> Products:
        return Products(*self.values.unbind(1))


class Weighed(NamedTuple):
    """beta [units] and where the rule had to fall back [units]."""

    beta: Tensor
    fallback: Tensor


def _inside(value: Tensor, known: Tensor) -> Tensor:
    # Comparisons with NaN are false, so 0/0 (nothing has moved) counts as out of range.
    return known & (value > 0) & (value < 1)


@dataclass(frozen=True)
class Fixed:
    """A constant balance weight."""

    beta: float
    kind: ClassVar[Kind] = "none"
    needs_step: ClassVar[bool] = False

    def weigh(self, sums: UnitSums) -> Weighed:
        """The constant for every unit; there is nothing to fall back from."""
        return Weighed(torch.full_like(sums.entries, self.beta), torch.zeros_like(sums.known))


@dataclass(frozen=True)
class Paper:
    """The paper's rule; `fallback` is beta outside (0, 1)."""

    lagrange: float
    fallback: float
    reduction: Reduction
    kind: ClassVar[Kind] = "norms"
    needs_step: ClassVar[bool] = True

    def weigh(self, sums: UnitSums) -> Weighed:
        """paper_beta where it lies in (0, 1)."""
        x = sums.norms(self.reduction)
        beta = paper_beta(x.gradient, x.change, x.step, x.drift, self.lagrange)
        inside = _inside(beta, sums.known)
        return Weighed(torch.where(inside, beta, self.fallback), ~inside)


@dataclass(frozen=True)
class Official:
    """The authors' code; `fallback_alpha` is the weight of the new weights outside (0, 1)."""

    factor: float
    fallback_alpha: float
    reduction: Reduction
    kind: ClassVar[Kind] = "norms"
    needs_step: ClassVar[bool] = False

    def weigh(self, sums: UnitSums) -> Weighed:
        """1 - official_alpha where alpha lies in (0, 1)."""
        x = sums.norms(self.reduction)
        alpha = official_alpha(x.gradient, x.change, x.drift, self.factor)
        inside = _inside(alpha, sums.known)
        return Weighed(1 - torch.where(inside, alpha, self.fallback_alpha), ~inside)


@dataclass(frozen=True)
class Proximal:
    """s = `strength` x running mean of h (`relative`), or s = `strength` (`absolute`)."""

    stability: Literal["relative", "absolute"]
    strength: float
    kind: ClassVar[Kind] = "products"
    needs_step: ClassVar[bool] = True

    def weigh(self, sums: UnitSums) -> Weighed:
        """proximal_beta; before the first secant the value that it has for a flat slope and the mean curvature."""
        x = sums.products()
        curvature = secant_curvature(x.bend, x.step_sq)
        stability = self._stability(curvature, sums)
        beta = proximal_beta(x.drift_sq, x.slope, curvature, stability)
        defined = sums.known & torch.isfinite(beta)
        flat = self.strength / (1 + self.strength) if self.stability == "relative" else 1.0
        return Weighed(torch.where(defined, beta, flat), ~defined)

    def _stability(self, curvature: Tensor, sums: UnitSums) -> Tensor | float:
        if self.stability == "absolute":
            return self.strength
        measured = sums.known & torch.isfinite(curvature)
        sums.memory[:, 0] += torch.where(measured, curvature, 0.0)
        sums.memory[:, 1] += measured
        return self.strength * sums.memory[:, 0] / sums.memory[:, 1].clamp(min=1)


@dataclass(frozen=True)
class Curvature:
    """One beta per entry from the curvature of old tasks and of this one; `pull` is the strength of the EWC penalty,
    `short_average` the constant of theta-bar, `moment` where F_t comes from: squares of its own, or Adam's."""

    lambda_: float
    short_average: float
    pull: float
    moment: Moment = "own"


ScalarRule: TypeAlias = Fixed | Paper | Official | Proximal
"""One beta for each tensor, layer or model."""
