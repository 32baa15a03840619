"""Wrong answers: how many, whose, and the same however rows are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcia.config.run import DataConfig, NoiseConfig
from lcia.data.noise import NoisyRows, answering, with_noise
from lcia.data.rows import Rows
from lcia.data.shards import write_source
from lcia.data.sources import Reading
from lcia.types import FileSource, Message, Sample

ROWS = 400
SWAP = NoiseConfig(kind="swap", share=0.2)
GIBBERISH = NoiseConfig(kind="gibberish", share=0.1)


def written(folder: Path, ids: Sequence[str]) -> Path:
    """Shards of rows whose answer names them."""
    (folder / "out").mkdir(parents=True)
    turns = [[{"from": "human", "value": "What?"}, {"from": "gpt", "value": f"answer of {i}"}] for i in ids]
    rows = [{"id": i, "conversations": each} for i, each in zip(ids, turns, strict=True)]
    (folder / "rows.json").write_text(json.dumps(rows))
    source = FileSource(str(folder / "rows.json"), "llava")
    write_source(Reading.of(source, "whole", None, DataConfig().max_image_pixels), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return Rows([written(tmp_path_factory.mktemp("task"), [f"a{i}" for i in range(ROWS)])])


def answers(found: Sequence[Sample]) -> list[str]:
    return [sample.messages[-1].content for sample in found]


def changed(rows: Rows, noise: NoiseConfig) -> dict[int, str]:
    """The new answers by row number."""
    every = range(len(rows))
    pairs = zip(answers(rows.take(every)), answers(NoisyRows(rows, noise).take(every)), strict=True)
    return {number: after for number, (before, after) in enumerate(pairs) if before != after}


def test_without_noise_rows_are_what_they_were(rows: Rows) -> None:
    assert with_noise(rows, None) is rows


@pytest.mark.parametrize("noise", [SWAP, GIBBERISH])
def test_about_the_share_of_the_rows_is_changed(rows: Rows, noise: NoiseConfig) -> None:
    spread = (noise.share * (1 - noise.share) / ROWS) ** 0.5
    assert len(changed(rows, noise)) / ROWS == pytest.approx(noise.share, abs=3 * spread)


@pytest.mark.parametrize("kind", ["swap", "gibberish"])
def test_a_share_of_one_is_every_row(rows: Rows, kind: Any) -> None:
    assert len(changed(rows, NoiseConfig(kind=kind, share=1))) == ROWS


def test_a_swapped_answer_is_that_of_another_row_of_the_task(rows: Rows, tmp_path: Path) -> None:
    two = Rows([written(tmp_path / "b", [f"b{i}" for i in range(30)]), written(tmp_path / "c", ["c0", "c1", "c2"])])
    for number, answer in changed(two, NoiseConfig(kind="swap", share=1)).items():
        assert answer.startswith("answer of b" if number < 30 else "answer of c")
    others = changed(rows, NoiseConfig(kind="swap", share=1)).values()
    # Of 400 draws from 399 rows about 1 - 1/e are distinct; one row, or the next one, would be 1 or 400.
    assert 0.55 < len(set(others)) / ROWS < 0.72


def test_gibberish_is_letters_as_many_as_the_answer_had(rows: Rows) -> None:
    own = answers(rows.take(range(ROWS)))
    for number, answer in changed(rows, GIBBERISH).items():
        assert len(answer) == len(own[number])
        assert answer.isalpha()
        assert answer.islower()


@pytest.mark.parametrize("noise", [SWAP, GIBBERISH])
def test_a_row_is_the_same_alone_in_any_batch_and_in_any_process(rows: Rows, noise: NoiseConfig) -> None:
    whole = NoisyRows(rows, noise).take(range(ROWS))
    again = NoisyRows(Rows(rows._folders, cache_bytes=1), noise)
    assert [again.take([number])[0] for number in range(0, ROWS, 7)] == whole[::7]
    assert again.take([5, 3, 5]) == [whole[5], whole[3], whole[5]]


def test_another_seed_changes_other_rows(rows: Rows) -> None:
    assert changed(rows, SWAP).keys() != changed(rows, SWAP.model_copy(update={"seed": 1})).keys()


def test_rows_are_drawn_by_their_ids_so_that_a_part_of_a_task_has_the_noise_of_the_whole(
    rows: Rows, tmp_path: Path
) -> None:
    part = Rows([written(tmp_path, [f"a{i}" for i in range(0, ROWS, 4)])])
    assert set(changed(part, GIBBERISH)) == {number // 4 for number in changed(rows, GIBBERISH) if number % 4 == 0}


def test_the_only_row_of_a_task_has_its_own_answer(tmp_path: Path) -> None:
    assert changed(Rows([written(tmp_path, ["only"])]), NoiseConfig(kind="swap", share=1)) == {}


def test_only_the_last_turn_is_answered_otherwise() -> None:
    turns = tuple(Message(role, role) for role in ("user", "assistant", "user", "assistant"))
    found = answering(Sample("1", "user", turns, (b"png",), ("assistant",)), "new")
    assert found == Sample("1", "user", (*turns[:3], Message("assistant", "new")), (b"png",), ("new",))


def test_noisy_rows_are_as_many_and_as_long(rows: Rows) -> None:
    noisy = NoisyRows(rows, SWAP)
    assert len(noisy) == ROWS
    np.testing.assert_array_equal(noisy.lengths(), rows.lengths())


def test_a_row_knows_the_rows_of_its_folder(tmp_path: Path) -> None:
    two = Rows([written(tmp_path / "b", ["1", "2"]), written(tmp_path / "c", ["1", "2", "3"])])
    assert [two.folder_of(number) for number in range(5)] == [range(2)] * 2 + [range(2, 5)] * 3


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"greater than 0|less than or equal to 1"):
        NoiseConfig(kind="swap", share=share)
