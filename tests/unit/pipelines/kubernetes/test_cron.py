"""A job that starts again by a schedule: how it is rendered, and which rules it is held to."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from lcia.config.run import RunConfig
from lcia.types import InputError
from pipelines.cluster import ClusterConfig, PoolConfig
from pipelines.kubernetes.check import Document, check
from pipelines.kubernetes.manifest import CronJob
from pipelines.kubernetes.operator_cron_rules import CRON_RULES, schedule_is_cron
from pipelines.kubernetes.rayjob import render_cron_job, render_rayjob
from pipelines.kubernetes.schemas import violations
from pipelines.kubernetes.submission import Submission
from pipelines.launch import LaunchConfig

JOB = Submission.of(RunConfig(name="nightly.stream.of.a.very.long.name.indeed"))


def launch(**changes: Any) -> LaunchConfig:
    cluster = ClusterConfig(image="lcia:0.1.0", train=PoolConfig(cpu=8), **{"schedule": "0 2 * * *", **changes})
    return LaunchConfig(storage="/mnt/lcia/runs", cluster=cluster)


MANIFESTS = render_cron_job(JOB, launch(time_zone="Europe/Berlin"))


def test_the_template_is_the_job_itself_but_for_its_name() -> None:
    job = render_rayjob(JOB, launch(time_zone="Europe/Berlin"))[1]
    cron = MANIFESTS[1]
    assert cron["spec"]["schedule"] == "0 2 * * *"
    assert cron["spec"]["timeZone"] == "Europe/Berlin"
    renamed = str(cron["spec"]["jobTemplate"]).replace(cron["metadata"]["name"], job["metadata"]["name"])
    assert renamed == str(job["spec"])


def test_it_is_one_that_the_operator_takes(schemas: dict[str, Any]) -> None:
    assert violations(MANIFESTS[1], schemas) == []
    assert check([Document("-", manifest) for manifest in MANIFESTS], schemas) == []
    assert len(MANIFESTS[1]["metadata"]["name"]) <= 36


def test_without_a_schedule_there_is_none() -> None:
    with pytest.raises(InputError, match=r"needs cluster\.schedule in the launch file"):
        render_cron_job(JOB, launch(schedule=None))


def test_the_job_in_it_is_held_to_the_rules_of_jobs() -> None:
    broken = deepcopy(MANIFESTS[1])
    broken["spec"]["jobTemplate"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"] = {"num-cpus": "4"}
    (finding,) = check([Document("-", MANIFESTS[0]), Document("-", broken)])
    assert (finding.object, finding.rule) == (f"RayCronJob/{broken['metadata']['name']}", "head_runs_no_tasks")


@pytest.mark.parametrize(
    ("part", "key", "value", "rules"),
    [
        ("metadata", "name", "a" * 37, {"cron_name_fits"}),
        ("spec", "schedule", "nightly", {"schedule_is_cron"}),
        ("spec", "schedule", "0 2 * *", {"schedule_is_cron"}),
        ("spec", "schedule", "TZ=UTC 0 2 * * *", {"schedule_is_cron", "zone_stands_in_its_field"}),
    ],
)
def test_a_broken_one_is_refused_by_its_rule(part: str, key: str, value: str, rules: set[str]) -> None:
    broken = deepcopy(MANIFESTS[1])
    broken[part][key] = value
    assert {finding.rule for finding in check([Document("-", MANIFESTS[0]), Document("-", broken)])} == rules
    assert rules <= {rule.__name__ for rule in CRON_RULES}


@pytest.mark.parametrize("schedule", ["*/15 0-6 1,15 * MON-FRI", "@daily", "@every 12h", "0 2 * * 7"])
def test_what_cron_takes_is_taken(schedule: str) -> None:
    assert schedule_is_cron(CronJob({"spec": {"schedule": schedule}})) == []
