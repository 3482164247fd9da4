"""PyPI's django-grip, in the Django site of `django_site/` under Django's own server."""

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.clients.stage import Stage, serve_process
from tests.flow.holding import fresh
from tests.support.client import TIMEOUT, connect, encode_request, fetch, get

pytestmark = [pytest.mark.shared, pytest.mark.asyncio(loop_scope="module")]

SITE = [sys.executable, "-m", "tests.clients.django_site"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    database = tmp_path_factory.mktemp("django") / "events.sqlite3"
    async with serve_process(SITE, env={"EVENTS_DATABASE": str(database)}) as it:
        yield it


async def publish(stage: Stage, channel: str, text: str) -> None:
    answer = await fetch(stage.app_port, "POST", f"/publish?channel={channel}", (), text.encode())
    assert answer.body == b"published\n"


async def test_a_request_through_the_proxy_is_known_as_signed(stage: Stage) -> None:
    assert (await get(stage.proxy.port, "/grip")).body == b'{"proxied": true, "signed": true}'
    assert (await get(stage.app_port, "/grip")).body == b'{"proxied": false, "signed": false}'


async def test_a_websocket_echoes_text_and_bytes(stage: Stage) -> None:
    async with stage.connect("/websocket?channel=none") as socket:
        for message in ("text", "Ünï", "", b"\x00\xff", b""):
            await socket.send(message)
            assert await asyncio.wait_for(socket.recv(), TIMEOUT) == message


async def test_meta_and_the_connections_id_come_back_with_each_request(stage: Stage) -> None:
    async with stage.connect("/websocket?channel=none&user=Ann") as socket:
        answers = set()
        for _ in range(2):
            await socket.send("who")
            answers.add(await asyncio.wait_for(socket.recv(), TIMEOUT))
    assert len(answers) == 1
    assert str(answers.pop()).startswith("Ann by ")


async def test_the_view_answers_pings_among_messages(stage: Stage) -> None:
    async with stage.connect("/websocket?channel=none") as socket:
        pong = await socket.ping("content")
        await asyncio.wait_for(pong, TIMEOUT)
        await socket.send("after")
        assert await asyncio.wait_for(socket.recv(), TIMEOUT) == "after"


async def test_two_subscribers_get_what_is_published(stage: Stage) -> None:
    channel = fresh("ws")
    path = f"/websocket?channel={channel}"
    async with (
        stage.subscriber(path, channel) as first,
        stage.subscriber(path, channel, 2) as second,
    ):
        await publish(stage, channel, "Ünï")
        for socket in (first, second):
            assert await asyncio.wait_for(socket.recv(), TIMEOUT) == "Ünï"


async def test_a_close_comes_back_with_its_code(stage: Stage) -> None:
    async with stage.connect("/websocket?channel=none") as socket:
        await socket.close(4001)
        assert socket.close_code == 4001


async def test_an_ordinary_view_is_not_a_websocket(stage: Stage) -> None:
    answer = await fetch(stage.proxy.port, "POST", "/websocket", (), b"")
    assert (answer.status, answer.body) == (400, b"Request must contain WebSocket events.\n")


async def test_a_stream_and_a_long_poll_get_what_is_published(stage: Stage) -> None:
    channel = fresh("http")
    async with connect(stage.proxy.port) as stream, connect(stage.proxy.port) as poll:
        await stream.send(encode_request("GET", f"/stream?channel={channel}"))
        await poll.send(encode_request("GET", f"/poll?channel={channel}"))
        await stream.read_head()
        await stage.proxy.wait_subscribed(channel, 2)
        await publish(stage, channel, "Ünï")
        assert (await stream.read_until(b"\xaf\n")).decode() == "start\nÜnï\n"
        assert (await poll.read_response()).text == "Ünï\n"
