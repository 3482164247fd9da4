"""A client's WebSocket: its handshake, its frames both ways, and how it ends."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any, cast
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.backend.request import Outgoing
from gripproxy.clients import websocket as websocket_module
from gripproxy.clients.connection import ClientConnection
from gripproxy.clients.front import Front
from gripproxy.clients.websocket import ClientSocket
from gripproxy.errors import HttpError, WebSocketError
from gripproxy.grip.item import Action, Item, WsMessage, WsType
from gripproxy.hub.fanout import Batch
from gripproxy.routes import Route, Target
from gripproxy.websocket.deflate import Inflater
from gripproxy.websocket.frames import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    close_payload,
    frame,
    masked_frame,
)
from gripproxy.websocket.receiver import Receiver
from tests.unit.clients.websockets import Ears, Heard, Surroundings, text
from tests.unit.transport import Transport

TARGET = Target("backend.example", 8000)
# RFC 6455 §1.3
KEY, ACCEPT = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
HINT = WsMessage(Action.HINT)
OFFER = (b"Sec-WebSocket-Extensions", b"permessage-deflate")
LOST: Heard = ("lost",)
READ: Heard = ("read",)


def handshake(
    *fields: tuple[bytes, bytes], start: bytes = b"GET /ws HTTP/1.1", drop: bytes = b""
) -> bytes:
    """A request to switch protocols, without the field called `drop`."""
    own = [
        (b"Host", b"client.example"),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", KEY),
    ]
    lines = [b"%b: %b\r\n" % field for field in [*own, *fields] if field[0] != drop]
    return b"%b\r\n%b\r\n" % (start, b"".join(lines))


def masked(opcode: int, payload: bytes, **options: Any) -> bytes:
    return masked_frame(opcode, payload, b"mask", **options)


class FakeSession(Ears):
    """A session, as the client's end knows it."""

    target = TARGET

    def begin(self) -> None:
        self.note("begin")

    def on_client_frame(self, received: Frame) -> None:
        self.note("frame", *received)

    def on_client_read(self) -> None:
        self.note("read")

    def on_client_close(self, code: int | None, reason: bytes) -> None:
        self.note("close", code, reason)

    def on_client_lost(self) -> None:
        self.note("lost")

    def on_client_blocked(self) -> None:
        self.note("blocked")

    def on_client_ready(self) -> None:
        self.note("ready")

    def on_overflow(self, lost: int) -> None:
        self.note("overflow", lost)


class Stage(Surroundings):
    """One client's connection, with the network and the session played by the test."""

    def __init__(self, *, route: Route | None = None, secure: bool = False, **options: Any) -> None:
        super().__init__(route or Route("*", (TARGET,)), **options)
        self.transport = Transport()
        self.client = ClientConnection(self.front, secure)
        self.client.connection_made(self.transport)
        self.session = FakeSession()
        self.outgone: list[Outgoing] = []
        self.sockets: list[ClientSocket] = []

    def open_session(self, front: Front, outgoing: Outgoing, socket: ClientSocket) -> FakeSession:
        assert front is self.front
        self.outgone.append(outgoing)
        self.sockets.append(socket)
        return self.session

    @property
    def socket(self) -> ClientSocket:
        return self.sockets[-1]

    def settle(self) -> None:
        """What was to be done soon is done."""
        self.loop.run_until(self.loop.now)

    def receive(self, *parts: bytes) -> None:
        """The client sends something."""
        for part in parts:
            self.client.data_received(part)
        self.settle()

    def open(self, *fields: tuple[bytes, bytes]) -> "Stage":
        """The client has its WebSocket, and what was noted until then is forgotten."""
        with patch.object(websocket_module, "open_session", self.open_session):
            self.receive(handshake(*fields))
        self.socket.accept([], None)
        self.settle()
        assert self.session.take() == [("begin",)]
        assert self.take().startswith(b"HTTP/1.1 101 ")
        return self

    def take(self) -> bytes:
        """What the client was sent since the last call."""
        return self.transport.take()

    def relay(self, *frames: Frame) -> None:
        for each in frames:
            self.socket.send(each)
        self.socket.flush()

    def batch(self, *messages: WsMessage) -> None:
        """Messages that are the same for all are published."""
        self.socket.publish(Batch("a", [Item("a", ws_message=message) for message in messages], 0))

    def block(self) -> None:
        self.transport.unread = 1
        self.client.pause_writing()

    def lose(self) -> None:
        self.client.connection_lost(None)

    @property
    def is_cut_off_in_time(self) -> bool:
        """Whether the connection stays until its last bound, and no longer."""
        self.wait(29)
        early = self.transport.aborted
        self.wait(2)
        return self.transport.aborted and not early


