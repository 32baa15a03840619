"""`lcia launch`: a run or a study sent elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from lcia.config.run import RunConfig
from lcia.studies.config import StudyConfig
from lcia.types import InputError
from pipelines.kubernetes.submission import Submission
from pipelines.launch import LaunchConfig
from pipelines.terminal.preflight import check_words

TARGETS = {
    "rayjob": "prints Kubernetes manifests, and with --apply sends and follows them",
    "raycronjob": "does the same for a job that starts by cluster.schedule",
    "jobs": "submits to a Ray head at --address",
}


@dataclass(frozen=True)
class Sending:
    """How a job is sent; `address` is that of a Ray head."""

    target: str = "rayjob"
    address: str = ""
    apply: bool = False


def launch(chosen: RunConfig | StudyConfig, where: LaunchConfig, how: Sending, text: str | None = None) -> None:
    """`text`: what the run or the study was read from, where nothing overrides it; it keeps its comments.

    Raises:
        InputError: the job could never run, or the cluster does not take it.
        RuntimeError: it was followed and did not succeed.
    """
    if how.target not in TARGETS:
        known = ", ".join(f"{name} {what}" for name, what in TARGETS.items())
        raise InputError(f"there is no target {how.target!r}: {known}")
    job = Submission.of(chosen, text)
    check_words(job.configs, where)
    if how.target == "jobs":
        from pipelines.kubernetes.submit import run_job

        run_job(job, where, how.address)
    else:
        _render(job, where, how)


def _render(job: Submission, where: LaunchConfig, how: Sending) -> None:
    from pipelines.kubernetes.apply import apply
    from pipelines.kubernetes.manifest import to_yaml
    from pipelines.kubernetes.rayjob import render_cron_job, render_rayjob

    manifests = (render_cron_job if how.target == "raycronjob" else render_rayjob)(job, where)
    if how.apply:
        apply(manifests)
    else:
        print(to_yaml(manifests), end="")
