"""A scripted backend: it shows the exact bytes that the proxy sent and answers as a test says.

    async with start_backend() as backend:                     # backend.address is "127.0.0.1:PORT"
        backend.on("/a", response(200, {"X-A": "1"}, b"hello"))   # the same bytes each time
        backend.on("/b", lambda ex: response(200, body=ex.request.body))
        async def slow(ex):                                    # or drive the wire by hand
            await ex.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 9\\r\\n\\r\\npart")
            ex.abort()
        backend.on("/c", slow)
        ...
        request = await backend.next_request()                 # in order of arrival, each once
        assert request.header("host") == "a"

`on(..., stream=True)` calls the handler before the request body is read; it reads with
`ex.read_body()`. A path is matched without its query; the path `"*"` takes the rest, otherwise they
get 404. The connection is kept unless the request or the response says `close`, or the response has
no framing. `backend.requests` has everything received, `backend.connections` how many connections
were accepted; `reset()` forgets handlers and requests (for a backend shared by a module's tests).
"""

import asyncio
import contextlib
import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from tests.support.client import TIMEOUT, Fields, pairs, parse_fields


@dataclass(slots=True)
class Request:
    """One request as the backend received it."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    raw_head: bytes
    connection: int
    """Which connection it came on, counted from 1."""
    peer_cert: dict[str, Any] | None = None
    server_name: str | None = None
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """Every value of the field `name`, in order."""
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The value of the field `name`, or None; fails when the field is there twice."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    @property
    def names(self) -> list[str]:
        """Field names in order, as spelt."""
        return [n for n, _ in self.headers]


class Exchange:
    """One request and the wire to answer it on."""

    def __init__(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ):
        self.request = request
        self.reader = reader
        self.writer = writer
        self.closed = False
        low = {n.lower(): v.lower() for n, v in request.headers}
        self.chunked = low.get("transfer-encoding") == "chunked"
        self._left = int(low.get("content-length", "0"))
        self.body_read = not self.chunked and not self._left

    async def read_body(self, limit: int = 65536) -> bytes:
        """The next piece of the body (at most `limit` bytes unless chunked), empty at its end."""
        if self.body_read:
            return b""
        if not self.chunked:
            data = await self.reader.read(min(limit, self._left))
            if not data:
                raise asyncio.IncompleteReadError(b"", self._left)
            self._left -= len(data)
            self.body_read = not self._left
            return data
        size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size:
            return (await self.reader.readexactly(size + 2))[:-2]
        lines = []
        while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
            lines.append(line[:-2])
        self.request.trailers = parse_fields(lines)
        self.body_read = True
        return b""

    async def write(self, data: bytes) -> None:
        """Write, and wait until the buffer has room again."""
        self.writer.write(data)
        await self.writer.drain()

    async def wait_closed(self, timeout: float = TIMEOUT) -> None:
        """Wait until the proxy closes or resets this connection."""
        async with asyncio.timeout(timeout):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass

    def close(self) -> None:
        """Close after what was written."""
        self.closed = True
        self.writer.close()

    def abort(self) -> None:
        """Close at once with RST."""
        self.closed = True
        sock = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the peer may have closed it first
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()


Answer = bytes | None
Handler = bytes | Callable[[Exchange], Answer | Awaitable[Answer]]


class Backend:
    """The scripted backend. Make it with `start_backend`."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[Request] = []
        self.connections = 0
        self._handlers: dict[str, tuple[Handler, bool]] = {}
        self._arrived: asyncio.Queue[Request] = asyncio.Queue()
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        self._changed = asyncio.Condition()
        self._stopping = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def on(self, path: str, handler: Handler, *, stream: bool = False) -> None:
        """Answer requests for `path` by `handler`; `stream` leaves the request body to it."""
        self._handlers[path] = (handler, stream)

    async def next_request(self, timeout: float = TIMEOUT) -> Request:
        """The next request not taken yet: complete, or with its head only when `stream`."""
        async with asyncio.timeout(timeout):
            return await self._arrived.get()

    def reset(self) -> None:
        """Forget handlers and requests; connections stay."""
        self.requests.clear()
        self._handlers.clear()
        while not self._arrived.empty():
            self._arrived.get_nowait()

    async def wait_connections(self, count: int, timeout: float = TIMEOUT) -> None:
        """Wait until exactly `count` connections are open."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: len(self._open) == count)

    def close_connections(self) -> None:
        """Close every open connection from this side."""
        for writer in list(self._open):
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._open[writer] = asyncio.current_task()
        await self._notify()
        try:
            while await self._serve_one(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the proxy went away: what it sent until then is recorded
        except asyncio.CancelledError:
            if not self._stopping:  # asyncio's streams log a cancelled handler as an error
                raise
        finally:
            del self._open[writer]
            writer.close()
            if not self._stopping:
                await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        raw = await reader.readuntil(b"\r\n\r\n")
        lines = raw[:-4].split(b"\r\n")
        method, target, version = lines[0].decode("latin-1").split(" ")
        request = Request(method, target, version, parse_fields(lines[1:]), raw, number)
        if tls := writer.get_extra_info("ssl_object"):
            request.peer_cert = tls.getpeercert()
            request.server_name = getattr(tls, "received_server_name", None)
        exchange = Exchange(request, reader, writer)
        handler, stream = self._handlers.get(target.partition("?")[0]) or self._handlers.get(
            "*", (response(404), False)
        )
        self.requests.append(request)
        if not stream:
            while piece := await exchange.read_body():
                request.body += piece
        self._arrived.put_nowait(request)
        answer = handler if isinstance(handler, bytes) else handler(exchange)
        if inspect.isawaitable(answer):
            answer = await answer
        if exchange.closed:
            return False
        if answer:
            await exchange.write(answer)
            if not _keeps_alive(answer, method):
                return False
        return exchange.body_read and "close" not in (request.header("connection") or "").lower()


def _keeps_alive(answer: bytes, method: str) -> bool:
    head = answer.partition(b"\r\n\r\n")[0].lower()
    if b"\r\nconnection: close" in head:
        return False
    bodiless = method == "HEAD" or head.split(b" ")[1] in (b"204", b"304")
    return bodiless or b"\r\ncontent-length:" in head or b"\r\ntransfer-encoding:" in head


def response(
    status: int = 200,
    headers: Fields = (),
    body: bytes | list[bytes] = b"",
    *,
    reason: str | None = None,
    version: str = "HTTP/1.1",
    length: bool = True,
    trailers: Fields = (),
) -> bytes:
    """The bytes of a response: Content-Length for bytes, chunks for a list.

    With `length=False` it has no framing, so that closing the connection ends it.
    """
    if reason is None:
        reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
    fields = pairs(headers)
    if isinstance(body, list):
        fields.append(("Transfer-Encoding", "chunked"))
        tail = "".join(f"{n}: {v}\r\n" for n, v in pairs(trailers)).encode()
        body = b"".join(chunk(c) for c in body) + b"0\r\n" + tail + b"\r\n"
    elif length and status not in (204, 304):
        fields.append(("Content-Length", str(len(body))))
    head = f"{version} {status} {reason}\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields)
    return head.encode("latin-1") + b"\r\n" + body


def chunk(data: bytes) -> bytes:
    """`data` as one chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


@contextlib.asynccontextmanager
async def start_backend(
    *,
    tls: ssl.SSLContext | None = None,
    port: int = 0,
    host: str = "127.0.0.1",
    receive_buffer: int | None = None,
) -> AsyncIterator[Backend]:
    """Serve a `Backend` on a free port of `host`.

    `receive_buffer` bounds its receive buffers in bytes, for one that reads slowly.
    """
    backend = Backend()
    # asyncio sends small writes at once only on sockets that say that they are TCP.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    sock.listen()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if tls is not None:

        def remember(obj: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            obj.received_server_name = name  # type: ignore[attr-defined]

        tls.sni_callback = remember
    server = await asyncio.start_server(
        backend._connected, sock=sock, ssl=tls, limit=receive_buffer or 2**20
    )
    backend.port = sock.getsockname()[1]
    try:
        yield backend
    finally:
        server.close()
        backend._stopping = True
        tasks = [t for t in backend._open.values() if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
