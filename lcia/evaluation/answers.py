"""Answers of an EvaluateStage as a Parquet file: what was asked, what was said, by whom. Scores come from it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ANSWERS = "answers.parquet"
RESULT = "result.json"
SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("prediction", pa.string(), nullable=False),
        pa.field("references", pa.list_(pa.string()), nullable=False),
        pa.field("adapter", pa.string()),
        pa.field("images", pa.string()),
    ]
)
"""One answered sample; `adapter` is the key of the TrainStage that answered, null for the bare base. `images` is the
same for samples about the same pictures, null for one without; older answers lack it."""


def write_answers(records: Iterable[dict[str, Any]], seconds: float, folder: Path) -> None:
    """Writes the records of one stage, which may come in any order, and the seconds that answering took."""
    ordered = sorted(records, key=lambda record: record["row"])
    pq.write_table(pa.Table.from_pylist(ordered, schema=SCHEMA), folder / ANSWERS)
    (folder / RESULT).write_text(json.dumps({"samples": len(ordered), "seconds": seconds}))


def read_answers(folder: Path) -> list[dict[str, Any]]:
    """All records of one stage, in row order."""
    records: list[dict[str, Any]] = pq.read_table(folder / ANSWERS).to_pylist()
    return records


def read_result(folder: Path) -> dict[str, Any]:
    """`samples`, and `seconds` of all actors together (None for answers that were stored before they were measured)."""
    path = folder / RESULT
    if not path.exists():
        return {"samples": pq.read_metadata(folder / ANSWERS).num_rows, "seconds": None}
    result: dict[str, Any] = json.loads(path.read_text())
    return result
