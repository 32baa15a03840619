"""Replays of the small stream, each with its faults; what a finished one has left lies in a folder of this machine."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from tests.replay import manifests, services, stream
from tests.replay.job import Attempt, Replay, Surroundings
from tests.replay.lab import Lab

MID_STAGE = 10
"""A fault strikes when a checkpoint of this step is there."""
SETTINGS = {
    # Ray's own are made for large clusters: 10 s of silence five times, and workers that wait for one another for 60 s.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Fewer processes on few cores.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",
}
"""Of all Ray pods; an overlay would set them in the same place."""


class Progress:
    """How far the stages are, as their storage shows it."""

    def __init__(self, root: str) -> None:
        self._fs, self._base = pafs.FileSystem.from_uri(root)

    def checkpoints(self) -> dict[str, int]:
        """The newest whole checkpoint of each stage that is not finished, by key."""
        selector = pafs.FileSelector(f"{self._base}/store/partial", recursive=True, allow_not_found=True)
        found: dict[str, int] = {}
        for info in self._fs.get_file_info(selector):
            *_, key, step, name = info.path.rsplit("/", 3)
            if name == "complete.json":
                found[key] = max(found.get(key, 0), int(step))
        return found


Fault = Callable[[Replay], str]
"""Strikes, and says what it did."""


class Faults:
    """One fault after the other, each in the middle of a stage that no other has met."""

    def __init__(self, *faults: Fault) -> None:
        self._faults, self._met, self.progress = list(faults), set[str](), None
        self.struck: list[tuple[str, int]] = []
        """What was done, and the newest checkpoint then."""

    def watch(self, progress: Progress) -> None:
        self.progress = progress

    def __call__(self, replay: Replay) -> None:
        if not self._faults or self.progress is None:
            return
        for key, step in self.progress.checkpoints().items():
            if key not in self._met and step >= MID_STAGE:
                self._met.add(key)
                told = self._faults.pop(0)(replay)
                self.struck.append((told, step))
                replay.tell(f"{told} at step {step}")
                return


def kill_worker(replay: Replay) -> str:
    replay.lose(replay.attempt.of_group("train")[0])
    return "a training worker's pod killed"


def kill_head(replay: Replay) -> str:
    replay.lose(replay.attempt.head)
    return "the head's pod killed"


def lose_sight(replay: Replay) -> str:
    """Without its training workers the old cluster waits, and is still there when the new one begins."""
    for pod in replay.attempt.of_group("train"):
        pod.cut(True)
    replay.lose_sight()
    return "training workers cut off, and the cluster given up while its pods live on"


def cut_worker(seconds: float) -> Fault:
    """Cuts the network of a training worker for so long; the job goes on meanwhile."""

    def cut(replay: Replay) -> str:
        pod = replay.attempt.of_group("train")[0]
        pod.cut(True)
        replay.later(seconds, lambda: pod.cut(False))
        return f"the network of a training worker cut for {seconds:g} s"

    return cut


@dataclass(frozen=True)
class Variant:
    """`faults` strike one in each stage. `s3`: storage in a bucket, with planted secrets and Ray's token."""

    about: str
    faults: tuple[Fault, ...] = ()
    s3: bool = False
    study: bool = False


VARIANTS = {
    "plain": Variant("a shared volume, nothing happens"),
    "worker": Variant("a training worker's pod killed in mid-stage", (kill_worker,)),
    "head": Variant("the head's pod killed in mid-stage", (kill_head,)),
    "network": Variant("the network of a training worker cut for 60 s", (cut_worker(60.0),)),
    "older": Variant("the cluster given up, and its pods go on beside a new one", (lose_sight,)),
    "s3": Variant("S3, token, secrets; a worker's pod killed", (kill_worker,), s3=True),
    "study": Variant("a study of two seeds", study=True),
    "all": Variant("S3, token, secrets; a worker's pod killed, then the head's", (kill_worker, kill_head), s3=True),
}


@dataclass
class Played:
    """A replay that has ended. `storage`: what it left in its storage; `secrets`: what must appear nowhere."""

    folder: Path
    status: str
    replay: Replay
    struck: list[tuple[str, int]]
    refused: list[int]
    """HTTP codes of what the dashboard said to one without a token, and with a wrong one."""
    bridge: str
    study: bool
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def storage(self) -> Path:
        return self.folder / "storage" / "runs"

    @property
    def mlflow(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow' / 'mlflow.db'}"

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.storage / stream.NAME / "summary.json").read_text())
        return found

    def leaks(self) -> list[str]:
        """Files that hold a secret: all of pods, logs, storage, MLflow, manifests."""
        return sorted(f"{path.relative_to(self.folder)}: {name}" for path, name in self._found())

    def _found(self) -> Iterator[tuple[Path, str]]:
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and "etc" not in path.relative_to(self.folder).parts:
                text = path.read_bytes()
                yield from ((path, name) for name, value in self.secrets.items() if value.encode() in text)


