"""Sharding a base: its layers, the twin, and what is forbidden afterwards (the rest: integration)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lcia import assistants
from lcia.assistants.sharded import hollow, layers, shard
from lcia.config.assistants import LoraConfig, TinyConfig
from lcia.types import InputError


def test_a_sharded_base_takes_no_adapter_of_another_form_and_none_beside_its_own(tmp_path: Path) -> None:
    """Sharding that cuts nothing: what it forbids is the same."""
    wide = assistants.build(TinyConfig(), LoraConfig(r=2))
    wide.adapters.add("x", seed=0)
    wide.adapters.save("x", tmp_path)
    assistant = assistants.build(TinyConfig())
    assistant.adapters.add("x", seed=0)
    shard(assistant, lambda module: None)
    with pytest.raises(InputError, match="another form"):
        assistant.adapters.load("x", tmp_path)
    assert assistant.adapters._twin.names == ("x",)
    for forbidden in (lambda: assistant.adapters.use(None), lambda: assistant.adapters.drop("x"),
                      lambda: assistant.adapters.add("y", 1)):  # fmt: skip
        with pytest.raises(InputError):
            forbidden()


def test_the_layers_are_sharded_one_by_one_and_then_the_rest() -> None:
    assistant, applied = assistants.build(TinyConfig()), list[torch.nn.Module]()
    assistant.adapters.add("x", seed=0)
    shard(assistant, applied.append)
    model = assistant.module.get_base_model()
    assert applied == [*model.model.language_model.layers, assistant.module]


def test_the_layers_to_shard_are_those_of_the_language_model_alone() -> None:
    assistant = assistants.build(TinyConfig())
    assistant.adapters.add("a", seed=0)
    model: Any = assistant.module.get_base_model()
    assert layers(model) == list(model.model.language_model.layers)


def test_a_model_that_names_no_layers_cannot_be_sharded() -> None:
    class Unnamed(nn.Module):
        _no_split_modules = None

        def get_decoder(self) -> nn.Module:
            return self

    with pytest.raises(InputError, match="Unnamed names no layers to shard: use parallelism ddp"):
        layers(Unnamed())


@pytest.mark.parametrize("projector", [False, True])
def test_a_hollow_twin_takes_no_memory_for_what_is_frozen(projector: bool) -> None:
    assistant = assistants.build(TinyConfig(train_projector=projector))
    assistant.adapters.add("a", seed=0)
    before = {name: p.detach().clone() for name, p in assistant.module.named_parameters()}
    twin = hollow(assistant.module)
    held = {name: p.untyped_storage().nbytes() // p.element_size() for name, p in twin.named_parameters()}
    started_from = {name for name in held if "original_module" in name}
    assert {held[name] for name in held.keys() - started_from} == {1}
    assert len(started_from) == (4 if projector else 0)
    assert all(torch.equal(dict(twin.named_parameters())[name], before[name]) for name in started_from)
    assert all(torch.equal(p, before[name]) for name, p in assistant.module.named_parameters())
