"""MiniCoIN: rows by number, CoIN's formats, and instructions that fall into the published groups."""

from __future__ import annotations

import io
import json
from collections import Counter
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer

from lcia import benchmarks
from lcia.benchmarks.minicoin import benchmark
from lcia.config.benchmarks import COIN_ORDER, MiniCoinConfig
from lcia.config.run import RunConfig
from lcia.data.minicoin import drawing
from lcia.data.minicoin.instructions import DIVERSE, ORIGIN, TEN
from lcia.data.minicoin.layout import write_coin_layout
from lcia.data.minicoin.rows import generate
from lcia.data.records import draft, instruction_of
from lcia.types import IMAGE_TOKEN, GeneratedSource, InputError, Sample

VQA = {"TextVQA", "GQA", "VizWiz", "VQAv2", "OCR-VQA"}


def rows(task: str, split: str = "train", count: int = 30, seed: int = 0) -> list[Sample]:
    return list(generate(GeneratedSource(task, split, count, seed), 0, count))  # type: ignore[arg-type]


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(0, 12), task=st.sampled_from(COIN_ORDER))
def test_blocks_may_be_cut_anywhere(cut: int, task: str) -> None:
    source = GeneratedSource(task, "train", 12, 5)
    assert [*generate(source, 0, cut), *generate(source, cut, 99)] == list(generate(source, 0, 12))


@pytest.mark.parametrize("other", [("test", 0), ("validation", 0), ("train", 1)])
def test_another_split_or_seed_has_other_pictures(other: tuple[str, int]) -> None:
    split, seed = other
    mine = {sample.images for sample in rows("GQA")}
    assert not mine & {sample.images for sample in rows("GQA", split, seed=seed)}


@pytest.mark.parametrize("task", COIN_ORDER)
def test_a_row_has_one_picture_and_one_place_for_it(task: str) -> None:
    for sample in rows(task):
        assert sample.messages[0].content.count(IMAGE_TOKEN) == len(sample.images) == 1
        assert Image.open(io.BytesIO(sample.images[0])).format == "PNG"


@pytest.mark.parametrize("task", COIN_ORDER)
def test_training_rows_end_with_the_answer_and_test_rows_keep_it_apart(task: str) -> None:
    trained, tested = rows(task)[0], rows(task, "test")[0]
    assert [message.role for message in trained.messages] == ["user", "assistant"]
    assert trained.references == (trained.messages[-1].content,)
    assert [message.role for message in tested.messages] == ["user"]
    assert tested.references[0]


@pytest.mark.parametrize("task", COIN_ORDER)
def test_the_right_answer_scores_full_marks_both_ways(task: str) -> None:
    spec = benchmark(MiniCoinConfig())[task]
    for sample in rows(task, "test"):
        assert spec.strict(sample.references[0], sample.references) == 1
        assert spec.legacy(sample.references[0], sample.references) == 1


@pytest.mark.parametrize("task", COIN_ORDER)
def test_no_single_answer_wins_a_task(task: str) -> None:
    answers = Counter(sample.references[0] for sample in rows(task, count=300))
    assert answers.most_common(1)[0][1] / 300 < 0.45


def test_a_grounded_box_is_where_the_phrase_s_colour_is() -> None:
    for sample in rows("Grounding"):
        colour = sample.messages[0].content.rsplit(": ", 1)[1].split()[0]
        pixels = np.asarray(Image.open(io.BytesIO(sample.images[0])))
        down, across = np.nonzero((pixels == drawing.COLOURS[colour]).all(axis=2))
        extent = np.array([across.min(), down.min(), across.max() + 1, down.max() + 1]) / 32
        assert np.allclose(json.loads(sample.references[0]), extent, atol=0.005 + 1e-9)


def test_the_letter_of_a_place_names_the_quarter_where_the_only_thing_is() -> None:
    checked = 0
    for sample in rows("ScienceQA", count=100):
        options = dict(line.split(". ", 1) for line in sample.messages[0].content.splitlines() if line[1:3] == ". ")
        pixels = np.asarray(Image.open(io.BytesIO(sample.images[0])))
        things = [(pixels == colour).all(axis=2) for colour in drawing.COLOURS.values()]
        seen = [np.argwhere(where).mean(axis=0) for where in things if where.any()]
        if "Where is" in sample.messages[0].content and len(seen) == 1:
            down, across = seen[0] > 16
            place = f"{'bottom' if down else 'top'} {'right' if across else 'left'}"
            assert options[sample.references[0]] == place
            checked += 1
    assert checked > 3