@pytest.fixture(autouse=True)
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No session is a real one, whoever opens it."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a session that the test does not expect")

    monkeypatch.setattr(websocket_module, "open_session", refuse)
    yield


@pytest.fixture
def shake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stage]:
    """Makes a stage whose client has sent so much."""

    def shake(*parts: bytes, **options: Any) -> Stage:
        stage = Stage(**options)
        monkeypatch.setattr(websocket_module, "open_session", stage.open_session)
        stage.receive(*parts)
        return stage

    return shake


@pytest.fixture
def stage() -> Stage:
    return Stage().open()


@pytest.fixture
def deflating() -> Stage:
    return Stage(allow_compression=True).open(OFFER)


Shake = Callable[..., Stage]


# -- the handshake -------------------------------------------------------------------------------


def test_a_handshake_opens_a_session_and_has_no_answer_until_it_accepts(shake: Shake) -> None:
    stage = shake(handshake((b"Cookie", b"c"), start=b"GET /ws?a=1 HTTP/1.1"))
    assert stage.session.heard == [("begin",)]
    assert stage.transport.writes == 0
    (outgoing,) = stage.outgone
    assert (outgoing.target, outgoing.scheme, outgoing.method) == (b"/ws?a=1", b"ws", b"GET")
    assert (b"Cookie", b"c") in outgoing.headers
    assert not stage.socket.held


@pytest.mark.parametrize(
    ("secure", "heeded", "scheme"),
    [(False, False, b"ws"), (False, True, b"wss"), (True, False, b"wss")],
)
def test_a_client_may_come_by_tls(shake: Shake, secure: bool, heeded: bool, scheme: bytes) -> None:
    request = handshake((b"X-Forwarded-Proto", b"wss"))
    stage = shake(request, secure=secure, accept_forwarded_proto=heeded)
    assert stage.outgone[0].scheme == scheme


def test_the_acceptance_shows_the_backend_s_fields_first(shake: Shake) -> None:
    stage = shake(handshake())
    stage.socket.accept([(b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"), (b"X", b"")], None)
    assert stage.transport.written == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Set-Cookie: a\r\nSet-Cookie: b\r\nX: \r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % ACCEPT
    )
    assert stage.socket.held


def extensions(data: bytes) -> list[bytes]:
    """What the answer says of extensions."""
    name = b"Sec-WebSocket-Extensions: "
    return [line.removeprefix(name) for line in data.split(b"\r\n") if line.startswith(name)]


DEFLATE = b"permessage-deflate; server_no_context_takeover"


@pytest.mark.parametrize(
    ("allowed", "offer", "grip", "answer"),
    [
        (False, b"permessage-deflate", None, []),
        (False, b"=", None, []),
        (False, b"permessage-deflate", b"grip", [b"grip"]),
        (True, b"permessage-deflate", None, [DEFLATE]),
        (True, b"permessage-deflate", b"grip; a=b", [DEFLATE + b", grip; a=b"]),
        (True, b"permessage-deflate; client_max_window_bits", None, [DEFLATE]),
        (
            True,
            b"permessage-deflate; server_max_window_bits=10; client_no_context_takeover",
            None,
            [DEFLATE + b"; client_no_context_takeover; server_max_window_bits=10"],
        ),
        (True, b"permessage-deflate; x, permessage-deflate", None, [DEFLATE]),
        (True, b"permessage-deflate; x", None, []),
        (True, b"grip", None, []),
    ],
)
def test_extensions_are_agreed_on(
    shake: Shake, allowed: bool, offer: bytes, grip: bytes | None, answer: list[bytes]
) -> None:
    request = handshake((b"Sec-WebSocket-Extensions", offer))
    stage = shake(request, allow_compression=allowed)
    stage.socket.accept([], grip)
    assert extensions(stage.transport.written) == answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        handshake(start=b"POST /ws HTTP/1.1"),
        handshake(start=b"GET /ws HTTP/1.0"),
        handshake(drop=b"Sec-WebSocket-Version"),
        handshake((b"Sec-WebSocket-Version", b"8"), drop=b"Sec-WebSocket-Version"),
        handshake(drop=b"Sec-WebSocket-Key"),
        handshake((b"Content-Length", b"1")) + b"x",
        handshake((b"Transfer-Encoding", b"chunked")) + b"0\r\n\r\n",
    ],
)
def test_what_is_no_handshake_is_refused(shake: Shake, request_bytes: bytes) -> None:
    stage = shake(request_bytes)
    head, _, body = stage.transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.")
    assert b" 400 Bad Request\r\nContent-Type: text/plain\r\n" in head
    assert body.startswith(b"not a WebSocket request: ")
    assert body.endswith(b"\n")
    assert stage.session.heard == []


