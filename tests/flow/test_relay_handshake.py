"""The handshake of a WebSocket backend, and what the client sees of its answer."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.flow.holding import BAD_ORIGIN, Stage, fresh, open_stage
from tests.flow.sockets import relayed
from tests.support.backend import Exchange, Handler, response, start_backend
from tests.support.client import Fields, Response, connect
from tests.support.proxy import free_ports, start_proxy
from tests.support.websocket import (
    KEY,
    TEXT,
    SocketBackend,
    accept_key,
    accept_socket,
    encode_frame,
    handshake,
    open_socket,
    refused,
    upgraded,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage(
        "*", "*,path_beg=/set,header=X-Set:yes,header=X-Gone: -> host=inner.test"
    ) as it:
        yield it


# -- the handshake to the backend --------------------------------------------------------------


@shared
async def test_handshake_for_the_backend_is_one_of_our_own(stage: Stage) -> None:
    async with relayed(stage, query="?a=1&b=%20") as (_, inner):
        request = inner.request
        assert (request.method, request.version) == ("GET", "HTTP/1.1")
        assert request.target.endswith("?a=1&b=%20")
        assert request.header("host") == "localhost"
        assert (request.header("upgrade") or "").lower() == "websocket"
        assert (request.header("connection") or "").lower() == "upgrade"
        assert request.header("sec-websocket-version") == "13"
        assert request.header("content-length") is None
        assert request.header("transfer-encoding") is None


@shared
async def test_each_handshake_has_a_new_key(stage: Stage) -> None:
    keys = {KEY}
    for _ in range(2):
        async with relayed(stage) as (_, inner):
            key = inner.request.header("sec-websocket-key") or ""
            assert len(base64.b64decode(key, validate=True)) == 16
            keys.add(key)
    assert len(keys) == 3


@shared
async def test_fields_of_the_client_pass_to_the_backend(stage: Stage) -> None:
    fields = [
        ("Sec-WebSocket-Protocol", "chat, superchat"),
        ("Origin", "http://a.test"),
        ("Cookie", "a=1; b=2"),
        ("Authorization", "Bearer x"),
        ("Accept", "text/x"),
        ("Meta-User", "me"),
        ("Content-Type", "text/y"),
    ]
    async with relayed(stage, headers=fields) as (_, inner):
        for name, value in fields:
            assert inner.request.header(name) == value


@shared
async def test_extensions_for_the_backend_are_our_own(stage: Stage) -> None:
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate, x-other"}
    async with relayed(stage, headers=offer) as (client, inner):
        assert inner.request.all("sec-websocket-extensions") == ["grip"]
        assert client.response.header("sec-websocket-extensions") is None


@shared
async def test_rules_for_fields_of_requests_hold_for_handshakes(stage: Stage) -> None:
    fields = [("Grip-Last", "x; last-id=1"), ("X-Gone", "1"), ("Keep-Alive", "5"), ("TE", "x")]
    async with relayed(stage, headers=fields, base="/set") as (_, inner):
        request = inner.request
        assert request.header("host") == "inner.test"
        assert request.header("x-set") == "yes"
        assert (request.header("grip-feature") or "").startswith("status, session, link:next, ")
        assert [request.header(n) for n, _ in fields] == [None, None, None, "x"]


# -- its answer --------------------------------------------------------------------------------


@shared
async def test_fields_of_the_backend_pass_to_the_client(stage: Stage) -> None:
    fields = [("X-A", "1"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    fields += [("Content-Type", "text/x"), ("Set-Meta-A", "1")]
    async with relayed(stage, fields) as (client, _):
        assert client.response.reason == "Switching Protocols"
        assert client.response.header("x-a") == "1"
        assert client.response.all("set-cookie") == ["a=1", "b=2"]
        assert client.response.header("content-type") == "text/x"
        assert client.response.header("set-meta-a") == "1"
        for name in ("upgrade", "connection", "sec-websocket-accept"):
            assert len(client.response.all(name)) == 1


@shared
@pytest.mark.parametrize("asked", [{"Sec-WebSocket-Protocol": "a, b"}, {}], ids=["asked", "not"])
async def test_the_backend_alone_selects_the_subprotocol(
    stage: Stage, asked: dict[str, str]
) -> None:
    async with relayed(stage, {"Sec-WebSocket-Protocol": "b"}, asked) as (client, _):
        assert client.response.header("sec-websocket-protocol") == "b"


@shared
async def test_handshake_is_not_answered_before_the_backend_accepts(stage: Stage) -> None:
    path = "/" + fresh("p")
    go_on = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await go_on.wait()
        inner = await accept_socket(exchange)
        await inner.close()
        exchange.closed = True

    stage.backend.on(path, wait, stream=True)
    async with connect(stage.proxy.port) as client:
        await client.send(handshake(path))
        assert await client.is_silent(0.1)
        go_on.set()
        await upgraded(client)


@shared
async def test_frame_that_comes_in_one_piece_with_the_answer_is_relayed(stage: Stage) -> None:
    path = "/" + fresh("p")

    async def accept(exchange: Exchange) -> None:
        key = accept_key(exchange.request.header("sec-websocket-key") or "")
        own = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": key}
        frame = encode_frame(TEXT, b"at once")
        await exchange.write(response(101, own, length=False) + frame)
        await exchange.wait_closed()

    stage.backend.on(path, accept, stream=True)
    async with open_socket(stage.proxy.port, path) as client:
        assert await client.read_text() == "at once"


@shared
async def test_what_the_client_sends_too_early_reaches_the_backend(stage: Stage) -> None:
    path = "/" + fresh("p")
    async with SocketBackend(stage.backend, path) as server, connect(stage.proxy.port) as client:
        early = [encode_frame(TEXT, text, masked=True) for text in (b"one", b"two")]
        await client.send(handshake(path) + b"".join(early))
        inner = await server.next()
        assert [await inner.read_text(), await inner.read_text()] == ["one", "two"]
        await upgraded(client)


async def test_client_that_leaves_before_the_answer_leaves_the_backend_too(stage: Stage) -> None:
    path = "/" + fresh("p")
    left = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        arrived.set()
        await exchange.wait_closed()
        left.set()

    arrived = asyncio.Event()
    stage.backend.on(path, wait, stream=True)
    async with connect(stage.proxy.port) as client:
        await client.send(handshake(path))
        await arrived.wait()
    async with asyncio.timeout(5):
        await left.wait()


# -- handshakes that fail ----------------------------------------------------------------------


async def refusal(stage: Stage, answer: Handler, headers: Fields = ()) -> Response:
    path = "/" + fresh("p")
    stage.backend.on(path, answer, stream=True)
    return await refused(stage.proxy.port, path, headers)


@shared
@pytest.mark.parametrize("status", [200, 302, 401, 404, 500])
async def test_rejection_reaches_the_client_with_its_body(stage: Stage, status: int) -> None:
    for answer in (
        response(status, {"Grip-Hold": "response", "Grip-Channel": "x"}, b"no entry\n"),
        response(status, body=[b"no ", b"entry\n"]),
        response(status, body=b"no entry\n", length=False),
    ):
        r = await refusal(stage, answer)
        assert (r.status, r.body) == (status, b"no entry\n")


async def test_rejection_keeps_its_reason_and_fields(stage: Stage) -> None:
    fields = [("WWW-Authenticate", "Basic"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    fields += [("Content-Type", "text/x"), ("Set-Meta-A", "1")]
    r = await refusal(stage, response(401, fields, b"who?", reason="Say Who You Are"))
    assert (r.reason, r.body) == ("Say Who You Are", b"who?")
    assert r.header("www-authenticate") == "Basic"
    assert r.all("set-cookie") == ["a=1", "b=2"]
    assert (r.header("content-type"), r.header("set-meta-a")) == ("text/x", "1")


@pytest.mark.parametrize("status", [204, 304])
async def test_rejection_may_have_no_body(stage: Stage, status: int) -> None:
    assert (await refusal(stage, response(status))).status == status


async def test_body_of_a_rejection_has_a_bound(stage: Stage) -> None:
    body = b"x" * 8000
    assert (await refusal(stage, response(403, body=body))).body == body
    r = await refusal(stage, response(403, body=bytes(200_000)))
    assert (r.status, r.body) == (502, BAD_ORIGIN)


@pytest.mark.parametrize("fields", [
    {"Sec-WebSocket-Accept": accept_key(KEY)},  # the client's key is not the one asked with
    {"Sec-WebSocket-Accept": ""},
    {},
], ids=["of another key", "empty", "absent"])  # fmt: skip
async def test_wrong_accept_key_fails_the_handshake(stage: Stage, fields: dict[str, str]) -> None:
    own = {"Upgrade": "websocket", "Connection": "Upgrade"}
    r = await refusal(stage, response(101, {**own, **fields}, length=False))
    assert (r.status, r.body) == (502, BAD_ORIGIN)


async def write_and_close(exchange: Exchange, data: bytes) -> None:
    await exchange.write(data)
    exchange.close()


@shared
@pytest.mark.parametrize("answer", [
    lambda ex: ex.abort(),
    lambda ex: write_and_close(ex, b"garbage\r\n\r\n"),
    lambda ex: write_and_close(ex, b"HTTP/1.1 403 No\r\nContent-Length: 100\r\n\r\npart"),
], ids=["no answer", "garbage", "cut"])  # fmt: skip
async def test_failure_before_the_backend_accepts_is_502(
    stage: Stage, answer: Callable[[Exchange], Awaitable[None] | None]
) -> None:
    r = await refusal(stage, answer)
    assert (r.status, r.body, r.header("content-type")) == (502, BAD_ORIGIN, None)


@shared
async def test_next_target_is_tried_after_a_failure_to_connect_alone() -> None:
    (closed,) = free_ports(1)
    async with start_backend() as first, start_backend() as second:
        routes = [
            f"* 127.0.0.1:{closed} {second.address}",
            f"*,path_beg=/drop {first.address} {second.address}",
        ]
        async with start_proxy(routes) as proxy, SocketBackend(second, "/") as server:
            async with open_socket(proxy.port) as client:
                await (await server.next()).send_text("second")
                assert await client.read_text() == "second"
            first.on("/drop", lambda ex: ex.abort(), stream=True)
            assert (await refused(proxy.port, "/drop")).status == 502
            assert [r.target for r in second.requests] == ["/"]
