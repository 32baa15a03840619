"""The page of all configuration keys, made from the fields and their docstrings: `make docs` writes it."""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lcia.config.run import RunConfig
from lcia.studies.config import StudyConfig
from pipelines.launch import LaunchConfig

HEAD = """\
# Configuration

Every key of the three kinds of file, with its default. Made by `make docs` from the fields themselves; do not edit.
`lcia schema run`, `lcia schema launch` and `lcia schema study` print the same as JSON Schema.

A section that may be of several kinds keeps the default's kind unless `kind` is named: `strategy.gamma=10` needs no
`strategy.kind`. Another kind drops the keys of the one before.
"""
FILES: dict[str, tuple[str, type[BaseModel]]] = {
    "run": ("A run: `lcia run FILE`", RunConfig),
    "study": ("A study: `lcia study FILE`", StudyConfig),
    "launch": ("A launch: `--launch FILE`, `--set KEY=VALUE`", LaunchConfig),
}


def page() -> str:
    """The whole page in Markdown."""
    parts = [HEAD]
    for title, model in FILES.values():
        parts.append(f"## {title}\n\n{_table(model)}")
        parts += [f"### {heading}\n\n{_table(inner)}" for heading, inner in _sections(model, "", set())]
    return "\n".join(parts)


def _table(model: type[BaseModel]) -> str:
    rows = [
        f"| `{info.alias or name}` | {_default(info)} | {_values(info)} | {_cell(info.description or '')} |"
        for name, info in model.model_fields.items()
    ]
    return "\n".join(["| key | default | values | |", "|---|---|---|---|", *rows, ""])


def _sections(model: type[BaseModel], above: str, shown: set[type[BaseModel]]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Headings and classes of all sections below a model, each kind of a section on its own. A choice of kinds that
    was `shown` is not listed again; the key that allows it says so."""
    for name, info in model.model_fields.items():
        inner = models_of(info.annotation)
        if len(inner) > 1 and shown.issuperset(inner):
            continue
        shown |= set(inner)
        for one in inner:
            place = f"{above}{info.alias or name}"
            told = f", kind `{kinds[0]}`" if (kinds := kinds_of(one)) else f" with `{next(iter(one.model_fields))}`"
            yield f"`{place}`{told if len(inner) > 1 else ''}", one
            yield from _sections(one, f"{place}.", shown)


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The configuration classes that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in models_of(inner)]


def kinds_of(model: type[BaseModel]) -> tuple[Any, ...]:
    """The kinds that a section names itself by; none where it has only one."""
    return typing.get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    if isinstance(info.default, BaseModel):
        return f"kind `{info.default.kind}`" if len(models_of(info.annotation)) > 1 else "its defaults"  # type: ignore[attr-defined]
    return f"`{_cell(_yaml(info.get_default(call_default_factory=True)))}`"


def _yaml(value: Any) -> str:
    """A default as YAML writes it on one line."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple():
            return f"[{', '.join(map(_yaml, value))}]"
        case str():
            return value or '""'
        case dict():
            return "{" + ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) + "}"
        case _:
            return str(value)


def _values(info: FieldInfo) -> str:
    """The words that a field allows, or its bounds; empty where its default says enough."""
    words = [word for word in _literals(info.annotation) if len(_literals(info.annotation)) > 1]
    if words:
        return ", ".join(f"`{word}`" for word in words)
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(
        f"{text} {getattr(bound, sign)}"
        for bound in _bounds(info)
        for sign, text in signs.items()
        if getattr(bound, sign, None) is not None
    )


def _bounds(info: FieldInfo) -> list[Any]:
    """The limits of a number; those of an optional one stand inside its annotation."""
    inside = [meta for a in typing.get_args(info.annotation) for meta in getattr(a, "__metadata__", ())]
    inner = [limit for meta in inside for limit in getattr(meta, "metadata", [meta])]
    return [*info.metadata, *inner]


def _literals(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [str(word) for word in typing.get_args(annotation)]
    return [word for inner in typing.get_args(annotation) for word in _literals(inner)]


def _cell(text: str) -> str:
    """One line; bars in it do not end a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