def test_a_malformed_offer_is_refused_where_offers_count(shake: Shake) -> None:
    stage = shake(handshake((b"Sec-WebSocket-Extensions", b"=")), allow_compression=True)
    assert stage.transport.written.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert stage.transport.written.endswith(b"\r\n\r\nmalformed Sec-WebSocket-Extensions\n")


@pytest.mark.parametrize("field", [(b"Content-Length", b"0"), (b"Connection", b"x")])
def test_a_handshake_may_have_no_body_and_any_connection(
    shake: Shake, field: tuple[bytes, bytes]
) -> None:
    assert shake(handshake(field, drop=field[0])).session.heard == [("begin",)]


def test_where_there_is_no_route_the_client_is_refused(shake: Shake) -> None:
    stage = shake(handshake(), route=Route("elsewhere.example", (TARGET,)))
    assert stage.transport.written == (
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 16\r\n\r\nRoute not found\n"
    )


def test_there_may_be_no_session_to_open(shake: Shake, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise HttpError("no", 400)

    stage = shake()
    monkeypatch.setattr(websocket_module, "open_session", refuse)
    stage.receive(handshake())
    assert stage.take() == (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nno\n"
    )


def test_a_route_may_be_for_websockets_only(shake: Shake) -> None:
    assert shake(handshake(), route=Route("*", (TARGET,), proto="ws")).session.heard != []
    assert shake(handshake(), route=Route("*", (TARGET,), proto="http")).session.heard == []


def test_the_session_may_refuse_and_the_connection_goes_on(shake: Shake) -> None:
    stage = shake(handshake(), handshake())  # the second is ahead of its turn
    stage.socket.refuse(403, b"No Way", [(b"X-A", b"1")], b"body")
    assert stage.take() == b"HTTP/1.1 403 No Way\r\nX-A: 1\r\nContent-Length: 4\r\n\r\nbody"
    assert len(stage.sockets) == 1
    stage.settle()
    assert len(stage.sockets) == 2
    stage.socket.accept([], None)
    assert stage.take().startswith(b"HTTP/1.1 101 ")


def test_a_client_may_leave_before_it_is_answered(shake: Shake) -> None:
    stage = shake(handshake())
    stage.lose()
    assert stage.session.heard == [("begin",), LOST]


def test_what_a_client_sends_ahead_is_kept_for_its_turn(shake: Shake) -> None:
    ahead = masked(TEXT, b"early") + masked(PING, b"p")
    stage = shake(handshake() + ahead[:3], ahead[3:5], ahead[5:])
    assert stage.session.take() == [("begin",)]
    stage.socket.accept([], None)
    assert stage.session.heard == []  # not from within the acceptance
    stage.settle()
    assert stage.session.heard == [
        ("frame", TEXT, b"early", True),
        ("frame", PING, b"p", True),
        READ,
    ]


def test_it_is_not_read_when_it_sends_too_much_ahead(shake: Shake) -> None:
    ahead = masked(BINARY, bytes(200))
    stage = shake(handshake(), ahead, pipeline_bytes=100)
    assert not stage.transport.reading
    stage.socket.accept([], None)
    stage.settle()
    assert stage.transport.reading
    assert stage.session.heard[1:] == [("frame", BINARY, bytes(200), True), READ]


def test_a_client_that_is_lost_right_after_the_acceptance_is_not_heard(shake: Shake) -> None:
    stage = shake(handshake() + masked(TEXT, b"early"))
    stage.socket.accept([], None)
    stage.lose()
    stage.settle()
    assert stage.session.heard == [("begin",), LOST]


# -- the access log ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "target", "outcome"),
    [
        ("accept", TARGET, "-> backend.example:8000 code=101 0"),
        (
            "accept",
            Target("backend.example", 8000, over_http=True),
            "-> backend.example:8000[http] code=101 0",
        ),
        ("refuse", TARGET, "-> backend.example:8000 code=403 4"),
        ("lose", TARGET, "-> backend.example:8000 error"),
    ],
)
@pytest.mark.parametrize("quiet", [False, True])
def test_a_handshake_has_one_line(
    shake: Shake,
    caplog: pytest.LogCaptureFixture,
    end: str,
    target: Target,
    outcome: str,
    quiet: bool,
) -> None:
    caplog.set_level("INFO", "gripproxy.access")
    stage = shake(handshake(), route=Route("*", (TARGET,), log_level=1 if quiet else None))
    stage.session.target = target
    if end == "accept":
        stage.socket.accept([], None)
    elif end == "refuse":
        stage.socket.refuse(403, b"No", [], b"body")
    if end != "refuse":
        stage.lose()
    lines = [] if quiet else [f"GET ws://client.example/ws {outcome}"]
    assert caplog.messages == lines


