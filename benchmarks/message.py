"""What clients are held for: the message that is published, and the time it carries."""

import time
from enum import Enum

SIZE = 100  # bytes
CHANNEL = "bench"


class Hold(Enum):
    """How clients are held; the value is loadgen's mode and the backend's path."""

    STREAM = "stream"
    POLL = "poll"
    WEBSOCKET = "ws"

    @property
    def path(self) -> str:
        """The target of the request that is held."""
        return f"/{self.value}"


_FIELDS = {
    Hold.STREAM: ("http-stream", "content"),
    Hold.POLL: ("http-response", "body"),
    Hold.WEBSOCKET: ("ws-message", "content"),
}


def message() -> bytes:
    """A message of `SIZE` bytes that tells loadgen when it was made."""
    return (b"T%019d\n" % time.monotonic_ns()).ljust(SIZE, b"x")


def grip_item(hold: Hold, content: bytes) -> bytes:
    """A JSON item that publishes `content` to those who are held."""
    name, field = _FIELDS[hold]
    text = content.decode().replace("\n", "\\n")
    return f'{{"channel":"{CHANNEL}","formats":{{"{name}":{{"{field}":"{text}"}}}}}}'.encode()
