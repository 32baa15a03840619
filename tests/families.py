"""Checkpoints of image-text models of several families: stock classes, few layers, random weights, made in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch

SIDE, PATCH, WIDTH, LAYERS = 16, 8, 32, 2
"""Pixels of what a vision tower sees at once and of a patch; sizes of both transformers."""
WORDS = ("What", "color", "is", "the", "circle", "answer", "red", "blue", "a", "box", "yes", "no", "Describe", "image")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What the templates of Qwen-VL, OneVision and InternVL do, in our words; IMAGE is the family's placeholder."""
SPOKEN = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}"
    "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""What those of Idefics3 and SmolVLM do, in our words."""


def tokenizer(end: str, named: dict[str, str], others: tuple[str, ...] = ()) -> Any:
    """Byte-level BPE with a few merges. `end` ends a turn; `named` are special tokens that a processor asks for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(["<|pad|>", "<|im_start|>", end, *named.values(), *others]))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<|pad|>", eos_token=end, extra_special_tokens=named, model_max_length=4096
    )


def _texts() -> Iterator[str]:
    random = Random(0)
    for _ in range(200):
        yield " ".join(random.choices(WORDS, k=8)) + "\n"


def _text(tokens: Any, **more: Any) -> dict[str, Any]:
    """Keys of a small Llama or Qwen2."""
    return {
        "vocab_size": len(tokens),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": tokens.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokens.eos_token_id,
        "initializer_range": 0.2,
        **more,
    }


VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
    "initializer_range": 0.2,
}


def onevision(folder: Path) -> Path:
    """LLaVA-OneVision: pictures in tiles of their best grid, several pictures at one tile each."""
    import transformers as t

    tokens = tokenizer("<|im_end|>", {"image_token": "<image>", "video_token": "<video>"})
    grid = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    size = {"height": SIDE, "width": SIDE}
    processor = t.LlavaOnevisionProcessor(
        t.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grid),
        tokens,
        t.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHATML.replace("IMAGE", "<image>"),
    )
    config = t.LlavaOnevisionConfig(
        vision_config=t.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=t.Qwen2Config(**_text(tokens)),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
    )
    return _saved(folder, t.LlavaOnevisionForConditionalGeneration, config, processor)


def qwen(folder: Path) -> Path:
    """Qwen2.5-VL: patches of the picture's own size, rotary positions in three dimensions."""
    import transformers as t

    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    tokens = tokenizer("<|im_end|>", named, ("<|vision_start|>", "<|vision_end|>"))
    limits = {"shortest_edge": SIDE**2, "longest_edge": 9 * SIDE**2}
    processor = t.Qwen2_5_VLProcessor(
        t.Qwen2VLImageProcessor(size=limits, patch_size=PATCH, merge_size=2),
        tokens,
        t.Qwen2VLVideoProcessor(size=limits, patch_size=PATCH, merge_size=2),
        chat_template=CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    vision = {"depth": LAYERS, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_heads": 4,
              "patch_size": PATCH, "out_hidden_size": WIDTH, "window_size": 2 * SIDE, "fullatt_block_indexes": [1],
              "initializer_range": 0.2}  # fmt: skip
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>", "vision_start": "<|vision_start|>",
             "vision_end": "<|vision_end|>"}  # fmt: skip
    config = t.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=_text(tokens, rope_parameters=rope),
        **{f"{name}_token_id": tokens.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    return _saved(folder, t.Qwen2_5_VLForConditionalGeneration, config, processor)


def idefics(folder: Path) -> Path:
    """Idefics3, as SmolVLM: a picture cut into tiles with tokens that say their place, and the whole picture again."""
    import transformers as t

    places = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
    marks = ("<image>", "<fake_token_around_image>", "<global-img>")
    tokens = tokenizer("<end_of_utterance>", {}, (*marks, *places))
    scale = 2
    processor = t.Idefics3Processor(
        t.Idefics3ImageProcessor(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}),
        tokens,
        image_seq_len=(SIDE // PATCH // scale) ** 2,
        chat_template=SPOKEN,
    )
    config = t.Idefics3Config(
        vision_config=VISION,
        text_config={"model_type": "llama", **_text(tokens)},
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=scale,
        pad_token_id=tokens.pad_token_id,
    )
    return _saved(folder, t.Idefics3ForConditionalGeneration, config, processor)


def internvl(folder: Path) -> Path:
    """InternVL: a picture cut into tiles, each of as many tokens, between two marks."""
    import transformers as t

    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
             "video_token": "<video>"}  # fmt: skip
    tokens = tokenizer("<|im_end|>", named)
    size = {"height": SIDE, "width": SIDE}
    length = (SIDE // PATCH) ** 2 // 4
    processor = t.InternVLProcessor(
        t.GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=4),
        tokens,
        t.InternVLVideoProcessor(size=size),
        image_seq_length=length,
        chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    config = t.InternVLConfig(
        vision_config={**VISION, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
        text_config={"model_type": "qwen2", **_text(tokens)},
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=length,
        tie_word_embeddings=False,
    )
    return _saved(folder, t.InternVLForConditionalGeneration, config, processor)


def _saved(folder: Path, kind: Any, config: Any, processor: Any) -> Path:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "onevision": onevision,
    "qwen": qwen,
    "idefics": idefics,
    "internvl": internvl,
}
