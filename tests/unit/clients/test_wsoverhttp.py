"""WebSocket-over-HTTP: which requests a session makes, when, and what their answers mean."""

import itertools
import re
import uuid
from typing import Any, cast

import pytest

from gripproxy.backend.headers import HeaderRules
from gripproxy.clients.outbox import EVENT_COST
from gripproxy.clients.session import Session
from gripproxy.clients.wsoverhttp import OverHttp
from gripproxy.errors import BackendError, BlockedError, ConnectError
from gripproxy.grip.wsevents import Event, encode
from gripproxy.http1.head import Headers
from gripproxy.routes import Route, Target
from gripproxy.websocket.frames import BINARY, CONT, PING, PONG, TEXT, Frame
from tests.unit.backends import Request
from tests.unit.clients.websockets import FakeSession, Heard, Surroundings

TARGET = Target("backend.example", 8000, over_http=True)
ONE_EVENT = Target("backend.example", 8000, over_http=True, one_event=True)
TYPE = (b"Content-Type", b"application/websocket-events")
OPEN, CLOSE, DISCONNECT = b"OPEN\r\n", b"CLOSE\r\n", b"DISCONNECT\r\n"
RESPONSE_MAX = 1_000_000  # bytes of an answer
BOUND = 1000  # bytes that may wait for the backend
LOST: Heard = ("lost",)


def text(content: bytes) -> bytes:
    """The event of a text message."""
    return encode([Event(b"TEXT", content)])


def close(content: bytes) -> bytes:
    return encode([Event(b"CLOSE", content)])


class Stage(Surroundings):
    """One session's backend end, with both of its neighbours played by the test."""

    def __init__(
        self,
        target: Target = TARGET,
        *,
        headers: Headers | tuple[()] = (),
        rules: HeaderRules | None = None,
        route: Route | None = None,
        trusted: bool = False,
        **options: Any,
    ) -> None:
        options.setdefault("ws_queue_bytes", BOUND)
        super().__init__(route or Route("*", (target,)), rules, **options)
        self.session = FakeSession()
        outgoing = self.outgoing(headers, trusted=trusted)
        self.up = OverHttp(self.front, cast(Session, self.session), outgoing, target)
        self._seen = 0

    # The backend.

    @property
    def request(self) -> Request:
        return self.pool.request

    @property
    def asks(self) -> bool:
        """Whether there is a request that `asked` has not told of."""
        return len(self.pool.requests) > self._seen

    def asked(self) -> bytes:
        """The body of the one request since the last call."""
        (request,) = self.pool.requests[self._seen :]
        self._seen += 1
        return request.body

    def answer(self, body: bytes = b"", *fields: tuple[bytes, bytes], code: int = 200) -> None:
        self.request.answer(body, [TYPE, *fields], code)

    def open(self, body: bytes = b"", *fields: tuple[bytes, bytes]) -> "Stage":
        """The session is accepted, and what is said with that is taken note of."""
        self.up.begin()
        assert self.asked() == OPEN
        self.answer(OPEN + body, *fields)
        assert self.session.heard.pop(0)[0] == "accepted"
        return self

    # The client.

    def send(self, *contents: bytes) -> None:
        """The client sends text messages at once."""
        for content in contents:
            self.up.send(Frame(TEXT, content))
        self.up.flush()

    # Time.

    def asks_in(self, seconds: float) -> bool:
        """Wait, and tell whether there was no request before, and one then."""
        self.wait(seconds - 0.01)
        early = self.asks
        self.wait(0.2)
        return self.asks and not early

    @property
    def is_over(self) -> bool:
        """Whether nothing more is asked, however long one waits."""
        self.wait(1000)
        return not self.asks


@pytest.fixture
def stage() -> Stage:
    return Stage()


# -- the request ---------------------------------------------------------------------------------


def test_a_session_begins_with_a_request_to_open_it(stage: Stage) -> None:
    stage.up.begin()
    assert stage.asked() == OPEN
    head = stage.request.head
    assert (head.method, head.target) == (b"POST", b"/path?query")
    assert head.host == b"client.example"
    assert stage.request.wire.target is TARGET
    assert stage.request[b"content-length"] == b"6"


