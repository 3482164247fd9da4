"""A WebSocket session between its two ends: control messages, publishing, timers and closing."""

import base64
import json
from typing import Any

import pytest

from gripproxy.backend.request import Outgoing
from gripproxy.clients.ends import Downstream, Upstream
from gripproxy.clients.front import Front
from gripproxy.clients.session import Session
from gripproxy.errors import BlockedError, ConnectError, ResponseError
from gripproxy.grip.item import Action, WsMessage, WsType
from gripproxy.http1.head import Headers
from gripproxy.hub.registry import Mode
from gripproxy.routes import Route, Target
from gripproxy.websocket.frames import BINARY, CONT, PING, PONG, TEXT, Frame
from tests.unit.clients.websockets import (
    FakeDownstream,
    FakeUpstream,
    Heard,
    Surroundings,
    text,
)
from tests.unit.transport import Transport

TARGET = Target("backend.example", 8000)
GRIP = (b"Sec-WebSocket-Extensions", b"grip")
FAILED = b"Error while proxying to origin.\n"
CLOSE = WsMessage(Action.CLOSE, code=4000, reason=b"bye")
REFRESH, HINT = WsMessage(Action.REFRESH), WsMessage(Action.HINT)
CLOSED: Heard = ("close", 4000, b"bye")
LOST: Heard = ("lost",)
FINISH: Heard = ("finish",)
DROP: Heard = ("drop",)
DETACH: Heard = ("detach",)
PAUSE: Heard = ("pause",)
RESUME: Heard = ("resume",)


class Played(Session):
    """A session whose backend's ends are the test's."""

    __slots__ = ("ups",)

    def __init__(self, front: Front, outgoing: Outgoing, down: Downstream) -> None:
        super().__init__(front, outgoing, down)
        self.ups: list[FakeUpstream] = []

    def _upstream(self, target: Target) -> Upstream:
        self.ups.append(FakeUpstream(target))
        return self.ups[-1]


class Stage(Surroundings):
    """A session, with both of its ends played by the test."""

    def __init__(
        self,
        *targets: Target,
        route: Route | None = None,
        trusted: bool = False,
        url: bytes = b"/path",
        **options: Any,
    ) -> None:
        super().__init__(route or Route("*", targets or (TARGET,)), **options)
        self.down = FakeDownstream()
        outgoing = self.outgoing(trusted=trusted, target=url)
        self.session = Played(self.front, outgoing, self.down)

    @property
    def up(self) -> FakeUpstream:
        """The backend's end that was made last."""
        return self.session.ups[-1]

    def accept(self, *fields: tuple[bytes, bytes]) -> "Stage":
        """The backend accepts, and what follows from that is taken note of."""
        self.session.begin()
        self.session.on_backend_accepted(list(fields))
        assert self.up.take() == [("begin",)]
        assert [heard[0] for heard in self.down.take()] == ["accept"]
        return self

    def open(self) -> "Stage":
        return self.accept(GRIP)

    def say(self, content: bytes, opcode: int = TEXT) -> None:
        """The backend sends a message, and nothing more for now."""
        self.session.on_backend_frame(Frame(opcode, content))
        self.session.on_backend_read()

    def control(self, **fields: Any) -> None:
        """The backend sends a control message; an underscore in a name is a hyphen."""
        document = {name.replace("_", "-"): value for name, value in fields.items()}
        self.say(b"c:" + json.dumps(document).encode())

    def subscribe(self, channel: str = "a", **fields: Any) -> None:
        self.control(type="subscribe", channel=channel, **fields)

    @property
    def contents(self) -> list[object]:
        """What the client was sent, other than what was relayed."""
        found: list[object] = []
        for kind, *words in self.down.heard:
            if kind == "message":
                found.append(words[1])
            elif kind == "publish":
                found += words
        return found

    @property
    def listens_to(self) -> list[str]:
        return self.channels(self.session)

    def comes_in(self, seconds: float, *heard: Heard) -> bool:
        """Wait, and tell whether the client was sent nothing before, and that then."""
        self.wait(seconds - 0.1)
        early = self.down.take()
        for _ in range(5):
            if not self.down.heard:
                self.wait(0.05)
        return not early and self.down.take() == list(heard)

    @property
    def is_silent(self) -> bool:
        """Whether the client is sent nothing more, however long it waits."""
        self.wait(1000)
        return not self.down.heard


@pytest.fixture
def stage() -> Stage:
    return Stage().open()


def relayed(content: bytes, opcode: int = TEXT, fin: bool = True) -> Heard:
    return ("send", opcode, content, fin)


def sent(content: bytes, kind: WsType = WsType.TEXT) -> Heard:
    """A message to the client that is not relayed."""
    return ("message", kind, content)


def published(*contents: bytes) -> Heard:
    """Messages that are the same for all."""
    return ("publish", *contents)


# -- asking the targets --------------------------------------------------------------------------

OTHER = Target("other.example", 8001)


def test_the_first_target_is_asked() -> None:
    stage = Stage(TARGET, OTHER)
    stage.session.begin()
    assert [up.target for up in stage.session.ups] == [TARGET]
    assert stage.up.heard == [("begin",)]
    assert stage.session.target is TARGET


def test_the_next_target_is_asked_where_the_first_cannot_be_reached() -> None:
    stage = Stage(TARGET, OTHER)
    stage.session.begin()
    stage.session.on_backend_unreachable(ConnectError("refused"))
    assert [up.target for up in stage.session.ups] == [TARGET, OTHER]
    assert stage.session.target is OTHER
    assert stage.down.heard == []
    stage.session.on_backend_accepted([])
    assert stage.down.heard == [("accept", [], None)]


