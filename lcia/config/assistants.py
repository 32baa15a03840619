"""The model that is tuned, and the form of its adapters."""

from __future__ import annotations

from functools import cache
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from lcia.config.image_text import ImageTextConfig
from lcia.config.language import CausalConfig, Seq2SeqConfig
from lcia.config.sections import Count, Fraction, Name, Section

LANGUAGE_LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""All linear layers of the language model; the vision tower has a q_proj too, hence the prefix."""


class TinyConfig(Section):
    """The small LLaVA that ships with the package (CPU, seconds).

    `base`: aligned on captions of many kinds of drawn pictures (`scenes`), or from there on with mostly single plain
    shapes on a light ground (`shapes`), for streams like easy-VQA.
    """

    linear_layers: ClassVar[str] = LANGUAGE_LINEAR

    kind: Literal["tiny"] = "tiny"
    """The small LLaVA that ships with the package."""
    # Left out of keys while it is the one that was there first: what is stored stays valid.
    base: Literal["scenes", "shapes"] = Field(default="scenes", exclude_if=lambda value: value == "scenes")
    """Which of the two checkpoints: aligned on drawn scenes, or from there on plain single shapes."""
    train_projector: bool = False
    """Tune the projector between vision tower and language model as well."""


class LlavaConfig(Section):
    """Any LlavaForConditionalGeneration by local path or hub id, with its own processor and chat template."""

    linear_layers: ClassVar[str] = LANGUAGE_LINEAR
    wanted: ClassVar[str] = "a LLaVA"

    kind: Literal["llava"]
    """Any `LlavaForConditionalGeneration`."""
    model: Name
    """A local folder with config.json and safetensors weights, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null: main."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Number format of the frozen base."""
    train_projector: bool = False
    """Tune the projector between vision tower and language model as well."""
    max_length: Count = 2048
    """Tokens of a dialogue, image tokens included; longer rows are cut at their end."""
    pad_image_to_square: bool = True
    """Pad pictures to a square, as LLaVA 1.5 does, instead of cropping them."""
    trust_remote_code: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Whether code that lies in the checkpoint's folder or repository may run. It can do whatever you can."""


AssistantConfig = Annotated[
    TinyConfig | LlavaConfig | ImageTextConfig | CausalConfig | Seq2SeqConfig, Field(discriminator="kind")
]


class LoraConfig(Section):
    """Passed to peft as it is, but for `experts`."""

    r: Count = 8
    """Rank of the update matrices."""
    lora_alpha: Count = 16
    """Scale of the update: it is multiplied by lora_alpha / r."""
    lora_dropout: Fraction = 0.0
    """Share of an adapter's inputs dropped in training."""
    target_modules: str | tuple[str, ...] = LANGUAGE_LINEAR
    """Which linear layers get an adapter: a regular expression for whole module names, a list of names or their ends,
    or `all-linear`. Models of text alone start from `all-linear`.
    """
    # Not written where there is one: what is stored stays valid.
    experts: Count = Field(default=1, exclude_if=lambda value: value == 1)
    """Experts that share the rank `r`, each of rank r / experts, weighed for every token by a trained router in each
    layer (MoELoRA); 1: plain LoRA.
    """

    @model_validator(mode="after")
    def _rank_is_shared_out(self) -> LoraConfig:
        if self.r % self.experts:
            raise ValueError(
                f"r {self.r} cannot be shared out among {self.experts} experts: make it a multiple of them"
            )
        return self


@cache
def with_layers(lora: LoraConfig, layers: str) -> LoraConfig:
    """One object for equal ones: runs of a study are compared by the parts that they share."""
    return lora.model_copy(update={"target_modules": layers})
