"""An encoded image becomes the same 8-bit RGB pixels wherever it is looked at."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lcia.assistants.pictures import Pictures
from lcia.data.images import check_image
from lcia.data.pixels import FORMATS, decode_rgb
from lcia.data.records import RowError
from lcia.report.wording import picture

RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)
FINE = {"quality": 100, "subsampling": 0}
LOSSLESS: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True, "exact": True}, "JPEG": FINE, "MPO": FINE}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **LOSSLESS.get(kind, {}) | options)
    return stream.getvalue()


def corners() -> Image.Image:
    """16 x 8, red in its upper left quarter, green elsewhere."""
    image = Image.new("RGB", (16, 8), GREEN)
    image.paste(RED, (0, 0, 8, 4))
    return image


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode_rgb(data))


# Formats


def difference(data: bytes, image: Image.Image) -> int:
    """The largest in any pixel and colour."""
    return int(np.abs(pixels(data).astype(int) - np.asarray(image)).max())


@pytest.mark.parametrize("kind", FORMATS)
def test_each_documented_format_is_read(kind: str) -> None:
    data = encoded(corners(), kind)
    check_image(data, "x", 1000)
    assert difference(data, corners()) <= 5 * (kind == "JPEG")


def test_a_jpeg_of_several_pictures_is_read() -> None:
    data = encoded(corners(), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 8))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    check_image(data, "x", 1000)
    assert difference(data, corners()) <= 5


def test_every_format_has_a_decoder() -> None:
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)


def test_an_error_of_our_own_is_not_taken_for_a_damaged_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("MPO")

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(KeyError):
        check_image(b"x", "x", 1000)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_read(kind: str) -> None:
    other = Image.new("RGB", (16, 8), (0, 0, 255))
    data = encoded(corners(), kind, save_all=True, append_images=[other])
    check_image(data, "x", 1000)
    assert difference(data, corners()) == 0


def test_formats_that_may_start_programs_are_refused() -> None:
    with pytest.raises(RowError, match="cannot be read as PNG, JPEG"):
        check_image(encoded(corners(), "EPS"), "x", 1000)


# 16 bits


def ramp() -> NDArray[np.uint16]:
    """[2, 1024]: all of 16 bits."""
    return np.rint(np.linspace(0, 65535, 1024)).astype(np.uint16)[None].repeat(2, axis=0)


@pytest.mark.parametrize(("kind", "order"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2"), ("PPM", "<u2")])
def test_a_ramp_of_16_bits_stays_a_ramp(kind: str, order: str) -> None:
    data = encoded(Image.fromarray(ramp().astype(order)), kind)
    check_image(data, "x", 10**7)
    found = pixels(data)
    assert np.abs(found - ramp()[..., None] / 257).max() <= 0.5
    assert (found[..., 0] == found[..., 1]).all()


def test_colour_of_16_bits_keeps_its_levels() -> None:
    grey = ramp()
    header = f"P6 {grey.shape[1]} {grey.shape[0]} 65535\n".encode()
    data = header + np.stack([grey, grey[:, ::-1], grey], axis=2).astype(">u2").tobytes()
    check_image(data, "x", 10**7)
    assert np.abs(pixels(data)[..., 0] - grey / 257).max() <= 1
    assert np.abs(pixels(data)[..., 1] - grey[:, ::-1] / 257).max() <= 1


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_samples_of_32_bits_have_no_agreed_white_and_are_refused(dtype: str) -> None:
    with pytest.raises(RowError, match="32 bits") as caught:
        check_image(encoded(Image.fromarray(ramp().astype(dtype)), "TIFF"), "x", 10**7)
    assert caught.value.reason == "unreadable_image"


# Orientation


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_stands_upright_by_its_exif_orientation(kind: str, orientation: int) -> None:
    upright = np.asarray(corners())
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    assert decode_rgb(data).size == (16, 8)
    assert difference(data, corners()) <= 5 * (kind == "JPEG")


def test_a_damaged_exif_block_leaves_the_image_as_it_is() -> None:
    data = encoded(corners(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xffgarbage")
    check_image(data, "x", 1000)
    assert pixels(data).shape == (8, 16, 3)


# Transparency


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_what_is_transparent_shows_white(kind: str) -> None:
    image = Image.new("RGBA", (4, 1))
    image.putdata([(0, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 51), (9, 9, 9, 0)])
    data = encoded(image, kind)
    check_image(data, "x", 1000)
    assert pixels(data).tolist() == [[[255] * 3, [0] * 3, [255, 204, 204], [255] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_shows_white(kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*BLACK, *RED, *[0] * 762])
    image.putdata([0, 1])
    assert pixels(encoded(image, kind, transparency=0)).tolist() == [[list(WHITE), list(RED)]]


@pytest.mark.parametrize(
    ("mode", "values", "key", "expected"),
    [
        ("L", [7, 9], 7, [[WHITE, (9, 9, 9)]]),
        ("RGB", [(7, 8, 9), (1, 2, 3)], (7, 8, 9), [[WHITE, (1, 2, 3)]]),
        ("I;16", [257, 514], 257, [[WHITE, (2, 2, 2)]]),
    ],
)
def test_a_transparent_colour_without_a_palette_shows_white(mode: str, values: Any, key: Any, expected: Any) -> None:
    image = Image.new(mode, (2, 1))
    for column, value in enumerate(values):
        image.putpixel((column, 0), value)
    assert [[tuple(p) for p in row] for row in pixels(encoded(image, "PNG", transparency=key)).tolist()] == expected


# One way for all


class _Processor:
    """A processor that only resizes to one pixel a side of the image, so that pixels come through."""

    image_mean, image_std, resample, rescale_factor = (
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        Image.Resampling.NEAREST,
        1 / 255,
    )
    do_resize = do_rescale = do_normalize = True
    size, crop_size = {"shortest_edge": 16}, {"height": 16, "width": 16}


def difficult() -> bytes:
    """Turned by EXIF, half transparent."""
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((*RED, 255), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "PNG", exif=exif)


def test_the_model_sees_the_decoded_pixels() -> None:
    seen = Pictures(_Processor(), pad_to_square=True)([difficult()])[0].numpy().transpose(1, 2, 0) * 0.5 + 0.5
    assert np.rint(seen * 255).astype(np.uint8).tolist() == pixels(difficult()).tolist()


def test_clip_sees_the_decoded_pixels() -> None:
    from lcia.embedders.clip import ClipEmbedder

    embedder = ClipEmbedder.__new__(ClipEmbedder)
    embedder.prepare = np.asarray
    assert np.asarray(embedder._pixels(difficult())).tolist() == pixels(difficult()).tolist()


def test_the_report_shows_the_decoded_pixels() -> None:
    import base64

    shown = base64.b64decode(picture(difficult()).partition(",")[2])
    assert pixels(shown).tolist() == pixels(difficult()).tolist()


def test_data_show_saves_the_decoded_pixels(tmp_path: Any) -> None:
    from lcia.types import Sample
    from pipelines.terminal.data_commands import _save_images

    _save_images(tmp_path, "row", Sample("1", "", (), (difficult(),), ()))
    assert np.asarray(Image.open(tmp_path / "row-0.png")).tolist() == pixels(difficult()).tolist()


def test_no_metadata_travels_with_the_pixels() -> None:
    data = encoded(corners(), "PNG", icc_profile=b"made up by somebody")
    assert decode_rgb(data).info == {}


def test_large_images_are_prepared_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most = [0], [0]
    real = Pictures._opened

    class Counted(Image.Image):
        def __del__(self) -> None:
            alive[0] -= 1

    def opened(self: Pictures, data: bytes) -> Image.Image:
        image = real(self, data)
        image.__class__ = Counted
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return image

    monkeypatch.setattr(Pictures, "_opened", opened)
    Pictures(_Processor(), pad_to_square=True)([encoded(corners(), "PNG")] * 5)
    assert most[0] == 1
