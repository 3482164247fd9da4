"""Which route and target a request gets, and how the routes file is read and read again."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.backend import Backend, Exchange, response, start_backend
from tests.support.client import connect, get
from tests.support.proxy import Proxy, has_ipv6, start_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


def name_route(ex: Exchange) -> bytes:
    """Answer with the name that the route gave by its header rule, and the path that came."""
    name = ex.request.header("x-route") or ""
    return response(200, {}, f"{name} {ex.request.target}".encode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with start_backend() as it:
        it.on("*", name_route)
        yield it


def rule(condition: str, name: str, backend: Backend) -> str:
    """A rule whose requests reach the backend with the rule's name."""
    return f"{condition},header=X-Route:{name} {backend.address}"


async def chosen(proxy: Proxy, path: str = "/", host: str = "h", **fields: str) -> str:
    """The name of the rule that a request takes, or the status where it takes none."""
    r = await get(proxy.port, path, {k.replace("_", "-"): v for k, v in fields.items()}, host)
    return r.body.decode().split(" ")[0] if r.status == 200 else str(r.status)


# -- conditions ----------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def matching(backend: Backend) -> AsyncIterator[Proxy]:
    routes = [
        "# a comment line",
        "",
        rule("*", "any", backend) + "   # a comment after a rule",
        rule("known.example", "known", backend).replace(
            "known.example,", "known.example,path_beg=/only,"
        ),
        rule("path.example", "root", backend),
        rule("path.example,path_beg=/a", "a", backend),
        rule("path.example,path_beg=/a/b", "a-b", backend),
        rule("proto.example,path_beg=/long", "long", backend),
        rule("proto.example,proto=http", "proto", backend),
        rule("proto.example,proto=ws,path_beg=/long/er", "ws", backend),
        rule("ssl.example,path_beg=/long", "long", backend),
        rule("ssl.example,ssl=no", "plain", backend),
        rule("ssl.example,ssl=yes", "tls", backend),
        rule("twice.example", "one", backend),
        rule("twice.example", "two", backend),
        rule('quoted.example,path_beg="/a b,c#d"', "quoted", backend),
        rule("UPPER.example", "upper", backend),
        rule("escaped.example,path_beg=/%41", "escaped", backend),
        rule("case.example,path_beg=/Case", "case", backend),
        rule("unknown.example,nosuchprop=1,another", "unknown", backend),
    ]
    async with start_proxy(routes) as proxy:
        yield proxy


@shared
@pytest.mark.parametrize(("host", "path", "name"), [
    ("h", "/", "any"),
    ("h:8080", "/x", "any"),
    ("known.example", "/only/x", "known"),
    ("KNOWN.Example:99", "/only", "known"),
    ("path.example", "/b", "root"),
    ("path.example", "/a", "a"),
    ("path.example", "/ab", "a"),
    ("path.example", "/a/b?c", "a-b"),
    ("path.example", "/?/a/b", "root"),
    ("case.example", "/Case", "case"),
    ("unknown.example", "/", "unknown"),
], ids=lambda v: v)  # fmt: skip
async def test_host_and_longest_path_choose_the_rule(
    matching: Proxy, host: str, path: str, name: str
) -> None:
    assert await chosen(matching, path, host) == name


@shared
@pytest.mark.parametrize(("host", "path"), [
    ("known.example", "/other"),
    ("case.example", "/case"),
    ("quoted.example", "/a"),
])  # fmt: skip
async def test_known_host_never_falls_back_to_any_host(
    matching: Proxy, host: str, path: str
) -> None:
    assert await chosen(matching, path, host) == "502"


async def test_paths_are_compared_as_they_are_escaped(matching: Proxy) -> None:
    assert await chosen(matching, "/%41", "escaped.example") == "escaped"
    assert await chosen(matching, "/A", "escaped.example") == "502"


@shared
async def test_protocol_beats_a_longer_path(matching: Proxy) -> None:
    assert await chosen(matching, "/long/er", "proto.example") == "proto"


