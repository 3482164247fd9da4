"""The head of a request to the publish port: bytes to what the port has to know.

Pushpin checks little more here than that the request line has three words. What could be framed in
two ways (both lengths, a repeated one, folded or malformed fields, bare LF) is refused instead.
"""

import re
from typing import NamedTuple

from gripproxy.errors import HttpError

TEXT = b"text/plain"
JSON = b"application/json"

_MALFORMED = "Failed to parse request header."
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINE = re.compile(rb"(%b) ([!-~\x80-\xff]+) HTTP/1\.([01])\r\n" % _TOKEN)
_FIELDS = re.compile(rb"(?:%b:[\t -~\x80-\xff]*\r\n)*+\r\n" % _TOKEN)
_FIELD = re.compile(
    rb"\n(content-length|transfer-encoding|connection|accept|expect):[ \t]*([^\r]*?)[ \t]*\r",
    re.IGNORECASE,
)
_HTTP10 = re.compile(rb"[^\r\n]* HTTP/1\.0\r?\n")
# Methods that may come without a length (RFC 9110 gives their content no meaning).
_BODILESS = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))
# Pushpin holds a length in a signed integer of 32 bits; a longer number is no number to it.
_LENGTH_MAX = 0x7FFF_FFFF
# One element of a list, where commas in quotes do not count.
_ELEMENT = re.compile(rb'((?:[^",]|"(?:[^"\\]|\\.)*")*+)(?:,|$)')
_FORMATS = {
    b"text/plain": TEXT,
    b"text/*": TEXT,
    b"*/*": TEXT,
    b"*": TEXT,
    b"application/json": JSON,
    b"application/*": JSON,
}


class Request(NamedTuple):
    """One request, but for its body."""

    method: bytes
    target: bytes  # as it came
    http10: bool
    length: int | None  # bytes of body; None: no Content-Length
    keep_alive: bool
    expects_continue: bool
    answer_type: bytes | None  # TEXT or JSON; None: the client accepts neither


def parse_head(head: bytes) -> Request:
    """The request that begins with `head`, which ends with its empty line.

    Raises HttpError with the line to answer.
    """
    line = _LINE.match(head)
    if line is None or _FIELDS.fullmatch(head, line.end()) is None:
        raise HttpError(_MALFORMED)
    method, target, minor = line.groups()
    http10 = minor == b"0"
    length: bytes | None = None
    transfer_encoding = expects_continue = False
    keep_alive = not http10
    accept: list[bytes] | None = None
    for name, value in _FIELD.findall(head, line.end() - 1):
        key = name.lower()
        if key == b"content-length":
            if length is not None:
                raise HttpError(_MALFORMED)
            length = value
        elif key == b"accept":
            accept = [value] if accept is None else [*accept, value]
        elif key == b"connection":
            if b"close" in [option.strip() for option in value.lower().split(b",")]:
                keep_alive = False
        elif key == b"expect":
            expects_continue = value.lower() == b"100-continue"
        else:
            transfer_encoding = True
    if length is None:
        if transfer_encoding or method not in _BODILESS:
            raise HttpError("Request requires Content-Length.", 411)
    elif transfer_encoding:
        raise HttpError(_MALFORMED)
    return Request(
        method,
        target,
        http10,
        None if length is None else _number(length),
        keep_alive,
        expects_continue and length is not None,
        TEXT if accept is None else _answer_type(accept),
    )


def is_http10(head: bytes) -> bool:
    """Whether a head that was refused asks for an answer in HTTP/1.0."""
    return _HTTP10.match(head) is not None


def _number(value: bytes) -> int:
    digits = value.lstrip(b"0")
    if not value.isdigit() or len(digits) > 10 or int(digits or b"0") > _LENGTH_MAX:
        raise HttpError("Bad Content-Length.")
    return int(digits or b"0")


def _answer_type(values: list[bytes]) -> bytes | None:
    """The last of the listed types that we speak. Case counts, quality does not, as in Pushpin."""
    answer_type: bytes | None = None
    for value in values:
        # An element whose quotes do not end is not one, and neither is what follows it.
        position = 0
        while position < len(value) and (element := _ELEMENT.match(value, position)) is not None:
            position = element.end()
            media_type = element[1].split(b";", 1)[0].strip()
            answer_type = _FORMATS.get(media_type, answer_type)
    return answer_type
