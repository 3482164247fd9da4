"""A client's connection: bytes to requests, responses to bytes, one exchange at a time (RFC 9112).

Invariants: reading goes on while an exchange is held, since a paused transport would hide that the
client has left; `exchange` is set from a request's head until its response has ended; what comes
ahead of its turn waits in `_buffer`. Once `upgrade` was called there are no more requests, and all
that comes is for the one who called it.
"""

import asyncio
import itertools
import logging
import select
import socket
import struct
from typing import Protocol, cast

from gripproxy.clients.exchange import Exchange
from gripproxy.clients.front import Front, Pause
from gripproxy.clients.websocket import ClientSocket
from gripproxy.deadlines import Timed
from gripproxy.errors import HttpError
from gripproxy.http1.body import BodyReader, body_reader
from gripproxy.http1.head import has_bare_lf, parse_request
from gripproxy.http1.status import reason_phrase

log = logging.getLogger("gripproxy.clients")

_HEAD_END = b"\r\n\r\n"
# How long a client that still sends gets to read an answer that came early, in seconds (RFC 9112
# §9.6).
_LINGER = 2.0  # after its last bytes
_LINGER_MAX = 30.0  # in all
# The inactivity timeout is checked in this many steps, so that a write costs an assignment and not
# a timer.
_STEPS = 10
# Seconds between two looks at a client that is not read, since it could leave unnoticed.
_LOOK = 10.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_numbers = itertools.count(1)


class Occupant(Protocol):
    """What a connection is busy with: an exchange, or the stream that it became."""

    @property
    def held(self) -> bool:
        """Whether the client waits for a message rather than for the backend."""

    def on_request_content(self, content: bytes, finished: bool) -> None:
        """More of the request's body came."""

    def on_request_broken(self, error: HttpError) -> None:
        """The rest of the request's body cannot be understood."""

    def on_client_lost(self) -> None:
        """The client has left."""

    def on_client_blocked(self) -> None:
        """The client reads more slowly than it is sent to."""

    def on_client_ready(self) -> None:
        """The client has caught up."""


class Upgraded(Occupant, Protocol):
    """What a connection has become by switching protocols."""

    def on_data(self, data: bytes) -> None:
        """The client has sent this."""


