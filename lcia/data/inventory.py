"""What there is of a published benchmark's files, looked at cheaply: every file of annotations, a few of the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from lcia.data.captions import read_captions
from lcia.data.file_rows import FileRows, image_names
from lcia.data.formats import Chunk, texts
from lcia.data.images import ImageFolder
from lcia.types import FileSource, InputError, Origin, TaskSpec

CHUNKS, PER_CHUNK = 8, 4
"""Of so many chunks, spread over a file, the images of so many records are looked for."""
UNKNOWN = Origin("", "")


@dataclass(frozen=True, slots=True)
class Item:
    """A file of annotations, or the images that its rows name. `found`: rows of a file, images of those looked for;
    `problem`: empty where nothing is missing; then `source` and `licence` say where it is to be had."""

    task: str
    what: str
    place: str
    found: int
    problem: str
    source: str
    licence: str


def take_inventory(tasks: Sequence[TaskSpec]) -> Iterator[Item]:
    """The items of tasks in files, task by task."""
    for task in tasks:
        for split, source in task.sources.items():
            if isinstance(source, FileSource):
                yield from _items(task, split, source)


def _items(task: TaskSpec, split: str, source: FileSource) -> Iterator[Item]:
    annotations, images = task.annotations or UNKNOWN, task.images or UNKNOWN
    chunks, problem = _chunks(source)
    rows = sum(chunk.rows for chunk in chunks)
    yield Item(task.name, split, source.path, rows, problem, annotations.source, annotations.licence)
    if source.captions:
        found, problem = _captions(source)
        yield Item(task.name, "captions", source.captions, found, problem, annotations.source, annotations.licence)
    if names := _image_names(source, chunks):
        folder = ImageFolder(FileRows.of(source).source.image_root, max_pixels=1)
        missing = [name for name, there in zip(names, folder.identities(names), strict=True) if not there]
        problem = f"{len(missing)} of {len(names)} looked for are not there, such as {missing[0]}" if missing else ""
        place = source.image_root
        yield Item(
            task.name, f"{split} images", place, len(names) - len(missing), problem, images.source, images.licence
        )


def _chunks(source: FileSource) -> tuple[list[Chunk], str]:
    try:
        found = list(FileRows.of(source).chunks())
    except InputError as error:
        return [], str(error).partition(": give a file")[0]
    return found, "" if found else "the file holds no rows"


def _captions(source: FileSource) -> tuple[int, str]:
    try:
        return sum(map(len, read_captions(source.captions).values())), ""
    except InputError as error:
        return 0, str(error)


def _image_names(source: FileSource, chunks: Sequence[Chunk]) -> list[str]:
    step = max(1, len(chunks) // CHUNKS)
    records = (record for chunk in chunks[::step][:CHUNKS] for record in islice(texts(chunk, source.format), PER_CHUNK))
    return list(dict.fromkeys(name for record in records for name in image_names(record)))
