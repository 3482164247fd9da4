"""A SockJS session by HTTP: queue, timers and states, between requests and a session that play."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gripproxy.clients import sockjssession
from gripproxy.clients.sockjssession import SockJsSession
from gripproxy.errors import WebSocketError
from gripproxy.grip.item import Action, Item, WsMessage, WsType
from gripproxy.http1.head import Headers
from gripproxy.hub.fanout import Batch
from gripproxy.routes import Route, Target
from gripproxy.websocket.frames import BINARY, CONT, PING, TEXT, Frame
from tests.unit.clients.websockets import Ears, Heard, Surroundings, text

KEY = ("route", b"id")
GONE: Heard = ("gone",)
SENT: Heard = ("sent",)
LEFT: Heard = ("send", b'c[3000,"Client already closed connection"]', True)
SOON = 0.2  # a deadline is met so many seconds late, at most


class PlayedSession(Ears):
    """Notes what the client's end tells it."""

    latest: "PlayedSession"

    def __init__(self, front: Any, outgoing: Any, down: SockJsSession) -> None:
        super().__init__()
        self.target = Target("backend.example", 80)
        PlayedSession.latest = self

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


class Request(Ears):
    """A request of the client: a poll, a stream or one that sends."""

    def __init__(self, streams: bool = False) -> None:
        super().__init__()
        self.streams = streams
        self.blocked = False
        self.unread = 0
        self.over = False

    def send(self, frame: bytes, *, last: bool = False) -> bool:
        assert not self.over
        self.over = last or not self.streams
        self.note("send", frame, last)
        return self.over

    def refuse(self, code: int, reason: bytes, fields: Headers, body: bytes) -> None:
        assert not self.over
        self.over = True
        self.note("refuse", code, body)

    def gone(self) -> None:
        assert not self.over
        self.over = True
        self.note("gone")

    def abort(self) -> None:
        self.over = True
        self.note("abort")

    def log(self, target: str, outcome: str) -> None:
        assert target == "backend.example:80"

    def sent(self) -> None:
        assert not self.over
        self.over = True
        self.note("sent")

    @property
    def frames(self) -> list[bytes]:
        """What it was sent since the last look."""
        return [heard[1] for heard in self.take() if heard[0] == "send"]  # type: ignore[misc]


class Stage(Surroundings):
    """A session whose opener was answered, unless told otherwise."""

    def __init__(self, streams: bool = False, accepted: bool = True, **options: Any) -> None:
        super().__init__(Route("*", (Target("backend.example", 80),)), **options)
        self.opener = Request(streams)
        self.down = SockJsSession(self.front, self.outgoing(), KEY, self.opener, 7)
        self.session = PlayedSession.latest
        self.requests = [self.opener]
        self.down.begin()
        assert self.session.take() == [("begin",)]
        if accepted:
            self.down.accept([], None)
            assert self.opener.frames == [b"o"]

    @property
    def known(self) -> bool:
        """Whether the session is still in the table; its bytes count only then."""
        known = KEY in self.front.sockjs_sessions
        assert known or self.front.queued_bytes == 0
        return known

    def receive(self, streams: bool = False) -> Request:
        self.requests.append(Request(streams))
        self.down.receive(self.requests[-1])
        return self.requests[-1]

    @property
    def waiting(self) -> list[Request]:
        """The requests that receive and have no answer, or only a part of it; there is one."""
        waiting = [request for request in self.requests if not request.over]
        assert len(waiting) <= 1
        return waiting

    def transmit(self, *messages: bytes) -> Request:
        request = Request()
        assert self.down.transmit(request, messages)
        return request

    def say(self, content: bytes, opcode: int = TEXT, fin: bool = True) -> None:
        """The backend sends a message, or a piece of one."""
        self.down.send(Frame(opcode, content, fin))

    def publish_all(self, *messages: WsMessage) -> None:
        items = [Item("a", ws_message=message) for message in messages]
        self.down.publish(Batch("a", items, 0))


@pytest.fixture(autouse=True)
def play() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sockjssession, "Session", PlayedSession)
        yield


@pytest.fixture
def stage() -> Stage:
    return Stage()


# -- receiving -------------------------------------------------------------------------------


