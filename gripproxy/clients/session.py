"""A WebSocket session: what stands between a client's end and a backend's end of it.

It takes the backend's messages apart (those for the client, and control messages), listens to
channels, and owns the rules of closing: who has closed and who must still hear of it. Every
transition of its state is in this file:

    state          client closes         backend closes       backend lost  client lost  published
    OPEN           CLIENT_CLOSED         CLOSING, it is told  ENDED, drop   ENDED        CLOSING
    OPEN detached  ENDED, answered 1000  -                    -             ENDED        CLOSING
    CLIENT_CLOSED  -                     ENDED, it is told    ENDED, drop   ENDED        ENDED
    CLOSING        ENDED                 -                    stays         ENDED        -

The backend hears of the client's close, of its answer to the backend's, and of its being lost;
a close that is published or the proxy's own detaches it first.
"""

import logging
from enum import Enum, auto
from typing import TYPE_CHECKING

from gripproxy.backend.request import Outgoing
from gripproxy.clients.ends import Downstream, Upstream
from gripproxy.clients.front import Front
from gripproxy.clients.later import Later
from gripproxy.clients.relay import Relay
from gripproxy.clients.testsocket import TestSocket
from gripproxy.clients.wsoverhttp import OverHttp
from gripproxy.errors import BackendError, BlockedError, WebSocketError
from gripproxy.grip import wscontrol
from gripproxy.grip.fields import FILTERS_MAX
from gripproxy.grip.item import Action
from gripproxy.grip.wscontrol import Control
from gripproxy.grip.wsextension import MessageFilter, grip_extension, message_prefix
from gripproxy.http1.head import Headers
from gripproxy.http1.status import reason_phrase
from gripproxy.hub.fanout import Batch
from gripproxy.hub.registry import Mode
from gripproxy.routes import Target
from gripproxy.websocket.frames import CONT, FIRST_CONTROL, Frame

if TYPE_CHECKING:
    from gripproxy.clients.connection import ClientConnection

log = logging.getLogger("gripproxy.clients")

NORMAL = 1000
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013  # IANA's registry of close codes

_ORIGIN_FAILED = "Error while proxying to origin."
_EXTENSIONS = b"sec-websocket-extensions"
# What a backend that answers like that lacks, by the target's `over_http`.
_HINTS = {
    True: "events have Content-Type application/websocket-events",
    False: "a backend that knows only HTTP needs over_http in its route",
}
# What changes content, so that items can ask for it.
_CONTENT_FILTERS = frozenset(("build-id", "var-subst", "http-modify"))
# Of the backend's response these are for this hop only, or made anew (RFC 9110 §7.6.1).
_OF_THE_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
    )
)


class State(Enum):
    """How far a session has come."""

    CONNECTING = auto()  # the client has no answer yet
    OPEN = auto()
    CLIENT_CLOSED = auto()  # the backend has to answer the client's close
    CLOSING = auto()  # the client has to answer ours
    ENDED = auto()


# Python 3.11 takes 80 ns to find a member in its class.
_OPEN, _CLIENT_CLOSED, _CLOSING, _ENDED = (
    State.OPEN,
    State.CLIENT_CLOSED,
    State.CLOSING,
    State.ENDED,
)


