"""The queue before MLflow: its order, what happens while MLflow is away, and that no error leaves it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from pipelines.tracking import sender as module
from pipelines.tracking.mirror import Mirror
from pipelines.tracking.sender import Send, Sender


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(module, "MAX_WAIT_SECONDS", 0.01)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class Place:
    """Takes numbers while it is open; each attempt is kept."""

    def __init__(self, error: Exception | None = None) -> None:
        self.taken: list[int] = []
        self.asked: list[int] = []
        self.error = error

    def send(self, number: int) -> Send:
        def send(_: Mirror) -> None:
            self.asked.append(number)
            if self.error:
                raise self.error
            self.taken.append(number)

        return send


def _sender() -> Sender:
    return Sender(Mirror("sqlite:////nowhere/mlflow.db", "unused"))


def test_all_is_sent_in_the_order_of_the_queue_before_the_end() -> None:
    place, sender = Place(), _sender()
    for number in range(100):
        sender.put(str(number), place.send(number))
    sender.close()
    assert (place.taken, sender.behind) == (list(range(100)), 0)


@pytest.mark.parametrize("error", [ConnectionError("away"), MlflowException("away"), TimeoutError()])
def test_what_mlflow_misses_while_it_is_away_keeps_its_place(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    place, sender = Place(error), _sender()
    for number in range(3):
        sender.put(str(number), place.send(number))
    until(lambda: len(place.asked) > 3)
    assert (set(place.asked), sender.behind) == ({0}, 3)
    assert len([r for r in caplog.records if "cannot be reached" in r.message]) == 1
    place.error = None
    until(lambda: sender.behind == 0)
    sender.close()
    assert place.taken == [0, 1, 2]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd"),
        KeyError("odd"),
        FileNotFoundError("odd"),
        MlflowException("odd", error_code=INVALID_PARAMETER_VALUE),
    ],
)
def test_what_cannot_be_sent_at_all_is_named_and_the_rest_is_sent(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    place, broken, sender = Place(), Place(error), _sender()
    sender.put("the odd one", broken.send(0))
    sender.put("the next one", place.send(1))
    sender.close()
    assert (broken.asked, place.taken, sender.behind) == ([0], [1], 0)
    assert "MLflow does not show the odd one" in caplog.text
    assert "odd" in caplog.text


def test_a_run_ends_although_mlflow_is_away_and_it_is_said_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    place, sender = Place(ConnectionError("away")), _sender()
    sender.put("it", place.send(0))
    begun = time.monotonic()
    sender.close()
    assert time.monotonic() - begun < 20
    assert "the same command, run again, sends the rest" in caplog.text


def test_a_run_ends_although_mlflow_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    sender = _sender()
    sender.put("it", lambda _: time.sleep(5))
    begun = time.monotonic()
    sender.close(timeout=0.2)
    assert time.monotonic() - begun < 4
    assert "the same command, run again, sends the rest" in caplog.text


def test_what_another_attempt_writes_now_is_not_sent_any_more() -> None:
    place, mine = Place(), [True]
    sender = Sender(Mirror("sqlite://", "none"), lambda: mine[0])
    sender.put("before", place.send(0))
    until(lambda: place.taken)
    mine[0] = False
    sender.put("after", place.send(1))
    sender.close()
    assert (place.taken, sender.behind) == ([0], 0)


@pytest.mark.parametrize("kind", [ConnectionError, ValueError])
def test_no_password_of_an_unreachable_server_is_told(kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    sender = _sender()
    sender.put("it", Place(kind("http://me:hun/ter2@host:5000 does not answer")).send(0))
    until(lambda: "does not answer" in caplog.text)
    sender.close()
    assert "ter2" not in caplog.text