@pytest.mark.parametrize("where", ["nowhere", "global", "route"])
def test_where_no_target_can_be_reached_the_client_is_refused(where: str) -> None:
    route = Route("*", (TARGET, OTHER), debug=where == "route")
    stage = Stage(route=route, debug=where == "global")
    stage.session.begin()
    stage.session.on_backend_unreachable(ConnectError("refused"))
    stage.session.on_backend_unreachable(ConnectError("no answer"))
    tried = b"Tried: backend.example:8000, other.example:8001\n"
    body = FAILED if where == "nowhere" else b"Unable to connect to any targets. " + tried
    assert stage.down.heard == [("refuse", 502, b"Bad Gateway", [], body)]
    assert stage.session.target is OTHER
    assert stage.warnings == ["ws://client.example/path: no answer"]


@pytest.mark.parametrize(("debug", "body"), [(False, FAILED), (True, b"private\n")])
def test_a_target_that_may_not_be_reached_is_the_last(debug: bool, body: bytes) -> None:
    stage = Stage(TARGET, OTHER, debug=debug)
    stage.session.begin()
    stage.session.on_backend_unreachable(BlockedError("private"))
    assert stage.down.heard == [("refuse", 502, b"Bad Gateway", [], body)]
    assert stage.warnings == ["ws://client.example/path: private"]


@pytest.mark.parametrize("debug", [False, True])
def test_a_target_that_fails_is_the_last(debug: bool) -> None:
    stage = Stage(TARGET, OTHER, debug=debug)
    stage.session.begin()
    stage.session.on_backend_failed(ResponseError("no OPEN"))
    assert stage.down.heard == [("refuse", 502, b"Bad Gateway", [], FAILED)]
    assert stage.warnings == ["ws://client.example/path: no OPEN"]


def test_a_refusal_reaches_the_client_without_what_is_of_the_hop() -> None:
    stage = Stage()
    stage.session.begin()
    fields = [
        (b"Content-Type", b"text/html"),
        (b"Set-Cookie", b"a"),
        (b"Set-Cookie", b"b"),
        *[(name, b"x") for name in OF_THE_HOP],
    ]
    stage.session.on_backend_refused(403, b"No Way", fields, b"body")
    assert stage.down.heard == [("refuse", 403, b"No Way", fields[:3], b"body")]
    stage.session.on_client_lost()
    assert stage.up.heard == [("begin",)]


OF_THE_HOP = [
    b"Connection",
    b"KEEP-ALIVE",
    b"Transfer-Encoding",
    b"Upgrade",
    b"Content-Length",
    b"Sec-WebSocket-Accept",
    b"Sec-WebSocket-Extensions",
]


