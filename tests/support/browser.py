"""A real headless Chromium.

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def browser() -> AsyncIterator[Browser]:
        async with start_browser() as browser:
            yield browser

    async with open_pages(browser, 2) as (first, second): ...

Tests that use it are marked `browser`.
"""

import contextlib
from collections.abc import AsyncIterator

from playwright.async_api import Browser, Page, async_playwright, expect

from tests.conftest import require

EXPECT_SECONDS = 30
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.asynccontextmanager
async def start_browser() -> AsyncIterator[Browser]:
    """Start Chromium; `expect` waits as long as a loaded machine may need."""
    chromium = require("chromium")
    expect.set_options(timeout=EXPECT_SECONDS * 1000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=ARGS)
        yield browser
        await browser.close()


@contextlib.asynccontextmanager
async def open_pages(browser: Browser, count: int) -> AsyncIterator[list[Page]]:
    """Tabs of a session of their own; an error that a script leaves uncaught fails the test."""
    context = await browser.new_context()
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield [await context.new_page() for _ in range(count)]
    await context.close()
    assert errors == []
