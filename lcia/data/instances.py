"""Rows in task files of Super-NaturalInstructions, dealt out to the splits and put into the words of Tk-Instruct."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lcia.addresses import anchored
from lcia.data.filesystems import digest_of, explained, open_buffered, shown
from lcia.data.formats import Chunk, numbered_chunks, parse, stem
from lcia.data.records import (
    Checked,
    Defect,
    RowError,
    answered,
    check_messages,
    check_storable,
    draft,
    first_question,
    instruction_of,
    record_id,
)
from lcia.types import InputError, InstancesSource, InstructionRule, Sample, Split

VERSION = 1
"""Goes up whenever an instance is read in another way, so that stored rows of the old way are not taken for new."""

SERVED: tuple[Split, ...] = ("test", "validation", "train")
"""The splits in the order in which rows are dealt out to them."""


@dataclass(frozen=True, slots=True)
class TaskFile:
    """What a task file says of its task, and its instances as they lie in it."""

    definition: str
    examples: tuple[tuple[str, str], ...]
    instances: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class InstanceRows:
    """The SourceRows of a task file, which is read as a whole: the largest ones have some megabytes."""

    source: InstancesSource

    @classmethod
    def of(cls, source: InstancesSource) -> InstanceRows:
        """With an absolute path."""
        return cls(replace(source, path=anchored(source.path)))

    def chunks(self) -> Iterator[Chunk]:
        """Raises InputError where the splits before this one have taken all instances."""
        instances = read_task(self.source.path).instances
        rows = len(dealt(instances, self.source))
        if not rows:
            raise InputError(
                f"{shown(self.source.path)} has {len(instances)} instances, of which none is left for "
                f"{self.source.split}: lower benchmark.test_size or benchmark.validation_size"
            )
        return numbered_chunks(self.source.path, rows)

    def check(self, chunk: Chunk, instruction: InstructionRule, max_pixels: int) -> Iterator[Checked]:
        task = read_task(chunk.file)
        places = dealt(task.instances, self.source)[chunk.start : chunk.start + chunk.rows]
        for place in places[chunk.skip :: chunk.step]:
            fallback = f"{stem(chunk.file)}-{place + 1}"
            yield place + 1, self._sample_or_defect(task, place, instruction, fallback)

    def identity(self) -> Iterator[str]:
        yield f"{VERSION}\0{digest_of(self.source.path)}"

    def _sample_or_defect(
        self, task: TaskFile, place: int, instruction: InstructionRule, fallback: str
    ) -> Sample | Defect:
        instance = task.instances[place]
        try:
            found = draft(as_chat(task, instance, self.source.examples))
            messages, references = answered(found, self.source.split == "train", needs_answer=True)
            check_messages(messages, images=0)
            check_storable(found.id or "", *references)
        except RowError as error:
            return Defect(self.source.path, place + 1, fallback, error.reason, error.message)
        cut = instruction_of(first_question(messages), instruction)
        return Sample(found.id or fallback, cut, messages, (), references)


def read_task(path: str) -> TaskFile:
    """Raises InputError where the file is not there, or not a task file."""
    with explained(path), open_buffered(path) as stream:
        task = parse(stream.read())
    if not isinstance(task, Mapping) or not isinstance(task.get("Instances"), list):
        raise InputError(f"{shown(path)} is not a task file of Super-NaturalInstructions: it has no list of Instances")
    try:
        definition = " ".join(_first_text(task["Definition"]).split())
        examples = tuple((str(one["input"]), _first_text(one["output"])) for one in task.get("Positive Examples", []))
    except (KeyError, TypeError, IndexError):
        raise InputError(
            f"{shown(path)} is not a task file of Super-NaturalInstructions: its Definition or an example has no text"
        ) from None
    return TaskFile(definition, examples, tuple(task["Instances"]))


def _first_text(value: Any) -> str:
    """Of a list of texts the first; older files have the text alone."""
    text = value if isinstance(value, str) else value[0]
    if not isinstance(text, str) or not text.strip():
        raise TypeError("not a text")
    return text


def dealt(instances: Sequence[Any], source: InstancesSource) -> list[int]:
    """The places of the instances that the source's split gets, of 0, 1, ... in the file."""
    order = list(range(len(instances)))
    if source.seed is not None:
        order.sort(key=lambda place: _draw(source.seed, instances[place], place))
    at = SERVED.index(source.split)
    start = sum(source.sizes[:at])
    return order[start : start + source.sizes[at]]


def _draw(seed: int | None, instance: Any, place: int) -> bytes:
    """Follows from the seed and the id, wherever the instance stands in its file."""
    name = instance.get("id") if isinstance(instance, Mapping) else None
    return hashlib.blake2b(f"{seed}\0{name or place}".encode("utf-8", "replace"), digest_size=8).digest()


def as_chat(task: TaskFile, instance: Any, examples: int) -> dict[str, Any]:
    """The instance as a chat record; raises RowError where it has no input, or no list of outputs."""
    if not isinstance(instance, Mapping):
        raise RowError("bad_field", f"an instance is an object with keys, not {type(instance).__name__}")
    question, outputs = instance.get("input"), instance.get("output")
    if not isinstance(question, str) or not isinstance(outputs, str | list):
        raise RowError("bad_field", "an instance needs the text `input` and the list of texts `output`")
    if not question.strip():
        raise RowError("empty_question", "the instance's input is empty")
    turn = {"role": "user", "content": asked(task, question, examples)}
    return {"id": record_id(instance), "messages": [turn], "answers": outputs}


def asked(task: TaskFile, question: str, examples: int) -> str:
    """Definition, positive examples and the instance's input, laid out as Tk-Instruct does (Wang et al. 2022)."""
    parts = [f"Definition: {task.definition}"]
    for number, (given, answer) in enumerate(task.examples[:examples], 1):
        parts.append(f"Positive Example {number} -\nInput: {given.strip()}\nOutput: {answer.strip()}")
    parts.append(f"Now complete the following example -\nInput: {question.strip()}\nOutput:")
    return "\n\n".join(parts)
