"""Raw WebSockets, and backends that speak WebSocket or WebSocket-over-HTTP.

    async with open_socket(proxy.port, "/ws") as ws:        # the 101 came, its accept key is right
        await ws.send_text("hello")
        assert await ws.read_text() == "hello"
        await ws.send(TEXT, b"part", fin=False)             # any frame, legal or not
        assert await ws.read_close() == (1000, b"")
    r = await refused(proxy.port, "/nowhere")               # an answer other than 101

A backend that speaks WebSocket-over-HTTP answers by a script; what is not scripted is accepted,
closed as the client closed, or answered without events:

    woh = WohBackend(backend, "/woh")
    woh.answers.append(accept(control(type="subscribe", channel="fruit")))
    late = woh.hold()                                       # the answer after that comes when told
    request, got = await woh.next()                         # the request and its decoded events
    late.set_result(events(("TEXT", "m:hello"), headers={"Keep-Alive-Interval": "20"}))

A WebSocket backend shows each accepted connection as a `Socket` of its own:

    async with SocketBackend(backend, "/ws", [GRIP]) as server:
        async with open_socket(proxy.port, "/ws") as ws:
            inner = await server.next()
            assert await inner.read_text() == "hello"
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, NamedTuple, Self

from tests.support.backend import Answer, Backend, Exchange, Request, response
from tests.support.client import (
    TIMEOUT,
    Client,
    Fields,
    Response,
    Truncated,
    connect,
    encode_request,
    pairs,
)

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
EVENTS_TYPE = "application/websocket-events"
GRIP = ("Sec-WebSocket-Extensions", "grip")
EVENT_TYPES = {"OPEN", "TEXT", "BINARY", "PING", "PONG", "CLOSE", "DISCONNECT"}


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept that answers `key` (RFC 6455 §4.2.2)."""
    guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1((key + guid).encode()).digest()).decode()


# -- frames ----------------------------------------------------------------------------------


class Frame(NamedTuple):
    """A frame as it was on the wire; `rsv` has the three reserved bits, RSV1 is 4."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0


def encode_frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = False
) -> bytes:
    """The bytes of a frame (RFC 6455 §5.2); nothing is checked."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    size, mask_bit = len(payload), masked << 7
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 2**16:
        head += bytes([mask_bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask_bit | 127]) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + _masked(payload, mask)


def _masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    pad = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


def close_payload(code: int | None, reason: bytes = b"") -> bytes:
    """What a close frame carries; no code: nothing."""
    return b"" if code is None else code.to_bytes(2, "big") + reason


