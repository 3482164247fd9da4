"""SockJS over WebSockets: with frames of its own, and without."""

import json
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh
from tests.flow.sockets import DISCONNECT, OPEN, message, receive_events, text
from tests.flow.sockjs import SessionBackend, open_sockjs_stage
from tests.support.backend import response
from tests.support.websocket import (
    BINARY,
    CONT,
    GRIP,
    PING,
    TEXT,
    Event,
    EventLike,
    SocketBackend,
    accept,
    close_payload,
    control,
    events,
    open_socket,
    refused,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_sockjs_stage() as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


def target(backend: SessionBackend, prefix: str = "/sock") -> str:
    """Where a client of SockJS connects to."""
    return f"{prefix}/000/{fresh('s')}/websocket?{backend.query}"


def backend_that_says(stage: Stage, *said: EventLike) -> SessionBackend:
    """A backend that says this in its first answer."""
    backend = SessionBackend(stage)
    backend.answers.append(accept(*said))
    return backend


@shared
@pytest.mark.parametrize("last", ["websocket", "anything"])
async def test_a_session_opens(stage: Stage, last: str) -> None:
    backend = SessionBackend(stage)
    path = f"/sock/000/{fresh('s')}/{last}?{backend.query}"
    async with open_socket(stage.proxy.port, path, {"Cookie": "a=b"}) as ws:
        assert await ws.read_message() == (TEXT, b"o")
        request, got = await backend.next()
        assert (request.target, got) == (f"/woh?{backend.query}", OPEN)
        assert request.header("cookie") == "a=b"


@shared
async def test_fields_of_the_accepting_answer(stage: Stage) -> None:
    backend = SessionBackend(stage)
    backend.answers.append(accept(headers={"Set-Cookie": "c=d", "Sec-WebSocket-Protocol": "p"}))
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        assert ws.response.header("set-cookie") == "c=d"
        assert ws.response.header("sec-websocket-protocol") == "p"


@shared
async def test_a_rejection(stage: Stage) -> None:
    backend = SessionBackend(stage)
    backend.answers.append(response(403, {"X-A": "1"}, b"go away"))
    r = await refused(stage.proxy.port, target(backend))
    assert (r.status, r.header("x-a"), r.body) == (403, "1", b"go away")


@shared
async def test_without_a_path_of_its_own_the_backend_sees_the_raw_one(stage: Stage) -> None:
    backend = SessionBackend(stage, "/plain/websocket")
    async with open_socket(stage.proxy.port, target(backend, "/plain")) as ws:
        assert await ws.read_text() == "o"
    assert (await backend.next())[0].target == f"/plain/websocket?{backend.query}"


@shared
async def test_messages_of_the_client(stage: Stage) -> None:
    backend = SessionBackend(stage)
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        assert await backend.next_events() == OPEN
        await ws.send_text('["a","\\ud83d\\ude00"]')
        await ws.send_text("[]")
        await ws.send(BINARY, b'["b"]')
        await ws.send(TEXT, b'["frag', fin=False)
        await ws.send(CONT, b'ments"]')
        assert await receive_events(backend, 4) == [
            text("a"),
            text("😀"),
            text("b"),
            text("fragments"),
        ]


async def test_an_empty_message_of_the_client_is_nothing(stage: Stage) -> None:
    backend = SessionBackend(stage)
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        assert await backend.next_events() == OPEN
        await ws.send_text("")
        await ws.send_text('["a"]')
        assert await backend.next_events() == [text("a")]


@shared
async def test_pings_of_the_client_are_swallowed(stage: Stage) -> None:
    backend = SessionBackend(stage)
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        assert await backend.next_events() == OPEN
        await ws.send(PING, b"x")
        await ws.send_text('["a"]')
        assert await backend.next_events() == [text("a")]


@shared
@pytest.mark.parametrize("wrong", ['"a"', '["a', "[1]", "a", '{"a":"b"}'])
async def test_what_is_no_array_of_strings_ends_the_connection(stage: Stage, wrong: str) -> None:
    backend = SessionBackend(stage)
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        assert await backend.next_events() == OPEN
        assert await ws.read_text() == "o"
        await ws.send_text(wrong)
        await ws.wait_dropped()
        assert await backend.next_events() == DISCONNECT


async def test_what_is_too_large_ends_the_connection(stage: Stage) -> None:
    backend = SessionBackend(stage)
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        assert await backend.next_events() == OPEN
        await ws.send_text(json.dumps(["x" * 400_000]))
        assert await backend.next_events() == DISCONNECT


@shared
async def test_messages_of_the_backend(stage: Stage) -> None:
    backend = backend_that_says(
        stage, ("TEXT", 'm:"ü"'), ("BINARY", "m:bin"), ("PING", "p"), ("PONG", "q"), ("TEXT", "m:")
    )
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        got = [await ws.read_message() for _ in range(4)]
        assert got == [(TEXT, s.encode()) for s in ("o", 'a["\\"ü\\""]', 'a["bin"]', 'a[""]')]


async def test_what_browsers_mangle_is_escaped(stage: Stage) -> None:
    backend = backend_that_says(stage, ("BINARY", b"m:\xff\xe2\x80\xa8"))
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        assert await ws.read_text() == "o"
        assert await ws.read_text() == r'a["\ufffd\u2028"]'


@shared
async def test_published_messages(stage: Stage) -> None:
    c = fresh()
    backend = backend_that_says(stage, control(type="subscribe", channel=c))
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        await stage.proxy.wait_subscribed(c)
        await stage.proxy.publish(message(c, "one"))
        assert [await ws.read_text() for _ in range(2)] == ["o", 'a["one"]']
        await stage.proxy.publish(message(c, type="binary", content_bin="dHdv"))
        assert await ws.read_message() == (TEXT, b'a["two"]')


async def test_many_published_messages(stage: Stage) -> None:
    c = fresh()
    backend = backend_that_says(stage, control(type="subscribe", channel=c))
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        await stage.proxy.wait_subscribed(c)
        items = [message(c, str(n), type="ping" if n % 2 else "text") for n in range(100)]
        await stage.proxy.publish(*items)
        assert await ws.read_text() == "o"
        assert [await ws.read_text() for _ in range(50)] == [f'a["{n}"]' for n in range(0, 100, 2)]


@shared
@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (close_payload(3000, b"Go away!"), (3000, b"Go away!")),
        (b"", (1000, b"")),
    ],
)
async def test_the_backend_closes(stage: Stage, payload: bytes, shown: tuple[int, bytes]) -> None:
    backend = backend_that_says(stage, ("TEXT", "m:last"), ("CLOSE", payload))
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        assert await backend.next_events() == OPEN
        assert [await ws.read_text() for _ in range(2)] == ["o", 'a["last"]']
        assert await ws.read_close() == shown
        await ws.send_close(1001)
        assert await backend.next_events() == [Event("CLOSE", close_payload(1001))]
        await ws.wait_dropped()


