"""The head of a message: a request line or a status line, and the header fields (RFC 9112 §2-5).

llhttp tokenises the fields, through httptools, with a fresh parser for each head that never sees a
body: that costs about 2 µs, keeps no parser for a held connection, and leaves what llhttp does not
decide as we need it (start lines, framing, Upgrade, trailers, pipelining) to this package.
"""

import re
from typing import NamedTuple

import httptools

from gripproxy.errors import HttpError

Headers = list[tuple[bytes, bytes]]

_HEAD_END = b"\r\n\r\n"

# A body's length where it is not a number of bytes.
CHUNKED = -1
UNTIL_CLOSE = -2

# Any token is a method (RFC 9110 §9.1), and a target has no white space (RFC 9112 §3).
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}) ([!-~]+) HTTP/1\.([01])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?\r\n")
# llhttp reads start lines too liberally, so it gets this one and the fields.
_ANY_REQUEST = b"POST / HTTP/1.1\r\n"
_CONTENT_LENGTH = re.compile(rb"[0-9]{1,18}")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_PATH_OR_QUERY = re.compile(rb"[/?]")
_HOST = re.compile(
    rb"(?:[0-9A-Za-z._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
)  # RFC 9110 §7.2

# The fields that decide how a message is framed and whether its connection lives on.
_CONNECTION_FIELDS = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade")
)


class RequestHead(NamedTuple):
    """What a client asked, as it spelled it, and what follows from it for the connection."""

    method: bytes
    target: bytes  # origin-form, `*`, or as it came for CONNECT
    http11: bool
    headers: Headers
    host: (
        bytes | None
        # authority of the target, else Host; None: absent, which RFC 9112 §3.2 refuses and Pushpin
        # allows
    )
    length: int  # bytes of body, or CHUNKED
    keep_alive: bool
    expects_continue: bool
    websocket: bool  # `Upgrade: websocket` was asked for


class ResponseHead(NamedTuple):
    """What a backend answered, and what follows from it for the connection."""

    code: int
    reason: bytes
    headers: Headers
    length: int  # bytes of body, CHUNKED or UNTIL_CLOSE, for an ordinary request
    # by version and Connection; a body that is UNTIL_CLOSE ends the connection all the same
    keep_alive: bool


