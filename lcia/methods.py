"""The strategy of a run: which average protects old knowledge, and its constants (METHOD 2)."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from lcia.sections import Fraction, Positive, Section


class SequentialConfig(Section):
    """Plain LoRA tuning, one task after another: no average."""

    kind: Literal["sequential"] = "sequential"

    def first(self) -> StrategyConfig:
        """What the first stage of an adapter uses: there is nothing to average with or to be pulled to yet."""
        return self


class AverageSection(Section):
    """What all scalar rules of the dynamic EMA share (METHOD 2)."""

    beta_min: Fraction = 0.0
    beta_max: Fraction = 1.0
    scope: Literal["tensor", "layer", "global"] = "tensor"
    start: Literal["previous", "first_step"] = "previous"
    missing_gradient: Literal["error", "skip", "zero"] = "error"

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
    beta: Fraction | None = None
    retain: Fraction | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> FixedConfig:
        if (self.beta is None) == (self.retain is None):
            raise ValueError("give exactly one of beta and retain")
        return self


class PaperConfig(AverageSection):
    """The paper's rule: beta = (1/lambda + |g|) |dtheta| / (|d| |dg|), else the fallback."""

    kind: Literal["paper"]
    lagrange: Positive = 1.0
    fallback: Fraction = 0.99
    reduction: Literal["sum", "mean"] = "sum"


class OfficialConfig(AverageSection):
    """The authors' code: weight of the new weights = factor (1 + |g|) / (|d| |dg|), else the fallback."""

    kind: Literal["official"]
    factor: Positive = 2.0
    fallback_alpha: Fraction = 0.01
    reduction: Literal["sum", "mean"] = "sum"


class ProximalConfig(AverageSection):
    """Ours, dimensionally consistent: beta = (s + <g,d>/<d,d>) / (s + h), clamped to the bounds."""

    kind: Literal["proximal"]
    beta_min: Fraction = 0.97
    stability: Literal["relative", "absolute"] = "relative"
    rho: Positive = 60.0


class CurvatureConfig(Section):
    """Ours, one beta per entry: beta = lambda F_old / (lambda F_old + F_t); the default method.

    `pull` adds the EWC penalty pull/2 (theta - theta_0)' F_old (theta - theta_0) to the training loss. `moment`: F_t
    from squares of its own, or Adam's second moment (4 bytes per parameter less).
    """

    kind: Literal["curvature"] = "curvature"
    lambda_: Annotated[float, Field(ge=0, alias="lambda")] = 0.3
    pull: Annotated[float, Field(ge=0)] = 10_000.0
    short_average: Fraction = 0.9
    # Not written where it is the default, so that results from before it was there keep their keys.
    moment: Literal["own", "adam"] = Field(default="own", exclude_if=lambda value: value == "own")
    missing_gradient: Literal["error", "skip", "zero"] = "error"

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    def first(self) -> StrategyConfig:
        return self.model_copy(update={"lambda_": 0.0, "pull": 0.0})


class EwcConfig(Section):
    """Elastic weight consolidation (the pull alone), with the same F_old as `curvature`."""

    kind: Literal["ewc"]
    pull: Annotated[float, Field(ge=0)] = 10_000.0
    missing_gradient: Literal["error", "skip", "zero"] = "error"

    def first(self) -> StrategyConfig:
        return self.model_copy(update={"pull": 0.0})


StrategyConfig: TypeAlias = (
    SequentialConfig | FixedConfig | PaperConfig | OfficialConfig | ProximalConfig | CurvatureConfig | EwcConfig
)
