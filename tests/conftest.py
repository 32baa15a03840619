"""Fixtures that every kind of test shares. The environment is set before anything heavy is imported."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# One thread per process: spinning threads on shared cores make a step many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")

# The same examples every time, and no deadline: a busy machine must not fail a test.
settings.register_profile("lcia", deadline=None, derandomize=True)
settings.load_profile("lcia")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Finds what lies beside the checkout and is not part of it: real data and schemas of others. Skips without it."""

    def find(name: str) -> Path:
        path = ROOT.parent / "shared" / name
        if not path.exists():
            pytest.skip(f"../shared/{name} is not there: it is others' work and not part of this repository")
        return path

    return find


@pytest.fixture(scope="session")
def shared_data(shared: Callable[[str], Path]) -> Path:
    """Real third-party data."""
    return shared("data")


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """Finds the folder of a package that brings real weights (dependency group real-models). Skips without it."""

    def find(package: str) -> Path:
        spec = importlib.util.find_spec(package)
        if spec is None or importlib.util.find_spec("gguf") is None:
            pytest.skip(f"{package} or gguf is not installed: real weights are of the dependency group real-models")
        assert spec.submodule_search_locations is not None
        return Path(spec.submodule_search_locations[0])

    return find


@pytest.fixture(scope="session")
def schemas(shared: Callable[[str], Path]) -> dict[str, Any]:
    """KubeRay's own schemas of its resources."""
    from pipelines.kubernetes.schemas import load_schemas

    return load_schemas(shared("kuberay/schemas-v1.7.0.json.gz"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in open_clip's own layout (configuration and safetensors) with a small random CLIP."""
    import json

    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    towers = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": towers}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder
