"""The queue hands out what a plain list, searched from its start, would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.queues import WorkQueue


@dataclass(frozen=True)
class Job:
    """Stands for a training, or for rows."""

    key: str
    needs: frozenset[str]


names = st.sampled_from("abcdefgh")
jobs = st.builds(Job, names, st.frozensets(names, max_size=2))
moves = st.lists(
    st.one_of(
        st.tuples(st.just("add"), jobs),
        st.tuples(st.just("take"), st.none()),
        st.tuples(st.just("done"), names),
        st.tuples(st.just("drop"), names),
    ),
    max_size=40,
)


@given(moves)
def test_it_hands_out_what_a_list_searched_from_its_start_would(story: list[tuple[str, Any]]) -> None:
    queue: WorkQueue[Any] = WorkQueue()
    plain: list[Job] = []
    done: set[str] = set()
    for move, what in story:
        if move == "add":
            queue.add(what, done)
            plain.append(what)
        elif move == "take":
            expected = next((job for job in plain if job.needs <= done), None)
            if expected:
                plain.remove(expected)
            assert queue.take() == expected
        elif move == "done" and what not in done:
            done.add(what)
            queue.note_done(what)
        elif move == "drop":
            plain = [job for job in plain if job.key != what]
            queue.keep(lambda job, gone=what: job.key != gone, done)  # type: ignore[misc]
        assert len(queue) == len(plain)
        queued = {job.key for job in plain}
        assert queue.keys() == queued
        assert {name for name in "abcdefgh" if name in queue} == queued
