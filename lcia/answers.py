"""Answers of an EvalStage as a Parquet file: what was asked, what was said, by whom. Scores are computed from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ANSWERS = "answers.parquet"
SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("prediction", pa.string(), nullable=False),
        pa.field("references", pa.list_(pa.string()), nullable=False),
        pa.field("adapter", pa.string()),
    ]
)
"""One answered sample; `adapter` is the key of the TrainStage that answered, null for the bare base."""


def write_answers(records: Iterable[dict[str, Any]], folder: Path) -> None:
    """Writes the records of one stage, which may come in any order, as answers.parquet."""
    ordered = sorted(records, key=lambda record: record["row"])
    pq.write_table(pa.Table.from_pylist(ordered, schema=SCHEMA), folder / ANSWERS)


def read_answers(folder: Path) -> list[dict[str, Any]]:
    """All records of one stage, in row order."""
    records: list[dict[str, Any]] = pq.read_table(folder / ANSWERS).to_pylist()
    return records
