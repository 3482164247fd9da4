"""TLS towards clients and backends, and Unix sockets for clients."""

import asyncio
import os
import ssl
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509

from tests.support.backend import Backend, response, start_backend
from tests.support.certs import Authority, Pair, client_context, server_context
from tests.support.client import Client, connect, get
from tests.support.proxy import Proxy, start_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
CA = Authority("test authority")
FAILED = "Error while proxying to origin.\n"


def serial(c: Client) -> int:
    """The number of the certificate that the proxy presented."""
    der = c.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).serial_number


async def ask(c: Client, target: str = "/") -> bytes:
    return (await c.request("GET", target)).body


# -- towards clients -----------------------------------------------------------

PAIRS = {
    "default_{https_port}": CA.issue("default.example"),
    "www.example.org": CA.issue("www.example.org"),
    "_.example.org": CA.issue("*.example.org"),
}


class Stage:
    def __init__(self, backend: Backend, secure: Backend, proxy: Proxy) -> None:
        self.backend, self.secure, self.proxy = backend, secure, proxy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with start_backend() as backend, start_backend() as secure:
        routes = [
            f"* {backend.address}",
            f"*,path_beg=/split,ssl=no {backend.address}",
            f"*,path_beg=/split,ssl=yes {secure.address}",
        ]
        settings = {"set_x_forwarded_protocol": "true"}
        async with start_proxy(routes, https=1, certs=PAIRS, proxy=settings) as proxy:
            backend.on("*", response(200, {}, b"plain"))
            secure.on("*", response(200, {}, b"secure"))
            yield Stage(backend, secure, proxy)


@shared
@pytest.mark.parametrize(("name", "file"), [
    ("www.example.org", "www.example.org"),
    ("other.example.org", "_.example.org"),
    ("a.b.example.org", "default_{https_port}"),
    ("example.org", "default_{https_port}"),
    ("elsewhere.example", "default_{https_port}"),
    (None, "default_{https_port}"),
])  # fmt: skip
async def test_certificate_is_chosen_by_server_name(
    stage: Stage, name: str | None, file: str
) -> None:
    async with connect(stage.proxy.https_port, tls=client_context(), sni=name) as c:
        assert serial(c) == PAIRS[file].serial
        assert await ask(c) == b"plain"


@shared
async def test_client_that_checks_the_certificate_is_content(stage: Stage) -> None:
    async with connect(stage.proxy.https_port, tls=client_context(CA), sni="www.example.org") as c:
        assert await ask(c) == b"plain"


@shared
async def test_backend_learns_of_tls(stage: Stage) -> None:
    async with connect(stage.proxy.https_port, tls=client_context()) as c:
        await ask(c, "/")
    request = stage.backend.requests[-1]
    assert request.header("x-forwarded-proto") == "https"
    assert request.header("x-forwarded-protocol") == "https"
    await get(stage.proxy.port)
    assert stage.backend.requests[-1].header("x-forwarded-proto") is None


@shared
async def test_rules_can_ask_for_tls(stage: Stage) -> None:
    assert (await get(stage.proxy.port, "/split")).body == b"plain"
    async with connect(stage.proxy.https_port, tls=client_context()) as c:
        assert await ask(c, "/split") == b"secure"


@shared
async def test_access_log_shows_the_scheme(stage: Stage) -> None:
    async with connect(stage.proxy.https_port, tls=client_context()) as c:
        await c.request("GET", "/logged", host="a.example")
    await stage.proxy.wait_log(r"GET https://a\.example/logged -> \S+ code=200 5$")


async def test_protocol_negotiation_is_not_offered(stage: Stage) -> None:
    context = client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with connect(stage.proxy.https_port, tls=context) as c:
        assert c.writer.get_extra_info("ssl_object").selected_alpn_protocol() != "h2"
        assert await ask(c) == b"plain"


@shared
async def test_plain_request_to_the_tls_port_gets_no_answer(stage: Stage) -> None:
    async with connect(stage.proxy.https_port) as c:
        await c.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"HTTP" not in await c.read_all()
    async with connect(stage.proxy.https_port, tls=client_context()) as c:
        assert await ask(c) == b"plain"


async def test_large_bodies_pass_tls(stage: Stage) -> None:
    data = os.urandom(3_000_000)
    stage.backend.on("/echo", lambda ex: response(200, {}, ex.request.body))
    async with connect(stage.proxy.https_port, tls=client_context()) as c:
        assert (await c.request("POST", "/echo", body=data)).body == data


