"""SockJS by polling: how sessions end."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh
from tests.flow.sockets import DISCONNECT, OPEN, message
from tests.flow.sockjs import answer_of, open_session, open_sockjs_stage, say
from tests.support.backend import response
from tests.support.websocket import Event, accept, close_payload, control, events

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

NOTHING_BUT_CLOSE = [Event("CLOSE")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_sockjs_stage() as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


def closing(code: int | None = None, reason: bytes = b"") -> Event:
    """A backend's close."""
    return Event("CLOSE", close_payload(code, reason))


# -- the backend closes ----------------------------------------------------------------------


@shared
@pytest.mark.parametrize(
    ("close", "shown"),
    [
        (closing(3000, b"Go away!"), '3000,"Go away!"'),
        (closing(3000, "grün".encode()), '3000,"grün"'),
        (closing(1000), '1000,"Connection closed"'),
        (closing(0, b"none"), '0,"none"'),
        (closing(), '0,"Connection closed"'),
    ],
)
async def test_a_close_is_shown_again_and_again(stage: Stage, close: Event, shown: str) -> None:
    session, backend = await open_session(stage)
    await say(session, backend, ("TEXT", "m:last"), close)
    assert await session.poll() == b'a["last"]\n'
    frame = f"c[{shown}]"
    assert await session.poll() == f"{frame}\n".encode()
    assert await backend.next_events() == NOTHING_BUT_CLOSE
    assert await session.poll() == f"{frame}\n".encode()
    assert await session.script() == f"/**/f({json.dumps(frame, ensure_ascii=False)});\n".encode()
    assert await answer_of(session.post("xhr_send", b'["x"]')) == (200, f"{frame}\n".encode())


@shared
async def test_a_close_answers_a_poll(stage: Stage) -> None:
    session, backend = await open_session(stage)
    async with session.waiting() as client:
        await say(session, backend, closing(3000, b"bye"))
        assert (await client.read_response()).body == b'c[3000,"bye"]\n'
    assert await backend.next_events() == NOTHING_BUT_CLOSE


@shared
@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"code": 4000, "reason": "x"}, b'c[4000,"x"]\n'),
        ({}, b'c[0,"Connection closed"]\n'),
    ],
)
async def test_a_published_close(stage: Stage, fields: dict[str, Any], shown: bytes) -> None:
    c = fresh()
    session, backend = await open_session(stage, accept(control(type="subscribe", channel=c)))
    await stage.proxy.wait_subscribed(c)
    async with session.waiting() as client:
        await stage.proxy.publish(message(c, action="close", **fields))
        assert (await client.read_response()).body == shown
    assert await backend.next_events() == NOTHING_BUT_CLOSE


async def test_a_close_while_opening(stage: Stage) -> None:
    session, _ = await open_session(stage, accept(("TEXT", "m:x"), closing(3000, b"no")))
    assert [await session.poll() for _ in range(3)] == [b'a["x"]\n', *[b'c[3000,"no"]\n'] * 2]


@shared
async def test_a_backend_that_goes_while_a_poll_waits(stage: Stage) -> None:
    session, backend = await open_session(stage)
    async with session.waiting() as client:
        backend.answers.append(response(500))
        await session.send("x")
        r = await client.read_response()
        assert (r.status, r.reason, r.body) == (410, "Gone", b"Session terminated\n")
        assert r.header("access-control-allow-origin") == "*"
    assert await session.poll() == b"o\n"


async def test_a_backend_that_goes_leaves_what_it_has_said(stage: Stage) -> None:
    session, backend = await open_session(stage)
    await say(session, backend, ("TEXT", "m:last"), "DISCONNECT")
    assert await session.poll() == b'a["last"]\n'
    assert await session.poll() == b"o\n"
    assert await backend.next_events() == OPEN


# -- the client closes -----------------------------------------------------------------------


async def test_a_client_closes_by_leaving_a_poll(stage: Stage) -> None:
    session, backend = await open_session(stage)
    answer = backend.hold()
    async with session.waiting():
        pass
    assert await backend.next_events() == NOTHING_BUT_CLOSE
    assert await session.poll() == b'c[3000,"Client already closed connection"]\n'
    assert await answer_of(session.post("xhr_send", b'["x"]')) == (200, b"ok")
    answer.set_result(events(closing(3001, b"so be it")))
    while (shown := await session.poll()) != b'c[3001,"so be it"]\n':
        assert shown == b'c[3000,"Client already closed connection"]\n'
    assert await backend.is_silent(0.1)


async def test_a_backend_that_does_not_answer_the_close(stage: Stage) -> None:
    session, backend = await open_session(stage)
    answer = backend.hold()
    async with session.waiting():
        pass
    assert await backend.next_events() == NOTHING_BUT_CLOSE
    answer.set_result(events())
    while (shown := await session.poll()) != b"o\n":
        assert shown == b'c[3000,"Client already closed connection"]\n'


# -- what takes seconds ----------------------------------------------------------------------


@shared
async def test_after_five_seconds(stage: Stage) -> None:
    """A session that nobody polls dies, and a close frame is forgotten."""
    left, left_backend = await open_session(stage)
    unheard, unheard_backend = await open_session(stage)
    heard, heard_backend = await open_session(stage)
    for session, backend in ((unheard, unheard_backend), (heard, heard_backend)):
        await say(session, backend, closing(3000, b"bye"))
    assert await heard.poll() == b'c[3000,"bye"]\n'
    assert await heard_backend.next_events() == NOTHING_BUT_CLOSE
    for backend in (left_backend, unheard_backend):
        assert await backend.next_events() == DISCONNECT
    assert await answer_of(left.post("xhr_send", b'["x"]')) == (404, b"Not Found\n")
    while (shown := await heard.poll()) != b"o\n":
        assert shown == b'c[3000,"bye"]\n'
        await asyncio.sleep(0.1)