def play(variant: Variant, folder: Path) -> Played:
    """Runs a variant to its end. Everything that it makes lies below `folder`."""
    planted = _planted() if variant.s3 else {}
    faults = Faults(*variant.faults)
    with Lab(folder / "lab") as lab:
        mlflow = services.start_mlflow(lab, folder / "mlflow")
        place = _Place(lab, folder, planted) if variant.s3 else _Place(lab, folder, None)
        job = place.manifests(variant)
        services.wait_for_mlflow(mlflow)
        faults.watch(Progress(place.root))
        replay = Replay(lab, job, place.around)
        try:
            status = replay.run(faults)
            refused = [_refusal(replay.attempt, token) for token in ("", "wrong")] if variant.s3 else []
            place.bring()
        finally:
            _write_log(replay, folder)
    tokens = {f"RAY_AUTH_TOKEN {number}": attempt.token for number, attempt in enumerate(replay.attempts)}
    return Played(
        folder, status, replay, faults.struck, refused, lab.bridge, variant.study, planted | (tokens if planted else {})
    )


def _planted() -> dict[str, str]:
    names = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_TOKEN", "MLFLOW_PASSWORD")
    return {name: f"planted{secrets.token_hex(12)}" for name in names}


class _Place:
    """Where a replay keeps its runs: a claim that all pods mount, or a bucket."""

    def __init__(self, lab: Lab, folder: Path, planted: Mapping[str, str] | None) -> None:
        self._folder, self._planted = folder, planted
        claim = folder / ("claim" if planted else "storage")
        claim.mkdir(parents=True)
        self.root, self.storage, held = str(claim / "runs"), "/mnt/lcia/runs", {}
        self._bucket = None
        if planted:
            self._bucket = bucket = services.start_s3(lab, "replay", planted["AWS_SECRET_ACCESS_KEY"])
            self.root, self.storage = bucket.url("runs"), f"s3://{bucket.name}/runs"
            held = {
                ("lcia-s3", "access-key"): bucket.key,
                ("lcia-s3", "secret-key"): bucket.secret,
                ("lcia-s3", "endpoint"): bucket.endpoint,
                ("tokens", "HF_TOKEN"): planted["HF_TOKEN"],
                ("tokens", "MLFLOW_TRACKING_TOKEN"): planted["MLFLOW_TRACKING_TOKEN"],
                ("tokens", "MLFLOW_TRACKING_URI"): f"http://me:{planted['MLFLOW_PASSWORD']}@mlflow:5000",
            }
        self.around = Surroundings({stream.CLAIM: claim}, held)

    def manifests(self, variant: Variant) -> list[dict[str, Any]]:
        """ConfigMap and RayJob."""
        verb, config = ("study", stream.STUDY) if variant.study else ("run", stream.RUN)
        names = [key for name, key in self.around.secrets if name == "tokens"]
        given = [{"variable": name, "name": "tokens", "key": name} for name in names]
        tracking = {"tracking": {"uri": None}} if names else {}
        config_map, job = manifests.render(verb, config, stream.launch(self.storage, given, **tracking), self._folder)
        if self._planted:
            job = manifests.with_component(job, "s3")
        return [config_map, manifests.with_variables(job, SETTINGS)]

    def bring(self) -> None:
        """Copies a bucket to this machine: its server ends with the lab."""
        if self._bucket:
            fs, base = pafs.FileSystem.from_uri(self.root)
            target = self._folder / "storage" / "runs"
            target.mkdir(parents=True)
            pafs.copy_files(base, str(target), source_filesystem=fs)


def _refusal(attempt: Attempt, token: str) -> int:
    import urllib.error

    from tests.replay.job import ask

    try:
        ask(attempt, "/api/jobs/", token)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def _write_log(replay: Replay, folder: Path) -> None:
    lines = [f"{seconds:6.1f} s  {event}\n" for seconds, event in replay.events]
    (folder / "events.log").write_text("".join(lines))
