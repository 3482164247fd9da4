"""The servers under test: how each starts, where clients connect, how a message is published.

Each is a context manager that runs it. They listen on 127.0.0.1 only, in front of the same backend.
"""

import contextlib
import http.client
import os
import socket
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import zmq

from benchmarks import machine
from benchmarks.backend import PLAIN_BODY
from benchmarks.errors import Failure
from benchmarks.message import CHANNEL, Hold, grip_item
from benchmarks.processes import Tree, free_ports

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 15.0
SEND_SECONDS = 10
Publish = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """What targets share: the backend's port, a directory for files, gripproxy's log level."""

    backend_port: int
    directory: Path
    log_level: str


class Target(ABC):
    """One server under test."""

    name: ClassVar[str]
    tools: ClassVar[tuple[str, ...]] = ()
    port: int  # for clients
    tree: Tree

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._directory = stage.directory / f"{self.name}.d"
        self._directory.mkdir(exist_ok=True)

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot be run here, or None."""
        return next((why for tool in cls.tools if (why := machine.missing(tool))), None)

    def __enter__(self) -> Self:
        self.tree = self._start()
        try:
            self._wait_ready()
        except BaseException:
            self.tree.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.tree.stop()

    @abstractmethod
    def _start(self) -> Tree:
        """Start it."""

    @abstractmethod
    def _wait_ready(self) -> None:
        """Wait until a request comes through; `port` is known then."""

    @abstractmethod
    def publisher(self, hold: Hold) -> AbstractContextManager[Publish]:
        """A function that publishes content to those who are held in this way."""

    @property
    def _log(self) -> Path:
        return self._directory / "output.log"

    def _write(self, name: str, text: str) -> Path:
        path = self._directory / name
        path.write_text(text)
        return path

    def _wait_for(self, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not is_ready():
            if not self.tree.running or time.monotonic() > deadline:
                raise self.tree.failure(f"{self.name} did not start")
            time.sleep(0.05)

    def _answers(self, path: str) -> bool:
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=1) as response:
                body = response.read()
        except (OSError, http.client.HTTPException):
            return False
        if body != PLAIN_BODY:
            raise Failure(f"{self.name} changed the body: {body!r}")
        return True


class GripProxy(Target):
    """A proxy that is configured as Pushpin is."""

    http_port: int  # for publishers
    _pull_port: int

    def _wait_ready(self) -> None:
        self._wait_for(lambda: self._answers("/plain"))
        # Pushpin fails requests for a moment after its start, those with instructions longest.
        self._wait_for(lambda: self._answers("/instruct"))
        self._wait_for(lambda: _accepts(self.http_port))

    @contextlib.contextmanager
    def publisher(self, hold: Hold) -> Iterator[Publish]:
        """By ZeroMQ, and so without an answer to wait for."""
        with zmq.Context() as context, context.socket(zmq.PUSH) as push:
            push.sndhwm = 0  # no limit: a burst waits here, not in the caller
            push.linger = 0
            push.sndtimeo = SEND_SECONDS * 1000
            push.connect(f"tcp://127.0.0.1:{self._pull_port}")
            yield lambda content: push.send(b"J" + grip_item(hold, content))

    def _configured(
        self,
        *,
        log_level: str,
        general: str = "",
        runner: str = "",
        proxy: str = "",
        handler: str = "",
    ) -> Path:
        self.port, self.http_port, self._pull_port = free_ports(3)
        backend = f"127.0.0.1:{self._stage.backend_port}"
        over_http = f"*,path_beg={Hold.WEBSOCKET.path} {backend},over_http\n"
        self._write("routes", f"{over_http}* {backend}\n")
        return self._write(
            f"{self.name}.conf",
            f"""\
