"""Running it: configuration, command line, exit codes, signals, log lines and process limits."""

import asyncio
import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.backend import Backend, Exchange, response, start_backend
from tests.support.client import connect, fetch, get
from tests.support.proxy import PUSHPIN, Proxy, free_ports, has_ipv6, run_cli, start_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
STAMP = r"^\[INFO\] \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} "


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with start_backend() as it:
        it.on("*", response(200, {}, b"hello\n"))
        it.on("/hold", response(200, {"Grip-Hold": "stream", "Grip-Channel": "c"}, b"held\n"))
        yield it


# -- signals -------------------------------------------------------------------


@shared
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_it_with_status_0_whatever_is_open(
    backend: Backend, number: signal.Signals
) -> None:
    async with (
        start_proxy(f"* {backend.address}") as proxy,
        connect(proxy.port) as held,
        connect(proxy.port) as partial,
    ):
        await partial.send(b"GET / HTTP/1.1\r\nHo")
        await held.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await held.read_head()
        assert await held.read_until(b"\n") == b"held\n"
        await proxy.wait_subscribed("c")
        proxy.signal(number)
        assert await proxy.wait_exit() == 0
        # held clients are cut, without an end of the body
        assert await held.read_all() == b""


async def test_hangup_opens_the_log_anew(backend: Backend) -> None:
    async with start_proxy(f"* {backend.address}", args=["--logfile", "gripproxy.log"]) as proxy:
        log, moved = proxy.directory / "gripproxy.log", proxy.directory / "gripproxy.log.1"
        await get(proxy.port, "/before")
        log.rename(moved)
        proxy.signal(signal.SIGHUP)
        async with asyncio.timeout(5):
            while not log.exists():
                await asyncio.sleep(0.01)
        await get(proxy.port, "/after")
        async with asyncio.timeout(5):
            while "/after" not in log.read_text():
                await asyncio.sleep(0.01)
        assert "/before" in moved.read_text()
        assert "/before" not in log.read_text()
        assert "/after" not in moved.read_text()


async def test_log_file_is_appended_to(backend: Backend) -> None:
    files = {"gripproxy.log": "an earlier line\n"}
    args = ["--logfile", "gripproxy.log"]
    async with start_proxy(f"* {backend.address}", args=args, files=files) as proxy:
        text = (proxy.directory / "gripproxy.log").read_text()
        assert text.startswith("an earlier line\n[INFO] ")


# -- log lines -----------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def logging(backend: Backend) -> AsyncIterator[Proxy]:
    settings = {"log_from": True, "log_user_agent": True}
    (nobody,) = free_ports(1)
    routes = [
        f"* {backend.address}",
        f"named.example,id=named {backend.address}",
        f"down.example 127.0.0.1:{nobody}",
    ]
    async with start_proxy(routes, proxy=settings) as proxy:
        yield proxy


@shared
async def test_access_line_of_a_request(logging: Proxy, backend: Backend) -> None:
    fields = {"User-Agent": "some browser/1.0", "Referer": "http://from.example/"}
    await get(logging.port, "/a?b=c", fields, host="h.example:81")
    target = re.escape(backend.address)
    await logging.wait_log(
        STAMP + rf"(\[proxy\] )?GET http://h\.example:81/a\?b=c -> {target} from=127\.0\.0\.1 "
        r"ref=http://from\.example/ code=200 6 ua=some browser/1\.0$"
    )


@shared
async def test_access_line_of_a_named_route(logging: Proxy) -> None:
    await fetch(logging.port, "PUT", "/x", body=b"abc", host="named.example")
    await logging.wait_log(
        r"PUT http://named\.example/x -> \S+ from=127\.0\.0\.1 route=named code=200 6$"
    )


@shared
async def test_access_line_counts_the_bytes_of_an_answer_of_our_own(logging: Proxy) -> None:
    await get(logging.port, "/", host="down.example")
    await logging.wait_log(r"GET http://down\.example/ -> \S+ from=127\.0\.0\.1 code=502 32$")


