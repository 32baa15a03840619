"""How much memory of a device a training worker needs, by arithmetic (docs/paper.md has the sums).

It counts tensors: not what the allocator wastes, not the libraries' own workspaces (about 1 GB on a GPU), and not the
activations of a frozen vision tower, which are gone once it has looked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lcia.config.baselines import RegLoraConfig, RegularEwcConfig
from lcia.config.run import RunConfig
from lcia.config.strategies import KroneckerConfig, StrategyConfig
from lcia.types import Parallelism

if TYPE_CHECKING:
    from lcia.assistants.outline import Outline

FLOAT, HALF = 4, 2
"""Bytes."""
LOGITS = 14
"""Bytes of a token and word at the peak, in bf16: the scores (2), their softmax's logarithm (4), its gradient and that
of the scores in fp32 (8). In fp32 two more."""
HELD: Mapping[str, int] = {
    "sequential": 0, "fixed": 4, "official": 8, "paper": 12, "proximal": 12, "pema": 4, "curvature": 16, "ewc": 12,
    "kronecker": 4, "lwf": 8, "mean_teacher": 8, "slao": 4, "regular_ewc": 8, "reg_lora": 4,
}  # fmt: skip
"""Bytes that a strategy holds per trained parameter in an adapter's later tasks (docs/ema.md, docs/strategies.md)."""


@dataclass(frozen=True)
class Placement:
    """How a stage is spread: `rows` at once on each of `workers`, each of `tokens` tokens."""

    parallelism: Parallelism
    workers: int
    rows: int
    tokens: int
    gradient_checkpointing: bool


def per_worker(outline: Outline, config: RunConfig, placement: Placement) -> dict[str, float | None]:
    """Bytes of each part; `strategy` is None where nobody has counted it, and `total` is without it then."""
    shards = placement.workers if placement.parallelism == "fsdp2" else 1
    entry = HALF if getattr(config.assistant, "dtype", "float32") != "float32" else FLOAT
    trained = outline.trained / shards * FLOAT
    held = {
        "base": outline.parameters / shards * entry,
        "gathered": _gathered(outline, placement) * entry,
        "adapter": trained,
        "gradients": trained * (2 if placement.parallelism == "ddp" and placement.workers > 1 else 1),
        "adam": 2 * trained,
        "strategy": strategy_bytes(config.strategy, outline, shards),
        "activations": activations(outline, config, placement),
        "logits": logits(outline, config, placement),
    }
    return {**held, "total": sum(value for value in held.values() if value is not None)}


def _gathered(outline: Outline, placement: Placement) -> float:
    """Entries of the base that are whole for a while under FSDP2: two layers, and all that is not in a layer."""
    if placement.parallelism != "fsdp2" or placement.workers == 1:
        return 0
    outside = outline.parameters - outline.layers * outline.layer
    return 2 * outline.layer + outside * (1 - 1 / placement.workers)


def strategy_bytes(strategy: StrategyConfig, outline: Outline, shards: int) -> float | None:
    """What a strategy holds between steps; None: nobody has counted it."""
    held = HELD.get(strategy.kind)
    if held is None:
        return None
    return held * outline.trained / shards + _whole(strategy, outline)


def _whole(strategy: StrategyConfig, outline: Outline) -> int:
    """Bytes that are not divided by the shards."""
    entries = sum(into * out for into, out in outline.tuned)
    match strategy:
        case KroneckerConfig():
            return FLOAT * (strategy.k + 1) * sum(into + out for into, out in outline.tuned)
        case RegularEwcConfig(on="product"):
            return FLOAT * entries
        case RegLoraConfig():
            return entries
        case _:
            return 0


def activations(outline: Outline, config: RunConfig, placement: Placement) -> float:
    """What the language model's layers keep for their backward pass; with checkpointing each keeps its input, and one
    at a time all of it."""
    tokens = placement.rows * placement.tokens
    layer = tokens * layer_bytes(outline, config)
    if not placement.gradient_checkpointing:
        return outline.layers * layer
    return outline.layers * tokens * outline.hidden * _computed(config) + layer


def layer_bytes(outline: Outline, config: RunConfig) -> float:
    """Bytes that a decoder layer with a gated MLP keeps per token: for each of two norms its input in fp32; for each
    LoRA its input (after dropout, with the mask) and the r numbers in its middle; queries, keys, values and what
    attention returns; the MLP's gate before and after its activation, and what it is multiplied with."""
    width, number = _computed(config), len(outline.tuned) / outline.layers
    inputs = sum(into for into, _ in outline.tuned) / outline.layers
    norms = 2 * FLOAT * outline.hidden
    lora = inputs * (width + bool(config.lora.lora_dropout)) + number * config.lora.r * width
    attention = width * 2 * (outline.hidden + outline.key_values)
    return norms + lora + attention + width * 3 * outline.intermediate


def logits(outline: Outline, config: RunConfig, placement: Placement) -> float:
    """Scores of all words at the loss, with their gradients."""
    each = LOGITS - HALF + _computed(config)
    return placement.rows * placement.tokens * outline.vocabulary * each


def _computed(config: RunConfig) -> int:
    """Bytes of a number that layers compute with."""
    return HALF if config.training.bf16 else FLOAT
