"""A run, from configuration to accuracy matrix. It takes its executor: in this process, or on Ray.

Several configurations run together as the union of their plans, so what they share is done once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import numpy as np

from lcia import benchmarks
from lcia.config.run import RunConfig
from lcia.data.shards import BAD_ROWS, ShardCounts, complaint, read_counts, refuse
from lcia.data.sources import fingerprint
from lcia.embedders import embed, similarity_of
from lcia.evaluation.external import chosen_of, read_figures
from lcia.evaluation.scored import SCORINGS, Scored, read_scored
from lcia.metrics.companion import Companion
from lcia.metrics.matrix import UNTUNED, AccuracyMatrix
from lcia.models.identity import base_identity, embedder_identity, pinned_assistant, pinned_embedder
from lcia.plan import ZERO_SHOT, Catalog, Plan, Planner, plan, union
from lcia.protocols import Features
from lcia.stage import Asked, EmbedStage, ShardStage, TrainStage
from lcia.store.folders import Store
from lcia.training.result import TrainResult
from lcia.types import Benchmark, InputError, Split, TaskSpec

MOST_FITTED = 100
"""Runs that are planned together up to which tasks are compared under all groups: of thousands of orders each would
ask for answers that no other shares."""


class Executor(Protocol):
    """Leaves the result of every stage it is given in the store; skips those that are there."""

    store: Store

    def shard(self, stages: Sequence[ShardStage]) -> None: ...

    def embed(self, stages: Sequence[EmbedStage]) -> None: ...

    def train_and_evaluate(self, trains: Sequence[TrainStage], evals: Sequence[Asked]) -> None:
        """Trains (parents come before their children) and evaluates, in whatever overlap it likes."""


@dataclass(frozen=True)
class Prepared:
    """A configuration with its data in the store and its plan made; nothing is trained yet.

    `embeds` holds the keys of the features; none where grouping is off.
    """

    config: RunConfig
    benchmark: Benchmark
    catalog: Catalog
    plan: Plan
    counts: Mapping[str, ShardCounts]
    embeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What is known of a finished run: `trainings` and `answers` by the key of their stage, and under each scoring
    (`strict`, `legacy`, `normalised`) the matrix in `scores`. `beside`: what was looked at beside the stream; None:
    nothing."""

    prepared: Prepared
    trainings: Mapping[str, TrainResult]
    answers: Mapping[str, Scored]
    scores: Mapping[str, AccuracyMatrix]
    beside: Companion | None = None

    @property
    def config(self) -> RunConfig:
        return self.prepared.config

    @property
    def matrix(self) -> AccuracyMatrix:
        return self.scores[self.config.evaluation.scoring]

    @property
    def last(self) -> int:
        """The row of the matrix after the last task."""
        return len(self.prepared.plan.order) - 1

    @property
    def train_seconds(self) -> float:
        """Of all its trainings, also those that it shares with other runs: what it would take alone."""
        return sum(training.seconds for training in self.trainings.values())

    @property
    def newest(self) -> list[TrainResult]:
        """The newest training of each group at the end."""
        groups = self.prepared.plan.groups
        return [self.trainings[key] for key in (groups[-1].values() if groups else ())]

    @property
    def kept_mb(self) -> float:
        """Megabytes that lie beside the adapter for its next stage: mean over the groups at the end."""
        sizes = [training.kept_bytes / 1e6 for training in self.newest]
        return float(np.mean(sizes)) if sizes else 0.0

    @property
    def adapters_mb(self) -> float:
        """Megabytes of the adapters of all groups at the end."""
        return sum(training.adapter_bytes for training in self.newest) / 1e6


def run(configs: Sequence[RunConfig], executor: Executor) -> list[Outcome]:
    """Runs configurations together: data, plans, the union of their stages, matrices. What is done is not done again.

    Raises:
        InputError: a configuration or its data cannot work; raised before anything is trained.
    """
    return complete(prepare(configs, executor), executor)


def complete(prepared: Sequence[Prepared], executor: Executor) -> list[Outcome]:
    """Trains and evaluates the union of the plans, then reads what came of it."""
    executor.train_and_evaluate(*union(one.plan for one in prepared))
    return read_outcomes(prepared, executor.store)


def prepare(configs: Sequence[RunConfig], executor: Executor) -> list[Prepared]:
    """Shards and embeds the data of all configurations and makes their plans."""
    shared = _Shared(executor.store, fitted=len(configs) <= MOST_FITTED)
    requests = [(config, shared.data(config)) for config in configs]
    wanted = list({id(data): data for _, data in requests}.values())
    shards = {stage.key: stage for data in wanted for stage in data.read}
    executor.shard(list(shards.values()))
    counts = {key: read_counts(executor.store.files(key)) for key in shards}
    for data in wanted:
        _refuse_bad_rows(data, counts, executor.store)
    embeds = {stage.key: stage for data in wanted for stage in data.embeds.values()}
    executor.embed(list(embeds.values()))
    ready = {id(data): _Ready(data, shared, counts) for data in wanted}
    return [ready[id(data)].plan(config) for config, data in requests]


