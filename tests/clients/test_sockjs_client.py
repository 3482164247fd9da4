"""npm's sockjs-client, in Node and in a browser, by each transport that it has there."""

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from tests.clients.packages import install_npm
from tests.conftest import require
from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.sockets import message
from tests.support.backend import Exchange, response
from tests.support.browser import open_pages, start_browser
from tests.support.client import TIMEOUT
from tests.support.websocket import (
    Event,
    EventLike,
    accept,
    close_payload,
    control,
    decode_events,
    events,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPTS = Path(__file__).with_name("sockjs")
IN_NODE = ["websocket", "xhr-streaming", "eventsource", "xhr-polling"]
IN_BROWSER = [*IN_NODE, "iframe-eventsource", "iframe-xhr-polling", "jsonp-polling"]
ESCAPED = [*range(0x20), *range(0x7F, 0xA0), 0xAD, *range(0x2000, 0x2070), 0xFEFF]
AWKWARD = [
    "",
    " leading, trailing ",
    "\"quoted\" \\ 'single' </script>",
    "100% %41 a+b&c=d;e#f",
    "ünï 😀 \U0010ffff",
    "".join(map(chr, [*ESCAPED, *range(0xFFF0, 0x10000), 0x0300, 0x0958, 0xF900])),
]
PAGE = """<!DOCTYPE html><meta charset="utf-8"><title>SockJS</title>
<script src="/client.js"></script>
<script>
  const told = [];
  function start(url, transport) {
    window.sock = new SockJS(url, null, { transports: [transport] });
    sock.onopen = () => told.push(["open", sock.transport]);
    sock.onmessage = (event) => told.push(["message", event.data]);
    sock.onclose = (event) => told.push(["close", event.code, event.reason]);
  }
</script>
"""


class EchoBackend:
    """Answers messages by themselves, and `close` by closing; remembers what it was told."""

    def __init__(self) -> None:
        self.told: dict[str, asyncio.Queue[Event]] = {}

    def answer(self, exchange: Exchange) -> bytes:
        """Answer WebSocket-over-HTTP; the query begins with a channel, the client adds to it."""
        channel = exchange.request.target.partition("?")[2].partition("&")[0]
        if channel not in self.told:
            return events()  # of a test before
        said: list[EventLike] = []
        for event in decode_events(exchange.request.body):
            self.told[channel].put_nowait(event)
            content = event.content or b""
            if event.type == "OPEN":
                return accept(control(type="subscribe", channel=channel))
            if event.type == "CLOSE" or content == b"close":
                reason = b"" if event.type == "CLOSE" else "Go away, ünï!".encode()
                said.append(("CLOSE", close_payload(3000, reason)))
            elif event.type == "TEXT":
                said.append(("TEXT", b"m:" + content))
        return events(*said)

    async def wait(self, channel: str, *kinds: str) -> None:
        """Wait for an event of one of these kinds."""
        async with asyncio.timeout(TIMEOUT):
            while (await self.told[channel].get()).type not in kinds:
                pass


class SockJs:
    """A client under test: orders in, events out."""

    async def order(self, *order: str) -> None:
        raise NotImplementedError

    async def events(self, count: int) -> list[Any]:
        """The next things that it tells."""
        raise NotImplementedError

    async def event(self) -> Any:
        return (await self.events(1))[0]


class InNode(SockJs):
    """The client as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def order(self, *order: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        await self.process.stdin.drain()

    async def events(self, count: int) -> list[Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            return [json.loads(await self.process.stdout.readline()) for _ in range(count)]


class InPage(SockJs):
    """The client in a page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def order(self, *order: str) -> None:
        await self.page.evaluate("([order, data]) => sock[order](data)", [*order, None][:2])

    async def events(self, count: int) -> list[Any]:
        condition = f"told.length >= {count} && told.splice(0, {count})"
        found = await self.page.wait_for_function(condition, timeout=TIMEOUT * 1000, polling=5)
        return list(await found.json_value())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def modules(pytestconfig: pytest.Config) -> Path:
    """The `node_modules` with the client."""
    return await asyncio.to_thread(install_npm, pytestconfig, SCRIPTS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echo() -> EchoBackend:
    return EchoBackend()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(modules: Path, echo: EchoBackend) -> AsyncIterator[Stage]:
    script = (modules / "sockjs-client/dist/sockjs.min.js").read_bytes()
    routes = "*,sockjs=/sock,sockjs_as_path=/woh -> over_http"
    async with open_stage(routes, proxy={"sockjs_url": "/client.js"}) as it:
        it.backend.on("/woh", echo.answer)
        it.backend.on("/page", response(200, {"Content-Type": "text/html"}, PAGE.encode()))
        kind = {"Content-Type": "text/javascript; charset=utf-8"}
        it.backend.on("/client.js", response(200, kind, script))
        yield it


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def folder(modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the script of the client finds its modules."""
    folder = tmp_path_factory.mktemp("sockjs")
    for name in ("client.js", "package.json"):
        shutil.copy(SCRIPTS / name, folder)
    (folder / "node_modules").symlink_to(modules)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page() -> AsyncIterator[Page]:
    async with start_browser() as browser, open_pages(browser, 1) as (page,):
        yield page


@contextlib.asynccontextmanager
async def in_node(folder: Path, url: str, transport: str) -> AsyncIterator[SockJs]:
    process = await asyncio.create_subprocess_exec(
        require("node"), str(folder / "client.js"), url, transport,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield InNode(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def in_page(page: Page, port: int, url: str, transport: str) -> AsyncIterator[SockJs]:
    await page.goto(f"http://127.0.0.1:{port}/page")
    await page.evaluate("([url, transport]) => start(url, transport)", [url, transport])
    yield InPage(page)
    await page.goto("about:blank")


async def both_directions(
    stage: Stage, echo: EchoBackend, client: SockJs, channel: str, transport: str
) -> None:
    """Open, send and be sent to, and be closed by the backend."""
    assert await client.event() == ["open", transport]
    for text in AWKWARD:
        await client.order("send", text)
    wanted = [["message", text] for text in AWKWARD]
    assert await client.events(len(AWKWARD)) == wanted
    await stage.proxy.wait_subscribed(channel)
    for text in AWKWARD:
        await stage.proxy.publish(message(channel, text))
    assert await client.events(len(AWKWARD)) == wanted
    await client.order("send", "a\ud800b")
    assert await client.event() == ["message", "a\ufffdb"]
    await client.order("send", "close")
    assert await client.event() == ["close", 3000, "Go away, ünï!"]
    await echo.wait(channel, "CLOSE")


async def closing(client: SockJs, transport: str) -> None:
    """Open, see that it works, and close."""
    assert await client.event() == ["open", transport]
    await client.order("send", "x")
    assert await client.event() == ["message", "x"]
    await client.order("close")
    assert await client.event() == ["close", 1000, "Normal closure"]


def session(stage: Stage, echo: EchoBackend) -> tuple[str, str]:
    """The channel of a new session, and the URL of the proxy."""
    channel = fresh()
    echo.told[channel] = asyncio.Queue()
    return channel, f"http://127.0.0.1:{stage.proxy.port}/sock?{channel}"


@pytest.mark.parametrize("transport", IN_NODE)
async def test_in_node(stage: Stage, echo: EchoBackend, folder: Path, transport: str) -> None:
    channel, url = session(stage, echo)
    async with in_node(folder, url, transport) as client:
        await both_directions(stage, echo, client, channel, transport)


@pytest.mark.parametrize("transport", IN_NODE)
async def test_closing_in_node(
    stage: Stage, echo: EchoBackend, folder: Path, transport: str
) -> None:
    channel, url = session(stage, echo)
    async with in_node(folder, url, transport) as client:
        await closing(client, transport)
        await echo.wait(channel, "CLOSE")


@pytest.mark.browser
@pytest.mark.parametrize("transport", IN_BROWSER)
async def test_in_a_page_of_another_origin(
    stage: Stage, echo: EchoBackend, page: Page, transport: str
) -> None:
    channel, url = session(stage, echo)
    async with in_page(page, stage.backend.port, url, transport) as client:
        await both_directions(stage, echo, client, channel, transport)


@pytest.mark.browser
@pytest.mark.parametrize("transport", IN_BROWSER)
async def test_closing_in_a_page_of_the_same_origin(
    stage: Stage, echo: EchoBackend, page: Page, transport: str
) -> None:
    channel, url = session(stage, echo)
    async with in_page(page, stage.proxy.port, url, transport) as client:
        await closing(client, transport)
    # A script cannot be taken back: that takes leaving the page.
    await echo.wait(channel, "CLOSE")
