"""Publish items: what arrives at the control inputs, checked as a whole.

JSON and tnetstrings carry the same items. Tnetstring bytes become text by surrogateescape, which
loses nothing, so that one reader serves both; they differ in binary content and in what null means
(absent in a tnetstring, an error in JSON). Messages are Pushpin's, since publishers show them.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from gripproxy.errors import ItemError, TnetstringError
from gripproxy.grip import fields, tnetstring
from gripproxy.http1.status import reason_phrase

# RFC 6455 §5.5: control frames carry 125 bytes, two of which are a close frame's code.
PING_MAX = 125
CLOSE_REASON_MAX = 123

# Characters of channel and ids, which are remembered longer than the item. Pushpin has no bound.
NAMES_MAX = 8192

_NO_META: Mapping[str, str] = MappingProxyType({})


class Action(Enum):
    """What a subscriber does with an item of one format."""

    SEND = "send"
    HINT = "hint"
    CLOSE = "close"
    REFRESH = "refresh"


class WsType(Enum):
    """The kind of WebSocket message."""

    TEXT = "text"
    BINARY = "binary"
    PING = "ping"
    PONG = "pong"


_ACTIONS = {action.value: action for action in Action}
_WS_TYPES = {kind.value: kind for kind in WsType}
# Python 3.11 takes 80 ns to find a member in its class.
_SEND, _CLOSE = Action.SEND, Action.CLOSE
_TEXT, _BINARY, _PING, _PONG = WsType.TEXT, WsType.BINARY, WsType.PING, WsType.PONG


class HttpResponse(NamedTuple):
    """The answer to held requests: a body, or a patch for the body that the hold came with."""

    action: Action
    code: int = 200
    reason: bytes = b"OK"
    headers: tuple[tuple[bytes, bytes], ...] = ()  # `respond` drops what is not for clients
    body: bytes = b""
    body_patch: Sequence[object] | None = None  # None: `body` counts
    content_filters: tuple[str, ...] | None = None


class HttpStream(NamedTuple):
    """A piece of a stream's body."""

    action: Action
    content: bytes = b""
    content_filters: tuple[str, ...] | None = None


class WsMessage(NamedTuple):
    """A WebSocket message, or the close frame that ends the connection."""

    action: Action
    type: WsType = WsType.TEXT
    content: bytes = b""
    code: int | None = None  # 16 bits, legal or not; without one there is no reason
    reason: bytes = b""
    content_filters: tuple[str, ...] | None = None


class Item(NamedTuple):
    """One publish: a channel, and what each kind of subscriber gets."""

    channel: str
    id: str | None = None
    prev_id: str | None = None
    http_response: HttpResponse | None = None
    http_stream: HttpStream | None = None
    ws_message: WsMessage | None = None
    meta: Mapping[str, str] = _NO_META
    size: int | None = None  # bytes, in place of the content's
    no_seq: bool = False


def content_size(item: Item) -> int:
    """Bytes of content in all formats of `item`."""
    response, stream, message = item.http_response, item.http_stream, item.ws_message
    size = len(stream.content) if stream is not None else 0
    if response is not None:
        size += len(response.body)
    if message is not None:
        size += len(message.content)
    return size


def footprint(item: Item) -> int:
    """Bytes that `item` occupies, about: its content, names, headers and patch."""
    size = content_size(item)
    size += len(item.channel) + len(item.id or "") + len(item.prev_id or "")
    response = item.http_response
    if response is not None:
        size += sum(len(name) + len(value) for name, value in response.headers)
        if response.body_patch is not None:
            size += _patch_size(response.body_patch)
    return size


def _patch_size(patch: Sequence[object]) -> int:
    # Without recursion: how deep a patch goes is the publisher's choice.
    size = 0
    left: list[object] = list(patch)
    while left:
        value = left.pop()
        size += 8
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, dict):
            size += sum(map(len, value))
            left += value.values()
        elif isinstance(value, list):
            left += value
    return size


def parse_publish_body(body: bytes) -> tuple[Item, ...]:
    """The items of an HTTP publish. Raises ItemError with the line to answer, without newline."""
    try:
        document = fields.load_json(body)
    except ValueError as error:
        raise ItemError("Body is not valid JSON.") from error
    if not isinstance(document, dict):
        if isinstance(document, list):
            raise ItemError("Invalid format.")
        # Pushpin: a JSON text is an object or an array.
        raise ItemError("Body is not valid JSON.")
    if "items" not in document:
        raise ItemError("Invalid format: object does not contain 'items'")
    items = document["items"]
    if not isinstance(items, list):
        raise ItemError("Invalid format: object contains 'items' with wrong type")
    try:
        return tuple([_item(item, False) for item in items])
    except ItemError as error:
        raise ItemError(f"Invalid format: {error}") from error


