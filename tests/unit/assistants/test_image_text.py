"""Models of images and text of several families through one assistant, each as a small checkpoint made on the spot."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from PIL import Image

from lcia import assistants
from lcia.assistants.image_text import ImageTextAssistant
from lcia.config.assistants import LoraConfig
from lcia.config.image_text import ImageTextConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.data.minicoin.drawing import encode_png, plain_scene
from lcia.local import LocalExecutor
from lcia.models.preflight import check_base
from lcia.run import run
from lcia.store.folders import Store
from lcia.training.train import answer_loss
from lcia.types import InputError, Message, Sample
from tests.families import FAMILIES

ENDS = {"idefics": "<end_of_utterance>"}
"""What ends a turn of a family; of the others <|im_end|>."""
SIZES = [(40, 25), (16, 32), (9, 20), (64, 64)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in FAMILIES.items()}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def built(folder: Path, **keys: Any) -> ImageTextAssistant:
    config = ImageTextConfig(kind="image_text", model=str(folder), **{"dtype": "float32", **keys})
    assistant = assistants.build(config, LoraConfig(target_modules=config.linear_layers))
    assert isinstance(assistant, ImageTextAssistant)
    return assistant


@pytest.fixture(scope="module")
def assistant(folders: dict[str, Path], family: str) -> ImageTextAssistant:
    """In float64, of which no comparison depends on a processor's roundings."""
    loaded = built(folders[family])
    loaded.module.double()
    loaded.dtype = torch.float64
    loaded.adapters.add("a", seed=1)
    return loaded


def picture(number: int) -> bytes:
    return encode_png(plain_scene(Random(number), 32).image.resize(SIZES[number % len(SIZES)]))


def talk(*lines: str) -> Sample:
    messages = tuple(Message("assistant" if i % 2 else "user", line) for i, line in enumerate(lines))
    images = sum(line.count("<image>") for line in lines)
    return Sample("", "", messages, tuple(picture(i) for i in range(images)), (lines[-1],))


def trained_text(assistant: ImageTextAssistant, sample: Sample) -> str:
    labels = assistant.collate([sample])["labels"][0]
    return str(assistant.tokenizer.decode(labels[labels != -100]))


ROWS = {
    "one picture": talk("<image>\nWhat color is it?", "red circle"),
    "no picture": talk("Say blue.", "blue"),
    "several pictures": talk("<image>\n<image>\nAre they the same? <image>", "no"),
    "several turns": talk(
        "<image>\nWhat is it?", "a box", "And <image>?", "yes", "Sure?", "yes", "<image>\nHere?", "no"
    ),
}


# Labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ROWS)
def test_exactly_the_answers_and_their_ends_are_trained(assistant: ImageTextAssistant, family: str, kind: str) -> None:
    end = ENDS.get(family, "<|im_end|>")
    answers = [m.content for m in ROWS[kind].messages if m.role == "assistant"]
    # Some templates put a space before an answer.
    expected = "".join(f"{answer}{end}" for answer in answers)
    assert trained_text(assistant, ROWS[kind]).replace(" ", "") == expected.replace(" ", "")


def test_tokens_are_those_of_the_processor_s_own_call(assistant: ImageTextAssistant, family: str) -> None:
    sample = ROWS["several pictures"]
    content = [{"type": "image"}] * 2 + [{"type": "text", "text": "Are they the same?"}, {"type": "image"}]
    turns = [{"role": "user", "content": content}]
    text = assistant.processor.apply_chat_template(turns, add_generation_prompt=True)
    images = [Image.open(io.BytesIO(image)).convert("RGB") for image in sample.images]
    expected = assistant.processor(text=[text], images=[images], return_tensors="pt")
    batch = assistant._batch([assistant._row(sample, sample.messages[:-1])], left=True)
    assert batch.keys() - {"labels"} == expected.keys()
    for key, value in expected.items():
        assert torch.equal(batch[key], value), key


def test_the_number_of_a_picture_s_tokens_follows_from_its_sides(assistant: ImageTextAssistant) -> None:
    images = [encode_png(Image.new("RGB", size)) for size in [(16, 16), (64, 16)]]
    messages = (Message("user", "<image>\nWhat?"), Message("assistant", "red"))
    rows = [Sample("", "", messages, (image,), ("red",)) for image in images]
    square, wide = (assistant.collate([row])["input_ids"].shape[1] for row in rows)
    assert square != wide


def test_a_picture_s_tokens_are_shown_as_their_number(assistant: ImageTextAssistant) -> None:
    assert "image tokens>" in assistant.text(assistant.collate([ROWS["one picture"]])["input_ids"][0].tolist())


def test_a_row_too_long_for_its_pictures_is_refused(folders: dict[str, Path], family: str) -> None:
    with pytest.raises(InputError, match="raise max_length"):
        built(folders[family], max_length=8).collate([ROWS["one picture"]])


def test_a_long_answer_is_cut_at_its_end(folders: dict[str, Path], family: str) -> None:
    batch = built(folders[family], max_length=100).collate([talk("<image>\nWhat?", "red " * 100)])
    assert batch["input_ids"].shape[1] == batch["labels"].shape[1] == 100


def test_text_that_looks_like_a_picture_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="refuses a row"):
        built(folders["qwen"]).collate([talk("<|image_pad|> What?", "red")])


