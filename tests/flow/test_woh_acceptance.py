"""WebSocket-over-HTTP: a backend that accepts only a part of what it is offered.

Pushpin can do so since 1.41.
"""

import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.sockets import OVER_HTTP, message, over_http, text
from tests.support.backend import Request
from tests.support.client import Fields
from tests.support.websocket import (
    BINARY,
    PING,
    Event,
    Socket,
    WohBackend,
    accept,
    control,
    events,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
Offered = list[str | tuple[str, bytes]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage(OVER_HTTP, "*,path_beg=/single -> over_http,one_event") as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


def accepted(count: int | str, headers: Fields = ()) -> bytes:
    """An answer without events that accepts `count` bytes of content."""
    return events(headers={"Content-Bytes-Accepted": str(count), **dict(headers)})


def replayed(request: Request) -> str | None:
    return request.header("content-bytes-replayed")


async def queue_up(client: Socket, backend: WohBackend, *words: str) -> None:
    """Let the words go in one request, which has been answered by the first of the script."""
    script, backend.answers = backend.answers, []
    first = backend.hold()
    backend.answers += script
    await client.send_text("first")
    await backend.next()
    for word in words:
        await client.send_text(word)
    assert await client.is_silent(0.1)  # all of them have been read
    first.set_result(events())
    request, got = await backend.next()
    assert (replayed(request), got) == (None, [text(word) for word in words])


async def test_what_was_not_accepted_goes_again_with_the_next(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(accepted(5))
        await client.send_text("[foo][hello")
        assert await backend.next_events() == [text("[foo][hello")]
        # nothing new, so nothing goes
        assert await backend.is_silent(0.1)
        await client.send_text(" world]")
        request, got = await backend.next()
        assert (replayed(request), got) == ("6", [text("[hello"), text(" world]")])
        await client.send_text("next")
        request, got = await backend.next()
        assert (replayed(request), got) == (None, [text("next")])


async def test_without_the_field_everything_is_accepted(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        for word in ("one", "two"):
            await client.send_text(word)
            request, got = await backend.next()
            assert (replayed(request), got) == (None, [text(word)])


@pytest.mark.parametrize("value", ["many", "-1", ""])
async def test_a_field_that_is_no_number_is_as_none(stage: Stage, value: str) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(accepted(value))
        await client.send_text("one")
        await backend.next()
        await client.send_text("two")
        assert await backend.next_events() == [text("two")]


CUTS: dict[int, tuple[str | None, list[str]]] = {
    # of "one", "three", "five": how much is accepted, what is replayed
    0: ("12", ["one", "three", "five"]),
    2: ("10", ["e", "three", "five"]),
    3: ("9", ["three", "five"]),
    4: ("8", ["hree", "five"]),
    8: ("4", ["five"]),
    11: ("1", ["e"]),
    12: (None, []),
}


@pytest.mark.parametrize("count", CUTS)
async def test_messages_are_accepted_in_order(stage: Stage, count: int) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(accepted(count))
        await queue_up(client, backend, "one", "three", "five")
        await client.send_text("new")
        request, got = await backend.next()
        number, left = CUTS[count]
        assert replayed(request) == number
        assert got == [text(word) for word in [*left, "new"]]


async def test_every_kind_of_message_counts(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        first = backend.hold()
        backend.answers.append(accepted(4))
        await client.send_text("first")
        await backend.next()
        await client.send(PING, b"pp")
        await client.send(BINARY, b"bbb")
        await client.send_text("")
        assert await client.is_silent(0.1)
        first.set_result(events())
        await backend.next()
        await client.send_text("new")
        request, got = await backend.next()
        # a message keeps its type; an empty one behind the cut is still due
        assert replayed(request) == "1"
        assert got == [("BINARY", b"b"), Event("TEXT"), text("new")]


async def test_acceptance_may_take_several_requests(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers += [accepted(1), accepted(0), accepted(3)]
        await client.send_text("abc")
        await backend.next()
        await client.send_text("d")
        request, got = await backend.next()
        assert (replayed(request), got) == ("2", [text("bc"), text("d")])
        await client.send_text("e")
        request, got = await backend.next()
        assert (replayed(request), got) == ("3", [text("bc"), text("d"), text("e")])
        await client.send_text("f")
        request, got = await backend.next()
        assert (replayed(request), got) == ("1", [text("e"), text("f")])


async def test_answers_come_with_a_part_as_with_the_whole(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        headers = {"Content-Bytes-Accepted": "1", "Set-Meta-User": "me"}
        backend.answers.append(events(("TEXT", "m:hello"), headers=headers))
        await client.send_text("abc")
        await backend.next()
        assert await client.read_text() == "hello"
        await client.send_text("d")
        request, _ = await backend.next()
        assert (replayed(request), request.header("meta-user")) == ("2", "me")


async def test_more_than_was_offered_ends_the_connection(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(accepted(4))
        await client.send_text("abc")
        await backend.next()
        await client.wait_dropped()
        assert await backend.is_silent(0.1)


async def test_a_refresh_sends_what_is_left(stage: Stage) -> None:
    c = fresh()
    opening = accept(control(type="subscribe", channel=c))
    async with over_http(stage, opening) as (client, backend):
        await stage.proxy.wait_subscribed(c)
        backend.answers.append(accepted(1))
        await client.send_text("abc")
        await backend.next()
        await stage.proxy.publish(message(c, action="refresh"))
        request, got = await backend.next()
        assert (replayed(request), got) == ("2", [text("bc")])


async def test_one_event_is_accepted_in_parts(stage: Stage) -> None:
    async with over_http(stage, base="/single") as (client, backend):
        backend.answers.append(accepted(1))
        await client.send_text("abc")
        await backend.next()
        await client.send_text("d")
        request, got = await backend.next()
        assert (replayed(request), got) == ("2", [text("bc")])
        request, got = await backend.next()
        assert (replayed(request), got) == (None, [text("d")])


async def test_no_progress_with_more_waiting_ends_the_connection(stage: Stage) -> None:
    async with over_http(stage, base="/single") as (client, backend):
        first = backend.hold()
        backend.answers.append(accepted(0))
        await client.send_text("first")
        await backend.next()
        await client.send_text("a")
        await client.send_text("b")
        assert await client.is_silent(0.1)
        first.set_result(events())
        assert await backend.next_events() == [text("a")]
        await client.wait_dropped()
        assert await backend.is_silent(0.1)


# -- with a CLOSE ----------------------------------------------------------------------------


CLOSE = Event("CLOSE", b"\x03\xe8")


async def test_a_close_goes_with_what_is_left(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(accepted(1))
        await client.send_text("abc")
        await backend.next()
        await client.send_close(1000)
        request, got = await backend.next()
        assert (replayed(request), got) == ("2", [text("bc"), CLOSE])
        assert await client.read_close() == (1000, b"")
        await client.wait_dropped()


async def test_a_close_that_was_not_accepted_goes_again(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        first = backend.hold()
        backend.answers += [accepted(1)]
        await client.send_text("first")
        await backend.next()
        await client.send_text("abc")
        await client.send_close(1000)
        assert await client.is_silent(0.1)
        first.set_result(events())
        assert await backend.next_events() == [text("abc"), CLOSE]
        # Pushpin waits for a keep-alive, which this backend has not asked for
        request, got = await backend.next()
        assert (replayed(request), got) == ("2", [text("bc"), CLOSE])
        assert await client.read_close() == (1000, b"")
        await client.wait_dropped()
        assert await backend.is_silent(0.1)


async def test_a_close_without_progress_goes_again_later(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers += [accepted(0), accepted(0)]
        await client.send_text("abc")
        await backend.next()
        await client.send_close(1000)
        assert await backend.next_events() == [text("abc"), CLOSE]
        start = time.monotonic()
        assert await backend.next_events() == [text("abc"), CLOSE]
        assert 0.95 <= time.monotonic() - start < 3
        assert await client.read_close() == (1000, b"")


@pytest.mark.parametrize("count", [3, 4])
async def test_a_close_alone_cannot_be_left(stage: Stage, count: int) -> None:
    async with over_http(stage) as (client, backend):
        first = backend.hold()
        backend.answers.append(accepted(count))
        await client.send_text("first")
        await backend.next()
        await client.send_text("abc")
        await client.send_close(1000)
        assert await client.is_silent(0.1)
        first.set_result(events())
        assert await backend.next_events() == [text("abc"), CLOSE]
        await client.wait_dropped()
        assert await backend.is_silent(0.1)


async def test_the_content_of_a_close_counts(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        headers = {"Content-Bytes-Accepted": "2"}
        backend.answers.append(events(("CLOSE", b"\x03\xe8"), headers=headers))
        await client.send_close(1000)
        assert await backend.next_events() == [CLOSE]
        assert await client.read_close() == (1000, b"")
        await client.wait_dropped()
