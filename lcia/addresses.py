"""Addresses of files: local paths and URLs, as text."""

from __future__ import annotations

import os


def anchored(place: str) -> str:
    """A local path made absolute, because workers have other working folders; a URL as it is."""
    return place if "://" in place else os.path.abspath(place)


def below(root: str, name: str) -> str:
    """`name` seen from `root`, unless it is absolute or a URL itself."""
    if "://" in name or os.path.isabs(name) or not root:
        return anchored(name)
    return anchored(f"{root.rstrip('/')}/{name}") if name else anchored(root)