# Batches ----------------------------------------------------------------------------------------------------------


def test_logits_do_not_depend_on_the_batch(assistant: ImageTextAssistant) -> None:
    together = assistant.logits(assistant.module, assistant.collate(list(ROWS.values())))
    for k, row in enumerate(ROWS.values()):
        alone = assistant.logits(assistant.module, assistant.collate([row]))[0]
        assert torch.allclose(together[k, : len(alone)], alone, rtol=0, atol=1e-9)


def test_an_answer_does_not_depend_on_its_batch(assistant: ImageTextAssistant) -> None:
    samples = list(ROWS.values())
    together = assistant.answer(samples, 8)
    assert together == [assistant.answer([sample], 8)[0] for sample in samples]
    assert any(together)


def test_pictures_change_the_answer_s_logits(assistant: ImageTextAssistant) -> None:
    messages = ROWS["one picture"].messages
    white, black = (encode_png(Image.new("RGB", (24, 24), color)) for color in ("white", "black"))
    found = [assistant.logits(assistant.module, assistant.collate([Sample("", "", messages, (i,), ("",))]))[0, -1]
             for i in (white, black)]  # fmt: skip
    assert not torch.allclose(*found)


# Tuning -----------------------------------------------------------------------------------------------------------


def test_the_default_layers_are_all_linear_layers_of_the_language_model_and_no_others(
    assistant: ImageTextAssistant,
) -> None:
    tuned = {layer.name for layer in assistant.adapters.layers()}
    decoder = assistant.adapters.base.get_decoder()  # type: ignore[attr-defined]
    expected = {name for name, module in decoder.named_modules() if isinstance(module, torch.nn.Linear)}
    inside = {name.removesuffix(".base_layer") for name in expected if "lora_" not in name}
    assert {name.rpartition("_model.")[2] for name in tuned} == inside
    assert not [name for name in tuned if "vision" in name or "visual" in name]


@pytest.mark.parametrize("projector", [False, True])
def test_a_step_changes_the_loss_and_only_what_is_trained(
    folders: dict[str, Path], family: str, projector: bool
) -> None:
    assistant = built(folders[family], train_projector=projector)
    assistant.adapters.add("a", seed=0)
    parameters = assistant.adapters.trainable()
    assert any(assistant.in_projector(name) for name in parameters) == projector
    batches = [assistant.collate([ROWS["one picture"]]), assistant.collate([ROWS["no picture"]])]

    def losses() -> list[torch.Tensor]:
        return [answer_loss(assistant.logits(assistant.module, batch), batch["labels"]) for batch in batches]

    before = losses()
    for loss in before:
        for parameter in parameters.values():
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        # Also without a picture: workers that share gradients all have the same ones.
        assert all(p.grad is not None for name, p in parameters.items() if "lora_A" in name or projector)
    torch.optim.SGD(parameters.values(), lr=0.1).step()
    assert losses()[1].item() < before[1].item()


def test_the_number_format_of_the_base_is_that_of_the_configuration(folders: dict[str, Path], family: str) -> None:
    assistant = built(folders[family], dtype="bfloat16")
    assert assistant.logits(assistant.module, assistant.collate([ROWS["one picture"]])).dtype == torch.bfloat16


def test_a_stream_of_three_tasks_runs_through(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    values = {
        "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA", "GQA"], "train_size": 8, "test_size": 2},
        "assistant": {"kind": "image_text", "model": str(folders[family]), "dtype": "float32", "train_projector": True},
        "lora": {"r": 2},
        "training": {"max_steps": 2, "batch_size": 4},
        "strategy": {"kind": "kronecker", "rows": 2, "k": 2},
        "evaluation": {"max_new_tokens": 2},
    }
    config = parse(RunConfig, values, "test")
    check_base(config.assistant, config.lora)
    (outcome,) = run([config], LocalExecutor(Store(str(tmp_path))))
    assert outcome.matrix.scores.shape == (3, 3)


def test_the_processor_is_told_how_large_pictures_may_be(folders: dict[str, Path]) -> None:
    tokens = [built(folders["qwen"], images_kwargs=given).collate([ROWS["one picture"]])["input_ids"].shape[1]
              for given in ({}, {"max_pixels": 256})]  # fmt: skip
    assert tokens[1] < tokens[0]


# What is refused --------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_of_images_and_text_is_refused(tmp_path: Path) -> None:
    import transformers as t

    t.LlamaForCausalLM(t.LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                                     vocab_size=8)).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(InputError, match=r"assistant\.model"):
        built(tmp_path)


def test_a_model_without_a_projector_by_a_known_name_is_told(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcia.assistants.image_text.PROJECTORS", ("bridge",))
    with pytest.raises(InputError, match="no module called bridge"):
        built(folders["internvl"], train_projector=True)


def test_weights_as_pickle_are_refused_before_anything_is_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["internvl"].iterdir():
        name = "pytorch_model.bin" if file.suffix == ".safetensors" else file.name
        (tmp_path / name).write_bytes(file.read_bytes())
    config = ImageTextConfig(kind="image_text", model=str(tmp_path))
    with pytest.raises(InputError, match="can run code"):
        check_base(config, LoraConfig())
    with pytest.raises(InputError, match="safetensors"):
        built(tmp_path)
