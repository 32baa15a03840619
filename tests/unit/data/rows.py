"""Records as people write them, and what is read of them: for the tests of this folder."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from lcia.config.run import DataConfig
from lcia.data.records import Defect
from lcia.data.sources import Reading, all_chunks, check
from lcia.types import FileSource, Format, Sample, Split

PIXELS = DataConfig().max_image_pixels


Row = dict[str, Any]


def png(width: int = 4, height: int = 3, colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(stream, "PNG")
    return stream.getvalue()


def huge_png() -> bytes:
    """A header that promises 60,000 x 60,000 pixels, and hardly any data: what a decompression bomb looks like."""

    def part(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    size = (60_000).to_bytes(4) * 2
    header = part(b"IHDR", size + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(bytes(100))) + part(b"IEND", b"")


def train_row(**changes: Any) -> Row:
    turns = [{"from": "human", "value": "<image>\nWhat is it?\nOne word."}, {"from": "gpt", "value": "a dot"}]
    return {"id": "r1", "image": "images/a.png", "conversations": turns} | changes


def question_row(**changes: Any) -> Row:
    return {"question_id": 7, "image": "images/a.png", "text": "What is it?\nOne word.", "answer": "a dot"} | changes


def chat_row(**changes: Any) -> Row:
    turns = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "a dot"}]
    return {"id": "c1", "messages": turns, "images": ["images/a.png"]} | changes


def read(path: Path, kind: Format = "llava", split: Split = "train", **options: Any) -> list[Sample | Defect]:
    source = FileSource(str(path), kind, split, str(path.parent), **options)
    reading = Reading.of(source, "last_line", None, PIXELS)
    return [row for chunk in all_chunks(reading) for _, row in check(reading, chunk)]


def read_rows(folder: Path, rows: list[Any], split: Split = "train", **options: Any) -> list[Sample | Defect]:
    file = folder / "rows.json"
    file.write_text(json.dumps(rows))
    return read(file, "llava", split, **options)


def only_sample(found: list[Sample | Defect]) -> Sample:
    assert len(found) == 1
    assert isinstance(found[0], Sample), found[0]
    return found[0]


def only_defect(found: list[Sample | Defect]) -> Defect:
    assert len(found) == 1
    assert isinstance(found[0], Defect), found[0]
    return found[0]


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_rows(count: int) -> list[tuple[str, bytes]]:
    row = {"conversations": train_row()["conversations"]}
    return [m for i in range(count) for m in ((f"d/{i:04}.json", json.dumps(row).encode()), (f"d/{i:04}.png", png()))]


def noise_png() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((40, 40), 90).save(stream, "PNG")
    return stream.getvalue()