def test_every_request_shows_the_handshake_and_that_events_are_spoken() -> None:
    handshake = [
        (b"Cookie", b"c"),
        (b"Origin", b"o"),
        (b"Sec-WebSocket-Key", b"k"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Protocol", b"p"),
    ]
    stage = Stage(headers=handshake).open()
    stage.send(b"a")
    opening, later = [
        [(name, value) for name, value in request.headers if name != b"Content-Length"]
        for request in stage.pool.requests
    ]
    assert opening == later
    assert opening[0] == (b"Host", b"client.example")
    assert opening[1:6] == handshake
    fields = dict(opening[6:])
    assert uuid.UUID(fields.pop(b"Connection-Id").decode()).version == 4
    assert fields.pop(b"Grip-Feature").startswith(b"status, session")
    assert fields == {
        b"Sec-WebSocket-Extensions": b"grip",
        b"Accept": b"application/websocket-events",
        b"Content-Type": b"application/websocket-events",
    }


@pytest.mark.parametrize(
    "name",
    [
        b"Accept",
        b"Connection-Id",
        b"CONTENT-TYPE",
        b"Content-Bytes-Replayed",
        b"Content-Length",
        b"Meta-User",
        b"meta-",
        b"Upgrade",
        b"Sec-WebSocket-Extensions",
        b"Accept-Encoding",
        b"Connection",
        b"Grip-Sig",
    ],
)
def test_a_client_cannot_set_what_the_proxy_says_there(name: bytes) -> None:
    stage = Stage(headers=[(name, b"theirs")])
    stage.up.begin()
    assert b"theirs" not in stage.request.data


def test_no_two_connections_have_the_same_id() -> None:
    stages = [Stage().open() for _ in range(2)]
    assert len({stage.request[b"connection-id"] for stage in stages}) == 2


def test_a_route_s_rewriting_holds_for_every_request() -> None:
    target = Target("backend.example", 8000, over_http=True, ssl=True, host_header="h.example")
    route = Route("*", (target,), path_beg=b"/path", path_rem=5, replace_beg=b"/other")
    stage = Stage(target, route=route).open()
    stage.send(b"a")
    for request in stage.pool.requests:
        assert (request.head.target, request.head.host) == (b"/other?query", b"h.example")
    assert stage.pool.names == ["h.example"] * 2


def test_each_request_is_signed_anew() -> None:
    tokens = (b"token-%d" % number for number in itertools.count(1))
    stage = Stage(rules=HeaderRules(sign=lambda: next(tokens))).open()
    stage.send(b"a")
    stage.answer()
    stage.up.lost()
    assert [request[b"grip-sig"] for request in stage.pool.requests] == [
        b"token-1",
        b"token-2",
        b"token-3",
    ]


def test_a_trusted_proxy_s_signature_is_kept() -> None:
    rules = HeaderRules(sign=lambda: b"ours")
    stage = Stage(headers=[(b"Grip-Sig", b"theirs")], rules=rules, trusted=True).open()
    stage.send(b"a")
    assert [request[b"grip-sig"] for request in stage.pool.requests] == [b"theirs"] * 2


def test_without_grip_no_extension_is_asked_for() -> None:
    stage = Stage(rules=HeaderRules(grip=False)).open()
    assert stage.request[b"sec-websocket-extensions"] is None


# -- the answer to OPEN --------------------------------------------------------------------------


def test_a_backend_accepts_with_the_fields_of_its_answer(stage: Stage) -> None:
    stage.up.begin()
    stage.answer(OPEN, (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"))
    fields = [(b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"), (b"Content-Length", b"6")]
    assert stage.session.heard == [("accepted", fields)]


FOR_THE_PROXY = [
    (b"Keep-Alive-Interval", b"20"),
    (b"CONTENT-BYTES-ACCEPTED", b"0"),
    (b"Set-Meta-User", b"bob"),
    (b"set-meta-", b"x"),
]


def test_what_an_answer_tells_the_proxy_is_not_for_the_client(stage: Stage) -> None:
    stage.up.begin()
    stage.answer(OPEN, *FOR_THE_PROXY)
    assert stage.session.heard == [("accepted", [(b"Content-Length", b"6")])]
    other = Stage()
    other.up.begin()
    other.request.answer(b"No", [(b"Content-Type", b"text/plain"), *FOR_THE_PROXY], 403)
    fields = [(b"Content-Type", b"text/plain"), (b"Content-Length", b"2")]
    assert other.session.heard == [("refused", 403, b"Forbidden", fields, b"No")]


def test_what_comes_with_the_acceptance_comes_after_it(stage: Stage) -> None:
    stage.up.begin()
    stage.answer(OPEN + text(b"hello") + b"BINARY 1\r\n\xff\r\n")
    assert [heard[0] for heard in stage.session.heard] == ["accepted", "frame", "frame"]
    assert stage.session.heard[1:] == [
        ("frame", TEXT, b"hello", True),
        ("frame", BINARY, b"\xff", True),
    ]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (401, b"application/websocket-events"),
        (201, b"application/websocket-events"),
        (302, b"text/html"),
        (200, b"text/plain"),
        (200, b"application/websocket-events; charset=utf-8"),
        (200, b"Application/WebSocket-Events"),
        (200, None),
    ],
)
def test_an_answer_without_events_refuses_the_client(
    stage: Stage, code: int, kind: bytes | None
) -> None:
    fields = [(b"X-A", b"1")]
    if kind is not None:
        fields.append((b"Content-Type", kind))
    stage.up.begin()
    stage.request.receive(b"HTTP/1.1 %d Because\r\nX-A: 1\r\n" % code)
    if kind is not None:
        stage.request.receive(b"Content-Type: %b\r\n" % kind)
    stage.request.receive(b"Content-Length: 6\r\n\r\nOPEN\r\n")
    fields.append((b"Content-Length", b"6"))
    assert stage.session.heard == [("refused", code, b"Because", fields, b"OPEN\r\n")]
    assert stage.asked() == OPEN
    assert stage.is_over


@pytest.mark.parametrize(("size", "kept"), [(100_000, 100_000), (100_001, 100_000)])
def test_so_much_of_a_refusal_s_body_reaches_the_client(stage: Stage, size: int, kept: int) -> None:
    stage.up.begin()
    stage.request.answer(bytes(size), code=403)
    ((*_, body),) = stage.session.heard
    assert body == bytes(kept)


@pytest.mark.parametrize("interval", [None, b"0", b"-1", b"x", b""])
def test_an_answer_with_no_events_is_a_failure_without_keep_alive(
    stage: Stage, interval: bytes | None
) -> None:
    stage.up.begin()
    stage.answer(b"", *([] if interval is None else [(b"Keep-Alive-Interval", interval)]))
    assert [heard[0] for heard in stage.session.heard] == ["failed"]
    assert stage.asked() == OPEN
    assert stage.is_over


@pytest.mark.parametrize("fields", [[], [(b"Keep-Alive-Interval", b"20")]])
@pytest.mark.parametrize(
    "body",
    [
        text(b"a") + OPEN,
        CLOSE,
        DISCONNECT,
        b"OPEN",
        b"OPEN x\r\n",
        b"OPEN\r\nTEXT -1\r\n",
    ],
)
def test_an_answer_that_does_not_begin_with_open_or_is_broken_is_a_failure(
    stage: Stage, body: bytes, fields: Headers
) -> None:
    stage.up.begin()
    stage.answer(body, *fields)
    assert [heard[0] for heard in stage.session.heard] == ["failed"]
    assert stage.asked() == OPEN
    assert stage.is_over


def test_an_answer_that_is_too_large_is_a_failure(stage: Stage) -> None:
    stage.up.begin()
    stage.answer(OPEN.ljust(RESPONSE_MAX + 1))
    assert stage.session.heard == [("failed", "its events are larger than 1000000 bytes")]


def test_an_answer_may_be_so_large(stage: Stage) -> None:
    head = b"OPEN\r\nTEXT f4232\r\n"
    content = bytes(RESPONSE_MAX - len(head) - 2)
    stage.open(b"TEXT %x\r\n%b\r\n" % (len(content), content))
    assert stage.session.heard == [("frame", TEXT, content, True)]


def test_an_unanswered_open_is_sent_again_at_the_interval(stage: Stage) -> None:
    stage.up.begin()
    assert stage.asked() == OPEN
    stage.answer(b"", (b"Keep-Alive-Interval", b"30"), (b"Set-Meta-A", b"1"))
    for _ in range(2):
        assert stage.asks_in(30)
        assert stage.asked() == OPEN
        assert stage.request[b"meta-a"] == b"1"
        assert stage.session.heard == []
        stage.answer()
    assert stage.asks_in(30)
    stage.answer(OPEN)
    assert [heard[0] for heard in stage.session.heard] == ["accepted"]


def test_a_client_that_leaves_while_open_is_unanswered_leaves_nothing_behind(
    stage: Stage,
) -> None:
    stage.up.begin()
    assert stage.asked() == OPEN
    stage.answer(b"", (b"Keep-Alive-Interval", b"20"))
    stage.up.lost()
    assert stage.is_over


@pytest.mark.parametrize("error", [ConnectError("refused"), BlockedError("private")])
def test_a_backend_that_cannot_be_reached_is_not_tried_again(
    stage: Stage, error: BackendError
) -> None:
    stage.pool.slow = True
    stage.up.begin()
    stage.pool.refuse(error)
    assert stage.session.heard == [("unreachable", error)]
    assert stage.is_over


@pytest.mark.parametrize("sent", [True, False])
def test_a_backend_that_does_not_answer_open_is_not_tried_again(stage: Stage, sent: bool) -> None:
    stage.up.begin()
    assert stage.asked() == OPEN
    stage.request.lose(sent=sent)
    assert [heard[0] for heard in stage.session.heard] == ["failed"]
    assert stage.is_over


# -- answers later -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 No\r\nContent-Type: application/websocket-events\r\n",
        b"HTTP/1.1 204 No\r\nContent-Type: application/websocket-events\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/websocket-events;a=b\r\n",
        b"HTTP/1.1 200 OK\r\n",
    ],
)
def test_an_answer_without_events_ends_the_session(stage: Stage, answer: bytes) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.request.receive(answer + b"Content-Length: 0\r\n\r\n")
    assert stage.session.heard == [LOST]
    stage.send(b"b")
    stage.up.lost()
    assert stage.is_over


@pytest.mark.parametrize("body", [b"TEXT", b"TEXT x\r\n", b"TEXT -1\r\na\r\n", b" " * 1_000_001])
def test_a_broken_answer_ends_the_session(stage: Stage, body: bytes) -> None:
    stage.open()
    stage.send(b"a")
    stage.answer(body)
    assert stage.session.heard == [LOST]


def test_open_cannot_come_again(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.answer(text(b"x") + OPEN + text(b"y"))
    assert stage.session.heard == [("frame", TEXT, b"x", True), LOST]
    assert stage.is_over


def test_an_answer_may_be_empty(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.answer()
    assert stage.session.heard == []
    assert stage.is_over


def test_the_messages_of_an_answer_reach_the_client_in_their_order(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    stage.answer(b"TEXT 1\r\na\r\nPING 1\r\nb\r\nBINARY\r\nPONG\r\nFOO 1\r\nx\r\nTEXT\r\n")
    assert stage.session.heard == [
        ("frame", TEXT, b"a", True),
        ("frame", PING, b"b", True),
        ("frame", BINARY, b"", True),
        ("frame", PONG, b"", True),
        ("frame", TEXT, b"", True),
    ]


def test_a_ping_that_no_frame_can_carry_is_left_out(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    stage.answer(b"PING 7e\r\n%b\r\nPING 7d\r\n%b\r\n" % (bytes(126), bytes(125)))
    assert stage.session.heard == [("frame", PING, bytes(125), True)]


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        (b"", None, b""),
        (b"\x03", None, b""),
        (b"\x03\xe8", 1000, b""),
        (b"\x03\xe9bye", 1001, b"bye"),
        (b"\0\0", 0, b""),
    ],
)
def test_a_close_of_the_backend_ends_the_events(
    stage: Stage, content: bytes, code: int | None, reason: bytes
) -> None:
    stage.open()
    stage.send(b"a")
    stage.answer(text(b"x") + close(content) + text(b"y") + DISCONNECT)
    assert stage.session.heard == [("frame", TEXT, b"x", True), ("close", code, reason)]


def test_a_disconnect_ends_the_session_after_what_came_before_it(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.answer(text(b"x") + text(b"y") + DISCONNECT + text(b"z"))
    assert stage.session.heard == [
        ("frame", TEXT, b"x", True),
        ("frame", TEXT, b"y", True),
        LOST,
    ]
    stage.up.lost()
    assert stage.is_over


def test_a_disconnect_may_come_with_the_acceptance(stage: Stage) -> None:
    stage.open(text(b"x") + DISCONNECT)
    assert stage.session.heard == [("frame", TEXT, b"x", True), LOST]


# -- fields of answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"20", 20), (b"25", 25), (b"1", 20), (b"19", 20), (b"86400", 86400)],
)
def test_the_backend_is_asked_at_its_interval(stage: Stage, value: bytes, seconds: int) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", value))
    for _ in range(2):
        assert stage.asks_in(seconds)
        assert stage.asked() == b""
        stage.answer()


@pytest.mark.parametrize("value", [b"0", b"-20", b"x", b"20s", b"2.5", b""])
def test_an_interval_that_is_none_ends_it(stage: Stage, value: bytes) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"20"))
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.answer(b"", (b"Keep-Alive-Interval", value))
    assert stage.is_over


def test_an_interval_holds_until_another_is_given(stage: Stage) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"40"))
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.answer(b"", (b"keep-alive-interval", b"60"))
    assert stage.asks_in(60)


