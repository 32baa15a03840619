"""The project's nouns: plain frozen values that every layer shares. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, TypeAlias

IMAGE_TOKEN = "<image>"
"""Marks, inside a message, the place of the sample's next image."""

Split: TypeAlias = Literal["train", "validation", "test"]
Format: TypeAlias = Literal["llava", "chat", "prompt", "parquet", "webdataset"]
InstructionRule: TypeAlias = Literal["last_line", "first_line", "before_colon", "after_image", "definition", "whole"]
InstructionType: TypeAlias = Literal["origin", "diverse", "10type"]
Parallelism: TypeAlias = Literal["ddp", "fsdp2"]
"""What each training worker holds: the whole model, or a shard of it."""
Scorer: TypeAlias = Callable[[str, Sequence[str]], float]
"""(prediction, references) -> score in [0, 1]."""


@dataclass(frozen=True, slots=True)
class CorpusScorer:
    """A scorer that has to see the references of all samples first, such as CIDEr with its document frequencies."""

    fit: Callable[[Sequence[Sequence[str]]], Scorer]
    """The references of every sample of the task -> the scorer of one of them."""


TaskScorer: TypeAlias = Scorer | CorpusScorer


class InputError(ValueError):
    """What the user gave cannot work; the message says what to do. The command line exits with code 2."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `content` holds IMAGE_TOKEN where an image stands. A system turn comes first or not at all."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a task after validation.

    A training sample ends with an assistant turn; a test sample ends with a user turn and its answers are `references`
    (for a training sample `references` holds the last assistant turn). `images` are encoded files (PNG, JPEG ...), as
    many as there are IMAGE_TOKENs in the messages. `instruction` is what grouping compares.
    """

    id: str
    instruction: str
    messages: tuple[Message, ...]
    images: tuple[bytes, ...]
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """One side of a source cut in two by a draw: the `fraction` that is held out, or all the rest.

    The draw is by picture, so rows about one picture stay together; rows without a picture are drawn by their id.
    """

    fraction: float
    seed: int
    held_out: bool


@dataclass(frozen=True, slots=True)
class FileSource:
    """Rows in files. `path` (file, folder or pattern) and `image_root` are local paths or fsspec/pyarrow URLs.

    `format` names the reader; `split` train: samples end with their answer, else with the question. With a `share` the
    source is only this side of its files. `numbered`: rows are called by their place in their file, because the ids
    that they bring are of pictures and repeat. `captions`: a file of COCO's captions; those of a row's picture are its
    references.
    """

    path: str
    format: Format
    split: Split = "train"
    image_root: str = ""
    needs_answer: bool = True
    share: Share | None = None
    numbered: bool = False
    captions: str = ""

    @property
    def known_rows(self) -> int | None:
        """None: how many rows there are is known when they have been read."""
        return None

    @property
    def identifying(self) -> dict[str, object]:
        """What tells its rows from others', but for what lies in the files: of these the names, because rows without an
        id are called after them. What was added later is there only where it says something, so that older results stay
        valid."""
        here = replace(self, path=_file_name(self.path), image_root="", captions=_file_name(self.captions))
        later = {"numbered": self.numbered, "captions": here.captions}
        return {name: value for name, value in asdict(here).items() if later.get(name, True)}


@dataclass(frozen=True, slots=True)
class GeneratedSource:
    """Rows that MiniCoIN draws: the same seed gives the same rows, whatever the block size."""

    task: str
    split: Split
    rows: int
    seed: int
    instructions: InstructionType = "origin"

    @property
    def known_rows(self) -> int:
        """How many rows there are."""
        return self.rows

    @property
    def identifying(self) -> dict[str, object]:
        """What tells its rows from others'."""
        return asdict(self)


