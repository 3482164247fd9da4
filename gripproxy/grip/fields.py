"""Fields of JSON objects: read as leniently as Pushpin does, refused in its words."""

import binascii
import json
import math
import re
from collections.abc import Mapping

import orjson

from gripproxy.errors import GripProxyError

# Numbers are 32 bits wide in Pushpin; a larger one is refused rather than wrapped around.
INTEGER_MAX = 2**31 - 1

# More of them on one channel is an error; also the limit for WebSocket subscriptions.
FILTERS_MAX = 5

_DECIMAL = re.compile(r"\s*([+-]?[0-9]{1,10})\s*", re.ASCII)
_NOT_BASE64 = bytes(
    set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
)
_HEADER_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LINE_BREAK = re.compile(rb"[\r\n\0]")


def load_json(data: bytes) -> object:
    """The value of the JSON text `data`; strings in it are always valid Unicode.

    As Pushpin does, a byte order mark is skipped, raw control characters may stand in strings
    (shells make them of `\\n`), and half a surrogate pair becomes `?`. Raises ValueError.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        value = json.loads(data.decode("utf-8-sig"), strict=False)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return orjson.loads(text.encode("utf-8", "replace"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def decimal(text: str) -> int | None:
    """The decimal number in `text`, or None where there is none or it exceeds INTEGER_MAX."""
    match = _DECIMAL.fullmatch(text)
    if match is None:
        return None
    number = int(match[1])
    return number if -INTEGER_MAX <= number <= INTEGER_MAX else None


def integer(value: object) -> int | None:
    """`value` as a whole number, or None: fractions are rounded, text without a number is 0."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return math.floor(value + 0.5)
    if isinstance(value, str):
        return decimal(value) or 0
    return None


def decode_base64(text: str) -> bytes:
    """The bytes of `text`; what is not of the base64 alphabet is skipped, padding is optional."""
    digits = text.encode("utf-8", "replace").translate(None, _NOT_BASE64)
    if len(digits) % 4 == 1:
        digits = digits[:-1]
    return binascii.a2b_base64(digits + b"==="[: -len(digits) % 4])


def number(
    holder: Mapping[str, object],
    name: str,
    parent: str,
    error: type[GripProxyError],
    maximum: int = INTEGER_MAX,
) -> int:
    """The number `name` of `holder`, between 0 and `maximum`. Raises `error`."""
    value = integer(holder[name])
    if value is None:
        raise error(f"{parent} contains '{name}' with wrong type")
    if not 0 <= value <= maximum:
        raise error(f"{parent} contains '{name}' with invalid value")
    return value


def text(holder: Mapping[str, object], name: str, parent: str, error: type[GripProxyError]) -> str:
    """The string `name` of `holder`. Raises `error`."""
    value = holder[name]
    if not isinstance(value, str):
        raise error(f"{parent} contains '{name}' with wrong type")
    return value


def reason(holder: Mapping[str, object], parent: str, error: type[GripProxyError]) -> bytes:
    """The reason phrase in `holder`. Raises `error`, also where it would break the status line."""
    value = encode(text(holder, "reason", parent, error))
    if _LINE_BREAK.search(value):
        raise error(f"{parent} contains 'reason' with invalid value")
    return value


def meta(holder: Mapping[str, object], parent: str, error: type[GripProxyError]) -> dict[str, str]:
    """The object of strings `meta` of `holder`. Raises `error`."""
    value = holder["meta"]
    if not isinstance(value, dict):
        raise error(f"{parent} contains 'meta' with wrong type")
    for key in sorted(value):
        if not isinstance(value[key], str):
            raise error(f"'meta' contains '{shown(key)}' with wrong type")
    return value


def headers(
    holder: Mapping[str, object], parent: str, error: type[GripProxyError]
) -> tuple[tuple[bytes, bytes], ...]:
    """The header fields of `holder`: `headers` is a list of pairs, or an object to sort by name.

    Raises `error`, also for fields that RFC 9110 §5 does not allow: they would inject others.
    """
    value = holder["headers"]
    if isinstance(value, dict):
        for key in sorted(value):
            if not isinstance(value[key], str):
                raise error(f"headers contains '{shown(key)}' with wrong type")
        pairs = sorted(value.items())
    elif isinstance(value, list):
        pairs = [_pair(element, error) for element in value]
    else:
        raise error(f"{parent} contains 'headers' with wrong type")
    fields = tuple((encode(name), encode(content)) for name, content in pairs)
    for name, content in fields:
        if _HEADER_NAME.fullmatch(name) is None or _LINE_BREAK.search(content):
            raise error(f"{parent} contains 'headers' with invalid value")
    return fields


def encode(value: str) -> bytes:
    """The bytes of a string that came as UTF-8, or as other bytes kept by surrogateescape."""
    return value.encode("utf-8", "surrogateescape")


def shown(value: str) -> str:
    """`value` for a message: always valid Unicode."""
    return value.encode("utf-8", "replace").decode()


def _pair(element: object, error: type[GripProxyError]) -> tuple[str, str]:
    if not isinstance(element, list):
        raise error("headers contains element with wrong type")
    if len(element) != 2:
        raise error("headers contains list with wrong number of elements")
    name, value = element
    if not isinstance(name, str):
        raise error("header contains name element with wrong type")
    if not isinstance(value, str):
        raise error("header contains value element with wrong type")
    return name, value