def test_the_interval_runs_from_the_last_answer(stage: Stage) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"20"))
    stage.wait(15)
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.wait(100)  # as long as a request is outstanding there is no other
    assert not stage.asks
    stage.answer()
    assert stage.asks_in(20)
    assert stage.asked() == b""


def test_meta_is_given_back_with_every_later_request(stage: Stage) -> None:
    stage.open(b"", (b"Set-Meta-User", b"bob"), (b"set-meta-x", b"1"), (b"Set-Meta-Gone", b""))
    for _ in range(2):
        stage.send(b"a")
        assert (stage.request[b"meta-user"], stage.request[b"meta-x"]) == (b"bob", b"1")
        assert stage.request[b"meta-gone"] is None
        assert b"Meta-User: bob\r\n" in stage.request.data
        stage.answer()


def test_there_is_a_bound_on_meta(stage: Stage) -> None:
    stage.open()
    for start in (0, 32):
        stage.send(b"a")
        names = [b"Set-Meta-%d" % number for number in range(start, start + 32)]
        stage.answer(b"", *[(name, b"x") for name in names])
    assert stage.session.heard == []
    stage.send(b"a")
    assert stage.request[b"meta-63"] == b"x"
    stage.answer(b"", (b"Set-Meta-64", b"x"))
    assert stage.session.heard == [LOST]


def test_meta_is_replaced_and_removed_whatever_its_case(stage: Stage) -> None:
    stage.open(b"", (b"Set-Meta-User", b"bob"), (b"Set-Meta-X", b"1"))
    stage.send(b"a")
    stage.answer(b"", (b"SET-META-USER", b"eve"), (b"set-meta-x", b""))
    stage.send(b"b")
    assert b"Meta-USER: eve\r\n" in stage.request.data
    assert stage.request[b"meta-x"] is None
    stage.answer(b"", (b"Set-Meta-user", b""))
    stage.up.lost()
    assert stage.request[b"meta-user"] is None


# -- what goes together --------------------------------------------------------------------------


