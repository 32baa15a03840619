"""Which tasks a stream has, and where their rows come from."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from lcia.config.instrdialog import InstrDialogConfig
from lcia.config.names import TaskName, TaskNames, check_distinct
from lcia.config.sections import Count, Section, Seed
from lcia.types import Format, InstructionRule, InstructionType

COIN_ORDER = ("ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCR-VQA")
UCIT_ORDER = ("ImageNet-R", "ArxivQA", "VizWiz", "IconQA", "CLEVR", "Flickr30k")
TRACE_ORDER = ("C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten")

# Not written while tasks are whole: what is stored stays valid.
Stretches: TypeAlias = Annotated[Count, Field(exclude_if=lambda value: value == 1)]


class MiniCoinConfig(Section):
    """Eight generated tasks in CoIN's formats, any size from a seed."""

    kind: Literal["minicoin"] = "minicoin"
    """Eight generated tasks in CoIN's formats."""
    tasks: TaskNames = COIN_ORDER
    """Which of the eight tasks, in the order of the stream."""
    instructions: InstructionType = "origin"
    """How questions say what kind of answer they want: CoIN's own line per kind of answer (`origin`), one line per task
    (`diverse`), ten paraphrases per task (`10type`).
    """
    train_size: Count = 800
    """Training rows of each task."""
    validation_size: Count = 100
    """Validation rows of each task."""
    test_size: Count = 100
    """Test rows of each task."""
    seed: Seed = 0
    """What the pictures and questions are drawn from."""
    stretches: Stretches = 1
    """Into how many short tasks each task is cut, which alternate in the stream: `GQA.1`, `VizWiz.1`, `GQA.2` ..."""


class CoinConfig(Section):
    """The eight tasks of CoIN from one root folder; image paths in the rows are relative to it.

    `annotations`, seen from the root, is the folder that holds <task>/train.json; with `instructions` it is the folder
    that holds Instructions, Instructions_Diverse and Instructions_10Type, of which that type's is read. `validation` is
    the name of a file beside train.json, which CoIN does not publish.
    """

    kind: Literal["coin"]
    """CoIN's files."""
    root: str
    """Folder or URL that the rows' image names start from."""
    annotations: str = ""
    """Seen from `root`, the folder of `<task>/train.json`; with `instructions`, the folder of the sets of
    annotations.
    """
    instructions: InstructionType | None = None
    """Which of `Instructions`, `Instructions_Diverse`, `Instructions_10Type` below `annotations` is read; null:
    `annotations` itself.
    """
    validation: str | None = None
    """Name of a validation file beside train.json; CoIN does not publish one."""
    tasks: TaskNames = COIN_ORDER
    """Which of the eight tasks, in the order of the stream."""
    max_samples: Count | None = None
    """Only the first so many rows of each split; null: all."""
    stretches: Stretches = 1
    """Into how many short tasks each task is cut, which alternate in the stream: `GQA.1`, `VizWiz.1`, `GQA.2` ..."""


class UcitConfig(Section):
    """The six tasks of UCIT in its authors' files (docs/benchmarks.md)."""

    kind: Literal["ucit"]
    """UCIT's files."""
    root: str
    """Folder or URL that holds both of the following."""
    annotations: str = "instructions"
    """Seen from `root`, the folder of `<task>/train.json` and the like."""
    images: str = "datasets"
    """Seen from `root`, the folder that the rows' image names start from."""
    tasks: TaskNames = UCIT_ORDER
    """Which of the six tasks, in the order of the stream."""
    max_samples: Count | None = None
    """Only the first so many rows of each split; null: all."""
    stretches: Stretches = 1
    """Into how many short tasks each task is cut, which alternate in the stream."""


class MllmClConfig(Section):
    """One of the two streams of MLLM-CL in its authors' files (docs/benchmarks.md)."""

    kind: Literal["mllm_cl"]
    """MLLM-CL's files."""
    root: str
    """Folder or URL that holds the folders of the tasks."""
    stream: Literal["domain", "ability"] = "domain"
    """Five domains (DCL), or four abilities (ACL)."""
    tasks: TaskNames | None = None
    """Which tasks of the stream, in its order; null: all."""
    max_samples: Count | None = None
    """Only the first so many rows of each split; null: all."""
    stretches: Stretches = 1
    """Into how many short tasks each task is cut, which alternate in the stream."""


class TraceConfig(Section):
    """The eight text tasks of TRACE in its authors' files (docs/benchmarks.md)."""

    kind: Literal["trace"]
    """TRACE's files."""
    root: str
    """Folder or URL that holds the folders of the tasks."""
    tasks: TaskNames = TRACE_ORDER
    """Which of the eight tasks, in the order of the stream."""
    max_samples: Count | None = None
    """Only the first so many rows of each split; null: all."""
    stretches: Stretches = 1
    """Into how many short tasks each task is cut, which alternate in the stream."""


ScorerName: TypeAlias = Literal[
    "exact", "multiple_choice", "soft_accuracy", "contains", "mentions", "iou",
    "rouge_l", "anls", "similarity", "bleu_4", "cider",
]  # fmt: skip


class CustomTask(Section):
    """One task of your own; paths are relative to the benchmark's root unless absolute or URLs."""

    name: TaskName
    """What orders, tables and files call the task: letters, digits, spaces and . _ - + ( ) & , - at most
    80 characters.
    """
    train: str | None = None
    """Training rows: a file, a folder or a pattern such as `part-*.json`, seen from the benchmark's `root` unless
    absolute or a URL; null: the task is evaluated only (`evaluation.general`).
    """
    test: str
    """Test rows, named as those of `train`."""
    validation: str | None = None
    """Validation rows, named as those of `train`; null: none, or drawn by `validation_share`."""
    image_root: str = ""
    """Folder that image names start from, seen from `root`; empty: `root`; without both, the folder of the rows."""
    format: Format = "llava"
    """How records lie in files: LLaVA's JSON, chat JSON lines, JSON of `prompt` and `answer`, Parquet or WebDataset
    tars.
    """
    instruction: InstructionRule = "last_line"
    """Which part of a question is its instruction, which grouping compares."""
    scorer: ScorerName = "exact"
    """How an answer is scored against the references."""
    max_samples: Count | None = None
    """Only the first so many rows of each split; null: all."""


def _distinct(tasks: tuple[CustomTask, ...]) -> tuple[CustomTask, ...]:
    check_distinct([task.name for task in tasks])
    return tasks


class CustomConfig(Section):
    """Anyone's stream, without code.

    `validation_share` of the training pictures of every task without a validation file is held out, drawn by `seed`.
    """

    kind: Literal["custom"]
    """Tasks of your own."""
    name: str = "custom"
    """What the report calls the benchmark."""
    root: str = ""
    """Folder or URL that the tasks' paths start from; empty: the working folder."""
    tasks: Annotated[tuple[CustomTask, ...], AfterValidator(_distinct)]
    """The tasks, in the order of the stream."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training pictures held out as validation rows in every task without a validation file;
    null: none.
    """
    seed: Seed = 0
    """What that draw follows from."""
    stretches: Stretches = 1
    """Into how many short tasks each task is cut, which alternate in the stream: `GQA.1`, `VizWiz.1`, `GQA.2` ..."""


BenchmarkConfig = Annotated[
    MiniCoinConfig | CoinConfig | UcitConfig | MllmClConfig | TraceConfig | InstrDialogConfig | CustomConfig,
    Field(discriminator="kind"),
]