@pytest.mark.parametrize(
    ("request_bytes", "line"),
    [
        (handshake(drop=b"Sec-WebSocket-Key"), "GET /ws code=400"),
        (handshake((b"Host", b"other.example"), drop=b"Host"), "GET /ws code=502 16"),
    ],
)
def test_so_has_one_that_is_refused_at_once(
    shake: Shake, caplog: pytest.LogCaptureFixture, request_bytes: bytes, line: str
) -> None:
    caplog.set_level("INFO", "gripproxy.access")
    shake(request_bytes, route=Route("client.example", (TARGET,)))
    (message,) = caplog.messages
    assert message.startswith(line)


# -- frames from the client ----------------------------------------------------------------------


def test_the_client_s_frames_reach_the_session(stage: Stage) -> None:
    stage.receive(masked(TEXT, "hellö".encode()) + masked(PONG, b"p"))
    stage.receive(masked(BINARY, b"\xff", fin=False), masked(CONT, b""))
    assert stage.session.heard == [
        ("frame", TEXT, "hellö".encode(), True),
        ("frame", PONG, b"p", True),
        READ,
        ("frame", BINARY, b"\xff", False),
        READ,
        ("frame", CONT, b"", True),
        READ,
    ]
    assert stage.transport.writes == 0  # pings are for the backend to answer


def test_pings_are_not_answered(stage: Stage) -> None:
    stage.receive(masked(PING, b"p"))
    assert stage.session.heard == [("frame", PING, b"p", True), READ]
    assert stage.transport.writes == 0


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [(b"", None, b""), (b"\x03\xe8", 1000, b""), (b"\x0f\xa0bye", 4000, b"bye")],
)
def test_a_client_s_close_reaches_the_session_and_nothing_after_it(
    stage: Stage, payload: bytes, code: int | None, reason: bytes
) -> None:
    stage.receive(masked(TEXT, b"a") + masked(CLOSE, payload) + masked(TEXT, b"b"))
    stage.receive(masked(TEXT, b"c"))
    heard = [words for words in stage.session.heard if words != READ]
    assert heard == [("frame", TEXT, b"a", True), ("close", code, reason)]
    assert stage.transport.writes == 0


BROKEN = [
    (frame(TEXT, b"a"), 1002),
    (masked(TEXT, b"\xff"), 1007),
    (masked(TEXT, b"\xc3", fin=False) + masked(CONT, b"x"), 1007),
    (masked(3, b""), 1002),
    (masked(11, b""), 1002),
    (masked(CONT, b""), 1002),
    (masked(TEXT, b"", fin=False) + masked(TEXT, b""), 1002),
    (masked(TEXT, b"", rsv1=True), 1002),
    (b"\xa1\x80mask", 1002),
    (masked(PING, b"", fin=False), 1002),
    (masked(PING, bytes(126)), 1002),
    (masked(CLOSE, b"\x03"), 1002),
    (masked(CLOSE, b"\x03\xed"), 1002),
    (masked(CLOSE, b"\x03\xe8\xff"), 1007),
]


@pytest.mark.parametrize(("data", "code"), BROKEN)
def test_a_client_that_breaks_the_protocol_is_told_and_counts_as_lost(
    stage: Stage, data: bytes, code: int
) -> None:
    stage.receive(masked(TEXT, b"good") + data + masked(TEXT, b"late"))
    assert stage.session.heard[0] == ("frame", TEXT, b"good", True)
    assert stage.session.heard[-1] == LOST
    assert ("frame", TEXT, b"late", True) not in stage.session.heard
    sent = stage.take()
    assert sent[:1] == b"\x88"
    assert int.from_bytes(sent[2:4], "big") == code
    assert len(sent) == sent[1] + 2
    assert stage.transport.ended
    # What it still sends is read and dropped, for a while.
    stage.session.take()
    stage.receive(masked(TEXT, b"more"))
    assert stage.session.heard == []
    stage.wait(3)
    assert stage.transport.aborted
    stage.lose()
    assert stage.session.heard == []


