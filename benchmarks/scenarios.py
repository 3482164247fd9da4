"""What is measured. A scenario prepares one target and yields the turn to repeat on it.

A turn returns its figures by name; `report.FIGURES` says what they mean.
"""

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.load import Load, Requests, wrk
from benchmarks.message import SIZE, Hold, message
from benchmarks.targets import GripProxy, Publish, Target

Figures = dict[str, float]
Turn = Callable[[], Figures]

PROXIES = ("gripproxy", "pushpin", "nchan")
GRIP_PROXIES = ("gripproxy", "pushpin")
HEADER_BYTES = 1024
WARM_UP_CONNECTIONS = 50
BURST = 40


@dataclass(frozen=True, slots=True)
class Size:
    """How much each turn does: connections or messages, for how long; and where files go."""

    n: int
    seconds: int
    directory: Path


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing to measure."""

    name: str
    about: str  # {n} and {seconds} are filled in
    tool: str
    targets: tuple[str, ...]
    prepare: Callable[[Target, Size], AbstractContextManager[Turn]]
    n: int = 0  # by default; 0 where there is nothing to count
    seconds: int = 3  # by default, of a turn that is measured by time
    turns: int = 1  # per repetition
    connections: bool = False  # what n counts
    once: bool = False  # one turn, without one to warm up


# -- requests ------------------------------------------------------------------------------------


def browser_headers() -> list[tuple[str, str]]:
    """What a browser adds to a request, cookies included: `HEADER_BYTES` of lines."""
    headers = [
        ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("Accept-Language", "en-GB,en;q=0.7,de;q=0.3"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Referer", "https://www.example.com/channels/general?sort=newest&page=2"),
        ("DNT", "1"),
        ("Sec-Fetch-Dest", "document"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-User", "?1"),
        ("Priority", "u=0, i"),
        ("Cookie", "session="),
    ]
    used = sum(len(f"{name}: {value}\r\n") for name, value in headers)
    headers[-1] = ("Cookie", "session=" + "0123456789abcdef" * 64)
    return [*headers[:-1], ("Cookie", headers[-1][1][: len("session=") + HEADER_BYTES - used])]


@contextlib.contextmanager
def proxy(target: Target, size: Size) -> Iterator[Turn]:
    yield lambda: _requests(target, lambda: wrk(target.port, "/plain", size.seconds))


@contextlib.contextmanager
def proxy_headers(target: Target, size: Size) -> Iterator[Turn]:
    options = [
        word for name, value in browser_headers() for word in ("--header", f"{name}: {value}")
    ]
    yield lambda: _requests(target, lambda: wrk(target.port, "/plain", size.seconds, options))


@contextlib.contextmanager
def publish_http(target: Target, size: Size) -> Iterator[Turn]:
    assert isinstance(target, GripProxy)
    item = {"channel": "nobody", "formats": {"http-stream": {"content": "x" * SIZE}}}
    script = size.directory / "publish.lua"
    script.write_text(
        'wrk.method = "POST"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = [[{json.dumps({'items': [item]})}]]\n"
    )
    port, options = target.http_port, ["--script", str(script)]
    yield lambda: _requests(target, lambda: wrk(port, "/publish/", size.seconds, options))


def _requests(target: Target, run: Callable[[], Requests]) -> Figures:
    before = target.tree.cpu_seconds()
    answered = run()
    used = target.tree.cpu_seconds() - before
    return {
        "cpu_us_each": 1e6 * used / max(1, answered.requests),
        "per_s": answered.requests / answered.seconds,
        "p99_ms": answered.p99_ms,
        "bad": answered.bad + answered.errors,
    }


# -- holds ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def fanout(target: Target, size: Size, hold: Hold, messages: int = 1) -> Iterator[Turn]:
    """Messages to `size.n` clients, all at once."""
    with (
        Load(target.port, hold, size.n, size.directory) as load,
        target.publisher(hold) as publish,
    ):
        yield lambda: _deliveries(target, load, publish, wanted=size.n, messages=messages)


@contextlib.contextmanager
def burst_one(target: Target, size: Size, hold: Hold) -> Iterator[Turn]:
    """`size.n` messages to one client, all at once."""
    with (
        Load(target.port, hold, 1, size.directory) as load,
        target.publisher(hold) as publish,
    ):
        yield lambda: _deliveries(target, load, publish, wanted=1, messages=size.n)


@contextlib.contextmanager
def poll(target: Target, size: Size) -> Iterator[Turn]:
    with (
        Load(target.port, Hold.POLL, size.n, size.directory) as load,
        target.publisher(Hold.POLL) as publish,
    ):

        def turn() -> Figures:
            before = target.tree.cpu_seconds()
            asked = load.ask()
            _wait_idle(target)
            publish(message())
            got = load.arrivals(asked)
            used = target.tree.cpu_seconds() - before
            return {
                "cpu_us_each": 1e6 * used / max(1, got.messages),
                "p50_ms": got.p50_ms,
                "last_ms": got.last_ms,
                "delivered_pct": 100 * got.messages / max(1, asked),
                "lost": size.n - asked + got.closed,
            }

        yield turn


@contextlib.contextmanager
def memory(target: Target, size: Size, hold: Hold) -> Iterator[Turn]:
    # What is loaded or allocated with the first holds is not the price of one.
    with Load(target.port, hold, WARM_UP_CONNECTIONS, size.directory):
        _wait_idle(target)
    _wait_idle(target)

    def turn() -> Figures:
        before = target.tree.pss_kib()
        with Load(target.port, hold, size.n, size.directory) as load:
            _wait_idle(target)
            held = target.tree.pss_kib() - before
            return {
                "kib_per_connection": held / load.connected,
                "idle_mib": before / 1024,
                "lost": size.n - load.connected + load.arrivals(0).closed,
            }

    yield turn


@contextlib.contextmanager
def echo(target: Target, size: Size) -> Iterator[Turn]:
    with Load(target.port, Hold.WEBSOCKET, size.n, size.directory) as load:

        def turn() -> Figures:
            before = target.tree.cpu_seconds()
            echoes = load.echoes(size.seconds)
            used = target.tree.cpu_seconds() - before
            got = echoes.arrivals
            return {
                "cpu_us_each": 1e6 * used / max(1, got.messages),
                "per_s": got.messages / echoes.seconds,
                "p99_ms": got.p99_ms,
                "delivered_pct": 100 * got.messages / max(1, echoes.sent),
                "lost": size.n - load.connected + got.closed,
            }

        yield turn


@contextlib.contextmanager
def connect(target: Target, size: Size) -> Iterator[Turn]:
    def turn() -> Figures:
        before = target.tree.cpu_seconds()
        with Load(target.port, Hold.WEBSOCKET, size.n, size.directory) as load:
            _wait_idle(target)
            used = target.tree.cpu_seconds() - before
            lost = size.n - load.connected + load.arrivals(0).closed
        _wait_idle(target)  # the leaving of these is not the price of the next ones
        return {"cpu_us_each": 1e6 * used / load.connected, "lost": lost}

    yield turn


@contextlib.contextmanager
def hold_websockets(target: Target, size: Size) -> Iterator[Turn]:
    with (
        Load(target.port, Hold.WEBSOCKET, size.n, size.directory) as load,
        target.publisher(Hold.WEBSOCKET) as publish,
    ):

        def turn() -> Figures:
            _wait_idle(target)
            begin = time.monotonic()
            found = []
            for second in range(size.seconds):
                time.sleep(max(0.0, begin + second - time.monotonic()))
                publish(message())
                found.append(load.arrivals(load.connected, seconds=0.8))
            expected = load.connected * size.seconds
            missing = expected - sum(got.messages for got in found)
            found.append(load.arrivals(max(0, missing)))
            messages = sum(got.messages for got in found)
            last = sorted(got.last_ms for got in found if got.messages) or [0.0]
            return {
                "last_p50_ms": statistics.median(last),
                "last_p99_ms": last[math.ceil(0.99 * len(last)) - 1],
                "last_max_ms": last[-1],
                "delivered_pct": 100 * messages / expected,
                "lost": size.n - load.connected + sum(got.closed for got in found),
            }

        yield turn


def _deliveries(
    target: Target, load: Load, publish: Publish, *, wanted: int, messages: int
) -> Figures:
    before = target.tree.cpu_seconds()
    for _ in range(messages):
        publish(message())
    got = load.arrivals(load.connected * messages)
    used = target.tree.cpu_seconds() - before
    return {
        "cpu_us_per_delivery": 1e6 * used / max(1, got.messages),
        "p50_ms": got.p50_ms,
        "last_ms": got.last_ms,
        "delivered_pct": 100 * got.messages / (load.connected * messages),
        "lost": wanted - load.connected + got.closed,
    }


def _wait_idle(target: Target) -> None:
    """Wait until the target has next to nothing to do, for at most 5 seconds."""
    window, share, quiet = 0.1, 0.05, 0
    deadline = time.monotonic() + 5
    used = target.tree.cpu_seconds()
    while quiet < 3 and time.monotonic() < deadline:
        time.sleep(window)
        before, used = used, target.tree.cpu_seconds()
        quiet = quiet + 1 if used - before < window * share else 0


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "proxy",
            "GET of 6 bytes on 32 kept connections, {seconds} s a turn",
            "wrk",
            PROXIES,
            proxy,
        ),
        Scenario(
            "proxy-headers",
            "the same with 1 KiB of a browser's headers, {seconds} s a turn",
            "wrk",
            PROXIES,
            proxy_headers,
        ),
        Scenario(
            "fanout-stream",
            "one message to {n} held streams",
            "cc",
            (*PROXIES, "floor"),
            partial(fanout, hold=Hold.STREAM),
            n=2000,
            connections=True,
            turns=3,
        ),
        Scenario(
            "burst-one",
            "{n} messages published at once to one held stream",
            "cc",
            GRIP_PROXIES,
            partial(burst_one, hold=Hold.STREAM),
            n=20_000,
        ),
        Scenario(
            "memory-stream",
            "{n} held streams",
            "cc",
            PROXIES,
            partial(memory, hold=Hold.STREAM),
            n=5000,
            connections=True,
            once=True,
        ),
        Scenario(
            "publish-http",
            "POST of one item for nobody, 32 publishers, {seconds} s a turn",
            "wrk",
            GRIP_PROXIES,
            publish_http,
        ),
        Scenario(
            "poll",
            "{n} long-polls, held and then answered by one publish",
            "cc",
            PROXIES,
            poll,
            n=1000,
            connections=True,
            turns=2,
        ),
        Scenario(
            "fanout-ws",
            "one message to {n} WebSockets",
            "cc",
            PROXIES,
            partial(fanout, hold=Hold.WEBSOCKET),
            n=2000,
            connections=True,
            turns=3,
        ),
        Scenario(
            "burst-ws",
            f"{BURST} messages published at once to {{n}} WebSockets",
            "cc",
            PROXIES,
            partial(fanout, hold=Hold.WEBSOCKET, messages=BURST),
            n=500,
            connections=True,
        ),
        Scenario(
            "burst-one-ws",
            "{n} messages published at once to one WebSocket",
            "cc",
            GRIP_PROXIES,
            partial(burst_one, hold=Hold.WEBSOCKET),
            n=20_000,
        ),
        Scenario(
            "echo",
            "messages to the backend and back on {n} WebSockets over HTTP, {seconds} s a turn",
            "cc",
            GRIP_PROXIES,
            echo,
            n=100,
            connections=True,
        ),
        Scenario(
            "connect",
            "{n} WebSockets accepted, each by a request to the backend",
            "cc",
            GRIP_PROXIES,
            connect,
            n=1500,
            connections=True,
        ),
        Scenario(
            "memory-ws",
            "{n} held WebSockets",
            "cc",
            PROXIES,
            partial(memory, hold=Hold.WEBSOCKET),
            n=5000,
            connections=True,
            once=True,
        ),
        Scenario(
            "hold-ws",
            "{n} held WebSockets, one message a second to all of them, for {seconds} s",
            "cc",
            PROXIES,
            hold_websockets,
            n=10_000,
            seconds=20,
            connections=True,
            once=True,
        ),
    )
}
