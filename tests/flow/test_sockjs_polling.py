"""SockJS by polling (xhr and JSON-P): opening, and what comes to the client."""

import json
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow.holding import BAD_ORIGIN, Stage, fresh, open_stage
from tests.flow.sockets import DISCONNECT, OPEN, message, text
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
from tests.support.client import fetch
from tests.support.websocket import (
    CLOSE,
    CONT,
    GRIP,
    TEXT,
    Event,
    SocketBackend,
    accept,
    control,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

TOO_LARGE = 100_001
NOTHING_BUT_CLOSE = [Event("CLOSE")]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_sockjs_stage() as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


# -- opening ---------------------------------------------------------------------------------


@shared
async def test_the_first_poll_opens(stage: Stage) -> None:
    backend = SessionBackend(stage)
    session = Session(stage.proxy.port, backend.query)
    r = await session.post("xhr", b"ignored", {"Origin": "http://a.example"})
    assert (r.status, r.body, r.header("content-type")) == (200, b"o\n", "text/plain")
    assert r.header("access-control-allow-origin") == "http://a.example"
    assert r.header("access-control-allow-credentials") == "true"
    assert r.header("cache-control") == NO_STORE


@shared
async def test_the_backend_sees_a_websocket(stage: Stage) -> None:
    backend = SessionBackend(stage)
    session = Session(stage.proxy.port, backend.query)
    await session.post("xhr", b"", {"Cookie": "a=b", "Origin": "http://a.example", "X-A": "1"})
    request, got = await backend.next()
    assert (request.target, got) == (f"/woh?{backend.query}", OPEN)
    assert request.header("host") == "localhost"
    assert request.header("sec-websocket-extensions") == "grip"
    for name, value in (("cookie", "a=b"), ("origin", "http://a.example"), ("x-a", "1")):
        assert request.header(name) == value
    await session.send("x")
    later, got = await backend.next()
    assert (later.header("cookie"), got) == ("a=b", [text("x")])
    assert later.header("connection-id") == request.header("connection-id")


async def test_what_describes_the_body_of_a_poll_is_not_for_the_backend(stage: Stage) -> None:
    backend = SessionBackend(stage)
    session = Session(stage.proxy.port, backend.query)
    await session.post("xhr", b"x", {"Content-Type": "text/x", "Expect": "100-continue"})
    request, _ = await backend.next()
    assert request.header("content-type") == "application/websocket-events"
    assert request.header("content-length") == "6"
    assert request.header("expect") is None


@shared
async def test_without_a_path_of_its_own_the_backend_sees_the_prefix(stage: Stage) -> None:
    backend = SessionBackend(stage, "/plain")
    session = Session(stage.proxy.port, backend.query, prefix="/plain")
    assert await session.poll() == b"o\n"
    assert (await backend.next())[0].target == f"/plain?{backend.query}"


@shared
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("query", "callback"), [("c=f", "f"), ("callback=a.b&c=f", "a.b")])
async def test_the_first_script_opens(stage: Stage, method: str, query: str, callback: str) -> None:
    backend = SessionBackend(stage)
    session = Session(stage.proxy.port, backend.query)
    body = b"" if method == "POST" else None
    r = await fetch(stage.proxy.port, method, session.target("jsonp", query), (), body)
    assert (r.status, r.header("content-type")) == (200, "application/javascript")
    assert r.body == f'/**/{callback}("o");\n'.encode()
    assert (await backend.next())[0].target == f"/woh?{query}&{backend.query}"


@shared
async def test_a_script_needs_a_callback(stage: Stage) -> None:
    r = await Session(stage.proxy.port).get("jsonp")
    assert (r.status, r.body) == (400, b"Bad Request\n")
    assert stage.backend.requests == []


@pytest.mark.parametrize("callback", ["", "%20", "*", "abc(", "abc%28", "a%0ab", "x" * 129])
async def test_a_callback_is_a_name(stage: Stage, callback: str) -> None:
    r = await Session(stage.proxy.port).get("jsonp", f"c={callback}")
    assert (r.status, r.body) == (400, b"Bad Request\n")


@shared
@pytest.mark.parametrize("transport", ["xhr", "jsonp"])
async def test_a_rejection_answers_the_opening_request(stage: Stage, transport: str) -> None:
    backend = SessionBackend(stage)
    backend.answers.append(response(403, {"X-A": "1", "Content-Type": "text/x"}, b"go away"))
    session = Session(stage.proxy.port, backend.query)
    r = await (session.post("xhr") if transport == "xhr" else session.get("jsonp", "c=f"))
    assert (r.status, r.reason, r.body) == (403, "Forbidden", b"go away")
    assert (r.header("x-a"), r.header("content-type")) == ("1", "text/x")
    assert (r.header("cache-control"), r.header("access-control-allow-origin")) == (NO_STORE, "*")
    assert (await session.post("xhr_send", b'["x"]')).status == 404


