"""Going on from a checkpoint, and the talk about single plain shapes."""

from __future__ import annotations

from random import Random

import torch
from safetensors.torch import load_file

from lcia.align import beginning
from lcia.assistants.tiny import TINY_BASE
from lcia.benchmarks.captions import plain_sample
from lcia.benchmarks.drawing import plain_scene


def test_an_alignment_that_goes_on_begins_with_the_weights_of_its_checkpoint() -> None:
    stored = load_file(TINY_BASE / "model.safetensors")
    found = sorted(value.double().sum().item() for value in stored.values())
    assistant, _ = beginning(TINY_BASE, seed=5)
    begun = sorted(value.double().sum().item() for value in assistant.module.parameters())
    torch.testing.assert_close(begun, found, rtol=0, atol=1e-9)


def test_the_same_number_draws_the_same_plain_talk() -> None:
    assert plain_sample(Random("3/1")) == plain_sample(Random("3/1"))
    assert plain_sample(Random("3/1")) != plain_sample(Random("3/2"))


def test_an_answer_about_a_plain_shape_names_what_is_drawn() -> None:
    checked = 0
    for number in range(300):
        random = Random(f"plain/{number}")
        if random.random() >= 0.8:
            continue
        thing = plain_scene(random).things[0]
        turns = plain_sample(Random(f"plain/{number}")).messages
        for asked, told in zip(turns[::2], turns[1::2], strict=True):
            if "Name the color" in asked.content:
                assert told.content == f"color {thing.colour}"
            elif "Name the shape" in asked.content:
                assert told.content == f"shape {thing.shape}"
            else:
                continue
            checked += 1
    assert checked > 100
