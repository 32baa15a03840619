"""What a killed process left is swept; what a live one fills is not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Fills a folder, says where, and waits for its end.
FILLER = """
import sys
from pathlib import Path
from lcia.staging import staging
with staging(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def _filler(parent: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FILLER, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _folder(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


@pytest.mark.parametrize("killed", [False, True])
def test_the_folder_of_another_process_goes_only_when_that_was_killed(tmp_path: Path, killed: bool) -> None:
    first = _filler(tmp_path)
    theirs = _folder(first)
    if killed:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (theirs / "half").exists()
    second = _filler(tmp_path)
    assert _folder(second).exists()
    assert theirs.exists() is not killed
    for process in (first, second):
        process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_folders_of_other_machines_are_let_alone(tmp_path: Path) -> None:
    theirs = tmp_path / f"lcia-{'0' * 13}-{'a' * 32}"
    theirs.mkdir()
    process = _filler(tmp_path)
    assert _folder(process).name[5:18] != "0" * 13
    process.communicate()
    assert list(tmp_path.iterdir()) == [theirs]