def test_so_do_the_fields_of_an_acceptance() -> None:
    stage = Stage()
    stage.session.begin()
    fields = [(b"Sec-WebSocket-Protocol", b"p"), (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b")]
    own = [(name, b"x") for name in OF_THE_HOP]
    stage.session.on_backend_accepted([*fields, *own])
    assert stage.down.heard == [("accept", fields, None)]


def test_a_client_that_leaves_early_is_told_of() -> None:
    stage = Stage()
    stage.session.begin()
    stage.session.on_client_lost()
    assert stage.up.heard == [("begin",), LOST]
    assert stage.down.heard == []


def test_what_is_published_meanwhile_is_not_for_the_client() -> None:
    stage = Stage(Target("a", 1, subs=("a",)))
    stage.session.begin()
    assert stage.listens_to == []


# -- grip mode -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extension", "message"),
    [
        (b"grip", b"m:hello"),
        (b"x, grip", b"m:hello"),
        (b"grip; message-prefix=pp", b"pphello"),
        (b'grip; message-prefix="pp"', b"pphello"),
        (b'grip; message-prefix=""', b"hello"),
    ],
)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_in_grip_mode_messages_lose_their_prefix(
    extension: bytes, message: bytes, opcode: int
) -> None:
    stage = Stage().accept((b"Sec-WebSocket-Extensions", extension))
    stage.say(message, opcode)
    assert stage.down.heard == [relayed(b"hello", opcode)]


def test_in_grip_mode_other_messages_go_nowhere(stage: Stage) -> None:
    for message in (b"hello", b"", b"M:hello", b"n:hello"):
        stage.say(message)
    stage.say(b'c:{"type":"detach"}', BINARY)
    assert (stage.down.heard, stage.up.heard) == ([], [])


def test_in_grip_mode_pings_and_pongs_have_no_prefix(stage: Stage) -> None:
    stage.say(b"p", PING)
    stage.say(b"m:", PONG)
    assert stage.down.heard == [relayed(b"p", PING), relayed(b"m:", PONG)]


def test_in_grip_mode_a_fragmented_message_is_relayed_as_it_comes(stage: Stage) -> None:
    for frame in (Frame(TEXT, b"m:a", False), Frame(PING, b"p"), Frame(CONT, b"m:b")):
        stage.session.on_backend_frame(frame)
    assert stage.down.heard == [
        relayed(b"a", TEXT, False),
        relayed(b"p", PING),
        relayed(b"m:b", CONT),
    ]


def test_a_control_message_may_be_fragmented(stage: Stage) -> None:
    stage.session.on_backend_frame(Frame(TEXT, b'c:{"type":"subscribe"', False))
    stage.session.on_backend_frame(Frame(CONT, b',"channel":"a"}'))
    assert stage.listens_to == ["a"]


NO_GRIP: list[tuple[str, list[tuple[bytes, bytes]], dict[str, Any]]] = [
    ("no extension", [], {}),
    ("another", [(b"Sec-WebSocket-Extensions", b"Grip")], {}),
    ("unreadable", [(b"Sec-WebSocket-Extensions", b"grip; message-prefix=")], {}),
    ("no_grip", [GRIP], {"route": Route("*", (TARGET,), no_grip=True)}),
    ("trusted", [GRIP], {"trusted": True}),
]


@pytest.mark.parametrize(
    ("fields", "options"), [case[1:] for case in NO_GRIP], ids=[case[0] for case in NO_GRIP]
)
def test_without_grip_mode_everything_is_relayed(
    fields: list[tuple[bytes, bytes]], options: dict[str, Any]
) -> None:
    stage = Stage(**options).accept(*fields)
    stage.say(b"m:a")
    stage.subscribe()
    assert stage.down.heard == [
        relayed(b"m:a"),
        relayed(b'c:{"type": "subscribe", "channel": "a"}'),
    ]
    assert stage.listens_to == []


@pytest.mark.parametrize(
    ("trusted", "fields", "grip"),
    [
        (
            True,
            [(b"Sec-WebSocket-Extensions", b"x, grip; message-prefix=p")],
            b"grip; message-prefix=p",
        ),
        (True, [], None),
        (False, [GRIP], None),
    ],
)
def test_a_trusted_proxy_is_told_of_the_backend_s_extension(
    trusted: bool, fields: Headers, grip: bytes | None
) -> None:
    stage = Stage(trusted=trusted)
    stage.session.begin()
    stage.session.on_backend_accepted(fields)
    assert stage.down.heard == [("accept", [], grip)]


def test_what_the_client_sends_is_never_changed(stage: Stage) -> None:
    for frame in (
        Frame(TEXT, b'c:{"type":"detach"}'),
        Frame(BINARY, b"m:", False),
        Frame(PING, b"p"),
    ):
        stage.session.on_client_frame(frame)
    stage.session.on_client_read()
    assert stage.up.heard == [
        relayed(b'c:{"type":"detach"}'),
        relayed(b"m:", BINARY, False),
        relayed(b"p", PING),
        ("flush",),
    ]


# -- subscriptions -------------------------------------------------------------------------------


def test_a_backend_subscribes_its_client(stage: Stage) -> None:
    stage.subscribe("a")
    stage.subscribe("b")
    stage.publish(text(b"1"))
    stage.publish(text(b"2"), channel="b")
    stage.publish(text(b"3"), channel="c")
    assert stage.down.heard == [published(b"1"), published(b"2")]


def test_a_subscription_is_effective_before_what_comes_behind_it(stage: Stage) -> None:
    stage.subscribe("a")
    assert stage.listens_to == ["a"]
    stage.say(b"m:x")
    stage.publish(text(b"1"))
    assert stage.down.heard == [relayed(b"x"), published(b"1")]


def test_a_backend_unsubscribes_its_client(stage: Stage) -> None:
    stage.subscribe("a")
    stage.subscribe("b")
    stage.control(type="unsubscribe", channel="a")
    stage.control(type="unsubscribe", channel="c")
    assert stage.listens_to == ["b"]
    stage.publish(text(b"1"))
    assert stage.down.heard == []


def test_channels_have_the_route_s_prefix() -> None:
    stage = Stage(route=Route("*", (TARGET,), prefix="p-")).open()
    stage.subscribe("a")
    stage.subscribe("b")
    stage.control(type="unsubscribe", channel="b")
    assert stage.listens_to == ["p-a"]


@pytest.mark.parametrize("fields", [[], [GRIP]])
def test_a_target_may_subscribe_every_client(fields: list[tuple[bytes, bytes]]) -> None:
    target = Target("a", 1, subs=("a", "b"))
    stage = Stage(route=Route("*", (target,), prefix="p-"))
    stage.down.then["accept"] = lambda: known.append(stage.listens_to)
    known: list[list[str]] = []
    stage.accept(*fields)
    assert known == [["a", "b"]]  # before the client has its answer
    stage.publish(text(b"1"))
    assert stage.down.heard == [published(b"1")]


def test_what_a_target_subscribes_to_is_not_unsubscribed() -> None:
    stage = Stage(Target("a", 1, subs=("a",))).open()
    stage.control(type="unsubscribe", channel="a")
    assert stage.listens_to == ["a"]


def test_there_are_so_many_subscriptions_at_most() -> None:
    stage = Stage(Target("a", 1, subs=("a",)), subscriptions_max=3).open()
    for channel in "bcd":
        stage.subscribe(channel)
    assert stage.listens_to == ["a", "b", "c"]
    assert stage.warnings == ["connection 7 has 3 subscriptions already"]
    stage.subscribe("c", filters=["build-id"])  # not even that
    stage.subscribe("d", filters=["build-id"] * 6)
    stage.publish(text(b"1", content_filters=("build-id",)), channel="c")
    assert stage.down.heard == []
    stage.control(type="unsubscribe", channel="c")
    stage.subscribe("d")
    assert stage.listens_to == ["a", "b", "d"]


def test_control_messages_that_do_not_parse_do_nothing(stage: Stage) -> None:
    for message in (b"", b"x", b"{}", b"[]", b'{"type":"what"}', b'{"type":"subscribe"}'):
        stage.say(b"c:" + message)
    assert (stage.down.heard, stage.up.heard, stage.listens_to) == ([], [], [])
    stage.say(b"m:x")
    assert stage.down.heard == [relayed(b"x")]


def test_a_session_is_a_subscriber_of_its_route() -> None:
    assert Stage().session.mode is Mode.WEBSOCKET
    assert Stage().session.bucket == ""
    assert Stage(route=Route("*", (TARGET,), id="r")).session.bucket == "r"


def test_what_is_for_state_servers_and_filters_changes_nothing(stage: Stage) -> None:
    stage.control(type="session", id="s")
    stage.control(type="set-meta", name="user", value="bob")
    assert (stage.down.heard, stage.up.heard) == ([], [])


# -- filters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "wanted", "delivered"),
    [
        ([], None, True),
        ([], (), True),
        ([], ("build-id",), False),
        (["build-id"], None, True),
        (["build-id"], (), False),
        (["build-id"], ("build-id",), True),
        (["build-id"], ("var-subst",), False),
        (["skip-self", "build-id", "nope", "var-subst"], ("build-id", "var-subst"), True),
        (["var-subst", "build-id"], ("build-id", "var-subst"), False),
        (["http-modify"], ("http-modify",), True),
        (["skip-self"], ("skip-self",), False),
        (["skip-self"], (), True),
    ],
)
def test_a_message_may_ask_for_filters(
    stage: Stage, filters: list[str], wanted: tuple[str, ...] | None, delivered: bool
) -> None:
    stage.subscribe(filters=filters)
    stage.publish(text(b"1", content_filters=wanted), text(b"2"))
    assert stage.contents == ([b"1", b"2"] if delivered else [b"2"])


