"""Large messages through a relay, and peers that read slowly or not at all."""

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, open_stage
from tests.flow.sockets import message, relayed
from tests.support.client import Truncated, get
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONT,
    GRIP,
    PING,
    TEXT,
    Frame,
    Socket,
    close_payload,
    control,
    encode_frame,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
both_ways = pytest.mark.parametrize("to_backend", [True, False], ids=["up", "down"])
grip_or_not = pytest.mark.parametrize("accepted", [[], [GRIP]], ids=["raw", "grip"])

MIB = 2**20
# what the kernel's socket buffers of two connections can hold, and the proxy's own
STALL_BYTES = 40 * MIB
GROWTH_KIB = 32 * 1024
PIECE = bytes(256 * 1024)
PIECES = 400  # far more than that
STALL_SECONDS = 0.4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*") as it:
        yield it


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- large messages ----------------------------------------------------------------------------


@both_ways
@grip_or_not
@pytest.mark.parametrize("size", [
    126, 65_535, 65_536, pytest.param(100_000, marks=shared), 200_001, 5_000_000,
])  # fmt: skip
async def test_message_of_any_size_arrives_whole(
    stage: Stage, accepted: list[tuple[str, str]], to_backend: bool, size: int
) -> None:
    data = random.Random(size).randbytes(size)
    async with relayed(stage, accepted) as (client, inner), asyncio.TaskGroup() as tasks:
        sender, receiver = (client, inner) if to_backend else (inner, client)
        prefix = b"m:" if accepted and not to_backend else b""
        tasks.create_task(sender.send(BINARY, prefix + data))
        opcode, got = await receiver.read_message()
        assert (opcode, len(got), digest(got)) == (BINARY, size, digest(data))


@both_ways
async def test_text_that_is_cut_anywhere_arrives_whole(stage: Stage, to_backend: bool) -> None:
    text = "a\u00e9\u20ac\U0001f600" * 20_000
    raw = text.encode()
    async with relayed(stage, []) as (client, inner), asyncio.TaskGroup() as tasks:
        sender, receiver = (client, inner) if to_backend else (inner, client)
        step = 7777
        cuts = [raw[at : at + step] for at in range(0, len(raw), step)]
        frames = [
            encode_frame(CONT if n else TEXT, cut, fin=n == len(cuts) - 1, masked=to_backend)
            for n, cut in enumerate(cuts)
        ]
        tasks.create_task(sender.send_raw(b"".join(frames)))
        assert await receiver.read_text() == text


@both_ways
async def test_large_frame_is_relayed_while_it_is_still_coming(
    stage: Stage, to_backend: bool
) -> None:
    data = bytes(4 * MIB)
    async with relayed(stage, []) as (client, inner):
        sender, receiver = (client, inner) if to_backend else (inner, client)
        whole = encode_frame(BINARY, data, masked=to_backend)
        await sender.send_raw(whole[: 3 * MIB])
        got = 0
        while got < 2 * MIB:
            got += len((await receiver.read_frame()).payload)
        rest = asyncio.create_task(sender.send_raw(whole[3 * MIB :]))
        frame = Frame(CONT, b"", False)
        while not frame.fin:
            frame = await receiver.read_frame()
            got += len(frame.payload)
        assert got == len(data)
        await rest


async def test_messages_published_meanwhile_come_between_messages(stage: Stage) -> None:
    """Pushpin 1.36 loses them."""
    async with relayed(stage) as (client, inner):
        subscribe = control(type="subscribe", channel="between").content
        await inner.send(TEXT, subscribe or b"")
        await stage.proxy.wait_subscribed("between")
        await inner.send(TEXT, b"m:one ", fin=False)
        assert await client.read_frame() == Frame(TEXT, b"one ", False)
        await stage.proxy.publish(message("between", "first"), message("between", "second"))
        await stage.proxy.wait_log(r"publish channel=between receivers=1", 2)
        await inner.send(PING)
        assert await client.read_frame() == Frame(PING, b"")
        await inner.send(CONT, b"two")
        assert await client.read_frame() == Frame(CONT, b"two")
        assert [await client.read_text(), await client.read_text()] == ["first", "second"]


# -- the pace of the slower side ---------------------------------------------------------------


