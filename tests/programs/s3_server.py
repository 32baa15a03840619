"""A real S3 server (moto's) in a process of its own, which can be told to misbehave.

`python -m tests.programs.s3_server` prints its address. POST /_faults takes JSON:
- `{"status": 503, "every": 3, "times": 20}`: each third request is answered with that status, 20 times in all
- `{"hold": "PART"}`: from now on, a request to write whose path holds PART is never answered
- `{"away": 5}`: it stops listening for so many seconds; what it stores stays
GET /_faults tells how many requests were refused and whether one is held.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
HOST = "127.0.0.1"


class Faulty:
    """The application of a server, with faults before it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._faults: dict[str, Any] = {}
        self._requests = 0
        self.refused, self.held = 0, False
        self.away: Callable[[float], None] = lambda seconds: None

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/_faults":
            return self._control(environ, start)
        if environ["REQUEST_METHOD"] in ("PUT", "POST") and self._is_held(environ["PATH_INFO"]):
            self.held = True
            threading.Event().wait()
        if status := self._refusal():
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(f"{status} Trouble", [("Content-Type", "application/xml"), ("Content-Length", "0")])
            return [b""]
        return self._app(environ, start)

    def _is_held(self, path: str) -> bool:
        return "hold" in self._faults and self._faults["hold"] in path

    def _refusal(self) -> int | None:
        with self._lock:
            self._requests += 1
            due = self._faults.get("times", 0) > 0 and self._requests % self._faults["every"] == 0
            if not due:
                return None
            self._faults["times"] -= 1
            self.refused += 1
            return int(self._faults["status"])

    def _control(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            self._faults = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            self.refused, self.held = 0, False
            if seconds := self._faults.get("away"):
                self.away(seconds)
        body = json.dumps({"refused": self.refused, "held": self.held}).encode()
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def main() -> None:
    app = Faulty(DomainDispatcherApplication(create_backend_app))
    pause = threading.Event()
    seconds = 0.0
    server = make_server(HOST, 0, app, threaded=True)
    port = server.port

    def away(how_long: float) -> None:
        nonlocal seconds
        seconds = how_long
        pause.set()
        threading.Timer(0.2, server.shutdown).start()

    app.away = away
    print(f"http://{HOST}:{port}", flush=True)
    while True:
        server.serve_forever()
        server.server_close()
        if not pause.is_set():
            return
        pause.clear()
        time.sleep(seconds)
        server = make_server(HOST, port, app, threaded=True)


if __name__ == "__main__":
    main()
