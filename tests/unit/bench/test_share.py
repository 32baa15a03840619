"""A validation share: one training file, two sides that share no row and no picture."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from lcia import benchmarks
from lcia.config.benchmarks import CustomConfig, CustomTask
from lcia.config.run import DataConfig
from lcia.data.records import Defect
from lcia.data.rows import Rows
from lcia.data.shards import write_source
from lcia.data.sources import Reading, all_chunks, check, samples
from lcia.types import FileSource, InputError, Sample, Share, Split

PIXELS = DataConfig().max_image_pixels

ROWS = 400
PICTURES = 100


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (2, 2), (number, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def row(number: int, picture: int | None) -> dict[str, object]:
    place = "" if picture is None else "<image>\n"
    turns = [{"from": "human", "value": f"{place}What?\nOne word."}, {"from": "gpt", "value": "dot"}]
    return {"id": f"r{number}", "conversations": turns} | ({} if picture is None else {"image": f"{picture}.png"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 rows about 100 pictures, each of which four rows share."""
    folder = tmp_path_factory.mktemp("rows")
    for number in range(PICTURES):
        (folder / f"{number}.png").write_bytes(png(number))
    (folder / "train.json").write_text(json.dumps([row(n, n % PICTURES) for n in range(ROWS)]))
    return folder


def source(folder: Path, held_out: bool, seed: int = 0, fraction: float = 0.3) -> FileSource:
    split: Split = "validation" if held_out else "train"
    return FileSource(str(folder / "train.json"), "llava", split, share=Share(fraction, seed, held_out))


def side(folder: Path, held_out: bool, seed: int = 0, fraction: float = 0.3) -> list[Sample]:
    return list(samples(Reading.of(source(folder, held_out, seed, fraction), "last_line", None, PIXELS)))


def ids(rows: list[Sample]) -> list[str]:
    return [sample.id for sample in rows]


def test_the_two_sides_are_all_rows_and_share_none(folder: Path) -> None:
    kept, held = ids(side(folder, False)), ids(side(folder, True))
    assert sorted([*kept, *held]) == sorted(f"r{n}" for n in range(ROWS))


def test_no_picture_is_on_both_sides(folder: Path) -> None:
    kept, held = side(folder, False), side(folder, True)
    assert {s.images for s in kept}.isdisjoint(s.images for s in held)


def test_about_the_given_fraction_of_the_pictures_is_held_out(folder: Path) -> None:
    # 30 expected of 100 with a standard deviation of 4.6; the draw is a fixed one.
    assert 16 <= len({s.images for s in side(folder, True)}) <= 44


def test_another_seed_draws_other_pictures(folder: Path) -> None:
    assert set(ids(side(folder, True, seed=1))) != set(ids(side(folder, True, seed=0)))


def test_a_larger_fraction_holds_the_smaller_one(folder: Path) -> None:
    assert set(ids(side(folder, True, fraction=0.2))) < set(ids(side(folder, True, fraction=0.4)))


def test_held_out_rows_end_with_the_question_and_keep_the_answer_as_reference(folder: Path) -> None:
    held = side(folder, True)
    assert {s.messages[-1].role for s in held} == {"user"}
    assert {s.references for s in held} == {("dot",)}


def test_rows_without_a_picture_go_by_their_ids(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([row(n, None) for n in range(ROWS)]))
    kept, held = ids(side(tmp_path, False)), ids(side(tmp_path, True))
    assert sorted([*kept, *held]) == sorted(f"r{n}" for n in range(ROWS))
    # 120 expected with a standard deviation of 9; the draw is a fixed one.
    assert 93 <= len(held) <= 147


def test_a_bad_row_is_counted_once_and_with_the_training_rows(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([row(n, None) for n in range(20)] + [row(20, 999)]))
    found = {
        held: [
            outcome
            for chunk in all_chunks(reading)
            for _, outcome in check(reading, chunk)
            if isinstance(outcome, Defect)
        ]
        for held in (False, True)
        for reading in [Reading.of(source(tmp_path, held), "last_line", None, PIXELS)]
    }
    assert [defect.reason for defect in found[False]] == ["missing_image"]
    assert found[True] == []


def test_the_limit_counts_rows_before_they_are_parted(folder: Path) -> None:
    sides = [list(samples(Reading.of(source(folder, h), "last_line", 50, PIXELS))) for h in (False, True)]
    assert sorted(ids(sides[0]) + ids(sides[1])) == sorted(f"r{n}" for n in range(50))


def test_counts_of_the_shards_are_those_of_the_side(folder: Path, tmp_path: Path) -> None:
    counts = write_source(Reading.of(source(folder, True), "last_line", None, PIXELS), tmp_path)
    assert (counts.rows, counts.bad) == (len(side(folder, True)), 0)
    rows = Rows([tmp_path])
    assert ids(rows.take(range(len(rows)))) == ids(side(folder, True))


def test_a_share_that_no_row_falls_into_is_refused_with_its_key(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"benchmark\.validation_share"):
        write_source(Reading.of(source(folder, True, fraction=1e-9), "last_line", None, PIXELS), tmp_path)


# The custom benchmark asks for it ---------------------------------------------------------------------------------


def test_a_task_without_a_validation_file_gets_both_sides_of_its_training_file() -> None:
    tasks = (CustomTask(name="a", train="a.json", test="t.json"),)
    spec = benchmarks.build(CustomConfig(kind="custom", root="/d", tasks=tasks, validation_share=0.1, seed=5))["a"]
    assert spec.train == FileSource("/d/a.json", "llava", "train", "/d", share=Share(0.1, 5, held_out=False))
    assert spec.validation == FileSource("/d/a.json", "llava", "validation", "/d", share=Share(0.1, 5, held_out=True))
    assert spec.test == FileSource("/d/t.json", "llava", "test", "/d")


def test_a_task_with_a_validation_file_trains_on_its_whole_training_file() -> None:
    tasks = (CustomTask(name="a", train="a.json", test="t.json", validation="v.json"),)
    spec = benchmarks.build(CustomConfig(kind="custom", root="/d", tasks=tasks, validation_share=0.1))["a"]
    assert spec.train == FileSource("/d/a.json", "llava", "train", "/d")
    assert spec.validation == FileSource("/d/v.json", "llava", "validation", "/d")