def test_a_refusal_to_filter_holds_for_closes_and_refreshes_too(stage: Stage) -> None:
    stage.subscribe()
    for message in (CLOSE, REFRESH):
        stage.publish(message._replace(content_filters=("build-id",)))
    assert (stage.down.heard, stage.up.heard) == ([], [])


def test_subscribing_again_replaces_the_filters(stage: Stage) -> None:
    stage.subscribe(filters=["build-id"])
    stage.subscribe()
    stage.publish(text(b"1", content_filters=("build-id",)))
    assert stage.down.heard == []
    stage.publish(text(b"2"))
    assert stage.down.heard == [published(b"2")]


def test_the_filters_of_one_channel_do_not_touch_another(stage: Stage) -> None:
    stage.subscribe("a", filters=["build-id"])
    stage.subscribe("b")
    stage.publish(text(b"1", content_filters=()), channel="b")
    assert stage.down.take() == [sent(b"1")]
    stage.control(type="unsubscribe", channel="a")
    stage.publish(text(b"2", content_filters=()), channel="b")
    assert stage.down.heard == [published(b"2")]


@pytest.mark.parametrize("where", ["nowhere", "global", "route"])
def test_too_many_filters_close_the_session(where: str) -> None:
    route = Route("*", (TARGET,), prefix="p-", debug=where == "route")
    stage = Stage(route=route, debug=where == "global").open()
    stage.subscribe(filters=["build-id"] * 5)
    assert stage.down.heard == []
    stage.subscribe("b", filters=["build-id"] * 6)
    reason = b"" if where == "nowhere" else b"too many filters for channel 'b'"
    assert stage.down.heard == [RESUME, ("close", 1011, reason)]
    assert stage.up.heard == [DETACH]
    assert stage.listens_to == []
    assert stage.warnings[-1] == "connection 7 closed: too many filters for channel 'b'"


def test_filters_that_do_nothing_are_warned_of(stage: Stage) -> None:
    stage.subscribe(filters=["skip-self"])
    assert stage.warnings == ["filters have no effect in this version: ws://client.example/path"]


@pytest.mark.parametrize("where", ["global", "route"])
def test_where_debugging_is_on_a_message_for_other_filters_closes_the_session(where: str) -> None:
    route = Route("*", (TARGET,), debug=where == "route")
    stage = Stage(route=route, debug=where == "global").open()
    stage.subscribe(filters=["build-id", "var-subst"])
    stage.publish(text(b"1", content_filters=("http-modify",)), text(b"2"))
    reason = b"content filter mismatch: subscription=build-id,var-subst message=http-modify"
    assert stage.down.heard == [RESUME, ("close", 1011, reason)]
    assert stage.up.heard == [DETACH]


# -- publishing ----------------------------------------------------------------------------------


def test_what_is_the_same_for_all_is_sent_at_once(stage: Stage) -> None:
    stage.subscribe()
    stage.publish(text(b"1"), HINT, text(b"2"))
    assert stage.down.heard == [published(b"1", b"", b"2")]


def test_what_is_not_is_sent_one_by_one(stage: Stage) -> None:
    stage.subscribe()
    ping = WsMessage(Action.SEND, WsType.PING, b"p")
    stage.publish(text(b"1"), HINT, ping, REFRESH, text(b"2"))
    assert stage.down.heard == [sent(b"1"), sent(b"p", WsType.PING), sent(b"2")]
    assert stage.up.heard == [("refresh",)]


@pytest.mark.parametrize(
    ("message", "closed"),
    [
        (CLOSE, CLOSED),
        (WsMessage(Action.CLOSE), ("close", None, b"")),
        (WsMessage(Action.CLOSE, code=0), ("close", 0, b"")),
    ],
)
def test_a_published_close_closes_both_ends_and_ends_the_delivery(
    stage: Stage, message: WsMessage, closed: Heard
) -> None:
    stage.subscribe("a")
    stage.subscribe("b")
    stage.publish(text(b"1"), message, text(b"2"), CLOSE)
    assert stage.down.take() == [sent(b"1"), RESUME, closed]
    assert stage.up.take() == [DETACH]
    assert stage.listens_to == []
    stage.session.on_client_close(1000, b"")
    assert stage.down.heard == [FINISH]
    assert stage.up.heard == []


def test_a_published_close_needs_no_grip_mode() -> None:
    stage = Stage(Target("a", 1, subs=("a",))).accept()
    stage.publish(CLOSE)
    assert CLOSED in stage.down.heard


def test_after_a_client_s_close_a_published_one_answers_it(stage: Stage) -> None:
    stage.subscribe()
    stage.session.on_client_close(1001, b"")
    assert stage.up.take() == [("close", 1001, b"")]
    stage.publish(CLOSE, text(b"late"))
    assert stage.down.heard == [RESUME, CLOSED, FINISH]
    assert stage.up.heard == [DETACH]
    assert stage.listens_to == []


