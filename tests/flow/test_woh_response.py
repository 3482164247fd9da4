"""WebSocket-over-HTTP: what each answer of the backend does, before and after it accepted."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow.holding import BAD_ORIGIN, Stage, fresh, open_stage
from tests.flow.sockets import DISCONNECT, OPEN, OVER_HTTP, over_http, text
from tests.support.backend import response
from tests.support.client import Response
from tests.support.websocket import (
    BINARY,
    EVENTS_TYPE,
    GRIP,
    PING,
    PONG,
    TEXT,
    Frame,
    WohBackend,
    accept,
    encode_events,
    events,
    refused,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
LIMIT = 1_000_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*", OVER_HTTP) as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


async def answer_to_open(stage: Stage, answer: bytes) -> Response:
    """What the client is told when the backend answers the OPEN so, other than 101."""
    backend = WohBackend(stage.backend, "/woh/" + fresh("p"))
    backend.answers.append(answer)
    r = await refused(stage.proxy.port, backend.path)
    assert await backend.next_events() == OPEN
    return r


def typed(kind: str, body: bytes = b"OPEN\r\n") -> bytes:
    """An answer of another type."""
    return response(200, {"Content-Type": kind}, body)


def filled(size: int, *first: str, last: bytes) -> bytes:
    """An answer whose body has `size` bytes."""
    head, tail = encode_events(*first), encode_events(("TEXT", last))
    around = len(head + b"TEXT fffff\r\n\r\n" + tail)
    body = head + encode_events(("TEXT", b"x" * (size - around))) + tail
    assert len(body) == size
    return response(200, [("Content-Type", EVENTS_TYPE), GRIP], body)


# -- rejections ------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize("status", [201, 204, 302, 401, 404, 503])
async def test_another_status_rejects(stage: Stage, status: int) -> None:
    body = b"" if status == 204 else b"the body"
    headers = [("Location", "/elsewhere"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    headers.append(("WWW-Authenticate", "Basic"))
    r = await answer_to_open(stage, response(status, headers, body, reason="My reason"))
    assert (r.status, r.reason, r.body) == (status, "My reason", body)
    assert [field for field in r.headers if field in headers] == headers


@shared
@pytest.mark.parametrize(
    "kind", ["text/plain", EVENTS_TYPE + "; charset=utf-8", "Application/websocket-events"]
)
async def test_another_content_type_rejects(stage: Stage, kind: str) -> None:
    r = await answer_to_open(stage, typed(kind))
    assert (r.status, r.header("content-type"), r.body) == (200, kind, b"OPEN\r\n")


@shared
async def test_no_content_type_rejects(stage: Stage) -> None:
    r = await answer_to_open(stage, response(200, {}, b"OPEN\r\n"))
    assert (r.status, r.body) == (200, b"OPEN\r\n")


@shared
async def test_a_rejection_in_chunks(stage: Stage) -> None:
    r = await answer_to_open(stage, response(404, {"A": "1"}, [b"not ", b"found"]))
    assert (r.status, r.header("a"), r.body) == (404, "1", b"not found")


@shared
async def test_a_rejection_keeps_no_header_of_an_acceptance(stage: Stage) -> None:
    own = {"Upgrade": "websocket", "Sec-WebSocket-Accept": "x", "Sec-WebSocket-Extensions": "grip"}
    r = await answer_to_open(stage, response(404, {**own, "A": "1"}, b"x"))
    assert [name for name, _ in r.headers if name in own] == []
    assert r.header("a") == "1"


async def test_a_rejection_keeps_nothing_that_is_for_the_proxy_alone(stage: Stage) -> None:
    """Pushpin passes these on."""
    own = {"Set-Meta-User": "me", "Keep-Alive-Interval": "30", "Keep-Alive": "timeout=5"}
    r = await answer_to_open(stage, response(404, {**own, "A": "1"}, b"x"))
    assert [name for name, _ in r.headers if name in own] == []
    assert r.header("a") == "1"


@pytest.mark.parametrize("size", [8_193, 100_000, 100_001, 250_000])
async def test_a_large_rejection_is_cut(stage: Stage, size: int) -> None:
    """Pushpin makes a 500 of it, or stalls."""
    body = bytes(i % 251 for i in range(size))
    r = await answer_to_open(stage, response(404, {}, body))
    assert (r.status, r.body) == (404, body[:100_000])


@shared
@pytest.mark.parametrize(
    "answer",
    [
        events(),
        events(headers={"Keep-Alive-Interval": "0"}),
        events(headers={"Keep-Alive-Interval": "-1"}),
        events(headers={"Keep-Alive-Interval": "soon"}),
        events(headers={"Keep-Alive-Interval": "20.5"}),
        events(("TEXT", "m:x"), "OPEN"),
        events(("CLOSE", b"\x03\xe8")),
        events("DISCONNECT"),
        events("open"),
        response(200, {"Content-Type": EVENTS_TYPE}, b"OPEN"),
        response(200, {"Content-Type": EVENTS_TYPE}, b"OPEN\r\nTEXT five\r\nhello\r\n"),
        filled(LIMIT + 1, "OPEN", last=b"m:x"),
    ],
    ids=[
        "nothing", "keep-alive 0", "keep-alive -1", "keep-alive soon", "keep-alive 20.5",
        "message first", "close", "disconnect", "lower case", "no line end", "bad size", "too long",
    ],
)  # fmt: skip
async def test_an_answer_that_is_no_acceptance_is_502(stage: Stage, answer: bytes) -> None:
    r = await answer_to_open(stage, answer)
    assert (r.status, r.reason, r.body) == (502, "Bad Gateway", BAD_ORIGIN)
    assert r.all("Content-Type") == []


# -- the acceptance --------------------------------------------------------------------------


@shared
async def test_what_is_for_the_proxy_alone_is_not_in_the_101(stage: Stage) -> None:
    own = {"Keep-Alive-Interval": "30", "Set-Meta-User": "me", "X-Own": "1"}
    async with over_http(stage, accept(headers=own)) as (client, _):
        names = [name.lower() for name, _ in client.response.headers]
        assert sorted(names) == ["connection", "sec-websocket-accept", "upgrade", "x-own"]


async def test_what_concerns_one_hop_is_not_in_the_101(stage: Stage) -> None:
    """Pushpin passes Keep-Alive on."""
    body = encode_events("OPEN")
    fields = [("Content-Type", EVENTS_TYPE), GRIP, ("Keep-Alive", "timeout=5")]
    async with over_http(stage, response(200, fields, [body])) as (client, _):
        names = [name.lower() for name, _ in client.response.headers]
        assert sorted(names) == ["connection", "sec-websocket-accept", "upgrade"]


@shared
async def test_messages_of_the_acceptance_follow_the_101(stage: Stage) -> None:
    opening = accept(("TEXT", "m:one"), ("PING", "p"), ("BINARY", b"m:\0"), ("PONG", "q"))
    async with over_http(stage, opening) as (client, _):
        got = [await client.read_frame() for _ in range(4)]
        assert got == [
            Frame(TEXT, b"one"),
            Frame(PING, b"p"),
            Frame(BINARY, b"\0"),
            Frame(PONG, b"q"),
        ]


async def test_an_answer_may_be_as_long_as_the_limit(stage: Stage) -> None:
    """Pushpin 1.36 accepts it too, but stalls at the long message."""
    async with over_http(stage, filled(LIMIT, "OPEN", last=b"m:last")) as (client, _):
        assert await client.read_text() == "last"


@shared
async def test_grip_is_agreed_on_once(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(events(("TEXT", "c:{}"), ("TEXT", "dropped"), ("TEXT", "m:on")))
        await client.send_text("x")
        assert await client.read_text() == "on"
    async with over_http(stage, accept(grip=False)) as (client, backend):
        backend.answers.append(events(("TEXT", "c:{}"), ("TEXT", "m:off"), headers=[GRIP]))
        await client.send_text("x")
        assert [await client.read_text() for _ in range(2)] == ["c:{}", "m:off"]


# -- later answers ---------------------------------------------------------------------------


@shared
@pytest.mark.parametrize(
    "answer",
    [
        response(201, {"Content-Type": EVENTS_TYPE}),
        response(404, {"Content-Type": EVENTS_TYPE}),
        typed("text/plain", b""),
        typed(EVENTS_TYPE + ";a=b", b""),
        response(200, {}, b""),
        events("OPEN"),
        events("DISCONNECT"),
        response(200, {"Content-Type": EVENTS_TYPE}, b"TEXT"),
        response(200, {"Content-Type": EVENTS_TYPE}, b"TEXT x\r\nhello\r\n"),
        filled(LIMIT + 1, last=b"m:x"),
    ],
    ids=[
        "status 201", "status 404", "type", "parameter", "no type", "open again", "disconnect",
        "no line end", "bad size", "too long",
    ],
)  # fmt: skip
async def test_a_bad_answer_ends_the_connection(stage: Stage, answer: bytes) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(answer)
        await client.send_text("hello")
        assert await backend.next_events() == [text("hello")]
        await client.wait_dropped()
        # the backend is taken for gone
        assert await backend.is_silent(0.1)


async def test_a_negative_size_ends_the_connection(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        bad = b"TEXT -2\r\nm:\r\n"
        backend.answers.append(response(200, {"Content-Type": EVENTS_TYPE}, bad))
        await client.send_text("hello")
        await client.wait_dropped()


async def test_messages_before_a_disconnect_still_arrive(stage: Stage) -> None:
    """Pushpin may lose them."""
    async with over_http(stage) as (client, backend):
        await client.send_text("hello")
        assert await backend.next_events() == [text("hello")]
        backend.answers.append(events(("TEXT", "m:one"), "DISCONNECT", ("TEXT", "m:two")))
        await client.send_text("more")
        assert await client.read_text() == "one"
        await client.wait_dropped()
        assert await backend.next_events() == [text("more")]
        assert await backend.is_silent(0.1)


@shared
async def test_an_answer_without_events_is_fine(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        for word in ("one", "two"):
            await client.send_text(word)
            assert await backend.next_events() == [text(word)]


@shared
async def test_later_answers_reach_the_client_in_order(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(
            events(("PING", "a"), ("TEXT", "m:b"), "PONG", ("BINARY", "m:"), ("TEXT", "m:c"))
        )
        await client.send_text("x")
        got = [await client.read_frame() for _ in range(5)]
        assert got == [
            Frame(PING, b"a"),
            Frame(TEXT, b"b"),
            Frame(PONG, b""),
            Frame(BINARY, b""),
            Frame(TEXT, b"c"),
        ]


@shared
@pytest.mark.parametrize(
    "body",
    [
        b"TEXT C\r\nm:0123456789\r\n",
        b"TEXT 000c\r\nm:0123456789\r\n",
        b"FUTURE\r\nOTHER 3\r\nabc\r\ntext 3\r\nm:x\r\nTEXT c\r\nm:0123456789\r\n",
        b"TEXT c\r\nm:0123456789",
        b"TEXT ff\r\nm:0123456789",
        b"TEXT c\r\nm:0123456789??",
    ],
    ids=["upper case", "zeros", "unknown types", "no end", "short", "other end"],
)
async def test_events_are_read_leniently(stage: Stage, body: bytes) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(response(200, {"Content-Type": EVENTS_TYPE}, body))
        await client.send_text("x")
        assert await client.read_text() == "0123456789"


@shared
async def test_an_event_without_content_is_an_empty_message(stage: Stage) -> None:
    async with over_http(stage, accept("TEXT", "BINARY", "PING", grip=False)) as (client, _):
        got = [await client.read_frame() for _ in range(3)]
        assert got == [Frame(TEXT, b""), Frame(BINARY, b""), Frame(PING, b"")]


@pytest.mark.parametrize("size", [16_384, 70_000, 900_000])
async def test_a_large_message_reaches_the_client(stage: Stage, size: int) -> None:
    """Pushpin 1.36 stalls."""
    content = bytes(i % 251 for i in range(size))
    async with over_http(stage) as (client, backend):
        backend.answers.append(events(("BINARY", b"m:" + content), ("TEXT", "m:next")))
        await client.send_text("x")
        assert await client.read_message() == (BINARY, content)
        assert await client.read_text() == "next"


# -- Set-Meta --------------------------------------------------------------------------------


@shared
async def test_meta_comes_back_with_every_later_request(stage: Stage) -> None:
    steps: list[tuple[dict[str, str], dict[str, str]]] = [
        # what an answer sets, and what the next request must have
        ({"Set-Meta-User": "me", "set-meta-room": "a b"}, {"Meta-User": "me", "Meta-room": "a b"}),
        ({}, {"Meta-User": "me", "Meta-room": "a b"}),
        ({"Set-Meta-USER": "you"}, {"Meta-USER": "you", "Meta-room": "a b"}),
        ({"Set-Meta-Room": ""}, {"Meta-USER": "you"}),
        ({"Set-Meta-Room": "c", "Set-Meta-User": ""}, {"Meta-Room": "c"}),
    ]
    async with over_http(stage, accept(headers=steps[0][0])) as (client, backend):
        for answer, _ in steps[1:]:
            backend.answers.append(events(headers=answer))
        for _, expected in steps:
            await client.send_text("x")
            request, _ = await backend.next()
            meta = [field for field in request.headers if field[0].lower().startswith("meta-")]
            assert sorted(meta) == sorted(expected.items())
    request, got = await backend.next()
    assert got == DISCONNECT
    assert request.header("meta-room") == "c"
