"""Single flight: a named Ray actor that maps the key of a stage to who works on it.

Training groups and evaluation actors pull from it; runs and trials wait on it. Two that ask for the same stage share
one execution, and a worker group that Ray Train restarts gets the stage that it was working on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from typing import Any

import ray
from ray.actor import ActorHandle

from pipelines.stages.tickets import BUILDS_ON_IT

NAME = "lcia-broker"
PATIENCE_S = 5.0
"""How long a worker waits for a stage before it says that it still lives (collectives time out after 30 minutes)."""


class Broker:
    """State of all stages that were asked for. `done` stages are in the store; the broker holds no results."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.done: set[str] = set()
        self.found: set[str] = set()
        self.errors: dict[str, str] = {}
        self.given_up: set[str] = set()
        self.attempts: Counter[str] = Counter()
        self.troubles: dict[tuple[str, int], int] = {}
        self.running: dict[str, dict[str, Any]] = {}
        self.progress: dict[str, dict[str, Any]] = {}
        self.trains: deque[dict[str, Any]] = deque()
        self.tickets: deque[dict[str, Any]] = deque()
        self.servers: Counter[str] = Counter()
        self.gone: dict[str, str] = {}
        self.closed = False
        self.change = asyncio.Condition()

    async def expect(self, servers: dict[str, int]) -> None:
        """How many servers of each kind ("train", "eval") there are; after the last has failed, stages fail at once."""
        self.servers.update(servers)

    async def add_found(self, trains: list[str]) -> None:
        """Trainings that were asked for and that the store already holds."""
        async with self.change:
            self.asked.update(trains)
            # What a group here has just published is in the store a moment before the group says that it is done.
            made_here = self.done | {stage["key"] for stage in self.running.values()}
            self.found.update(key for key in trains if key not in made_here)
            self.done.update(trains)
            self.change.notify_all()

    async def add_trains(self, stages: list[dict[str, Any]]) -> None:
        """Queues training stages ({key, parent, record}) that were not asked for yet."""
        async with self.change:
            for stage in stages:
                if not self._known(stage["key"]) and not self._inherits(stage["key"], [stage["parent"]]):
                    self.trains.append(stage)
                self.asked[stage["key"]] += 1
            self._refuse_without_servers()
            self.change.notify_all()

    async def add_tickets(self, key: str, tickets: list[dict[str, Any]]) -> None:
        """Queues the row ranges of one evaluation stage."""
        async with self.change:
            if not self._known(key) and not self._inherits(key, tickets[0]["needs"]):
                self.tickets.extend(tickets)
            self._refuse_without_servers()
            self.change.notify_all()

    def _known(self, key: str) -> bool:
        """Whether `key` is done, under way or given up; one that was lost with its workers may be asked for again."""
        if key in self.given_up:
            return True
        self.errors.pop(key, None)
        return key in self.done or key in self.asked_open()

    def _inherits(self, key: str, needs: list[str | None]) -> bool:
        """Whether `key` is given up because something that it needs was."""
        if lost := not self.given_up.isdisjoint(needs):
            self.given_up.add(key)
            self.errors[key] = BUILDS_ON_IT
        return lost

    def asked_open(self) -> set[str]:
        """Keys that are queued or running."""
        queued = {stage["key"] for stage in (*self.trains, *self.tickets, *self.running.values())}
        return queued | {key for key, p in self.progress.items() if key not in self.done}

    async def next_train(self, group: str) -> dict[str, Any] | None:
        """A stage whose parent is done, or the one that this group had before its restart.

        None: nothing is ready yet, call again. {}: the session is over.
        """
        async with self.change:
            stage = self.running.get(group) or self._ready_train()
            if stage is None:
                return await self._nothing_yet()
            self.running[group] = stage
            self.attempts[stage["key"]] += 1
            return {**stage, "attempt": self.attempts[stage["key"]]}

    def _ready_train(self) -> dict[str, Any] | None:
        for stage in self.trains:
            if stage["parent"] is None or stage["parent"] in self.done:
                self.trains.remove(stage)
                return stage
        return None

    async def next_ticket(self) -> dict[str, Any] | None:
        """Some rows of an evaluation stage whose adapters are all trained; None and {} as in next_train."""
        async with self.change:
            for ticket in self.tickets:
                if set(ticket["needs"]) <= self.done:
                    self.tickets.remove(ticket)
                    begun = {"kind": "eval", "label": ticket["label"], "step": 0, "steps": ticket["rows"], "values": {}}
                    self.progress.setdefault(ticket["key"], begun)
                    return ticket
            return await self._nothing_yet()

    async def _nothing_yet(self) -> dict[str, Any] | None:
        if self.closed:
            return {}
        await self._pause(PATIENCE_S)
        return None

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.change.wait(), seconds)

    async def finish(self, key: str) -> None:
        async with self.change:
            self.done.add(key)
            self.running = {group: stage for group, stage in self.running.items() if stage["key"] != key}
            self.change.notify_all()

    async def trouble(self, order: dict[str, Any], message: str, certain: bool) -> None:
        """A worker raised an error in a stage that next_train had handed out.

        `certain`: it would again, whatever is tried, so the stage is given up. Else it is tried again, and given up if
        the next attempt fails at the same step.
        """
        key, attempt = order["key"], order["attempt"]
        at = (key, self.progress.get(key, {}).get("step", 0))
        # The other workers of the same attempt may have the same to tell.
        if certain or self.troubles.setdefault(at, attempt) != attempt:
            await self.give_up(key, message)

    async def give_up(self, key: str, message: str) -> None:
        """Neither this stage nor what builds on it will be done in this session; all others will."""
        async with self.change:
            if key not in self.given_up:
                self.errors[key] = message
                self.given_up.add(key)
                self._drop_what_needs_it()
            self.change.notify_all()

    def _drop_what_needs_it(self) -> None:
        """Takes everything that is given up, and what builds on it, out of the queues."""
        # Parents stand before their children, so one pass is enough.
        self.trains = deque(
            s for s in self.trains if s["key"] not in self.given_up and not self._inherits(s["key"], [s["parent"]])
        )
        self.tickets = deque(
            t for t in self.tickets if t["key"] not in self.given_up and not self._inherits(t["key"], t["needs"])
        )
        self.running = {group: stage for group, stage in self.running.items() if stage["key"] not in self.given_up}
        self.progress = {key: p for key, p in self.progress.items() if key not in self.given_up}

    async def lost(self, group: str) -> str:
        """The label of the stage that a group was working on; empty: none."""
        key = self.running.get(group, {}).get("key", "")
        return str(self.progress.get(key, {}).get("label", key))

    async def count_given_up(self) -> int:
        """How many stages failed for good, without those that needed them."""
        return sum(self.errors[key] != BUILDS_ON_IT for key in self.given_up)

    async def fail(self, kind: str, message: str) -> None:
        """Everything of a kind ("train", "eval") that is queued or running will not come."""
        async with self.change:
            self.servers[kind] -= 1
            if self.servers[kind] == 0:
                self.gone[kind] = message
            self._lose(kind, message)
            self.change.notify_all()

    def _refuse_without_servers(self) -> None:
        for kind, message in self.gone.items():
            self._lose(kind, message)

    def _lose(self, kind: str, message: str) -> None:
        # Without training there are no adapters, so nothing can be evaluated either.
        lost = self.asked_open() if kind == "train" else {ticket["key"] for ticket in self.tickets}
        under_way = {key for key, p in self.progress.items() if p["kind"] == kind and key not in self.done}
        self.errors.update(dict.fromkeys((lost | under_way) - self.given_up, message))
        self.tickets.clear()
        if kind == "train":
            self.trains.clear()
            self.running.clear()
        self.progress = {key: p for key, p in self.progress.items() if key in self.done}

    async def wait(self, keys: list[str], patience: float = 1.0) -> dict[str, str] | None:
        """Errors by key; None while a key is open, at the next change or after `patience` seconds."""
        async with self.change:
            open_keys = [key for key in keys if key not in self.done and key not in self.errors]
            if open_keys:
                await self._pause(patience)
                return None
            return await self.failed(keys)

    async def failed(self, keys: list[str]) -> dict[str, str]:
        """The errors of those that have failed, by key."""
        return {key: self.errors[key] for key in keys if key in self.errors and key not in self.done}

    async def report(self, key: str, progress: dict[str, Any]) -> None:
        """Progress of a stage: kind, label, step, steps, values; what is left out stays as it was."""
        if key not in self.given_up:
            self.progress[key] = {**self.progress.get(key, {}), **progress}

    async def snapshot(self) -> dict[str, dict[str, Any]]:
        return {key: {**p, "done": key in self.done} for key, p in self.progress.items()}

    async def counts(self) -> dict[str, int]:
        """Trainings asked for (with repetitions), distinct ones, and those done here rather than found in the store."""
        trained = self.done & set(self.asked) - self.found
        return {"asked": self.asked.total(), "distinct": len(self.asked), "trained": len(trained)}

    async def close(self) -> None:
        async with self.change:
            self.closed = True
            self.change.notify_all()


def start(name: str) -> ActorHandle:
    """The broker of this session; it lives as long as the driver holds the handle."""
    return ray.remote(Broker).options(name=name, num_cpus=0, max_concurrency=1000).remote()


def connect(name: str) -> ActorHandle:
    return ray.get_actor(name)
