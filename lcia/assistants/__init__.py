"""Models that are tuned: a configuration becomes an assistant.

- `llava`: any stock LLaVA
- `image_text`: a model of images and text of any family, by its own processor
- `causal`: any language model with a causal head, such as Llama
- `seq2seq`: any model of an encoder and a decoder, such as T5
- `tiny`: the small LLaVAs that ship with the package
- `original`: LLaVA in its authors' files, put together for `llava`
- `outline`: what a model and its adapter consist of, counted without weights
- `adapters`: LoRA adapters of peft, for all families
- `experts`: LoRA's rank shared out among experts, with a router in each layer
- `fusion`: the adapters of several tasks as one
- `sharded`: the adapter of a base that FSDP2 has cut up
- `dialogue`: messages to token ids and labels
- `language`: what the models of text alone share
- `pictures`: encoded images to pixel values
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

from lcia.config.assistants import AssistantConfig, LlavaConfig, LoraConfig, TinyConfig
from lcia.config.image_text import ImageTextConfig
from lcia.config.language import CausalConfig, Seq2SeqConfig

if TYPE_CHECKING:
    from lcia.protocols import Assistant


@dataclass(frozen=True)
class Hardware:
    """How the base is held; none of it changes what it computes beyond rounding."""

    device: str | None = None
    attn_implementation: str | None = None
    gradient_checkpointing: bool = False

    def hold(self, model: Any) -> None:
        """Puts a loaded model where it is to lie."""
        model.to(self.device or "cpu")
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def build(
    config: AssistantConfig,
    lora: LoraConfig | None = None,
    *,
    gradient_checkpointing: bool = False,
    attn_implementation: str | None = None,
    device: str | None = None,
) -> Assistant:
    """The frozen base, ready for adapters; `lora` is the form of those it adds, loaded ones bring their own. None: the
    default on the model's own layers, for a base that is to answer.

    Raises:
        InputError: the model cannot be found, is of another family, or brings code that is not allowed to run.
    """
    from lcia.assistants import causal, seq2seq
    from lcia.assistants.image_text import load_image_text
    from lcia.assistants.llava import load
    from lcia.assistants.tiny import load_tiny

    hardware = Hardware(device, attn_implementation, gradient_checkpointing)
    lora = lora or LoraConfig(target_modules=config.linear_layers)
    match config:
        case TinyConfig():
            return load_tiny(config, lora, hardware)
        case LlavaConfig():
            return load(config, lora, hardware)
        case ImageTextConfig():
            return load_image_text(config, lora, hardware)
        case CausalConfig():
            return causal.load(config, lora, hardware)
        case Seq2SeqConfig():
            return seq2seq.load(config, lora, hardware)
        case _:
            assert_never(config)
