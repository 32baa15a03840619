"""The thread that writes to MLflow. A run puts into its queue; it neither waits for MLflow nor fails because of it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from pipelines.tracking.mirror import Mirror, is_away
from pipelines.tracking.redaction import redact

LOG = logging.getLogger(__name__)

Send: TypeAlias = Callable[[Mirror], None]
"""Sends one thing; called again from its beginning where MLflow was away in the middle of it."""
Put: TypeAlias = Callable[[str, Send], None]
"""Takes what to send, and its name for messages; returns at once."""

POLL_SECONDS, MAX_WAIT_SECONDS = 0.5, 30.0


class Sender:
    """Sends to one mirror in the order of the queue. While MLflow is away everything keeps its place."""

    def __init__(self, mirror: Mirror, may_send: Callable[[], bool] = lambda: True) -> None:
        """`may_send`: False once another attempt writes to the same runs; from then on nothing is sent."""
        self._mirror, self._may_send = mirror, may_send
        self._queue: deque[tuple[str, Send]] = deque()
        self._closing, self._is_away = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def put(self, what: str, send: Send) -> None:
        self._queue.append((what, send))

    @property
    def behind(self) -> int:
        """How many things MLflow has not taken yet."""
        return len(self._queue)

    def close(self, timeout: float = 30.0) -> None:
        """Waits at most `timeout` seconds for MLflow; what is left then is sent when the same command runs again."""
        self._closing.set()
        self._thread.join(timeout)
        if self.behind:
            LOG.warning("MLflow has not taken all of this run: the same command, run again, sends the rest")

    def _work(self) -> None:
        wait = POLL_SECONDS
        while True:
            closing = self._closing.is_set()
            wait = POLL_SECONDS if self._send_all() else min(2 * wait, MAX_WAIT_SECONDS)
            if closing:
                return
            self._closing.wait(wait)

    def _send_all(self) -> bool:
        """False: MLflow is away, and not everything was sent."""
        while self._queue:
            if not self._may_send():
                self._queue.clear()
                return True
            if not self._send(*self._queue[0]):
                return False
            self._queue.popleft()
        return True

    def _send(self, what: str, send: Send) -> bool:
        try:
            send(self._mirror)
        except Exception as error:  # noqa: BLE001 - a mirror must not end a run, whatever is wrong with it
            if is_away(error):
                self._tell_once(error)
                return False
            LOG.warning("MLflow does not show %s: %s", what, redact(f"{type(error).__name__}: {error}"))
        self._is_away = False
        return True

    def _tell_once(self, error: Exception) -> None:
        if not self._is_away:
            LOG.warning("MLflow cannot be reached; the run goes on and is mirrored later: %s", redact(str(error)))
        self._is_away = True