def test_one_that_does_not_read_that_is_cut_off_as_well(stage: Stage) -> None:
    stage.receive(masked(3, b""))
    stage.transport.unread = 100
    stage.wait(25)
    assert not stage.transport.aborted
    stage.wait(10)
    assert stage.transport.aborted


def test_a_client_that_breaks_the_protocol_after_our_close_gets_no_other(stage: Stage) -> None:
    stage.socket.close(1000, b"")
    stage.take()
    stage.receive(masked(3, b""))
    assert stage.session.heard == [LOST]
    assert stage.transport.writes == 0
    assert stage.transport.closed


def test_a_session_may_find_a_fault_too(stage: Stage) -> None:
    stage.session.then["frame"] = lambda: stage.socket.fail(WebSocketError("too large", 1009))
    stage.receive(masked(TEXT, b"a") + masked(TEXT, b"b"))
    assert stage.take() == frame(CLOSE, close_payload(1009, b"too large"))
    assert stage.transport.ended
    assert LOST in stage.session.heard


def test_a_client_that_leaves_is_lost(stage: Stage) -> None:
    stage.receive(masked(TEXT, b"ab", fin=False)[:-1])
    stage.lose()
    assert stage.session.heard == [READ, LOST]


def test_the_client_s_pace_and_address_are_known(stage: Stage) -> None:
    stage.transport.unread = 5
    assert stage.socket.unread == 5
    assert stage.socket.number == stage.client.number
    stage.client.pause_writing()
    stage.client.resume_writing()
    assert stage.session.heard == [("blocked",), ("ready",)]


def test_the_client_can_be_made_to_wait(stage: Stage) -> None:
    stage.socket.pause()
    assert not stage.transport.reading
    stage.socket.resume()
    assert stage.transport.reading


def test_a_client_that_is_silent_for_long_is_lost() -> None:
    stage = Stage(inactivity_timeout=100.0).open()
    for _ in range(3):
        stage.wait(90)
        stage.batch(text(b"x"))
    stage.wait(90)
    assert not stage.transport.aborted
    stage.wait(30)
    assert stage.transport.aborted


# -- frames to the client ------------------------------------------------------------------------


def test_frames_are_relayed_as_they_come(stage: Stage) -> None:
    stage.relay(Frame(TEXT, b"a"), Frame(PING, b"p"), Frame(PONG, b""), Frame(BINARY, b""))
    assert stage.take() == b"\x81\x01a\x89\x01p\x8a\x00\x82\x00"
    stage.relay(Frame(TEXT, b"a", False))
    assert stage.take() == b"\x01\x01a"
    stage.relay(Frame(CONT, b"b", False), Frame(PING, b"p"), Frame(CONT, b"c"))
    assert stage.take() == b"\x00\x01b\x89\x01p\x80\x01c"


def test_what_is_published_is_one_write(stage: Stage) -> None:
    stage.batch(text(b"1"), text(b"2"), WsMessage(Action.SEND, WsType.PING, b"p"))
    assert stage.transport.writes == 1
    assert stage.take() == b"\x81\x011\x81\x012\x89\x01p"


def test_a_hint_writes_nothing(stage: Stage) -> None:
    stage.batch(HINT)
    assert stage.transport.writes == 0


def test_one_of_the_messages_that_were_published_is_a_frame(stage: Stage) -> None:
    batch = Batch("a", [Item("a", ws_message=message) for message in (text(b"1"), HINT)], 0)
    stage.socket.publish_one(batch, 0)
    assert stage.take() == b"\x81\x011"


def test_a_message_by_itself_is_a_frame(stage: Stage) -> None:
    stage.socket.send_message(WsMessage(Action.SEND, WsType.BINARY, b"\xff"))
    assert stage.take() == b"\x82\x01\xff"


def test_what_is_published_waits_for_the_end_of_a_message_that_is_half_relayed(
    stage: Stage,
) -> None:
    stage.relay(Frame(TEXT, b"a", False))
    stage.batch(text(b"1"), text(b"2"))
    stage.socket.send_message(WsMessage(Action.SEND, WsType.PING, b"p"))
    stage.batch(text(b"3"))
    assert stage.take() == b"\x01\x01a"
    assert stage.front.queued_bytes == 12
    stage.relay(Frame(PONG, b"q"), Frame(CONT, b"b", False))
    assert stage.take() == b"\x8a\x01q\x00\x01b"
    stage.relay(Frame(CONT, b""))
    assert stage.take() == b"\x80\x00\x81\x011\x81\x012\x89\x01p\x81\x013"
    assert stage.front.queued_bytes == 0
    stage.batch(text(b"4"))
    assert stage.take() == b"\x81\x014"


