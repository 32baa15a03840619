"""The GPUs that programs on this machine may use, counted without torch."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path


def gpus_here() -> int | None:
    """GPUs that programs may use here; None where they cannot be counted: AMD's, and NVIDIA's that are cut in parts."""
    found = None if Path("/dev/kfd").exists() else _nvidia()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if found is None or visible is None:
        return found
    listed = [part.strip() for part in visible.split(",")]
    # CUDA stops reading at the first number that is negative.
    return min(found, next((i for i, part in enumerate(listed) if not part or part.startswith("-")), len(listed)))


def _nvidia() -> int | None:
    """By the driver's library, and by its device files where that is not there."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])
    if nvml.nvmlInit_v2():
        return 0
    count = ctypes.c_uint(0)
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    parts = any(_is_cut(nvml, number) for number in range(count.value))
    nvml.nvmlShutdown()
    return None if parts else count.value


def _is_cut(nvml: ctypes.CDLL, number: int) -> bool:
    """Whether a GPU is in MIG mode, in which each of its parts counts as one."""
    device, now, then = ctypes.c_void_p(), ctypes.c_uint(0), ctypes.c_uint(0)
    nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device))
    failed = nvml.nvmlDeviceGetMigMode(device, ctypes.byref(now), ctypes.byref(then))
    return not failed and now.value == 1
