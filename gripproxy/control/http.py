"""The publish port: items over HTTP, with the answers that Pushpin gives.

Pushpin closes every connection after one answer. Here a client of HTTP/1.1 that does not ask for
that keeps its connection, and its answers lack `Connection: close`; everything else is the same
bytes.

Invariants: requests of a connection are answered in their order, each before anything that it
published is dispatched; while one waits for room in the publisher's queue, nothing more is read
from its connection.
"""

import asyncio
import errno
import logging
import os
import socket
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import cast

from gripproxy.control.answer import answer, done, message
from gripproxy.control.publisher import Publisher
from gripproxy.control.request import TEXT, Request, is_http10, parse_head
from gripproxy.deadlines import Deadlines, Timed
from gripproxy.errors import ConfigError, HttpError, ItemError
from gripproxy.grip.item import parse_publish_body
from gripproxy.http1.head import has_bare_lf

log = logging.getLogger("gripproxy.control")

_HEAD_END = b"\r\n\r\n"
# Requests that one connection has answered before the others get their turn.
_TURN = 64
# How long a client that still sends gets to read why it was refused, in seconds (RFC 9112 §9.6).
_LINGER = 2.0
# After the kernel had no descriptor or memory for a connection, seconds until the next try.
_ACCEPT_PAUSE = 0.5
_NOT_ACCEPTABLE = b"Not Acceptable. Supported formats are text/plain and application/json.\n"


class Wait(Enum):
    """What a connection that reads no more waits for."""

    NOTHING = auto()
    TURN = auto()  # the others to get theirs
    CLIENT = auto()  # the client to read its answers
    ROOM = auto()  # the publisher's queue to have some


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """The bounds of the publish port. Sizes are bytes, times are seconds."""

    headers_max: int = 10_000  # push_in_http_max_headers_size
    body_max: int = 1_000_000  # push_in_http_max_body_size
    connections_max: int = 128  # push_in_http_maxconn; more wait in the kernel's backlog
    idle_timeout: float = 60.0  # to send a whole request, and between two


