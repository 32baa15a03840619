"""Figures of the grouping: TF-IDF in closed form against a fit on each pair, and embedding through Ray Data.

    python -m bench.grouping [--photos FOLDER] [--images 400] [--model ViT-S-32]

Prints one JSON object. With --photos (a folder of image files) it also embeds them, repeated, with a CLIP of that
shape: once in a plain loop and once on Ray Data with one actor. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.checkpoints import random_clip
from lcia.config.grouping import ClipConfig, TfidfConfig
from lcia.embedders.tfidf import TfidfEmbedder
from lcia.protocols import Features

WORDS = ("what", "how", "many", "where", "person", "table", "red", "left", "dog", "cat", "number", "book", "author")
Result = TypeVar("Result")


def main() -> None:
    arguments = _arguments()
    figures: dict[str, Any] = {"tfidf_fit": against_fitting(50), "tfidf_large": per_pair(3000)}
    if arguments.photos:
        figures["embedding"] = embedding(arguments.photos, arguments.images, arguments.model)
    print(json.dumps(figures, indent=2))


def against_fitting(size: int) -> dict[str, float]:
    """Time and difference of size x size pairs, both ways (CPU seconds)."""
    a, b = sentences(size, 1), sentences(size, 2)
    fitted, slow = timed(lambda: fit_each_pair(a, b))
    closed, fast = min((timed(lambda: TfidfEmbedder(TfidfConfig()).similarity(a, b)) for _ in range(5)), key=_seconds)
    difference = float(np.abs(fitted - closed).max())
    return {"pairs": size * size, "fit_s": slow, "closed_s": fast, "ratio": slow / fast, "difference": difference}


def per_pair(size: int) -> dict[str, float]:
    """CPU time of each of size x size pairs: the mean per row, which is what grouping needs, and the whole table."""
    a, b = sentences(size, 1), sentences(size, 2)
    embedder = TfidfEmbedder(TfidfConfig())
    _, mean = timed(lambda: embedder.mean_similarity(a, b))
    table, whole = timed(lambda: embedder.similarity(a, b))
    pairs = size * size
    nonzero = float((table > 0).mean())
    return {"pairs": pairs, "mean_ns": mean / pairs * 1e9, "table_ns": whole / pairs * 1e9, "nonzero": nonzero}


def fit_each_pair(a: Features, b: Features) -> np.ndarray[Any, Any]:
    """What the authors' code does."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    vectorizer = TfidfVectorizer(stop_words="english")
    rows = [[vectorizer.fit_transform([x, y]) for y in b.texts] for x in a.texts]
    return np.array([[cosine_similarity(pair[0:1], pair[1:2])[0, 0] for pair in row] for row in rows])


def embedding(photos: Path, images: int, model: str) -> dict[str, Any]:
    """Images per second of a plain loop and of one actor, each on one thread, with a Ray that is already running.

    Start-up (model, actor) is in the first two rates. The ratio leaves it out: it compares the time that three quarters
    of the images take beyond the first quarter.
    """
    import open_clip
    import ray
    import torch

    from lcia.embedders import embed as local
    from pipelines.stages.embed import embed_on_ray

    torch.set_num_threads(1)  # as Ray gives an actor of one CPU
    seconds: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        name = random_clip(folder / "clip", open_clip.get_model_config(model))
        config = ClipConfig(kind="clip", model=name, features="image")
        ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=256 * 2**20)
        for count in (images // 4, images):
            shards = folder / f"shards{count}"
            write_shards(shards, sorted(p for p in photos.iterdir() if p.is_file()), count)
            out = {way: folder / f"{way}{count}" for way in ("plain", "ray")}
            seconds["plain", count] = elapsed(partial(local.embed_shards, shards, config, out["plain"]))
            seconds["ray", count] = elapsed(partial(embed_on_ray, shards, config, out["ray"], actors=1))
        ray.shutdown()
    steady = {way: seconds[way, images] - seconds[way, images // 4] for way in ("plain", "ray")}
    rates = {f"{way}_images_per_s": images / seconds[way, images] for way in ("plain", "ray")}
    return {"model": model, "images": images, **rates, "steady_ratio": steady["plain"] / steady["ray"]}


def write_shards(folder: Path, photos: list[Path], images: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    encoded = [photos[place % len(photos)].read_bytes() for place in range(images)]
    table = pa.table({"instruction": ["What is the object?"] * images, "images": [[image] for image in encoded]})
    for place, start in enumerate(range(0, images, 100)):
        pq.write_table(table.slice(start, 100), folder / f"{place:03}.parquet")


def sentences(count: int, seed: int) -> Features:
    """Questions of 4 to 18 words, some of them rare."""
    draw = random.Random(seed)
    vocabulary = WORDS * 8 + tuple(f"word{place}" for place in range(200))
    texts = tuple(" ".join(draw.choices(vocabulary, k=draw.randint(4, 18))) for _ in range(count))
    return Features(texts, np.ones(count, np.int64))


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """(result, CPU seconds of this process)."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def elapsed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _seconds(timing: tuple[Any, float]) -> float:
    return timing[1]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--model", default="ViT-S-32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
