"""Every exception that gripproxy raises on purpose.

GripProxyError
├── ConfigError          a file or an option that the operator wrote is wrong; nothing starts
├── KeyFormatError       a signing key that cannot be used
├── HttpError            a peer broke HTTP/1.x as we accept it; carries the status to answer
├── InstructError        a backend's GRIP instruction does not parse
├── ItemError            a publish item does not parse
├── PatchError           a JSON patch does not apply
├── TnetstringError      bytes that are not a tnetstring
├── PublishError         gripproxy-publish could not hand its message over
├── CrossOriginError     JSON-P that cannot be translated; carries the status to answer
├── WebSocketError       a peer broke the WebSocket protocol; carries the code to close with
├── EventsError          a body that is not WebSocket events
└── BackendError         a backend gave no usable answer
    ├── ConnectError     no connection was made, so another target may be tried
    ├── BlockedError     the target's policy forbids every address that its name resolves to
    └── ResponseError    a connection was made, the answer was cut short or not HTTP
        └── ResponseTimeout   nothing of the answer came in time
"""

from pathlib import Path


class GripProxyError(Exception):
    """The root of the tree."""


class ConfigError(GripProxyError):
    """Something that the operator wrote is wrong; `str()` names the file and the line."""

    def __init__(
        self, reason: str, path: Path | str | None = None, line: int | None = None
    ) -> None:
        self.reason = reason
        self.path = path
        self.line = line
        place = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(place + reason)


class KeyFormatError(GripProxyError):
    """A signing key that cannot be used."""


class HttpError(GripProxyError):
    """A peer broke RFC 9112 or one of our bounds; `status` is what a server should answer."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class InstructError(GripProxyError):
    """A backend's GRIP instruction does not parse; `str()` is shown to clients of debug routes."""


class ItemError(GripProxyError):
    """A publish item does not parse; `str()` is shown to the publisher, and may be empty."""


class PatchError(GripProxyError):
    """A JSON patch does not apply to the document."""


class TnetstringError(GripProxyError):
    """Bytes that are not a tnetstring."""


class PublishError(GripProxyError):
    """The message was not handed over; `str()` is for the person at the shell."""


class CrossOriginError(GripProxyError):
    """A JSON-P request or answer that cannot be translated; `status` is what to answer."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class WebSocketError(GripProxyError):
    """A peer broke RFC 6455 or RFC 7692, or one of our bounds; `code` is what to close with."""

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.code = code


class EventsError(GripProxyError):
    """A body that is not WebSocket events."""


class BackendError(GripProxyError):
    """A backend gave no usable answer."""


class ConnectError(BackendError):
    """No connection to the target was made: nothing was sent, so another target may be tried."""


class BlockedError(BackendError):
    """The target is `untrusted` and its name resolves to private addresses only."""


class ResponseError(BackendError):
    """The target was reached, but its answer was cut short or not HTTP."""


class ResponseTimeout(ResponseError):
    """The target was reached, but nothing of an answer came in time."""
