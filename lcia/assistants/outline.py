"""What a configuration's model and adapter consist of, counted without their weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lcia.assistants.adapters import LoraAdapters, lora_form
from lcia.assistants.image_text import projector_of
from lcia.assistants.llava import PROJECTOR
from lcia.assistants.sharded import layers as decoder_layers
from lcia.assistants.tiny import BASES
from lcia.config.assistants import AssistantConfig, LoraConfig, TinyConfig
from lcia.config.image_text import ImageTextConfig
from lcia.types import InputError

SHAPES = {path.stem: path for path in sorted((Path(__file__).parent / "shapes").glob("*.json"))}
"""Published architectures by name: what is known of a model whose files are not here."""
CLASSES = {
    "tiny": "LlavaForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "image_text": "AutoModelForImageTextToText",
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
"""What transformers makes a model of each kind with."""


@dataclass(frozen=True)
class Outline:
    """Numbers of parameters, and sizes of the language model's layers; `shape` says where they are from."""

    shape: str
    base: Mapping[str, int]
    """Entries of each of the model's parts."""
    lora: int
    lora_tensors: int
    projector: int
    """Entries of the projector that an adapter brings along; 0: none."""
    projector_tensors: int
    tuned: tuple[tuple[int, int], ...]
    """(in, out) of every layer with LoRA."""
    layers: int
    layer: int
    """Entries of the base in the largest decoder layer."""
    hidden: int
    intermediate: int
    key_values: int
    """Width of the keys of a layer, and of its values."""
    vocabulary: int

    @property
    def parameters(self) -> int:
        return sum(self.base.values())

    @property
    def trained(self) -> int:
        return self.lora + self.projector


def outline(config: AssistantConfig, lora: LoraConfig, shape: str | None = None) -> Outline:
    """Of a local folder or a model in the hub's cache; else of the published shape whose name the model's holds.

    `shape`: the name of a published shape, or a config.json, in place of the model's own.

    Raises:
        InputError: nothing is known of the model's architecture, or there is no such shape.
    """
    where, values = _described(config, shape)
    with torch.device("meta"):
        model = _empty(config, values)
        whole = _whole(config, model)
        base = _parts(model)
        layers = [_entries(layer.parameters()) for layer in decoder_layers(model)]
        adapters = LoraAdapters(model, lora_form(lora, "", whole))
        adapters.add("adapter", seed=0)
    trained = adapters.trainable()
    lora_only = {name: p for name, p in trained.items() if ".lora_" in name}
    text = values.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return Outline(
        shape=where,
        base=base,
        lora=_entries(lora_only.values()),
        lora_tensors=len(lora_only),
        projector=_entries(trained.values()) - _entries(lora_only.values()),
        projector_tensors=len(trained) - len(lora_only),
        tuned=tuple((layer.shape[1], layer.shape[0]) for layer in adapters.layers() if layer.down is not None),
        layers=len(layers),
        layer=max(layers),
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        key_values=heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads),
        vocabulary=text.vocab_size,
    )


def _described(config: AssistantConfig, shape: str | None) -> tuple[str, Any]:
    """Where the architecture is from, and its configuration of transformers."""
    from transformers import AutoConfig

    if shape:
        return f"shape {shape}", _of_file(SHAPES.get(shape) or Path(shape), shape)
    if isinstance(config, TinyConfig):
        return "the package", AutoConfig.from_pretrained(BASES[config.base])
    try:
        found = AutoConfig.from_pretrained(config.model, revision=config.revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        known = next((name for name in SHAPES if name in config.model.lower()), None)
        if known is None:
            raise InputError(
                f"nothing is known of the architecture of {config.model}, which is not here: give --shape, one of "
                f"{', '.join(SHAPES)} or a config.json"
            ) from error
        return f"shape {known}, because {config.model} is not here", _of_file(SHAPES[known], known)
    return config.model, found


def _of_file(path: Path, given: str) -> Any:
    from transformers import AutoConfig

    if not path.is_file():
        raise InputError(f"there is no shape {given}: give one of {', '.join(SHAPES)}, or a config.json")
    values = json.loads(path.read_text(encoding="utf-8"))
    return AutoConfig.for_model(values.pop("model_type"), **values)


def _empty(config: AssistantConfig, values: Any) -> Any:
    """The model; its weights take no memory where the default device is `meta`."""
    import transformers

    kind = getattr(transformers, CLASSES[config.kind])
    dtype = torch.float32 if isinstance(config, TinyConfig) else getattr(torch, config.dtype)
    build = kind.from_config if CLASSES[config.kind].startswith("Auto") else kind._from_config
    return build(values, dtype=dtype)


def _whole(config: AssistantConfig, model: Any) -> list[str]:
    """The modules that an adapter brings along."""
    if not getattr(config, "train_projector", False):
        return []
    return projector_of(config.model, model) if isinstance(config, ImageTextConfig) else [PROJECTOR]


def _parts(model: Any) -> dict[str, int]:
    """Entries by the names of the parts that a model has right inside; tied weights count for the first of them."""
    found, seen = dict[str, int](), set[int]()
    for name, module in _children(model, getattr(model, "model", None)):
        own = {id(parameter): parameter for parameter in module.parameters() if id(parameter) not in seen}
        seen |= own.keys()
        found[name] = _entries(own.values())
    rest = _entries(model.parameters()) - sum(found.values())
    return found | ({"other": rest} if rest else {})


def _children(model: nn.Module, inner: nn.Module | None) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_children():
        if module is inner:
            yield from inner.named_children()
        else:
            yield name, module


def _entries(parameters: Iterable[torch.Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)