def _file_name(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class InstancesSource:
    """The instances of one task file of Super-NaturalInstructions that are dealt out to one split.

    `path` is a local path or an fsspec/pyarrow URL; `sizes` are the rows that test, validation and train ask for, in
    which order they are served; `seed` is what the rows are drawn by (None: the file's order). `examples`: how many of
    the task's positive examples stand in every question.
    """

    path: str
    split: Split
    sizes: tuple[int, int, int]
    seed: int | None
    examples: int

    @property
    def known_rows(self) -> int | None:
        """None: a file may hold fewer than it is asked for."""
        return None

    @property
    def identifying(self) -> dict[str, object]:
        """What tells its rows from others', but for what lies in the file; rows without an id are called after it."""
        return asdict(replace(self, path=_file_name(self.path)))


Source: TypeAlias = FileSource | GeneratedSource | InstancesSource


@dataclass(frozen=True, slots=True)
class Origin:
    """Where published data comes from, and under which licence."""

    source: str
    licence: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """One of `of` short tasks that a task is cut into: its row `number` (from 0), and every `of`-th row from there."""

    number: int
    of: int

    def name_of(self, task: str) -> str:
        """What the short task is called; people count from 1."""
        return f"{task}.{self.number + 1}"


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task of a benchmark. `strict` is the right scorer, `legacy` does as CoIN's scripts do (docs/method.md 6).

    `stretch`: of the first `max_samples` rows of each split, only those of this stretch. `annotations`, `images`: where
    the files of a published task come from. A task without `train` can only be evaluated.
    """

    name: str
    train: Source | None
    test: Source
    validation: Source | None
    instruction: InstructionRule
    strict: TaskScorer
    legacy: TaskScorer
    max_samples: int | None = None
    stretch: Stretch | None = None
    annotations: Origin | None = None
    images: Origin | None = None

    @property
    def sources(self) -> dict[Split, Source | None]:
        """What each split is read from; None where the task has none."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def only(self, stretch: Stretch) -> TaskSpec:
        """The task with the rows of this stretch alone."""
        return replace(self, name=stretch.name_of(self.name), stretch=stretch)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A stream of tasks by name, with the named orders that it has beside "given" and "reverse".

    `stretches`: into how many short tasks each of `tasks` is cut, which the stream then consists of; 1: it is not cut.
    `general`: tasks that are not of the stream and only evaluated; they are not cut.
    """

    name: str
    tasks: tuple[TaskSpec, ...]
    orders: tuple[tuple[str, tuple[str, ...]], ...] = ()
    stretches: int = 1
    general: tuple[TaskSpec, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    def order(self, wanted: str | Sequence[str] | None) -> tuple[str, ...]:
        """The stream: `order_of_tasks`; of tasks that are cut all first stretches in that order, then all second ones,
        and so on.

        Raises:
            InputError: as order_of_tasks.
        """
        tasks = self.order_of_tasks(wanted)
        return tuple(cut.name_of(task) for cut in self._cuts for task in tasks) if self._cuts else tasks

    @property
    def _cuts(self) -> tuple[Stretch, ...]:
        return tuple(Stretch(number, self.stretches) for number in range(self.stretches)) if self.stretches > 1 else ()

    def order_of_tasks(self, wanted: str | Sequence[str] | None) -> tuple[str, ...]:
        """The tasks in the order of that name, or as they are listed; None: as the benchmark has them.

        Raises:
            InputError: there is no order of that name, or a listed task is not there.
        """
        if wanted is None or isinstance(wanted, str):
            return self._named(wanted or "given")
        names = self.names
        if held_out := [task for task in wanted if task in {spec.name for spec in self.general}]:
            raise InputError(f"order names {', '.join(held_out)}, which evaluation.general says is never trained")
        if unknown := [task for task in wanted if task not in names]:
            raise InputError(
                f"order names {', '.join(unknown)}, which {self.name} does not have; it has {', '.join(names)}"
            )
        return tuple(wanted)

    def _named(self, name: str) -> tuple[str, ...]:
        named = {"given": self.names, "reverse": self.names[::-1], **dict(self.orders)}
        if name not in named:
            raise InputError(f"{self.name} has no order {name!r}; it has {', '.join(named)}, or list its tasks")
        return named[name]

    def __getitem__(self, name: str) -> TaskSpec:
        """A task of the stream, or one that is only evaluated."""
        for task in self.general:
            if task.name == name:
                return task
        for task in self.tasks:
            for spec in [task.only(cut) for cut in self._cuts] or [task]:
                if spec.name == name:
                    return spec
        raise InputError(f"benchmark {self.name} has no task {name!r}; it has {', '.join(self.order(None))}")