def test_a_client_that_has_closed_is_published_to_until_the_backend_answers(
    stage: Stage,
) -> None:
    stage.subscribe()
    stage.session.on_client_close(1000, b"")
    stage.publish(text(b"1"))
    stage.publish(text(b"2"), REFRESH)
    assert stage.down.heard == [published(b"1"), sent(b"2")]


def test_what_was_under_way_at_the_end_is_not_delivered(stage: Stage) -> None:
    stage.subscribe()
    listeners = tuple(stage.registry.subscribers("a"))
    stage.session.on_client_lost()
    for message in (text(b"1"), REFRESH, CLOSE):
        for listener in listeners:
            stage.registry.subscribe("a", listener)
            stage.publish(message)
            stage.registry.unsubscribe("a", listener)
    assert stage.down.heard == []
    assert stage.up.heard == [LOST]


# -- a client that reads slowly ------------------------------------------------------------------


def test_a_client_that_leaves_too_much_unread_is_closed(stage: Stage) -> None:
    stage.subscribe()
    stage.session.on_overflow(3)
    assert ("close", 1013, b"too slow") in stage.down.take()
    assert stage.up.take() == [LOST]
    assert stage.front.stats.drops["client-queue"] == 3
    assert stage.warnings == ["connection 7 closed: it reads too slowly"]
    assert stage.listens_to == []
    stage.session.on_client_close(1013, b"")
    assert stage.down.heard == [FINISH]
    assert stage.up.heard == []


def test_it_is_read_so_that_its_answer_can_come(stage: Stage) -> None:
    stage.session.on_backend_blocked()
    stage.session.on_overflow(1)
    assert stage.down.heard == [PAUSE, RESUME, ("close", 1013, b"too slow")]


def test_one_that_has_closed_already_has_nothing_to_answer(stage: Stage) -> None:
    stage.session.on_client_close(1000, b"")
    stage.session.on_overflow(1)
    assert stage.down.heard[-2:] == [("close", 1013, b"too slow"), FINISH]
    assert stage.up.heard[-1] == LOST


def test_the_rest_of_a_batch_is_not_for_it(stage: Stage) -> None:
    stage.subscribe()
    stage.down.then["message"] = lambda: stage.session.on_overflow(1)
    stage.publish(text(b"1"), text(b"2"), CLOSE)
    assert [words[0] for words in stage.down.heard].count("message") == 1
    assert stage.up.heard == [LOST]


def test_messages_may_be_dropped_instead() -> None:
    stage = Stage(drop_when_full=True).open()
    stage.subscribe()
    stage.session.on_overflow(2)
    assert (stage.down.heard, stage.up.heard) == ([], [])
    assert stage.front.stats.drops["client-queue"] == 2
    assert stage.warnings == ["2 messages dropped: connection=7 reads too slowly"]
    assert stage.listens_to == ["a"]


def test_the_ends_hear_of_each_other_s_pace(stage: Stage) -> None:
    stage.down.unread = 5
    assert stage.session.unread == 5
    stage.session.on_client_blocked()
    stage.session.on_client_ready()
    assert stage.up.heard == [PAUSE, RESUME]
    stage.session.on_backend_blocked()
    stage.session.on_backend_ready()
    assert stage.down.heard == [PAUSE, RESUME]


def test_a_message_that_the_backend_s_end_cannot_hold_is_the_client_s_fault(stage: Stage) -> None:
    stage.session.on_message_too_large()
    assert stage.down.heard == [("fail", 1009)]


def test_what_the_backend_says_at_once_is_flushed_once(stage: Stage) -> None:
    for content in (b"m:a", b"m:b"):
        stage.session.on_backend_frame(Frame(TEXT, content))
    assert stage.down.flushes == 0
    stage.session.on_backend_read()
    assert stage.down.flushes == 1


# -- keep-alive ----------------------------------------------------------------------------------


def keep_alive(stage: Stage, **fields: Any) -> None:
    stage.control(type="keep-alive", **fields)


KIND = [
    ("text", WsType.TEXT),
    ("binary", WsType.BINARY),
    ("ping", WsType.PING),
    ("pong", WsType.PONG),
]


@pytest.mark.parametrize(("name", "kind"), KIND)
def test_a_client_is_kept_alive_by_a_message(stage: Stage, name: str, kind: WsType) -> None:
    keep_alive(stage, content="hi", message_type=name, timeout=30)
    for _ in range(3):
        assert stage.comes_in(30, sent(b"hi", kind))


def test_binary_content_makes_text_by_default(stage: Stage) -> None:
    keep_alive(stage, content="x", content_bin=base64.b64encode(b"\xff").decode(), timeout=10)
    assert stage.comes_in(10, sent(b"\xff"))


@pytest.mark.parametrize("fields", [{}, {"timeout": 0}])
def test_the_wait_is_fifty_five_seconds_by_default(stage: Stage, fields: dict[str, Any]) -> None:
    keep_alive(stage, content="", message_type="ping", **fields)
    assert stage.comes_in(55, sent(b"", WsType.PING))


@pytest.mark.parametrize("mode", ["idle", "interval"])
def test_each_wait_is_shorter_by_up_to_a_second(stage: Stage, mode: str) -> None:
    stage.random.value = 0.999
    keep_alive(stage, content="hi", timeout=30, mode=mode)
    stage.random.value = 0.5
    assert stage.comes_in(29.001, sent(b"hi"))
    assert stage.comes_in(29.5, sent(b"hi"))


def test_a_short_wait_is_not_negative(stage: Stage) -> None:
    stage.random.value = 0.999
    keep_alive(stage, content="hi", timeout=1)
    stage.wait(0.2)
    assert stage.down.heard[0] == sent(b"hi")


