"""The package of easy-VQA becomes four tasks that configs/easyvqa.yaml reads."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.easyvqa import ASK, ROWS, convert, package_data
from lcia.config.run import DataConfig
from lcia.data.sources import Reading, samples
from lcia.types import FileSource, InputError

PIXELS = DataConfig().max_image_pixels

QUESTIONS = [
    ["what shape is present?", "circle", 3],
    ["what color is the shape?", "red", 3],
    ["is there a circle?", "yes", 7],
    ["is no circle present?", "no", 7],
    ["what is the red shape?", "circle", 8],
]
NUMBERS = {"shape": [4, 0], "color": [1], "presence": [2], "absence": [3]}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The package's layout with five questions a split."""
    for split in ("train", "test"):
        folder = tmp_path / "package" / "easy_vqa" / "data" / split
        (folder / "images").mkdir(parents=True)
        (folder / "questions.json").write_text(json.dumps(QUESTIONS))
        for number in (3, 7, 8, 9):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / "images" / f"{number}.png")
    return tmp_path / "package"


@pytest.fixture
def chosen() -> dict[str, Any]:
    digest = hashlib.blake2b(json.dumps(QUESTIONS).encode(), digest_size=16).hexdigest()
    return {"questions": {"train": digest, "test": digest}, "rows": {"train": NUMBERS, "test": NUMBERS}}


def wheel(package: Path) -> Path:
    path = package.with_name("easy_vqa.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(package.rglob("*.*")):
            archive.write(file, file.relative_to(package))
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_each_task_is_read_with_its_answers_and_images(
    package: Path, chosen: dict[str, Any], tmp_path: Path, packed: bool, split: Any
) -> None:
    convert(package_data(wheel(package) if packed else package), chosen, tmp_path / "out")
    found = {}
    for task in ASK:
        source = FileSource(str(tmp_path / "out" / task / f"{split}.json"), "llava", split, str(tmp_path / "out"))
        found[task] = list(samples(Reading.of(source, "last_line", None, PIXELS)))
        assert {sample.instruction for sample in found[task]} == {ASK[task]}
    assert [s.id for s in found["shape"]] == [f"shape-{split}-0", f"shape-{split}-1"]
    assert "what is the red shape?" in found["shape"][0].messages[0].content
    assert {task: rows[0].references for task, rows in found.items()} == {
        "shape": ("circle",), "color": ("red",), "presence": ("yes",), "absence": ("no",)
    }  # fmt: skip
    assert Image.open(io.BytesIO(found["shape"][0].images[0])).getpixel((0, 0)) == (8, 0, 0)


def test_only_the_images_that_are_asked_about_are_copied(package: Path, chosen: dict[str, Any], tmp_path: Path) -> None:
    convert(package_data(package), chosen, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "images" / "train").iterdir()) == ["3.png", "7.png", "8.png"]


def test_the_same_package_gives_the_same_bytes(package: Path, chosen: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert(package_data(package), chosen, tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 14
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_other_questions_are_refused(package: Path, chosen: dict[str, Any], tmp_path: Path) -> None:
    (package / "easy_vqa" / "data" / "test" / "questions.json").write_text("[]")
    with pytest.raises(InputError, match=r"test/questions\.json is not the one of easy-vqa 1\.0"):
        convert(package_data(package), chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(package: Path, chosen: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not empty"):
        convert(package_data(package), chosen, tmp_path)


def test_a_folder_without_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the wheel"):
        package_data(tmp_path)


def test_no_question_is_drawn_twice() -> None:
    for tasks in json.loads(ROWS.read_text())["rows"].values():
        assert set(tasks) == set(ASK)
        assert max(Counter(number for numbers in tasks.values() for number in numbers).values()) == 1


def test_the_shared_rows_are_those_that_are_named(shared_data: Path) -> None:
    rows = json.loads(ROWS.read_text())["rows"]
    for split, tasks in rows.items():
        for task, numbers in tasks.items():
            assert len(json.loads((shared_data / "easyvqa" / task / f"{split}.json").read_text())) == len(numbers)
