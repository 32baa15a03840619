"""Notices that a node is about to be taken away: Ray Train's, as the training loop asks for them."""

from __future__ import annotations

import os
from collections.abc import Callable


def expected() -> bool:
    """Whether Ray Train looks for notices. On a local Ray it does not: nobody takes this machine away."""
    return os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1").lower() not in ("0", "false")


def save_on_notice() -> Callable[[], bool]:
    """A function that is true once for each notice, in a worker of Ray Train.

    Ray Train tells all workers what the first one knows, so all workers have to call it as often: after every step.
    """
    from ray.train import get_preemption_info

    seen: set[str] = set()

    def save_now() -> bool:
        notice = get_preemption_info()
        going = set(notice.preempted_node_ids) - seen if notice else set()
        seen.update(going)
        return bool(going)

    return save_now
