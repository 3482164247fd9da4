"""Automatic CORS headers and JSON-P, for answers that are not held."""

import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.support.backend import Backend, response, start_backend
from tests.support.client import Response, fetch, get
from tests.support.proxy import Proxy, free_ports, start_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
Stage = tuple[Backend, Proxy]
JAVASCRIPT = "application/javascript"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Stage]:
    (nobody,) = free_ports(1)
    async with start_backend() as backend:
        routes = [
            f"*,aco {backend.address}",
            f"*,path_beg=/down,aco 127.0.0.1:{nobody}",
            f"*,path_beg=/plain {backend.address}",
            f"*,path_beg=/basic,aco,jsonp_mode=basic,jsonp_cb=cb {backend.address}",
            f"*,path_beg=/body,aco,jsonp_body=data,jsonp_defcb=fallback {backend.address}",
            f"*,path_beg=/put,aco,jsonp_defmethod=PUT {backend.address}",
        ]
        async with start_proxy(routes) as proxy:
            yield backend, proxy


@pytest.fixture
def stage(running: Stage) -> Stage:
    running[0].reset()
    running[0].on("*", response(200, {"Content-Type": "text/plain"}, b"hello\n"))
    return running


def access(r: Response) -> list[tuple[str, str]]:
    """The CORS fields, in order, without their common prefix."""
    prefix = "access-control-"
    return [(n[len(prefix) :], v) for n, v in r.headers if n.lower().startswith(prefix)]


# -- CORS ----------------------------------------------------------------------


@shared
async def test_answer_gains_fields_that_allow_any_origin(stage: Stage) -> None:
    r = await get(stage[1].port)
    assert access(r) == [
        ("Allow-Methods", "OPTIONS, HEAD, GET, POST, PUT, DELETE"),
        ("Allow-Credentials", "true"),
        ("Allow-Origin", "*"),
        ("Max-Age", "3600"),
    ]


@shared
async def test_request_of_the_browser_is_reflected(stage: Stage) -> None:
    backend, proxy = stage
    backend.on(
        "*", response(200, [("X-A", "1"), ("ETag", "x"), ("Cache-Control", "no-store")], b"ok")
    )
    fields = {
        "Origin": "http://page.example",
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "X-One, X-Two",
    }
    r = await fetch(proxy.port, "OPTIONS", "/", fields)
    assert access(r) == [
        ("Allow-Methods", "PATCH"),
        ("Allow-Headers", "X-One, X-Two"),
        ("Expose-Headers", "X-A, ETag"),
        ("Allow-Credentials", "true"),
        ("Allow-Origin", "http://page.example"),
        ("Max-Age", "3600"),
    ]
    # a preflight is the backend's to answer
    assert (r.body, backend.requests[0].method) == (b"ok", "OPTIONS")


@shared
async def test_fields_that_the_backend_sets_are_left_alone(stage: Stage) -> None:
    backend, proxy = stage
    backend.on(
        "*", response(200, {"access-control-allow-origin": "mine", "Access-Control-Max-Age": "1"})
    )
    fields = dict(access(await get(proxy.port, "/", {"Origin": "http://page.example"})))
    assert (fields["allow-origin"], fields["Max-Age"]) == ("mine", "1")
    assert "Allow-Origin" not in fields


@shared
async def test_errors_of_the_proxy_gain_them_too(stage: Stage) -> None:
    r = await get(stage[1].port, "/down", {"Origin": "http://page.example"})
    assert r.status == 502
    assert ("Allow-Origin", "http://page.example") in access(r)


@shared
async def test_route_without_it_stays_as_it_is(stage: Stage) -> None:
    r = await get(stage[1].port, "/plain?callback=f", {"Origin": "http://page.example"})
    assert (access(r), r.body) == ([], b"hello\n")


@shared
async def test_it_can_be_set_for_all_routes() -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy={"auto_cross_origin": True}) as proxy,
    ):
        backend.on("*", response())
        assert ("Allow-Origin", "*") in access(await get(proxy.port))


# -- JSON-P --------------------------------------------------------------------


def unwrap(r: Response, callback: str) -> str:
    """What the callback is called with; the answer must be a script."""
    assert (r.status, r.reason, r.header("content-type")) == (200, "OK", JAVASCRIPT)
    assert access(r) == []
    start, end = f"/**/{callback}(", ");\n"
    assert r.text.startswith(start)
    assert r.text.endswith(end)
    return r.text[len(start) : -len(end)]


