"""WebSocket-over-HTTP: how a client's messages become requests, one at a time and in order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.sockets import DISCONNECT, OVER_HTTP, message, over_http, receive_events, text
from tests.support.client import connect
from tests.support.proxy import PUSHPIN
from tests.support.websocket import (
    BINARY,
    CONT,
    PING,
    PONG,
    TEXT,
    Event,
    WohBackend,
    accept,
    control,
    encode_frame,
    events,
    handshake,
    upgraded,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
BUFFER = 200_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*", OVER_HTTP, "*,path_beg=/single -> over_http,one_event") as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


def content(events: list[Event]) -> int:
    """Bytes of content in the events."""
    return sum(len(event.content or b"") for event in events)


# -- one request at a time -------------------------------------------------------------------


@shared
async def test_what_comes_meanwhile_goes_together_in_order(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        first = backend.hold()
        await client.send_text("first")
        assert await backend.next_events() == [text("first")]
        await client.send_text("a")
        await client.send(PING, b"b")
        await client.send(BINARY, b"c")
        await client.send(PONG)
        await client.send_text("")
        await client.send_text("d")
        assert await backend.is_silent(0.1)
        first.set_result(events())
        expected = [text("a"), ("PING", b"b"), ("BINARY", b"c"), Event("PONG"), Event("TEXT")]
        assert await backend.next_events() == [*expected, text("d")]
        await client.send_close(1000)
        assert await backend.next_events() == [("CLOSE", b"\x03\xe8")]


@shared
async def test_messages_wait_for_the_acceptance(stage: Stage) -> None:
    backend = WohBackend(stage.backend, "/woh/" + fresh("p"))
    opening = backend.hold()
    frames = [encode_frame(TEXT, word, masked=True) for word in (b"one", b"two")]
    async with connect(stage.proxy.port) as client:
        await client.send(handshake(backend.path) + b"".join(frames))
        assert await backend.next_events() == [Event("OPEN")]
        assert await backend.is_silent(0.1)
        opening.set_result(accept())
        await upgraded(client)
        assert await receive_events(backend, 2) == [text("one"), text("two")]


@shared
async def test_connections_do_not_wait_for_each_other(stage: Stage) -> None:
    async with over_http(stage) as (one, held), over_http(stage) as (other, free):
        held.hold()
        await one.send_text("held")
        await held.next()
        await other.send_text("free")
        assert await free.next_events() == [text("free")]


@shared
async def test_a_close_goes_with_the_messages_before_it(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        first = backend.hold()
        await client.send_text("first")
        await backend.next()
        await client.send_text("last")
        await client.send_close(1000, b"bye")
        await client.send_text("ignored")
        assert await backend.is_silent(0.1)
        first.set_result(events())
        assert await backend.next_events() == [text("last"), ("CLOSE", b"\x03\xe8bye")]
        assert await client.read_close() == (1000, b"bye")
        await client.wait_dropped()
        assert await backend.is_silent(0.1)


@shared
async def test_a_burst_arrives_whole_and_in_order(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        words = [str(number) for number in range(500)]
        await client.send_raw(b"".join(encode_frame(TEXT, w.encode(), masked=True) for w in words))
        assert await receive_events(backend, 500) == [text(word) for word in words]


# -- whole messages --------------------------------------------------------------------------


@shared
async def test_fragments_are_one_message(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        await client.send(TEXT, b"one ", fin=False)
        await client.send(CONT, b"two", fin=False)
        await client.send(CONT, b"", fin=False)
        assert await backend.is_silent(0.1)
        await client.send(CONT, b" three")
        assert await backend.next_events() == [text("one two three")]
        await client.send(BINARY, b"", fin=False)
        await client.send(CONT, b"")
        assert await backend.next_events() == [Event("BINARY")]


@shared
async def test_an_unfinished_message_does_not_go_with_others(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        first = backend.hold()
        await client.send_text("first")
        await backend.next()
        await client.send_text("whole")
        await client.send(TEXT, b"unfinished ", fin=False)
        assert await backend.is_silent(0.1)
        first.set_result(events())
        assert await backend.next_events() == [text("whole")]
        await client.send(CONT, b"no more")
        assert await backend.next_events() == [text("unfinished no more")]


async def test_a_ping_between_fragments_goes_ahead(stage: Stage) -> None:
    """Pushpin drops the client, although RFC 6455 allows it."""
    async with over_http(stage) as (client, backend):
        await client.send(TEXT, b"one ", fin=False)
        await client.send(PING, b"p")
        assert await backend.next_events() == [("PING", b"p")]
        await client.send(CONT, b"two")
        assert await backend.next_events() == [text("one two")]


@shared
async def test_a_message_may_nearly_fill_the_buffer(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        await client.send(BINARY, b"x" * (BUFFER - 1_000))
        assert await backend.next_events() == [("BINARY", b"x" * (BUFFER - 1_000))]


async def test_what_was_answered_leaves_room(stage: Stage) -> None:
    """Pushpin 1.36 still counts the request before."""
    async with over_http(stage) as (client, backend):
        for byte in (b"x", b"y", b"z"):
            await client.send(BINARY, byte * (BUFFER - 1_000))
            assert await backend.next_events() == [("BINARY", byte * (BUFFER - 1_000))]


@shared
@pytest.mark.parametrize("pieces", [1, 30])
async def test_a_message_larger_than_the_buffer_ends_the_connection(
    stage: Stage, pieces: int
) -> None:
    async with over_http(stage) as (client, backend):
        size = BUFFER * 3 // 2 // pieces
        with contextlib.suppress(ConnectionError):  # dropped before all of it was sent
            for number in range(pieces):
                opcode = TEXT if number == 0 else CONT
                await client.send(opcode, b"x" * size, fin=number == pieces - 1)
        if not PUSHPIN:  # which says nothing
            assert await client.read_close() == (1009, b"message too large")
        await client.wait_dropped()
        if PUSHPIN:
            assert await backend.is_silent(0.1)
        else:
            assert await backend.next_events() == DISCONNECT


# -- a request for each event ----------------------------------------------------------------


@shared
async def test_one_event_in_each_request(stage: Stage) -> None:
    async with over_http(stage, base="/single") as (client, backend):
        first = backend.hold()
        await client.send_text("first")
        await backend.next()
        await client.send_text("a")
        await client.send_text("")
        await client.send(PING)
        await client.send_text("b")
        await client.send_close(1000)
        assert await backend.is_silent(0.1)
        first.set_result(events())
        got = [await backend.next_events() for _ in range(5)]
        close = Event("CLOSE", b"\x03\xe8")
        assert got == [[text("a")], [Event("TEXT")], [Event("PING")], [text("b")], [close]]


# -- bounds ----------------------------------------------------------------------------------


async def test_a_client_ahead_of_its_backend_is_not_read(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        first = backend.hold()
        await client.send_text("first")
        await backend.next()
        # more than the kernel's buffers take
        sent = [b"%06d" % number + b"x" * 49_994 for number in range(600)]
        frames = b"".join(encode_frame(BINARY, part, masked=True) for part in sent)
        sending = asyncio.create_task(client.send_raw(frames))
        done, _ = await asyncio.wait([sending], timeout=0.5)
        assert not done
        first.set_result(events())
        got: list[Event] = []
        while len(got) < len(sent):
            together = await backend.next_events()
            # some more than that may have been read at once
            assert content(together) < 3 * BUFFER
            got += together
        assert got == [("BINARY", part) for part in sent]
        await sending


async def test_a_backend_ahead_of_its_client_is_not_asked(stage: Stage) -> None:
    async with over_http(stage, receive_buffer=65_536) as (client, backend):
        asked = 0
        with contextlib.suppress(TimeoutError):
            while asked < 200:
                backend.answers.append(events(("BINARY", b"m:" + b"x" * 100_000)))
                await client.send_text("more")
                await backend.next(0.3)
                asked += 1
        assert asked < 200
        for _ in range(asked):
            await client.read_message()
        assert await backend.next_events() == [text("more")]


async def test_a_backend_ahead_of_its_client_is_not_refreshed(stage: Stage) -> None:
    c, size = fresh(), 900_000
    opening = accept(control(type="subscribe", channel=c))
    async with over_http(stage, opening, receive_buffer=65_536) as (client, backend):
        await stage.proxy.wait_subscribed(c)
        asked = 0
        with contextlib.suppress(TimeoutError):
            while asked < 50:
                backend.answers.append(events(("BINARY", b"m:" + bytes(size))))
                await refresh(stage, c)
                await backend.next(0.3)
                asked += 1
        assert 0 < asked < 20
        for _ in range(asked):
            assert len((await client.read_message())[1]) == size
        assert await backend.next_events() == []  # what was asked for meanwhile
        assert len((await client.read_message())[1]) == size


# -- refreshes -------------------------------------------------------------------------------


async def refresh(stage: Stage, channel: str) -> None:
    await stage.proxy.publish(message(channel, action="refresh"))


async def test_a_refresh_asks_with_no_events(stage: Stage) -> None:
    """Pushpin knows it as a publish since 1.38."""
    c = fresh()
    async with over_http(stage, accept(control(type="subscribe", channel=c))) as (client, backend):
        await stage.proxy.wait_subscribed(c)
        backend.answers.append(events(("TEXT", "m:fresh")))
        await refresh(stage, c)
        request, _ = await backend.next()
        assert (request.header("content-length"), request.body) == ("0", b"")
        assert await client.read_text() == "fresh"


async def test_refreshes_during_a_request_are_one(stage: Stage) -> None:
    c = fresh()
    async with over_http(stage, accept(control(type="subscribe", channel=c))) as (client, backend):
        await stage.proxy.wait_subscribed(c)
        first = backend.hold()
        await client.send_text("first")
        await backend.next()
        for _ in range(3):
            await refresh(stage, c)
        assert await backend.is_silent(0.1)
        second = backend.hold()
        first.set_result(events())
        assert await backend.next_events() == []
        await refresh(stage, c)
        await client.send_text("queued")
        assert await backend.is_silent(0.1)
        second.set_result(events())
        assert await backend.next_events() == [text("queued")]
        assert await backend.is_silent(0.1)


async def test_a_refresh_is_ignored_once_the_client_closes(stage: Stage) -> None:
    c = fresh()
    async with over_http(stage, accept(control(type="subscribe", channel=c))) as (client, backend):
        await stage.proxy.wait_subscribed(c)
        closing = backend.hold()
        await client.send_close(1000)
        close = await backend.next_events()
        await refresh(stage, c)
        assert await backend.is_silent(0.1)
        closing.set_result(events(*close))
        assert await client.read_close() == (1000, b"")
        assert await backend.is_silent(0.1)
