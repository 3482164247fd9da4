"""What the backend gets of a request's head: the transformation rules, in their order."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.backend import Backend, Request, response, start_backend
from tests.support.client import Fields, connect, fetch, get
from tests.support.proxy import Proxy, start_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
Stage = tuple[Backend, Proxy]
ADDED = {"grip-sig", "grip-feature"}
# the HTTP client of Pushpin 1.36 puts these of its own before the client's
OF_THE_CLIENT_LIBRARY = {("Accept", "*/*"), ("Accept-Encoding", "deflate, gzip, br, zstd")}
FEATURES = (
    "status, session, link:next, link:gone, "
    "filter:skip-self, filter:skip-users, filter:require-sub, filter:build-id, "
    "filter:var-subst, filter:http-check, filter:http-modify"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Stage]:
    async with start_backend() as backend:
        routes = [
            f"* {backend.address}",
            f"*,path_beg=/orig,orig_headers {backend.address}",
            f"*,path_beg=/as-host,as_host=Other.example:81 {backend.address}",
            f"*,path_beg=/as-default,as_host=other.example:80 {backend.address}",
            f"*,path_beg=/host,as_host=other.example {backend.address},host=target.example",
            f"*,path_beg=/rem/,path_rem=4 {backend.address}",
            f"*,path_beg=/all-gone,path_rem=9 {backend.address}",
            f"*,path_beg=/replace/,path_rem=2,replace_beg=/with/ {backend.address}",
            f"*,path_beg=/bare,replace_beg=with {backend.address}",
            f"*,path_beg=/fields,header=User-Agent:replaced,header=X-New:1,header=X-Twice:first,"
            f'header=X-Twice:second,header=X-Gone:,header="X-Quoted:  a, b" {backend.address}',
        ]
        async with start_proxy(routes, proxy={"sig_key": "changeme"}) as proxy:
            yield backend, proxy


@pytest.fixture
def stage(running: Stage) -> Stage:
    running[0].reset()
    running[0].on("*", response(200, {}, b"ok"))
    return running


async def forwarded(
    stage: Stage, target: str, fields: Fields = (), host: str | None = "h"
) -> Request:
    """What the backend received of a GET."""
    backend, proxy = stage
    assert (await get(proxy.port, target, fields, host)).body == b"ok"
    return await backend.next_request()


def ordinary(request: Request) -> list[tuple[str, str]]:
    """The fields without those that the proxy adds to every request."""
    return [
        (n, v)
        for n, v in request.headers
        if n.lower() not in ADDED and (n, v) not in OF_THE_CLIENT_LIBRARY
    ]


# -- request line and Host -----------------------------------------------------


@shared
async def test_backend_gets_http_1_1_from_any_client(stage: Stage) -> None:
    backend, proxy = stage
    async with connect(proxy.port) as c:
        await c.send(b"GET /x HTTP/1.0\r\n\r\n")
        await c.read_response()
    request = await backend.next_request()
    assert (request.method, request.target, request.version) == ("GET", "/x", "HTTP/1.1")


@shared
@pytest.mark.parametrize("target", [
    "/", "/?", "/?a=b?c", "/a/../b", "//a", "/a;b=c", "/??", "/a%2Fb", "/?q=%C3%A4+b",
])  # fmt: skip
async def test_target_is_forwarded_as_it_came(stage: Stage, target: str) -> None:
    assert (await forwarded(stage, target)).target == target


@shared
@pytest.mark.parametrize(("given", "seen"), [
    ("a.example", "a.example"),
    ("A.Example", "a.example"),
    ("a.example:80", "a.example"),
    ("a.example:8080", "a.example:8080"),
    (None, "localhost"),
])  # fmt: skip
async def test_host_is_normalised(stage: Stage, given: str | None, seen: str) -> None:
    backend, proxy = stage
    head = "" if given is None else f"Host: {given}\r\n"
    async with connect(proxy.port) as c:
        await c.send(f"GET / HTTP/1.1\r\n{head}\r\n".encode())
        await c.read_response()
    request = await backend.next_request()
    assert request.headers[0] == ("Host", seen)


@shared
@pytest.mark.parametrize(("path", "host"), [
    ("/as-host", "other.example:81"), ("/as-default", "other.example"), ("/host", "target.example"),
])  # fmt: skip
async def test_route_and_target_can_name_the_host(stage: Stage, path: str, host: str) -> None:
    assert (await forwarded(stage, path)).header("host") == host


@shared
@pytest.mark.parametrize(("path", "seen"), [
    ("/rem/a/b?c=d", "/a/b?c=d"),
    ("/replace/a?b", "/with/a?b"),
    ("/all-gone", "/"),
])  # fmt: skip
async def test_route_can_rewrite_the_start_of_the_path(stage: Stage, path: str, seen: str) -> None:
    assert (await forwarded(stage, path)).target == seen


async def test_rewritten_path_always_starts_with_a_slash(stage: Stage) -> None:
    assert (await forwarded(stage, "/bare/x")).target == "/with/x"


# -- fields --------------------------------------------------------------------


@shared
async def test_fields_keep_order_and_spelling(stage: Stage) -> None:
    fields = [
        ("X-b", "1"),
        ("uSER-aGENT", "me"),
        ("X-A", "2"),
        ("Cookie", "a=1"),
        ("X-b", "3"),
        ("Cookie", "b=2"),
    ]
    assert ordinary(await forwarded(stage, "/", fields))[1:] == fields


@shared
async def test_fields_of_the_connection_are_removed_and_no_others(stage: Stage) -> None:
    removed = [
        ("Connection", "keep-alive, X-Hop"),
        ("Keep-Alive", "timeout=5"),
        ("Accept-Encoding", "br"),
        ("Content-Encoding", "identity"),
        ("Expect", "x"),
    ]
    kept = [
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABk"),
        ("X-Hop", "1"),
        ("Proxy-Connection", "keep-alive"),
        ("Trailer", "X-Sum"),
    ]
    assert ordinary(await forwarded(stage, "/", removed + kept))[1:] == kept


async def test_nothing_is_added_beyond_the_rules(stage: Stage) -> None:
    assert [n for n, _ in (await forwarded(stage, "/")).headers] == [
        "Host",
        "Grip-Sig",
        "Grip-Feature",
    ]


async def test_fields_of_a_client_that_are_empty_are_kept(stage: Stage) -> None:
    assert (await forwarded(stage, "/", {"X-Empty": ""})).header("x-empty") == ""


@shared
async def test_bytes_beyond_ascii_in_a_value_pass_unchanged(stage: Stage) -> None:
    assert (await forwarded(stage, "/", {"X-A": "caf\xc3\xa9"})).header("x-a") == "caf\xc3\xa9"


@shared
async def test_route_replaces_adds_and_removes_fields(stage: Stage) -> None:
    request = await forwarded(
        stage, "/fields", {"User-Agent": "mine", "X-Gone": "1", "X-Kept": "2"}
    )
    assert request.header("user-agent") == "replaced"
    assert request.header("x-new") == "1"
    assert request.header("x-gone") is None
    assert request.header("x-kept") == "2"
    assert request.header("x-twice") == "first"
    assert request.header("x-quoted") == "a, b"


@shared
async def test_fields_that_a_route_adds_come_in_reverse_order(stage: Stage) -> None:
    names = (await forwarded(stage, "/fields")).names
    assert [n for n in names if n in ("X-New", "X-Twice", "X-Quoted", "User-Agent")] == [
        "X-Quoted", "X-Twice", "X-New", "User-Agent",
    ]  # fmt: skip


@shared
async def test_client_cannot_send_grip_fields(stage: Stage) -> None:
    fields = {
        "Grip-Sig": "forged",
        "gRIP-Last": "x; last-id=1",
        "Grip-Anything": "1",
        "X-Grip": "2",
    }
    request = await forwarded(stage, "/", fields)
    assert [n.lower() for n in request.names if "grip" in n.lower()] == [
        "x-grip",
        "grip-sig",
        "grip-feature",
    ]
    assert request.header("grip-sig") != "forged"


async def test_features_are_announced(stage: Stage) -> None:
    assert (await forwarded(stage, "/")).header("grip-feature") == FEATURES


@shared
async def test_marked_copies_of_the_original_fields(stage: Stage) -> None:
    mark = "eb9bf0f5-"
    request = await forwarded(
        stage, "/orig", {"X-A": "1", "Accept-Encoding": "br", mark + "X-B": "2"}
    )
    copies = [(n, v) for n, v in request.headers if n.startswith(mark)]
    assert (mark + "Host", "h") in copies
    assert (mark + "X-A", "1") in copies
    assert (mark + "Accept-Encoding", "br") in copies
    assert (mark + "X-B", "2") in copies
    assert not [n for n, _ in copies if n.startswith(mark * 2)]
    assert request.header("x-a") == "1"


@shared
async def test_marked_fields_are_removed_without_orig_headers(stage: Stage) -> None:
    request = await forwarded(stage, "/", {"eb9bf0f5-X-A": "forged", "EB9BF0F5-X-B": "forged"})
    assert [n for n in request.names if n.lower().startswith("eb9bf0f5")] == []


# -- X-Forwarded-For and -Proto ------------------------------------------------


@shared
async def test_forwarded_for_goes_to_the_end_as_one_field_without_a_rule(stage: Stage) -> None:
    fields = [("X-Forwarded-For", "1.1.1.1,2.2.2.2"), ("X-A", "1"), ("X-Forwarded-For", "3.3.3.3")]
    request = await forwarded(stage, "/", fields)
    assert request.headers[-1] == ("X-Forwarded-For", "1.1.1.1, 2.2.2.2, 3.3.3.3")


@shared
@pytest.mark.parametrize(("rule", "seen"), [
    ("truncate:0,append", "127.0.0.1"),
    ("append", "1.1.1.1, 2.2.2.2, 127.0.0.1"),
    ("truncate:1", "2.2.2.2"),
    ("truncate:0", None),
])  # fmt: skip
async def test_forwarded_for_follows_the_rule(rule: str, seen: str | None) -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy={"x_forwarded_for": rule}) as proxy,
    ):
        backend.on("*", response(200, {}, b"ok"))
        await get(proxy.port, "/", {"X-Forwarded-For": "1.1.1.1, 2.2.2.2"})
        assert (await backend.next_request()).header("x-forwarded-for") == seen


async def test_quoted_rule_for_forwarded_for_is_understood() -> None:
    async with (
        start_backend() as backend,
        start_proxy(
            f"* {backend.address}", proxy={"x_forwarded_for": '"truncate:0,append"'}
        ) as proxy,
    ):
        backend.on("*", response(200, {}, b"ok"))
        await get(proxy.port, "/", {"X-Forwarded-For": "1.1.1.1"})
        assert (await backend.next_request()).header("x-forwarded-for") == "127.0.0.1"


@shared
async def test_forwarded_proto_passes_where_no_setting_is_active(stage: Stage) -> None:
    request = await forwarded(
        stage, "/", {"X-Forwarded-Proto": "https", "X-Forwarded-Protocol": "y"}
    )
    assert (request.header("x-forwarded-proto"), request.header("x-forwarded-protocol")) == (
        "https",
        "y",
    )


@shared
@pytest.mark.parametrize("setting", ["proto-only", "true"])
async def test_forwarded_proto_of_a_client_is_removed_where_a_setting_is_active(
    setting: str,
) -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy={"set_x_forwarded_protocol": setting}) as proxy,
    ):
        backend.on("*", response(200, {}, b"ok"))
        await get(proxy.port, "/", {"X-Forwarded-Proto": "https", "X-Forwarded-Protocol": "https"})
        request = await backend.next_request()
        assert (request.header("x-forwarded-proto"), request.header("x-forwarded-protocol")) == (
            None,
            None,
        )


# -- other settings ------------------------------------------------------------


@shared
async def test_accepted_forwarded_proto_selects_the_tls_routes() -> None:
    async with start_backend() as plain, start_backend() as secure:
        routes = [f"*,ssl=no {plain.address}", f"*,ssl=yes {secure.address}"]
        async with start_proxy(routes, proxy={"accept_x_forwarded_protocol": True}) as proxy:
            plain.on("*", response(200, {}, b"plain"))
            secure.on("*", response(200, {}, b"secure"))
            assert (await get(proxy.port)).body == b"plain"
            assert (await get(proxy.port, headers={"X-Forwarded-Proto": "https"})).body == b"secure"
            assert (
                await get(proxy.port, headers={"X-Forwarded-Protocol": "https"})
            ).body == b"secure"
            assert (await get(proxy.port, headers={"X-Forwarded-Proto": "http"})).body == b"plain"
            assert (await get(proxy.port, headers={"X-Forwarded-Proto": "HTTPS"})).body == b"plain"


@shared
async def test_fields_that_must_be_marked_are_not_copied_unmarked() -> None:
    async with start_backend() as backend:
        settings = {"orig_headers_need_mark": "X-Secret,x-other"}
        async with start_proxy(f"*,orig_headers {backend.address}", proxy=settings) as proxy:
            backend.on("*", response(200, {}, b"ok"))
            fields = {"X-Secret": "1", "X-Other": "2", "X-A": "3", "eb9bf0f5-X-Secret": "4"}
            await get(proxy.port, "/", fields)
            request = await backend.next_request()
            copies = [f for f in request.headers if f[0].startswith("eb9bf0f5-X")]
            assert sorted(copies) == [("eb9bf0f5-X-A", "3"), ("eb9bf0f5-X-Secret", "4")]


async def test_cdn_loop_gains_our_entry() -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy={"cdn_loop": "ours"}) as proxy,
    ):
        backend.on("*", response(200, {}, b"ok"))
        await get(proxy.port, "/", [("CDN-Loop", "a"), ("X-A", "1"), ("CDN-Loop", "b")])
        assert (await backend.next_request()).header("cdn-loop") == "a, b, ours"
        await get(proxy.port)
        assert (await backend.next_request()).header("cdn-loop") == "ours"


@shared
async def test_pushpin_route_is_an_ordinary_field_unless_accepted(stage: Stage) -> None:
    assert (await forwarded(stage, "/", {"Pushpin-Route": "x"})).header("pushpin-route") == "x"


# -- framing of the body towards the backend -----------------------------------


@shared
@pytest.mark.parametrize(("method", "length"), [
    ("GET", None), ("HEAD", None), ("OPTIONS", None), ("POST", "0"), ("PUT", "0"),
])  # fmt: skip
async def test_length_of_an_empty_body_depends_on_the_method(
    stage: Stage, method: str, length: str | None
) -> None:
    backend, proxy = stage
    await fetch(proxy.port, method, "/")
    request = await backend.next_request()
    assert (request.header("content-length"), request.header("transfer-encoding")) == (length, None)


@shared
async def test_body_is_forwarded_with_its_length(stage: Stage) -> None:
    backend, proxy = stage
    await fetch(proxy.port, "PUT", "/", body=b"a body")
    request = await backend.next_request()
    assert (request.header("content-length"), request.body) == ("6", b"a body")


@shared
async def test_chunked_body_that_came_whole_gets_a_length(stage: Stage) -> None:
    backend, proxy = stage
    async with connect(proxy.port) as c:
        await c.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        await c.read_response()
    request = await backend.next_request()
    assert (request.header("content-length"), request.header("transfer-encoding")) == ("3", None)
    assert request.body == b"abc"


@shared
async def test_body_of_a_get_is_forwarded(stage: Stage) -> None:
    backend, proxy = stage
    await fetch(proxy.port, "GET", "/", body=b"odd")
    assert (await backend.next_request()).body == b"odd"
