"""Work in the order in which it was asked for; what needs something else stands aside until that is done.

A study for hundreds of GPUs has a hundred thousand stages: nothing here looks at all of them, but for what drops some.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from typing import Generic

from pipelines.stages.work import Work


class WorkQueue(Generic[Work]):
    """A queue of trainings, or of ranges of rows."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._queued: dict[int, Work] = {}
        """All that is queued, by its number, which counts up."""
        self._keys: Counter[str] = Counter()
        self._ready: list[int] = []
        """A heap of the numbers of what can be handed out."""
        self._waiting: defaultdict[str, list[int]] = defaultdict(list)
        self._missing: dict[int, int] = {}
        """How many of the stages that it needs are not done, by the number of what waits for them."""

    def add(self, work: Work, done: Collection[str]) -> None:
        """Queues `work`; `done`: keys of the stages that are done."""
        number = next(self._numbers)
        self._queued[number] = work
        self._keys[work.key] += 1
        missing = [key for key in work.needs if key not in done]
        for key in missing:
            self._waiting[key].append(number)
        if missing:
            self._missing[number] = len(missing)
        else:
            heapq.heappush(self._ready, number)

    def take(self) -> Work | None:
        """The first whose needs are all done, which then is no longer queued."""
        if not self._ready:
            return None
        work = self._queued.pop(heapq.heappop(self._ready))
        self._forget(work.key)
        return work

    def note_done(self, key: str) -> None:
        """A stage is done: what waited for it alone is ready."""
        for number in self._waiting.pop(key, ()):
            self._missing[number] -= 1
            if not self._missing[number]:
                del self._missing[number]
                heapq.heappush(self._ready, number)

    def keep(self, is_kept: Callable[[Work], bool], done: Collection[str]) -> None:
        """Drops what is not kept; asks in the order of the queue."""
        kept = [work for work in self._queued.values() if is_kept(work)]
        self.clear()
        for work in kept:
            self.add(work, done)

    def clear(self) -> None:
        """Drops everything."""
        self.__init__()  # type: ignore[misc]

    def keys(self) -> set[str]:
        """The keys of what is queued."""
        return set(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._queued)

    def _forget(self, key: str) -> None:
        self._keys[key] -= 1
        if not self._keys[key]:
            del self._keys[key]
