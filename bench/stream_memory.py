"""Peak memory of the driver and of data workers while MiniCoIN rows stream through ShardStage and EmbedStage.

    python -m bench.stream_memory [--rows 5000 20000] [--store-mb 256] [--side 140] [--clip] [--json figures.json]

MiniCoIN's images are small; --side N gives every row an N x N PNG of noise (about 3 N^2 bytes) instead, so that far
more than the object store holds has to pass through it. --clip embeds the images with a small CLIP of random weights in
an actor, in place of TF-IDF on the texts. Every number of rows is measured in a process and a Ray of its
own, so that no peak is inherited.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from bench.checkpoints import SMALL_CLIP, random_clip
from bench.resident import resident_mb, status
from lcia.config.grouping import ClipConfig, TfidfConfig
from lcia.config.run import DataConfig
from lcia.data.minicoin import rows as minicoin
from lcia.data.sources import Reading
from lcia.store.files import Shared
from lcia.types import FileSource, GeneratedSource, Source

PICTURES = 50

INTERVAL_S = 0.05
"""A worker's peak is kept by the kernel; it only has to be looked at before the worker ends."""


def main() -> None:
    options = _options()
    if options.child:
        print(json.dumps(measure(options.rows[0], options.store_mb << 20, options.side, options.clip)))
        return
    figures = [_in_own_process(rows, options) for rows in options.rows]
    Console().print(_table(figures, options.store_mb))
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "store_mb": options.store_mb,
        "side": options.side,
        "embedder": "clip" if options.clip else "tfidf",
        "runs": figures,
    }
    print(json.dumps(record, indent=1))
    if options.json:
        options.json.write_text(json.dumps(record, indent=1))


def measure(rows: int, store_bytes: int, side: int, clip: bool) -> dict[str, float]:
    """Streams `rows` rows through both stages on a Ray of its own; peaks in MB (resident, shared memory included)."""
    import ray

    from pipelines.stages.embed import embed_on_ray
    from pipelines.stages.shard import shard_on_ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=store_bytes, log_to_driver=False,
             logging_level="warning")  # fmt: skip
    at_start = resident_mb(os.getpid(), "VmRSS")
    with tempfile.TemporaryDirectory() as name, _Workers() as workers:
        shards, features = Path(name) / "shards", Path(name) / "features"
        shards.mkdir()
        source, embedder = _source(rows, side, Path(name)), _embedder(clip, Path(name) / "clip")
        reading = Reading.of(source, "last_line", None, DataConfig().max_image_pixels)
        began = time.perf_counter()
        shard_on_ray(reading, Shared.local(shards))
        sharded = time.perf_counter()
        embed_on_ray(shards, embedder, features)
        ended = time.perf_counter()
        size = sum(file.stat().st_size for file in shards.iterdir())
    peaks = {"driver_start_mb": at_start, "driver_peak_mb": resident_mb(os.getpid(), "VmHWM"), **workers.peaks()}
    ray.shutdown()
    return {"rows": rows, "shards_mb": size / 1e6, **peaks, "shard_s": sharded - began, "embed_s": ended - sharded}


def _embedder(clip: bool, folder: Path) -> TfidfConfig | ClipConfig:
    return ClipConfig(kind="clip", model=random_clip(folder, SMALL_CLIP), features="image") if clip else TfidfConfig()


def _source(rows: int, side: int, folder: Path) -> Source:
    """MiniCoIN, or its questions about pictures of noise in CoIN's layout."""
    if not side:
        return GeneratedSource("VQAv2", "train", rows, seed=0, instructions="10type")
    for number in range(PICTURES):
        planes = [Image.effect_noise((side, side), 90) for _ in range(3)]
        Image.merge("RGB", planes).save(folder / f"{number}.png")
    drawn = minicoin.generate(GeneratedSource("VQAv2", "train", rows, seed=0, instructions="10type"), 0, rows)
    with (folder / "rows.jsonl").open("w") as file:
        for number, sample in enumerate(drawn):
            roles = {"user": "human", "assistant": "gpt"}
            turns = [{"from": roles[message.role], "value": message.content} for message in sample.messages]
            row = {"id": sample.id, "image": f"{number % PICTURES}.png", "conversations": turns}
            file.write(json.dumps(row) + "\n")
    return FileSource(str(folder / "rows.jsonl"), "llava", "train", str(folder))


class _Workers:
    """Watches the Ray workers below this process."""

    def __init__(self) -> None:
        self._peaks: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Workers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def peaks(self) -> dict[str, float]:
        return {"workers": len(self._peaks), "worker_peak_mb": max(self._peaks.values())}

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            for process in descendants(os.getpid()):
                if _command(process).startswith("ray::"):
                    self._peaks[process] = max(self._peaks.get(process, 0.0), resident_mb(process, "VmHWM"))


def descendants(root: int) -> list[int]:
    """Process ids below `root`."""
    parents = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {root})


def _parent(process: Path) -> int:
    """0 where the process has ended meanwhile."""
    return int(status(process).get("PPid", "0"))


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def _in_own_process(rows: int, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.stream_memory", "--child", "--rows", str(rows)]
    command += ["--store-mb", str(options.store_mb), "--side", str(options.side)]
    command += ["--clip"] * options.clip
    environment = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"} | os.environ
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _table(figures: list[dict[str, Any]], store_mb: int) -> Table:
    names = [name.replace("_mb", " MB").replace("_", " ") for name in figures[0]]
    table = Table(*names, title=f"peak memory with an object store of {store_mb} MB")
    for run in figures:
        table.add_row(*(f"{value:,.0f}" for value in run.values()))
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--store-mb", type=int, default=256)
    parser.add_argument("--side", type=int, default=0, help="pixels of a picture's side; 0: MiniCoIN's own pictures")
    parser.add_argument("--clip", action="store_true", help="embed the images with CLIP")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
