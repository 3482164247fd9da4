"""A SockJS session by HTTP: the client's end of a WebSocket session that comes and goes.

Messages wait in a queue for a request that receives: a poll, which takes one frame, or a stream,
which takes many. The client may be away for a few seconds between two of them. Every transition of
the state is in this file; requests are in `sockjs`.
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from typing import Protocol

from gripproxy.backend.request import Outgoing
from gripproxy.clients.front import Front
from gripproxy.clients.session import Session
from gripproxy.clients.sockjssocket import HEARTBEAT_INTERVAL, Assembler, is_data, quoted
from gripproxy.deadlines import Alarm
from gripproxy.errors import WebSocketError
from gripproxy.grip import sockjs
from gripproxy.grip.item import WsMessage
from gripproxy.http1.head import Headers
from gripproxy.hub.fanout import Batch
from gripproxy.websocket.frames import TEXT, Frame

# Seconds, as in Pushpin and in SockJS's own server.
AWAY_MAX = 5.0  # without a request that receives
LINGER = 5.0  # that the close frame is repeated for

_STILL_OPEN = sockjs.close(2010, b"Another connection still open")
_LEFT = sockjs.close(3000, b"Client already closed connection")


class Receiver(Protocol):
    """A request that receives."""

    @property
    def blocked(self) -> bool:
        """Whether the client reads more slowly than it is sent to."""

    @property
    def unread(self) -> int:
        """Bytes that the client has left unread."""

    def send(self, frame: bytes, *, last: bool = False) -> bool:
        """Send a frame; True: that was all that this request can take."""

    def refuse(self, code: int, reason: bytes, fields: Headers, body: bytes) -> None:
        """Answer with something else than a frame."""

    def gone(self) -> None:
        """The session has ended without a close frame."""

    def abort(self) -> None:
        """Close the client's connection at once."""

    def log(self, target: str, outcome: str) -> None:
        """The session that it asked for was accepted or refused."""


class Sender(Protocol):
    """A request that sends."""

    def sent(self) -> None:
        """All of it was taken."""

    def gone(self) -> None:
        """The session has ended."""


class State(Enum):
    """How far a session has come."""

    CONNECTING = auto()  # the request that opened it has no answer yet
    OPEN = auto()
    CLOSING = auto()  # the client is to be told that it is closed
    LEFT = auto()  # the client has broken off a request, which closes; the backend has to answer
    LOST = auto()  # the backend has gone, and messages are left
    CLOSED = auto()  # the close frame was sent, and is repeated for whoever asks again
    ENDED = auto()  # and forgotten


