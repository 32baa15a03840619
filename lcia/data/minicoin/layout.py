"""MiniCoIN as files, laid out as CoIN publishes its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lcia.benchmarks.coin import TASKS
from lcia.benchmarks.minicoin import benchmark
from lcia.config.benchmarks import MiniCoinConfig
from lcia.data.minicoin.drawing import encode_png
from lcia.data.minicoin.rows import Row, draw
from lcia.types import IMAGE_TOKEN, GeneratedSource


def write_coin_layout(config: MiniCoinConfig, folder: Path) -> None:
    """Writes the benchmark as CoIN publishes its own: <task>/train.json and test.json or val.json, images as files.

    The folder of OCR-VQA is called OCRVQA. Validation rows go to <task>/validation.json, in the format of the test.
    """
    for task in benchmark(config).tasks:
        facts = TASKS[task.name]
        validation = f"{facts.train.partition('/')[0]}/validation.json"
        for source, file in ((task.train, facts.train), (task.validation, validation), (task.test, facts.test)):
            assert isinstance(source, GeneratedSource)
            _write(source, folder, folder / file)


def _write(source: GeneratedSource, folder: Path, file: Path) -> None:
    images = file.parent / "images" / source.split
    images.mkdir(parents=True, exist_ok=True)
    records = []
    for i in range(source.rows):
        row, image = draw(source, i), images / f"{i}.png"
        image.write_bytes(encode_png(row.question.image))
        named = {"image": image.relative_to(folder).as_posix()}
        records.append(named | (_trained(row) if source.split == "train" else _tested(row)))
    file.write_text(json.dumps(records, indent=1))


def _trained(row: Row) -> dict[str, Any]:
    turns = (("human", f"{IMAGE_TOKEN}\n{row.prompt}"), ("gpt", row.question.answer))
    return {"id": row.id, "conversations": [{"from": who, "value": value} for who, value in turns]}


def _tested(row: Row) -> dict[str, Any]:
    record = {"question_id": row.id, "text": row.prompt, "answer": row.question.answer}
    return record | ({"answer_bbox": row.question.answer} if row.question.box else {})
