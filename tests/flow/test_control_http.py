"""The publish port over real sockets, with a publisher that only keeps what it gets."""

import asyncio
import contextlib
import errno
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.control.http import ControlConnection, ControlLimits, ControlServer, listen
from gripproxy.deadlines import Deadlines
from gripproxy.errors import ConfigError
from tests.flow.control_cases import (
    BODIES,
    CASES,
    CONTINUE,
    ITEM,
    MALFORMED,
    NOT_FOUND,
    PUBLISHED,
    ROOT,
    TEXT,
    TOO_LARGE,
    Case,
    publishing,
    reply,
    request,
)
from tests.flow.fake_publisher import FakePublisher

KEPT = reply("200 OK", TEXT, close=False)


def item(channel: str) -> bytes:
    return ITEM.replace(b'"c"', b'"%b"' % channel.encode())


def kept(channel: str) -> bytes:
    """A publish on a connection that goes on."""
    return request("POST", "/publish", item(channel), fields="")


class Port:
    """A publish port that is open."""

    def __init__(self, server: ControlServer, publisher: FakePublisher) -> None:
        self.server = server
        self.publisher = publisher
        self._open: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self._open.append(writer)
        return reader, writer

    async def ask(self, sent: bytes) -> bytes:
        """All that comes back to `sent` until the server closes the connection."""
        reader, writer = await self.connect()
        writer.write(sent)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        return answer

    async def close(self) -> None:
        for writer in self._open:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def opened(limits: ControlLimits | None = None, *, start: bool = True) -> AsyncIterator[Port]:
    publisher = FakePublisher()
    deadlines = Deadlines(asyncio.get_running_loop())
    listener = listen("127.0.0.1", 0)
    server = ControlServer(listener, publisher, deadlines, limits or ControlLimits())
    if start:
        server.start()
    port = Port(server, publisher)
    try:
        yield port
    finally:
        await port.close()
        await server.close()
        deadlines.close()


def failing_first(call: Callable[..., Awaitable[Any]], *errors: OSError) -> Callable[..., Any]:
    """`call`, but each of `errors` is raised once before it gets through."""
    left = list(errors)

    async def attempt(*args: object) -> object:
        if left:
            raise left.pop()
        return await call(*args)

    return attempt


async def read(reader: asyncio.StreamReader, expected: bytes) -> None:
    """Read as much as `expected` and compare."""
    async with asyncio.timeout(10):
        assert await reader.readexactly(len(expected)) == expected


# The answers.


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_the_answer_is_exact(case: Case) -> None:
    async with opened() as port:
        assert await port.ask(case.request) == case.answer


@pytest.mark.parametrize("case", BODIES, ids=[case.name for case in BODIES])
async def test_a_body_that_is_not_valid_publishes_nothing(case: Case) -> None:
    async with opened() as port:
        await port.ask(case.request)
        assert port.publisher.items == []


async def test_the_items_of_a_body_are_published_in_order() -> None:
    body = b'{"items":[%b]}' % b",".join(item(name)[10:-2] for name in "abc")
    async with opened() as port:
        assert await port.ask(publishing(body)) == PUBLISHED
        assert port.publisher.channels == ["a", "b", "c"]


async def test_recover_reaches_the_publisher() -> None:
    async with opened() as port:
        await port.ask(request("POST", "/recover", b""))
        await port.ask(request("GET", "/recover"))
        assert port.publisher.recoveries == 1