def parse_frame(payload: bytes, topic: bytes | None = None) -> Item:
    """The item in a ZeroMQ frame: `J` and JSON, or a tnetstring with or without a `T` before it.

    A `topic` that is not empty is its channel. Raises ItemError.
    """
    if payload.startswith(b"J"):
        try:
            document = fields.load_json(payload[1:])
        except ValueError as error:
            raise ItemError("not valid JSON") from error
        return _item(document, False, _decode(topic) if topic else None)
    try:
        value = tnetstring.loads(payload[1:] if payload.startswith(b"T") else payload)
    except TnetstringError as error:
        raise ItemError(f"not a tnetstring: {error}") from error
    return parse_tnetstring(value, topic)


def parse_json(obj: object) -> Item:
    """The item in a value of `load_json`. Raises ItemError."""
    return _item(obj, False)


def parse_tnetstring(obj: object, topic: bytes | None = None) -> Item:
    """The item in a value of `tnetstring.loads`; a `topic` that is not empty is its channel.

    Raises ItemError.
    """
    return _item(_as_text(obj), True, _decode(topic) if topic else None)


def _item(obj: object, binary: bool, channel: str | None = None) -> Item:
    parent = "publish item object"
    if not isinstance(obj, dict):
        raise ItemError("publish item object is not an object")
    if binary:
        obj = _without_null(obj)
    if channel is None:
        if "channel" not in obj:
            raise ItemError("publish item object does not contain 'channel'")
        channel = fields.text(obj, "channel", parent, ItemError)
    item_id = fields.text(obj, "id", parent, ItemError) if "id" in obj else None
    prev_id = fields.text(obj, "prev-id", parent, ItemError) if "prev-id" in obj else None
    if len(channel) + len(item_id or "") + len(prev_id or "") > NAMES_MAX:
        raise ItemError(f"'channel', 'id' and 'prev-id' are longer than {NAMES_MAX} characters")
    if "formats" in obj:
        formats = obj["formats"]
        if not isinstance(formats, dict):
            raise ItemError("publish item object contains 'formats' with wrong type")
        if binary:
            formats = _without_null(formats)
        if not formats:
            raise ItemError("no formats specified")
    else:
        formats = obj
        if not ("http-stream" in obj or "ws-message" in obj or "http-response" in obj):
            raise ItemError("no formats specified")
    return Item(
        channel,
        item_id,
        prev_id,
        _http_response(formats["http-response"], binary) if "http-response" in formats else None,
        _http_stream(formats["http-stream"], binary) if "http-stream" in formats else None,
        _ws_message(formats["ws-message"], binary) if "ws-message" in formats else None,
        fields.meta(obj, parent, ItemError) if "meta" in obj else _NO_META,
        fields.number(obj, "size", parent, ItemError) if "size" in obj else None,
        "no-seq" in obj and _flag(obj, "no-seq", parent),
    )


def _http_response(value: object, binary: bool) -> HttpResponse:
    parent = "'http-response'"
    obj = _object(value, binary, parent)
    action = _action(obj, parent) if "action" in obj else _SEND
    if action is not _SEND:
        return HttpResponse(action)
    code = fields.number(obj, "code", parent, ItemError, 999) if "code" in obj else 200
    reason = fields.reason(obj, parent, ItemError) if "reason" in obj else b""
    headers = fields.headers(obj, parent, ItemError) if "headers" in obj else ()
    body = b""
    patch: Sequence[object] | None = None
    if "body-bin" in obj and not binary:
        body = fields.decode_base64(fields.text(obj, "body-bin", parent, ItemError))
    elif "body" in obj:
        body = fields.encode(fields.text(obj, "body", parent, ItemError))
    elif "body-patch" in obj:
        value = obj["body-patch"]
        if not isinstance(value, list):
            raise ItemError("'http-response' contains 'body-patch' with wrong type")
        patch = value
    elif binary:
        raise ItemError("'http-response' does not contain 'body' or 'body-patch'")
    else:
        raise ItemError("'http-response' does not contain 'body', 'body-bin', or 'body-patch'")
    filters = _content_filters(obj, parent) if "content-filters" in obj else None
    return HttpResponse(action, code, reason or reason_phrase(code), headers, body, patch, filters)


