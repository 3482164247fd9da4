"""The clients of `websockets` and aiohttp, to both kinds of backend: a server written with
`websockets`, which the proxy relays to, and an application that speaks WebSocket-over-HTTP."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus

import pytest
import pytest_asyncio
from aiohttp import ClientSession, WSMsgType, web
from gripcontrol import (  # type: ignore[import-untyped]
    WebSocketEvent,
    decode_websocket_events,
    encode_websocket_events,
)
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from tests.clients.stage import Stage, open_stage, serve_app
from tests.support.client import TIMEOUT

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHARED = pytest.mark.shared
CHAT = Subprotocol("chat.v1")
OFFERED = [Subprotocol("chat.v2"), CHAT]
LARGE = 1_000_000


class Relayed:
    """A `websockets` server behind the proxy; `accepted` has its ends of the connections."""

    def __init__(self) -> None:
        self.stage: Stage
        self.accepted: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def handle(self, connection: ServerConnection) -> None:
        self.accepted.put_nowait(connection)
        try:
            async for message in connection:
                if message == "close":
                    await connection.close(4001, "enough")
                elif message == "burst":
                    for number in range(1000):
                        await connection.send(str(number))
                else:
                    await connection.send(message)
        except ConnectionClosed:
            pass  # the tests look at how

    def choose(self, _: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return CHAT if CHAT in offered else None

    def refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path != "/refused":
            return None
        answer = connection.respond(HTTPStatus.FORBIDDEN, "not you\n")
        answer.headers["X-Reason"] = "none"
        return answer


async def over_http(request: web.Request) -> web.Response:
    """WebSocket-over-HTTP: echo, pong, and close as the client does or as it asks for."""
    out = []
    headers = {"Content-Type": "application/websocket-events"}
    if request.path == "/refused":
        return web.Response(status=403, text="not you\n", headers={"X-Reason": "none"})
    for event in decode_websocket_events(await request.read()):
        match event.type, event.content:
            case "OPEN", _:
                if CHAT in request.headers.get("Sec-WebSocket-Protocol", ""):
                    headers["Sec-WebSocket-Protocol"] = CHAT
                out.append(event)
            case "TEXT", b"close":
                out.append(WebSocketEvent("CLOSE", (4001).to_bytes(2, "big") + b"enough"))
            case "TEXT", b"burst":
                out += [WebSocketEvent("TEXT", str(number)) for number in range(1000)]
            case "TEXT" | "BINARY" | "CLOSE", _:
                out.append(event)
            case "PING", content:
                out.append(WebSocketEvent("PONG", content))
    return web.Response(body=encode_websocket_events(out), headers=headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relayed() -> AsyncIterator[Relayed]:
    it = Relayed()
    async with serve(
        it.handle, "127.0.0.1", 0, select_subprotocol=it.choose, process_request=it.refuse,
        max_size=2 * LARGE, ping_interval=None,
    ) as server:  # fmt: skip
        (port,) = {socket.getsockname()[1] for socket in server.sockets}
        async with open_stage(port, target="", runner={"allow_compression": True}) as it.stage:
            yield it


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stages(relayed: Relayed) -> AsyncIterator[dict[str, Stage]]:
    app = web.Application()
    app.router.add_post("/{path}", over_http)
    async with serve_app(app) as stage:
        yield {"relayed": relayed.stage, "over_http": stage}


@pytest.fixture
def stage(stages: dict[str, Stage], request: pytest.FixtureRequest) -> Stage:
    return stages[getattr(request, "param", "over_http")]


def on(*kinds: object) -> pytest.MarkDecorator:
    """Run the test on these kinds of backend."""
    return pytest.mark.parametrize("stage", kinds, indirect=True)


BOTH = on(pytest.param("relayed", marks=SHARED), pytest.param("over_http", marks=SHARED))


async def recv(client: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(client.recv(), TIMEOUT)


async def closed(connection: ClientConnection | ServerConnection) -> tuple[int | None, str | None]:
    await asyncio.wait_for(connection.wait_closed(), TIMEOUT)
    return connection.close_code, connection.close_reason


# -- websockets ------------------------------------------------------------------------------------


@BOTH
async def test_messages_come_back(stage: Stage) -> None:
    async with stage.connect("/echo") as client:
        for message in ("text", "Ünï", "", b"\x00\xff", b"", "x" * 10_000):
            await client.send(message)
            assert await recv(client) == message


@on("relayed", "over_http")
async def test_fragments_come_back_as_one_message(stage: Stage) -> None:
    async with stage.connect("/echo") as client:
        await client.send(["one ", "two ", "three"])
        assert await recv(client) == "one two three"


@BOTH
async def test_the_backend_chooses_the_subprotocol(stage: Stage) -> None:
    async with stage.connect("/echo", subprotocols=OFFERED) as client:
        assert client.subprotocol == CHAT
    async with stage.connect("/echo") as client:
        assert client.subprotocol is None


# Pushpin relays pings to a WebSocket backend without their content
@on("relayed", pytest.param("over_http", marks=SHARED))
async def test_keepalive_pings_are_answered_by_the_backend(stage: Stage) -> None:
    async with stage.connect("/echo", ping_interval=0.05, ping_timeout=TIMEOUT) as client:
        async with asyncio.timeout(TIMEOUT):
            while not client.latency:
                await asyncio.sleep(0.01)
        await client.send("after")
        assert await recv(client) == "after"


@BOTH
async def test_the_clients_close_is_answered_with_its_code(stage: Stage) -> None:
    async with stage.connect("/echo") as client:
        await client.close(4002, "bye")
        assert await closed(client) == (4002, "bye")


@BOTH
async def test_the_backends_close_comes_with_code_and_reason(stage: Stage) -> None:
    async with stage.connect("/echo") as client:
        await client.send("close")
        with pytest.raises(ConnectionClosed):
            await recv(client)
        assert await closed(client) == (4001, "enough")


@on("relayed", "over_http")
async def test_a_burst_from_the_backend_arrives_whole_and_in_order(stage: Stage) -> None:
    async with stage.connect("/echo") as client:
        await client.send("burst")
        async with asyncio.timeout(TIMEOUT):
            assert [await client.recv() for _ in range(1000)] == [str(n) for n in range(1000)]


# Pushpin 1.36 loses reason and headers of a WebSocket backend's refusal
@on("relayed", pytest.param("over_http", marks=SHARED))
async def test_a_refusal_comes_with_its_headers_and_body(stage: Stage) -> None:
    with pytest.raises(InvalidStatus) as raised:
        async with stage.connect("/refused"):
            pass
    answer = raised.value.response
    assert (answer.status_code, answer.body) == (403, b"not you\n")
    assert answer.headers["X-Reason"] == "none"


async def test_a_large_message_comes_back_from_a_websocket_backend(relayed: Relayed) -> None:
    async with relayed.stage.connect("/echo", max_size=2 * LARGE) as client:
        message = bytes(range(250)) * (LARGE // 250)
        await client.send(message)
        assert await recv(client) == message


async def test_each_side_may_find_a_message_too_big(relayed: Relayed) -> None:
    async with relayed.stage.connect("/echo", max_size=1000) as client:
        end = await next_end(relayed)
        await client.send("x" * 2000)
        with pytest.raises(ConnectionClosed):
            await recv(client)
        assert (await closed(end))[0] == 1009
    async with relayed.stage.connect("/echo", max_size=None) as client:
        await client.send(b"x" * (3 * LARGE))
        with pytest.raises(ConnectionClosed):
            await recv(client)
        assert (await closed(client))[0] == 1009


@SHARED
async def test_a_websocket_backend_sees_the_close_and_its_code(relayed: Relayed) -> None:
    async with relayed.stage.connect("/echo") as client:
        end = await next_end(relayed)
        await client.close(4002, "bye")
        assert await closed(end) == (4002, "bye")


async def test_a_websocket_backends_own_pings_are_answered(relayed: Relayed) -> None:
    async with relayed.stage.connect("/echo"):
        end = await next_end(relayed)
        await asyncio.wait_for(await end.ping(b"content"), TIMEOUT)


async def test_messages_are_compressed_where_that_is_allowed(stages: dict[str, Stage]) -> None:
    async with stages["relayed"].connect("/echo") as client:
        assert client.response is not None
        assert "permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"]
        for message in ("again and " * 100, "again and " * 100, b"\x00" * 5000, ""):
            await client.send(message)
            assert await recv(client) == message
    async with stages["over_http"].connect("/echo") as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers


async def next_end(relayed: Relayed) -> ServerConnection:
    """The server's end of the connection that was just made."""
    async with asyncio.timeout(TIMEOUT):
        end = await relayed.accepted.get()
        while not relayed.accepted.empty():  # those of other tests came before
            end = relayed.accepted.get_nowait()
    return end


