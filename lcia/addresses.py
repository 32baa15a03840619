"""Addresses of files: local paths and URLs, as text."""

from __future__ import annotations

import os


def is_url(place: str) -> bool:
    """Whether a place is named by a URL, and is not a local path."""
    return "://" in place


def is_anchored(place: str) -> bool:
    """Whether a place is the same one in every working folder."""
    return is_url(place) or os.path.isabs(place)


def anchored(place: str) -> str:
    """A local path made absolute, because workers have other working folders; a URL as it is."""
    return place if is_url(place) else os.path.abspath(place)


def below(root: str, name: str) -> str:
    """`name` seen from `root`, unless it is absolute or a URL itself."""
    if is_anchored(name) or not root:
        return anchored(name)
    return anchored(f"{root.rstrip('/')}/{name}") if name else anchored(root)
