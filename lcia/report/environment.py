"""What numbers were made with."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PACKAGES = ("lcia-ray", "torch", "transformers", "peft", "accelerate", "ray", "mlflow", "open_clip_torch", "pillow")


def environment() -> dict[str, str]:
    """Versions, processor, commit, date."""
    facts = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version(),
             "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"}  # fmt: skip
    for package in PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return {**facts, "commit": _commit()}


def _commit() -> str:
    """The commit of the checkout that this package is imported from; "unknown" outside one."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
