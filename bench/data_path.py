"""How fast real pictures become shards, what the driver holds meanwhile, and what a shuffled row costs to read.

    python -m bench.data_path [--rows 10000 100000] [--photos ../shared/data/photos] [--work FOLDER] [--json FILE]

Photographs are encoded again in sizes and qualities that give about 100 kB, one file a row, no two alike. The first
number of rows is sharded by a plain loop and by Ray Data with one and with two CPUs; each further number with two CPUs.
Then batches of 16 rows are read in random order, from local files and from an S3 server of its own process. Every
measurement has a process, and a Ray, of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.fs as pafs
from PIL import Image
from rich.console import Console
from rich.table import Table

from bench.counting import Counting
from bench.resident import resident_mb
from lcia.config.run import DataConfig
from lcia.data.rows import Rows
from lcia.data.shards import ShardCounts, write_source
from lcia.data.sources import Reading
from lcia.store.files import Files, Shared
from lcia.store.folders import Store
from lcia.types import FileSource, InputError, Sample

PHOTOS = Path(__file__).resolve().parents[2] / "shared/data/photos"
VARIANTS = 500
"""Different pictures; a comment in the file tells apart the rows that show the same one."""
BYTES = 100_000
"""About the size of a file."""
KEY = "da" + "0" * 30
SAMPLES, S3_ROWS, BATCH = 4096, 2000, 16
"""Rows read from local files, rows put on S3 (each is read), rows of a batch."""
WAYS = {"plain loop": 0, "Ray Data, 1 CPU": 1, "Ray Data, 2 CPUs": 2}


def main() -> None:
    options = _options()
    if options.child:
        print(json.dumps(globals()[options.child[0]](*options.child[1:])))
        return
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        figures = measure(options.rows, options.photos, Path(name))
    Console().print(*_tables(figures))
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(rows: list[int], photos: Path, work: Path) -> dict[str, Any]:
    """All figures; `work` takes about 220 kB a row."""
    size = make_rows(max(rows), photos, work / "source")
    jobs = [(way, rows[0]) for way in WAYS] + [("Ray Data, 2 CPUs", count) for count in rows[1:]]
    written = []
    for number, (way, count) in enumerate(jobs):
        out = work / f"shards-{number}"
        written.append({"way": way, **_child("shard", work / "source", out, count, WAYS[way])})
        if number + 1 < len(jobs):
            shutil.rmtree(out)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}",
        "bytes a row": round(size / max(rows)),
        "sharding": written,
        "reading": [_child("read_local", out, order) for order in ("shuffled", "in order")] + [_child("read_s3", out)],
    }


def _child(name: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.data_path", "--child", name, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(name, found, file=sys.stderr, flush=True)
    return found


# The source -------------------------------------------------------------------------------------------------------


def make_rows(count: int, photos: Path, folder: Path) -> int:
    """Writes rows.jsonl and its images; returns the images' bytes.

    Raises:
        InputError: there are no photographs.
    """
    files = sorted([*photos.glob("*.JPEG"), *photos.glob("*.jpg")])
    if not files:
        raise InputError(f"no photographs in {photos}: drawn pictures are cheaper to read, so nothing was measured")
    variants = [_variant(files, number) for number in range(min(count, VARIANTS))]
    (folder / "images").mkdir(parents=True)
    size = 0
    with (folder / "rows.jsonl").open("w") as rows:
        for number in range(count):
            data = _commented(variants[number % len(variants)], f"row {number}")
            place = folder / "images" / f"{number // 1000:04d}"
            place.mkdir(exist_ok=True)
            (place / f"{number}.jpg").write_bytes(data)
            size += len(data)
            turns = [{"from": "human", "value": f"<image>\nWhat is in picture {number}?\nAnswer in a word."},
                     {"from": "gpt", "value": f"A thing of kind {number % 97}."}]  # fmt: skip
            row = {"id": f"photo-{number}", "image": f"images/{place.name}/{number}.jpg", "conversations": turns}
            rows.write(json.dumps(row) + "\n")
    return size


def _variant(files: list[Path], number: int) -> bytes:
    """A part of a photograph, in a quality that gives about BYTES."""
    random = Random(number)
    with Image.open(files[number % len(files)]) as image:
        share = random.uniform(0.6, 1.0)
        width, height = (int(side * share) for side in image.size)
        left, top = random.randrange(image.width - width + 1), random.randrange(image.height - height + 1)
        part = image.convert("RGB").crop((left, top, left + width, top + height))
    longer = random.randrange(560, 800)
    part = part.resize((longer * width // max(width, height), longer * height // max(width, height)))
    size = BYTES * random.uniform(0.6, 1.4)
    return min((_jpeg(part, quality) for quality in (70, 86, 94)), key=lambda data: abs(len(data) - size))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _commented(jpeg: bytes, text: str) -> bytes:
    """The same picture with a comment after its first marker."""
    comment = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


# Sharding ---------------------------------------------------------------------------------------------------------


def shard(source: str, out: str, rows: str, cpus: str) -> dict[str, Any]:
    """Writes the first `rows` rows of a source; `cpus` 0: without Ray. Peaks in MB, of the process that gathers."""
    folder, count = Path(out), int(rows)
    folder.mkdir()
    if int(cpus):
        import ray

        ray.init(address="local", num_cpus=int(cpus), include_dashboard=False, object_store_memory=512 << 20,
                 log_to_driver=False, logging_level="warning")  # fmt: skip
        # Workers start and import before the clock does.
        with tempfile.TemporaryDirectory() as name:
            _write(_reading(source, 256 * int(cpus)), Path(name), int(cpus))
    at_start, cpu, began = resident_mb(os.getpid(), "VmRSS"), _cpu_seconds(), time.perf_counter()
    counts = _write(_reading(source, count), folder, int(cpus))
    seconds = time.perf_counter() - began
    assert counts.good == count
    here, others = (after - before for after, before in zip(_cpu_seconds(), cpu, strict=True))
    size = sum(file.stat().st_size for file in folder.iterdir())
    return {
        "rows": count, "seconds": seconds, "rows_per_s": count / seconds, "mb_per_s": size / 1e6 / seconds,
        "cpu_ms_per_row": 1e3 * (here + others) / count, "driver_cpu_ms_per_row": 1e3 * here / count,
        "start_mb": at_start, "peak_mb": resident_mb(os.getpid(), "VmHWM"),
    }  # fmt: skip


def _cpu_seconds() -> tuple[float, float]:
    """What this process has used so far, and all processes that it has started, theirs included."""
    import psutil

    others = 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            others += sum(child.cpu_times()[:2])
    return time.process_time(), others


def _reading(source: str, rows: int) -> Reading:
    file = FileSource(f"{source}/rows.jsonl", "llava", image_root=source)
    return Reading.of(file, "last_line", rows, DataConfig().max_image_pixels)


def _write(reading: Reading, folder: Path, cpus: int) -> ShardCounts:
    if not cpus:
        return write_source(reading, folder)
    from pipelines.stages.shard import shard_on_ray

    return shard_on_ray(reading, Shared.local(folder))


# Reading ----------------------------------------------------------------------------------------------------------


def read_local(folder: str, order: str) -> dict[str, Any]:
    """Samples a second from local files, and what the kernel read for a byte that was used."""
    rows = Rows([Path(folder)])
    before, cpu, began = _bytes_read(), time.process_time(), time.perf_counter()
    used = taken = 0
    for samples in _batches(rows, order == "shuffled", SAMPLES):
        used, taken = used + sum(map(_size, samples)), taken + len(samples)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    read = _bytes_read() - before
    return {"from": "local files", "order": order, "rows": len(rows), "samples_per_s": taken / seconds,
            "cpu_ms_per_row": 1e3 * cpu / taken,
            "read_per_used": read / used}  # fmt: skip


def read_s3(folder: str) -> dict[str, Any]:
    """Each of S3_ROWS rows once from S3, in ranges; and how long a whole copy of them takes first."""
    from tests.s3 import s3_server

    with s3_server() as server, tempfile.TemporaryDirectory() as name:
        os.environ.update(server.environment)
        store = Store(f"{server.bucket()}/store", cache=Path(name))
        with store.publish(KEY, {}) as here:
            write_source_of(folder, S3_ROWS, here)
        files = store.files(KEY)
        counting = Counting(files.fs)
        rows = Rows([Files(pafs.PyFileSystem(counting), files.folder, files.root)])
        used = sum(_size(one) for batch in _batches(rows, True, S3_ROWS) for one in batch)
        began = time.perf_counter()
        taken = sum(len(batch) for batch in _batches(Rows([files]), True, S3_ROWS))
        ranges = time.perf_counter() - began
        began = time.perf_counter()
        store.fetch(KEY)
        return {"from": "S3, in ranges", "order": "shuffled", "rows": taken, "samples_per_s": taken / ranges,
                "read_per_used": counting.bytes / used, "seconds_of_a_copy": time.perf_counter() - began}  # fmt: skip


def write_source_of(folder: str, rows: int, here: Path) -> None:
    """Copies the first shards of a folder, with at least so many rows, and an index of them."""
    index = json.loads((Path(folder) / "index.json").read_text())
    ends = itertools.accumulate(entry["rows"] for entry in index["files"])
    kept = index["files"][: 1 + sum(end < rows for end in ends)]
    for entry in kept:
        shutil.copyfile(Path(folder) / entry["name"], here / entry["name"])
    (here / "index.json").write_text(json.dumps({"counts": index["counts"], "files": kept}))


def _batches(rows: Rows, shuffled: bool, most: int) -> Iterator[list[Sample]]:
    order = list(range(len(rows)))
    if shuffled:
        Random(0).shuffle(order)
    for start in range(0, min(most, len(order)), BATCH):
        yield rows.take(order[start : start + BATCH])


def _size(sample: Sample) -> int:
    return sum(map(len, sample.images)) + sum(len(m.content.encode()) for m in sample.messages)


def _bytes_read() -> int:
    """What this process has read through the kernel, from disk or from its cache."""
    return int(Path("/proc/self/io").read_text().split()[1])


# Showing ----------------------------------------------------------------------------------------------------------


def _tables(figures: dict[str, Any]) -> tuple[Table, Table]:
    sharding = Table("sharding", "rows", "rows/s", "MB/s", "CPU ms/row", "of the driver", "driver's peak MB",
                     "at its start")  # fmt: skip
    for f in figures["sharding"]:
        sharding.add_row(f["way"], f"{f['rows']:,}", f"{f['rows_per_s']:.0f}", f"{f['mb_per_s']:.1f}",
                         f"{f['cpu_ms_per_row']:.2f}", f"{f['driver_cpu_ms_per_row']:.3f}",
                         f"{f['peak_mb']:.0f}", f"{f['start_mb']:.0f}")  # fmt: skip
    reading = Table("Rows.take, batches of 16", "order", "of rows", "samples/s", "bytes read / used")
    for f in figures["reading"]:
        reading.add_row(f["from"], f["order"], f"{f['rows']:,}", f"{f['samples_per_s']:.0f}",
                        f"{f['read_per_used']:.3f}")  # fmt: skip
    return sharding, reading


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--work", type=Path, help="where the rows and shards lie meanwhile: a disk with room")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
