"""Runs variants one after the other and prints what each survived."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.replay import verdict
from tests.replay.lab import why_not
from tests.replay.stream import Reference, ReferenceRun
from tests.replay.variants import VARIANTS, play


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    about = "\n".join(f"  {name}: {variant.about}" for name, variant in VARIANTS.items())
    parser.add_argument("variants", nargs="*", help=f"none: all of\n{about}")
    parser.add_argument("--keep", type=Path, help="a new folder for everything that the replays leave")
    given = parser.parse_args(arguments)
    if unknown := set(given.variants) - set(VARIANTS):
        parser.error(f"there is no variant {', '.join(sorted(unknown))}")
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 2
    if given.keep:
        return _all(given.variants or list(VARIANTS), given.keep)
    with tempfile.TemporaryDirectory(prefix="lcia-replay-") as folder:
        return _all(given.variants or list(VARIANTS), Path(folder))


def _all(names: Sequence[str], folder: Path) -> int:
    reference = _reference(folder / "reference")
    rows = []
    for name in names:
        played = play(VARIANTS[name], folder / name)
        rows.append(verdict.row(played, reference, VARIANTS[name].about))
        print(verdict.as_json(rows[-1:]), flush=True)
    return 0 if all(_is_clean(row) for row in rows) else 1


def _is_clean(row: dict[str, Any]) -> bool:
    same = row["status"] == "SUCCEEDED" and not row["differences"]
    return same and row["leaks"] in ([], "not planted") and all(row["gave way"])


def _reference(folder: Path) -> Reference:
    run = ReferenceRun(folder)
    try:
        return run.finish()
    finally:
        run.stop()
