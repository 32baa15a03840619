"""A LLaVA assistant: labels on answers only, pictures as the checkpoint prepares them, stock peft."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lcia import assistants
from lcia.assistants.llava import LlavaAssistant
from lcia.assistants.pictures import Pictures, pad_to_square
from lcia.assistants.tiny import BASES, SHAPES_BASE, TINY_BASE
from lcia.config.assistants import LlavaConfig, TinyConfig
from lcia.data.minicoin.drawing import encode_png, plain_scene
from lcia.data.minicoin.rows import generate
from lcia.types import GeneratedSource, InputError, Message, Sample
from tools.align_tiny_base import CHAT_TEMPLATE

pytestmark = pytest.mark.numeric

SAME = {"rtol": 0, "atol": 1e-9}
"""How close two float64 computations of the same logits are on any processor; the largest logits are about 20."""


def double(projector: bool = False, checkpointing: bool = False) -> LlavaAssistant:
    """A model in float64, of which no comparison depends on a processor's roundings."""
    assistant = assistants.build(TinyConfig(train_projector=projector), gradient_checkpointing=checkpointing)
    assistant.module.double()
    return assistant


@pytest.fixture(scope="module")
def tiny() -> LlavaAssistant:
    assistant = double()
    assistant.adapters.add("a", seed=1)
    return assistant


@pytest.fixture(scope="module")
def stock() -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(TINY_BASE)


def picture(seed: int = 0, side: int = 32) -> bytes:
    return encode_png(plain_scene(Random(seed), side).image)


def talk(*lines: str, images: int = 0) -> Sample:
    messages = tuple(Message("assistant" if i % 2 else "user", line) for i, line in enumerate(lines))
    return Sample("", "", messages, tuple(picture(i) for i in range(images)), (lines[-1],))


def trained_text(assistant: LlavaAssistant, sample: Sample) -> str:
    labels = assistant.collate([sample])["labels"][0]
    return str(assistant.tokenizer.decode(labels[labels != -100]))


# Labels -----------------------------------------------------------------------------------------------------------


def test_the_trained_tokens_spell_the_answer_and_its_end(tiny: LlavaAssistant) -> None:
    sample = talk("<image>\nWhat is it?\nAnswer briefly.", "red circle", images=1)
    assert trained_text(tiny, sample) == " red circle</s>"


def test_every_turn_of_the_assistant_is_trained_and_nothing_of_the_user_s(tiny: LlavaAssistant) -> None:
    sample = talk("<image>\nWhat is it?", "a box", "Which color?", "blue</ s>", images=1)
    assert trained_text(tiny, sample) == " a box</s> blue</ s></s>"


def test_an_answer_that_repeats_the_question_is_found_at_its_own_place(tiny: LlavaAssistant) -> None:
    assert trained_text(tiny, talk("yes", "yes")) == " yes</s>"


def with_system(text: str, sample: Sample) -> Sample:
    return replace(sample, messages=(Message("system", text), *sample.messages))


def test_a_system_turn_is_given_in_front_and_not_trained(tiny: LlavaAssistant) -> None:
    plain = talk("<image>\nWhat is it?", "red circle", images=1)
    sample = with_system("You are terse. Grüße!", plain)
    assert trained_text(tiny, sample) == " red circle</s>"
    given = tiny.tokenizer.decode(tiny.collate([sample])["input_ids"][0])
    assert given == tiny.tokenizer.decode(tiny.collate([plain])["input_ids"][0]).replace(
        "<s>", "<s>You are terse. Grüße!\n", 1
    )


def test_a_question_is_answered_under_its_system_turn(tiny: LlavaAssistant) -> None:
    asked = with_system("You are terse.", talk("Repeat: red"))
    assert tiny.answer([asked], 4) == tiny.answer([with_system("You are terse.", talk("Repeat: red", "no"))], 4)


VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""What the templates of published LLaVA 1.5 checkpoints do, in our words: images first, the system's words unmarked."""


@pytest.fixture
def templated(tiny: LlavaAssistant) -> Iterator[Callable[[str], LlavaAssistant]]:
    """The tiny assistant with another chat template."""
    processor, given = tiny.dialogue.processor, tiny.dialogue.processor.chat_template

    def change(template: str) -> LlavaAssistant:
        tiny.dialogue._memory.clear()
        processor.chat_template = template
        return tiny

    yield change
    change(given)


