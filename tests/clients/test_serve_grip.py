"""npm's @fanoutio/grip and @fanoutio/serve-grip, in the Express application of `node/app.js`."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from tests.clients.packages import install_npm
from tests.clients.stage import Stage, serve_process
from tests.conftest import require
from tests.flow.holding import fresh
from tests.support.client import TIMEOUT, connect, encode_request, fetch, get

pytestmark = [pytest.mark.shared, pytest.mark.asyncio(loop_scope="module")]

NODE = Path(__file__).with_name("node")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    node = require("node")
    modules = await asyncio.to_thread(install_npm, pytestconfig, NODE)
    folder = tmp_path_factory.mktemp("node")
    for name in ("app.js", "package.json"):
        shutil.copy(NODE / name, folder)
    (folder / "node_modules").symlink_to(modules)
    async with serve_process([node, str(folder / "app.js")], env={"NODE_ENV": "production"}) as it:
        yield it


async def publish(stage: Stage, channel: str, message: str, more: str = "") -> None:
    target = f"/publish?channel={channel}{more}"
    headers = {"Content-Type": "text/plain"}
    answer = await fetch(stage.app_port, "POST", target, headers, message.encode())
    assert answer.body == b"published\n"


async def test_a_request_through_the_proxy_is_known_as_signed(stage: Stage) -> None:
    assert (await get(stage.proxy.port, "/grip")).body == b'{"isProxied":true,"isSigned":true}'
    assert (await get(stage.app_port, "/grip")).body == b'{"isProxied":false,"isSigned":false}'


async def test_a_websocket_echoes_text_and_bytes(stage: Stage) -> None:
    async with stage.connect("/websocket?channel=none") as socket:
        for message in ("text", "Ünï", "", b"\x00\xff", b""):
            await socket.send(message)
            assert await asyncio.wait_for(socket.recv(), TIMEOUT) == message


async def test_many_messages_come_back_in_order(stage: Stage) -> None:
    async with stage.connect("/websocket?channel=none") as socket:
        messages = [str(n) for n in range(200)]
        for message in messages:
            await socket.send(message)
        async with asyncio.timeout(TIMEOUT):
            assert [await socket.recv() for _ in messages] == messages


async def test_meta_and_the_connections_id_come_back_with_each_request(stage: Stage) -> None:
    async with stage.connect("/websocket?channel=none&user=Ann") as socket:
        answers = set()
        for _ in range(2):
            await socket.send("who")
            answers.add(await asyncio.wait_for(socket.recv(), TIMEOUT))
    assert len(answers) == 1
    assert str(answers.pop()).startswith("Ann by ")


async def test_two_subscribers_get_what_the_publisher_publishes(stage: Stage) -> None:
    channel = fresh("ws")
    path = f"/websocket?channel={channel}"
    async with (
        stage.subscriber(path, channel) as first,
        stage.subscriber(path, channel, 2) as second,
    ):
        await publish(stage, channel, "Ünï")
        await publish(stage, channel, "bytes", "&binary=1")
        async with asyncio.timeout(TIMEOUT):
            for socket in (first, second):
                assert [await socket.recv(), await socket.recv()] == ["Ünï", b"bytes"]


async def test_closes_of_either_side_have_their_codes(stage: Stage) -> None:
    channel = fresh("ws")
    path = f"/websocket?channel={channel}"
    async with stage.subscriber(path, channel) as socket:
        assert (await fetch(stage.app_port, "POST", f"/close?channel={channel}&code=4001")).body
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), TIMEOUT)
        assert socket.close_code == 4001
    async with stage.connect(path) as socket:
        await socket.close(4002)
        assert socket.close_code == 4002


async def test_a_stream_and_a_long_poll_get_what_the_publisher_publishes(stage: Stage) -> None:
    channel = fresh("http")
    async with connect(stage.proxy.port) as stream, connect(stage.proxy.port) as poll:
        await stream.send(encode_request("GET", f"/events?channel={channel}"))
        await poll.send(encode_request("GET", f"/poll?channel={channel}"))
        assert (await stream.read_head()).header("content-type") == "text/event-stream"
        await stage.proxy.wait_subscribed(channel, 2)
        await publish(stage, channel, "Ünï")
        assert (await stream.read_until(b"\xaf\n\n")).decode() == (
            "event: open\ndata:\n\ndata: Ünï\n\n"
        )
        answer = await poll.read_response()
    assert (answer.status, answer.text, answer.header("x-by")) == (201, "Ünï\n", "serve-grip")
