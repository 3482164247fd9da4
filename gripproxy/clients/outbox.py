"""What waits for a backend that takes events: a client's messages, and the CLOSE behind them.

Invariant: what was offered stays here until the backend has accepted it, and is the first to be
offered again, so the backend gets every byte in order. Whoever fills the outbox is to stop until
there is room; what was on its way is taken all the same.
"""

from collections.abc import Sequence
from enum import Enum, auto

from gripproxy.errors import EventsError
from gripproxy.grip.wsevents import Event, content_size, unaccepted
from gripproxy.websocket.frames import BINARY, CONT, PING, PONG, TEXT, Frame

# What a message occupies besides its content, so that empty ones are bounded too.
EVENT_COST = 64

EVENT_TYPES = {TEXT: b"TEXT", BINARY: b"BINARY", PING: b"PING", PONG: b"PONG"}


class Accepted(Enum):
    """What a backend has accepted of what it was offered."""

    NOTHING = auto()
    SOMETHING = auto()  # or there was nothing to accept
    CLOSE = auto()  # all of it, with a CLOSE


# Python 3.11 takes 80 ns to find a member in its class.
_NOTHING, _SOMETHING, _CLOSE = Accepted.NOTHING, Accepted.SOMETHING, Accepted.CLOSE


class Outbox:
    """The messages of one client, from their first byte to their acceptance."""

    __slots__ = (
        "_bound",
        "_close",
        "_cut",
        "_messages",
        "_offered",
        "_one_event",
        "_partial",
        "_partial_type",
        "_size",
        "close_due",
        "fresh",
        "full",
        "replayed",
    )

    def __init__(self, bound: int, *, one_event: bool) -> None:
        self._bound = bound  # bytes
        self._one_event = one_event  # no more in one offer
        self._messages: list[Event] | None = None  # whole ones; None costs idle sessions nothing
        self._partial: bytearray | None = None  # the message that has begun
        self._partial_type = b""
        self._size = 0  # bytes that they occupy
        self._offered: Sequence[Event] = ()
        self._cut = False  # the offer could not hold all the messages
        self._close: Event | None = None  # comes behind the messages
        self.close_due = False  # it is still to be offered
        self.fresh = False  # there are messages that were never offered
        self.full = False  # the client is to say no more until something is accepted
        self.replayed = 0  # leading bytes of content that were offered before

    # What the client says.

    def add(self, piece: Frame) -> bool:
        """Take a message, or a piece of one; False: it is too large, and given up."""
        opcode, payload, fin = piece
        if fin and opcode != CONT:
            message = Event(EVENT_TYPES[opcode], payload)
        else:
            if opcode != CONT:
                self._partial = bytearray()
                self._partial_type = EVENT_TYPES[opcode]
            if self._partial is None:
                return True  # the rest of one that was given up
            self._partial += payload
            self._size += len(payload)
            if not fin:
                return self._size < self._bound or self._fill()
            message = Event(self._partial_type, bytes(self._partial))
            self.drop_partial()
        size = len(message.content)
        if size > self._bound:
            return False
        if self._messages is None:
            self._messages = [message]
        else:
            self._messages.append(message)
        self._size += size + EVENT_COST
        self.fresh = True
        if self._size >= self._bound:
            self.full = True
        return True

    def _fill(self) -> bool:
        """No room is left for the rest of a message; False: it takes all of it by itself."""
        if self._messages is None:
            self.drop_partial()
            return False
        self.full = True
        return True

    def close(self, payload: bytes) -> None:
        """The client says no more: a message that has begun is dropped."""
        self.drop_partial()
        self._close = Event(b"CLOSE", payload)
        self.close_due = True

    def repeat_close(self) -> None:
        """Offer the CLOSE once more, if there is one."""
        self.close_due = self._close is not None

    def drop_partial(self) -> None:
        """Forget the message that has begun; the rest of it will be ignored."""
        self._size -= len(self._partial or b"")
        self._partial = None

    def clear(self) -> None:
        """Forget everything, except what is offered now: that may have to be said again."""
        self._partial = self._messages = self._close = None
        self._size = 0
        self.fresh = self.full = self.close_due = False

    @property
    def is_stuck(self) -> bool:
        """Whether all the room is taken by a message that has begun, and so can never end."""
        return self.full and self._messages is None

    # What the backend hears of it.

    def offer(self) -> list[Event]:
        """What the next request says: all that there is, or one event."""
        messages = self._messages or []
        events = messages[:1] if self._one_event else messages.copy()
        self.fresh = self._cut = len(events) < len(messages)
        if self._close is not None and not (self._cut or (self._one_event and events)):
            events.append(self._close)
            self.close_due = False
        self._offered = events
        return events

    def accept(self, count: int | None) -> Accepted:
        """The backend has accepted `count` bytes of the offer's content; None: all of it.

        Raises EventsError when that cannot be, or when it could go on like that for ever.
        """
        offered = self._offered
        closes = self._offers_close()
        messages = offered[:-1] if closes else offered
        size, whole = content_size(messages), content_size(offered)
        left: list[Event] = []
        if count is not None and count != whole:
            if count > whole:
                raise EventsError("it accepted more content than it was offered")
            if count >= size:
                raise EventsError("it accepted everything but the close")
            # Nothing new would come into the next offer, so it would be the same.
            if not count and (self._cut or (self.full and not self.fresh)):
                raise EventsError("it accepted nothing, and ws_queue_bytes wait for it")
            left = unaccepted(messages, count)
            closes = False
            self.repeat_close()
        if self._messages is not None:
            self._messages = left + self._messages[len(messages) :] or None
        self._offered = ()
        self.replayed = content_size(left)
        self._size -= size - self.replayed + EVENT_COST * (len(messages) - len(left))
        self.full = self._size >= self._bound
        if closes:
            return _CLOSE
        return _NOTHING if left and not count else _SOMETHING

    def knows_close(self, count: int | None) -> bool:
        """Whether the backend, if it accepts `count` bytes, has the CLOSE."""
        return self._offers_close() and (count is None or count == content_size(self._offered))

    def _offers_close(self) -> bool:
        return bool(self._offered) and self._offered[-1].type == b"CLOSE"
