"""From a configuration to stages: a pure function. Executing is somebody else's, and dumb."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lcia import codebook
from lcia.codebook import Codebook, Placement, Query, Route, Similarity
from lcia.config import RunConfig
from lcia.protocols import Features
from lcia.stage import EvalStage, TrainStage
from lcia.types import Split

ZERO_SHOT = -1
"""Row of the untuned base in the accuracy matrix."""


@dataclass(frozen=True)
class Catalog:
    """What planning has to know of data and model: keys of shards, features of instructions, identity of the base.

    `features` is empty where grouping is off.
    """

    order: tuple[str, ...]
    shards: Mapping[tuple[str, Split], str]
    features: Mapping[tuple[str, Split], Features]
    similarity: Similarity | None
    base: str


@dataclass(frozen=True)
class Cell:
    """Entry A[row, column] of the accuracy matrix and the stage that fills it; row -1: zero-shot."""

    row: int
    column: int
    stage: EvalStage


@dataclass(frozen=True)
class Plan:
    """All stages of one run. `trains[j]` tunes the j-th task; `groups[j]` maps each group to its newest stage."""

    order: tuple[str, ...]
    trains: tuple[TrainStage, ...]
    cells: tuple[Cell, ...]
    placements: tuple[Placement, ...]
    routes: tuple[tuple[int, Route], ...]
    groups: tuple[Mapping[int, str], ...]

    @property
    def evals(self) -> tuple[EvalStage, ...]:
        """Distinct evaluation stages in the order of the matrix."""
        return tuple({cell.stage.key: cell.stage for cell in self.cells}.values())


def plan(config: RunConfig, catalog: Catalog) -> Plan:
    """The stages of a run: a chain (or, grouped, a forest) of trainings and a row of evaluations after each."""
    if config.protocol != "continual":
        return _joint_plan(config, catalog)
    placements = _placements(config, catalog)
    trains = _trains(config, catalog, placements)
    groups = _newest(placements, trains)
    books = codebook.history(placements, _train_features(catalog)) if config.grouping.enabled else ((),) * len(trains)
    routes = tuple(_routes(config, catalog, books))
    cells = tuple(_cells(config, catalog, routes, groups))
    return Plan(catalog.order, trains, cells, placements, routes, groups)


def _train_features(catalog: Catalog) -> dict[str, Features]:
    return {task: catalog.features[task, "train"] for task in catalog.order if (task, "train") in catalog.features}


def _placements(config: RunConfig, catalog: Catalog) -> tuple[Placement, ...]:
    if not config.grouping.enabled:
        return tuple(Placement(task, 0, number == 0, ()) for number, task in enumerate(catalog.order))
    assert catalog.similarity is not None
    return codebook.place_all(catalog.order, _train_features(catalog), catalog.similarity, config.grouping)


def _trains(config: RunConfig, catalog: Catalog, placements: Sequence[Placement]) -> tuple[TrainStage, ...]:
    """One stage per task; its parent is the group's newest stage, for a new group the newest of all or none."""
    newest: dict[int, str] = {}
    stages: list[TrainStage] = []
    for placement in placements:
        parent = newest.get(placement.group)
        if placement.is_new and config.grouping.expand_from == "newest" and stages:
            parent = stages[-1].key
        stages.append(_train(config, catalog, (placement.task,), parent, placement.is_new))
        newest[placement.group] = stages[-1].key
    return tuple(stages)


def _train(config: RunConfig, catalog: Catalog, tasks: tuple[str, ...], parent: str | None, first: bool) -> TrainStage:
    return TrainStage(
        tasks=tasks,
        shards=tuple(catalog.shards[task, "train"] for task in tasks),
        parent=parent,
        first=first,
        base=catalog.base,
        assistant=config.assistant,
        lora=config.lora,
        training=config.training,
        # The first stage of an adapter has nothing to average with, and so shares its key across all bounds.
        strategy=config.strategy.first() if first else config.strategy,
        seed=config.seed,
    )


def _newest(placements: Sequence[Placement], trains: Sequence[TrainStage]) -> tuple[dict[int, str], ...]:
    after: list[dict[int, str]] = []
    for placement, stage in zip(placements, trains, strict=True):
        after.append({**(after[-1] if after else {}), placement.group: stage.key})
    return tuple(after)


def _wanted(config: RunConfig, tasks: int) -> Iterator[tuple[int, int]]:
    """Entries of the matrix that are evaluated: the lower triangle, on request the upper one too."""
    for row in range(tasks):
        yield from ((row, column) for column in range(tasks) if column <= row or config.evaluation.upper_triangle)


def _routes(config: RunConfig, catalog: Catalog, books: Sequence[tuple[Codebook, ...]]) -> Iterator[tuple[int, Route]]:
    """(row, decision) for every wanted entry of the matrix."""
    split = config.evaluation.split
    for row, column in _wanted(config, len(catalog.order)):
        task = catalog.order[column]
        if not config.grouping.enabled:
            yield row, Route(task, split, None, 0, (), False)
            continue
        assert catalog.similarity is not None
        query = Query(task, split, catalog.features[task, split])
        yield from ((row, r) for r in codebook.route(books[row], query, catalog.similarity, config.grouping))


def _cells(
    config: RunConfig, catalog: Catalog, routes: Sequence[tuple[int, Route]], groups: Sequence[Mapping[int, str]]
) -> Iterator[Cell]:
    if config.evaluation.zero_shot:
        yield from _untuned(config, catalog)
    decided: dict[tuple[int, str], list[Route]] = {}
    for row, route in routes:
        decided.setdefault((row, route.task), []).append(route)
    for (row, task), found in decided.items():
        adapters = [(r.instruction, None if r.group is None else groups[row][r.group]) for r in found]
        yield Cell(row, catalog.order.index(task), _evaluate(config, catalog, task, adapters))


def _untuned(config: RunConfig, catalog: Catalog) -> Iterator[Cell]:
    for column, task in enumerate(catalog.order):
        yield Cell(ZERO_SHOT, column, _evaluate(config, catalog, task, [(None, None)]))


def _evaluate(
    config: RunConfig, catalog: Catalog, task: str, adapters: Sequence[tuple[str | None, str | None]]
) -> EvalStage:
    """`adapters`: (instruction or None for all, key of the stage that answers or None for the base)."""
    keys = [key for _, key in adapters]
    default = max(set(keys), key=lambda key: (keys.count(key), key or ""))
    return EvalStage(
        task=task,
        shards=catalog.shards[task, config.evaluation.split],
        base=catalog.base,
        assistant=config.assistant,
        default=default,
        routes=tuple(sorted((text, key) for text, key in adapters if text is not None and key != default)),
        max_new_tokens=config.evaluation.max_new_tokens,
    )


def _joint_plan(config: RunConfig, catalog: Catalog) -> Plan:
    """Multi-task: one stage on all tasks at once; zero-shot: none. One row, at the end of the stream."""
    last = len(catalog.order) - 1
    zero = tuple(_untuned(config, catalog))
    if config.protocol == "zero_shot":
        cells = tuple(Cell(last, cell.column, cell.stage) for cell in zero)
        return Plan(catalog.order, (), cells, (), (), ())
    stage = _train(config, catalog, catalog.order, None, True)
    rows = tuple(
        Cell(last, column, _evaluate(config, catalog, task, [(None, stage.key)]))
        for column, task in enumerate(catalog.order)
    )
    shown = zero if config.evaluation.zero_shot else ()
    return Plan(catalog.order, (stage,), (*shown, *rows), (), (), ({0: stage.key},))
