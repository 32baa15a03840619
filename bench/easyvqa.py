"""The four tasks of easy-VQA in LLaVA's layout, from the Python package that holds the data set.

    pip download --no-deps easy-vqa==1.0
    python -m bench.easyvqa easy_vqa-1.0-py3-none-any.whl easyvqa

easyvqa_rows.json names the questions of each task, drawn once with equal numbers of every answer. So the files are the
same, byte for byte, as those that the study of docs/results was made with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from lcia.types import InputError

Place: TypeAlias = Path | zipfile.Path
Question: TypeAlias = tuple[str, str, int]
"""Text, answer and number of the image, as the package lists them."""

ROWS = Path(__file__).with_name("easyvqa_rows.json")
ASK = {
    "shape": "Answer the question using a single word or phrase.",
    "color": "Answer the question using a single word or phrase.",
    "presence": "Answer with yes or no.",
    "absence": "Answer with yes or no.",
}
"""The last line of each task's questions."""


def convert(data: Place, chosen: Mapping[str, Any], folder: Path) -> None:
    """Writes <task>/<split>.json and images/<split>/<number>.png into a new folder.

    `data` holds <split>/questions.json and <split>/images. `chosen` has `questions`, the digest of each questions.json,
    and `rows`, the numbers of each task's questions by split.

    Raises:
        InputError: the folder is not empty, or these are not the questions that the rows were drawn from.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: name a new folder, nothing is overwritten")
    found = {split: _questions(data, split, digest) for split, digest in chosen["questions"].items()}
    for split, tasks in chosen["rows"].items():
        for task, numbers in tasks.items():
            _write_task(folder / task / f"{split}.json", task, split, [found[split][number] for number in numbers])
        used = {found[split][number][2] for numbers in tasks.values() for number in numbers}
        _copy_images(data / split / "images", sorted(used), folder / "images" / split)


def package_data(package: Path) -> Place:
    """The data inside the package's wheel, inside its folder once installed, or in the folder of the data itself."""
    top: Place = zipfile.Path(package) if package.is_file() else package
    for place in (top / "easy_vqa" / "data", top / "data", top):
        if (place / "train" / "questions.json").is_file():
            return place
    raise InputError(f"{package} holds no train/questions.json: give the wheel of easy-vqa or its unpacked folder")


def _questions(data: Place, split: str, digest: str) -> list[Question]:
    text = (data / split / "questions.json").read_bytes()
    if hashlib.blake2b(text, digest_size=16).hexdigest() != digest:
        raise InputError(f"{split}/questions.json is not the one of easy-vqa 1.0, from which the rows were drawn")
    return [(question, answer, image) for question, answer, image in json.loads(text)]


def _write_task(path: Path, task: str, split: str, questions: Sequence[Question]) -> None:
    rows = [_row(f"{task}-{split}-{number}", task, split, question) for number, question in enumerate(questions)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=0), encoding="utf-8")


def _row(name: str, task: str, split: str, question: Question) -> dict[str, object]:
    asked, answer, number = question
    text, image = f"{asked}\n{ASK[task]}", f"images/{split}/{number}.png"
    if split == "test":
        return {"question_id": name, "image": image, "text": text, "answer": answer}
    turns = [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": image, "conversations": turns}


def _copy_images(source: Place, numbers: Sequence[int], folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes((source / f"{number}.png").read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the wheel of easy-vqa, or the folder of it unpacked or installed")
    parser.add_argument("folder", type=Path, help="a new folder, then benchmark.root of configs/easyvqa.yaml")
    given = parser.parse_args()
    try:
        convert(package_data(given.package), json.loads(ROWS.read_text()), given.folder)
    except InputError as error:
        parser.error(str(error))
    print(f"wrote {', '.join(ASK)} to {given.folder}")


if __name__ == "__main__":
    main()
