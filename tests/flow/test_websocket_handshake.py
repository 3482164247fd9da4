"""What a WebSocket client is, and what its opening handshake is answered."""

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.sockets import (
    DISCONNECT,
    OPEN,
    OVER_HTTP,
    over_http,
    receive_events,
    relayed,
    text,
)
from tests.support.backend import Exchange, response
from tests.support.client import Fields, connect
from tests.support.websocket import (
    GRIP,
    TEXT,
    Socket,
    SocketBackend,
    WohBackend,
    accept,
    accept_socket,
    encode_frame,
    handshake,
    open_socket,
    refused,
    upgraded,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
both_kinds = pytest.mark.parametrize("kind", ["woh", "ws"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*", OVER_HTTP) as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


# -- what a WebSocket client is --------------------------------------------------------------


@shared
@pytest.mark.parametrize("value", ["websocket, h2c", "h2c", "websockets"])
async def test_any_other_upgrade_is_ordinary_http(stage: Stage, value: str) -> None:
    path = "/" + fresh("p")
    stage.backend.on(path, response(200, body=b"page"))
    r = await refused(stage.proxy.port, path, {"Upgrade": value}, drop=["Upgrade"])
    assert (r.status, r.body) == (200, b"page")
    [request] = await stage.requests_for(path, 1)
    assert request.method == "GET"


@shared
async def test_one_of_several_upgrade_fields_is_enough(stage: Stage) -> None:
    async with over_http(stage, None, {"Upgrade": "h2c"}):
        pass


async def test_the_case_of_the_upgrade_makes_no_difference(stage: Stage) -> None:
    """Pushpin 1.36 knows `websocket` in lower case only."""
    async with over_http(stage, None, {"Upgrade": "WebSocket"}, drop=["Upgrade"]):
        pass


@shared
@pytest.mark.parametrize("fields", [{}, {"Connection": "keep-alive"}], ids=["absent", "other"])
async def test_connection_need_not_name_the_upgrade(stage: Stage, fields: Fields) -> None:
    async with over_http(stage, None, fields, drop=["Connection"]):
        pass


@shared
@pytest.mark.parametrize("key", ["", "x", "not base64!", "A" * 100])
async def test_a_key_may_be_anything(stage: Stage, key: str) -> None:
    async with over_http(stage, key=key):
        pass


@shared
async def test_an_empty_body_may_be_announced(stage: Stage) -> None:
    async with over_http(stage, None, {"Content-Length": "0"}):
        pass


BAD_HANDSHAKES = {
    "method": handshake("/woh/bad", method="POST"),
    "head": handshake("/woh/bad", method="HEAD"),
    "body": handshake("/woh/bad", body=b"hello"),
    "chunked": handshake("/woh/bad", {"Transfer-Encoding": "chunked"}) + b"0\r\n\r\n",
    "old version": handshake("/woh/bad", version="8"),
    "no version": handshake("/woh/bad", drop=["Sec-WebSocket-Version"]),
    "HTTP/1.0": handshake("/woh/bad").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "no key": handshake("/woh/bad", drop=["Sec-WebSocket-Key"]),
}


@pytest.mark.parametrize("case", BAD_HANDSHAKES)
async def test_a_bad_handshake_is_answered_400(stage: Stage, case: str) -> None:
    """Pushpin 1.36 closes the connection without a word."""
    async with connect(stage.proxy.port) as client:
        await client.send(BAD_HANDSHAKES[case])
        r = await client.read_response(to_head=case == "head")
    assert (r.status, r.header("content-type")) == (400, "text/plain")
    if case != "head":
        assert re.fullmatch(r"not a WebSocket request: [^\n]+\n", r.text)
    assert "/woh/bad" not in [request.target for request in stage.backend.requests]


# -- the 101 ---------------------------------------------------------------------------------


@shared
async def test_the_101_waits_for_the_backend(stage: Stage) -> None:
    backend = WohBackend(stage.backend, "/woh/" + fresh("p"))
    answer = backend.hold()
    async with connect(stage.proxy.port) as client:
        await client.send(handshake(backend.path))
        await backend.next()
        assert await client.is_silent(0.2)
        answer.set_result(accept())
        await upgraded(client)


@shared
async def test_the_101_waits_for_that_of_a_websocket_backend(stage: Stage) -> None:
    path = "/ws/" + fresh("p")
    arrived = asyncio.Event()
    go_on = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        arrived.set()
        await go_on.wait()
        await (await accept_socket(exchange)).ended.wait()

    stage.backend.on(path, answer, stream=True)
    async with connect(stage.proxy.port) as client:
        await client.send(handshake(path))
        await arrived.wait()
        assert await client.is_silent(0.2)
        go_on.set()
        await upgraded(client)


@shared
async def test_frames_sent_ahead_of_the_101_are_kept(stage: Stage) -> None:
    backend = WohBackend(stage.backend, "/woh/" + fresh("p"))
    ahead = [encode_frame(TEXT, part, masked=True) for part in (b"one", b"two")]
    async with connect(stage.proxy.port) as client:
        await client.send(handshake(backend.path) + b"".join(ahead))
        assert await backend.next_events() == OPEN
        await upgraded(client)
        assert await receive_events(backend, 2) == [text("one"), text("two")]


@shared
async def test_frames_sent_ahead_reach_a_websocket_backend(stage: Stage) -> None:
    path = "/ws/" + fresh("p")
    server = SocketBackend(stage.backend, path)
    async with connect(stage.proxy.port) as client:
        await client.send(handshake(path) + encode_frame(TEXT, b"ahead", masked=True))
        assert await (await server.next()).read_text() == "ahead"


@shared
@both_kinds
async def test_headers_of_the_101(stage: Stage, kind: str) -> None:
    chosen = [
        ("Set-Cookie", "a=1"),
        ("X-Own", "1"),
        ("Set-Cookie", "b=2"),
        ("Sec-WebSocket-Protocol", "chat"),
    ]
    own = [("Upgrade", "h2c"), ("Connection", "X-Own"), ("Sec-WebSocket-Accept", "mine")]
    opened: contextlib.AbstractAsyncContextManager[tuple[Socket, object]]
    if kind == "woh":
        opened = over_http(stage, accept(headers=own + chosen))
    else:
        opened = relayed(stage, [GRIP, *chosen])
    async with opened as (client, _):
        r = client.response
        assert r.reason == "Switching Protocols"
        assert r.headers[:4] == chosen  # those of the backend come first
        assert [n for n, _ in r.headers[4:]] == ["Upgrade", "Connection", "Sec-WebSocket-Accept"]


@shared
async def test_a_subprotocol_is_not_compared_with_the_offer(stage: Stage) -> None:
    answer = accept(headers={"Sec-WebSocket-Protocol": "c"})
    async with over_http(stage, answer, {"Sec-WebSocket-Protocol": "a, b"}) as (client, _):
        assert client.response.header("sec-websocket-protocol") == "c"


@shared
async def test_a_subprotocol_is_not_chosen_for_the_backend(stage: Stage) -> None:
    async with over_http(stage, None, {"Sec-WebSocket-Protocol": "a, b"}) as (client, _):
        assert client.response.header("sec-websocket-protocol") is None


@shared
async def test_compression_is_not_agreed_to_unless_allowed(stage: Stage) -> None:
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    async with over_http(stage, None, offer) as (client, _):
        assert client.response.header("sec-websocket-extensions") is None


async def test_a_rejected_client_may_ask_again(stage: Stage) -> None:
    """Pushpin closes the connection."""
    path = "/woh/" + fresh("p")
    stage.backend.on(path, response(401, {"WWW-Authenticate": "Basic"}, b"who?"))
    async with connect(stage.proxy.port) as client:
        await client.send(handshake(path))
        assert (await client.read_response()).status == 401
        backend = WohBackend(stage.backend, path)
        await client.send(handshake(path, {"Authorization": "Basic eDp5"}))
        await upgraded(client)
        request, _ = await backend.next()
        assert request.header("authorization") == "Basic eDp5"


# -- Connection-Id ---------------------------------------------------------------------------


@shared
async def test_each_connection_has_an_id_of_its_own(stage: Stage) -> None:
    seen = []
    for _ in range(2):
        backend = WohBackend(stage.backend, "/woh/" + fresh("p"))
        async with open_socket(stage.proxy.port, backend.path) as client:
            opening, _ = await backend.next()
            await client.send_text("hello")
            later, _ = await backend.next()
        last, got = await backend.next()
        assert got == DISCONNECT
        ids = {request.header("connection-id") for request in (opening, later, last)}
        assert len(ids) == 1
        seen.append(str(ids.pop()))
    # hyphens, lower case
    assert [str(uuid.UUID(it)) for it in seen] == seen
    assert seen[0] != seen[1]
