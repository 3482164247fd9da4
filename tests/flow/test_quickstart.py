"""The quickstart as a person meets it: the page in a real browser, and its answers."""

import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, async_playwright, expect

from examples.quickstart.backend import CHANNEL, MAX_TEXT, Quickstart
from tests.conftest import require
from tests.support.client import connect, encode_request, fetch, get
from tests.support.proxy import Proxy, free_ports, start_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Stage(NamedTuple):
    quickstart: Quickstart
    backend_port: int
    proxy: Proxy

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}/"

    async def post(self, text: str, **headers: str) -> tuple[int, bytes]:
        body = f"text={text}".encode()
        form = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        answer = await fetch(self.proxy.port, "POST", "/messages", form, body)
        return answer.status, answer.body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    quickstart = Quickstart()
    async with (
        TestServer(quickstart.app()) as backend,
        start_proxy(f"* 127.0.0.1:{backend.port}") as proxy,
    ):
        quickstart.publish_url = f"http://127.0.0.1:{proxy.http_control}/publish/"
        assert backend.port is not None
        stage = Stage(quickstart, backend.port, proxy)
        quickstart.proxy_url = stage.url
        yield stage


# -- the page --------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    chromium = require("chromium")
    expect.set_options(timeout=30_000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def pages(browser: Browser) -> AsyncIterator[list[Page]]:
    """Two tabs; an error that a script leaves uncaught fails the test."""
    context = await browser.new_context()
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield [await context.new_page(), await context.new_page()]
    await context.close()
    assert errors == []


async def open_page(page: Page, stage: Stage) -> None:
    """Open the page and wait until its stream is subscribed.

    A long-poll that misses a message recovers by itself, within the seconds that `expect` waits.
    """
    subscribed = rf"subscribe \S+/events\S* channel={CHANNEL}"
    before = len(re.findall(subscribed, stage.proxy.log()))
    await page.goto(stage.url)
    await expect(page.locator("#stream-state")).to_have_text("open")
    await expect(page.locator("#poll-state")).to_have_text("waiting for the next message")
    await stage.proxy.wait_log(subscribed, before + 1)


@pytest.mark.shared
@pytest.mark.browser
async def test_a_message_from_the_form_appears_live_in_two_pages(
    stage: Stage, pages: list[Page]
) -> None:
    for page in pages:
        await open_page(page, stage)
    for text in ("first", "<b>second</b> & Ünï"):
        await pages[0].get_by_label("Message").fill(text)
        await pages[0].get_by_role("button", name="Send").click()
        for page in pages:
            for feed in ("#stream", "#poll"):
                await expect(page.locator(f"{feed} li span").first).to_have_text(text)
    for page in pages:
        for feed in ("#stream", "#poll"):
            await expect(page.locator(f"{feed} li")).to_have_count(2)
    await expect(pages[0].get_by_label("Message")).to_have_value("")


@pytest.mark.shared
@pytest.mark.browser
async def test_the_page_straight_from_the_backend_says_where_to_go(
    stage: Stage, pages: list[Page]
) -> None:
    page = pages[0]
    await page.goto(f"http://127.0.0.1:{stage.backend_port}/")
    await expect(page.locator("#notice")).to_contain_text("Open it through gripproxy")
    await expect(page.locator("#stream-state")).to_have_text("not connected")
    await page.locator("#notice a").click()
    await expect(page).to_have_url(stage.url)
    await expect(page.locator("#notice")).to_have_count(0)
    await expect(page.locator("#stream-state")).to_have_text("open")


@pytest.mark.shared
@pytest.mark.browser
async def test_the_page_shows_why_a_message_was_not_sent(stage: Stage, pages: list[Page]) -> None:
    (closed,) = free_ports(1)
    page, here = pages[0], stage.quickstart.publish_url
    await open_page(page, stage)
    stage.quickstart.publish_url = f"http://127.0.0.1:{closed}/publish/"
    try:
        await page.get_by_label("Message").fill("lost")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("alert")).to_contain_text("did not take the message")
    finally:
        stage.quickstart.publish_url = here


# -- its answers -----------------------------------------------------------------------------------


@pytest.mark.shared
async def test_a_stream_that_comes_back_gets_what_it_missed(stage: Stage) -> None:
    before = stage.quickstart.last
    await stage.post("missed")
    async with connect(stage.proxy.port) as c:
        await c.send(encode_request("GET", "/events", {"Last-Event-ID": str(before)}))
        start = await c.read_head()
        data = await c.read_until(b"data: missed\n\n")
    assert start.header("content-type") == "text/event-stream; charset=utf-8"
    assert data == f"retry: 2000\n\nid: {before + 1}\ndata: missed\n\n".encode()


@pytest.mark.shared
async def test_a_poll_that_is_behind_is_answered_at_once(stage: Stage) -> None:
    before = stage.quickstart.last
    await stage.post("one")
    await stage.post("two")
    answer = await get(stage.proxy.port, f"/poll?after={before}")
    assert (answer.status, answer.body) == (200, b"one\ntwo\n")
    assert answer.header("last-message") == str(before + 2)
    assert "grip-hold" not in [name.lower() for name, _ in answer.headers]


@pytest.mark.shared
async def test_a_browser_without_scripts_is_sent_back_to_the_page(stage: Stage) -> None:
    status, _ = await stage.post("plain", Accept="text/html,*/*")
    assert status == 303
    assert await stage.post("plain") == (200, b"Published\n")


@pytest.mark.shared
@pytest.mark.parametrize("text", ["", "+%0A", "x" * (MAX_TEXT + 1)])
async def test_a_message_that_is_empty_or_too_long_is_refused(stage: Stage, text: str) -> None:
    before = stage.quickstart.last
    status, body = await stage.post(text)
    assert (status, body) == (400, b"The message must have 1 to 500 characters.\n")
    assert stage.quickstart.last == before


@pytest.mark.shared
async def test_a_line_break_cannot_forge_an_event(stage: Stage) -> None:
    before = stage.quickstart.last
    await stage.post("a%0A%0Adata: forged")
    answer = await get(stage.proxy.port, f"/poll?after={before}")
    assert answer.body == b"a data: forged\n"


@pytest.mark.shared
@pytest.mark.parametrize("path", ["/events", "/poll"])
async def test_the_backend_alone_says_that_it_cannot_hold(stage: Stage, path: str) -> None:
    answer = await get(stage.backend_port, path)
    assert answer.status == 501
    assert stage.url.encode() in answer.body