async def test_a_rejection_may_say_itself_who_can_read_it(stage: Stage) -> None:
    backend = SessionBackend(stage)
    backend.answers.append(response(403, {"Access-Control-Allow-Origin": "http://b.example"}))
    r = await Session(stage.proxy.port, backend.query).post("xhr")
    assert r.header("access-control-allow-origin") == "http://b.example"


@shared
async def test_a_backend_that_fails(stage: Stage) -> None:
    backend = SessionBackend(stage)
    # On a connection that was kept it may be sent again.
    backend.answers += [lambda exchange: exchange.abort()] * 2
    r = await Session(stage.proxy.port, backend.query).post("xhr")
    assert (r.status, r.body) == (502, BAD_ORIGIN)
    assert r.header("access-control-allow-origin") == "*"


@shared
async def test_one_session_opens_once(stage: Stage) -> None:
    backend = SessionBackend(stage)
    opening = backend.hold()
    session = Session(stage.proxy.port, backend.query)
    async with session.request("POST", "xhr") as client:
        assert await backend.next_events() == OPEN
        assert await session.poll() == STILL_OPEN
        opening.set_result(accept())
        assert (await client.read_response()).body == b"o\n"


@shared
async def test_the_server_part_of_the_path_means_nothing(stage: Stage) -> None:
    session, backend = await open_session(stage)
    session.path = session.path.replace("/000/", "/anything/")
    await session.send("x")
    assert await backend.next_events() == [text("x")]


async def test_sessions_of_two_routes_may_have_the_same_id(stage: Stage) -> None:
    session, _ = await open_session(stage)
    backend = SessionBackend(stage, "/plain")
    other = Session(stage.proxy.port, backend.query)
    other.path = session.path.replace("/sock/", "/plain/")
    assert await other.poll() == b"o\n"


async def test_a_client_that_leaves_before_it_is_answered(stage: Stage) -> None:
    backend = SessionBackend(stage)
    opening = backend.hold()
    session = Session(stage.proxy.port, backend.query)
    async with session.request("POST", "xhr"):
        assert await backend.next_events() == OPEN
    while (answer := await session.poll()) != b"o\n":
        assert answer == STILL_OPEN  # nobody knows yet that the first one has left
    assert await backend.next_events() == OPEN
    opening.set_result(accept())
    assert await backend.next_events() == DISCONNECT


# -- to the client ---------------------------------------------------------------------------


@shared
async def test_a_poll_takes_all_that_waits(stage: Stage) -> None:
    session, backend = await open_session(stage, accept(("TEXT", "m:one"), ("TEXT", 'm:"ü"')))
    assert await session.poll() == 'a["one","\\"ü\\""]\n'.encode()
    await say(session, backend, ("TEXT", "m:two"))
    assert await session.poll() == b'a["two"]\n'


@shared
async def test_a_poll_waits(stage: Stage) -> None:
    session, backend = await open_session(stage)
    async with session.waiting() as client:
        await say(session, backend, ("TEXT", "m:x"))
        assert (await client.read_response()).body == b'a["x"]\n'


@shared
async def test_a_script_waits(stage: Stage) -> None:
    session, backend = await open_session(stage)
    async with session.request("GET", "jsonp", "c=_jp.a1") as client:
        await say(session, backend, ("TEXT", 'm:"'))
        assert (await client.read_response()).body == b'/**/_jp.a1("a[\\"\\\\\\"\\"]");\n'


@shared
async def test_binary_is_text_and_pings_are_nothing(stage: Stage) -> None:
    said = ("BINARY", b"m:\xffbin"), ("PING", "p"), ("PONG", "q"), ("TEXT", "m:t")
    session, _ = await open_session(stage, accept(*said))
    got = await session.poll()
    assert json.loads(got[1:]) == ["\ufffdbin", "t"]


async def test_what_browsers_mangle_is_escaped(stage: Stage) -> None:
    session, _ = await open_session(stage, accept(("TEXT", "m:\u2028 \u200c \ufffe")))
    assert await session.poll() == rb'a["\u2028 \u200c \ufffe"]' + b"\n"


@shared
async def test_a_published_message_answers_a_poll(stage: Stage) -> None:
    c = fresh()
    session, _ = await open_session(stage, accept(control(type="subscribe", channel=c)))
    await stage.proxy.wait_subscribed(c)
    async with session.waiting() as client:
        await stage.proxy.publish(message(c, "news"))
        assert (await client.read_response()).body == b'a["news"]\n'


@shared
async def test_published_messages_wait_for_a_poll(stage: Stage) -> None:
    c = fresh()
    session, _ = await open_session(stage, accept(control(type="subscribe", channel=c)))
    await stage.proxy.wait_subscribed(c)
    for content in ("one", "two"):
        await stage.proxy.publish(message(c, content))
    got: list[str] = []
    while len(got) < 2:
        got += json.loads((await session.poll())[1:])
    assert got == ["one", "two"]