@shared
async def test_later_rule_that_names_tls_beats_an_earlier_longer_path(matching: Proxy) -> None:
    assert await chosen(matching, "/long", "ssl.example") == "plain"


@shared
async def test_rule_with_a_condition_that_is_taken_is_dropped_and_reported(matching: Proxy) -> None:
    assert await chosen(matching, "/", "twice.example") == "one"
    await matching.wait_log(r"routes:15\b")


@shared
async def test_name_with_capitals_is_never_met(matching: Proxy) -> None:
    # request hosts are lower-cased before they are compared
    assert await chosen(matching, "/", "upper.example") == "any"


async def test_dot_segments_are_resolved_for_matching_but_forwarded(
    matching: Proxy, backend: Backend
) -> None:
    r = await get(matching.port, "/x/../a/b", host="path.example")
    assert r.body == b"a-b /x/../a/b"


# -- the file ------------------------------------------------------------------


@shared
async def test_faulty_lines_are_reported_by_number_and_the_rest_loads(backend: Backend) -> None:
    routes = [
        rule("*", "any", backend),
        "only-a-condition.example",
        f"a.example,proto=ftp {backend.address}",
        f"b.example,ssl=maybe {backend.address}",
        f"c.example,path_beg= {backend.address}",
        f"d.example,header=nocolon {backend.address}",
        "e.example localhost",
        "f.example localhost:99999",
        f'g.example,path_beg="unterminated {backend.address}',
        f"h.example,aco,jsonp_mode=odd {backend.address}",
        rule("last.example", "last", backend),
    ]
    async with start_proxy(routes) as proxy:
        assert await chosen(proxy, "/", "last.example") == "last"
        assert await chosen(proxy, "/", "a.example") == "any"
        for line in range(2, 11):
            await proxy.wait_log(rf"\[WARN(ING)?\].*routes:{line}: ")


@shared
async def test_number_of_rules_is_logged(backend: Backend) -> None:
    routes = [rule("*", "any", backend), rule("a.example", "a", backend), "faulty"]
    async with start_proxy(routes) as proxy:
        # the start of Pushpin is probed by a rule of its own
        await proxy.wait_log(
            rf"routes loaded with {3 if hasattr(proxy, 'probe_port') else 2} entries"
        )


@shared
async def test_tab_does_not_separate_and_hash_ends_a_line_within_a_word(backend: Backend) -> None:
    routes = [
        f"a.example\t{backend.address}",
        f"b.example {backend.address}#5",
        rule("*", "any", backend),
    ]
    async with start_proxy(routes) as proxy:
        await proxy.wait_log(r"routes:1: ")
        r = await get(proxy.port, "/", host="b.example")
        assert (r.status, r.body) == (200, b" /")


@shared
async def test_flags_and_last_value_count_whatever_their_value(backend: Backend) -> None:
    routes = [
        f"a.example,orig_headers=no,path_rem=1,path_rem=2 {backend.address}",
        f"b.example,path_beg=/x,path_beg=/y,header=X-Route:b {backend.address}",
    ]
    async with start_proxy(routes) as proxy:
        assert (await get(proxy.port, "/a/b", host="a.example")).body == b" /b"
        request = backend.requests[-1]
        assert "eb9bf0f5-Host" in request.names
        assert await chosen(proxy, "/y", "b.example") == "b"
        assert await chosen(proxy, "/x", "b.example") == "502"


@shared
async def test_routes_of_the_command_line_replace_the_file(backend: Backend) -> None:
    routes = rule("*", "file", backend)
    first, second = rule("*", "option", backend), rule("a.example", "second", backend)
    async with start_proxy(routes, args=["--route", first, "--route", second]) as proxy:
        assert await chosen(proxy) == "option"
        assert await chosen(proxy, host="a.example") == "second"


