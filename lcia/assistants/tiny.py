"""The small LLaVA that ships with the package: the same class, checkpoints made by tools.align_tiny_base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lcia.config.assistants import LlavaConfig, LoraConfig, TinyConfig

if TYPE_CHECKING:
    from lcia.assistants import Hardware
    from lcia.assistants.llava import LlavaAssistant

TINY_BASE = Path(__file__).parent / "tiny_base"
SHAPES_BASE = Path(__file__).parent / "shapes_base"
BASES = {"scenes": TINY_BASE, "shapes": SHAPES_BASE}


def load_tiny(config: TinyConfig, lora: LoraConfig, hardware: Hardware) -> LlavaAssistant:
    """In float32, whatever the device: the weights are two megabytes."""
    from lcia.assistants.llava import load

    model = str(BASES[config.base])
    given = LlavaConfig(
        kind="llava", model=model, dtype="float32", train_projector=config.train_projector, max_length=512
    )
    return load(given, lora, hardware)
