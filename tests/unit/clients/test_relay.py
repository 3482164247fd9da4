"""A session's own connection to a WebSocket backend."""

from typing import Any, cast

import pytest

from gripproxy.backend.headers import HeaderRules
from gripproxy.clients.ends import Upstream
from gripproxy.clients.relay import Relay
from gripproxy.clients.session import Session
from gripproxy.errors import BlockedError, ConnectError
from gripproxy.http1.head import Headers, RequestHead, parse_request
from gripproxy.routes import Route, Target
from gripproxy.websocket.frames import CLOSE, CONT, PING, TEXT, Frame, frame
from gripproxy.websocket.handshake import accept_key, check_request
from gripproxy.websocket.receiver import Receiver
from tests.unit.backends import Attempt
from tests.unit.clients.websockets import FakeSession, Surroundings
from tests.unit.transport import Transport

TARGET = Target("backend.example", 8000)
HANDSHAKE: Headers = [
    (b"Host", b"client.example"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", b"theirs"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Protocol", b"p"),
    (b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits"),
    (b"Cookie", b"c"),
    (b"Accept", b"a"),
    (b"Meta-X", b"1"),
]


class Stage(Surroundings):
    """One relay, with its session and its backend played by the test."""

    def __init__(
        self,
        target: Target = TARGET,
        *,
        route: Route | None = None,
        rules: HeaderRules | None = None,
        trusted: bool = False,
        headers: Headers = HANDSHAKE,
        **options: Any,
    ) -> None:
        super().__init__(route or Route("*", (target,)), rules, **options)
        self.session = FakeSession()
        outgoing = self.outgoing(headers, trusted=trusted)
        self.relay = Relay(self.front, cast(Session, self.session), outgoing, target)
        self.up: Upstream = self.relay

    @property
    def attempt(self) -> Attempt:
        (attempt,) = self.pool.attempts
        return attempt

    @property
    def transport(self) -> Transport:
        return self.attempt.transport

    def connect(self) -> RequestHead:
        """There is a connection: what the backend is asked."""
        self.relay.begin()
        return parse_request(self.attempt.connect().take(), 100)

    def receive(self, data: bytes) -> None:
        """The backend sends something."""
        if not self.transport.is_closing():
            cast(Any, self.attempt.protocol).data_received(data)

    def lose(self) -> None:
        self.attempt.protocol.connection_lost(None)

    def open(self) -> "Stage":
        self.accept(check_request(self.connect()))
        assert [words[0] for words in self.session.take()] == ["accepted"]
        return self

    def accept(self, key: bytes, fields: bytes = b"") -> None:
        self.receive(
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %b\r\n%b\r\n"
            % (accept_key(key), fields)
        )

    def sent(self) -> list[Frame]:
        """The frames that the backend has got since the last call."""
        return Receiver(masked=True, check_text=False).feed(self.transport.take())


@pytest.fixture
def stage() -> Stage:
    return Stage().open()


# -- the handshake -------------------------------------------------------------------------------


def test_the_backend_is_asked_as_the_client_asked_but_with_a_key_of_ours() -> None:
    tokens = iter([b"token"])
    request = Stage(rules=HeaderRules(sign=lambda: next(tokens))).connect()
    assert (request.method, request.target, request.host) == (
        b"GET",
        b"/path?query",
        b"client.example",
    )
    assert request.websocket
    key = check_request(request)
    assert key != b"theirs"
    fields = [field for field in request.headers if field[0] != b"Grip-Feature"]
    assert fields == [
        (b"Host", b"client.example"),
        (b"Sec-WebSocket-Protocol", b"p"),
        (b"Cookie", b"c"),
        (b"Accept", b"a"),
        (b"Meta-X", b"1"),
        (b"Sec-WebSocket-Extensions", b"grip"),
        (b"Grip-Sig", b"token"),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", key),
    ]


def test_no_two_connections_have_the_same_key() -> None:
    assert len({check_request(Stage().connect()) for _ in range(5)}) == 5


@pytest.mark.parametrize(
    ("allowed", "grip", "offers"),
    [
        (False, False, []),
        (False, True, [b"grip"]),
        (True, False, [b"permessage-deflate"]),
        (True, True, [b"grip", b"permessage-deflate"]),
    ],
)
def test_compression_is_offered_where_it_is_allowed(
    allowed: bool, grip: bool, offers: list[bytes]
) -> None:
    request = Stage(rules=HeaderRules(grip=grip), allow_compression=allowed).connect()
    extensions = [v for name, v in request.headers if name == b"Sec-WebSocket-Extensions"]
    assert extensions == offers


def test_a_route_s_rewriting_holds_here_too() -> None:
    target = Target("backend.example", 8000, ssl=True, host_header="h.example")
    route = Route("*", (target,), path_beg=b"/path", path_rem=5, replace_beg=b"/other")
    stage = Stage(target, route=route)
    request = stage.connect()
    assert (request.target, request.host) == (b"/other?query", b"h.example")
    assert stage.pool.names == ["h.example"]
    assert stage.attempt.target is target


def test_a_trusted_proxy_s_signature_is_kept() -> None:
    rules = HeaderRules(sign=lambda: b"ours")
    request = Stage(rules=rules, trusted=True, headers=[(b"Grip-Sig", b"theirs")]).connect()
    assert [value for name, value in request.headers if name == b"Grip-Sig"] == [b"theirs"]


def test_a_backend_accepts_with_its_fields() -> None:
    stage = Stage()
    stage.accept(check_request(stage.connect()), b"X-A: 1\r\n")
    ((kind, fields),) = stage.session.heard
    assert kind == "accepted"
    assert (b"X-A", b"1") in cast(Headers, fields)


def test_a_backend_refuses_with_its_answer() -> None:
    stage = Stage()
    stage.connect()
    stage.receive(b"HTTP/1.1 403 No Way\r\nX-A: 1\r\nContent-Length: 4\r\n\r\nbody")
    fields = [(b"X-A", b"1"), (b"Content-Length", b"4")]
    assert stage.session.heard == [("refused", 403, b"No Way", fields, b"body")]


def test_a_backend_that_answers_nothing_usable_has_failed() -> None:
    stage = Stage()
    stage.connect()
    stage.accept(b"another key")
    assert stage.session.heard == [("failed", "wrong Sec-WebSocket-Accept")]


@pytest.mark.parametrize("error", [ConnectError("refused"), BlockedError("private")])
def test_a_backend_may_be_out_of_reach(error: Any) -> None:
    stage = Stage()
    stage.relay.begin()
    stage.attempt.fail(error)
    assert stage.session.heard == [("unreachable", error)]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 403"])
def test_a_backend_that_does_not_answer_has_failed_in_time(answer: bytes) -> None:
    stage = Stage()
    stage.relay.begin()
    stage.wait(1000)  # connecting has bounds of its own
    stage.attempt.connect()
    stage.receive(answer)
    stage.wait(stage.pool.response_timeout - 1)
    assert stage.session.heard == []
    stage.wait(2)
    assert stage.session.heard == [("failed", "no response in time")]
    assert stage.transport.aborted
    stage.lose()
    assert len(stage.session.heard) == 1


@pytest.mark.parametrize("outcome", ["accepts", "refuses", "fails"])
def test_one_that_answers_has_no_such_bound(outcome: str) -> None:
    stage = Stage()
    key = check_request(stage.connect())
    if outcome == "accepts":
        stage.accept(key)
    elif outcome == "refuses":
        stage.receive(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
    else:
        stage.lose()
    stage.wait(10_000)
    assert len(stage.session.heard) == 1


# -- frames --------------------------------------------------------------------------------------


def test_frames_pass_both_ways_as_they_come(stage: Stage) -> None:
    frames = [Frame(TEXT, b"a", False), Frame(PING, b"p"), Frame(CONT, b"b")]
    for each in frames:
        stage.up.send(each)
    assert stage.transport.writes == 0
    stage.up.flush()
    assert stage.sent() == frames
    for opcode, payload, fin in frames:
        stage.receive(frame(opcode, payload, fin=fin))
    assert stage.session.heard == [("frame", *each) for each in frames]


def test_both_ends_hear_of_each_other_s_pace(stage: Stage) -> None:
    stage.attempt.protocol.pause_writing()
    stage.attempt.protocol.resume_writing()
    assert stage.session.heard == [("blocked",), ("ready",)]
    stage.up.pause()
    assert not stage.transport.reading
    stage.up.resume()
    assert stage.transport.reading


def test_a_refresh_means_nothing(stage: Stage) -> None:
    stage.up.refresh()
    assert stage.transport.writes == 0


# -- closing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "payload"), [(1001, b"\x03\xe9bye"), (None, b"\x03\xe8bye"), (1005, b"\x03\xe8bye")]
)
def test_the_client_closes_and_the_backend_answers(
    stage: Stage, code: int | None, payload: bytes
) -> None:
    stage.up.close(code, b"bye")
    assert stage.sent() == [Frame(CLOSE, payload)]
    assert not stage.transport.is_closing()
    stage.receive(frame(TEXT, b"a") + frame(CLOSE, b"\x0f\xa0well") + frame(TEXT, b"late"))
    assert stage.session.heard == [("frame", TEXT, b"a", True), ("close", 4000, b"well")]
    assert stage.transport.closed
    stage.lose()
    assert len(stage.session.heard) == 2


def test_a_backend_that_does_not_answer_a_close_is_lost_in_time(stage: Stage) -> None:
    stage.up.close(1000, b"")
    stage.wait(29)
    assert stage.session.heard == []
    stage.wait(2)
    assert stage.session.heard == [("lost",)]
    assert stage.session.reasons == ["it does not answer the client's close"]
    assert stage.transport.closed


def test_the_backend_closes_and_the_client_answers(stage: Stage) -> None:
    stage.receive(frame(CLOSE, b"\x0f\xa0bye"))
    assert stage.session.heard == [("close", 4000, b"bye")]
    assert not stage.transport.is_closing()
    stage.up.close(4001, b"well")
    assert stage.sent() == [Frame(CLOSE, b"\x0f\xa1well")]
    assert stage.transport.closed
    stage.lose()
    assert len(stage.session.heard) == 1


def test_a_backend_that_goes_is_lost(stage: Stage) -> None:
    stage.lose()
    assert stage.session.heard == [("lost",)]
    assert stage.session.reasons == ["connection closed by the backend"]


def test_a_backend_that_goes_instead_of_answering_is_lost_once(stage: Stage) -> None:
    stage.up.close(1000, b"")
    stage.lose()
    stage.wait(1000)
    assert stage.session.heard == [("lost",)]


def test_a_detached_backend_is_closed_and_not_heard(stage: Stage) -> None:
    stage.up.detach()
    assert stage.sent() == [Frame(CLOSE, b"")]
    assert stage.transport.closed
    stage.attempt.protocol.pause_writing()
    stage.attempt.protocol.resume_writing()
    stage.lose()
    assert stage.session.heard == []


def test_a_backend_that_has_the_client_s_close_gets_no_other(stage: Stage) -> None:
    stage.up.close(4000, b"")
    stage.sent()
    stage.up.detach()
    assert stage.transport.writes == 0
    assert stage.transport.closed
    stage.wait(1000)
    assert stage.session.heard == []


def test_a_client_that_is_lost_ends_the_connection(stage: Stage) -> None:
    stage.up.lost()
    assert stage.transport.closed
    assert stage.transport.writes == 0
    stage.lose()
    assert stage.session.heard == []


@pytest.mark.parametrize("end", ["detach", "lost"])
def test_a_backend_that_does_not_read_the_last_of_it_is_cut_off(stage: Stage, end: str) -> None:
    getattr(stage.up, end)()
    stage.wait(29)
    assert not stage.transport.aborted
    stage.wait(2)
    assert stage.transport.aborted


def test_a_client_may_be_lost_while_there_is_no_connection() -> None:
    stage = Stage()
    stage.relay.begin()
    stage.up.lost()
    assert stage.attempt.cancelled
    stage.wait(1000)
    assert stage.session.heard == []


def test_or_just_as_it_is_made() -> None:
    stage = Stage()
    stage.relay.begin()
    stage.up.lost()
    stage.attempt.connect()
    assert stage.transport.aborted
    stage.lose()
    assert stage.session.heard == []


def test_or_before_the_backend_answers() -> None:
    stage = Stage()
    key = check_request(stage.connect())
    stage.up.lost()
    stage.accept(key)
    stage.lose()
    assert stage.session.heard == []


def test_a_session_may_want_no_more_of_what_it_hears(stage: Stage) -> None:
    stage.session.then["frame"] = stage.up.detach
    stage.receive(frame(TEXT, b"a") + frame(TEXT, b"b") + frame(CLOSE, b""))
    assert stage.session.heard == [("frame", TEXT, b"a", True)]
