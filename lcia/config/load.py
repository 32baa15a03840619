"""The border: YAML files and dotted overrides in, frozen configurations out, all mistakes named at once."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from lcia.secrets import redacted
from lcia.types import InputError

Model = TypeVar("Model", bound=BaseModel)
KIND = "kind"
SHOWN = 80
"""Characters of a wrong value that an error shows."""


def load(model: type[Model], path: Path | None, overrides: Iterable[str] = ()) -> Model:
    """A configuration from a YAML file (None: all defaults) and `section.key=value` overrides.

    Raises:
        InputError: the file is missing or not YAML, or keys or values do not fit; names every mistake.
    """
    where = str(path) if path else "the configuration"
    return parse(model, override(with_kinds(model, read(path) if path else {}), overrides), where)


def parse(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Validates plain values; `where` names their origin in the error."""
    try:
        return model.model_validate(with_kinds(model, values))
    except ValidationError as error:
        lines = [_line(model, detail) for detail in error.errors()]
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise InputError(redacted(f"{where}: {count}\n" + "\n".join(f"  {line}" for line in lines))) from None


def read(path: Path) -> dict[str, Any]:
    """The plain values of a YAML file; an empty one has none.

    Raises:
        InputError: the file cannot be read, or does not hold a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(redacted(f"{path} is not valid YAML: {' '.join(str(error).split())}")) from None
    if not isinstance(values, dict | None):
        raise InputError(f"{path} must hold a mapping of sections, not {type(values).__name__}")
    return values or {}


# Overrides --------------------------------------------------------------------------------------------------------


def override(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with every `a.b=value` put in; the right side is read as YAML."""
    return changed(values, [_parted(text) for text in overrides])


def changed(values: Mapping[str, Any], changes: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """`values` with the value of every dotted name put in.

    Kinds come first, in whatever order they are given: a change of kind drops the old kind's keys that a file holds,
    but none of those that stand beside it.
    """
    result: Any = dict(values)
    for name, value in sorted(changes, key=lambda change: change[0].rpartition(".")[2] != KIND):
        result = put(result, name.split("."), value)
    return dict(result)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every value in nested mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _parted(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise InputError(
            redacted(f"{text!r} is not an override: write section.key=value, for example training.max_steps=100")
        )
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(redacted(f"{text!r}: the value is not valid YAML; quote it")) from None


def put(values: Any, names: Sequence[str], value: Any) -> Any:
    """A copy of nested mappings and lists in which `names` leads to `value`."""
    if not names:
        return value
    head, rest = names[0], names[1:]
    if isinstance(values, list | tuple):
        if not head.isdigit() or int(head) >= len(values):
            raise InputError(f"{head!r} is not a position in a list of {len(values)}")
        return [put(v, rest, value) if i == int(head) else v for i, v in enumerate(values)]
    inner = dict(values) if isinstance(values, Mapping) else {}
    # Another kind has other keys: those of the old one would only be mistakes.
    if rest == [KIND] and isinstance(inner.get(head), Mapping) and inner[head].get(KIND, value) != value:
        inner[head] = {}
    inner[head] = put(inner.get(head, {}), rest, value)
    return inner


# Kinds ------------------------------------------------------------------------------------------------------------


def with_kinds(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` in which a section that may be of several kinds and names none has the kind of its default."""
    result = dict(values)
    for field, info in model.model_fields.items():
        name = info.alias or field
        if isinstance(inner := result.get(name), Mapping):
            result[name] = _with_kind(info, inner)
    return result


def _with_kind(info: FieldInfo, values: Mapping[str, Any]) -> Mapping[str, Any]:
    models = _models(info.annotation)
    if len(models) > 1 and KIND not in values and hasattr(info.default, KIND):
        values = {KIND: info.default.kind, **values}
    chosen = [m for m in models if len(models) == 1 or values.get(KIND) in _kinds(m)]
    return with_kinds(chosen[0], values) if chosen else values


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The configuration classes an annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in typing.get_args(annotation) for m in _models(inner)]


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    return typing.get_args(model.model_fields[KIND].annotation) if KIND in model.model_fields else ()


# Mistakes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where an error's path leads. `others`: the classes of the other kinds that could stand there."""

    names: tuple[str, ...]
    models: tuple[type[BaseModel], ...]
    others: tuple[type[BaseModel], ...] = ()

    @property
    def kind(self) -> str:
        """The kind that was chosen here, empty where there is only one."""
        return str(_kinds(self.models[0])[0]) if self.others else ""


def _place(model: type[BaseModel], path: Sequence[int | str]) -> _Place:
    """Follows pydantic's path, in which the kind of a section stands as a part of its own."""
    place = _Place((), (model,))
    for part in path:
        tagged = tuple(m for m in place.models if len(place.models) > 1 and part in _kinds(m))
        if tagged:
            place = _Place(place.names, tagged, tuple(m for m in place.models if m not in tagged))
            continue
        found = [_models(i.annotation) for m in place.models for f, i in m.model_fields.items() if part in (f, i.alias)]
        inside = tuple(found[0]) if found else place.models if isinstance(part, int) else ()
        place = _Place((*place.names, str(part)), inside)
    return place


def _line(model: type[BaseModel], detail: ErrorDetails) -> str:
    path = list(detail["loc"])
    name = ".".join(_place(model, path).names)
    if detail["type"] == "extra_forbidden":
        return f"{name}: unknown key{_hint(_place(model, path[:-1]), str(path[-1]))}"
    if detail["type"] == "union_tag_invalid":
        kinds = [str(kind) for m in _place(model, path).models for kind in _kinds(m)]
        return f"{name}.{KIND}: there is no kind {_short(repr(_said(detail)))}; {_close_or_all(_said(detail), kinds)}"
    if detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{name or 'this'} must be a mapping of keys to values (given: {_short(detail['input'])})"
    given = "" if detail["type"] in ("missing", "value_error") else f" (given: {_short(detail['input'])})"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{name}: {message}{given}" if name else f"{message}{given}"


def _said(detail: ErrorDetails) -> str:
    return str(detail["input"][KIND])


def _short(value: object) -> str:
    """Redacted before it is cut: half a password must not stay because its end is missing."""
    return redacted(str(value))[:SHOWN]


def _hint(place: _Place, key: str) -> str:
    elsewhere = [str(_kinds(m)[0]) for m in place.others if key in _fields(m)]
    if elsewhere:
        return f" of kind {place.kind}; {' and '.join(f'kind {kind}' for kind in elsewhere)} would allow it"
    return f"; {_close_or_all(key, sorted({field for m in place.models for field in _fields(m)}))}"


def _close_or_all(given: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"


def _fields(model: type[BaseModel]) -> list[str]:
    return [info.alias or field for field, info in model.model_fields.items()]
