"""JSON Patch for the body of a held response, in Pushpin's dialect of RFC 6902.

What differs from the RFC:
- A path starts with `/`, and `/` alone is the whole document; an empty path or segment is an error,
  so a key that is empty cannot be named.
- `add` at an index of an array replaces what is there, so the index must exist; `-` appends.
- `test` compares numbers, booleans and strings as whole numbers unless both are strings; null
  equals nothing.
- `move` removes before it adds; the whole document cannot be moved.
"""

import re
from collections.abc import Sequence
from typing import Any

import orjson

from gripproxy.errors import PatchError
from gripproxy.grip.fields import integer, load_json

# `copy` can double a document in each operation; all copies of one patch together may have this
# many bytes.
COPIED_BYTES_MAX = 4_000_000

_INDEX = re.compile(r"[0-9]{1,9}")


def apply_to_body(body: bytes, patch: Sequence[object]) -> bytes:
    """`body` patched and written compactly, keys sorted; a newline at its end is kept.

    Raises PatchError. Pushpin: body and result must be an object or an array.
    """
    try:
        document = load_json(body)
    except ValueError as error:
        raise PatchError("body is not valid JSON") from error
    if not isinstance(document, dict | list):
        raise PatchError("body is not an object or an array")
    result = apply(document, patch)
    if not isinstance(result, dict | list):
        raise PatchError("result is not an object or an array")
    return _write(result, orjson.OPT_SORT_KEYS) + _newline(body)


def apply(document: object, patch: Sequence[object]) -> object:
    """The patched document; `document` itself may be changed, `patch` is not. Raises PatchError."""
    copied = 0
    try:
        for operation in patch:
            if not isinstance(operation, dict):
                raise PatchError("operation is not an object")
            name = _text(operation, "op")
            path = _segments(_text(operation, "path"))
            if name == "add":
                document = _add(document, path, _fresh(operation))
            elif name == "remove":
                _take(document, path)
            elif name == "replace":
                _read(document, path)
                document = _add(document, path, _fresh(operation))
            elif name == "test":
                if not _same(_read(document, path), _value(operation)):
                    raise PatchError("test failed")
            elif name == "copy":
                content = _write(_read(document, _segments(_text(operation, "from"))))
                copied += len(content)
                if copied > COPIED_BYTES_MAX:
                    raise PatchError("copies are too large")
                document = _add(document, path, orjson.loads(content))
            elif name == "move":
                source = _segments(_text(operation, "from"))
                if len(path) > len(source) and path[: len(source)] == source:
                    raise PatchError("cannot move a value into itself")
                value = _take(document, source)
                document = _add(document, path, value)
            else:
                raise PatchError(f"unknown operation '{name}'")
    except RecursionError as error:
        raise PatchError("nested too deeply") from error
    return document


def _text(operation: dict[str, object], name: str) -> str:
    value = operation.get(name)
    if not isinstance(value, str):
        raise PatchError(f"operation has no '{name}'")
    return value


def _value(operation: dict[str, object]) -> object:
    if "value" not in operation:
        raise PatchError("operation has no 'value'")
    return operation["value"]


def _fresh(operation: dict[str, object]) -> object:
    """The operation's value, copied: a patch serves many documents, and each changes it."""
    value = _value(operation)
    return orjson.loads(_write(value)) if isinstance(value, dict | list) else value


def _write(value: object, option: int = 0) -> bytes:
    try:
        return orjson.dumps(value, option=option)
    except orjson.JSONEncodeError as error:
        raise PatchError(f"cannot be written as JSON: {error}") from error


def _newline(body: bytes) -> bytes:
    if body.endswith(b"\r\n"):
        return b"\r\n"
    return b"\n" if body.endswith(b"\n") else b""


def _segments(path: str) -> list[str]:
    """The unescaped segments of a path; none stands for the whole document."""
    if not path.startswith("/"):
        raise PatchError("path does not start with '/'")
    if path == "/":
        return []
    segments = path[1:].split("/")
    if "" in segments:
        raise PatchError("path has an empty segment")
    return [segment.replace("~1", "/").replace("~0", "~") for segment in segments]


def _read(document: Any, path: list[str]) -> Any:
    for segment in path:
        document = document[_key(document, segment)]
    return document


def _key(container: object, segment: str) -> Any:
    """The key or index that `segment` means in `container`, where it exists."""
    if isinstance(container, dict):
        if segment in container:
            return segment
    elif (
        isinstance(container, list) and _INDEX.fullmatch(segment) and int(segment) < len(container)
    ):
        return int(segment)
    raise PatchError(f"nothing at '{segment}'")


def _add(document: object, path: list[str], value: object) -> object:
    """`document` with `value` at `path`."""
    if not path:
        return value
    holder = _read(document, path[:-1])
    last = path[-1]
    if isinstance(holder, list) and last == "-":
        holder.append(value)
    else:
        holder[last if isinstance(holder, dict) else _key(holder, last)] = value
    return document


def _take(document: object, path: list[str]) -> object:
    """Removes what is at `path` and returns it."""
    if not path:
        raise PatchError("the whole document cannot be removed")
    holder = _read(document, path[:-1])
    return holder.pop(_key(holder, path[-1]))


def _same(one: object, other: object) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one == other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            _same(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    number = integer(one)
    return number is not None and number == integer(other)
