"""Running it: signals, log lines and limits of the process."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.backend import Backend, Exchange, response, start_backend
from tests.support.client import connect, fetch, get
from tests.support.proxy import Proxy, free_ports, start_proxy

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