async def test_requests_are_logged_with_code_size_and_items(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gripproxy.control")
    async with opened() as port:
        await port.ask(request("POST", "/publish/", ITEM))
        await port.ask(request("GET", "/\xe9\x9b"))
        await port.ask(b"GET /\r\n\r\n")
    assert caplog.messages == [
        "control: POST /publish/ code=200 10 items=1",
        r"control: GET /\xc3\xa9\xc2\x9b code=404 10",
        "control: refused a request: code=400 Failed to parse request header.",
    ]


async def test_the_limits_of_head_and_body_are_those_configured() -> None:
    async with opened(ControlLimits(headers_max=100, body_max=9)) as port:
        fields = f"A: {'a' * 100}\r\n"
        assert b"Request header too large.\n" in await port.ask(request("GET", "/", fields=fields))
        assert await port.ask(request("POST", "/publish", b"0123456789")) == TOO_LARGE
        assert b"not valid JSON" in await port.ask(request("POST", "/publish", b"012345678"))


# Connections.


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with opened() as port:
        reader, writer = await port.connect()
        for channel in "abc":
            writer.write(kept(channel))
            await read(reader, KEPT)
        assert port.publisher.channels == ["a", "b", "c"]


async def test_an_error_in_the_content_keeps_the_connection() -> None:
    async with opened() as port:
        reader, writer = await port.connect()
        writer.write(request("POST", "/publish", b"{", fields=""))
        await read(reader, reply("400 Bad Request", b"Body is not valid JSON.\n", close=False))
        writer.write(kept("a"))
        await read(reader, KEPT)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with opened() as port:
        reader, writer = await port.connect()
        names = [f"c{number}" for number in range(500)]
        writer.write(b"".join(map(kept, names)))
        await read(reader, KEPT * 500)
        assert port.publisher.channels == names


async def test_other_connections_get_their_turn_within_a_long_pipeline() -> None:
    async with opened() as port:
        seen: list[int] = []
        loop = asyncio.get_running_loop()

        def look() -> None:
            seen.append(len(port.publisher.items))
            if seen[-1] < 500:
                loop.call_soon(look)

        reader, writer = await port.connect()
        look()
        writer.write(b"".join(kept("c") for _ in range(500)))
        await read(reader, KEPT * 500)
        steps = [after - before for before, after in pairwise(seen)]
        assert max(steps) <= 64


async def test_a_request_cut_short_publishes_nothing() -> None:
    async with opened() as port:
        reader, writer = await port.connect()
        writer.write(kept("a") + kept("b")[:-1])
        writer.write_eof()
        async with asyncio.timeout(10):
            assert await reader.read() == KEPT
        assert port.publisher.channels == ["a"]


async def test_a_client_that_sends_no_more_still_gets_its_answer() -> None:
    async with opened() as port:
        reader, writer = await port.connect()
        writer.write(kept("a"))
        writer.write_eof()
        async with asyncio.timeout(10):
            assert await reader.read() == KEPT


async def test_continue_is_sent_before_the_body_comes() -> None:
    async with opened() as port:
        reader, writer = await port.connect()
        sent = request("POST", "/publish", ITEM, fields="Expect: 100-continue\r\n")
        writer.write(sent.removesuffix(ITEM))
        await read(reader, CONTINUE)
        writer.write(ITEM)
        await read(reader, KEPT)


async def test_a_client_that_is_refused_while_it_sends_can_read_why() -> None:
    async with opened() as port:
        reader, writer = await port.connect()
        writer.write(request("POST", "/publish", length="8000000"))
        for _ in range(80):
            writer.write(b"x" * 100_000)
            await writer.drain()
        async with asyncio.timeout(10):
            assert await reader.read() == TOO_LARGE


async def test_what_follows_a_refused_request_is_not_looked_at() -> None:
    async with opened() as port:
        assert await port.ask(b"GET /\r\n\r\n" + kept("a")) == MALFORMED
        assert port.publisher.items == []


async def test_what_follows_a_last_request_is_not_looked_at() -> None:
    async with opened() as port:
        assert await port.ask(request("GET", "/") + kept("a")) == ROOT
        assert port.publisher.items == []


async def test_beyond_the_greatest_number_of_connections_clients_wait() -> None:
    async with opened(ControlLimits(connections_max=2)) as port:
        first, first_writer = await port.connect()
        second, second_writer = await port.connect()
        third, third_writer = await port.connect()
        third_writer.write(kept("third"))
        for reader, writer in ((first, first_writer), (second, second_writer)):
            writer.write(kept("early"))
            await read(reader, KEPT)
        assert port.publisher.channels == ["early", "early"]
        first_writer.close()
        await read(third, KEPT)
        assert port.publisher.channels == ["early", "early", "third"]


async def test_an_idle_connection_is_closed() -> None:
    async with opened(ControlLimits(idle_timeout=0.05)) as port:
        assert await port.ask(b"") == b""
        assert await port.ask(kept("a")) == KEPT


async def test_a_request_that_does_not_end_in_time_is_given_up() -> None:
    async with opened(ControlLimits(idle_timeout=0.05)) as port:
        assert await port.ask(kept("a")[:-1]) == b""
        assert port.publisher.items == []


async def test_closing_the_server_ends_its_connections_and_frees_the_port() -> None:
    async with opened() as port:
        number = port.server.port
        reader, writer = await port.connect()
        writer.write(kept("a"))
        await read(reader, KEPT)
        await port.server.close()
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        listen("127.0.0.1", number).close()


async def test_a_lack_of_descriptors_is_logged_and_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gripproxy.control.http._ACCEPT_PAUSE", 0)
    async with opened(start=False) as port:
        loop = asyncio.get_running_loop()
        failing = OSError(errno.EMFILE, "Too many open files")
        port.server.loop = Mock(wraps=loop)
        port.server.loop.sock_accept = failing_first(loop.sock_accept, failing, failing)
        port.server.start()
        assert await port.ask(request("GET", "/")) == ROOT
    assert caplog.messages == 2 * [
        "publish port: cannot accept a connection: [Errno 24] Too many open files"
    ]


async def test_a_client_that_is_gone_before_it_is_served_does_not_matter() -> None:
    async with opened(ControlLimits(connections_max=1), start=False) as port:
        loop = asyncio.get_running_loop()
        port.server.loop = Mock(wraps=loop)
        port.server.loop.connect_accepted_socket = failing_first(
            loop.connect_accepted_socket, OSError(errno.ENOTCONN, "gone")
        )
        port.server.start()
        assert await port.ask(request("GET", "/")) == b""
        assert await port.ask(request("GET", "/")) == ROOT


# When the publisher's queue is full.


async def test_a_publish_is_answered_late_while_the_queue_is_full() -> None:
    async with opened() as port:
        port.publisher.full_from = 1
        reader, writer = await port.connect()
        writer.write(kept("a") + kept("b") + kept("c"))
        await read(reader, KEPT)
        await port.publisher.until(lambda: bool(port.publisher.waiting))
        assert port.publisher.channels == ["a"]
        port.publisher.make_room()
        await read(reader, KEPT * 2)
        assert port.publisher.channels == ["a", "b", "c"]


async def test_what_publishes_nothing_is_answered_while_the_queue_is_full() -> None:
    async with opened() as port:
        port.publisher.full_from = 0
        assert await port.ask(request("GET", "/nothing")) == NOT_FOUND
        assert (await port.ask(request("POST", "/recover", b""))).endswith(b"Updated\n")


async def test_waiting_for_the_queue_is_not_idling() -> None:
    async with opened(ControlLimits(idle_timeout=0.05)) as port:
        port.publisher.full_from = 0
        reader, writer = await port.connect()
        writer.write(kept("a"))
        await port.publisher.until(lambda: bool(port.publisher.waiting))
        for _ in range(2):
            assert await port.ask(b"") == b""  # two idle connections have come and gone
        port.publisher.make_room()
        await read(reader, KEPT)


async def test_a_client_that_leaves_while_it_waits_is_forgotten() -> None:
    async with opened(ControlLimits(connections_max=1)) as port:
        port.publisher.full_from = 0
        _, writer = await port.connect()
        writer.write(kept("a"))
        await port.publisher.until(lambda: bool(port.publisher.waiting))
        writer.transport.abort()
        port.publisher.make_room()
        assert await port.ask(request("POST", "/publish", item("b"))) == PUBLISHED
        assert port.publisher.channels[-1] == "b"


# The listening socket.


def test_a_port_in_use_is_an_error_of_the_configuration() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}: Address already in use"):
            listen("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_an_error_of_the_configuration() -> None:
    with pytest.raises(
        ConfigError, match=re.escape("push_in_http_port: cannot listen on 192.0.2.1")
    ):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize("dual_stack", [True, False])
def test_without_an_address_the_port_is_open_on_all(
    dual_stack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not dual_stack:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen("", 0) as listener, socket.create_connection(listener.getsockname()[:2]):
        assert listener.getsockname()[0] in ("::", "0.0.0.0")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_an_ipv6_address_is_listened_on() -> None:
    with listen("::1", 0) as listener:
        assert listener.family is socket.AF_INET6


# The protocol alone, on a transport that notes what happens.


class Wired:
    """One connection without a socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.publisher = FakePublisher()
        self.events: list[str] = []
        self.written = b""
        self.closed = False
        self.transport = Mock(spec=asyncio.Transport)
        self.transport.write.side_effect = self._write
        self.transport.close.side_effect = self._close
        self.transport.write_eof.side_effect = self._close
        self.transport.is_closing.side_effect = lambda: self.closed
        deadlines = Mock(spec=Deadlines)
        server = ControlServer(Mock(), self.publisher, deadlines, ControlLimits())
        self.connection = ControlConnection(server)
        self.connection.connection_made(self.transport)
        self._loop = loop

    def _write(self, data: bytes) -> None:
        self.written += data
        self.events.append(f"written with {len(self.publisher.dispatched)} dispatched")

    def _close(self) -> None:
        self.closed = True

    def receive(self, *parts: bytes) -> bytes:
        """What is answered to `parts` that arrive one after the other."""
        for part in parts:
            if not self.closed:
                self.connection.data_received(part)
                self.settle()
        return self.written

    def settle(self) -> None:
        """Run the loop until nothing is ready."""
        for _ in range(3):
            self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()


@contextmanager
def wired() -> Iterator[Wired]:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        async def make() -> Wired:
            return Wired(loop)

        yield runner.run(make())


def test_the_answer_is_written_before_the_items_are_dispatched() -> None:
    with wired() as wire:
        wire.receive(kept("a"))
        assert wire.events == ["written with 0 dispatched"]
        assert len(wire.publisher.dispatched) == 1


def test_a_client_that_does_not_read_is_not_answered_any_further() -> None:
    with wired() as wire:
        wire.connection.pause_writing()
        wire.receive(kept("a") * 3)
        assert wire.written == b""
        assert wire.transport.pause_reading.call_count == 1
        wire.connection.resume_writing()
        wire.settle()
        assert wire.written == KEPT * 3
        assert wire.transport.resume_reading.call_count == 1


def test_reading_goes_on_once_the_queue_has_room() -> None:
    with wired() as wire:
        wire.publisher.full_from = 0
        wire.receive(kept("a"), kept("b"))
        assert wire.transport.pause_reading.call_count == 1
        assert wire.transport.resume_reading.call_count == 0
        wire.publisher.make_room()
        assert wire.written == KEPT * 2
        assert wire.transport.resume_reading.call_count == 1


def test_one_who_waits_for_the_queue_waits_once_however_often_its_client_reads() -> None:
    with wired() as wire:
        wire.publisher.full_from = 0
        wire.receive(kept("a"))
        for _ in range(3):
            wire.connection.pause_writing()
            wire.connection.resume_writing()
        assert len(wire.publisher.waiting) == 1


def parts_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % len(data) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


# Only these depend on the split: the excess is seen with its request, or after its answer.
UNSPLITTABLE = {"more body than length", "more body than length, kept alive"}
SPLITTABLE = [case for case in CASES if case.name not in UNSPLITTABLE]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SPLITTABLE), st.lists(st.integers(0, 100_000), max_size=8))
def test_any_split_gives_the_same_answer(case: Case, cuts: list[int]) -> None:
    with wired() as wire:
        assert wire.receive(*parts_of(case.request, cuts)) == case.answer
        assert wire.closed


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 100_000), max_size=20))
def test_any_split_of_a_pipeline_publishes_the_same(cuts: list[int]) -> None:
    sent = b"".join(kept(name) for name in "abcd") + request("POST", "/publish", item("e"))
    with wired() as wire:
        assert wire.receive(*parts_of(sent, cuts)) == KEPT * 4 + PUBLISHED
        assert wire.publisher.channels == list("abcde")


def test_one_byte_at_a_time_gives_the_same_answer() -> None:
    sent = kept("a") + request("POST", "/publish", item("b"))
    with wired() as wire:
        assert wire.receive(*(sent[n : n + 1] for n in range(len(sent)))) == KEPT + PUBLISHED


fragments = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            *(
                b"GET ",
                b"POST ",
                b"/publish",
                b" HTTP/1.1",
                b" HTTP/1.0",
                b"\r\n",
                b"\n",
                b"\r\n\r\n",
            ),
            *(b"Content-Length: ", b"5", b"Transfer-Encoding: chunked", b"Expect: 100-continue"),
            *(b"Accept: ", b'"', b",", b";", b"\\", b":", b" ", b"\t", b"\0", b"\xff", ITEM),
            *(kept("a"), request("GET", "/")),
        ]
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(fragments, max_size=30))
def test_garbage_is_answered_or_waited_for_and_nothing_is_raised(parts: list[bytes]) -> None:
    with wired() as wire:
        written = wire.receive(*parts)
        while written:
            answer = re.match(rb"HTTP/1\.[01] (\d{3}) [^\r]+\r\n(?:[^\r]+\r\n)*\r\n", written)
            assert answer is not None
            length = re.search(rb"Content-Length: (\d+)", answer[0])
            assert (length is None) == (answer[1] == b"100")
            written = written[answer.end() + (int(length[1]) if length is not None else 0) :]


# On the loop that the proxy runs on.


def test_it_works_on_uvloop_as_on_asyncio() -> None:
    async def scenario() -> None:
        async with opened(ControlLimits(connections_max=2)) as port:
            for case in CASES[:20]:
                assert await port.ask(case.request) == case.answer
            reader, writer = await port.connect()
            port.publisher.full_from = 2
            writer.write(b"".join(kept("a") for _ in range(200)))
            await read(reader, KEPT * 2)
            await port.publisher.until(lambda: bool(port.publisher.waiting))
            port.publisher.make_room()
            await read(reader, KEPT * 198)
            assert await port.ask(request("POST", "/publish", length="8000000")) == TOO_LARGE

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
