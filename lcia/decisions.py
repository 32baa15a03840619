"""What grouping decided in a run, and how many samples each decision served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from lcia.codebook import Placement, Route, group_name, to_record
from lcia.report import Decision, placed, routed
from lcia.run import Prepared
from lcia.types import Split

SHOWN = 4
"""Instructions per task and group that the page names; with one instruction per sample there would be thousands."""

Multiplicities: TypeAlias = Mapping[tuple[str, Split], Mapping[str | None, int]]
"""(task, split) -> instruction -> samples; None: all samples of the split."""


def multiplicities(prepared: Prepared) -> Multiplicities:
    """How many samples hold an instruction; without grouping only the whole splits are known."""
    found: dict[tuple[str, Split], dict[str | None, int]] = {}
    for task, split in prepared.catalog.shards:
        features = prepared.catalog.features.get((task, split))
        named: dict[str | None, int] = {None: prepared.counts[f"{task}/{split}"].good}
        if features:
            named |= zip(features.texts, features.counts.tolist(), strict=True)
        found[task, split] = named
    return found


def placements(prepared: Prepared) -> Iterator[tuple[Placement, int]]:
    """Every training decision with the samples that it sent to its group."""
    counts = multiplicities(prepared)
    return ((p, counts[p.task, "train"][None]) for p in prepared.plan.placements)


def routes(prepared: Prepared, row: int) -> Iterator[tuple[Route, int]]:
    """Every decision behind one row of the accuracy matrix with the samples that it served."""
    counts = multiplicities(prepared)
    decided = (route for at, route in prepared.plan.routes if at == row)
    return ((route, counts[route.task, route.split][route.instruction]) for route in decided)


def records(decided: Iterable[tuple[Placement | Route, int]]) -> list[dict[str, Any]]:
    """As JSON."""
    return [{**to_record(decision), "samples": samples} for decision, samples in decided]


def served(prepared: Prepared) -> dict[str, dict[str, dict[str, int]]]:
    """Task trained last -> task asked about -> group that answers -> samples: who serves whom, row by row."""
    rows = {row for row, _ in prepared.plan.routes}
    return {task: _served(prepared, row) for row, task in enumerate(prepared.plan.order) if row in rows}


def _served(prepared: Prepared, row: int) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for route, samples in routes(prepared, row):
        found.setdefault(route.task, Counter())[group_name(route.group)] += samples
    return {task: dict(sorted(groups.items())) for task, groups in found.items()}


def shown(prepared: Prepared) -> tuple[Decision, ...]:
    """What the page shows: all placements, and the routes at the end of the stream. Empty where grouping is off."""
    config = prepared.config.grouping
    if not config.enabled:
        return ()
    trained = [placed(placement, samples) for placement, samples in placements(prepared)]
    kinds: dict[tuple[str, str, str], list[Decision]] = {}
    for route, samples in routes(prepared, len(prepared.plan.order) - 1):
        decision = routed(route, config, samples)
        kinds.setdefault((decision.task, decision.group, decision.action), []).append(decision)
    return (*trained, *(decision for same in kinds.values() for decision in _condensed(same)))


def _condensed(same: list[Decision]) -> list[Decision]:
    """The first decisions of one kind; the others as one, so that the samples still add up."""
    first, rest = same[:SHOWN], same[SHOWN:]
    if not rest:
        return first
    one, samples = rest[0], sum(decision.samples or 0 for decision in rest)
    more = Decision(one.task, one.split, one.group, one.action, samples=samples, instruction=f"{len(rest)} more")
    return [*first, more]