def test_a_poll_takes_what_waits_and_leaves_the_rest_to_the_next(stage: Stage) -> None:
    stage.say(b"a")
    stage.say(b"b", BINARY)
    stage.say(b"x", PING)
    assert stage.front.queued_bytes == stage.down.unread == 6
    assert stage.receive().frames == [b'a["a","b"]']
    assert stage.front.queued_bytes == 0
    waiting = stage.receive()
    stage.publish_all(text(b"c"), text(b"d"))
    stage.say(b"e")
    assert waiting.frames == [b'a["c","d"]']
    assert stage.receive().frames == [b'a["e"]']


def test_a_stream_takes_all(stage: Stage) -> None:
    stream = stage.receive(streams=True)
    for content in (b"a", b"b"):
        stage.say(content)
    stage.down.send_message(text(b"c"))
    assert stream.frames == [b'a["a"]', b'a["b"]', b'a["c"]']


def test_only_what_is_data_is_published(stage: Stage) -> None:
    stage.publish_all(
        WsMessage(Action.SEND, WsType.PING, b"x"),
        WsMessage(Action.HINT),
        WsMessage(Action.SEND, WsType.BINARY, b"y"),
    )
    stage.down.send_message(WsMessage(Action.SEND, WsType.PONG, b"x"))
    assert stage.receive().frames == [b'a["y"]']


def test_a_message_in_pieces_waits_for_its_end(stage: Stage) -> None:
    stage.say(b"a", fin=False)
    stage.publish_all(text(b"between"))
    stage.say(b"b", CONT, fin=False)
    assert stage.receive().frames == [b'a["between"]']
    stage.say(b"c", CONT)
    assert stage.receive().frames == [b'a["abc"]']


def test_a_second_receiver_is_turned_away(stage: Stage) -> None:
    first, second = stage.receive(), stage.receive(streams=True)
    assert second.take() == [("send", b'c[2010,"Another connection still open"]', True)]
    stage.down.on_lost(second)
    stage.say(b"a")
    assert first.frames == [b'a["a"]']


# -- timers ----------------------------------------------------------------------------------


def test_a_poll_ends_by_a_heartbeat(stage: Stage) -> None:
    poll = stage.receive()
    stage.wait(24.9)
    assert poll.frames == []
    stage.wait(SOON)
    assert poll.frames == [b"h"]
    assert stage.receive().frames == []


def test_a_stream_has_a_heartbeat_when_it_was_silent(stage: Stage) -> None:
    stream = stage.receive(streams=True)
    stage.wait(20)
    stage.say(b"a")
    stage.wait(24.9)
    assert stream.frames == [b'a["a"]']
    stage.wait(SOON)
    assert stream.frames == [b"h"]
    stage.wait(25 + SOON)
    assert stream.frames == [b"h"]


def test_a_stream_that_is_not_read_has_none(stage: Stage) -> None:
    stream = stage.receive(streams=True)
    stream.blocked = True
    stage.wait(60)
    assert stream.frames == []
    stream.blocked = False
    stage.wait(25)
    assert stream.frames == [b"h"]


def test_a_client_that_stays_away_is_lost(stage: Stage) -> None:
    stage.say(b"a")
    stage.wait(4.9)
    assert stage.known
    assert stage.session.take() == []
    stage.wait(SOON)
    assert not stage.known
    assert stage.session.take() == [("lost",)]


def test_a_client_that_is_still_reading_is_not_away(stage: Stage) -> None:
    poll = stage.receive()
    stage.say(b"a")
    poll.unread = 1
    stage.wait(60)
    assert stage.known
    poll.unread = 0
    stage.wait(5 + SOON)
    assert not stage.known


def test_a_client_that_left_is_forgotten_when_the_backend_does_not_answer() -> None:
    stage = Stage(ws_close_timeout=30.0)
    stage.down.on_lost(stage.receive())
    assert stage.session.take() == [("close", None, b"")]
    stage.wait(29.9)
    assert stage.known
    stage.wait(SOON)
    assert not stage.known
    assert stage.session.take() == [("lost",)]


def test_a_close_frame_is_forgotten(stage: Stage) -> None:
    poll = stage.receive()
    stage.down.close(3000, b"bye")
    stage.wait(4.9)
    assert stage.receive().frames == poll.frames == [b'c[3000,"bye"]']
    stage.wait(SOON)
    assert not stage.known
    assert stage.session.take() == [("close", None, b"")]


# -- bounds ----------------------------------------------------------------------------------


