"""What `lcia doctor --cluster` says of nodes that do not fit; a real cluster is looked at in test_submit.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lcia.config.load import parse
from lcia.types import InputError
from pipelines.launch import LaunchConfig
from pipelines.stages.nodes import Found, Node
from pipelines.terminal import cluster_doctor as module
from pipelines.terminal.cluster_doctor import cluster_doctor, examine

HEAD, WORKER = Node("a", "10.0.0.1", 0, 0), Node("b", "10.0.0.2", 8, 2)
MINE = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[Node, Found]:
    """Two nodes; a test changes what they say of themselves."""
    said = {HEAD: Found(MINE, 0), WORKER: Found(MINE, 2)}
    monkeypatch.setattr(module, "_connect", lambda launch: None)
    monkeypatch.setattr(module, "nodes", lambda: list(said))
    monkeypatch.setattr(module, "look", lambda there, storage: said)
    monkeypatch.setattr(module, "versions", lambda: MINE)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return said


def hints(**settings: Any) -> dict[str, str]:
    launch = parse(LaunchConfig, {"storage": "/mnt/lcia", **settings}, "test")
    return {f"{check.check} {check.node}".strip(): check.hint for check in examine(launch) if check.hint}


def test_nodes_that_fit_need_no_hint(cluster: dict[Node, Found]) -> None:
    assert hints(gpus_per_worker=1, num_workers=2) == {}


@pytest.mark.parametrize(
    ("found", "check", "told"),
    [
        (Found({**MINE, "ray": "2.59.0"}, 2), "versions 10.0.0.2", "use the same image everywhere"),
        (Found(MINE, 1), "GPUs 10.0.0.2", "hides GPUs"),
        (Found(MINE, 2, "cannot write: OSError: read-only"), "storage 10.0.0.2", "mount the volume there"),
        (Found(MINE, 2, "cannot read what another node has written: x"), "storage 10.0.0.2", "is not shared"),
        (Found(trouble="lcia is not installed there"), "answer 10.0.0.2", "lcia is not installed there: use the image"),
    ],
)
def test_a_node_that_does_not_fit_is_named_with_what_to_do(
    cluster: dict[Node, Found], found: Found, check: str, told: str
) -> None:
    cluster[WORKER] = found
    assert list(hints()) == [check]
    assert told in hints()[check]


def test_gpus_that_cannot_be_counted_are_believed(cluster: dict[Node, Found]) -> None:
    cluster[WORKER] = Found(MINE, None)
    assert hints() == {}


def test_workers_without_room_are_counted(cluster: dict[Node, Found]) -> None:
    told = hints(gpus_per_worker=1, num_workers=4)["placement"]
    assert told.startswith("no room for 2 training workers of 1 CPU and 1 GPU each")


def test_relative_storage_is_another_folder_on_every_node(cluster: dict[Node, Found]) -> None:
    assert hints(storage="runs") == {"storage": "relative: give a full path or URL"}


@contextmanager
def mlflow(code: int) -> Iterator[str]:
    """A server that answers every request with this code."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("code", "told"), [(200, ""), (401, "MLFLOW_TRACKING_USERNAME"), (404, "is that MLflow?")])
def test_the_tracking_server_is_asked(cluster: dict[Node, Found], code: int, told: str) -> None:
    with mlflow(code) as uri:
        found = hints(tracking={"uri": uri})
    assert told in found.get("tracking", "")
    assert bool(found) == bool(told)


def test_a_server_that_is_not_there_is_told(cluster: dict[Node, Found]) -> None:
    with mlflow(200) as uri:
        pass
    assert "is the server running" in hints(tracking={"uri": uri})["tracking"]


def test_what_does_not_fit_ends_with_an_error_and_its_number(
    cluster: dict[Node, Found], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    cluster[WORKER] = Found(MINE, 1)
    with pytest.raises(InputError, match="checks that do not fit: 1"):
        cluster_doctor(LaunchConfig(storage="/mnt/lcia"), as_json=False)
    assert "hides GPUs" in capsys.readouterr().out


def test_without_an_address_it_asks_which_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="which cluster"):
        cluster_doctor(LaunchConfig(storage=str(tmp_path)), as_json=False)
