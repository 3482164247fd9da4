"""A raw HTTP/1.1 client: it sends the bytes that a test gives it and shows what came back.

    async with connect(proxy.port) as c:
        await c.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        r = await c.read_response()
        assert (r.status, r.framing, r.body) == (200, "length", b"hello\\n")

`c.request(...)` writes an ordinary request and reads its answer; `get(port, path)` does so on a
connection of its own. For a stream: `await c.read_head()`, then `read_chunk()`, `read_bytes(n)` and
`read_until(b"\\n")` on the decoded body, and `read_rest()` to its end. Every wait ends after
`TIMEOUT` seconds with TimeoutError. A body that ends before its framing says so raises `Truncated`.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

TIMEOUT = 10.0
Framing = Literal["length", "chunked", "close", "none"]
Fields = Iterable[tuple[str, str]] | Mapping[str, str]


class Truncated(Exception):
    """The peer closed before the message was complete; `args[0]` is what arrived of the body."""


def pairs(fields: Fields) -> list[tuple[str, str]]:
    """Header fields as a list of pairs, from a mapping or from pairs."""
    return list(fields.items() if isinstance(fields, Mapping) else fields)


@dataclass(slots=True)
class Response:
    """One response: header fields keep their order and spelling, as latin-1 text."""

    version: str
    status: int
    reason: str
    headers: list[tuple[str, str]]
    framing: Framing
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    interim: list["Response"] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """Every value of the field `name`, in order."""
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The value of the field `name`, or None; fails when the field is there twice."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    @property
    def text(self) -> str:
        return self.body.decode()


def parse_fields(lines: Iterable[bytes]) -> list[tuple[str, str]]:
    """Header lines as pairs of latin-1 text, optional white space trimmed."""
    out = []
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        assert colon, f"not a header line: {line!r}"
        out.append((name, value.strip(" \t")))
    return out


def body_framing(status: int, fields: list[tuple[str, str]], to_head: bool) -> tuple[Framing, int]:
    """How a response body ends (RFC 9112 §6.3), with its Content-Length where that decides."""
    if to_head or status < 200 or status in (204, 304):
        return "none", 0
    low = {n.lower(): v for n, v in fields}
    if low.get("transfer-encoding", "").lower() == "chunked":
        return "chunked", 0
    if "content-length" in low:
        return "length", int(low["content-length"])
    return "close", 0


class Client:
    """One connection to the proxy. Make it with `connect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float):
        self.reader = reader
        self.writer = writer
        self.timeout = timeout
        self._framing: Framing = "none"
        self._left = 0
        self._ended = True
        self._decoded = bytearray()
        self._trailers: list[tuple[str, str]] = []

    @property
    def local_port(self) -> int:
        return int(self.writer.get_extra_info("sockname")[1])

    async def send(self, data: bytes) -> None:
        """Write `data` and wait until the kernel and the buffer have room for it."""
        self.writer.write(data)
        async with asyncio.timeout(self.timeout):
            await self.writer.drain()

    async def request(
        self,
        method: str,
        target: str,
        headers: Fields = (),
        body: bytes | None = None,
        host: str | None = "localhost",
    ) -> Response:
        """Send one request, with Content-Length when `body` is given, and read its answer."""
        await self.send(encode_request(method, target, headers, body, host))
        return await self.read_response(to_head=method == "HEAD")

    async def read_head(self, to_head: bool = False) -> Response:
        """Read a status line and headers (of an interim response too); the body stays unread."""
        async with asyncio.timeout(self.timeout):
            try:
                raw = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as e:
                raise Truncated(e.partial) from None
        lines = raw[:-4].split(b"\r\n")
        version, status, *reason = lines[0].decode("latin-1").split(" ", 2)
        fields = parse_fields(lines[1:])
        self._framing, self._left = body_framing(int(status), fields, to_head)
        self._ended = self._framing == "none" or (self._framing == "length" and not self._left)
        self._decoded.clear()
        self._trailers = []
        return Response(version, int(status), reason[0] if reason else "", fields, self._framing)

    async def read_response(self, to_head: bool = False) -> Response:
        """Read a final response with its body; what came before it is in `interim`."""
        interim = []
        while (r := await self.read_head(to_head)).status < 200 and r.status != 101:
            interim.append(r)
        r.interim = interim
        r.body = await self.read_rest()
        r.trailers = self._trailers
        return r

    async def _more(self) -> bytes:
        """The next piece of the body, decoded; empty when the body has ended."""
        if self._ended:
            return b""
        if self._framing == "chunked":
            size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
            if size:
                data = await self.reader.readexactly(size + 2)
                assert data.endswith(b"\r\n"), "a chunk does not end in CRLF"
                return data[:-2]
            lines = []
            while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                lines.append(line[:-2])
            self._trailers = parse_fields(lines)
            self._ended = True
            return b""
        data = await self.reader.read(65536 if self._framing == "close" else min(self._left, 65536))
        if self._framing == "length":
            if not data:
                raise asyncio.IncompleteReadError(b"", self._left)
            self._left -= len(data)
            self._ended = not self._left
        else:
            self._ended = not data
        return data

    async def _piece(self) -> bytes:
        try:
            return await self._more()
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Truncated(bytes(self._decoded)) from None

    async def read_chunk(self) -> bytes:
        """What is decoded and unread, else the next piece of the body; empty at the body's end."""
        async with asyncio.timeout(self.timeout):
            if not self._decoded:
                return await self._piece()
        data = bytes(self._decoded)
        self._decoded.clear()
        return data

    async def read_bytes(self, n: int) -> bytes:
        """Exactly `n` bytes of the body, however it is chunked."""
        async with asyncio.timeout(self.timeout):
            while len(self._decoded) < n:
                piece = await self._piece()
                if not piece:
                    raise Truncated(bytes(self._decoded))
                self._decoded += piece
        data = bytes(self._decoded[:n])
        del self._decoded[:n]
        return data

    async def read_until(self, mark: bytes) -> bytes:
        """The body up to and with the next `mark`."""
        async with asyncio.timeout(self.timeout):
            while (at := self._decoded.find(mark)) < 0:
                piece = await self._piece()
                if not piece:
                    raise Truncated(bytes(self._decoded))
                self._decoded += piece
        return await self.read_bytes(at + len(mark))

    async def read_rest(self) -> bytes:
        """The rest of the body, to its end."""
        async with asyncio.timeout(self.timeout):
            while piece := await self._piece():
                self._decoded += piece
        data = bytes(self._decoded)
        self._decoded.clear()
        return data

    async def drain_rest(self) -> int:
        """Read the rest of the body without keeping it; how many bytes it had.

        Each piece may take `timeout` seconds.
        """
        n = len(self._decoded)
        self._decoded.clear()
        while True:
            async with asyncio.timeout(self.timeout):
                piece = await self._piece()
            if not piece:
                return n
            n += len(piece)

    async def read_all(self) -> bytes:
        """Every raw byte until the peer closes or resets."""
        out = bytearray()
        async with asyncio.timeout(self.timeout):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(65536):
                    out += data
        return bytes(out)

    async def at_eof(self) -> bool:
        """True when the peer closes with nothing more to read; False when bytes come first."""
        return not await self.read_all_or_first()

    async def read_all_or_first(self) -> bytes:
        """The next raw bytes that arrive, or empty when the peer closes or resets first."""
        async with asyncio.timeout(self.timeout):
            try:
                return await self.reader.read(65536)
            except ConnectionError:
                return b""

    async def is_silent(self, seconds: float) -> bool:
        """True when neither a byte nor the end arrives within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    def finish_sending(self) -> None:
        """Half-close: send FIN, go on reading."""
        self.writer.write_eof()

    def abort(self) -> None:
        """Close at once with RST."""
        sock = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the peer may have closed it first
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(1):
                await self.writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@contextlib.asynccontextmanager
async def connect(
    port: int = 0,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    sni: str | None = None,
    unix: str | None = None,
    receive_buffer: int | None = None,
    timeout: float = TIMEOUT,
) -> AsyncIterator[Client]:
    """Connect by TCP, TLS (`tls`, with `sni` as server name) or Unix socket (`unix`).

    `receive_buffer` bounds the kernel's and this client's receive buffer in bytes, for a client
    that reads slowly or never.
    """
    limit = receive_buffer or 2**20
    async with asyncio.timeout(timeout):
        if unix is not None:
            reader, writer = await asyncio.open_unix_connection(unix, limit=limit)
        else:
            # asyncio sends small writes at once only on sockets that say that they are TCP.
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(sock, (host, port))
                reader, writer = await asyncio.open_connection(
                    sock=sock, limit=limit, ssl=tls, server_hostname=(sni or "") if tls else None
                )
            except BaseException:
                sock.close()
                raise
    async with Client(reader, writer, timeout) as client:
        yield client


def encode_request(
    method: str,
    target: str,
    headers: Fields = (),
    body: bytes | None = None,
    host: str | None = "localhost",
    version: str = "HTTP/1.1",
) -> bytes:
    """The bytes of a request: Host first unless None, Content-Length last if `body` is given."""
    fields = [] if host is None else [("Host", host)]
    fields += pairs(headers)
    if body is not None:
        fields.append(("Content-Length", str(len(body))))
    head = f"{method} {target} {version}\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields)
    return head.encode("latin-1") + b"\r\n" + (body or b"")


async def get(
    port: int, target: str = "/", headers: Fields = (), host: str | None = "localhost"
) -> Response:
    """GET on a connection of its own."""
    return await fetch(port, "GET", target, headers, host=host)


async def fetch(
    port: int,
    method: str,
    target: str = "/",
    headers: Fields = (),
    body: bytes | None = None,
    host: str | None = "localhost",
) -> Response:
    """One request on a connection of its own."""
    async with connect(port) as c:
        return await c.request(method, target, headers, body, host)