def test_what_the_client_sent_at_once_goes_at_once(stage: Stage) -> None:
    stage.open()
    for frame in (Frame(TEXT, b"a"), Frame(PING, b"p"), Frame(BINARY, b"b")):
        stage.up.send(frame)
    assert not stage.asks
    stage.up.flush()
    assert stage.asked() == text(b"a") + b"PING 1\r\np\r\nBINARY 1\r\nb\r\n"


def test_one_request_is_outstanding_and_what_comes_meanwhile_goes_with_the_next(
    stage: Stage,
) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.send(b"b")
    stage.send(b"c", b"d")
    assert not stage.asks
    stage.answer(text(b"x"))
    assert stage.asked() == text(b"b") + text(b"c") + text(b"d")
    stage.answer()
    assert not stage.asks


def test_a_flush_without_messages_asks_nothing(stage: Stage) -> None:
    stage.open()
    stage.up.flush()
    assert not stage.asks


def test_a_fragmented_message_goes_when_it_is_whole(stage: Stage) -> None:
    stage.open()
    stage.up.send(Frame(BINARY, b"a", False))
    stage.up.send(Frame(PING, b"p"))
    stage.up.send(Frame(CONT, b"b", False))
    stage.up.flush()
    assert stage.asked() == b"PING 1\r\np\r\n"
    stage.answer()
    assert not stage.asks
    stage.up.send(Frame(CONT, b"", False))
    stage.up.send(Frame(CONT, b"c"))
    stage.up.flush()
    assert stage.asked() == b"BINARY 3\r\nabc\r\n"


def test_with_one_event_each_goes_by_itself() -> None:
    stage = Stage(ONE_EVENT).open()
    stage.send(b"a", b"", b"", b"b")
    stage.up.close(1000, b"")
    bodies = []
    while stage.asks:
        bodies.append(stage.asked())
        stage.answer(CLOSE if b"CLOSE" in bodies[-1] else b"")
    assert bodies == [text(b"a"), text(b""), text(b""), text(b"b"), close(b"\x03\xe8")]


