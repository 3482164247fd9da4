"""Requests that are malformed, oversized or smuggle another: 400, and nothing is forwarded."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.backend import Backend, response, start_backend
from tests.support.client import Response, connect
from tests.support.proxy import Proxy, start_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
Stage = tuple[Backend, Proxy]
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Stage]:
    async with start_backend() as backend, start_proxy(f"* {backend.address}") as proxy:
        yield backend, proxy


@pytest.fixture
def stage(running: Stage) -> Stage:
    running[0].reset()
    running[0].on("*", response(200, {}, b"ok"))
    return running


def post(fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST / HTTP/" + version + b"\r\nHost: a\r\n" + fields + b"\r\n" + body


async def refused(stage: Stage, raw: bytes, status: int = 400) -> Response:
    """Send `raw`: it must be refused, the connection end, and the backend see nothing."""
    backend, proxy = stage
    async with connect(proxy.port) as c:
        await c.send(raw)
        r = await c.read_response()
        assert (r.status, r.header("content-type")) == (status, "text/plain")
        assert r.header("connection") == "close" or r.version == "HTTP/1.0"
        assert await c.read_all() == b""
    assert backend.requests == []
    return r


# -- smuggling -----------------------------------------------------------------

FRAMING = {
    "length and chunked": post(b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n" + SMUGGLED),
    "chunked and length": post(CHUNKED + b"Content-Length: 5\r\n", b"0\r\n\r\n" + SMUGGLED),
    "two lengths": post(b"Content-Length: 0\r\nContent-Length: 36\r\n", SMUGGLED),
    "two equal lengths": post(b"Content-Length: 3\r\nContent-Length: 3\r\n", b"abc"),
    "list of lengths": post(b"Content-Length: 3, 3\r\n", b"abc"),
    "signed length": post(b"Content-Length: +3\r\n", b"abc"),
    "negative length": post(b"Content-Length: -3\r\n", b"abc"),
    "hexadecimal length": post(b"Content-Length: 0x3\r\n", b"abc"),
    "length with an underscore": post(b"Content-Length: 1_0\r\n", bytes(10)),
    "length in other digits": post("Content-Length: \u0663\r\n".encode(), b"abc"),
    "empty length": post(b"Content-Length:\r\n", SMUGGLED),
    "length beyond 64 bits": post(b"Content-Length: 99999999999999999999\r\n", b"abc"),
    "unknown coding": post(b"Transfer-Encoding: xchunked\r\n", SMUGGLED),
    "chunked twice": post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"),
    "identity": post(b"Transfer-Encoding: identity\r\n", SMUGGLED),
    "empty coding": post(b"Transfer-Encoding:\r\n", SMUGGLED),
    "chunked after a control character": post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"),
    "chunked on HTTP/1.0": post(CHUNKED, b"0\r\n\r\n", b"1.0"),
    "space before the colon": post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
    "space before the colon of the length": post(b"Content-Length : 3\r\n", b"abc"),
    "folded field": post(b"X-A: 1\r\n Content-Length: 3\r\n", b"abc"),
    "field that begins with a space": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "bare LF after a field": b"GET / HTTP/1.1\r\nHost: a\nX-A: 1\r\n\r\n",
    "bare LF after the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF throughout": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare CR in a field": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\rX-B: 2\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two equal hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("raw", FRAMING.values(), ids=FRAMING.keys())
async def test_smuggling_shape_is_refused(stage: Stage, raw: bytes) -> None:
    await refused(stage, raw)


async def test_transfer_coding_that_is_not_supported_is_refused(stage: Stage) -> None:
    # RFC 9112 §6.1 suggests 501 for a coding that the server does not understand
    await refused(stage, post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), 501)


BODIES = {
    "no digits": b"zz\r\nabc\r\n0\r\n\r\n",
    "sign": b"+3\r\nabc\r\n0\r\n\r\n",
    "prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "underscore": b"0_3\r\nabc\r\n0\r\n\r\n",
    "size beyond 64 bits": b"11111111111111111\r\nabc\r\n0\r\n\r\n",
    "data longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "bare LF after the size": b"3\nabc\r\n0\r\n\r\n",
    "bare LF after the data": b"3\r\nabc\n0\r\n\r\n",
    "bare CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "bare LF in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "folded trailer": b"0\r\nX-A: 1\r\n b\r\n\r\n",
    "space before the size": b" 3\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_malformed_chunk_is_refused(stage: Stage, body: bytes) -> None:
    await refused(stage, post(CHUNKED, body))


@shared
async def test_chunk_extensions_and_leading_zeros_are_accepted(stage: Stage) -> None:
    backend, proxy = stage
    async with connect(proxy.port) as c:
        await c.send(post(CHUNKED, b'0003;name="x"\r\nabc\r\n000\r\n\r\n'))
        assert (await c.read_response()).status == 200
    assert (await backend.next_request()).body == b"abc"


async def test_endless_chunk_extension_is_refused(stage: Stage) -> None:
    await refused(stage, post(CHUNKED, b"3;" + b"x" * 70_000))


async def test_endless_trailers_are_refused(stage: Stage) -> None:
    await refused(stage, post(CHUNKED, b"0\r\n" + b"X-A: 1\r\n" * 10_000))


# -- malformed heads -----------------------------------------------------------

HEADS = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "empty method": b" / HTTP/1.1\r\nHost: a\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab as separator": b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "space after the version": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "control character in the target": b"GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "raw bytes in the target": b"GET /\xe4 HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\x002\r\n\r\n",
    "field without colon": b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
    "field without name": b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n",
    "bracket in a field name": b"GET / HTTP/1.1\r\nHost: a\r\nX(: 1\r\n\r\n",
    "host with a path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host with a user": b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
    "host with a space": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "host with a bad port": b"GET / HTTP/1.1\r\nHost: a:x\r\n\r\n",
    "host list": b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
}


@pytest.mark.parametrize("raw", HEADS.values(), ids=HEADS.keys())
async def test_malformed_head_is_refused_with_its_reason(stage: Stage, raw: bytes) -> None:
    r = await refused(stage, raw)
    assert r.text.startswith("Failed to parse request: ")
    assert r.text.endswith("\n")


@pytest.mark.parametrize(
    "version", ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/1.10", "http/1.1", "HTCPCP/1.0"]
)
async def test_other_version_is_refused(stage: Stage, version: str) -> None:
    await refused(stage, f"GET / {version}\r\nHost: a\r\n\r\n".encode())


async def test_http_2_preface_is_refused(stage: Stage) -> None:
    await refused(stage, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


async def test_request_that_was_not_understood_gets_an_http_1_0_status_line(stage: Stage) -> None:
    assert (await refused(stage, b"nonsense\r\n\r\n")).version == "HTTP/1.0"


async def test_good_request_before_a_bad_one_is_answered(stage: Stage) -> None:
    backend, proxy = stage
    async with connect(proxy.port) as c:
        await c.send(b"GET /good HTTP/1.1\r\nHost: a\r\n\r\nGET /bad HTTP/9.9\r\nHost: a\r\n\r\n")
        assert (await c.read_response()).body == b"ok"
        assert (await c.read_response()).status == 400
        assert await c.read_all() == b""
    assert [r.target for r in backend.requests] == ["/good"]


@shared
@pytest.mark.parametrize("raw", FRAMING.values(), ids=FRAMING.keys())
async def test_a_second_request_is_never_made_of_a_body(stage: Stage, raw: bytes) -> None:
    """Whatever else the proxy makes of such a request: nothing in it may count twice."""
    backend, proxy = stage
    async with connect(proxy.port) as c:
        await c.send(raw)
        c.finish_sending()
        await c.read_all()
    assert "/smuggled" not in [r.target for r in backend.requests]


# -- bounds --------------------------------------------------------------------


def head_of(size: int) -> bytes:
    start = b"GET / HTTP/1.1\r\nHost: a\r\nX-A: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


@shared
async def test_head_may_fill_client_buffer_size(stage: Stage) -> None:
    async with connect(stage[1].port) as c:
        await c.send(head_of(8192))
        assert (await c.read_response()).status == 200


@pytest.mark.parametrize("raw", [head_of(8193), head_of(100_000)[:-4]], ids=["whole", "endless"])
async def test_head_beyond_client_buffer_size_is_refused(stage: Stage, raw: bytes) -> None:
    r = await refused(stage, raw)
    assert r.text == "Request header size exceeded limit of 8192 bytes.\n"


@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 400)])
async def test_client_buffer_size_is_obeyed(size: int, status: int) -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", runner={"client_buffer_size": 1000}) as proxy,
        connect(proxy.port) as c,
    ):
        backend.on("*", response(200, {}, b"ok"))
        await c.send(head_of(size))
        assert (await c.read_response()).status == status


@shared
async def test_sixty_four_fields_are_accepted(stage: Stage) -> None:
    async with connect(stage[1].port) as c:
        await c.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-A: 1\r\n" * 63 + b"\r\n")
        assert (await c.read_response()).status == 200


async def test_more_than_sixty_four_fields_are_refused(stage: Stage) -> None:
    await refused(stage, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-A: 1\r\n" * 64 + b"\r\n")


@shared
async def test_uri_of_4096_bytes_is_accepted(stage: Stage) -> None:
    target = b"/" + b"x" * (4096 - len("http://a/"))
    async with connect(stage[1].port) as c:
        await c.send(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await c.read_response()).status == 200


async def test_longer_uri_is_refused(stage: Stage) -> None:
    target = b"/" + b"x" * (4097 - len("http://a/"))
    backend, proxy = stage
    async with connect(proxy.port) as c:
        await c.send(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await c.read_response()).status in (400, 414)
    assert backend.requests == []


FILLER = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n" * 1000


async def test_pipelined_bytes_are_bounded_while_the_backend_is_awaited() -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", runner={"client_pipeline_bytes": 100_000}) as proxy,
        connect(proxy.port, timeout=0.5) as c,
    ):
        backend.on("*", lambda ex: ex.wait_closed())
        before = proxy.peak_memory()
        await c.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        await backend.next_request()
        # either the proxy stops reading or it closes: it does not take 100 MB
        with pytest.raises((ConnectionError, TimeoutError)):
            for _ in range(3000):
                await c.send(FILLER)
        assert [r.target for r in backend.requests] == ["/wait"]
        assert proxy.peak_memory() - before < 16 * 1024


async def test_held_client_that_sends_beyond_the_bound_is_closed() -> None:
    """Its connection must go on being read, or nobody would see that it has left."""
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", runner={"client_pipeline_bytes": 100_000}) as proxy,
        connect(proxy.port) as c,
    ):
        backend.on("/hold", response(200, {"Grip-Hold": "stream", "Grip-Channel": "x"}, b"x"))
        await c.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await c.read_head()
        await c.read_bytes(1)
        with pytest.raises(ConnectionError):
            for _ in range(3000):
                await c.send(FILLER)
        assert [r.target for r in backend.requests] == ["/hold"]
        await proxy.wait_log(r"closed.*sends without waiting")


async def test_thousand_pipelined_requests_are_answered_in_order(stage: Stage) -> None:
    backend, proxy = stage
    backend.on("*", lambda ex: response(200, {}, ex.request.target.encode()))
    async with connect(proxy.port) as c:
        await c.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(1000)))
        assert [(await c.read_response()).body for _ in range(1000)] == [
            b"/%d" % n for n in range(1000)
        ]


# -- traps of parsers ----------------------------------------------------------


@shared
@pytest.mark.parametrize("connection", [b"Upgrade, HTTP2-Settings", b"keep-alive"])
async def test_post_that_offers_h2c_keeps_its_body(stage: Stage, connection: bytes) -> None:
    backend, proxy = stage
    async with connect(proxy.port) as c:
        for _ in range(2):
            await c.send(
                post(
                    b"Connection: "
                    + connection
                    + b"\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 8\r\n",
                    b"the body",
                )
            )
            assert (await c.read_response()).body == b"ok"
            assert (await backend.next_request()).body == b"the body"


async def test_switch_of_protocols_that_the_backend_makes_up_is_no_answer(stage: Stage) -> None:
    backend, proxy = stage

    backend.on(
        "/switch", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
    )
    async with connect(proxy.port) as c:
        r = await c.request("GET", "/switch", {"Upgrade": "x", "Connection": "Upgrade"})
        assert r.status == 502


async def test_backend_framing_that_contradicts_itself_is_not_passed_on(stage: Stage) -> None:
    backend, proxy = stage
    backend.on(
        "/both",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\n\r\n",
    )
    async with connect(proxy.port) as c:
        r = await c.request("GET", "/both")
        assert (r.status, r.body) in ((200, b"abc"), (502, b"Error while proxying to origin.\n"))
        assert len(r.all("content-length") + r.all("transfer-encoding")) == 1
        assert (await c.request("GET", "/")).body == b"ok"


async def test_backend_with_two_lengths_is_a_502(stage: Stage) -> None:
    backend, proxy = stage
    backend.on("/two", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc")
    async with connect(proxy.port) as c:
        assert (await c.request("GET", "/two")).status == 502
        assert (await c.request("GET", "/")).body == b"ok"


@pytest.mark.parametrize("field", ["X-A: 1\x00", "X-A : 1", "X-A: 1\r\n folded"])
async def test_malformed_field_of_the_backend_is_a_502(stage: Stage, field: str) -> None:
    backend, proxy = stage
    backend.on("/odd", f"HTTP/1.1 200 OK\r\n{field}\r\nContent-Length: 2\r\n\r\nab".encode())
    async with connect(proxy.port) as c:
        assert (await c.request("GET", "/odd")).status == 502


async def test_absolute_target_is_not_taken_for_another_route(stage: Stage) -> None:
    backend, proxy = stage
    async with connect(proxy.port) as c:
        await c.send(b"GET http://other.example/x HTTP/1.1\r\nHost: a\r\n\r\n")
        r = await c.read_response()
    if r.status == 200:  # RFC 9112 §3.2.2: the target's authority replaces the Host field
        request = await backend.next_request()
        assert (request.header("host"), request.target) == ("other.example", "/x")
    else:
        assert r.status in (400, 502)
        assert backend.requests == []


async def test_connect_is_not_proxied(stage: Stage) -> None:
    backend, proxy = stage
    async with connect(proxy.port) as c:
        await c.send(b"CONNECT other.example:80 HTTP/1.1\r\nHost: other.example:80\r\n\r\n")
        assert (await c.read_response()).status in (400, 405, 501, 502)
    assert backend.requests == []