class _Fields:
    """Collects the fields that the tokeniser reports."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value.rstrip(b" \t")))


def parse_request(head: bytes, max_headers: int) -> RequestHead:
    """The request that begins with `head`, which ends with its empty line.

    Raises HttpError: 400 for what is not a request or could be framed in two ways, 501 for a
    transfer coding other than chunked and for CONNECT.
    """
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise HttpError("invalid request line")
    method, target, minor = line.groups()
    if method == b"CONNECT":
        raise HttpError("CONNECT is not supported", 501)
    headers = _parse_fields(head[line.end() :], max_headers, 400)

    http11 = minor == b"1"
    closes = keeps = expects_continue = websocket = False
    host: bytes | None = None
    length: int | None = None
    for name, value in headers:
        key = name.lower()
        if key not in _CONNECTION_FIELDS:
            continue
        if key == b"host":
            if host is not None:
                raise HttpError("more than one Host")
            if _HOST.fullmatch(value) is None:
                raise HttpError("invalid Host")
            host = value
        elif key == b"connection":
            options = _tokens(value)
            closes = closes or b"close" in options
            keeps = keeps or b"keep-alive" in options
        elif key == b"content-length":
            if length is not None:
                raise HttpError("more than one length")
            if _CONTENT_LENGTH.fullmatch(value) is None:
                raise HttpError("invalid Content-Length")
            length = int(value)
        elif key == b"transfer-encoding":
            if length is not None:
                raise HttpError("more than one length")
            if not http11:
                raise HttpError("Transfer-Encoding in HTTP/1.0")
            if value.lower() != b"chunked":
                raise HttpError("the only transfer coding supported is chunked", 501)
            length = CHUNKED
        elif key == b"expect":
            expects_continue = http11 and value.lower() == b"100-continue"
        else:
            websocket = websocket or value.lower() == b"websocket"
    if not target.startswith(b"/") and target != b"*":
        host, target = _absolute_form(target)
    keep_alive = not closes and (http11 or keeps)
    return RequestHead(
        method,
        target,
        http11,
        headers,
        host,
        length or 0,
        keep_alive,
        expects_continue,
        websocket,
    )


def parse_response(head: bytes, max_headers: int) -> ResponseHead:
    """The response that begins with `head`, which ends with its empty line.

    Raises HttpError (502).
    """
    line = _STATUS_LINE.match(head)
    if line is None:
        raise HttpError("invalid status line", 502)
    minor, code, reason = line.groups()
    headers = _parse_fields(head[line.end() :], max_headers, 502)

    http11 = minor == b"1"
    closes = keeps = False
    length = UNTIL_CLOSE
    for name, value in headers:
        key = name.lower()
        if key not in _CONNECTION_FIELDS:
            continue
        if key == b"content-length":
            if length != UNTIL_CLOSE:
                raise HttpError("more than one length", 502)
            if _CONTENT_LENGTH.fullmatch(value) is None:
                raise HttpError("invalid Content-Length", 502)
            length = int(value)
        elif key == b"transfer-encoding":
            if length != UNTIL_CLOSE or value.lower() != b"chunked" or not http11:
                raise HttpError("invalid Transfer-Encoding", 502)
            length = CHUNKED
        elif key == b"connection":
            options = _tokens(value)
            closes = closes or b"close" in options
            keeps = keeps or b"keep-alive" in options
    keep_alive = not closes and (http11 or keeps)
    return ResponseHead(int(code), reason or b"", headers, length, keep_alive)


def take_response(
    data: bytes, max_size: int, max_headers: int
) -> tuple[ResponseHead | None, bytes]:
    """The response that `data` begins with, and what follows its head; None: more has to come.

    Interim responses (RFC 9110 §15.2) are passed over, since they are of no use to a client; 101 is
    none of them. Raises HttpError (502) for what is not a response, or has a head over `max_size`.
    """
    while True:
        end = data.find(_HEAD_END) + 4
        if (end if end > 3 else len(data)) > max_size:
            raise HttpError("response header too large", 502)
        if end < 4:
            if has_bare_lf(data):
                raise HttpError("line ends without CR", 502)
            return None, data
        head = parse_response(data[:end], max_headers)
        data = data[end:]
        if head.code >= 200 or head.code == 101:
            return head, data


def _parse_fields(block: bytes, max_headers: int, status: int) -> Headers:
    """The fields in `block`, which ends with the empty line. Raises HttpError with `status`."""
    fields = _Fields()
    try:
        httptools.HttpRequestParser(fields).feed_data(_ANY_REQUEST + block)
    except httptools.HttpParserUpgrade:
        pass  # whether to switch protocols is decided elsewhere
    except httptools.HttpParserError as error:
        raise HttpError(_explain(error), status) from error
    if len(fields.headers) > max_headers:
        raise HttpError(f"more than {max_headers} headers", status)
    return fields.headers


def has_bare_lf(data: bytes) -> bool:
    """Whether a line in the start of a head ends without CR, so that its end will never come."""
    return _BARE_LF.search(data) is not None


def header(headers: Headers, name: bytes) -> bytes | None:
    """The value of the first field called `name` (lower case), or None."""
    for field, value in headers:
        if field.lower() == name:
            return value
    return None


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip() for token in value.lower().split(b",")]


def _absolute_form(target: bytes) -> tuple[bytes, bytes]:
    """Authority and origin-form of an absolute-form target (RFC 9112 §3.2.2)."""
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise HttpError("invalid request target")
    found = _PATH_OR_QUERY.search(rest)
    end = found.start() if found is not None else len(rest)
    authority, path = rest[:end], rest[end:]
    if not authority or b"@" in authority or _HOST.fullmatch(authority) is None:
        raise HttpError("invalid request target")
    return authority, path if path.startswith(b"/") else b"/" + path


def _explain(error: Exception) -> str:
    text = str(error.args[0]) if error.args else ""
    return text[:1].lower() + text[1:] if text else "invalid message"
