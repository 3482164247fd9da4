"""The answers that the proxy gives by itself: exact status, reason, fields and text."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.backend import Backend, Exchange, response, start_backend
from tests.support.client import Response, connect, fetch, get
from tests.support.proxy import PUSHPIN, Proxy, free_ports, start_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
FAILED = "Error while proxying to origin.\n"
INSTRUCT = {"Content-Type": "application/grip-instruct"}


class Stage:
    """Each backend path twice: plain, and below /debug on a route that explains its errors."""

    def __init__(self, backend: Backend, proxy: Proxy, nobody: int) -> None:
        self.backend, self.proxy, self.nobody = backend, proxy, nobody

    def on(self, path: str, raw: bytes) -> None:
        self.backend.on(path, raw)
        self.backend.on("/debug" + path, raw)

    async def both(
        self, path: str, method: str = "GET", body: bytes | None = None
    ) -> list[Response]:
        port = self.proxy.port
        return [await fetch(port, method, prefix + path, body=body) for prefix in ("", "/debug")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Stage]:
    (nobody,) = free_ports(1)
    down = f"127.0.0.1:{nobody}"
    async with start_backend() as backend:
        routes = [
            f"* {backend.address}",
            f"*,path_beg=/debug/,debug {backend.address}",
            f"*,path_beg=/down {down} {down}",
            f"*,path_beg=/debug/down,debug {down} {down}",
            f"known.example,path_beg=/only {backend.address}",
        ]
        async with start_proxy(routes) as proxy:
            yield Stage(backend, proxy, nobody)


@pytest.fixture
def stage(running: Stage) -> Stage:
    running.backend.reset()
    running.on("/hello", response(200, {}, b"hello\n"))
    return running


def check(r: Response, status: int, reason: str, text: str) -> None:
    """The answer is complete, plain text and has nothing else in it."""
    assert (r.status, r.reason, r.text) == (status, reason, text)
    fields = [(n.lower(), v) for n, v in r.headers]
    assert fields == [("content-type", "text/plain"), ("content-length", str(len(r.body)))]


def check_both(rs: list[Response], text: str, explained: str) -> None:
    check(rs[0], 502, "Bad Gateway", text)
    check(rs[1], 502, "Bad Gateway", explained)


# -- 502 -----------------------------------------------------------------------


@shared
async def test_no_route(stage: Stage) -> None:
    r = await get(stage.proxy.port, "/", host="known.example")
    check(
        r,
        502,
        "Bad Gateway",
        "No route for host: known.example\n" if PUSHPIN else "Route not found\n",
    )


@shared
async def test_no_target_answers(stage: Stage) -> None:
    down = f"127.0.0.1:{stage.nobody}"
    check_both(
        await stage.both("/down"),
        FAILED,
        f"Unable to connect to any targets. Tried: {down}, {down}\n",
    )


@shared
async def test_answer_that_is_not_http(stage: Stage) -> None:
    stage.on("/odd", b"SSH-2.0-OpenSSH\r\n\r\n")
    check_both(await stage.both("/odd"), FAILED, FAILED)


@shared
async def test_instruct_that_cannot_be_understood(stage: Stage) -> None:
    stage.on("/odd", response(200, {"Grip-Hold": "nonesuch"}))
    check_both(
        await stage.both("/odd"),
        FAILED,
        "Failed to parse accept instructions: "
        "Grip-Hold must be set to either 'response' or 'stream'\n",
    )


@shared
async def test_instruct_that_is_too_large(stage: Stage) -> None:
    stage.on("/large", response(200, INSTRUCT, bytes(100_001)))
    check_both(
        await stage.both("/large"),
        FAILED,
        f"GRIP instruct response too large from {stage.backend.address}\n",
    )


@shared
async def test_response_hold_that_is_too_large(stage: Stage) -> None:
    stage.on(
        "/large", response(200, {"Grip-Hold": "response", "Grip-Channel": "x"}, bytes(100_001))
    )
    check_both(
        await stage.both("/large"),
        FAILED,
        f"GRIP instruct response too large from {stage.backend.address}\n",
    )


@shared
@pytest.mark.parametrize(("size", "status"), [(100_000, 200), (100_001, 400)])
async def test_request_that_is_too_large_to_be_held(stage: Stage, size: int, status: int) -> None:
    instruct = response(200, {"Grip-Channel": "unused"}, b"not held\n")
    stage.on("/instruct", instruct)
    for r in await stage.both("/instruct", "POST", bytes(size)):
        if status == 200:
            assert (r.status, r.body) == (200, b"not held\n")
        else:
            check(r, 400, "Bad Request", "Request too large to accept GRIP instruct.\n")


async def test_head_of_a_response_that_is_too_large(stage: Stage) -> None:
    stage.on("/large", response(200, {"X-Large": "x" * 10_000}, b"body"))
    check_both(await stage.both("/large"), FAILED, FAILED)


async def test_too_many_fields_in_a_response(stage: Stage) -> None:
    stage.on("/many", response(200, [("X-Many", str(n)) for n in range(64)], b"body"))
    for r in await stage.both("/many"):
        assert r.status in (500, 502)


@shared
async def test_connection_stays_usable_after_an_error(stage: Stage) -> None:
    async with connect(stage.proxy.port) as c:
        for _ in range(2):
            assert (await c.request("GET", "/down")).status == 502
            assert (await c.request("GET", "/hello")).body == b"hello\n"


@shared
async def test_debug_can_be_set_for_all_routes() -> None:
    (nobody,) = free_ports(1)
    routes = f"* 127.0.0.1:{nobody}"
    async with start_proxy(routes, proxy={"debug": True}) as proxy:
        r = await get(proxy.port)
        assert r.text == f"Unable to connect to any targets. Tried: 127.0.0.1:{nobody}\n"


# -- errors after the head was sent --------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_error_within_a_body_is_not_hidden_on_a_debug_route_either(
    stage: Stage, framing: str
) -> None:
    async def cut(ex: Exchange) -> None:
        head = (
            b"Content-Length: 100\r\n\r\npart"
            if framing == "length"
            else b"Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"
        )
        await ex.write(b"HTTP/1.1 200 OK\r\n" + head)
        ex.close()

    stage.backend.on("/debug/cut", cut)
    async with connect(stage.proxy.port) as c:
        await c.send(b"GET /debug/cut HTTP/1.1\r\nHost: a\r\n\r\n")
        raw = await c.read_all()
    # Pushpin's rule: the text is appended, where the framing leaves room for it
    assert b"part" in raw
    assert not raw.endswith(b"part\r\n0\r\n\r\n")
