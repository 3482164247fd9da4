"""Backends that answer before they have read the request, and what clients must see of that."""

import asyncio

import pytest

from tests.support.backend import Backend, Exchange, response, start_backend
from tests.support.client import connect, fetch, get
from tests.support.proxy import free_ports, start_proxy

PREFETCH = 10_000  # bytes of a request's body that the proxy awaits before it asks the backend
KEPT = 100_000  # bytes of it that may be sent again


def upload(path: str, length: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode()


def hold_early(backend: Backend) -> asyncio.Event:
    """Let `/hold` answer with an instruction before it has the body; set when it has."""
    answered = asyncio.Event()

    async def hold(ex: Exchange) -> None:
        await ex.write(
            b"HTTP/1.1 200 OK\r\nGrip-Hold: response\r\nGrip-Channel: c\r\n"
            b"Content-Length: 0\r\n\r\n"
        )
        answered.set()
        await ex.wait_closed()

    backend.on("/hold", hold, stream=True)
    return answered


async def test_the_answer_of_a_backend_that_closes_during_an_upload_arrives() -> None:
    """Sending fails then, but what the backend said is there to be read."""

    async def refuse(ex: Exchange) -> None:
        await ex.write(
            b"HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n"
        )
        ex.close()

    async with start_backend() as backend, start_proxy(f"* {backend.address}") as proxy:
        backend.on("/upload", refuse, stream=True)
        for _ in range(20):
            async with connect(proxy.port) as c:
                await c.send(upload("/upload", 3_000_000))
                sending = asyncio.create_task(c.send(bytes(3_000_000)))
                r = await c.read_response()
                assert (r.status, r.body) == (413, b"no\n")
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)


async def test_a_body_that_grows_too_large_after_the_instruction_is_not_held() -> None:
    """It could not be sent again; the next request on the connection would be taken for it."""
    async with start_backend() as backend, start_proxy(f"* {backend.address}") as proxy:
        answered = hold_early(backend)
        async with connect(proxy.port) as c:
            await c.send(upload("/hold", KEPT + 1) + bytes(PREFETCH))
            async with asyncio.timeout(5):
                await answered.wait()
            await c.send(bytes(KEPT + 1 - PREFETCH))
            r = await c.read_response()
            assert (r.status, r.body) == (400, b"Request too large to accept GRIP instruct.\n")
        assert [request.target for request in backend.requests] == ["/hold"]


async def test_an_instruction_that_comes_early_is_obeyed_when_the_request_is_here() -> None:
    async with start_backend() as backend, start_proxy(f"* {backend.address}") as proxy:
        answered = hold_early(backend)
        async with connect(proxy.port) as c:
            await c.send(upload("/hold", 2 * PREFETCH) + bytes(PREFETCH))
            async with asyncio.timeout(5):
                await answered.wait()
            await c.send(bytes(PREFETCH))
            await proxy.wait_subscribed("c")
            await proxy.publish({"channel": "c", "formats": {"http-response": {"body": "news"}}})
            assert (await c.read_response()).body == b"news"


@pytest.mark.parametrize("status", ["100 Wait", "101 Switch", "0 Nothing", "199 Odd"])
@pytest.mark.parametrize("size", [0, KEPT + 1])
async def test_a_status_that_cannot_end_a_request_is_an_error(status: str, size: int) -> None:
    """A client would take it for an interim response and wait."""
    async with start_backend() as backend, start_proxy(f"* {backend.address}") as proxy:
        fields = {"Grip-Hold": "stream", "Grip-Channel": "c", "Grip-Status": status}
        backend.on("/odd", response(200, fields, bytes(size)))
        backend.on("/plain", response(200, {}, b"fine"))
        async with connect(proxy.port) as c:
            assert (await c.request("GET", "/odd")).status == 502
            assert (await c.request("GET", "/plain")).body == b"fine"


async def test_a_published_status_that_cannot_end_a_request_is_an_error() -> None:
    async with start_backend() as backend, start_proxy(f"* {backend.address}") as proxy:
        backend.on("/hold", response(200, {"Grip-Hold": "response", "Grip-Channel": "c"}, b""))
        asked = asyncio.create_task(get(proxy.port, "/hold"))
        await proxy.wait_subscribed("c")
        await proxy.publish(
            {"channel": "c", "formats": {"http-response": {"code": 100, "body": "?"}}}
        )
        assert (await asked).status == 502


async def test_a_script_cannot_post_websocket_events_either() -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"*,aco {backend.address},over_http") as proxy,
    ):
        backend.on("*", response(200, {}, b"ok"))
        query = (
            "/?callback=f&_method=POST&_body=OPEN%0d%0a"
            "&_headers=%7B%22Content-Type%22%3A%22application/websocket-events%22%7D"
        )
        assert "not allowed" in (await get(proxy.port, query)).text
        assert backend.requests == []


async def test_a_host_that_no_certificate_can_name_is_refused_at_once() -> None:
    """With `ssl` and no `host=`, the client's Host is the name that is checked."""
    async with start_backend() as backend, start_proxy(f"* {backend.address},ssl") as proxy:
        for host in (".a", "a..b", "x" * 64 + ".com"):
            assert (await fetch(proxy.port, "GET", "/", host=host)).status == 502


async def test_a_client_that_leaves_while_it_is_not_read_is_noticed() -> None:
    """Its upload is held back by the backend, so its leaving is not read either."""
    settings = {"client_inactivity_timeout": 10}  # it is looked for every tenth of that
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", runner=settings) as proxy,
    ):
        over = asyncio.Event()

        async def stuck(ex: Exchange) -> None:
            await over.wait()

        backend.on("/stuck", stuck, stream=True)
        async with connect(proxy.port) as c:
            await c.send(upload("/stuck", 50_000_000))
            sending = asyncio.create_task(c.send(bytes(50_000_000)))
            await backend.next_request()
            assert not (await asyncio.wait([sending], timeout=1))[0]
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            c.abort()
        await proxy.wait_log(r"POST http://a/stuck .*error$")
        over.set()


async def test_an_upload_goes_on_to_the_test_target_when_another_is_down() -> None:
    (nobody,) = free_ports(1)
    async with start_proxy(f"* 127.0.0.1:{nobody} test") as proxy, connect(proxy.port) as c:
        await c.send(upload("/", 5 * PREFETCH) + bytes(2 * PREFETCH))
        await proxy.wait_log(r"started")
        assert await c.is_silent(0.2)
        await c.send(bytes(3 * PREFETCH))
        assert (await c.read_response()).body == b"Hello from the Pushpin test handler!\n"


async def test_a_slow_upload_may_go_on_until_its_sender_reads_the_answer() -> None:
    """Many clients send all before they read; a reset would take the answer from them."""
    async with start_proxy("elsewhere test") as proxy, connect(proxy.port) as c:
        await c.send(upload("/", 3_000_000))
        for _ in range(30):  # longer than a client may be silent
            await c.send(bytes(100_000))
            await asyncio.sleep(0.1)  # the pace of the client is what is tested
        r = await c.read_response()
        assert (r.status, r.body) == (502, b"Route not found\n")
