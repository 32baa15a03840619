"""How far stages are, as gauges of Ray: every node of a cluster serves them to Prometheus beside Ray's own figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lcia.protocols import Progress

if TYPE_CHECKING:
    from ray.util.metrics import Gauge


@dataclass(frozen=True, slots=True)
class Figure:
    """A gauge: what it shows, and its value; None where a stage does not have it."""

    what: str
    of: Callable[[Progress], float | None]


def _value(*names: str) -> Callable[[Progress], float | None]:
    """The first of these values that a stage reports."""
    return lambda progress: next((progress.values[name] for name in names if name in progress.values), None)


FIGURES: Mapping[str, Figure] = {
    "lcia_stage_progress": Figure("Share of a stage that is done.", lambda p: p.step / p.steps if p.steps else None),
    "lcia_stage_done": Figure("1 where the result of a stage is in the store.", lambda p: float(p.done)),
    "lcia_samples_per_second": Figure("Training rows per second.", _value("samples_per_second")),
    "lcia_data_wait_share": Figure("Share of a step that waits for rows.", _value("data_wait_share")),
    "lcia_loss": Figure("Training loss.", _value("loss")),
    "lcia_pull": Figure("How much of the old weights is kept: beta, or the pull's.", _value("beta", "pull_weight")),
}
TAGS = ("session", "kind", "stage", "key")
KEY_LENGTH = 8


class Gauges:
    """Shows snapshots of a session's stages; Ray must run."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._gauges: dict[str, Gauge] = {}

    def watch(self, snapshot: Mapping[str, Progress]) -> None:
        """Sets the gauges of all stages that were begun."""
        import ray

        if not ray.is_initialized():
            return
        for progress in snapshot.values():
            told = (self._session, progress.kind, progress.label, progress.stage[:KEY_LENGTH])
            tags = dict(zip(TAGS, map(_plain, told), strict=True))
            for name, figure in FIGURES.items():
                if (value := figure.of(progress)) is not None:
                    self._gauge(name).set(value, tags)

    def _gauge(self, name: str) -> Gauge:
        from ray.util.metrics import Gauge

        if name not in self._gauges:
            self._gauges[name] = Gauge(name, FIGURES[name].what, TAGS)
        return self._gauges[name]


def _plain(text: str) -> str:
    """Ray takes tags of ASCII only."""
    return text.replace("·", "-").encode("ascii", "replace").decode()
