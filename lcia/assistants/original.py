"""LLaVA as its authors publish it, put together into a folder of transformers.

Two layouts: a language model, a CLIP and a projector of LLaVA's pre-training (`mm_projector.bin`), from which the paper
starts; and a whole tuned checkpoint, whose language model, projector and, sometimes, vision tower are in one folder.
Weights are read and written one shard at a time. Pickled files are opened with torch's loader for weights alone.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lcia.types import InputError

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
SHARD_BYTES = 4_000_000_000
MULTIPLE = 64
"""Rows of the vocabulary are filled up to a multiple of this, as in the published conversions."""
IMAGE, PAD = "<image>", "<pad>"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'][0]['text'] }}{% else %}"
    + SYSTEM
    + "{% endif %} {% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{{ '\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %} "
    "{% elif message['role'] == 'assistant' %}ASSISTANT: "
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""Vicuna v1, which LLaVA 1.5 talks in: `SYSTEM USER: <image>\n... ASSISTANT: ...</s>USER: ...`."""
LLAMA_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "rope_theta", "rope_scaling",
    "tie_word_embeddings", "bos_token_id", "eos_token_id",
)  # fmt: skip
"""Of a config.json of LLaVA, what describes its language model."""
VISION_PARTS = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")
COMPUTED = (".rotary_emb.inv_freq", ".position_ids")
"""Ends of names that old checkpoints hold and classes of transformers compute."""


@dataclass(frozen=True)
class Parts:
    """Where the files are. `projector`: a `mm_projector.bin`; None: `language` is a whole LLaVA. If that one holds a
    vision tower, it is taken, and of `vision` only the configuration."""

    language: Path
    vision: Path
    projector: Path | None = None
    tokenizer: Path | None = None
    """A folder with a tokenizer that can be loaded; None: that of `language`."""


@dataclass(frozen=True)
class Found:
    """A weight that lies in a file: its shape, and how to read it."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def build_base(parts: Parts, out: Path, dtype: Dtype = "float16", shard_bytes: int = SHARD_BYTES) -> dict[str, Any]:
    """Writes the folder `out`: config, processor with chat template, and weights as safetensors. Returns what it made:
    `parameters`, `vocabulary`, `files`.

    The rows that the vocabulary gains, for the image token, for padding and up to a multiple of 64, are the mean of the
    others.

    Raises:
        InputError: `out` is not empty; a file is missing, damaged or of another layout.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: give a new folder")
    tokenizer = _tokenizer(parts.tokenizer or parts.language)
    config = _config(_facts(parts), parts.vision, tokenizer)
    found = dict(_padded(_weights(parts), config.text_config.vocab_size))
    _check_complete(found, _expected(config))
    # Beside the target, so that what is cut off is never taken for a whole model.
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    config.dtype = getattr(torch, dtype)
    config.save_pretrained(unfinished)
    _generation(config).save_pretrained(unfinished)
    _processor(tokenizer, parts.vision, config).save_pretrained(unfinished)
    files = write_shards(found, unfinished, getattr(torch, dtype), shard_bytes)
    if out.exists():
        out.rmdir()
    unfinished.rename(out)
    parameters = sum(_entries(weight) for weight in found.values())
    return {"parameters": parameters, "vocabulary": config.text_config.vocab_size, "files": files}


# Weights by their published names ---------------------------------------------------------------------------------


def published_name(name: str) -> str | None:
    """What LLaVA's published conversions call a weight of a language model, a CLIP, or a LLaVA in its authors' layout;
    None: transformers computes it, or LLaVA does not have it."""
    if name.endswith(COMPUTED):
        return None
    if "mm_projector." in name:
        return _projector_name(name.rpartition("mm_projector.")[2])
    if (inner := re.sub(r"^(model\.vision_tower\.vision_tower\.)?(vision_model\.)?", "", name)).startswith(
        VISION_PARTS
    ):
        return f"vision_tower.vision_model.{inner}"
    if name.startswith("model."):
        return f"language_model.{name}"
    return "language_model.lm_head.weight" if name == "lm_head.weight" else None


