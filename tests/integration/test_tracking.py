"""The tracker against real MLflow: a SQLite file, and a server process that is killed in mid-run."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor
from lcia.report.run_folder import Session
from lcia.run import complete, prepare
from lcia.store.folders import Store
from lcia.training.fit import FitOptions
from pipelines.launch import LaunchConfig
from pipelines.tracking.journal import Journal, Position
from pipelines.tracking.runs import JOURNAL, tracked
from pipelines.tracking.server import Tracker, default_uri, replay

PATIENCE = 120


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return default_uri(tmp_path_factory.mktemp("mlflow"))


def client_of(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs_of(uri, experiment):
    """Runs by name; two runs with one name would be a duplicate."""
    client = client_of(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    by_name = {run.info.run_name: run for run in found}
    assert len(by_name) == len(found)
    return by_name


def steps_of(uri, run, metric):
    return sorted(point.step for point in client_of(uri).get_metric_history(run.info.run_id, metric))


def has_finished(uri, experiment, name):
    known = client_of(uri).get_experiment_by_name(experiment)
    runs = runs_of(uri, experiment) if known else {}
    return name in runs and runs[name].info.status == "FINISHED"


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_a_run_and_its_tasks_arrive_with_curves_artifacts_and_data(uri, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    report = tmp_path / "report.html"
    report.write_text("<!doctype html>")
    with Tracker(tmp_path / "events.jsonl", uri, "arrive") as tracker:
        tracker.begin("p", "lcia, seed 0", {"strategy": {"kind": "curvature", "lambda": 0.3}}, {"method": "lcia"})
        tracker.begin("p/shape", "shape", {}, {}, parent="p")
        tracker.metric("p", "acc/shape", 91.5, 1)
        tracker.metric("p", "acc/shape", float("nan"), 2)
        tracker.metric("p/shape", "beta_q50", 0.9, 5)
        tracker.artifact("p/shape", adapter, "adapter")
        tracker.artifact("p", report)
        tracker.dataset("p", "shape/train", "0123456789abcdef" * 4, "shape/train.json")
        tracker.finish("p/shape")
        tracker.finish("p", "FAILED")
        tracker.close(PATIENCE)
        assert tracker.behind == 0
    runs = runs_of(uri, "arrive")
    parent, child = runs["lcia, seed 0"], runs["shape"]
    assert (parent.info.status, child.info.status) == ("FAILED", "FINISHED")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.params == {"strategy.kind": "curvature", "strategy.lambda": "0.3"}
    assert steps_of(uri, parent, "acc/shape") == [1, 2]
    assert child.data.metrics == {"beta_q50": 0.9}
    (data,) = parent.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("shape/train", ("0123456789abcdef" * 4)[:36])
    artifacts = {item.path for item in client_of(uri).list_artifacts(child.info.run_id, "adapter")}
    assert artifacts == {"adapter/adapter_config.json"}
    assert [item.path for item in client_of(uri).list_artifacts(parent.info.run_id)] == ["report.html"]


def test_more_parameters_and_metrics_than_a_batch_holds_all_arrive(uri, tmp_path):
    with Tracker(tmp_path / "events.jsonl", uri, "many") as tracker:
        tracker.begin("r", "r", {f"p{number}": number for number in range(250)}, {})
        for step in range(2300):
            tracker.metric("r", "loss", step / 2, step)
        tracker.close(PATIENCE)
    run = runs_of(uri, "many")["r"]
    assert len(run.data.params) == 250
    assert steps_of(uri, run, "loss") == list(range(2300))


def test_the_same_run_started_again_goes_on_under_its_id_without_doubles(uri, tmp_path):
    journal = tmp_path / "events.jsonl"
    for last in (10, 20):
        with Tracker(journal, uri, "again") as tracker:
            tracker.begin("key with ' quote", "r", {"a": 1}, {})
            for step in range(last):
                tracker.metric("key with ' quote", "loss", 1.0, step)
            tracker.close(PATIENCE)
    before = runs_of(uri, "again")["r"]
    assert steps_of(uri, before, "loss") == list(range(20))
    Position.load(journal, uri).path.unlink()
    replay(journal, uri)
    after = runs_of(uri, "again")["r"]
    assert after.info.run_id == before.info.run_id
    assert steps_of(uri, after, "loss") == list(range(20))


def test_a_new_database_gets_the_whole_journal(uri, tmp_path):
    journal = tmp_path / "events.jsonl"
    with Tracker(journal, uri, "moved") as tracker:
        tracker.begin("r", "r", {}, {})
        tracker.metric("r", "loss", 1.0, 1)
        tracker.close(PATIENCE)
    client = client_of(uri)
    position = Position.load(journal, uri)
    position.runs = dict.fromkeys(position.runs, "0" * 32)
    position.save()
    client.delete_run(runs_of(uri, "moved")["r"].info.run_id)
    Journal(journal).append({"event": "metric", "time": 1, "run": "r", "name": "loss", "value": 2.0, "step": 2})
    replay(journal, uri)
    assert steps_of(uri, runs_of(uri, "moved")["r"], "loss") == [1, 2]


def test_what_mlflow_refuses_is_named_and_the_rest_arrives(uri, tmp_path, caplog):
    with Tracker(tmp_path / "events.jsonl", uri, "refused") as tracker:
        tracker.metric("never begun", "loss", 1.0, 1)
        tracker.begin("r", "r", {"odd*name": 1, "a//b": 2}, {})
        tracker.artifact("r", tmp_path / "missing")
        tracker.metric("r", "../loss %", 1.0, 1)
        tracker.close(PATIENCE)
        assert tracker.behind == 0
    run = runs_of(uri, "refused")["r"]
    assert run.data.params == {"odd_name": "1", "a/b": "2"}
    assert run.data.metrics == {"loss _": 1.0}
    assert "refuses a metric of never begun" in caplog.text
    assert "missing is gone" in caplog.text


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """`mlflow server` on one port and one database, in a process group of its own so that a kill takes all of it."""

    def __init__(self, folder):
        self.port, self._folder = free_port(), folder
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        store = [
            "--backend-store-uri",
            default_uri(self._folder),
            "--artifacts-destination",
            str(self._folder / "files"),
        ]
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *store, *where],
                stdout=log, stderr=log, env={**os.environ, **quiet}, start_new_session=True,
            )  # fmt: skip
        until(self._healthy)

    def kill(self):
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE)

    def _healthy(self):
        assert self._process.poll() is None, (self._folder / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


@pytest.fixture
def server(uri, tmp_path):
    # A new database would cost its migrations once more.
    client_of(uri).search_experiments()
    shutil.copy(uri.removeprefix("sqlite:///"), tmp_path)
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def test_a_server_killed_in_mid_run_has_everything_once_after_replay(server, tmp_path, caplog):
    journal = tmp_path / "events.jsonl"
    tracker = Tracker(journal, server.uri, "killed")
    tracker.begin("p", "parent", {"seed": 0}, {})
    tracker.begin("c", "child", {}, {}, parent="p")
    for step in range(50):
        tracker.metric("c", "loss", 1.0, step)
    until(lambda: tracker.behind == 0)
    server.kill()
    for step in range(50, 100):
        tracker.metric("c", "loss", 1.0, step)
    (tmp_path / "report.html").write_text("<!doctype html>")
    tracker.artifact("p", tmp_path / "report.html")
    tracker.finish("c")
    tracker.finish("p")
    tracker.close(5)
    assert tracker.behind > 0
    assert "the same command sends the rest" in caplog.text
    server.start()
    for _ in range(2):
        replay(journal, server.uri)
    runs = runs_of(server.uri, "killed")
    assert set(runs) == {"parent", "child"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert steps_of(server.uri, runs["child"], "loss") == list(range(100))
    assert [item.path for item in client_of(server.uri).list_artifacts(runs["parent"].info.run_id)] == ["report.html"]


def test_a_run_goes_on_while_its_server_is_dead_and_mlflow_has_all_of_it_after_replay(server, tmp_path):
    tasks = ["VQAv2", "OCR-VQA"]
    values = {
        "name": "stream",
        "benchmark": {"kind": "minicoin", "tasks": tasks, "train_size": 48, "test_size": 8},
        "training": {"max_steps": 12},
        "strategy": {"kind": "proximal"},
        "grouping": {"enabled": False},
    }
    launch = parse(LaunchConfig, {"storage": str(tmp_path), "tracking": {"uri": server.uri}}, "test")
    executor = LocalExecutor(Store(launch.store_root), FitOptions(logging_steps=2))
    with tracked(launch, "stream") as tracker:
        prepared = prepare([parse(RunConfig, values, "test")], executor)
        tracker.begin(prepared, executor.store)
        first, second = prepared[0].plan.trains
        executor.train_and_evaluate([first], [])
        tracker.watch({first.key: {"kind": "train", "done": True}})
        until(lambda: has_finished(server.uri, launch.tracking.experiment, "stream: 1. VQAv2"))
        server.kill()
        outcomes = complete(prepared, executor)
        tracker.watch({second.key: {"kind": "train", "done": True}})
        page = tracker.finish(outcomes, Session("stream", 1.0, {}), executor.store)
        assert page.is_file()
    server.start()
    for _ in range(2):
        replay(tmp_path / "stream" / JOURNAL, server.uri)
    runs = runs_of(server.uri, launch.tracking.experiment)
    assert set(runs) == {"stream", "stream: 1. VQAv2", "stream: 2. OCR-VQA"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for child in ("stream: 1. VQAv2", "stream: 2. OCR-VQA"):
        assert steps_of(server.uri, runs[child], "loss") == [2, 4, 6, 8, 10, 12]
    assert steps_of(server.uri, runs["stream: 2. OCR-VQA"], "beta_q50") == [2, 4, 6, 8, 10, 12]
    assert steps_of(server.uri, runs["stream"], "acc/VQAv2") == [1, 2]
    assert steps_of(server.uri, runs["stream"], "acc/OCR-VQA") == [2]
    stored = {item.path for item in client_of(server.uri).list_artifacts(runs["stream"].info.run_id)}
    assert stored == {"report.html", "summary.json"}


def test_without_any_server_a_run_is_neither_stopped_nor_held(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    uri = f"http://me:hunter2@127.0.0.1:{free_port()}"
    with Tracker(tmp_path / "events.jsonl", uri, "nobody") as tracker:
        tracker.begin("r", "r", {}, {})
        tracker.metric("r", "loss", 1.0, 1)
        until(lambda: "cannot be reached" in caplog.text)
        tracker.close(5)
        assert tracker.behind > 0
    assert [event["event"] for event, _ in Journal(tmp_path / "events.jsonl").read()] == ["open", "begin", "metric"]
    assert "hunter2" not in caplog.text
