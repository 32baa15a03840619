"""From a configuration to stages: a pure function. Executing is somebody else's, and dumb."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

from lcia.config.run import RunConfig
from lcia.grouping.codebook import Books, Placement, Query, Route, Similarity
from lcia.grouping.many_orders import Grouping
from lcia.protocols import Features
from lcia.stage import Asked, EvaluateStage, ExternalStage, Fusion, Replay, TrainStage
from lcia.types import Split

ZERO_SHOT = -1
"""Row of the untuned base in the accuracy matrix."""


@dataclass(frozen=True)
class Catalog:
    """What planning has to know of the data: the order, keys of shards, features of instructions.

    `features` is empty where grouping is off. `fits`: keys of the rows by which a task's groups are compared.
    `general`: tasks that are evaluated only.
    """

    order: tuple[str, ...]
    shards: Mapping[tuple[str, Split], str]
    features: Mapping[tuple[str, Split], Features]
    fits: Mapping[str, str] = field(default_factory=dict)
    general: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """Entry A[row, column] of the accuracy matrix, or of the table beside it, and the stage that fills it; row -1:
    zero-shot."""

    row: int
    column: int
    stage: EvaluateStage


@dataclass(frozen=True)
class Fit:
    """A group's newest adapter asked about a task, whether it serves the task or not."""

    task: str
    group: int
    stage: EvaluateStage


