# SPDX-License-Identifier: GPL-2.0-or-later
"""One publisher, many readers of different speed.

A slow reader never delays the publisher: items that do not fit into its queue are dropped for that
reader alone, and counted.
"""

import asyncio
from collections import deque
from typing import Generic, Self, TypeVar, final


T = TypeVar("T")
DEFAULT_LIMIT = 256


@final
class Subscription(Generic[T]):
    """An iterator over the items published from now on; it ends when the topic is closed.

    ``missed`` is the weight of all items dropped because this reader was slow.  Leave the ``with``
    block to unsubscribe.
    """

    def __init__(self, topic: "Topic[T]", limit: int) -> None:
        self.missed = 0
        self._topic = topic
        self._limit = limit
        self._items: deque[T] = deque()
        self._ready = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._topic.forget(self)

    def offer(self, item: T, weight: int) -> None:
        if len(self._items) >= self._limit:
            self.missed += weight
        else:
            self._items.append(item)
            self._ready.set()

    def wake(self) -> None:
        self._ready.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._topic.closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._items.popleft()


@final
class Topic(Generic[T]):
    """Passes every item to every subscription.  After close(), they end with their queued items."""

    def __init__(self) -> None:
        self.closed = False
        self._subscriptions: list[Subscription[T]] = []

    def __bool__(self) -> bool:
        """Return whether there is a subscription."""
        return bool(self._subscriptions)

    def subscribe(self, limit: int = DEFAULT_LIMIT) -> Subscription[T]:
        subscription = Subscription(self, limit)
        self._subscriptions.append(subscription)
        return subscription

    def forget(self, subscription: Subscription[T]) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def publish(self, item: T, *, weight: int = 1) -> None:
        for subscription in self._subscriptions:
            subscription.offer(item, weight)

    def close(self) -> None:
        self.closed = True
        for subscription in self._subscriptions:
            subscription.wake()
