"""WebSocket-over-HTTP: a backend that fails under a request.

The first wait is of one to two seconds; further ones, and the end of them, are tested as a unit.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import jwt
import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.sockets import DISCONNECT, OVER_HTTP, over_http, text
from tests.support.backend import Exchange, Request, response, start_backend
from tests.support.proxy import PUSHPIN, free_ports, start_proxy
from tests.support.websocket import EVENTS_TYPE, Socket, WohBackend, events, open_socket

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning"),
]
shared = pytest.mark.shared
KEY = "changeme"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*", OVER_HTTP) as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


def is_signed(request: Request) -> bool:
    """Whether its Grip-Sig is valid and not much older than the request."""
    claims = jwt.decode(request.header("grip-sig") or "", KEY, algorithms=["HS256"])
    return bool(time.time() + 3580 < claims["exp"])


@shared
async def test_a_backend_that_comes_back_misses_nothing() -> None:
    """While it is down one client sends, one closes, one leaves, and one sends and leaves."""
    names = ("sends", "closes", "leaves", "sends and leaves")
    paths = {name: "/" + fresh("p") for name in names}
    [port] = free_ports(1)
    async with contextlib.AsyncExitStack() as stack:
        routes = f"* 127.0.0.1:{port},over_http"
        proxy = await stack.enter_async_context(start_proxy(routes, proxy={"sig_key": KEY}))
        clients: dict[str, Socket] = {}
        async with start_backend(port=port) as before:
            for name, path in paths.items():
                backend = WohBackend(before, path)
                client = await stack.enter_async_context(open_socket(proxy.port, path))
                clients[name] = client
                await backend.next()
        await clients["sends"].send_text("one")
        await clients["sends and leaves"].send_text("one")
        await clients["closes"].send_close(1000)
        clients["leaves"].abort()
        start = time.monotonic()
        # nothing is given up; and what comes now does not join what has failed
        assert await clients["sends"].is_silent(0.4)
        await clients["sends"].send_text("two")
        clients["sends and leaves"].abort()
        async with start_backend(port=port) as after:
            again = {name: WohBackend(after, path) for name, path in paths.items()}

            async def first(name: str) -> tuple[float, list[object]]:
                request, got = await again[name].next()
                assert is_signed(request)
                return time.monotonic() - start, list(got)

            seconds, got = await first("sends")
            assert 0.95 <= seconds < 3
            assert got == [text("one")]
            assert await again["sends"].next_events() == [text("two")]
            seconds, got = await first("closes")
            assert 0.95 <= seconds < 3
            assert got == [("CLOSE", b"\x03\xe8")]
            assert await clients["closes"].read_close() == (1000, b"")
            seconds, got = await first("leaves")
            assert 0.95 <= seconds < 3
            assert got == DISCONNECT
            seconds, got = await first("sends and leaves")
            assert got == [text("one")]
            assert await again["sends and leaves"].next_events() == DISCONNECT


def abort(exchange: Exchange) -> None:
    exchange.abort()


@shared
async def test_a_reused_connection_that_dies_is_replaced_at_once(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers += [abort, events(("TEXT", "m:here"))]
        start = time.monotonic()
        await client.send_text("hello")
        first, got = await backend.next()
        second, again = await backend.next()
        assert got == again == [text("hello")]
        assert first.connection != second.connection
        assert await client.read_text() == "here"
        assert time.monotonic() - start < 0.9


@shared
async def test_a_request_that_was_sent_whole_is_not_repeated(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers += [abort] * 10
        start = time.monotonic()
        await client.send_text("hello")
        # on new connections, once those that are kept for reuse are used up
        await client.wait_dropped()
        assert time.monotonic() - start < 0.9
        if not PUSHPIN:  # which tries every connection that it has kept
            assert len(await stage.requests_for(backend.path, 3)) == 3


@shared
@pytest.mark.parametrize("status", [408, 500, 502, 503])
async def test_a_response_is_never_repeated(stage: Stage, status: int) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(response(status, {"Content-Type": EVENTS_TYPE, "Retry-After": "0"}))
        await client.send_text("hello")
        await backend.next()
        await client.wait_dropped()
        assert await backend.is_silent(0.1)


@shared
async def test_a_response_that_is_cut_is_not_repeated(stage: Stage) -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.write(events(("TEXT", "m:hello"))[:-4])
        exchange.close()

    async with over_http(stage) as (client, backend):
        backend.answers.append(cut)
        await client.send_text("hello")
        await backend.next()
        await client.wait_dropped()
        assert await backend.is_silent(0.1)
