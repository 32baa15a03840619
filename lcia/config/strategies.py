"""The strategy of a run: what protects old knowledge, and its constants (docs/method.md 2)."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from lcia.config.baselines import (
    BaselineConfig,
    OLoraConfig,
    RegLoraConfig,
    RegularEwcConfig,
    SequentialConfig,
    SlaoConfig,
)
from lcia.config.sections import Count, Fraction, Positive, Section


class AverageSection(Section):
    """What all scalar rules of the dynamic EMA share (docs/method.md 2)."""

    beta_min: Fraction = 0.0
    """Least weight of the old average."""
    beta_max: Fraction = 1.0
    """Greatest weight of the old average."""
    scope: Literal["tensor", "layer", "global"] = "tensor"
    """What one beta is computed over: each tensor, all tensors of a layer, or all there are."""
    start: Literal["previous", "first_step"] = "previous"
    """Where the average starts: at the weights before the first step, or at those after it."""
    missing_gradient: Literal["error", "skip", "zero"] = "error"
    """What a tensor without a gradient means: an error, no average in this step, or a gradient of zeros."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> AverageSection:
        if self.beta_min > self.beta_max:
            raise ValueError(f"beta_min {self.beta_min} lies above beta_max {self.beta_max}")
        return self

    def first(self) -> StrategyConfig:
        return SequentialConfig()


class FixedConfig(AverageSection):
    """A constant balance weight: `beta`, or `retain` = beta^steps, the share of the old average left at the end."""

    kind: Literal["fixed"]
    """A constant weight."""
    beta: Fraction | None = None
    """The weight of the old average in every step."""
    retain: Fraction | None = None
    """Share of the old average that is left after the last step; beta follows from the number of steps."""

    @model_validator(mode="after")
    def _one_of_both(self) -> FixedConfig:
        if (self.beta is None) == (self.retain is None):
            raise ValueError("give exactly one of beta and retain")
        return self


class PaperConfig(AverageSection):
    """The paper's rule: beta = (1/lambda + |g|) |dtheta| / (|d| |dg|), else the fallback."""

    kind: Literal["paper"]
    """The paper's rule."""
    lagrange: Positive = 1.0
    """lambda of the formula."""
    fallback: Fraction = 0.99
    """beta where the formula leaves (0, 1)."""
    reduction: Literal["sum", "mean"] = "sum"
    """Whether |.| adds up a tensor's entries or takes their mean."""


class OfficialConfig(AverageSection):
    """The authors' code: weight of the new weights = factor (1 + |g|) / (|d| |dg|), else the fallback."""

    kind: Literal["official"]
    """The rule of the authors' code."""
    factor: Positive = 2.0
    """The constant in front of the formula."""
    fallback_alpha: Fraction = 0.01
    """Weight of the new weights where the formula is out of range."""
    reduction: Literal["sum", "mean"] = "sum"
    """Whether |.| adds up a tensor's entries or takes their mean."""


class ProximalConfig(AverageSection):
    """Ours, dimensionally consistent: beta = (s + <g,d>/<d,d>) / (s + h), clamped to the bounds."""

    kind: Literal["proximal"]
    """A dimensionally consistent rule."""
    beta_min: Fraction = 0.97
    """Least weight of the old average."""
    stability: Literal["relative", "absolute"] = "relative"
    """Whether s is `rho` times the curvature (`relative`) or `rho` itself (`absolute`)."""
    rho: Positive = 60.0
    """How much the old average counts."""