class Session:
    """One client's session, and the subscriber of its channels."""

    __slots__ = (
        "_blocked",
        "_channels",
        "_detaches",
        "_direct",
        "_down",
        "_each",
        "_error",
        "_filter",
        "_front",
        "_index",
        "_later",
        "_outgoing",
        "_reply_due",
        "_state",
        "_takes_late",
        "_up",
        "_url",
    )

    mode = Mode.WEBSOCKET

    def __init__(self, front: Front, outgoing: Outgoing, down: Downstream) -> None:
        self._front = front
        self._outgoing = outgoing
        self._url = outgoing.url
        self._down = down
        self._up: Upstream | None = None  # None: detached, or gone
        self._index = 0  # of the target
        self._error: BackendError | None = None  # of the target that was asked last
        self._state = State.CONNECTING
        self._reply_due = False  # the backend has closed, and hears how the client answers
        self._blocked = False  # the backend takes no more of the client's messages
        self._takes_late = True  # nor has it since it closed, so that there is no gap in them
        self._filter: MessageFilter | None = None  # None: the backend's messages are not looked at
        self._channels: dict[str, tuple[str, ...]] | None = None  # with the filters; None: no GRIP
        self._direct: ClientConnection | None = None  # where messages can be written as they come
        self._each = True  # messages cannot be sent as they come: not open, or there are filters
        self._detaches = False  # when the backend has sent what it is sending
        self._later: Later | None = None

    @property
    def bucket(self) -> str:
        return self._outgoing.route.id or ""

    @property
    def target(self) -> Target:
        """Who is asked, or was asked last."""
        targets = self._outgoing.route.targets
        return targets[min(self._index, len(targets) - 1)]

    @property
    def unread(self) -> int:
        """Bytes that the client has left unread."""
        return self._down.unread

    def begin(self) -> None:
        """Ask the first target, from the current one on, that can be reached."""
        if self._index < len(self._outgoing.route.targets):
            self._up = self._upstream(self.target)
            self._up.begin()
            return
        tried = ", ".join(target.name for target in self._outgoing.route.targets)
        self._fail(self._error, f"Unable to connect to any targets. Tried: {tried}")

    # What the backend's end calls while connecting.

    def on_backend_accepted(self, fields: Headers) -> None:
        """The backend accepts, with these fields; its messages may follow at once."""
        route, target = self._outgoing.route, self.target
        shown: Headers = []
        extensions: list[bytes] = []
        for field in fields:
            name = field[0].lower()
            if name == _EXTENSIONS:
                extensions.append(field[1])
            elif name not in _OF_THE_HOP:
                shown.append(field)
        passes = route.no_grip or self._outgoing.sender.trusted
        prefix = None if passes else message_prefix(extensions)
        if prefix is not None:
            self._filter = MessageFilter(prefix)
        self._state = _OPEN
        if prefix is not None or target.subs:
            self._channels = {}
            for channel in target.subs:
                self._subscribe(channel, ())
        trusted = self._outgoing.sender.trusted
        self._down.accept(shown, grip_extension(extensions) if trusted else None)
        self._choose_way()
        self._outgoing.headers.clear()  # the backend's end has made its own of them

    def on_backend_refused(self, code: int, reason: bytes, fields: Headers, body: bytes) -> None:
        """The backend answers the handshake with something else."""
        if code < 300:  # it may have meant something else
            hint = _HINTS[self.target.over_http]
            self._front.warn(
                "%s: target %s answers the handshake with %d: %s",
                self._url, self.target.name, code, hint,
            )  # fmt: skip
        self._state = _ENDED
        self._up = None
        shown = [field for field in fields if field[0].lower() not in _OF_THE_HOP]
        self._down.refuse(code, reason, shown, body)

    def on_backend_unreachable(self, error: BackendError) -> None:
        """No connection to the target was made."""
        self._up = None
        if isinstance(error, BlockedError):
            self._fail(error, str(error))
            return
        log.debug("target %s: %s", self.target.name, error)
        self._error = error
        self._index += 1
        self.begin()

    def on_backend_failed(self, error: BackendError) -> None:
        """The target was reached, and gave no usable answer."""
        self._fail(error)

    # What the backend's end calls then.

    def on_backend_frame(self, received: Frame) -> None:
        """A frame, or a piece of one, of the backend."""
        if received.opcode < FIRST_CONTROL and self._filter is not None:
            message = self._filter.feed(received)
            if message is None:
                return
            if isinstance(message, bytes):
                control = wscontrol.parse(message)
                if control is None:
                    log.debug("%s: control message ignored: %.200r", self._url, message)
                elif self._state is _OPEN:
                    self._obey(control)
                return
            received = message
        self._down.send(received)
        if received.opcode == CONT or not received.fin:  # nothing comes between these
            self._choose_way()
        if self._later is not None:
            self._later.on_sent()

    def on_backend_read(self) -> None:
        """That was all that the backend sent for now."""
        self._down.flush()
        if self._detaches:
            self._detaches = False
            if self._state is _OPEN:
                self._detach()

    def on_backend_close(self, code: int | None, reason: bytes) -> None:
        """The backend closes, or answers the client's close."""
        if self._state is _CLIENT_CLOSED:
            self._end()
            self._down.close(code, reason)
            self._down.finish()
        elif self._state is _OPEN:
            self._begin_closing(code, reason)
            self._reply_due = True
            if self._blocked:  # the answer must not wait for a backend that takes nothing
                self._takes_late = False
                self._down.resume()

    def on_backend_lost(self, reason: str = "") -> None:
        """The backend has gone without closing, or is of no more use, for a reason to be logged."""
        self._up = None
        if self._state in (_OPEN, _CLIENT_CLOSED):
            if reason:
                self._front.warn(
                    "%s: connection %d dropped: %s", self._url, self._down.number, reason
                )
            self._end()
            self._down.drop()

    def on_backend_blocked(self) -> None:
        """The backend takes no more messages for now."""
        self._blocked = True
        if self._reply_due:
            self._takes_late = False
        else:
            self._down.pause()

    def on_backend_ready(self) -> None:
        """The backend takes messages again."""
        self._blocked = False
        self._down.resume()

    def on_message_too_large(self) -> None:
        """The client sends a message that the backend's end cannot hold."""
        self._down.fail(WebSocketError("message too large", 1009))

    # What the client's end calls.

    def on_client_frame(self, received: Frame) -> None:
        """A frame, or a piece of one, of the client; no close frame."""
        # A backend that has closed may still be sent to, until the client answers.
        if self._up is not None and (
            self._state is _OPEN or (self._reply_due and self._takes_late)
        ):
            self._up.send(received)

    def on_client_read(self) -> None:
        """That was all that the client sent for now."""
        if self._up is not None:
            self._up.flush()

    def on_client_close(self, code: int | None, reason: bytes) -> None:
        """The client closes, or answers our close."""
        if self._state is _CLOSING:
            if self._reply_due and self._up is not None:
                self._up.close(code, reason)
            self._end()
            self._down.finish()
        elif self._state is _OPEN and self._up is None:  # detached
            self._end()
            self._down.close(NORMAL, b"")
            self._down.finish()
        elif self._state is _OPEN:
            assert self._up is not None
            self._state = _CLIENT_CLOSED
            self._up.close(code, reason)

    def on_client_lost(self) -> None:
        """The client has gone, or has to."""
        if self._up is not None and self._state is not _ENDED:
            self._up.lost()
        self._end()

    def on_client_blocked(self) -> None:
        """The client reads more slowly than it is sent to."""
        if self._up is not None:
            self._up.pause()

    def on_client_ready(self) -> None:
        """The client has caught up."""
        if self._up is not None:
            self._up.resume()

    def on_overflow(self, lost: int) -> None:
        """The client left too much unread, and so many messages were not sent.

        Closing is the default, since a client can notice that and recover.
        """
        front, number = self._front, self._down.number
        front.stats.drops["client-queue"] += lost
        if front.limits.drop_when_full:
            front.warn("%d messages dropped: connection=%d reads too slowly", lost, number)
            return
        front.warn("connection %d closed: it reads too slowly", number)
        if self._up is not None:
            self._up.lost()
            self._up = None
            self._down.resume()
        self._close_client(TRY_AGAIN_LATER, b"too slow")

    # Published messages.

    def deliver(self, batch: Batch) -> None:
        client = self._direct
        if client is not None and not client.blocked and batch.same_for_all:
            # The shortest way for a client that keeps up: this runs once for each delivery.
            data = batch.plain
            if data:
                client.active = True
                client.transport.write(data)
        elif self._each or not batch.same_for_all:
            self._deliver_each(batch)
            return
        else:
            self._down.publish(batch)
        if self._later is not None and batch.sends:
            self._later.on_sent()

    def _deliver_each(self, batch: Batch) -> None:
        filters = (self._channels or {}).get(batch.channel)
        for index, message in enumerate(batch.messages):
            if filters is None or self._state not in (_OPEN, _CLIENT_CLOSED):
                return
            wanted = message.content_filters
            if wanted is not None and wanted != filters:
                self._on_mismatch(filters, wanted)
            elif message.action is Action.SEND:
                self._down.publish_one(batch, index)
                if self._later is not None:
                    self._later.on_sent()
            elif message.action is Action.REFRESH:
                if self._up is not None:
                    self._up.refresh()
            elif message.action is Action.CLOSE:
                self._close(message.code, message.reason)

    def _on_mismatch(self, filters: tuple[str, ...], wanted: tuple[str, ...]) -> None:
        """A message is for subscriptions with other content filters."""
        if self._debug():
            ours, theirs = ",".join(filters), ",".join(wanted)
            reason = f"content filter mismatch: subscription={ours} message={theirs}"
            self._close(INTERNAL_ERROR, reason.encode())

    def _close(self, code: int | None, reason: bytes) -> None:
        """Close both ends, on the publisher's or the proxy's account."""
        self._detach()
        self._close_client(code, reason)

    def _close_client(self, code: int | None, reason: bytes) -> None:
        if self._state is _CLIENT_CLOSED:  # the backend's answer is not needed any more
            self._end()
            self._down.close(code, reason)
            self._down.finish()
        else:
            self._begin_closing(code, reason)

    # Control messages.

    def _obey(self, control: Control) -> None:
        match control:
            case wscontrol.Subscribe(channel, filters):
                self._ask_to_subscribe(channel, filters)
            case wscontrol.Unsubscribe(channel):
                self._unsubscribe(self._outgoing.route.prefix + channel)
            case wscontrol.Detach():
                self._detaches = True
            case wscontrol.SetSession() | wscontrol.SetMeta():
                pass  # for state servers and filters, which this version does not have
            case wscontrol.KeepAlive(message, timeout, mode):
                self._sends_later().keep_alive(message, timeout, mode)
            case wscontrol.SendDelayed(message, timeout):
                self._sends_later().delay(message, timeout)
            case wscontrol.FlushDelayed():
                self._sends_later().flush_delayed()

    def _ask_to_subscribe(self, channel: str, filters: tuple[str, ...]) -> None:
        assert self._channels is not None
        front, number = self._front, self._down.number
        bound = front.limits.subscriptions_max
        if len(self._channels) >= bound:
            front.warn("connection %d has %d subscriptions already", number, bound)
            return
        if len(filters) > FILTERS_MAX:
            message = f"too many filters for channel '{channel}'"
            front.warn("connection %d closed: %s", number, message)
            self._close(INTERNAL_ERROR, message.encode() if self._debug() else b"")
            return
        if filters:
            front.warn("filters have no effect in this version: %s", self._url)
        chosen = tuple(name for name in filters if name in _CONTENT_FILTERS)
        self._subscribe(self._outgoing.route.prefix + channel, chosen)

    def _subscribe(self, channel: str, filters: tuple[str, ...]) -> None:
        channels, front = self._channels, self._front
        assert channels is not None
        is_new = channel not in channels
        channels[channel] = filters
        self._choose_way()
        if is_new:
            front.registry.subscribe(channel, self)
            if front.access.enabled and not self._outgoing.route.quiet:
                front.access.subscribe(self._url, channel, retry=False)

    def _unsubscribe(self, channel: str) -> None:
        channels = self._channels
        assert channels is not None
        if channel in channels and channel not in self.target.subs:
            del channels[channel]
            self._choose_way()
            self._front.registry.unsubscribe(channel, self)

    def _sends_later(self) -> Later:
        if self._later is None:
            self._later = Later(self._front, self._down)
        return self._later

    def _detach(self) -> None:
        if self._up is not None:
            self._up.detach()
            self._up = None
            self._down.resume()  # what the client sends is for nobody now

    # Steps.

    def _upstream(self, target: Target) -> Upstream:
        if target.test:
            return TestSocket(self, self._outgoing)
        if target.over_http:
            return OverHttp(self._front, self, self._outgoing, target)
        return Relay(self._front, self, self._outgoing, target)

    def _begin_closing(self, code: int | None, reason: bytes) -> None:
        self._stop()
        self._state = _CLOSING
        self._down.close(code, reason)

    def _end(self) -> None:
        self._stop()
        self._state = _ENDED
        self._up = None

    def _stop(self) -> None:
        """Nothing more is sent to the client but what the backend still says."""
        if self._channels is not None:
            for channel in self._channels:
                self._front.registry.unsubscribe(channel, self)
        self._channels = None
        self._each = True
        self._direct = None
        if self._later is not None:
            self._later.stop()
            self._later = None

    def _choose_way(self) -> None:
        """How published messages reach the client from now on."""
        channels = self._channels
        self._each = channels is None or any(channels.values())
        self._direct = None if self._each else self._down.direct

    def _debug(self) -> bool:
        return self._front.debug or self._outgoing.route.debug

    def _fail(self, error: BackendError | None, shown: str = "") -> None:
        """Refuse on the proxy's own account; `shown` is what to say where debugging is on."""
        self._front.warn("%s: %s", self._url, error)
        text = shown if shown and self._debug() else _ORIGIN_FAILED
        self._end()
        self._down.refuse(502, reason_phrase(502), [], f"{text}\n".encode())
