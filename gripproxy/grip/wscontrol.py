"""Control messages: what a backend tells the proxy inside a WebSocket connection.

They are JSON objects in text messages that begin with `c:`. Nobody answers a backend, so a message
that does not parse is ignored.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gripproxy.errors import GripProxyError
from gripproxy.grip import fields
from gripproxy.grip.item import NAMES_MAX, PING_MAX, Action, WsMessage, WsType
from gripproxy.grip.terms import KEEP_ALIVE_TIMEOUT, KeepAliveMode

# Seconds, as in Pushpin.
SEND_DELAYED_TIMEOUT = 1

_WS_TYPES = {kind.value: kind for kind in WsType}

_Object = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribes to a channel, or replaces its filters, of which there may be too many."""

    channel: str  # without the route's prefix, never empty
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Ends the subscription to a channel, if there is one."""

    channel: str  # without the route's prefix, never empty


@dataclass(frozen=True, slots=True)
class Detach:
    """Ends the backend's side; the client stays."""


@dataclass(frozen=True, slots=True)
class SetSession:
    """Sets the id that a state server knows the connection by; None takes it away."""

    id: str | None


@dataclass(frozen=True, slots=True)
class SetMeta:
    """Sets a variable for filters; None takes it away."""

    name: str  # never empty
    value: str | None


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Sends `message` again and again; None ends it. `timeout` in seconds, at least 1."""

    message: WsMessage | None
    timeout: int
    mode: KeepAliveMode


@dataclass(frozen=True, slots=True)
class SendDelayed:
    """Sends `message` once, after `timeout` seconds (at least 1)."""

    message: WsMessage
    timeout: int


@dataclass(frozen=True, slots=True)
class FlushDelayed:
    """Sends the delayed message now, if there is one."""


Control = (
    Subscribe | Unsubscribe | Detach | SetSession | SetMeta | KeepAlive | SendDelayed | FlushDelayed
)


class _Ignored(GripProxyError):
    """A message without effect; never leaves this module."""


def parse(message: bytes) -> Control | None:
    """The control message in `message`, which is without its `c:`; None: it is to be ignored."""
    try:
        document = fields.load_json(message)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    kind = document.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        return None
    try:
        return reader(document)
    except _Ignored:
        return None


def _subscribe(obj: _Object) -> Subscribe:
    filters = obj.get("filters", [])
    if not isinstance(filters, list):
        raise _Ignored
    if not all(isinstance(name, str) for name in filters):
        raise _Ignored
    return Subscribe(_name(obj, "channel"), tuple(filters))


def _unsubscribe(obj: _Object) -> Unsubscribe:
    return Unsubscribe(_name(obj, "channel"))


def _detach(_: _Object) -> Detach:
    return Detach()


def _session(obj: _Object) -> SetSession:
    return SetSession(_text(obj, "id") or None)


def _set_meta(obj: _Object) -> SetMeta:
    return SetMeta(_name(obj, "name"), _text(obj, "value"))


def _keep_alive(obj: _Object) -> KeepAlive:
    kind, content = _kind(obj), _content(obj)
    # Pushpin: every mode but this one means idle.
    interval = _text(obj, "mode") == KeepAliveMode.INTERVAL.value
    mode = KeepAliveMode.INTERVAL if interval else KeepAliveMode.IDLE
    if content is None:
        return KeepAlive(None, KEEP_ALIVE_TIMEOUT, mode)
    return KeepAlive(_message(kind, content), _timeout(obj, KEEP_ALIVE_TIMEOUT), mode)


def _send_delayed(obj: _Object) -> SendDelayed:
    kind, content = _kind(obj), _content(obj)
    if content is None:
        return SendDelayed(WsMessage(Action.SEND, kind, b""), SEND_DELAYED_TIMEOUT)
    return SendDelayed(_message(kind, content), _timeout(obj, SEND_DELAYED_TIMEOUT))


def _flush_delayed(_: _Object) -> FlushDelayed:
    return FlushDelayed()


_READERS: dict[str, Callable[[_Object], Control]] = {
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "detach": _detach,
    "session": _session,
    "set-meta": _set_meta,
    "keep-alive": _keep_alive,
    "send-delayed": _send_delayed,
    "flush-delayed": _flush_delayed,
}


def _text(obj: _Object, name: str) -> str | None:
    return fields.text(obj, name, "control message", _Ignored) if name in obj else None


def _name(obj: _Object, name: str) -> str:
    value = _text(obj, name)
    if not value or len(value) > NAMES_MAX:
        raise _Ignored
    return value


def _kind(obj: _Object) -> WsType:
    given = _text(obj, "message-type")
    # Pushpin: text is the default even where the content is binary.
    kind = WsType.TEXT if given is None else _WS_TYPES.get(given)
    if kind is None:
        raise _Ignored
    return kind


def _content(obj: _Object) -> bytes | None:
    binary = _text(obj, "content-bin")
    if binary is not None:
        return fields.decode_base64(binary)
    content = _text(obj, "content")
    return None if content is None else fields.encode(content)


def _message(kind: WsType, content: bytes) -> WsMessage:
    if len(content) > PING_MAX and kind in (WsType.PING, WsType.PONG):
        raise _Ignored
    return WsMessage(Action.SEND, kind, content)


def _timeout(obj: _Object, default: int) -> int:
    if "timeout" not in obj:
        return default
    if isinstance(obj["timeout"], bool):
        raise _Ignored
    return fields.number(obj, "timeout", "control message", _Ignored) or default
