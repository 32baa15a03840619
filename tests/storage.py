"""A storage folder as runs leave it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lcia.store.folders import Store

KEYS = {name: digit * 32 for name, digit in (("shards", "a"), ("train", "b"), ("eval", "c"), ("old", "d"))}
"""The last one is of a run that is gone."""


def summary(**runs: float) -> dict[str, Any]:
    return {
        "wall_seconds": 12.4,
        "environment": {"date": "2026-11-26T10:00:00+00:00"},
        "runs": {
            name: {
                "metrics": {"avg_acc": {"value": value}, "forgetting": {"value": None}},
                "config": {"strategy": {"kind": name}},
                "stages": [{"key": KEYS["train"]}],
            }
            for name, value in runs.items()
        },
    }


def run(storage: Path, name: str, summary: dict[str, Any] | str | None, keys: list[str] | None = None) -> Path:
    folder = storage / name
    folder.mkdir(parents=True)
    if keys is not None:
        (folder / "keys.json").write_text(json.dumps(keys))
        os.utime(folder / "keys.json", (1, 1))
    if summary is not None:
        (folder / "summary.json").write_text(summary if isinstance(summary, str) else json.dumps(summary))
    return folder


def publish(store: Store, *keys: str) -> None:
    for key in keys:
        with store.publish(key, {}) as folder:
            (folder / "file").write_text("x" * 100)


def checkpoint(store: Store, key: str) -> None:
    with store.checkpoints(key).save(1) as folder:
        (folder / "state").write_text("x")


def fill(storage: Path) -> None:
    """Two runs, one of them unfinished, and everything that gathers in a storage folder."""
    run(storage, "done", summary(lcia=57.2), [KEYS["shards"], KEYS["train"]])
    run(storage, "stopped", None, [KEYS["shards"], KEYS["eval"]])
    store = Store(str(storage / "store"))
    publish(store, *KEYS.values())
    checkpoint(store, KEYS["eval"][:-1] + "0")
    checkpoint(store, KEYS["train"])
    for place in ("ray/session-group0", "tune/study-1", f"store/bb/{KEYS['train']}.broken-12345678"):
        (storage / place).mkdir(parents=True)
        (storage / place / "file").write_text("x" * 1000)


ALWAYS = {
    "ray/session-group0": "left by Ray",
    "tune/study-1": "left by Tune",
    f"store/bb/{KEYS['train']}.broken-12345678": "damaged result, set aside",
    f"store/partial/{KEYS['train']}": "checkpoints of a finished stage",
}
"""What no run needs there, and why; results that no run names come on top."""
