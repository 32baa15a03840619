"""`lcia launch check`: the operator's rules and those of this house on the RayJobs and RayCronJobs of any manifests."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lcia.types import InputError
from pipelines.kubernetes.manifest import CronJob, Job, Manifest, Rule, config_map_names
from pipelines.kubernetes.operator_cluster_rules import CLUSTER_RULES
from pipelines.kubernetes.operator_cron_rules import CRON_RULES
from pipelines.kubernetes.operator_job_rules import JOB_RULES
from pipelines.kubernetes.our_rules import OUR_RULES, config_maps_are_given
from pipelines.kubernetes.schemas import Schemas, load_schemas, violations

RULES: tuple[Rule, ...] = (*JOB_RULES, *CLUSTER_RULES, *OUR_RULES)
"""What is asked of each RayJob alone; config_maps_are_given looks at the other manifests too."""
Asked = TypeVar("Asked", Job, CronJob)
SCHEMA = "schema"
"""Stands for a rule in what the operator's schemas find."""


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest and the file that holds it."""

    file: str
    manifest: Manifest

    @property
    def kind(self) -> str:
        return str(self.manifest.get("kind"))

    @property
    def is_job(self) -> bool:
        """Whether it is a RayJob, or a RayCronJob, which makes them."""
        return self.kind in ("RayJob", "RayCronJob")

    @property
    def job(self) -> Job:
        return CronJob(self.manifest).job if self.kind == "RayCronJob" else Job(self.manifest)

    def finding(self, rule: str, message: str) -> Finding:
        return Finding(self.file, f"{self.kind}/{self.job.name}", rule, message)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule has against an object; the message says what to do."""

    file: str
    object: str
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.object}: {self.rule}: {self.message}"


def check_files(files: Sequence[str], as_json: bool, schemas: Path | None = None) -> None:
    """Prints every finding in files of manifests (`-`: stdin), or what was checked if there are none.

    `schemas`: a file of the operator's JSON Schemas, which every object of a kind in it is checked against too.

    Raises:
        InputError: there are findings, a file cannot be read, or no file holds a RayJob.
    """
    documents = [document for file in files for document in load(file)]
    jobs = sum(document.is_job for document in documents)
    if not jobs:
        raise InputError(f"there is no RayJob in {', '.join(files)}: the rules are about RayJobs only")
    found = check(documents, load_schemas(schemas) if schemas else {})
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        print("\n".join(map(str, found)) or _passed(jobs, len(documents) - jobs, schemas))
    if found:
        raise InputError(f"findings: {len(found)}; change the manifests and check again")


def _passed(jobs: int, others: int, schemas: Path | None) -> str:
    by = f" and the schemas of {schemas}" if schemas else ""
    return f"RayJobs that keep all {len(RULES) + 1} rules{by}: {jobs}; other objects, which no rule is about: {others}"


def load(file: str) -> list[Document]:
    """The manifests in a file, or in stdin for `-`; those in a List one by one.

    Raises:
        InputError: there is no such file, or it does not hold YAML mappings.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        read = [one for manifest in yaml.safe_load_all(text) if manifest is not None for one in _unpacked(manifest)]
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file} is not a file of YAML manifests: {error}") from None
    if not all(isinstance(manifest, dict) for manifest in read):
        raise InputError(f"{file} is not a file of YAML manifests: a document in it is not a mapping")
    return [Document(file, manifest) for manifest in read]


def _unpacked(document: Any) -> list[Any]:
    is_list = isinstance(document, dict) and document.get("kind") == "List"
    return list(document.get("items") or []) if is_list else [document]


def check(documents: Sequence[Document], schemas: Schemas | None = None) -> list[Finding]:
    """What the rules find in RayJobs and RayCronJobs, and `schemas` in whatever is of a kind in them."""
    names = config_map_names([document.manifest for document in documents])
    found = [finding for document in documents if document.is_job for finding in _check_job(document, names)]
    return found + [
        document.finding(SCHEMA, message)
        for document in documents
        for message in violations(document.manifest, schemas or {})
    ]


def _check_job(document: Document, config_maps: set[str]) -> list[Finding]:
    def mounts_are_given(job: Job) -> list[str]:
        return config_maps_are_given(job, config_maps)

    job, cron = document.job, CronJob(document.manifest)
    named = {rule.__name__: rule for rule in RULES} | {config_maps_are_given.__name__: mounts_are_given}
    messages = [(name, message) for name, rule in named.items() for message in _judged(rule, job)]
    if document.kind == "RayCronJob":
        messages += [(rule.__name__, message) for rule in CRON_RULES for message in _judged(rule, cron)]
    return [document.finding(name, message) for name, message in messages]


def _judged(rule: Callable[[Asked], list[str]], job: Asked) -> list[str]:
    """What a rule finds; a manifest by hand may hold anything anywhere, which is a finding and not our failure."""
    try:
        return rule(job)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return [f"a value has a type that KubeRay does not take ({error}): correct it"]
