"""README's command lines do what they say: those marked `<!-- run -->` exit with 0, all others name a real command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines.cli import app

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- run -->\n)?```sh\n(.*?)```", re.DOTALL)


def commands(marked: bool) -> list[list[str]]:
    """The arguments of every `lcia` line in the blocks that are marked, or in those that are not, in README's order."""
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    lines = [line for mark, text in blocks if bool(mark) is marked for line in text.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("lcia ")]


def lcia(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LCIA_DEBUG": "1", "COLUMNS": "160"}
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would stand, beside the configurations; what one command writes the next one finds."""
    place = tmp_path_factory.mktemp("readme")
    (place / "configs").symlink_to(ROOT / "configs")
    return place


def test_readme_marks_a_command_of_every_kind_that_is_quick() -> None:
    assert {command[0] for command in commands(marked=True)} == {
        "--help", "doctor", "init", "plan", "schema", "data", "group", "launch"
    }  # fmt: skip


@pytest.mark.parametrize("arguments", commands(marked=True), ids=" ".join)
def test_a_marked_command_of_readme_runs_and_says_something(folder: Path, arguments: list[str]) -> None:
    result = lcia(folder, *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip()


def test_every_other_command_of_readme_exists_and_so_do_its_files() -> None:
    known: Any = typer.main.get_command(app)
    for arguments in commands(marked=False):
        assert arguments[0] in known.commands
        assert arguments[0] != "data" or arguments[1] in known.commands["data"].commands
        assert all((ROOT / word).is_file() for word in arguments if word.startswith("configs/"))


def test_every_file_that_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