class ClientConnection(asyncio.Protocol, Timed):
    """The protocol of one client connection."""

    __slots__ = (
        "_body",
        "_buffer",
        "_final",
        "_front",
        "_lingering",
        "_pauses",
        "_quiet_since",
        "_upgraded",
        "active",
        "blocked",
        "blocked_since",
        "exchange",
        "keep_alive",
        "number",
        "queued",
        "secure",
        "transport",
    )

    def __init__(self, front: Front, secure: bool) -> None:
        Timed.__init__(self)
        self._front = front
        self.secure = secure
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.number = next(_numbers)
        self.exchange: Occupant | None = None
        self.keep_alive = True
        self.active = False  # bytes went either way since the last step of the inactivity timeout
        self._buffer = b""
        self.blocked_since = 0.0
        self._body: BodyReader | None = None  # set while a request's body is arriving
        self.blocked = False  # the client reads more slowly than it is sent to
        self.queued = 0  # bytes of messages unread, which count towards `Front.queued_bytes`
        self._quiet_since = 0.0
        self._pauses = Pause(0)
        self._lingering = False
        self._upgraded: Upgraded | None = None
        self._final = False  # the deadline is that of the connection

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        front = self._front
        front.gate.enter(self, self.transport)
        self._set_deadline(front.limits.idle_timeout)

    def data_received(self, data: bytes) -> None:
        self.active = True
        if self._upgraded is not None:
            self._upgraded.on_data(data)
            return
        if self._body is not None:
            self._take_body(self._body, data)
            return
        if self._lingering:
            if self._front.loop.time() - self._quiet_since < _LINGER_MAX:
                self._set_deadline(_LINGER)
            return
        self._buffer = self._buffer + data if self._buffer else data
        exchange = self.exchange
        if exchange is None and not self.blocked:
            self._next_request()
        elif exchange is not None and exchange.held:
            self.keep_reading()
        elif len(self._buffer) > self._front.limits.pipeline_bytes:
            self.pause_reading(Pause.AHEAD)

    def eof_received(self) -> None:
        """A client that stops sending has left (as in Pushpin): the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        front = self._front
        front.gate.leave(self)
        front.deadlines.clear(self)
        front.queued_bytes -= self.queued
        self.queued = 0
        self._body = None
        self._upgraded = None
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.on_client_lost()

    def pause_writing(self) -> None:
        self.blocked = True
        self.blocked_since = self._front.loop.time()
        if self.exchange is not None:
            if self.exchange.held:  # what is relayed is bounded by the backend being paused
                self._count_queued(self.transport.get_write_buffer_size())
            self.exchange.on_client_blocked()

    def resume_writing(self) -> None:
        self.blocked = False
        self._front.queued_bytes -= self.queued
        self.queued = 0
        if self.exchange is not None:
            self.exchange.on_client_ready()
        elif self._buffer:
            self._continue()

    def expired(self, now: float) -> None:
        timeout = self._front.limits.inactivity_timeout
        if self._final:
            self.transport.abort()
            return
        if self._lingering:
            if self.transport.get_write_buffer_size() and now - self._quiet_since < _LINGER_MAX:
                self._set_deadline(_LINGER)
            else:
                self.transport.abort()
            return
        if self.exchange is None and not self.transport.get_write_buffer_size():
            self.transport.abort()
            return
        if self.active:
            self.active = False
            self._quiet_since = now
        if now - self._quiet_since >= timeout:
            log.info("connection %d closed: no bytes for %g s", self.number, timeout)
            self.transport.abort()
        elif self._pauses and self._has_left():
            self.transport.abort()
        else:
            self._set_deadline(self._step())

    # What an exchange calls.

    @property
    def peer(self) -> str:
        """Address of the client's end; a Unix socket has none."""
        name = self.transport.get_extra_info("peername")
        return name[0] if isinstance(name, tuple) else ""

    @property
    def receiving(self) -> bool:
        """Whether the request's body is still arriving."""
        return self._body is not None

    @property
    def reading(self) -> bool:
        """Whether nobody holds back what the client sends."""
        return not self._pauses

    def write(self, data: bytes) -> None:
        """Send `data`, however slow the client is; the caller heeds `on_client_blocked`."""
        self.active = True
        self.transport.write(data)

    def queue(self, data: bytes) -> bool:
        """Send `data` although the client is blocked.

        False: too much is unread already, and `data` was not sent.
        """
        front, limits = self._front, self._front.limits
        if self.transport.is_closing():
            return True  # it is being cut off, and soon unsubscribed
        if self.transport.get_write_buffer_size() + len(data) > limits.queue_bytes:
            return False
        if front.queued_bytes + len(data) > limits.queue_total_bytes:
            if limits.drop_when_full:
                return False
            # All together leave too much unread: not whoever is next goes, but who has kept us
            # waiting longest.
            waiting = (
                other
                for other in front.gate.connections
                if other.queued and not other.transport.is_closing()
            )
            slowest = min(waiting, key=lambda other: other.blocked_since, default=self)
            if slowest is self:
                return False
            slowest.cut_off()
        self._count_queued(len(data))
        self.transport.write(data)
        return True

    def cut_off(self) -> None:
        """Close a client that has left messages unread for longer than any other."""
        front = self._front
        front.stats.drops["client-queue"] += 1
        front.warn("connection %d closed: of all it is blocked longest", self.number)
        front.queued_bytes -= self.queued
        self.queued = 0
        self.transport.abort()

    def pause_reading(self, why: Pause) -> None:
        """Let the kernel hold back what the client sends."""
        if not self._pauses and not self.transport.is_closing():
            self.transport.pause_reading()
        self._pauses |= why
        self._set_deadline(self._step())

    def resume_reading(self, why: Pause) -> None:
        """Take what the client sends again, as far as `why` is concerned."""
        if self._pauses and self._pauses & why:
            self._pauses &= ~why
            if not self._pauses and not self.transport.is_closing():
                self.transport.resume_reading()

    def keep_reading(self) -> None:
        """The exchange is held, and a client that is not read could leave unnoticed.

        So one that sends more ahead than it may is closed.
        """
        if len(self._buffer) > self._front.limits.pipeline_bytes:
            log.info("connection %d closed: it sends without waiting for its answer", self.number)
            self._front.stats.drops["client-pipeline"] += 1
            self.transport.abort()
        else:
            self.resume_reading(Pause.AHEAD)

    def finish(self) -> None:
        """The response is complete: go on with the next request, or close as was agreed."""
        self.exchange = None
        front = self._front
        if self._body is not None:
            self._body = None
            self.linger()
        elif not self.keep_alive:
            self.transport.close()
        elif not self.transport.is_closing():
            self._set_deadline(front.limits.idle_timeout)
            if self._buffer:
                # Not from within the exchange that has just ended: a client may have sent many
                # requests at once.
                front.loop.call_soon(self._continue)

    def upgrade(self, upgraded: Upgraded) -> None:
        """There are no more requests: what the client sends is for `upgraded` (RFC 9110 §7.8)."""
        self.exchange = upgraded
        if self._buffer or self._pauses:
            # Not from within what the session is just handing over.
            self._front.loop.call_soon(self._switch, upgraded)
        else:
            self._upgraded = upgraded

    def _switch(self, upgraded: Upgraded) -> None:
        if self.exchange is upgraded:
            self._upgraded = upgraded
            self.resume_reading(Pause.AHEAD)
            data, self._buffer = self._buffer, b""
            if data:
                upgraded.on_data(data)

    def close(self, seconds: float) -> None:
        """Send what was written, and close: after `seconds` whether the client reads it or not."""
        self.exchange = self._upgraded = None
        self.transport.close()
        self.abort_within(seconds)

    def abort_within(self, seconds: float) -> None:
        """The connection lasts no longer than that, whatever happens."""
        self._set_deadline(seconds)
        self._final = True

    def break_off(self, *, unframed: bool) -> None:
        """End a response that cannot be completed so that the client sees it is not complete.

        `unframed`: its end would be the end of the connection, so that takes a reset.
        """
        self.exchange = None
        if unframed:
            peer_socket = self.transport.get_extra_info("socket")
            if peer_socket is not None and peer_socket.family in (socket.AF_INET, socket.AF_INET6):
                peer_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.abort()
        else:
            self.transport.close()

    # Requests.

    def _continue(self) -> None:
        if self.blocked or self.transport.is_closing():
            return  # a client that does not read its answers gets no more of them
        if self.exchange is None and self._buffer:
            self._next_request()
        if len(self._buffer) <= self._front.limits.pipeline_bytes:
            self.resume_reading(Pause.AHEAD)

    def _next_request(self) -> None:
        data = self._buffer
        limit = self._front.limits.head_max
        if data[0] in b"\r\n":
            data = self._buffer = data.lstrip(b"\r\n")  # as RFC 9112 §2.2 asks for
        end = data.find(_HEAD_END) + 4
        if end < 4:
            if len(data) > limit:
                self._refuse(HttpError(f"Request header size exceeded limit of {limit} bytes."))
            elif has_bare_lf(data):
                self._refuse(HttpError("Failed to parse request: line ends without CR"))
            return
        if end > limit:
            self._refuse(HttpError(f"Request header size exceeded limit of {limit} bytes."))
            return
        try:
            request = parse_request(data[:end], self._front.limits.headers_max)
        except HttpError as error:
            self._refuse(HttpError(f"Failed to parse request: {error}", error.status))
            return
        self.keep_alive = request.keep_alive
        self._buffer = data[end:]
        front = self._front
        self.active = True
        self._set_deadline(self._step())
        if request.length:
            self._body = body_reader(request.length)
        exchange: Exchange | ClientSocket
        if request.websocket:
            exchange = self.exchange = ClientSocket(front, self, request)
        else:
            exchange = self.exchange = Exchange(front, self, request)
        exchange.begin()
        if self._buffer and self._body is not None:
            data, self._buffer = self._buffer, b""
            self._take_body(self._body, data)

    def _take_body(self, body: BodyReader, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        try:
            content = body.feed(data)
        except HttpError as error:
            exchange.on_request_broken(error)
            return
        if body.finished:
            self._body = None
            self._buffer = body.rest
        if content or body.finished:
            exchange.on_request_content(content, body.finished)

    def _refuse(self, error: HttpError) -> None:
        """Answer what is not a request, and close (RFC 9112 §2.2)."""
        body = f"{error}\n".encode()
        self.write(
            b"HTTP/1.0 %d %b\r\nContent-Type: text/plain\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b"
            % (error.status, reason_phrase(error.status), len(body), body)
        )
        self.linger()

    def linger(self) -> None:
        """Close in a way that lets a client that is still sending read what was answered."""
        self.exchange = self._upgraded = None
        self._lingering = True
        self._quiet_since = self._front.loop.time()
        self._buffer = b""
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.resume_reading(Pause.AHEAD | Pause.UPLOAD)
            self._set_deadline(_LINGER)
        else:
            self.transport.close()

    def _step(self) -> float:
        """Seconds until the next look at a client that is busy."""
        step = self._front.limits.inactivity_timeout / _STEPS
        return min(step, _LOOK) if self._pauses else step

    def _set_deadline(self, seconds: float) -> None:
        if self._final:
            return
        self._front.deadlines.set(self, self._front.loop.time() + seconds)

    def _has_left(self) -> bool:
        """Whether the client has closed its end, although what it sent before is not read yet."""
        peer_socket = self.transport.get_extra_info("socket")
        if peer_socket is None:
            return False
        poll = select.poll()
        poll.register(peer_socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _count_queued(self, size: int) -> None:
        self.queued += size
        self._front.queued_bytes += size
