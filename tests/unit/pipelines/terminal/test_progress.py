"""What the driver draws on stderr while stages run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lcia.protocols import Progress
from pipelines.terminal.progress import ProgressDisplay

NOTE = "damaged checkpoints passed over: 000000015; continued after step 10"


def _snapshot(step: int, note: str) -> dict[str, Progress]:
    return {"key": Progress("key", "train", "OCR-VQA [x]", step, 20, {}, note)}


@pytest.mark.parametrize("terminal", [False, True])
def test_a_note_is_told_once_and_whole(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=40)
    with ProgressDisplay(console) as progress:
        for step, note in ((0, ""), (10, NOTE), (11, NOTE)):
            progress(_snapshot(step, note))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert shown.count(NOTE) == 1
    assert "OCR-VQA [x]" in shown
