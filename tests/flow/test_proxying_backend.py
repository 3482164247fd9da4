"""Connections to backends: reuse, retry, failover, limits in number and in time."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import pytest_asyncio

from tests.support.backend import Backend, Exchange, response, start_backend
from tests.support.client import Response, Truncated, connect, fetch, get
from tests.support.proxy import Proxy, free_ports, start_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
FAILED = b"Error while proxying to origin.\n"


class Stage:
    """A proxy with one backend for every path, and a second one behind some."""

    def __init__(self, backend: Backend, second: Backend, proxy: Proxy) -> None:
        self.backend, self.second, self.proxy = backend, second, proxy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Stage]:
    async with start_backend() as backend, start_backend() as second:
        (nobody,) = free_ports(1)
        routes = [
            f"* {backend.address}",
            f"*,path_beg=/fallback 127.0.0.1:{nobody} {second.address}",
            f"*,path_beg=/both {backend.address} {second.address}",
            f"*,path_beg=/no-such-name no-such-name.invalid:80 {second.address}",
        ]
        async with start_proxy(routes) as proxy:
            yield Stage(backend, second, proxy)


@pytest.fixture
def stage(running: Stage) -> Stage:
    for backend in (running.backend, running.second):
        backend.reset()
    running.backend.on("*", response(200, {}, b"first"))
    running.second.on("*", response(200, {}, b"second"))
    return running


# -- reuse ---------------------------------------------------------------------


@shared
async def test_connection_to_the_backend_serves_request_after_request(stage: Stage) -> None:
    for _ in range(3):
        assert (await get(stage.proxy.port)).body == b"first"
    assert len({r.connection for r in stage.backend.requests}) == 1


@shared
@pytest.mark.parametrize("raw", [
    response(200, {"Connection": "close"}, b"x"),
    response(200, {}, b"x", length=False),
    response(200, {}, b"x", version="HTTP/1.0"),
], ids=["close", "no length", "http 1.0"])  # fmt: skip
async def test_connection_that_the_backend_will_close_is_not_used_again(
    stage: Stage, raw: bytes
) -> None:
    async def answer_and_wait(ex: Exchange) -> None:
        await ex.write(raw)
        if b"Length" in raw:
            await ex.wait_closed()
        ex.close()

    stage.backend.on("/last", answer_and_wait)
    assert (await get(stage.proxy.port, "/last")).body == b"x"
    assert (await get(stage.proxy.port)).body == b"first"
    first, second = stage.backend.requests
    assert first.connection != second.connection


@shared
async def test_answer_after_that_to_a_head_is_read_right(stage: Stage) -> None:
    stage.backend.on("/head", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    for _ in range(2):
        assert (await fetch(stage.proxy.port, "HEAD", "/head")).header("content-length") == "5000"
        assert (await get(stage.proxy.port)).body == b"first"
    assert len({r.connection for r in stage.backend.requests}) == 1


@shared
async def test_connection_that_the_backend_closed_while_idle_is_replaced(stage: Stage) -> None:
    for _ in range(5):
        assert (await fetch(stage.proxy.port, "POST", body=b"x")).body == b"first"
        stage.backend.close_connections()
        await stage.backend.wait_connections(0)


def die_on_reuse(ex: Exchange) -> bytes | None:
    """Answer the first request of a connection; close without a byte on the next."""
    if ex.request.target == "/warm":
        return response(200, {}, b"warm")
    seen = getattr(ex.writer, "seen", False)
    if not seen and ex.request.connection in warm:
        ex.close()
        return None
    return response(200, {}, b"answered")


warm: set[int] = set()


async def warm_up(stage: Stage) -> None:
    """Leave an idle connection that closes on its next request."""
    stage.backend.on("*", die_on_reuse)
    await get(stage.proxy.port, "/warm")
    warm.add(stage.backend.requests[-1].connection)


@shared
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_safe_request_is_sent_again_when_a_reused_connection_dies_without_a_byte(
    stage: Stage, method: str
) -> None:
    await warm_up(stage)
    assert (await fetch(stage.proxy.port, method, "/again")).status == 200
    assert [r.target for r in stage.backend.requests] == ["/warm", "/again", "/again"]


async def test_post_is_not_sent_again_when_a_reused_connection_dies(stage: Stage) -> None:
    await warm_up(stage)
    r = await fetch(stage.proxy.port, "POST", "/once", body=b"x")
    assert (r.status, r.body) == (502, FAILED)
    assert [r.target for r in stage.backend.requests] == ["/warm", "/once"]


async def test_a_request_is_sent_again_only_once(stage: Stage) -> None:
    def always_die(ex: Exchange) -> None:
        ex.close()

    await get(stage.proxy.port, "/warm")
    stage.backend.on("/again", always_die)
    assert (await get(stage.proxy.port, "/again")).status == 502
    assert [r.target for r in stage.backend.requests] == ["/warm", "/again", "/again"]


@shared
async def test_new_connection_that_dies_without_a_byte_is_a_502(stage: Stage) -> None:
    stage.backend.close_connections()
    await stage.backend.wait_connections(0)
    stage.backend.on("/both", lambda ex: ex.close())
    r = await fetch(stage.proxy.port, "POST", "/both", body=b"x")
    assert (r.status, r.body) == (502, FAILED)
    assert stage.second.requests == []


# -- failover ------------------------------------------------------------------


@shared
async def test_next_target_is_used_when_one_refuses(stage: Stage) -> None:
    for _ in range(2):
        assert (await get(stage.proxy.port, "/fallback")).body == b"second"


@shared
async def test_body_reaches_the_next_target(stage: Stage) -> None:
    stage.second.on("*", lambda ex: response(200, {}, ex.request.body))
    r = await fetch(stage.proxy.port, "POST", "/fallback", body=b"the body")
    assert r.body == b"the body"


async def test_long_body_reaches_the_next_target_whole(stage: Stage) -> None:
    stage.second.on("*", lambda ex: response(200, {}, b"%d" % len(ex.request.body)))
    r = await fetch(stage.proxy.port, "POST", "/fallback", body=bytes(300_000))
    assert r.body == b"300000"


@shared
async def test_first_target_is_tried_first_every_time(stage: Stage) -> None:
    for _ in range(3):
        assert (await get(stage.proxy.port, "/both")).body == b"first"
    assert stage.second.requests == []


@shared
@pytest.mark.parametrize("raw", [
    response(500, {}, b"mine"), response(503, {}, b"mine"), response(502, {}, b"mine"),
])  # fmt: skip
async def test_error_status_is_an_answer_like_any_other(stage: Stage, raw: bytes) -> None:
    stage.backend.on("/both", raw)
    assert (await get(stage.proxy.port, "/both")).body == b"mine"
    assert stage.second.requests == []


@shared
async def test_malformed_response_is_a_502_and_no_reason_to_try_another_target(
    stage: Stage,
) -> None:
    stage.backend.on("/both", lambda ex: b"this is not http\r\n\r\n")
    r = await get(stage.proxy.port, "/both")
    assert (r.status, r.body) == (502, FAILED)
    assert stage.second.requests == []


@shared
async def test_name_that_does_not_resolve_leads_to_the_next_target(stage: Stage) -> None:
    assert (await get(stage.proxy.port, "/no-such-name")).body == b"second"


# -- limits in time ------------------------------------------------------------


@contextmanager
def deaf_listener() -> Iterator[int]:
    """A port where the kernel drops every further attempt to connect; yields its number."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        try:
            yield listener.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


