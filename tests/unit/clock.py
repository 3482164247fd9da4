"""An event loop for unit tests, whose clock they move."""

import heapq
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any


class Handle:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """An event loop that knows only timers, and is `lag` seconds late with each of them."""

    def __init__(self, now: float = 100.0, lag: float = 0.0) -> None:
        self.now = now
        self.lag = lag
        self.timers_made = 0
        self._timers: list[tuple[float, int, Handle]] = []
        self._number = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Handle:
        self.timers_made += 1
        handle = Handle(call)
        heapq.heappush(self._timers, (when, next(self._number), handle))
        return handle

    def call_soon(self, call: Callable[..., None], *arguments: Any) -> Handle:
        return self.call_at(self.now, partial(call, *arguments))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Whatever fails is an error of the test."""
        raise context["exception"]

    @property
    def timers(self) -> int:
        return sum(not handle.cancelled for _, _, handle in self._timers)

    def run_until(self, end: float) -> None:
        while self._timers and self._timers[0][0] + self.lag <= end:
            when, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled:
                self.now = max(self.now, when + self.lag)
                handle.call()
        self.now = max(self.now, end)
