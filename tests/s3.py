"""A real S3 server for tests, as a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class S3:
    """A server that runs. `environment`: what a client needs to find it, as users set it."""

    address: str

    @property
    def environment(self) -> dict[str, str]:
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.address, "AWS_EC2_METADATA_DISABLED": "true"}

    def bucket(self) -> str:
        """The URL of a new bucket."""
        name = f"lcia-{uuid.uuid4().hex[:8]}"
        host = self.address.removeprefix("http://")
        pafs.S3FileSystem(
            access_key="test", secret_key="test", scheme="http", endpoint_override=host, allow_bucket_creation=True
        ).create_dir(name)
        return f"s3://{name}"

    def misbehave(self, **faults: Any) -> None:
        """See tests/programs/s3_server.py; no faults: well again."""
        body = json.dumps(faults).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.address}/_faults", body, method="POST")):
            pass

    def facts(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.address}/_faults") as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@contextlib.contextmanager
def s3_server() -> Iterator[S3]:
    """Starts it, and stops it with the block."""
    command = [sys.executable, "-m", "tests.programs.s3_server"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield S3(process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait()
