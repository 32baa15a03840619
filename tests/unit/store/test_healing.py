"""Whatever a disk does to a finished result, the same run sets it aside, says so, and makes it again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor
from lcia.run import Outcome, run
from lcia.store.folders import Store
from lcia.training.train import TrainOptions

VALUES = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2"], "train_size": 8, "test_size": 2},
    "training": {"max_steps": 2, "batch_size": 4},
}
FILES = {"shard": "*.parquet", "embed": "features*", "train": "adapter_model.safetensors", "eval": "answers.parquet"}
"""What each kind of stage is for."""
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda data: bytes([*data[:-1], data[-1] ^ 1]),
    "a cut": lambda data: data[:-1],
}


def _run(folder: Path, told: list[str] | None = None) -> Outcome:
    notes = told if told is not None else []
    executor = LocalExecutor(
        Store(str(folder)), TrainOptions(micro_batch=4), lambda progress: notes.append(progress.note)
    )
    return run([parse(RunConfig, VALUES, "test")], executor)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "store"
    _run(folder)
    return folder


def _results(folder: Path, kind: str) -> list[Path]:
    """The folders of finished results of one kind."""
    records = sorted(folder.glob("??/*/stage.json"))
    return [r.parent for r in records if json.loads(r.read_text())["kind"] == kind and ".broken-" not in r.parent.name]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_result_is_made_again_by_the_same_run(
    whole: Path, tmp_path: Path, kind: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "store"))
    before = _results(folder, kind)
    [file] = before[0].glob(FILES[kind])
    sound = file.read_bytes()
    file.write_bytes(DAMAGES[damage](sound))
    told: list[str] = []
    outcome = _run(folder, told)
    assert file.read_bytes() == sound
    assert _results(folder, kind) == before
    [aside] = folder.glob("??/*.broken-*")
    assert aside.name.startswith(before[0].name)
    [record] = caplog.records
    assert record.message.startswith(f"{before[0]} is damaged ({file.name}): set aside as {aside.name}")
    assert outcome.matrix.scores.tolist() == _run(whole).matrix.scores.tolist()
    if kind == "train":
        assert f"an earlier result was damaged and set aside: {aside.name}" in told
        assert json.loads((file.parent / "result.json").read_text())["set_aside"] == [aside.name]
