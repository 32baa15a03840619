"""What is looked at beside the stream: tasks that are never trained, and commands of other evaluation suites."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator

from lcia.config.sections import Name, Section

ADAPTER, OUTPUT = "{adapter}", "{output}"


class ExternalConfig(Section):
    """A command that judges an adapter, such as lmms-eval or VLMEvalKit (docs/benchmarks.md). No shell reads it.

    In its words `{adapter}` stands for the folder of a stock PEFT adapter, `{model}` and `{revision}` for the base as
    the run names it, `{output}` for the place where the command leaves its results: a JSON file, or a folder with one
    file that ends in `results.json`. Tokens and keys belong into the environment.
    """

    command: Annotated[tuple[Name, ...], Field(min_length=1)]
    """The program and its arguments; `{adapter}` and `{output}` must be among them."""
    untuned: tuple[Name, ...] = ()
    """The same for the base before any training, without `{adapter}`; empty: the base is not judged."""
    every: Literal["stage", "end"] = "stage"
    """Judge the adapter of each task right after its training, or the last one only."""
    metrics: tuple[str, ...] = ()
    """Which figures of the JSON are kept, each as the path to it with `/` between the keys; empty: all numbers."""

    @field_validator("command", "untuned")
    @classmethod
    def _knows_where_to_write(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if words and not _holds(words, OUTPUT):
            raise ValueError(f"no word holds {OUTPUT}: the command would not know where its results are read")
        return words

    @field_validator("command")
    @classmethod
    def _knows_its_adapter(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if not _holds(words, ADAPTER):
            raise ValueError(f"no word holds {ADAPTER}: the command would judge the same model each time")
        return words

    @field_validator("untuned")
    @classmethod
    def _has_no_adapter(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if _holds(words, ADAPTER):
            raise ValueError(f"before any training there is no {ADAPTER}")
        return words


def _holds(words: Iterable[str], placeholder: str) -> bool:
    return any(placeholder in word for word in words)