# -- by id ---------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def by_id(backend: Backend) -> AsyncIterator[Proxy]:
    routes = [
        rule("*,id=one", "one", backend),
        rule(",id=hidden", "hidden", backend),
        rule("*,id=inner,path_beg=/in", "inner", backend),
        rule("derived.example,proto=http,path_beg=/p", "derived", backend),
        rule("a.example,id=same", "a", backend),
        rule("b.example,id=same", "b", backend),
    ]
    async with start_proxy(routes, proxy={"accept_pushpin_route": True}) as proxy:
        yield proxy


@shared
@pytest.mark.parametrize(("path", "wanted", "name"), [
    ("/", "one", "one"),
    ("/", "hidden", "hidden"),
    ("/in/x", "inner", "inner"),
    ("/p", "derived.example,http,*,/p", "derived"),
    ("/", "nonesuch", "502"),
])  # fmt: skip
async def test_accepted_pushpin_route_chooses_by_id(
    by_id: Proxy, path: str, wanted: str, name: str
) -> None:
    assert await chosen(by_id, path, Pushpin_Route=wanted) == name


async def test_id_of_two_routes_chooses_neither(by_id: Proxy) -> None:
    assert await chosen(by_id, "/", Pushpin_Route="same") == "502"


async def test_route_chosen_by_id_must_fit_the_path(by_id: Proxy) -> None:
    assert await chosen(by_id, "/", Pushpin_Route="inner") == "502"


@shared
async def test_accepted_pushpin_route_is_not_forwarded(by_id: Proxy, backend: Backend) -> None:
    await get(by_id.port, "/", {"Pushpin-Route": "one"})
    assert backend.requests[-1].header("pushpin-route") is None


@shared
async def test_explicit_id_stands_in_the_access_log(by_id: Proxy) -> None:
    await get(by_id.port, "/logged", {"Pushpin-Route": "one"})
    await by_id.wait_log(r"GET http://localhost/logged -> \S+ route=one code=200 ")


# -- the test target -----------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def test_target() -> AsyncIterator[Proxy]:
    async with start_proxy(["* test", "*,path_beg=/base/ test"]) as proxy:
        yield proxy


@shared
@pytest.mark.parametrize(("path", "status", "body"), [
    ("/", 200, b"Hello from the Pushpin test handler!\n"),
    ("/base/", 200, b"Hello from the Pushpin test handler!\n"),
    ("/elsewhere", 404, b"no such test resource\n"),
])  # fmt: skip
async def test_the_test_target_answers_by_itself(
    test_target: Proxy, path: str, status: int, body: bytes
) -> None:
    r = await get(test_target.port, path)
    assert (r.status, r.header("content-type"), r.body) == (status, "text/plain", body)


@shared
@pytest.mark.parametrize(("path", "channel"), [
    ("/stream", "test"), ("/base/stream?channel=own&x=1&channel=two", "two"),
])  # fmt: skip
async def test_the_test_target_holds_streams(test_target: Proxy, path: str, channel: str) -> None:
    async with connect(test_target.port) as c:
        await c.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert (await c.read_head()).header("content-type") == "text/plain"
        assert await c.read_until(b"\n") == b"[stream opened]\n"
        await test_target.wait_subscribed(channel)
        await test_target.publish(
            {"channel": channel, "formats": {"http-stream": {"content": "x\n"}}}
        )
        assert await c.read_until(b"\n") == b"x\n"


@shared
async def test_the_test_target_holds_responses(test_target: Proxy) -> None:
    async with connect(test_target.port) as c:
        await c.send(b"GET /response?channel=poll HTTP/1.1\r\nHost: a\r\n\r\n")
        await test_target.wait_subscribed("poll")
        await test_target.publish(
            {"channel": "poll", "formats": {"http-response": {"body": "x\n"}}}
        )
        r = await c.read_response()
        assert (r.status, r.header("content-type"), r.body) == (200, "text/plain", b"x\n")


# -- reload --------------------------------------------------------------------


