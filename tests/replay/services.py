"""What stands beside a job: MLflow from the manifest that `cluster/base` deploys, and an S3 server (moto)."""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.replay.lab import Lab, Pod, Setting
from tests.replay.manifests import CLUSTER

START_S = 180.0
S3_PORT = 9000


def start_mlflow(lab: Lab, data: Path, namespace: str = "lcia") -> Pod:
    """The Deployment of `cluster/base/mlflow.yaml` as a pod; `data` is its volume."""
    manifests = list(yaml.safe_load_all((CLUSTER / "base" / "mlflow.yaml").read_text()))
    [deployment] = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    [mount] = container["volumeMounts"]
    names = ("mlflow", f"mlflow.{namespace}.svc.cluster.local")
    data.mkdir(parents=True, exist_ok=True)
    setting = Setting("mlflow", environment, {mount["mountPath"]: data}, names)
    return lab.start(setting, [*container["command"], *container["args"]])


def wait_for_mlflow(pod: Pod) -> None:
    """Until the readiness probe of the Deployment answers; it asks by a name that the server allows."""
    request = urllib.request.Request(f"http://{pod.address}:5000/health", headers={"Host": "mlflow:5000"})
    _wait(pod, lambda: urllib.request.urlopen(request, timeout=5).close())


@dataclass(frozen=True)
class Bucket:
    """A bucket of an S3 server in the lab."""

    pod: Pod
    name: str
    key: str
    secret: str

    @property
    def endpoint(self) -> str:
        """As pods call it."""
        return f"http://s3.lcia.svc.cluster.local:{S3_PORT}"

    def url(self, path: str) -> str:
        """A place in the bucket for this process, which does not ask the lab's DNS."""
        endpoint = f"scheme=http&endpoint_override={self.pod.address}:{S3_PORT}"
        return f"s3://{self.key}:{self.secret}@{self.name}/{path}?{endpoint}"


def start_s3(lab: Lab, key: str, secret: str) -> Bucket:
    """An S3 server with an empty bucket."""
    command = [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", str(S3_PORT)]
    pod = lab.start(Setting("s3", {}, names=("s3.lcia.svc.cluster.local",)), command)
    create = urllib.request.Request(f"http://{pod.address}:{S3_PORT}/lcia", method="PUT")
    _wait(pod, lambda: urllib.request.urlopen(create, timeout=5).close())
    return Bucket(pod, "lcia", key, secret)


def _wait(pod: Pod, do: Callable[[], None]) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            do()
            return
        except OSError as error:
            if not pod.alive or time.monotonic() > deadline:
                raise RuntimeError(f"{pod.name} does not answer ({error}): {pod.log.read_text()[-2000:]}") from error
            time.sleep(0.2)