async def test_target_that_does_not_accept_in_time_is_passed_over() -> None:
    with deaf_listener() as deaf:
        async with (
            start_backend() as backend,
            start_proxy(
                f"* 127.0.0.1:{deaf} {backend.address}", proxy={"backend_connect_timeout": "0.3"}
            ) as proxy,
        ):
            backend.on("*", response(200, {}, b"second"))
            began = time.monotonic()
            assert (await get(proxy.port)).body == b"second"
            assert 0.25 < time.monotonic() - began < 5


async def test_backend_that_does_not_answer_in_time_is_a_502() -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy={"backend_response_timeout": "0.3"}) as proxy,
    ):
        gone = asyncio.Event()

        async def silent(ex: Exchange) -> None:
            await ex.wait_closed()
            gone.set()
            ex.close()

        backend.on("/silent", silent)
        r = await fetch(proxy.port, "POST", "/silent", body=b"x")
        assert r.status in (502, 504)
        async with asyncio.timeout(5):
            await gone.wait()
        # the wait counts from the end of the request: a slow client is not the backend's fault
        backend.on("/echo", lambda ex: response(200, {}, b"echo"))
        async with connect(proxy.port) as c:
            await c.send(
                b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 20001\r\n\r\n" + bytes(20_000)
            )
            assert await c.is_silent(0.6)
            await c.send(b"x")
            assert (await c.read_response()).body == b"echo"


