"""From where on a run warns of what goes wrong. No key here changes what is trained or how it is scored."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lcia.config.sections import Fraction, Positive, Section


class WatchConfig(Section):
    """Signs of failure that every run is watched for (docs/watch.md)."""

    fall: Positive = 10.0
    """Points that earlier tasks lose on average while one more is learnt."""
    gain: Fraction = 0.02
    """Share of the loss of the first half of a task's steps that the second half takes off at least."""
    bound: Fraction = 0.5
    """Mean share, over a task's steps, of tensors whose beta lies at a bound or comes from the fallback."""
    kl: Positive = 6.0
    """Divergence of the tuned model from the one before the task, on the task's own rows, nats per answer token."""
    misfit: Positive = 10.0
    """Points by which another group's adapter answers a task's validation rows better than its own group's."""
    rows: Annotated[int, Field(ge=0)] = 32
    """Validation rows of each task that every group's adapter answers at the end of a grouped stream; 0: none."""