@pytest.mark.parametrize("mode", [{}, {"mode": "idle"}, {"mode": "what"}])
@pytest.mark.parametrize("what", ["relayed", "control frame", "published", "one by one", "delayed"])
def test_in_idle_mode_every_frame_to_the_client_begins_the_wait_anew(
    stage: Stage, what: str, mode: dict[str, str]
) -> None:
    stage.subscribe()
    keep_alive(stage, content="hi", timeout=30, **mode)
    stage.wait(20)
    if what == "relayed":
        stage.say(b"m:x")
    elif what == "control frame":
        stage.say(b"", PONG)
    elif what == "published":
        stage.publish(text(b"x"))
    elif what == "one by one":
        stage.publish(text(b"x"), REFRESH)
    else:
        stage.control(type="send-delayed", content="x", timeout=100)
        stage.control(type="flush-delayed")
    assert len(stage.down.take()) == 1
    assert stage.comes_in(30, sent(b"hi"))


def test_in_idle_mode_what_the_client_does_not_see_does_not_count(stage: Stage) -> None:
    stage.subscribe()
    keep_alive(stage, content="hi", timeout=30)
    stage.wait(20)
    stage.publish(HINT)
    stage.publish(REFRESH)
    stage.down.take()
    stage.session.on_client_frame(Frame(TEXT, b"x"))
    stage.session.on_client_read()
    stage.say(b"no prefix")
    stage.control(type="set-meta", name="a", value="b")
    assert stage.comes_in(10, sent(b"hi"))


def test_in_interval_mode_no_frame_counts(stage: Stage) -> None:
    stage.subscribe()
    keep_alive(stage, content="hi", timeout=30, mode="interval")
    stage.wait(20)
    stage.say(b"m:x")
    stage.publish(text(b"x"))
    stage.publish(text(b"x"), REFRESH)
    stage.down.take()
    assert stage.comes_in(10, sent(b"hi"))


def test_another_keep_alive_replaces_the_first(stage: Stage) -> None:
    keep_alive(stage, content="hi", timeout=30)
    stage.wait(20)
    keep_alive(stage, content="ho", timeout=15, mode="interval")
    assert stage.comes_in(15, sent(b"ho"))
    assert stage.comes_in(15, sent(b"ho"))


def test_a_keep_alive_without_content_ends_it(stage: Stage) -> None:
    keep_alive(stage, message_type="ping")
    assert stage.is_silent
    keep_alive(stage, content="hi")
    keep_alive(stage, message_type="ping", timeout=5)
    stage.say(b"m:x")
    assert stage.down.take() == [relayed(b"x")]
    assert stage.is_silent


def test_a_client_with_something_to_read_is_not_sent_more(stage: Stage) -> None:
    keep_alive(stage, content="hi", timeout=30)
    stage.down.unread = 1
    stage.wait(35)
    assert stage.down.heard == []
    stage.down.unread = 0
    assert stage.comes_in(25, sent(b"hi"))


@pytest.mark.parametrize(
    "end", ["client closes", "backend closes", "published", "lost", "overflow"]
)
def test_at_the_end_nothing_is_kept_alive(stage: Stage, end: str) -> None:
    stage.subscribe()
    keep_alive(stage, content="hi")
    stage.control(type="send-delayed", content="x", timeout=5)
    if end == "client closes":
        stage.session.on_client_close(1000, b"")
        stage.session.on_backend_close(1000, b"")
    elif end == "backend closes":
        stage.session.on_backend_close(1000, b"")
    elif end == "published":
        stage.publish(CLOSE)
    elif end == "lost":
        stage.session.on_backend_lost()
    else:
        stage.session.on_overflow(1)
    stage.down.take()
    assert stage.is_silent


# -- delayed messages ----------------------------------------------------------------------------


def delay(stage: Stage, content: str | None = None, **fields: Any) -> None:
    if content is not None:
        fields["content"] = content
    stage.control(type="send-delayed", **fields)


@pytest.mark.parametrize(("name", "kind"), KIND)
def test_a_message_can_be_delayed(stage: Stage, name: str, kind: WsType) -> None:
    stage.random.value = 0.9
    delay(stage, "hi", message_type=name, timeout=7)
    assert stage.comes_in(7, sent(b"hi", kind))
    assert stage.is_silent


def test_a_second_is_the_default(stage: Stage) -> None:
    delay(stage, "hi")
    assert stage.comes_in(1, sent(b"hi"))


def test_without_content_the_message_is_empty(stage: Stage) -> None:
    delay(stage, message_type="ping", timeout=9)
    assert stage.comes_in(1, sent(b"", WsType.PING))


def test_one_message_waits_and_the_next_one_makes_it_go(stage: Stage) -> None:
    delay(stage, "1", timeout=5)
    stage.wait(3)
    delay(stage, "2", timeout=5)
    assert stage.down.take() == [sent(b"1")]
    assert stage.comes_in(5, sent(b"2"))
    assert stage.is_silent


def test_a_delayed_message_can_be_flushed(stage: Stage) -> None:
    stage.control(type="flush-delayed")
    assert stage.down.heard == []
    delay(stage, "1", timeout=5)
    stage.control(type="flush-delayed")
    assert stage.down.take() == [sent(b"1")]
    assert stage.is_silent


# -- detaching -----------------------------------------------------------------------------------


@pytest.fixture
def detached(stage: Stage) -> Stage:
    stage.subscribe()
    keep_alive(stage, content="hi", timeout=30)
    stage.control(type="detach")
    assert stage.up.take() == [DETACH]
    assert stage.down.take() == [RESUME]
    return stage


def test_a_detached_client_is_published_to_and_kept_alive(detached: Stage) -> None:
    detached.publish(text(b"1"))
    assert detached.down.take() == [published(b"1")]
    assert detached.comes_in(30, sent(b"hi"))


