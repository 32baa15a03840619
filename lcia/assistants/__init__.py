"""Models that are tuned: a configuration becomes an assistant. A folder member is one kind of assistant."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from lcia.config.run import AssistantConfig, LlavaConfig, LoraConfig, TinyConfig

if TYPE_CHECKING:
    from lcia.assistants.llava import LlavaAssistant


def build(
    config: AssistantConfig,
    lora: LoraConfig = LoraConfig(),  # noqa: B008
    *,
    gradient_checkpointing: bool = False,
    attn_implementation: str | None = None,
    device: str | None = None,
) -> LlavaAssistant:
    """The frozen base, ready for adapters; `lora` is the form of those it adds, loaded ones bring their own.

    Raises:
        InputError: the model cannot be found, is not a LLaVA, or brings code that is not allowed to run.
    """
    from lcia.assistants.llava import Hardware, load
    from lcia.assistants.tiny import load_tiny

    hardware = Hardware(device, attn_implementation, gradient_checkpointing)
    match config:
        case TinyConfig():
            return load_tiny(config, lora, hardware)
        case LlavaConfig():
            return load(config, lora, hardware)
        case _:
            assert_never(config)
