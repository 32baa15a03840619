"""What the broker hands out to servers, and what it answers where it has nothing for them; made without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, TypeVar

from lcia.protocols import Progress
from lcia.stage import Asked, TrainStage

BUILDS_ON_IT = ""
"""The error of a stage that needs the result of one that failed."""

ServerKind: TypeAlias = Literal["train", "eval"]
"""Training worker groups and evaluation actors; the stages that they execute have this kind."""


@dataclass(frozen=True)
class Training:
    """A training stage for one worker group. `attempt` counts from 1 when it is handed out."""

    stage: TrainStage
    attempt: int = 0

    @property
    def key(self) -> str:
        return self.stage.key

    @cached_property
    def needs(self) -> frozenset[str]:
        """Keys of the stages that have to be done before."""
        return frozenset() if self.stage.parent is None else frozenset({self.stage.parent})


@dataclass(frozen=True)
class RowRange:
    """Rows start..stop-1, for one actor, of an evaluation stage that has `rows` in all; a command counts as one row."""

    stage: Asked
    rows: int
    start: int
    stop: int

    @property
    def key(self) -> str:
        return self.stage.key

    @cached_property
    def needs(self) -> frozenset[str]:
        """Keys of the stages that have to be done before."""
        return frozenset(self.stage.adapters)


@dataclass(frozen=True)
class NotYet:
    """There is no answer yet: ask again."""


@dataclass(frozen=True)
class SessionOver:
    """No more work will come: the server may end."""


@dataclass(frozen=True)
class News:
    """What has changed since the news before: the progress of stages by key, and the keys of those given up."""

    number: int
    changed: Mapping[str, Progress]
    gone: Sequence[str]


Work = TypeVar("Work", Training, RowRange)


def row_ranges(stage: Asked, rows: int, size: int) -> list[RowRange]:
    """An evaluation stage cut into ranges of at most `size` rows, which several actors can share."""
    return [RowRange(stage, rows, start, min(start + size, rows)) for start in range(0, rows, size)]


def until_over(ask: Callable[[], Work | NotYet | SessionOver]) -> Iterator[Work]:
    """Asks for work again and again until the session is over."""
    while not isinstance(answer := ask(), SessionOver):
        if not isinstance(answer, NotYet):
            yield answer
