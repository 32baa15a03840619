"""Pods as processes in their own network, mount, host name and process namespaces on one bridge.

A pod's files are those of this machine (interpreter and checkout stand for the image) but for /etc, /mnt and /tmp,
which are its own. Its network, its mounts and its processes end with its first process, and that ends with this one.
Only the bridge has to be removed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.replay.names import NameServer

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "lciabr"
NETWORK = "10.213"
OWN = ("etc", "mnt", "tmp")
IMAGE = (ROOT, Path(sys.prefix), Path(sys.base_prefix))
"""What stands for the image: the checkout, the environment and its interpreter."""
ENVIRONMENT = {
    "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin",
    "PYTHONPATH": str(ROOT),
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
}
"""The image's."""

# The first line waits until the network is there. What is bound over /tmp may hide this folder, so names are relative.
SETUP = """
read -r go
set -e
mount --make-rprivate /
hostname "$1"
{binds}
mount -t tmpfs -o size={shm} tmpfs /dev/shm
{covers}
cd /tmp
shift
exec "$@"
"""


def why_not() -> str:
    """Why pods cannot be made here; empty: they can."""
    if os.geteuid() != 0:
        return "a replay needs root"
    for tool in ("ip", "unshare", "setpriv", "mount"):
        if shutil.which(tool) is None:
            return f"a replay needs {tool} (iproute2, util-linux)"
    tried = [
        (["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "true"], "namespaces"),
        (["unshare", "--net", "ip", "link", "add", "name", "x0", "type", "veth"], "veth pairs"),
        (["unshare", "--net", "ip", "link", "add", "name", "x0", "type", "bridge"], "bridges"),
    ]
    for command, what in tried:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return f"a replay needs {what}, which cannot be made here"
    return ""


@dataclass(frozen=True)
class Setting:
    """What a pod is started with. `mounts`: folders of this machine by their paths in the pod; `names`: by which the
    others find it; `shm`: the size of its /dev/shm as `mount` writes it."""

    name: str
    environment: Mapping[str, str]
    mounts: Mapping[str, Path] = field(default_factory=dict)
    names: Sequence[str] = ()
    shm: str = "256m"


@dataclass
class Pod:
    """A pod that was started. `log`: its output; `tmp`: its /tmp."""

    name: str
    address: str
    link: str
    process: subprocess.Popen[bytes]
    log: Path
    tmp: Path

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def cut(self, cut: bool) -> None:
        """Cuts the pod's network, or joins it again."""
        _ip("link", "set", self.link, "down" if cut else "up")


class Lab:
    """Pods on a bridge of their own. A context manager: everything is gone after it, also after an error or Ctrl-C."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pods = folder, dict[str, Pod]()
        self._hosts = itertools.count(10)
        self.bridge = ""

    def __enter__(self) -> Lab:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.bridge, number = _new_bridge()
        self._network = f"{NETWORK}.{number}"
        try:
            _ip("addr", "add", f"{self._network}.1/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
            self.dns = NameServer(f"{self._network}.1")
        except BaseException:
            _ip("link", "del", self.bridge)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for pod in list(self.pods.values()):
                self.kill(pod)
            self.dns.close()
        finally:
            _ip("link", "del", self.bridge)

    def start(self, setting: Setting, command: Sequence[str]) -> Pod:
        """Starts a pod whose first process runs `command`."""
        number = next(self._hosts)
        address, link = f"{self._network}.{number}", f"{self.bridge}p{number}"
        home = self.folder / setting.name
        script = self._prepare(home, setting, address)
        environment = {**ENVIRONMENT, **setting.environment}
        # Ends with this process, whatever ends this one.
        unshare = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--pid", "--fork",
                   "--mount-proc", "--kill-child"]  # fmt: skip
        log = self.folder / f"{setting.name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [*unshare, "bash", "-c", script, "pod", setting.name[:63], *command],
                cwd=home, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        pod = self.pods[setting.name] = Pod(setting.name, address, link, process, log, home / "tmp")
        self._connect(pod)
        for name in (setting.name, *setting.names):
            self.dns.addresses[name.lower()] = address
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"go\n")
            process.stdin.close()
        return pod

    def kill(self, pod: Pod) -> None:
        """Ends a pod as the loss of its machine would: at once, with everything in it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pod.process.pid, signal.SIGKILL)
        pod.process.wait(30)
        self.pods.pop(pod.name, None)
        self.dns.addresses = {name: at for name, at in self.dns.addresses.items() if at != pod.address}
        subprocess.run(["ip", "link", "del", pod.link], capture_output=True, check=False)

    def _prepare(self, home: Path, setting: Setting, address: str) -> str:
        """Fills the pod's folder with its own /etc, /mnt and /tmp; returns what its first process runs."""
        for name in OWN[1:]:
            (home / name).mkdir(parents=True, exist_ok=True)
        shutil.copytree("/etc", home / "etc", symlinks=True, ignore=shutil.ignore_patterns("resolv.conf", "hosts"))
        domains = "lcia.svc.cluster.local svc.cluster.local cluster.local"
        resolver = f"nameserver {self._network}.1\nsearch {domains}\noptions ndots:5 timeout:2\n"
        (home / "etc/resolv.conf").write_text(resolver)
        (home / "etc/hosts").write_text(f"127.0.0.1 localhost\n{address} {setting.name}\n")
        mounts = {**{str(path): path for path in IMAGE if _covered(path)}, **setting.mounts}
        binds = []
        for target, source in mounts.items():
            assert _covered(Path(target)), f"{target} lies outside /{', /'.join(OWN)}"
            (home / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
            binds.append(f"mount --bind '{source}' '{target.lstrip('/')}'")
        covers = "\n".join(f"mount --rbind {name} /{name}" for name in OWN)
        return SETUP.format(binds="\n".join(binds), shm=setting.shm, covers=covers)

    def _connect(self, pod: Pod) -> None:
        own = os.readlink("/proc/self/ns/net")
        for _ in _polls(30):
            if os.readlink(f"/proc/{pod.process.pid}/ns/net") != own:
                break
            if not pod.alive:
                raise RuntimeError(f"pod {pod.name} did not start: {pod.log.read_text()}")
        inside = ["nsenter", "--target", str(pod.process.pid), "--net", "ip"]
        _ip("link", "add", pod.link, "type", "veth", "peer", "name", "eth0", "netns", str(pod.process.pid))
        _ip("link", "set", pod.link, "master", self.bridge, "up")
        for command in (
            ["addr", "add", f"{pod.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
            ["route", "add", "default", "via", f"{self._network}.1"],
        ):
            subprocess.run([*inside, *command], check=True, capture_output=True)


def _covered(path: Path) -> bool:
    """Whether a pod has its own folder there."""
    return len(path.parts) > 1 and path.parts[1] in OWN


def _new_bridge() -> tuple[str, int]:
    """A new bridge and the number of its network; making it is what reserves the number."""
    for number in range(1, 255):
        name = f"{PREFIX}{number}"
        if (
            subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, check=False).returncode
            == 0
        ):
            return name, number
    raise RuntimeError("no bridge can be made")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _polls(seconds: float, pause: float = 0.01) -> Iterator[None]:
    """Comes again and again until that time has passed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(pause)
    raise TimeoutError(f"waited {seconds:g} s in vain")
