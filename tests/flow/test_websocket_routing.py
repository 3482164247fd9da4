"""Which rule and target a WebSocket gets, and what the log says of it."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.flow.holding import BAD_ORIGIN, fresh
from tests.flow.sockets import OPEN, message
from tests.support.backend import Backend, Exchange, Request, response, start_backend
from tests.support.certs import Authority, client_context, server_context
from tests.support.client import fetch
from tests.support.proxy import Proxy, free_ports, start_proxy
from tests.support.websocket import (
    BINARY,
    TEXT,
    SocketBackend,
    WohBackend,
    accept,
    control,
    open_socket,
    refused,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
both_kinds = pytest.mark.parametrize("kind", ["woh", "ws"])
CA = Authority("test authority")


class Stage(NamedTuple):
    backend: Backend
    secure: Backend
    strict: Backend
    """Which wants a certificate of the proxy."""
    proxy: Proxy
    dead: list[str]
    """Addresses where nobody listens."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    pair = CA.issue("127.0.0.1")
    ours = CA.issue("gripproxy")
    files = {"keys/client.crt": ours.cert, "keys/client.key": ours.key}
    mutual = server_context(pair, client_ca=CA)
    async with (
        start_backend() as backend,
        start_backend(tls=server_context(pair)) as secure,
        start_backend(tls=mutual) as strict,
    ):
        keys = (
            f"{strict.address},ssl,insecure,client_cert=keys/client.crt,client_key=keys/client.key"
        )
        live, tls = backend.address, secure.address
        dead = [f"127.0.0.1:{port}" for port in free_ports(2)]
        routes = [
            f"proto.example {live},over_http",
            f"proto.example,proto=http {dead[0]}",
            f"web.example,proto=http {live}",
            f"tls.example,ssl=yes {live},over_http",
            f"* {live},over_http",
            f"*,path_beg=/ws/,prefix=ws- {live}",
            f"*,path_beg=/mixed/ {dead[0]} {live},over_http",
            "*,path_beg=/test/ test",
            "*,path_beg=/bare/,no_grip test",
        ]
        for kind, option in (("woh", ",over_http"), ("ws", "")):
            routes += [
                f"*,path_beg=/{kind}-old/,path_rem={len(kind) + 5},replace_beg=/new/,"
                f"as_host=as.example:81,header=X-New:1,header=X-Gone: {live}{option}",
                f"*,path_beg=/{kind}-host/ {live},host=target.example{option}",
                f"*,path_beg=/{kind}-tls/ {tls},ssl,insecure{option}",
                f"*,path_beg=/{kind}-mutual/ {strict.address},ssl,insecure,{keys}{option}",
                f"*,path_beg=/{kind}-keyless/ {strict.address},ssl,insecure{option}",
                # nobody is there; the certificate is not trusted
                f"*,path_beg=/{kind}-next/ {dead[0]}{option} {tls},ssl{option} {live}{option}",
                f"*,path_beg=/{kind}-twice/ {live}{option} {tls},ssl,insecure{option}",
                f"*,path_beg=/{kind}-dead/ {dead[0]}{option} {dead[1]}{option}",
                f"*,path_beg=/{kind}-debug/,debug {dead[0]}{option} {dead[1]}{option}",
            ]
        certs = {"default_{https_port}": pair}
        async with start_proxy(routes, https=1, certs=certs, files=files) as proxy:
            yield Stage(backend, secure, strict, proxy, dead)


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()
    stage.secure.reset()
    stage.strict.reset()


def serve(backend: Backend, kind: str, path: str) -> None:
    """Let `backend` accept WebSockets of the kind at `path`."""
    if kind == "woh":
        WohBackend(backend, path)
    else:
        SocketBackend(backend, path)


async def request_for(backend: Backend, path: str) -> Request:
    """The first request for `path`, as soon as it is there."""
    while not (found := requests_for(backend, path)):
        await backend.next_request()
    return found[0]