def test_what_the_backend_says_with_a_detach_still_counts(stage: Stage) -> None:
    for content in (b"m:a", b'c:{"type":"detach"}', b"m:b"):
        stage.session.on_backend_frame(Frame(TEXT, content))
    stage.session.on_backend_frame(Frame(TEXT, b'c:{"type":"subscribe","channel":"b"}'))
    assert stage.up.heard == []
    stage.session.on_backend_read()
    assert stage.up.heard == [DETACH]
    assert stage.down.heard == [relayed(b"a"), relayed(b"b"), RESUME]
    assert stage.listens_to == ["b"]


def test_a_close_with_a_detach_is_a_close(stage: Stage) -> None:
    stage.session.on_backend_frame(Frame(TEXT, b'c:{"type":"detach"}'))
    stage.session.on_backend_close(4000, b"bye")
    stage.session.on_backend_read()
    assert stage.down.heard == [CLOSED]
    stage.session.on_client_close(4001, b"")
    assert stage.up.heard == [("close", 4001, b"")]


def test_what_a_detached_client_sends_is_for_nobody(detached: Stage) -> None:
    detached.session.on_client_frame(Frame(TEXT, b"x"))
    detached.session.on_client_read()
    detached.session.on_client_blocked()
    detached.session.on_client_ready()
    detached.publish(REFRESH)
    assert (detached.up.heard, detached.down.heard) == ([], [])


def test_a_detached_client_s_close_is_answered_with_1000(detached: Stage) -> None:
    detached.session.on_client_close(4000, b"bye")
    assert detached.down.heard == [("close", 1000, b""), FINISH]
    assert (detached.up.heard, detached.listens_to) == ([], [])


def test_a_detached_client_can_be_lost(detached: Stage) -> None:
    detached.session.on_client_lost()
    assert (detached.up.heard, detached.down.heard, detached.listens_to) == ([], [], [])


def test_a_detached_client_can_be_closed_by_a_publisher(detached: Stage) -> None:
    detached.publish(CLOSE)
    assert detached.down.take() == [CLOSED]
    detached.session.on_client_close(4000, b"bye")
    assert detached.down.heard == [FINISH]
    assert detached.up.heard == []


def test_a_detached_client_may_leave_too_much_unread(detached: Stage) -> None:
    detached.session.on_overflow(1)
    assert ("close", 1013, b"too slow") in detached.down.heard
    assert detached.up.heard == []


# -- closing -------------------------------------------------------------------------------------


def test_the_client_closes_and_the_backend_answers(stage: Stage) -> None:
    stage.subscribe()
    stage.session.on_client_close(4000, b"bye")
    assert stage.up.take() == [("close", 4000, b"bye")]
    stage.say(b"m:x")
    assert stage.down.take() == [relayed(b"x")]
    stage.session.on_backend_close(4001, b"well")
    assert stage.down.heard == [("close", 4001, b"well"), FINISH]
    assert (stage.up.heard, stage.listens_to) == ([], [])
    stage.session.on_client_lost()
    assert stage.up.heard == []


def test_a_close_without_a_code_is_one(stage: Stage) -> None:
    stage.session.on_client_close(None, b"")
    assert stage.up.heard == [("close", None, b"")]
    stage.session.on_backend_close(None, b"")
    assert stage.down.heard == [("close", None, b""), FINISH]


def test_a_client_that_has_closed_is_not_heard_any_more(stage: Stage) -> None:
    stage.session.on_client_close(1000, b"")
    stage.up.take()
    stage.session.on_client_frame(Frame(TEXT, b"x"))
    assert stage.up.heard == []


def test_a_client_that_has_closed_is_dropped_with_its_backend(stage: Stage) -> None:
    stage.session.on_client_close(1000, b"")
    stage.session.on_backend_lost()
    assert stage.down.heard == [DROP]


def test_a_client_that_has_closed_can_be_lost(stage: Stage) -> None:
    stage.session.on_client_close(1000, b"")
    stage.session.on_client_lost()
    assert stage.up.heard == [("close", 1000, b""), LOST]
    assert stage.down.heard == []


def test_after_a_client_s_close_control_messages_do_nothing(stage: Stage) -> None:
    stage.session.on_client_close(1000, b"")
    stage.subscribe()
    stage.control(type="detach")
    keep_alive(stage, content="hi")
    assert stage.up.heard == [("close", 1000, b"")]
    assert stage.listens_to == []
    assert stage.is_silent


def test_the_backend_closes_and_the_client_answers(stage: Stage) -> None:
    stage.subscribe()
    stage.session.on_backend_close(4000, b"bye")
    assert stage.down.take() == [("close", 4000, b"bye")]
    assert (stage.up.heard, stage.listens_to) == ([], [])
    stage.session.on_client_close(4001, b"well")
    assert stage.up.heard == [("close", 4001, b"well")]
    assert stage.down.heard == [FINISH]
    stage.session.on_client_lost()
    assert len(stage.up.heard) == 1


def test_what_the_client_sends_before_its_answer_reaches_the_backend(stage: Stage) -> None:
    stage.session.on_backend_close(1000, b"")
    stage.session.on_client_frame(Frame(TEXT, b"x"))
    stage.session.on_client_read()
    assert stage.up.heard == [relayed(b"x"), ("flush",)]


def test_the_client_s_answer_does_not_wait_for_a_backend_that_takes_nothing(stage: Stage) -> None:
    stage.session.on_backend_blocked()
    assert stage.down.take() == [PAUSE]
    stage.session.on_backend_close(1000, b"")
    assert stage.down.take() == [("close", 1000, b""), RESUME]
    stage.session.on_client_frame(Frame(TEXT, b"nobody has room for it"))
    assert stage.up.heard == []
    stage.session.on_backend_ready()
    stage.session.on_client_frame(Frame(TEXT, b"nor is there a gap in what the backend gets"))
    assert stage.up.heard == []
    stage.session.on_client_close(1000, b"")
    assert stage.up.heard == [("close", 1000, b"")]


