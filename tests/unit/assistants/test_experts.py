"""Experts in one stock adapter: routed token by token, equal gates without routers, and none of it lost on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from lcia import assistants
from lcia.assistants.adapters import LoraAdapters
from lcia.assistants.experts import ROUTERS
from lcia.assistants.sharded import hollow
from lcia.assistants.tiny import TINY_BASE
from lcia.config.assistants import LoraConfig, TinyConfig
from lcia.config.load import load, parse
from lcia.config.run import RunConfig
from lcia.data.minicoin.rows import generate
from lcia.local import LocalExecutor
from lcia.protocols import Assistant, Batch, Progress
from lcia.run import prepare
from lcia.store.folders import Store
from lcia.training.result import TrainResult
from lcia.training.train import TrainOptions
from lcia.types import GeneratedSource, InputError

pytestmark = pytest.mark.numeric

ROUTED = LoraConfig(experts=4, target_modules=("q_proj", "down_proj"))
PLAIN = LoraConfig(target_modules=("q_proj", "down_proj"))
SAME = {"rtol": 0, "atol": 1e-9}
SAMPLE = next(generate(GeneratedSource("VQAv2", "train", 1, 0), 0, 1))


def built(lora: LoraConfig = ROUTED, name: str | None = "x", **values: Any) -> Assistant:
    assistant = assistants.build(TinyConfig(), lora, device="cpu", **values)
    if name:
        assistant.adapters.add(name, seed=1)
    assistant.module.double()
    return assistant


def disturb(assistant: Assistant, size: float = 0.3) -> None:
    """A fresh B is 0: give every tensor values that matter."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(7)
        for parameter in assistant.adapters.trainable().values():
            parameter.add_(size * torch.randn_like(parameter))


def answered(assistant: Assistant, batch: Batch) -> Tensor:
    with torch.no_grad():
        return assistant.logits(assistant.module, batch)


def test_a_layer_is_the_sum_of_its_experts_weighed_by_its_own_input(tmp_path: Path) -> None:
    assistant = built()
    disturb(assistant)
    assistant.adapters.save("x", tmp_path)
    weights, routers = (load_file(tmp_path / name) for name in ("adapter_model.safetensors", ROUTERS))
    layers = [layer for layer in assistant.adapters.layers() if layer.down is not None]
    assert len(routers) == len(layers) == len(weights) / 2
    layer = layers[-1]
    x = torch.randn(2, 3, layer.shape[1], dtype=torch.float64)
    key = layer.name.removeprefix("base_model.model.")
    [a], [b], [r] = (
        [value for name, value in found.items() if key in name and part in name]
        for found, part in ((weights, "lora_A"), (weights, "lora_B"), (routers, "router"))
    )
    gates = torch.softmax(x @ r.T, -1)
    assert gates.std(1).max() > 1e-2, "tokens choose differently"
    added: Any = 0
    for expert in range(4):
        rows = slice(2 * expert, 2 * expert + 2)
        added = added + 4 * gates[..., expert, None] * (x @ a[rows].T @ b[:, rows].T)
    base = cast(Any, layer.module).get_base_layer()
    torch.testing.assert_close(layer.module(x), base(x) + 16 / 8 * added, rtol=1e-12, atol=1e-12)


def test_without_its_routers_the_stored_adapter_is_a_stock_one_with_equal_gates(tmp_path: Path) -> None:
    assistant = built()
    disturb(assistant)
    assistant.adapters.save("x", tmp_path)
    base = LlavaForConditionalGeneration.from_pretrained(TINY_BASE, dtype=torch.float64)
    theirs = PeftModel.from_pretrained(base, tmp_path).eval()
    batch = assistant.collate([SAMPLE])
    stock = theirs(**{key: value for key, value in batch.items() if key != "labels"}).logits
    assert not torch.allclose(answered(assistant, batch), stock, **SAME)
    with torch.no_grad():
        for name, parameter in assistant.adapters.trainable().items():
            if name.endswith("router.weight"):
                parameter.zero_()
    torch.testing.assert_close(answered(assistant, batch), stock, **SAME)
    assert "experts" not in json.loads((tmp_path / "adapter_config.json").read_text())


def test_a_fresh_routed_adapter_has_the_bits_of_a_stock_one_and_routers_from_its_seed() -> None:
    def fresh(lora: LoraConfig) -> dict[str, Tensor]:
        return dict(assistants.build(TinyConfig(), lora).adapters.trainable() or _added(lora))

    def _added(lora: LoraConfig) -> dict[str, Tensor]:
        assistant = assistants.build(TinyConfig(), lora, device="cpu")
        assistant.adapters.add("x", seed=5)
        return dict(assistant.adapters.trainable())

    before = torch.get_rng_state()
    stock, routed, again = fresh(PLAIN), fresh(ROUTED), fresh(ROUTED)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(routed[name], value) for name, value in stock.items())
    assert len(routed) == len(stock) * 3 / 2
    assert all(torch.equal(routed[name], again[name]) for name in routed)


