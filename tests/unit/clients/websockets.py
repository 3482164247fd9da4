"""A session's surroundings, on a loop whose clock the tests move, and stand-ins for its ends."""

import asyncio
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, cast

from gripproxy.accesslog import AccessLog
from gripproxy.backend.headers import HeaderRules, HeaderTransform, Sender
from gripproxy.backend.pool import Pool
from gripproxy.backend.request import Outgoing
from gripproxy.clients.front import ClientLimits, Front
from gripproxy.clients.listener import Gate
from gripproxy.clients.routing import Routing
from gripproxy.deadlines import Deadlines
from gripproxy.errors import BackendError, WebSocketError
from gripproxy.grip.item import Action, Item, WsMessage, WsType
from gripproxy.http1.head import Headers
from gripproxy.hub.fanout import Batch
from gripproxy.hub.registry import Registry
from gripproxy.hub.sequencer import Sequencer
from gripproxy.routes import Route, RouteTable, Target
from gripproxy.stats import Stats
from gripproxy.websocket.frames import Frame
from tests.unit.backends import ScriptedPool
from tests.unit.clock import FakeLoop

Heard = tuple[object, ...]


class Steady(Random):
    """Always draws `value`."""

    value = 0.0

    def random(self) -> float:
        return self.value


class Client:
    """The client's connection, for those who only ask for its address."""

    peer = "192.0.2.9"


class Surroundings:
    """A Front, and all that can be looked at or moved behind it."""

    def __init__(self, route: Route, rules: HeaderRules | None = None, **options: Any) -> None:
        limits = {name: options.pop(name) for name in ClientLimits.__slots__ if name in options}
        self.loop = FakeLoop()
        loop = cast(asyncio.AbstractEventLoop, self.loop)
        self.route = route
        self.transform = HeaderTransform(rules or HeaderRules())
        self.pool = ScriptedPool()
        self.registry = Registry(0.0)
        self.random = Steady()
        self.warnings: list[str] = []
        self.front = Front(
            loop=loop,
            deadlines=Deadlines(loop),
            limits=ClientLimits(**limits),
            routing=Routing(RouteTable([route]), {id(route): self.transform}),
            pool=cast(Pool, self.pool),
            gate=Gate(loop, 1000),
            registry=self.registry,
            sequencer=cast(Sequencer, None),
            stats=Stats(),
            access=AccessLog(log_from=False, log_user_agent=False),
            warn=lambda text, *values: self.warnings.append(text % values),
            random=self.random,
            **options,
        )

    def outgoing(
        self,
        headers: Iterable[tuple[bytes, bytes]] = (),
        *,
        target: bytes = b"/path?query",
        trusted: bool = False,
    ) -> Outgoing:
        """What a client asks for."""
        sender = Sender(Client(), False, trusted)
        host = b"client.example"
        return Outgoing(
            self.route, b"GET", target, host, b"ws", list(headers), sender, self.transform
        )

    def wait(self, seconds: float) -> None:
        """So much time passes."""
        self.loop.run_until(self.loop.now + seconds)

    def publish(self, *messages: WsMessage, channel: str = "a") -> None:
        """Hand a batch of `messages` to those who listen."""
        batch = Batch(channel, [Item(channel, ws_message=message) for message in messages], 0)
        for subscriber in tuple(self.registry.subscribers(channel)):
            subscriber.deliver(batch)

    def channels(self, subscriber: object) -> list[str]:
        """Those of a few names that `subscriber` listens to."""
        names = [*"abcdefghijklmnopqrstuvwxyz", *(f"p-{name}" for name in "abcdefgh")]
        return [name for name in names if subscriber in self.registry.subscribers(name)]


def text(content: bytes, **fields: Any) -> WsMessage:
    """A text message that is published."""
    return WsMessage(Action.SEND, WsType.TEXT, content, **fields)


class Ears:
    """Notes what it is told; `then` is done when it hears of something, by its first word."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.then: dict[str, Callable[[], None]] = {}

    def note(self, *words: object) -> None:
        self.heard.append(words)
        self.note_silently(str(words[0]))

    def note_silently(self, word: str) -> None:
        """Note what goes without saying."""
        what = self.then.get(word)
        if what is not None:
            what()

    def take(self) -> list[Heard]:
        """What was heard since the last call."""
        heard, self.heard = self.heard, []
        return heard


class FakeSession(Ears):
    """A session, as the backend's end knows it."""

    def __init__(self) -> None:
        super().__init__()
        self.unread = 0
        self.reads = 0
        self.reasons: list[str] = []  # of being lost

    def on_backend_accepted(self, fields: Headers) -> None:
        self.note("accepted", fields)

    def on_backend_refused(self, code: int, reason: bytes, fields: Headers, body: bytes) -> None:
        self.note("refused", code, reason, fields, body)

    def on_backend_unreachable(self, error: BackendError) -> None:
        self.note("unreachable", error)

    def on_backend_failed(self, error: BackendError) -> None:
        self.note("failed", str(error))

    def on_backend_frame(self, received: Frame) -> None:
        self.note("frame", *received)

    def on_backend_read(self) -> None:
        self.reads += 1
        self.note_silently("read")

    def on_backend_close(self, code: int | None, reason: bytes) -> None:
        self.note("close", code, reason)

    def on_backend_lost(self, reason: str = "") -> None:
        self.reasons.append(reason)
        self.note("lost")

    def on_backend_blocked(self) -> None:
        self.note("blocked")

    def on_backend_ready(self) -> None:
        self.note("ready")

    def on_message_too_large(self) -> None:
        self.note("too large")


class FakeDownstream(Ears):
    """The client's end, as a session knows it."""

    number = 7
    direct: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.unread = 0
        self.flushes = 0

    def accept(self, fields: Headers, grip: bytes | None) -> None:
        self.note("accept", fields, grip)

    def refuse(self, code: int, reason: bytes, fields: Headers, body: bytes) -> None:
        self.note("refuse", code, reason, fields, body)

    def send(self, piece: Frame) -> None:
        self.note("send", *piece)

    def flush(self) -> None:
        self.flushes += 1

    def publish(self, batch: Batch) -> None:
        self.note("publish", *[message.content for message in batch.messages])

    def publish_one(self, batch: Batch, index: int) -> None:
        self.send_message(batch.messages[index])

    def send_message(self, message: WsMessage) -> None:
        self.note("message", message.type, message.content)

    def close(self, code: int | None, reason: bytes) -> None:
        self.note("close", code, reason)

    def finish(self) -> None:
        self.note("finish")

    def drop(self) -> None:
        self.note("drop")

    def fail(self, error: WebSocketError) -> None:
        self.note("fail", error.code)

    def pause(self) -> None:
        self.note("pause")

    def resume(self) -> None:
        self.note("resume")


class FakeUpstream(Ears):
    """The backend's end, as a session knows it."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target

    def begin(self) -> None:
        self.note("begin")

    def send(self, piece: Frame) -> None:
        self.note("send", *piece)

    def flush(self) -> None:
        self.note("flush")

    def close(self, code: int | None, reason: bytes) -> None:
        self.note("close", code, reason)

    def detach(self) -> None:
        self.note("detach")

    def lost(self) -> None:
        self.note("lost")

    def pause(self) -> None:
        self.note("pause")

    def resume(self) -> None:
        self.note("resume")

    def refresh(self) -> None:
        self.note("refresh")
