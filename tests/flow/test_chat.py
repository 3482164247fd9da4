"""The chat: clients and a real page talk to each other, and it starts as its README says."""

import asyncio
import contextlib
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from websockets.asyncio.client import ClientConnection, connect

from examples.chat.backend import MAX_NAME, MAX_TEXT, Chat
from tests.clients.stage import Stage, serve_app
from tests.conftest import require
from tests.flow.test_make_run import SECONDS, next_line, shell, transcripts
from tests.support.browser import open_pages, start_browser
from tests.support.client import TIMEOUT
from tests.support.proxy import ROOT, environment, free_ports

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLE = ROOT / "examples" / "chat"


class Talk(NamedTuple):
    """A message as the clients of the chat get it."""

    name: str
    text: str


async def say(client: ClientConnection, name: str, text: str) -> None:
    await client.send(json.dumps({"name": name, "text": text}))


async def hear(client: ClientConnection) -> Talk:
    message = json.loads(await asyncio.wait_for(client.recv(), TIMEOUT))
    return Talk(**message)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    chat = Chat()
    async with serve_app(chat.app()) as stage:
        chat.publish_url = f"{stage.control_uri}/publish/"
        yield stage


def subscriptions(stage: Stage) -> int:
    """How many have joined so far."""
    return len(re.findall(r"\bsubscribe \S+ channel=chat", stage.proxy.log()))


@contextlib.asynccontextmanager
async def join(stage: Stage) -> AsyncIterator[ClientConnection]:
    async with stage.subscriber("/chat", "chat", subscriptions(stage) + 1) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with start_browser() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    async with open_pages(browser, 1) as (page,):
        yield page


# -- the page --------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.browser
async def test_two_clients_and_a_page_talk_to_each_other(stage: Stage, page: Page) -> None:
    before = subscriptions(stage)
    await page.goto(stage.url)
    await expect(page.get_by_role("status")).to_have_text("connected")
    await stage.proxy.wait_subscribed("chat", before + 1)
    async with join(stage) as ann, join(stage) as bob:
        await page.get_by_label("Name").fill("Page")
        await page.get_by_label("Message", exact=True).fill(" from the page ")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_label("Message", exact=True)).to_have_value("")
        said = [Talk("Page", "from the page")]
        for client, name, text in (
            (ann, "Ann", "Ünï"),
            (bob, "Bob", "<img src=x onerror=alert(1)>"),
        ):
            assert await hear(client) == said[0]
            await say(client, name, text)
            said.append(Talk(name, text))
            await expect(page.locator("li").last.locator("span")).to_have_text(text)
        assert [await hear(ann), await hear(ann)] == said[1:]
        assert [await hear(bob), await hear(bob)] == said[1:]
    assert await page.locator("li b").all_text_contents() == [talk.name for talk in said]
    assert await page.locator("li span").all_text_contents() == [talk.text for talk in said]
    await expect(page.locator("li.own")).to_have_count(1)
    await expect(page.locator("li img")).to_have_count(0)


@pytest.mark.browser
async def test_the_page_comes_back_after_the_proxy(tmp_path: Path, page: Page) -> None:
    ports = free_ports(4)
    async with run_chat(tmp_path, ports) as running:
        await running.wait_for("Ctrl-C stops")
        await page.goto(f"http://127.0.0.1:{ports[0]}/")
        await expect(page.get_by_role("status")).to_have_text("connected")
        await page.get_by_label("Message", exact=True).fill("kept")
    await expect(page.get_by_role("status")).to_have_text(re.compile("not connected, trying again"))
    await expect(page.get_by_role("button", name="Send")).to_be_disabled()
    async with run_chat(tmp_path, ports):
        await expect(page.get_by_role("status")).to_have_text("connected")
        await page.get_by_label("Name").fill("Page")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("li span")).to_have_text(["kept"])


# -- the backend -----------------------------------------------------------------------------------


