"""The border: YAML files and dotted overrides in, frozen configurations out, all mistakes named at once."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lcia.types import InputError

Model = TypeVar("Model", bound=BaseModel)


def load(model: type[Model], path: Path | None, overrides: Iterable[str] = ()) -> Model:
    """A configuration from a YAML file (None: all defaults) and `section.key=value` overrides.

    Raises:
        InputError: the file is missing or no YAML, or keys or values do not fit; names every mistake.
    """
    where = str(path) if path else "the configuration"
    return parse(model, override(_read(path) if path else {}, overrides), where)


def parse(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Validates plain values; `where` names their origin in the error."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_line(model, detail) for detail in error.errors()]
        raise InputError(f"{where}: {len(lines)} mistake(s)\n" + "\n".join(f"  {line}" for line in lines)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict | None):
        raise InputError(f"{path} must hold a mapping of sections, not {type(values).__name__}")
    return values or {}


def override(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with every `a.b=value` put in; the right side is read as YAML."""
    result = dict(values)
    for text in overrides:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InputError(f"{text!r} is no override: write section.key=value, for example training.max_steps=100")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"{text!r}: the value is not valid YAML; quote it") from None
        result = put(result, name.split("."), parsed)
    return result


def put(values: Any, names: Sequence[str], value: Any) -> Any:
    """A copy of nested mappings and lists in which `names` leads to `value`."""
    if not names:
        return value
    head, rest = names[0], names[1:]
    if isinstance(values, list | tuple):
        if not head.isdigit() or int(head) >= len(values):
            raise InputError(f"{head!r} is no position in a list of {len(values)}")
        return [put(v, rest, value) if i == int(head) else v for i, v in enumerate(values)]
    inner = dict(values) if isinstance(values, Mapping) else {}
    # Another kind has other keys: those of the old one would only be mistakes.
    if rest == ["kind"] and isinstance(inner.get(head), Mapping) and inner[head].get("kind") != value:
        inner[head] = {}
    inner[head] = put(inner.get(head, {}), rest, value)
    return inner


def _line(model: type[BaseModel], detail: ErrorDetails) -> str:
    path = list(detail["loc"])
    name = ".".join(str(part) for part in _without_tags(model, path)) or "(whole)"
    if detail["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known))}"
        return f"{name}: unknown key; {hint}"
    given = "" if detail["type"] in ("missing", "value_error") else f" (given: {str(detail['input'])[:80]})"
    return f"{name}: {detail['msg'].removeprefix('Value error, ')}{given}"


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The configuration classes an annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in typing.get_args(annotation) for m in _models(inner)]


def _step(models: list[type[BaseModel]], part: int | str) -> list[type[BaseModel]] | None:
    """The classes behind one part of an error's path; None: the part is a union's tag."""
    for model in models:
        for field, info in model.model_fields.items():
            if part in (field, info.alias):
                return _models(info.annotation)
    return models if isinstance(part, int) else None


def _walk(model: type[BaseModel], path: Sequence[int | str]) -> tuple[list[type[BaseModel]], list[int | str]]:
    models, kept = [model], []
    for number, part in enumerate(path):
        following = _step(models, part)
        if following is None and number + 1 < len(path):
            tagged = [
                m
                for m in models
                if "kind" in m.model_fields and part in typing.get_args(m.model_fields["kind"].annotation)
            ]
            models = tagged or models
            if tagged:
                continue
        kept.append(part)
        models = following if following is not None else models
    return models, kept


def _without_tags(model: type[BaseModel], path: Sequence[int | str]) -> list[int | str]:
    return _walk(model, path)[1]


def _fields_at(model: type[BaseModel], path: Sequence[int | str]) -> set[str]:
    """Field names at a path, which may end in a union's tag."""
    models, _ = _walk(model, [*path, "?"])
    return {info.alias or field for m in models for field, info in m.model_fields.items()}
