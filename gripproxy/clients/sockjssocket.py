"""SockJS over a WebSocket: messages inside messages, between a client's socket and its session."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from gripproxy.backend.request import Outgoing
from gripproxy.clients.front import Front
from gripproxy.clients.session import Session
from gripproxy.deadlines import Alarm
from gripproxy.errors import HttpError, WebSocketError
from gripproxy.grip import sockjs
from gripproxy.grip.item import Action, Item, WsMessage, WsType
from gripproxy.http1.head import Headers
from gripproxy.hub.fanout import Batch
from gripproxy.routes import Target, normalize_path
from gripproxy.websocket.frames import FIRST_CONTROL, TEXT, Frame

if TYPE_CHECKING:
    from gripproxy.clients.websocket import ClientSocket

# Seconds, as in Pushpin and in SockJS's own server.
HEARTBEAT_INTERVAL = 25.0

# Of the request that opens a session by HTTP; the handshake has no body.
_OF_BODY = frozenset((b"content-length", b"content-type", b"expect", b"transfer-encoding"))
_SCHEMES = {b"http": b"ws", b"https": b"wss"}


class FixedPeer:
    """The other end of a connection that may be gone already."""

    __slots__ = ("peer",)

    def __init__(self, peer: str) -> None:
        self.peer = peer


def sockjs_path(outgoing: Outgoing) -> bytes | None:
    """The path behind the prefix of the route's `sockjs`; None: it is not for SockJS."""
    prefix = outgoing.route.sockjs
    if prefix is None:
        return None
    path = normalize_path(outgoing.target.partition(b"?")[0])
    return path[len(prefix) :] if path.startswith(prefix) else None


def as_websocket(outgoing: Outgoing, suffix: bytes = b"") -> Outgoing:
    """The handshake that the targets are asked with: they see one path for all of SockJS.

    Without `sockjs_as_path` that is the prefix with `suffix`.
    """
    route, sender = outgoing.route, outgoing.sender
    _, mark, query = outgoing.target.partition(b"?")
    return outgoing._replace(
        method=b"GET",
        target=(route.sockjs_as_path or (route.sockjs or b"") + suffix) + mark + query,
        scheme=_SCHEMES.get(outgoing.scheme, outgoing.scheme),
        headers=[field for field in outgoing.headers if field[0].lower() not in _OF_BODY],
        sender=sender._replace(connection=FixedPeer(sender.connection.peer)),
    )


def open_session(
    front: Front, outgoing: Outgoing, socket: "ClientSocket"
) -> "Session | SockJsSocket":
    """The session behind a client's socket, for SockJS or not.

    Raises HttpError (404) where SockJS has no such socket.
    """
    path = sockjs_path(outgoing)
    if path is None:
        return Session(front, outgoing, socket)
    asked = as_websocket(outgoing, b"/websocket")
    if path == b"/websocket":
        return Session(front, asked, socket)
    if sockjs.session_path(path) is None:
        raise HttpError("Not Found", 404)
    return SockJsSocket(front, asked, socket)


class Quoted(NamedTuple):
    """What a batch says to SockJS clients."""

    strings: list[bytes]  # each message as JSON
    framed: Batch  # the same for sockets, as messages of their own


def quoted(batch: Batch) -> Quoted:
    """The messages of `batch` for SockJS clients, encoded once for all of them."""
    return batch.encoded(Quoted, _quote)


def _quote(batch: Batch) -> Quoted:
    strings = [sockjs.quoted(message.content) for message in batch.messages if is_data(message)]
    items = [Item(batch.channel, ws_message=_text(string)) for string in strings]
    return Quoted(strings, Batch(batch.channel, items, batch.size))


def is_data(message: WsMessage) -> bool:
    """Whether it says something to a SockJS client, which knows no pings."""
    return message.action is Action.SEND and message.type in (WsType.TEXT, WsType.BINARY)


def _text(string: bytes) -> WsMessage:
    return WsMessage(Action.SEND, WsType.TEXT, sockjs.messages([string]))


class Assembler:
    """Puts messages together from their pieces."""

    __slots__ = ("_limit", "_on_too_large", "_parts", "_size")

    def __init__(self, limit: int, on_too_large: Callable[[], None]) -> None:
        self._limit = limit  # bytes
        self._on_too_large = on_too_large
        self._parts: list[bytes] | None = None
        self._size = 0

    def feed(self, received: Frame) -> bytes | None:
        """The message that ends with this frame or piece; None: it goes on, or is of no use."""
        opcode, payload, fin = received
        if opcode >= FIRST_CONTROL:
            return None
        if self._parts is None:
            if fin and len(payload) <= self._limit:
                return payload
            self._parts = []
        before, self._size = self._size, self._size + len(payload)
        if self._size <= self._limit:
            self._parts.append(payload)
        elif before <= self._limit:
            self._parts.clear()
            self._on_too_large()
        if not fin:
            return None
        parts, self._parts = self._parts, None
        size, self._size = self._size, 0
        return b"".join(parts) if size <= self._limit else None


