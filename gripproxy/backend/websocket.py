"""A connection to a WebSocket backend, with us as its client (RFC 6455)."""

import asyncio
import logging
import os
from base64 import b64encode
from dataclasses import dataclass
from typing import Protocol, cast

from gripproxy.errors import BackendError, HttpError, ResponseError, WebSocketError
from gripproxy.http1.body import BodyReader, body_reader
from gripproxy.http1.head import ResponseHead, header, take_response
from gripproxy.websocket.deflate import Deflater, Inflater, accepted, compress
from gripproxy.websocket.frames import (
    CLOSE,
    CONT,
    FIRST_CONTROL,
    Frame,
    close_payload,
    masked_frame,
    parse_close,
)
from gripproxy.websocket.handshake import accept_key
from gripproxy.websocket.receiver import Receiver

log = logging.getLogger("gripproxy.backend")


class Peer(Protocol):
    """Who wants the connection."""

    def on_connected(self) -> None:
        """There is a connection, and the handshake is on its way."""

    def on_upgraded(self, head: ResponseHead) -> None:
        """The backend has switched protocols."""

    def on_refused(self, head: ResponseHead, body: bytes) -> None:
        """The backend answers with something else."""

    def on_failed(self, error: BackendError) -> None:
        """The backend gave no usable answer."""

    def on_frame(self, received: Frame) -> None:
        """A frame of the backend, or a piece of one; no close frame."""

    def on_read(self) -> None:
        """That was all that came for now."""

    def on_close(self, code: int | None, reason: bytes) -> None:
        """The backend's close frame."""

    def on_lost(self) -> None:
        """The connection is gone, or of no more use."""

    def on_blocked(self) -> None:
        """The backend takes no more for now."""

    def on_ready(self) -> None:
        """The backend takes more."""