[global]
{general}
rundir={self._directory}
[runner]
{runner}
http_port=127.0.0.1:{self.port}
log_level={log_level}
[proxy]
{proxy}
routesfile={self._directory}/routes
sig_key=benchmark
[handler]
{handler}
push_in_spec=tcp://127.0.0.1:{self._pull_port}
push_in_http_addr=127.0.0.1
push_in_http_port={self.http_port}
""",
        )


class Gripproxy(GripProxy):
    """This tree's gripproxy, run by this Python."""

    name = "gripproxy"

    def _start(self) -> Tree:
        path = self._configured(log_level=self._stage.log_level)
        return Tree(
            [sys.executable, "-m", "gripproxy", "--config", path],
            self._log,
            cwd=self._directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )


class Pushpin(GripProxy):
    """Debian's Pushpin 1.36, which needs zurl named, without limits on what it delivers."""

    name = "pushpin"
    tools = ("pushpin",)

    def _start(self) -> Tree:
        zurl = "ipc://{rundir}/{ipc_prefix}zurl"
        path = self._configured(
            log_level="1",
            general="include={libdir}/internal.conf\nipc_prefix=bench-",
            runner="services=condure,zurl,pushpin-proxy,pushpin-handler\n"
            f"condure_bin=condure\nzurl_bin=zurl\nlogdir={self._directory}",
            proxy=f"zurl_out_specs={zurl}-in\nzurl_out_stream_specs={zurl}-in-stream\n"
            f"zurl_in_specs={zurl}-out",
            handler="message_rate=100000000\nmessage_hwm=100000000",
        )
        return Tree([machine.installed("pushpin"), f"--config={path}", "--merge-output"], self._log)


class Nchan(Target):
    """nginx with Nchan: a plain proxy, and subscribers for whom no backend is asked."""

    name = "nchan"
    tools = ("nginx", "nchan")

    def _start(self) -> Tree:
        (self.port,) = free_ports(1)
        here = self._directory
        connections = min(machine.raise_open_files() - 100, 20_000)
        path = self._write(
            "nginx.conf",
            f"""\
load_module {machine.NCHAN_MODULE};
daemon off;
worker_processes 1;
pid {here}/pid;
error_log stderr;
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {here}/body;
  proxy_temp_path {here}/proxy;
  fastcgi_temp_path {here}/fastcgi;
  uwsgi_temp_path {here}/uwsgi;
  scgi_temp_path {here}/scgi;
  nchan_shared_memory_size 256M;
  upstream backend {{ server 127.0.0.1:{self._stage.backend_port}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{self.port} backlog=4096;
    location = /publish {{
      nchan_publisher;
      nchan_channel_id {CHANNEL};
      nchan_message_buffer_length 100;
    }}
    location = /plain {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
    location / {{
      nchan_subscriber;
      nchan_channel_id {CHANNEL};
      nchan_subscriber_first_message newest;
    }}
  }}
}}
""",
        )
        return Tree([machine.installed("nginx"), "-e", "stderr", "-c", path], self._log)

    def _wait_ready(self) -> None:
        self._wait_for(lambda: self._answers("/plain"))

    @contextlib.contextmanager
    def publisher(self, hold: Hold) -> Iterator[Publish]:
        """By HTTP on a kept connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SEND_SECONDS)

        def publish(content: bytes) -> None:
            connection.request("POST", "/publish", content, {"Content-Type": "text/plain"})
            response = connection.getresponse()
            response.read()
            if response.status not in (200, 201, 202):
                raise Failure(f"{self.name} answered a publish with {response.status}")

        with contextlib.closing(connection):
            yield publish


class Floor(Target):
    """A loop of send() and nothing else: what a fan-out costs at least."""

    name = "floor"
    tools = ("cc",)

    def _start(self) -> Tree:
        return Tree([machine.compiled("floor", self._stage.directory)], self._log, piped=True)

    def _wait_ready(self) -> None:
        self.port = self.tree.port()

    @contextlib.contextmanager
    def publisher(self, hold: Hold) -> Iterator[Publish]:
        """By a socket."""
        address = ("127.0.0.1", self.port)
        with socket.create_connection(address, timeout=SEND_SECONDS) as connection:
            yield lambda content: connection.sendall(b"P" + content)


TARGETS: dict[str, type[Target]] = {t.name: t for t in (Gripproxy, Pushpin, Nchan, Floor)}


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
