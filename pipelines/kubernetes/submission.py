"""What a job on a cluster does: one command of ours, with its configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lcia.config.run import RunConfig
from lcia.config.sections import Section
from lcia.studies.config import StudyConfig
from lcia.studies.points import representatives
from pipelines.kubernetes.manifest import to_yaml


@dataclass(frozen=True)
class Submission:
    """`lcia run` or `lcia study` of a file with this text, which holds `chosen`; `configs` are its runs."""

    verb: Literal["run", "study"]
    name: str
    text: str
    configs: tuple[RunConfig, ...]
    chosen: RunConfig | StudyConfig

    @classmethod
    def of(cls, chosen: RunConfig | StudyConfig, text: str | None = None) -> Submission:
        """`text` is what `chosen` was read from, with its comments; without it the whole configuration is written out.

        Raises:
            InputError: a run of the study is not a valid configuration.
        """
        text = text or to_yaml([_plain(chosen)])
        if isinstance(chosen, StudyConfig):
            return cls("study", chosen.name, text, tuple(representatives(chosen)), chosen)
        return cls("run", chosen.name, text, (chosen,), chosen)

    @property
    def file(self) -> str:
        return f"{self.verb}.yaml"

    def command(self, folder: str = "") -> str:
        """What is run where the file, and launch.yaml beside it, lie in `folder`."""
        return f"lcia {self.verb} {folder}{self.file} --launch {folder}launch.yaml"


def _plain(chosen: Section) -> dict[str, object]:
    return chosen.model_dump(mode="json", by_alias=True)
