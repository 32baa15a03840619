"""The broker as a value: who gets which stage, and what counts as trained here; no Ray is started."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from lcia.config.assistants import LlavaConfig, LoraConfig
from lcia.config.baselines import SequentialConfig
from lcia.config.run import TrainingConfig
from lcia.protocols import Progress
from lcia.stage import EvaluateStage, ExternalStage, TrainStage
from pipelines.stages.broker import Broker
from pipelines.stages.work import BUILDS_ON_IT, News, NotYet, RowRange, SessionOver, Training, row_ranges, until_over

T = TypeVar("T")
MODEL = LlavaConfig(kind="llava", model="none")


def story(tell: Callable[[Broker], Awaitable[T]]) -> T:
    """What `tell` returns of a new broker, in a loop of its own."""

    async def told() -> T:
        return await tell(Broker())

    return asyncio.run(told())


def training(task: str, parent: TrainStage | None = None) -> TrainStage:
    return TrainStage(
        tasks=(task,), shards=("s",), parent=parent and parent.key, first=parent is None, base="b", assistant=MODEL,
        lora=LoraConfig(), training=TrainingConfig(), strategy=SequentialConfig(), seed=0,
    )  # fmt: skip


def evaluation(*adapters: TrainStage) -> EvaluateStage:
    default, *others = (adapter.key for adapter in adapters)
    routes = tuple((f"instruction {number}", key) for number, key in enumerate(others))
    return EvaluateStage(
        task="A", shards="s", base="b", assistant=MODEL, default=default, routes=routes, max_new_tokens=4
    )


A, B = training("A"), training("B")
CHILD = training("child", A)
GRANDCHILD = training("grandchild", CHILD)


async def given(broker: Broker, group: str = "group0") -> Training:
    """The training that the broker hands out."""
    work = await broker.next_training(group)
    assert isinstance(work, Training)
    return work


async def waited(broker: Broker, *stages: TrainStage | EvaluateStage, patience: float = 1.0) -> dict[str, str] | NotYet:
    """What a run hears that waits for these stages."""
    return await broker.wait(await broker.follow([stage.key for stage in stages]), patience)


async def given_rows(broker: Broker) -> RowRange:
    """The rows that the broker hands out."""
    work = await broker.next_rows()
    assert isinstance(work, RowRange)
    return work


def test_a_stage_that_two_runs_ask_for_is_handed_out_once() -> None:
    async def tell(broker: Broker) -> tuple[Training, object, int]:
        for _ in range(2):
            await broker.add_trainings([A])
        first = await given(broker, "group0")
        await broker.close()
        return first, await broker.next_training("group1"), await broker.trained()

    first, second, trained = story(tell)
    assert (first.key, second) == (A.key, SessionOver())
    assert trained == 0


def test_a_stage_waits_for_its_parent() -> None:
    async def tell(broker: Broker) -> list[str]:
        await broker.add_trainings([CHILD, A])
        first = await given(broker)
        await broker.finish(A.key)
        return [first.key, (await given(broker)).key]

    assert story(tell) == [A.key, CHILD.key]


def test_a_group_that_was_restarted_gets_the_stage_that_it_had() -> None:
    async def tell(broker: Broker) -> list[Training]:
        await broker.add_trainings([A, B])
        return [await given(broker, group) for group in ("group0", "group0", "group1")]

    assert story(tell) == [Training(A, attempt=1), Training(A, attempt=2), Training(B, attempt=1)]


def test_what_the_store_holds_already_was_not_trained_here() -> None:
    async def tell(broker: Broker) -> int:
        await broker.add_found([A.key])
        return await broker.trained()

    assert story(tell) == 0


def test_what_was_published_a_moment_ago_was_trained_here() -> None:
    """Another run finds it in the store before the group that trained it has said so."""

    async def tell(broker: Broker) -> int:
        await broker.add_trainings([A])
        await given(broker)
        await broker.add_found([A.key])
        await broker.finish(A.key)
        return await broker.trained()

    assert story(tell) == 1


def test_without_training_nothing_comes_and_all_who_wait_hear_why() -> None:
    async def tell(broker: Broker) -> dict[str, str] | NotYet:
        await broker.add_trainings([A, CHILD])
        await given(broker)
        await broker.server_failed("train", "no memory")
        return await waited(broker, A, CHILD)

    assert story(tell) == {A.key: "no memory", CHILD.key: "no memory"}


def test_a_stage_that_failed_may_be_asked_for_again() -> None:
    async def tell(broker: Broker) -> Training:
        await broker.add_trainings([A])
        await broker.server_failed("train", "no memory")
        await broker.add_trainings([A])
        return await given(broker)

    assert story(tell).key == A.key


def test_rows_wait_for_all_adapters_that_they_need() -> None:
    async def tell(broker: Broker) -> tuple[object, RowRange]:
        await broker.add_evaluation(evaluation(A, B), 3, 3)
        await broker.add_found([A.key])
        early = asyncio.create_task(broker.next_rows())
        await asyncio.sleep(0)
        await broker.finish(B.key)
        return await early, await given_rows(broker)

    assert story(tell) == (NotYet(), RowRange(evaluation(A, B), 3, 0, 3))


def test_who_waits_for_a_stage_under_way_is_told_to_ask_again() -> None:
    async def tell(broker: Broker) -> object:
        await broker.add_trainings([A])
        await given(broker)
        return await waited(broker, A, patience=0.0)

    assert story(tell) == NotYet()


def test_row_ranges_cover_every_row_once() -> None:
    stage = evaluation(A)
    assert row_ranges(stage, 5, 2) == [RowRange(stage, 5, 0, 2), RowRange(stage, 5, 2, 4), RowRange(stage, 5, 4, 5)]


def test_a_server_gets_work_until_the_session_is_over() -> None:
    answers: list[Training | NotYet | SessionOver] = [NotYet(), Training(A), NotYet(), Training(B), SessionOver()]
    assert list(until_over(lambda: answers.pop(0))) == [Training(A), Training(B)]
    assert answers == []


# Failures ---------------------------------------------------------------------------------------------------------


def test_a_stage_that_fails_takes_what_builds_on_it_and_nothing_else() -> None:
    of_child, of_b = evaluation(CHILD), evaluation(B)

    async def tell(broker: Broker) -> tuple[str, str, dict[str, str] | NotYet]:
        await broker.add_trainings([A, CHILD, GRANDCHILD, B])
        await broker.add_evaluation(of_child, 1, 1)
        await broker.add_evaluation(of_b, 1, 1)
        await broker.report_error(await given(broker), "NaN", permanent=True)
        following = await given(broker)
        await broker.finish(B.key)
        rows = await given_rows(broker)
        await broker.finish(of_b.key)
        return following.key, rows.key, await waited(broker, A, CHILD, GRANDCHILD, B, of_child, of_b)

    following, rows, errors = story(tell)
    assert (following, rows) == (B.key, of_b.key)
    assert errors == {A.key: "NaN", **dict.fromkeys([CHILD.key, GRANDCHILD.key, of_child.key], BUILDS_ON_IT)}


def test_what_failed_for_good_fails_at_once_when_another_trial_asks_for_it() -> None:
    of_child = evaluation(CHILD)

    async def tell(broker: Broker) -> dict[str, str] | NotYet:
        await broker.add_trainings([A])
        await broker.report_error(await given(broker), "NaN", permanent=True)
        await broker.add_trainings([A, CHILD])
        await broker.add_evaluation(of_child, 1, 1)
        return await waited(broker, A, CHILD, of_child)

    assert story(tell) == {A.key: "NaN", CHILD.key: BUILDS_ON_IT, of_child.key: BUILDS_ON_IT}


async def attempt(broker: Broker, step: int) -> None:
    """One more try of stage A by group0, which fails at this step with an error that need not come again."""
    work = await given(broker)
    await broker.report(Progress(A.key, "train", A.label, step, 9, {}))
    # Both workers of the group have the same to tell.
    for _ in range(2):
        await broker.report_error(work, "no disk", permanent=False)


def test_a_failure_without_a_certain_reason_is_tried_once_more_at_the_same_step() -> None:
    async def tell(broker: Broker) -> tuple[dict[str, str], dict[str, str]]:
        await broker.add_trainings([A])
        await attempt(broker, 5)
        once = await broker.failed([A.key])
        await attempt(broker, 5)
        return once, await broker.failed([A.key])

    assert story(tell) == ({}, {A.key: "no disk"})


def test_failures_at_different_steps_leave_the_stage_to_its_workers() -> None:
    async def tell(broker: Broker) -> tuple[dict[str, str], str]:
        await broker.add_trainings([A])
        await attempt(broker, 5)
        await attempt(broker, 7)
        return await broker.failed([A.key]), (await given(broker)).key

    assert story(tell) == ({}, A.key)


def test_a_stage_that_is_given_up_is_not_shown_as_under_way() -> None:
    async def tell(broker: Broker) -> tuple[News, News]:
        await broker.add_trainings([A])
        await broker.report(Progress(A.key, "train", A.label, 1, 9, {}))
        before = await broker.news(0)
        await broker.report_error(await given(broker), "NaN", permanent=True)
        # A report that was under way.
        await broker.report(Progress(A.key, "train", A.label, 2, 9, {}))
        return before, await broker.news(before.number)

    before, after = story(tell)
    assert (list(before.changed), before.gone) == ([A.key], [])
    assert (after.changed, after.gone) == ({}, [A.key])


def test_the_news_say_how_far_each_stage_is_and_which_are_done() -> None:
    answers = evaluation(A)

    async def tell(broker: Broker) -> Mapping[str, Progress]:
        await broker.add_trainings([A])
        await broker.add_evaluation(answers, 5, 2)
        await given(broker)
        await broker.report(Progress(A.key, "train", A.label, 9, 9, {"loss": 2.5}))
        await broker.finish(A.key)
        await given_rows(broker)
        return (await broker.news(0)).changed

    assert story(tell) == {
        A.key: Progress(A.key, "train", A.label, 9, 9, {"loss": 2.5}, done=True),
        answers.key: Progress(answers.key, "eval", answers.label, 0, 5, {}),
    }


def test_news_hold_only_what_has_changed_since() -> None:
    async def tell(broker: Broker) -> list[Mapping[str, Progress]]:
        await broker.add_trainings([A, B])
        for stage in (A, B):
            await broker.report(Progress(stage.key, "train", stage.label, 1, 9, {}))
        first = await broker.news(0)
        await broker.report(Progress(A.key, "train", A.label, 2, 9, {}))
        second = await broker.news(first.number)
        return [first.changed, second.changed, (await broker.news(second.number)).changed]

    first, second, third = story(tell)
    assert first.keys() == {A.key, B.key}
    assert {key: progress.step for key, progress in second.items()} == {A.key: 2}
    assert third == {}


def test_who_waits_for_a_stage_that_failed_waits_on_where_another_asks_for_it_again() -> None:
    async def tell(broker: Broker) -> tuple[object, object]:
        await broker.add_trainings([A, B])
        number = await broker.follow([A.key, B.key])
        await broker.server_failed("train", "no memory")
        await broker.add_trainings([A, B])
        open_again = await broker.wait(number, patience=0.0)
        for _ in range(2):
            await broker.finish((await given(broker)).key)
        return open_again, await broker.wait(number)

    assert story(tell) == (NotYet(), {})


def test_what_is_asked_for_after_the_last_server_has_failed_fails_at_once() -> None:
    """Else a run would wait for ever for a server that failed while it started."""
    answers = evaluation(A)

    async def tell(broker: Broker) -> dict[str, str] | NotYet:
        await broker.expect({"train": 1, "eval": 1})
        await broker.server_failed("train", "no memory")
        await broker.add_trainings([A])
        await broker.add_evaluation(answers, 1, 1)
        return await waited(broker, A, answers)

    assert story(tell) == {A.key: "no memory", answers.key: "no memory"}


def test_a_lost_group_is_told_with_the_stage_that_it_was_training() -> None:
    async def tell(broker: Broker) -> tuple[str, str]:
        await broker.add_trainings([A])
        await given(broker)
        return await broker.training_of("group0"), await broker.training_of("group1")

    assert story(tell) == (A.label, "")


def test_a_command_waits_for_its_adapter_and_is_lost_with_it() -> None:
    async def tell(broker: Broker) -> tuple[object, object, dict[str, str]]:
        asked = ExternalStage(task="A", adapter=A.key, command=("judge",), base="b", assistant=MODEL)
        other = ExternalStage(task="B", adapter=B.key, command=("judge",), base="b", assistant=MODEL)
        await broker.add_trainings([A, B])
        for stage in (asked, other):
            await broker.add_evaluation(stage, 1, 8)
        await broker.finish(A.key)
        await broker.give_up(B.key, "diverged")
        handed = await broker.next_rows()
        await broker.give_up(asked.key, "CommandFailedError: no such model")
        return handed, asked, await broker.failed([asked.key, other.key])

    handed, asked, errors = story(tell)
    assert isinstance(handed, RowRange)
    assert (handed.stage, handed.rows) == (asked, 1)
    assert sorted(errors.values()) == [BUILDS_ON_IT, "CommandFailedError: no such model"]