@shared
@pytest.mark.parametrize("how", ["changed", "SIGHUP"])
async def test_new_routes_are_read_and_open_connections_stay(how: str) -> None:
    async with start_backend() as backend:
        backend.on("*", name_route)
        backend.on("/held", response(200, {"Grip-Hold": "stream", "Grip-Channel": "c"}, b"open\n"))
        async with (
            start_proxy(rule("*", "old", backend)) as proxy,
            connect(proxy.port) as idle,
            connect(proxy.port) as held,
        ):
            assert (await idle.request("GET", "/")).body == b"old /"
            await held.send(b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n")
            await held.read_head()
            assert await held.read_until(b"\n") == b"open\n"
            await proxy.wait_subscribed("c")
            proxy.write_routes(rule("*", "new", backend))
            if how == "SIGHUP":
                proxy.signal(signal.SIGHUP)
            else:
                await proxy.wait_log(r"routes file changed, reloading")
            await proxy.wait_log(r"routes loaded with", count=2)
            # Pushpin logs this just before it uses them
            async with asyncio.timeout(5):
                while (await idle.request("GET", "/")).body != b"new /":
                    pass
            await proxy.publish(
                {"channel": "c", "formats": {"http-stream": {"content": "still\n"}}}
            )
            assert await held.read_until(b"\n") == b"still\n"


@shared
async def test_request_under_way_keeps_its_route(backend: Backend) -> None:
    async with start_proxy(rule("*", "old", backend)) as proxy, connect(proxy.port) as c:
        # the backend is contacted when the body is there
        await c.send(
            b"POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await c.read_head()).status == 100
        proxy.write_routes(rule("*", "new", backend))
        proxy.signal(signal.SIGHUP)
        await proxy.wait_log(r"routes loaded with", count=2)
        async with asyncio.timeout(5):
            while await chosen(proxy) != "new":
                pass
        await c.send(b"ab")
        assert (await c.read_response()).body == b"old /slow"


async def test_old_routes_stay_when_the_file_cannot_be_read(backend: Backend) -> None:
    async with start_proxy(rule("*", "old", backend)) as proxy:
        proxy.routes_path.unlink()
        proxy.signal(signal.SIGHUP)
        await proxy.wait_log(r"\[WARN(ING)?\].*routes")
        assert await chosen(proxy) == "old"


async def test_broken_lines_of_new_routes_are_reported_and_the_rest_is_used(
    backend: Backend,
) -> None:
    async with start_proxy(rule("*", "old", backend)) as proxy:
        proxy.write_routes(["broken", rule("*", "new", backend)])
        proxy.signal(signal.SIGHUP)
        await proxy.wait_log(r"routes:1: ")
        await proxy.wait_log(r"routes loaded with 1 entries", count=2)
        assert await chosen(proxy) == "new"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")
async def test_target_may_be_an_ipv6_address() -> None:
    async with start_backend(host="::1") as backend:
        backend.on("*", name_route)
        async with start_proxy(f"* [::1]:{backend.port}") as proxy:
            assert (await get(proxy.port, "/x")).body == b" /x"
            assert backend.requests[-1].header("host") == "localhost"
            await proxy.wait_log(rf"GET \S+ -> \[::1\]:{backend.port} code=200")


# -- what gripproxy leaves out -------------------------------------------------


@pytest.mark.parametrize(
    "target", ["zhttp/tcp://127.0.0.1:10000", "zhttpreq/tcp://127.0.0.1:10000"]
)
async def test_zhttp_targets_are_refused_by_name(backend: Backend, target: str) -> None:
    async with start_proxy(["a.example " + target, rule("*", "any", backend)]) as proxy:
        await proxy.wait_log(r"routes:1: .*" + target.split("/")[0])
        assert await chosen(proxy) == "any"


async def test_untrusted_target_does_not_reach_private_addresses(backend: Backend) -> None:
    routes = f"*,debug {backend.address},untrusted"
    async with start_proxy(routes) as proxy:
        r = await get(proxy.port)
        assert (r.status, r.body) == (502, b"Error: Origin host/IP blocked.\n")