class CurvatureConfig(Section):
    """Ours, one beta per entry: beta = lambda F_old / (lambda F_old + F_t).

    `pull` adds the EWC penalty pull/2 (theta - theta_0)' F_old (theta - theta_0) to the training loss. `moment`: F_t
    from squares of its own, or Adam's second moment (4 bytes per parameter less).
    """

    kind: Literal["curvature"] = "curvature"
    """A weight per entry, and a pull."""
    lambda_: Annotated[float, Field(ge=0, alias="lambda")] = 0.3
    """How much the curvature of old tasks counts against that of the new one."""
    pull: Annotated[float, Field(ge=0)] = 10_000.0
    """Strength of the penalty on moving entries that old tasks need; 0: no penalty. It belongs to the data: choose it
    on validation rows.
    """
    short_average: Fraction = 0.9
    """Decay of the short average of the weights that is mixed with those from before the stage; 0: the last weights."""
    # Not written where it is the default, so that results from before it was there keep their keys.
    moment: Literal["own", "adam"] = Field(default="own", exclude_if=lambda value: value == "own")
    """Where F_t comes from: squares of gradients kept for it, or Adam's second moment."""
    missing_gradient: Literal["error", "skip", "zero"] = "error"
    """What a tensor without a gradient means: an error, no statistics in this step, or a gradient of zeros."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    def first(self) -> StrategyConfig:
        return self.model_copy(update={"lambda_": 0.0, "pull": 0.0})


class PemaConfig(Section):
    """The authors' next rule (MAGE): one weight per entry, (g + 1) (d' g^2 + epsilon I)^-1, else the fallback."""

    kind: Literal["pema"]
    """Squared gradients as the curvature."""
    fallback: Fraction = 0.99
    """The weight of the old average where the formula leaves (0, 1)."""
    epsilon: Positive = 1e-5
    """What is added to the diagonal of the matrix before it is inverted."""
    missing_gradient: Literal["error", "skip", "zero"] = "error"
    """What a tensor without a gradient means: an error, no average in this step, or a gradient of zeros."""

    def first(self) -> StrategyConfig:
        return SequentialConfig()


class EwcConfig(Section):
    """Elastic weight consolidation (the pull alone), with the same F_old as `curvature`."""

    kind: Literal["ewc"]
    """The pull alone."""
    pull: Annotated[float, Field(ge=0)] = 10_000.0
    """Strength of the penalty; 0: plain tuning."""
    missing_gradient: Literal["error", "skip", "zero"] = "error"
    """What a tensor without a gradient means: an error, no statistics in this step, or a gradient of zeros."""

    def first(self) -> StrategyConfig:
        return self.model_copy(update={"pull": 0.0})


class KroneckerConfig(Section):
    """Ours, the default: a pull along the Kronecker factors of the old tasks' curvature, inside the step.

    At a task's end `rows` of its rows are seen once more and the factors of their curvature kept beside the adapter; at
    every step of the adapter's later tasks the gradient of the predicted rise of the old loss is added to their own.
    """

    kind: Literal["kronecker"] = "kronecker"
    """A pull along the directions of a product that old tasks need."""
    gamma: Annotated[float, Field(ge=0)] = 5.0
    """Nats of old loss that count as much as one nat of new loss; 0: plain tuning. The knob between old and new."""
    rho: Positive = 1.0
    """Greatest length of the pull, as a multiple of the mean length of the task's own clipped gradient over the steps
    of the stage so far.
    """
    scope: Literal["layer", "global"] = "layer"
    """Whether these lengths are compared in each layer, or over all layers at once."""
    temperature: Positive = 4.0
    """What scores are divided by before labels are drawn from them at a task's end. At 1 the curvature vanishes where
    the model is sure, on what it knows best.
    """
    rows: Count = 128
    """Training rows of a task that its curvature is taken from."""
    k: Annotated[int, Field(ge=1, le=1024)] = 32
    """Directions that are kept of each of a layer's two factors, beside its diagonal. A factor that is not wider is
    kept whole. It must stay the same over the life of an adapter.
    """

    def first(self) -> StrategyConfig:
        return self.model_copy(update={"gamma": 0.0, "rho": 1.0, "scope": "layer"})


class GpmConfig(Section):
    """Gradient projection memory: no step along directions that earlier tasks' inputs lie in.

    At a task's end inputs of each layer are drawn from `rows` of its rows, and the directions that hold `threshold` of
    their energy are kept beside the adapter. They grow in number with every task and are closed to its later ones.
    """

    kind: Literal["gpm"]
    """Steps in the complement of what earlier tasks' inputs span."""
    threshold: Fraction = 0.97
    """Share of the energy of a layer's inputs that the directions closed to later tasks hold; 0: none are closed."""
    matrices: Literal["both", "down"] = "both"
    """Of LoRA's pair, both are guarded, each by inputs of its own, or the first alone (A, which takes the inputs down
    to r numbers); then the second may still change what old inputs give.
    """
    rows: Count = 128
    """Training rows of a task that inputs are drawn from."""
    tokens: Count = 8
    """Inputs that are drawn from each of these rows, in each layer."""

    def first(self) -> StrategyConfig:
        return self


StrategyConfig: TypeAlias = (
    FixedConfig
    | PaperConfig
    | OfficialConfig
    | ProximalConfig
    | CurvatureConfig
    | PemaConfig
    | EwcConfig
    | KroneckerConfig
    | GpmConfig
    | BaselineConfig
)

OF_THE_PRODUCT = (KroneckerConfig, GpmConfig, OLoraConfig, SlaoConfig, RegLoraConfig, RegularEwcConfig)
"""Strategies whose mathematics is about the product B A of a layer: they know one such product for all inputs."""
