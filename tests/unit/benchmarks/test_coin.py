"""CoIN's layout, read back from what MiniCoIN writes in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcia import benchmarks
from lcia.benchmarks.coin import TASKS
from lcia.config.benchmarks import COIN_ORDER, CoinConfig, MiniCoinConfig
from lcia.config.run import DataConfig
from lcia.data.minicoin.layout import write_coin_layout
from lcia.data.rows import Rows
from lcia.data.shards import write_source
from lcia.data.sources import Reading
from lcia.metrics.scoring import fitted, normalised
from lcia.types import FileSource, InputError, InstructionType, Sample, Source, TaskSpec

SMALL = MiniCoinConfig(train_size=3, validation_size=2, test_size=2)


def read(task: TaskSpec, source: Source, folder: Path) -> list[Sample]:
    folder.mkdir(parents=True)
    pixels = DataConfig().max_image_pixels
    write_source(Reading.of(source, task.instruction, task.max_samples, pixels), folder)
    rows = Rows([folder])
    return rows.take(range(len(rows)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coin")
    write_coin_layout(SMALL, folder)
    return folder


@pytest.mark.parametrize("name", COIN_ORDER)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_reader_finds_the_rows_that_were_drawn(root: Path, tmp_path: Path, name: str, split: str) -> None:
    config = CoinConfig(kind="coin", root=str(root), validation="validation.json")
    written, drawn = benchmarks.build(config)[name], benchmarks.build(SMALL)[name]
    found = read(written, getattr(written, split), tmp_path / "written")
    expected = read(drawn, getattr(drawn, split), tmp_path / "drawn")
    assert found == expected


def test_three_tasks_are_tested_on_val_json() -> None:
    tasks = benchmarks.build(CoinConfig(kind="coin", root="/coin")).tasks
    files = {task.name: task.test.path for task in tasks if isinstance(task.test, FileSource)}
    assert {name for name, path in files.items() if path == f"/coin/{name}/val.json"} == {"TextVQA", "VizWiz", "VQAv2"}
    assert sum(path.endswith("/test.json") for path in files.values()) == 5


def test_annotations_may_lie_in_a_folder_of_their_own() -> None:
    task = benchmarks.build(CoinConfig(kind="coin", root="/coin", annotations="origin", max_samples=9))["GQA"]
    assert task.train == FileSource("/coin/origin/GQA/train.json", "llava", "train", "/coin")
    assert task.max_samples == 9


@pytest.mark.parametrize(
    ("kind", "folder"),
    [("origin", "Instructions"), ("diverse", "Instructions_Diverse"), ("10type", "Instructions_10Type")],
)
def test_an_instruction_type_chooses_the_folder_of_the_authors_scripts(kind: InstructionType, folder: str) -> None:
    config = CoinConfig(kind="coin", root="/coin/cl_dataset", annotations="../playground", instructions=kind)
    task = benchmarks.build(config)["TextVQA"]
    assert task.train == FileSource(
        f"/coin/playground/{folder}/TextVQA/train.json", "llava", "train", "/coin/cl_dataset"
    )
    assert isinstance(task.test, FileSource)
    assert task.test.path == f"/coin/playground/{folder}/TextVQA/val.json"


def test_the_rows_of_an_instruction_type_are_read_from_beside_the_images(tmp_path: Path) -> None:
    images, diverse = tmp_path / "cl_dataset", tmp_path / "playground" / "Instructions_Diverse"
    drawn = MiniCoinConfig(tasks=("GQA",), instructions="diverse", train_size=3, validation_size=1, test_size=1)
    write_coin_layout(drawn, images)
    diverse.mkdir(parents=True)
    (diverse / "GQA").mkdir()
    (images / "GQA" / "train.json").rename(diverse / "GQA" / "train.json")
    config = CoinConfig(kind="coin", root=str(images), annotations="../playground", instructions="diverse")
    spec, expected = benchmarks.build(config)["GQA"], benchmarks.build(drawn)["GQA"]
    assert read(spec, spec.train, tmp_path / "a") == read(expected, expected.train, tmp_path / "b")


def test_the_three_orders_are_those_of_the_paper() -> None:
    origin = ("ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCR-VQA")
    alphabet = ("GQA", "Grounding", "ImageNet", "OCR-VQA", "ScienceQA", "TextVQA", "VizWiz", "VQAv2")
    orders = dict(benchmarks.build(CoinConfig(kind="coin", root="/coin")).orders)
    assert orders == {"origin": origin, "reverse": origin[::-1], "alphabet": alphabet}


def test_each_task_has_its_instruction_rule() -> None:
    rules = {task.name: task.instruction for task in benchmarks.build(CoinConfig(kind="coin", root="/coin")).tasks}
    assert rules.pop("ImageNet") == "after_image"
    assert rules.pop("Grounding") == "before_colon"
    assert set(rules.values()) == {"last_line"}


def test_the_facts_are_those_of_the_tasks_in_the_order() -> None:
    assert tuple(TASKS) == COIN_ORDER


def test_ten_answers_are_judged_softly_in_strict_and_by_the_first_in_legacy() -> None:
    answers = ["stop"] * 2 + ["stop sign"] * 7 + ["a sign"]
    scores = [fitted(scorer, [])("stop sign", answers) for scorer in TASKS["VQAv2"].scorers]
    assert scores == [1, 0]


def test_a_task_that_coin_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="COCO"):
        benchmarks.build(CoinConfig(kind="coin", root="/coin", tasks=("GQA", "COCO")))


@pytest.mark.parametrize(
    ("task", "prediction", "references", "strict", "legacy"),
    [  # a case for each trap of docs/method.md 6
        ("ScienceQA", "It is a whale, so B.", ["B"], 1, 0),  # legacy: the article is choice A
        ("ScienceQA", "It is a whale, so B.", ["A"], 0, 1),
        ("TextVQA", "the Three", ["3"] * 4 + ["four"] * 6, 1, 1),  # EvalAI's form of an answer in both
        ("TextVQA", "3", ["3"] * 2 + ["four"] * 8, 0.6, 0.6),
        ("ImageNet", "", ["tabby"], 0, 1),  # legacy: the empty answer is part of every name
        ("ImageNet", "a tabby, tabby cat", ["Tabby"], 1, 1),
        ("GQA", "Yes.", ["yes"], 1, 1),
        ("OCR-VQA", "Yes.", ["yes"], 0, 0),  # only GQA drops the dot
        ("VizWiz", "cola", ["coke"] * 1 + ["cola"] * 9, 1, 0),  # legacy: one answer
        ("VizWiz", "coke ", ["coke"] * 10, 1, 0),  # legacy: blanks count
        ("VQAv2", "2", ["two"] * 10, 1, 0),  # legacy: no form but case
        ("Grounding", "[0.0,0.0,1.0,0.59]", ["[0.0,0.0,1.0,1.0]"], 1, 0),  # legacy: the last digit is cut off
        ("Grounding", "[0.0,0.0,1.0,0.50]", ["[0.0,0.0,1.0,1.0]"], 0, 0),  # half is not more than half
    ],
)
def test_each_trap_of_the_benchmarks_scripts_is_in_legacy_and_not_in_strict(
    task: str, prediction: str, references: list[str], strict: float, legacy: float
) -> None:
    right, theirs = TASKS[task].scorers
    assert fitted(right, [references])(prediction, references) == pytest.approx(strict)
    assert fitted(theirs, [references])(prediction, references) == pytest.approx(legacy)
    assert fitted(normalised(right), [references])(prediction, references) >= strict
