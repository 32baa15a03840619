"""One live table of stages on stderr; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lcia.protocols import Progress

PLAIN_EVERY_S = 10.0
SHOWN_DONE = 6
COLUMNS = ("stage", "step", "loss", "beta", "samples/s", "ETA")


class ProgressDisplay:
    """Shows snapshots. Enter it, call it with snapshots, leave it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = (
            Live(console=self._console, refresh_per_second=2, transient=True) if self._console.is_terminal else None
        )
        self._told: dict[str, tuple[int, float]] = {}
        self._noted: dict[str, str] = {}

    def __enter__(self) -> ProgressDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, snapshot: Mapping[str, Progress]) -> None:
        for stage in snapshot.values():
            self._note(stage)
        if self._live:
            self._live.update(table(snapshot))
            return
        for stage in snapshot.values():
            self._tell(stage)

    def _note(self, stage: Progress) -> None:
        """What happened to a stage on the way, once; above the live table where there is one."""
        if stage.note and self._noted.get(stage.stage) != stage.note:
            self._noted[stage.stage] = stage.note
            self._console.print(line(stage, stage.note), markup=False, highlight=False, soft_wrap=True)

    def _tell(self, stage: Progress) -> None:
        """A line when a stage starts and ends, and every ten seconds between."""
        step, at = self._told.get(stage.stage, (-1, 0.0))
        if step == stage.step or (not stage.done and time.monotonic() - at < PLAIN_EVERY_S):
            return
        self._told[stage.stage] = (stage.step, time.monotonic())
        cells = zip(COLUMNS[1:], row(stage)[1:], strict=True)
        details = "  ".join(f"{name} {cell}" for name, cell in cells if cell)
        print(line(stage, details), file=sys.stderr, flush=True)


def line(stage: Progress, details: str) -> str:
    """The time, a stage and what there is to say of it."""
    return f"{time.strftime('%H:%M:%S')}  {stage.kind:<6}{stage.label:<28}{details}"


def table(snapshot: Mapping[str, Progress]) -> Table:
    """What is under way, below it what ended last and how much that is in all."""
    done = [stage for stage in snapshot.values() if stage.done]
    view = Table(*COLUMNS, title=f"{len(done)} stages done", title_justify="left", expand=False)
    for stage in done[-SHOWN_DONE:]:
        view.add_row(*map(Text, row(stage)), style="dim")
    for stage in snapshot.values():
        if not stage.done:
            view.add_row(*map(Text, row(stage)))
    return view


def row(stage: Progress) -> tuple[str, ...]:
    """The cells of one stage."""
    values, left = stage.values, stage.steps - stage.step
    speed, batch = values.get("samples_per_second"), values.get("batch_size", 0)
    eta = f"{left * batch / speed:.0f} s" if speed and batch and left else ""
    beta = values.get("beta_q50", values.get("beta"))
    return (
        f"{stage.kind} {stage.label}",
        f"{stage.step}/{stage.steps}",
        _number(values.get("loss"), 3),
        _number(beta, 4),
        _number(speed, 0),
        eta,
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