def test_what_has_waited_is_sent_once(stage: Stage) -> None:
    for content in (b"1", b"2"):
        stage.relay(Frame(TEXT, b"a", False))
        stage.batch(text(content))
        stage.relay(Frame(CONT, b""))
        assert stage.take() == b"\x01\x01a\x80\x00\x81\x01" + content
        assert stage.front.queued_bytes == 0


def test_all_clients_together_have_a_bound_as_well() -> None:
    stage = Stage(queue_total_bytes=10).open()
    stage.front.queued_bytes = 5  # of others
    stage.relay(Frame(TEXT, b"a", False))
    stage.batch(text(b"123"))
    stage.batch(text(b""))
    assert stage.session.heard == [("overflow", 1)]
    assert stage.front.queued_bytes == 10


def test_so_much_may_wait_there_and_no_more() -> None:
    stage = Stage(queue_bytes=10).open()
    stage.relay(Frame(TEXT, b"a", False))
    stage.batch(text(b"12345678"))
    assert stage.session.heard == []
    stage.batch(text(b""), text(b""))
    assert stage.session.heard == [("overflow", 2)]
    assert stage.front.queued_bytes == 10
    stage.take()
    stage.relay(Frame(CONT, b""))
    assert stage.take() == b"\x80\x00\x81\x0812345678"


@pytest.mark.parametrize("end", ["close", "drop", "fail", "lose"])
def test_at_the_end_nothing_waits_there(stage: Stage, end: str) -> None:
    stage.relay(Frame(TEXT, b"a", False))
    stage.batch(text(b"1"))
    assert stage.front.queued_bytes == 3
    if end == "close":
        stage.socket.close(1000, b"")
    elif end == "drop":
        stage.socket.drop()
    elif end == "fail":
        stage.receive(masked(3, b""))
    else:
        stage.lose()
    assert stage.front.queued_bytes == 0
    assert b"\x81\x011" not in stage.take()


def test_a_client_that_is_blocked_has_a_queue() -> None:
    stage = Stage(queue_bytes=100).open()
    stage.block()
    stage.transport.unread = 90
    stage.batch(text(b"12345678"))
    stage.transport.unread = 100
    assert stage.take() == b"\x81\x0812345678"
    stage.batch(text(b""), text(b""))
    stage.socket.send_message(text(b""))
    assert stage.session.heard == [("blocked",), ("overflow", 2), ("overflow", 1)]
    assert stage.take() == b""


def test_what_waited_for_a_relayed_message_meets_that_queue() -> None:
    stage = Stage(queue_bytes=100).open()
    stage.relay(Frame(TEXT, b"a", False))
    stage.batch(text(b"1"))
    stage.batch(text(b"2"))
    stage.block()
    stage.transport.unread = 95
    stage.take()
    stage.relay(Frame(CONT, b""))
    assert stage.take() == b"\x80\x00"
    assert [words[0] for words in stage.session.heard] == ["blocked", "overflow"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(["whole", "begin", "go on", "end", "ping", "batch", "one"]), min_size=10
    ),
    st.sampled_from([None, b"permessage-deflate", b"permessage-deflate; server_max_window_bits=9"]),
)
def test_whatever_is_relayed_and_published_messages_arrive_whole(
    steps: list[str], offer: bytes | None
) -> None:
    fields = [] if offer is None else [(b"Sec-WebSocket-Extensions", offer)]
    stage = Stage(allow_compression=True).open(*fields)
    relayed: list[bytes] = []
    published: list[bytes] = []
    current: bytes | None = None
    for number, step in enumerate([*steps, "end"]):
        content = b"%d" % number
        if step == "whole" and current is None:
            stage.relay(Frame(TEXT, b"r" + content))
            relayed.append(b"r" + content)
        elif step == "begin" and current is None:
            current = b"r" + content
            stage.relay(Frame(TEXT, current, False))
        elif step == "go on" and current is not None:
            current += content
            stage.relay(Frame(CONT, content, False))
        elif step == "end" and current is not None:
            stage.relay(Frame(CONT, b""))
            relayed.append(current)
            current = None
        elif step == "ping":
            stage.relay(Frame(PING, content))
        elif step == "batch":
            stage.batch(text(b"p" + content), text(b"p" + content))
            published += [b"p" + content] * 2
        elif step == "one":
            stage.socket.send_message(text(b"p" + content))
            published.append(b"p" + content)
    inflater = None if offer is None else Inflater(False, 10**6)
    receiver = Receiver(masked=False, check_text=True, inflater=inflater)
    messages, begun = [], b""
    for opcode, payload, fin in receiver.feed(stage.take()):
        if opcode == PING:
            continue
        begun += payload
        if fin:
            messages.append(begun)
            begun = b""
    assert receiver.failure is None
    assert begun == b""
    assert [message for message in messages if message.startswith(b"r")] == relayed
    assert [message for message in messages if message.startswith(b"p")] == published
    assert stage.front.queued_bytes == 0


