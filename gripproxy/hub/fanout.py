"""What is published to a channel, handed to each of its subscribers.

Messages leave in the order in which they came, whatever their channels. Those that follow one
another on the same channel leave together: such a batch is encoded once, and each subscriber takes
it with one write. A batch for many subscribers goes out in slices between which the event loop
attends to others.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar, cast

from gripproxy.grip.item import (
    Action,
    HttpResponse,
    Item,
    WsMessage,
    WsType,
    content_size,
    footprint,
)
from gripproxy.hub.registry import Mode, Registry, Subscriber
from gripproxy.websocket.deflate import compress
from gripproxy.websocket.frames import BINARY, PING, PONG, TEXT, frame

# One slice in deliveries of a small message: about 2 ms of work. Every COST_BYTES more count as
# another delivery.
SLICE = 256
COST_BYTES = 8192
# One batch is written to a client in one piece, so its size bounds what one slow client can add at
# once.
BATCH_ITEMS = 64
BATCH_BYTES = 262_144

T = TypeVar("T")
_OPCODES = {WsType.TEXT: TEXT, WsType.BINARY: BINARY, WsType.PING: PING, WsType.PONG: PONG}
# Python 3.11 takes 80 ns to find a member in its class.
_SEND, _HINT = Action.SEND, Action.HINT


class Batch:
    """Messages of one channel in their order, encoded at most once for each kind of subscriber."""

    def __init__(self, channel: str, items: Sequence[Item], size: int) -> None:
        self.channel = channel
        self.items = items
        self.size = size  # bytes of content
        self.cost = 1 + size // COST_BYTES  # of one delivery, against SLICE
        self._frames: dict[int, bytes] = {}
        self._frame: dict[tuple[int, int], bytes] = {}
        self._encoded: dict[Hashable, object] = {}

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

    @cached_property
    def messages(self) -> list[WsMessage]:
        """What it says to WebSockets."""
        return [item.ws_message for item in self.items if item.ws_message is not None]

    @cached_property
    def same_for_all(self) -> bool:
        """Whether every WebSocket without content filters is sent the same, and nothing else."""
        return all(
            message.action in (_SEND, _HINT) and not message.content_filters
            for message in self.messages
        )

    @cached_property
    def sends(self) -> bool:
        """Whether it has something for WebSocket clients to see."""
        return any(message.action is _SEND for message in self.messages)

    @cached_property
    def plain(self) -> bytes:
        """The frames of all messages, not compressed, if it is the same for all."""
        return self.frames()

    def frames(self, window_bits: int = 0) -> bytes:
        """The frames of all messages, if it is the same for all.

        `window_bits` are those of clients that want them compressed (RFC 7692); 0: not compressed.
        """
        data = self._frames.get(window_bits)
        if data is None:
            data = self._frames[window_bits] = b"".join(
                [
                    message_frame(message, window_bits)
                    for message in self.messages
                    if message.action is _SEND
                ]
            )
        return data

    def frame(self, index: int, window_bits: int) -> bytes:
        """The frame of one of the messages."""
        key = index, window_bits
        data = self._frame.get(key)
        if data is None:
            data = self._frame[key] = message_frame(self.messages[index], window_bits)
        return data

    def encoded(self, kind: Hashable, encode: Callable[["Batch"], T]) -> T:
        """What `encode` makes of it, which it is asked for once for each kind."""
        if kind not in self._encoded:
            self._encoded[kind] = encode(self)
        return cast(T, self._encoded[kind])

    def _contents(self) -> Iterator[bytes]:
        for item in self.items:
            message = item.http_stream
            if message is None:
                continue
            if message.action is Action.CLOSE:
                return
            if message.action is Action.SEND and message.content:
                yield message.content


class Fanout:
    """The queue between publishers and subscribers."""

    def __init__(
        self,
        registry: Registry,
        on_batch: Callable[[Batch, Sequence[Subscriber]], None],
        deliver: Callable[[Subscriber, Batch], None] | None = None,
    ) -> None:
        self._registry = registry
        self._on_batch = on_batch  # told of each batch and its receivers as it begins
        self._deliver = deliver  # stands between batches of one message and their subscribers
        self._items: deque[tuple[Item, int]] = deque()  # with their footprints
        self._batch: Batch | None = None  # under way
        self._subscribers: Sequence[Subscriber] = ()
        self._position = 0  # of the next subscriber
        self.queued_bytes = 0  # footprints of what waits

    @property
    def queued(self) -> int:
        """How many messages wait."""
        return len(self._items)

    def add(self, items: Iterable[Item]) -> None:
        """Queue `items` in their order."""
        for item in items:
            size = footprint(item)
            self._items.append((item, size))
            self.queued_bytes += size

    def run(self) -> bool:
        """Do one slice of the work; False when none is left."""
        budget = SLICE
        while budget > 0:
            batch = self._batch
            if batch is None:
                if not self._items:
                    return False
                batch = self._begin()
                budget -= 1
            begin = self._position
            end = self._position = begin + max(1, budget // batch.cost)
            subscribers = self._subscribers[begin:end]
            budget -= len(subscribers) * batch.cost
            if end >= len(self._subscribers):
                self._batch = None
                self._subscribers = ()
            if self._deliver is None:
                for subscriber in subscribers:
                    subscriber.deliver(batch)
            else:
                for subscriber in subscribers:
                    self._deliver(subscriber, batch)
        return True

    def _begin(self) -> Batch:
        batch = self._batch = self._take()
        self._subscribers = tuple(self._registry.subscribers(batch.channel))
        self._position = 0
        self._on_batch(batch, self._subscribers)
        return batch

    def _take(self) -> Batch:
        """The next message, and those that follow it on the same channel, up to the bounds of a
        batch.
        """
        items = self._items
        first, occupied = items.popleft()
        taken, size = [first], content_size(first)
        if self._deliver is None:
            while (
                items
                and items[0][0].channel == first.channel
                and len(taken) < BATCH_ITEMS
                and size < BATCH_BYTES
            ):
                item, more = items.popleft()
                taken.append(item)
                size += content_size(item)
                occupied += more
        self.queued_bytes -= occupied
        return Batch(first.channel, taken, size)


def message_frame(message: WsMessage, window_bits: int) -> bytes:
    """The frame of one message; of data only, it can be compressed."""
    opcode = _OPCODES[message.type]
    if window_bits and opcode in (TEXT, BINARY):
        return frame(opcode, compress(message.content, window_bits), rsv1=True)
    return frame(opcode, message.content)


def modes_of(item: Item) -> list[Mode]:
    """The kinds of subscribers that `item` says something to."""
    modes = []
    if item.http_response is not None:
        modes.append(Mode.RESPONSE)
    if item.http_stream is not None:
        modes.append(Mode.STREAM)
    if item.ws_message is not None:
        modes.append(Mode.WEBSOCKET)
    return modes
