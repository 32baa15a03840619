"""Kubernetes by way of the user's own kubectl: context, credentials and proxies are those that work there."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from lcia.types import InputError
from pipelines.kubernetes.manifest import Manifest, to_yaml

MANAGER = "lcia"
"""Who owns the fields that are applied."""
ANSWER_LENGTH = 400
"""Characters of an error that are shown."""


class KubectlError(RuntimeError):
    """kubectl has failed; the message is its own."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """One namespace of the cluster of kubectl's current context."""

    namespace: str

    def apply(self, manifests: Sequence[Manifest]) -> None:
        """Raises KubectlError where the API server refuses a manifest or cannot be reached."""
        self._run("apply", "--server-side", f"--field-manager={MANAGER}", "-f", "-", text=to_yaml(list(manifests)))

    def get(self, kind: str, name: str) -> Manifest | None:
        """The object; None where there is none, which a cluster without this kind has not either."""
        try:
            text = self._run("get", kind, name, "-o", "json", "--ignore-not-found")
        except KubectlError as error:
            if "doesn't have a resource type" in str(error):
                return None
            raise
        return cast(Manifest, json.loads(text)) if text.strip() else None

    def all(self, kind: str) -> list[Manifest]:
        """All objects of a kind."""
        return list(json.loads(self._run("get", kind, "-o", "json"))["items"])

    def delete(self, kind: str, name: str) -> None:
        """Returns at once: what hangs on the object goes after it."""
        self._run("delete", kind, name, "--ignore-not-found", "--wait=false")

    def logs(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """A process that writes the log of the job of this name to stdout."""
        return subprocess.Popen(self._command("logs", f"job/{name}", *options), stderr=subprocess.DEVNULL)

    def _command(self, *words: str) -> list[str]:
        found = shutil.which("kubectl")
        if found is None:
            raise InputError("kubectl is not on the PATH: install it, or render with lcia launch and apply elsewhere")
        return [found, "--namespace", self.namespace, *words]

    def _run(self, *words: str, text: str | None = None) -> str:
        done = subprocess.run(self._command(*words), input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KubectlError(f"kubectl {words[0]}: {_brief(done.stderr)}")
        return done.stdout


def _brief(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    told = " ".join(lines[-3:]) or "it failed without a word"
    return told if len(told) <= ANSWER_LENGTH else told[:ANSWER_LENGTH] + " ..."


def status_of(manifest: Manifest) -> dict[str, Any]:
    """What the operator has written about an object; empty before it has looked at it."""
    return dict(manifest.get("status") or {})
