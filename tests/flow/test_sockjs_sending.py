"""SockJS by polling (xhr and JSON-P): what the client sends."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh
from tests.flow.sockets import OPEN, message, receive_events, text
from tests.flow.sockjs import Session, SessionBackend, answer_of, open_session, open_sockjs_stage
from tests.support.websocket import Event, accept, control, events

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

TOO_LARGE = 100_001
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_sockjs_stage() as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


@shared
async def test_messages_come_one_by_one_in_order(stage: Stage) -> None:
    session, backend = await open_session(stage)
    await session.send("a", "", "ü😀", "[]")
    assert await receive_events(backend, 4) == [text("a"), Event("TEXT"), text("ü😀"), text("[]")]


@shared
async def test_a_client_may_send_nothing(stage: Stage) -> None:
    session, backend = await open_session(stage)
    await session.send()
    await session.send("x")
    assert await backend.next_events() == [text("x")]


@shared
@pytest.mark.parametrize(
    "body", [b"", b'["a', b'"a"', b"[1]", b'{"a":"b"}', b'["a",null]', b'["\xff"]']
)
async def test_what_is_no_array_of_strings(stage: Stage, body: bytes) -> None:
    session, backend = await open_session(stage)
    assert await answer_of(session.post("xhr_send", body)) == (400, b"Payload expected\n")
    await session.send("x")
    assert await backend.next_events() == [text("x")]


@shared
async def test_the_largest_body(stage: Stage) -> None:
    session, backend = await open_session(stage)
    largest = json.dumps(["x" * (TOO_LARGE - 5)]).encode()
    assert await answer_of(session.post("xhr_send", largest)) == (200, b"ok")
    assert await backend.next_events() == [text("x" * (TOO_LARGE - 5))]
    too_large = largest + b" "
    assert await answer_of(session.post("xhr_send", too_large)) == (400, b"Request too large.\n")


async def test_a_lone_surrogate_is_replaced(stage: Stage) -> None:
    session, backend = await open_session(stage)
    assert await answer_of(session.post("xhr_send", rb'["a\ud800b"]')) == (200, b"ok")
    assert await backend.next_events() == [text("a\ufffdb")]


@shared
async def test_a_form(stage: Stage) -> None:
    session, backend = await open_session(stage)
    body = b"i=1&d=" + quote('["a b%+"]').encode()
    assert await answer_of(session.post("jsonp_send", body, FORM)) == (200, b"ok")
    assert await backend.next_events() == [text("a b%+")]


async def test_a_form_of_a_browser_has_spaces(stage: Stage) -> None:
    session, backend = await open_session(stage)
    await session.post("jsonp_send", b"d=%5B%22a+b%22%5D", FORM)
    assert await backend.next_events() == [text("a b")]


@shared
@pytest.mark.parametrize("body", [b"", b"d=", b"p=p", b"d=%5B%22x"])
async def test_a_form_without_messages(stage: Stage, body: bytes) -> None:
    session, _ = await open_session(stage)
    assert await answer_of(session.post("jsonp_send", body, FORM)) == (400, b"Payload expected\n")


async def test_plain_text_in_place_of_a_form(stage: Stage) -> None:
    session, backend = await open_session(stage)
    await session.post("jsonp_send", b'["%61"]', {"Content-Type": "text/plain"})
    assert await backend.next_events() == [text("%61")]


@shared
async def test_messages_in_a_query(stage: Stage) -> None:
    session, backend = await open_session(stage)
    assert await answer_of(session.get("xhr_send", 'd=["x"]')) == (200, b"ok")
    assert await backend.next_events() == [text("x")]


async def test_messages_in_an_encoded_query(stage: Stage) -> None:
    session, backend = await open_session(stage)
    assert await answer_of(session.get("jsonp_send", "d=%5B%22x%22%5D")) == (200, b"ok")
    assert await backend.next_events() == [text("x")]


async def test_a_backend_that_keeps_a_client_waiting(stage: Stage) -> None:
    session, backend = await open_session(stage)
    large = "x" * 90_000
    answer = backend.hold()
    for _ in range(3):  # until nothing more fits
        await session.send(large)
    assert await backend.next_events() == [text(large)]
    half = "y" * 45_000
    body = json.dumps([half, half]).encode()
    sending = [asyncio.create_task(session.post("xhr_send", body)) for _ in range(2)]
    done, left = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
    assert [await answer_of(task) for task in done] == [(400, b"Already sending\n")]
    answer.set_result(events())
    assert await answer_of(left.pop()) == (200, b"ok")
    assert await receive_events(backend, 4) == [text(large)] * 2 + [text(half)] * 2


@shared
async def test_messages_before_the_backend_has_accepted_wait(stage: Stage) -> None:
    backend = SessionBackend(stage)
    opening = backend.hold()
    session = Session(stage.proxy.port, backend.query)
    async with session.request("POST", "xhr") as opener:
        assert await backend.next_events() == OPEN
        async with session.request("POST", "xhr_send", body=b'["early"]') as sender:
            opening.set_result(accept())
            assert (await opener.read_response()).body == b"o\n"
            assert (await sender.read_response()).body == b"ok"
    assert await backend.next_events() == [text("early")]


async def test_a_request_is_answered_whatever_comes_while_it_waits(stage: Stage) -> None:
    """One without messages, too."""
    backend = SessionBackend(stage)
    opening = backend.hold()
    session = Session(stage.proxy.port, backend.query)
    async with session.request("POST", "xhr") as opener:
        assert await backend.next_events() == OPEN
        sending = [asyncio.create_task(session.post("xhr_send", b"[]")) for _ in range(2)]
        done, left = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
        assert [await answer_of(task) for task in done] == [(400, b"Already sending\n")]
        opening.set_result(accept())
        assert await answer_of(left.pop()) == (200, b"ok")
        assert (await opener.read_response()).body == b"o\n"


async def test_what_was_published_keeps_messages_waiting_until_it_is_polled(stage: Stage) -> None:
    c = fresh()
    part = "x" * 100_000
    session, backend = await open_session(stage, accept(control(type="subscribe", channel=c)))
    await stage.proxy.publish(*[message(c, part)] * 3)
    await session.send("hello")
    assert await backend.is_silent(0.1)
    assert json.loads((await session.poll())[1:]) == [part] * 2
    assert await backend.next_events() == [text("hello")]
    assert json.loads((await session.poll())[1:]) == [part]


async def test_empty_messages_wait_as_well(stage: Stage) -> None:
    session, backend = await open_session(stage)
    answer = backend.hold()
    await session.send("first")
    assert await backend.next_events() == [text("first")]
    sending = asyncio.create_task(session.send(*[""] * 10_000))
    done, _ = await asyncio.wait([sending], timeout=0.2)
    assert not done
    answer.set_result(events())
    assert await receive_events(backend, 10_000) == [Event("TEXT")] * 10_000
    await sending
