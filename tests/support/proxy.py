"""The proxy under test, as a process of its own on free ports of 127.0.0.1.

    async with start_proxy([f"* {backend.address}"], proxy={"debug": True}) as proxy:
        r = await get(proxy.port, "/")
        await proxy.wait_subscribed("fruit")
        await proxy.publish({"channel": "fruit", "http-stream": {"content": "apple\\n"}})
        await proxy.wait_log(r"publish channel=fruit receivers=1")

Which program runs is the environment's choice: GRIPPROXY_TEST_TARGET=gripproxy (default) or pushpin
(Debian's 1.36). Tests marked `shared` describe what both do; for pushpin the others are left out by
tests/flow/conftest.py.

`start_proxy(routes, proxy=, runner=, handler=, globals=)` writes pushpin.conf and the routes file
to a new directory (`proxy.directory`); the mappings add to or replace the keys of a section, None
removes a key, `{port}` in a value stands for the client port. `https=2` opens two TLS ports
(`proxy.https_ports`); `certs={"default_{https_port}": pair}` fills runner/certs. `files` are
written beside the config. `args` go to the command line, `env` to the environment. On leaving,
SIGTERM must end the process with status 0 within 5 seconds.

A module's tests share one proxy through a fixture, all on the module's event loop:

    pytestmark = pytest.mark.asyncio(loop_scope="module")

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def stage() -> AsyncIterator[tuple[Backend, Proxy]]:
        async with start_backend() as backend, start_proxy(f"* {backend.address}") as it:
            yield backend, it

Function-scoped async fixtures there need `loop_scope="module"` too. `run_cli(...)` runs a command
to its end.
"""

import asyncio
import contextlib
import functools
import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.certs import Pair
from tests.support.client import Response, fetch

ROOT = Path(__file__).resolve().parents[2]
TARGET = os.environ.get("GRIPPROXY_TEST_TARGET", "gripproxy")
PUSHPIN = TARGET == "pushpin"
START_SECONDS = 15.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.01
TEST_PORTS = (10_000, 32_000)
Settings = Mapping[str, object]


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now.

    They are below those that the kernel gives to clients, so that no connection of another test
    takes one before the proxy does.
    """
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = random.randrange(*TEST_PORTS)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
        return ports


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 loopback address."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with the source tree importable."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(extra or {})}


class Finished(NamedTuple):
    status: int
    out: str
    err: str


async def run_cli(
    *args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 10
) -> Finished:
    """Run `gripproxy ARGS` (or pushpin) to its end, within `timeout` seconds."""
    process = await asyncio.create_subprocess_exec(
        *program(), *args, cwd=cwd, env=environment(env),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


def program() -> list[str]:
    """The command line that starts the program under test."""
    return ["pushpin"] if PUSHPIN else [sys.executable, "-m", "gripproxy"]


class Proxy:
    """One running proxy. Make it with `start_proxy`."""

    def __init__(self, directory: Path, ports: list[int], https_ports: list[int]) -> None:
        self.directory = directory
        self.port, self.http_control, pull, sub, command = ports
        self.https_ports = https_ports
        self.pull_spec = f"tcp://127.0.0.1:{pull}"
        self.sub_spec = f"tcp://127.0.0.1:{sub}"
        self.command_spec = f"tcp://127.0.0.1:{command}"
        self.config_path = directory / "pushpin.conf"
        self.routes_path = directory / "routes"
        self.rundir = directory / "run"
        self.process: subprocess.Popen[bytes]
        self.returncode: int | None = None

    @property
    def https_port(self) -> int:
        return self.https_ports[0]

    @property
    def pid(self) -> int:
        return self.process.pid

    # -- log ---------------------------------------------------------------------------------

    @property
    def log_path(self) -> Path:
        return self.directory / "output.log"

    def log(self) -> str:
        """Everything that the process has written so far."""
        return self.log_path.read_text(errors="replace")

    async def wait_log(
        self, pattern: str, count: int = 1, timeout: float = 10
    ) -> list[re.Match[str]]:
        """Wait until the log has `count` places that match; returns all of them."""
        found: list[re.Match[str]] = []
        deadline = time.monotonic() + timeout
        while len(found := list(re.finditer(pattern, self.log(), re.MULTILINE))) < count:
            assert time.monotonic() < deadline, (
                f"no {pattern!r} (x{count}) in the log:\n{self.log()[-4000:]}"
            )
            await asyncio.sleep(POLL_SECONDS)
        return found

    async def wait_subscribed(self, channel: str, count: int = 1, timeout: float = 10) -> None:
        """Wait until the channel was subscribed `count` times since the start."""
        await self.wait_log(
            rf"\bsubscribe \S+ channel={re.escape(channel)}(?=\s|$)", count, timeout
        )

    # -- publishing --------------------------------------------------------------------------

    async def publish(self, *items: Mapping[str, Any]) -> None:
        """Publish by HTTP; must be accepted."""
        r = await self.control("POST", "/publish/", json.dumps({"items": items}).encode())
        assert (r.status, r.body) == (200, b"Published\n"), r

    async def control(
        self, method: str, path: str, body: bytes | None = None, headers: Any = ()
    ) -> Response:
        """One request to the HTTP control port."""
        return await fetch(self.http_control, method, path, headers, body)

    # -- the process -------------------------------------------------------------------------

    def write_routes(self, routes: str | Sequence[str]) -> None:
        """Replace the routes file, as an editor does: by a rename."""
        text = routes if isinstance(routes, str) else "\n".join(routes)
        fresh = self.directory / "routes.new"
        fresh.write_text(text + "\n" + _probe_route(self))
        fresh.rename(self.routes_path)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait_exit(self, timeout: float = STOP_SECONDS) -> int:
        """Wait for the process to end by itself; its exit status."""
        deadline = time.monotonic() + timeout
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"still running:\n{self.log()[-4000:]}"
            await asyncio.sleep(POLL_SECONDS)
        self.returncode = code
        return code

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return await self.wait_exit()

    def kill(self) -> None:
        """End the process and its children now, whatever they do."""
        for pid in self._pids():  # Pushpin's children are not in its process group
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def memory(self) -> int:
        """Proportional memory of all processes, in KiB."""
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += sum(int(x) for x in re.findall(r"^Pss: +(\d+)", rollup, re.MULTILINE))
        return total

    def peak_memory(self) -> int:
        """Highest resident memory so far of all processes together, in KiB."""
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                total += sum(int(x) for x in re.findall(r"^VmHWM:\s+(\d+)", status, re.MULTILINE))
        return total

    async def wait_connections(self, count: int, timeout: float = 10) -> None:
        """Wait until at least `count` clients of the client port have been accepted."""
        deadline = time.monotonic() + timeout
        while len(_established(self.port)) < count:
            assert time.monotonic() < deadline, f"{len(_established(self.port))} connections"
            await asyncio.sleep(POLL_SECONDS)

    def open_files(self) -> int:
        """How many file descriptors all processes hold."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self._pids())

    def _pids(self) -> list[int]:
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                    children.setdefault(parent, []).append(int(entry.name))
        todo, out = [self.process.pid] if self.process.returncode is None else [], []
        while todo:
            out.append(pid := todo.pop())
            todo += children.get(pid, [])
        return out


