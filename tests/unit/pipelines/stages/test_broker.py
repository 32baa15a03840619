"""The broker as a value: who gets which stage, and what counts as trained here; no Ray is started."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pipelines.stages.broker import Broker
from pipelines.stages.tickets import BUILDS_ON_IT


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
        await broker.add_found(["a"])
        return await broker.counts()

    assert story(tell) == {"asked": 1, "distinct": 1, "trained": 0}


def test_what_was_published_a_moment_ago_was_trained_here() -> None:
    """Another run finds it in the store before the group that trained it has said so."""

    async def tell(broker: Broker) -> Any:
        await broker.add_trains([stage("a")])
        await broker.next_train("group0")
        await broker.add_found(["a"])
        await broker.finish("a")
        return await broker.counts()

    assert story(tell) == {"asked": 2, "distinct": 1, "trained": 1}


def test_without_training_nothing_comes_and_all_who_wait_hear_why() -> None:
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
        await broker.add_tickets("answers", [ticket])
        await broker.add_found(["a"])
        early = asyncio.create_task(broker.next_ticket())
        await asyncio.sleep(0)
        await broker.finish("b")
        return await early, await broker.next_ticket()

    early, late = story(tell)
    assert early is None
    assert late["key"] == "answers"


# Failures ---------------------------------------------------------------------------------------------------------


def answers(key: str, *needs: str) -> tuple[str, list[dict[str, Any]]]:
    return key, [{"key": key, "needs": list(needs), "label": key, "rows": 1}]


def test_a_stage_that_fails_takes_what_builds_on_it_and_nothing_else() -> None:
    async def tell(broker: Broker) -> Any:
        await broker.add_trains([stage("bad"), stage("child", "bad"), stage("grandchild", "child"), stage("other")])
        await broker.add_tickets(*answers("of the child", "child"))
        await broker.add_tickets(*answers("of the other", "other"))
        await broker.trouble(await broker.next_train("group0"), "NaN", certain=True)
        following = await broker.next_train("group0")
        await broker.finish("other")
        ticket = await broker.next_ticket()
        await broker.finish("of the other")
        keys = ["bad", "child", "grandchild", "other", "of the child", "of the other"]
        return following["key"], ticket["key"], await broker.wait(keys)

    following, ticket, errors = story(tell)
    assert (following, ticket) == ("other", "of the other")
    assert errors == {"bad": "NaN", **dict.fromkeys(["child", "grandchild", "of the child"], BUILDS_ON_IT)}


def test_what_failed_for_good_fails_at_once_when_another_trial_asks_for_it() -> None:
    async def tell(broker: Broker) -> Any:
        await broker.add_trains([stage("bad")])
        await broker.trouble(await broker.next_train("group0"), "NaN", certain=True)
        await broker.add_trains([stage("bad"), stage("child", "bad")])
        await broker.add_tickets(*answers("of the child", "child"))
        return await broker.wait(["bad", "child", "of the child"])

    assert story(tell) == {"bad": "NaN", "child": BUILDS_ON_IT, "of the child": BUILDS_ON_IT}


async def attempt(broker: Broker, step: int) -> None:
    """One more try of stage a by group0, which comes to a step and fails there without a certain reason."""
    order = await broker.next_train("group0")
    assert order is not None
    await broker.report("a", {"kind": "train", "label": "a", "step": step, "steps": 9, "values": {}})
    # Both workers of the group have the same to tell.
    for _ in range(2):
        await broker.trouble(order, "no disk", certain=False)


def test_a_failure_without_a_certain_reason_is_tried_once_more_at_the_same_step() -> None:
    async def tell(broker: Broker) -> Any:
        await broker.add_trains([stage("a")])
        await attempt(broker, 5)
        once = await broker.failed(["a"])
        await attempt(broker, 5)
        return once, await broker.failed(["a"])

    assert story(tell) == ({}, {"a": "no disk"})


def test_failures_at_different_steps_leave_the_stage_to_its_workers() -> None:
    async def tell(broker: Broker) -> Any:
        await broker.add_trains([stage("a")])
        await attempt(broker, 5)
        await attempt(broker, 7)
        return await broker.failed(["a"]), (await broker.next_train("group0"))["key"]  # type: ignore[index]

    assert story(tell) == ({}, "a")


def test_a_stage_that_is_given_up_is_not_shown_as_under_way() -> None:
    async def tell(broker: Broker) -> Any:
        await broker.add_trains([stage("a")])
        order = await broker.next_train("group0")
        await broker.trouble(order, "NaN", certain=True)
        # A report that was under way.
        await broker.report("a", {"kind": "train", "label": "a", "step": 1, "steps": 9, "values": {}})
        return await broker.snapshot()

    assert story(tell) == {}


def test_what_is_asked_for_after_the_last_server_has_failed_fails_at_once() -> None:
    """Else a run would wait for ever for a server that failed while it started."""

    async def tell(broker: Broker) -> Any:
        await broker.expect({"train": 1, "eval": 1})
        await broker.fail("train", "no memory")
        await broker.add_trains([stage("a")])
        await broker.add_tickets(*answers("of a", "a"))
        return await broker.wait(["a", "of a"])

    assert story(tell) == {"a": "no memory", "of a": "no memory"}