def test_what_the_client_sends_late_ends_when_the_backend_takes_no_more(stage: Stage) -> None:
    stage.session.on_backend_close(1000, b"")
    stage.session.on_client_frame(Frame(TEXT, b"x"))
    assert stage.up.take() == [relayed(b"x")]
    stage.down.take()
    stage.session.on_backend_blocked()
    assert stage.down.heard == []
    stage.session.on_backend_ready()
    stage.session.on_client_frame(Frame(TEXT, b"y"))
    assert stage.up.heard == []


def test_a_client_that_is_lost_instead_of_answering_is_told_of(stage: Stage) -> None:
    stage.session.on_backend_close(1000, b"")
    stage.session.on_client_lost()
    assert stage.up.heard == [LOST]


def test_a_backend_that_has_closed_may_go(stage: Stage) -> None:
    stage.session.on_backend_close(1000, b"")
    stage.session.on_backend_lost()
    assert stage.down.take() == [("close", 1000, b"")]
    stage.session.on_client_close(1000, b"")
    assert stage.down.heard == [FINISH]
    assert stage.up.heard == []


def test_a_backend_closes_once(stage: Stage) -> None:
    stage.session.on_backend_close(1000, b"")
    stage.session.on_backend_close(1001, b"")
    assert stage.down.heard == [("close", 1000, b"")]


@pytest.mark.parametrize("reason", ["", "it answered 500"])
def test_a_backend_that_is_lost_drops_its_client(stage: Stage, reason: str) -> None:
    stage.subscribe()
    stage.session.on_backend_lost(reason)
    assert stage.down.heard == [DROP]
    warning = f"ws://client.example/path: connection 7 dropped: {reason}"
    assert stage.warnings == ([warning] if reason else [])
    assert stage.listens_to == []
    stage.session.on_client_lost()
    assert stage.up.heard == []


def test_a_client_that_is_lost_is_lost_once(stage: Stage) -> None:
    stage.subscribe()
    stage.session.on_client_lost()
    stage.session.on_client_lost()
    assert stage.up.heard == [LOST]
    assert stage.listens_to == []


def test_after_a_published_close_a_client_that_is_lost_is_nobody_s_concern(stage: Stage) -> None:
    stage.subscribe()
    stage.publish(CLOSE)
    stage.session.on_client_lost()
    assert stage.up.heard == [DETACH]


def test_while_closing_control_messages_do_nothing(stage: Stage) -> None:
    stage.session.on_backend_close(1000, b"")
    stage.subscribe()
    stage.control(type="detach")
    assert stage.listens_to == []
    assert stage.up.heard == []


# -- the log -------------------------------------------------------------------------------------


@pytest.mark.parametrize("quiet", [False, True])
def test_subscriptions_are_in_the_access_log(quiet: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gripproxy.access")
    stage = Stage(route=Route("*", (TARGET,), log_level=1 if quiet else None)).open()
    stage.subscribe("a")
    stage.subscribe("a")
    lines = [] if quiet else ["subscribe ws://client.example/path channel=a"]
    assert caplog.messages == lines


# -- the kinds of backends -----------------------------------------------------------------------


def test_a_target_says_how_it_is_spoken_to() -> None:
    targets = (Target("a", 1, over_http=True), Target("b", 2), Target(test=True))
    surroundings = Surroundings(Route("*", targets))
    pool, down = surroundings.pool, FakeDownstream()
    pool.slow = True
    session = Session(surroundings.front, surroundings.outgoing(target=b"/ws"), down)
    session.begin()
    assert [target for _, target in pool.waiting] == [targets[0]]
    pool.refuse()
    assert [attempt.target for attempt in pool.attempts] == [targets[1]]
    pool.attempts[0].fail(ConnectError("refused"))
    assert down.heard == [("accept", [], None)]
    assert surroundings.channels(session) == []
    assert session in surroundings.registry.subscribers("test")


# -- the shortest way ----------------------------------------------------------------------------


class Direct:
    """A client's connection, as far as the shortest way needs it."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.active = self.blocked = False


def test_published_messages_are_written_to_a_client_that_keeps_up() -> None:
    stage, client = Stage(), Direct()
    stage.down.direct = client
    stage.open()
    stage.subscribe()
    stage.publish(text(b"1"), text(b"2"))
    assert client.transport.take() == b"\x81\x011\x81\x012"
    assert client.active
    stage.publish(WsMessage(Action.HINT))
    assert client.transport.take() == b""
    assert stage.down.heard == []
    client.blocked = True
    stage.publish(text(b"3"))
    assert stage.down.take() == [published(b"3")]
    assert client.transport.take() == b""


def test_the_shortest_way_is_chosen_anew_when_a_message_is_half_relayed() -> None:
    stage, client = Stage(), Direct()
    stage.down.direct = client
    stage.open()
    stage.subscribe()
    stage.down.direct = None
    stage.session.on_backend_frame(Frame(TEXT, b"m:half", False))
    stage.publish(text(b"1"))
    stage.down.direct = client
    stage.session.on_backend_frame(Frame(CONT, b"", True))
    stage.publish(text(b"2"))
    assert published(b"1") in stage.down.take()
    assert client.transport.take() == b"\x81\x012"


def test_filters_and_the_end_close_the_shortest_way() -> None:
    stage, client = Stage(), Direct()
    stage.down.direct = client
    stage.open()
    stage.subscribe(filters=["build-id"])
    stage.publish(text(b"1"))
    stage.session.on_backend_close(None, b"")
    stage.publish(text(b"2"))
    assert client.transport.take() == b""