class ControlServer:
    """The listening socket and its connections."""

    def __init__(
        self,
        listener: socket.socket,
        publisher: Publisher,
        deadlines: Deadlines,
        limits: ControlLimits,
    ) -> None:
        self.publisher = publisher
        self.deadlines = deadlines
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self._listener = listener
        self._free = asyncio.Semaphore(limits.connections_max)
        self._connections: set[ControlConnection] = set()
        self._accepting: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Begin to accept connections."""
        self._accepting = self.loop.create_task(self._accept())

    async def close(self) -> None:
        """Accept no more, and close every connection once what was written to it is out."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.close()
        for connection in tuple(self._connections):
            connection.close()

    def opened(self, connection: "ControlConnection") -> None:
        """A connection begins."""
        self._connections.add(connection)

    def closed(self, connection: "ControlConnection") -> None:
        """A connection has ended, and another may be accepted."""
        self._connections.discard(connection)
        self._free.release()

    async def _accept(self) -> None:
        self._listener.setblocking(False)
        while True:
            await self._free.acquire()
            accepted: socket.socket | None = None
            try:
                accepted, _ = await self.loop.sock_accept(self._listener)
                await self.loop.connect_accepted_socket(lambda: ControlConnection(self), accepted)
            except OSError as error:
                self._free.release()
                if accepted is not None:
                    accepted.close()  # its client left before the connection was set up
                    continue
                log.warning("publish port: cannot accept a connection: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE)


class ControlConnection(asyncio.Protocol, Timed):
    """The protocol of one connection to the publish port."""

    __slots__ = (
        "_blocked",
        "_lingering",
        "_need",
        "_parts",
        "_request",
        "_server",
        "_size",
        "_transport",
        "_waiting",
    )

    def __init__(self, server: ControlServer) -> None:
        Timed.__init__(self)
        self._server = server
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._parts: list[bytes] = []  # what has come and is not dealt with
        self._size = 0  # bytes of it
        self._need = 0  # bytes without which there is nothing to do
        self._request: Request | None = None  # its body, or room for its items, is still missing
        self._waiting = Wait.NOTHING
        self._blocked = False  # the client does not read its answers
        self._lingering = False  # the last answer is given

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.opened(self)
        self._restart_clock()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        waiting = self._waiting is not Wait.NOTHING
        if self._parts or waiting:
            self._parts.append(data)
            self._size += len(data)
            if waiting or self._size < self._need:
                return
            data = self._take_parts()
        self._advance(data)

    def eof_received(self) -> None:
        """The client sends no more: the transport writes what is left, and closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.deadlines.clear(self)
        self._lingering = True  # a publisher that calls back later finds nobody
        self._parts.clear()
        self._server.closed(self)

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._resume(Wait.CLIENT)

    def expired(self, now: float) -> None:
        self._transport.abort()

    def close(self) -> None:
        """End the connection once what was written is out."""
        self._lingering = True
        self._transport.close()

    # Requests.

    def _advance(self, data: bytes) -> None:
        """Deal with as much of `data` as can be now and keep the rest."""
        position = 0
        answers: list[bytes] = []
        turn = _TURN
        publisher = self._server.publisher
        headers_max = self._server.limits.headers_max
        request = self._request
        try:
            while True:
                if request is None:
                    end = data.find(_HEAD_END, position, position + headers_max) + 4
                    if end < 4:
                        _check_unfinished(data[position : position + headers_max], headers_max)
                        self._need = 0
                        break
                    request = self._begin(data[position:end], answers)
                    position = end
                end = position + (request.length or 0)
                if end > len(data):
                    self._need = end - position
                    break
                if self._blocked:
                    self._pause(Wait.CLIENT)
                    break
                if turn == 0:
                    self._pause(Wait.TURN)
                    self._server.loop.call_soon(self._resume, Wait.TURN)
                    break
                if publisher.full and _publishes(request):
                    self._pause(Wait.ROOM)
                    self._server.deadlines.clear(self)  # it is not the client who keeps us waiting
                    publisher.when_ready(partial(self._resume, Wait.ROOM))
                    break
                if request.length is not None and _is_excess(request, data[end : end + 1]):
                    raise HttpError("Request body exceeded Content-Length.")
                answers.append(self._handle(request, data[position:end]))
                position = end
                turn -= 1
                if not request.keep_alive:
                    self._finish(answers)
                    return
                request = None
                self._restart_clock()
        except HttpError as error:
            http10 = request.http10 if request is not None else is_http10(data[position:])
            self._refuse(answers, error, http10)
            return
        self._request = request
        if position < len(data):
            self._parts.append(data[position:])
            self._size = len(data) - position
        if answers:
            self._transport.write(b"".join(answers))

    def _begin(self, head: bytes, answers: list[bytes]) -> Request:
        """The request of `head`, whose body is welcome. Raises HttpError."""
        request = parse_head(head)
        if request.length is not None and request.length > self._server.limits.body_max:
            raise HttpError("Request body too large.")
        if request.expects_continue:
            answers.append(b"HTTP/1.%d 100 Continue\r\n\r\n" % (not request.http10))
        return request

    def _handle(self, request: Request, body: bytes) -> bytes:
        """Do what the request asks; the answer."""
        answer_type = request.answer_type
        if answer_type is None:
            return answer(request, 406, _NOT_ACCEPTABLE)
        path = _path(request)
        if path == b"/publish" or path == b"/recover":
            if request.method != b"POST":
                return answer(
                    request,
                    405,
                    b"Method not allowed: %b.\n" % request.method,
                    fields=b"Allow: POST\r\n",
                )
            if path == b"/publish":
                return self._publish(request, body, answer_type)
            self._server.publisher.recover()
            return answer(request, 200, done(b"Updated", answer_type), answer_type)
        if path == b"/":
            return answer(request, 200, b"Pushpin API\n")
        return answer(request, 404, b"Not Found\n")

    def _publish(self, request: Request, body: bytes, answer_type: bytes) -> bytes:
        try:
            items = parse_publish_body(body)
        except ItemError as error:
            log.info("control: publish refused: %s", error)
            # A name that the message quotes may be no text.
            return answer(request, 400, f"{error}\n".encode(errors="replace"))
        published = answer(
            request, 200, done(b"Published", answer_type), answer_type, items=len(items)
        )
        self._server.publisher.publish(items)
        return published

    # The connection.

    def _pause(self, waiting: Wait) -> None:
        self._waiting = waiting
        self._transport.pause_reading()

    def _resume(self, waited: Wait) -> None:
        """`waited` is over: go on if that was it."""
        if self._waiting is not waited or self._lingering or self._transport.is_closing():
            return
        self._waiting = Wait.NOTHING
        self._transport.resume_reading()
        self._restart_clock()
        self._advance(self._take_parts())

    def _take_parts(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self._size = self._need = 0
        return data

    def _restart_clock(self) -> None:
        server = self._server
        server.deadlines.set(self, server.loop.time() + server.limits.idle_timeout)

    def _finish(self, answers: list[bytes]) -> None:
        self._lingering = True
        self._transport.write(b"".join(answers))
        self._transport.close()

    def _refuse(self, answers: list[bytes], error: HttpError, http10: bool) -> None:
        """Say what is wrong and close, in a way that lets a client that still sends read it."""
        self._lingering = True
        body = f"{error}\n".encode()
        log.info("control: refused a request: code=%d %s", error.status, error)
        answers.append(message(http10, error.status, TEXT, body, b"", close=True))
        self._transport.write(b"".join(answers))
        self._transport.write_eof()
        self._server.deadlines.set(self, self._server.loop.time() + _LINGER)


def listen(address: str, port: int) -> socket.socket:
    """A socket that listens for publishers on `address`, empty for all. Raises ConfigError."""
    try:
        if address:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return socket.create_server((address, port), family=family, backlog=1024)
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
            )
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno is not None else str(error)
        if error.errno == errno.EADDRINUSE:
            reason += "; if Pushpin or another gripproxy runs here, --id N moves these ports"
        raise ConfigError(
            f"push_in_http_port: cannot listen on {address or '*'}:{port}: {reason}"
        ) from error


def _check_unfinished(head: bytes, headers_max: int) -> None:
    """Raise HttpError where the rest of this head need not be waited for."""
    if has_bare_lf(head):
        raise HttpError("Failed to parse request header.")
    if len(head) >= headers_max:
        raise HttpError("Request header too large.")


def _path(request: Request) -> bytes:
    """The target without one trailing slash; a query is part of it."""
    target = request.target
    return target[:-1] if len(target) > 1 and target.endswith(b"/") else target


def _publishes(request: Request) -> bool:
    return request.method == b"POST" and _path(request) == b"/publish"


def _is_excess(request: Request, following: bytes) -> bool:
    """Whether what follows a body is too much of it, and not the next request."""
    return following != b"" and not (request.keep_alive and following.isupper())
