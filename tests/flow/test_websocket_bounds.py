"""Bounds on what a client or a backend of a WebSocket can cost, however it behaves."""

import asyncio
import random
import zlib
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, open_stage
from tests.flow.sockets import OVER_HTTP, over_http, relayed, text
from tests.support.backend import Exchange
from tests.support.client import get
from tests.support.websocket import (
    BINARY,
    TEXT,
    Event,
    accept,
    decode_events,
    encode_frame,
    events,
    open_socket,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    conditions = ["*", OVER_HTTP, "*,path_beg=/test test"]
    runner = {"allow_compression": True, "ws_inflate_max": MIB}
    async with open_stage(*conditions, runner=runner) as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


def content(got: list[Event]) -> bytes:
    """The content of all the events."""
    return b"".join(event.content or b"" for event in got)


# -- what a client sends -----------------------------------------------------------------------


async def test_empty_messages_are_bounded_as_well(stage: Stage) -> None:
    count, at_once = 120_000, 60_000
    async with over_http(stage) as (client, backend):
        first = backend.hold()
        await client.send_text("first")
        await backend.next()
        frames = encode_frame(TEXT, b"", masked=True) * count
        sending = asyncio.create_task(client.send_raw(frames))
        assert await backend.is_silent(0.3)  # it could be read meanwhile
        first.set_result(events())
        while count > 0:
            got = await backend.next_events()
            assert 0 < len(got) < at_once
            assert set(got) == {Event("TEXT")}
            count -= len(got)
        assert count == 0
        await sending


async def test_what_was_accepted_in_part_is_offered_again(stage: Stage) -> None:
    """A queue that is still full then does not stand still."""
    whole = b"".join(b"%06d" % number + bytes(29_994) for number in range(30))
    offered: list[tuple[int, int, int]] = []
    taken = bytearray()
    most = 50_000  # is accepted of each request

    def accept_some(exchange: Exchange) -> bytes:
        replayed = exchange.request.header("content-bytes-replayed") or "0"
        data = content(decode_events(exchange.request.body))
        accepted = data[:most]
        offered.append((len(data), int(replayed), len(accepted)))
        taken.extend(accepted)
        return events(headers={"Content-Bytes-Accepted": str(len(accepted))})

    async with over_http(stage) as (client, backend):
        first = backend.hold()
        await client.send_text("first")
        await backend.next()
        frames = [
            encode_frame(BINARY, whole[at : at + 30_000], masked=True)
            for at in range(0, len(whole), 30_000)
        ]
        sending = asyncio.create_task(client.send_raw(b"".join(frames)))
        assert await backend.is_silent(0.1)
        backend.answers += [accept_some] * 100
        first.set_result(events())
        while len(taken) < len(whole) - 200_000:  # the rest waits for an occasion
            await backend.next()
        await sending
        most = len(whole)
        await client.send_text("occasion")
        while len(taken) < len(whole) + len("occasion"):
            await backend.next()
        assert bytes(taken) == whole + b"occasion"
        assert max(offered)[0] >= 200_000
        left = [size - accepted for size, _, accepted in offered]
        assert [replayed for _, replayed, _ in offered] == [0, *left[:-1]]


async def test_an_echo_waits_for_its_reader(stage: Stage) -> None:
    piece, most, before = bytes(MIB // 4), 0, stage.proxy.peak_memory()
    async with open_socket(stage.proxy.port, "/test/ws", receive_buffer=65_536) as client:
        client.writer.transport.set_write_buffer_limits(0)
        frame = encode_frame(BINARY, piece, masked=True)
        try:
            while most < 400:
                most += 1
                client.writer.write(frame)
                async with asyncio.timeout(0.3):
                    await client.writer.drain()
        except TimeoutError:
            pass
        assert most < 250  # what the kernel's buffers take
        assert stage.proxy.peak_memory() - before < 32 * 1024
        for _ in range(most):
            assert (await client.read_message())[1] == piece


# -- what a backend sends ----------------------------------------------------------------------


async def test_what_a_backend_compresses_waits_for_a_client_that_does_not_read(
    stage: Stage,
) -> None:
    size, count = MIB, 250
    deflate = zlib.compressobj(wbits=-15)
    packed = deflate.compress(bytes(size)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    bomb = encode_frame(BINARY, packed.removesuffix(b"\0\0\xff\xff"), rsv=4)
    agreed = {"Sec-WebSocket-Extensions": "permessage-deflate; server_no_context_takeover"}
    before = stage.proxy.peak_memory()
    async with relayed(stage, agreed, receive_buffer=65_536) as (client, inner):
        # What makes the proxy pause lets it find all of the others at once.
        filler = encode_frame(BINARY, bytes(MIB)) * 8
        sending = asyncio.create_task(inner.send_raw(filler + bomb * count))
        got = 0
        while got < 8 * MIB + size:
            got += len((await client.read_frame()).payload)
        assert got == 8 * MIB + size
        await sending
        stage.backend.on("/page", b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await get(stage.proxy.port, "/page")).status == 204
        assert stage.proxy.peak_memory() - before < 32 * 1024
        assert len((await client.read_frame()).payload) == size


async def test_there_is_a_bound_to_the_meta_fields_of_a_connection(stage: Stage) -> None:
    def fields(start: int, end: int) -> list[tuple[str, str]]:
        return [(f"Set-Meta-M{number}", "x") for number in range(start, end)]

    async with over_http(stage, accept(headers=fields(0, 40))) as (client, backend):
        backend.answers += [events(headers=fields(20, 64)), events(headers=fields(64, 65))]
        for _ in range(2):
            await client.send_text("more")
        request, _ = await backend.next()
        while sum(name.startswith("Meta-M") for name in request.names) < 64:
            await client.send_text("more")
            request, _ = await backend.next()
        await client.wait_dropped()
        await stage.proxy.wait_log(r"\[WARN\].* dropped: .*: it set more than 64 Meta fields$")


# -- a backend that ends connections -----------------------------------------------------------


async def test_connections_that_die_unseen_lose_nothing(stage: Stage) -> None:
    clients, messages = 30, 20
    rng = random.Random(1)

    async def answer(exchange: Exchange) -> bytes | None:
        got = decode_events(exchange.request.body)
        said = events(*[(kind, b"m:" + (content or b"")) for kind, content in got])
        if rng.random() > 0.2:
            return said
        await exchange.write(said)
        await asyncio.sleep(rng.random() / 100)  # meanwhile the next request may be on its way
        exchange.close()
        return None

    async def talk(number: int) -> None:
        async with over_http(stage, base=f"/woh/{number}") as (client, backend):
            backend.answers += [answer] * messages * 2
            for count in range(messages):
                await client.send_text(f"{number} {count}")
                assert await client.read_text() == f"{number} {count}"
                assert await backend.next_events() == [text(f"{number} {count}")]
            backend.answers.clear()
            await client.send_close(1000)
            assert await client.read_close() == (1000, b"")

    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(talk(number))