# -- aiohttp ---------------------------------------------------------------------------------------


@BOTH
async def test_aiohttps_client_exchanges_messages_and_closes(stage: Stage) -> None:
    async with (
        ClientSession() as session,
        session.ws_connect(f"{stage.url}/echo", protocols=OFFERED) as client,
    ):
        assert client.protocol == CHAT
        await client.send_str("Ünï")
        assert await client.receive_str(timeout=TIMEOUT) == "Ünï"
        await client.send_bytes(b"\x00\xff")
        assert await client.receive_bytes(timeout=TIMEOUT) == b"\x00\xff"
        await client.send_str("close")
        message = await client.receive(timeout=TIMEOUT)
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4001, "enough")
        assert client.close_code == 4001


@on("relayed", pytest.param("over_http", marks=SHARED))
async def test_aiohttps_heartbeat_is_answered(stage: Stage) -> None:
    async with (
        ClientSession() as session,
        session.ws_connect(f"{stage.url}/echo", autoping=False) as client,
    ):
        await client.ping(b"content")
        message = await client.receive(timeout=TIMEOUT)
        assert (message.type, message.data) == (WSMsgType.PONG, b"content")


async def test_aiohttps_client_with_compression(relayed: Relayed) -> None:
    async with (
        ClientSession() as session,
        session.ws_connect(f"{relayed.stage.url}/echo", compress=15) as client,
    ):
        assert client.compress
        for _ in range(2):
            await client.send_str("again and " * 100)
            assert await client.receive_str(timeout=TIMEOUT) == "again and " * 100
