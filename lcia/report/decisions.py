"""What grouping decided in a run, how many samples each decision served, and what a person should be warned of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from lcia.grouping.codebook import Placement, Route, group_name, to_record
from lcia.report.page import Decision, placed, routed
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
    decided = prepared.plan.routes_after(row)
    return ((route, counts[route.task, route.split][route.instruction]) for route in decided)


def records(decided: Iterable[tuple[Placement | Route, int]]) -> list[dict[str, Any]]:
    """As JSON."""
    return [{**to_record(decision), "samples": samples} for decision, samples in decided]


def served(prepared: Prepared) -> dict[str, dict[str, dict[str, int]]]:
    """Task trained last -> task asked about -> group that answers -> samples: who serves whom, row by row."""
    if not prepared.plan.placements:
        return {}
    return {task: _served(prepared, row) for row, task in enumerate(prepared.plan.order)}


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


# Warnings -----------------------------------------------------------------------------------------------------------

CLEAR = 0.2
"""A gap narrower than this share of the embedder's range does not tell related tasks from unrelated ones."""


def warnings(prepared: Prepared) -> list[str]:
    """What to know of the grouping before trusting it; empty where grouping is off or nothing is wrong."""
    return [*_separated(prepared), *_unclear(prepared), *_foreign(prepared)]


def _separated(prepared: Prepared) -> Iterator[str]:
    """Tasks whose own instructions are less similar than the threshold asks for."""
    placed = [p for p in prepared.plan.placements if p.own is not None and p.threshold is not None]
    apart = [p for p in placed if (p.own or 0.0) < (p.threshold or 0.0)]
    if apart:
        named = ", ".join(f"{p.task} {p.own:.2f}" for p in apart)
        yield (
            f"The threshold {apart[-1].threshold:.2f} separates {_tasks(len(apart))} from their own paraphrases: "
            f"the mean similarity of one task's own instructions is: {named}. "
            "Lower grouping.threshold, or leave it at auto"
        )


def _unclear(prepared: Prepared) -> Iterator[str]:
    """A chosen threshold that no clear gap speaks for."""
    limits = prepared.config.grouping.embedder.auto_range
    gap = prepared.plan.placements[-1].gap if prepared.plan.placements else None
    if gap and limits and gap[1] - gap[0] < CLEAR * (limits[1] - limits[0]):
        yield (
            f"The similarities of these tasks have no clear gap: auto chose the threshold between {gap[0]:.2f} and "
            f"{gap[1]:.2f}. Look at `lcia group CONFIG` and give grouping.threshold a number"
        )


def _foreign(prepared: Prepared) -> Iterator[str]:
    """Tasks whose test samples are answered by a group that was trained on other tasks only."""
    if not prepared.config.grouping.enabled or prepared.config.grouping.fusion:
        return
    home = {placement.task: group_name(placement.group) for placement in prepared.plan.placements}
    table = served(prepared)
    for task in home:
        # Before a task was trained no group knows it, and none is expected to.
        rows = [row for row in prepared.plan.order[prepared.plan.order.index(task) :] if row in table]
        lost = {row: {g: n for g, n in table[row].get(task, {}).items() if g != home[task]} for row in reversed(rows)}
        worst = _worst(lost)
        if worst:
            total = sum(table[worst][task].values())
            groups = " and ".join(
                "the model without an adapter" if g == "base" else f"{g} (trained on {_members(home, g)})"
                for g in lost[worst]
            )
            when = "" if worst == prepared.plan.order[-1] else f" after training {worst}"
            yield (
                f"{sum(lost[worst].values())} of {total} test samples of {task} are answered{when} by {groups}, "
                f"not by {home[task]}, which was trained on {task}"
            )


def _worst(lost: Mapping[str, Mapping[str, int]]) -> str | None:
    """The last row with strangers (rows come last first), or the one with most of them; None: there are none."""
    counts = {row: sum(groups.values()) for row, groups in lost.items()}
    if not counts or not any(counts.values()):
        return None
    last = next(iter(counts))
    return last if counts[last] else max(counts, key=lambda row: counts[row])


def _members(home: Mapping[str, str], group: str) -> str:
    return ", ".join(task for task, own in home.items() if own == group)


def _tasks(count: int) -> str:
    return "a task" if count == 1 else f"{count} tasks"


def gather(found: Mapping[str, Sequence[str]]) -> list[str]:
    """The warnings of several runs by name, each text once, with the run or the number of runs it is about."""
    holders: dict[str, list[str]] = {}
    for name, texts in found.items():
        for text in texts:
            holders.setdefault(text, []).append(name)
    if len(found) == 1:
        return list(holders)
    return [
        f"{text} (run {names[0]})" if len(names) == 1 else f"{text} ({len(names)} of {len(found)} runs)"
        for text, names in holders.items()
    ]