def requests_for(backend: Backend, path: str) -> list[Request]:
    """Those for `path` alone: a connection of an earlier test may still say that it is lost."""
    return [r for r in backend.requests if r.target.partition("?")[0] == path]


# -- rules -----------------------------------------------------------------------------------


@shared
@both_kinds
async def test_a_rule_rewrites_path_host_and_headers(stage: Stage, kind: str) -> None:
    name = fresh("p")
    serve(stage.backend, kind, f"/new/{name}")
    fields = {"X-Gone": "1"}
    async with open_socket(stage.proxy.port, f"/{kind}-old/{name}?a=1&b", fields):
        request = await request_for(stage.backend, f"/new/{name}")
    assert request.target == f"/new/{name}?a=1&b"
    assert request.header("host") == "as.example:81"
    assert (request.header("x-new"), request.header("x-gone")) == ("1", None)


@shared
@both_kinds
async def test_a_target_names_the_host(stage: Stage, kind: str) -> None:
    path = f"/{kind}-host/" + fresh("p")
    serve(stage.backend, kind, path)
    async with open_socket(stage.proxy.port, path, host="localhost:81"):
        assert (await request_for(stage.backend, path)).header("host") == "target.example"


@shared
@both_kinds
async def test_the_hosts_port_is_kept(stage: Stage, kind: str) -> None:
    path = f"/{kind}/" + fresh("p")
    serve(stage.backend, kind, path)
    async with open_socket(stage.proxy.port, path, host="localhost:81"):
        assert (await request_for(stage.backend, path)).header("host") == "localhost:81"


@shared
@both_kinds
async def test_a_target_is_spoken_to_over_tls(stage: Stage, kind: str) -> None:
    path = f"/{kind}-tls/" + fresh("p")
    serve(stage.secure, kind, path)
    async with open_socket(stage.proxy.port, path):
        assert (await request_for(stage.secure, path)).target == path


@both_kinds
async def test_a_target_may_ask_for_a_certificate(stage: Stage, kind: str) -> None:
    path = f"/{kind}-mutual/" + fresh("p")
    serve(stage.strict, kind, path)
    async with open_socket(stage.proxy.port, path):
        cert = (await request_for(stage.strict, path)).peer_cert
    assert cert is not None
    assert cert["subject"] == ((("commonName", "gripproxy"),),)
    r = await refused(stage.proxy.port, path.replace("mutual", "keyless"))
    assert (r.status, r.body) == (502, BAD_ORIGIN)


@shared
async def test_a_rule_for_http_is_not_for_websockets(stage: Stage) -> None:
    backend = WohBackend(stage.backend, "/" + fresh("p"))
    async with open_socket(stage.proxy.port, backend.path, host="proto.example"):
        assert await backend.next_events() == OPEN
    # the same path, but the rule whose target is dead
    r = await fetch(stage.proxy.port, "GET", backend.path, host="proto.example")
    assert (r.status, r.body) == (502, BAD_ORIGIN)


@shared
async def test_a_rule_for_tls(stage: Stage) -> None:
    backend = WohBackend(stage.backend, "/" + fresh("p"))
    tls = client_context()
    async with open_socket(stage.proxy.https_port, backend.path, tls=tls, host="tls.example"):
        assert await backend.next_events() == OPEN
    r = await refused(stage.proxy.port, backend.path, host="tls.example")
    assert r.status == 502


@shared
async def test_no_rule_is_502(stage: Stage) -> None:
    path = "/" + fresh("p")
    r = await refused(stage.proxy.port, path, host="web.example")
    assert (r.status, r.reason, r.all("Content-Type")) == (502, "Bad Gateway", [])
    assert requests_for(stage.backend, path) == []


async def test_no_rule_is_said_so(stage: Stage) -> None:
    """Pushpin 1.36 names the host."""
    assert (await refused(stage.proxy.port, host="web.example")).body == b"Route not found\n"