@pytest.mark.shared
async def test_what_is_no_message_is_ignored(stage: Stage) -> None:
    async with join(stage) as client:
        for wrong in (
            "no JSON",
            "[]",
            '"text"',
            '{"name": "Ann"}',
            '{"name": "Ann", "text": 1}',
            json.dumps({"name": "Ann", "text": " "}),
            json.dumps({"name": "", "text": "hello"}),
            json.dumps({"name": "n" * (MAX_NAME + 1), "text": "hello"}),
            json.dumps({"name": "Ann", "text": "t" * (MAX_TEXT + 1)}),
        ):
            await client.send(wrong)
        await client.send(json.dumps({"name": " Ann ", "text": "t" * MAX_TEXT, "more": "lost"}))
        assert await hear(client) == ("Ann", "t" * MAX_TEXT)


@pytest.mark.shared
async def test_messages_sent_at_once_arrive_in_order(stage: Stage) -> None:
    async with join(stage) as client:
        texts = [str(number) for number in range(100)]
        for text in texts:
            await say(client, "Ann", text)
        assert [(await hear(client)).text for _ in texts] == texts


@pytest.mark.shared
async def test_a_ping_is_answered_and_a_close_too(stage: Stage) -> None:
    async with join(stage) as client:
        await asyncio.wait_for(await client.ping(b"content"), TIMEOUT)
        await client.close(4001, "bye")
        assert (client.close_code, client.close_reason) == (4001, "bye")


# -- as it is started ------------------------------------------------------------------------------


class Running(NamedTuple):
    """The runner on free ports; `ports` maps those that the README names to those in use."""

    process: Process
    ports: dict[str, str]

    async def wait_for(self, pattern: str) -> str:
        return await next_line(self.process, pattern)

    def translate(self, text: str) -> str:
        """The text with the README's ports replaced."""
        return re.sub("|".join(self.ports), lambda match: self.ports[match[0]], text)


@contextlib.asynccontextmanager
async def run_chat(directory: Path, ports: list[int]) -> AsyncIterator[Running]:
    """Start it with the example's own configuration, moved to these ports; SIGTERM must end it."""
    names = dict(zip(("7999", "8000", "5561", "5560"), map(str, ports), strict=True))
    (directory / "gripproxy.conf").write_text(
        re.sub("|".join(names), lambda m: names[m[0]], (EXAMPLE / "gripproxy.conf").read_text())
        + f"push_in_spec=tcp://127.0.0.1:{names['5560']}\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.chat"),
        *("--port", names["7999"], "--backend-port", names["8000"]),
        *("--config", str(directory / "gripproxy.conf")),
        *("--publish-url", f"http://127.0.0.1:{names['5561']}/publish/"),
        cwd=ROOT, env=environment(), stdout=PIPE, stderr=STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        yield Running(process, names)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SECONDS):
            rest, _ = await process.communicate()
        print(rest.decode())  # for pytest to show when the test failed
    assert process.returncode == 0


async def test_the_readmes_commands_work_as_printed(tmp_path: Path) -> None:
    require("curl")
    readme = (EXAMPLE / "README.md").read_text()
    (typed,) = re.findall(r"Type a line such as `(.*)`", readme)
    (command,) = re.findall(r"^    \.venv/bin/python (-m websockets .*)$", readme, re.MULTILINE)
    ((printed, output),) = transcripts(EXAMPLE / "README.md")
    async with run_chat(tmp_path, free_ports(4)) as running:
        await running.wait_for("Ctrl-C stops")
        async with connect(f"ws://127.0.0.1:{running.ports['7999']}/chat") as client:
            await running.wait_for("subscribe .* channel=chat")
            curl = running.translate(printed).replace("curl -d", "curl --silent -d")
            process = await shell(curl)
            out, _ = await asyncio.wait_for(process.communicate(), SECONDS)
            assert out.decode().splitlines() == output
            assert await hear(client) == ("curl", "hello")
            terminal = await asyncio.create_subprocess_exec(
                sys.executable, *running.translate(command).split(),
                env=environment(), stdin=PIPE, stdout=PIPE,
            )  # fmt: skip
            assert terminal.stdin is not None
            terminal.stdin.write(f"{typed}\n".encode())
            assert await hear(client) == ("me", "hello")
            terminal.stdin.close()
            out, _ = await asyncio.wait_for(terminal.communicate(), SECONDS)
            assert b"Connection closed: 1000" in out