def _established(port: int) -> list[str]:
    """Connections to `port` of 127.0.0.1 that a process has accepted: those with an inode."""
    local = f"0100007F:{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return [row[9] for row in rows if row[1] == local and row[3] == "01" and row[9] != "0"]


def write_section(name: str, *layers: Settings) -> str:
    """A section of the config; later layers win, None removes a key."""
    keys: dict[str, object] = {}
    for layer in layers:
        keys.update(layer)
    lines = [f"[{name}]"]
    for key, value in keys.items():
        if isinstance(value, bool):
            value = str(value).lower()
        if value is not None:
            lines.append(f"{key}={value}")
    return "\n".join(lines) + "\n"


def _pushpin_settings() -> tuple[Settings, Settings, Settings]:
    """What Debian's build needs beyond a plain config: zurl is not among its default services."""
    globals_ = {"include": "{libdir}/internal.conf"}
    runner = {
        "services": "condure,zurl,pushpin-proxy,pushpin-handler",
        "condure_bin": "condure",
        "zurl_bin": "zurl",
    }
    zurl = "ipc://{rundir}/{ipc_prefix}zurl"
    proxy = {
        "zurl_out_specs": zurl + "-in",
        "zurl_out_stream_specs": zurl + "-in-stream",
        "zurl_in_specs": zurl + "-out",
    }
    return globals_, runner, proxy


PROBE_HOST = "probe.invalid"


def _probe_route(proxy: Proxy) -> str:
    port = getattr(proxy, "probe_port", 0)
    return f"{PROBE_HOST} 127.0.0.1:{port}\n" if port else ""


class _ProbeAnswer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.send_header("Grip-Set-Meta", "probe=1")  # an instruct, so that it takes the whole way
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _probe(proxy: Proxy) -> Iterator[None]:
    """Pushpin loses requests just after its start: one must have come through first."""
    if not PUSHPIN:
        yield
        return
    with http.server.HTTPServer(("127.0.0.1", 0), _ProbeAnswer) as server:
        proxy.probe_port = server.server_port  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _answers_probe(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.3) as s:
            s.sendall(f"GET / HTTP/1.1\r\nHost: {PROBE_HOST}\r\n\r\n".encode())
            return s.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.3).close()
    except OSError:
        return False
    return True