def test_many_messages_go_in_one_request(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.send(*[b""] * 500)
    stage.answer()
    assert stage.asked() == text(b"") * 500


# -- how much may wait ---------------------------------------------------------------------------


def test_a_full_queue_blocks_the_client_until_the_backend_has_taken_it(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    stage.send(b"b" * (BOUND - 1 - EVENT_COST))
    assert stage.session.heard == [("blocked",)]
    stage.answer()
    assert stage.session.heard == [("blocked",), ("ready",)]
    stage.send(b"c")
    assert stage.session.heard == [("blocked",), ("ready",), ("blocked",)]


def test_what_the_client_had_sent_before_it_was_blocked_is_taken(stage: Stage) -> None:
    stage.open()
    stage.send(b"a" * BOUND, b"b" * BOUND, b"c")
    assert stage.session.heard == [("blocked",)]
    assert stage.asked() == text(b"a" * BOUND) + text(b"b" * BOUND) + text(b"c")


def test_while_a_part_of_the_queue_is_too_much_the_client_stays_blocked() -> None:
    stage = Stage(ONE_EVENT).open()
    stage.send(b"a", b"b" * BOUND)
    assert stage.asked() == text(b"a")
    stage.answer()
    assert stage.session.heard == [("blocked",)]
    assert stage.asked() == text(b"b" * BOUND)
    stage.answer()
    assert stage.session.heard == [("blocked",), ("ready",)]


def test_the_rest_of_a_message_that_was_refused_goes_nowhere(stage: Stage) -> None:
    stage.open()
    stage.up.send(Frame(TEXT, bytes(BOUND), False))
    stage.up.send(Frame(CONT, b"a", False))
    stage.up.send(Frame(CONT, b"b"))
    stage.up.flush()
    assert not stage.asks
    assert stage.session.heard == [("too large",)]


def test_a_message_that_has_begun_waits_for_room(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    stage.up.send(Frame(TEXT, b"b" * (BOUND - 1), False))
    assert stage.session.heard == [("blocked",)]
    stage.answer()
    assert stage.session.take() == [("blocked",), ("ready",)]
    stage.up.send(Frame(CONT, b"c"))
    stage.up.flush()
    assert stage.request.body == text(b"b" * (BOUND - 1) + b"c")


def test_a_message_that_has_begun_and_fills_all_the_room_is_refused(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    stage.up.send(Frame(TEXT, bytes(BOUND), False))
    assert stage.session.take() == [("blocked",)]
    stage.answer()
    assert stage.session.heard == [("too large",)]


def test_a_client_that_leaves_too_much_unread_makes_no_requests(stage: Stage) -> None:
    stage.open()
    stage.session.unread = BOUND
    stage.send(b"a")
    assert not stage.asks
    stage.up.pause()
    assert not stage.asks
    stage.session.unread = BOUND - 1
    stage.up.resume()
    assert stage.asked() == text(b"a")


def test_nor_does_it_when_a_request_has_ended(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.send(b"b")
    stage.session.unread = BOUND
    stage.answer()
    assert not stage.asks
    stage.session.unread = 0
    stage.up.resume()
    assert stage.asked() == text(b"b")


def test_its_leaving_is_told_all_the_same(stage: Stage) -> None:
    stage.open()
    stage.session.unread = BOUND
    stage.send(b"a")
    stage.up.lost()
    assert stage.asked() == DISCONNECT


# -- refresh -------------------------------------------------------------------------------------


def test_a_refresh_asks_at_once(stage: Stage) -> None:
    stage.open()
    stage.up.refresh()
    assert stage.asked() == b""
    stage.answer(text(b"x"))
    assert stage.session.heard == [("frame", TEXT, b"x", True)]
    assert not stage.asks


def test_a_refresh_takes_along_what_waits(stage: Stage) -> None:
    stage.open()
    stage.up.send(Frame(TEXT, b"a"))
    stage.up.refresh()
    assert stage.asked() == text(b"a")
    stage.answer()
    assert not stage.asks


def test_refreshes_during_a_request_are_one_after_it(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.up.refresh()
    stage.up.refresh()
    assert not stage.asks
    stage.answer()
    assert stage.asked() == b""
    stage.answer()
    assert not stage.asks


def test_a_refresh_during_a_request_goes_with_the_messages_after_it(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.up.refresh()
    stage.send(b"b")
    stage.answer()
    assert stage.asked() == text(b"b")
    stage.answer()
    assert not stage.asks


def test_a_refresh_counts_only_while_the_session_is_open(stage: Stage) -> None:
    stage.up.begin()
    assert stage.asked() == OPEN
    stage.up.refresh()
    stage.answer(OPEN)
    assert not stage.asks
    stage.up.close(1000, b"")
    assert stage.asked() == close(b"\x03\xe8")
    stage.up.refresh()
    stage.answer(CLOSE)
    stage.up.refresh()
    assert stage.is_over


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("drawn", [0.0, 0.999])
def test_a_backend_that_cannot_be_reached_is_asked_five_times_more(
    stage: Stage, drawn: float
) -> None:
    stage.open()
    stage.random.value = drawn
    stage.pool.idle.clear()
    stage.pool.slow = True
    stage.send(b"a")
    for delay in (1, 2, 4, 8, 16):
        stage.pool.refuse()
        stage.wait(delay + drawn - 0.01)
        assert stage.pool.waiting == []
        assert stage.session.heard == []
        stage.wait(0.2)
        assert len(stage.pool.waiting) == 1
    stage.pool.refuse()
    assert stage.session.heard == [LOST]
    stage.wait(1000)
    assert stage.pool.waiting == []


def test_each_time_the_request_is_the_same_but_for_its_signature() -> None:
    tokens = (b"token-%d" % number for number in itertools.count(1))
    stage = Stage(rules=HeaderRules(sign=lambda: next(tokens))).open(b"", (b"Set-Meta-A", b"1"))
    stage.send(b"a", b"b")
    assert stage.asked() == text(b"a") + text(b"b")
    fresh = stage.request
    first = len(stage.pool.requests) - 1
    # A connection that was used before gets another chance at once, with the same token.
    stage.request.lose(sent=False)
    assert stage.asked() == fresh.body
    for delay in (1, 2):
        stage.request.lose(sent=False)
        stage.send(b"c")  # which has to wait
        assert stage.asks_in(delay)
        assert stage.asked() == fresh.body
    requests = stage.pool.requests[first:]
    assert [request[b"grip-sig"] for request in requests] == [
        b"token-2",
        b"token-2",
        b"token-3",
        b"token-4",
    ]
    assert len({re.sub(rb"token-.", b"", request.data) for request in requests}) == 1
    stage.answer()
    assert stage.asked() == text(b"c") * 2


def test_a_request_that_may_have_arrived_is_not_sent_again(stage: Stage) -> None:
    stage.open()
    stage.pool.idle.clear()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.request.lose()
    assert stage.session.heard == [LOST]
    assert stage.is_over


def test_a_request_whose_answer_broke_off_is_not_sent_again(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.request.receive(b"HTTP/1.1 200 OK\r\nContent-Type")
    stage.request.lose()
    assert stage.session.heard == [LOST]
    assert stage.is_over


def test_a_request_that_was_not_all_sent_is_sent_again(stage: Stage) -> None:
    stage.open()
    stage.pool.idle.clear()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.request.lose(sent=False)
    assert stage.asks_in(1)
    assert stage.asked() == text(b"a")


def test_a_dead_connection_is_replaced_at_once(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.request.lose()
    assert stage.asked() == text(b"a")
    stage.answer(text(b"x"))
    assert stage.session.heard == [("frame", TEXT, b"x", True)]


def test_a_target_that_may_not_be_reached_is_not_asked_again(stage: Stage) -> None:
    stage.open()
    stage.pool.slow = True
    stage.pool.idle.clear()
    stage.send(b"a")
    stage.pool.refuse(BlockedError("private"))
    assert stage.session.heard == [LOST]
    stage.wait(1000)
    assert stage.pool.waiting == []


def test_a_pool_that_is_full_is_asked_again(stage: Stage) -> None:
    stage.open()
    stage.pool.full = True
    stage.send(b"a")
    assert stage.session.heard == []
    stage.pool.full = False
    assert stage.asks_in(1)
    assert stage.asked() == text(b"a")


def test_an_answer_begins_the_count_anew(stage: Stage) -> None:
    stage.open()
    for _ in range(3):
        stage.pool.idle.clear()
        stage.send(b"a")
        assert stage.asked() == text(b"a")
        for delay in (1, 2, 4):
            stage.request.lose(sent=False)
            assert stage.asks_in(delay)
            stage.asked()
        stage.answer()
    assert stage.session.heard == []


def test_a_keep_alive_does_not_come_between(stage: Stage) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"20"))
    stage.pool.idle.clear()
    stage.wait(19.5)
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.request.lose(sent=False)
    assert stage.asks_in(1)
    assert stage.asked() == text(b"a")
    stage.answer()
    assert stage.asks_in(20)


def test_a_refresh_waits_for_the_retries(stage: Stage) -> None:
    stage.open()
    stage.pool.idle.clear()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.request.lose(sent=False)
    stage.up.refresh()
    assert not stage.asks
    assert stage.asks_in(1)
    assert stage.asked() == text(b"a")
    stage.answer()
    assert stage.asked() == b""


# -- what the backend accepts of it --------------------------------------------------------------


def accepts(count: int) -> tuple[bytes, bytes]:
    return b"Content-Bytes-Accepted", b"%d" % count


def replayed(stage: Stage) -> bytes | None:
    """What the last request says it has said before."""
    return stage.request[b"content-bytes-replayed"]


def test_what_is_not_accepted_goes_again_with_what_comes_next(stage: Stage) -> None:
    stage.open()
    stage.send(b"[foo][hello")
    assert stage.asked() == text(b"[foo][hello")
    assert replayed(stage) is None
    stage.answer(b"", accepts(5))
    assert not stage.asks
    stage.send(b" world]")
    assert stage.asked() == text(b"[hello") + text(b" world]")
    assert replayed(stage) == b"6"
    stage.answer()
    stage.send(b"more")
    assert stage.asked() == text(b"more")
    assert replayed(stage) is None


@pytest.mark.parametrize("field", [[], [(b"Content-Bytes-Accepted", b"x")]])
def test_without_a_number_all_is_accepted(stage: Stage, field: Headers) -> None:
    stage.open()
    stage.send(b"a")
    stage.answer(b"", *field)
    stage.up.refresh()
    assert stage.request.body == b""


def test_more_cannot_be_accepted_than_was_offered(stage: Stage) -> None:
    stage.open()
    stage.send(b"ab")
    assert stage.asked() == text(b"ab")
    stage.answer(text(b"x"), accepts(3))
    assert stage.session.heard == [LOST]
    assert stage.is_over


def test_what_was_not_accepted_does_not_go_by_itself(stage: Stage) -> None:
    stage.open()
    stage.send(b"ab")
    assert stage.asked() == text(b"ab")
    stage.answer(b"", accepts(0))
    stage.up.flush()
    stage.up.resume()
    assert stage.is_over


def test_a_keep_alive_offers_again_what_was_not_accepted(stage: Stage) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"20"))
    stage.send(b"ab")
    assert stage.asked() == text(b"ab")
    stage.answer(b"", accepts(1))
    assert stage.asks_in(20)
    assert stage.asked() == text(b"b")
    assert replayed(stage) == b"1"


def test_messages_that_come_meanwhile_go_at_once_behind_what_was_not_accepted(
    stage: Stage,
) -> None:
    stage.open()
    stage.send(b"ab")
    assert stage.asked() == text(b"ab")
    stage.send(b"c")
    stage.answer(b"", accepts(0))
    assert stage.session.heard == []
    assert stage.asked() == text(b"ab") + text(b"c")
    assert replayed(stage) == b"2"


def test_the_answer_s_messages_count_whatever_was_accepted(stage: Stage) -> None:
    stage.open()
    stage.send(b"ab")
    stage.answer(text(b"x"), accepts(0))
    assert stage.session.heard == [("frame", TEXT, b"x", True)]


def test_a_request_that_is_sent_again_says_the_same_of_what_it_said_before(stage: Stage) -> None:
    stage.open()
    stage.send(b"ab")
    assert stage.asked() == text(b"ab")
    stage.answer(b"", accepts(1))
    stage.pool.idle.clear()
    stage.send(b"c")
    assert stage.asked() == text(b"b") + text(b"c")
    stage.request.lose(sent=False)
    assert stage.asks_in(1)
    assert stage.asked() == text(b"b") + text(b"c")
    assert replayed(stage) == b"1"


def test_a_close_comes_after_all_that_was_not_accepted(stage: Stage) -> None:
    stage.open()
    stage.send(b"ab")
    assert stage.asked() == text(b"ab")
    stage.answer(b"", accepts(1))
    stage.up.close(1000, b"bye")
    assert stage.asked() == text(b"b") + close(b"\x03\xe8bye")
    assert replayed(stage) == b"1"
    stage.answer(CLOSE)
    assert stage.session.heard == [("close", None, b"")]
    assert stage.is_over


def test_a_close_is_said_again_when_something_before_it_was_not_accepted(stage: Stage) -> None:
    stage.open()
    stage.send(b"x")
    assert stage.asked() == text(b"x")
    stage.send(b"abc")
    stage.up.close(1000, b"")
    stage.answer()
    assert stage.asked() == text(b"abc") + close(b"\x03\xe8")
    stage.answer(b"", accepts(1))
    assert stage.asked() == text(b"bc") + close(b"\x03\xe8")
    assert replayed(stage) == b"2"
    stage.answer(b"", accepts(1))
    assert stage.asked() == text(b"c") + close(b"\x03\xe8")
    stage.answer(CLOSE, accepts(3))
    assert stage.session.heard == [("close", None, b"")]
    assert stage.is_over


def test_a_close_before_which_nothing_is_accepted_is_said_so_many_times(stage: Stage) -> None:
    stage.open()
    stage.send(b"x")
    assert stage.asked() == text(b"x")
    stage.send(b"ab")
    stage.up.close(1000, b"")
    stage.answer()
    said = text(b"ab") + close(b"\x03\xe8")
    assert stage.asked() == said
    for delay in (1, 2, 4, 8, 16):
        stage.answer(b"", accepts(0))
        assert stage.session.heard == []
        assert stage.asks_in(delay)
        assert stage.asked() == said
        assert replayed(stage) == b"2"
    stage.answer(b"", accepts(0))
    assert stage.session.heard == [LOST]
    assert stage.is_over


@pytest.mark.parametrize("content", [b"", b"\x03\xe8bye"])
def test_a_close_is_accepted_with_all_of_its_content(stage: Stage, content: bytes) -> None:
    stage.open()
    if content:
        stage.up.close(1000, content[2:])
    else:
        stage.up.close(None, b"")
    assert stage.asked() == close(content)
    stage.answer(CLOSE, accepts(len(content)))
    assert stage.session.heard == [("close", None, b"")]


# -- the client closes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "body"),
    [(None, b"", CLOSE), (1000, b"", close(b"\x03\xe8")), (4000, b"bye", close(b"\x0f\xa0bye"))],
)
def test_a_client_s_close_is_told(
    stage: Stage, code: int | None, reason: bytes, body: bytes
) -> None:
    stage.open()
    stage.up.close(code, reason)
    assert stage.asked() == body


def test_a_client_s_close_comes_after_its_messages_and_without_half_a_one(stage: Stage) -> None:
    stage.open()
    stage.up.send(Frame(TEXT, b"a"))
    stage.up.send(Frame(TEXT, b"b", False))
    stage.up.close(1000, b"")
    assert stage.asked() == text(b"a") + close(b"\x03\xe8")


def test_a_client_s_close_waits_for_the_request_that_is_outstanding(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.send(b"b")
    stage.up.close(1000, b"")
    assert not stage.asks
    stage.answer(text(b"x"))
    assert stage.session.take() == [("frame", TEXT, b"x", True)]
    assert stage.asked() == text(b"b") + close(b"\x03\xe8")
    stage.answer(text(b"y") + close(b"\x0f\xa0z"))
    assert stage.session.heard == [("frame", TEXT, b"y", True), ("close", 4000, b"z")]
    assert stage.is_over


def test_a_client_s_close_that_is_not_answered_is_the_end_without_keep_alive(
    stage: Stage,
) -> None:
    stage.open()
    stage.up.close(1000, b"")
    assert stage.asked() == close(b"\x03\xe8")
    stage.answer(text(b"x"))
    assert stage.session.heard == [("frame", TEXT, b"x", True), LOST]
    assert stage.is_over


def test_a_client_s_close_is_said_again_at_the_interval_until_it_is_answered(stage: Stage) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"25"))
    stage.up.close(1000, b"")
    for _ in range(3):
        assert stage.asked() == close(b"\x03\xe8")
        stage.answer()
        assert stage.session.heard == []
        assert stage.asks_in(25)
    assert stage.asked() == close(b"\x03\xe8")
    stage.answer(close(b"\x03\xe9"))
    assert stage.session.heard == [("close", 1001, b"")]
    assert stage.is_over


def test_a_close_may_cross_the_backend_s(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.up.close(1000, b"")
    stage.answer(close(b"\x03\xe9"))
    assert stage.session.heard == [("close", 1001, b"")]
    assert stage.asked() == close(b"\x03\xe8")
    stage.answer()
    assert stage.session.heard == [("close", 1001, b"")]
    assert stage.is_over


def test_a_client_lost_while_its_close_is_unfinished_is_told(stage: Stage) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"20"))
    stage.up.close(1000, b"")
    assert stage.asked() == close(b"\x03\xe8")
    stage.up.lost()
    assert not stage.asks
    stage.answer()
    assert stage.asked() == DISCONNECT
    stage.answer()
    assert stage.is_over


def test_a_backend_with_one_chance_to_answer_a_close_is_told_no_more(stage: Stage) -> None:
    stage.open()
    stage.up.close(1000, b"")
    assert stage.asked() == close(b"\x03\xe8")
    stage.up.lost()
    stage.answer()
    assert stage.is_over


def test_a_close_that_was_not_accepted_tells_the_backend_nothing(stage: Stage) -> None:
    stage.open()
    stage.up.send(Frame(TEXT, b"ab"))
    stage.up.close(1000, b"")
    assert stage.asked() == text(b"ab") + close(b"\x03\xe8")
    stage.up.lost()
    stage.answer(b"", accepts(1))
    assert stage.asked() == DISCONNECT


def test_a_client_lost_while_its_close_is_answered_is_not(stage: Stage) -> None:
    stage.open()
    stage.up.close(1000, b"")
    assert stage.asked() == close(b"\x03\xe8")
    stage.up.lost()
    stage.answer(CLOSE)
    assert stage.is_over


def test_a_client_lost_between_two_tries_to_close_is_told(stage: Stage) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"20"))
    stage.up.close(1000, b"")
    assert stage.asked() == close(b"\x03\xe8")
    stage.answer()
    stage.up.lost()
    assert stage.asked() == DISCONNECT
    stage.answer()
    assert stage.is_over