def _http_stream(value: object, binary: bool) -> HttpStream:
    parent = "'http-stream'"
    obj = _object(value, binary, parent)
    action = _action(obj, parent) if "action" in obj else _SEND
    if action is not _SEND:
        return HttpStream(action)
    if "content-bin" in obj and not binary:
        content = fields.decode_base64(fields.text(obj, "content-bin", parent, ItemError))
    elif "content" in obj:
        content = fields.encode(fields.text(obj, "content", parent, ItemError))
    elif binary:
        raise ItemError("'http-stream' does not contain 'content'")
    else:
        raise ItemError("'http-stream' does not contain 'content' or 'content-bin'")
    filters = _content_filters(obj, parent) if "content-filters" in obj else None
    return HttpStream(action, content, filters)


def _ws_message(value: object, binary: bool) -> WsMessage:
    parent = "'ws-message'"
    obj = _object(value, binary, parent)
    action = _action(obj, parent) if "action" in obj else _SEND
    if action is _CLOSE:
        return _ws_close(obj, parent)
    if action is not _SEND:
        return WsMessage(action)
    kind: WsType | None = None
    if "type" in obj:
        kind = _WS_TYPES.get(fields.text(obj, "type", parent, ItemError))
        if kind is None:
            raise ItemError("'ws-message' contains 'type' with unknown value")
    content = b""
    if "content-bin" in obj:
        text = fields.text(obj, "content-bin", parent, ItemError)
        content = fields.encode(text) if binary else fields.decode_base64(text)
        kind = kind or _BINARY
    elif "content" in obj:
        content = fields.encode(fields.text(obj, "content", parent, ItemError))
        kind = kind or _TEXT
    elif kind is not _PING and kind is not _PONG:
        raise ItemError("'ws-message' does not contain 'content' or 'content-bin'")
    if kind is _TEXT and not _is_utf8(content):
        raise ItemError("'ws-message' contains text that is not UTF-8")
    if len(content) > PING_MAX and (kind is _PING or kind is _PONG):
        raise ItemError(f"'ws-message' contains 'content' over {PING_MAX} bytes for {kind.value}")
    filters = _content_filters(obj, parent) if "content-filters" in obj else None
    return WsMessage(action, kind, content, None, b"", filters)


def _is_utf8(content: bytes) -> bool:
    """Whether clients take `content` as text; they fail the connection if not (RFC 6455 §8.1)."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _ws_close(obj: dict[str, object], parent: str) -> WsMessage:
    reason = b""
    if "reason" in obj:
        reason = fields.encode(fields.text(obj, "reason", parent, ItemError))
    if len(reason) > CLOSE_REASON_MAX:
        raise ItemError(f"'ws-message' contains 'reason' over {CLOSE_REASON_MAX} bytes")
    if "code" not in obj:
        return WsMessage(_CLOSE)
    code = fields.number(obj, "code", parent, ItemError) & 0xFFFF
    return WsMessage(_CLOSE, code=code, reason=reason)


def _object(value: object, binary: bool, parent: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ItemError(f"{parent} is not an object")
    return _without_null(value) if binary else value


def _action(obj: dict[str, object], parent: str) -> Action:
    action = _ACTIONS.get(fields.text(obj, "action", parent, ItemError))
    if action is None:
        raise ItemError("")
    return action


def _content_filters(obj: dict[str, object], parent: str) -> tuple[str, ...]:
    names = obj["content-filters"]
    if not isinstance(names, list):
        raise ItemError(f"{parent} contains 'content-filters' with wrong type")
    if not all(isinstance(name, str) for name in names):
        raise ItemError("content-filters contains element with wrong type")
    return tuple(names)


def _flag(obj: dict[str, object], name: str, parent: str) -> bool:
    value = obj[name]
    if not isinstance(value, bool):
        raise ItemError(f"{parent} contains '{name}' with wrong type")
    return value


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _as_text(value: object) -> object:
    """`value` with every string as text. Its depth is bounded by `tnetstring.DEPTH_MAX`."""
    if isinstance(value, bytes):
        return _decode(value)
    if isinstance(value, dict):
        return {_decode(key): _as_text(content) for key, content in value.items()}
    if isinstance(value, list):
        return [_as_text(element) for element in value]
    return value


def _without_null(obj: dict[str, object]) -> dict[str, object]:
    if None not in obj.values():
        return obj
    return {key: value for key, value in obj.items() if value is not None}