def test_routed_and_stock_adapters_come_and_go_without_touching_each_other(tmp_path: Path) -> None:
    assistant = built()
    batch = assistant.collate([SAMPLE])
    disturb(assistant)
    routed = answered(assistant, batch)
    assistant.adapters.save("x", tmp_path / "routed")
    other = built(PLAIN)
    disturb(other, 0.1)
    stock, bare = answered(other, batch), answered(built(PLAIN, None), batch)
    other.adapters.save("x", tmp_path / "stock")
    # An assistant that adds stock adapters takes routed ones from their folder, also in place of a stock one.
    for name in ("routed", "stock", "routed"):
        other.adapters.load("x", tmp_path / name)
        torch.testing.assert_close(answered(other, batch), {"routed": routed, "stock": stock}[name], **SAME)
    other.adapters.load("y", tmp_path / "stock")
    torch.testing.assert_close(answered(other, batch), stock, **SAME)
    assert not [name for name in other.adapters.trainable() if "router" in name]
    other.adapters.use("x")
    torch.testing.assert_close(answered(other, batch), routed, **SAME)
    assert len([name for name in other.adapters.trainable() if "router" in name]) == len(other.adapters.layers()) / 2
    other.adapters.use(None)
    torch.testing.assert_close(answered(other, batch), bare, **SAME)
    other.adapters.drop("x")
    other.adapters.drop("y")
    torch.testing.assert_close(answered(other, batch), bare, **SAME)
    other.adapters.load("z", tmp_path / "routed")
    torch.testing.assert_close(answered(other, batch), routed, **SAME)


def test_a_routed_adapter_answers_unmerged_where_others_are_merged(tmp_path: Path) -> None:
    assistant = built()
    disturb(assistant)
    batch = assistant.collate([SAMPLE])
    before = answered(assistant, batch)
    assistant.adapters.use(None)
    assistant.adapters.merge("x")
    torch.testing.assert_close(answered(assistant, batch), before, rtol=0, atol=0)


def test_layers_that_are_computed_again_give_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        assistant = built(gradient_checkpointing=checkpointing)
        disturb(assistant)
        assistant.module.train()
        assistant.logits(assistant.module, assistant.collate([SAMPLE])).square().mean().backward()
        found.append({name: parameter.grad for name, parameter in assistant.adapters.trainable().items()})
    assert all(gradient is not None and gradient.any() for gradient in found[0].values())
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-10, atol=1e-14)


def test_a_hollow_copy_routes_by_weights_of_its_own() -> None:
    assistant = built()
    whole = cast(LoraAdapters, assistant.adapters)
    twin = LoraAdapters(hollow(whole.module), whole.lora)
    twin.add("incoming", seed=3)
    assert twin.form("incoming") == whole.form("x")
    assert twin.weights("incoming").keys() == whole.weights("x").keys()
    routers = [value for name, value in twin.weights("incoming").items() if name.endswith("router.weight")]
    assert all(isinstance(router, nn.Parameter) and router.any() for router in routers)


STREAM: dict[str, Any] = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 16, "test_size": 4},
    "training": {"max_steps": 4, "batch_size": 4},
    "grouping": {"enabled": False},
    "lora": {"experts": 2},
    "strategy": {"kind": "curvature"},
}


def test_a_stage_trains_stores_and_hands_on_its_routers_and_is_continued_with_the_same_bits(tmp_path: Path) -> None:
    class StoppedError(Exception):
        """Stands for whatever ends a process."""

    def stop(progress: Progress) -> None:
        if progress.label.startswith("OCR-VQA") and progress.step == 3:
            raise StoppedError

    options, found = TrainOptions(micro_batch=4, save_steps=2, logging_steps=1), []
    for name in ("whole", "cut"):
        store = Store(str(tmp_path / name))
        [prepared] = prepare([parse(RunConfig, STREAM, "test")], LocalExecutor(store))
        if name == "cut":
            with pytest.raises(StoppedError):
                LocalExecutor(store, options, stop).train_and_evaluate(prepared.plan.trains, [])
        LocalExecutor(store, options).train_and_evaluate(prepared.plan.trains, prepared.plan.evals)
        found.append([store.fetch(stage.key) for stage in prepared.plan.trains])
        assert all(store.has(stage.key) for stage in prepared.plan.evals)
    for file in ("adapter_model.safetensors", ROUTERS, "kept.safetensors", "steps.jsonl"):
        assert (found[0][1] / file).read_bytes() == (found[1][1] / file).read_bytes()
    first, second = (load_file(folder / ROUTERS) for folder in found[0])
    assert all(not torch.equal(first[name], value) for name, value in second.items())
    kept = load_file(found[0][1] / "kept.safetensors")
    assert all(kept[f"fisher.{name}"].any() for name in second), "a strategy works on routers as on all that is trained"
    result = TrainResult.read(found[0][1])
    assert [path.name for path in result.adapter] == ["adapter_config.json", "adapter_model.safetensors", ROUTERS]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["lora.experts=3"], r"lora: r 8 cannot be shared out among 3 experts"),
        (["lora.experts=4"], r"strategy kronecker follows the product.*choose strategy.kind=sequential"),
        (["lora.experts=0"], r"lora.experts"),
    ],
)
def test_experts_that_cannot_be_are_refused(values: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(RunConfig, None, values)


def test_a_configuration_speaks_of_experts_only_where_there_are_several() -> None:
    assert "experts" not in RunConfig().model_dump(mode="json")["lora"]
    assert (
        load(RunConfig, None, ["lora.experts=2", "strategy.kind=ewc"]).model_dump(mode="json")["lora"]["experts"] == 2
    )
    assert load(RunConfig, None, ["lora.experts=2", "protocol=zero_shot"]).lora.experts == 2
