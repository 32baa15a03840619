"""What a method adds to plain LoRA tuning. `lcia.ema` stands alone and needs torch only.

- `average`: a dynamic average of the adapter's weights
- `ewc`: a pull towards the weights of earlier tasks, entry by entry
- `kronecker`: a pull along the directions of LoRA's product that earlier tasks need
- `lwf`: distillation from the model at the task's start
- `olora`: a low-rank pair for each task, orthogonal to the earlier ones
- `slao`: B averaged over tasks, and A as it was trained last
- `regular_ewc`: a pull by the Fisher information of a task's rows, on A and B or on their product
- `reg_lora`: the largest entries of what earlier tasks added are held
- `mean_teacher`: consistency with a slow average of the weights
- `distillation`: how far two models are apart on answer tokens
- `gpm`: steps in the complement of what earlier tasks' inputs span
- `factors`: the curvature of a linear layer, sketched
- `pulls`: what holds layers at old weights
- `watch`: inputs and output gradients of linear layers, while rows are looked over
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from lcia.config.baselines import BaselineConfig
    from lcia.config.strategies import AverageSection, StrategyConfig
    from lcia.ema import Options
    from lcia.protocols import Strategy


def build(config: StrategyConfig, steps: int) -> Strategy:
    """The strategy of a stage of `steps` optimizer steps."""
    # Imported here, so that the average can be used without the configuration's dependencies.
    from lcia.config import strategies as m
    from lcia.ema import Options, Pema, rules
    from lcia.strategies.average import EmaStrategy
    from lcia.strategies.ewc import EwcStrategy
    from lcia.strategies.gpm import Gpm, GpmStrategy
    from lcia.strategies.kronecker import Kronecker, KroneckerStrategy

    match config:
        case m.FixedConfig():
            return EmaStrategy(rules.Fixed(fixed_beta(config.beta, config.retain, steps)), _options(config))
        case m.PaperConfig():
            rule = rules.Paper(config.lagrange, config.fallback, config.reduction)
            return EmaStrategy(rule, _options(config))
        case m.OfficialConfig():
            return EmaStrategy(rules.Official(config.factor, config.fallback_alpha, config.reduction), _options(config))
        case m.ProximalConfig():
            return EmaStrategy(rules.Proximal(config.stability, config.rho), _options(config))
        case m.CurvatureConfig():
            curvature = rules.Curvature(config.lambda_, config.short_average, config.pull, config.moment)
            return EmaStrategy(curvature, Options(missing_gradient=config.missing_gradient))
        case m.PemaConfig():
            return EmaStrategy(Pema(config.fallback, config.epsilon), Options(missing_gradient=config.missing_gradient))
        case m.EwcConfig():
            return EwcStrategy(config.pull, config.missing_gradient)
        case m.KroneckerConfig():
            return KroneckerStrategy(
                Kronecker(config.gamma, config.rho, config.temperature, config.rows, config.k, config.scope)
            )
        case m.GpmConfig():
            return GpmStrategy(Gpm(config.threshold, config.matrices, config.rows, config.tokens))
        case _:
            return _baseline(config)


def _baseline(config: BaselineConfig) -> Strategy:
    from lcia.config import baselines as b
    from lcia.protocols import Strategy
    from lcia.strategies.lwf import Lwf, LwfStrategy
    from lcia.strategies.mean_teacher import MeanTeacher, MeanTeacherStrategy
    from lcia.strategies.olora import OLoraStrategy
    from lcia.strategies.reg_lora import RegLoraStrategy
    from lcia.strategies.regular_ewc import RegularEwc, RegularEwcStrategy
    from lcia.strategies.slao import SlaoStrategy

    match config:
        case b.SequentialConfig():
            return Strategy()
        case b.LwfConfig():
            return LwfStrategy(Lwf(config.weight, config.temperature, config.mask_target))
        case b.OLoraConfig():
            return OLoraStrategy(config.weight)
        case b.SlaoConfig():
            return SlaoStrategy()
        case b.RegularEwcConfig():
            return RegularEwcStrategy(RegularEwc(config.pull, config.on, config.labels, config.rows, config.decay))
        case b.RegLoraConfig():
            return RegLoraStrategy(config.weight, config.share)
        case b.MeanTeacherConfig():
            return MeanTeacherStrategy(MeanTeacher(config.weight, config.decay, config.consistency, config.stored))
        case _:
            assert_never(config)


def fixed_beta(beta: float | None, retain: float | None, steps: int) -> float:
    """The constant: `beta` itself, or the one whose product over `steps` steps is `retain`."""
    if beta is not None:
        return beta
    assert retain is not None, "the configuration holds one of both"
    return float(retain ** (1 / steps))


def _options(config: AverageSection) -> Options:
    from lcia.ema import Options

    return Options(config.beta_min, config.beta_max, config.scope, config.start, config.missing_gradient)
