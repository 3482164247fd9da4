"""PyPI's faas-grip, in a function for AWS Lambda behind a small stand-in for its gateway.

faas-grip 1.0.1 asks for gripcontrol before 4 and pubcontrol before 3, which publish only up to
Python 3.9. It works with today's, so it is installed without what it asks for.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.clients.packages import install_pip
from tests.clients.stage import Stage, serve_process
from tests.flow.holding import fresh
from tests.support.client import TIMEOUT, fetch
from tests.support.proxy import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUIREMENTS = Path(__file__).with_name("faas") / "requirements.txt"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(pytestconfig: pytest.Config) -> AsyncIterator[Stage]:
    packages = await asyncio.to_thread(install_pip, pytestconfig, REQUIREMENTS)
    async with serve_process(
        [sys.executable, "-m", "tests.clients.faas"],
        env={"PYTHONPATH": os.pathsep.join([str(packages), str(ROOT)])},
    ) as stage:
        yield stage


@pytest.mark.shared
async def test_messages_are_echoed_and_meta_comes_back(stage: Stage) -> None:
    async with stage.connect("/?channel=none") as socket:
        for number, message in enumerate(("one", "Ünï", ""), 1):
            await socket.send(message)
            assert await asyncio.wait_for(socket.recv(), TIMEOUT) == f"{number} {message}"


@pytest.mark.shared
async def test_two_subscribers_get_what_the_function_publishes(stage: Stage) -> None:
    channel = fresh("faas")
    async with (
        stage.subscriber(f"/?channel={channel}", channel) as first,
        stage.subscriber(f"/?channel={channel}", channel, 2) as second,
    ):
        await first.send("all of you")
        for socket in (first, second):
            assert await asyncio.wait_for(socket.recv(), TIMEOUT) == "all of you"


@pytest.mark.shared
async def test_an_ordinary_request_is_no_websocket(stage: Stage) -> None:
    answer = await fetch(stage.proxy.port, "POST", "/", (), b"")
    assert (answer.status, answer.body) == (400, b"Not a WebSocket-over-HTTP request\n")


async def test_its_close_without_a_code_is_a_normal_closure(stage: Stage) -> None:
    async with stage.connect("/?channel=none") as socket:
        await socket.close(4001)
        assert socket.close_code == 1000
