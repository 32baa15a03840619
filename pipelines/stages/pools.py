"""Which pods of a RayJob a worker belongs on.

Our RayJobs label the pods of each pool. Without a selector Ray packs training workers onto whatever pod has a CPU free,
the actors' among them: pods of other size, and whose loss would then cost a training.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

LABEL = "lcia/pool"

Pool: TypeAlias = Literal["embed", "train"]


def on_pool(pool: Pool) -> dict[str, str]:
    """The label selector of a pool; empty on a cluster whose nodes are not labelled so."""
    import ray

    labels = [node.get("Labels", {}).get(LABEL) for node in ray.nodes() if node["Alive"]]
    return {LABEL: pool} if pool in labels else {}
