"""Memory of a process as Linux counts it: needs nothing but /proc."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


def resident_mb(process: int, field: str) -> float:
    """VmRSS (now) or VmHWM (the highest so far) of a process; 0 where it has ended."""
    value = status(Path(f"/proc/{process}")).get(field, "0 kB")
    return int(value.split()[0]) * 1024 / 1e6


def status(process: Path) -> dict[str, str]:
    """The fields of a process's folder in /proc; none where it has ended."""
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def forget_peak() -> None:
    """VmHWM of this process counts from here on, and what it has freed goes back to the system."""
    ctypes.CDLL(None).malloc_trim(0)
    Path(f"/proc/{os.getpid()}/clear_refs").write_text("5")