# -- targets ---------------------------------------------------------------------------------


@shared
@both_kinds
async def test_a_target_that_cannot_be_connected_to_gives_way(stage: Stage, kind: str) -> None:
    path = f"/{kind}-next/" + fresh("p")
    serve(stage.backend, kind, path)
    async with open_socket(stage.proxy.port, path):
        assert (await request_for(stage.backend, path)).target == path


@shared
async def test_targets_of_both_kinds(stage: Stage) -> None:
    backend = WohBackend(stage.backend, "/mixed/" + fresh("p"))
    async with open_socket(stage.proxy.port, backend.path) as client:
        assert await backend.next_events() == OPEN
        await client.send_text("hello")
        assert await backend.next_events() == [("TEXT", b"hello")]


@shared
@both_kinds
async def test_no_target_is_502(stage: Stage, kind: str) -> None:
    r = await refused(stage.proxy.port, f"/{kind}-dead/")
    assert (r.status, r.reason, r.body) == (502, "Bad Gateway", BAD_ORIGIN)
    assert r.all("Content-Type") == []


@shared
@both_kinds
async def test_debug_tells_which_targets_were_tried(stage: Stage, kind: str) -> None:
    r = await refused(stage.proxy.port, f"/{kind}-debug/")
    tried = ", ".join(stage.dead)
    assert (r.status, r.text) == (502, f"Unable to connect to any targets. Tried: {tried}\n")


@shared
@both_kinds
async def test_a_failure_after_connecting_is_the_end(stage: Stage, kind: str) -> None:
    path = f"/{kind}-twice/" + fresh("p")

    def fail(exchange: Exchange) -> None:
        exchange.abort()

    stage.backend.on(path, fail)
    r = await refused(stage.proxy.port, path)
    assert (r.status, r.body) == (502, BAD_ORIGIN)
    assert requests_for(stage.secure, path) == []


@shared
@both_kinds
async def test_a_rejection_is_the_end(stage: Stage, kind: str) -> None:
    path = f"/{kind}-twice/" + fresh("p")
    stage.backend.on(path, response(403, body=b"no"))
    r = await refused(stage.proxy.port, path)
    assert (r.status, r.body) == (403, b"no")
    assert requests_for(stage.secure, path) == []


# -- the target within the proxy -------------------------------------------------------------


@shared
@pytest.mark.parametrize("path", ["/test/ws", "/test/ws/"])
async def test_the_test_target_echoes_and_publishes(stage: Stage, path: str) -> None:
    one, two = fresh(), fresh()
    async with open_socket(stage.proxy.port, f"{path}?channel={one}&channel={two}") as client:
        await client.send(TEXT, b"hello")
        assert await client.read_message() == (TEXT, b"hello")
        await client.send(BINARY, b"\0")
        assert await client.read_message() == (BINARY, b"\0")
        for channel in (one, two):
            await stage.proxy.wait_subscribed(channel)
            await stage.proxy.publish(message(channel, f"of {channel}"))
            assert await client.read_text() == f"of {channel}"
        await client.send_close(1001, b"bye")
        assert await client.read_close() == (1001, b"bye")


@shared
async def test_without_grip_the_test_target_does_nothing_but_echo(stage: Stage) -> None:
    c = fresh()
    async with open_socket(stage.proxy.port, f"/bare/ws?channel={c}") as client:
        for content in ("hello", "m:hello", 'c:{"type":"detach"}'):
            await client.send_text(content)
            assert await client.read_text() == content
        await stage.proxy.publish(message(c, "published"))
        await stage.proxy.wait_log(rf"publish channel={c} receivers=0")


@shared
async def test_the_test_targets_channel_has_a_name_of_its_own(stage: Stage) -> None:
    async with open_socket(stage.proxy.port, "/test/ws") as client:
        await stage.proxy.wait_subscribed("test")
        await stage.proxy.publish(message("test", "hello"))
        assert await client.read_text() == "hello"


