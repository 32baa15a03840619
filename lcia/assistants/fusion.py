"""HiDe's fusion: the adapters of all tasks as one, with weights of its own in the last layers of the decoder.

Guo et al., "HiDe-LLaVA" (ACL 2025, arXiv 2503.12941; code Ghy0501/HiDe-LLaVA). With adapters i of one form:
    y = W x + s sum over i of      B_i A_i x      in all layers but the last ones
    y = W x + s sum over i of  d_i B_i A_i x      in the last `layers` of the decoder
One stock adapter of rank t r and alpha t lora_alpha does that exactly: its A are the A_i one below the other, its B the
(d_i) B_i side by side, and its scale s = lora_alpha / r is theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lcia.types import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DECODERS = ("language_model", "decoder")
"""Parts of the names of decoder layers, where another tower is tuned as well."""


def fuse(folders: Sequence[Path], weights: Sequence[float], layers: int, target: Path) -> None:
    """Writes the fused adapter of stock PEFT folders into `target`.

    Raises:
        InputError: the adapters differ in form, or hold more than LoRA's two matrices.
    """
    forms = [json.loads((folder / CONFIG).read_text()) for folder in folders]
    tensors = [load_file(folder / WEIGHTS) for folder in folders]
    if any(form != forms[0] for form in forms) or any(found.keys() != tensors[0].keys() for found in tensors):
        raise InputError("adapters of different forms cannot be fused: all tasks need one lora section")
    if strange := [name for name in tensors[0] if ".lora_A." not in name and ".lora_B." not in name]:
        raise InputError(f"{strange[0]} is not a matrix of a LoRA and cannot be fused: tune no projector")
    last = last_layers(tensors[0], layers)
    fused = {}
    for name in tensors[0]:
        parts = [found[name] for found in tensors]
        if ".lora_B." in name and name.startswith(last):
            parts = [weight * part for weight, part in zip(weights, parts, strict=True)]
        fused[name] = torch.cat(parts, int(".lora_B." in name)).contiguous()
    save_file(fused, target / WEIGHTS, metadata={"format": "pt"})
    scaled = {key: len(folders) * forms[0][key] for key in ("r", "lora_alpha")}
    (target / CONFIG).write_text(json.dumps(forms[0] | scaled, indent=2))


def last_layers(names: Iterable[str], count: int) -> tuple[str, ...]:
    """What the names of parameters in the last `count` layers of the decoder begin with."""
    found: dict[str, set[int]] = {}
    for name in names:
        if block := re.match(r"(.*?\.)(\d+)\.", name):
            found.setdefault(block[1], set()).add(int(block[2]))
    decoders = {tower: numbers for tower, numbers in found.items() if any(part in tower for part in DECODERS)} or found
    if len(decoders) != 1:
        raise InputError(
            f"adapters lie in {len(decoders)} stacks of layers, so that none is the last: fuse those of one"
        )
    [(tower, numbers)] = decoders.items()
    return tuple(f"{tower}{number}." for number in sorted(numbers)[-count:])
