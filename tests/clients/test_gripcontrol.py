"""PyPI's gripcontrol and pubcontrol: publishing, signatures, and a backend written with them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import zmq
from aiohttp import web
from gripcontrol import (  # type: ignore[import-untyped]
    Channel,
    GripPubControl,
    HttpResponseFormat,
    HttpStreamFormat,
    Response,
    WebSocketEvent,
    WebSocketMessageFormat,
    create_grip_channel_header,
    create_hold_response,
    create_hold_stream,
    decode_websocket_events,
    encode_websocket_events,
    validate_sig,
    websocket_control_message,
)
from pubcontrol import Item, ZmqPubControlClient  # type: ignore[import-untyped]
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.clients.stage import ISSUER, KEY, Stage, serve_app
from tests.flow.holding import fresh
from tests.support.client import TIMEOUT, Client, connect, encode_request, get
from tests.support.proxy import PUSHPIN

pytestmark = [
    pytest.mark.shared,
    pytest.mark.asyncio(loop_scope="module"),
    # since Python 3.12 validate_sig is warned about utcnow
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),
]


# -- a backend -------------------------------------------------------------------------------------


async def websocket(request: web.Request) -> web.Response:
    """Accept and subscribe to `?channel=`; echo; answer a close with the same code."""
    out = []
    headers = {}
    for event in decode_websocket_events(await request.read()):
        if event.type == "OPEN":
            subscribe = websocket_control_message(
                "subscribe", {"channel": request.query["channel"]}
            )
            out += [WebSocketEvent("OPEN"), WebSocketEvent("TEXT", "c:" + subscribe)]
            headers = {"Sec-WebSocket-Extensions": "grip", "Set-Meta-Seen": "1"}
        elif event.type in ("TEXT", "BINARY"):
            out.append(WebSocketEvent(event.type, b"m:" + (event.content or b"")))
        elif event.type == "CLOSE":
            out.append(event)
    return web.Response(
        body=encode_websocket_events(out),
        headers={"Content-Type": "application/websocket-events", **headers},
    )


async def events(request: web.Request) -> web.Response:
    """A stream, by headers."""
    channel = create_grip_channel_header([Channel(request.query["channel"])])
    return web.Response(text="start\n", headers={"Grip-Hold": "stream", "Grip-Channel": channel})


async def instructed(request: web.Request) -> web.Response:
    """A hold by a JSON instruction: a long-poll of `?timeout=` seconds, else a stream."""
    channel, timeout = request.query["channel"], request.query.get("timeout")
    if timeout is None:
        body = create_hold_stream(channel, Response(headers={"X-By": "instruct"}, body="start\n"))
    else:
        body = create_hold_response(
            Channel(channel), Response(code=202, reason="Wait", body="none\n"), int(timeout)
        )
    return web.Response(text=body, content_type="application/grip-instruct")


async def signature(request: web.Request) -> web.Response:
    """Whether the proxy's signature is good, for the right key and issuer and for wrong ones."""
    token = request.headers["Grip-Sig"]
    return web.json_response(
        [validate_sig(token, k, i) for k, i in ((KEY, ISSUER), (KEY[::-1], ISSUER), (KEY, "else"))]
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    app = web.Application()
    app.router.add_post("/websocket", websocket)
    app.router.add_get("/events", events)
    app.router.add_get("/instructed", instructed)
    app.router.add_get("/signature", signature)
    async with serve_app(app) as stage:
        yield stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def publisher(stage: Stage) -> AsyncIterator[GripPubControl]:
    """A GripPubControl that publishes by HTTP, with a token as for a service that wants one."""
    config = {"control_uri": stage.control_uri, "control_iss": ISSUER, "key": KEY}
    with zmq.Context() as context:
        it = GripPubControl(config, zmq_context=context)
        yield it
        await asyncio.to_thread(it.close)


@contextlib.asynccontextmanager
async def zmq_client(uri: str | None, **options: Any) -> AsyncIterator[ZmqPubControlClient]:
    """A ZmqPubControlClient; publishing comes to it in threads of its own."""
    with zmq.Context() as context:
        client = ZmqPubControlClient(uri, context=context, **options)
        try:
            yield client
        finally:
            await asyncio.to_thread(client.close)


async def blocking(publish: Callable[..., None], channel: str, message: object) -> None:
    """Publish as these libraries do: the call returns when the proxy has taken the message."""
    await asyncio.to_thread(publish, channel, message, blocking=True)


async def recv(socket: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(socket.recv(), TIMEOUT)


@contextlib.asynccontextmanager
async def held(stage: Stage, path: str, channel: str, count: int = 1) -> AsyncIterator[Client]:
    async with connect(stage.proxy.port) as client:
        await client.send(encode_request("GET", f"{path}channel={channel}"))
        await stage.proxy.wait_subscribed(channel, count)
        yield client


# -- holds -----------------------------------------------------------------------------------------


async def test_a_signature_is_good_for_its_key_and_issuer_alone(stage: Stage) -> None:
    answer = await get(stage.proxy.port, "/signature")
    assert answer.body == b"[true, false, false]"


async def test_a_stream_held_by_headers_gets_what_is_published(
    stage: Stage, publisher: GripPubControl
) -> None:
    channel = fresh("stream")
    async with held(stage, "/events?", channel) as client:
        await client.read_head()
        for content in ("text\n", HttpStreamFormat("Ünï\n"), HttpStreamFormat(b"\xff\n")):
            await blocking(publisher.publish_http_stream, channel, content)
        assert await client.read_until(b"\xff\n") == "start\ntext\nÜnï\n".encode() + b"\xff\n"
        await blocking(publisher.publish_http_stream, channel, HttpStreamFormat(close=True))
        assert await client.read_rest() == b""


async def test_a_stream_held_by_an_instruction_gets_what_is_published(
    stage: Stage, publisher: GripPubControl
) -> None:
    channel = fresh("stream")
    async with held(stage, "/instructed?", channel) as client:
        assert (await client.read_head()).header("x-by") == "instruct"
        await blocking(publisher.publish_http_stream, channel, "more\n")
        assert await client.read_until(b"more\n") == b"start\nmore\n"


async def test_a_long_poll_held_by_an_instruction_is_answered_by_a_publish(
    stage: Stage, publisher: GripPubControl
) -> None:
    channel = fresh("poll")
    async with held(stage, "/instructed?timeout=30&", channel) as client:
        answer = HttpResponseFormat(201, "Made", {"X-By": "publish"}, "body\n")
        await blocking(publisher.publish_http_response, channel, answer)
        response = await client.read_response()
    assert (response.status, response.reason, response.body) == (201, "Made", b"body\n")
    assert response.header("x-by") == "publish"


# -- publishing ------------------------------------------------------------------------------------


async def test_a_publish_that_does_not_block_reports_its_success(
    stage: Stage, publisher: GripPubControl
) -> None:
    channel = fresh("stream")
    async with held(stage, "/events?", channel) as client:
        await client.read_head()
        loop = asyncio.get_running_loop()
        reported: asyncio.Future[bool] = loop.create_future()

        def report(success: bool, _: str | None) -> None:
            loop.call_soon_threadsafe(reported.set_result, success)

        item = Item(HttpStreamFormat("later\n"), id="1", meta={"sender": "me"})
        publisher.publish(channel, item, callback=report)
        assert await asyncio.wait_for(reported, TIMEOUT) is True
        assert await client.read_until(b"later\n") == b"start\nlater\n"


async def test_a_publish_that_is_refused_raises(publisher: GripPubControl) -> None:
    item = Item(WebSocketMessageFormat(action="no-such"))
    with pytest.raises(ValueError, match=r"failed status code 400 .*Invalid format"):
        await blocking(publisher.publish, "any", item)


async def test_one_item_has_a_format_for_each_kind_of_client(
    stage: Stage, publisher: GripPubControl
) -> None:
    channel = fresh("all")
    async with (
        held(stage, "/events?", channel) as stream,
        held(stage, "/instructed?timeout=30&", channel, 2) as poll,
        stage.subscriber(f"/websocket?channel={channel}", channel, 3) as socket,
    ):
        formats = [
            HttpStreamFormat("s\n"),
            HttpResponseFormat(body="r"),
            WebSocketMessageFormat("w"),
        ]
        await blocking(publisher.publish, channel, Item(formats))
        await stream.read_head()
        assert await stream.read_until(b"s\n") == b"start\ns\n"
        assert (await poll.read_response()).body == b"r"
        assert await recv(socket) == "w"


async def test_zeromq_by_push(stage: Stage) -> None:
    async with zmq_client(None, push_uri=stage.proxy.pull_spec) as publisher:
        await receive_one_of_each(stage, publisher)


@pytest.mark.xfail(not PUSHPIN, reason="no command port yet", strict=True)
async def test_zeromq_by_push_after_asking_the_command_port(stage: Stage) -> None:
    async with zmq_client(stage.proxy.command_spec) as publisher:
        await receive_one_of_each(stage, publisher)


async def test_zeromq_by_pub_sees_who_subscribes(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    notices: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def notice(kind: str, channel: str) -> None:
        loop.call_soon_threadsafe(notices.put_nowait, (kind, channel))

    async with zmq_client(
        None, pub_uri=stage.proxy.sub_spec, require_subscribers=True, sub_callback=notice
    ) as publisher:
        channel = await receive_one_of_each(stage, publisher, notices)
        async with asyncio.timeout(TIMEOUT):
            while await notices.get() != ("unsub", channel):
                pass


async def receive_one_of_each(
    stage: Stage,
    publisher: ZmqPubControlClient,
    notices: asyncio.Queue[tuple[str, str]] | None = None,
) -> str:
    """Publish to a stream and to a WebSocket; returns their channel."""
    channel = fresh("zmq")
    async with (
        held(stage, "/events?", channel) as stream,
        stage.subscriber(f"/websocket?channel={channel}", channel, 2) as socket,
    ):
        if notices is not None:
            async with asyncio.timeout(TIMEOUT):
                while await notices.get() != ("sub", channel):
                    pass
        item = Item([HttpStreamFormat("Ünï\n"), WebSocketMessageFormat("Ünï")])
        await blocking(publisher.publish, channel, item)
        await stream.read_head()
        assert (await stream.read_until(b"\xaf\n")).decode() == "start\nÜnï\n"
        assert await recv(socket) == "Ünï"
    return channel


# -- WebSockets ------------------------------------------------------------------------------------


async def test_the_backend_echoes_text_and_bytes(stage: Stage) -> None:
    async with stage.connect("/websocket?channel=none") as socket:
        for message in ("text", "Ünï", "", b"\x00\xff", b""):
            await socket.send(message)
            assert await recv(socket) == message


async def test_every_kind_of_message_is_published_to_a_socket(
    stage: Stage, publisher: GripPubControl
) -> None:
    channel = fresh("ws")
    async with stage.subscriber(f"/websocket?channel={channel}", channel) as socket:
        for message in (
            WebSocketMessageFormat("text"),
            WebSocketMessageFormat(b"\xff", binary=True),
        ):
            await blocking(publisher.publish, channel, Item(message))
        assert [await recv(socket), await recv(socket)] == ["text", b"\xff"]
        close = WebSocketMessageFormat(action="close", code=4001, reason="enough")
        await blocking(publisher.publish, channel, Item(close))
        with pytest.raises(ConnectionClosed):
            await recv(socket)
        assert (socket.close_code, socket.close_reason) == (4001, "enough")


async def test_a_close_comes_back_with_its_code(stage: Stage) -> None:
    async with stage.connect("/websocket?channel=none") as socket:
        await socket.close(4002, "bye")
        assert socket.protocol.close_rcvd is not None
        assert (socket.close_code, socket.close_reason) == (4002, "bye")
