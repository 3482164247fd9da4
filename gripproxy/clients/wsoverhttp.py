"""WebSocket-over-HTTP: a session's messages as requests to a backend that knows only those.

What they say comes out of an `Outbox`; when they are made, and what their responses mean, is here.
Invariants: at most one request is outstanding, the wait for a retry included (`_asking`); once the
session wants no more (`_session` is None), responses are read only for what the backend accepts.
"""

import logging
import re
import uuid
from collections.abc import Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING

from gripproxy.backend.fetch import Fetch
from gripproxy.backend.request import KEPT_MAX, Outgoing
from gripproxy.clients.front import Front
from gripproxy.clients.outbox import EVENT_TYPES, Accepted, Outbox
from gripproxy.deadlines import Timed
from gripproxy.errors import (
    BackendError,
    BlockedError,
    ConnectError,
    EventsError,
    ResponseError,
)
from gripproxy.grip.item import PING_MAX
from gripproxy.grip.wsevents import Event, content_size, decode, encode
from gripproxy.http1.head import Headers, ResponseHead, header
from gripproxy.routes import Target, rewrite
from gripproxy.websocket.frames import PING, Frame, close_payload, parse_close

if TYPE_CHECKING:
    from gripproxy.clients.session import Session

log = logging.getLogger("gripproxy.clients")

EVENTS_TYPE = b"application/websocket-events"
# Bytes of events in one response, as in Pushpin.
RESPONSE_MAX = 1_000_000
# Seconds; Pushpin takes no shorter interval.
KEEP_ALIVE_MIN = 20
# Meta fields of one connection, which come with every request: as many as a head may have.
META_MAX = 64
# How often a request is sent again: after 1, 2, 4, 8 and 16 s and up to a second more each.
RETRIES_MAX = 5

_OPCODES = {name: opcode for opcode, name in EVENT_TYPES.items()}
_SET_META = b"set-meta-"
_FOR_PROXY = frozenset((b"keep-alive-interval", b"content-bytes-accepted"))
# Of the client's fields, those that the events' own requests set, or that mean nothing there.
_REPLACED = frozenset((b"accept", b"connection-id", b"content-type", b"content-bytes-replayed"))
_DIGITS = re.compile(rb"[0-9]{1,9}")
# What a request says that is not from the outbox.
_OPENING = (Event(b"OPEN"),)
_LEAVING = (Event(b"DISCONNECT"),)


class State(Enum):
    """How far the backend has come."""

    CONNECTING = auto()
    OPEN = auto()
    ANSWERED = auto()  # the backend has closed, and may yet hear how the client answers
    CLOSING = auto()  # a CLOSE is to be accepted by the backend, or was and is to be answered
    LOST = auto()  # the client is gone, and the backend has to hear of it
    ENDED = auto()


# In which the client's messages are for the backend.
_HEARING = (State.OPEN, State.ANSWERED)