def test_a_client_lost_after_the_close_is_not_told(stage: Stage) -> None:
    stage.open()
    stage.up.close(1000, b"")
    assert stage.asked() == close(b"\x03\xe8")
    stage.answer(CLOSE)
    stage.up.lost()
    assert stage.is_over


# -- the backend closes --------------------------------------------------------------------------


def backend_closes(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.answer(close(b"\x03\xe9"))
    assert stage.session.take() == [("close", 1001, b"")]
    assert not stage.asks


def test_the_client_s_answer_to_the_backend_s_close_is_told(stage: Stage) -> None:
    backend_closes(stage)
    stage.up.close(4000, b"bye")
    assert stage.asked() == close(b"\x0f\xa0bye")
    stage.answer()
    assert stage.session.heard == []
    assert stage.is_over


def test_a_client_that_vanishes_instead_is_told_too(stage: Stage) -> None:
    backend_closes(stage)
    stage.up.lost()
    assert stage.asked() == DISCONNECT
    stage.answer()
    assert stage.is_over


def test_a_backend_that_has_closed_is_not_kept_alive(stage: Stage) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"20"))
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.answer(CLOSE)
    assert stage.is_over


def test_a_backend_may_close_as_it_accepts(stage: Stage) -> None:
    stage.open(text(b"x") + close(b"\x03\xe9"))
    assert stage.session.heard == [("frame", TEXT, b"x", True), ("close", 1001, b"")]
    stage.up.close(1001, b"")
    assert stage.asked() == close(b"\x03\xe9")


