"""The proxy before an application that somebody wrote with a GRIP library.

    async with serve_process([sys.executable, "app.py"], env={...}) as stage:     # a real process
        async with stage.connect("/ws") as client: ...
    async with serve_app(app) as stage:                      # an aiohttp application in this one
    async with open_stage(port) as stage:                    # whatever listens on the port

The process gets `PORT`, where it has to listen on 127.0.0.1, and `GRIP_URL`, where it publishes.
Requests are signed: the issuer is `ISSUER`, the key `KEY`.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.test_utils import TestServer
from websockets.asyncio.client import ClientConnection, connect

from tests.flow.holding import hold
from tests.support.backend import Backend, start_backend
from tests.support.client import TIMEOUT, encode_request
from tests.support.client import connect as connect_http
from tests.support.proxy import (
    POLL_SECONDS,
    PUSHPIN,
    Proxy,
    environment,
    free_ports,
    start_proxy,
)

ISSUER = "realm"
KEY = "a-key-that-is-at-least-32-bytes-long"
START_SECONDS = 30.0


class Stage(NamedTuple):
    """The running proxy, and the port of the application behind it."""

    proxy: Proxy
    app_port: int

    @property
    def control_uri(self) -> str:
        return f"http://127.0.0.1:{self.proxy.http_control}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"

    def connect(self, path: str, **options: Any) -> connect:
        """A client of the `websockets` library, through the proxy."""
        return connect(f"ws://127.0.0.1:{self.proxy.port}{path}", open_timeout=TIMEOUT, **options)

    @contextlib.asynccontextmanager
    async def subscriber(
        self, path: str, channel: str, count: int = 1, **options: Any
    ) -> AsyncIterator[ClientConnection]:
        """Such a client, once the channel was subscribed `count` times in all."""
        async with self.connect(path, **options) as client:
            await self.proxy.wait_subscribed(channel, count)
            yield client


@contextlib.asynccontextmanager
async def serve_app(app: web.Application) -> AsyncIterator[Stage]:
    """Serve an aiohttp application of this process behind the proxy."""
    async with TestServer(app) as server:
        assert server.port is not None
        async with open_stage(server.port) as stage:
            yield stage


@contextlib.asynccontextmanager
async def serve_process(
    command: Sequence[str], env: Mapping[str, str] | None = None
) -> AsyncIterator[Stage]:
    """Run an application as a process of its own behind the proxy, until the end of the block."""
    (port,) = free_ports(1)
    async with open_stage(port) as stage:
        wanted = {"PORT": str(port), "GRIP_URL": f"{stage.control_uri}?iss={ISSUER}&key={KEY}"}
        async with _running(command, {**wanted, **(env or {})}, stage):
            yield stage


@contextlib.asynccontextmanager
async def _running(
    command: Sequence[str], env: Mapping[str, str], stage: Stage
) -> AsyncIterator[None]:
    log_path = stage.proxy.directory / "app.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=environment(env), start_new_session=True,
        )  # fmt: skip
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await _accepts(stage.app_port):
                assert process.poll() is None, f"it ended:\n{log_path.read_text()}"
                await asyncio.sleep(POLL_SECONDS)
        yield
        assert process.poll() is None, f"it ended:\n{log_path.read_text()}"
        assert "Traceback" not in log_path.read_text(), log_path.read_text()
    except TimeoutError:
        print(log_path.read_text())  # for pytest to show
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@contextlib.asynccontextmanager
async def open_stage(
    port: int, *, target: str = "over_http", **settings: Any
) -> AsyncIterator[Stage]:
    """Start the proxy before what listens on `port` of 127.0.0.1, or will listen there.

    `target` are the parameters of the target in the route, `settings` go to `start_proxy`.
    """
    routes = [",".join(filter(None, [f"* 127.0.0.1:{port}", target]))]
    signing = {"sig_iss": ISSUER, "sig_key": KEY, **settings.pop("proxy", {})}
    async with start_backend() as warm_up:
        if PUSHPIN:
            routes.append(f"*,path_beg=/warm-up {warm_up.address}")
        async with start_proxy(routes, proxy=signing, **settings) as proxy:
            if PUSHPIN:
                await _until_it_holds(proxy, warm_up)
            yield Stage(proxy, port)


async def _until_it_holds(proxy: Proxy, warm_up: Backend) -> None:
    """Pushpin answers 500 to instructions, or nothing at all, until its parts found each other."""
    warm_up.on("/warm-up", hold("stream", "warm-up"))
    async with asyncio.timeout(TIMEOUT):
        held = False
        while not held:
            with contextlib.suppress(TimeoutError):
                async with connect_http(proxy.port, timeout=0.2) as client:
                    await client.send(encode_request("GET", "/warm-up"))
                    held = (await client.read_head()).status == 200
