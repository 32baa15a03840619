"""Pods in namespaces of their own: what they share, what they do not, and that nothing of them is left."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.replay.lab import Lab, Pod, Setting, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


def said(pod: Pod) -> list[str]:
    pod.process.wait(60)
    return pod.log.read_text().splitlines()


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_a_pod_has_files_a_name_processes_and_a_network_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "claim").mkdir()
    (tmp_path / "claim" / "shared").write_text("from outside\n")
    mounts = {"/mnt/lcia": tmp_path / "claim", "/etc/lcia": tmp_path / "claim"}
    script = "hostname; ls /tmp; touch /tmp/mine; cat /mnt/lcia/shared /etc/lcia/shared; echo $$; getent hosts other"
    with Lab(tmp_path / "lab") as lab:
        lab.start(Setting("other-pod", {}, names=("other.lcia.svc.cluster.local",)), ["sleep", "60"])
        pod = lab.start(Setting("one", {}, mounts), ["bash", "-c", script])
        lines = said(pod)
        other = lab.pods["other-pod"].address
    assert lines[:-1] == ["one", "from outside", "from outside", "1"]
    assert lines[-1].split() == [other, "other.lcia.svc.cluster.local"]
    assert (pod.tmp / "mine").exists()
    assert not Path("/tmp/mine").exists()
    assert not Path("/etc/lcia").exists()


def test_a_pod_whose_network_is_cut_is_reached_again_when_it_is_joined(tmp_path: Path) -> None:
    def reached(pod: Pod) -> bool:
        ping = ["bash", "-c", f"exec 3<>/dev/tcp/{pod.address}/8000"]
        return subprocess.run(["timeout", "1", *ping], capture_output=True, check=False).returncode == 0

    with Lab(tmp_path / "lab") as lab:
        pod = lab.start(Setting("web", {}), ["python", "-m", "http.server", "8000"])
        while not reached(pod):
            assert pod.alive, pod.log.read_text()
        pod.cut(True)
        assert not reached(pod)
        pod.cut(False)
        while not reached(pod):
            assert pod.alive
        with urllib.request.urlopen(f"http://{pod.address}:8000", timeout=10) as reply:
            assert reply.status == 200


def test_two_labs_stand_side_by_side_and_nothing_is_left_of_them_after_an_error(tmp_path: Path) -> None:
    labs, pods = [Lab(tmp_path / "a"), Lab(tmp_path / "b")], list[Pod]()

    def interrupted() -> None:
        with labs[0], labs[1]:
            pods.extend(lab.start(Setting("pod", {}), ["sleep", "600"]) for lab in labs)
            assert {lab.bridge for lab in labs} <= interfaces()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert pods[0].address != pods[1].address
    assert {pod.link for pod in pods}.isdisjoint(interfaces())
    assert {lab.bridge for lab in labs}.isdisjoint(interfaces())
    assert [pod.alive for pod in pods] == [False, False]
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
