"""What is kept of the answers of a stage, and what they score."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcia.evaluation.answers import write_answers
from lcia.evaluation.scored import SCORINGS, Scored, read_scored
from lcia.metrics.captions import CIDER, fit_cider
from lcia.metrics.scoring import exact
from lcia.types import GeneratedSource, TaskScorer, TaskSpec

SOURCE = GeneratedSource("GQA", "test", 1, 0)


def _equal(prediction: str, references: object) -> float:
    return float(prediction.strip() in list(references))  # type: ignore[call-overload]


def _long(prediction: str, references: object) -> float:
    return min(len(prediction) / 10, 1.0)


def _scored(folder: Path, *said: tuple[str, list[str]], images: str = "", strict: TaskScorer = _equal) -> Scored:
    """`images`: a letter for the picture of each sample; without, nothing is known of them."""
    records = [
        {"row": row, "id": str(row), "instruction": "", "question": "?", "prediction": prediction,
         "references": references, "adapter": None} | ({"images": images[row]} if images else {})
        for row, (prediction, references) in enumerate(said)
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    write_answers(reversed(records), 2.5, folder)
    return read_scored(folder, TaskSpec("GQA", SOURCE, SOURCE, None, "last_line", strict, _long))


def test_every_answer_has_a_score_under_each_scoring_in_the_order_of_the_rows(tmp_path: Path) -> None:
    scored = _scored(tmp_path, ("red", ["red"]), ("a blue", ["blue"]), ("blue", ["blue", "navy"]))
    assert scored.scores["strict"].tolist() == [1.0, 0.0, 1.0]
    assert scored.scores["legacy"].tolist() == [0.3, 0.6, 0.4]
    # A scorer that is not one of ours has no normalised one: it stands for itself.
    assert scored.percent == pytest.approx({"strict": 200 / 3, "legacy": 130 / 3, "normalised": 200 / 3})
    assert scored.result == {"samples": 3, "seconds": 2.5}


def test_the_normalised_column_keeps_what_was_lost_to_case_and_wording_alone(tmp_path: Path) -> None:
    said = [("red", ["red"]), ("The red.", ["red"]), ("blue", ["red"]), ("two", ["2"])]
    scored = _scored(tmp_path, *said, strict=exact)
    assert scored.scores["strict"].tolist() == [1, 0, 0, 0]
    assert scored.scores["normalised"].tolist() == [1, 1, 0, 1]


def test_cider_weighs_words_by_the_references_of_all_samples(tmp_path: Path) -> None:
    captions = [["a red bus", "a bus"], ["a blue car", "the car"], ["a red cat", "the cat"]]
    scored = _scored(tmp_path, *zip(["a red bus", "a red", "cat"], captions, strict=True), strict=CIDER)
    cider = fit_cider(captions)
    assert scored.scores["strict"].tolist() == [
        cider(said, right) for said, right in zip(["a red bus", "a red", "cat"], captions, strict=True)
    ]


def test_the_constant_answer_is_the_most_frequent_reference_and_counts_once_a_sample(tmp_path: Path) -> None:
    scored = _scored(tmp_path, ("", ["a", "a", "a"]), ("", ["b"]), ("", ["b", "c"]), ("", ["d"]))
    assert (scored.majority, scored.constant["strict"]) == ("b", 50.0)


def test_the_five_most_frequent_answers_are_named_with_their_counts(tmp_path: Path) -> None:
    said = [answer for number, answer in enumerate("abcdefg", 1) for _ in range(number)]
    scored = _scored(tmp_path, *((f" {answer}\n", ["x"]) for answer in said))
    assert scored.most_said == (("g", 7), ("f", 6), ("e", 5), ("d", 4), ("c", 3))


def test_the_first_answers_are_kept_whole(tmp_path: Path) -> None:
    scored = _scored(tmp_path, *((word, [word]) for word in "abcde"))
    assert [(record["id"], record["prediction"]) for record in scored.examples] == [("0", "a"), ("1", "b"), ("2", "c")]


def test_samples_about_one_picture_are_taken_together(tmp_path: Path) -> None:
    said = [(answer, ["yes"]) for answer in ("yes", "yes", "no", "no", "yes", "yes")]
    together, apart = (_scored(tmp_path / name, *said, images=name) for name in ("aabbcc", "abcdef"))
    unknown = _scored(tmp_path / "unknown", *said)
    assert unknown.intervals == apart.intervals
    widths = [found.intervals["strict"] for found in (together, apart)]
    assert widths[0] == (0.0, 100.0)
    assert widths[1] is not None
    assert widths[1][1] - widths[1][0] < 120
    assert _scored(tmp_path / "aaaaaa", *said, images="aaaaaa").intervals == dict.fromkeys(SCORINGS)
