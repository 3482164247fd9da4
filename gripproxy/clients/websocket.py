"""A client's WebSocket (RFC 6455): the frames of one connection, for a session and from it."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gripproxy.backend.request import Outgoing
from gripproxy.clients.front import Front, Pause
from gripproxy.clients.response import ResponseWriter
from gripproxy.clients.routing import route_request
from gripproxy.clients.session import NORMAL, Session
from gripproxy.clients.sockjssocket import SockJsSocket, open_session
from gripproxy.errors import HttpError, WebSocketError
from gripproxy.grip.item import WsMessage
from gripproxy.http1.head import Headers, RequestHead, header
from gripproxy.http1.status import reason_phrase
from gripproxy.hub.fanout import Batch, message_frame
from gripproxy.routes import Target
from gripproxy.websocket.deflate import Deflater, Inflater, compress, negotiate
from gripproxy.websocket.frames import (
    CLOSE,
    FIRST_CONTROL,
    Frame,
    close_payload,
    frame,
    parse_close,
    sendable_code,
)
from gripproxy.websocket.handshake import accept_key, check_request
from gripproxy.websocket.receiver import Receiver

if TYPE_CHECKING:
    from gripproxy.clients.connection import ClientConnection

log = logging.getLogger("gripproxy.clients")

_TEXT = ((b"Content-Type", b"text/plain"),)


class ClientSocket:
    """The connection's occupant from the handshake on, and the client's end of the session.

    Until the session accepts, the client has no answer. Once a close frame was sent nothing more
    is.
    """

    __slots__ = (
        "_bits",
        "_client",
        "_deflater",
        "_extension",
        "_front",
        "_out",
        "_outgoing",
        "_receiver",
        "_relaying",
        "_request",
        "_session",
        "_waiting",
        "_waiting_bytes",
        "closed",
    )

    def __init__(self, front: Front, client: "ClientConnection", request: RequestHead) -> None:
        self._front = front
        self._client = client
        self._request: RequestHead | None = request  # None: accepted
        self._outgoing: Outgoing | None = None
        self._session: Session | SockJsSocket | None = None
        self._receiver = Receiver(masked=True, check_text=True)
        self._extension = b""  # the agreed permessage-deflate
        self._bits = 0  # of the window that messages to the client are compressed for; 0: not
        self._deflater: Deflater | None = None  # of a message that is relayed in pieces
        self._relaying = False  # a message of the backend has begun and not ended
        self._out: list[bytes] = []  # what was relayed and not yet written
        self._waiting: list[bytes] | None = None  # what was published meanwhile
        self._waiting_bytes = 0
        self.closed = False  # a close frame was sent

    def begin(self) -> None:
        """Check the handshake, and open a session behind it."""
        front, request = self._front, self._request
        assert request is not None
        try:
            check_request(request)
            if front.allow_compression:
                self._agree_on_compression(request.headers)
        except HttpError as error:
            self._answer(error.status, f"{error}\n".encode(), _TEXT)
            return
        try:
            outgoing = self._outgoing = route_request(front, self._client, request)
        except HttpError as error:
            self._answer(error.status, f"{error}\n".encode())
            return
        try:
            session = self._session = open_session(front, outgoing, self)
        except HttpError as error:
            self._answer(error.status, f"{error}\n".encode(), _TEXT)
            return
        session.begin()

    def _agree_on_compression(self, headers: Headers) -> None:
        values = [value for name, value in headers if name.lower() == b"sec-websocket-extensions"]
        agreed = negotiate(values)
        if agreed is not None:
            agreement, self._extension = agreed
            self._bits = agreement.bits
            self._receiver.inflater = Inflater(
                agreement.no_context_takeover, self._front.limits.ws_inflate_max
            )

    # What the client's connection calls.

    @property
    def held(self) -> bool:
        return self._request is None

    def on_data(self, data: bytes) -> None:
        session, receiver = self._session, self._receiver
        assert session is not None
        for received in receiver.feed(data):
            if received.opcode == CLOSE:
                session.on_client_close(*parse_close(received.payload))
            else:
                session.on_client_frame(received)
        if receiver.failure is not None:
            self.fail(receiver.failure)
            return
        session.on_client_read()
        if receiver.more and self._client.reading:
            self._front.loop.call_soon(self._read_on)

    def on_request_content(self, content: bytes, finished: bool) -> None:
        """Nothing: a handshake with a body was refused."""

    def on_request_broken(self, error: HttpError) -> None:
        """Nothing, for the same reason."""

    def on_client_lost(self) -> None:
        self._forget_waiting()
        if self._session is not None:
            self._session.on_client_lost()
            if self._request is not None:
                self._log("error")

    def on_client_blocked(self) -> None:
        if self._session is not None:
            self._session.on_client_blocked()

    def on_client_ready(self) -> None:
        if self._session is not None:
            self._session.on_client_ready()

    # What the session calls.

    @property
    def number(self) -> int:
        """What logs call the connection."""
        return self._client.number

    @property
    def unread(self) -> int:
        """Bytes that the client has left unread."""
        return self._client.transport.get_write_buffer_size()

    @property
    def direct(self) -> "ClientConnection | None":
        return None if self._bits or self._relaying or self.closed else self._client

    def accept(self, fields: Headers, grip: bytes | None) -> None:
        """Switch protocols; `grip` is the extension that an upstream proxy is told of."""
        request = self._request
        assert request is not None
        lines = [b"HTTP/1.1 101 Switching Protocols\r\n"]
        lines += [b"%b: %b\r\n" % field for field in fields]
        lines.append(b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ")
        lines.append(accept_key(header(request.headers, b"sec-websocket-key") or b""))
        extensions = b", ".join(filter(None, (self._extension, grip)))
        if extensions:
            lines.append(b"\r\nSec-WebSocket-Extensions: " + extensions)
        lines.append(b"\r\n\r\n")
        self._client.write(b"".join(lines))
        self._log("code=101 0")
        self._request = self._outgoing = None
        self._client.upgrade(self)

    def refuse(self, code: int, reason: bytes, fields: Headers, body: bytes) -> None:
        """Answer the handshake with something else."""
        self._answer(code, body, fields, reason)

    def send(self, piece: Frame) -> None:
        """Relay a frame, or a piece of one, that came from the backend; `flush` lets it go."""
        if self.closed:
            return
        opcode, payload, fin = piece
        if opcode >= FIRST_CONTROL:
            self._out.append(frame(opcode, payload))
            return
        if not self._bits:
            self._out.append(frame(opcode, payload, fin=fin))
        elif fin and not self._relaying:
            self._out.append(frame(opcode, compress(payload, self._bits), rsv1=True))
        else:
            deflater = self._deflater = self._deflater or Deflater(self._bits)
            payload = deflater.feed(payload, fin)
            self._out.append(frame(opcode, payload, fin=fin, rsv1=not self._relaying))
            if fin:
                self._deflater = None
        self._relaying = not fin
        if fin and self._waiting is not None:
            self._send_waiting()

    def flush(self) -> None:
        """Write what was relayed: one system call for all that came together."""
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._client.write(data)

    def publish(self, batch: Batch) -> None:
        """Send what was published, which is the same for all."""
        data = batch.frames(self._bits)
        if data:
            self._queue(data, len(batch.messages))

    def publish_one(self, batch: Batch, index: int) -> None:
        """Send one of the messages that were published."""
        self._queue(batch.frame(index, self._bits), 1)

    def send_message(self, message: WsMessage) -> None:
        """Send a message that is for this client only."""
        self._queue(message_frame(message, self._bits), 1)

    def close(self, code: int | None, reason: bytes) -> None:
        """Send a close frame; the client has so long to answer it."""
        if self.closed:
            return
        # A reason that is not UTF-8 would fail the connection at the client (RFC 6455 §8.1).
        reason = reason.decode("utf-8", "replace").encode()
        self.flush()
        self._client.write(frame(CLOSE, close_payload(sendable_code(code or NORMAL), reason)))
        self.closed = True
        self._forget_waiting()
        self._client.abort_within(self._front.limits.ws_close_timeout)

    def finish(self) -> None:
        """Both ends have closed: so does the connection (RFC 6455 §7.1.1)."""
        self.flush()
        self._client.close(self._front.limits.ws_close_timeout)

    def drop(self) -> None:
        """Close the connection without a close frame, which the client sees as abnormal."""
        self.flush()
        self._forget_waiting()
        self._client.close(self._front.limits.ws_close_timeout)

    def pause(self) -> None:
        """Read the client no more for now."""
        self._client.pause_reading(Pause.UPLOAD)

    def resume(self) -> None:
        """Read the client again."""
        self._client.resume_reading(Pause.UPLOAD)
        if self._receiver.more:
            self._front.loop.call_soon(self._read_on)

    def fail(self, error: WebSocketError) -> None:
        """The client broke the protocol: tell it, and end (RFC 6455 §7.1.7)."""
        session, client = self._session, self._client
        assert session is not None
        log.info("connection %d closed: %s", client.number, error)
        session.on_client_lost()
        self._forget_waiting()
        if self.closed:
            client.close(self._front.limits.ws_close_timeout)
        else:
            self.flush()
            client.write(frame(CLOSE, close_payload(error.code, str(error).encode())))
            self.closed = True
            client.linger()

    # Steps.

    def _read_on(self) -> None:
        """Go on with what was read, and was too much when it was inflated."""
        if self._client.exchange is self and self._client.reading:
            self.on_data(b"")

    def _queue(self, data: bytes, messages: int) -> None:
        """Send `data` when its turn has come, if the client does not leave too much unread."""
        client, front = self._client, self._front
        session = self._session
        if self.closed or session is None:
            return
        self.flush()
        if not self._relaying:
            if not client.blocked:
                client.write(data)
            elif not client.queue(data):
                session.on_overflow(messages)
        elif (
            self._waiting_bytes + len(data) <= front.limits.queue_bytes
            and front.queued_bytes + len(data) <= front.limits.queue_total_bytes
        ):
            self._waiting = self._waiting or []
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            front.queued_bytes += len(data)
        else:
            session.on_overflow(messages)

    def _send_waiting(self) -> None:
        waiting = self._waiting or []
        self._forget_waiting()
        self._queue(b"".join(waiting), len(waiting))

    def _forget_waiting(self) -> None:
        self._waiting = None
        self._front.queued_bytes -= self._waiting_bytes
        self._waiting_bytes = 0

    def _answer(
        self,
        code: int,
        body: bytes,
        fields: Sequence[tuple[bytes, bytes]] = (),
        reason: bytes = b"",
    ) -> None:
        assert self._request is not None
        writer = ResponseWriter(self._client, self._request, cross_origin=False)
        writer.respond(code, reason or reason_phrase(code), fields, body)
        self._log(f"code={code} {writer.sent}")

    def _log(self, outcome: str) -> None:
        front, outgoing, request = self._front, self._outgoing, self._request
        if front.access.enabled and request is not None:
            session = self._session
            route = outgoing.route if outgoing is not None else None
            if route is not None and route.quiet:
                return
            front.access.exchange(
                request,
                outgoing.url if outgoing is not None else request.target.decode("latin-1"),
                self._client,
                route.id if route is not None else None,
                _shown(session.target) if session is not None else None,
                outcome,
                {},
            )


def _shown(target: Target) -> str:
    """As in Pushpin, logs tell how a target is spoken to."""
    return f"{target.name}[http]" if target.over_http else target.name
