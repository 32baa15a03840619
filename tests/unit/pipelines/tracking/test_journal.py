"""The journal without MLflow: order, torn lines, offsets, secrets."""

import json

import pytest

from pipelines.tracking.journal import Journal, Position, redact
from pipelines.tracking.mirror import MAX_METRICS, batches
from pipelines.tracking.server import Tracker


def events(journal, offset=0):
    return [event for event, _ in journal.read(offset)]


def test_events_come_back_in_order_and_from_any_offset(tmp_path):
    journal = Journal(tmp_path / "deep" / "events.jsonl")
    for number in range(3):
        journal.append({"event": "metric", "step": number})
    offsets = [offset for _, offset in journal.read()]
    assert [event["step"] for event in events(journal)] == [0, 1, 2]
    assert [event["step"] for event in events(journal, offsets[0])] == [1, 2]
    assert offsets[-1] == journal.size


def test_a_line_torn_by_a_crash_costs_itself_only(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "a"}\n{"event": "b", "va')
    assert events(Journal(path)) == [{"event": "a"}]
    journal = Journal(path)
    journal.append({"event": "c"})
    assert events(journal) == [{"event": "a"}, {"event": "c"}]


def test_an_unfinished_line_waits_for_its_end(tmp_path):
    path = tmp_path / "events.jsonl"
    journal = Journal(path)
    path.write_text('{"event": "a"')
    assert events(journal) == []
    path.write_text('{"event": "a"}\n')
    assert events(journal) == [{"event": "a"}]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://me:pass@db/x", "postgresql://***@db/x"),
        ("https://host/file?X-Amz-Signature=abc", "https://host/file"),
        ("key is hunter2hunter2!", "key is ***!"),
        ("what is 2 + 2?", "what is 2 + 2?"),
        ("max_new_tokens", "max_new_tokens"),
    ],
)
def test_secrets_are_taken_out(monkeypatch, text, clean):
    monkeypatch.setenv("SOME_API_KEY", "hunter2hunter2")
    assert redact(text) == clean


def test_no_secret_reaches_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", 'quo"ted-secret')
    journal = Journal(tmp_path / "events.jsonl")
    journal.append({"event": "begin", "params": {"x": ['quo"ted-secret']}, "tags": {"uri": "http://me:pass@host"}})
    assert events(journal) == [{"event": "begin", "params": {"x": ["***"]}, "tags": {"uri": "http://***@host"}}]


def test_each_server_has_a_position_of_its_own_and_no_address_is_written(tmp_path):
    journal = tmp_path / "events.jsonl"
    one, two = (Position.load(journal, f"http://me:pass@{host}") for host in ("one", "two"))
    one.offset, one.runs = 7, {"run": "id"}
    one.save()
    two.save()
    assert Position.load(journal, one.uri) == one
    assert Position.load(journal, two.uri).offset == 0
    assert "pass" not in one.path.read_text()
    assert len(json.loads(one.path.read_text())) == 2


def test_metrics_travel_in_batches_and_anything_else_alone_and_in_order():
    kinds = ["begin", *["metric"] * (MAX_METRICS + 1), "finish", "metric"]
    sent = list(batches(({"event": kind}, number) for number, kind in enumerate(kinds, start=1)))
    assert [len(batch) for batch, _ in sent] == [1, MAX_METRICS, 1, 1, 1]
    assert [offset for _, offset in sent] == [1, MAX_METRICS + 1, MAX_METRICS + 2, MAX_METRICS + 3, MAX_METRICS + 4]


def test_no_password_of_an_unreachable_server_is_told(tmp_path, caplog):
    class Away:
        def sync(self):
            raise ConnectionError("http://me:hun/ter2@host:5000 does not answer")

    tracker = Tracker.__new__(Tracker)
    tracker._failing = False
    assert not tracker._send(Away())
    assert "does not answer" in caplog.text
    assert "ter2" not in caplog.text


@pytest.mark.parametrize("text", ["", "{", "not json"])
def test_a_damaged_position_costs_no_run_only_sending_again(tmp_path, text, caplog):
    path = tmp_path / "events.jsonl"
    Position.load(path, "http://host").save()
    (tmp_path / "events.jsonl.position.json").write_text(text)
    assert Position.load(path, "http://host").offset == 0
    assert "events.jsonl.position.json cannot be read" in caplog.text


def test_a_line_that_is_not_an_event_is_passed_over(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('[1]\n{"even": "x"}\n{"event": "a"}\n')
    assert events(Journal(path)) == [{"event": "a"}]
