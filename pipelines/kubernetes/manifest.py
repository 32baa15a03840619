"""Manifests: a RayJob read leniently, so that a rule can be stated in a line whatever is missing, and YAML written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

Manifest: TypeAlias = dict[str, Any]

HEAD = "head"


def complaint_if(wrong: bool, message: str) -> list[str]:
    """The message if something is wrong."""
    return [message] if wrong else []


def containers_of(group: Manifest) -> list[Manifest]:
    """Containers of a group's pods; the first one runs Ray."""
    return list(_part(_part(group, "template"), "spec").get("containers") or [])


def variables(group: Manifest) -> dict[str, str | None]:
    """Environment of a group's Ray container; None for a value that comes from elsewhere."""
    found = containers_of(group)[:1]
    return {entry["name"]: entry.get("value") for container in found for entry in container.get("env") or []}


def config_map_names(manifests: list[Manifest]) -> set[str]:
    """Names of the ConfigMaps among manifests."""
    found = [manifest for manifest in manifests if manifest.get("kind") == "ConfigMap"]
    return {str(_part(manifest, "metadata").get("name")) for manifest in found}


def _part(value: Manifest, key: str) -> Manifest:
    part = value.get(key)
    return part if isinstance(part, dict) else {}


@dataclass(frozen=True, slots=True)
class Job:
    """The parts of a RayJob that rules speak about; what is absent or null reads as empty."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return str(_part(self.manifest, "metadata").get("name") or "")

    @property
    def labels(self) -> Manifest:
        return _part(_part(self.manifest, "metadata"), "labels")

    @property
    def annotations(self) -> Manifest:
        return _part(_part(self.manifest, "metadata"), "annotations")

    @property
    def spec(self) -> Manifest:
        return {key: value for key, value in _part(self.manifest, "spec").items() if value is not None}

    @property
    def cluster(self) -> Manifest:
        return {key: value for key, value in _part(self.spec, "rayClusterSpec").items() if value is not None}

    @property
    def mode(self) -> str:
        return str(self.spec.get("submissionMode", "K8sJobMode"))

    @property
    def selector(self) -> Manifest:
        return _part(self.spec, "clusterSelector")

    @property
    def shuts_down(self) -> bool:
        return bool(self.spec.get("shutdownAfterJobFinishes"))

    def number(self, key: str) -> int:
        return int(self.spec.get(key) or 0)

    @property
    def head(self) -> Manifest:
        return _part(self.cluster, "headGroupSpec")

    @property
    def workers(self) -> list[Manifest]:
        return list(self.cluster.get("workerGroupSpecs") or [])

    @property
    def groups(self) -> dict[str, Manifest]:
        """The head (if the job brings a cluster) and the worker groups, by name."""
        named = {str(group.get("groupName")): group for group in self.workers}
        return {HEAD: self.head, **named} if self.cluster else named

    def start(self, group: Manifest) -> Manifest:
        return _part(group, "rayStartParams")

    def pod(self, group: Manifest) -> Manifest:
        return _part(_part(group, "template"), "spec")

    def restart_policy(self, group: Manifest) -> str:
        return str(self.pod(group).get("restartPolicy") or "Never")

    @property
    def deletion_rules(self) -> list[Manifest]:
        return list(_part(self.spec, "deletionStrategy").get("deletionRules") or [])

    @property
    def on_success(self) -> Manifest | None:
        return _part(self.spec, "deletionStrategy").get("onSuccess")

    @property
    def on_failure(self) -> Manifest | None:
        return _part(self.spec, "deletionStrategy").get("onFailure")

    @property
    def legacy_policies(self) -> list[str]:
        return [str((part or {}).get("policy")) for part in (self.on_success, self.on_failure)]

    @property
    def policies(self) -> list[str]:
        """What may be deleted at the end, by either kind of strategy."""
        return self.legacy_policies + [str(rule.get("policy")) for rule in self.deletion_rules]

    @property
    def autoscales(self) -> bool:
        return bool(self.cluster.get("enableInTreeAutoscaling"))

    @property
    def autoscaler(self) -> str | None:
        return _part(self.cluster, "autoscalerOptions").get("version") if self.autoscales else None

    @property
    def fault_tolerant(self) -> bool:
        enabled = str(self.annotations.get("ray.io/ft-enabled") or "").lower() == "true"
        return "gcsFaultToleranceOptions" in self.cluster or enabled

    @property
    def auth_mode(self) -> str | None:
        return _part(self.cluster, "authOptions").get("mode")


Rule: TypeAlias = Callable[[Job], list[str]]
"""A job -> what is wrong with it."""


@dataclass(frozen=True, slots=True)
class CronJob:
    """The same of a RayCronJob."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return str(_part(self.manifest, "metadata").get("name") or "")

    @property
    def schedule(self) -> str:
        return str(_part(self.manifest, "spec").get("schedule") or "")

    @property
    def job(self) -> Job:
        """The RayJob that it makes, under its own name and labels."""
        metadata, template = _part(self.manifest, "metadata"), _part(_part(self.manifest, "spec"), "jobTemplate")
        return Job({"kind": "RayJob", "metadata": metadata, "spec": template})


CronRule: TypeAlias = Callable[[CronJob], list[str]]
"""A scheduled job -> what is wrong with it, beside what is wrong with its job."""


def to_yaml(manifests: list[Manifest]) -> str:
    """YAML documents in the order given; texts of several lines as blocks, so that they can be read."""
    return yaml.dump_all(manifests, Dumper=_BlockDumper, sort_keys=False, width=120)


class _BlockDumper(yaml.SafeDumper):
    """SafeDumper without anchors and with literal blocks."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_BlockDumper.add_representer(str, _text)
