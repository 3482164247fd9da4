"""Runs an example: its backend, and gripproxy in front of it, until Ctrl-C."""

import argparse
import asyncio
import errno
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from aiohttp import web


class Example(NamedTuple):
    """What differs between the examples."""

    name: str
    command: str
    """The command that people start it with."""
    publish_url: str
    make_app: Callable[[str, str], web.Application]
    """The backend, given where it publishes and where gripproxy is."""
    hint: Callable[[str, str], str]
    """What to try, given the same."""
    target: str = ""
    """Parameters of the backend in gripproxy's route."""

    @property
    def config(self) -> Path:
        return Path(__file__).parent / self.name / "gripproxy.conf"


def run(example: Example) -> int:
    """Returns the exit status: 0 after Ctrl-C or SIGTERM, 1 when a part did not start or ended."""
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{example.name}",
        description=f"Run the {example.name} example until Ctrl-C.",
    )
    parser.add_argument("--port", type=int, default=7999, help="where gripproxy listens")
    parser.add_argument("--backend-port", type=int, default=8000, help="where the backend listens")
    parser.add_argument(
        "--config", type=Path, default=example.config, help="gripproxy's configuration"
    )
    parser.add_argument(
        "--publish-url", default=example.publish_url, help="where the backend publishes"
    )
    options = parser.parse_args()
    if options.port == options.backend_port:
        print("PORT and BACKEND_PORT must differ.", file=sys.stderr)
        return 1
    for port, other in ((options.port, "PORT=8080"), (options.backend_port, "BACKEND_PORT=8001")):
        if _taken(port):
            print(
                f"Port {port} is in use. Stop what listens there, or choose another, such as: "
                f"{example.command} {other}",
                file=sys.stderr,
            )
            return 1
    return asyncio.run(_run(example, options))


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as e:
            return e.errno == errno.EADDRINUSE
    return False


async def _run(example: Example, options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    urls = (options.publish_url, f"http://localhost:{options.port}/")
    backend = web.AppRunner(example.make_app(*urls), access_log=None, shutdown_timeout=1)
    await backend.setup()
    try:
        await web.TCPSite(backend, "127.0.0.1", options.backend_port).start()
        target = ",".join(filter(None, [f"127.0.0.1:{options.backend_port}", example.target]))
        # A session of its own: the terminal's Ctrl-C comes here alone, and is passed on once.
        proxy = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gripproxy", "--config", str(options.config)),
            *("--port", str(options.port), "--route", f"* {target}"),
            start_new_session=True,
        )
        return await _watch(proxy, stop, options.port, example.hint(*urls))
    finally:
        await backend.cleanup()


async def _watch(proxy: Process, stop: asyncio.Event, port: int, hint: str) -> int:
    ended = asyncio.create_task(proxy.wait())
    stopped = asyncio.create_task(stop.wait())
    ready = asyncio.create_task(_accepts(port))
    await asyncio.wait({ended, stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        print(f"\n{hint}\n\nCtrl-C stops.\n", flush=True)
    await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if ended.done():
        stopped.cancel()
        print(f"gripproxy ended by itself with status {ended.result()}", file=sys.stderr)
        return 1
    proxy.terminate()
    await ended
    return 0


async def _accepts(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