class SockJsSession:
    """One session. Its requests say what they want, and are told what to answer."""

    __slots__ = (
        "_assembler",
        "_blocked",
        "_close_frame",
        "_front",
        "_key",
        "_last",
        "_paused",
        "_queue",
        "_queued",
        "_receiver",
        "_sender",
        "_session",
        "_state",
        "_timer",
        "_unsent",
        "number",
    )

    def __init__(
        self,
        front: Front,
        outgoing: Outgoing,
        key: tuple[str, bytes],
        opener: Receiver,
        number: int,
    ) -> None:
        self._front = front
        self._key = key
        self.number = number  # what logs call the client's connection: the one that opened
        self._session = Session(front, outgoing, self)
        self._assembler = Assembler(front.limits.queue_bytes, self._on_too_large)
        self._state = State.CONNECTING
        self._receiver: Receiver | None = opener
        self._last = opener  # the request that received last
        self._queue: list[bytes] = []  # messages for the client, as JSON
        self._queued = 0  # bytes in it, which count towards `Front.queued_bytes`
        self._blocked = False  # the backend was told that the client takes no more
        self._close_frame = b""
        self._sender: Sender | None = None
        self._unsent: deque[bytes] = deque()  # messages of the client that have to wait
        self._paused = False  # the backend takes no more of them
        self._timer = Alarm(self._on_timer)

    def begin(self) -> None:
        """Open it with the backend; the opener is answered once that has accepted."""
        self._front.sockjs_sessions[self._key] = self
        self._session.begin()

    # What the client's requests call.

    def receive(self, request: Receiver) -> None:
        """Give it the next frame, or many, as soon as there are any."""
        if self._state is State.CLOSED:
            request.send(self._close_frame, last=True)
        elif self._state is State.LEFT:
            request.send(_LEFT, last=True)
        elif self._receiver is not None:
            request.send(_STILL_OPEN, last=True)
        else:
            self._receiver = self._last = request
            self._set_timer(HEARTBEAT_INTERVAL)
            self._flush()

    def transmit(self, request: Sender, messages: Iterable[bytes]) -> bool:
        """Take messages for the backend; False: others wait already."""
        if self._unsent or self._sender is not None:
            return False
        self._sender = request
        self._unsent.extend(messages)
        self._pump()
        return True

    @property
    def closed_by(self) -> bytes | None:
        """The close frame that was sent to the client already."""
        return self._close_frame if self._state is State.CLOSED else None

    def on_receiver_ready(self) -> None:
        """The client has caught up."""
        self._flush()

    def on_lost(self, request: Receiver | Sender) -> None:
        """The client has broken off a request."""
        if request is self._sender:
            self._sender = None  # its messages go on
        if request is not self._receiver:
            return
        self._receiver = None
        if self._state is State.CONNECTING:
            self._give_up()
        elif self._state is not State.OPEN:
            self._set_timer(AWAY_MAX)
        elif self._front.stopping:
            self._give_up()
        else:
            # That is how a client closes: it may have lost messages, and knows it.
            self._state = State.LEFT
            self._discard_queue()
            if self._blocked:
                self._unblock()
            self._set_timer(self._front.limits.ws_close_timeout)
            self._session.on_client_close(None, b"")

    # What the session calls.

    @property
    def unread(self) -> int:
        """Bytes that the client has left unread."""
        return self._queued + (self._receiver.unread if self._receiver is not None else 0)

    @property
    def direct(self) -> None:
        """Nowhere: messages are wrapped."""

    def accept(self, fields: Headers, grip: bytes | None) -> None:
        """Open the session; the client sees nothing of the fields."""
        assert self._receiver is not None
        self._state = State.OPEN
        self._receiver.log(self._session.target.name, "code=101 0")
        self._deliver(sockjs.OPEN)
        self._pump()

    def refuse(self, code: int, reason: bytes, fields: Headers, body: bytes) -> None:
        """Answer the opener with something else."""
        receiver, self._receiver = self._receiver, None
        assert receiver is not None
        self._end()
        receiver.log(self._session.target.name, f"code={code} {len(body)}")
        receiver.refuse(code, reason, fields, body)

    def send(self, piece: Frame) -> None:
        """Queue a message of the backend, once it is whole."""
        content = self._assembler.feed(piece)
        if content is None or self._state is not State.OPEN:
            return
        self._add(sockjs.quoted(content))
        self._flush()
        if self._queued >= self._front.limits.ws_queue_bytes and not self._blocked:
            self._blocked = True
            self._session.on_client_blocked()

    def flush(self) -> None:
        """Nothing: a request that waits has been answered."""

    def publish(self, batch: Batch) -> None:
        """Queue what was published."""
        for string in quoted(batch).strings:
            self._add_published(string)
        self._flush()

    def publish_one(self, batch: Batch, index: int) -> None:
        """Queue one of the messages that were published."""
        self.send_message(batch.messages[index])

    def send_message(self, message: WsMessage) -> None:
        """Queue a message that is for this client only."""
        if is_data(message):
            self._add_published(sockjs.quoted(message.content))
            self._flush()

    def close(self, code: int | None, reason: bytes) -> None:
        """Tell the client so, behind what it has to read."""
        self._close_frame = sockjs.close(code or 0, reason or b"Connection closed")
        if self._state is State.OPEN:
            self._state = State.CLOSING
            self._pump()  # what waits is for nobody now
            if self._receiver is not None:
                self._set_timer(self._front.limits.ws_close_timeout)
            self._flush()

    def fail(self, error: WebSocketError) -> None:
        """The client has asked for too much: tell it."""
        self._session.on_client_lost()
        self.close(error.code, str(error).encode())

    def finish(self) -> None:
        """Both ends have closed: the close frame is repeated for a while."""
        self._state = State.CLOSED
        self._discard_queue()
        self._set_timer(LINGER)

    def drop(self) -> None:
        """The backend has gone; what was sent before can still be received."""
        if self._receiver is None and self._queue:
            self._state = State.LOST
            self._pump()
            return
        receiver, self._receiver = self._receiver, None
        self._end()
        if receiver is None or (self._queue and receiver.send(sockjs.messages(self._queue))):
            return
        receiver.gone()

    def pause(self) -> None:
        """Let requests that send wait."""
        self._paused = True

    def resume(self) -> None:
        """Take what waits."""
        self._paused = False
        self._pump()

    # Steps.

    def _pump(self) -> None:
        """Hand the client's messages to the session, as far as it takes them."""
        if self._state is State.CONNECTING:
            return
        unsent, session = self._unsent, self._session
        if unsent and not self._paused and self._state is State.OPEN:
            while unsent and not self._paused:
                session.on_client_frame(Frame(TEXT, unsent.popleft()))
            session.on_client_read()
        if self._state is not State.OPEN:
            unsent.clear()
        if not unsent and self._sender is not None:
            sender, self._sender = self._sender, None
            sender.sent()

    def _flush(self) -> None:
        """Hand what waits to the request that receives."""
        receiver = self._receiver
        if receiver is None or receiver.blocked or self._state is State.CONNECTING:
            return
        if self._queue:
            # The backend's end looks at `unread`, too, and waits to be told.
            bound = self._front.limits.ws_queue_bytes
            waited_for = self._blocked or self._queued >= bound
            self._deliver(sockjs.messages(self._next()))
            if waited_for and self._queued < bound:
                self._unblock()
        if self._state is State.LOST and not self._queue:
            rest, self._receiver = self._receiver, None
            self._end()
            if rest is not None:
                rest.gone()
        elif self._receiver is not None and self._queue:
            self._flush()
        elif self._receiver is not None and self._state is State.CLOSING:
            self._receiver = None
            receiver.send(self._close_frame, last=True)
            self.finish()
            # Not from within what the session is just doing.
            self._front.loop.call_soon(self._session.on_client_close, None, b"")

    def _deliver(self, frame: bytes) -> None:
        """Send `frame` to the request that receives, and wait for the next if that was all."""
        assert self._receiver is not None
        if self._receiver.send(frame):
            self._receiver = None
            self._set_timer(AWAY_MAX)
        else:
            self._set_timer(HEARTBEAT_INTERVAL)

    def _add_published(self, string: bytes) -> None:
        if self._state is not State.OPEN:
            return
        front, size = self._front, len(string)
        limits = front.limits
        if (
            self._queued + size > limits.queue_bytes
            or front.queued_bytes + size > limits.queue_total_bytes
        ) and (self._receiver is None or self._receiver.blocked):
            self._session.on_overflow(1)
        else:
            self._add(string)

    def _add(self, string: bytes) -> None:
        self._queue.append(string)
        self._queued += len(string)
        self._front.queued_bytes += len(string)

    def _next(self) -> list[bytes]:
        """Take messages for one frame: what is in it counts no more, so there is a bound to it."""
        size = taken = 0
        while taken < len(self._queue) and size < self._front.limits.ws_queue_bytes:
            size += len(self._queue[taken])
            taken += 1
        messages = self._queue[:taken]
        del self._queue[:taken]
        self._queued -= size
        self._front.queued_bytes -= size
        return messages

    def _discard_queue(self) -> None:
        self._queue = []
        self._front.queued_bytes -= self._queued
        self._queued = 0

    def _unblock(self) -> None:
        self._blocked = False
        self._session.on_client_ready()

    def _on_too_large(self) -> None:
        self._session.on_overflow(1)

    def _on_timer(self) -> None:
        receiver = self._receiver
        if self._state is State.CLOSED:
            self._end()
        elif receiver is None:
            if self._last.unread:  # it does not ask for more before it has read that
                self._set_timer(AWAY_MAX)
            else:
                self._give_up()
        elif self._state is State.CLOSING:
            self._receiver = None
            self._give_up()
            receiver.abort()
        elif receiver.blocked:
            self._set_timer(HEARTBEAT_INTERVAL)
        else:
            self._deliver(sockjs.HEARTBEAT)

    def _set_timer(self, seconds: float) -> None:
        self._front.deadlines.set(self._timer, self._front.loop.time() + seconds)

    def _give_up(self) -> None:
        """The client is gone for good."""
        self._end()
        self._session.on_client_lost()

    def _end(self) -> None:
        """Forget the session; whoever still waits is told."""
        if self._state is State.ENDED:
            return
        self._state = State.ENDED
        front = self._front
        front.deadlines.clear(self._timer)
        del front.sockjs_sessions[self._key]
        self._front.queued_bytes -= self._queued
        self._queued = 0
        self._unsent.clear()
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.gone()
