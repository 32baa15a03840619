"""Places by name: URLs, absolute paths, and paths seen from a root."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcia.addresses import anchored, below, is_anchored, is_url


def test_a_url_and_an_absolute_path_are_the_same_place_in_every_folder() -> None:
    assert [is_anchored(place) for place in ("s3://bucket/rows", "/data/rows", "data/rows")] == [True, True, False]
    assert [is_url(place) for place in ("s3://bucket/rows", "/data/rows", "data/rows")] == [True, False, False]


def test_a_relative_path_is_seen_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert anchored("rows.json") == str(tmp_path / "rows.json")
    assert anchored("s3://bucket/rows.json") == "s3://bucket/rows.json"


@pytest.mark.parametrize(
    ("root", "name", "place"),
    [
        ("/data", "a/rows.json", "/data/a/rows.json"),
        ("/data", "", "/data"),
        ("/data", "/other/rows.json", "/other/rows.json"),
        ("/data", "s3://bucket/rows.json", "s3://bucket/rows.json"),
        ("s3://bucket/", "a/rows.json", "s3://bucket/a/rows.json"),
    ],
)
def test_a_name_is_seen_from_its_root_unless_it_is_a_place_itself(root: str, name: str, place: str) -> None:
    assert below(root, name) == place
