"""Bodies both ways: streamed, whole, at the pace of the slower side, visibly cut when cut."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.backend import Backend, Exchange, chunk, response, start_backend
from tests.support.client import Client, Truncated, connect, fetch, get
from tests.support.proxy import Proxy, start_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
Stage = tuple[Backend, Proxy]
MIB = 2**20
BIG = 256 * MIB
# what the kernel's socket buffers of two connections can hold, and the proxy's own
STALL_BYTES = 40 * MIB
GROWTH_KIB = 32 * 1024
PIECE = bytes(256 * 1024)
STALL_SECONDS = 0.4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Stage]:
    async with start_backend() as backend, start_proxy(f"* {backend.address}") as proxy:
        yield backend, proxy


@pytest.fixture
def stage(running: Stage) -> Stage:
    running[0].reset()
    running[0].on("/hello", response(200, {}, b"hello\n"))
    return running


# -- streaming -----------------------------------------------------------------


@shared
async def test_backend_is_contacted_when_ten_thousand_bytes_of_the_body_are_there(
    stage: Stage,
) -> None:
    backend, proxy = stage
    backend.on("/upload", lambda ex: response(), stream=True)
    async with connect(proxy.port) as c:
        await c.send(
            b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n" + bytes(9990)
        )
        # by the time that a later request is through, the first would be too
        assert (await get(proxy.port, "/hello")).status == 200
        assert [r.target for r in backend.requests] == ["/hello"]
        await c.send(bytes(2000))
        assert (await backend.next_request()).target == "/hello"
        assert (await backend.next_request()).target == "/upload"


@shared
async def test_request_body_is_streamed(stage: Stage) -> None:
    backend, proxy = stage
    arrived = asyncio.Queue[bytes]()

    async def read(ex: Exchange) -> bytes:
        while piece := await ex.read_body():
            arrived.put_nowait(piece)
        return response(200, {}, b"done")

    async def read_bytes(n: int) -> bytes:
        data = b""
        async with asyncio.timeout(5):
            while len(data) < n:
                data += await arrived.get()
        return data

    backend.on("/upload", read, stream=True)
    async with connect(proxy.port) as c:
        await c.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for letter in (b"a", b"b", b"c"):
            await c.send(chunk(letter * 10_000))
            assert await read_bytes(10_000) == letter * 10_000
        await c.send(b"0\r\n\r\n")
        assert (await c.read_response()).body == b"done"
    request = await backend.next_request()
    assert (request.header("transfer-encoding"), request.header("content-length")) == (
        "chunked",
        None,
    )


@shared
async def test_streamed_body_of_known_length_keeps_its_length(stage: Stage) -> None:
    backend, proxy = stage
    backend.on("/upload", lambda ex: response(200, {}, b"%d" % len(ex.request.body)))
    assert (await fetch(proxy.port, "POST", "/upload", body=bytes(300_000))).body == b"300000"
    request = await backend.next_request()
    assert (request.header("content-length"), request.header("transfer-encoding")) == (
        "300000",
        None,
    )


@shared
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_body_of_any_size_and_framing_arrives_unchanged(stage: Stage, framing: str) -> None:
    backend, proxy = stage
    rng = random.Random(framing)
    for size in (0, 1, 4095, 100_000, 100_001, 3_000_000):
        data = rng.randbytes(size)
        cuts = sorted(rng.randrange(size + 1) for _ in range(20))
        pieces = [p for a, b in zip([0, *cuts], [*cuts, size], strict=True) if (p := data[a:b])]
        raw = response(
            200, {}, pieces if framing == "chunked" else data, length=framing == "length"
        )
        backend.on("/data", raw)
        r = await get(proxy.port, "/data")
        assert hashlib.sha1(r.body).digest() == hashlib.sha1(data).digest()


@shared
async def test_trailers_of_a_response_are_not_header_fields(stage: Stage) -> None:
    backend, proxy = stage
    raw = response(
        200, {"Trailer": "X-Sum"}, [b"abc"], trailers={"X-Sum": "1", "Content-Length": "9"}
    )
    backend.on("/trailers", raw)
    async with connect(proxy.port) as c:
        r = await c.request("GET", "/trailers")
        assert (r.body, r.header("x-sum"), r.header("content-length")) == (b"abc", None, "3")
        assert (await c.request("GET", "/hello")).body == b"hello\n"


@shared
async def test_trailers_of_a_request_are_not_header_fields(stage: Stage) -> None:
    backend, proxy = stage
    async with connect(proxy.port) as c:
        await c.send(
            b"POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3;ext=1\r\nabc\r\n0\r\nX-Sum: 1\r\nGrip-Last: x; last-id=1\r\n\r\n"
        )
        assert (await c.read_response()).body == b"hello\n"
        assert (await c.request("GET", "/hello")).body == b"hello\n"
    request = await backend.next_request()
    assert (request.body, request.header("x-sum"), request.header("grip-last")) == (
        b"abc",
        None,
        None,
    )


# -- the pace of the slower side -----------------------------------------------


async def send_until_stalled(send: "asyncio.Queue[int]", total: int) -> int:
    """How much of `total` has been sent when no more is sent for a while."""
    sent = 0
    while sent < total:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                sent = await send.get()
        except TimeoutError:
            break
    return sent


@shared
async def test_download_goes_at_the_pace_of_the_client(stage: Stage) -> None:
    backend, proxy = stage
    progress = asyncio.Queue[int]()

    async def endless(ex: Exchange) -> None:
        await ex.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
        for sent in range(0, BIG, len(PIECE)):
            await ex.write(PIECE)
            progress.put_nowait(sent + len(PIECE))

    backend.on("/big", endless)
    before = proxy.peak_memory()
    async with connect(proxy.port, receive_buffer=32768) as c:
        await c.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await send_until_stalled(progress, BIG) < STALL_BYTES
        # the one who does not read troubles no other
        assert (await get(proxy.port, "/hello")).body == b"hello\n"
    async with connect(proxy.port) as c:
        await c.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await c.read_head()).status == 200
        assert await c.drain_rest() == BIG
    assert proxy.peak_memory() - before < GROWTH_KIB


async def upload(c: Client, progress: "asyncio.Queue[int]") -> None:
    await c.send(b"POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % BIG)
    for sent in range(0, BIG, len(PIECE)):
        c.writer.write(PIECE)
        await c.writer.drain()
        progress.put_nowait(sent + len(PIECE))


@shared
async def test_upload_goes_at_the_pace_of_the_backend(stage: Stage) -> None:
    backend, proxy = stage
    go_on = asyncio.Event()

    async def reluctant(ex: Exchange) -> bytes:
        await go_on.wait()
        size = 0
        while piece := await ex.read_body(MIB):
            size += len(piece)
        return response(200, {}, b"%d" % size)

    backend.on("/big", reluctant, stream=True)
    before = proxy.peak_memory()
    progress = asyncio.Queue[int]()
    async with connect(proxy.port) as c, asyncio.TaskGroup() as tasks:
        tasks.create_task(upload(c, progress))
        await backend.next_request()
        assert await send_until_stalled(progress, BIG) < STALL_BYTES
        assert (await get(proxy.port, "/hello")).body == b"hello\n"
        go_on.set()
        async with asyncio.timeout(60):
            r = await c.read_response()
        assert r.body == b"%d" % BIG
    assert proxy.peak_memory() - before < GROWTH_KIB


# -- cut short -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_response_that_the_backend_cuts_is_cut_for_the_client(
    stage: Stage, framing: str, how: str
) -> None:
    backend, proxy = stage
    go_on = asyncio.Event()

    async def cut(ex: Exchange) -> None:
        if framing == "length":
            await ex.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
        else:
            await ex.write(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"part")
            )
        await go_on.wait()
        (ex.close if how == "close" else ex.abort)()

    backend.on("/cut", cut)
    async with connect(proxy.port) as c:
        await c.send(b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n")
        await c.read_head()
        assert await c.read_bytes(4) == b"part"
        go_on.set()
        with pytest.raises(Truncated):
            await c.read_rest()
    await proxy.wait_log(r"GET http://a/cut -> \S+ error")


async def test_malformed_chunk_from_the_backend_cuts_the_response(stage: Stage) -> None:
    backend, proxy = stage
    go_on = asyncio.Event()

    async def broken(ex: Exchange) -> None:
        await ex.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"part"))
        await go_on.wait()
        await ex.write(b"not a size\r\n")
        await ex.wait_closed()
        ex.close()

    backend.on("/broken", broken)
    async with connect(proxy.port) as c:
        await c.send(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
        await c.read_head()
        assert await c.read_bytes(4) == b"part"
        go_on.set()
        with pytest.raises(Truncated):
            await c.read_rest()


async def test_request_that_the_client_cuts_is_cut_for_the_backend(stage: Stage) -> None:
    backend, proxy = stage
    cut = asyncio.Event()

    async def read(ex: Exchange) -> bytes:
        try:
            while await ex.read_body():
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            cut.set()
            raise
        return response()

    backend.on("/upload", read, stream=True)
    async with connect(proxy.port) as c:
        await c.send(
            b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n" + bytes(20_000)
        )
        await backend.next_request()
    async with asyncio.timeout(5):
        await cut.wait()


@shared
async def test_bytes_after_a_response_are_not_taken_for_the_next_one(stage: Stage) -> None:
    backend, proxy = stage
    backend.on("/more", response(200, {}, b"right") + response(200, {}, b"stray"))
    async with connect(proxy.port) as c:
        assert (await c.request("GET", "/more")).body == b"right"
        assert (await c.request("GET", "/hello")).body == b"hello\n"
        assert (await c.request("GET", "/hello")).body == b"hello\n"