def _projector_name(inner: str) -> str:
    number, _, kind = inner.partition(".")
    if number not in ("0", "2"):
        raise InputError(
            f"the projector holds {inner!r}, but LLaVA 1.5's is two linear layers, 0 and 2 (mlp2x_gelu): other kinds "
            "cannot be put into LlavaForConditionalGeneration"
        )
    return f"multi_modal_projector.linear_{1 if number == '0' else 2}.{kind}"


def _weights(parts: Parts) -> Iterator[tuple[str, Found]]:
    """(published name, weight) of all parts."""
    own = _named(weight_files(parts.language))
    if parts.projector is None:
        own_tower = any(name.startswith("vision_tower.") for name in own)
        yield from own.items()
    else:
        own_tower = False
        yield from ((name, weight) for name, weight in own.items() if name.startswith("language_model."))
        yield from _only(_named([parts.projector]), "multi_modal_projector.")
    if not own_tower:
        yield from _only(_named(weight_files(parts.vision)), "vision_tower.")


def _only(named: Mapping[str, Found], prefix: str) -> Iterator[tuple[str, Found]]:
    return ((name, weight) for name, weight in named.items() if name.startswith(prefix))


def _named(files: Sequence[Path]) -> dict[str, Found]:
    found = {}
    for file in files:
        for name, weight in read_weights(file):
            if published := published_name(name):
                found[published] = weight
    return found


def weight_files(folder: Path) -> list[Path]:
    """A folder's weights: safetensors where there are any, else torch's files; raises InputError without either."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        if files := sorted(folder.glob(pattern)):
            return files
    raise InputError(f"{folder} has neither model*.safetensors nor pytorch_model*.bin")


def read_weights(file: Path) -> Iterator[tuple[str, Found]]:
    """The weights of a file, none of which is read yet; a pickle is opened for its tensors alone.

    Raises:
        InputError: the file is damaged, or holds other things than tensors.
    """
    if file.suffix == ".safetensors":
        # Its stub knows no types.
        opened: Any = cast("Any", safe_open)(file, framework="pt")
        for name in opened.keys():  # noqa: SIM118 - not a mapping
            yield name, Found(tuple(opened.get_slice(name).get_shape()), partial(opened.get_tensor, name))
        return
    for name, tensor in _unpickled(file).items():
        yield name, Found(tuple(tensor.shape), tensor.detach)


def _unpickled(file: Path) -> dict[str, Tensor]:
    import pickle

    try:
        # Files before torch 1.6 are not archives, which alone can be mapped into memory.
        with file.open("rb") as opened:
            mapped = opened.read(2) == b"PK"
        loaded = torch.load(file, weights_only=True, map_location="cpu", mmap=mapped)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"{file} cannot be read as a file of weights alone: {str(error).splitlines()[0]}") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(f"{file} holds other things than named tensors")
    return loaded


def _padded(weights: Iterator[tuple[str, Found]], rows: int) -> Iterator[tuple[str, Found]]:
    """With the vocabulary's rows filled up to so many."""
    for name, weight in weights:
        if name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
            yield name, Found((rows, *weight.shape[1:]), partial(_filled, weight, rows))
        else:
            yield name, weight


def _filled(given: Found, rows: int) -> Tensor:
    weight = given.read()
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - len(weight), -1)])


def _expected(config: Any) -> dict[str, tuple[int, ...]]:
    """Published names and shapes of a LLaVA's weights, by its class; takes no memory."""
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        state = LlavaForConditionalGeneration(config).state_dict()
    names = {"model.language_model.": "language_model.model.", "model.multi_modal_projector.": "multi_modal_projector.",
             "model.vision_tower.vision_model.": "vision_tower.vision_model.",
             "model.vision_tower.": "vision_tower.vision_model.", "lm_head.": "language_model.lm_head."}  # fmt: skip
    expected = {}
    for name, tensor in state.items():
        start = next(prefix for prefix in names if name.startswith(prefix))
        expected[names[start] + name.removeprefix(start)] = tuple(tensor.shape)
    return expected