@shared
@pytest.mark.parametrize("path", ["/test/", "/test/other", "/test/ws/more", "/test/response"])
async def test_the_test_target_has_nothing_else_for_websockets(stage: Stage, path: str) -> None:
    r = await refused(stage.proxy.port, path)
    assert (r.status, r.reason, r.text) == (404, "Not Found", "no such test resource\n")
    assert r.header("content-type") == "text/plain"


# -- the log ---------------------------------------------------------------------------------


@shared
@both_kinds
async def test_an_accepted_connection_is_logged(stage: Stage, kind: str) -> None:
    path = f"/{kind}/" + fresh("p")
    serve(stage.backend, kind, path)
    async with open_socket(stage.proxy.port, path + "?a=1", host="log.example:81"):
        shown = f"GET ws://log.example:81{path}?a=1 -> {stage.backend.address}"
        shown += "[http]" if kind == "woh" else ""
        await stage.proxy.wait_log(re.escape(shown) + " code=101 0$")


@shared
async def test_a_connection_over_tls_is_logged(stage: Stage) -> None:
    backend = WohBackend(stage.backend, "/" + fresh("p"))
    async with open_socket(stage.proxy.https_port, backend.path, tls=client_context()):
        shown = f"GET wss://localhost{backend.path} -> {stage.backend.address}[http]"
        await stage.proxy.wait_log(re.escape(shown) + " code=101 0$")


@shared
async def test_a_rejection_is_logged(stage: Stage) -> None:
    path = "/" + fresh("p")
    stage.backend.on(path, response(403, body=b"no"))
    await refused(stage.proxy.port, path)
    shown = f"GET ws://localhost{path} -> {stage.backend.address}[http] code=403 2"
    await stage.proxy.wait_log(re.escape(shown) + "$")


async def test_warnings_of_websockets() -> None:
    """They name the URL or the connection, whatever the level; no more than five in a second."""
    (closed,) = free_ports(1)
    async with start_backend() as backend:
        routes = [f"* {backend.address},over_http", f"*,path_beg=/ws {backend.address}"]
        for kind, option in (("woh", ",over_http"), ("ws", "")):
            routes.append(f"*,path_beg=/{kind}-dead 127.0.0.1:{closed}{option}")
        async with start_proxy(routes, runner={"log_level": 1}) as proxy:
            for kind in ("woh", "ws"):
                await refused(proxy.port, f"/{kind}-dead")
                url = f"ws://localhost/{kind}-dead"
                await proxy.wait_log(rf"\[WARN\].* {url}: .*Connection refused$")
            backend.on("/ws-gone", lambda exchange: exchange.abort())
            await refused(proxy.port, "/ws-gone")
            await proxy.wait_log(r"\[WARN\].* ws://localhost/ws-gone: connection ")
            woh = WohBackend(backend, "/filters")
            several = control(type="subscribe", channel="c", filters=["skip-self"])
            too_many = control(type="subscribe", channel="c", filters=["skip-self"] * 6)
            woh.answers.append(accept(several, too_many))
            async with open_socket(proxy.port, woh.path) as client:
                assert await client.read_close() == (1011, b"")
            url = "ws://localhost/filters"
            await proxy.wait_log(rf"\[WARN\].* filters have no effect .*: {url}$")
            reason = "too many filters for channel 'c'"
            await proxy.wait_log(rf"\[WARN\].* connection \d+ closed: {reason}$")


@shared
async def test_a_subscription_is_logged(stage: Stage) -> None:
    backend, channel = WohBackend(stage.backend, "/" + fresh("p")), fresh()
    backend.answers.append(accept(control(type="subscribe", channel=channel)))
    async with open_socket(stage.proxy.port, backend.path):
        shown = f"subscribe ws://localhost{backend.path} channel={channel}"
        await stage.proxy.wait_log(re.escape(shown) + "$")