# -- compression ---------------------------------------------------------------------------------


def inflated(payload: bytes, bits: int = 15) -> bytes:
    return zlib.decompress(payload + b"\0\0\xff\xff\x03\0", wbits=-bits)


def test_messages_to_the_client_are_compressed_each_by_itself(deflating: Stage) -> None:
    deflating.relay(Frame(TEXT, b"hello"))
    one = deflating.take()
    deflating.batch(text(b"hello"))
    deflating.socket.send_message(text(b"hello"))
    assert deflating.take() == one * 2
    assert one[0] == 0xC0 | TEXT
    assert inflated(one[2:]) == b"hello"


def test_control_frames_are_not_compressed(deflating: Stage) -> None:
    deflating.relay(Frame(PING, b"p"))
    deflating.socket.send_message(WsMessage(Action.SEND, WsType.PONG, b"q"))
    deflating.socket.close(1000, b"")
    assert deflating.take() == b"\x89\x01p\x8a\x01q\x88\x02\x03\xe8"


def test_a_message_in_pieces_is_compressed_as_one(deflating: Stage) -> None:
    for _ in range(2):
        deflating.relay(Frame(BINARY, b"hel", False), Frame(CONT, b"", False), Frame(CONT, b"lo"))
        data = deflating.take()
        payload, start, opcodes = b"", 0, []
        while start < len(data):
            opcodes.append(data[start])
            end = start + 2 + data[start + 1]
            payload += data[start + 2 : end]
            start = end
        assert opcodes == [0x40 | BINARY, CONT, 0x80 | CONT]
        assert inflated(payload) == b"hello"


def test_a_client_may_ask_for_a_smaller_window() -> None:
    offer = b"permessage-deflate; server_max_window_bits=9"
    stage = Stage(allow_compression=True).open((b"Sec-WebSocket-Extensions", offer))
    content = bytes(range(256)) * 8
    stage.batch(text(content))
    assert inflated(stage.take()[4:], 9) == content
    stage.relay(Frame(BINARY, content, False), Frame(CONT, b""))
    frames = Receiver(masked=False, check_text=False, inflater=Inflater(False, 10**6))
    assert b"".join(payload for _, payload, _ in frames.feed(stage.take())) == content


def deflated(stream: Any, content: bytes) -> bytes:
    return cast(bytes, stream.compress(content) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_messages_from_the_client_are_inflated(deflating: Stage) -> None:
    stream = zlib.compressobj(wbits=-15)
    for _ in range(2):
        deflating.receive(masked(TEXT, deflated(stream, b"hello"), rsv1=True))
    deflating.receive(masked(TEXT, b"plain"))
    frames = [words for words in deflating.session.heard if words != READ]
    assert frames == [
        ("frame", TEXT, b"hello", True),
        ("frame", TEXT, b"hello", True),
        ("frame", TEXT, b"plain", True),
    ]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\xff\xff", 1007),
        (deflated(zlib.compressobj(wbits=-15), b"\xff"), 1007),
        (deflated(zlib.compressobj(wbits=-15), bytes(1001)), 1009),
    ],
)
def test_what_does_not_inflate_breaks_the_protocol(payload: bytes, code: int) -> None:
    stage = Stage(allow_compression=True, ws_inflate_max=1000).open(OFFER)
    stage.receive(masked(TEXT, payload, rsv1=True))
    assert stage.session.heard == [LOST]
    assert int.from_bytes(stage.take()[2:4], "big") == code


def test_what_inflates_to_much_is_taken_bit_by_bit() -> None:
    stage = Stage(allow_compression=True, ws_inflate_max=1000).open(OFFER)
    stream = zlib.compressobj(wbits=-15)
    messages = [masked(BINARY, deflated(stream, bytes(900)), rsv1=True) for _ in range(6)]
    stage.client.data_received(b"".join(messages))
    first = len(stage.session.heard)
    assert first < 6
    stage.settle()
    assert stage.session.heard.count(("frame", BINARY, bytes(900), True)) == 6
    assert stage.session.heard[first - 1] == stage.session.heard[-1] == READ


