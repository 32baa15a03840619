"""Manifests against the operator's own JSON Schemas (made from its CRDs), as the API server would check them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from lcia.types import InputError
from pipelines.kubernetes.manifest import Manifest

Schemas: TypeAlias = Mapping[str, Manifest]
"""By `apiVersion|kind`, such as `ray.io/v1|RayJob`."""
GZIP = b"\x1f\x8b"


def load_schemas(path: Path) -> Schemas:
    """Schemas from a JSON file, gzipped or not.

    Raises:
        InputError: there is no such file, or it does not hold schemas by `apiVersion|kind`.
    """
    try:
        data = path.read_bytes()
        read = json.loads(gzip.decompress(data) if data.startswith(GZIP) else data)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not a JSON file of schemas: {error}") from None
    if not isinstance(read, dict) or not all("|" in kind and isinstance(schema, dict) for kind, schema in read.items()):
        raise InputError(f"{path} does not hold schemas by their kind, as in {{'ray.io/v1|RayJob': {{...}}}}")
    return read


def violations(manifest: Manifest, schemas: Schemas) -> list[str]:
    """What the schema of its kind refuses, with its place; a kind without a schema has none."""
    schema = schemas.get(f"{manifest.get('apiVersion')}|{manifest.get('kind')}")
    if schema is None:
        return []
    from jsonschema import Draft202012Validator

    errors = Draft202012Validator(schema).iter_errors(complete(manifest, schema))
    return [f"{error.json_path}: {error.message}" for error in errors]


def complete(value: Any, schema: Manifest) -> Any:
    """The value with nulls dropped and defaults filled in, which the API server does before it validates."""
    if isinstance(value, list):
        return [complete(item, schema.get("items") or {}) for item in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties") or {}
    other = schema.get("additionalProperties")
    rest = other if isinstance(other, dict) else {}
    given = {key: complete(item, known.get(key, rest)) for key, item in value.items() if item is not None}
    defaults = {key: part["default"] for key, part in known.items() if "default" in part and key not in given}
    return {**given, **defaults}
