"""What a killed process left is swept; what a live one fills is not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lcia.store.scratch import BOOT, staging

# Fills a folder, says where, and waits for its end.
FILLER = """
import sys
from pathlib import Path
from lcia.store.scratch import staging
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


def test_a_folder_carries_the_name_of_this_start_of_the_machine(tmp_path: Path) -> None:
    with staging(tmp_path / "made" / "as needed") as folder:
        assert folder.name.startswith(f"lcia-{BOOT.read_text()[:13]}-")
        assert list(folder.iterdir()) == []
    assert not folder.exists()


def test_a_folder_goes_with_its_block_even_where_that_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        _fail_in(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _fail_in(parent: Path) -> None:
    with staging(parent) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError


def test_no_lock_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(3):
        with staging(tmp_path / str(number)):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
