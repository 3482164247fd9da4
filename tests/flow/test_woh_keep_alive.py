"""WebSocket-over-HTTP: what happens at the backend's Keep-Alive-Interval.

Twenty seconds is the least, so all the cases wait for it together, each on its own connection.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.sockets import OPEN, OVER_HTTP, over_http, text
from tests.support.client import connect
from tests.support.proxy import PUSHPIN
from tests.support.websocket import Event, WohBackend, accept, events, handshake, upgraded

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
LEAST = 20.0
LATE_SECONDS = 2.0


def every(seconds: int | str) -> dict[str, str]:
    return {"Keep-Alive-Interval": str(seconds)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*", OVER_HTTP) as it:
        yield it


async def next_after(backend: WohBackend, start: float) -> list[Event]:
    """The events of the next request, which must come twenty seconds after `start`."""
    got = await backend.next_events(LEAST + LATE_SECONDS + 1)
    assert LEAST - 0.1 <= time.monotonic() - start <= LEAST + LATE_SECONDS, backend.path
    return got


async def set_by_the_acceptance(stage: Stage, seconds: int) -> None:
    async with over_http(stage, accept(headers=every(seconds))) as (client, backend):
        backend.answers.append(events(("TEXT", "m:awake")))
        assert await next_after(backend, time.monotonic()) == []
        assert await client.read_text() == "awake"


async def set_later_and_begun_anew_by_a_message(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(events(headers=every(20)))
        await client.send_text("one")
        await backend.next()
        assert await client.is_silent(1)
        await client.send_text("two")
        # whose answer has no such field, which changes nothing
        assert await backend.next_events() == [text("two")]
        assert await next_after(backend, time.monotonic()) == []


async def ended_by(stage: Stage, value: str) -> None:
    async with over_http(stage, accept(headers=every(20))) as (client, backend):
        backend.answers.append(events(headers=every(value)))
        await client.send_text("one")
        await backend.next()
        assert await backend.is_silent(LEAST + 1)


async def an_opening_without_an_answer(stage: Stage) -> None:
    backend = WohBackend(stage.backend, "/woh/" + fresh("p"))
    backend.answers.append(events(headers=every(1)))
    async with connect(stage.proxy.port, timeout=LEAST + LATE_SECONDS) as client:
        await client.send(handshake(backend.path))
        assert await backend.next_events() == OPEN
        assert await next_after(backend, time.monotonic()) == OPEN
        await upgraded(client)


async def a_close_without_an_answer(stage: Stage) -> None:
    async with over_http(stage, accept(headers=every(20))) as (client, backend):
        backend.answers.append(events())
        await client.send_close(1000)
        close = await backend.next_events()
        assert await next_after(backend, time.monotonic()) == close
        assert await client.read_close() == (1000, b"")
        await client.wait_dropped()


async def a_part_that_was_not_accepted(stage: Stage) -> None:
    if PUSHPIN:  # since 1.41
        return
    async with over_http(stage, accept(headers=every(20))) as (client, backend):
        backend.answers.append(events(headers={"Content-Bytes-Accepted": "1"}))
        await client.send_text("abc")
        await backend.next()
        assert await next_after(backend, time.monotonic()) == [text("bc")]


async def an_opening_that_nobody_waits_for(stage: Stage) -> None:
    if PUSHPIN:  # which asks again and again
        return
    backend = WohBackend(stage.backend, "/woh/" + fresh("p"))
    backend.answers.append(events(headers=every(20)))
    async with connect(stage.proxy.port) as client:
        await client.send(handshake(backend.path))
        assert await backend.next_events() == OPEN
        assert await client.is_silent(0.1)
    assert await backend.is_silent(LEAST + 1)


CASES: list[Callable[[Stage], Coroutine[object, object, None]]] = [
    *(partial(set_by_the_acceptance, seconds=seconds) for seconds in (1, 19, 20)),
    set_later_and_begun_anew_by_a_message,
    *(partial(ended_by, value=value) for value in ("0", "-1", "never", "20.5")),
    an_opening_without_an_answer,
    an_opening_that_nobody_waits_for,
    a_close_without_an_answer,
    a_part_that_was_not_accepted,
]


@shared
async def test_the_interval(stage: Stage) -> None:
    async with asyncio.TaskGroup() as group:
        for case in CASES:
            group.create_task(case(stage))
