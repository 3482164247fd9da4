"""A publisher that keeps what it is given, and is full when it is told to be."""

import asyncio
from collections.abc import Callable, Sequence

from gripproxy.grip.item import Item


class FakePublisher:
    def __init__(self) -> None:
        self.items: list[Item] = []
        self.dispatched: list[Item] = []  # as the real one does: after the callback
        self.recoveries = 0
        self.waiting: list[Callable[[], None]] = []
        self.full_from: float = float("inf")  # number of items
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def publish(self, items: Sequence[Item]) -> None:
        assert not self.full, "an input published while the queue was full"
        self.items += items
        self._changed.set()
        self._loop.call_soon(self.dispatched.extend, items)

    def recover(self) -> None:
        self.recoveries += 1

    @property
    def full(self) -> bool:
        return len(self.items) >= self.full_from

    def when_ready(self, resume: Callable[[], None]) -> None:
        self.waiting.append(resume)
        self._changed.set()

    def make_room(self) -> None:
        """The queue has no bound any more; those who waited go on."""
        self.full_from = float("inf")
        waiting, self.waiting = self.waiting, []
        for resume in waiting:
            resume()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; looked at whenever anything is published or waits."""
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    @property
    def channels(self) -> list[str]:
        return [item.channel for item in self.items]
