"""The terms of a hold: what an instruction can say, whichever way it came."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from gripproxy.errors import InstructError
from gripproxy.grip.fields import FILTERS_MAX, shown

# Seconds, as in Pushpin.
HOLD_TIMEOUT = 55
HOLD_TIMEOUT_MIN = 5
KEEP_ALIVE_TIMEOUT = 55
LINK_TIMEOUT = 120

# Pushpin: a response whose body the proxy has collected has no use for these.
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"content-encoding", b"transfer-encoding", b"content-length")
)


class HoldMode(Enum):
    """How a request is held: until one response, or as a stream that goes on."""

    RESPONSE = "response"
    STREAM = "stream"


class KeepAliveMode(Enum):
    """Whether content sent to the client restarts the wait for the keep-alive (IDLE) or not."""

    IDLE = "idle"
    INTERVAL = "interval"


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel to subscribe to. An empty `prev_id` is an id; None is none."""

    name: str
    prev_id: str | None = None
    filters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Content for a stream that is quiet, never empty; `timeout` in seconds, at least 1."""

    content: bytes
    timeout: int
    mode: KeepAliveMode


@dataclass(frozen=True, slots=True)
class NextLink:
    """Where a stream goes on."""

    uri: str  # as the backend gave it, so maybe relative
    timeout: int  # seconds until it is polled at the latest


@dataclass(frozen=True, slots=True)
class Response:
    """A response to a client, without the fields that frame its body."""

    code: int
    reason: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Instruct:
    """Whether and how to hold; `response` comes first in a stream, and last in a response hold."""

    hold: HoldMode | None
    channels: tuple[Channel, ...]
    timeout: int  # seconds
    keep_alive: KeepAlive | None
    meta: Mapping[str, str]
    response: Response
    next_link: NextLink | None
    gone_link: str | None


def checked(channel: Channel) -> Channel:
    """`channel`, if it has no more filters than Pushpin allows. Raises InstructError."""
    if len(channel.filters) > FILTERS_MAX:
        raise InstructError(f"too many filters for channel '{shown(channel.name)}'")
    return channel
