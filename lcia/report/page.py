"""report.html: one self-contained page about one or several runs, and the same figures as files.

Whatever comes from data, a model or a machine is escaped; the page holds no script and allows no request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcia.config.grouping import GroupingConfig
from lcia.config.watch import WatchConfig
from lcia.grouping.codebook import Placement, Route, group_name
from lcia.metrics.adaptation import Round
from lcia.metrics.companion import Companion
from lcia.metrics.matrix import AccuracyMatrix, metrics
from lcia.metrics.overlap import Overlap
from lcia.report import wording
from lcia.report.figures.files import Sketch, keep
from lcia.report.figures.run import (
    StageSteps,
    beta_trajectories,
    companion_curves,
    form_curves,
    heat_map,
    loss_curves,
    pull_trajectories,
)
from lcia.report.figures.study import accuracy_curves
from lcia.report.figures.style import MOST_LINES, svg
from lcia.report.learnt import TaskAnswers
from lcia.report.signs import NOTHING_WATCHED, Signs, shown_by
from lcia.report.study_figures import Drawn, draw_study
from lcia.report.study_tables import StudyTables, reach
from lcia.types import IMAGE_TOKEN

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report.html"
HEADLINE = {
    "avg_acc": ("average accuracy", "mean score on all tasks after the last one; higher is better"),
    "forgetting": ("forgetting", "mean drop from a task's best score to its last; lower is better"),
    "new_acc": ("new-task accuracy", "mean score on each task right after training it; higher is better"),
}
MOST_LISTED = 500
"""Runs of a study whose metrics the page lists; the others are in summary.json."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a file's or a sample's instructions went. `action`: "new group", "joins", "routed", "fallback" ...

    `gap`: the similarities that the threshold is the middle of, where it was chosen from the data.
    """

    task: str
    split: str
    group: str
    action: str
    similarities: Mapping[str, float] = field(default_factory=dict)
    threshold: float | None = None
    samples: int | None = None
    instruction: str = ""
    gap: tuple[float, float] | None = None


def placed(placement: Placement, samples: int | None = None) -> Decision:
    """A training decision as the page shows it."""
    action = "new group" if placement.is_new else "joins"
    similarities = {f"g{group}": value for group, value in enumerate(placement.similarities)}
    group = f"g{placement.group}"
    return Decision(
        placement.task, "train", group, action, similarities, placement.threshold, samples, gap=placement.gap
    )


def routed(route: Route, config: GroupingConfig, samples: int | None = None) -> Decision:
    """A decision at test time as the page shows it."""
    action = f"fallback: {config.fallback}" if route.fell_back else "routed"
    similarities = {f"g{number}": value for number, value in enumerate(route.similarities)}
    text = route.instruction or ""
    group = group_name(route.group)
    return Decision(route.task, route.split, group, action, similarities, route.threshold, samples, text)


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

    `served`: task trained last -> task asked about -> group that answers -> samples. `rounds`: of tasks that are cut.
    `normalised`: the matrix in which case, articles and punctuation do not count; `overlap`: of the tasks' answers;
    both None where they are not known. `beside`: what was looked at beside the stream; None: nothing.
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
    answers: tuple[TaskAnswers, ...] = ()
    signs: Signs = NOTHING_WATCHED
    rounds: tuple[Round, ...] = ()
    normalised: AccuracyMatrix | None = None
    beside: Companion | None = None
    overlap: Overlap | None = None

    @property
    def slug(self) -> str:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.") or "run"


@dataclass(frozen=True, slots=True)
class ReportInput:
    """What the page shows. `counts`: one row per task and split, any columns; `environment`: name -> value.

    `study`: the tables over labels, where the runs are those of a study; `runs` may then be a choice of them, and
    `matrices` holds every run's by name. `search`: of a study that drew its runs, its objective and trials as JSON.
    `stages`: how many trainings were asked for, distinct, and trained; `failed`: name of a run or trial -> why, where
    that is known.
    """

    title: str
    runs: tuple[RunReport, ...]
    counts: tuple[Mapping[str, str | int | float], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    subtitle: str = ""
    warnings: tuple[str, ...] = ()
    study: StudyTables | None = None
    matrices: Mapping[str, AccuracyMatrix] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


def write(report: ReportInput, folder: Path) -> Path:
    """Writes report.html and figures/*.png and *.svg under `folder`; returns the page's path."""
    study, figures = _study_figures(report), folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    sketches = _sketches(report, study) | _heat_maps(report)
    kept = {name: keep(sketch, figures, name) for name, sketch in sketches.items()}
    page = folder / PAGE
    page.write_text(_filled(report, study, kept), encoding="utf-8")
    return page


def render(report: ReportInput) -> str:
    """The whole page as text."""
    study = _study_figures(report)
    figures = {name: svg(sketch(), name) for name, sketch in _sketches(report, study).items()}
    return _filled(report, study, figures)


def _filled(report: ReportInput, study: Mapping[str, Drawn], figures: Mapping[str, str]) -> str:
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            trials=wording.trials(report.search) if report.search else (),
            slugs=_slugs(report.runs),
            figures=figures,
            numbers={name: drawn.numbers for name, drawn in study.items()},
            headline=HEADLINE,
            old_data_note=wording.OLD_DATA_NOTE,
            image_token=IMAGE_TOKEN,
            metrics=[metrics(run.matrix) for run in report.runs],
            best=wording.best([metrics(run.matrix) for run in report.runs]),
            best_mean=wording.best(list(report.study.methods.values())) if report.study else {},
            every_run={name: metrics(matrix) for name, matrix in list(report.matrices.items())[:MOST_LISTED]},
            undrawn=max(0, len(_curves(report)) - MOST_LINES),
            names_and_metrics=[(run.name, metrics(run.matrix)) for run in report.runs],
            reasons=_reasons(report.runs),
            notes=_notes(report.runs),
            limits=[WatchConfig(**run.config.get("watch", {})) for run in report.runs],
            examples=examples(report.runs),
            differences=wording.differences([run.config for run in report.runs]),
            count_columns=wording.columns(report.counts),
        )
    )


def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("lcia.report") / "templates"
    loader = FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=loader, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=wording.number, plain=wording.plain, spread=wording.with_spread, first_of=wording.first,
        count_of=wording.count, clock=wording.clock, yaml=wording.yaml, picture=wording.picture,
        difference=wording.difference, p_value=wording.p_value, corrected=wording.corrected, reach=reach,
        shown_by=shown_by, marked=wording.marked,
    )  # fmt: skip
    environment.tests.update(known=wording.known)
    return environment


def _slugs(runs: Sequence[RunReport]) -> list[str]:
    """One file and element name per run, distinct even where two runs have one name."""
    plain = [run.slug for run in runs]
    return [slug if plain.count(slug) == 1 else f"{slug}-{number}" for number, slug in enumerate(plain, start=1)]


def _sketches(report: ReportInput, study: Mapping[str, Drawn]) -> dict[str, Sketch]:
    """Every figure of the page by name."""
    found = {"curves": partial(accuracy_curves, _curves(report)), **{name: one.sketch for name, one in study.items()}}
    for slug, run in zip(_slugs(report.runs), report.runs, strict=True):
        if any(stage.has("loss") for stage in run.steps):
            found[f"loss-{slug}"] = partial(loss_curves, run.steps)
        if run.normalised and len(run.matrix.tasks) > 1:
            found[f"form-{slug}"] = partial(form_curves, run.matrix, run.normalised)
        if run.beside:
            found[f"general-{slug}"] = partial(companion_curves, run.beside)
        if any(stage.has_beta for stage in run.steps):
            found[f"beta-{slug}"] = partial(beta_trajectories, run.steps)
        if any(stage.has_pull for stage in run.steps):
            found[f"pull-{slug}"] = partial(pull_trajectories, run.steps)
    return found


def _heat_maps(report: ReportInput) -> dict[str, Sketch]:
    """Matrices as figures; the page shows them as tables."""
    runs = zip(_slugs(report.runs), report.runs, strict=True)
    return {f"matrix-{slug}": partial(heat_map, run.matrix) for slug, run in runs}


def _study_figures(report: ReportInput) -> dict[str, Drawn]:
    return draw_study(report.study, report.matrices, report.search) if report.study else {}


def _curves(report: ReportInput) -> dict[str, list[AccuracyMatrix]]:
    """The matrices behind each line of the curves: all of a label's in a study, else each run's own."""
    if report.study is None:
        slugs = _slugs(report.runs)
        names = [run.name if slug == run.slug else slug for slug, run in zip(slugs, report.runs, strict=True)]
        return {name: [run.matrix] for name, run in zip(names, report.runs, strict=True)}
    found: dict[str, list[AccuracyMatrix]] = {}
    for name, matrix in report.matrices.items():
        found.setdefault(report.study.labels[name], []).append(matrix)
    return found


def _reasons(runs: Sequence[RunReport]) -> list[str]:
    """Why metrics are undefined, each reason once, with the runs it is about unless it is all of them."""
    holders: dict[str, list[str]] = {}
    for run in runs:
        for name, metric in metrics(run.matrix).items():
            if metric.reason:
                holders.setdefault(f"{name} {metric.reason}", []).append(run.name)
    return [
        reason if len(names) == len(runs) else f"{reason} ({', '.join(names)})" for reason, names in holders.items()
    ]


def _notes(runs: Sequence[RunReport]) -> list[Mapping[str, str]]:
    """The notes of each run's stages; a stage that several runs share has its note with the first of them."""
    told: set[str] = set()
    found: list[Mapping[str, str]] = []
    for run in runs:
        found.append({stage: note for stage, note in run.notes.items() if stage not in told})
        told |= run.notes.keys()
    return found


def examples(runs: Sequence[RunReport]) -> dict[str, dict[str, list[tuple[str, Prediction]]]]:
    """task -> sample id -> (run name, its prediction): what different runs answer to one question, side by side."""
    found: dict[str, dict[str, list[tuple[str, Prediction]]]] = {}
    for run in runs:
        for prediction in run.predictions:
            found.setdefault(prediction.task, {}).setdefault(prediction.id, []).append((run.name, prediction))
    return found