def test_and_no_further_while_the_client_has_to_wait() -> None:
    stage = Stage(allow_compression=True, ws_inflate_max=1000).open(OFFER)
    stream = zlib.compressobj(wbits=-15)
    messages = [masked(BINARY, deflated(stream, bytes(900)), rsv1=True) for _ in range(6)]
    stage.session.then["read"] = stage.socket.pause
    stage.receive(b"".join(messages))
    first = len(stage.session.heard)
    assert first < 6
    stage.settle()
    assert len(stage.session.heard) == first
    stage.session.then.clear()
    stage.socket.resume()
    stage.settle()
    assert stage.session.heard.count(("frame", BINARY, bytes(900), True)) == 6


# -- closing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "payload"),
    [
        (1000, b"", b"\x03\xe8"),
        (4000, b"bye", b"\x0f\xa0bye"),
        (None, b"", b"\x03\xe8"),
        (0, b"", b"\x03\xe8"),
        (999, b"x", b"\x03\xe8x"),
        (1005, b"", b"\x03\xe8"),
        (1006, b"", b"\x03\xe8"),
        (1015, b"", b"\x03\xe8"),
        (65_535, b"", b"\x03\xe8"),
        (65_536 + 1001, b"", b"\x03\xe9"),
        (1000, b"\xff", b"\x03\xe8\xef\xbf\xbd"),
        (1000, b"a" * 200, b"\x03\xe8" + b"a" * 123),
        (1000, "ä".encode() * 100, b"\x03\xe8" + "ä".encode() * 61),
    ],
)
def test_a_close_frame_is_one_that_clients_understand(
    stage: Stage, code: int | None, reason: bytes, payload: bytes
) -> None:
    stage.socket.close(code, reason)
    assert stage.take() == bytes((0x88, len(payload))) + payload
    assert stage.socket.closed


def test_after_a_close_frame_nothing_is_sent(stage: Stage) -> None:
    stage.socket.close(1000, b"")
    stage.take()
    stage.socket.close(1001, b"")
    stage.relay(Frame(TEXT, b"a"), Frame(PING, b""))
    stage.batch(text(b"1"))
    stage.socket.send_message(text(b"2"))
    assert stage.transport.writes == 0
    assert stage.front.queued_bytes == 0


def test_the_client_s_answer_is_heard(stage: Stage) -> None:
    stage.socket.close(1000, b"")
    stage.receive(masked(TEXT, b"a") + masked(CLOSE, b"\x03\xe8"))
    heard = [words for words in stage.session.heard if words != READ]
    assert heard == [("frame", TEXT, b"a", True), ("close", 1000, b"")]
    assert not stage.transport.is_closing()


def test_a_client_that_does_not_answer_is_cut_off(stage: Stage) -> None:
    stage.socket.close(1000, b"")
    assert stage.is_cut_off_in_time
    stage.lose()
    assert stage.session.heard == [LOST]


def test_a_client_that_talks_on_is_cut_off_as_well(stage: Stage) -> None:
    stage.socket.close(1000, b"")
    for _ in range(28):
        stage.wait(1)
        stage.receive(masked(TEXT, b"a"))
        stage.socket.pause()
        stage.socket.resume()
    assert not stage.transport.aborted
    stage.wait(3)
    assert stage.transport.aborted


def test_when_both_have_closed_so_does_the_connection(stage: Stage) -> None:
    stage.socket.close(1000, b"")
    stage.socket.finish()
    assert stage.transport.closed
    assert not stage.transport.aborted
    stage.receive(masked(TEXT, b"late"))
    stage.lose()
    assert stage.session.heard == []


@pytest.mark.parametrize("closes", [True, False])
def test_a_client_that_does_not_read_the_last_of_it_is_cut_off(stage: Stage, closes: bool) -> None:
    if closes:
        stage.socket.close(1000, b"")
    stage.block()
    if closes:
        stage.socket.finish()
    else:
        stage.socket.drop()
    assert stage.is_cut_off_in_time


def test_a_client_can_be_dropped_without_a_close_frame(stage: Stage) -> None:
    stage.relay(Frame(TEXT, b"a"))
    stage.socket.drop()
    assert stage.take() == b"\x81\x01a"
    assert stage.transport.closed
    assert not stage.transport.aborted
    stage.lose()
    assert stage.session.heard == []


def test_a_connection_that_is_aborted_loses_its_client(stage: Stage) -> None:
    stage.transport.abort()
    stage.lose()
    assert stage.session.heard == [LOST]
    assert stage.client not in stage.front.gate.connections
