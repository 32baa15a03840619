"""Single flight: a named Ray actor that maps the key of a stage to who works on it.

Training groups and evaluation actors pull from it; runs and trials wait on it. Two that ask for the same stage share
one execution, and a worker group that Ray Train restarts gets the stage that it was working on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from lcia.protocols import Progress
from lcia.stage import Asked, TrainStage
from pipelines.stages.queues import WorkQueue
from pipelines.stages.work import BUILDS_ON_IT, News, NotYet, RowRange, ServerKind, SessionOver, Training, row_ranges

if TYPE_CHECKING:
    from ray.actor import ActorHandle

MOST_CALLS = 10_000
"""Runs, trials and servers that may wait for the broker at a time; a call that waits costs it some kilobytes."""

PATIENCE_S = 5.0
"""How long a worker waits for a stage before it says that it still lives (collectives time out after 30 minutes)."""

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class Broker:
    """State of all stages that were asked for. `done` stages are in the store; the broker holds no results.

    First what runs and trials ask, then what servers ask and report, last the queues.
    """

    def __init__(self) -> None:
        self.asked: set[str] = set()
        """Keys of all trainings that anybody has asked for."""
        self.done: set[str] = set()
        self.found: set[str] = set()
        self.errors: dict[str, str] = {}
        self.given_up: set[str] = set()
        self.attempts: Counter[str] = Counter()
        self.failed_at: dict[tuple[str, int], int] = {}
        """The attempt that failed first at this step of a stage."""
        self.running: dict[str, Training] = {}
        self.progress: dict[str, Progress] = {}
        self.changed_at: dict[str, int] = {}
        """When the progress of a stage changed last, counted in changes; the newest last."""
        self.changes = 0
        self.followed: dict[int, tuple[tuple[str, ...], list[str]]] = {}
        """What each run waits for, and the part of it that may not be settled, by the number under which it waits."""
        self.followers = itertools.count()
        self.trainings: WorkQueue[Training] = WorkQueue()
        self.row_ranges: WorkQueue[RowRange] = WorkQueue()
        self.servers: Counter[ServerKind] = Counter()
        self.without_servers: dict[ServerKind, str] = {}
        """Why the last server of a kind has failed."""
        self.closed = False
        self.change = asyncio.Condition()

    async def add_found(self, trainings: Sequence[str]) -> None:
        """Trainings that were asked for and that the store already holds."""
        async with self.change:
            self.asked.update(trainings)
            # What a group here has just published is in the store a moment before the group says that it is done.
            made_here = self.done | {work.key for work in self.running.values()}
            self.found.update(key for key in trainings if key not in made_here)
            self._note_done(trainings)
            self.change.notify_all()

    async def add_trainings(self, stages: Sequence[TrainStage]) -> None:
        """Queues training stages, parents before their children, that were not asked for yet."""
        async with self.change:
            running = {work.key for work in self.running.values()}
            for stage in stages:
                work = Training(stage)
                if not self._known(work.key, running) and not self._inherits_failure(work):
                    self.trainings.add(work, self.done)
                self.asked.add(work.key)
            self._refuse_without_servers()
            self.change.notify_all()

    async def add_evaluation(self, stage: Asked, rows: int, size: int) -> None:
        """Queues the `rows` of an evaluation stage that was not asked for yet, in ranges of `size`."""
        async with self.change:
            ranges = row_ranges(stage, rows, size)
            if not self._known(stage.key) and not self._inherits_failure(ranges[0]):
                for work in ranges:
                    self.row_ranges.add(work, self.done)
            self._refuse_without_servers()
            self.change.notify_all()

    async def follow(self, keys: Sequence[str]) -> int:
        """Notes what a run waits for; the number under which it waits."""
        number = next(self.followers)
        self.followed[number] = tuple(keys), list(keys)
        return number

    async def wait(self, number: int, patience: float = 1.0) -> dict[str, str] | NotYet:
        """Errors by key of what is followed under `number`, which is not asked for again; NotYet if a key is still open
        after `patience` seconds."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + patience
        async with self.change:
            while self._is_open(number):
                if (left := deadline - clock()) <= 0:
                    return NotYet()
                await self._pause(left)
            return await self.failed(self.followed.pop(number)[0])

    def _is_open(self, number: int) -> bool:
        """Whether something that is followed is neither done nor failed; looks at each key but a few times in all."""
        keys, unsettled = self.followed[number]
        while unsettled and self._is_settled(unsettled[-1]):
            unsettled.pop()
        if not unsettled:
            # One that had failed may have been asked for again since.
            unsettled += [key for key in keys if not self._is_settled(key)]
        return bool(unsettled)

    def _is_settled(self, key: str) -> bool:
        return key in self.done or key in self.errors

    async def failed(self, keys: Sequence[str]) -> dict[str, str]:
        """The errors of those that have failed, by key."""
        return {key: self.errors[key] for key in keys if key in self.errors and key not in self.done}

    async def news(self, since: int) -> News:
        """What has changed in the progress of stages after the news of number `since`; 0: all of it."""
        changed: dict[str, Progress] = {}
        gone: list[str] = []
        for key, number in reversed(self.changed_at.items()):
            if number <= since:
                break
            if key in self.progress:
                changed[key] = replace(self.progress[key], done=key in self.done)
            else:
                gone.append(key)
        return News(self.changes, changed, gone)

    def _note_changed(self, key: str) -> None:
        self.changes += 1
        # The newest stands last.
        self.changed_at.pop(key, None)
        self.changed_at[key] = self.changes

    async def trained(self) -> int:
        """How many trainings were done here rather than found in the store."""
        return len(self.done & self.asked - self.found)

    async def close(self) -> None:
        """Ends the session."""
        async with self.change:
            self.closed = True
            self.change.notify_all()

    async def expect(self, servers: Mapping[ServerKind, int]) -> None:
        """How many servers of each kind there are; after the last has failed, stages fail at once."""
        self.servers.update(servers)

    async def next_training(self, group: str) -> Training | NotYet | SessionOver:
        """A stage whose parent is done, or the one that this group had before its restart."""
        async with self.change:
            work = self.running.get(group) or self.trainings.take()
            if work is None:
                return await self._nothing_ready()
            self.attempts[work.key] += 1
            self.running[group] = replace(work, attempt=self.attempts[work.key])
            return self.running[group]

    async def next_rows(self) -> RowRange | NotYet | SessionOver:
        """Some rows of an evaluation stage whose adapters are all trained."""
        async with self.change:
            work = self.row_ranges.take()
            if work is None:
                return await self._nothing_ready()
            if work.key not in self.progress:
                self._set_progress(Progress(work.key, "eval", work.stage.label, 0, work.rows, {}))
            return work

    async def report(self, progress: Progress) -> None:
        """The newest progress of a stage."""
        if progress.stage not in self.given_up:
            self._set_progress(progress)

    def _set_progress(self, progress: Progress) -> None:
        self.progress[progress.stage] = progress
        self._note_changed(progress.stage)

    async def finish(self, key: str) -> None:
        """A stage's result is in the store."""
        async with self.change:
            self._note_done([key])
            self.running = {group: work for group, work in self.running.items() if work.key != key}
            self.change.notify_all()

    async def report_error(self, work: Training, message: str, permanent: bool) -> None:
        """A worker raised an error in a stage that next_training had handed out.

        `permanent`: it would again, whatever is tried, so the stage is given up. Else it is tried again, and given up
        if the next attempt fails at the same step.
        """
        reported = self.progress.get(work.key)
        at = (work.key, reported.step if reported else 0)
        # The other workers of the same attempt may report the same error.
        if permanent or self.failed_at.setdefault(at, work.attempt) != work.attempt:
            await self.give_up(work.key, message)

    async def give_up(self, key: str, message: str) -> None:
        """Neither this stage nor what builds on it will be done in this session; all others will."""
        async with self.change:
            if key not in self.given_up:
                self.errors[key] = message
                self.given_up.add(key)
                self._drop_given_up()
            self.change.notify_all()

    async def count_given_up(self) -> int:
        """How many stages failed for good, without those that needed them."""
        return sum(self.errors[key] != BUILDS_ON_IT for key in self.given_up)

    async def training_of(self, group: str) -> str:
        """The label of the stage that a group is working on; empty: none."""
        work = self.running.get(group)
        return work.stage.label if work else ""

    async def server_failed(self, kind: ServerKind, message: str) -> None:
        """A server has ended with an error: what is queued or running of its kind will not be done."""
        async with self.change:
            self.servers[kind] -= 1
            if self.servers[kind] == 0:
                self.without_servers[kind] = message
            self._fail_kind(kind, message)
            self.change.notify_all()

    def unfinished(self) -> set[str]:
        """Keys that are queued or running."""
        running = {work.key for work in self.running.values()}
        return self.trainings.keys() | self.row_ranges.keys() | running | (self.progress.keys() - self.done)

    def _note_done(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.done.add(key)
            if key in self.progress:
                self._note_changed(key)
            self.trainings.note_done(key)
            self.row_ranges.note_done(key)

    def _known(self, key: str, running: Collection[str] = ()) -> bool:
        """Whether `key` is done, under way or given up; one that was lost with its workers may be asked for again."""
        if key in self.given_up:
            return True
        self.errors.pop(key, None)
        queued = key in self.trainings or key in self.row_ranges
        return queued or key in self.done or key in running or key in self.progress

    def _inherits_failure(self, work: Training | RowRange) -> bool:
        """Whether a stage is given up because something that it needs was."""
        if lost := not self.given_up.isdisjoint(work.needs):
            self.given_up.add(work.key)
            self.errors[work.key] = BUILDS_ON_IT
        return lost

    async def _nothing_ready(self) -> NotYet | SessionOver:
        if self.closed:
            return SessionOver()
        await self._pause(PATIENCE_S)
        return NotYet()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.change.wait(), seconds)

    def _drop_given_up(self) -> None:
        """Takes everything that is given up, and what builds on it, out of the queues."""
        # Parents stand before their children, so one pass is enough.
        self.trainings.keep(self._is_kept, self.done)
        self.row_ranges.keep(self._is_kept, self.done)
        self.running = {group: work for group, work in self.running.items() if work.key not in self.given_up}
        self._drop_progress(self.given_up)

    def _is_kept(self, work: Training | RowRange) -> bool:
        return work.key not in self.given_up and not self._inherits_failure(work)

    def _refuse_without_servers(self) -> None:
        for kind, message in self.without_servers.items():
            self._fail_kind(kind, message)

    def _fail_kind(self, kind: ServerKind, message: str) -> None:
        # Without training there are no adapters, so nothing can be evaluated either.
        lost = self.unfinished() if kind == "train" else self.row_ranges.keys()
        under_way = {key for key, p in self.progress.items() if p.kind == kind and key not in self.done}
        self.errors.update(dict.fromkeys((lost | under_way) - self.given_up, message))
        self.row_ranges.clear()
        if kind == "train":
            self.trainings.clear()
            self.running.clear()
        self._drop_progress(self.progress.keys() - self.done)

    def _drop_progress(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self.progress.pop(key, None):
                self._note_changed(key)


@dataclass(frozen=True)
class BrokerHandle:
    """A session's broker as other processes reach it; it lives as long as the driver holds the first handle.

    Methods are given as those of the class, so that types are checked: `ask(Broker.next_training, "group0")`.
    """

    name: str
    actor: ActorHandle

    def ask(
        self,
        method: Callable[Concatenate[Broker, Given], Coroutine[Any, Any, Answer]],
        *given: Given.args,
        **named: Given.kwargs,
    ) -> Answer:
        """Calls a method and waits for what it returns."""
        import ray

        answer: Answer = ray.get(getattr(self.actor, method.__name__).remote(*given, **named))
        return answer

    def tell(self, progress: Progress) -> None:
        """Reports progress without waiting."""
        self.actor.report.remote(progress)


def start_broker(name: str) -> BrokerHandle:
    """The broker of a new session, under a name by which servers find it."""
    import ray

    return BrokerHandle(name, ray.remote(Broker).options(name=name, num_cpus=0, max_concurrency=MOST_CALLS).remote())


def find_broker(name: str) -> BrokerHandle:
    """The broker that was started under this name."""
    import ray

    return BrokerHandle(name, ray.get_actor(name))