@shared
async def test_a_published_close(stage: Stage) -> None:
    c = fresh()
    backend = backend_that_says(stage, control(type="subscribe", channel=c))
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        await stage.proxy.wait_subscribed(c)
        assert await ws.read_text() == "o"
        await stage.proxy.publish(message(c, action="close", code=4000, reason="x"))
        assert await ws.read_close() == (4000, b"x")


@shared
async def test_the_client_closes(stage: Stage) -> None:
    backend = SessionBackend(stage)
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        assert await backend.next_events() == OPEN
        assert await ws.read_text() == "o"
        await ws.send_close(3001, b"done")
        assert await backend.next_events() == [Event("CLOSE", close_payload(3001, b"done"))]
        assert await ws.read_close() == (3001, b"done")


@shared
async def test_a_client_that_is_lost(stage: Stage) -> None:
    backend = SessionBackend(stage)
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        assert await backend.next_events() == OPEN
        assert await ws.read_text() == "o"
    assert await backend.next_events() == DISCONNECT


@shared
async def test_a_backend_that_goes(stage: Stage) -> None:
    backend = SessionBackend(stage)
    async with open_socket(stage.proxy.port, target(backend)) as ws:
        assert await backend.next_events() == OPEN
        assert await ws.read_text() == "o"
        backend.answers.append(response(500))
        await ws.send_text('["x"]')
        await ws.wait_dropped()


@shared
async def test_two_sockets_may_have_the_same_id(stage: Stage) -> None:
    one, other = SessionBackend(stage), SessionBackend(stage)
    path = f"/sock/000/{fresh('s')}/websocket?"
    async with (
        open_socket(stage.proxy.port, path + one.query) as first,
        open_socket(stage.proxy.port, path + other.query) as second,
    ):
        assert await first.read_text() == await second.read_text() == "o"
        await first.send_text('["x"]')
        assert await receive_events(one, 2) == [*OPEN, text("x")]
        assert await other.next_events() == OPEN


@shared
async def test_a_websocket_backend(stage: Stage) -> None:
    async with (
        SocketBackend(stage.backend, "/ws", [GRIP]) as server,
        open_socket(stage.proxy.port, f"/direct/000/{fresh('s')}/websocket?x=y") as ws,
    ):
        inner = await server.next()
        assert inner.request.target == "/ws?x=y"
        assert await ws.read_text() == "o"
        await ws.send_text('["hi"]')
        assert await inner.read_text() == "hi"
        await inner.send_text("m:there")
        assert await ws.read_text() == 'a["there"]'


async def test_a_message_in_fragments(stage: Stage) -> None:
    async with (
        SocketBackend(stage.backend, "/ws", [GRIP]) as server,
        open_socket(stage.proxy.port, f"/direct/000/{fresh('s')}/websocket") as ws,
    ):
        inner = await server.next()
        await inner.send(TEXT, b"m:\xc3", fin=False)
        await inner.send(PING, b"x")
        await inner.send(CONT, b"\xbc")
        assert [await ws.read_message() for _ in range(2)] == [
            (TEXT, b"o"),
            (TEXT, 'a["ü"]'.encode()),
        ]


# -- without frames --------------------------------------------------------------------------


@shared
async def test_a_raw_socket(stage: Stage) -> None:
    backend = backend_that_says(stage, ("BINARY", "m:bin"), ("PING", "p"))
    async with open_socket(stage.proxy.port, f"/sock/websocket?{backend.query}") as ws:
        request, got = await backend.next()
        assert (request.target, got) == (f"/woh?{backend.query}", OPEN)
        assert await ws.read_message() == (BINARY, b"bin")
        frame = await ws.read_frame()
        assert (frame.opcode, frame.payload) == (PING, b"p")
        await ws.send_text("anything")
        assert await backend.next_events() == [text("anything")]


@shared
async def test_a_raw_socket_without_a_path_of_its_own(stage: Stage) -> None:
    backend = SessionBackend(stage, "/plain/websocket")
    async with open_socket(stage.proxy.port, f"/plain/websocket?{backend.query}") as ws:
        assert (await backend.next())[0].target == f"/plain/websocket?{backend.query}"
        backend.answers.append(events(("TEXT", "m:o")))
        await ws.send_text("x")
        assert await ws.read_text() == "o"
