"""The `test` target for WebSockets, as a session's backend end."""

from typing import cast

import pytest

from gripproxy.backend.headers import HeaderRules
from gripproxy.clients.ends import Upstream
from gripproxy.clients.session import Session
from gripproxy.clients.testsocket import TestSocket
from gripproxy.routes import Route, Target
from gripproxy.websocket.frames import BINARY, CONT, PING, PONG, TEXT, Frame
from tests.unit.clients.websockets import FakeSession, Heard, Surroundings

TARGET = Target(test=True)


class Stage(Surroundings):
    def __init__(self, target: bytes = b"/ws", path_beg: bytes = b"", grip: bool = True) -> None:
        super().__init__(Route("*", (TARGET,), path_beg=path_beg), HeaderRules(grip=grip))
        self.session = FakeSession()
        session = cast(Session, self.session)
        self.up: Upstream = TestSocket(session, self.outgoing(target=target))

    def open(self) -> "Stage":
        self.up.begin()
        self.session.take()
        return self


@pytest.mark.parametrize(
    ("target", "path_beg", "channels"),
    [
        (b"/ws", b"", [b"test"]),
        (b"/ws?channel=a&channel=b", b"/", [b"a", b"b"]),
        (b"/t/ws?x=1", b"/t", [b"test"]),
        (b"/t/ws", b"/t/", [b"test"]),
    ],
)
def test_it_accepts_and_listens(target: bytes, path_beg: bytes, channels: list[bytes]) -> None:
    stage = Stage(target, path_beg)
    stage.up.begin()
    subscriptions: list[Heard] = [
        ("frame", TEXT, b'c:{"type":"subscribe","channel":"%b"}' % channel, True)
        for channel in channels
    ]
    accepted: Heard = ("accepted", [(b"Sec-WebSocket-Extensions", b"grip")])
    assert stage.session.heard == [accepted, *subscriptions]


def test_without_grip_it_only_echoes() -> None:
    stage = Stage(grip=False)
    stage.up.begin()
    assert stage.session.take() == [("accepted", [])]
    stage.up.send(Frame(TEXT, b"a"))
    assert stage.session.heard == [("frame", TEXT, b"a", True)]


@pytest.mark.parametrize("target", [b"/", b"/stream", b"/ws/x"])
def test_there_is_nothing_else(target: bytes) -> None:
    stage = Stage(target)
    stage.up.begin()
    fields = [(b"Content-Type", b"text/plain")]
    body = b"no such test resource\n"
    assert stage.session.heard == [("refused", 404, b"Not Found", fields, body)]


@pytest.mark.parametrize(
    ("sent", "echoed"),
    [
        ([Frame(TEXT, b"a")], [Frame(TEXT, b"m:a")]),
        ([Frame(BINARY, b"")], [Frame(BINARY, b"m:")]),
        (
            [Frame(TEXT, b"a", False), Frame(CONT, b"b")],
            [Frame(TEXT, b"m:a", False), Frame(CONT, b"b")],
        ),
        ([Frame(PING, b"p")], [Frame(PONG, b"p")]),
        ([Frame(PONG, b"p")], []),
    ],
)
def test_it_echoes(sent: list[Frame], echoed: list[Frame]) -> None:
    stage = Stage().open()
    for each in sent:
        stage.up.send(each)
    assert stage.session.reads == 0
    stage.up.flush()
    assert stage.session.reads == 1
    assert stage.session.heard == [("frame", *each) for each in echoed]


def test_it_answers_a_close_with_the_same() -> None:
    stage = Stage().open()
    stage.up.close(4000, b"bye")
    assert stage.session.heard == [("close", 4000, b"bye")]


def test_an_echo_waits_for_its_reader() -> None:
    stage = Stage().open()
    stage.up.pause()
    stage.up.resume()
    assert stage.session.heard == [("blocked",), ("ready",)]


def test_nothing_else_is_of_interest_to_it() -> None:
    stage = Stage().open()
    for call in (
        stage.up.refresh,
        stage.up.detach,
        stage.up.lost,
    ):
        call()
    assert stage.session.heard == []
