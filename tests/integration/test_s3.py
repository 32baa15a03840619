"""The store on a real S3 server: what fails for a while costs nothing, and half an upload never counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from lcia.store.folders import Store
from lcia.store.lease import Lease
from lcia.studies.config import StudyConfig
from lcia.types import InputError
from pipelines.stages.search import Log
from pipelines.terminal.clean import clean, unneeded
from pipelines.terminal.runs import Place, list_runs
from tests.programs.s3_run import stream
from tests.s3 import S3, s3_server
from tests.storage import KEYS, fill

pytestmark = pytest.mark.timeout(600)

KEY = "ab" + "0" * 30
BYTES = 6 << 20
"""More than one part of an upload (5 MiB)."""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture
def store(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store in a bucket of its own, found and entered by the environment alone."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3.misbehave()
    yield Store(f"{s3.bucket()}/runs", cache=tmp_path / "cache")
    s3.misbehave()


def _publish(store: Store, key: str = KEY) -> bytes:
    content = os.urandom(BYTES)
    with store.publish(key, {"stage": "test"}) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "x.bin").write_bytes(content)
    return content


@pytest.mark.parametrize("status", [500, 503])
def test_a_storm_of_errors_costs_nothing(s3: S3, store: Store, status: int) -> None:
    s3.misbehave(status=status, every=2, times=10)
    content = _publish(store)
    assert s3.facts()["refused"] == 10
    assert (store.fetch(KEY) / "part" / "x.bin").read_bytes() == content


def test_a_server_that_restarts_in_mid_upload_is_waited_for(s3: S3, store: Store) -> None:
    with store.publish(KEY, {"stage": "test"}) as folder:
        (folder / "x.bin").write_bytes(os.urandom(BYTES))
        s3.misbehave(away=2)
        time.sleep(0.5)
    assert store.usable(KEY)


def test_a_killed_upload_does_not_count_and_is_made_again(s3: S3, store: Store) -> None:
    s3.misbehave(hold="x.bin")
    code = (
        "import sys; from pathlib import Path; from lcia.store.folders import Store\n"
        f"with Store(sys.argv[1]).publish({KEY!r}, {{}}) as folder:\n"
        f"    (folder / 'a.bin').write_bytes(bytes(10)); (folder / 'x.bin').write_bytes(bytes({BYTES}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, store.root], env={**os.environ, **s3.environment})
    while not s3.facts()["held"]:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    s3.misbehave()
    assert [info.base_name for info in store.fs.get_file_info([f"{store.path(KEY)}/a.bin"]) if info.is_file] == [
        "a.bin"
    ]
    assert not store.has(KEY)
    content = _publish(store)
    assert (store.fetch(KEY) / "part" / "x.bin").read_bytes() == content


def test_two_drivers_share_a_store_that_fails_and_restarts_meanwhile(s3: S3, store: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.programs.s3_run", store.root]
    drivers = [
        subprocess.Popen(command, env={**os.environ, **s3.environment}, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    here = Store(str(tmp_path / "here"))
    stream(here)
    while not store.fs.get_file_info(f"{store.base}/partial").is_file and not store.held():
        assert drivers[0].poll() is None
        time.sleep(0.1)
    s3.misbehave(away=2)
    time.sleep(3)
    s3.misbehave(status=503, every=3, times=60)
    said = [driver.communicate(timeout=300)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    assert s3.facts()["refused"] > 0
    assert set(store.held()) == set(here.held())
    adapters = [key for key in here.held() if (here.fetch(key) / "adapter_model.safetensors").is_file()]
    assert len(adapters) == 2
    for key in adapters:
        ours, theirs = (one.fetch(key) / "adapter_model.safetensors" for one in (here, store))
        assert ours.read_bytes() == theirs.read_bytes()
    assert not store._names(f"{store.base}/partial")


def test_a_search_finds_its_trials_where_the_storage_is(store: Store) -> None:
    study = StudyConfig(name="bounds", methods={"lcia": {}})
    root = store.root.removesuffix("/runs")
    Log(study, root).add({"beta": 0.5}, stopped=2)
    again = Log(study, root)
    assert again.ended == {again.key({"beta": 0.5}): 2}


def test_runs_are_listed_there_and_what_none_of_them_needs_is_cleaned(store: Store, tmp_path: Path) -> None:
    fill(tmp_path / "runs")
    pafs.copy_files(str(tmp_path / "runs"), f"{store.base}", destination_filesystem=store.fs)
    attempt = Lease.take(store.root, "stopped")
    assert {one.name: one.state for one in list_runs(store.root)}["stopped"] == "begun"
    with pytest.raises(InputError, match="--killed stopped"):
        clean(store.root, dry_run=False, yes=True, unreferenced=True)
    attempt.end()
    assert [one.name for one in list_runs(store.root)] == ["done", "stopped"]
    clean(store.root, dry_run=False, yes=True, unreferenced=True)
    assert unneeded(Place.at(store.root), unreferenced=True) == []
    there = Store(f"{store.root}/store", cache=tmp_path / "cache")
    assert there.held() == [key for name, key in KEYS.items() if name != "old"]
