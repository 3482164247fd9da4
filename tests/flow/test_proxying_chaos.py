"""Backends that misbehave and clients that leave at every moment: the proxy outlives them all."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping

import pytest

from tests.support.backend import Exchange, chunk, response, start_backend
from tests.support.client import Truncated, connect, get
from tests.support.proxy import Proxy, start_proxy

CLIENTS = 400
AT_ONCE = 50
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
HOLD = {"Grip-Channel": "c", "Grip-Timeout": "5"}


def answers(rng: random.Random) -> list[bytes | tuple[bytes, str]]:
    """Whole answers, and beginnings of answers with how the backend then ends the connection."""
    return [
        response(200, {}, bytes(rng.randrange(300_000))),
        response(200, {}, [bytes(rng.randrange(1, 50_000)) for _ in range(rng.randrange(8))]),
        response(200, {"Connection": "close"}, b"x"),
        response(200, {}, b"x", length=False),
        response(204),
        response(200, {}, b"y") + b"more than was announced",
        response(200, {"Grip-Hold": "stream", **HOLD}, bytes(rng.randrange(1, 200_000))),
        response(200, {"Grip-Hold": "response", **HOLD}, b"t"),
        response(200, {"Grip-Hold": "neither"}, b"x"),
        (b"", "close"),
        (b"", "reset"),
        (b"not http\r\n\r\n", "close"),
        (LENGTH_HEAD + bytes(rng.randrange(100_000)), "reset"),
        (CHUNKED_HEAD + chunk(bytes(1000)), "close"),
    ]


async def misbehave(ex: Exchange, rng: random.Random) -> bytes | None:
    answer = rng.choice(answers(rng))
    if isinstance(answer, bytes):
        return answer
    begin, end = answer
    with contextlib.suppress(ConnectionError):
        await ex.write(begin)
    (ex.close if end == "close" else ex.abort)()
    return None


def some_requests(rng: random.Random) -> bytes:
    """One or several requests, at times cut short."""
    method, version = rng.choice(["GET", "HEAD", "POST", "PUT"]), rng.choice(["1.0", "1.1", "1.1"])
    body = b"" if method in ("GET", "HEAD") else bytes(rng.choice([0, 10, 20_000, 150_000]))
    path = rng.choice(["/", "/unread", "/refused", "/aco", "/aco?callback=f"])
    head = f"{method} {path} HTTP/{version}\r\nHost: a\r\n"
    if version == "1.1" and rng.random() < 0.3:
        raw = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n"
        raw += (chunk(body) if body else b"") + b"0\r\n\r\n"
    else:
        raw = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    raw *= rng.choice([1, 1, 1, 10])
    return raw[: rng.randrange(len(raw))] if rng.random() < 0.2 else raw


async def visit(proxy: Proxy, rng: random.Random, turns: asyncio.Semaphore) -> None:
    """Send something, read something, leave in one way or another."""
    async with turns:
        with contextlib.suppress(OSError, TimeoutError, Truncated):
            buffer = rng.choice([None, 4096])
            async with connect(proxy.port, timeout=2, receive_buffer=buffer) as c:
                await c.send(some_requests(rng))
                leave = rng.choice(["reset", "close", "half-close", "read", "read on"])
                if leave == "half-close":
                    c.finish_sending()
                    await c.read_all()
                elif leave.startswith("read"):
                    async with asyncio.timeout(rng.random() / 4):
                        await c.reader.read(100 if leave == "read" else 100_000)
                if leave == "reset":
                    c.abort()


async def publish_all_the_time(proxy: Proxy) -> None:
    formats: Mapping[str, object] = {
        "http-stream": {"content": "x" * 100},
        "http-response": {"body": "r"},
    }
    while True:
        await proxy.publish({"channel": "c", "formats": formats})


@contextlib.asynccontextmanager
async def running(task: asyncio.Task[None]) -> AsyncIterator[None]:
    """Cancel the task on leaving, and raise what it raised before."""
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("settings", [
    {},
    {"backend_maxconn": 3, "backend_queue_max": 2, "backend_queue_timeout": "0.5"},
    {"max_open_requests": 5},
], ids=["defaults", "few connections", "few requests"])  # fmt: skip
async def test_nothing_is_lost_but_what_was_broken(settings: Mapping[str, object]) -> None:
    rng = random.Random(str(settings))
    async with start_backend() as backend:
        backend.on("*", lambda ex: misbehave(ex, rng))
        backend.on("/unread", lambda ex: misbehave(ex, rng), stream=True)
        backend.on("/good", response(200, {}, b"good"))
        routes = [
            f"* {backend.address}",
            f"*,path_beg=/refused 127.0.0.1:1 {backend.address}",
            f"*,path_beg=/aco,aco {backend.address}",
        ]
        limits = {"backend_idle_timeout": "0.3", **settings}
        async with start_proxy(routes, proxy=limits) as proxy:
            assert (await get(proxy.port, "/good")).body == b"good"
            files = proxy.open_files()
            turns = asyncio.Semaphore(AT_ONCE)
            async with running(asyncio.create_task(publish_all_the_time(proxy))):
                await asyncio.gather(*(visit(proxy, rng, turns) for _ in range(CLIENTS)))
            assert len(backend.requests) > 10  # it was not refused all along
            for _ in range(10):
                assert (await get(proxy.port, "/good")).body == b"good"
            async with asyncio.timeout(10):
                while proxy.open_files() > files + 1:
                    await asyncio.sleep(0.05)
            assert "Traceback" not in proxy.log()
            assert "[ERR]" not in proxy.log()