class Socket:
    """One end of a WebSocket, after the handshake; `client` tells which, for the masking."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        client: bool,
        response: Response | None = None,
        request: Request | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.timeout = timeout
        self.ended = asyncio.Event()
        self._client = client
        self._response = response
        self._request = request

    @property
    def response(self) -> Response:
        """The head of the 101, at the client's end."""
        assert self._response is not None, "this is the backend's end"
        return self._response

    @property
    def request(self) -> Request:
        """The handshake, at the backend's end."""
        assert self._request is not None, "this is the client's end"
        return self._request

    async def send(
        self,
        opcode: int,
        payload: bytes = b"",
        *,
        fin: bool = True,
        rsv: int = 0,
        masked: bool | None = None,
    ) -> None:
        """Write one frame; a client masks it unless told otherwise."""
        mask = self._client if masked is None else masked
        await self.send_raw(encode_frame(opcode, payload, fin=fin, rsv=rsv, masked=mask))

    async def send_text(self, text: str) -> None:
        await self.send(TEXT, text.encode())

    async def send_close(self, code: int | None = None, reason: bytes = b"") -> None:
        await self.send(CLOSE, close_payload(code, reason))

    async def send_raw(self, data: bytes) -> None:
        """Write bytes, and wait until the kernel and the buffer have room for them."""
        self.writer.write(data)
        async with asyncio.timeout(self.timeout):
            await self.writer.drain()

    async def read_frame(self, timeout: float | None = None) -> Frame:
        """The next frame, which must be masked as its sender must. Truncated where none comes."""
        async with asyncio.timeout(timeout or self.timeout):
            try:
                return await self._frame()
            except asyncio.IncompleteReadError as e:
                raise Truncated(e.partial) from None
            except ConnectionError:
                raise Truncated(b"") from None

    async def _frame(self) -> Frame:
        first, second = await self.reader.readexactly(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
        masked = second >> 7
        assert masked == (not self._client), "a client masks, a server does not"
        mask = await self.reader.readexactly(4) if masked else bytes(4)
        payload = await self.reader.readexactly(size)
        if masked:
            payload = _masked(payload, mask)
        return Frame(first & 15, payload, bool(first >> 7), first >> 4 & 7)

    async def read_message(self) -> tuple[int, bytes]:
        """The next message, put together from its fragments: its opcode and content.

        A control frame or a reserved bit fails.
        """
        frame = await self.read_frame()
        assert frame.opcode in (TEXT, BINARY) and not frame.rsv, frame
        opcode, content = frame.opcode, [frame.payload]
        while not frame.fin:
            frame = await self.read_frame()
            assert frame.opcode == CONT and not frame.rsv, frame
            content.append(frame.payload)
        return opcode, b"".join(content)

    async def read_text(self) -> str:
        """The next message, which must be text."""
        opcode, content = await self.read_message()
        assert opcode == TEXT, (opcode, content)
        return content.decode()

    async def read_close(self) -> tuple[int | None, bytes]:
        """Code and reason of the next frame, which must be a close frame."""
        frame = await self.read_frame()
        assert (frame.opcode, frame.fin, frame.rsv) == (CLOSE, True, 0), frame
        if not frame.payload:
            return None, b""
        assert len(frame.payload) >= 2, frame
        return int.from_bytes(frame.payload[:2], "big"), frame.payload[2:]

    async def wait_dropped(self) -> None:
        """Wait until the TCP connection ends; a frame before that fails."""
        async with asyncio.timeout(self.timeout):
            try:
                data = await self.reader.read(65536)
            except ConnectionError:
                return
        assert not data, f"not dropped, but sent {data[:200]!r}"

    async def is_silent(self, seconds: float) -> bool:
        """True when neither a byte nor the end arrives within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self.reader.read(1)
        except TimeoutError:
            return True
        except ConnectionError:
            pass
        return False

    def abort(self) -> None:
        """Close TCP at once with RST."""
        sock = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the peer may have closed it first
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()
        self.ended.set()

    async def close(self) -> None:
        """Close TCP after what was written; no close frame."""
        self.ended.set()
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(1):
                await self.writer.wait_closed()


# -- clients ---------------------------------------------------------------------------------


def handshake(
    target: str = "/",
    headers: Fields = (),
    *,
    host: str | None = "localhost",
    key: str = KEY,
    version: str = "13",
    drop: Collection[str] = (),
    method: str = "GET",
    body: bytes | None = None,
) -> bytes:
    """The bytes of an opening handshake, with `headers` last and without those named in `drop`."""
    own = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", version),
    ]
    fields = [(n, v) for n, v in own if n not in drop] + pairs(headers)
    return encode_request(method, target, fields, body, host)


async def upgraded(client: Client, key: str = KEY) -> Socket:
    """The WebSocket of a client whose handshake has been sent; asserts the 101 and its key."""
    r = await client.read_head()
    if r.status != 101:
        r.body = await client.read_rest()
    assert r.status == 101, r
    assert (r.header("upgrade") or "").lower() == "websocket", r
    # Pushpin 1.36 adds `close` where the handshake had a Content-Length
    assert "upgrade" in [value.lower() for value in r.all("connection")], r
    assert r.header("sec-websocket-accept") == accept_key(key), r
    return Socket(client.reader, client.writer, client=True, response=r, timeout=client.timeout)


@contextlib.asynccontextmanager
async def open_socket(
    port: int,
    target: str = "/",
    headers: Fields = (),
    *,
    receive_buffer: int | None = None,
    tls: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
    key: str = KEY,
    **options: Any,
) -> AsyncIterator[Socket]:
    """An accepted WebSocket to the proxy; `options` are those of `handshake`."""
    async with connect(port, tls=tls, receive_buffer=receive_buffer, timeout=timeout) as client:
        await client.send(handshake(target, headers, key=key, **options))
        yield await upgraded(client, key)


async def refused(port: int, target: str = "/", headers: Fields = (), **options: Any) -> Response:
    """The answer to a handshake, other than 101, with its body."""
    async with connect(port) as client:
        await client.send(handshake(target, headers, **options))
        r = await client.read_response()
    assert r.status != 101, r
    return r


# -- WebSocket-over-HTTP ---------------------------------------------------------------------


class Event(NamedTuple):
    """One event; without content its line has no length."""

    type: str
    content: bytes | None = None


EventLike = Event | tuple[str, bytes | str] | str


def encode_events(*events: EventLike) -> bytes:
    """A body with the events; nothing is checked. A bare string is an event without content."""
    out = []
    for event in events:
        kind, content = (event, None) if isinstance(event, str) else event
        out.append(kind.encode())
        if content is not None:
            data = content.encode() if isinstance(content, str) else content
            out.append(b" %x\r\n%s" % (len(data), data))
        out.append(b"\r\n")
    return b"".join(out)


def decode_events(body: bytes) -> list[Event]:
    """The events of a body, which must be spelt as the proxy has to."""
    out, at = [], 0
    while at < len(body):
        line = re.compile(rb"([A-Z]+)(?: ([1-9a-f][0-9a-f]*))?\r\n").match(body, at)
        assert line, f"not an event line: {body[at : at + 80]!r}"
        kind, at = line[1].decode(), line.end()
        assert kind in EVENT_TYPES, kind
        if line[2] is None:
            out.append(Event(kind))
            continue
        end = at + int(line[2], 16)
        assert body[end : end + 2] == b"\r\n", f"{kind} is not as long as it says"
        out.append(Event(kind, body[at:end]))
        at = end + 2
    return out


def events(*items: EventLike, headers: Fields = (), status: int = 200) -> bytes:
    """A whole response with these events."""
    fields = [("Content-Type", EVENTS_TYPE), *pairs(headers)]
    return response(status, fields, encode_events(*items))


def accept(*more: EventLike, grip: bool = True, headers: Fields = ()) -> bytes:
    """The response that accepts a connection, with further events."""
    return events("OPEN", *more, headers=[*([GRIP] if grip else []), *pairs(headers)])


def control(**fields: Any) -> Event:
    """A control message; underscores in field names become hyphens."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return Event("TEXT", b"c:" + json.dumps(named).encode())


WohAnswer = bytes | Callable[[Exchange], Answer | Awaitable[Answer]] | asyncio.Future[bytes]


class WohBackend:
    """Answers WebSocket-over-HTTP at a path of `backend`, by `answers` as long as there are any."""

    def __init__(self, backend: Backend, path: str) -> None:
        self.path = path
        self.answers: list[WohAnswer] = []
        self._arrived: asyncio.Queue[Request] = asyncio.Queue()
        backend.on(path, self._answer)

    async def next(self, timeout: float = TIMEOUT) -> tuple[Request, list[Event]]:
        """The next request not taken yet, with its events; its head must be that of a request."""
        async with asyncio.timeout(timeout):
            request = await self._arrived.get()
        assert request.method == "POST", request
        return request, decode_events(request.body)

    async def next_events(self, timeout: float = TIMEOUT) -> list[Event]:
        """The events of the next request."""
        return (await self.next(timeout))[1]

    async def is_silent(self, seconds: float) -> bool:
        """True when no request arrives within `seconds`."""
        try:
            await self.next(seconds)
        except TimeoutError:
            return True
        return False

    def hold(self) -> asyncio.Future[bytes]:
        """Script an answer that comes when the test sets the result."""
        answer = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        return answer

    async def _answer(self, exchange: Exchange) -> Answer:
        self._arrived.put_nowait(exchange.request)
        if not self.answers:
            return _unscripted(exchange.request)
        answer = self.answers.pop(0)
        if isinstance(answer, bytes):
            return answer
        given = answer(exchange) if callable(answer) else answer
        return await given if isinstance(given, Awaitable) else given


def _unscripted(request: Request) -> bytes:
    try:
        got = decode_events(request.body)
    except AssertionError as e:  # next() shows it to the test
        return response(400, body=str(e).encode())
    if Event("OPEN") in got:
        return accept()
    return events(*[event for event in got if event.type == "CLOSE"])


# -- WebSocket backends ----------------------------------------------------------------------


async def accept_socket(exchange: Exchange, headers: Fields = ()) -> Socket:
    """Answer a handshake by a 101; for handlers registered with `stream=True`."""
    key = exchange.request.header("sec-websocket-key") or ""
    fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(key)),
        *pairs(headers),
    ]
    await exchange.write(response(101, fields, length=False))
    return Socket(exchange.reader, exchange.writer, client=False, request=exchange.request)


class SocketBackend:
    """Accepts WebSockets at a path of `backend`, each driven by the test as a `Socket`.

    Leaving it as a context closes those that are still open.
    """

    def __init__(self, backend: Backend, path: str, headers: Fields = ()) -> None:
        self._headers = pairs(headers)
        self._accepted: asyncio.Queue[Socket] = asyncio.Queue()
        self._all: list[Socket] = []
        backend.on(path, self._answer, stream=True)

    async def next(self, timeout: float = TIMEOUT) -> Socket:
        """The next connection not taken yet, just accepted."""
        async with asyncio.timeout(timeout):
            return await self._accepted.get()

    async def _answer(self, exchange: Exchange) -> None:
        it = await accept_socket(exchange, self._headers)
        self._all.append(it)
        self._accepted.put_nowait(it)
        exchange.closed = True  # nothing after a WebSocket on this connection
        await it.ended.wait()

    async def close(self) -> None:
        """Close every connection."""
        for it in self._all:
            await it.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
