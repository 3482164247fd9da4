"""Detaching: a backend leaves its client to the proxy."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow import links
from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.links import detach, link, subscribe, unsubscribe
from tests.flow.sockets import message, over_http, receive_events, relayed, text
from tests.support.backend import response
from tests.support.websocket import PING, TEXT, Event, events

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage(*links.routes(), "*") as it:
        yield it


@pytest.fixture(params=links.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of backend."""
    return str(request.param)


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


@shared
async def test_a_detached_client_stays_without_its_backend(stage: Stage, kind: str) -> None:
    c = fresh()
    async with link(stage, kind, subscribe(c), subscribed=[c]) as it:
        await it.tell(detach())
        assert await it.backend_close() == (None, b"")
        await it.client.send_text("for nobody")
        await it.client.send(PING, b"for nobody")
        await stage.proxy.publish(message(c, "1"))
        assert await it.client.read_text() == "1"
        await stage.proxy.publish(message(c, "2"))
        assert await it.client.read_text() == "2"
        await it.client.send_close(4000, b"whatever")
        assert await it.client.read_close() == (1000, b"")
        await it.client.wait_dropped()


@shared
async def test_what_the_client_sent_before_the_detachment_comes_first(stage: Stage) -> None:
    async with over_http(stage, base="/over-http") as (client, backend):
        answer = backend.hold()
        await client.send_text("1")
        assert await backend.next_events() == [text("1")]
        await client.send_text("2")
        await client.send(PING)
        await stage.ask(response())  # that takes the same way, so the proxy has them now
        answer.set_result(events(detach()))
        got = [text("2"), Event("PING"), Event("CLOSE")]
        assert await receive_events(backend, 3) == got


@shared
async def test_a_backend_that_is_detached_hears_nothing_more(stage: Stage, kind: str) -> None:
    async with link(stage, kind) as it:
        await it.tell(detach())
        assert await it.backend_close() == (None, b"")
        await it.client.send_text("for nobody")
        it.client.abort()
        if kind == "over-http":
            assert await it.backend_is_silent(0.2)
        else:
            assert await it.next_event() == Event("DISCONNECT")  # the end of the connection


@shared
async def test_a_detached_client_is_closed_by_a_publish(stage: Stage, kind: str) -> None:
    c = fresh()
    async with link(stage, kind, subscribe(c), subscribed=[c]) as it:
        await it.tell(detach())
        assert await it.backend_close() == (None, b"")
        if kind == "relay":
            assert await it.next_event() == Event("DISCONNECT")
        await stage.proxy.publish(message(c, action="close", code=4000, reason="bye"))
        assert await it.client.read_close() == (4000, b"bye")
        await it.client.send_close(4000)
        await it.client.wait_dropped()


@pytest.mark.parametrize("kind", [pytest.param("over-http", marks=shared), "relay"])
async def test_what_comes_with_a_detachment_and_behind_it_still_counts(
    stage: Stage, kind: str
) -> None:
    """From a WebSocket backend Pushpin 1.36 takes most of it, as far as it is fast enough."""
    c, d = fresh(), fresh()
    behind = [Event("TEXT", b"m:two"), subscribe(c), unsubscribe(d)]
    opening = [subscribe(d), Event("TEXT", b"m:one"), detach(), *behind]
    async with link(stage, kind, *opening, subscribed=[c]) as it:
        assert [await it.client.read_text() for _ in range(2)] == ["one", "two"]
        assert await it.backend_close() == (None, b"")
        await stage.proxy.publish(message(d, "bad"), message(c, "good"))
        assert await it.client.read_text() == "good"


@pytest.mark.parametrize("closes", ["client", "publisher"])
async def test_a_detached_client_need_not_wait_for_the_backend_to_close(
    stage: Stage, closes: str
) -> None:
    """From Pushpin 1.36 it has no answer until then."""
    c = fresh()
    async with relayed(stage) as (client, backend):
        for told in (subscribe(c), detach()):
            await backend.send(TEXT, told.content or b"")
        assert await backend.read_close() == (None, b"")
        if closes == "client":
            await client.send_close(4000)
            assert await client.read_close() == (1000, b"")
        else:
            await stage.proxy.publish(message(c, action="close", code=4000))
            assert await client.read_close() == (4000, b"")
