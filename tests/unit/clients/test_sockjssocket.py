"""SockJS over a WebSocket: which requests are for it, and what stands between the two ends."""

from typing import Any, cast
from weakref import ref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gripproxy.clients import sockjssocket
from gripproxy.clients.session import Session
from gripproxy.clients.sockjssocket import (
    Assembler,
    SockJsSocket,
    as_websocket,
    open_session,
    quoted,
    sockjs_path,
)
from gripproxy.clients.websocket import ClientSocket
from gripproxy.errors import HttpError, WebSocketError
from gripproxy.grip.item import Action, Item, WsMessage, WsType
from gripproxy.hub.fanout import Batch
from gripproxy.routes import Route, Target
from gripproxy.websocket.frames import BINARY, CONT, PING, TEXT, Frame
from tests.unit.clients.websockets import FakeDownstream, Heard, Surroundings, text

TARGET = Target("backend.example", 80)


# -- which requests, and how they are asked ----------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/sock/info?a=/b", b"/info"),
        (b"/sock", b""),
        (b"/sockless", b"less"),
        (b"/x/../sock/%2e/info", b"/info"),
        (b"/soc", None),
        (b"/x/sock", None),
        (b"/x?/sock", None),
    ],
)
def test_what_begins_with_the_prefix(target: bytes, path: bytes | None) -> None:
    stage = Surroundings(Route("*", (TARGET,), sockjs=b"/sock"))
    assert sockjs_path(stage.outgoing(target=target)) == path


def test_a_route_without_a_prefix_is_not_for_it() -> None:
    assert sockjs_path(Surroundings(Route("*", (TARGET,))).outgoing()) is None


@pytest.mark.parametrize(
    ("as_path", "suffix", "target"),
    [
        (b"/ws", b"/websocket", b"/ws?a=b"),
        (None, b"/websocket", b"/sock/websocket?a=b"),
        (None, b"", b"/sock?a=b"),
    ],
)
def test_the_handshake(as_path: bytes | None, suffix: bytes, target: bytes) -> None:
    stage = Surroundings(Route("*", (TARGET,), sockjs=b"/sock", sockjs_as_path=as_path))
    sent = [(b"Origin", b"x"), (b"Content-Length", b"1"), (b"content-type", b"y"), (b"Expect", b"")]
    asked = stage.outgoing(sent, target=b"/sock/0/a/xhr?a=b")._replace(
        method=b"POST", scheme=b"https"
    )
    handshake = as_websocket(asked, suffix)
    assert (handshake.method, handshake.target) == (b"GET", target)
    assert (handshake.scheme, handshake.headers) == (b"wss", [(b"Origin", b"x")])
    assert handshake.sender.connection is not asked.sender.connection
    assert handshake.sender.connection.peer == asked.sender.connection.peer


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (b"/other", Session),
        (b"/sock/websocket", Session),
        (b"/sock/000/abc/websocket", SockJsSocket),
        (b"/sock/000/abc", None),
        (b"/sock", None),
    ],
)
def test_sockets(target: bytes, kind: type | None) -> None:
    stage = Surroundings(Route("*", (TARGET,), sockjs=b"/sock"))
    outgoing, socket = stage.outgoing(target=target), cast(ClientSocket, FakeDownstream())
    if kind is None:
        with pytest.raises(HttpError) as caught:
            open_session(stage.front, outgoing, socket)
        assert (caught.value.status, str(caught.value)) == (404, "Not Found")
    else:
        assert type(open_session(stage.front, outgoing, socket)) is kind


# -- messages in pieces ------------------------------------------------------------------------


class Assembly:
    """An assembler, and how often it had too much."""

    def __init__(self, limit: int) -> None:
        self.too_large = 0
        self.assembler = Assembler(limit, self.count)

    def count(self) -> None:
        self.too_large += 1

    def feed(self, *frames: Frame) -> list[bytes]:
        got = [self.assembler.feed(frame) for frame in frames]
        return [content for content in got if content is not None]


def test_whole_messages() -> None:
    it = Assembly(3)
    assert it.feed(Frame(TEXT, b"abc"), Frame(PING, b"long enough"), Frame(BINARY, b"")) == [
        b"abc",
        b"",
    ]
    assert it.too_large == 0


def test_too_large_at_once() -> None:
    it = Assembly(3)
    assert it.feed(Frame(TEXT, b"abcd"), Frame(TEXT, b"ok")) == [b"ok"]
    assert it.too_large == 1


@given(st.lists(st.lists(st.binary(max_size=4), min_size=1, max_size=5), max_size=5))
def test_the_borders_of_pieces_do_not_matter(messages: list[list[bytes]]) -> None:
    it = Assembly(8)
    frames = [
        frame
        for pieces in messages
        for n, piece in enumerate(pieces)
        for frame in (
            Frame(CONT if n else TEXT, piece, n == len(pieces) - 1),
            Frame(PING, b"between"),
        )
    ]
    whole = [b"".join(pieces) for pieces in messages]
    assert it.feed(*frames) == [content for content in whole if len(content) <= 8]
    assert it.too_large == sum(len(content) > 8 for content in whole)


# -- between the ends --------------------------------------------------------------------------


class PlayedSession(FakeDownstream):
    """Notes what the client's end tells it."""

    latest: "PlayedSession"

    def __init__(self, front: Any, outgoing: Any, down: SockJsSocket) -> None:
        super().__init__()
        self.target = TARGET
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


