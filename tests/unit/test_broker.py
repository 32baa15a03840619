"""The broker as a value: who gets which stage, and what counts as trained here; no Ray is started."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pipelines.broker import Broker


def story(tell: Callable[[Broker], Awaitable[Any]]) -> Any:
    """What `tell` returns of a new broker, in a loop of its own."""

    async def told() -> Any:
        return await tell(Broker())

    return asyncio.run(told())


def stage(key: str, parent: str | None = None) -> dict[str, Any]:
    return {"key": key, "parent": parent, "record": {}}


def test_a_stage_that_two_runs_ask_for_is_handed_out_once() -> None:
    async def tell(broker: Broker) -> Any:
        for _ in range(2):
            await broker.add_trains([stage("a")])
        first = await broker.next_train("group0")
        await broker.close()
        return first, await broker.next_train("group1"), await broker.counts()

    first, second, counts = story(tell)
    assert (first["key"], second) == ("a", {})
    assert counts == {"asked": 2, "distinct": 1, "trained": 0}


def test_a_stage_waits_for_its_parent() -> None:
    async def tell(broker: Broker) -> Any:
        await broker.add_trains([stage("child", "parent"), stage("parent")])
        first = await broker.next_train("group0")
        await broker.finish("parent")
        return first, await broker.next_train("group0")

    first, second = story(tell)
    assert (first["key"], second["key"]) == ("parent", "child")


def test_a_group_that_was_restarted_gets_the_stage_that_it_had() -> None:
    async def tell(broker: Broker) -> Any:
        await broker.add_trains([stage("a"), stage("b")])
        return [await broker.next_train("group0") for _ in range(2)] + [await broker.next_train("group1")]

    assert [given["key"] for given in story(tell)] == ["a", "a", "b"]


def test_what_the_store_holds_already_was_not_trained_here() -> None:
    async def tell(broker: Broker) -> Any:
        await broker.add_found(["a"], ["a"])
        return await broker.counts()

    assert story(tell) == {"asked": 1, "distinct": 1, "trained": 0}


def test_what_was_published_a_moment_ago_was_trained_here() -> None:
    """Another run finds it in the store before the group that trained it has said so."""

    async def tell(broker: Broker) -> Any:
        await broker.add_trains([stage("a")])
        await broker.next_train("group0")
        await broker.add_found(["a"], ["a"])
        await broker.finish("a")
        return await broker.counts()

    assert story(tell) == {"asked": 2, "distinct": 1, "trained": 1}


def test_without_training_nothing_comes_and_whoever_waits_hears_why() -> None:
    async def tell(broker: Broker) -> Any:
        await broker.add_trains([stage("a"), stage("b", "a")])
        await broker.next_train("group0")
        await broker.fail("train", "no memory")
        return await broker.wait(["a", "b"])

    assert story(tell) == {"a": "no memory", "b": "no memory"}


def test_a_stage_that_failed_may_be_asked_for_again() -> None:
    async def tell(broker: Broker) -> Any:
        await broker.add_trains([stage("a")])
        await broker.fail("train", "no memory")
        await broker.add_trains([stage("a")])
        return await broker.next_train("group0")

    assert story(tell)["key"] == "a"


def test_rows_wait_for_all_adapters_that_they_need() -> None:
    async def tell(broker: Broker) -> Any:
        ticket = {"key": "answers", "needs": ["a", "b"], "label": "a after b", "rows": 3}
        await broker.add_tickets("answers", {}, [ticket])
        await broker.add_found(["a"], ["a"])
        early = asyncio.create_task(broker.next_ticket())
        await asyncio.sleep(0)
        await broker.finish("b")
        return await early, await broker.next_ticket()

    early, late = story(tell)
    assert early is None
    assert late["key"] == "answers"