@shared
async def test_access_line_of_a_hold(logging: Proxy) -> None:
    async with connect(logging.port) as c:
        await c.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await c.read_head()
        await logging.wait_log(r"GET http://a/hold -> \S+ from=127\.0\.0\.1 accept$")
        await logging.wait_log(r"subscribe http://a/hold channel=c$")
        await logging.publish({"channel": "c", "formats": {"http-stream": {"content": "x"}}})
        await logging.wait_log(r"publish channel=c receivers=1$")


async def test_log_level_hides_what_is_below_it(backend: Backend) -> None:
    async with start_proxy(["faulty", f"* {backend.address}"], runner={"log_level": 1}) as proxy:
        await get(proxy.port, "/")
        assert await proxy.stop() == 0
        assert "[WARN]" in proxy.log()
        assert "[INFO]" not in proxy.log()


@pytest.mark.parametrize(("args", "level"), [
    (["--loglevel", "0"], "ERR"), (["--verbose"], "DEBUG"), (["--loglevel", "proxy:3"], "DEBUG"),
])  # fmt: skip
async def test_log_level_of_the_command_line_counts(
    backend: Backend, args: list[str], level: str
) -> None:
    routes = ["faulty", f"* {backend.address}", "down.example 127.0.0.1:1"]
    async with start_proxy(routes, args=args, runner={"log_level": 2}) as proxy:
        await get(proxy.port, "/")
        await get(proxy.port, "/", host="down.example")
        assert await proxy.stop() == 0
        levels = set(re.findall(r"^\[([A-Z]+)\] ", proxy.log(), re.MULTILINE))
        assert levels <= {"ERR"} if level == "ERR" else level in levels


async def test_secrets_do_not_stand_in_the_log(backend: Backend) -> None:
    settings = {"sig_key": "quite-secret-1", "upstream_key": "quite-secret-2"}
    routes = f"*,sig_key=quite-secret-3 {backend.address}"
    async with start_proxy(routes, proxy=settings, args=["--loglevel", "4"]) as proxy:
        await get(proxy.port, "/")
        assert "quite-secret" not in proxy.log()


# -- command line --------------------------------------------------------------


@shared
@pytest.mark.parametrize("option", ["--version", "-v" if PUSHPIN else "-V"])
async def test_version_is_printed(option: str) -> None:
    done = await run_cli(option)
    assert done.status == 0
    assert re.fullmatch(r"(pushpin|gripproxy) \d+\.\d+\S*\n", done.out)


@shared
@pytest.mark.parametrize("option", ["--help", "-h"])
async def test_help_is_printed(option: str) -> None:
    done = await run_cli(option)
    assert done.status == 0
    for name in (
        "--config",
        "--logfile",
        "--loglevel",
        "--verbose",
        "--port",
        "--id",
        "--route",
        "--version",
    ):
        assert name in done.out


@shared
@pytest.mark.parametrize("args", [
    ["--nonesuch"],
    ["--config=/nonexistent/pushpin.conf"],
    ["--port=none"],
], ids=lambda a: a[0])  # fmt: skip
async def test_wrong_option_ends_it_with_a_reason(tmp_path: Path, args: list[str]) -> None:
    done = await run_cli(*args, cwd=tmp_path)
    assert done.status in (1, 2)
    assert done.err + done.out != ""


@pytest.mark.parametrize(("option", "message"), [
    ("--id=-1", "id must be greater than or equal to 0"),
    ("--port=0", "port must be greater than or equal to 1"),
    ("--loglevel=-1", "log level must be greater than or equal to 0"),
])  # fmt: skip
async def test_option_out_of_range_is_named(tmp_path: Path, option: str, message: str) -> None:
    done = await run_cli("--route", "* test", option, cwd=tmp_path)
    assert done.status == 1
    assert message in done.err


async def test_port_of_the_command_line_replaces_all_others(backend: Backend) -> None:
    (port,) = free_ports(1)
    args = ["--port", f"127.0.0.1:{port}"]
    async with start_proxy(f"* {backend.address}", args=args, wait_ports=[port]) as proxy:
        assert (await get(port)).body == b"hello\n"
        with pytest.raises(ConnectionRefusedError):
            await get(proxy.port)


