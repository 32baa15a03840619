"""Values as the report's template shows them: numbers, times, pictures, what is best, what differs."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import yaml as yaml_format

from lcia.config.load import flat
from lcia.metrics.matrix import MEASURES, Metric
from lcia.metrics.stats import Comparison, Spread
from lcia.report.figures.scales import told
from lcia.studies.search import ORDER, PLACE

THUMBNAIL = 320
"""Longest side of an example's image in pixels."""
OLD_DATA = "\u2020"
"""Marks a method that trains on rows of earlier tasks, which a stream's other methods no longer have."""
OLD_DATA_NOTE = f"{OLD_DATA} uses old data: rows of earlier tasks are trained on as well."


def best(rows: Sequence[Mapping[str, Metric | Spread | None]]) -> dict[str, float]:
    """The best value of each metric where there is a choice."""
    names = rows[0] if rows else {}
    known = {name: [value for row in rows if (value := plain(row.get(name))) is not None] for name in names}
    return {
        name: min(values) if MEASURES[name].smaller_is_better else max(values)
        for name, values in known.items()
        if len(set(values)) > 1
    }


def plain(value: Metric | Spread | float | None) -> float | None:
    """The figure itself; of a spread its mean."""
    match value:
        case Metric():
            return value.value
        case Spread():
            return value.mean
    return value


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Dotted name -> its value in each configuration ("" where absent), for the names that differ."""
    values = [dict(flat(config)) for config in configs]
    names = dict.fromkeys(name for config in values for name in config)
    rows = {name: [config.get(name, "") for config in values] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def columns(rows: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def first(values: Iterable[Any]) -> Any:
    return next(iter(values))


def count(spreads: Iterable[Spread | None]) -> int:
    """Runs behind a row of spreads."""
    return max((value.n for value in spreads if value is not None), default=0)


def known(score: float) -> bool:
    return bool(np.isfinite(score))


def number(value: float | Metric | Spread | None, digits: int = 1) -> str:
    """A figure as the tables show it, a mean without its spread; a dash where there is none."""
    figure = plain(value)
    # Adding zero turns a rounded -0.0 into 0.0.
    return "\u2013" if figure is None or np.isnan(figure) else f"{round(figure, digits) + 0.0:.{digits}f}"


def marked(label: str, old_data: Sequence[str]) -> str:
    """A method's name, with OLD_DATA where it is trained on old data."""
    return f"{label} {OLD_DATA}" if label in old_data else label


def p_value(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else number(value, 3)


def difference(comparison: Comparison) -> str:
    """The mean difference with its interval, where it has one."""
    mean = f"{comparison.difference:+.1f}"
    if comparison.low is None or comparison.high is None:
        return mean
    return f"{mean} [{comparison.low:+.1f}, {comparison.high:+.1f}]"


def corrected(comparison: Comparison) -> str:
    """The t test's p-value after Holm's correction, with a star where it is significant."""
    return p_value(comparison.t_holm) + (" *" if comparison.is_significant else "")


def with_spread(value: Spread | None, digits: int = 1) -> str:
    """Mean and standard deviation as the tables show them."""
    if value is None or value.std is None:
        return number(value, digits)
    return f"{number(value, digits)} ± {number(value.std, digits)}"


def clock(seconds: float) -> str:
    """Seconds as 12.3 s, 4 min 05 s or 2 h 03 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def yaml(value: object) -> str:
    return yaml_format.safe_dump(_plain(value), sort_keys=False, allow_unicode=True, width=100)


def _plain(value: object) -> object:
    """The same value out of the types that YAML's safe dumper knows."""
    match value:
        case Mapping():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case str() | int() | float() | bool() | None:
            return value
        case _:
            return str(value)


def picture(image: bytes) -> str:
    """A data URI of the image, at most THUMBNAIL pixels wide and high; encoded again, so no foreign byte travels."""
    from lcia.data.pixels import decode_rgb

    drawn = decode_rgb(image)
    drawn.thumbnail((THUMBNAIL, THUMBNAIL))
    kind = "PNG" if max(drawn.size) < 128 else "JPEG"
    stream = io.BytesIO()
    drawn.save(stream, kind, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


# Trials of a search -----------------------------------------------------------------------------------------------


def trials(search: Mapping[str, Any]) -> list[list[str]]:
    """The trials of a search as rows of texts, the first of which is the head; the best one is marked."""
    names = list(dict.fromkeys(name for trial in search["trials"] for name in trial["drawn"] if not is_code(name)))
    metric = search["objective"]["metric"]
    rows = [["trial", *names, "order", "tasks", metric, "ended"]]
    for trial in search["trials"]:
        drawn = [told(trial["drawn"].get(name, "")) for name in names]
        order = trial["order"] if isinstance(trial["order"], str) else " > ".join(trial["order"] or ())
        value = number(trial["value"])
        ended = "best" if trial["number"] == search["best"] else "" if trial["whole"] else trial["failed"] or "stopped"
        rows.append([str(trial["number"]), *drawn, order, str(trial["tasks"]), value, ended])
    return rows


def failures(runs: Iterable[str], search: Mapping[str, Any]) -> dict[str, str]:
    """Runs and trials that failed -> why; of runs the reason is not kept. `search`: empty where nothing was drawn."""
    trials = {f"trial {trial['number']}": trial["failed"] for trial in search.get("trials", ())}
    return dict.fromkeys(runs, "") | {name: why for name, why in trials.items() if why}


def is_code(name: str) -> bool:
    """Whether a drawn value is a part of an order, which has a column of its own."""
    return name == ORDER or (name.startswith(PLACE) and name.removeprefix(PLACE).isdigit())
