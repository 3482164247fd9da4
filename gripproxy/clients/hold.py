"""Held responses: a long-poll, which is answered once, and a stream, which grows until it ends.

A hold is a `Subscriber` of the hub. It ends once: by its answer, by a retry, by its end being
published, or because the client has left; from then on `deliver` does nothing, since a fan-out may
still have it in hand.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from gripproxy.clients.front import Front
from gripproxy.clients.response import Framing
from gripproxy.deadlines import Timed
from gripproxy.errors import HttpError
from gripproxy.grip.instruct import Channel, KeepAlive, KeepAliveMode
from gripproxy.grip.instruct import Response as InstructResponse
from gripproxy.grip.item import Action, HttpResponse
from gripproxy.http1.body import LAST_CHUNK, chunk
from gripproxy.hub.fanout import Batch
from gripproxy.hub.registry import Mode
from gripproxy.routes import Route

if TYPE_CHECKING:
    from gripproxy.clients.connection import ClientConnection


class Subscriptions:
    """The channels of one hold under their full names, with what is known of their last
    messages.
    """

    __slots__ = ("_prefix", "bucket", "channels", "previous")

    def __init__(self, route: Route, channels: Sequence[Channel], implicit: Sequence[str]) -> None:
        prefix = self._prefix = route.prefix
        self.bucket = route.id or ""
        self.channels = tuple(
            dict.fromkeys([prefix + channel.name for channel in channels] + list(implicit))
        )
        # Full name to the id of the message that the client has, for channels where the backend
        # told it.
        self.previous = {
            prefix + channel.name: channel.prev_id
            for channel in channels
            if channel.prev_id is not None
        } or None

    def last_ids(self) -> dict[str, str]:
        """The ids that the backend is told on a retry, by the names that it knows."""
        return {name[len(self._prefix) :]: last for name, last in (self.previous or {}).items()}


class Waiting(Protocol):
    """The exchange behind a response hold."""

    def answer(self, instruct: InstructResponse, response: HttpResponse | None) -> None:
        """Answer the client as the instruction says, or with what was published."""

    def retry(self, last_ids: Mapping[str, str]) -> None:
        """Ask the backend again."""


class ResponseHold(Timed):
    """A request that waits for one message, or for its timeout."""

    mode = Mode.RESPONSE

    __slots__ = ("_ended", "_exchange", "_front", "_response", "_subscriptions")

    def __init__(
        self,
        front: Front,
        exchange: Waiting,
        subscriptions: Subscriptions,
        response: InstructResponse,
    ) -> None:
        super().__init__()
        self._front = front
        self._exchange = exchange
        self._subscriptions = subscriptions
        self._response = response
        self._ended = False

    @property
    def bucket(self) -> str:
        return self._subscriptions.bucket

    def begin(self, timeout: float) -> None:
        """Listen to the channels for at most `timeout` seconds."""
        for channel in self._subscriptions.channels:
            self._front.registry.subscribe(channel, self)
        self._front.deadlines.set(self, self._front.loop.time() + timeout)

    def deliver(self, batch: Batch) -> None:
        if self._ended:
            return
        previous = self._subscriptions.previous
        if previous is not None and batch.channel in previous:
            response = self._follow(batch, previous)
        else:
            response = batch.response
        if response is None or self._ended:
            return
        self.end()
        if response.action is Action.HINT:
            self._exchange.retry(self._subscriptions.last_ids())
        else:
            self._exchange.answer(self._response, response)

    def expired(self, now: float) -> None:
        self.end()
        self._exchange.answer(self._response, None)

    def end(self) -> None:
        """Listen no more."""
        if not self._ended:
            self._ended = True
            front = self._front
            front.deadlines.clear(self)
            now = front.loop.time()  # the client is likely to ask again, so its channels linger
            for channel in self._subscriptions.channels:
                front.registry.unsubscribe(channel, self, now)

    def _follow(self, batch: Batch, previous: dict[str, str]) -> HttpResponse | None:
        """The first message for us of a channel whose messages must follow each other.

        A gap means a retry.
        """
        channel = batch.channel
        for item in batch.items:
            if item.prev_id != previous[channel]:
                self._front.sequencer.forget(channel)
                self.end()
                self._exchange.retry(self._subscriptions.last_ids())
                return None
            if item.id is not None:
                previous[channel] = item.id
            response = item.http_response
            if response is not None and response.action in (Action.SEND, Action.HINT):
                return response
        return None


class StreamHold(Timed):
    """A response whose body grows with every message."""

    __slots__ = (
        "_chunked",
        "_client",
        "_ended",
        "_front",
        "_keep_alive",
        "_rearms",
        "_subscriptions",
    )

    mode = Mode.STREAM
    held = True

    def __init__(
        self,
        front: Front,
        client: "ClientConnection",
        subscriptions: Subscriptions,
        keep_alive: KeepAlive | None,
        framing: Framing,
    ) -> None:
        super().__init__()
        self._front = front
        self._client = client
        self._subscriptions = subscriptions
        self._keep_alive = keep_alive
        self._rearms = keep_alive is not None and keep_alive.mode is KeepAliveMode.IDLE
        self._chunked = framing is Framing.CHUNKED
        self._ended = False

    @property
    def bucket(self) -> str:
        return self._subscriptions.bucket

    def begin(self) -> None:
        """Listen to the channels."""
        for channel in self._subscriptions.channels:
            self._front.registry.subscribe(channel, self)
        self._set_timer()

    def deliver(self, batch: Batch) -> None:
        if self._ended:
            return
        data = batch.chunks if self._chunked else batch.stream
        if data:
            # The shortest way for a client that keeps up: this line runs once for each delivery.
            client = self._client
            if not client.blocked:
                client.active = True
                client.transport.write(data)
            elif not client.queue(data) and not self._drop(batch):
                return
            if self._rearms:
                self._set_timer()
        if batch.closes_stream:
            self.end()
            if self._chunked:
                self._client.write(LAST_CHUNK)
            self._client.finish()

    def expired(self, now: float) -> None:
        keep_alive = self._keep_alive
        if keep_alive is None or self._client.blocked:
            return
        self._client.write(chunk(keep_alive.content) if self._chunked else keep_alive.content)
        self._set_timer()

    def end(self) -> None:
        """Listen no more."""
        if not self._ended:
            self._ended = True
            self._front.deadlines.clear(self)
            for channel in self._subscriptions.channels:
                self._front.registry.unsubscribe(channel, self)

    # What the client's connection calls.

    def on_client_lost(self) -> None:
        self.end()

    def on_client_blocked(self) -> None:
        """The keep-alive pauses by itself: nothing is sent, and the timer not set again."""

    def on_client_ready(self) -> None:
        self._set_timer()

    def on_request_content(self, content: bytes, finished: bool) -> None:
        """Nothing: a stream begins when its request is complete."""

    def on_request_broken(self, error: HttpError) -> None:
        """Nothing, for the same reason."""

    def _set_timer(self) -> None:
        keep_alive = self._keep_alive
        if keep_alive is not None and not self._ended:
            self._front.deadlines.set(self, self._front.keep_alive_at(keep_alive.timeout))

    def _drop(self, batch: Batch) -> bool:
        """The client has too much unread. True: it loses this much; False: it is closed.

        Closing is the default, since a client can notice that and recover.
        """
        front, number, lost = self._front, self._client.number, len(batch.items)
        front.stats.drops["client-queue"] += lost
        if front.limits.drop_when_full:
            front.warn(
                "%d messages dropped: channel=%s connection=%d reads too slowly",
                lost,
                batch.channel,
                number,
            )
            return True
        front.warn("connection %d closed: it reads too slowly, channel=%s", number, batch.channel)
        self.end()
        self._client.transport.abort()
        return False
