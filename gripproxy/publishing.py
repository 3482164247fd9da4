"""The one door by which published items reach the hub, whichever input they came by."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gripproxy.accesslog import AccessLog
from gripproxy.grip.item import Item
from gripproxy.hub.fanout import Batch, Fanout, modes_of
from gripproxy.hub.ratelimit import RateLimiter, weight
from gripproxy.hub.registry import Registry, Subscriber
from gripproxy.hub.sequencer import Sequencer
from gripproxy.stats import Stats

log = logging.getLogger("gripproxy.hub")

# Deliveries per second that no process reaches, so that a higher rate limits nothing and costs
# nothing.
RATE_OUT_OF_REACH = 1_000_000


@dataclass(frozen=True, slots=True)
class PublishLimits:
    """The bounds of publishing; 0 means none."""

    queue_max: int = 100_000  # items that wait for fan-out
    queue_bytes: int = 67_108_864  # of content in them
    rate: int = 0  # deliveries per second
    hwm: int = 0  # weight of the deliveries that wait for one route
    block_size: int = 0  # bytes


class PublishDoor:
    """Takes items from the inputs, and works the hub from the event loop, slice by slice."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: Registry,
        sequencer: Sequencer,
        limits: PublishLimits,
        stats: Stats,
        access: AccessLog,
        warn: Callable[..., None],
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._sequencer = sequencer
        self._limits = limits
        self._stats = stats
        self._access = access
        self._warn = warn
        self._limiter: RateLimiter[tuple[Subscriber, Batch]] | None = None
        if 0 < limits.rate < RATE_OUT_OF_REACH:
            self._limiter = RateLimiter(limits.rate, limits.hwm)
        self._fanout = Fanout(
            registry, self._begun, self._limit if self._limiter is not None else None
        )
        self._running = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None  # of the rate limit
        self._waiting: list[Callable[[], None]] = []  # inputs that want to read again

    def publish(self, items: Sequence[Item]) -> None:
        """Queue `items` in their order; they are dispatched after the current callback."""
        now = self._loop.time()
        registry, sequencer = self._registry, self._sequencer
        for item in items:
            self._fanout.add(sequencer.add(item, now, subscribed=item.channel in registry))
        self._run_soon()

    def recover(self) -> None:
        """Forget every last id, so that whatever is published next is taken as it comes."""
        self._sequencer.forget_all()

    @property
    def full(self) -> bool:
        """Whether the queue is at its bound, so that inputs should read no more."""
        fanout, limits = self._fanout, self._limits
        return fanout.queued >= limits.queue_max or fanout.queued_bytes >= limits.queue_bytes

    def when_ready(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, after the current callback, as soon as there is room."""
        self._waiting.append(resume)
        self._run_soon()

    def tick(self, now: float) -> None:
        """To be called every second.

        What waited too long for a predecessor goes on, what lingers ends.
        """
        self._fanout.add(self._sequencer.expire(now))
        self._registry.expire(now)
        if self._fanout.queued:
            self._run_soon()

    def close(self) -> None:
        """Do no more."""
        self._running = self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _run_soon(self) -> None:
        if not self._running:
            self._running = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        if self._closed:
            return
        more = True
        try:
            more = self._fanout.run()
        finally:  # whatever one delivery may do, publishing goes on
            self._running = more
            if more:
                self._loop.call_soon(self._run)
        if self._waiting and not self.full:
            waiting, self._waiting = self._waiting, []
            for resume in waiting:
                self._loop.call_soon(resume)
        if self._limiter is not None and self._timer is None:
            self._deliver_due()  # all that this slice has queued, as far as the rate allows

    def _begun(self, batch: Batch, subscribers: Sequence[Subscriber]) -> None:
        if self._access.enabled:
            modes = Counter(subscriber.mode for subscriber in subscribers)
            for item in batch.items:
                self._access.publish(item.channel, sum(modes[mode] for mode in modes_of(item)))

    def _limit(self, subscriber: Subscriber, batch: Batch) -> None:
        """Let a delivery wait for its turn."""
        limiter = self._limiter
        assert limiter is not None
        item = batch.items[0]
        size = item.size if item.size is not None else batch.size
        if not limiter.add(
            subscriber.bucket, weight(size, self._limits.block_size), (subscriber, batch)
        ):
            self._stats.drops["message-hwm"] += 1
            self._warn("message dropped by message_hwm: channel=%s", batch.channel)

    def _deliver_due(self) -> None:
        limiter = self._limiter
        assert limiter is not None
        self._timer = None
        for subscriber, batch in limiter.due(self._loop.time()):
            subscriber.deliver(batch)
        if limiter.next_at is not None:
            self._timer = self._loop.call_at(limiter.next_at, self._deliver_due)
