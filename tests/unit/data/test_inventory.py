"""What is missing of a published benchmark, found without reading it whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lcia import benchmarks
from lcia.config.benchmarks import CoinConfig, MiniCoinConfig, UcitConfig
from lcia.data.inventory import Item, take_inventory
from lcia.data.minicoin.layout import write_coin_layout

TASKS = ("VizWiz", "OCR-VQA")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coin")
    write_coin_layout(MiniCoinConfig(tasks=TASKS, train_size=300, validation_size=1, test_size=2), folder)
    return folder


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "coin"))


def inventory(root: Path) -> dict[tuple[str, str], Item]:
    config = CoinConfig(kind="coin", root=str(root), tasks=TASKS)
    return {(item.task, item.what): item for item in take_inventory(benchmarks.build(config).tasks)}


def test_nothing_is_missing_where_everything_is_there(root: Path) -> None:
    found = inventory(root)
    assert not any(item.problem for item in found.values())
    counts = {"train": 300, "train images": 8, "test": 2, "test images": 2}
    expected = {(task, what): count for task in TASKS for what, count in counts.items()}
    assert {at: item.found for at, item in found.items()} == expected


def test_a_missing_file_of_annotations_is_named_with_its_source_and_licence(root: Path) -> None:
    (root / "OCRVQA" / "train.json").unlink()
    item = inventory(root)["OCR-VQA", "train"]
    assert (item.found, item.problem) == (0, f"no data at {root}/OCRVQA/train.json")
    assert (item.source, item.licence) == ("https://huggingface.co/datasets/Zacks-Chen/CoIN", "CC BY 4.0")
    assert ("OCR-VQA", "train images") not in inventory(root)


def test_missing_images_are_named_with_those_of_their_data_set(root: Path) -> None:
    shutil.rmtree(root / "VizWiz" / "images" / "train")
    item = inventory(root)["VizWiz", "train images"]
    assert item.problem.startswith("8 of 8 looked for are not there, such as VizWiz/images/train/")
    assert "vizwiz.org" in item.source
    assert inventory(root)["VizWiz", "test images"].problem == ""


def test_a_damaged_or_empty_file_is_a_problem_too(root: Path) -> None:
    (root / "VizWiz" / "train.json").write_text("[]")
    (root / "VizWiz" / "val.json").write_text('[{"question_id": 1')
    found = inventory(root)
    assert found["VizWiz", "train"].problem
    assert found["VizWiz", "test"].problem


def test_files_of_captions_are_looked_for_too(tmp_path: Path) -> None:
    folder = tmp_path / "instructions" / "VizWiz"
    folder.mkdir(parents=True)
    (folder / "val_coco_type_3000.json").write_text(json.dumps({"images": [], "annotations": [{"caption": "x"}]}))
    tasks = benchmarks.build(UcitConfig(kind="ucit", root=str(tmp_path), tasks=("VizWiz",))).tasks
    [captions] = [item for item in take_inventory(tasks) if item.what == "captions"]
    assert "is not a file of COCO captions" in captions.problem
