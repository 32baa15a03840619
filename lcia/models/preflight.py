"""Whether a base can be loaded and LoRA finds layers in it, judged by the headers of its files, without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, assert_never

from lcia.assistants.tiny import BASES
from lcia.config.assistants import AssistantConfig, LlavaConfig, LoraConfig, TinyConfig
from lcia.config.image_text import ImageTextConfig
from lcia.config.language import ALL_LINEAR, CausalConfig, Seq2SeqConfig
from lcia.models.identity import CONFIG, hub_file
from lcia.types import InputError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_HEADER = 100_000_000
"""Bytes; the safetensors library refuses a longer header too."""
EXAMPLES = 3


def check_base(config: AssistantConfig, lora: LoraConfig) -> None:
    """Raises InputError where the base's files, or the layers that LoRA names, are not there."""
    match config:
        case TinyConfig():
            folder = BASES[config.base]
        case LlavaConfig():
            folder = model_folder("assistant.model", config.model, config.revision)
            _check_llava(config.model, folder)
        case ImageTextConfig():
            folder = model_folder("assistant.model", config.model, config.revision)
        case CausalConfig(gguf_file=str(name)):
            _check_gguf(config.model, config.revision, name)
            return
        case CausalConfig() | Seq2SeqConfig():
            folder = model_folder("assistant.model", config.model, config.revision)
            _check_language(config, folder)
        case _:
            assert_never(config)
    files = _weight_files(folder)
    # Files of many families hold other names than their classes; ends of names are the same in both.
    if files and not (isinstance(config, ImageTextConfig) and isinstance(lora.target_modules, str)):
        check_targets(lora.target_modules, list(_layers(files)))


def model_folder(key: str, model: str, revision: str | None = None) -> Path:
    """Where the files of a local model are, or of one on the hub, of which at least config.json is fetched.

    Raises:
        InputError: it is neither a folder nor, by the cache or the hub, a model; names `key`.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise InputError(f"{key}: {model} has no {CONFIG}{_not_a_model(folder)}")
        return folder
    if folder.exists() or folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise InputError(f"{key}: there is no folder {model} on this machine; give a folder or a hub id")
    try:
        return hub_file(model, revision, CONFIG).parent
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


def _not_a_model(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return ": it is an adapter; give the base that it was trained on"
    return ": give the folder that save_pretrained wrote"


def _check_llava(model: str, folder: Path) -> None:
    kind = _json(folder / CONFIG).get("model_type")
    if kind != "llava":
        raise InputError(
            f"assistant.model: {model} has model_type {kind!r}; only llava (LlavaForConditionalGeneration) can be tuned"
        )


def _check_language(config: CausalConfig | Seq2SeqConfig, folder: Path) -> None:
    """Raises InputError for a model with an encoder as causal, and for one without as seq2seq."""
    known = _json(folder / CONFIG)
    if bool(known.get("is_encoder_decoder")) == isinstance(config, CausalConfig) or known.get("model_type") == "llava":
        raise InputError(
            f"assistant.model: {config.model} has model_type {known.get('model_type')!r}, which is not a model of kind "
            f"{config.kind}: causal is a decoder alone, seq2seq has an encoder too, llava sees pictures"
        )


def _check_gguf(model: str, revision: str | None, name: str) -> None:
    """Raises InputError where there is no such file, or no package to read it with. Its layers are not looked at."""
    if find_spec("gguf") is None:
        raise InputError("assistant.gguf_file needs the package gguf: run `pip install gguf`, or give safetensors")
    if Path(model).is_dir():
        if not (Path(model) / name).is_file():
            raise InputError(f"assistant.gguf_file: {model} has no {name}")
        return
    hub_file(model, revision, name)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder; none where a model of the hub is still to be fetched.

    Raises:
        InputError: a local folder has none, or lacks one that its index names.
    """
    if (folder / INDEX).is_file():
        files = [folder / name for name in sorted(set(_json(folder / INDEX).get("weight_map", {}).values()))]
    else:
        files = [folder / WEIGHTS]
    # A snapshot in the cache of the hub may hold a part of the files; the rest is fetched when the model is loaded.
    fetched = folder.parent.name == "snapshots"
    missing = [file for file in files if not file.is_file()]
    if missing and (pickled := sorted(folder.glob("pytorch_model*.bin"))) and not (folder / INDEX).is_file():
        raise InputError(
            f"assistant.model: {folder} holds its weights as {pickled[0].name}, which can run code when it is read: "
            "load it once where you trust it and write it again with save_pretrained, which makes safetensors"
        )
    if missing and not fetched:
        raise InputError(f"assistant.model: {folder} has no {missing[0].name}: its weights are incomplete")
    return [] if missing else files


def _layers(files: Sequence[Path]) -> Iterator[str]:
    """Names of the modules with a weight matrix, by every name that the model's classes may give them."""
    for file in files:
        for key, entry in _header(file).items():
            if key.endswith(".weight") and len(entry.get("shape", ())) >= 2:
                yield from _names(key.removesuffix(".weight"))


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        text = opened.read(size) if size <= MAX_HEADER else b""
    try:
        header: dict[str, Any] = json.loads(text)
    except ValueError:
        raise InputError(f"assistant.model: {file} is damaged or not a safetensors file") from None
    return header


def _names(saved: str) -> list[str]:
    """A saved name and what transformers makes of it: checkpoints keep the names of older classes."""
    inner = re.sub(r"^(?:model\.)?language_model\.model\.", "language_model.", saved.removeprefix("model."))
    plain = [inner, inner.replace("vision_tower.vision_model.", "vision_tower.")]
    return list(dict.fromkeys([saved, *(f"model.{name}" for name in plain)]))


def check_targets(targets: str | Sequence[str], layers: Sequence[str]) -> None:
    """Raises InputError where `lora.target_modules` names none of the layers, as peft compares names."""
    if targets == ALL_LINEAR:
        return
    try:
        found = any(_matches(targets, layer) for layer in layers)
    except re.error as error:
        raise InputError(f"lora.target_modules {targets!r} is not a regular expression: {error}") from None
    if not found:
        raise InputError(f"lora.target_modules: {_given(targets)}; the model has for example {_examples(layers)}")


def _given(targets: str | Sequence[str]) -> str:
    if isinstance(targets, str):
        return f"{targets!r} matches no layer; a text is a regular expression for whole names"
    return f"[{', '.join(targets)}] matches no layer; a list holds names or their ends"


def _examples(layers: Sequence[str]) -> str:
    inner = [layer for layer in layers if layer.startswith("model.language_model.layers")]
    return ", ".join((inner or list(layers))[:EXAMPLES])


def _matches(targets: str | Sequence[str], layer: str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, layer) is not None
    return any(layer == target or layer.endswith(f".{target}") for target in targets)


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise InputError(f"{path} is not valid JSON of an object: the model's folder is damaged")
    return values
