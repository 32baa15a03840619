"""LoRA adapters on one base: they come and go without a trace, and are plain for peft."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lcia import assistants
from lcia.assistants.tiny import TINY_BASE
from lcia.config.assistants import LlavaConfig, LoraConfig, TinyConfig
from lcia.data.minicoin.rows import generate
from lcia.protocols import Assistant
from lcia.types import GeneratedSource, InputError

pytestmark = pytest.mark.numeric

SAME = {"rtol": 0, "atol": 1e-9}
"""How close two float64 computations of the same logits are on any processor; the largest logits are about 20."""
SAMPLE = next(generate(GeneratedSource("VQAv2", "train", 1, 0), 0, 1))


def double(projector: bool = False) -> Assistant:
    """A model in float64, of which no comparison depends on a processor's roundings."""
    assistant = assistants.build(TinyConfig(train_projector=projector))
    assistant.module.double()
    return assistant


@pytest.fixture(scope="module")
def tiny() -> Assistant:
    assistant = double()
    assistant.adapters.add("a", seed=1)
    return assistant


def disturb(assistant: Assistant) -> None:
    """A fresh LoRA changes nothing (B = 0): give its tensors values that do."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(7)
        for parameter in assistant.adapters.trainable().values():
            parameter.add_(0.1 * torch.randn_like(parameter))


def test_a_fresh_adapter_follows_from_its_seed_and_leaves_global_randomness_alone(tiny: Assistant) -> None:
    before = torch.get_rng_state()
    weights = []
    for name, seed in (("s", 3), ("t", 3), ("u", 4)):
        tiny.adapters.add(name, seed)
        weights.append(torch.cat([p.detach().flatten() for p in tiny.adapters.trainable().values()]))
        tiny.adapters.drop(name)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_trainable_names_are_the_saved_keys(tiny: Assistant, tmp_path: Path) -> None:
    tiny.adapters.use("a")
    tiny.adapters.save("a", tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved.keys() == tiny.adapters.trainable().keys()
    assert all(torch.equal(saved[name], parameter) for name, parameter in tiny.adapters.trainable().items())


@pytest.mark.parametrize("projector", [False, True])
def test_stock_peft_loads_a_saved_adapter(tmp_path: Path, projector: bool) -> None:
    from peft import PeftModel
    from transformers import LlavaForConditionalGeneration

    mine = double(projector)
    mine.adapters.add("x", seed=0)
    disturb(mine)
    mine.adapters.save("x", tmp_path)
    base = LlavaForConditionalGeneration.from_pretrained(TINY_BASE, dtype=torch.float64)
    theirs = PeftModel.from_pretrained(base, tmp_path).eval()
    batch = mine.collate([SAMPLE])
    expected = theirs(**{key: value for key, value in batch.items() if key != "labels"}).logits
    assert torch.allclose(mine.logits(mine.module, batch), expected, **SAME)
    assert any("projector" in name for name in mine.adapters.trainable()) is projector


@pytest.mark.parametrize("projector", [False, True])
def test_adapters_come_and_go_without_touching_each_other(tmp_path: Path, projector: bool) -> None:
    assistant = double(projector)
    batch = assistant.collate([SAMPLE])
    bare = assistant.logits(assistant.module, batch)
    assistant.adapters.add("x", seed=0)
    disturb(assistant)
    changed = assistant.logits(assistant.module, batch)
    assistant.adapters.save("x", tmp_path)
    assistant.adapters.add("y", seed=1)
    assert torch.allclose(assistant.logits(assistant.module, batch), bare, **SAME)
    assistant.adapters.load("y", tmp_path)
    assert torch.allclose(assistant.logits(assistant.module, batch), changed, **SAME)
    assistant.adapters.use(None)
    assert torch.allclose(assistant.logits(assistant.module, batch), bare, **SAME)
    assert assistant.adapters.trainable() == {}
    assistant.adapters.drop("x")
    assistant.adapters.drop("y")
    assistant.adapters.load("x", tmp_path)
    assert torch.allclose(assistant.logits(assistant.module, batch), changed, **SAME)
    assert len(assistant.adapters.trainable()) == len(load_file(tmp_path / "adapter_model.safetensors"))


@pytest.mark.parametrize("others", [(), ("y",)])
def test_after_an_adapter_is_dropped_the_bare_base_answers(others: tuple[str, ...]) -> None:
    assistant = double()
    batch = assistant.collate([SAMPLE])
    bare = assistant.logits(assistant.module, batch)
    for name in ("x", *others):
        assistant.adapters.add(name, seed=0)
        disturb(assistant)
    assistant.adapters.use("x")
    assert not torch.allclose(assistant.logits(assistant.module, batch), bare, **SAME)
    assistant.adapters.drop("x")
    assert assistant.adapters.names == others
    assert torch.allclose(assistant.logits(assistant.module, batch), bare, **SAME)
    for name in others:
        assistant.adapters.use(name)
        assert not torch.allclose(assistant.logits(assistant.module, batch), bare, **SAME)
        assert assistant.adapters.trainable()


def test_a_saved_adapter_is_loaded_for_answering_and_names_no_path_of_this_machine(
    tiny: Assistant, tmp_path: Path
) -> None:
    tiny.adapters.save("a", tmp_path / "new" / "folder")
    saved = json.loads((tmp_path / "new" / "folder" / "adapter_config.json").read_text())
    assert saved["inference_mode"] is True
    assert saved["base_model_name_or_path"] is None
    assert tiny.module.peft_config["a"].inference_mode is False


def test_an_adapter_of_another_form_takes_the_place_of_one_with_its_name(tmp_path: Path) -> None:
    wide = assistants.build(TinyConfig(), LoraConfig(r=2))
    wide.adapters.add("x", seed=0)
    wide.adapters.save("x", tmp_path)
    assistant = assistants.build(TinyConfig())
    assistant.adapters.add("x", seed=0)
    assistant.adapters.load("x", tmp_path)
    assert assistant.module.peft_config["x"].r == 2
    assert all(
        torch.equal(value, wide.adapters.trainable()[name]) for name, value in assistant.adapters.trainable().items()
    )


def test_weights_of_a_greater_rank_are_saved_with_the_same_scale(tmp_path: Path) -> None:
    assistant = assistants.build(TinyConfig(), LoraConfig(r=2, lora_alpha=6))
    assistant.adapters.add("x", seed=0)
    scale = assistant.adapters.layers()[0].scale
    joined = {
        name: torch.cat([p.detach()] * 4, 0 if "lora_A" in name else 1)
        for name, p in assistant.adapters.trainable().items()
    }
    assistant.adapters.save("x", tmp_path, joined)
    assert assistant.module.peft_config["x"].r == 2
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 8
    assistant.adapters.load("x", tmp_path)
    assert all(layer.scale == pytest.approx(scale) for layer in assistant.adapters.layers())
    assert all(torch.equal(joined[name], value) for name, value in assistant.adapters.trainable().items())


def test_an_unknown_adapter_is_named(tiny: Assistant) -> None:
    with pytest.raises(InputError, match="no adapter 'zebra'"):
        tiny.adapters.use("zebra")


# Merged -------------------------------------------------------------------------------------------------------------


def _logits(assistant: Assistant) -> torch.Tensor:
    with torch.no_grad():
        return assistant.logits(assistant.module, assistant.collate([SAMPLE]))


def test_a_merged_adapter_gives_the_same_logits() -> None:
    assistant = double(projector=True)
    assistant.adapters.add("a", seed=1)
    disturb(assistant)
    alone = _logits(assistant)
    assistant.adapters.merge("a")
    torch.testing.assert_close(_logits(assistant), alone, **SAME)


def test_after_a_merge_the_base_and_every_adapter_have_their_bits(tmp_path: Path) -> None:
    assistant = assistants.build(TinyConfig())
    for seed, name in enumerate("ab"):
        assistant.adapters.add(name, seed)
        disturb(assistant)
        assistant.adapters.save(name, tmp_path / name)
    before = {name: _used(assistant, name) for name in ("a", "b", None)}
    weights = {name: tensor.clone() for name, tensor in assistant.module.state_dict().items()}
    for name in ("a", "b", None):
        assistant.adapters.merge("a")
        assert torch.equal(_used(assistant, name), before[name])
    assistant.adapters.merge("a")
    assistant.adapters.load("b", tmp_path / "b")
    assert torch.equal(_logits(assistant), before["b"])
    assistant.adapters.merge("b")
    assistant.adapters.drop("b")
    assistant.adapters.load("b", tmp_path / "b")
    assistant.adapters.use("a")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in assistant.module.state_dict().items())


def _used(assistant: Assistant, name: str | None) -> torch.Tensor:
    assistant.adapters.use(name)
    return _logits(assistant)


# In half precision --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half() -> Assistant:
    config = LlavaConfig(kind="llava", model=str(TINY_BASE), dtype="bfloat16", train_projector=True)
    assistant = assistants.build(config)
    bare = _logits(assistant)
    assistant.adapters.add("a", seed=1)
    # What a fresh adapter adds is nothing, but for the roundings of the copied projector.
    assert torch.allclose(_logits(assistant), bare, atol=0.3)
    return assistant


def test_all_that_is_trained_is_held_in_fp32(half: Assistant) -> None:
    trained = half.adapters.trainable()
    assert any(half.in_projector(name) for name in trained)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    assert _logits(half).dtype == torch.bfloat16


def test_a_projector_moves_at_a_learning_rate_below_the_distance_of_half_precision(half: Assistant) -> None:
    projector = [p for name, p in half.adapters.trainable().items() if half.in_projector(name)]
    before = [p.detach().clone() for p in projector]
    half.logits(half.module, half.collate([SAMPLE])).float().square().sum().backward()
    torch.optim.AdamW(projector, lr=2e-5, weight_decay=0).step()
    moved = [(p - b).abs().max().item() for p, b in zip(projector, before, strict=True)]
    assert all(1e-5 < most < 3e-5 for most in moved)


def test_it_is_saved_and_loaded_as_it_is(half: Assistant, tmp_path: Path) -> None:
    half.adapters.save("a", tmp_path)
    expected = {name: parameter.detach().clone() for name, parameter in half.adapters.trainable().items()}
    half.adapters.add("b", seed=2)
    half.adapters.load("b", tmp_path)
    assert all(torch.equal(p, expected[name]) for name, p in half.adapters.trainable().items())
    assert half.answer([SAMPLE], 4)
