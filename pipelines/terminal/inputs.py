"""What a command was given: its files read, each for what it is, and checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from lcia.config.load import override, parse, read, with_kinds
from lcia.config.run import RunConfig
from lcia.types import InputError
from pipelines.launch import LaunchConfig

if TYPE_CHECKING:
    from lcia.studies.config import StudyConfig

Model = TypeVar("Model", bound=BaseModel)

SHOWN = 4
"""Telling keys of a file that an error names."""
CALLED = {"run": "a run's configuration", "study": "a study", "launch": "a launch file"}
HINTS = {
    ("run", "study"): "use `lcia study {path}`",
    ("run", "launch"): "give a run's configuration first, and this file as `--launch {path}`",
    ("study", "run"): "use `lcia run {path}`, or put its keys under `base:` of a study",
    ("study", "launch"): "give a study first, and this file as `--launch {path}`",
    ("launch", "run"): "a launch file says where to run, see configs/launch; this one goes before --launch",
    ("launch", "study"): "a launch file says where to run, see configs/launch; this one goes before --launch",
}
"""(what a file should be, what it is) -> what to do."""


def run_file(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run in a file; raises InputError that says what the file is, where it is something else."""
    return _load("run", RunConfig, path, overrides)


def study_file(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    from lcia.studies.config import StudyConfig

    return _load("study", StudyConfig, path, overrides)


def run_or_study_file(path: Path, overrides: Sequence[str] = ()) -> RunConfig | StudyConfig:
    """Whichever of both the file is."""
    values, own = read(path), _own_keys()
    is_study = sum(key in own["study"] for key in values) > sum(key in own["run"] for key in values)
    return study_file(path, overrides) if is_study else run_file(path, overrides)


def launch_file(path: Path | None, settings: Sequence[str] = ()) -> LaunchConfig:
    """Where to run; without a file the defaults, which are this machine and one worker."""
    return _load("launch", LaunchConfig, path, settings)


def _load(wanted: str, model: type[Model], path: Path | None, overrides: Sequence[str]) -> Model:
    values = read(path) if path else {}
    if not set(values) <= set(model.model_fields):
        _refuse_another(values, wanted, path)
    where = str(path) if path else "the launch settings" if wanted == "launch" else "the configuration"
    return parse(model, override(with_kinds(model, values), overrides), where)


def _refuse_another(values: Mapping[str, Any], wanted: str, path: Path | None) -> None:
    """Raises InputError where more keys of a file belong to another kind of file than to the wanted one."""
    own = _own_keys()
    counts = {what: sum(key in keys for key in values) for what, keys in own.items()}
    found = max(counts, key=lambda what: (counts[what], what == wanted))
    if counts[found] > counts[wanted]:
        telling = ", ".join([key for key in values if key in own[found]][:SHOWN])
        hint = HINTS[wanted, found].format(path=path)
        raise InputError(f"{path} is {CALLED[found]} (it has {telling}), not {CALLED[wanted]}: {hint}")


def _own_keys() -> dict[str, set[str]]:
    """The top keys that only one kind of file has."""
    from lcia.studies.config import StudyConfig

    models: dict[str, type[BaseModel]] = {"run": RunConfig, "study": StudyConfig, "launch": LaunchConfig}
    keys = {what: set(model.model_fields) for what, model in models.items()}
    return {what: mine.difference(*(k for other, k in keys.items() if other != what)) for what, mine in keys.items()}
