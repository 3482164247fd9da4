"""How many deliveries per second leave, shared fairly between routes."""

import math
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

# Above 40 per second, deliveries leave in batches this many seconds apart, so that a timer of the
# event loop suffices.
BATCH_INTERVAL = 0.025
# Deliveries that may wait in all, whatever `message_hwm` says: unset it bounds nothing, and a
# weight may be 0.
QUEUE_MAX = 250_000


def weight(item_size: int, block_size: int) -> int:
    """What an item counts: its size in blocks, both in bytes, or 1 where no size is set (<= 0)."""
    return -(-item_size // block_size) if block_size > 0 else 1


class _Bucket(Generic[T]):
    """What waits for one route."""

    __slots__ = ("debt", "queue", "weight")

    def __init__(self) -> None:
        self.queue: deque[tuple[int, T]] = deque()
        self.weight = 0  # of the queue
        self.debt = 0  # turns to pass because a delivery weighed more than its batch had left


class RateLimiter(Generic[T]):
    """Lets `rate` deliveries per second leave, over all buckets in turn.

    What waits in one bucket weighs at most `hwm`. A delivery takes as many turns as it weighs, at
    least one. When nothing has left for one interval, the first batch leaves at once.
    """

    def __init__(self, rate: int, hwm: int, queue_max: int = QUEUE_MAX) -> None:
        per_second = round(1 / BATCH_INTERVAL)
        if rate >= per_second:
            self._interval = BATCH_INTERVAL
            self._batch = math.ceil(rate / per_second)
        else:
            self._interval = 1 / rate
            self._batch = 1
        self._hwm = hwm  # <= 0: no bound but `queue_max`
        self._queue_max = queue_max
        self._buckets: dict[str, _Bucket[T]] = {}
        self._turns: deque[str] = deque()  # the names of all buckets; the first has the next turn
        self._not_before = 0.0
        self._resting = True  # nothing has waited since the last batch
        self.waiting = 0  # deliveries in all buckets
        # When to call due() again; in the past: at once; None: nothing waits, and no debt either.
        self.next_at: float | None = None

    def add(self, bucket: str, weight: int, delivery: T) -> bool:
        """Queue `delivery`. False: the bucket is at its bound, and the delivery is dropped."""
        waiting = self._buckets.get(bucket)
        heaped = (waiting.weight if waiting is not None else 0) + weight
        if self.waiting >= self._queue_max or heaped > self._hwm > 0:
            return False
        if waiting is None:
            waiting = self._buckets[bucket] = _Bucket()
            self._turns.append(bucket)
        waiting.queue.append((weight, delivery))
        waiting.weight = heaped
        self.waiting += 1
        if self.next_at is None:
            self.next_at = self._not_before
            self._resting = True
        return True

    def due(self, now: float) -> list[T]:
        """The deliveries whose turn has come, in order; none before `next_at`."""
        if self.next_at is None or now < self.next_at:
            return []
        ready = list(self._take_batch())
        # The rate is met on average even if the timer is a little late each time; a long delay, or
        # a time without deliveries, is not caught up.
        on_schedule = not self._resting and now - self.next_at < self._interval
        self._not_before = (self.next_at if on_schedule else now) + self._interval
        self._resting = False
        self.next_at = self._not_before if self._buckets else None
        return ready

    def _take_batch(self) -> Iterator[T]:
        turns = self._turns
        used = 0
        while turns and used < self._batch:
            name = turns[0]
            bucket = self._buckets[name]
            if bucket.debt:
                bucket.debt -= 1
                used += 1
            else:
                heavy, delivery = bucket.queue.popleft()
                bucket.weight -= heavy
                self.waiting -= 1
                used += max(heavy, 1)
                bucket.debt = max(used - self._batch, 0)
                yield delivery
            if bucket.queue or bucket.debt:
                turns.rotate(-1)
            else:
                turns.popleft()
                del self._buckets[name]