async def send_all(socket: Socket, frame: bytes, progress: "asyncio.Queue[int]") -> None:
    for sent in range(1, PIECES + 1):
        socket.writer.write(frame)
        await socket.writer.drain()
        progress.put_nowait(sent * len(PIECE))


async def wait_stalled(progress: "asyncio.Queue[int]") -> int:
    """How much has been sent when no more is sent for a while."""
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < PIECES * len(PIECE):
            async with asyncio.timeout(STALL_SECONDS):
                sent = await progress.get()
    return sent


async def drain(socket: Socket) -> int:
    """Bytes of content of all messages, read without keeping them."""
    size = messages = 0
    while messages < PIECES:
        frame = await socket.read_frame()
        assert frame.opcode in (BINARY, CONT), frame.opcode
        size += len(frame.payload)
        messages += frame.fin
    return size


@both_ways
async def test_sender_goes_at_the_pace_of_the_receiver(stage: Stage, to_backend: bool) -> None:
    stage.backend.on("/hello", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    before = stage.proxy.peak_memory()
    async with relayed(stage, []) as (client, inner):
        sender, receiver = (client, inner) if to_backend else (inner, client)
        progress = asyncio.Queue[int]()
        frame = encode_frame(BINARY, PIECE, masked=to_backend)
        sending = asyncio.create_task(send_all(sender, frame, progress))
        assert await wait_stalled(progress) < STALL_BYTES
        # the one who does not read troubles no other
        assert (await get(stage.proxy.port, "/hello")).body == b"hi"
        async with asyncio.timeout(60):
            assert await drain(receiver) == PIECES * len(PIECE)
        await sending
    assert stage.proxy.peak_memory() - before < GROWTH_KIB


@both_ways
async def test_what_goes_the_other_way_is_not_held_up(stage: Stage, to_backend: bool) -> None:
    async with relayed(stage, []) as (client, inner):
        sender, receiver = (client, inner) if to_backend else (inner, client)
        progress = asyncio.Queue[int]()
        frame = encode_frame(BINARY, PIECE, masked=to_backend)
        sending = asyncio.create_task(send_all(sender, frame, progress))
        await wait_stalled(progress)
        await receiver.send(TEXT, b"still here")
        assert await sender.read_text() == "still here"
        sending.cancel()
        sender.abort()


async def test_client_that_is_held_up_hears_a_close_and_can_answer_it(stage: Stage) -> None:
    """Although the backend that has closed reads nothing."""
    async with relayed(stage, []) as (client, inner):
        progress = asyncio.Queue[int]()
        frame = encode_frame(BINARY, PIECE, masked=True)
        sending = asyncio.create_task(send_all(client, frame, progress))
        await wait_stalled(progress)
        sending.cancel()
        await inner.send_close(4000, b"bye")
        assert await client.read_close() == (4000, b"bye")
        await client.send_close(4001)
        await client.wait_dropped()
        while (got := await inner.read_frame()).opcode != CLOSE:
            assert got.opcode in (BINARY, CONT)
        assert got.payload == close_payload(4001)


@both_ways
async def test_loss_of_a_receiver_that_does_not_read_ends_the_sender(
    stage: Stage, to_backend: bool
) -> None:
    async with relayed(stage, []) as (client, inner):
        sender, receiver = (client, inner) if to_backend else (inner, client)
        progress = asyncio.Queue[int]()
        frame = encode_frame(BINARY, PIECE, masked=to_backend)
        sending = asyncio.create_task(send_all(sender, frame, progress))
        await wait_stalled(progress)
        receiver.abort()
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionError):
                await sending


@both_ways
async def test_sender_that_is_held_up_and_vanishes_ends_the_receiver(
    stage: Stage, to_backend: bool
) -> None:
    async with relayed(stage, []) as (client, inner):
        sender, receiver = (client, inner) if to_backend else (inner, client)
        progress = asyncio.Queue[int]()
        frame = encode_frame(BINARY, PIECE, masked=to_backend)
        sending = asyncio.create_task(send_all(sender, frame, progress))
        await wait_stalled(progress)
        sending.cancel()
        sender.abort()
        with pytest.raises(Truncated):
            await drain(receiver)