# Before the data is there ---------------------------------------------------------------------------------------


class _Shared:
    """Lookups of files, models, store and plans that the runs of a study share; each is made once."""

    def __init__(self, store: Store, fitted: bool) -> None:
        self._fitted = fitted
        self._benchmark, self.fingerprint = cache(benchmarks.build), cache(fingerprint)
        self._assistant, self._base = cache(pinned_assistant), cache(base_identity)
        self._embedder, self._identity = cache(pinned_embedder), cache(embedder_identity)
        self._features = cache(lambda key: embed.read(store.fetch(key)))
        self._data: dict[object, _Data] = {}

    def data(self, config: RunConfig) -> _Data:
        """What a configuration asks of the data: one value for all that differ in name, seed and order of tasks alone.

        Runs of a study share the parts of their configurations as objects, so these are compared, not their contents.
        """
        parts = tuple(id(value) for name, value in config if name not in ("name", "seed", "order"))
        benchmark = self._benchmark(config.benchmark, config.evaluation.general)
        tasks = frozenset(benchmark.order(config.order))
        if (parts, tasks) not in self._data:
            self._data[parts, tasks] = self._new_data(config, benchmark)
        return self._data[parts, tasks]

    def _new_data(self, config: RunConfig, benchmark: Benchmark) -> _Data:
        # Only so that a base that is not there is told before any data is read.
        self._base(self._assistant(config.assistant))
        wanted = rows_of(config, benchmark)
        shards = {(task, split): _shard(config, benchmark[task], split, self) for task, split in wanted}
        embeds: dict[tuple[str, Split], EmbedStage] = {}
        if config.groups:
            embedder = self._embedder(config.grouping.embedder)
            identity = self._identity(embedder)
            embeds = {
                at: EmbedStage(shards=stage.key, embedder=embedder, identity=identity) for at, stage in shards.items()
            }
        return _Data(config, benchmark, shards, embeds, self._fits(config, benchmark) if self._fitted else {})

    def _fits(self, config: RunConfig, benchmark: Benchmark) -> dict[str, ShardStage]:
        """The first validation rows of each task that has some, where groups are compared."""
        tasks = [benchmark[name] for name in benchmark.order(config.order)]
        if not config.groups or not config.watch.rows or len(tasks) < 2:
            return {}
        return {
            task.name: _shard(
                config, replace(task, max_samples=min(task.max_samples or config.watch.rows, config.watch.rows)),
                "validation", self,
            )
            for task in tasks
            if task.validation is not None
        }  # fmt: skip

    def planner(self, config: RunConfig) -> Planner:
        assistant = self._assistant(config.assistant)
        exact = config.model_copy(update={"name": "", "order": None, "assistant": assistant})
        return Planner(exact, self._base(assistant), similarity_of(config.grouping.embedder))

    def features(self, key: str) -> Features:
        """Of an EmbedStage; one object, however many runs ask for it."""
        return self._features(key)


@dataclass(frozen=True)
class _Data:
    """What a configuration asks of the data."""

    config: RunConfig
    benchmark: Benchmark
    shards: Mapping[tuple[str, Split], ShardStage]
    embeds: Mapping[tuple[str, Split], EmbedStage]
    fits: Mapping[str, ShardStage]

    @property
    def read(self) -> tuple[ShardStage, ...]:
        """All rows that are read."""
        return (*self.shards.values(), *self.fits.values())


class _Ready:
    """Data that is in the store, and plans on it."""

    def __init__(self, data: _Data, shared: _Shared, counts: Mapping[str, ShardCounts]) -> None:
        self._benchmark = data.benchmark
        self._keys = {at: stage.key for at, stage in data.shards.items()}
        self._features = {at: shared.features(stage.key) for at, stage in data.embeds.items()}
        self._counts = {stage.label: counts[stage.key] for stage in data.shards.values()}
        self._embeds = tuple(stage.key for stage in data.embeds.values())
        self._fits = {task: stage.key for task, stage in data.fits.items()}
        self._planner = cache(lambda seed: shared.planner(data.config.model_copy(update={"seed": seed})))

    def plan(self, config: RunConfig) -> Prepared:
        general = tuple(task.name for task in self._benchmark.general)
        order = self._benchmark.order(config.order)
        catalog = Catalog(order, self._keys, self._features, self._fits, general)
        made = plan(self._planner(config.seed), catalog)
        return Prepared(config, self._benchmark, catalog, made, self._counts, self._embeds)


def keys_of(prepared: Sequence[Prepared]) -> set[str]:
    """The keys of all results that runs need: their data, features, trainings and answers."""
    catalogs = {id(one.catalog.shards): one for one in prepared}.values()
    data = {key for one in catalogs for key in (*one.catalog.shards.values(), *one.catalog.fits.values(), *one.embeds)}
    trains, evals = union(one.plan for one in prepared)
    return data | {stage.key for stage in (*trains, *evals)}


