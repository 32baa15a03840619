"""Storage at gs://, on a server that speaks Google's protocol: a stream there ends with the bits of one on disk."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcia.store.folders import Store
from lcia.store.lease import Lease
from tests.programs.s3_run import stream

pytestmark = pytest.mark.timeout(300)

KEY = "ab" + "0" * 30


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket, found by the environment and entered without credentials."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.programs.gcs_server", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{port}")
        yield "gs://anonymous@lcia/runs"
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None
        with socket.socket() as tried:
            if not tried.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.1)
    pytest.fail("the server does not listen")


def test_a_stream_there_is_that_on_disk(root: str, tmp_path: Path) -> None:
    there, here = Store(f"{root}/store", cache=tmp_path / "cache"), Store(str(tmp_path / "here"))
    stream(there)
    stream(here)
    assert set(there.held()) == set(here.held())
    adapters = [key for key in here.held() if (here.fetch(key) / "adapter_model.safetensors").is_file()]
    assert len(adapters) == 2
    for key in adapters:
        ours, theirs = (one.fetch(key) / "adapter_model.safetensors" for one in (here, there))
        assert ours.read_bytes() == theirs.read_bytes()
    assert not there._names(f"{there.base}/partial")


def test_large_files_come_back_and_the_newest_attempt_writes(root: str, tmp_path: Path) -> None:
    store, content = Store(f"{root}/store", cache=tmp_path / "cache"), os.urandom(9 << 20)
    with store.publish(KEY, {"stage": "test"}) as folder:
        (folder / "x.bin").write_bytes(content)
    assert (store.fetch(KEY) / "x.bin").read_bytes() == content
    older, newer = Lease.take(root, "stream"), Lease.take(root, "stream")
    assert (older.held, newer.held) == (False, True)
