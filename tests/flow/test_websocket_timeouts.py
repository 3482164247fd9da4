"""Clients and backends that say nothing, or do not go: how long a WebSocket waits for them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow import links
from tests.flow.holding import BAD_ORIGIN, Stage, fresh, open_stage
from tests.flow.links import link, subscribe
from tests.flow.sockets import DISCONNECT, OPEN, message, receive_events, text
from tests.support.backend import Exchange, response
from tests.support.client import connect, get
from tests.support.websocket import WohBackend, handshake, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONNECTIONS = 2  # to the backend, at most


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    conditions = [*links.routes(), "*,path_beg=/woh -> over_http", "*,path_beg=/page"]
    runner = {"client_inactivity_timeout": 1, "ws_close_timeout": 0.5}
    async with open_stage(*conditions, runner=runner, proxy={"backend_maxconn": CONNECTIONS}) as it:
        yield it


@pytest.fixture(params=links.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of backend."""
    return str(request.param)


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


async def test_a_backend_that_does_not_answer_the_handshake() -> None:
    """It may be silent afterwards."""
    path = fresh("p")

    async def say_nothing(exchange: Exchange) -> None:
        await exchange.wait_closed()

    async with (
        open_stage(*links.routes(), proxy={"backend_response_timeout": 0.5}) as stage,
        link(stage, "relay") as it,
    ):
        for kind in links.KINDS:
            stage.backend.on(f"/{kind}/{path}", say_nothing, stream=True)
        port = stage.proxy.port
        for r in await asyncio.gather(*[refused(port, f"/{kind}/{path}") for kind in links.KINDS]):
            assert (r.status, r.body) == (502, BAD_ORIGIN)
        for kind in links.KINDS:
            warning = rf"\[WARN\].* ws://localhost/{kind}/{path}: no response in time$"
            await stage.proxy.wait_log(warning)
        await it.client.send_text("still here")
        assert await it.next_event() == text("still here")


async def test_a_client_that_is_silent_and_is_sent_nothing_is_dropped(
    stage: Stage, kind: str
) -> None:
    c = fresh()
    async with link(stage, kind, subscribe(c), subscribed=[c]) as busy, link(stage, kind) as idle:
        dropped = asyncio.create_task(idle.client.wait_dropped())
        published = 0
        while not (await asyncio.wait([dropped], timeout=0.3))[0]:
            await stage.proxy.publish(message(c, "news"))
            assert await busy.client.read_text() == "news"
            published += 1
        await dropped
        assert published > 1
        assert await idle.next_event() == ("DISCONNECT", None)
        await busy.client.send_text("still here")
        assert await busy.next_event() == text("still here")


async def test_a_client_that_leaves_does_not_keep_its_backends_connection(stage: Stage) -> None:
    """Those who still wait for one are given up at once, the others soon: the backend is told."""
    woh = WohBackend(stage.backend, "/woh/" + fresh("p"))
    stage.backend.on("/page", response(body=b"page"))
    for _ in range(CONNECTIONS):
        woh.hold()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2 * CONNECTIONS):
            client = await stack.enter_async_context(connect(stage.proxy.port))
            stack.callback(client.abort)
            await client.send(handshake(woh.path))
        for _ in range(CONNECTIONS):
            assert await woh.next_events() == OPEN
        assert (await get(stage.proxy.port, "/nowhere")).status == 502  # all were read by now
    assert (await get(stage.proxy.port, "/page")).body == b"page"
    assert await receive_events(woh, CONNECTIONS) == DISCONNECT * CONNECTIONS
    assert await woh.is_silent(0.1)