class SockJsSocket:
    """Stands between a client's socket and its session, and speaks to each as the other."""

    __slots__ = ("_from_backend", "_from_client", "_front", "_session", "_socket", "_timer")

    def __init__(self, front: Front, outgoing: Outgoing, socket: "ClientSocket") -> None:
        self._front = front
        self._socket = socket
        self._session = Session(front, outgoing, self)
        limits = front.limits
        # The wrapping takes room too; what is inside must fit into what a client may send.
        self._from_client = Assembler(2 * limits.ws_queue_bytes, self._abort)
        self._from_backend = Assembler(limits.queue_bytes, self._on_too_large)
        self._timer = Alarm(self._beat)

    def begin(self) -> None:
        """Open the session."""
        self._session.begin()

    @property
    def target(self) -> Target:
        """Who is asked, or was asked last."""
        return self._session.target

    # What the socket tells its session.

    def on_client_frame(self, received: Frame) -> None:
        payload = self._from_client.feed(received)
        if not payload:
            return
        messages = sockjs.parse_messages(payload)
        if messages is None:
            self._abort()
            return
        for message in messages:
            self._session.on_client_frame(Frame(TEXT, message))

    def on_client_read(self) -> None:
        self._session.on_client_read()

    def on_client_close(self, code: int | None, reason: bytes) -> None:
        self._session.on_client_close(code, reason)

    def on_client_lost(self) -> None:
        self._stop()
        self._session.on_client_lost()

    def on_client_blocked(self) -> None:
        self._session.on_client_blocked()

    def on_client_ready(self) -> None:
        self._session.on_client_ready()

    def on_overflow(self, lost: int) -> None:
        self._session.on_overflow(lost)

    # What the session tells the client's end.

    @property
    def number(self) -> int:
        return self._socket.number

    @property
    def unread(self) -> int:
        return self._socket.unread

    @property
    def direct(self) -> None:
        """Nowhere: messages are wrapped."""

    def accept(self, fields: Headers, grip: bytes | None) -> None:
        self._socket.accept(fields, grip)
        self._beat_later()
        self._socket.send(Frame(TEXT, sockjs.OPEN))
        self._socket.flush()

    def refuse(self, code: int, reason: bytes, fields: Headers, body: bytes) -> None:
        self._socket.refuse(code, reason, fields, body)

    def send(self, piece: Frame) -> None:
        content = self._from_backend.feed(piece)
        if content is not None:
            self._socket.send(Frame(TEXT, sockjs.messages([sockjs.quoted(content)])))

    def flush(self) -> None:
        self._socket.flush()

    def publish(self, batch: Batch) -> None:
        self._socket.publish(quoted(batch).framed)

    def publish_one(self, batch: Batch, index: int) -> None:
        self.send_message(batch.messages[index])

    def send_message(self, message: WsMessage) -> None:
        if is_data(message):
            self._socket.send_message(_text(sockjs.quoted(message.content)))

    def close(self, code: int | None, reason: bytes) -> None:
        self._stop()
        self._socket.close(code, reason)

    def finish(self) -> None:
        self._stop()
        self._socket.finish()

    def drop(self) -> None:
        self._stop()
        self._socket.drop()

    def fail(self, error: WebSocketError) -> None:
        self._socket.fail(error)

    def pause(self) -> None:
        self._socket.pause()

    def resume(self) -> None:
        self._socket.resume()

    # Steps.

    def _beat(self) -> None:
        if not self._socket.unread:  # otherwise it lives by what it has to read
            self._socket.send(Frame(TEXT, sockjs.HEARTBEAT))
            self._socket.flush()
        self._beat_later()

    def _beat_later(self) -> None:
        self._front.deadlines.set(self._timer, self._front.loop.time() + HEARTBEAT_INTERVAL)

    def _stop(self) -> None:
        self._front.deadlines.clear(self._timer)

    def _abort(self) -> None:
        """The client sends what is not SockJS: no close frame, as in Pushpin."""
        self._session.on_client_lost()
        self.drop()

    def _on_too_large(self) -> None:
        self._session.on_overflow(1)
