"""The `grip` extension: how a backend's messages for the client and for the proxy are told apart.

In a connection whose backend accepted it, text that begins with `c:` is a control message, what
begins with the agreed prefix goes to the client without it, and other messages go nowhere.
"""

from collections.abc import Iterable
from enum import Enum
from functools import lru_cache

from gripproxy.grip import params
from gripproxy.websocket.frames import CONT, TEXT, Frame

# Bytes of a control message.
CONTROL_MAX = 1_000_000

_CONTROL_PREFIX = b"c:"
_DEFAULT_PREFIX = b"m:"


def message_prefix(values: Iterable[bytes]) -> bytes | None:
    """The prefix of messages for the client, from a response's Sec-WebSocket-Extensions headers.

    None: the backend did not accept `grip`, or not in a readable way.
    """
    grip = _grip(tuple(values))
    return None if grip is None else grip[1]


def grip_extension(values: Iterable[bytes]) -> bytes | None:
    """The element of Sec-WebSocket-Extensions with which a backend accepted `grip`, or None."""
    grip = _grip(tuple(values))
    return None if grip is None else grip[0]


@lru_cache(maxsize=256)  # a backend says the same each time
def _grip(values: tuple[bytes, ...]) -> tuple[bytes, bytes] | None:
    """The first element for `grip`, and the prefix that it sets; None: it is absent or broken."""
    for piece in params.split_list(values):
        if piece.partition(b";")[0].strip() != b"grip":
            continue
        element = params.parse_element(piece)
        if element is None:
            return None
        # Pushpin: a parameter that ends the element with `=` makes it unreadable.
        if piece.endswith(b"=") and not element.params[-1][1]:
            return None
        # Pushpin: names are case-sensitive, the last one counts, and without `=` it is empty.
        return piece, dict(element.params).get(b"message-prefix", _DEFAULT_PREFIX) or b""
    return None


class _State(Enum):
    """What becomes of the message that has begun."""

    BETWEEN = "between"  # none has begun
    UNDECIDED = "undecided"  # too little of it is known
    RELAYED = "relayed"
    CONTROL = "control"
    DROPPED = "dropped"


# Python 3.11 takes 80 ns to find a member in its class.
_BETWEEN, _UNDECIDED, _RELAYED = _State.BETWEEN, _State.UNDECIDED, _State.RELAYED


class MessageFilter:
    """Sorts a backend's data frames: messages for the client, control messages, neither.

    Messages may come in any number of frames. What is for the client goes on as it comes. The
    frames must be a sequence that RFC 6455 §5.4 allows; control frames are not for it.
    """

    __slots__ = ("_head", "_opcode", "_prefix", "_state")

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._state = _BETWEEN
        self._head = bytearray()  # of an undecided message, or a control message so far
        self._opcode = CONT  # of the next frame to relay

    def feed(self, frame: Frame) -> Frame | bytes | None:
        """A frame for the client, or a whole control message without its `c:`, or nothing yet."""
        opcode, payload, fin = frame
        if not fin or self._state is not _BETWEEN:
            return self._feed_piece(opcode, payload, fin)
        if opcode == TEXT and payload.startswith(_CONTROL_PREFIX):
            return payload[2:] if len(payload) <= CONTROL_MAX + 2 else None
        prefix = self._prefix
        if not payload.startswith(prefix):
            return None
        # Runs for each message; the class's own call takes 0.1 µs longer.
        return tuple.__new__(Frame, (opcode, payload[len(prefix) :], True))

    def _feed_piece(self, opcode: int, payload: bytes, fin: bool) -> Frame | bytes | None:
        head, state = self._head, self._state
        if state is _BETWEEN:
            self._opcode = opcode
            state = _UNDECIDED
        if state is _UNDECIDED:
            head += payload
            state = self._decide(fin)
            if state is _RELAYED:
                payload = bytes(head[len(self._prefix) :])
        elif state is _State.CONTROL:
            head += payload
        if state is _State.CONTROL and len(head) > CONTROL_MAX + 2:
            state = _State.DROPPED
        result: Frame | bytes | None = None
        if state is _RELAYED and (payload or fin):
            result = Frame(self._opcode, payload, fin)
            self._opcode = CONT
        elif state is _State.CONTROL and fin:
            result = bytes(head[2:])
        if fin or state is _RELAYED or state is _State.DROPPED:
            head.clear()
        self._state = _BETWEEN if fin else state
        return result

    def _decide(self, fin: bool) -> _State:
        head, prefix = self._head, self._prefix
        if self._opcode == TEXT:
            if head.startswith(_CONTROL_PREFIX):
                return _State.CONTROL
            if not fin and _CONTROL_PREFIX.startswith(head):
                return _UNDECIDED
        if head.startswith(prefix):
            return _RELAYED
        if not fin and prefix.startswith(head):
            return _UNDECIDED
        return _State.DROPPED
