"""The lines of docs/adapters.md load the adapter of a stage in stock peft, and answer as the stage's own model does."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import LlavaForConditionalGeneration

from lcia import assistants
from lcia.assistants.llava import LlavaAssistant
from lcia.config.assistants import LlavaConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.data.rows import Rows
from lcia.local import LocalExecutor
from lcia.run import prepare
from lcia.store.folders import Store
from lcia.training.train import TrainOptions
from lcia.types import Sample

SETTINGS: list[dict[str, Any]] = [
    {"kind": "tiny"},
    {"kind": "tiny", "base": "shapes"},
    {"kind": "tiny", "train_projector": True},
]


class Trained(NamedTuple):
    """An adapter's folder, the assistant with it, and samples of its task's test split."""

    adapter: Path
    assistant: LlavaAssistant
    samples: list[Sample]

    @property
    def base(self) -> str:
        return str(self.assistant.dialogue.processor.tokenizer.name_or_path)


def lines(root: Path, heading: str) -> str:
    found = re.search(rf"## {heading}\n.*?```python\n(.*?)```", (root / "docs" / "adapters.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def run(code: str, **names: Any) -> dict[str, Any]:
    with torch.inference_mode():
        exec(compile(code, "docs/adapters.md", "exec"), names)
    return names


def question(sample: Sample) -> str:
    return sample.messages[0].content.replace("<image>", "").strip()


def picture(sample: Sample) -> Image.Image:
    return Image.open(io.BytesIO(sample.images[0])).convert("RGB")


@pytest.fixture(scope="module", params=SETTINGS, ids=["scenes", "shapes", "projector"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    store = Store(str(tmp_path_factory.mktemp("store")))
    given = {
        "benchmark": {"kind": "minicoin", "tasks": ["VQAv2"], "train_size": 64, "test_size": 6},
        "training": {"max_steps": 30, "batch_size": 16},
        "grouping": {"enabled": False},
        "assistant": request.param,
    }
    executor = LocalExecutor(store, TrainOptions())
    [prepared] = prepare([parse(RunConfig, given, "test")], executor)
    [stage], [asked] = prepared.plan.trains, prepared.plan.evals
    executor.train_and_evaluate([stage], [])
    assistant = assistants.build(stage.assistant)
    assistant.adapters.load("a", store.fetch(stage.key))
    return Trained(store.fetch(stage.key), assistant, Rows([store.fetch(asked.shards)]).take(range(6)))


def test_the_ten_lines_answer_as_the_run_did(root: Path, trained: Trained) -> None:
    code = lines(root, "On the tiny base")
    if "shapes" in trained.base:
        code = code.replace('BASES["scenes"]', 'BASES["shapes"]')
    found = [
        run(code, adapter=trained.adapter, picture=picture(sample), question=question(sample))["answer"]
        for sample in trained.samples
    ]
    assert found == trained.assistant.answer(trained.samples, 32)


def test_the_answers_are_those_of_the_adapter(trained: Trained) -> None:
    """Else the other tests would pass with lines that load no adapter."""
    bare = assistants.build(LlavaConfig(kind="llava", model=trained.base, dtype="float32", max_length=512))
    assert trained.assistant.answer(trained.samples, 32) != bare.answer(trained.samples, 32)


def test_a_picture_that_is_not_square_is_padded_as_in_the_run(root: Path, trained: Trained) -> None:
    wide, stream = Image.new("RGB", (48, 27), "red"), io.BytesIO()
    processor = trained.assistant.dialogue.processor
    square = run(lines(root, "On a base of your own"), picture=wide, processor=processor)["square"]
    wide.save(stream, "PNG")
    expected = trained.assistant.pictures([stream.getvalue()])
    found = processor.image_processor(images=[square], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)  # one step of 255, where resizing rounds


def test_what_is_merged_is_a_plain_checkpoint_with_the_same_answers(
    root: Path, trained: Trained, tmp_path: Path
) -> None:
    plain = LlavaForConditionalGeneration.from_pretrained(trained.base)
    model = PeftModel.from_pretrained(plain, trained.adapter)
    processor = trained.assistant.dialogue.processor
    run(lines(root, "In a server"), model=model, processor=processor, folder=str(tmp_path))
    merged = assistants.build(LlavaConfig(kind="llava", model=str(tmp_path), dtype="float32", max_length=512))
    assert merged.answer(trained.samples, 32) == trained.assistant.answer(trained.samples, 32)
