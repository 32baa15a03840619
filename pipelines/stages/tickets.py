"""What the driver and the broker say to each other; made without Ray."""

from __future__ import annotations

from typing import Any

from lcia.stage import EvalStage

BUILDS_ON_IT = ""
"""The error of a stage that needs the result of one that failed."""


def tickets_of(stage: EvalStage, rows: int, size: int) -> list[dict[str, Any]]:
    """The work of one stage, cut into row ranges that several actors can share."""
    common = {
        "key": stage.key,
        "record": stage.record,
        "needs": list(stage.adapters),
        "label": stage.label,
        "rows": rows,
    }
    return [{**common, "start": at, "stop": min(at + size, rows)} for at in range(0, rows, size)]
