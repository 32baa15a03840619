"""A small API server of Kubernetes for the real kubectl: objects in a dictionary, no admission and no operator.

A test plays the operator: it sets the states that a job goes through, one a question.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Manifest = dict[str, Any]

KINDS = {
    "v1": {"configmaps": "ConfigMap", "pods": "Pod"},
    "batch/v1": {"jobs": "Job"},
    "ray.io/v1": {"rayjobs": "RayJob", "raycronjobs": "RayCronJob"},
}
VERBS = ["create", "delete", "get", "list", "patch", "watch"]


@dataclass
class Kube:
    """What the server holds, and what it was asked. `refuses`: a message with which it turns every write down."""

    url: str = ""
    objects: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    """By (plural, name)."""
    states: dict[str, list[Manifest]] = field(default_factory=dict)
    """Of a RayJob, the states that the next questions find, the last one for good."""
    log: str = ""
    refuses: str = ""
    away: int = 0
    """So many questions are answered with an error first."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of what changed something."""

    def add(self, plural: str, manifest: Manifest) -> None:
        self.objects[plural, manifest["metadata"]["name"]] = manifest

    def look(self, plural: str, name: str) -> Manifest | None:
        found = self.objects.get((plural, name))
        if found and self.states.get(name):
            states = self.states[name]
            found["status"] = states.pop(0) if len(states) > 1 else states[0]
        return found

    def add_submitter(self, name: str) -> None:
        """The pod and the job with which the operator submits a RayJob."""
        labels = {"job-name": name}
        self.add("jobs", {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": "lcia"},
                          "spec": {"selector": {"matchLabels": labels}}})  # fmt: skip
        self.add("pods", {"apiVersion": "v1", "kind": "Pod",
                          "metadata": {"name": f"{name}-x", "namespace": "lcia", "labels": labels},
                          "spec": {"containers": [{"name": "ray-job-submitter"}]}})  # fmt: skip


def _resources(version: str) -> Manifest:
    kinds = KINDS[version]
    listed = [
        {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": VERBS}
        for plural, kind in kinds.items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": listed}


def _groups() -> Manifest:
    groups = [version.split("/") for version in KINDS if "/" in version]
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {"name": g, "versions": [{"groupVersion": f"{g}/{v}", "version": v}],
             "preferredVersion": {"groupVersion": f"{g}/{v}", "version": v}}
            for g, v in groups
        ],
    }  # fmt: skip


def _openapi(version: str) -> Manifest:
    """Says that the server itself looks for unknown fields, so that kubectl does not."""
    prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
    group, _, number = version.rpartition("/")
    parameters = [{"name": "fieldValidation", "in": "query"}]
    paths = {
        f"{prefix}/namespaces/{{namespace}}/{plural}/{{name}}": {
            "patch": {
                "parameters": parameters,
                "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
            }
        }
        for plural, kind in KINDS[version].items()
    }
    return {"openapi": "3.0.0", "info": {"title": "k", "version": "1"}, "paths": paths}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kube: Kube

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.strip("/")
        if path == "version":
            self.answer({"major": "1", "minor": "32", "gitVersion": "v1.32.4"})
        elif path == "api":
            self.answer({"kind": "APIVersions", "versions": ["v1"]})
        elif path == "apis":
            self.answer(_groups())
        elif path in ("api/v1", *(f"apis/{version}" for version in KINDS)):
            self.answer(_resources(path.partition("/")[2]))
        elif path == "openapi/v3":
            names = [f"apis/{version}" if "/" in version else f"api/{version}" for version in KINDS]
            self.answer({"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}"} for name in names}})
        elif path.startswith("openapi/v3/"):
            self.answer(_openapi(path.removeprefix("openapi/v3/").partition("/")[2]))
        elif self.kube.away:
            self.kube.away -= 1
            self.refuse(500, "InternalError", "etcd is away")
        else:
            self.object(path)

    def object(self, path: str) -> None:
        """GET of an object, of all of a kind, or of a pod's log."""
        plural, _, rest = path.partition("/namespaces/lcia/")[2].partition("/")
        name, _, part = rest.partition("/")
        if part == "log":
            self.answer(self.kube.log)
        elif name and (found := self.kube.look(plural, name)):
            self.answer(found)
        elif name:
            self.refuse(404, "NotFound", f'{plural} "{name}" not found')
        else:
            wanted = parse_qs(urlsplit(self.path).query).get("labelSelector", [""])[0].replace("%3D", "=")
            items = [m for (kind, _), m in self.kube.objects.items() if kind == plural and _has(m, wanted)]
            version = next((version for version, kinds in KINDS.items() if plural in kinds), None)
            if version is None:
                self.refuse(404, "NotFound", f"there is no /{path} here")
                return
            kind = f"{KINDS[version][plural]}List"
            self.answer({"kind": kind, "apiVersion": version, "metadata": {}, "items": items})

    def do_PATCH(self) -> None:
        """Server-side apply."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.kube.asked.append(("PATCH", self.path))
        if self.kube.refuses:
            self.refuse(422, "Invalid", self.kube.refuses)
            return
        assert self.headers["Content-Type"] == "application/apply-patch+yaml"
        manifest = yaml.safe_load(body)
        self.kube.add(urlsplit(self.path).path.rsplit("/", 2)[1], manifest)
        self.answer(manifest)

    def do_DELETE(self) -> None:
        plural, name = urlsplit(self.path).path.rsplit("/", 2)[1:]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.kube.asked.append(("DELETE", f"{plural}/{name}"))
        if self.kube.objects.pop((plural, name), None) is None:
            self.refuse(404, "NotFound", f'{plural} "{name}" not found')
        else:
            self.answer({"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def answer(self, what: Manifest | str, code: int = 200) -> None:
        data = what.encode() if isinstance(what, str) else json.dumps(what).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(what, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, code: int, reason: str, message: str) -> None:
        told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        self.answer({**told, "reason": reason, "message": message}, code)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Silent."""


def _has(manifest: Manifest, selector: str) -> bool:
    labels = manifest["metadata"].get("labels") or {}
    pairs = [pair.split("=", 1) for pair in selector.split(",") if pair]
    return all(labels.get(key) == value for key, value in pairs)


@contextmanager
def serving(folder: Path) -> Iterator[Kube]:
    """A server, and a kubeconfig in `folder` that leads to it."""
    kube = Kube()
    handler = type("KubeHandler", (Handler,), {"kube": kube})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        kube.url = f"http://127.0.0.1:{server.server_port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": kube.url}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": ""}}],
            "current-context": "here",
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        try:
            yield kube
        finally:
            server.shutdown()