def test_labels_are_right_under_the_template_of_llava_1_5(templated: Callable[[str], LlavaAssistant]) -> None:
    assistant = templated(VICUNA)
    sample = with_system("You are terse.", talk("<image>\nWhat?", "red", "And now?", "blue", images=1))
    labels = assistant.collate([sample])["labels"][0]
    assert assistant.tokenizer.decode(labels[labels != -100]) == " red</s> blue</s>"
    assert "You are terse. USER: <image>" in assistant.tokenizer.decode(assistant.collate([sample])["input_ids"][0])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'] }}:{% endif %}{% endfor %}", "leaves out"),
        ("{{ raise_exception('Conversations start with a user.') }}", "Conversations start with a user"),
        ("{{ messages | length }}{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}", "earlier turns"),
    ],
)
def test_a_template_that_cannot_say_a_row_is_refused(
    templated: Callable[[str], LlavaAssistant], template: str, message: str
) -> None:
    assistant = templated(template)
    with pytest.raises(InputError, match=message):
        assistant.collate([with_system("You are terse.", talk("What?", "red"))])


def test_the_shipped_template_is_the_one_that_the_base_is_aligned_with() -> None:
    assert (TINY_BASE / "chat_template.jinja").read_text() == CHAT_TEMPLATE


@pytest.mark.parametrize("text", ["Grüße, 世界 🙂", "0.12\tx\\n  spaced", "[0.03, 0.97, 1.00, 0.5]"])
def test_any_text_survives_encoding(tiny: LlavaAssistant, text: str) -> None:
    assert trained_text(tiny, talk("q", text)) == f" {text}</s>"


def test_a_row_without_a_picture_goes_with_rows_that_have_one(tiny: LlavaAssistant) -> None:
    with_picture, without = talk("<image>\nWhat?", "red", images=1), talk("Say blue.", "blue")
    mixed = tiny.logits(tiny.module, tiny.collate([without, with_picture]))
    alone = tiny.logits(tiny.module, tiny.collate([without]))
    assert torch.allclose(mixed[0, : alone.shape[1]], alone[0], **SAME)


def test_a_batch_without_any_picture_has_no_pixel_values(tiny: LlavaAssistant) -> None:
    assert "pixel_values" not in tiny.collate([talk("Say blue.", "blue")])


def test_padding_is_right_in_training_and_is_not_attended(tiny: LlavaAssistant) -> None:
    batch = tiny.collate([talk("Say blue.", "blue"), talk("Say something longer than that.", "blue and red")])
    length = int(batch["attention_mask"][0].sum())
    assert (batch["input_ids"][0, length:] == tiny.tokenizer.pad_token_id).all()
    assert (batch["labels"][0, length:] == -100).all()


def test_a_prompt_is_shown_with_its_pictures_as_numbers_of_tokens(tiny: LlavaAssistant) -> None:
    ids = tiny.collate([talk("<image>\nWhat is it? <image>", "red", images=2)])["input_ids"][0].tolist()
    tokens = tiny.dialogue.image_tokens
    expected = tiny.tokenizer.decode(ids).replace("<image>" * tokens, f"<{tokens} image tokens>")
    assert tiny.text(ids) == expected
    assert expected.count("image tokens>") == 2


def test_a_row_too_long_for_its_pictures_is_refused() -> None:
    config = LlavaConfig(kind="llava", model=str(TINY_BASE), dtype="float32", max_length=12)
    with pytest.raises(InputError, match="raise max_length"):
        assistants.build(config).collate([talk("<image>\nWhat?", "red", images=1)])


# The checkpoint's own processor is the oracle ---------------------------------------------------------------------


def test_prompts_are_those_of_the_stock_processor(tiny: LlavaAssistant, stock: Any) -> None:
    image, question = picture(), "What color is the circle?\nAnswer the question."
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = stock.apply_chat_template(turns, add_generation_prompt=True)
    expected = stock(images=[Image.open(io.BytesIO(image))], text=[text], return_tensors="pt")
    batch = tiny.collate([Sample("", "", (Message("user", f"<image>\n{question}"),), (image,), ("red",))])
    assert batch["input_ids"].tolist() == expected["input_ids"].tolist()
    assert torch.allclose(batch["pixel_values"], expected["pixel_values"], atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (48, 48), (20, 20), (40, 25), (9, 50)])
def test_the_fast_path_of_pictures_equals_the_stock_processor(stock: Any, size: tuple[int, int]) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    image, pictures = Image.fromarray(noise), Pictures(stock.image_processor, pad_to_square=True)
    slow = CLIPImageProcessorPil(**stock.image_processor.to_dict())
    expected = slow(images=[pad_to_square(image, pictures.fill)], return_tensors="pt")["pixel_values"]
    assert torch.allclose(pictures([encode_png(image)]), expected, atol=1e-5)


