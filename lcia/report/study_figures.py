"""The figures of a study, each with the numbers behind it.

They are made from what summary.json keeps: the tables of the study, the matrices of its runs, and the trials of its
search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from lcia.metrics.matrix import AccuracyMatrix, Metric, metrics
from lcia.metrics.stats import Spread, spread
from lcia.report.figures.files import Sketch
from lcia.report.figures.scales import Scale, scale_of, told
from lcia.report.figures.search import TrialLine, parallel_coordinates
from lcia.report.figures.study import Response, responses, spreads_over, strips, trade_off
from lcia.report.figures.style import COLOURS
from lcia.report.study_tables import Setting, StudyTables
from lcia.report.wording import is_code, number, trials, with_spread
from lcia.studies.points import label_of
from lcia.studies.search import METHOD

THRESHOLD = "grouping.threshold"
SIZES = {"adapters": "adapters", "adapters_mb": "MB of adapters", "all_kept_mb": "MB kept beside them"}
ADAPTERS = {
    "adapters": "adapters at the end", "avg_acc": "avg_acc in percent", "forgetting": "forgetting in percent"
}  # fmt: skip
"""Costs and metrics, with what a reader calls them."""

Measured: TypeAlias = Mapping[str, Mapping[str, Metric]]
"""Run -> its metrics."""
Numbers: TypeAlias = Sequence[Sequence[str]]
"""Rows of texts, the first of which is the head."""


class Drawn(NamedTuple):
    """A figure, drawn when it is called for, and the numbers behind it."""

    sketch: Sketch
    numbers: Numbers


def draw_study(
    study: StudyTables, matrices: Mapping[str, AccuracyMatrix], search: Mapping[str, Any]
) -> dict[str, Drawn]:
    """By name; those that there is nothing to draw of are left out. `search`: empty where the study draws nothing."""
    measured = {name: metrics(matrices[name]) for name in study.labels}
    orders = {name: " > ".join(matrices[name].tasks) for name in study.labels}
    found = {
        "trade-off": _trade_off(study, measured),
        "strips": _strips(study, measured, orders),
        "responses": _drawn_responses(search) if search else _responses(study, measured),
        "trials": _trials(search) if search else None,
        "thresholds": None if search else _thresholds(study),
    }
    return {name: drawn for name, drawn in found.items() if drawn}


# Runs -----------------------------------------------------------------------------------------------------------


def _trade_off(study: StudyTables, measured: Measured) -> Drawn | None:
    """What was learnt against what was forgotten, where tasks were learnt one after another by several methods."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, label in study.labels.items():
        forgotten, learnt = measured[name]["forgetting"].value, measured[name]["new_acc"].value
        if forgotten is not None and learnt is not None:
            found.setdefault(label, []).append((forgotten, learnt))
    if len(found) < 2:
        return None
    rows = [
        [label, str(len(runs)), *(with_spread(spread(column)) for column in zip(*runs, strict=True))]
        for label, runs in found.items()
    ]
    return Drawn(partial(trade_off, found), [["method", "runs", "forgetting", "new_acc"], *rows])


def _strips(study: StudyTables, measured: Measured, orders: Mapping[str, str]) -> Drawn | None:
    """avg_acc of every run. Its numbers are told by order where each order has a colour of its own."""
    if len(study.labels) < 2:
        return None
    by_order = len(set(orders.values())) <= len(COLOURS)
    found: dict[str, list[tuple[str, float]]] = {}
    gathered: dict[tuple[str, str], list[float]] = {}
    for name, label in study.labels.items():
        if (average := measured[name]["avg_acc"].value) is not None:
            found.setdefault(label, []).append((orders[name], average))
            gathered.setdefault((label, orders[name] if by_order else "all"), []).append(average)
    rows = [
        [*at, str(len(values)), number(min(values)), with_spread(spread(values)), number(max(values))]
        for at, values in gathered.items()
    ]
    return Drawn(
        partial(strips, found, "avg_acc"), [["method", "order", "runs", "least", "avg_acc", "greatest"], *rows]
    )


# Varied keys ----------------------------------------------------------------------------------------------------


class _Scored(NamedTuple):
    """A run or a trial: its method, its varied values, its score."""

    method: str
    varied: Mapping[str, Any]
    score: float


def _responses(study: StudyTables, measured: Measured) -> Drawn | None:
    """avg_acc over each varied number, the other varied keys averaged over."""
    known = [(study.settings.get(label), measured[name]["avg_acc"].value) for name, label in study.labels.items()]
    scored = [_Scored(*setting, score) for setting, score in known if setting and score is not None]
    panels = _panels(scored)
    head = ["key", "value", "method", "runs", "avg_acc"]
    sketch = partial(responses, panels, "avg_acc in percent", averaged=True)
    return Drawn(sketch, [head, *_rows(panels)]) if panels else None


