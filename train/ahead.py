"""Reading ahead: one item is made in a thread while the one before it is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ahead(thread: Executor, make: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """``map(make, items)``, never more than one item ahead (``Executor.map`` makes all of them at once)."""
    left = iter(items)
    for first in left:
        waiting = thread.submit(make, first)
        for item in left:
            done, waiting = waiting.result(), thread.submit(make, item)
            yield done
        yield waiting.result()
