"""Manifests against the operator's own JSON Schemas (made from its CRDs), as the API server would check them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from pipelines.kubernetes.manifest import Manifest


def load_schemas(path: Path) -> dict[str, Manifest]:
    """Schemas by `apiVersion|kind` from a gzipped JSON file."""
    return dict(json.loads(gzip.decompress(path.read_bytes())))


def violations(manifest: Manifest, schemas: dict[str, Manifest]) -> list[str]:
    """What the schema of its kind refuses, with its place; a kind without a schema has none."""
    schema = schemas.get(f"{manifest.get('apiVersion')}|{manifest.get('kind')}")
    if schema is None:
        return []
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
