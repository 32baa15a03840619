"""The small LLaVA that ships with the package: the same class, a checkpoint made by lcia.align."""

from __future__ import annotations

from pathlib import Path

from lcia.assistants.llava import Hardware, LlavaAssistant, load
from lcia.config import LlavaConfig, LoraConfig, TinyConfig

TINY_BASE = Path(__file__).parent / "tiny_base"


def load_tiny(config: TinyConfig, lora: LoraConfig, hardware: Hardware) -> LlavaAssistant:
    """In float32, whatever the device: the weights are two megabytes."""
    given = LlavaConfig(
        kind="llava", model=str(TINY_BASE), dtype="float32", train_projector=config.train_projector, max_length=512
    )
    return load(given, lora, hardware)