def splits_of(config: RunConfig) -> tuple[Split, ...]:
    """The splits of each task that a run reads."""
    split = config.evaluation.split
    return ("train", split) if config.trains and split != "train" else (split,)


def rows_of(config: RunConfig, benchmark: Benchmark) -> list[tuple[str, Split]]:
    """The tasks and splits that a run reads: those of the stream, then what it only evaluates."""
    stream = [(task, split) for task in benchmark.order(config.order) for split in splits_of(config)]
    return [*stream, *((task.name, config.evaluation.split) for task in benchmark.general)]


def _shard(config: RunConfig, task: TaskSpec, split: Split, shared: _Shared) -> ShardStage:
    source = task.sources[split]
    if source is None:
        raise InputError(
            f"task {task.name} has no {split} data: name it in the benchmark, or choose another evaluation.split"
        )
    return ShardStage(
        task=task.name,
        split=split,
        source=source,
        fingerprint=shared.fingerprint(source),
        instruction=task.instruction,
        max_samples=task.max_samples,
        max_image_pixels=config.data.max_image_pixels,
        stretch=task.stretch,
    )


def _refuse_bad_rows(data: _Data, counts: Mapping[str, ShardCounts], store: Store) -> None:
    """Raises InputError, listing the reasons by count, where more rows are bad than the configuration allows."""
    limit = data.config.data.max_bad_fraction
    refuse((complaint(s.label, counts[s.key], f"{store.path(s.key)}/{BAD_ROWS}", limit) for s in data.read), limit)


# After everything is done ---------------------------------------------------------------------------------------


def whole(prepared: Sequence[Prepared], store: Store) -> list[Prepared]:
    """Those that the store has every result of."""
    there = cache(store.has)
    return [one for one in prepared if all(there(stage.key) for stage in (*one.plan.trains, *one.plan.asked))]


def read_outcomes(prepared: Sequence[Prepared], store: Store) -> list[Outcome]:
    """What finished runs have left in the store; stages that they share are read once."""
    training = cache(lambda key: TrainResult.read(store.fetch(key)))
    scored = cache(lambda key, task: read_scored(store.fetch(key), task))
    said = cache(lambda key: read_figures(store.fetch(key)))
    return [_outcome(one, training, scored, said) for one in prepared]


def scores_so_far(prepared: Prepared, store: Store, tasks: int) -> AccuracyMatrix:
    """The matrix, under the run's scoring, whose first rows are answered already; the others are empty."""
    plan = prepared.plan
    stages = {cell.stage.key: cell.stage for cell in plan.cells if cell.row < tasks}
    answers = {key: read_scored(store.fetch(key), prepared.benchmark[stage.task]) for key, stage in stages.items()}
    return _matrix(plan, answers, prepared.config.evaluation.scoring)


def _outcome(
    prepared: Prepared,
    training: Callable[[str], TrainResult],
    scored: Callable[[str, TaskSpec], Scored],
    said: Callable[[str], Mapping[str, float]],
) -> Outcome:
    plan = prepared.plan
    answers = {stage.key: scored(stage.key, prepared.benchmark[stage.task]) for stage in plan.evals}
    scores = {scoring: _matrix(plan, answers, scoring) for scoring in SCORINGS}
    trainings = {stage.key: training(stage.key) for stage in plan.trains}
    return Outcome(prepared, trainings, answers, scores, _beside(prepared, answers, said))


def _beside(
    prepared: Prepared, answers: Mapping[str, Scored], said: Callable[[str], Mapping[str, float]]
) -> Companion | None:
    """The table beside the matrix; None where nothing was looked at."""
    plan, config = prepared.plan, prepared.config.evaluation
    if not plan.general and not plan.judged:
        return None
    chosen = config.external.metrics if config.external else ()
    told = {judged.row: chosen_of(said(judged.stage.key), chosen) for judged in plan.judged}
    columns = list(dict.fromkeys(name for figures in told.values() for name in figures))
    rows = range(ZERO_SHOT, len(plan.order))
    values = np.full((len(rows), len(plan.general) + len(columns)), np.nan)
    for cell in plan.general_cells:
        values[cell.row + 1, cell.column] = answers[cell.stage.key].percent[config.scoring]
    for row, figures in told.items():
        for name, value in figures.items():
            values[row + 1, len(plan.general) + columns.index(name)] = value
    return Companion(plan.general, tuple(columns), (UNTUNED, *plan.order), values)


def _matrix(plan: Plan, answers: Mapping[str, Scored], scoring: str) -> AccuracyMatrix:
    size = len(plan.order)
    scores, zero = np.full((size, size), np.nan), np.full(size, np.nan)
    for cell in plan.cells:
        if cell.stage.key not in answers:
            continue
        value = answers[cell.stage.key].percent[scoring]
        if cell.row == ZERO_SHOT:
            zero[cell.column] = value
        else:
            scores[cell.row, cell.column] = value
    return AccuracyMatrix(plan.order, scores, None if np.isnan(zero).all() else zero)
