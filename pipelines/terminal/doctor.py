"""`lcia doctor`: what this machine has and what it lacks."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from pipelines.terminal.tables import add_row, console, new_table


def doctor(as_json: bool) -> None:
    """Facts of this machine that decide whether runs work, each with what to do where it does not fit."""
    rows = [*_machine(), *_packages(), *_devices(), *_bases()]
    if as_json:
        print(json.dumps([dict(zip(("check", "found", "hint"), row, strict=True)) for row in rows], indent=1))
        return
    table = new_table("doctor", "check", "found", "hint")
    for row in rows:
        add_row(table, *row)
    console().print(table)


def _machine() -> list[tuple[str, str, str]]:
    cpus, free = os.cpu_count() or 1, shutil.disk_usage(".").free / 2**30
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    shm = shutil.disk_usage("/dev/shm").total / 2**30 if Path("/dev/shm").exists() else 0.0
    return [
        ("CPUs", str(cpus), "" if cpus >= 2 else "two workers will share one core"),
        ("memory", f"{memory:.0f} GiB", "" if memory >= 8 else "below 8 GiB: set num_workers 1"),
        ("free disk", f"{free:.0f} GiB", "" if free >= 5 else "below 5 GiB: point storage elsewhere"),
        ("/dev/shm", f"{shm:.1f} GiB", "" if shm >= 1 else "small: Ray keeps objects on disk, set object_store_memory"),
    ]


def _packages() -> list[tuple[str, str, str]]:
    from lcia.report.environment import PACKAGES, environment

    found = environment()
    return [(name, found[name], "make env installs it" if found[name] == "not installed" else "") for name in PACKAGES]


def _devices() -> list[tuple[str, str, str]]:
    import torch

    if not torch.cuda.is_available():
        return [("GPU", "none", "tiny models train on the CPU; LLaVA-7B needs one")]
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return [("GPU", ", ".join(names), "")]


def _bases() -> list[tuple[str, str, str]]:
    """Where the shipped bases lie, for those who use an adapter of theirs elsewhere (docs/adapters.md)."""
    from lcia.assistants.tiny import BASES

    return [(f"base {name}", str(folder), "" if folder.is_dir() else "missing") for name, folder in BASES.items()]
