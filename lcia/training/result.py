"""What a finished TrainStage leaves in the store: the names of its files, and their one reader."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

KEPT, STEPS, RESULT = "kept.safetensors", "steps.jsonl", "result.json"
"""Tensors for the adapter's next stage, where the strategy keeps any; statistics; the record of the training."""
WEIGHTS = "adapter_model.safetensors"
ADAPTER = ("adapter_config.json", WEIGHTS)
"""A stock PEFT folder: what peft, vLLM and Ray Serve load, without our statistics beside it."""
ROUTERS = "router.safetensors"
"""Of an adapter with experts; nobody else reads it."""


def adapter_files(folder: Path) -> list[Path]:
    """The files of a stage's adapter."""
    stock = [folder / name for name in ADAPTER]
    return [*stock, folder / ROUTERS] if (folder / ROUTERS).exists() else stock


@dataclass(frozen=True)
class TrainResult:
    """`steps`: a line of statistics for every few optimizer steps. `result`: steps, seconds, rows, workers, notes."""

    folder: Path
    steps: tuple[Mapping[str, float], ...]
    result: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> TrainResult:
        lines = (folder / STEPS).read_text().splitlines()
        return cls(folder, tuple(json.loads(line) for line in lines), json.loads((folder / RESULT).read_text()))

    @property
    def adapter(self) -> list[Path]:
        """The files of the adapter."""
        return adapter_files(self.folder)

    def export(self, folder: Path) -> None:
        """Copies the adapter, which plain peft loads, into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.adapter:
            shutil.copyfile(path, folder / path.name)

    # Both sizes are asked for once: the runs of a study share their trainings by the thousand.
    @cached_property
    def adapter_bytes(self) -> int:
        """Size of the files of the adapter."""
        return sum(path.stat().st_size for path in self.adapter)

    @cached_property
    def kept_bytes(self) -> int:
        """Size of what the strategy keeps for the adapter's next stage."""
        kept = self.folder / KEPT
        return kept.stat().st_size if kept.exists() else 0

    @property
    def seconds(self) -> float:
        """Since the last interruption."""
        return float(self.result["seconds"])

    @property
    def steps_timed(self) -> int:
        """The optimizer steps that `seconds` is about."""
        begun: int = max(self.result.get("resumed_at", [0]))
        return int(self.result["steps"]) - begun

    @property
    def kl_from_start(self) -> float | None:
        """KL(tuned || start) on rows of the stage, nats per answer token (training.drift); None: an older result."""
        found: float | None = self.result.get("kl_from_start")
        return found

    @property
    def notes(self) -> str:
        """What happened on the way, for people; empty: nothing."""
        return history(self.result)


def history(notes: Mapping[str, Any]) -> str:
    """What a stage's notes say of damage and interruptions, for people; empty: there were none."""
    damaged, resumed = notes.get("damaged_checkpoints", []), notes.get("resumed_at", [])
    aside = notes.get("set_aside", [])
    told = [f"an earlier result was damaged and set aside: {', '.join(aside)}"] if aside else []
    if damaged:
        told.append(f"damaged checkpoints passed over: {', '.join(damaged)}")
    if resumed:
        told.append(f"continued after step {', '.join(map(str, resumed))}")
    elif damaged:
        told.append("no whole one was left, so the stage began again")
    return "; ".join(told)
