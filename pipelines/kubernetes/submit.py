"""A run or a study on a Ray cluster that already stands, through the Ray Jobs API."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lcia.addresses import is_anchored
from lcia.secrets import has_password, looks_secret
from lcia.types import InputError
from pipelines.kubernetes.manifest import to_yaml
from pipelines.kubernetes.paths import check_full_paths
from pipelines.kubernetes.submission import Submission
from pipelines.launch import LaunchConfig

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_SECONDS = 2.0
ANSWER_LENGTH = 200
"""Characters of a server's answer that are shown."""


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a submitted job ended. `status` is Ray's: SUCCEEDED, FAILED or STOPPED."""

    job: str
    status: str
    message: str

    @property
    def succeeded(self) -> bool:
        return self.status == "SUCCEEDED"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a job gets besides its command: a folder that is uploaded, and variables that anyone may read."""

    working_dir: Path | None = None
    env: Mapping[str, str] | None = None

    def runtime_env(self) -> dict[str, Any]:
        """Ray's runtime environment; raises InputError for a secret, because the dashboard shows it."""
        secret = sorted(name for name in self.env or {} if looks_secret(name))
        if secret:
            raise InputError(
                f"{', '.join(secret)} would be readable in Ray's dashboard: set it in the environment of the cluster's "
                "nodes instead"
            )
        folder = {"working_dir": str(self.working_dir.absolute())} if self.working_dir else {}
        return {**folder, **({"env_vars": dict(self.env)} if self.env else {})}


def run_job(job: Submission, launch: LaunchConfig, address: str) -> None:
    """Runs a run or a study on the Ray head at `address`, in a folder that is uploaded, by the head's own `lcia`.

    Raises:
        RuntimeError: the job does not succeed.
    """
    check_full_paths(job.configs)
    if not is_anchored(launch.storage):
        raise InputError(f"storage {launch.storage!r} is relative, and the job runs elsewhere: give a full path or URL")
    with tempfile.TemporaryDirectory(prefix="lcia-job-") as folder:
        Path(folder, job.file).write_text(job.text)
        Path(folder, "launch.yaml").write_text(to_yaml([launch.model_dump(mode="json")]))
        end = submit(address, job.command(), Surroundings(working_dir=Path(folder)), _write)
    if not end.succeeded:
        raise RuntimeError(f"job {end.job} {end.status}: {end.message}")


def _write(text: str) -> None:
    print(text, end="", flush=True)


def submit(
    address: str, entrypoint: str, surroundings: Surroundings = Surroundings(), show: Callable[[str], object] = print
) -> JobEnd:
    """Runs `entrypoint` (a shell command) on the head of the cluster at `address` (http://host:8265) to its end.

    `show` gets the log piece by piece, line ends included. The job outlives this process: an interrupt leaves it
    running.

    Raises:
        InputError: there is no dashboard of Ray at `address`, or it does not let us in.
        RuntimeError: the dashboard did not take the job.
    """
    runtime_env = surroundings.runtime_env()
    client = connect(address)
    try:
        job = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
    except RuntimeError as error:
        raise RuntimeError(
            f"the Ray head at {address} did not take the job: {_brief(error)} The reason is in dashboard.log and "
            "dashboard_agent.log of the head's session; once it is fixed, the same command sends the job again."
        ) from error
    print(f"job {job}; look with: lcia launch status {job} --address {address}", file=sys.stderr, flush=True)
    return follow(client, job, show)


def follow(client: JobSubmissionClient, job: str, show: Callable[[str], object]) -> JobEnd:
    """Shows a job's log until the job has ended; a log stream that breaks neither ends the job nor the waiting."""
    from aiohttp import ClientError

    shown = 0

    def count(text: str) -> None:
        nonlocal shown
        shown += len(text)
        show(text)

    try:
        asyncio.run(_stream(client, job, count))
    except (RuntimeError, OSError, ClientError) as broken:
        show(f"[the log stream broke ({broken}); waiting for the job to end]\n")
    end = wait(client, job)
    if rest := client.get_job_logs(job)[shown:]:
        show(rest)
    return end


def connect(address: str) -> JobSubmissionClient:
    """A client of the dashboard at `address`; raises InputError where none answers, or does not let us in."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    _check_address(address)
    try:
        return JobSubmissionClient(address)
    except ConnectionError as error:
        raise InputError(f"no Ray dashboard answers at {address}: is the head running, and the port open?") from error
    except AuthenticationError as error:
        raise InputError(
            f"the Ray dashboard at {address} asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the "
            "file that holds the cluster's"
        ) from error
    except (OSError, RuntimeError, ValueError, KeyError) as error:  # HTTP errors are OSErrors, odd answers the rest
        raise InputError(
            f"what answers at {address} is not a working Ray dashboard: {_brief(error)} Look at the address and the "
            "port (8265, unless the head says otherwise), and at logs/dashboard.log of the head."
        ) from error


def _brief(error: Exception) -> str:
    """The first line of a server's answer, which may be a whole page."""
    line = next(iter(str(error).splitlines()), "")
    return f"{line if len(line) <= ANSWER_LENGTH else line[:ANSWER_LENGTH] + ' ...'}."


def _check_address(address: str) -> None:
    if has_password(address):
        raise InputError("--address holds a password: take it out and set RAY_AUTH_TOKEN in the environment")
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise InputError(f"{address!r} is not the address of a Ray dashboard: write http://HOST:8265")


async def _stream(client: JobSubmissionClient, job: str, show: Callable[[str], object]) -> None:
    async for text in client.tail_job_logs(job):
        show(text)


def wait(client: JobSubmissionClient, job: str) -> JobEnd:
    """Waits for the end of a job."""
    info = client.get_job_info(job)
    while not info.status.is_terminal():
        time.sleep(POLL_SECONDS)
        info = client.get_job_info(job)
    return JobEnd(job, str(info.status.value), info.message or "")