def _check_complete(found: Mapping[str, Found], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises InputError where a weight is missing, of another shape, or not of a LLaVA."""
    missing, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or more:
        told = [f"{len(names)} {kind}, for example {names[0]}" for kind, names in
                (("missing", missing), ("too many", more)) if names]  # fmt: skip
        raise InputError(f"the files do not make up a LLaVA: {' and '.join(told)}")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise InputError(f"{name} is {list(found[name].shape)}, but config.json asks for {list(shape)}")


def _entries(weight: Found) -> int:
    return int(torch.Size(weight.shape).numel())


def write_shards(found: Mapping[str, Found], folder: Path, dtype: torch.dtype, shard_bytes: int) -> list[str]:
    """safetensors of at most so many bytes each, and their index where there are several; holds one at a time."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, weight in found.items():
        more = _entries(weight) * dtype.itemsize
        if shards[-1] and size + more > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += more
    names = [f"model-{k:05d}-of-{len(shards):05d}.safetensors" for k in range(1, len(shards) + 1)]
    names = ["model.safetensors"] if len(shards) == 1 else names
    for name, shard in zip(names, shards, strict=True):
        save_file({key: found[key].read().to(dtype).contiguous() for key in shard}, folder / name, {"format": "pt"})
    if len(shards) > 1:
        total = sum(_entries(weight) * dtype.itemsize for weight in found.values())
        places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return names


# Configuration and processor --------------------------------------------------------------------------------------


def _facts(parts: Parts) -> dict[str, Any]:
    """What config.json says of the language model and, beside the projector, of how pictures are seen."""
    beside = parts.projector.parent / "config.json" if parts.projector else None
    return (_json(beside) if beside and beside.is_file() else {}) | _json(parts.language / "config.json")


def _config(facts: Mapping[str, Any], vision: Path, tokenizer: Any) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    kind = facts.get("mm_projector_type", "mlp2x_gelu")
    if kind != "mlp2x_gelu" or "anyres" in str(facts.get("image_aspect_ratio", "")):
        raise InputError(f"this is not LLaVA 1.5: projector {kind}, pictures {facts.get('image_aspect_ratio', 'pad')}")
    text = LlamaConfig(**{key: facts[key] for key in LLAMA_KEYS if key in facts})
    text.vocab_size = -(-max(text.vocab_size, len(tokenizer)) // MULTIPLE) * MULTIPLE
    text.pad_token_id = tokenizer.pad_token_id
    eye = CLIPVisionConfig.from_pretrained(vision)
    whole = facts.get("mm_vision_select_feature", "patch") == "cls_patch"
    return LlavaConfig(
        vision_config=eye,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(eye.image_size // eye.patch_size) ** 2 + whole,
        vision_feature_layer=facts.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="full" if whole else "default",
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=text.tie_word_embeddings,
        architectures=["LlavaForConditionalGeneration"],
    )


def _generation(config: Any) -> Any:
    from transformers import GenerationConfig

    text = config.text_config
    return GenerationConfig(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
    )


def _tokenizer(folder: Path) -> Any:
    from transformers import AddedToken, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"the tokenizer in {folder} cannot be loaded ({str(error).splitlines()[0]}): a folder with tokenizer.model "
            "alone needs the packages sentencepiece and protobuf, or give a folder with tokenizer.json as the tokenizer"
        ) from error
    tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": AddedToken(PAD, special=True, normalized=False)})
    return tokenizer


def _processor(tokenizer: Any, vision: Path, config: Any) -> Any:
    from transformers import CLIPImageProcessor, LlavaProcessor

    eye = config.vision_config
    side = {"height": eye.image_size, "width": eye.image_size}
    has_own = (vision / "preprocessor_config.json").is_file()
    plain = CLIPImageProcessor(size={"shortest_edge": eye.image_size}, crop_size=side)
    return LlavaProcessor(
        CLIPImageProcessor.from_pretrained(vision) if has_own else plain,
        tokenizer,
        patch_size=eye.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path} is missing or not JSON") from None
    return dict(values)
