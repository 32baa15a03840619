"""What a task may be called. Its name becomes a file's, stands in tables and on the page, and is typed by people."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

MAX_CHARACTERS, MAX_BYTES = 80, 200
"""File systems take 255 bytes; beside the name there must be room for an ending and a number."""
SIGNS = "._-+()&,"


def check_task_name(name: str) -> str:
    """The name itself; raises ValueError, with the reason, for one that cannot be a file's name everywhere."""
    shown = repr(name if len(name) <= 40 else f"{name[:40]}...")
    if not name.strip():
        raise ValueError("a task's name is empty")
    if wrong := sorted({character for character in name if not _allowed(character)}):
        raise ValueError(
            f"task name {shown} holds {', '.join(map(repr, wrong[:5]))}: allowed are letters, digits, spaces and "
            f"{' '.join(SIGNS)}"
        )
    if len(name) > MAX_CHARACTERS or len(name.encode()) > MAX_BYTES:
        raise ValueError(
            f"task name {shown} is too long: at most {MAX_CHARACTERS} characters and {MAX_BYTES} bytes, because files "
            "are named after it"
        )
    if name != name.strip() or name.startswith("."):
        raise ValueError(f"task name {shown} must not start with a dot, nor start or end with a space")
    return name


def _allowed(character: str) -> bool:
    """Letters of any script with their marks, decimal digits, the space and a few signs."""
    kind = unicodedata.category(character)
    return kind[0] in "LM" or kind == "Nd" or character == " " or character in SIGNS


def check_distinct(names: Sequence[str]) -> None:
    """Raises ValueError for none, and for two that a file system may take for one."""
    if not names:
        raise ValueError("there is no task: name at least one")
    seen: dict[str, str] = {}
    for name in names:
        same = seen.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if same != name:
            raise ValueError(f"tasks {same!r} and {name!r} differ too little: file systems may take them for one")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"task named more than once: {', '.join(repeated)}")


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    check_distinct(names)
    return names


TaskName: TypeAlias = Annotated[str, AfterValidator(check_task_name)]
TaskNames: TypeAlias = Annotated[tuple[TaskName, ...], AfterValidator(_distinct)]
