"""Coarse deadlines for very many objects on one timer of the event loop.

A timer handle for each connection would cost more memory than the rest of a held stream, so
everything that waits shares this wheel: a deadline is met at most one tick (0.1 s) late, and never
early.
"""

import asyncio
import heapq
from collections.abc import Callable

TICK = 0.1
NEVER = float("inf")


class Timed:
    """Something with at most one deadline, kept by `Deadlines`."""

    __slots__ = ("deadline", "slot")

    def __init__(self) -> None:
        self.deadline = NEVER  # loop time in seconds
        self.slot = 0  # the wheel slot that holds this object; 0: none

    def expired(self, now: float) -> None:
        """The deadline has passed; it is `NEVER` again until it is set anew."""
        raise NotImplementedError


class Alarm(Timed):
    """A deadline that calls a function, for what few objects have."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self._call = call

    def expired(self, now: float) -> None:
        self._call()


class Deadlines:
    """The wheel.

    Setting a later deadline is only an assignment: the object moves when its old slot comes up.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Timed]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_slot = 0
        self._closed = False

    def set(self, timed: Timed, at: float) -> None:
        """`timed.expired` is called once, soon after loop time `at`, unless the deadline is
        changed before.
        """
        timed.deadline = at
        slot = int(at / TICK) + 1
        held = timed.slot
        if held:
            if held <= slot:
                return
            self._slots[held].discard(timed)
        self._put(timed, slot)

    def clear(self, timed: Timed) -> None:
        """Forget the deadline and the object."""
        timed.deadline = NEVER
        if timed.slot:
            self._slots[timed.slot].discard(timed)
            timed.slot = 0

    def close(self) -> None:
        """Forget every deadline; nothing is called any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for slot in self._slots.values():
            for timed in slot:
                timed.slot = 0
        self._slots.clear()
        self._order.clear()
        self._closed = True

    def _put(self, timed: Timed, slot: int) -> None:
        timed.slot = slot
        bucket = self._slots.get(slot)
        if bucket is not None:
            bucket.add(timed)
            return
        self._slots[slot] = {timed}
        heapq.heappush(self._order, slot)
        if self._timer is None or slot < self._timer_slot:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._order:
            self._timer_slot = self._order[0]
            self._timer = self._loop.call_at(self._timer_slot * TICK, self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = self._loop.time()
        due: list[Timed] = []
        while self._order and self._order[0] * TICK <= now:
            due.extend(self._slots.pop(heapq.heappop(self._order)))
        for timed in due:
            timed.slot = 0
        for timed in due:
            if self._closed:
                return
            # An earlier call of this turn may have cleared or changed this one.
            at = timed.deadline
            if timed.slot or at == NEVER:
                continue
            if at <= now:
                timed.deadline = NEVER
                try:
                    timed.expired(now)
                except Exception as error:  # of one object, and the others are due all the same
                    self._loop.call_exception_handler(
                        {"message": "a deadline was not met", "exception": error}
                    )
            else:
                self._put(timed, int(at / TICK) + 1)
        if self._timer is None:
            self._arm()
