"""A queue that serves clients in turn, so that nobody waits behind all of somebody else's requests."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Full(Exception):  # noqa: N818  (as queue.Full)
    """No more are taken: in all, or of this client."""


class FairQueue(Generic[T]):
    """First in, first out for each client; the clients in turn.

    Args:
        limit: waiting in all.
        per_client: waiting of one client.
    """

    def __init__(self, limit: int, per_client: int) -> None:
        self._limit, self._per_client = limit, per_client
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, client: str, item: T, *, first: bool = False) -> None:
        """Append; ``first`` puts it before all others, whatever the limits: it was taken out already once.

        Raises:
            Full: a limit is reached.
        """
        if first:
            self._waiting.setdefault(client, deque()).appendleft(item)
            self._waiting.move_to_end(client, last=False)
            return
        if len(self) >= self._limit or len(self._waiting.get(client, ())) >= self._per_client:
            raise Full
        self._waiting.setdefault(client, deque()).append(item)

    def get(self) -> T | None:
        """The next item, its client then being the last in turn; ``None`` if nobody waits."""
        if not self._waiting:
            return None
        client, items = next(iter(self._waiting.items()))
        item = items.popleft()
        del self._waiting[client]
        if items:
            self._waiting[client] = items
        return item

    def remove(self, client: str, item: T) -> bool:
        """Take an item out; whether it was there."""
        items = self._waiting.get(client)
        if items is None or item not in items:
            return False
        items.remove(item)
        if not items:
            del self._waiting[client]
        return True

    def __iter__(self) -> Iterator[T]:
        """In the order in which they would be served."""
        rounds = max(map(len, self._waiting.values()), default=0)
        for n in range(rounds):
            yield from (items[n] for items in self._waiting.values() if n < len(items))
