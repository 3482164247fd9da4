"""ZeroMQ peers of the proxy: one that pushes items, one that also sees subscriptions."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import zmq
import zmq.asyncio

from tests.support.client import TIMEOUT


def tnetstring(value: Any) -> bytes:
    """`value` as a tnetstring; text and keys as UTF-8."""
    match value:
        case None:
            data, kind = b"", b"~"
        case bool():
            data, kind = str(value).lower().encode(), b"!"
        case int():
            data, kind = b"%d" % value, b"#"
        case float():
            data, kind = str(value).encode(), b"^"
        case str():
            data, kind = value.encode(), b","
        case bytes():
            data, kind = value, b","
        case Mapping():
            data, kind = b"".join(tnetstring(k) + tnetstring(v) for k, v in value.items()), b"}"
        case _:
            data, kind = b"".join(map(tnetstring, value)), b"]"
    return b"%d:%s%s" % (len(data), data, kind)


def json_frame(item: Any) -> bytes:
    """An item as JSON, marked as such."""
    return b"J" + json.dumps(item).encode()


@contextlib.asynccontextmanager
async def open_socket(kind: int) -> AsyncIterator[zmq.asyncio.Socket]:
    """A socket without a bound on what it queues, in a context of its own."""
    context = zmq.asyncio.Context()
    socket = context.socket(kind)
    socket.set_hwm(0)
    try:
        yield socket
    finally:
        context.destroy(linger=0)


@contextlib.asynccontextmanager
async def pusher(spec: str) -> AsyncIterator[zmq.asyncio.Socket]:
    """A PUSH socket connected to the proxy."""
    async with open_socket(zmq.PUSH) as socket:
        socket.connect(spec)
        yield socket


class Publisher:
    """A publisher that sees who subscribes. Make it with `publisher`."""

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self.socket = socket
        self.notices: list[tuple[bool, str]] = []

    async def send(self, *frames: bytes) -> None:
        await self.socket.send_multipart(frames)

    async def wait(self, subscribed: bool, channel: str, count: int = 1) -> None:
        """Wait until the proxy has subscribed to the channel (or unsubscribed) `count` times."""
        async with asyncio.timeout(TIMEOUT):
            while self.notices.count((subscribed, channel)) < count:
                await self._next()

    def about(self, channel: str) -> list[bool]:
        """What was seen of the channel: True for each subscription, False for each end of one."""
        return [subscribed for subscribed, name in self.notices if name == channel]

    async def _next(self) -> None:
        frame = await self.socket.recv()
        self.notices.append((frame[:1] == b"\1", frame[1:].decode(errors="surrogateescape")))


@contextlib.asynccontextmanager
async def publisher(
    *, connect: str | None = None, bind: str | None = None
) -> AsyncIterator[Publisher]:
    """An XPUB socket that connects to the proxy, or is bound for the proxy to connect to."""
    async with open_socket(zmq.XPUB) as socket:
        if connect is not None:
            socket.connect(connect)
        if bind is not None:
            socket.bind(bind)
        yield Publisher(socket)