class OverHttp(Timed):
    """The backend's end of one session: asks the backend with what the client sends."""

    __slots__ = (
        "_asking",
        "_events",
        "_fetch",
        "_front",
        "_head",
        "_interval",
        "_meta",
        "_outbox",
        "_outgoing",
        "_refresh",
        "_retries",
        "_session",
        "_state",
        "_target",
    )

    def __init__(
        self, front: Front, session: "Session", outgoing: Outgoing, target: Target
    ) -> None:
        super().__init__()
        self._front = front
        self._session: Session | None = session  # None: it wants no more
        self._target = target
        self._outgoing = outgoing
        self._head = _fixed_head(outgoing, target)
        self._state = State.CONNECTING
        self._asking = False
        self._fetch: Fetch | None = None
        self._events: Sequence[Event] = ()  # of the request that is outstanding
        self._retries = 0
        self._outbox = Outbox(front.limits.ws_queue_bytes, one_event=target.one_event)
        self._refresh = False
        self._interval = 0  # seconds between requests with nothing to say; 0: none
        self._meta: dict[bytes, tuple[bytes, bytes]] | None = None  # by lower-case name

    # What the session calls.

    def begin(self) -> None:
        self._ask(_OPENING)

    def send(self, piece: Frame) -> None:
        session, outbox = self._session, self._outbox
        if session is None or self._state not in _HEARING:
            return
        was_full = outbox.full
        if not outbox.add(piece):
            session.on_message_too_large()
        elif outbox.full and not was_full:
            session.on_backend_blocked()

    def flush(self) -> None:
        if (self._outbox.fresh or self._refresh) and not self._asking:
            self._go_on()

    def close(self, code: int | None, reason: bytes) -> None:
        if self._state in (State.LOST, State.ENDED):
            return
        self._outbox.close(close_payload(code, reason))
        if self._state is State.ANSWERED:
            self._session = None
        self._state = State.CLOSING
        if not self._asking:
            self._go_on()

    def detach(self) -> None:
        self._session = None
        if self._state is not State.CLOSING:
            self.close(None, b"")
        elif not self._asking:
            self._end()  # it had the client's close, and would have been asked again
        if self._fetch is not None:
            self._bound_request()

    def lost(self) -> None:
        """A DISCONNECT says so to the backend, unless it knows of the end already."""
        self._session = None
        self._outbox.clear()
        if self._front.stopping or (self._state is State.CONNECTING and not self._asking):
            self._end()
        elif self._state is not State.ENDED:
            self._state = State.LOST
            if not self._asking:
                self._go_on()
            elif self._fetch is not None and self._fetch.waits:
                self._give_up_request()
            elif self._fetch is not None:
                self._bound_request()

    def pause(self) -> None:
        """Nothing: what the client has left unread is looked at before the next request."""

    def resume(self) -> None:
        self.flush()

    def refresh(self) -> None:
        if self._state is State.OPEN:
            self._refresh = True
            if not self._asking:
                self._go_on()

    # The timer: of a retry while a request is outstanding, else of the keep-alive.

    def expired(self, now: float) -> None:
        if self._fetch is not None:
            self._give_up_request()
        elif self._asking:
            self._send()
        elif self._state is State.CONNECTING:
            self._ask(_OPENING)
        else:
            self._refresh = True
            self._outbox.repeat_close()
            self._go_on()

    # Requests.

    def _go_on(self) -> None:
        """No request is outstanding: send the next, or wait."""
        state, outbox = self._state, self._outbox
        if state is State.LOST:
            self._ask(_LEAVING)
        elif outbox.close_due or ((self._refresh or outbox.fresh) and self._has_room()):
            self._ask(outbox.offer())
        elif self._interval and state is not State.ANSWERED:
            self._front.deadlines.set(self, self._front.loop.time() + self._interval)

    def _has_room(self) -> bool:
        """Whether the client can take what the backend may say."""
        session = self._session
        return session is None or session.unread < self._front.limits.ws_queue_bytes

    def _ask(self, events: Sequence[Event]) -> None:
        self._front.deadlines.clear(self)
        self._asking = True
        self._refresh = False
        self._events = events
        self._send()

    def _send(self) -> None:
        """Send the request, maybe again, with a token of this moment."""
        outgoing, events, replayed = self._outgoing, self._events, self._outbox.replayed
        body = encode(events)
        lines = [self._head]
        lines += [b"%b: %b\r\n" % field for field in outgoing.transform.signature(outgoing.sender)]
        if replayed and (replayed := min(replayed, content_size(events))):
            lines.append(b"Content-Bytes-Replayed: %d\r\n" % replayed)
        if self._meta:
            lines += [b"Meta-%b: %b\r\n" % field for field in self._meta.values()]
        lines.append(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        fetch = self._fetch = Fetch(
            self._front.pool, self, self._target, outgoing.tls_name(self._target), b"".join(lines)
        )
        if self._session is None:
            self._bound_request()
        fetch.start()

    def _bound_request(self) -> None:
        """Nobody waits for the answer: a connection to the backend must not be held for long."""
        timeout = self._front.limits.ws_close_timeout
        self._front.deadlines.set(self, self._front.loop.time() + timeout)

    def _give_up_request(self) -> None:
        """Nobody waits for the answer any more, and it does not come."""
        fetch, self._fetch = self._fetch, None
        assert fetch is not None
        knows_nothing = self._is_opening and fetch.waits
        is_told = self._is_leaving or self._state is State.CLOSING
        fetch.abandon()
        self._tell_of_end(not (knows_nothing or is_told))

    def _again(self) -> bool:
        """Send it once more, later; False: it was sent often enough."""
        if self._retries >= RETRIES_MAX:
            return False
        delay = 2**self._retries + self._front.random.random()
        self._retries += 1
        self._front.deadlines.set(self, self._front.loop.time() + delay)
        return True

    # What the fetch calls.

    def on_head(self, head: ResponseHead) -> int:
        return RESPONSE_MAX if _has_events(head) else KEPT_MAX

    def on_fetched(self, head: ResponseHead, body: bytes, complete: bool) -> None:
        session, self._fetch = self._session, None
        if self._state is State.ENDED:
            return
        if not _has_events(head):
            if self._state is State.CONNECTING and session is not None:
                self._end()
                session.on_backend_refused(head.code, head.reason, _shown(head.headers), body)
            else:
                self._abort(_what_it_is(head))
            return
        try:
            if not complete:
                raise EventsError(f"its events are larger than {RESPONSE_MAX} bytes")
            events = decode(body)
            self._read_fields(head.headers)
            if self._is_opening:
                self._on_answer_to_open(head, events)
            else:
                self._on_answer(head, events)
        except EventsError as error:
            self._abort(str(error))

    def on_unfetched(self, error: BackendError, sent: bool) -> None:
        session, self._fetch = self._session, None
        if self._state is State.ENDED:
            return
        if self._is_opening:
            self._end()
            if session is None:
                return
            if isinstance(error, ConnectError | BlockedError):
                session.on_backend_unreachable(error)
            else:
                session.on_backend_failed(error)
        elif isinstance(error, BlockedError) or (sent and not isinstance(error, ConnectError)):
            self._abort(str(error))
        elif not self._again():
            self._abort(f"tried {RETRIES_MAX + 1} times: {error}")

    # Responses.

    def _on_answer_to_open(self, head: ResponseHead, events: list[Event]) -> None:
        """Raises EventsError."""
        session = self._session
        accepts = bool(events) and events[0].type == b"OPEN"
        if session is None:
            self._tell_of_end(accepts)
        elif accepts:
            self._state = State.OPEN
            session.on_backend_accepted(_shown(head.headers, accepts=True))
            self._take(events[1:], Accepted.SOMETHING)
        elif events or not self._interval:
            raise EventsError("its answer to OPEN has no OPEN, and no Keep-Alive-Interval")
        else:
            self._asking = False
            self._go_on()

    def _on_answer(self, head: ResponseHead, events: list[Event]) -> None:
        """Raises EventsError."""
        outbox, count = self._outbox, _number(head.headers, b"content-bytes-accepted")
        if self._state is State.LOST:
            kinds = {event.type for event in events}
            closed = outbox.knows_close(count) and (b"CLOSE" in kinds or not self._interval)
            self._tell_of_end(not (closed or b"DISCONNECT" in kinds or self._is_leaving))
            return
        was_full = outbox.full
        accepted = outbox.accept(count)
        if was_full:
            self._on_accepted_of_full()
        self._take(events, accepted)

    def _on_accepted_of_full(self) -> None:
        """The client could say no more, and the backend has accepted something since."""
        session, outbox = self._session, self._outbox
        if outbox.full and not outbox.is_stuck:
            self._refresh = True  # nothing else would have the rest offered
        elif session is not None and outbox.is_stuck:
            outbox.drop_partial()
            session.on_message_too_large()
        elif session is not None:
            session.on_backend_ready()

    def _take(self, events: Sequence[Event], accepted: Accepted) -> None:
        """Hand over what the backend says, and go on. Raises EventsError."""
        answered, heard = False, self._session
        for kind, content in events:
            session = self._session
            if session is None:
                break
            opcode = _OPCODES.get(kind)
            if opcode is not None:
                if opcode < PING or len(content) <= PING_MAX:
                    session.on_backend_frame(Frame(opcode, content))
            elif kind == b"CLOSE":
                answered = True
                if self._state is State.OPEN:
                    self._state = State.ANSWERED
                session.on_backend_close(*parse_close(content))
                break
            elif kind == b"DISCONNECT":
                self._end()
                session.on_backend_lost()
                return
            else:
                raise EventsError("it sent OPEN on an open connection")
        if heard is not None:
            heard.on_backend_read()
        if self._state in (State.LOST, State.ENDED):
            self._tell_of_end(self._state is State.LOST)
            return
        if self._state is State.CLOSING and answered:
            self._session = None
        if accepted is Accepted.NOTHING and self._outbox.close_due:
            # Nobody else would have the close sent again.
            self._events = self._outbox.offer()
            if not self._again():
                self._abort("it does not accept the messages before the close")
            return
        self._retries = 0
        self._asking = False
        self._events = ()
        if accepted is not Accepted.CLOSE:
            self._go_on()
        elif self._session is None:
            self._end()
        elif self._interval:
            self._front.deadlines.set(self, self._front.loop.time() + self._interval)
        else:
            self._abort("the close was not answered")

    def _tell_of_end(self, due: bool) -> None:
        """The session wants no more, and no request is outstanding now: say so, where due."""
        if due:
            self._asking = False
            self._go_on()
        else:
            self._end()

    def _abort(self, reason: str) -> None:
        """The backend is of no more use."""
        connecting, session = self._state is State.CONNECTING, self._session
        self._end()
        if session is None:
            log.debug("target %s: %s", self._target.name, reason)
        elif connecting:
            session.on_backend_failed(ResponseError(reason))
        else:
            session.on_backend_lost(f"target {self._target.name}: {reason}")

    def _end(self) -> None:
        self._state = State.ENDED
        self._session = None
        self._asking = False
        self._front.deadlines.clear(self)

    @property
    def _is_opening(self) -> bool:
        """Whether the request that is outstanding asks the backend to accept."""
        return self._events is _OPENING

    @property
    def _is_leaving(self) -> bool:
        """Whether the request that is outstanding says that the client is lost."""
        return self._events is _LEAVING

    def _read_fields(self, headers: Headers) -> None:
        """Raises EventsError."""
        for name, value in headers:
            key = name.lower()
            if key == b"keep-alive-interval":
                seconds = _integer(value)
                self._interval = max(seconds, KEEP_ALIVE_MIN) if seconds and seconds > 0 else 0
            elif key.startswith(_SET_META):
                meta = self._meta or {}
                short = key[len(_SET_META) :]
                if value:
                    meta[short] = name[len(_SET_META) :], value
                    if len(meta) > META_MAX:
                        raise EventsError(f"it set more than {META_MAX} Meta fields")
                else:
                    meta.pop(short, None)
                self._meta = meta or None


def _fixed_head(outgoing: Outgoing, target: Target) -> bytes:
    """What the head of every request of a session begins with."""
    fields = outgoing.transform.handshake(outgoing.headers, outgoing.sender, outgoing.scheme)
    lines = [
        b"POST %b HTTP/1.1\r\nHost: %b\r\n"
        % (rewrite(outgoing.route, outgoing.target), outgoing.authority(target))
    ]
    lines += [b"%b: %b\r\n" % field for field in fields if not _is_replaced(field[0].lower())]
    lines.append(
        b"Accept: %b\r\nConnection-Id: %b\r\nContent-Type: %b\r\n"
        % (EVENTS_TYPE, str(uuid.uuid4()).encode(), EVENTS_TYPE)
    )
    return b"".join(lines)


def _is_replaced(name: bytes) -> bool:
    return name in _REPLACED or name.startswith(b"meta-")


def _shown(headers: Headers, *, accepts: bool = False) -> Headers:
    """The fields of a response that are not for the proxy."""
    return [
        field
        for field in headers
        if (name := field[0].lower()) not in _FOR_PROXY
        and not name.startswith(_SET_META)
        and not (accepts and name == b"content-type")
    ]


def _what_it_is(head: ResponseHead) -> str:
    """What is wrong with a response that has no events."""
    if head.code != 200:
        return f"it answered {head.code}"
    found = (header(head.headers, b"content-type") or b"none").decode("latin-1")
    return f"it answered with Content-Type {found} instead of {EVENTS_TYPE.decode()}"


def _has_events(head: ResponseHead) -> bool:
    return head.code == 200 and header(head.headers, b"content-type") == EVENTS_TYPE


def _number(headers: Headers, name: bytes) -> int | None:
    value = header(headers, name)
    return None if value is None else _integer(value)


def _integer(value: bytes) -> int | None:
    return int(value) if _DIGITS.fullmatch(value) else None
