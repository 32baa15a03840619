"""Who runs what from where, and how busy this machine is: what MLflow shows beside a run."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

import psutil

from lcia.report.environment import environment


def source_tags() -> dict[str, str]:
    """MLflow's own tags for user, program and commit."""
    tags = {"mlflow.source.name": " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]]), "mlflow.source.type": "LOCAL"}
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = "unknown"
    commit = environment()["commit"]
    return tags if commit == "unknown" else {**tags, "mlflow.source.git.commit": commit}


def load_of_machine() -> dict[str, float]:
    """CPU and memory in use on the machine of the driver, since the last call, under MLflow's names for them."""
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_percentage": memory.percent,
        "system/system_memory_usage_megabytes": (memory.total - memory.available) / 1e6,
    }
