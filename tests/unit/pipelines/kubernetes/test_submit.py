"""Following a job, with a client that plays the Jobs API; the real one is in tests/integration/test_submit.py."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, cast

import pytest
import ray

from lcia.types import InputError
from pipelines.kubernetes import submit as module
from pipelines.kubernetes.submit import JobEnd, Surroundings, follow, submit

LOG = "one\ntwo\nthree\n"


class Status(Enum):
    """As Ray's JobStatus, of which it plays the part."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    def is_terminal(self) -> bool:
        return self is not Status.RUNNING


@dataclass
class Info:
    status: Status
    message: str | None = None


@dataclass
class Client:
    """Streams `pieces`, then breaks if told to; answers the states one after another."""

    pieces: Sequence[str]
    states: list[Info]
    broken: Exception | None = None
    asked: list[str] = field(default_factory=list)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for piece in self.pieces:
            yield piece
        if self.broken:
            raise self.broken

    def get_job_info(self, job: str) -> Info:
        self.asked.append(job)
        return self.states[min(len(self.asked), len(self.states)) - 1]

    def get_job_logs(self, job: str) -> str:
        return LOG


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)


def followed(client: Client) -> tuple[JobEnd, list[str]]:
    shown: list[str] = []
    return follow(cast(Any, client), "job-1", shown.append), shown


def test_the_log_is_shown_once_and_the_end_reported() -> None:
    end, shown = followed(Client(["one\n", "two\nthree\n"], [Info(Status.SUCCEEDED, "done")]))
    assert "".join(shown) == LOG
    assert end == JobEnd("job-1", "SUCCEEDED", "done")
    assert end.succeeded


def test_a_broken_stream_neither_ends_the_job_nor_loses_a_line() -> None:
    states = [Info(Status.RUNNING), Info(Status.RUNNING), Info(Status.FAILED, "exit code 3")]
    end, shown = followed(Client(["one\ntw"], states, broken=RuntimeError("closed")))
    assert end == JobEnd("job-1", "FAILED", "exit code 3")
    assert not end.succeeded
    assert "".join(piece for piece in shown if not piece.startswith("[")) == LOG
    assert any("the log stream broke (closed)" in piece for piece in shown)


def test_a_mistake_of_ours_is_not_taken_for_a_broken_stream() -> None:
    with pytest.raises(KeyError):
        followed(Client(["one"], [Info(Status.SUCCEEDED)], broken=KeyError("bug")))


def test_a_secret_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InputError, match="HF_TOKEN would be readable"):
        submit("http://127.0.0.1:1", "true", Surroundings(env={"HF_TOKEN": "x"}))


def test_the_runtime_environment_holds_the_folder_and_the_variables(tmp_path: Path) -> None:
    given = Surroundings(working_dir=tmp_path, env={"A": "1"}).runtime_env()
    assert given == {"working_dir": str(tmp_path), "env_vars": {"A": "1"}}
    assert Surroundings().runtime_env() == {}


def test_an_address_without_a_scheme_is_explained() -> None:
    with pytest.raises(InputError, match="write http://HOST:8265"):
        submit("head:8265", "true")


class Broken(BaseHTTPRequestHandler):
    """A server behind which something fails: a page of a thousand lines with status 500, but for what `works`."""

    works: ClassVar[dict[str, object]] = {}

    def do_GET(self) -> None:
        answer = self.works.get(self.path)
        self.send_response(500 if answer is None else 200)
        self.end_headers()
        self.wfile.write(b"<html>internal error\n" * 1000 if answer is None else json.dumps(answer).encode())

    do_POST = do_GET  # noqa: N815 - the same

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the same
        """Silent."""


@contextmanager
def served(works: dict[str, object]) -> Iterator[str]:
    """The address of such a server."""
    handler = type("Handler", (Broken,), {"works": works})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_server_that_answers_with_an_error_is_named_with_what_to_look_at() -> None:
    with served({}) as address, pytest.raises(InputError) as told:
        submit(address, "true")
    assert str(told.value).startswith(f"what answers at {address} is not a working Ray dashboard: 500 Server Error")
    assert "8265" in str(told.value)


def test_a_head_that_does_not_take_the_job_is_told_in_a_few_lines() -> None:
    version = {"version": "1", "ray_version": ray.__version__, "ray_commit": ray.__commit__, "session_name": "s"}
    with served({"/api/version": version}) as address, pytest.raises(RuntimeError) as told:
        submit(address, "true")
    message = str(told.value)
    assert message.startswith(f"the Ray head at {address} did not take the job: Request failed with status code 500")
    assert "the same command sends the job again" in message
    assert len(message) < 600