def free_instance() -> int:
    """An instance number that moves the control ports to where nobody listens."""
    for number in range(300, 2000):
        try:
            for port in (5560, 5561, 5562, 5563):
                socket.create_server(("127.0.0.1", port + 10 * number)).close()
        except OSError:
            continue
        return number
    raise AssertionError("no free ports")


async def test_it_runs_without_naming_a_configuration(backend: Backend) -> None:
    (port,) = free_ports(1)
    number = free_instance()
    async with start_proxy(
        configured=False,
        args=[
            "--port",
            f"127.0.0.1:{port}",
            "--route",
            f"* {backend.address}",
            "--id",
            str(number),
        ],
        wait_ports=[port],
    ):
        assert (await get(port)).body == b"hello\n"
        control = await fetch(5561 + 10 * number, "POST", "/publish", body=b'{"items":[]}')
        assert control.body == b"Published\n"


async def test_configuration_is_found_in_the_working_directory(
    backend: Backend, tmp_path: Path
) -> None:
    (tmp_path / "pushpin.conf").write_text("[proxy]\nroutesfile=routes\n[runner]\nhttp_port=81\n")
    (tmp_path / "routes").write_text(f"found.example {backend.address}\n")
    done = await run_cli("check", cwd=tmp_path)
    assert done.status == 0
    assert "found.example" in done.out
    assert str(tmp_path / "pushpin.conf") in done.out


async def test_client_port_in_use_ends_it_with_status_1(backend: Backend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match=rf"(?s)status 1:.*{port}"):
            async with start_proxy(
                f"* {backend.address}", runner={"http_port": f"127.0.0.1:{port}"}, wait_ports=[1]
            ):
                pass


