"""What kubectl makes of cluster/, offline: every overlay and component, and that a patch at the wrong place fails."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from lcia.config.run import RunConfig
from pipelines.kubernetes.check import Document, check
from pipelines.kubernetes.manifest import to_yaml
from pipelines.kubernetes.rayjob import render_rayjob
from pipelines.kubernetes.schemas import violations
from pipelines.kubernetes.submission import Submission
from pipelines.launch import LaunchConfig

OVERLAYS = ("local-kind", "gke", "eks", "spot")
COMPONENTS = (
    *("autoscale-v2", "kueue", "s3", "redis-ft", "mlflow-postgres", "monitoring", "history-server"),
    "keep-head",
)
CORE = ("v1", "apps/v1", "networking.k8s.io/v1", "policy/v1")

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def kubectl() -> str:
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed")
    return found


@pytest.fixture
def cluster(root: Path, tmp_path: Path) -> Path:
    """A copy of cluster/ that a test may change."""
    return Path(shutil.copytree(root / "cluster", tmp_path / "cluster"))


def kustomize(kubectl: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)


def built(kubectl: str, folder: Path) -> list[Manifest]:
    done = kustomize(kubectl, folder)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def with_component(cluster: Path, name: str) -> Path:
    """An overlay of base, job and one component."""
    folder = cluster / "overlays" / "tried"
    folder.mkdir()
    overlay = {"resources": ["../../base", "../../job"], "components": [f"../../components/{name}"]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return folder


def findings(manifests: list[Manifest]) -> list[str]:
    return [str(finding) for finding in check([Document("-", manifest) for manifest in manifests])]


def find(manifests: list[Manifest], kind: str) -> Manifest:
    return next(manifest for manifest in manifests if manifest["kind"] == kind)


def edit_job(cluster: Path, change: Callable[[Manifest], object]) -> None:
    """Changes the RayJob of the copy."""
    path = cluster / "job" / "rayjob.yaml"
    manifests = list(yaml.safe_load_all(path.read_text()))
    change(find(manifests, "RayJob")["spec"]["rayClusterSpec"])
    path.write_text(to_yaml(manifests))


def check_core_kinds(manifests: list[Manifest]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for manifest in manifests:
        if manifest["apiVersion"] in CORE:
            kubernetes_validate.validate(manifest, "1.33", strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_one_that_kuberay_and_kubernetes_take(
    kubectl: str, schemas: dict[str, Any], root: Path, name: str
) -> None:
    manifests = built(kubectl, root / "cluster" / "overlays" / name)
    assert violations(find(manifests, "RayJob"), schemas) == []
    assert findings(manifests) == []
    check_core_kinds(manifests)


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_is_one_that_kuberay_and_kubernetes_take(
    kubectl: str, schemas: dict[str, Any], cluster: Path, name: str
) -> None:
    manifests = built(kubectl, with_component(cluster, name))
    assert violations(find(manifests, "RayJob"), schemas) == []
    assert findings(manifests) == []
    check_core_kinds(manifests)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_keeps_both_worker_groups_and_their_sizes(kubectl: str, root: Path, name: str) -> None:
    rendered = list(yaml.safe_load_all((root / "cluster" / "job" / "rayjob.yaml").read_text()))
    patched = built(kubectl, root / "cluster" / "overlays" / name)
    before, after = (sizes(find(manifests, "RayJob")) for manifests in (rendered, patched))
    assert before == after
    assert len(before) == 2


def sizes(job: Manifest) -> dict[str, int]:
    return {group["groupName"]: group["replicas"] for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}


@pytest.mark.parametrize("name", ["autoscale-v2", "s3"])
def test_a_patch_fails_loudly_where_the_groups_stand_in_another_order(kubectl: str, cluster: Path, name: str) -> None:
    edit_job(cluster, lambda spec: spec["workerGroupSpecs"].reverse())
    done = kustomize(kubectl, with_component(cluster, name))
    assert done.returncode != 0
    assert "test" in done.stderr.lower()


def test_the_spot_overlay_fails_loudly_without_a_train_group(kubectl: str, cluster: Path) -> None:
    edit_job(cluster, lambda spec: spec["workerGroupSpecs"].pop())
    assert kustomize(kubectl, cluster / "overlays" / "spot").returncode != 0


def test_spot_nodes_are_for_train_pods_only(kubectl: str, root: Path) -> None:
    spec = find(built(kubectl, root / "cluster" / "overlays" / "spot"), "RayJob")["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]} | {"head": spec["headGroupSpec"]}
    spot = [n for n, g in groups.items() if "cloud.google.com/gke-spot" in g["template"]["spec"]["nodeSelector"]]
    assert spot == ["train"]


def test_the_component_for_s3_names_its_secret_in_every_ray_pod(kubectl: str, cluster: Path) -> None:
    spec = find(built(kubectl, with_component(cluster, "s3")), "RayJob")["spec"]["rayClusterSpec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        env = {entry["name"]: entry for entry in group["template"]["spec"]["containers"][0]["env"]}
        assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "lcia-s3", "key": "secret-key"}
        assert env["HF_HUB_OFFLINE"]["value"] == "1"


def test_jobs_and_tracking_server_mount_claims_that_the_base_makes(kubectl: str, root: Path) -> None:
    manifests = built(kubectl, root / "cluster" / "overlays" / "gke")
    claims = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "PersistentVolumeClaim"}
    job, mlflow = find(manifests, "RayJob"), find(manifests, "Deployment")
    templates = [job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"], mlflow["spec"]["template"]]
    volumes = [volume for template in templates for volume in template["spec"]["volumes"]]
    assert {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v} == claims


def test_the_service_account_of_the_pods_is_in_the_base(kubectl: str, root: Path) -> None:
    manifests = built(kubectl, root / "cluster" / "overlays" / "gke")
    head = find(manifests, "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert head["serviceAccountName"] == find(manifests, "ServiceAccount")["metadata"]["name"]


def test_the_shipped_job_is_what_the_code_renders(root: Path) -> None:
    """Made by `lcia launch cluster/job/run.yaml --launch configs/launch/kuberay.yaml --target rayjob`."""
    run_yaml = (root / "cluster" / "job" / "run.yaml").read_text()
    launch = LaunchConfig.model_validate(yaml.safe_load((root / "configs" / "launch" / "kuberay.yaml").read_text()))
    rendered = to_yaml(
        render_rayjob(Submission.of(RunConfig.model_validate(yaml.safe_load(run_yaml)), run_yaml), launch)
    )
    assert (root / "cluster" / "job" / "rayjob.yaml").read_text() == rendered


def test_the_image_holds_everything_that_the_build_copies(root: Path) -> None:
    """A path that .dockerignore leaves out would fail the build, which cannot run here."""
    allowed = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    lines = (root / "cluster" / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    assert {path for paths in copies for path in paths if not path.startswith("--chown=")} == allowed
    assert all((root / path).exists() for path in allowed)


def test_the_image_has_the_versions_that_the_tests_ran_with_and_no_root(root: Path) -> None:
    text = (root / "cluster" / "Dockerfile").read_text()
    pinned = dict(line.split("==") for line in (root / "constraints.txt").read_text().splitlines() if "==" in line)
    ray, python = re.search(r"^ARG BASE=rayproject/ray:([\d.]+)-py(\d+)$", text, re.MULTILINE).groups()
    assert ray == pinned["ray"] == metadata.version("ray")
    assert python == f"{sys.version_info.major}{sys.version_info.minor}"
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["1000:100"]
    assert "--constraint constraints.txt" in text