class Stage(Surroundings):
    """What stands between, and the ends that the test plays."""

    def __init__(self, **options: Any) -> None:
        super().__init__(Route("*", (TARGET,), sockjs=b"/sock"), **options)
        self.client = FakeDownstream()
        socket = cast(ClientSocket, self.client)
        self.between = SockJsSocket(self.front, self.outgoing(), socket)
        self.session = PlayedSession.latest
        self.between.begin()
        assert self.session.take() == [("begin",)]
        assert self.between.target is TARGET

    def accept(self) -> "Stage":
        self.between.accept([(b"A", b"1")], None)
        assert self.client.take() == [
            ("accept", [(b"A", b"1")], None),
            ("send", TEXT, b"o", True),
        ]
        return self


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test plays the session."""
    monkeypatch.setattr(sockjssocket, "Session", PlayedSession)


@pytest.fixture
def stage(played: None) -> Stage:
    return Stage().accept()


def test_a_refusal(played: None) -> None:
    stage = Stage()
    stage.between.refuse(403, b"Forbidden", [], b"no")
    assert stage.client.take() == [("refuse", 403, b"Forbidden", [], b"no")]


def test_messages_of_the_client(stage: Stage) -> None:
    for payload in (b'["a","b"]', b"[]", b""):
        stage.between.on_client_frame(Frame(TEXT, payload))
    stage.between.on_client_frame(Frame(PING, b"x"))
    stage.between.on_client_frame(Frame(BINARY, b'["', False))
    stage.between.on_client_frame(Frame(CONT, b'c"]'))
    stage.between.on_client_read()
    assert stage.session.take() == [
        *[("frame", TEXT, content, True) for content in (b"a", b"b", b"c")],
        ("read",),
    ]


@pytest.mark.parametrize("payload", [b'"a"', b"[1]", b'["' + b"x" * 200 + b'"]'])
def test_what_is_not_sockjs(played: None, payload: bytes) -> None:
    stage = Stage(ws_queue_bytes=100).accept()
    stage.between.on_client_frame(Frame(TEXT, payload))
    assert stage.session.take() == [("lost",)]
    assert stage.client.take() == [("drop",)]
    stage.wait(60)
    assert stage.client.take() == []


def test_messages_of_the_backend(stage: Stage) -> None:
    stage.between.send(Frame(TEXT, b"a", False))
    stage.between.send(Frame(PING, b"x"))
    stage.between.send(Frame(CONT, b'"'))
    stage.between.send(Frame(BINARY, b""))
    assert stage.client.take() == [
        ("send", TEXT, rb'a["a\""]', True),
        ("send", TEXT, b'a[""]', True),
    ]


def test_a_message_of_the_backend_that_is_too_large(played: None) -> None:
    stage = Stage(queue_bytes=10).accept()
    stage.between.send(Frame(TEXT, b"x" * 11))
    assert stage.session.take() == [("overflow", 1)]


def test_published_messages(stage: Stage) -> None:
    published = text(b"a"), WsMessage(Action.SEND, WsType.PING), WsMessage(Action.HINT)
    items = [Item("a", ws_message=message) for message in published]
    stage.between.publish(Batch("a", items, 0))
    for message in (*published, WsMessage(Action.SEND, WsType.BINARY, b"b")):
        stage.between.send_message(message)
    assert stage.client.take() == [
        ("publish", b'a["a"]'),
        ("message", WsType.TEXT, b'a["a"]'),
        ("message", WsType.TEXT, b'a["b"]'),
    ]


def test_a_batch_is_encoded_once_for_all() -> None:
    batch = Batch("a", [Item("a", ws_message=text(b"a")), Item("a")], 1)
    found = quoted(batch)
    assert quoted(batch) is found
    assert (found.strings, found.framed.messages) == ([b'"a"'], [text(b'a["a"]')])
    assert found.framed.same_for_all
    gone = ref(found.framed)
    del batch, found
    assert gone() is None


def test_heartbeats(stage: Stage) -> None:
    beat: Heard = ("send", TEXT, b"h", True)
    stage.wait(24.9)
    assert stage.client.take() == []
    stage.wait(0.2)
    assert stage.client.take() == [beat]
    stage.client.unread = 1
    stage.wait(25.2)
    assert stage.client.take() == []
    stage.client.unread = 0
    stage.wait(25.2)
    assert stage.client.take() == [beat]


@pytest.mark.parametrize("how", ["close", "finish", "drop", "lost"])
def test_no_heartbeat_comes_after_the_end(stage: Stage, how: str) -> None:
    match how:
        case "close":
            stage.between.close(3000, b"bye")
        case "finish":
            stage.between.finish()
        case "drop":
            stage.between.drop()
        case "lost":
            stage.between.on_client_lost()
    told: dict[str, Heard] = {"close": ("close", 3000, b"bye"), "finish": ("finish",)}
    assert stage.client.take() == ([] if how == "lost" else [told.get(how, ("drop",))])
    assert stage.session.take() == ([("lost",)] if how == "lost" else [])
    stage.wait(60)
    assert stage.client.take() == []


def test_all_else_passes(stage: Stage) -> None:
    between = stage.between
    between.on_client_close(3000, b"x")
    between.on_client_blocked()
    between.on_client_ready()
    between.on_overflow(2)
    told = [("close", 3000, b"x"), ("blocked",), ("ready",), ("overflow", 2)]
    assert stage.session.take() == told
    between.pause()
    between.resume()
    between.fail(WebSocketError("x", 1009))
    assert stage.client.take() == [("pause",), ("resume",), ("fail", 1009)]
    stage.client.unread = 5
    assert (between.number, between.unread) == (stage.client.number, 5)
