"""List headers with parameters: `a; x=1, b; y="2, 3"`.

Pushpin: elements are separated by commas outside double quotes. An element is its value, taken raw
up to the first `;`, and parameters whose values may be quoted. An element with a quoted value that
does not end is as if absent.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

# A quote that is not closed reaches to the end.
_QUOTES_OR_COMMA = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|,', re.DOTALL)
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)

Params = tuple[tuple[bytes, bytes | None], ...]


class Element(NamedTuple):
    """One element of a list header. A parameter without `=` has the value None."""

    value: bytes
    params: Params


def split_list(values: Iterable[bytes]) -> list[bytes]:
    """The trimmed pieces of all `values`; a comma at the end adds none, two in a row add b""."""
    pieces: list[bytes] = []
    for value in values:
        start = 0
        for match in _QUOTES_OR_COMMA.finditer(value):
            if match[0] == b",":
                pieces.append(value[start : match.start()].strip())
                start = match.end()
        last = value[start:].strip()
        if last:
            pieces.append(last)
    return pieces


def parse_elements(values: Iterable[bytes]) -> list[Element]:
    """The elements of all `values` of one header."""
    elements = [parse_element(piece) for piece in split_list(values)]
    return [element for element in elements if element is not None]


def parse_element(piece: bytes) -> Element | None:
    """The element in `piece`, commas and all; None where a quoted value does not end."""
    value, _, rest = piece.partition(b";")
    params = _parse_params(rest)
    return None if params is None else Element(value.strip(), params)


def parse_pairs(values: Iterable[bytes]) -> list[Params]:
    """The elements of a header in which each begins with a parameter: `a=1; b=2, c=3`."""
    elements = [_parse_params(piece) for piece in split_list(values)]
    return [params for params in elements if params is not None]


def get(element: Element, name: bytes) -> bytes | None:
    """The value of the first parameter called `name` (lower case) in any spelling, or None."""
    for key, value in element.params:
        if key.lower() == name:
            return value
    return None


def _parse_params(source: bytes) -> Params | None:
    params: list[tuple[bytes, bytes | None]] = []
    start, length = 0, len(source)
    while start < length:
        end = source.find(b";", start)
        if end < 0:
            end = length
        equals = source.find(b"=", start, end)
        if equals < 0:
            name = source[start:end].strip()
            if name:
                params.append((name, None))
        else:
            name = source[start:equals].strip()
            if source.startswith(b'"', equals + 1):
                match = _QUOTED.match(source, equals + 1)
                if match is None:
                    return None
                params.append((name, _ESCAPE.sub(rb"\1", match[1])))
                end = source.find(b";", match.end())
                if end < 0:
                    end = length
            else:
                params.append((name, source[equals + 1 : end].strip()))
        start = end + 1
    return tuple(params)
