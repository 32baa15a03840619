"""From a configuration to stages: a pure function. Executing is somebody else's, and dumb."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from lcia.config.run import RunConfig
from lcia.grouping.codebook import Books, Placement, Query, Route, Similarity
from lcia.grouping.many_orders import Grouping
from lcia.protocols import Features
from lcia.stage import EvaluateStage, TrainStage
from lcia.types import Split

ZERO_SHOT = -1
"""Row of the untuned base in the accuracy matrix."""


@dataclass(frozen=True)
class Catalog:
    """What planning has to know of the data: the order, keys of shards, features of instructions.

    `features` is empty where grouping is off.
    """

    order: tuple[str, ...]
    shards: Mapping[tuple[str, Split], str]
    features: Mapping[tuple[str, Split], Features]


@dataclass(frozen=True)
class Cell:
    """Entry A[row, column] of the accuracy matrix and the stage that fills it; row -1: zero-shot."""

    row: int
    column: int
    stage: EvaluateStage


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
    def evals(self) -> tuple[EvaluateStage, ...]:
        """Distinct evaluation stages in the order of the matrix."""
        return tuple({cell.stage.key: cell.stage for cell in self.cells}.values())


class Planner:
    """Makes the stages of one configuration for any order of its tasks; `base` tells one frozen base from another.

    Orders share most of what they ask for: decisions are made once, and equal stages are one object, whose key is
    computed once.
    """

    def __init__(self, config: RunConfig, base: str, similarity: Similarity) -> None:
        self.config, self._base = config, base
        self.grouping = Grouping(similarity, config.grouping) if config.groups else None
        self.train, self.evaluate = cache(self._train), cache(self._evaluate)

    def _train(self, tasks: tuple[str, ...], shards: tuple[str, ...], parent: str | None, first: bool) -> TrainStage:
        config = self.config
        return TrainStage(
            tasks=tasks,
            shards=shards,
            parent=parent,
            first=first,
            base=self._base,
            assistant=config.assistant,
            lora=config.lora,
            training=config.training,
            # The first stage of an adapter has nothing to average with, and so shares its key across all bounds.
            strategy=config.strategy.first() if first else config.strategy,
            seed=config.seed,
        )

    def _evaluate(self, task: str, shards: str, adapters: tuple[tuple[str | None, str | None], ...]) -> EvaluateStage:
        """`adapters`: (instruction or None for all, key of the stage that answers or None for the base)."""
        keys = [key for _, key in adapters]
        default = max(set(keys), key=lambda key: (keys.count(key), key or ""))
        return EvaluateStage(
            task=task,
            shards=shards,
            base=self._base,
            assistant=self.config.assistant,
            default=default,
            routes=tuple(sorted((text, key) for text, key in adapters if text is not None and key != default)),
            max_new_tokens=self.config.evaluation.max_new_tokens,
        )


def plan(planner: Planner, catalog: Catalog) -> Plan:
    """The stages of a run: a chain (or, grouped, a forest) of trainings and a row of evaluations after each."""
    if not planner.config.is_stream:
        return _joint_plan(planner, catalog)
    placements, books = _placements(planner, catalog)
    trains = _trains(planner, catalog, placements)
    groups = _newest(placements, trains)
    routes = tuple(_routes(planner, catalog, placements, books))
    cells = tuple(_cells(planner, catalog, routes, groups))
    return Plan(catalog.order, trains, cells, placements, routes, groups)


def _placements(planner: Planner, catalog: Catalog) -> tuple[tuple[Placement, ...], tuple[Books, ...]]:
    """Where each task is trained, and the codebooks afterwards (none where grouping is off)."""
    if planner.grouping is None:
        chain = tuple(Placement(task, 0, number == 0, ()) for number, task in enumerate(catalog.order))
        return chain, ((),) * len(chain)
    features = {task: catalog.features[task, "train"] for task in catalog.order}
    steps = planner.grouping.follow(catalog.order, features)
    return tuple(placement for placement, _ in steps), tuple(books for _, books in steps)


def _trains(planner: Planner, catalog: Catalog, placements: Sequence[Placement]) -> tuple[TrainStage, ...]:
    """One stage per task; its parent is the group's newest stage, for a new group the newest of all or none."""
    newest: dict[int, str] = {}
    stages: list[TrainStage] = []
    for placement in placements:
        parent = newest.get(placement.group)
        if placement.is_new and planner.config.grouping.expand_from == "newest" and stages:
            parent = stages[-1].key
        shards = (catalog.shards[placement.task, "train"],)
        stages.append(planner.train((placement.task,), shards, parent, placement.is_new))
        newest[placement.group] = stages[-1].key
    return tuple(stages)