def new_key() -> bytes:
    """A Sec-WebSocket-Key that nobody has used."""
    return b64encode(os.urandom(16))


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Bounds on what a backend may cost, in bytes."""

    head_max: int
    headers_max: int
    refusal_max: int  # of the body of another answer
    inflate_max: int  # of a compressed message, once inflated


class BackendSocket(asyncio.Protocol):
    """The protocol of one such connection. Its peer hears nothing more after `end` or `abort`."""

    __slots__ = (
        "_body",
        "_buffer",
        "_deflater",
        "_deflates",
        "_head",
        "_key",
        "_limits",
        "_offers_deflate",
        "_out",
        "_paused",
        "_peer",
        "_reader",
        "_receiver",
        "_request",
        "_transport",
    )

    def __init__(
        self, peer: Peer, request: bytes, key: bytes, limits: SocketLimits, *, offers_deflate: bool
    ) -> None:
        self._peer: Peer | None = peer  # None: nobody listens
        self._request = request  # the handshake, with `key` in it
        self._key = key
        self._limits = limits
        self._offers_deflate = offers_deflate
        self._transport: asyncio.Transport | None = None
        self._buffer = b""  # the part of the head that has come
        self._head: ResponseHead | None = None  # of a refusal
        self._reader: BodyReader | None = None
        self._body = b""
        self._receiver: Receiver | None = None  # None: not upgraded
        self._deflates = False
        self._deflater: Deflater | None = None  # of a message that goes in pieces
        self._out: list[bytes] = []
        self._paused = False

    # What the peer calls.

    def send(self, piece: Frame) -> None:
        """Queue a frame, or a piece of one, until `flush`."""
        opcode, payload, fin = piece
        rsv1 = False
        if self._deflates and opcode < FIRST_CONTROL:
            rsv1 = opcode != CONT
            if fin and rsv1:
                payload = compress(payload)
            else:
                deflater = self._deflater = self._deflater or Deflater()
                payload = deflater.feed(payload, fin)
        self._out.append(masked_frame(opcode, payload, os.urandom(4), fin=fin, rsv1=rsv1))

    def flush(self) -> None:
        """Send what was queued."""
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def close(self, code: int | None, reason: bytes) -> None:
        """Send a close frame; nothing may be sent after that."""
        self.send(Frame(CLOSE, close_payload(code, reason)))
        self.flush()

    def end(self) -> None:
        """Close the connection once what was sent is out; the peer hears nothing more."""
        self._peer = None
        if self._transport is not None:
            self.flush()
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._peer = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Let the backend wait."""
        if self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read the backend again."""
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
            if self._receiver is not None and self._receiver.more:
                asyncio.get_running_loop().call_soon(self._read_on)

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._peer is None:
            self._transport.abort()
        else:
            self._transport.write(self._request)
            self._request = b""
            self._peer.on_connected()

    def data_received(self, data: bytes) -> None:
        if self._receiver is not None:
            self._take_frames(self._receiver, data)
        elif self._head is not None:
            self._take_body(self._head, data)
        else:
            self._take_head(data)

    def eof_received(self) -> None:
        """The transport closes itself; `connection_lost` says what that means."""

    def connection_lost(self, exc: Exception | None) -> None:
        peer, self._peer = self._peer, None
        if peer is None:
            return
        if self._receiver is not None:
            peer.on_lost()
        elif self._head is not None and exc is None and self._reader_closes():
            peer.on_refused(self._head, self._body)
        else:
            reason = (
                "connection closed by the backend" if exc is None else f"connection lost: {exc}"
            )
            peer.on_failed(ResponseError(reason))

    def pause_writing(self) -> None:
        if self._peer is not None:
            self._peer.on_blocked()

    def resume_writing(self) -> None:
        if self._peer is not None:
            self._peer.on_ready()

    # Frames.

    def _take_frames(self, receiver: Receiver, data: bytes) -> None:
        more = True
        while more:
            for received in receiver.feed(data):
                peer = self._peer
                if peer is None:
                    return
                if received.opcode == CLOSE:
                    peer.on_close(*parse_close(received.payload))
                else:
                    peer.on_frame(received)
            if self._peer is not None:
                self._peer.on_read()
            # What was too much when it was inflated goes on when the client has caught up.
            more, data = receiver.more and not self._paused, b""
        if receiver.failure is not None and self._peer is not None:
            log.info("a WebSocket backend broke the protocol: %s", receiver.failure)
            peer = self._peer
            self.abort()
            peer.on_lost()

    def _read_on(self) -> None:
        if self._peer is not None and self._receiver is not None and not self._paused:
            self._take_frames(self._receiver, b"")

    # The handshake.

    def _take_head(self, data: bytes) -> None:
        limits = self._limits
        try:
            head, rest = take_response(self._buffer + data, limits.head_max, limits.headers_max)
            if head is None:
                self._buffer = rest
                return
            if head.code == 101:
                self._switch(head, rest)
            else:
                self._head = head
                length = 0 if head.code in (204, 304) else head.length
                self._reader = body_reader(length)
                self._take_body(head, rest)
        except (HttpError, WebSocketError) as error:
            self._fail(str(error))

    def _reader_closes(self) -> bool:
        return self._reader is not None and self._reader.closes()

    def _switch(self, head: ResponseHead, rest: bytes) -> None:
        """Raises WebSocketError when the backend answers something else than it was asked."""
        if header(head.headers, b"sec-websocket-accept") != accept_key(self._key):
            raise WebSocketError("wrong Sec-WebSocket-Accept", 1002)
        values = [v for name, v in head.headers if name.lower() == b"sec-websocket-extensions"]
        agreement = accepted(values)
        inflater = None
        if agreement is not None:
            if not self._offers_deflate:
                raise WebSocketError("permessage-deflate was not offered", 1010)
            inflater = Inflater(agreement.no_context_takeover, self._limits.inflate_max)
            self._deflates = True
        self._receiver = Receiver(masked=False, check_text=False, inflater=inflater)
        self._buffer = b""
        assert self._peer is not None
        self._peer.on_upgraded(head)
        if rest:
            self._take_frames(self._receiver, rest)

    def _take_body(self, head: ResponseHead, data: bytes) -> None:
        reader, peer = self._reader, self._peer
        assert reader is not None
        if peer is None:
            return
        try:
            self._body += reader.feed(data)
        except HttpError as error:
            self._fail(str(error))
            return
        if len(self._body) > self._limits.refusal_max:
            self._fail("the body of its refusal is too large")
        elif reader.finished:
            self.abort()
            peer.on_refused(head, self._body)

    def _fail(self, reason: str) -> None:
        peer = self._peer
        self.abort()
        if peer is not None:
            peer.on_failed(ResponseError(reason))
