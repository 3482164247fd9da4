"""SockJS by HTTP: requests and their answers, on a connection that the test plays.

The target is the built-in test handler, which accepts, and sends back what it is sent.
"""

import logging
from dataclasses import replace
from typing import Any, cast

import pytest

from gripproxy.accesslog import AccessLog
from gripproxy.clients.connection import ClientConnection
from gripproxy.clients.sockjs import BODY_MAX, take
from gripproxy.errors import HttpError
from gripproxy.http1.head import parse_request
from gripproxy.routes import Route, Target
from tests.unit.clients.websockets import Surroundings

NOT_FOUND = b"404 Not Found"


class Transport:
    def __init__(self) -> None:
        self.unsent = 0
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True


class Client:
    """A client's connection that keeps what is written to it."""

    number = 7
    peer = "192.0.2.9"
    keep_alive = True
    receiving = False

    def __init__(self) -> None:
        self.transport = Transport()
        self.blocked = False
        self.written = b""
        self.finished = False
        self.broken_off = False
        self.reads = False
        self.exchange: Any = None

    def write(self, data: bytes) -> None:
        self.written += data

    def finish(self) -> None:
        assert not self.finished
        self.finished = True
        self.exchange = None

    def break_off(self, *, unframed: bool) -> None:
        self.broken_off = True

    def keep_reading(self) -> None:
        self.reads = True

    @property
    def status(self) -> bytes:
        return self.written[len("HTTP/1.1 ") :].partition(b"\r\n")[0]

    @property
    def body(self) -> bytes:
        """What the first answer has as its body, chunked or not."""
        return self.written.partition(b"\r\n\r\n")[2]


class Stage(Surroundings):
    def __init__(self, as_path: bytes = b"/ws", **options: Any) -> None:
        target = Target(test=True)
        super().__init__(Route("*", (target,), sockjs=b"/sock", sockjs_as_path=as_path, **options))

    def begin(self, line: bytes, length: int, headers: bytes = b"") -> Client:
        """Send the head of a request: its method and what follows the prefix."""
        head = b"%b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n"
        request = parse_request(head % (line.replace(b" ", b" /sock"), headers, length), 64)
        client = Client()
        outgoing = self.outgoing(request.headers, target=request.target)
        asked = outgoing._replace(method=request.method, scheme=b"http")
        assert take(self.front, cast(ClientConnection, client), request, asked)
        return client

    def ask(self, line: bytes, body: bytes = b"") -> Client:
        """Send a request."""
        client = self.begin(line, len(body))
        if body:
            client.exchange.on_request_content(body, True)
        return client

    def open(self, id: bytes = b"a") -> None:
        assert self.ask(b"POST /0/%b/xhr" % id).body == b"o\n"


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_other_requests_are_left_alone(stage: Stage) -> None:
    request = parse_request(b"GET /other HTTP/1.1\r\n\r\n", 64)
    client = Client()
    outgoing = stage.outgoing(target=request.target)
    assert not take(stage.front, cast(ClientConnection, client), request, outgoing)
    assert client.exchange is None


def test_a_session_from_its_beginning_to_its_end(stage: Stage) -> None:
    stage.open()
    assert stage.ask(b"POST /0/a/xhr_send", b'["x","y"]').body == b"ok"
    assert stage.ask(b"POST /0/a/xhr").body == b'a["x","y"]\n'
    waiting = stage.ask(b"GET /0/a/jsonp?c=f")
    assert waiting.reads
    assert waiting.exchange.held
    stage.wait(25.2)
    assert waiting.body == b'/**/f("h");\n'
    stage.wait(5.2)
    assert stage.ask(b"POST /0/a/xhr_send", b'["x"]').status == NOT_FOUND
    assert stage.front.sockjs_sessions == {}


def test_a_stream_is_broken_off_when_its_client_has_to_go(stage: Stage) -> None:
    stage.open()
    stream = stage.ask(b"POST /0/a/xhr_streaming")
    assert stage.ask(b"POST /0/a/xhr_send", b'["x"]').body == b"ok"
    assert stream.body.endswith(b'a["x"]\n\r\n')
    session = stage.front.sockjs_sessions[stage.route.key, b"a"]
    session.drop()
    assert stream.broken_off
    assert not stream.finished