def test_the_backend_waits_for_a_client_that_has_much_to_read() -> None:
    stage = Stage(ws_queue_bytes=10)
    stage.say(b"12345")
    assert stage.session.take() == []
    stage.say(b"67890")
    assert stage.session.take() == [("blocked",)]
    stage.receive()
    assert stage.session.take() == [("ready",)]


def test_the_backend_goes_on_when_the_client_has_left() -> None:
    stage = Stage(streams=True, ws_queue_bytes=10)
    stage.opener.blocked = True
    stage.say(b"1234567890")
    stage.down.on_lost(stage.opener)
    assert stage.session.take() == [("blocked",), ("ready",), ("close", None, b"")]
    assert stage.front.queued_bytes == 0


@pytest.mark.parametrize("bound", ["queue_bytes", "queue_total_bytes"])
def test_too_much_published(bound: str) -> None:
    bounds: dict[str, Any] = {bound: 20}
    stage = Stage(**bounds)
    stage.publish_all(*[text(b"12345678")] * 3)
    assert stage.session.take() == [("overflow", 1)]
    assert stage.receive().frames == [b'a["12345678","12345678"]']


def test_what_goes_out_at_once_is_not_too_much() -> None:
    stage = Stage(streams=True, queue_bytes=20)
    stage.publish_all(text(b"x" * 30), text(b"y" * 30))
    assert stage.opener.frames == [b'a["%b","%b"]' % (b"x" * 30, b"y" * 30)]
    stage.opener.blocked = True
    stage.publish_all(text(b"z" * 30))
    assert stage.session.take() == [("overflow", 1)]


def test_nothing_is_published_once_too_much_has_closed(stage: Stage) -> None:
    stage = Stage(queue_bytes=20)
    stage.session.then["overflow"] = lambda: stage.down.close(1013, b"too slow")
    stage.publish_all(*[text(b"12345678")] * 9)
    assert stage.session.take() == [("overflow", 1)]
    assert stage.receive().frames == [b'a["12345678","12345678"]']
    assert stage.receive().frames == [b'c[1013,"too slow"]']


def test_a_message_in_pieces_has_a_bound() -> None:
    stage = Stage(queue_bytes=10)
    stage.say(b"12345", fin=False)
    stage.say(b"67890", CONT, fin=False)
    assert stage.session.take() == []
    stage.say(b"x", CONT, fin=False)
    stage.say(b"y", CONT, fin=False)
    stage.say(b"z", CONT)
    stage.say(b"next")
    assert stage.session.take() == [("overflow", 1)]
    assert stage.receive().frames == [b'a["next"]']


# -- sending ---------------------------------------------------------------------------------


def test_messages_are_handed_on_in_order(stage: Stage) -> None:
    request = stage.transmit(b"a", b"b")
    assert stage.session.take() == [
        ("frame", TEXT, b"a", True),
        ("frame", TEXT, b"b", True),
        ("read",),
    ]
    assert request.take() == [SENT]


def test_no_messages_are_sent_at_once(stage: Stage) -> None:
    assert stage.transmit().take() == [SENT]
    assert stage.session.take() == []


def test_messages_wait_for_a_backend_that_takes_no_more(stage: Stage) -> None:
    stage.session.then["frame"] = stage.down.pause
    request = stage.transmit(b"a", b"b")
    assert stage.session.take() == [("frame", TEXT, b"a", True), ("read",)]
    assert not stage.down.transmit(Request(), [b"c"])
    assert request.take() == []
    del stage.session.then["frame"]
    stage.down.resume()
    assert stage.session.take() == [("frame", TEXT, b"b", True), ("read",)]
    assert request.take() == [SENT]


def test_messages_go_on_when_their_request_is_lost(stage: Stage) -> None:
    stage.down.pause()
    request = stage.transmit(b"a")
    stage.down.on_lost(request)
    stage.down.resume()
    assert stage.session.take() == [("frame", TEXT, b"a", True), ("read",)]
    assert request.take() == []


def test_messages_wait_until_the_backend_has_accepted() -> None:
    stage = Stage(accepted=False)
    request = stage.transmit(b"a")
    assert (request.take(), stage.session.take()) == ([], [])
    stage.down.accept([], None)
    assert stage.session.take() == [("frame", TEXT, b"a", True), ("read",)]
    assert request.take() == [SENT]


