"""A finished training is read back as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lcia.training.result import TrainResult, history


def _written(folder: Path, **notes: object) -> TrainResult:
    (folder / "steps.jsonl").write_text('{"step": 5, "loss": 2.5}\n{"step": 10, "loss": 1.5}\n')
    (folder / "result.json").write_text(json.dumps({"steps": 10, "seconds": 4.0, **notes}))
    return TrainResult.read(folder)


def test_steps_and_result_are_read_back(tmp_path: Path) -> None:
    training = _written(tmp_path, rows=3)
    assert training.steps == ({"step": 5, "loss": 2.5}, {"step": 10, "loss": 1.5})
    assert training.result == {"steps": 10, "seconds": 4.0, "rows": 3}


def test_the_seconds_are_those_of_the_steps_since_the_last_interruption(tmp_path: Path) -> None:
    assert (_written(tmp_path).seconds, _written(tmp_path).steps_timed) == (4.0, 10)
    assert _written(tmp_path, resumed_at=[2, 6]).steps_timed == 4


def test_the_adapter_is_a_stock_peft_folder(tmp_path: Path) -> None:
    assert [path.name for path in _written(tmp_path).adapter] == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        ({"steps": 6}, ""),
        ({"resumed_at": [4]}, "continued after step 4"),
        ({"resumed_at": [2, 4]}, "continued after step 2, 4"),
        ({"damaged_checkpoints": ["000000005"]},
         "damaged checkpoints passed over: 000000005; no whole one was left, so the stage began again"),
        ({"damaged_checkpoints": ["000000009", "000000006"], "resumed_at": [3]},
         "damaged checkpoints passed over: 000000009, 000000006; continued after step 3"),
    ],
)  # fmt: skip
def test_the_history_of_a_stage_is_told(notes: dict[str, object], told: str) -> None:
    assert history(notes) == told
