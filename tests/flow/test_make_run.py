"""What `make run` starts, and the README's commands, run as they are printed there."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import require
from tests.support.client import get
from tests.support.proxy import ROOT, environment, free_ports

QUICKSTART = ROOT / "examples" / "quickstart"
SECONDS = 20


class Running(NamedTuple):
    """The runner on free ports; `ports` maps those that the documents name to those in use."""

    process: Process
    ports: dict[str, int]

    async def wait_for(self, pattern: str) -> str:
        """The next line of output that matches."""
        return await next_line(self.process, pattern)

    def translate(self, text: str) -> str:
        """The text with the documents' ports replaced."""
        return re.sub("|".join(self.ports), lambda match: str(self.ports[match[0]]), text)


async def next_line(process: Process, pattern: str) -> str:
    assert process.stdout is not None
    seen = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            while line := (await process.stdout.readline()).decode():
                if re.search(pattern, line):
                    return line
                seen.append(line)
    raise AssertionError(f"no {pattern!r} in:\n{''.join(seen)}")


@contextlib.asynccontextmanager
async def run_quickstart(directory: Path, *more: str) -> AsyncIterator[Running]:
    """Start it with the example's own configuration, moved to free ports."""
    names = ("7999", "8000", "5560", "5561")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.quickstart"),
        *("--port", str(ports["7999"]), "--backend-port", str(ports["8000"])),
        *("--config", str(directory / "gripproxy.conf")),
        *("--publish-url", f"http://127.0.0.1:{ports['5561']}/publish/"),
        *more,
        cwd=ROOT, env=environment(), stdout=PIPE, stderr=STDOUT, start_new_session=True,
    )  # fmt: skip
    running = Running(process, ports)
    for name in ("gripproxy.conf", "routes"):
        text = (QUICKSTART / name).read_text()
        (directory / name).write_text(running.translate(text))
    try:
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(SECONDS):
            rest, _ = await process.communicate()
        print(rest.decode())  # for pytest to show when the test failed


def transcripts(document: Path) -> list[tuple[str, list[str]]]:
    """The commands in a document's console blocks, each with the output printed below it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", document.read_text(), re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


async def shell(command: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(require("bash"), "-c", f"exec {command}"),
        env={**environment(), "GRIP_URL": ""}, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip


async def test_the_readmes_transcripts_happen_as_printed(tmp_path: Path) -> None:
    require("curl")
    kinds = []
    async with run_quickstart(tmp_path) as running:
        await running.wait_for("Ctrl-C stops")
        waiting: list[tuple[Process, list[str]]] = []
        for printed, output in transcripts(ROOT / "README.md"):
            command = running.translate(printed).replace("curl", "curl --silent --show-error")
            command = command.replace("gripproxy-publish", f"{sys.executable} -m gripproxy.publish")
            process = await shell(command)
            if "localhost:7999" in printed:
                kinds.append("wait")
                waiting.append((process, output))
                await running.wait_for("subscribe .* channel=messages")
                continue
            kinds.append("publish")
            out, err = await asyncio.wait_for(process.communicate(), SECONDS)
            assert (out.decode().splitlines(), err, process.returncode) == (output, b"", 0)
            for client, expected in waiting:
                for line in expected:
                    assert await next_line(client, "") == line + "\n"
                with contextlib.suppress(ProcessLookupError):
                    client.terminate()
                await client.communicate()
            waiting.clear()
    assert kinds == ["wait", "publish", "wait", "publish"]


async def test_the_printed_curl_line_is_the_readmes_and_reaches_a_poll(tmp_path: Path) -> None:
    require("curl")
    async with run_quickstart(tmp_path) as running:
        opened = await running.wait_for("Open http")
        line = (await running.wait_for(r"^ +curl ")).strip()
        assert f"http://localhost:{running.ports['7999']}/ " in opened
        assert line in running.translate((ROOT / "README.md").read_text())
        async with asyncio.TaskGroup() as group:
            poll = group.create_task(get(running.ports["7999"], "/poll"))
            await running.wait_for("subscribe .* channel=messages")
            process = await shell(line)
            out, _ = await asyncio.wait_for(process.communicate(), SECONDS)
            assert out == b"Published\n"
        assert poll.result().body == b"hello\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_stops_backend_and_proxy(tmp_path: Path, number: signal.Signals) -> None:
    async with run_quickstart(tmp_path) as running:
        await running.wait_for("Ctrl-C stops")
        running.process.send_signal(number)
        async with asyncio.timeout(SECONDS):
            assert await running.process.wait() == 0
        for port in running.ports.values():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize(("name", "variable"), [("7999", "PORT"), ("8000", "BACKEND_PORT")])
async def test_a_taken_port_is_named_with_the_way_out(
    tmp_path: Path, name: str, variable: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        option = {"7999": "--port", "8000": "--backend-port"}[name]
        async with run_quickstart(tmp_path, option, str(port)) as running:
            await running.wait_for(rf"^Port {port} is in use\. .*make run {variable}=[0-9]+$")
            assert await running.process.wait() == 1


async def test_a_proxy_that_cannot_start_ends_the_whole(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.conf")
    async with run_quickstart(tmp_path, "--config", missing) as running:
        await running.wait_for(re.escape(missing))
        await running.wait_for("gripproxy ended by itself with status 1")
        assert await running.process.wait() == 1


@pytest.mark.parametrize(("target", "example"), [("run", "quickstart"), ("chat", "chat")])
def test_the_makefile_starts_it_with_its_ports(target: str, example: str) -> None:
    make = require("make")
    with os.popen(f"cd {ROOT} && {make} --dry-run {target} PORT=1 BACKEND_PORT=2") as out:
        assert f"-m examples.{example} --port 1 --backend-port 2" in out.read()
