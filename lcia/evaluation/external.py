"""An ExternalStage: a command of the user's on an adapter, and the figures in the JSON that it leaves."""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lcia.assistants.tiny import BASES
from lcia.config.assistants import AssistantConfig, TinyConfig
from lcia.config.general import ADAPTER, OUTPUT
from lcia.secrets import redacted
from lcia.stage import ExternalStage
from lcia.store.folders import Store
from lcia.training.result import TrainResult
from lcia.types import InputError

FIGURES, RESULT = "figures.json", "result.json"
TAIL = 2000
"""Characters of the end of a failed command's output that its error shows."""
SUFFIX = "results.json"
"""How the one file ends that is read of a folder."""


class CommandFailedError(RuntimeError):
    """A command could not be started, has failed, or left no figures; the message says which, and what it said last."""


def judge(stage: ExternalStage, store: Store) -> None:
    """Runs the command and publishes what it leaves, unless the store has it.

    Raises:
        CommandFailedError: nothing was published.
    """
    if store.has(stage.key):
        return
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lcia-external-") as scratch:
        output = Path(scratch) / "output"
        _run(_filled(stage, store, Path(scratch), output), Path(scratch))
        figures = _read(output)
    with store.publish(stage.key, stage.record) as folder:
        (folder / FIGURES).write_text(json.dumps(figures))
        (folder / RESULT).write_text(json.dumps({"seconds": time.perf_counter() - started}))


def _filled(stage: ExternalStage, store: Store, scratch: Path, output: Path) -> list[str]:
    """The command with places instead of placeholders; the adapter is a copy, which the command may do with as it
    likes."""
    model, revision = _model(stage.assistant)
    places = {OUTPUT: str(output), "{model}": model, "{revision}": revision}
    if stage.adapter is not None:
        TrainResult.read(store.fetch(stage.adapter)).export(scratch / "adapter")
        places[ADAPTER] = str(scratch / "adapter")
    return [_replaced(word, places) for word in stage.command]


def _model(config: AssistantConfig) -> tuple[str, str]:
    """Where the base lies, a folder or a hub id, and its commit; main where it has none."""
    if isinstance(config, TinyConfig):
        return str(BASES[config.base]), "main"
    return config.model, config.revision or "main"


def _replaced(word: str, places: Mapping[str, str]) -> str:
    for placeholder, place in places.items():
        word = word.replace(placeholder, place)
    return word


def _run(words: Sequence[str], scratch: Path) -> None:
    log = scratch / "log"
    try:
        with log.open("wb") as said:
            code = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False).returncode
    except OSError as error:
        raise CommandFailedError(f"{words[0]} cannot be started: {error.strerror or error}") from None
    if code:
        end = redacted(log.read_text(errors="replace")[-TAIL:].strip())
        raise CommandFailedError(f"{words[0]} ended with code {code}; the last that it said: {end or '(nothing)'}")


def _read(output: Path) -> dict[str, float]:
    """All numbers of the file, or of the one file of the folder that ends in results.json."""
    file = output
    if output.is_dir():
        files = sorted(output.rglob(f"*{SUFFIX}"))
        if len(files) != 1:
            raise CommandFailedError(f"the command left {len(files)} files *{SUFFIX} in its folder; one is read")
        [file] = files
    try:
        figures = dict(_numbers(json.loads(file.read_bytes()), ""))
    except FileNotFoundError:
        raise CommandFailedError(f"the command left nothing at {OUTPUT}") from None
    except ValueError as error:
        raise CommandFailedError(f"what the command left at {OUTPUT} is not JSON: {error}") from None
    if not figures:
        raise CommandFailedError(f"what the command left at {OUTPUT} holds no number")
    return figures


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    """Path and value of every finite number in nested mappings."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path}/{key}" if path else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield path, float(value)


# What is left ---------------------------------------------------------------------------------------------------


def read_figures(folder: Path) -> dict[str, float]:
    """All figures of a stage, by their path in the JSON that the command left."""
    figures: dict[str, float] = json.loads((folder / FIGURES).read_text())
    return figures


def chosen_of(figures: Mapping[str, float], metrics: Sequence[str]) -> dict[str, float]:
    """Those that evaluation.external.metrics names; all where it names none.

    Raises:
        InputError: one is not there.
    """
    if missing := [name for name in metrics if name not in figures]:
        raise InputError(
            f"evaluation.external.metrics names {', '.join(missing)}, which the command did not write; it wrote "
            f"{', '.join(figures)}"
        )
    return {name: figures[name] for name in metrics or figures}
