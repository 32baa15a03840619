"""Going on from a checkpoint, and the talk about single plain shapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from lcia.assistants.tiny import TINY_BASE
from lcia.data.minicoin.drawing import PLAIN_COLOURS, PLAIN_SHAPES, plain_scene
from lcia.types import Sample
from tools.align_tiny_base import beginning
from tools.captions import caption_sample, plain_sample, seek_sample


def test_an_alignment_that_goes_on_begins_with_the_weights_of_its_checkpoint() -> None:
    stored = load_file(TINY_BASE / "model.safetensors")
    found = sorted(value.double().sum().item() for value in stored.values())
    assistant, _ = beginning(TINY_BASE, seed=5)
    begun = sorted(value.double().sum().item() for value in assistant.module.parameters())
    torch.testing.assert_close(begun, found, rtol=0, atol=1e-9)


@pytest.mark.parametrize("draw", [caption_sample, plain_sample, seek_sample])
def test_the_same_number_draws_the_same_talk(draw: Callable[[Random], Sample]) -> None:
    assert draw(Random("3/1")) == draw(Random("3/1"))
    assert draw(Random("3/1")) != draw(Random("3/2"))


def test_an_answer_about_a_plain_shape_names_what_is_drawn() -> None:
    checked = 0
    for number in range(300):
        random = Random(f"plain/{number}")
        if random.random() >= 0.8:
            continue
        thing = plain_scene(random).things[0]
        turns = seek_sample(Random(f"plain/{number}")).messages
        for asked, told in zip(turns[::2], turns[1::2], strict=True):
            if "Name the color" in asked.content:
                assert told.content == f"color {thing.colour}"
            elif "Name the shape" in asked.content:
                assert told.content == f"shape {thing.shape}"
            elif told.content in ("found", "missing"):
                named = set(re.findall(r"[a-z]+", asked.content)) & {*PLAIN_SHAPES, *PLAIN_COLOURS}
                assert (told.content == "found") is (named <= {thing.shape, thing.colour})
            else:
                continue
            checked += 1
    assert checked > 200


def test_what_is_looked_for_is_missing_about_half_of_the_time_so_that_no_blind_answer_is_right() -> None:
    firsts = [seek_sample(Random(f"half/{number}")).messages[:2] for number in range(600)]
    told = [answer.content for asked, answer in firsts if asked.content.startswith("<image>\nSay whether")]
    assert len(told) > 100
    assert 0.4 < told.count("found") / len(told) < 0.6
