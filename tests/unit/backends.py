"""A pool whose connections lead to the test: it reads the requests, and says what comes back."""

import asyncio
from collections.abc import Callable

from gripproxy.backend.connection import BackendConnection
from gripproxy.backend.pool import Waiter
from gripproxy.errors import BackendError, ConnectError
from gripproxy.http1.head import Headers, RequestHead, header, parse_request
from gripproxy.http1.status import reason_phrase
from gripproxy.routes import Target
from tests.unit.transport import Transport


class Wire(asyncio.Transport):
    """The network under one connection, which takes whole requests."""

    def __init__(self, pool: "ScriptedPool", target: Target) -> None:
        super().__init__()
        self.pool = pool
        self.target = target
        self.connection = BackendConnection(pool, self)
        self.connection.connection_made(self)
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.aborted
        self.pool.requests.append(Request(self, bytes(data)))

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


class Request:
    """One request, as its backend sees it; the methods say what becomes of it."""

    def __init__(self, wire: Wire, data: bytes) -> None:
        end = data.index(b"\r\n\r\n") + 4
        self.wire = wire
        self.data = data
        self.head: RequestHead = parse_request(data[:end], 100)
        self.body = data[end:]
        assert self.head.length == len(self.body)

    @property
    def headers(self) -> Headers:
        return self.head.headers

    def __getitem__(self, name: bytes) -> bytes | None:
        """The value of a header, of which there may be one at most."""
        assert sum(key.lower() == name for key, _ in self.headers) <= 1
        return header(self.headers, name)

    def receive(self, data: bytes) -> None:
        """So much of a response comes."""
        if not self.wire.aborted:
            self.wire.connection.data_received(data)

    def answer(self, body: bytes = b"", headers: Headers | tuple[()] = (), code: int = 200) -> None:
        """A whole response comes, after which the connection can be used again."""
        lines = [b"HTTP/1.1 %d %b\r\n" % (code, reason_phrase(code))]
        lines += [b"%b: %b\r\n" % field for field in headers]
        self.receive(b"%bContent-Length: %d\r\n\r\n%b" % (b"".join(lines), len(body), body))

    def lose(self, error: Exception | None = None, *, sent: bool = True) -> None:
        """The connection is lost; not `sent`: before it has taken all of the request."""
        if not sent:
            self.wire.connection.pause_writing()
        self.wire.aborted = True
        self.wire.connection.connection_lost(error)


class Attempt:
    """An attempt to connect a protocol by itself; the methods say what becomes of it."""

    def __init__(
        self, target: Target, protocol: asyncio.Protocol, on_failed: Callable[[BackendError], None]
    ) -> None:
        self.target = target
        self.protocol = protocol
        self.fail = on_failed
        self.transport = Transport()
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def connect(self) -> Transport:
        self.protocol.connection_made(self.transport)
        return self.transport


class ScriptedPool:
    """A pool that connects at once, unless `full` or `slow`."""

    response_timeout = 1800.0
    inactivity_timeout = 1800.0
    head_max = 8192
    headers_max = 64

    def __init__(self) -> None:
        self.requests: list[Request] = []  # all that were sent so far
        self.idle: list[Wire] = []
        self.waiting: list[tuple[Waiter, Target]] = []
        self.slow = False  # connections take their time
        self.full = False  # too many wait already
        self.names: list[str | None] = []  # that certificates must carry
        self.attempts: list[Attempt] = []  # at connections of somebody's own

    @property
    def request(self) -> Request:
        """The last that was sent."""
        return self.requests[-1]

    # What the pool's users call.

    def acquire(
        self, target: Target, tls_name: str | None, waiter: Waiter, *, fresh: bool = False
    ) -> BackendConnection | None:
        if self.full:
            raise ConnectError("full")
        self.names.append(tls_name)
        while self.idle and not fresh:
            wire = self.idle.pop()
            if not wire.aborted:
                return wire.connection
        if self.slow:
            self.waiting.append((waiter, target))
            return None
        return Wire(self, target).connection

    def cancel(self, waiter: Waiter) -> None:
        self.waiting = [entry for entry in self.waiting if entry[0] is not waiter]

    def open(
        self,
        target: Target,
        tls_name: str | None,
        protocol: asyncio.Protocol,
        on_failed: Callable[[BackendError], None],
    ) -> "Attempt":
        self.names.append(tls_name)
        self.attempts.append(Attempt(target, protocol, on_failed))
        return self.attempts[-1]

    # What connections call.

    def watch(self, connection: BackendConnection, seconds: float) -> None:
        """Time does not pass here."""

    def unwatch(self, connection: BackendConnection) -> None:
        """The same."""

    def release(self, connection: BackendConnection) -> None:
        assert isinstance(connection.origin, Wire)
        self.idle.append(connection.origin)

    def lost(self, connection: BackendConnection) -> None:
        """It is not in `idle`, or aborted."""

    # What tests call.

    def connect(self) -> None:
        """Who waits longest gets its connection."""
        waiter, target = self.waiting.pop(0)
        waiter.on_connected(Wire(self, target).connection)

    def refuse(self, error: BackendError | None = None) -> None:
        """Who waits longest gets none."""
        self.waiting.pop(0)[0].on_unconnected(error or ConnectError("connection refused"))
