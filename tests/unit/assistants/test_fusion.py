"""The adapters of several tasks as one: exact, stock, and weighed in the last layers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from lcia import assistants
from lcia.assistants.fusion import fuse, last_layers
from lcia.assistants.tiny import TINY_BASE
from lcia.config.assistants import LoraConfig, TinyConfig
from lcia.protocols import Assistant
from lcia.types import InputError

pytestmark = pytest.mark.numeric

LANGUAGE = "base_model.model.model.language_model.layers."
VISION = "base_model.model.model.vision_tower.encoder.layers."


def stored(folder: Path, lora: LoraConfig = LoraConfig(), projector: bool = False) -> Assistant:  # noqa: B008 (frozen)
    """Two adapters a and b in folders of these names."""
    assistant = assistants.build(TinyConfig(train_projector=projector), lora, device="cpu")
    for seed, name in enumerate("ab"):
        assistant.adapters.add(name, seed)
        assistant.module.double()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            for parameter in assistant.adapters.trainable().values():
                parameter.add_(0.3 * torch.randn_like(parameter))
        assistant.adapters.save(name, folder / name)
    return assistant


def added(assistant: Assistant, name: str, x: dict[str, Tensor]) -> dict[str, Tensor]:
    """What an adapter adds to each layer's output."""
    assistant.adapters.use(name)
    layers = assistant.adapters.layers()
    return {
        each.name: each.module(x[each.name]) - cast(Any, each.module).get_base_layer()(x[each.name]) for each in layers
    }


@pytest.mark.parametrize("count", [1, 2])
def test_a_fused_adapter_adds_the_sum_and_in_the_last_layers_the_weighed_sum(tmp_path: Path, count: int) -> None:
    assistant = stored(tmp_path)
    fuse([tmp_path / "a", tmp_path / "b"], (0.7, 0.3), count, tmp_path)
    assistant.adapters.load("fused", tmp_path)
    assistant.module.double()
    torch.manual_seed(0)
    x = {each.name: torch.randn(3, each.shape[1], dtype=torch.float64) for each in assistant.adapters.layers()}
    a, b, fused = (added(assistant, name, x) for name in ("a", "b", "fused"))
    numbers = sorted({name.split("layers.")[1].split(".")[0] for name in fused})
    for name, found in fused.items():
        is_last = name.split("layers.")[1].split(".")[0] in numbers[-count:]
        expected = 0.7 * a[name] + 0.3 * b[name] if is_last else a[name] + b[name]
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_a_fused_adapter_is_a_stock_one_of_the_summed_rank(tmp_path: Path) -> None:
    stored(tmp_path)
    fuse([tmp_path / "a", tmp_path / "b", tmp_path / "a"], (0.2, 0.3, 0.5), 1, tmp_path)
    base = LlavaForConditionalGeneration.from_pretrained(TINY_BASE)
    form = PeftModel.from_pretrained(base, tmp_path).peft_config["default"]
    assert (form.r, form.lora_alpha) == (24, 48)


def test_one_adapter_with_all_the_weight_is_itself(tmp_path: Path) -> None:
    assistant = stored(tmp_path)
    fuse([tmp_path / "a"], (1.0,), 1, tmp_path)
    for file in ("adapter_model.safetensors",):
        assert (tmp_path / file).read_bytes() == (tmp_path / "a" / file).read_bytes()
    assistant.adapters.load("fused", tmp_path)


def test_adapters_that_cannot_be_summed_are_refused(tmp_path: Path) -> None:
    stored(tmp_path)
    stored(tmp_path / "other", LoraConfig(r=4))
    stored(tmp_path / "whole", projector=True)
    with pytest.raises(InputError, match="different forms"):
        fuse([tmp_path / "a", tmp_path / "other" / "b"], (0.5, 0.5), 1, tmp_path)
    with pytest.raises(InputError, match="tune no projector"):
        fuse([tmp_path / "whole" / "a", tmp_path / "whole" / "b"], (0.5, 0.5), 1, tmp_path)


def test_the_last_layers_are_those_of_the_decoder() -> None:
    names = [f"{LANGUAGE}{n}.mlp.up_proj.lora_A.weight" for n in (0, 2, 9, 10)] + [f"{VISION}11.q_proj.lora_A.weight"]
    assert last_layers(names, 1) == (f"{LANGUAGE}10.",)
    assert last_layers(names, 2) == (f"{LANGUAGE}9.", f"{LANGUAGE}10.")
    assert last_layers([f"{VISION}1.q_proj.lora_A.weight"], 1) == (f"{VISION}1.",)
    with pytest.raises(InputError, match="2 stacks"):
        last_layers(["one.0.q.lora_A.weight", "two.0.q.lora_A.weight"], 1)