# -- the proxy closes ----------------------------------------------------------------------------


def test_a_detached_backend_is_told_at_once_and_hears_nothing_more(stage: Stage) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"20"))
    stage.up.detach()
    assert stage.asked() == CLOSE
    stage.answer(text(b"x") + close(b"\x03\xe8"))
    assert stage.session.heard == []
    stage.up.lost()
    assert stage.is_over


def test_a_detached_backend_gets_what_came_before(stage: Stage) -> None:
    stage.open()
    stage.up.send(Frame(TEXT, b"a"))
    stage.up.send(Frame(TEXT, b"b", False))
    stage.up.detach()
    assert stage.asked() == text(b"a") + CLOSE


def test_nobody_hears_that_there_is_room_for_a_client_that_was_detached(stage: Stage) -> None:
    stage.open()
    stage.send(bytes(BOUND))
    assert stage.asked() == text(bytes(BOUND))
    assert stage.session.take() == [("blocked",)]
    stage.up.detach()
    stage.answer()
    assert stage.session.heard == []
    assert stage.asked() == CLOSE


def test_a_backend_can_be_detached_by_its_own_answer(stage: Stage) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"20"))
    stage.session.then["frame"] = stage.up.detach
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.answer(text(b"x") + text(b"y"))
    assert stage.session.heard == [("frame", TEXT, b"x", True)]
    assert stage.asked() == CLOSE
    stage.answer()
    assert stage.is_over


def test_a_backend_can_be_detached_as_it_accepts(stage: Stage) -> None:
    stage.session.then["frame"] = stage.up.detach
    stage.open(text(b"x") + text(b"y"))
    assert stage.session.heard == [("frame", TEXT, b"x", True)]
    assert stage.asked() == CLOSE
    stage.answer()
    assert stage.is_over


def test_a_detached_backend_that_accepts_nothing_is_asked_so_many_times(stage: Stage) -> None:
    stage.open()
    stage.up.send(Frame(TEXT, b"ab"))
    stage.up.detach()
    assert stage.asked() == text(b"ab") + CLOSE
    for delay in (1, 2, 4, 8, 16):
        stage.answer(b"", accepts(0))
        assert stage.asks_in(delay)
        stage.asked()
    stage.answer(b"", accepts(0))
    assert stage.is_over
    assert stage.session.heard == []


def test_a_detached_backend_that_cannot_be_reached_is_tried_again(stage: Stage) -> None:
    stage.open()
    stage.pool.idle.clear()
    stage.up.detach()
    assert stage.asked() == CLOSE
    stage.request.lose(sent=False)
    assert stage.asks_in(1)
    assert stage.asked() == CLOSE


def test_a_backend_that_has_the_client_s_close_needs_no_other(stage: Stage) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"20"))
    stage.up.close(4000, b"")
    assert stage.asked() == close(b"\x0f\xa0")
    stage.up.detach()
    stage.answer()
    assert stage.is_over


def test_a_close_that_was_to_be_said_again_is_not_once_nobody_waits_for_the_answer(
    stage: Stage,
) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"20"))
    stage.up.close(4000, b"")
    assert stage.asked() == close(b"\x0f\xa0")
    stage.answer()
    stage.up.detach()
    assert stage.is_over


# -- the client is lost --------------------------------------------------------------------------


def test_a_client_that_is_lost_is_told_alone(stage: Stage) -> None:
    stage.open()
    stage.up.send(Frame(TEXT, b"a"))
    stage.up.lost()
    assert stage.asked() == DISCONNECT
    stage.answer(text(b"x"))
    assert stage.session.heard == []
    assert stage.is_over


def test_a_request_that_is_outstanding_is_awaited_first(stage: Stage) -> None:
    stage.open(b"", (b"Keep-Alive-Interval", b"20"))
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.send(b"b")
    stage.up.lost()
    assert not stage.asks
    stage.answer(text(b"x"))
    assert stage.asked() == DISCONNECT
    stage.answer()
    assert stage.session.heard == []
    assert stage.is_over


def test_even_open_is_awaited_first(stage: Stage) -> None:
    stage.up.begin()
    assert stage.asked() == OPEN
    stage.up.lost()
    assert not stage.asks
    stage.answer(OPEN + text(b"x"))
    assert stage.asked() == DISCONNECT
    stage.answer()
    assert stage.session.heard == []
    assert stage.is_over


