"""A real Chromium: its WebSocket and its EventSource, on one page, through the proxy."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from gripcontrol import (  # type: ignore[import-untyped]
    WebSocketEvent,
    decode_websocket_events,
    encode_websocket_events,
    websocket_control_message,
)
from playwright.async_api import Browser, Page, expect

from tests.clients.stage import Stage, serve_app
from tests.flow.holding import fresh
from tests.support.browser import open_pages, start_browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.shared,
    pytest.mark.asyncio(loop_scope="module"),
]

PAGE = """<!DOCTYPE html>
<link rel="icon" href="data:,">
<ol id="socket"></ol>
<ol id="stream"></ol>
<script>
  const show = (id, text) => {
    const item = document.createElement("li");
    item.textContent = text;
    document.getElementById(id).append(item);
  };
  const socket = new WebSocket(`ws://${location.host}/socket${location.search}`, ["a", "b"]);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => show("socket", `open ${socket.protocol}`);
  socket.onmessage = ({ data }) =>
    show("socket", typeof data == "string" ? data : `bytes ${new Uint8Array(data)}`);
  socket.onclose = ({ code, reason, wasClean }) =>
    show("socket", `closed ${code} ${reason} ${wasClean}`);
  const stream = new EventSource(`/stream${location.search}`);
  stream.onopen = () => show("stream", "open");
  stream.onmessage = ({ data }) => show("stream", data);
</script>
"""


async def page(_: web.Request) -> web.Response:
    return web.Response(text=PAGE, content_type="text/html")


async def socket(request: web.Request) -> web.Response:
    """WebSocket-over-HTTP: accept, subscribe, echo; a close is answered in kind."""
    out = []
    headers = {"Content-Type": "application/websocket-events"}
    for event in decode_websocket_events(await request.read()):
        if event.type == "OPEN":
            control = websocket_control_message("subscribe", {"channel": request.query["channel"]})
            out += [event, WebSocketEvent("TEXT", "c:" + control)]
            headers |= {"Sec-WebSocket-Extensions": "grip", "Sec-WebSocket-Protocol": "b"}
        elif event.type in ("TEXT", "BINARY"):
            out.append(WebSocketEvent(event.type, b"m:" + event.content))
        elif event.type == "CLOSE":
            out.append(event)
    return web.Response(body=encode_websocket_events(out), headers=headers)


async def stream(request: web.Request) -> web.Response:
    return web.Response(
        text="retry: 100\n\n",
        content_type="text/event-stream",
        headers={"Grip-Hold": "stream", "Grip-Channel": request.query["channel"]},
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_post("/socket", socket)
    app.router.add_get("/stream", stream)
    async with serve_app(app) as stage:
        yield stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with start_browser() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def pages(browser: Browser) -> AsyncIterator[list[Page]]:
    async with open_pages(browser, 2) as pages:
        yield pages


async def open_page(page: Page, stage: Stage, channel: str, count: int = 2) -> None:
    """Open the page, until the channel was subscribed `count` times in all."""
    await page.goto(f"{stage.url}/?channel={channel}")
    await stage.proxy.wait_subscribed(channel, count)
    await expect(page.locator("#socket li").first).to_have_text("open b")
    await expect(page.locator("#stream li").first).to_have_text("open")


def message(channel: str, text: str) -> dict[str, Any]:
    formats = {"ws-message": {"content": text}, "http-stream": {"content": f"data: {text}\n\n"}}
    return {"channel": channel, "formats": formats}


def ws_message(channel: str, **fields: Any) -> dict[str, Any]:
    return {"channel": channel, "formats": {"ws-message": fields}}


async def test_two_pages_get_a_publish_both_ways(stage: Stage, pages: list[Page]) -> None:
    channel = fresh("page")
    for number, page in enumerate(pages, 1):
        await open_page(page, stage, channel, 2 * number)
    for text in ("first", "<b>second</b> & Ünï"):
        await stage.proxy.publish(message(channel, text))
        for page in pages:
            for way in ("#socket", "#stream"):
                await expect(page.locator(f"{way} li").last).to_have_text(text)
    for page in pages:
        for way in ("#socket", "#stream"):
            await expect(page.locator(f"{way} li")).to_have_count(3)


async def test_what_a_page_sends_comes_back(stage: Stage, pages: list[Page]) -> None:
    page = pages[0]
    await open_page(page, stage, fresh("page"))
    await page.evaluate("socket.send('Ünï')")
    await expect(page.locator("#socket li").last).to_have_text("Ünï")
    await page.evaluate("socket.send(new Uint8Array([0, 255]))")
    await expect(page.locator("#socket li").last).to_have_text("bytes 0,255")


async def test_a_published_close_has_its_code_and_reason_in_the_page(
    stage: Stage, pages: list[Page]
) -> None:
    page, channel = pages[0], fresh("page")
    await open_page(page, stage, channel)
    await stage.proxy.publish(ws_message(channel, action="close", code=4001, reason="enough"))
    await expect(page.locator("#socket li").last).to_have_text("closed 4001 enough true")
    await stage.proxy.publish(message(channel, "later"))
    await expect(page.locator("#stream li").last).to_have_text("later")
    await expect(page.locator("#socket li")).to_have_count(2)


async def test_a_page_that_closes_gets_a_clean_close(stage: Stage, pages: list[Page]) -> None:
    page = pages[0]
    await open_page(page, stage, fresh("page"))
    await page.evaluate("socket.close(4002, 'bye')")
    await expect(page.locator("#socket li").last).to_have_text("closed 4002 bye true")


async def test_a_stream_that_the_publisher_closes_comes_back(
    stage: Stage, pages: list[Page]
) -> None:
    page, channel = pages[0], fresh("page")
    await open_page(page, stage, channel)
    close = {"channel": channel, "formats": {"http-stream": {"action": "close"}}}
    await stage.proxy.publish(close)
    await stage.proxy.wait_subscribed(channel, 3)
    await stage.proxy.publish(message(channel, "again"))
    await expect(page.locator("#stream li").last).to_have_text("again")