@pytest.mark.parametrize("key", ["push_in_http_port", "push_in_spec", "push_in_sub_specs"])
async def test_control_port_in_use_ends_it_with_status_1(backend: Backend, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        value = port if key == "push_in_http_port" else f"tcp://127.0.0.1:{port}"
        with pytest.raises(AssertionError, match=rf"(?s)status 1:.*{port}"):
            async with start_proxy(f"* {backend.address}", handler={key: value}, wait_ports=[1]):
                pass


# -- check ---------------------------------------------------------------------


CONFIG = """[runner]
http_port=7999
[proxy]
routesfile=routes
[handler]
push_in_http_port=5561
push_in_http_addr=127.0.0.1
"""


async def check(
    folder: Path, config: str, routes: str = "* localhost:80\n", *args: str
) -> tuple[int, str]:
    """The exit status of `gripproxy check` and all that it printed."""
    (folder / "my.conf").write_text(config)
    (folder / "routes").write_text(routes)
    done = await run_cli("check", "--config", str(folder / "my.conf"), *args, cwd=folder)
    return done.status, done.out + done.err


async def test_check_shows_what_was_understood(tmp_path: Path) -> None:
    status, text = await check(tmp_path, CONFIG, "*,path_beg=/a localhost:81,ssl other:82\n")
    assert status == 0
    for part in ("my.conf", "7999", "5561", "/a", "localhost:81", "other:82"):
        assert part in text


@pytest.mark.parametrize(("line", "key"), [
    ("[proxy]\ndebug=perhaps", "debug"),
    ("[proxy]\nbackend_maxconn=many", "backend_maxconn"),
    ("[runner]\nclient_buffer_size=0", "client_buffer_size"),
    ("[runner]\nhttp_port=70000", "http_port"),
    ("[handler]\nmessage_wait=soon", "message_wait"),
    ("[handler]\nstats_format=xml", "stats_format"),
    ("[handler]\npush_in_spec=nonsense", "push_in_spec"),
    ("[global]\nport_offset=x", "port_offset"),
])  # fmt: skip
async def test_wrong_value_stops_the_start_with_file_line_and_reason(
    tmp_path: Path, line: str, key: str
) -> None:
    config = CONFIG + line + "\n"
    number = config.count("\n")
    status, text = await check(tmp_path, config)
    assert status == 1
    assert re.search(rf"my\.conf:{number}: .*{key}", text), text
    # a start says the same
    done = await run_cli("--config", str(tmp_path / "my.conf"), cwd=tmp_path)
    assert done.status == 1
    assert f"my.conf:{number}: " in done.err


async def test_line_that_is_no_setting_stops_the_start(tmp_path: Path) -> None:
    status, text = await check(tmp_path, CONFIG + "nonsense\n")
    assert status == 1
    assert f"my.conf:{CONFIG.count(chr(10)) + 1}: " in text


async def test_check_fails_for_a_faulty_route(tmp_path: Path) -> None:
    status, text = await check(tmp_path, CONFIG, "* localhost:80\nonly-a-condition\n")
    assert status == 1
    assert "routes:2: " in text


async def test_configuration_without_client_ports_is_refused(tmp_path: Path) -> None:
    status, text = await check(tmp_path, "[proxy]\nroutesfile=routes\n")
    assert status == 1
    assert "no server ports configured" in text


async def test_check_opens_no_port(backend: Backend) -> None:
    async with start_proxy(f"* {backend.address}") as proxy:
        done = await run_cli("check", "--config", str(proxy.config_path), cwd=proxy.directory)
        assert done.status == 0
        assert str(proxy.port) in done.out


# -- configuration -------------------------------------------------------------


async def test_pushpin_conf_of_debian_is_accepted(backend: Backend) -> None:
    """Every key of the sample of Pushpin 1.36, with the ports changed."""
    (nowhere,) = free_ports(1)
    config = f"""[global]
include={{libdir}}/internal.conf
rundir=run
ipc_prefix=pushpin-
port_offset=0
stats_connection_ttl=120
[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:{{port}}
logdir=log
log_level=2
client_buffer_size=8192
client_maxconn=50000
condure_bin=condure
mongrel2_bin=mongrel2
m2sh_bin=m2sh
zurl_bin=zurl
[proxy]
routesfile=routes
debug=false
auto_cross_origin=false
accept_x_forwarded_protocol=false
set_x_forwarded_protocol=proto-only
x_forwarded_for=
x_forwarded_for_trusted=
orig_headers_need_mark=
accept_pushpin_route=false
log_from=false
log_user_agent=false
sig_iss=pushpin
sig_key=changeme
upstream_key=
sockjs_url=http://cdn.jsdelivr.net/sockjs/0.3.4/sockjs.min.js
updates_check=off
organization_name=
[handler]
#ipc_file_mode=777
push_in_spec=ipc://{{rundir}}/{{ipc_prefix}}pull
push_in_sub_specs=ipc://{{rundir}}/{{ipc_prefix}}sub
push_in_sub_connect=false
push_in_http_addr=127.0.0.1
push_in_http_port={{http_control}}
push_in_http_max_headers_size=10000
push_in_http_max_body_size=1000000
stats_spec=ipc://{{rundir}}/{{ipc_prefix}}stats
command_spec=tcp://127.0.0.1:{nowhere}
message_rate=2500
message_hwm=25000
message_wait=5000
id_cache_ttl=60
connection_subscription_max=20
subscription_linger=60
stats_subscription_ttl=60
stats_report_interval=10
stats_format=tnetstring
"""
    async with start_proxy(f"* {backend.address}", config=config) as proxy:
        assert (await get(proxy.port)).body == b"hello\n"
        assert (proxy.rundir / "pushpin-pull").is_socket()
        assert (proxy.rundir / "pushpin-sub").is_socket()
        await proxy.wait_log(r"\[WARN\].*message_rate=2500, message_hwm=25000")
        assert not re.search(r"\[WARN\].*unknown", proxy.log())
        meaningless = await proxy.wait_log(r"^\[INFO\].*services.*")
        assert len(meaningless) == 1


async def test_unknown_key_is_named_with_its_line(backend: Backend) -> None:
    async with start_proxy(f"* {backend.address}", proxy={"debgu": True}) as proxy:
        await proxy.wait_log(r"\[WARN\].*pushpin\.conf:\d+: .*debgu.*debug")


async def test_included_file_fills_in_what_the_main_file_leaves_out(backend: Backend) -> None:
    included = "[proxy]\nlog_from=true\nlog_user_agent=true\nroutesfile=wrong\n"
    async with start_proxy(
        f"* {backend.address}",
        globals={"include": "more.conf"},
        proxy={"log_user_agent": False},
        files={"more.conf": included},
    ) as proxy:
        await get(proxy.port, "/x", {"User-Agent": "agent"})
        await proxy.wait_log(r"GET http://localhost/x -> \S+ from=127\.0\.0\.1 code=200 6$")


async def test_port_offset_moves_control_ports_and_no_client_port(backend: Backend) -> None:
    client, control = free_ports(2)
    async with start_proxy(
        f"* {backend.address}",
        globals={"port_offset": 1},
        runner={"http_port": f"127.0.0.1:{client}"},
        handler={"push_in_http_port": control - 1, "push_in_spec": "", "push_in_sub_specs": ""},
        wait_ports=[client, control],
    ):
        assert (await get(client)).body == b"hello\n"
        assert (await get(control, "/")).body == b"Pushpin API\n"


@shared
async def test_several_client_ports_are_opened(backend: Backend) -> None:
    (second,) = free_ports(1)
    ports = f"127.0.0.1:{{port}},127.0.0.1:{second}"
    async with start_proxy(f"* {backend.address}", runner={"http_port": ports}) as proxy:
        for port in (proxy.port, second):
            assert (await get(port)).body == b"hello\n"


@shared
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")
async def test_client_port_may_have_an_ipv6_address(backend: Backend) -> None:
    (port,) = free_ports(1)
    ports = f"127.0.0.1:{{port}},[::1]:{port}"
    async with (
        start_proxy(f"* {backend.address}", runner={"http_port": ports}),
        connect(port, host="::1") as c,
    ):
        assert (await c.request("GET", "/", host=f"[::1]:{port}")).body == b"hello\n"


# -- limits of the process -----------------------------------------------------


async def test_clients_beyond_client_maxconn_wait_their_turn(backend: Backend) -> None:
    async with (
        start_proxy(f"* {backend.address}", runner={"client_maxconn": 2}) as proxy,
        connect(proxy.port) as one,
        connect(proxy.port) as two,
        connect(proxy.port) as three,
    ):
        assert (await one.request("GET", "/")).status == 200
        assert (await two.request("GET", "/")).status == 200
        await three.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await three.is_silent(0.3)
        await one.close()
        assert (await three.read_response()).body == b"hello\n"


class Gate:
    """Keeps requests to /gate until it is opened."""

    def __init__(self, backend: Backend) -> None:
        self.opened = asyncio.Event()
        backend.reset()
        backend.on("*", response(200, {}, b"hello\n"))
        backend.on("/gate", self.handle)

    async def handle(self, ex: Exchange) -> bytes:
        await self.opened.wait()
        return response(200, {}, b"waited")


async def test_requests_beyond_max_open_requests_wait() -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy={"max_open_requests": 1}) as proxy,
        connect(proxy.port) as one,
        connect(proxy.port) as two,
    ):
        gate = Gate(backend)
        await one.send(b"GET /gate HTTP/1.1\r\nHost: a\r\n\r\n")
        await backend.next_request()
        await two.send(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await two.is_silent(0.3)
        gate.opened.set()
        assert (await one.read_response()).body == b"waited"
        assert (await two.read_response()).body == b"hello\n"


async def test_everybody_who_waits_gets_a_turn() -> None:
    async with start_backend() as backend:
        routes = [f"* {backend.address}", "test.example test"]
        async with (
            start_proxy(routes, proxy={"max_open_requests": 1}) as proxy,
            connect(proxy.port) as first,
            asyncio.TaskGroup() as tasks,
        ):
            gate = Gate(backend)
            await first.send(b"GET /gate HTTP/1.1\r\nHost: a\r\n\r\n")
            await backend.next_request()
            # the test target answers at once, so one turn follows the other without a pause
            hosts = ["test.example"] * 300 + ["other.example"] * 100
            waiting = [tasks.create_task(get(proxy.port, "/", host=h)) for h in hosts]
            await proxy.wait_connections(401)
            gate.opened.set()
            assert {(await task).status for task in waiting} == {200}


async def test_client_that_leaves_gives_up_its_turn() -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy={"max_open_requests": 1}) as proxy,
        connect(proxy.port) as first,
    ):
        gate = Gate(backend)
        await first.send(b"GET /gate HTTP/1.1\r\nHost: a\r\n\r\n")
        await backend.next_request()
        async with connect(proxy.port) as c:
            await c.send(b"GET /left HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await c.is_silent(0.1)
        await proxy.wait_log(r"GET http://a/left .*error$")
        gate.opened.set()
        assert (await first.read_response()).body == b"waited"
        assert (await get(proxy.port, "/next")).body == b"hello\n"
        assert [r.target for r in backend.requests] == ["/gate", "/next"]


async def test_idle_clients_are_closed_and_held_ones_stay(backend: Backend) -> None:
    async with (
        start_proxy(f"* {backend.address}", runner={"client_idle_timeout": "0.5"}) as proxy,
        connect(proxy.port) as held,
        connect(proxy.port) as silent,
        connect(proxy.port) as partial,
        connect(proxy.port) as kept,
    ):
        await held.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await held.read_head()
        assert await held.read_until(b"\n") == b"held\n"
        await partial.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        assert (await kept.request("GET", "/")).status == 200
        for c in (silent, partial, kept):
            assert await c.read_all() == b""
        assert await held.is_silent(0.3)


async def test_exchange_without_a_byte_is_ended_after_its_time(backend: Backend) -> None:
    settings = {"client_inactivity_timeout": "0.5"}
    async with (
        start_proxy(f"* {backend.address}", runner=settings) as proxy,
        connect(proxy.port) as held,
        connect(proxy.port) as upload,
    ):
        await held.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await upload.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        await held.read_head()
        assert await held.read_until(b"\n") == b"held\n"
        # an end of the body would claim that all was said
        assert await held.read_all() == b""
        assert b"200" not in await upload.read_all()


async def test_descriptor_limit_is_raised_to_what_is_allowed(backend: Backend) -> None:
    async with start_proxy(f"* {backend.address}") as proxy:
        limits = Path(f"/proc/{proxy.pid}/limits").read_text()
        line = re.search(r"^Max open files\s+(\d+)\s+(\d+)", limits, re.MULTILINE)
        assert line is not None
        assert line[1] == line[2]


async def test_no_descriptor_is_left_behind(backend: Backend) -> None:
    backend.on("/wait", lambda ex: ex.wait_closed())
    async with start_proxy(f"* {backend.address}", proxy={"backend_idle_timeout": "0.2"}) as proxy:
        await get(proxy.port, "/")
        before = proxy.open_files()
        for _ in range(30):
            async with connect(proxy.port) as c:
                assert (await c.request("GET", "/")).status == 200
            async with connect(proxy.port) as c:
                await c.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
                c.abort()
            async with connect(proxy.port) as c:
                await c.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
                await c.read_head()
            async with connect(proxy.port) as c:
                await c.send(b"GET / HT")
        async with asyncio.timeout(10):
            while proxy.open_files() > before:
                await asyncio.sleep(0.05)


async def test_nothing_is_written_to_the_log_but_lines_of_its_format(backend: Backend) -> None:
    async with start_proxy(f"* {backend.address}") as proxy:
        async with connect(proxy.port) as c:
            await c.send(b"nonsense\r\n\r\n")
            await c.read_all()
        await get(proxy.port, "/a%0ab")
        assert await proxy.stop() == 0
        for line in proxy.log().splitlines():
            assert re.match(r"\[(ERR|WARN|INFO|DEBUG|TRACE)\] \d{4}-", line), line