@pytest.mark.parametrize("code", [200, 403])
@pytest.mark.parametrize("body", [b"", text(b"a")])
def test_a_backend_that_has_not_accepted_is_told_nothing(
    stage: Stage, code: int, body: bytes
) -> None:
    stage.up.begin()
    assert stage.asked() == OPEN
    stage.up.lost()
    stage.answer(body, (b"Keep-Alive-Interval", b"20"), code=code)
    assert stage.session.heard == []
    assert stage.is_over


def test_nor_is_one_that_has_not_been_reached(stage: Stage) -> None:
    stage.pool.slow = True
    stage.up.begin()
    stage.up.lost()
    assert stage.pool.waiting == []
    stage.wait(1000)
    assert stage.pool.waiting == []
    assert stage.session.heard == []


def test_a_request_that_waits_for_a_connection_is_not_awaited(stage: Stage) -> None:
    stage.open()
    stage.pool.slow = True
    stage.pool.idle.clear()
    stage.send(b"a")
    stage.up.lost()
    stage.pool.connect()
    assert stage.asked() == DISCONNECT


def test_nor_is_one_that_is_not_answered_in_time(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    unanswered = stage.request
    stage.wait(100)
    stage.up.lost()
    assert stage.asks_in(30)
    assert unanswered.wire.aborted
    assert stage.asked() == DISCONNECT
    stage.wait(29)
    assert not stage.request.wire.aborted
    stage.wait(2)
    assert stage.request.wire.aborted
    assert stage.is_over


def test_nor_is_open_which_the_backend_may_accept_all_the_same(stage: Stage) -> None:
    stage.up.begin()
    assert stage.asked() == OPEN
    unanswered = stage.request
    stage.up.lost()
    stage.wait(31)
    assert unanswered.wire.aborted
    assert stage.asked() == DISCONNECT
    stage.answer()
    assert stage.is_over


@pytest.mark.parametrize("busy", [False, True])
def test_nor_is_the_close_of_a_session_that_is_detached(stage: Stage, busy: bool) -> None:
    stage.open()
    if busy:
        stage.send(b"a")
        assert stage.asked() == text(b"a")
        stage.up.detach()
    else:
        stage.up.detach()
        assert stage.asked() == CLOSE
    stage.wait(29)
    assert not stage.request.wire.aborted
    stage.wait(2)
    assert stage.request.wire.aborted
    assert stage.is_over


def test_an_answer_in_time_ends_that_wait(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.up.lost()
    stage.wait(25)
    stage.answer()
    assert stage.asked() == DISCONNECT
    stage.wait(25)
    stage.answer()
    assert stage.is_over


@pytest.mark.parametrize(
    "answer", [(b"", 500), (b"TEXT", 200), (DISCONNECT, 200), (text(b"x") + DISCONNECT, 200)]
)
def test_a_backend_that_is_gone_itself_is_not_told(stage: Stage, answer: tuple[bytes, int]) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.up.lost()
    stage.answer(answer[0], code=answer[1])
    assert stage.is_over


def test_a_backend_that_closes_by_itself_is_told(stage: Stage) -> None:
    stage.open()
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.up.lost()
    stage.answer(CLOSE)
    assert stage.asked() == DISCONNECT


def test_a_client_that_is_lost_during_retries_is_told_after_them(stage: Stage) -> None:
    stage.open()
    stage.send(b"ab")
    assert stage.asked() == text(b"ab")
    stage.answer(b"", accepts(1))
    stage.pool.idle.clear()
    stage.send(b"c")
    assert stage.asked() == text(b"b") + text(b"c")
    stage.request.lose(sent=False)
    stage.up.lost()
    assert stage.asks_in(1)
    assert stage.asked() == text(b"b") + text(b"c")
    assert replayed(stage) == b"1"
    stage.answer(text(b"x"))
    assert stage.asked() == DISCONNECT
    assert replayed(stage) is None
    stage.pool.idle.clear()
    stage.answer()
    assert stage.is_over
    assert stage.session.heard == []


def test_a_disconnect_is_tried_as_often_as_anything(stage: Stage) -> None:
    stage.open()
    stage.pool.idle.clear()
    stage.up.lost()
    assert stage.asked() == DISCONNECT
    for delay in (1, 2, 4, 8, 16):
        stage.request.lose(sent=False)
        assert stage.asks_in(delay)
        assert stage.asked() == DISCONNECT
    stage.request.lose(sent=False)
    assert stage.is_over
    assert stage.session.heard == []


def test_a_client_can_be_lost_by_what_it_is_sent(stage: Stage) -> None:
    stage.open()
    stage.session.then["frame"] = stage.up.lost
    stage.send(b"a")
    assert stage.asked() == text(b"a")
    stage.answer(text(b"x") + text(b"y"))
    assert stage.session.heard == [("frame", TEXT, b"x", True)]
    assert stage.asked() == DISCONNECT
    stage.answer()
    assert stage.is_over


def test_a_client_that_broke_the_bound_is_lost(stage: Stage) -> None:
    stage.open()
    stage.session.then["too large"] = stage.up.lost
    stage.send(bytes(BOUND + 1))
    assert stage.asked() == DISCONNECT


def test_a_proxy_that_stops_tells_nobody(stage: Stage) -> None:
    stage.open()
    stage.front.stopping = True
    stage.up.lost()
    assert stage.is_over


@pytest.mark.parametrize("opening", [True, False])
@pytest.mark.parametrize("answers", [True, False])
def test_nor_does_it_heed_what_is_under_way(stage: Stage, opening: bool, answers: bool) -> None:
    if opening:
        stage.up.begin()
    else:
        stage.open(b"", (b"Keep-Alive-Interval", b"20"))
        stage.pool.idle.clear()
        stage.send(b"a")
    stage.asked()
    stage.front.stopping = True
    stage.up.lost()
    if answers:
        stage.answer(OPEN if opening else text(b"x"))
    else:
        stage.request.lose(sent=False)
    assert stage.is_over
    assert stage.session.heard == []


def test_nobody_hears_that_open_failed_once_the_client_is_lost(stage: Stage) -> None:
    stage.up.begin()
    assert stage.asked() == OPEN
    stage.up.lost()
    stage.request.lose()
    assert stage.session.heard == []
    assert stage.is_over


def test_what_the_client_does_after_its_end_is_nothing(stage: Stage) -> None:
    stage.open()
    stage.up.lost()
    assert stage.asked() == DISCONNECT
    stage.answer()
    stage.send(b"a")
    stage.up.close(1000, b"")
    stage.up.lost()
    stage.up.refresh()
    assert stage.is_over
