"""Images are refused by their size before they are decoded, and files are told apart by what they hold."""

from __future__ import annotations

import io
import os
from pathlib import Path

import fsspec
import pytest
from PIL import Image, ImageFile

from lcia import digests
from lcia.data.images import ImageFolder, check_image, max_bytes
from lcia.data.records import RowError

LIMIT = 1000


def png(width: int, height: int, mode: str = "1") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(stream, "PNG")
    return stream.getvalue()


def refused(data: bytes, limit: int) -> RowError:
    with pytest.raises(RowError) as caught:
        check_image(data, "x", limit)
    return caught.value


# Sizes


@pytest.mark.parametrize(("width", "height"), [(20_000, 2_500), (2_500, 20_000), (1_000_000, 40)])
def test_an_image_whose_square_is_too_large_is_refused_undecoded(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = png(width, height)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("the image was decoded"))
    error = refused(data, 50_000_000)
    assert error.reason == "image_too_large"
    assert f"{width} x {height}" in error.message
    assert "square" in error.message


def test_the_default_limit_admits_ordinary_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    from lcia.config.run import DataConfig

    # Only the size matters here, and decoding takes seconds.
    monkeypatch.setattr("lcia.data.images._decode", lambda *_: None)
    monkeypatch.setattr("lcia.data.images.to_rgb", lambda _: None)
    for width, height in [(8000, 6000), (6000, 8000), (10_000, 5_000), (10_000, 1_000)]:
        check_image(png(width, height), "x", DataConfig().max_image_pixels)


def test_the_square_may_have_twice_the_pixels_and_no_more() -> None:
    check_image(png(44, 22), "x", LIMIT)
    assert "square" in refused(png(45, 22), LIMIT).message


def test_an_image_beyond_pillows_own_bound_is_refused_with_that_bound() -> None:
    error = refused(png(20_000, 10_000), 10**9)
    assert error.reason == "image_too_large"
    assert "Pillow" in error.message


def test_a_file_too_large_to_be_an_image_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate(max_bytes(LIMIT) + 1)
    folder = ImageFolder(str(tmp_path), LIMIT)

    class Unreadable:
        def __init__(self, fs: object) -> None:
            self.get_file_info = fs.get_file_info  # type: ignore[attr-defined]

    monkeypatch.setattr(folder, "_fs", Unreadable(folder._fs))
    with pytest.raises(RowError) as caught:
        folder.read("x.png")
    assert caught.value.reason == "image_too_large"


def test_an_uncompressed_image_of_16_bit_colours_is_not_too_large_a_file() -> None:
    side = 1000
    assert 8 * side * side < max_bytes(side * side)


# Names


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a" * 300 + ".png", "missing_image"),
        ("/".join(["d" * 200] * 30), "missing_image"),
        ("\ud800.png", "bad_text"),
        ("\x00.png", "image_outside_root"),
        ("none.png", "missing_image"),
        (".", "missing_image"),
        ("pipe", "missing_image"),
        ("device", "image_outside_root"),
    ],
)
def test_a_name_that_leads_to_no_file_is_its_rows_own_trouble(tmp_path: Path, name: str, reason: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    folder = ImageFolder(str(tmp_path), LIMIT)
    with pytest.raises(RowError) as caught:
        folder.read(name)
    assert caught.value.reason == reason
    assert folder.identities([name]) == [""]


# Identities


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are remembered at once, in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "GRAIN_NS", -1)


def test_local_files_are_told_apart_by_contents_and_not_by_time(tmp_path: Path) -> None:
    folder = ImageFolder(str(tmp_path), LIMIT)
    for name, data in [("a", b"1"), ("b", b"2"), ("c", b"1")]:
        (tmp_path / name).write_bytes(data)
    os.utime(tmp_path / "c", (1, 1))
    a, b, c, again = folder.identities(["a", "b", "c", "a"])
    assert a == c == again != b


@pytest.mark.usefixtures("settled")
def test_a_second_look_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"1")
    first = ImageFolder(str(tmp_path), LIMIT).identities(["a"])
    monkeypatch.setattr(digests, "_read", lambda path: pytest.fail(f"{path} was read again"))
    assert ImageFolder(str(tmp_path), LIMIT).identities(["a"]) == first


def test_remote_files_are_told_apart_by_size() -> None:
    memory = fsspec.filesystem("memory")
    for name, data in [("a", b"1"), ("b", b"22")]:
        memory.pipe(f"/identities/{name}", data)
    a, b, none = ImageFolder("memory://identities", LIMIT).identities(["a", "b", "none"])
    assert none == ""
    assert len({a, b, none}) == 3


def test_remote_files_are_told_apart_by_time_where_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    folder = ImageFolder("memory://identities", LIMIT)
    times = iter([1, 2])

    def info(paths: list[str]) -> list[SimpleNamespace]:
        return [SimpleNamespace(is_file=True, size=1, mtime_ns=next(times)) for _ in paths]

    monkeypatch.setattr(folder, "_fs", SimpleNamespace(get_file_info=info))
    monkeypatch.setattr("lcia.data.images.look_up", lambda fs, paths: fs.get_file_info(paths))
    assert len(set(folder.identities(["a", "b"]))) == 2
