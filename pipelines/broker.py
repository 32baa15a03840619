"""Single flight: a named Ray actor that maps the key of a stage to whoever works on it.

Training groups and the evaluation pool pull from it; runs and trials wait on it. Two that ask for the same stage share
one execution, and a worker group that Ray Train restarts is handed the stage that it was working on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from typing import Any

import ray
from ray.actor import ActorHandle

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
        self.running: dict[str, dict[str, Any]] = {}
        self.progress: dict[str, dict[str, Any]] = {}
        self.trains: deque[dict[str, Any]] = deque()
        self.tickets: deque[dict[str, Any]] = deque()
        self.records: dict[str, dict[str, Any]] = {}
        self.closed = False
        self.change = asyncio.Condition()

    async def add_found(self, keys: list[str], trains: list[str]) -> None:
        """Stages that the store already holds; `trains` are those of them that are trainings."""
        async with self.change:
            self.asked.update(trains)
            # What a group here has just published is in the store a moment before the group says that it is done.
            made_here = self.done | {stage["key"] for stage in self.running.values()}
            self.found.update(key for key in trains if key not in made_here)
            self.done.update(keys)
            self.change.notify_all()

    async def add_trains(self, stages: list[dict[str, Any]]) -> None:
        """Queues training stages ({key, parent, record}) that nobody has asked for yet."""
        async with self.change:
            for stage in stages:
                if not self._known(stage["key"]):
                    self.trains.append(stage)
                self.asked[stage["key"]] += 1
            self.change.notify_all()

    async def add_tickets(self, key: str, record: dict[str, Any], tickets: list[dict[str, Any]]) -> None:
        """Queues the row ranges of one evaluation stage."""
        async with self.change:
            self.records[key] = record
            if not self._known(key):
                self.tickets.extend(tickets)
            self.change.notify_all()

    def _known(self, key: str) -> bool:
        """Whether `key` is done or under way; one that failed may be asked for again."""
        self.errors.pop(key, None)
        return key in self.done or key in self.asked_open()

    def asked_open(self) -> set[str]:
        """Keys that are queued or running."""
        queued = {stage["key"] for stage in (*self.trains, *self.tickets, *self.running.values())}
        return queued | {key for key, p in self.progress.items() if key not in self.done}

    async def next_train(self, group: str) -> dict[str, Any] | None:
        """A stage whose parent is done, or the one this group had before its restart; None: ask again. {} : go home."""
        async with self.change:
            if group in self.running:
                return self.running[group]
            for stage in self.trains:
                if stage["parent"] is None or stage["parent"] in self.done:
                    self.trains.remove(stage)
                    self.running[group] = stage
                    return stage
            return await self._wait_or_go_home()

    async def next_ticket(self) -> dict[str, Any] | None:
        """Some rows of an evaluation stage whose adapters are all trained; None: ask again. {}: go home."""
        async with self.change:
            for ticket in self.tickets:
                if set(ticket["needs"]) <= self.done:
                    self.tickets.remove(ticket)
                    begun = {"kind": "eval", "label": ticket["label"], "step": 0, "steps": ticket["rows"], "values": {}}
                    self.progress.setdefault(ticket["key"], begun)
                    return ticket
            return await self._wait_or_go_home()

    async def _wait_or_go_home(self) -> dict[str, Any] | None:
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

    async def fail(self, kind: str, message: str) -> None:
        """Everything of a kind ("train", "eval") that is queued or running will not come."""
        async with self.change:
            # Without training no adapter comes, so nothing can be evaluated either.
            lost = self.asked_open() if kind == "train" else {ticket["key"] for ticket in self.tickets}
            under_way = {key for key, p in self.progress.items() if p["kind"] == kind and key not in self.done}
            self.errors.update(dict.fromkeys(lost | under_way, message))
            self.tickets.clear()
            if kind == "train":
                self.trains.clear()
                self.running.clear()
            self.progress = {key: p for key, p in self.progress.items() if key in self.done}
            self.change.notify_all()

    async def wait(self, keys: list[str], patience: float = 1.0) -> dict[str, str]:
        """Returns at the next change or after `patience` seconds: {"": ""} while a key is open, else errors by key."""
        async with self.change:
            open_keys = [key for key in keys if key not in self.done and key not in self.errors]
            if open_keys:
                await self._pause(patience)
                return {"": ""}
            return {key: self.errors[key] for key in keys if key in self.errors}

    async def record_of(self, key: str) -> dict[str, Any]:
        return self.records[key]

    async def report(self, key: str, progress: dict[str, Any]) -> None:
        """Progress of a stage: kind, label, step, steps, values; what is left out stays as it was."""
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