def test_padding_centres_the_picture_on_the_mean_colour(stock: Any) -> None:
    pictures = Pictures(stock.image_processor, pad_to_square=True)
    values = pictures([encode_png(Image.new("RGB", (32, 16), "white"))])[0]
    assert torch.allclose(values[:, 0], torch.zeros(3, 32), atol=0.01)
    assert torch.allclose(values[:, 16], torch.full((3, 32), (1 - 0.4) / 0.35), atol=1e-4)


# Loading and training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("revision", "asked"), [(None, "main"), ("v2", "v2")])
def test_a_model_of_the_hub_is_loaded_at_its_revision(
    monkeypatch: pytest.MonkeyPatch, revision: str | None, asked: str
) -> None:
    import transformers

    seen: list[tuple[str, str]] = []

    def asked_for(pretrained_model_name_or_path: str, revision: str, **settings: Any) -> None:
        seen.append((pretrained_model_name_or_path, revision))
        if "dtype" in settings:
            raise OSError

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", asked_for)
    monkeypatch.setattr(transformers.LlavaForConditionalGeneration, "from_pretrained", asked_for)
    with pytest.raises(InputError, match="cannot load"):
        assistants.build(LlavaConfig(kind="llava", model="me/mine", revision=revision))
    assert seen == [("me/mine", asked)] * 2


def test_memory_is_not_saved_unless_it_is_asked_for() -> None:
    assert [assistants.build(TinyConfig(), gradient_checkpointing=asked).module.is_gradient_checkpointing
            for asked in (False, True)] == [False, True]  # fmt: skip
    assert not assistants.build(TinyConfig()).module.is_gradient_checkpointing


def test_a_model_s_defaults_are_those_that_llava_was_trained_with() -> None:
    config = LlavaConfig(kind="llava", model="any")
    found = (config.dtype, config.max_length, config.pad_image_to_square, config.train_projector, config.revision)
    assert found == ("bfloat16", 2048, True, False, None)


def test_a_trained_projector_gets_a_gradient_from_a_batch_without_pictures() -> None:
    assistant = assistants.build(TinyConfig(train_projector=True))
    assistant.adapters.add("x", seed=0)
    assistant.logits(assistant.module, assistant.collate([talk("Say blue.", "blue")])).sum().backward()
    assert all(parameter.grad is not None for parameter in assistant.adapters.trainable().values())


def test_checkpointed_gradients_are_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        assistant = double(checkpointing=checkpointing)
        assistant.adapters.add("x", seed=0)
        assistant.module.train()
        batch = assistant.collate([talk("<image>\nWhat?", "red", images=1)])
        assistant.logits(assistant.module, batch).square().sum().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in assistant.adapters.trainable().values() if p.grad is not None])
        )
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-9)


def test_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"assistant\.model"):
        assistants.build(LlavaConfig(kind="llava", model="no/such-model"))


# Answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_does_not_depend_on_its_batch(tiny: LlavaAssistant) -> None:
    samples = [*generate(GeneratedSource("VQAv2", "test", 6, 0), 0, 6), talk("Repeat: red")]
    together = tiny.answer(samples, 12)
    assert together == [tiny.answer([sample], 12)[0] for sample in samples]


def test_the_answer_of_a_training_row_is_not_shown_to_the_model(tiny: LlavaAssistant) -> None:
    sample = next(generate(GeneratedSource("GQA", "train", 1, 0), 0, 1))
    asked = replace(sample, messages=sample.messages[:-1])
    assert tiny.answer([sample], 8) == tiny.answer([asked], 8)


@pytest.mark.parametrize("base", BASES.values())
def test_a_shipped_base_is_small(base: Path) -> None:
    assert sum(file.stat().st_size for file in base.iterdir()) < 3_000_000


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "processor_config.json"])
def test_the_shipped_bases_differ_by_their_weights_alone(name: str) -> None:
    assert (TINY_BASE / name).read_text() == (SHAPES_BASE / name).read_text()


def test_the_base_for_single_shapes_sees_those_that_the_other_confuses() -> None:
    scenes = [plain_scene(Random(f"unseen/{number}")) for number in range(100)]
    asked = [replace(talk("<image>\nDescribe the image."), images=(encode_png(s.image),)) for s in scenes]
    right = {}
    for base in BASES:
        answers = assistants.build(TinyConfig(base=base)).answer(asked, 12)
        right[base] = sum(s.things[0].shape in answer for s, answer in zip(scenes, answers, strict=True))
    assert right["scenes"] + 10 < right["shapes"]
    assert right["shapes"] > 85