async def test_published_pings_are_nothing_to_a_client(stage: Stage) -> None:
    c = fresh()
    session, _ = await open_session(stage, accept(control(type="subscribe", channel=c)))
    await stage.proxy.wait_subscribed(c)
    await stage.proxy.publish(
        message(c, "x", type="ping"), message(c, type="binary", content_bin="eA==")
    )
    assert await session.poll() == b'a["x"]\n'


async def test_a_backend_waits_for_a_client_that_does_not_poll(stage: Stage) -> None:
    session, backend = await open_session(stage)
    large = "x" * 110_000
    await say(session, backend, ("TEXT", "m:" + large), ("TEXT", "m:" + large))
    await session.send("more")
    assert await backend.is_silent(0.1)
    assert await session.poll() == f'a["{large}","{large}"]\n'.encode()
    assert await backend.next_events() == [text("more")]


@shared
async def test_there_is_one_poll_at_a_time(stage: Stage) -> None:
    session, backend = await open_session(stage)
    async with session.waiting() as client:
        assert await session.poll() == STILL_OPEN
        assert await session.script() == b'/**/f("c[2010,\\"Another connection still open\\"]");\n'
        await say(session, backend, ("TEXT", "m:x"))
        assert (await client.read_response()).body == b'a["x"]\n'


async def test_polls_of_one_connection(stage: Stage) -> None:
    session, backend = await open_session(stage)
    async with session.waiting() as client:
        for content in ("one", "two"):
            await say(session, backend, ("TEXT", "m:" + content))
            assert (await client.read_response()).body == f'a["{content}"]\n'.encode()
            await client.send(f"POST {session.target('xhr')} HTTP/1.1\r\n\r\n".encode())


async def test_a_transport_may_change(stage: Stage) -> None:
    session, _ = await open_session(stage, accept(("TEXT", "m:x")))
    assert await session.script() == b'/**/f("a[\\"x\\"]");\n'


async def test_an_unknown_transport_of_a_session(stage: Stage) -> None:
    session, _ = await open_session(stage)
    assert await answer_of(session.post("other")) == (404, b"Not Found\n")
    assert await answer_of(session.get("xhr")) == (404, b"Not Found\n")


# -- a WebSocket behind it -------------------------------------------------------------------


@shared
async def test_a_websocket_backend(stage: Stage) -> None:
    query = fresh("q")
    async with SocketBackend(stage.backend, "/ws", [GRIP]) as server:
        session = Session(stage.proxy.port, query, prefix="/direct")
        r = await session.post("xhr", b"ignored", {"Origin": "http://a.example"})
        assert r.body == b"o\n"
        inner = await server.next()
        assert (inner.request.method, inner.request.target) == ("GET", f"/ws?{query}")
        assert inner.request.header("origin") == "http://a.example"
        assert inner.request.header("sec-websocket-version") == "13"
        assert inner.request.header("content-length") is None
        await session.send("hi")
        assert await inner.read_text() == "hi"
        async with session.waiting() as client:
            await inner.send_text("m:there")
            assert (await client.read_response()).body == b'a["there"]\n'
        async with session.waiting() as client:
            await inner.send_close(4000, b"x")
            assert (await client.read_response()).body == b'c[4000,"x"]\n'
        assert (await inner.read_frame()).opcode == CLOSE


async def test_a_message_in_fragments(stage: Stage) -> None:
    async with SocketBackend(stage.backend, "/ws", [GRIP]) as server:
        session = Session(stage.proxy.port, prefix="/direct")
        assert await session.poll() == b"o\n"
        inner = await server.next()
        await inner.send(TEXT, b"m:\xc3", fin=False)
        await inner.send(CONT, b"\xbc", fin=False)
        await inner.send(CONT, b"!")
        assert await session.poll() == 'a["ü!"]\n'.encode()


async def test_leaving_closes_a_websocket_backend(stage: Stage) -> None:
    async with SocketBackend(stage.backend, "/ws", [GRIP]) as server:
        session = Session(stage.proxy.port, prefix="/direct")
        assert await session.poll() == b"o\n"
        inner = await server.next()
        async with session.waiting():
            pass
        assert (await inner.read_frame()).opcode == CLOSE
        await inner.send_close(3001)
        await inner.wait_dropped()


async def test_a_session_beyond_its_bound_is_closed() -> None:
    c = fresh()
    routes, settings = (
        "*,sockjs=/sock,sockjs_as_path=/woh -> over_http",
        {"client_queue_bytes": 1000},
    )
    async with open_stage(routes, runner=settings) as stage:
        session, backend = await open_session(stage, accept(control(type="subscribe", channel=c)))
        await stage.proxy.wait_subscribed(c)
        await stage.proxy.publish(message(c, "x" * 900), message(c, "y" * 900))
        assert await backend.next_events() == DISCONNECT
        assert json.loads((await session.poll())[1:]) == ["x" * 900]
        assert await session.poll() == b'c[1013,"too slow"]\n'