def test_a_stream_waits_while_it_is_not_read(stage: Stage) -> None:
    stage.open()
    stream = stage.ask(b"GET /0/a/eventsource")
    stream.blocked = True
    stream.exchange.on_client_blocked()
    stage.ask(b"POST /0/a/xhr_send", b'["x"]')
    assert stream.written == b""
    stream.blocked = False
    stream.exchange.on_client_ready()
    assert b'data: a["x"]\r\n\r\n' in stream.body


def test_a_stream_that_is_never_read_is_cut_off(stage: Stage) -> None:
    stage.open()
    stream = stage.ask(b"GET /0/a/eventsource")
    stream.blocked = True
    session = stage.front.sockjs_sessions[stage.route.key, b"a"]
    stream.transport.unsent = 3
    assert session.unread == 3
    session.close(3000, b"bye")
    stage.wait(30.2)
    assert stream.transport.aborted
    assert stage.front.sockjs_sessions == {}


def test_a_client_that_is_lost(stage: Stage) -> None:
    stage.open()
    waiting = stage.ask(b"POST /0/a/xhr")
    waiting.exchange.on_client_lost()
    # The test handler has answered the close at once.
    assert stage.ask(b"POST /0/a/xhr").body == b'c[0,"Connection closed"]\n'


def test_a_body_that_was_asked_for(stage: Stage) -> None:
    stage.open()
    client = stage.begin(b"POST /0/a/xhr_send", 4, b"Expect: 100-continue\r\n")
    assert client.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.exchange.on_request_content(b"[", False)
    assert not client.finished
    client.exchange.on_request_content(b'"x"]', True)
    assert client.written.endswith(b"\r\n\r\nok")


def test_a_body_that_is_too_large(stage: Stage) -> None:
    client = stage.begin(b"POST /0/a/xhr", BODY_MAX + 1)
    client.exchange.on_request_content(b"x" * BODY_MAX, False)
    assert client.written == b""
    client.exchange.on_request_content(b"x", True)
    assert (client.status, client.body) == (b"400 Bad Request", b"Request too large.\n")


def test_a_body_that_is_broken(stage: Stage) -> None:
    client = stage.begin(b"POST /0/a/xhr", 5)
    client.exchange.on_request_broken(HttpError("chunk"))
    assert client.body == b"Failed to parse request: chunk\n"


def test_a_client_that_is_lost_before_its_body_has_come(stage: Stage) -> None:
    client = stage.begin(b"POST /0/a/xhr", 5)
    exchange = client.exchange
    assert not exchange.held
    exchange.on_client_ready()
    exchange.on_client_lost()
    assert stage.front.sockjs_sessions == {}


def test_there_is_a_bound_on_sessions(stage: Stage) -> None:
    stage.front.limits = replace(stage.front.limits, sockjs_sessions_max=1)
    stage.open(b"a")
    client = stage.ask(b"POST /0/b/xhr")
    assert (client.status, client.body) == (b"503 Service Unavailable", b"Too many sessions\n")
    assert stage.front.stats.drops == {"sockjs-sessions": 1}
    assert stage.warnings == ["a SockJS session was refused: there are 1 (sockjs_sessions_max)"]


def test_a_refusal() -> None:
    stage = Stage(as_path=b"/other")
    client = stage.ask(b"POST /0/a/xhr")
    assert (client.status, client.body) == (NOT_FOUND, b"no such test resource\n")
    assert stage.front.sockjs_sessions == {}


@pytest.mark.parametrize("quiet", [False, True])
def test_the_line_in_the_log(caplog: pytest.LogCaptureFixture, quiet: bool) -> None:
    caplog.set_level(logging.INFO, "gripproxy.access")
    stage = Stage(log_level=1 if quiet else None)
    stage.front.access = AccessLog(log_from=True, log_user_agent=False)
    stage.ask(b"POST /0/a/xhr?q")
    line = "GET ws://client.example/ws?q -> test from=192.0.2.9 code=101 0"
    subscription = "subscribe ws://client.example/ws?q channel=test"
    assert caplog.messages == ([] if quiet else [line, subscription])