async def test_backend_that_falls_silent_within_a_body_cuts_the_response() -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy={"backend_inactivity_timeout": "0.3"}) as proxy,
    ):

        async def stall(ex: Exchange) -> None:
            await ex.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
            await ex.wait_closed()
            ex.close()

        backend.on("/stall", stall)
        async with connect(proxy.port) as c:
            await c.send(b"GET /stall HTTP/1.1\r\nHost: a\r\n\r\n")
            await c.read_head()
            with pytest.raises(Truncated):
                await c.read_rest()


async def test_idle_connections_are_closed_after_their_time() -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy={"backend_idle_timeout": "0.3"}) as proxy,
    ):
        backend.on("*", response(200, {}, b"x"))
        await get(proxy.port)
        await backend.wait_connections(0)


# -- limits in number ----------------------------------------------------------


class Gate:
    """A handler that keeps every exchange until the test lets some go."""

    def __init__(self, backend: Backend) -> None:
        self.let_go = asyncio.Semaphore(0)
        self.waiting = 0
        backend.on("/gate", self.handle)

    async def handle(self, ex: Exchange) -> bytes:
        self.waiting += 1
        await self.let_go.acquire()
        self.waiting -= 1
        return response(200, {}, b"through")

    def open(self, count: int) -> None:
        for _ in range(count):
            self.let_go.release()


async def test_requests_beyond_the_cap_of_a_target_wait_in_a_bounded_queue() -> None:
    settings = {"backend_maxconn": 2, "backend_queue_max": 1, "backend_queue_timeout": 30}
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy=settings) as proxy,
        asyncio.TaskGroup() as tasks,
    ):
        gate = Gate(backend)

        def ask() -> asyncio.Task[Response]:
            return tasks.create_task(get(proxy.port, "/gate"))

        first = [ask(), ask()]
        for _ in first:
            await backend.next_request()
        # one of these two finds a place in the queue, the other is refused at once
        rest = {ask(), ask()}
        done, pending = await asyncio.wait(rest, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        assert done.pop().result().status in (502, 503)
        assert len(backend.requests) == 2
        gate.open(3)
        for task in (*first, *pending):
            assert (await task).body == b"through"
        assert backend.connections == 2


async def test_wait_in_the_queue_of_a_target_is_bounded_in_time() -> None:
    settings = {"backend_maxconn": 1, "backend_queue_timeout": "0.3"}
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy=settings) as proxy,
        asyncio.TaskGroup() as tasks,
    ):
        gate = Gate(backend)
        first = tasks.create_task(get(proxy.port, "/gate"))
        await backend.next_request()
        assert (await get(proxy.port, "/gate")).status in (502, 503)
        gate.open(1)
        assert (await first).body == b"through"


async def test_client_that_leaves_the_queue_leaves_its_place() -> None:
    settings = {"backend_maxconn": 1, "backend_queue_max": 1, "backend_queue_timeout": 30}
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy=settings) as proxy,
        asyncio.TaskGroup() as tasks,
    ):
        gate = Gate(backend)
        first = tasks.create_task(get(proxy.port, "/gate"))
        await backend.next_request()
        async with connect(proxy.port) as c:
            await c.send(b"GET /gate HTTP/1.1\r\nHost: a\r\n\r\n")
            # the queue has one place: this answer tells that it is taken
            assert (await get(proxy.port, "/gate")).status in (502, 503)
        await proxy.wait_log(r"GET http://a/gate .*error$")
        patient = tasks.create_task(get(proxy.port, "/gate"))
        gate.open(2)
        assert (await first).body == b"through"
        assert (await patient).body == b"through"
        assert len(backend.requests) == 2


async def test_only_so_many_idle_connections_are_kept() -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy={"backend_idle_max": 1}) as proxy,
    ):
        gate = Gate(backend)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(get(proxy.port, "/gate"))
            for _ in range(3):
                await backend.next_request()
            assert backend.connections == 3
            gate.open(3)
        await backend.wait_connections(1)
