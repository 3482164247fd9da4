"""Publishing to WebSockets through ZeroMQ."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
import zmq.asyncio

from tests.flow import links
from tests.flow.holding import Stage, base64_text, fresh, open_stage
from tests.flow.links import link, subscribe
from tests.flow.peers import Publisher, json_frame, publisher, pusher, tnetstring
from tests.flow.sockets import message
from tests.support.websocket import BINARY, PING

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


class Inputs(NamedTuple):
    """A proxy with a peer at each of its inputs."""

    stage: Stage
    push: zmq.asyncio.Socket
    publisher: Publisher


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def inputs() -> AsyncIterator[Inputs]:
    async with (
        open_stage(*links.routes(), "*") as stage,
        pusher(stage.proxy.pull_spec) as push,
        publisher(connect=stage.proxy.sub_spec) as pub,
    ):
        yield Inputs(stage, push, pub)


@pytest.fixture
def stage(inputs: Inputs) -> Iterator[Stage]:
    yield inputs.stage
    inputs.stage.backend.reset()


@pytest.fixture(params=links.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of backend."""
    return str(request.param)


@shared
@pytest.mark.parametrize("mark", [b"J", b"T"])
async def test_pull_takes_messages_and_closes(inputs: Inputs, stage: Stage, mark: bytes) -> None:
    """In tnetstrings `content-bin` is bytes as they are."""
    c = fresh()
    raw: Any = base64_text(b"\0\xff") if mark == b"J" else b"\0\xff"

    async def push(item: Any) -> None:
        await inputs.push.send(json_frame(item) if mark == b"J" else mark + tnetstring(item))

    async with link(stage, "over-http", subscribe(c), subscribed=[c]) as it:
        await push(message(c, "grüße"))
        await push(message(c, content_bin=raw))
        await push({"channel": c, "ws-message": {"content-bin": raw, "type": "ping"}})
        await push(message(c, action="close", code=4000, reason="bye"))
        assert await it.client.read_text() == "grüße"
        assert await it.client.read_message() == (BINARY, b"\0\xff")
        frame = await it.client.read_frame()
        assert (frame.opcode, frame.payload) == (PING, b"\0\xff")
        assert await it.client.read_close() == (4000, b"bye")


@shared
async def test_content_of_a_tnetstring_is_bytes(inputs: Inputs, stage: Stage) -> None:
    c = fresh()
    async with link(stage, "over-http", subscribe(c), subscribed=[c]) as it:
        item = {"channel": c, "ws-message": {"content": b"\xff", "type": "binary"}}
        await inputs.push.send(tnetstring(item))
        assert await it.client.read_message() == (BINARY, b"\xff")


@shared
async def test_sub_takes_messages_for_its_topic(inputs: Inputs, stage: Stage, kind: str) -> None:
    c = fresh()
    async with link(stage, kind, subscribe(c), subscribed=[c]) as it:
        await inputs.publisher.wait(True, c)
        await inputs.publisher.send(c.encode(), json_frame(message(c, "1")))
        await inputs.publisher.send(c.encode(), tnetstring(message(fresh(), "2")))
        await inputs.publisher.send(c.encode(), tnetstring(message(c, action="close")))
        assert [await it.client.read_text() for _ in range(2)] == ["1", "2"]
        assert await it.client.read_close() == (1000, b"")


@shared
@pytest.mark.parametrize("how", ["unsubscribed", "closed", "left", "published close"])
async def test_publishers_see_when_nobody_listens_any_more(
    inputs: Inputs, stage: Stage, kind: str, how: str
) -> None:
    c = fresh()
    async with link(stage, kind, subscribe(c), subscribed=[c]) as it:
        await inputs.publisher.wait(True, c)
        match how:
            case "unsubscribed":
                await it.tell(links.unsubscribe(c))
            case "closed":
                await it.client.send_close(1000)
                await it.backend_close()
                assert await it.client.read_close() == (1000, b"")
            case "left":
                it.client.abort()
            case _:
                await stage.proxy.publish(message(c, action="close"))
                await it.client.read_close()
                await it.backend_close()
                await it.client.send_close(1000)
        await inputs.publisher.wait(False, c)
    assert inputs.publisher.about(c) == [True, False]
