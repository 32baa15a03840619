"""Files of captions as COCO has them: {images: [{id, file_name}], annotations: [{image_id, caption}]}."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from lcia.data.filesystems import open_buffered, shown
from lcia.data.records import Picture, RowError
from lcia.types import InputError

Captions: TypeAlias = Mapping[str, tuple[str, ...]]
"""The captions of each picture by the name of its file, without folders."""


def read_captions(place: str) -> Captions:
    """Reads a whole file, a few megabytes.

    Raises:
        InputError: it cannot be read, or is not of this form.
    """
    with open_buffered(place) as stream:
        data = stream.read()
    try:
        found = json.loads(data)
        files = {image["id"]: str(image["file_name"]) for image in found["images"]}
        captions: defaultdict[str, list[str]] = defaultdict(list)
        for annotation in found["annotations"]:
            captions[_name(files[annotation["image_id"]])].append(str(annotation["caption"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{shown(place)} is not a file of COCO captions with images and annotations: {type(error).__name__} {error}"
        ) from None
    return {name: tuple(texts) for name, texts in captions.items()}


def captions_of(captions: Captions, images: Sequence[Picture]) -> tuple[str, ...]:
    """Those of a row's first picture; raises RowError where it has none."""
    name = _name(images[0]) if images and isinstance(images[0], str) else ""
    if name not in captions:
        raise RowError("empty_answer", f"the file of captions has none of picture {name!r}")
    return captions[name]


def _name(path: str) -> str:
    return path.rpartition("/")[2]
