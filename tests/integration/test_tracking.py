"""The mirror in real MLflow: a SQLite file, and a server process that is killed or not there."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial
from typing import NamedTuple

import pytest

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor
from lcia.protocols import Progress
from lcia.report.run_folder import Session, write
from lcia.run import Outcome, run
from lcia.store.folders import Store
from lcia.training.train import TrainOptions
from pipelines.launch import LaunchConfig, TrackingConfig
from pipelines.tracking.mirror import Mirror, MirrorRun, Point, default_uri
from pipelines.tracking.runs import tracked
from pipelines.tracking.sender import Sender

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


def artifacts_of(uri, run, folder=None):
    return {item.path for item in client_of(uri).list_artifacts(run.info.run_id, folder)}


def curve(name, steps, value=1.0):
    return [Point(name, value, step, at=step) for step in steps]


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_a_run_and_its_tasks_arrive_with_curves_artifacts_and_data(uri, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "report.html").write_text("<!doctype html>")
    mirror = Mirror(uri, "arrive")
    params = {"strategy": {"kind": "curvature", "lambda": 0.3}}
    mirror.begin(MirrorRun("p", "lcia, seed 0", params, {"method": "lcia"}), 1)
    mirror.begin(MirrorRun("p/shape", "shape", {}, {}, parent="p"), 2)
    mirror.points("p", [Point("acc/shape", 91.5, 1, 3), Point("acc/shape", float("nan"), 2, 3)])
    mirror.points("p/shape", [Point("beta_q50", 0.9, 5, 3)])
    mirror.file("p/shape", tmp_path / "adapter_config.json", "adapter")
    mirror.file("p", tmp_path / "report.html")
    mirror.dataset("p", "shape/train", "0123456789abcdef" * 4, "shape/train.json")
    mirror.end("p/shape", "FINISHED", 4)
    mirror.end("p", "FAILED", 5)
    runs = runs_of(uri, "arrive")
    parent, child = runs["lcia, seed 0"], runs["shape"]
    assert (parent.info.status, child.info.status) == ("FAILED", "FINISHED")
    assert (parent.info.start_time, parent.info.end_time) == (1, 5)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.params == {"strategy.kind": "curvature", "strategy.lambda": "0.3"}
    assert steps_of(uri, parent, "acc/shape") == [1, 2]
    assert child.data.metrics == {"beta_q50": 0.9}
    (data,) = parent.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("shape/train", ("0123456789abcdef" * 4)[:36])
    assert artifacts_of(uri, child, "adapter") == {"adapter/adapter_config.json"}
    assert artifacts_of(uri, parent) == {"report.html"}


def test_more_parameters_and_metrics_than_a_batch_holds_all_arrive(uri):
    mirror = Mirror(uri, "many")
    mirror.begin(MirrorRun("r", "r", {f"p{number}": number for number in range(250)}, {}), 1)
    mirror.points("r", curve("loss", range(2300)))
    run = runs_of(uri, "many")["r"]
    assert len(run.data.params) == 250
    assert steps_of(uri, run, "loss") == list(range(2300))


def test_the_same_run_started_again_goes_on_under_its_id_without_doubles(uri):
    key, ids = "key with ' quote", set()
    for session, last in enumerate((10, 20)):
        mirror = Mirror(uri, "again")
        mirror.begin(MirrorRun(key, "r", {"a": 1}, {}), 1)
        # Another session measures the same steps at another time.
        mirror.points(key, [Point("loss", 1.0, step, 1000 * session + step) for step in range(last)])
        mirror.points(key, [Point("system/load", 0.5, None, session)])
        ids.add(runs_of(uri, "again")["r"].info.run_id)
    run = runs_of(uri, "again")["r"]
    assert len(ids) == 1
    assert steps_of(uri, run, "loss") == list(range(20))
    assert steps_of(uri, run, "system/load") == [0, 1]


def test_only_a_run_that_an_earlier_session_ended_well_is_complete(uri):
    first, run = Mirror(uri, "complete"), MirrorRun("r", "r", {}, {})
    assert not first.has_all_of("r")
    first.begin(run, 1)
    for status in ("FAILED", "FINISHED"):
        first.end("r", status, 2)
        assert not first.has_all_of("r")
        assert Mirror(uri, "complete").has_all_of("r") == (status == "FINISHED")
    client_of(uri).delete_run(runs_of(uri, "complete")["r"].info.run_id)
    assert not Mirror(uri, "complete").has_all_of("r")


def test_names_that_mlflow_does_not_know_are_sent_as_it_wants_them(uri):
    mirror = Mirror(uri, "odd")
    mirror.begin(MirrorRun("r", "r", {"odd*name": 1, "a//b": 2, "long": "x" * 7000}, {}), 1)
    mirror.points("r", curve("../loss %", [1]))
    run = runs_of(uri, "odd")["r"]
    assert run.data.params == {"odd_name": "1", "a/b": "2", "long": "x" * 5997 + "..."}
    assert run.data.metrics == {"loss _": 1.0}


def test_a_run_with_other_parameters_than_mlflow_has_goes_on(uri, caplog):
    for step in (1, 2):
        mirror = Mirror(uri, "changed")
        mirror.begin(MirrorRun("r", "r", {"rows": step}, {}), 1)
        mirror.points("r", curve("loss", [step]))
    run = runs_of(uri, "changed")["r"]
    assert (run.data.params, steps_of(uri, run, "loss")) == ({"rows": "1"}, [1, 2])
    assert "MLflow refuses parameters of r" in caplog.text


def test_no_secret_reaches_mlflow(uri, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", 'quo"ted-secret')
    mirror = Mirror(uri, "secrets")
    mirror.begin(MirrorRun("r", "r", {"x": ['quo"ted-secret']}, {"uri": "http://me:pass@host"}), 1)
    mirror.dataset("r", "data", "0", "http://me:pass@host")
    run = runs_of(uri, "secrets")["r"]
    assert run.data.params == {"x": "['***']"}
    assert run.data.tags["uri"] == "http://***@host"
    assert run.inputs.dataset_inputs[0].dataset.source == "http://***@host"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """`mlflow server` on one port and one database, in a process group of its own so that a kill takes all of it."""

    def __init__(self, folder):
        self.port, self._folder, self._process = free_port(), folder, None
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
        if self._process and self._process.poll() is None:
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
    """One that is not started yet."""
    # A new database would cost its migrations once more.
    client_of(uri).search_experiments()
    shutil.copy(uri.removeprefix("sqlite:///"), tmp_path)
    server = Server(tmp_path)
    yield server
    server.kill()


class Stream(NamedTuple):
    """A run of two tasks that is in its store."""

    outcome: Outcome
    store: Store


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    values = {
        "name": "stream",
        "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA", "GQA"], "train_size": 48, "test_size": 8},
        "evaluation": {"general": {"tasks": ["GQA"]}},
        "training": {"max_steps": 12},
        "strategy": {"kind": "proximal"},
        "grouping": {"enabled": False},
    }
    store = Store(str(tmp_path_factory.mktemp("stream") / "store"))
    return Stream(
        run([parse(RunConfig, values, "test")], LocalExecutor(store, TrainOptions(logging_steps=2)))[0], store
    )


TASKS = ("stream: 1. VQAv2", "stream: 2. OCR-VQA")


def launch_of(folder, uri):
    return parse(LaunchConfig, {"storage": str(folder), "tracking": {"uri": uri}}, "test")


def session(stream, launch, folder, between=lambda number: None):
    """What a command does of tracking; `between` is called after the begin and after each of the two stages."""
    with tracked(launch, folder, "stream") as tracker:
        tracker.begin([stream.outcome.prepared], stream.store)
        between(0)
        for number, stage in enumerate(stream.outcome.prepared.plan.trains, start=1):
            tracker.watch({stage.key: Progress(stage.key, "train", stage.label, 2, 12, {"loss": 2.0})})
            tracker.watch({stage.key: Progress(stage.key, "train", stage.label, 12, 12, {}, done=True)})
            between(number)
        write([stream.outcome], Session("stream", 1.0, {}), stream.store, folder)
        tracker.finish(folder)


def check_complete(uri, experiment):
    """Everything is there, and once."""
    runs = runs_of(uri, experiment)
    assert set(runs) == {"stream", *TASKS}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for name in TASKS:
        assert steps_of(uri, runs[name], "loss") == [2, 4, 6, 8, 10, 12]
        assert steps_of(uri, runs[name], "train_seconds") == [12]
        assert len(artifacts_of(uri, runs[name], "adapter")) == 2
        assert runs[name].data.tags["mlflow.parentRunId"] == runs["stream"].info.run_id
    assert steps_of(uri, runs[TASKS[1]], "beta_q50") == [2, 4, 6, 8, 10, 12]
    assert steps_of(uri, runs["stream"], "acc/VQAv2") == [1, 2]
    assert steps_of(uri, runs["stream"], "acc/OCR-VQA") == [2]
    assert steps_of(uri, runs["stream"], "general/GQA") == [0, 1, 2]
    assert len(runs["stream"].inputs.dataset_inputs) == 5
    assert artifacts_of(uri, runs["stream"]) == {"report.html", "summary.json"}


class Others:
    """Sixteen runs that log at the same time, each by a sender of its own."""

    names = tuple(f"other {number}" for number in range(16))

    def __init__(self, uri):
        self._senders = {name: Sender(Mirror(uri, "others")) for name in self.names}

    def log(self, steps, begin=False):
        for name, sender in self._senders.items():
            if begin:
                sender.put(name, partial(Mirror.begin, run=MirrorRun(name, name, {"name": name}, {}), at=1))
            for step in steps:
                sender.put(name, partial(Mirror.points, key=name, points=curve("loss", [step])))

    def behind(self):
        return sum(sender.behind for sender in self._senders.values())

    def finish(self):
        for name, sender in self._senders.items():
            sender.put(name, partial(Mirror.end, key=name, status="FINISHED", at=2))
        for sender in self._senders.values():
            sender.close(PATIENCE)


def test_what_is_missed_while_a_server_is_away_is_sent_at_the_end_of_the_run_and_of_sixteen_others(
    server, stream, tmp_path, capfd
):
    launch = launch_of(tmp_path, server.uri)

    def disturb(number):
        if number == 0:
            others.log(range(5), begin=True)
        elif number == 1:
            until(lambda: has_finished(server.uri, launch.tracking.experiment, TASKS[0]) and not others.behind())
            others.log([5])
            server.kill()
            others.log(range(6, 10))
        elif number == 2:
            server.start()
            others.log(range(10, 15))

    server.start()
    others = Others(server.uri.replace("://", "://me:hunter2@"))
    session(stream, launch, tmp_path / "stream", disturb)
    others.finish()
    check_complete(server.uri, launch.tracking.experiment)
    runs = runs_of(server.uri, "others")
    assert set(runs) == set(Others.names)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert all(steps_of(server.uri, run, "loss") == list(range(15)) for run in runs.values())
    assert "hunter2" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("killed_after", [None, 1], ids=["away from the start", "killed in mid-run"])
def test_the_same_command_sends_what_a_server_missed_that_did_not_come_back(
    server, stream, tmp_path, killed_after, caplog
):
    launch = launch_of(tmp_path, server.uri)
    started = set()

    def disturb(number):
        if number == killed_after:
            until(lambda: has_finished(server.uri, launch.tracking.experiment, TASKS[0]))
            started.add(runs_of(server.uri, launch.tracking.experiment)["stream"].info.run_id)
            server.kill()

    if killed_after is not None:
        server.start()
    session(stream, launch, tmp_path / "stream", disturb)
    assert "the same command, run again, sends the rest" in caplog.text
    server.start()
    for _ in range(2):
        session(stream, launch, tmp_path / "stream")
        check_complete(server.uri, launch.tracking.experiment)
        started.add(runs_of(server.uri, launch.tracking.experiment)["stream"].info.run_id)
    assert len(started) == 1


def test_the_mirror_is_made_from_the_run_folder_and_the_store_in_any_mlflow(uri, stream, tmp_path):
    for experiment in ("one", "another"):
        settings = {"storage": str(tmp_path), "tracking": {"uri": uri, "experiment": experiment}}
        session(stream, parse(LaunchConfig, settings, "test"), tmp_path / "stream")
        check_complete(uri, experiment)


def test_without_any_server_a_run_is_neither_stopped_nor_held(stream, tmp_path, caplog):
    uri = f"http://me:hunter2@127.0.0.1:{free_port()}"
    launch = LaunchConfig(storage=str(tmp_path)).model_copy(
        update={"tracking": TrackingConfig.model_construct(uri=uri)}
    )
    begun = time.monotonic()
    session(stream, launch, tmp_path / "stream")
    assert time.monotonic() - begun < PATIENCE
    assert (tmp_path / "stream" / "report.html").is_file()
    assert "cannot be reached" in caplog.text
    assert "hunter2" not in caplog.text
