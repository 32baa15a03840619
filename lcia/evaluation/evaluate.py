"""One EvaluateStage: each sample answered by the adapter it is routed to, on a base that is loaded once."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from lcia.assistants.fusion import fuse
from lcia.data.rows import Rows
from lcia.evaluation.answers import write_answers
from lcia.protocols import Assistant
from lcia.stage import EvaluateStage, Mixture
from lcia.store.folders import Store
from lcia.types import Sample


class Predictor:
    """Answers ranges of any EvaluateStage's rows; keeps the adapters used last, drops older ones.

    `merge`: an adapter that has a whole batch to answer is merged into the base until another one is needed.
    """

    def __init__(
        self, assistant: Assistant, store: Store, batch_size: int, max_adapters: int = 8, merge: bool = False
    ) -> None:
        self._assistant, self._store = assistant, store
        self._batch_size, self._max_adapters, self._merge = batch_size, max_adapters, merge
        self._merged: str | None = None
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._rows: OrderedDict[str, Rows] = OrderedDict()

    def __call__(self, stage: EvaluateStage, start: int, stop: int) -> list[dict[str, Any]]:
        """Answers to rows start..stop-1, in row order, as records of answers.SCHEMA."""
        samples = self._open(stage.shards).take(range(start, stop))
        numbered = [(stage.adapter_of(s.instruction), i, s) for i, s in enumerate(samples, start)]
        numbered.sort(key=lambda item: (_name(item[0]) or "", item[1]))
        records: list[dict[str, Any]] = []
        for adapter, run in groupby(numbered, key=lambda item: item[0]):
            items = list(run)
            self._use(adapter, merged=self._merge and len(items) >= self._batch_size)
            records += self._answer(items, stage.max_new_tokens)
        return sorted(records, key=lambda record: record["row"])

    def _open(self, key: str) -> Rows:
        if key not in self._rows:
            self._rows[key] = Rows([self._store.files(key)])
            if len(self._rows) > self._max_adapters:
                self._rows.popitem(last=False)
        return self._rows[key]

    def _use(self, answering: str | Mixture | None, merged: bool) -> None:
        adapter = _name(answering)
        if adapter is not None and adapter == self._merged:
            return
        self._merged = None
        if adapter is None:
            self._assistant.adapters.use(None)
            return
        if adapter in self._loaded:
            self._assistant.adapters.use(adapter)
        else:
            if len(self._loaded) >= self._max_adapters:
                self._assistant.adapters.drop(self._loaded.popitem(last=False)[0])
            self._load(adapter, answering)
        self._loaded[adapter] = None
        self._loaded.move_to_end(adapter)
        if merged:
            self._assistant.adapters.merge(adapter)
            self._merged = adapter

    def _load(self, name: str, answering: str | Mixture | None) -> None:
        if not isinstance(answering, Mixture):
            self._assistant.adapters.load(name, self._store.fetch(name))
            return
        with tempfile.TemporaryDirectory() as folder:
            parts = [self._store.fetch(key) for key in answering.adapters]
            fuse(parts, answering.weights, answering.layers, Path(folder))
            self._assistant.adapters.load(name, Path(folder))

    @torch.inference_mode()
    def _answer(
        self, items: Sequence[tuple[str | Mixture | None, int, Sample]], max_new_tokens: int
    ) -> list[dict[str, Any]]:
        self._assistant.module.eval()
        records = []
        for at in range(0, len(items), self._batch_size):
            batch = items[at : at + self._batch_size]
            answers = self._assistant.answer([sample for _, _, sample in batch], max_new_tokens)
            records += [_record(*item, text) for item, text in zip(batch, answers, strict=True)]
        return records


def _name(answering: str | Mixture | None) -> str | None:
    """What an adapter is loaded under; None: the bare base."""
    return answering.key if isinstance(answering, Mixture) else answering


def _record(answering: str | Mixture | None, row: int, sample: Sample, prediction: str) -> dict[str, Any]:
    question = next(m.content for m in reversed(sample.messages) if m.role == "user")
    return {
        "row": row,
        "id": sample.id,
        "instruction": sample.instruction,
        "question": question,
        "prediction": prediction,
        "references": list(sample.references),
        "adapter": answering.strongest if isinstance(answering, Mixture) else answering,
        "images": _images(sample.images),
    }


def _images(encoded: Sequence[bytes]) -> str | None:
    """32 hex digits that tell pictures from others by their files; None: there are none."""
    found = hashlib.blake2b(digest_size=16)
    for image in encoded:
        found.update(len(image).to_bytes(8, "little") + image)
    return found.hexdigest() if encoded else None


def evaluate_stage(
    stage: EvaluateStage, predictor: Predictor, store: Store, observe: Callable[[int, int], None]
) -> None:
    """Answers a whole stage in this process and publishes it, unless the store has it."""
    if store.has(stage.key):
        return
    total = len(Rows([store.files(stage.shards)]))
    records: list[dict[str, Any]] = []
    started = time.perf_counter()
    for start in range(0, total, 100):
        records += predictor(stage, start, min(start + 100, total))
        observe(len(records), total)
    with store.publish(stage.key, stage.record) as folder:
        write_answers(records, time.perf_counter() - started, folder)
