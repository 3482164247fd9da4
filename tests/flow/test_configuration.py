"""Configuration: the command line, exit codes, `gripproxy check` and the keys of the file."""

import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.backend import Backend, response, start_backend
from tests.support.client import connect, fetch, get
from tests.support.proxy import PUSHPIN, free_ports, has_ipv6, run_cli, start_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with start_backend() as it:
        it.on("*", response(200, {}, b"hello\n"))
        yield it


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
    assert "Traceback" not in done.err + done.out


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


async def test_start_with_a_wrong_value_says_the_same_as_the_check(tmp_path: Path) -> None:
    status, text = await check(tmp_path, CONFIG + "[proxy]\ndebug=perhaps\n")
    done = await run_cli("--config", str(tmp_path / "my.conf"), cwd=tmp_path)
    assert (done.status, done.out + done.err) == (status, text)
    assert status == 1


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


@pytest.mark.parametrize(("settings", "route", "reason"), [
    ("[proxy]\nsig_key=file:missing.pem\n", "* localhost:80\n", "sig_key: "),
    ("[proxy]\nupstream_key=file:missing.pem\n", "* localhost:80\n", "upstream_key: "),
    ("", "*,id=x,sig_key=file:missing.pem localhost:80\n", "route x: sig_key: "),
    ("[runner]\nhttps_ports=8443\n", "* localhost:80\n", "https_ports: there is no certificate"),
])  # fmt: skip
async def test_check_looks_at_keys_and_certificates(
    tmp_path: Path, settings: str, route: str, reason: str
) -> None:
    status, text = await check(tmp_path, CONFIG + settings, route)
    assert status == 1
    assert f"error: {reason}" in text


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