def test_messages_end_with_a_session_that_was_refused() -> None:
    stage = Stage(accepted=False)
    request = stage.transmit(b"a")
    stage.down.refuse(403, b"Forbidden", [], b"no")
    assert stage.opener.take() == [("refuse", 403, b"no")]
    assert request.take() == [GONE]
    assert not stage.known


@pytest.mark.parametrize("how", ["close", "leave"])
def test_messages_for_nobody(stage: Stage, how: str) -> None:
    stage.down.pause()
    request = stage.transmit(b"a", b"b")
    if how == "close":
        stage.down.close(3000, b"")
        assert request.take() == [SENT]
    else:
        stage.down.on_lost(stage.receive())
        stage.down.resume()
        assert request.take() == [SENT]
    assert ("frame", TEXT, b"a", True) not in stage.session.take()


# -- ending ----------------------------------------------------------------------------------


def test_a_close_comes_behind_what_waits(stage: Stage) -> None:
    stage.say(b"a")
    stage.down.close(3000, b"bye")
    stage.say(b"too late")
    assert stage.down.closed_by is None
    assert stage.receive().frames == [b'a["a"]']
    assert stage.receive().frames == [b'c[3000,"bye"]']
    assert stage.down.closed_by == b'c[3000,"bye"]'
    stage.wait(0)
    assert stage.session.take() == [("close", None, b"")]


@pytest.mark.parametrize(
    ("code", "reason", "frame"),
    [
        (None, b"", b'c[0,"Connection closed"]'),
        (1000, b"", b'c[1000,"Connection closed"]'),
        (0, b"x", b'c[0,"x"]'),
    ],
)
def test_what_a_close_lacks(stage: Stage, code: int | None, reason: bytes, frame: bytes) -> None:
    stage.down.close(code, reason)
    assert stage.receive().frames == [frame]


def test_a_stream_ends_with_a_close() -> None:
    stage = Stage(streams=True)
    stage.opener.blocked = True
    stage.say(b"a")
    stage.down.close(3000, b"bye")
    assert stage.opener.take() == []
    stage.opener.blocked = False
    stage.down.on_receiver_ready()
    assert stage.opener.take() == [("send", b'a["a"]', False), ("send", b'c[3000,"bye"]', True)]


def test_a_stream_that_is_not_read_is_cut_off_after_a_close() -> None:
    stage = Stage(streams=True, ws_close_timeout=30.0)
    stage.opener.blocked = True
    stage.down.close(3000, b"bye")
    stage.wait(29.9)
    assert stage.opener.take() == []
    stage.wait(SOON)
    assert stage.opener.take() == [("abort",)]
    assert stage.session.take() == [("lost",)]
    assert not stage.known


def test_a_stream_that_is_lost_before_it_has_the_close() -> None:
    stage = Stage(streams=True)
    stage.opener.blocked = True
    stage.down.close(3000, b"bye")
    stage.down.on_lost(stage.opener)
    assert stage.receive().frames == [b'c[3000,"bye"]']


def test_a_client_leaves_and_the_backend_answers(stage: Stage) -> None:
    stage.say(b"a")
    poll = stage.receive()
    assert poll.frames == [b'a["a"]']
    stage.down.on_lost(stage.receive())
    assert stage.receive().take() == [LEFT]
    stage.say(b"too late")
    stage.publish_all(text(b"too late"))
    stage.down.close(3001, b"bye")
    stage.down.finish()
    assert stage.receive().frames == [b'c[3001,"bye"]']
    assert stage.session.take() == [("close", None, b"")]


def test_a_client_leaves_and_the_backend_goes(stage: Stage) -> None:
    stage.down.on_lost(stage.receive())
    stage.down.drop()
    assert not stage.known


def test_a_client_leaves_before_it_is_answered() -> None:
    stage = Stage(accepted=False)
    stage.down.on_lost(stage.opener)
    assert stage.session.take() == [("lost",)]
    assert not stage.known


def test_a_client_that_leaves_while_the_proxy_stops_does_not_close(stage: Stage) -> None:
    poll = stage.receive()
    stage.front.stopping = True
    stage.down.on_lost(poll)
    assert stage.session.take() == [("lost",)]


@pytest.mark.parametrize("streams", [False, True])
def test_a_backend_that_goes(stage: Stage, streams: bool) -> None:
    request = stage.receive(streams)
    stage.down.drop()
    assert request.take() == [GONE]
    assert not stage.known


