"""The queue: in turn, bounded, and nothing lost."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinedge.clinic.fair import FairQueue, Full


def test_clients_take_turns() -> None:
    queue: FairQueue[str] = FairQueue(10, 10)
    for item in ("a1", "a2", "a3", "b1"):
        queue.put(item[0], item)
    assert list(queue) == ["a1", "b1", "a2", "a3"]
    assert [queue.get() for _ in range(5)] == ["a1", "b1", "a2", "a3", None]


def test_it_is_bounded_in_all_and_for_each() -> None:
    queue: FairQueue[int] = FairQueue(3, 2)
    queue.put("a", 1)
    queue.put("a", 2)
    with pytest.raises(Full):
        queue.put("a", 3)
    queue.put("b", 4)
    with pytest.raises(Full):
        queue.put("c", 5)
    queue.put("c", 6, first=True)  # it had its turn already
    assert queue.get() == 6


@given(
    st.lists(
        st.one_of(st.tuples(st.just("put"), st.sampled_from("abc")), st.tuples(st.sampled_from(["get", "remove"]), st.just("")))
    )
)
def test_nothing_is_lost_and_nobody_overtakes_himself(steps: list[tuple[str, str]]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(1000, 1000)
    waiting: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for number, (step, client) in enumerate(steps):
        if step == "put":
            queue.put(client, (client, number))
            waiting[client].append((client, number))
        elif step == "get":
            expected = next(iter(queue), None)
            item = queue.get()
            assert item == expected
            if item:
                assert item == waiting[item[0]].pop(0)
        elif items := [i for some in waiting.values() for i in some]:
            assert queue.remove(items[0][0], items[0])
            assert not queue.remove(items[0][0], items[0])
            waiting[items[0][0]].remove(items[0])
    assert sorted(queue) == sorted(i for some in waiting.values() for i in some)
    assert len(queue) == sum(map(len, waiting.values()))