@dataclass(frozen=True)
class Judged:
    """A row of the table beside the matrix that a command fills; -1: the base before any training."""

    row: int
    stage: ExternalStage


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """What a stream is after one more task; orders that begin alike share it.

    `train` tunes that task (None: nothing is tuned), `placement` says in which group (None: no stream). `newest[g]` is
    the key of the newest stage of group g, `books` the codebooks. `asked`: the tasks so far, in their order; `ahead`:
    those still to come, where they are evaluated too. `general`: the tasks that are never trained.
    """

    tasks: tuple[str, ...]
    train: TrainStage | None
    placement: Placement | None
    newest: tuple[str, ...]
    books: Books
    asked: tuple[EvaluateStage, ...]
    ahead: Mapping[str, EvaluateStage]
    general: tuple[EvaluateStage, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All stages of one run, as rows of its accuracy matrix. `untuned`: those of the base before any training; `fits`:
    those of every group about every task at the end of the stream. `general`: tasks that are never trained,
    `general_untuned`: the base asked about them; `judged`: what a command says of each adapter.

    A stream has a row for each task. Joint training and the untuned base alone have one, which is the matrix's last.
    """

    order: tuple[str, ...]
    rows: tuple[Row, ...]
    untuned: tuple[EvaluateStage, ...]
    decide: Callable[[Row, str], tuple[Route, ...]] = field(compare=False)
    """How a task is routed after a row, with all similarities: thousands of orders do not keep what a few show."""
    fits: tuple[Fit, ...] = ()
    general: tuple[str, ...] = ()
    general_untuned: tuple[EvaluateStage, ...] = ()
    judged: tuple[Judged, ...] = ()

    @property
    def numbered(self) -> Sequence[tuple[int, Row]]:
        """The rows with their numbers in the matrix."""
        return list(enumerate(self.rows, start=len(self.order) - len(self.rows)))

    @property
    def trains(self) -> tuple[TrainStage, ...]:
        """`trains[j]` tunes the j-th task."""
        return tuple(row.train for row in self.rows if row.train)

    @property
    def cells(self) -> tuple[Cell, ...]:
        untuned = (Cell(ZERO_SHOT, column, stage) for column, stage in enumerate(self.untuned))
        asked = (Cell(number, column, stage) for number, _, column, stage in self._asked())
        return (*untuned, *asked)

    @property
    def general_cells(self) -> tuple[Cell, ...]:
        """Entries of the table beside the matrix; columns are places in `general`."""
        untuned = (Cell(ZERO_SHOT, column, stage) for column, stage in enumerate(self.general_untuned))
        asked = (Cell(n, column, stage) for n, row in self.numbered for column, stage in enumerate(row.general))
        return (*untuned, *asked)

    @property
    def evals(self) -> tuple[EvaluateStage, ...]:
        """Distinct evaluation stages in the order of the matrix, then of the table beside it, then those of `fits`."""
        cells = (*self.cells, *self.general_cells)
        stages = (*(cell.stage for cell in cells), *(fit.stage for fit in self.fits))
        return tuple({stage.key: stage for stage in stages}.values())

    @property
    def asked(self) -> tuple[Asked, ...]:
        """Everything that is asked about adapters: `evals`, and what commands say."""
        found: dict[str, Asked] = {stage.key: stage for stage in self.evals}
        found |= {judged.stage.key: judged.stage for judged in self.judged}
        return tuple(found.values())

    @property
    def placements(self) -> tuple[Placement, ...]:
        return tuple(row.placement for row in self.rows if row.placement)

    @property
    def routes(self) -> tuple[tuple[int, Route], ...]:
        """(row, decision) for every entry of a stream's matrix that is evaluated."""
        return tuple((number, route) for number, _ in self.numbered for route in self.routes_after(number))

    def routes_after(self, number: int) -> Iterator[Route]:
        """The decisions behind one row of a stream's matrix."""
        row = self.rows[number - len(self.order)]
        if row.placement:
            tasks = self.order if row.ahead else self.order[: len(row.asked)]
            yield from (route for task in (*tasks, *self.general) for route in self.decide(row, task))

    @property
    def groups(self) -> tuple[Mapping[int, str], ...]:
        """`groups[j]` maps each group to its newest stage after the j-th task."""
        return tuple(dict(enumerate(row.newest)) for row in self.rows if row.train)

    def _asked(self) -> Iterator[tuple[int, Row, int, EvaluateStage]]:
        """(number of the row, the row, column, stage) for every entry that is evaluated after a training."""
        for number, row in self.numbered:
            for column, stage in enumerate(row.asked):
                yield number, row, column, stage
            for column in range(len(row.asked), len(self.order) if row.ahead else 0):
                yield number, row, column, row.ahead[self.order[column]]


def union(plans: Iterable[Plan]) -> tuple[list[TrainStage], list[Asked]]:
    """The distinct stages of many plans; trainings come after those that they build on."""
    trains: dict[str, TrainStage] = {}
    evals: dict[str, Asked] = {}
    seen: set[int] = set()
    for made in plans:
        evals |= {stage.key: stage for stage in (*made.untuned, *made.general_untuned)}
        evals |= {fit.stage.key: fit.stage for fit in made.fits}
        evals |= {judged.stage.key: judged.stage for judged in made.judged}
        for row in made.rows:
            if id(row) not in seen:
                seen.add(id(row))
                trains |= {row.train.key: row.train} if row.train else {}
                evals |= {stage.key: stage for stage in (*row.asked, *row.ahead.values(), *row.general)}
    return list(trains.values()), list(evals.values())


class Planner:
    """Makes the stages of one configuration for any order of its tasks; `base` tells one frozen base from another.

    Orders share most of what they ask for: what follows from the first tasks of an order is decided once, and equal
    stages are one object, whose key is computed once.
    """

    def __init__(self, config: RunConfig, base: str, similarity: Similarity) -> None:
        self.config, self._base = config, base
        self.grouping = Grouping(similarity, config.grouping) if config.groups else None
        self.train, self.evaluate, self.judge = cache(self._train), cache(self._evaluate), cache(self._judge)
        self._made: dict[str, TrainStage] = {}
        """All trainings by their keys."""
        self.rows: dict[object, Row] = {}
        """By the tasks so far and, where those to come are evaluated too, the set of all."""
        self.ask = cache(self._ask)

    def decide(self, catalog: Catalog, row: Row, task: str) -> tuple[Route, ...]:
        """How a task is routed after a row of a stream."""
        split = self.config.evaluation.split
        if self.grouping and self.config.grouping.fusion:
            return self.grouping.mixed(row.books, Query(task, split, catalog.features[task, split]))
        if self.grouping is None or row.placement is None or row.placement.threshold is None:
            return (Route(task, split, None, 0, (), False),)
        query = Query(task, split, catalog.features[task, split])
        return self.grouping.route(row.books, query, row.placement.threshold)

    def _train(self, tasks: tuple[str, ...], shards: tuple[str, ...], parent: str | None, first: bool) -> TrainStage:
        config = self.config
        made = TrainStage(
            tasks=tasks,
            shards=shards,
            parent=parent,
            first=first,
            base=self._base,
            assistant=config.assistant,
            lora=config.lora,
            training=config.training.of_tasks(tasks),
            # The first stage of an adapter has nothing to average with, and so shares its key across all bounds.
            strategy=config.strategy.first() if first else config.strategy,
            seed=config.seed,
            noise=config.data.noise,
            replay=None if first or parent is None else self._replay(self._made[parent]),
        )
        self._made[made.key] = made
        return made

    def _replay(self, before: TrainStage) -> Replay | None:
        """What a stage is trained on beside its own rows; `before`: the adapter's last one."""
        older = before.replay.shards if before.replay else ()
        share = self.config.data.replay
        return Replay(share=share, shards=(*older, *before.shards)) if share else None

    def _ask(
        self,
        task: str,
        shards: str,
        texts: tuple[str | None, ...],
        groups: tuple[int | None, ...],
        newest: tuple[str | None, ...],
    ) -> EvaluateStage:
        """The stage in which each group answers its instructions by its newest adapter; `newest`: of `groups` alone,
        None for all others."""
        keys = (None if group is None else newest[group] for group in groups)
        return self.evaluate(task, shards, tuple(zip(texts, keys, strict=True)))

    def mix(
        self, task: str, shards: str, weights: tuple[tuple[str | None, tuple[float, ...]], ...], newest: tuple[str, ...]
    ) -> EvaluateStage:
        """The stage in which the adapters of all groups answer together; `weights` by instruction."""
        fusion = self.config.grouping.fusion
        assert fusion is not None
        return EvaluateStage(
            task=task,
            shards=shards,
            base=self._base,
            assistant=self.config.assistant,
            default=None,
            max_new_tokens=self.config.evaluation.max_new_tokens,
            fusion=Fusion(adapters=newest, layers=fusion.layers, weights=weights),
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

    def _judge(self, task: str, adapter: str | None, command: tuple[str, ...]) -> ExternalStage:
        return ExternalStage(
            task=task, adapter=adapter, command=command, base=self._base, assistant=self.config.assistant
        )


def plan(planner: Planner, catalog: Catalog) -> Plan:
    """The stages of a run: a chain (or, grouped, a forest) of trainings and a row of evaluations after each."""
    config, order = planner.config, catalog.order
    if not config.is_stream:
        return _joint_plan(planner, catalog)
    all_tasks = frozenset(order) if config.evaluation.upper_triangle else None
    rows: list[Row] = []
    for number in range(1, len(order) + 1):
        at = (order[:number], all_tasks)
        if at not in planner.rows:
            planner.rows[at] = _row(planner, catalog, order[:number], rows[-1] if rows else None)
        rows.append(planner.rows[at])
    untuned = _untuned(planner, catalog, order) if config.evaluation.zero_shot else ()
    made = Plan(order, tuple(rows), untuned, partial(planner.decide, catalog), _fits(planner, catalog, rows[-1]))
    return _with_general(planner, catalog, made)


def _with_general(planner: Planner, catalog: Catalog, made: Plan) -> Plan:
    """With what is looked at beside the stream: the base before any training, and what a command says."""
    untuned = _untuned(planner, catalog, catalog.general) if planner.config.trains else ()
    return replace(made, general=catalog.general, general_untuned=untuned, judged=tuple(_judged(planner, made)))


def _judged(planner: Planner, made: Plan) -> Iterator[Judged]:
    config = planner.config.evaluation.external
    if config is None:
        return
    if config.untuned:
        yield Judged(ZERO_SHOT, planner.judge("", None, config.untuned))
    for number, row in made.numbered if config.every == "stage" else made.numbered[-1:]:
        if row.train:
            yield Judged(number, planner.judge(row.tasks[-1], row.train.key, config.command))


def _fits(planner: Planner, catalog: Catalog, last: Row) -> tuple[Fit, ...]:
    """Every task with every group, where there is a choice and rows to choose by."""
    if len(last.newest) < 2 or planner.config.grouping.fusion:
        return ()
    return tuple(
        Fit(task, group, planner.evaluate(task, catalog.fits[task], ((None, key),)))
        for task in catalog.order
        if task in catalog.fits
        for group, key in enumerate(last.newest)
    )


def _row(planner: Planner, catalog: Catalog, tasks: tuple[str, ...], before: Row | None) -> Row:
    """The row of the last of `tasks`; `before`: that of the one before it."""
    placement, books = _placed(planner, catalog, tasks, before.books if before else ())
    newest = before.newest if before else ()
    train = planner.train(tasks[-1:], (catalog.shards[tasks[-1], "train"],), _parent(planner, placement, before),
                          placement.is_new)  # fmt: skip
    group = placement.group
    newest = (*newest[:group], train.key, *newest[group + 1 :])
    row = Row(tasks, train, placement, newest, books, (), {})
    ahead = [task for task in catalog.order if task not in tasks] if planner.config.evaluation.upper_triangle else ()
    asked = tuple(_ask(planner, catalog, row, task) for task in tasks)
    general = tuple(_ask(planner, catalog, row, task) for task in catalog.general)
    return replace(row, asked=asked, ahead={task: _ask(planner, catalog, row, task) for task in ahead}, general=general)


def _placed(planner: Planner, catalog: Catalog, tasks: tuple[str, ...], books: Books) -> tuple[Placement, Books]:
    """Where the last of `tasks` is trained, and the codebooks afterwards (none where grouping is off)."""
    if planner.grouping is None:
        return Placement(tasks[-1], 0, len(tasks) == 1, ()), ()
    if planner.config.grouping.fusion:
        return planner.grouping.open(books, tasks[-1], catalog.features[tasks[-1], "train"])
    return planner.grouping.step(books, {task: catalog.features[task, "train"] for task in tasks}, tasks[-1])


def _parent(planner: Planner, placement: Placement, before: Row | None) -> str | None:
    """The group's newest stage; for a new group the newest of all or none."""
    if before is None:
        return None
    if not placement.is_new:
        return before.newest[placement.group]
    return before.train.key if planner.config.grouping.expand_from == "newest" and before.train else None


def _ask(planner: Planner, catalog: Catalog, row: Row, task: str) -> EvaluateStage:
    """One entry of a stream's matrix."""
    split = planner.config.evaluation.split
    shards, threshold = catalog.shards[task, split], row.placement.threshold if row.placement else None
    if planner.grouping and planner.config.grouping.fusion and len(row.newest) > 1:
        return planner.mix(task, shards, planner.grouping.weights(row.books, catalog.features[task, split]), row.newest)
    if planner.grouping is None or threshold is None:
        return planner.ask(task, shards, (None,), (0,), row.newest)
    features = catalog.features[task, split]
    groups = planner.grouping.choose(row.books, features, threshold)
    texts = features.texts if planner.config.grouping.route == "sample" else (None,)
    # Only the adapters that answer, so that others may change and the stage stays the same.
    used = set(groups)
    newest = tuple([key if group in used else None for group, key in enumerate(row.newest)])
    return planner.ask(task, shards, texts, groups, newest)


def _untuned(planner: Planner, catalog: Catalog, tasks: Iterable[str]) -> tuple[EvaluateStage, ...]:
    """The base before any training, asked about these tasks."""
    return tuple(_by_one(planner, catalog, task, None) for task in tasks)


def _by_one(planner: Planner, catalog: Catalog, task: str, adapter: str | None) -> EvaluateStage:
    """All of a task's questions answered by one adapter; None: by the base."""
    split = planner.config.evaluation.split
    return planner.evaluate(task, catalog.shards[task, split], ((None, adapter),))


def _joint_plan(planner: Planner, catalog: Catalog) -> Plan:
    """Multi-task: one stage on all tasks at once; zero-shot: none. One row, at the end of the stream."""
    order, config = catalog.order, planner.config
    stage = (
        planner.train(order, tuple(catalog.shards[t, "train"] for t in order), None, True) if config.trains else None
    )
    adapter = stage.key if stage else None
    answers, general = (
        tuple(_by_one(planner, catalog, task, adapter) for task in tasks) for tasks in (order, catalog.general)
    )
    row = Row(order, stage, None, (adapter,) if adapter else (), (), answers, {}, general)
    untuned = _untuned(planner, catalog, order) if config.trains and config.evaluation.zero_shot else ()
    return _with_general(planner, catalog, Plan(order, (row,), untuned, _undecided))


def _undecided(row: Row, task: str) -> tuple[Route, ...]:
    """No stream, no groups: nothing is routed."""
    return ()
