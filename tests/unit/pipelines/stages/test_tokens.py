"""Which Ray clusters are refused because anybody who reaches them can run code there."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import ray

from lcia.types import InputError
from pipelines.stages import tokens
from pipelines.stages.tokens import asks_for, beyond_loopback, check_token


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (["127.0.0.1", "::1", "localhost", "127.3.2.1"], None),
        (["127.0.0.1", "10.0.0.4", "10.0.0.5"], "10.0.0.4"),
        (["2001:db8::1"], "2001:db8::1"),
        (["head.lcia.svc"], "head.lcia.svc"),
    ],
)
def test_an_address_that_other_machines_can_reach_is_found(addresses: list[str], found: str | None) -> None:
    assert beyond_loopback(addresses) == found


class Dashboard(BaseHTTPRequestHandler):
    """Says its mode as Ray's does."""

    mode = "disabled"

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/authentication_mode" else 404)
        self.end_headers()
        self.wfile.write(b'{"authentication_mode": "%s"}' % self.mode.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a cluster with a node that others can reach; this process shows a token."""
    monkeypatch.setattr(tokens, "shows_token", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeManagerAddress": "10.0.0.4", "Alive": True}])
    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_cluster_that_asks_nobody_is_refused(dashboard: str) -> None:
    with pytest.raises(InputError, match=r"at 10.0.0.4 asks nobody for a token.*ray_auth: none"):
        check_token(dashboard)


def test_one_that_asks_for_a_token_is_taken(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dashboard, "mode", "token")
    check_token(dashboard)
    check_token(None)


def test_one_is_refused_without_a_token_of_our_own(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dashboard, "mode", "token")
    monkeypatch.setattr(tokens, "shows_token", lambda: False)
    with pytest.raises(InputError, match=r"is used without a token.*RAY_AUTH_MODE=token"):
        check_token(dashboard)


def test_nodes_that_are_gone_and_loopback_need_no_token(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [{"NodeManagerAddress": "127.0.0.1", "Alive": True}, {"NodeManagerAddress": "10.0.0.4", "Alive": False}]
    monkeypatch.setattr(ray, "nodes", lambda: there)
    monkeypatch.setattr(tokens, "shows_token", lambda: False)
    check_token(dashboard)


def test_a_dashboard_that_cannot_be_reached_tells_nothing() -> None:
    assert asks_for("127.0.0.1:1") is None