def test_the_letter_of_a_number_counts_the_colours_in_the_picture() -> None:
    for sample in rows("ScienceQA", count=60):
        if "How many" in sample.messages[0].content:
            pixels = np.asarray(Image.open(io.BytesIO(sample.images[0])))
            count = sum((pixels == colour).all(axis=2).any() for colour in drawing.COLOURS.values())
            assert sample.references == (" ABC"[count],)


def test_an_unknown_task_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"no task 'CIFAR'.*ScienceQA"):
        next(generate(GeneratedSource("CIFAR", "train", 1, 0), 0, 1))
    with pytest.raises(InputError, match="no task 'CIFAR'"):
        benchmark(MiniCoinConfig(tasks=("GQA", "CIFAR")))


def test_the_orders_are_those_of_the_paper() -> None:
    orders = dict(benchmark(MiniCoinConfig()).orders)
    assert orders["origin"] == COIN_ORDER
    assert orders["reverse"] == COIN_ORDER[::-1]
    assert orders["alphabet"] == (
        "GQA", "Grounding", "ImageNet", "OCR-VQA", "ScienceQA", "TextVQA", "VizWiz", "VQAv2"
    )  # fmt: skip


@pytest.mark.parametrize(("templates", "threshold"), [(ORIGIN, 0.9), (DIVERSE, 0.3), (TEN, 0.3)])
def test_the_instructions_fall_into_the_published_groups(
    templates: dict[str, tuple[str, ...]], threshold: float
) -> None:
    for a, b in combinations_with_replacement(COIN_ORDER, 2):
        together = a == b or {a, b} <= VQA
        # Every third of ten paraphrases: fitting all 100 pairs of all tasks takes half a minute.
        assert (_similarity(templates[a][::3], templates[b][::3]) >= threshold) == together, (a, b)


def _similarity(a: tuple[str, ...], b: tuple[str, ...]) -> float:
    """The authors' way: a TF-IDF of its own for every pair of strings."""
    pairs = [TfidfVectorizer(stop_words="english").fit_transform([x, y]) for x in a for y in b]
    return float(np.mean([(table[0] @ table[1].T).toarray()[0, 0] for table in pairs]))


def test_ten_paraphrases_are_ten_and_each_is_used() -> None:
    source = GeneratedSource("OCR-VQA", "train", 200, 0, "10type")
    assert {sample.instruction for sample in generate(source, 0, 200)} == set(TEN["OCR-VQA"])
    assert all(len(set(lines)) == 10 for lines in TEN.values())


@pytest.mark.parametrize("task", COIN_ORDER)
def test_the_written_layout_reads_back_as_the_generated_rows(task: str, tmp_path: Path) -> None:
    config = MiniCoinConfig(tasks=(task,), train_size=5, validation_size=2, test_size=3)
    write_coin_layout(config, tmp_path)
    spec = benchmark(config).tasks[0]
    tested = "val.json" if task in ("TextVQA", "VizWiz", "VQAv2") else "test.json"
    folder = tmp_path / ("OCRVQA" if task == "OCR-VQA" else task)
    for source, file in ((spec.train, "train.json"), (spec.test, tested)):
        assert isinstance(source, GeneratedSource)
        for sample, raw in zip(generate(source, 0, 5), json.loads((folder / file).read_text()), strict=True):
            read = draft(raw)
            assert read.messages == sample.messages
            assert instruction_of(read.messages[0].content, spec.instruction) == sample.instruction
            assert (tmp_path / str(read.images[0])).read_bytes() == sample.images[0]
            assert source.split == "train" or read.answers == sample.references


# Orders -----------------------------------------------------------------------------------------------------------

GIVEN = ("VQAv2", "Grounding", "OCR-VQA")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, GIVEN),
        ("given", GIVEN),
        ("origin", ("Grounding", "VQAv2", "OCR-VQA")),
        ("reverse", ("OCR-VQA", "VQAv2", "Grounding")),
        ("alphabet", ("Grounding", "OCR-VQA", "VQAv2")),
        (("OCR-VQA",), ("OCR-VQA",)),
    ],
)
def test_an_order_is_listed_or_named(wanted: str | tuple[str, ...] | None, expected: tuple[str, ...]) -> None:
    config = RunConfig(benchmark=MiniCoinConfig(tasks=GIVEN), order=wanted)
    assert benchmarks.build(config.benchmark).order(config.order) == expected


@pytest.mark.parametrize("wanted", ["backwards", ("GQA", "Cooking")])
def test_an_order_that_the_benchmark_does_not_have_is_refused(wanted: str | tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"it has given, reverse, origin, alphabet|it has VQAv2, Grounding, OCR-VQA"):
        benchmarks.build(MiniCoinConfig(tasks=GIVEN)).order(wanted)