def _accepts_local(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as s:
        return s.connect_ex(str(path)) == 0


def _heed_signals() -> None:
    """Pushpin goes on ignoring what it was started with ignored, as by nohup or in a background."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _local_ports(proxy: Proxy, runner: Settings | None) -> list[Path]:
    """The Unix sockets that the config names."""
    text = str((runner or {}).get("local_ports", ""))
    text = text.replace("{rundir}", str(proxy.rundir)).replace("{ipc_prefix}", "t-")
    return [proxy.directory / name.partition("?")[0] for name in text.split(",") if name]


def _wait_ready(proxy: Proxy, ports: Sequence[int], local_ports: Sequence[Path]) -> None:
    deadline = time.monotonic() + START_SECONDS
    waiting = [functools.partial(_accepts, p) for p in ports]
    waiting += [functools.partial(_accepts_local, p) for p in local_ports]
    if PUSHPIN:
        waiting.append(functools.partial(_answers_probe, proxy.port))
    while waiting:
        if waiting[0]():
            del waiting[0]
            continue
        code = proxy.process.poll()
        assert code is None, f"the proxy ended with status {code}:\n{proxy.log()}"
        assert time.monotonic() < deadline, f"the proxy is not up:\n{proxy.log()}"
        time.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def start_proxy(
    routes: str | Sequence[str] = (),
    *,
    proxy: Settings | None = None,
    runner: Settings | None = None,
    handler: Settings | None = None,
    globals: Settings | None = None,
    https: int = 0,
    certs: Mapping[str, Pair] | None = None,
    files: Mapping[str, bytes | str] | None = None,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    config: str | None = None,
    configured: bool = True,
    wait_ports: Sequence[int] | None = None,
    exit_status: int | None = 0,
) -> AsyncIterator[Proxy]:
    """Start the proxy and wait until it accepts connections; stop it on leaving.

    `config` replaces the generated config text; `{port}`, `{http_control}` and `{directory}` in it
    are filled in. With `configured=False` there is no config. `wait_ports` replaces the ports to
    wait for (client, control and TLS ports). `exit_status` is what stopping must give; None for a
    process that the test ends itself.
    """
    directory = Path(tempfile.mkdtemp(prefix="proxytest-"))
    ports = free_ports(5 + https)
    it = Proxy(directory, ports[:5], ports[5:])
    try:
        with _probe(it):
            _write_files(it, routes, proxy, runner, handler, globals, certs, files, config)
            extra = ["--merge-output"] if PUSHPIN else []
            if PUSHPIN and "--route" in args:  # which replace the file, the probe's rule included
                extra += ["--route", _probe_route(it).strip()]
            named = [f"--config={it.config_path}"] if configured else []
            if not configured:
                it.config_path.unlink()
            with it.log_path.open("wb") as log:
                it.process = subprocess.Popen(
                    [*program(), *named, *extra, *args],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    cwd=directory, env=environment(env), start_new_session=True,
                    preexec_fn=_heed_signals,
                )  # fmt: skip
            up = (it.port, it.http_control, *it.https_ports) if wait_ports is None else wait_ports
            try:
                await asyncio.to_thread(_wait_ready, it, up, _local_ports(it, runner))
            except BaseException:
                it.kill()
                raise
        try:
            yield it
            if it.returncode is None:
                code = await it.stop()
                assert exit_status is None or code == exit_status, (
                    f"exit status {code}:\n{it.log()[-4000:]}"
                )
            # no test is to pass while something fails that nobody has thought of
            assert "Traceback" not in it.log(), it.log()[-4000:]
        finally:
            it.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _write_files(
    it: Proxy,
    routes: str | Sequence[str],
    proxy: Settings | None,
    runner: Settings | None,
    handler: Settings | None,
    globals_: Settings | None,
    certs: Mapping[str, Pair] | None,
    files: Mapping[str, bytes | str] | None,
    config: str | None,
) -> None:
    it.rundir.mkdir()
    folder = it.directory / "runner" / "certs"
    folder.mkdir(parents=True)
    names = {"https_port": it.https_ports[0]} if it.https_ports else {}
    for name, pair in (certs or {}).items():
        (folder / (name.format(**names) + ".crt")).write_bytes(pair.cert)
        (folder / (name.format(**names) + ".key")).write_bytes(pair.key)
    for name, content in (files or {}).items():
        path = it.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    it.write_routes(routes)
    if config is not None:
        for key in ("port", "http_control", "directory"):
            config = config.replace(f"{{{key}}}", str(getattr(it, key)))
        it.config_path.write_text(config)
        return
    of_pushpin = _pushpin_settings() if PUSHPIN else ({}, {}, {})
    base_globals: Settings = {"rundir": it.rundir, "ipc_prefix": "t-"}
    base_runner: Settings = {
        "http_port": f"127.0.0.1:{it.port}",
        "https_ports": ",".join(f"127.0.0.1:{p}" for p in it.https_ports) or None,
        "logdir": it.directory / "log",
        "log_level": 2,
        "client_maxconn": 1000,
    }
    base_proxy: Settings = {"routesfile": "routes"}
    base_handler: Settings = {
        "push_in_spec": it.pull_spec,
        "push_in_sub_specs": it.sub_spec,
        "push_in_http_addr": "127.0.0.1",
        "push_in_http_port": it.http_control,
        "stats_spec": "ipc://{rundir}/{ipc_prefix}stats",
        "command_spec": it.command_spec,
        "id_cache_ttl": 60,
    }
    text = (
        write_section("global", base_globals, of_pushpin[0], globals_ or {})
        + write_section("runner", base_runner, of_pushpin[1], runner or {})
        + write_section("proxy", base_proxy, of_pushpin[2], proxy or {})
        + write_section("handler", base_handler, handler or {})
    )
    it.config_path.write_text(text.replace("{port}", str(it.port)))
