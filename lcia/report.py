"""report.html: one self-contained page about one or several runs, and the same figures as PNG.

Whatever comes from data, a model or a machine is escaped; the page holds no script and allows no request.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from lcia import figures
from lcia.codebook import Placement, Route, group_name
from lcia.config import GroupingConfig
from lcia.figures import StageSteps
from lcia.matrix import AccuracyMatrix, Metric, metrics
from lcia.types import IMAGE_TOKEN

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

HEADLINE = {
    "avg_acc": ("average accuracy", "mean score on all tasks after the last one; higher is better"),
    "forgetting": ("forgetting", "mean drop from a task's best score to its last; lower is better"),
    "new_acc": ("new-task accuracy", "mean score on each task right after training it; higher is better"),
}
SMALLER_IS_BETTER = frozenset({"forgetting", "forgetting_diag"})
THUMBNAIL = 320
"""Longest side of an example's image in pixels."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a file's or a sample's instructions went. `action`: "new group", "joins", "routed", "fallback" ..."""

    task: str
    split: str
    group: str
    action: str
    similarities: Mapping[str, float] = field(default_factory=dict)
    threshold: float | None = None
    samples: int | None = None
    instruction: str = ""


def placed(placement: Placement, config: GroupingConfig, samples: int | None = None) -> Decision:
    """A training decision as the page shows it."""
    action = "new group" if placement.is_new else "joins"
    similarities = {f"g{group}": value for group, value in enumerate(placement.similarities)}
    return Decision(placement.task, "train", f"g{placement.group}", action, similarities, config.threshold, samples)


def routed(route: Route, config: GroupingConfig, samples: int | None = None) -> Decision:
    """A decision at test time as the page shows it."""
    action = f"fallback: {config.fallback}" if route.fell_back else "routed"
    similarities = {f"g{number}": value for number, value in enumerate(route.similarities)}
    text = route.instruction or ""
    group = group_name(route.group)
    return Decision(route.task, route.split, group, action, similarities, config.threshold, samples, text)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered test sample; `id` matches it with the other runs' answers. `score` in [0, 1]; `image` is encoded."""

    task: str
    id: str
    question: str
    references: tuple[str, ...]
    prediction: str
    score: float
    group: str = ""
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """One method on one order with one seed; `seconds` per stage, in the order they ran; `notes` by the same names: how
    a stage came through interruptions.

    `served`: task trained last -> task asked about -> group that answers -> samples.
    """

    name: str
    matrix: AccuracyMatrix
    config: Mapping[str, Any]
    steps: tuple[StageSteps, ...] = ()
    decisions: tuple[Decision, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    served: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.") or "run"


@dataclass(frozen=True, slots=True)
class ReportInput:
    """What the page shows. `counts`: one row per task and split, any columns; `environment`: name -> value."""

    title: str
    runs: tuple[RunReport, ...]
    counts: tuple[Mapping[str, str | int | float], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    subtitle: str = ""


def write(report: ReportInput, folder: Path) -> Path:
    """Writes report.html and figures/*.png under `folder`; returns the page's path."""
    for name, figure in _figures(report).items():
        figures.save_png(figure, folder / "figures" / f"{name}.png")
    page = folder / "report.html"
    page.write_text(render(report), encoding="utf-8")
    return page


def render(report: ReportInput) -> str:
    """The whole page as text."""
    drawn = {name: figures.svg(figure, name) for name, figure in _figures(report, heat_maps=False).items()}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            slugs=_slugs(report.runs),
            figures=drawn,
            headline=HEADLINE,
            image_token=IMAGE_TOKEN,
            metrics=[metrics(run.matrix) for run in report.runs],
            best=_best(report.runs),
            examples=examples(report.runs),
            differences=differences([run.config for run in report.runs]),
            count_columns=_columns(report.counts),
        )
    )


def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("lcia") / "templates"
    loader = FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=loader, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, clock=clock, yaml=_yaml, picture=picture)
    environment.tests.update(known=_known)
    return environment


def _slugs(runs: Sequence[RunReport]) -> list[str]:
    """One file and element name per run, distinct even where two runs have one name."""
    plain = [run.slug for run in runs]
    return [slug if plain.count(slug) == 1 else f"{slug}-{number}" for number, slug in enumerate(plain, start=1)]


def _figures(report: ReportInput, heat_maps: bool = True) -> dict[str, Figure]:
    """Every figure of the page by name; the page itself shows matrices as tables instead of `heat_maps`."""
    named = dict(zip(_slugs(report.runs), report.runs, strict=True))
    labels = [run.name if slug == run.slug else slug for slug, run in named.items()]
    drawn = {"curves": figures.accuracy_curves(dict(zip(labels, [run.matrix for run in report.runs], strict=True)))}
    for slug, run in named.items():
        if heat_maps:
            drawn[f"matrix-{slug}"] = figures.heat_map(run.matrix)
        if any(stage.has_beta for stage in run.steps):
            drawn[f"beta-{slug}"] = figures.beta_trajectories(run.steps)
    return drawn


# Values for the template


def _best(runs: Sequence[RunReport]) -> dict[str, float]:
    """The best value of each metric where there is a choice."""
    named = [metrics(run.matrix) for run in runs]
    known = (
        {name: [value for row in named if (value := row[name].value) is not None] for name in named[0]} if named else {}
    )
    return {
        name: min(values) if name in SMALLER_IS_BETTER else max(values)
        for name, values in known.items()
        if len(set(values)) > 1
    }


def examples(runs: Sequence[RunReport]) -> dict[str, dict[str, list[tuple[str, Prediction]]]]:
    """task -> sample id -> (run name, its prediction): what different runs answer to one question, side by side."""
    found: dict[str, dict[str, list[tuple[str, Prediction]]]] = {}
    for run in runs:
        for prediction in run.predictions:
            found.setdefault(prediction.task, {}).setdefault(prediction.id, []).append((run.name, prediction))
    return found


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Dotted name -> its value in each configuration ("" where absent), for the names that differ."""
    flat = [dict(_flatten(config)) for config in configs]
    names = dict.fromkeys(name for config in flat for name in config)
    rows = {name: [config.get(name, "") for config in flat] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _columns(rows: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _known(score: float) -> bool:
    return bool(np.isfinite(score))


def number(value: float | Metric | None, digits: int = 1) -> str:
    """A figure as the tables show it; a dash where there is none."""
    plain = value.value if isinstance(value, Metric) else value
    # Adding zero turns a rounded -0.0 into 0.0.
    return "\u2013" if plain is None or np.isnan(plain) else f"{round(plain, digits) + 0.0:.{digits}f}"


def clock(seconds: float) -> str:
    """Seconds as 12.3 s, 4 min 05 s or 2 h 03 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _yaml(value: object) -> str:
    return yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True, width=100)


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
    from lcia.pixels import decode_rgb

    drawn = decode_rgb(image)
    drawn.thumbnail((THUMBNAIL, THUMBNAIL))
    kind = "PNG" if max(drawn.size) < 128 else "JPEG"
    stream = io.BytesIO()
    drawn.save(stream, kind, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