@shared
async def test_handshake_fails_where_no_certificate_fits() -> None:
    async with (
        start_backend() as backend,
        start_proxy(
            f"* {backend.address}", https=1, certs={"only.example": CA.issue("only.example")}
        ) as proxy,
    ):
        backend.on("*", response(200, {}, b"ok"))
        for name in ("other.example", None):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with connect(proxy.https_port, tls=client_context(), sni=name):
                    pass
        async with connect(proxy.https_port, tls=client_context(), sni="only.example") as c:
            assert await ask(c) == b"ok"


def write_pair(proxy: Proxy, name: str, pair: Pair, age: float) -> None:
    """Put a certificate in place, its files `age` seconds older than now."""
    for suffix, data in ((".key", pair.key), (".crt", pair.cert)):
        path = proxy.directory / "runner" / "certs" / (name + suffix)
        path.write_bytes(data)
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))


@shared
async def test_newer_certificate_is_used_and_open_connections_stay() -> None:
    old, new = CA.issue("a.example"), CA.issue("a.example")
    async with start_backend() as backend:
        backend.on("*", response(200, {}, b"ok"))
        async with start_proxy(f"* {backend.address}", https=1) as proxy:
            write_pair(proxy, "a.example", old, age=60)
            async with connect(proxy.https_port, tls=client_context(), sni="a.example") as c:
                assert serial(c) == old.serial
                write_pair(proxy, "a.example", new, age=0)
                async with connect(proxy.https_port, tls=client_context(), sni="a.example") as d:
                    assert serial(d) == new.serial
                assert await ask(c) == b"ok"


async def test_broken_certificate_fails_its_own_name_alone() -> None:
    good, bad = CA.issue("good.example"), Pair(b"no certificate", b"no key", 0)
    certs = {"good.example": good, "bad.example": bad}
    async with start_backend() as backend:
        backend.on("*", response(200, {}, b"ok"))
        async with start_proxy(f"* {backend.address}", https=1, certs=certs) as proxy:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with connect(proxy.https_port, tls=client_context(), sni="bad.example"):
                    pass
            await proxy.wait_log(r"\[(WARN|ERR)\].*bad\.example")
            async with connect(proxy.https_port, tls=client_context(), sni="good.example") as c:
                assert await ask(c) == b"ok"


# -- towards backends ----------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outward() -> AsyncIterator[Stage]:
    by_name = server_context(CA.issue("backend.example"))
    by_address = server_context(CA.issue("localhost", "127.0.0.1"))
    async with start_backend(tls=by_name) as named, start_backend(tls=by_address) as local:
        port = named.port
        routes = [
            f"*,path_beg=/unchecked 127.0.0.1:{port},ssl,insecure",
            f"*,path_beg=/checked,debug 127.0.0.1:{port},ssl",
            f"*,path_beg=/host 127.0.0.1:{port},ssl,host=backend.example",
            f"*,path_beg=/host-port 127.0.0.1:{port},ssl,host=backend.example:8443",
            f"*,path_beg=/as-host,as_host=backend.example 127.0.0.1:{port},ssl",
            f"*,path_beg=/fallback 127.0.0.1:{port},ssl,host=wrong.example "
            f"localhost:{local.port},ssl,insecure",
            f"*,path_beg=/connect localhost:{local.port},ssl,host=a.example,trust_connect_host",
            f"*,path_beg=/no-connect localhost:{local.port},ssl,host=a.example",
            f"backend.example 127.0.0.1:{port},ssl",
        ]
        with tempfile.NamedTemporaryFile() as trusted:
            trusted.write(CA.cert)
            trusted.flush()
            env = {"SSL_CERT_FILE": trusted.name}
            async with start_proxy(routes, env=env) as proxy:
                named.on("*", response(200, {}, b"named"))
                local.on("*", response(200, {}, b"local"))
                yield Stage(named, local, proxy)


@shared
async def test_insecure_target_takes_any_certificate(outward: Stage) -> None:
    assert (await get(outward.proxy.port, "/unchecked")).body == b"named"


@shared
async def test_certificate_for_another_name_is_like_a_target_that_does_not_connect(
    outward: Stage,
) -> None:
    r = await get(outward.proxy.port, "/checked", host="h.example")
    assert (r.status, r.text) == (
        502,
        f"Unable to connect to any targets. Tried: {outward.backend.address}\n",
    )


@shared
async def test_failed_handshake_leads_to_the_next_target(outward: Stage) -> None:
    assert (await get(outward.proxy.port, "/fallback")).body == b"local"


@pytest.mark.parametrize(("path", "host"), [
    ("/host", "backend.example"),
    ("/host-port", "backend.example:8443"),
    ("/as-host", "backend.example"),
])  # fmt: skip
async def test_certificate_is_checked_against_the_host_of_the_request(
    outward: Stage, path: str, host: str
) -> None:
    assert (await get(outward.proxy.port, path)).body == b"named"
    request = outward.backend.requests[-1]
    assert (request.server_name, request.header("host")) == ("backend.example", host)