def _newest(placements: Sequence[Placement], trains: Sequence[TrainStage]) -> tuple[dict[int, str], ...]:
    after: list[dict[int, str]] = []
    for placement, stage in zip(placements, trains, strict=True):
        after.append({**(after[-1] if after else {}), placement.group: stage.key})
    return tuple(after)


def _wanted(planner: Planner, tasks: int) -> Iterator[tuple[int, int]]:
    """Entries of the matrix that are evaluated: the lower triangle, on request the upper one too."""
    upper = planner.config.evaluation.upper_triangle
    for row in range(tasks):
        yield from ((row, column) for column in range(tasks) if column <= row or upper)


def _routes(
    planner: Planner, catalog: Catalog, placements: Sequence[Placement], books: Sequence[Books]
) -> Iterator[tuple[int, Route]]:
    """(row, decision) for every wanted entry of the matrix."""
    split = planner.config.evaluation.split
    for row, column in _wanted(planner, len(catalog.order)):
        task = catalog.order[column]
        threshold = placements[row].threshold
        if planner.grouping is None or threshold is None:
            yield row, Route(task, split, None, 0, (), False)
            continue
        query = Query(task, split, catalog.features[task, split])
        yield from ((row, route) for route in planner.grouping.route(books[row], query, threshold))


def _cells(
    planner: Planner, catalog: Catalog, routes: Sequence[tuple[int, Route]], groups: Sequence[Mapping[int, str]]
) -> Iterator[Cell]:
    if planner.config.evaluation.zero_shot:
        yield from _untuned(planner, catalog)
    decided: dict[tuple[int, str], list[Route]] = {}
    for row, route in routes:
        decided.setdefault((row, route.task), []).append(route)
    for (row, task), found in decided.items():
        adapters = tuple((r.instruction, None if r.group is None else groups[row][r.group]) for r in found)
        yield Cell(row, catalog.order.index(task), _ask(planner, catalog, task, adapters))


def _untuned(planner: Planner, catalog: Catalog) -> Iterator[Cell]:
    for column, task in enumerate(catalog.order):
        yield Cell(ZERO_SHOT, column, _ask(planner, catalog, task, ((None, None),)))


def _ask(
    planner: Planner, catalog: Catalog, task: str, adapters: tuple[tuple[str | None, str | None], ...]
) -> EvaluateStage:
    return planner.evaluate(task, catalog.shards[task, planner.config.evaluation.split], adapters)


def _joint_plan(planner: Planner, catalog: Catalog) -> Plan:
    """Multi-task: one stage on all tasks at once; zero-shot: none. One row, at the end of the stream."""
    last = len(catalog.order) - 1
    zero = tuple(_untuned(planner, catalog))
    if not planner.config.trains:
        cells = tuple(Cell(last, cell.column, cell.stage) for cell in zero)
        return Plan(catalog.order, (), cells, (), (), ())
    shards = tuple(catalog.shards[task, "train"] for task in catalog.order)
    stage = planner.train(catalog.order, shards, None, True)
    rows = tuple(
        Cell(last, column, _ask(planner, catalog, task, ((None, stage.key),)))
        for column, task in enumerate(catalog.order)
    )
    shown = zero if planner.config.evaluation.zero_shot else ()
    return Plan(catalog.order, (stage,), (*shown, *rows), (), (), ({0: stage.key},))