@shared
async def test_answer_is_wrapped_in_a_call(stage: Stage) -> None:
    backend, proxy = stage
    headers = [("X-B", "1"), ("Content-Type", "text/plain"), ("X-B", "2"), ("X-A", "3")]
    backend.on("*", response(418, headers, b'say "hi"\n', reason="Short"))
    r = await get(proxy.port, "/?callback=my.call")
    text = unwrap(r, "my.call")
    assert text.startswith('{"code": 418, "reason": "Short", "headers": {')
    assert text.endswith(', "body": "say \\"hi\\"\\n"}')
    headers_seen = json.loads(text)["headers"]
    assert {n: headers_seen[n] for n in ("Content-Type", "X-A", "X-B")} == {
        "Content-Type": "text/plain", "X-A": "3", "X-B": "1",
    }  # fmt: skip
    assert list(headers_seen) == sorted(headers_seen)
    assert r.header("x-b") is None


@shared
async def test_cache_control_is_mirrored(stage: Stage) -> None:
    backend, proxy = stage
    backend.on("*", response(200, {"Cache-Control": "no-store"}, b"x"))
    assert (await get(proxy.port, "/?callback=f")).header("cache-control") == "no-store"


@shared
async def test_basic_mode_passes_the_body_alone(stage: Stage) -> None:
    backend, proxy = stage
    backend.on("/basic", response(200, {"Content-Type": "application/json"}, b'{"a": 1}\n\n'))
    assert unwrap(await get(proxy.port, "/basic?cb=f"), "f") == '{"a": 1}\n'


@shared
async def test_backend_gets_the_request_that_the_parameters_describe(stage: Stage) -> None:
    backend, proxy = stage
    headers = quote(json.dumps({"X-A": "1", "Host": "evil.example", "accept": "no"}))
    query = f"a=b&callback=f&_method=PUT&_headers={headers}&_body=one%20two+three&c=d"
    unwrap(await get(proxy.port, f"/path?{query}", {"X-Browser": "1"}, host="h.example"), "f")
    request = await backend.next_request()
    assert (request.method, request.target, request.body) == (
        "PUT",
        "/path?a=b&c=d",
        b"one two+three",
    )
    assert request.all("host") == ["h.example"]
    assert (request.header("accept"), request.header("x-a")) == ("*/*", "1")
    assert request.header("x-browser") == "1"


@shared
@pytest.mark.parametrize(("target", "method"), [
    ("/?callback=f", "GET"), ("/basic?cb=f", "POST"), ("/put?callback=f", "PUT"),
])  # fmt: skip
async def test_method_has_a_default(stage: Stage, target: str, method: str) -> None:
    unwrap(await get(stage[1].port, target), "f")
    assert (await stage[0].next_request()).method == method


@shared
async def test_body_parameter_of_the_route_is_json(stage: Stage) -> None:
    target = "/body?callback=f&_method=POST&data=" + quote('{"a":1}')
    unwrap(await get(stage[1].port, target), "f")
    request = await stage[0].next_request()
    assert (request.target, request.body) == ("/body", b'{"a":1}')
    assert request.header("content-type") == "application/json"


@shared
async def test_default_callback_counts_where_the_body_parameter_is_given(stage: Stage) -> None:
    port = stage[1].port
    unwrap(await get(port, "/body?_method=POST&data=%7B%7D"), "fallback")
    assert (await get(port, "/body?x=1")).body == b"hello\n"


@shared
async def test_only_get_is_translated(stage: Stage) -> None:
    assert (await fetch(stage[1].port, "POST", "/?callback=f", body=b"x")).body == b"hello\n"


@shared
async def test_error_of_the_proxy_is_wrapped_too(stage: Stage) -> None:
    text = unwrap(await get(stage[1].port, "/down?callback=f"), "f")
    answer = json.loads(text)
    assert (answer["code"], answer["body"]) == (502, "Error while proxying to origin.\n")


@pytest.mark.parametrize(("query", "text"), [
    ("callback=", "Invalid callback parameter.\n"),
    ("callback=f&_headers=nonsense", "Invalid _headers parameter.\n"),
    ("callback=f&_method=", "Invalid _method parameter.\n"),
])  # fmt: skip
async def test_parameter_that_makes_no_sense_is_a_400(stage: Stage, query: str, text: str) -> None:
    backend, proxy = stage
    r = await get(proxy.port, f"/?{query}")
    assert (r.status, r.text) == (400, text) or text in json.loads(unwrap(r, "f"))["body"]
    assert backend.requests == []


async def test_callback_cannot_smuggle_script(stage: Stage) -> None:
    r = await get(stage[1].port, "/?callback=" + quote("alert(1);//"))
    assert b"alert(1);//(" not in r.body
