"""Rows of MiniCoIN: each on its own, from its number alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from random import Random

from lcia.benchmarks.coin import TASKS
from lcia.benchmarks.minicoin import check_task
from lcia.data.formats import Chunk, numbered_chunks
from lcia.data.images import check_image
from lcia.data.minicoin.drawing import encode_png
from lcia.data.minicoin.instructions import DIVERSE, ORIGIN, SHORT, TEN
from lcia.data.minicoin.questions import DRAWINGS, Question
from lcia.data.records import Checked, check_messages, instruction_of
from lcia.types import IMAGE_TOKEN, GeneratedSource, InstructionRule, InstructionType, Message, Sample

VERSION = 2
"""Goes up whenever a row of some seed changes, so that stored rows of the old kind are not taken for new ones."""


@dataclass(frozen=True, slots=True)
class MiniCoinRows:
    """The SourceRows of MiniCoIN: nothing is read, and every row is good."""

    source: GeneratedSource

    def chunks(self) -> Iterator[Chunk]:
        return numbered_chunks(f"generated:{self.source.task}/{self.source.split}", self.source.rows)

    def check(self, chunk: Chunk, instruction: InstructionRule, max_pixels: int) -> Iterator[Checked]:
        """The instruction is the task's own.

        Raises:
            RowError: a picture is larger than `max_pixels`.
        """
        drawn = generate(self.source, chunk.start + chunk.skip, chunk.start + chunk.rows, chunk.step)
        for number, sample in zip(count(chunk.first + chunk.skip, chunk.step), drawn, strict=False):
            check_messages(sample.messages, len(sample.images))
            for image, data in enumerate(sample.images):
                check_image(data, f"{sample.id}#{image}", max_pixels)
            yield number, sample

    def identity(self) -> Iterator[str]:
        yield json.dumps([asdict(self.source), VERSION], sort_keys=True)


@dataclass(frozen=True, slots=True)
class Row:
    """A question with the words it is put in; `prompt` holds no image token."""

    id: str
    question: Question
    prompt: str


def generate(source: GeneratedSource, start: int, stop: int, step: int = 1) -> Iterator[Sample]:
    """Rows start..stop-1 of a source; a row depends on its number alone, so blocks may be cut anywhere."""
    check_task(source.task)
    for i in range(start, min(stop, source.rows), step):
        row = draw(source, i)
        asked = Message("user", f"{IMAGE_TOKEN}\n{row.prompt}")
        answer = row.question.answer
        messages = (asked, Message("assistant", answer)) if source.split == "train" else (asked,)
        instruction = instruction_of(asked.content, TASKS[source.task].instruction)
        yield Sample(row.id, instruction, messages, (encode_png(row.question.image),), (answer,))


def draw(source: GeneratedSource, i: int) -> Row:
    """Row i of a source."""
    random = Random(f"{source.task}/{source.split}/{source.seed}/{i}")
    question = DRAWINGS[source.task](random, source.split)
    instruction = random.choice(_templates(source.instructions)[source.task])
    return Row(f"{source.task}-{source.split}-{i}", question, _prompt(source.task, question.text, instruction))


def _templates(kind: InstructionType) -> Mapping[str, tuple[str, ...]]:
    return {"origin": ORIGIN, "diverse": DIVERSE, "10type": TEN}[kind]


def _prompt(task: str, text: str, instruction: str) -> str:
    """The words of a question, laid out so that the task's rule finds the instruction in them."""
    match TASKS[task].instruction:
        case "after_image":
            return f"{instruction}\n{SHORT}"
        case "before_colon":
            return f"{instruction}: {text}"
        case _:
            return f"{text}\n{instruction}"
