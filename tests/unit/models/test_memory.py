"""What a model consists of and what training it takes, against the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lcia import assistants, strategies
from lcia.assistants.outline import SHAPES, Outline, outline
from lcia.config.assistants import LlavaConfig, LoraConfig, TinyConfig
from lcia.config.image_text import ImageTextConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.data.minicoin.rows import generate
from lcia.models.memory import HELD, Placement, activations, layer_bytes, logits, per_worker, strategy_bytes
from lcia.protocols import Trained
from lcia.training.train import answer_loss
from lcia.types import GeneratedSource, InputError
from tests.families import FAMILIES

TUNED = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.05}


def llava(name: str, **keys: Any) -> LlavaConfig:
    return LlavaConfig(kind="llava", model=name, **keys)


def test_a_llava_7b_with_rank_128_has_the_published_numbers() -> None:
    found = outline(llava("bases/llava-1.5-7b-pretrain", train_projector=True), LoraConfig(r=128))
    assert (found.lora, found.lora_tensors) == (319_815_680, 448)
    assert (found.projector, found.projector_tensors) == (20_979_712, 4)
    assert found.base["language_model"] + found.base["lm_head"] == 6_738_415_616 + 2 * 64 * 4096
    assert found.shape.startswith("shape llava-1.5-7b, because")


def test_a_llava_13b_is_larger_by_its_layers() -> None:
    found = outline(llava("anything"), LoraConfig(r=128), "llava-1.5-13b")
    # r (in + out) of four matrices of attention and three of the MLP.
    assert found.lora == 40 * 128 * (4 * 2 * 5120 + 3 * (5120 + 13824))
    assert (found.layers, found.projector) == (40, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_outline_counts_what_the_loaded_model_has(family: str, tmp_path: Path) -> None:
    model = str(FAMILIES[family](tmp_path))
    config = ImageTextConfig(kind="image_text", model=model, dtype="float32", train_projector=True)
    lora = LoraConfig(r=4, target_modules=config.linear_layers)
    assistant = assistants.build(config, lora)
    parameters = sum(p.numel() for p in assistant.module.parameters())
    assistant.adapters.add("a", seed=0)
    trained = assistant.adapters.trainable()
    found = outline(config, lora)
    assert found.parameters == parameters
    assert found.trained == sum(p.numel() for p in trained.values())
    assert found.lora_tensors + found.projector_tensors == len(trained)


def test_tied_weights_count_once() -> None:
    module = assistants.build(TinyConfig()).module
    assert outline(TinyConfig(), LoraConfig()).parameters == sum(p.numel() for p in module.parameters())


def test_a_model_of_unknown_architecture_is_told_the_shapes_that_are_known() -> None:
    with pytest.raises(InputError, match=", ".join(SHAPES)):
        outline(llava("me/mine"), LoraConfig())
    with pytest.raises(InputError, match="no shape llava-99b"):
        outline(llava("me/mine"), LoraConfig(), "llava-99b")


# Memory -----------------------------------------------------------------------------------------------------------


@contextmanager
def saved_bytes(module: torch.nn.Module) -> Iterator[list[int]]:
    """Bytes of all tensors that are kept for a backward pass, but for the model's own; each storage counts once."""
    own, seen, found = {p.untyped_storage().data_ptr() for p in module.parameters()}, dict[int, Any](), [0]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in seen:
            # Held, so that no other tensor gets its place.
            seen[storage.data_ptr()] = storage
            found[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found


def config_of(bf16: bool) -> RunConfig:
    return parse(RunConfig, {"lora": TUNED, "training": {"bf16": bf16}}, "test")


@pytest.mark.parametrize("bf16", [False, True])
def test_activations_are_about_what_torch_keeps(bf16: bool) -> None:
    config = config_of(bf16)
    assistant = assistants.build(config.assistant, config.lora)
    assistant.adapters.add("a", seed=0)
    assistant.module.train()
    batch = assistant.collate(list(generate(GeneratedSource("VQAv2", "train", 16, 0), 0, 16)))
    with saved_bytes(assistant.module) as found, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        answer_loss(assistant.logits(assistant.module, batch), batch["labels"])
    rows, tokens = batch["input_ids"].shape
    model, place = outline(config.assistant, config.lora), Placement("ddp", 1, rows, tokens, False)
    # Of the scores the forward pass keeps the softmax's logarithm alone. The base in fp32 is cast, and its cast kept. A
    # CPU's mask of what dropout leaves takes four bytes an entry, a GPU's one.
    kept = activations(model, config, place) + rows * tokens * model.vocabulary * 4
    masks = 3 * rows * tokens * sum(into for into, _ in model.tuned)
    casts = 2 * model.parameters if bf16 else 0
    assert found[0] == pytest.approx(kept + masks + casts, rel=0.1)


def test_checkpointing_keeps_a_layer_s_input_and_one_layer() -> None:
    config, place = config_of(True), Placement("ddp", 1, 4, 100, True)
    model = outline(config.assistant, config.lora)
    expected = 400 * (model.layers * 2 * model.hidden + layer_bytes(model, config))
    assert activations(model, config, place) == expected


def test_shards_divide_what_they_hold_and_gather_two_layers() -> None:
    config = parse(RunConfig, {"assistant": {"kind": "llava", "model": "llava-1.5-7b"}, "lora": {"r": 128},
                               "training": {"bf16": True}, "strategy": {"kind": "paper"}}, "test")  # fmt: skip
    model = outline(config.assistant, config.lora)
    whole = per_worker(model, config, Placement("ddp", 8, 16, 2048, True))
    part = per_worker(model, config, Placement("fsdp2", 8, 16, 2048, True))
    assert whole["base"] == 2 * model.parameters == 8 * part["base"]  # type: ignore[operator]
    assert whole["strategy"] == 12 * model.lora == 8 * part["strategy"]  # type: ignore[operator]
    # Under DDP gradients lie in the buckets that are reduced too.
    assert whole["gradients"] == 8 * model.lora
    assert whole["gathered"] == 0
    assert part["gathered"] > 2 * 2 * model.layer
    assert part["total"] == pytest.approx(sum(v for k, v in part.items() if k != "total"))  # type: ignore[misc]


def test_scores_at_the_loss_take_their_peak() -> None:
    config, place = config_of(True), Placement("ddp", 1, 2, 10, True)
    model = outline(config.assistant, config.lora)
    assert logits(model, config, place) == 20 * model.vocabulary * 14


@pytest.mark.parametrize("kind", ["sequential", "fixed", "official", "paper", "proximal", "curvature", "ewc"])
def test_what_a_strategy_holds_is_what_is_counted_for_it(kind: str) -> None:
    given = {"kind": kind, **({"beta": 0.9} if kind == "fixed" else {})}
    strategy = parse(RunConfig, {"strategy": given}, "test").strategy
    weights = {name: torch.nn.Parameter(torch.randn(64, 64)) for name in ("a", "b")}
    built, optimizer = strategies.build(strategy, 10), torch.optim.AdamW(weights.values())
    kept = {f"fisher.{name}": torch.ones(64, 64) for name in weights} if kind in ("curvature", "ewc") else {}
    built.start(Trained(weights), optimizer, kept)
    trained = sum(p.numel() for p in weights.values())
    held = sum(t.numel() * t.element_size() for t in built.state_dict().values() if t.numel() >= 64 * 64)
    # F_old is held as well, and is the last stage's: no checkpoint writes it.
    assert held + 4 * trained * bool(kept) == HELD[kind] * trained


def test_a_strategy_that_nobody_has_counted_is_not_guessed() -> None:
    class Other:
        kind = "other"

    model = outline(TinyConfig(), LoraConfig())
    assert strategy_bytes(Other(), model, 1) is None  # type: ignore[arg-type]
    assert isinstance(model, Outline)
