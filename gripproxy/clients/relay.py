"""A session's backend end where the backend speaks WebSocket itself: frames go as they come."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from gripproxy.backend.headers import request_bytes
from gripproxy.backend.request import KEPT_MAX, Outgoing
from gripproxy.backend.websocket import BackendSocket, SocketLimits, new_key
from gripproxy.clients.front import Front
from gripproxy.deadlines import Alarm
from gripproxy.errors import BackendError, ResponseTimeout
from gripproxy.http1.head import Headers, ResponseHead
from gripproxy.routes import Target, rewrite
from gripproxy.websocket.deflate import OFFER
from gripproxy.websocket.frames import FIRST_CONTROL, Frame, sendable_code

if TYPE_CHECKING:
    from gripproxy.clients.session import Session

_NORMAL = 1000
_PROTOCOL_ERROR = 1002
# Of the client's handshake, what ours has its own of.
_OWN = frozenset((b"sec-websocket-key", b"sec-websocket-version"))


class Relay:
    """The connection to a WebSocket backend that one session has for itself."""

    __slots__ = (
        "_alarm",
        "_answered",
        "_closed",
        "_connecting",
        "_front",
        "_session",
        "_socket",
        "_target",
        "_torn",
        "_unfinished",
    )

    def __init__(
        self, front: Front, session: "Session", outgoing: Outgoing, target: Target
    ) -> None:
        self._front = front
        self._session = session
        self._target = target, outgoing.tls_name(target)
        self._connecting: asyncio.Task[None] | None = None
        self._answered = False  # the backend has sent its close frame
        self._unfinished = False  # the client has begun a message and not ended it
        self._torn: int | None = None  # how it closed in the middle of one (RFC 6455 §5.4)
        self._closed = False  # we have sent ours
        self._alarm: Alarm | None = None  # bounds the wait for the backend
        key = new_key()
        limits = SocketLimits(
            front.pool.head_max,
            front.pool.headers_max,
            KEPT_MAX,
            front.limits.ws_inflate_max,
        )
        self._socket = BackendSocket(
            self,
            _handshake(outgoing, target, key, offers_deflate=front.allow_compression),
            key,
            limits,
            offers_deflate=front.allow_compression,
        )

    # What the session calls.

    def begin(self) -> None:
        target, tls_name = self._target
        self._connecting = self._front.pool.open(
            target, tls_name, self._socket, self._on_unconnected
        )

    def on_connected(self) -> None:
        self._connecting = None
        self._set_alarm(self._on_no_response, self._front.pool.response_timeout)

    def send(self, piece: Frame) -> None:
        if piece.opcode < FIRST_CONTROL:
            self._unfinished = not piece.fin
        self._socket.send(piece)

    def flush(self) -> None:
        self._socket.flush()

    def close(self, code: int | None, reason: bytes) -> None:
        if self._unfinished:
            self._torn = _NORMAL if code is None else code
        self._socket.close(_NORMAL if code is None else sendable_code(code), reason)
        self._closed = True
        if self._answered:
            self._leave()
        else:
            self._set_alarm(self._on_no_answer, self._front.limits.ws_close_timeout)

    def detach(self) -> None:
        if not self._closed:
            self._socket.close(None, b"")
        self._leave()

    def lost(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self._leave()

    def pause(self) -> None:
        self._socket.pause()

    def resume(self) -> None:
        self._socket.resume()

    def refresh(self) -> None:
        """Nothing: such a backend can speak whenever it likes."""

    # What the backend's connection calls.

    def on_upgraded(self, head: ResponseHead) -> None:
        self._clear_alarm()
        self._session.on_backend_accepted(head.headers)

    def on_refused(self, head: ResponseHead, body: bytes) -> None:
        self._clear_alarm()
        self._session.on_backend_refused(head.code, head.reason, head.headers, body)

    def on_failed(self, error: BackendError) -> None:
        self._clear_alarm()
        self._session.on_backend_failed(error)

    def on_frame(self, received: Frame) -> None:
        self._session.on_backend_frame(received)

    def on_read(self) -> None:
        self._session.on_backend_read()

    def on_close(self, code: int | None, reason: bytes) -> None:
        self._answered = True
        if code == _PROTOCOL_ERROR and self._torn is not None:
            code, reason = self._torn, b""  # which is none of the client's errors
        self._session.on_backend_close(code, reason)
        if self._closed:
            self._leave()

    def on_lost(self) -> None:
        self._clear_alarm()
        self._session.on_backend_lost("connection closed by the backend")

    def on_blocked(self) -> None:
        self._session.on_backend_blocked()

    def on_ready(self) -> None:
        self._session.on_backend_ready()

    # Steps.

    def _on_unconnected(self, error: BackendError) -> None:
        self._connecting = None
        self._session.on_backend_unreachable(error)

    def _on_no_response(self) -> None:
        self._socket.abort()
        self._session.on_backend_failed(ResponseTimeout("no response in time"))

    def _on_no_answer(self) -> None:
        self._leave()
        self._session.on_backend_lost("it does not answer the client's close")

    def _leave(self) -> None:
        """Close, within bounds even if the backend reads nothing; it is heard no more."""
        self._socket.end()
        self._set_alarm(self._socket.abort, self._front.limits.ws_close_timeout)

    def _set_alarm(self, call: Callable[[], None], seconds: float) -> None:
        self._clear_alarm()
        self._alarm = Alarm(call)
        self._front.deadlines.set(self._alarm, self._front.loop.time() + seconds)

    def _clear_alarm(self) -> None:
        if self._alarm is not None:
            self._front.deadlines.clear(self._alarm)
            self._alarm = None


def _handshake(outgoing: Outgoing, target: Target, key: bytes, *, offers_deflate: bool) -> bytes:
    transform, sender = outgoing.transform, outgoing.sender
    fields: Headers = [
        field
        for field in transform.handshake(outgoing.headers, sender, outgoing.scheme)
        if field[0].lower() not in _OWN
    ]
    fields += transform.signature(sender)
    if offers_deflate:
        fields.append((b"Sec-WebSocket-Extensions", OFFER))
    fields += [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", key),
    ]
    return request_bytes(
        b"GET", rewrite(outgoing.route, outgoing.target), outgoing.authority(target), fields, 0
    )
