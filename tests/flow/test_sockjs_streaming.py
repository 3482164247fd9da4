"""SockJS by streaming (xhr_streaming and EventSource), which Pushpin does not know."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh
from tests.flow.sockets import OPEN, message
from tests.flow.sockjs import (
    NO_STORE,
    STILL_OPEN,
    Session,
    SessionBackend,
    answer_of,
    open_session,
    open_sockjs_stage,
    say,
)
from tests.support.backend import response
from tests.support.client import Client, Response, Truncated, connect, encode_request
from tests.support.websocket import Event, WohAnswer, accept, close_payload, control, events

pytestmark = pytest.mark.asyncio(loop_scope="module")

KINDS = ("xhr_streaming", "eventsource")
PRELUDE = {"xhr_streaming": b"h" * 2048 + b"\n", "eventsource": b"\r\n"}
# What is around a frame.
AROUND = {"xhr_streaming": (b"", b"\n"), "eventsource": (b"data: ", b"\r\n\r\n")}
CLOSE = [Event("CLOSE")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_sockjs_stage() as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


class Stream:
    """A streaming request whose head has come."""

    def __init__(self, kind: str, client: Client, head: Response) -> None:
        self.client = client
        self.head = head
        self._before, self._after = AROUND[kind]

    async def frame(self) -> bytes:
        """The next frame."""
        assert await self.client.read_bytes(len(self._before)) == self._before
        return (await self.client.read_until(self._after)).removesuffix(self._after)

    async def ended(self) -> bool:
        """Whether nothing more comes before the end."""
        return await self.client.read_rest() == b""


@contextlib.asynccontextmanager
async def streaming(
    session: Session, kind: str, receive_buffer: int | None = None
) -> AsyncIterator[Stream]:
    """A streaming request of the session, behind its prelude."""
    method, body = ("POST", b"") if kind == "xhr_streaming" else ("GET", None)
    async with connect(session.port, receive_buffer=receive_buffer) as client:
        await client.send(encode_request(method, session.target(kind), (), body))
        head = await client.read_head()
        assert head.status == 200, head
        assert await client.read_bytes(len(PRELUDE[kind])) == PRELUDE[kind]
        yield Stream(kind, client, head)


@contextlib.asynccontextmanager
async def opened(
    stage: Stage, kind: str, opening: WohAnswer | None = None, receive_buffer: int | None = None
) -> AsyncIterator[tuple[Session, SessionBackend, Stream]]:
    """A session that was opened by streaming."""
    backend = SessionBackend(stage)
    if opening is not None:
        backend.answers.append(opening)
    session = Session(stage.proxy.port, backend.query)
    async with streaming(session, kind, receive_buffer) as stream:
        assert await stream.frame() == b"o"
        assert await backend.next_events() == OPEN
        yield session, backend, stream


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        ("xhr_streaming", "application/javascript; charset=UTF-8"),
        ("eventsource", "text/event-stream"),
    ],
)
async def test_the_head(stage: Stage, kind: str, content_type: str) -> None:
    async with opened(stage, kind) as (_, _, stream):
        head = stream.head
        assert (head.header("content-type"), head.framing) == (content_type, "chunked")
        assert (head.header("cache-control"), head.header("access-control-allow-origin")) == (
            NO_STORE,
            "*",
        )
        assert head.header("access-control-allow-credentials") == "true"


@pytest.mark.parametrize("kind", KINDS)
async def test_messages_come_as_they_are_said(stage: Stage, kind: str) -> None:
    async with opened(stage, kind, accept(("TEXT", "m:one"))) as (session, backend, stream):
        assert await stream.frame() == b'a["one"]'
        await say(session, backend, ("TEXT", "m: \0\n\r ü"), ("TEXT", "m:"))
        got: list[str] = []
        while len(got) < 2:
            got += json.loads((await stream.frame())[1:])
        assert got == [" \0\n\r ü", ""]


@pytest.mark.parametrize(("kind", "shown"), [("xhr_streaming", b"%41"), ("eventsource", b"%2541")])
async def test_percent_signs_are_for_clients_that_decode_them(
    stage: Stage, kind: str, shown: bytes
) -> None:
    async with opened(stage, kind, accept(("TEXT", "m:%41"))) as (_, _, stream):
        assert await stream.frame() == b'a["' + shown + b'"]'


@pytest.mark.parametrize("kind", KINDS)
async def test_published_messages(stage: Stage, kind: str) -> None:
    c = fresh()
    async with opened(stage, kind, accept(control(type="subscribe", channel=c))) as (_, _, stream):
        await stage.proxy.wait_subscribed(c)
        for content in ("one", "two"):
            await stage.proxy.publish(message(c, content))
            assert await stream.frame() == f'a["{content}"]'.encode()


async def test_a_stream_of_a_session_that_was_opened_by_polling(stage: Stage) -> None:
    session, backend = await open_session(stage, accept(("TEXT", "m:x")))
    async with streaming(session, "xhr_streaming") as stream:
        assert await stream.frame() == b'a["x"]'
        await say(session, backend, ("TEXT", "m:y"))
        assert await stream.frame() == b'a["y"]'


@pytest.mark.parametrize("kind", KINDS)
async def test_there_is_one_receiver_at_a_time(stage: Stage, kind: str) -> None:
    async with opened(stage, kind) as (session, _, _):
        assert await session.poll() == STILL_OPEN
        async with streaming(session, kind) as other:
            assert await other.frame() == STILL_OPEN.strip()
            assert await other.ended()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_ends_when_it_is_long(stage: Stage, kind: str) -> None:
    part = "x" * 60_000
    async with opened(stage, kind) as (session, backend, stream):
        for _ in range(3):
            await say(session, backend, ("TEXT", "m:" + part))
            assert await stream.frame() == f'a["{part}"]'.encode()
        assert await stream.ended()
        await say(session, backend, ("TEXT", "m:more"))
        async with streaming(session, kind) as another:
            assert await another.frame() == b'a["more"]'


@pytest.mark.parametrize("kind", KINDS)
async def test_the_backend_closes(stage: Stage, kind: str) -> None:
    async with opened(stage, kind) as (session, backend, stream):
        said = ("TEXT", "m:last"), ("CLOSE", close_payload(3000, b"Go away!"))
        await say(session, backend, *said)
        assert [await stream.frame() for _ in range(2)] == [b'a["last"]', b'c[3000,"Go away!"]']
        assert await stream.ended()
        assert await backend.next_events() == CLOSE
        async with streaming(session, kind) as another:
            assert await another.frame() == b'c[3000,"Go away!"]'
            assert await another.ended()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_backend_that_goes(stage: Stage, kind: str) -> None:
    async with opened(stage, kind) as (session, backend, stream):
        backend.answers.append(response(500))
        await session.send("x")
        with pytest.raises(Truncated):
            await stream.client.read_rest()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_rejection_answers_the_opening_request(stage: Stage, kind: str) -> None:
    backend = SessionBackend(stage)
    backend.answers.append(response(403, body=b"go away"))
    session = Session(stage.proxy.port, backend.query)
    request = session.get(kind) if kind == "eventsource" else session.post(kind)
    assert await answer_of(request) == (403, b"go away")


@pytest.mark.parametrize("kind", KINDS)
async def test_leaving_a_stream_closes(stage: Stage, kind: str) -> None:
    async with opened(stage, kind) as (session, backend, _):
        answer = backend.hold()
    assert await backend.next_events() == CLOSE
    assert await session.poll() == b'c[3000,"Client already closed connection"]\n'
    answer.set_result(events("CLOSE"))


@pytest.mark.parametrize(("method", "kind"), [("GET", "xhr_streaming"), ("POST", "eventsource")])
async def test_a_method_that_is_not_for_it(stage: Stage, method: str, kind: str) -> None:
    async with Session(stage.proxy.port).request(method, kind) as client:
        assert (await client.read_response()).status == 404


async def test_http_1_0(stage: Stage) -> None:
    backend = SessionBackend(stage)
    backend.answers.append(accept(("CLOSE", close_payload(3000, b"x"))))
    session = Session(stage.proxy.port, backend.query)
    request = encode_request("POST", session.target("xhr_streaming"), (), b"", version="HTTP/1.0")
    async with connect(stage.proxy.port) as client:
        await client.send(request)
        assert (await client.read_head()).framing == "close"
        expected = PRELUDE["xhr_streaming"] + b'o\nc[3000,"x"]\n'
        assert await client.read_rest() == expected


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_gets_what_a_backend_that_has_gone_left(stage: Stage, kind: str) -> None:
    session, backend = await open_session(stage)
    await say(session, backend, ("TEXT", "m:last"), "DISCONNECT")
    async with streaming(session, kind) as stream:
        assert await stream.frame() == b'a["last"]'
        with pytest.raises(Truncated):
            await stream.client.read_rest()
    assert await session.poll() == b"o\n"
