"""What is published to a channel, handed to each of its subscribers.

Messages that wait for the same channel leave together: a batch is encoded once, and each subscriber
takes it with one write. Order is kept within a channel. A batch for many subscribers goes out in
slices between which the event loop attends to others, and channels take turns, so nobody waits for
a large fan-out.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

from gripproxy.grip.item import Action, HttpResponse, Item
from gripproxy.hub.registry import Registry, Subscriber

# One slice in deliveries of a small message: about 2 ms of work. Every COST_BYTES more count as
# another delivery.
SLICE = 256
COST_BYTES = 8192
# One batch is written to a client in one piece, so its size bounds what one slow client can add at
# once.
BATCH_ITEMS = 64
BATCH_BYTES = 262_144


class Batch:
    """Messages of one channel in their order, encoded at most once for each kind of subscriber."""

    def __init__(self, channel: str, items: Sequence[Item], size: int) -> None:
        self.channel = channel
        self.items = items
        self.size = size  # bytes of content
        self.cost = 1 + size // COST_BYTES  # of one delivery, against SLICE

    @cached_property
    def stream(self) -> bytes:
        """What a stream shows of it: the contents up to a close, one after the other."""
        return b"".join(self._contents())

    @cached_property
    def chunks(self) -> bytes:
        """The same in the chunked coding, a chunk for each message (RFC 9112 §7.1)."""
        return b"".join([b"%x\r\n%b\r\n" % (len(content), content) for content in self._contents()])

    @cached_property
    def closes_stream(self) -> bool:
        """Whether a message of it ends streams."""
        return any(
            item.http_stream is not None and item.http_stream.action is Action.CLOSE
            for item in self.items
        )

    @cached_property
    def response(self) -> HttpResponse | None:
        """What a waiting response is answered with: the first message that says something to it."""
        for item in self.items:
            response = item.http_response
            if response is not None and response.action in (Action.SEND, Action.HINT):
                return response
        return None

    def _contents(self) -> Iterator[bytes]:
        for item in self.items:
            message = item.http_stream
            if message is None:
                continue
            if message.action is Action.CLOSE:
                return
            if message.action is Action.SEND and message.content:
                yield message.content


class _Job:
    """The messages that wait for one channel, and how far the batch under way has come."""

    __slots__ = ("batch", "channel", "items", "position", "subscribers")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.items: deque[Item] = deque()
        self.batch: Batch | None = None
        self.subscribers: tuple[Subscriber, ...] = ()
        self.position = 0


class Fanout:
    """The queue between publishers and subscribers. `queued` counts the messages in it."""

    def __init__(
        self,
        registry: Registry,
        on_batch: Callable[[Batch, int], None],
        deliver: Callable[[Subscriber, Batch], None] | None = None,
    ) -> None:
        self._registry = registry
        self._on_batch = on_batch  # told of each batch and its number of receivers as it begins
        self._deliver = deliver  # stands between batches of one message and their subscribers
        self._jobs: dict[str, _Job] = {}
        self._turns: deque[_Job] = deque()
        self.queued = 0

    def add(self, items: Iterable[Item]) -> None:
        """Queue `items`, each behind what its channel waits for already."""
        for item in items:
            job = self._jobs.get(item.channel)
            if job is None:
                job = self._jobs[item.channel] = _Job(item.channel)
                self._turns.append(job)
            job.items.append(item)
            self.queued += 1

    def run(self) -> bool:
        """Do one slice of the work; False when none is left."""
        budget = SLICE
        turns = self._turns
        while turns and budget > 0:
            job = turns.popleft()
            budget -= self._advance(job, budget)
            if job.batch is not None or job.items:
                turns.append(job)
            else:
                del self._jobs[job.channel]
        return bool(turns)

    def _advance(self, job: _Job, budget: int) -> int:
        batch = job.batch
        if batch is None:
            batch = job.batch = self._take(job)
            job.subscribers = tuple(self._registry.subscribers(job.channel))
            job.position = 0
            self._on_batch(batch, len(job.subscribers))
        end = job.position + max(1, budget // batch.cost)
        subscribers = job.subscribers[job.position : end]
        if self._deliver is None:
            for subscriber in subscribers:
                subscriber.deliver(batch)
        else:
            for subscriber in subscribers:
                self._deliver(subscriber, batch)
        job.position = end
        if end >= len(job.subscribers):
            job.batch = None
            job.subscribers = ()
        return 1 + len(subscribers) * batch.cost

    def _take(self, job: _Job) -> Batch:
        taken: list[Item] = []
        size = 0
        most = BATCH_ITEMS if self._deliver is None else 1
        while job.items and len(taken) < most and size < BATCH_BYTES:
            item = job.items.popleft()
            taken.append(item)
            size += _size(item)
        self.queued -= len(taken)
        return Batch(job.channel, taken, size)


def _size(item: Item) -> int:
    stream, response, websocket = item.http_stream, item.http_response, item.ws_message
    return (
        (len(stream.content) if stream is not None else 0)
        + (len(response.body) if response is not None else 0)
        + (len(websocket.content) if websocket is not None else 0)
    )