async def test_host_of_the_client_is_the_name_where_nothing_replaces_it(outward: Stage) -> None:
    assert (await get(outward.proxy.port, "/", host="backend.example:7999")).body == b"named"
    assert outward.backend.requests[-1].server_name == "backend.example"


async def test_certificate_can_be_checked_against_the_connect_host(outward: Stage) -> None:
    assert (await get(outward.proxy.port, "/connect")).body == b"local"
    request = outward.secure.requests[-1]
    assert (request.server_name, request.header("host")) == ("localhost", "a.example")
    assert (await get(outward.proxy.port, "/no-connect")).status == 502


async def test_connections_for_different_names_are_not_shared(outward: Stage) -> None:
    await get(outward.proxy.port, "/unchecked", host="one.example")
    await get(outward.proxy.port, "/unchecked", host="two.example")
    one, two = outward.backend.requests[-2:]
    assert (one.server_name, two.server_name) == ("one.example", "two.example")
    assert one.connection != two.connection


@shared
async def test_tls_connections_are_used_again(outward: Stage) -> None:
    for _ in range(2):
        await get(outward.proxy.port, "/unchecked", host="same.example")
    one, two = outward.backend.requests[-2:]
    assert one.connection == two.connection


async def test_backend_can_ask_for_a_client_certificate() -> None:
    ours = CA.issue("gripproxy")
    files = {"keys/client.crt": ours.cert, "keys/client.key": ours.key}
    context = server_context(CA.issue("backend.example"), client_ca=CA)
    async with start_backend(tls=context) as backend:
        address = f"127.0.0.1:{backend.port},ssl,insecure"
        routes = [
            f"*,path_beg=/with {address},client_cert=keys/client.crt,client_key=keys/client.key",
            f"*,path_beg=/without {address}",
        ]
        async with start_proxy(routes, files=files) as proxy:
            backend.on("*", response(200, {}, b"ok"))
            assert (await get(proxy.port, "/with")).body == b"ok"
            cert = backend.requests[-1].peer_cert
            assert cert is not None
            assert cert["subject"] == ((("commonName", "gripproxy"),),)
            assert (await get(proxy.port, "/without")).status == 502


async def test_rule_with_an_unreadable_client_certificate_is_reported() -> None:
    async with start_backend() as backend:
        routes = [
            f"a.example {backend.address},ssl,client_cert=missing.crt,client_key=missing.key",
            f"* {backend.address}",
        ]
        async with start_proxy(routes) as proxy:
            await proxy.wait_log(r"\[WARN\].*routes:1: .*missing")


# -- Unix sockets --------------------------------------------------------------


@shared
async def test_clients_may_come_by_unix_socket() -> None:
    async with start_backend() as backend:
        backend.on("*", response(200, {}, b"ok"))
        # relative to the working directory, which is the config's here
        async with start_proxy(
            f"* {backend.address}", runner={"local_ports": "a.sock,b.sock"}
        ) as proxy:
            for name in ("a.sock", "b.sock"):
                async with connect(unix=str(proxy.directory / name)) as c:
                    assert await ask(c) == b"ok"


async def test_mode_of_a_unix_socket_can_be_given() -> None:
    async with start_backend() as backend:
        local = "{rundir}/{ipc_prefix}server?mode=620,plain.sock"
        async with start_proxy(f"* {backend.address}", runner={"local_ports": local}) as proxy:
            assert stat.S_IMODE((proxy.rundir / "t-server").stat().st_mode) == 0o620


@shared
async def test_stale_unix_socket_is_replaced() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stale.sock")
        server = await asyncio.start_unix_server(lambda r, w: None, path)
        server.close()
        await server.wait_closed()
        assert path.is_socket()
        async with start_backend() as backend:
            backend.on("*", response(200, {}, b"ok"))
            async with (
                start_proxy(f"* {backend.address}", runner={"local_ports": path}),
                connect(unix=str(path)) as c,
            ):
                assert await ask(c) == b"ok"


async def test_file_that_is_no_socket_is_not_removed_for_one() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "precious")
        path.write_text("data")
        with pytest.raises(AssertionError, match="status 1"):
            async with start_proxy("* test", runner={"local_ports": path}):
                pass
        assert path.read_text() == "data"


async def test_unix_socket_is_removed_at_the_end() -> None:
    async with start_proxy("* test", runner={"local_ports": "a.sock"}) as proxy:
        assert (proxy.directory / "a.sock").is_socket()
        assert await proxy.stop() == 0
        assert not (proxy.directory / "a.sock").exists()
