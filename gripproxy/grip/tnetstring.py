"""Tagged netstrings: the values that Pushpin's ZeroMQ sockets carry (`5:hello,`, `3:5:x,...]`).

Strings are bytes, keys included. The size comes first, the type last: `,` string, `#` integer, `^`
float, `!` boolean, `~` null, `]` list, `}` dictionary.
"""

import math
import re

from gripproxy.errors import TnetstringError

# Deeper values are refused: each level is a call.
DEPTH_MAX = 64

_SIZE_DIGITS = 10
_INTEGER = re.compile(rb"-?[0-9]{1,19}")
_FLOAT = re.compile(rb"[+-]?[0-9]{1,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,4})?")
_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**63 - 1


def loads(data: bytes) -> object:
    """The one value that `data` holds. Raises TnetstringError."""
    value, end = _load(data, 0, len(data), 0)
    if end != len(data):
        raise TnetstringError("bytes after the value")
    return value


def dumps(value: object) -> bytes:
    """`value` as a tagged netstring, strings in UTF-8. Raises TnetstringError."""
    parts: list[bytes] = []
    _dump(value, parts, 0)
    parts.reverse()
    return b"".join(parts)


def _load(data: bytes, start: int, limit: int, depth: int) -> tuple[object, int]:
    """The value at `start`, which must end before `limit`, and the position after it."""
    colon = data.find(b":", start, start + _SIZE_DIGITS + 1)
    size = data[start:colon]
    if colon < 0 or not size.isdigit():
        raise TnetstringError("no size")
    start = colon + 1
    end = start + int(size)
    if end >= limit:
        raise TnetstringError("cut short")
    kind = data[end]
    if kind == 0x2C:  # ,
        return data[start:end], end + 1
    if kind != 0x7D and kind != 0x5D:  # } ]
        return _scalar(data[start:end], kind), end + 1
    if depth == DEPTH_MAX:
        raise TnetstringError("nested too deeply")
    if kind == 0x7D:
        pairs: dict[bytes, object] = {}
        while start < end:
            key, start = _load(data, start, end, depth + 1)
            if not isinstance(key, bytes):
                raise TnetstringError("key is not a string")
            pairs[key], start = _load(data, start, end, depth + 1)
        return pairs, end + 1
    items: list[object] = []
    while start < end:
        item, start = _load(data, start, end, depth + 1)
        items.append(item)
    return items, end + 1


def _scalar(content: bytes, kind: int) -> object:
    if kind == 0x23:  # #
        if _INTEGER.fullmatch(content):
            number = int(content)
            if _INTEGER_MIN <= number <= _INTEGER_MAX:
                return number
        raise TnetstringError("invalid integer")
    if kind == 0x5E:  # ^
        if _FLOAT.fullmatch(content):
            value = float(content)
            if math.isfinite(value):
                return value
        raise TnetstringError("invalid float")
    if kind == 0x21:  # !
        if content == b"true":
            return True
        if content == b"false":
            return False
        raise TnetstringError("invalid boolean")
    if kind == 0x7E:  # ~
        if not content:
            return None
        raise TnetstringError("invalid null")
    raise TnetstringError("unknown type")


def _dump(value: object, parts: list[bytes], depth: int) -> int:
    """Appends the pieces of `value`, the last first since sizes lead; returns their length."""
    if isinstance(value, str):
        try:
            value = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise TnetstringError("string with half a surrogate pair") from error
    if isinstance(value, bytes):
        return _wrap(value, b",", parts)
    if value is None:
        return _wrap(b"", b"~", parts)
    if isinstance(value, bool):
        return _wrap(b"true" if value else b"false", b"!", parts)
    if isinstance(value, int):
        if not _INTEGER_MIN <= value <= _INTEGER_MAX:
            raise TnetstringError("integer out of range")
        return _wrap(b"%d" % value, b"#", parts)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TnetstringError("float out of range")
        return _wrap(repr(value).encode(), b"^", parts)
    if depth == DEPTH_MAX:
        raise TnetstringError("nested too deeply")
    size = 0
    if isinstance(value, dict):
        parts.append(b"}")
        for key in reversed(value):
            if not isinstance(key, bytes | str):
                raise TnetstringError("key is not a string")
            size += _dump(value[key], parts, depth + 1)
            size += _dump(key, parts, depth + 1)
    elif isinstance(value, list | tuple):
        parts.append(b"]")
        for item in reversed(value):
            size += _dump(item, parts, depth + 1)
    else:
        raise TnetstringError(f"{type(value).__name__} has no form")
    head = b"%d:" % size
    parts.append(head)
    return len(head) + size + 1


def _wrap(content: bytes, kind: bytes, parts: list[bytes]) -> int:
    piece = b"%d:%b%b" % (len(content), content, kind)
    parts.append(piece)
    return len(piece)
