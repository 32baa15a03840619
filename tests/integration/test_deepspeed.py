"""A real DeepSpeed engine is refused. Needs the package deepspeed; what does without is in unit/test_parallel.py."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed; the project does not need it"
)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_is_refused_at_both_doors_and_told_what_to_use(root: Path, stage: int) -> None:
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    environment = {**os.environ, **ranks, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(root)}
    command = [sys.executable, str(PROGRAMS / "deepspeed_worker.py"), str(stage)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["engine"] == "DeepSpeedEngine"
    assert "choose parallelism ddp, or fsdp2" in said["fit"]
    assert "use DDP or FSDP2 (fully_shard)" in said["average"]
