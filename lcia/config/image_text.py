"""Models of images and text of any family, by their own processor."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue

from lcia.config.sections import Count, Name, Section

LANGUAGE_LINEAR = r"(.*\.)?(language_model|text_model)\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""All linear layers of the language model, by the two names that families have for it; vision towers have layers of the
same names under others."""


class ImageTextConfig(Section):
    """Any AutoModelForImageTextToText by local path or hub id, with its own processor and chat template."""

    linear_layers: ClassVar[str] = LANGUAGE_LINEAR
    wanted: ClassVar[str] = "a model of images and text"
    """How an error names what `model` should be."""

    kind: Literal["image_text"]
    """Any model that transformers loads as `AutoModelForImageTextToText` (docs/models.md says which)."""
    model: Name
    """A local folder with config.json and safetensors weights, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null: main."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Number format of the frozen base."""
    train_projector: bool = False
    """Tune the projector between vision tower and language model as well."""
    max_length: Count = 2048
    """Tokens of a dialogue, image tokens included; longer rows are cut at their end, but never inside a picture."""
    images_kwargs: dict[str, JsonValue] = Field(default_factory=dict[str, Any])
    """What the processor is told about pictures, in its own words, for example `{max_pixels: 401408}` or
    `{do_image_splitting: false}`: how many tokens a picture takes.
    """
    trust_remote_code: bool = False
    """Whether code that lies in the checkpoint's folder or repository may run. It can do whatever you can."""

    def __hash__(self) -> int:
        # pydantic's own cannot hash a mapping.
        return hash(self.model_dump_json())
