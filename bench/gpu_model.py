"""A LLaVA with random weights and LoRA in all linear layers of its language model: what a step costs does not depend on
what the model has learnt. Needs torch, transformers and peft."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

IMAGE_TOKEN = 90
"""Below the vocabulary of every shape."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of its batches; `text` and `vision` are keys of LlamaConfig and CLIPVisionConfig, whose
    defaults are the 7B model's."""

    rank: int
    batch: int
    tokens: int
    new_tokens: int
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)


SHAPES = {
    "7b": Shape(rank=128, batch=8, tokens=1024, new_tokens=64, text={"vocab_size": 32064}),
    "tiny": Shape(
        rank=8,
        batch=2,
        tokens=40,
        new_tokens=4,
        text={"vocab_size": 128, "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 24},
        vision={"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
                "image_size": 32, "patch_size": 8},
    ),
}  # fmt: skip


def model(shape: Shape, device: str) -> Any:
    """The PeftModel in bf16, its adapter in fp32, with gradient checkpointing."""
    import peft
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(**{"image_size": 336, "patch_size": 14, **VISION_7B, **shape.vision})
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**shape.text),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=patches(shape),
    )
    torch.manual_seed(0)
    with torch.device(device):
        base = LlavaForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    checkpointed(base)
    lora = peft.LoraConfig(
        r=shape.rank,
        lora_alpha=2 * shape.rank,
        lora_dropout=0.05,
        target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
    )
    return peft.get_peft_model(base, lora)


def checkpointed(model: Any) -> None:
    """Has the backward pass compute activations again."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


VISION_7B = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}


def patches(shape: Shape) -> int:
    """Image tokens of one picture."""
    return int(shape.vision.get("image_size", 336) // shape.vision.get("patch_size", 14)) ** 2


def batch(shape: Shape, device: str, text_tokens: int) -> dict[str, Tensor]:
    """`shape.batch` rows of a start token, a picture and `text_tokens` tokens of text."""
    random = torch.Generator().manual_seed(0)
    text = torch.randint(3, IMAGE_TOKEN, (shape.batch, text_tokens), generator=random)
    row = torch.tensor([1, *[IMAGE_TOKEN] * patches(shape)]).expand(shape.batch, -1)
    size = shape.vision.get("image_size", 336)
    pixels = torch.randn(shape.batch, 3, size, size, generator=random).bfloat16()
    ids = torch.cat([row, text], dim=1).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels.to(device)}


def training_batch(shape: Shape, device: str) -> dict[str, Tensor]:
    """Rows of `shape.tokens` tokens; the last quarter carries loss."""
    rows = batch(shape, device, shape.tokens - 1 - patches(shape))
    labels = rows["input_ids"].clone()
    labels[:, : -shape.tokens // 4] = -100
    return {**rows, "labels": labels}