def test_a_backend_that_goes_leaves_what_a_stream_has_not_read() -> None:
    stage = Stage(streams=True)
    stage.opener.blocked = True
    stage.say(b"a")
    stage.down.drop()
    assert stage.opener.take() == [("send", b'a["a"]', False), GONE]
    assert not stage.known


def test_a_backend_that_goes_leaves_what_a_poll_cannot_take_yet(stage: Stage) -> None:
    poll = Request()
    poll.blocked = True
    stage.down.receive(poll)
    stage.say(b"a")
    stage.down.drop()
    assert poll.frames == [b'a["a"]']
    assert not stage.known


def test_a_backend_that_goes_leaves_what_waits(stage: Stage) -> None:
    stage.down.pause()
    sender = stage.transmit(b"x")
    stage.say(b"a")
    stage.down.drop()
    assert sender.take() == [SENT]
    assert stage.known
    assert stage.receive().frames == [b'a["a"]']
    assert not stage.known


def test_an_end_is_an_end(stage: Stage) -> None:
    stage.down.drop()
    assert not stage.known
    other = SockJsSession(stage.front, stage.outgoing(), KEY, Request(), 8)
    other.begin()
    stage.down.drop()
    assert stage.known


def test_a_backend_that_goes_leaves_it_for_five_seconds(stage: Stage) -> None:
    stage.say(b"a")
    stage.down.drop()
    stage.wait(5 + SOON)
    assert not stage.known


def test_a_client_that_asks_for_too_much(stage: Stage) -> None:
    poll = stage.receive()
    stage.down.fail(WebSocketError("message too large", 1009))
    assert poll.frames == [b'c[1009,"message too large"]']
    assert stage.session.take() == [("lost",)]
    stage.wait(5 + SOON)
    assert not stage.known


# -- whatever comes --------------------------------------------------------------------------

STEPS: dict[str, Callable[[Stage], object]] = {
    "poll": lambda stage: stage.receive(),
    "stream": lambda stage: stage.receive(streams=True),
    "blocked stream": lambda stage: begin_blocked(stage),
    "ready": lambda stage: catch_up(stage),
    "lose": lambda stage: lose(stage),
    "transmit": lambda stage: stage.down.transmit(Request(), [b"x", b"y"]),
    "say": lambda stage: stage.say(b"message"),
    "publish": lambda stage: stage.publish_all(text(b"a"), text(b"long message")),
    "pause": lambda stage: stage.down.pause(),
    "resume": lambda stage: stage.down.resume(),
    "second": lambda stage: stage.wait(1),
    "minute": lambda stage: stage.wait(60),
}
# What the session says when it may: closing, failing, and going.
ENDS: dict[str, Callable[[Stage], object]] = {
    "close": lambda stage: stage.down.close(3000, b"bye"),
    "fail": lambda stage: stage.down.fail(WebSocketError("x", 1009)),
    "drop": lambda stage: stage.down.drop(),
}


def begin_blocked(stage: Stage) -> None:
    request = Request(streams=True)
    request.blocked = True
    stage.requests.append(request)
    stage.down.receive(request)


def catch_up(stage: Stage) -> None:
    for request in stage.waiting:
        request.blocked = False
        stage.down.on_receiver_ready()


def lose(stage: Stage) -> None:
    for request in stage.waiting:
        request.over = True
        stage.down.on_lost(request)


@given(
    st.lists(st.sampled_from(sorted(STEPS)), max_size=30),
    st.sampled_from(sorted(ENDS)),
    st.lists(st.sampled_from(sorted(STEPS)), max_size=10),
)
def test_every_request_is_answered_once_and_every_session_ends(
    before: list[str], end: str, after: list[str]
) -> None:
    stage = Stage(queue_bytes=40, ws_queue_bytes=20)
    for step in before:
        if stage.known:
            STEPS[step](stage)
    if stage.known:
        ENDS[end](stage)
    for step in after:
        if stage.known:
            STEPS[step](stage)
    for _ in range(3):  # a client that has left, or reads nothing, holds on to nothing
        if stage.known:
            STEPS["lose"](stage)
        stage.wait(60)
    assert not stage.known
    assert stage.front.queued_bytes == 0
    assert stage.loop.timers == 0