def _drawn_responses(search: Mapping[str, Any]) -> Drawn | None:
    """The objective of each finished trial over each number that was drawn."""
    panels = _panels([_scored(trial) for trial in search["trials"] if _is_finished(trial)])
    metric, split = search["objective"]["metric"], search["objective"]["split"]
    measure, head = f"{metric} on {split} data in percent", ["key", "value", "method", "trials", metric]
    return Drawn(partial(responses, panels, measure, averaged=False), [head, *_rows(panels)]) if panels else None


def _scored(trial: Mapping[str, Any]) -> _Scored:
    given = _given(trial)
    return _Scored(str(given.pop(METHOD, "all trials")), given, trial["value"])


def _panels(scored: Sequence[_Scored]) -> list[Response]:
    """One for each key that has numbers only, and two or more of them."""
    keys = dict.fromkeys(key for one in scored for key in one.varied)
    scales = [scale_of(key, [one.varied[key] for one in scored]) for key in keys]
    return [_response(scale, scored) for scale in scales if scale.is_number and len(scale.values) > 1]


def _response(scale: Scale, scored: Sequence[_Scored]) -> Response:
    found: dict[str, dict[float, list[float]]] = {}
    for one in scored:
        found.setdefault(one.method, {}).setdefault(one.varied[scale.key], []).append(one.score)
    return Response(scale, found)


def _rows(panels: Sequence[Response]) -> Iterator[list[str]]:
    for panel in panels:
        for method, found in panel.found.items():
            for value, scores in sorted(found.items()):
                yield [panel.scale.key, told(value), method, str(len(scores)), with_spread(spread(scores))]


class _Grouped(NamedTuple):
    """A label with a threshold of its own: costs and metrics by name."""

    threshold: Any
    method: str
    found: Mapping[str, Spread | None]


def _thresholds(study: StudyTables) -> Drawn | None:
    """What further adapters cost and give, where the threshold between groups is varied."""
    grouped = [
        _Grouped(setting.varied[THRESHOLD], _without_threshold(setting), {**study.costs[label], **study.methods[label]})
        for label, setting in study.settings.items()
        if THRESHOLD in setting.varied
    ]
    if not grouped:
        return None
    scale = scale_of(THRESHOLD, [one.threshold for one in grouped])
    grouped.sort(key=lambda one: scale.x(one.threshold))
    panels = {title: measured for name, title in ADAPTERS.items() if (measured := _by_method(grouped, name))}
    rows = [
        [told(one.threshold), one.method, *(number(one.found[name], 2) for name in SIZES),
         *(with_spread(one.found[name]) for name in ("avg_acc", "forgetting"))]
        for one in grouped
    ]  # fmt: skip
    head = ["threshold", "method", *SIZES.values(), "avg_acc", "forgetting"]
    return Drawn(partial(spreads_over, scale, panels), [head, *rows])


def _without_threshold(setting: Setting) -> str:
    """A method with its other varied values."""
    return label_of(setting.method, {key: value for key, value in setting.varied.items() if key != THRESHOLD})


def _by_method(grouped: Sequence[_Grouped], name: str) -> dict[str, list[tuple[Any, Spread]]]:
    found: dict[str, list[tuple[Any, Spread]]] = {}
    for one in grouped:
        if (value := one.found[name]) is not None:
            found.setdefault(one.method, []).append((one.threshold, value))
    return found


# Trials ---------------------------------------------------------------------------------------------------------


def _trials(search: Mapping[str, Any]) -> Drawn | None:
    """Every trial as a line from what it was given to its objective."""
    given = [_given(trial) | _order(trial) for trial in search["trials"]]
    keys = list(dict.fromkeys(key for values in given for key in values))
    if not keys:
        return None
    lines = [
        TrialLine(
            tuple(values[key] for key in keys), trial["value"] if _is_finished(trial) else None,
            trial["number"] == search["best"],
        )
        for trial, values in zip(search["trials"], given, strict=True)
    ]  # fmt: skip
    scales = [scale_of(key, [values[key] for values in given]) for key in keys]
    return Drawn(partial(parallel_coordinates, scales, lines, search["objective"]["metric"]), trials(search))


def _is_finished(trial: Mapping[str, Any]) -> bool:
    return trial["whole"] and trial["value"] is not None


def _given(trial: Mapping[str, Any]) -> dict[str, Any]:
    """What was drawn, without the order."""
    return {name: value for name, value in trial["drawn"].items() if not is_code(name)}


def _order(trial: Mapping[str, Any]) -> dict[str, str]:
    """An order that was drawn, by its name or by its first task."""
    if len(trial["drawn"]) == len(_given(trial)):
        return {}
    order = trial["order"]
    return {"order": order if isinstance(order, str) else f"{order[0]} first"}
