"""The head of a message: a request line or a status line, and the header fields (RFC 9112 §2-5).

llhttp tokenises, through httptools, with a fresh parser for each head that never sees a body: that
costs about 2 µs, keeps no parser for a held connection, and leaves the decisions that llhttp does
not take as we need them (framing, versions, HEAD, Upgrade, trailers, pipelining) to this package.
"""

import re
from typing import NamedTuple

import httptools

from gripproxy.errors import HttpError

Headers = list[tuple[bytes, bytes]]

# A body's length where it is not a number of bytes.
CHUNKED = -1
UNTIL_CLOSE = -2

# Methods that llhttp parses for HTTP; the rest of its list belongs to RTSP or has rules of its own.
_TOKENISED = frozenset((b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"))
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_CONTENT_LENGTH = re.compile(rb"[0-9]{1,18}")
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
    """Collects what the tokeniser reports."""

    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.headers: Headers = []
        self.target = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


def parse_request(head: bytes, max_headers: int) -> RequestHead:
    """The request that begins with `head`, which ends with its empty line.

    Raises HttpError: 400 for what is not a request or could be framed in two ways, 501 for a
    transfer coding other than chunked or for CONNECT, 505 never: other versions are refused with
    400 as Pushpin does.
    """
    method, _, rest = head.partition(b" ")
    if method not in _TOKENISED:
        # llhttp refuses methods that it does not know; any token is a method (RFC 9110 §9.1).
        if _TOKEN.fullmatch(method) is None:
            raise HttpError("invalid method")
        if method == b"CONNECT":
            raise HttpError("CONNECT is not supported", 501)
        head = b"POST " + rest
    fields = _Fields()
    parser = httptools.HttpRequestParser(fields)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # the head is complete; whether to switch protocols is decided elsewhere
    except httptools.HttpParserError as error:
        raise HttpError(_explain(error)) from error
    version = parser.get_http_version()
    if version != "1.1" and version != "1.0":
        raise HttpError("HTTP version must be 1.0 or 1.1")
    headers = fields.headers
    if len(headers) > max_headers:
        raise HttpError(f"more than {max_headers} headers")

    http11 = version == "1.1"
    keep_alive = http11
    host: bytes | None = None
    length = -3  # neither Content-Length nor Transfer-Encoding was seen
    expects_continue = websocket = False
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
            options = value.lower()
            if b"close" in options and b"close" in _tokens(options):
                keep_alive = False
            elif not http11 and b"keep-alive" in _tokens(options):
                keep_alive = True
        elif key == b"content-length":
            if length != -3:
                raise HttpError("more than one length")
            if _CONTENT_LENGTH.fullmatch(value) is None:
                raise HttpError("invalid Content-Length")
            length = int(value)
        elif key == b"transfer-encoding":
            if length != -3:
                raise HttpError("more than one length")
            if not http11:
                raise HttpError("Transfer-Encoding in HTTP/1.0")
            if value.lower() != b"chunked":
                raise HttpError("the only transfer coding supported is chunked", 501)
            length = CHUNKED
        elif key == b"expect":
            expects_continue = http11 and value.lower() == b"100-continue"
        else:
            websocket = value.lower() == b"websocket"
    target = fields.target
    if not target.startswith(b"/") and target != b"*":
        host, target = _absolute_form(target)
    return RequestHead(
        method,
        target,
        http11,
        headers,
        host,
        0 if length == -3 else length,
        keep_alive,
        expects_continue,
        websocket,
    )


def parse_response(head: bytes, max_headers: int) -> ResponseHead:
    """The response that begins with `head`, which ends with its empty line.

    Raises HttpError (502).
    """
    fields = _Fields()
    parser = httptools.HttpResponseParser(fields)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise HttpError(_explain(error), 502) from error
    version = parser.get_http_version()
    if version != "1.1" and version != "1.0":
        raise HttpError("HTTP version must be 1.0 or 1.1", 502)
    headers = fields.headers
    if len(headers) > max_headers:
        raise HttpError(f"more than {max_headers} headers", 502)

    http11 = version == "1.1"
    keep_alive = http11
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
            options = value.lower()
            if b"close" in options and b"close" in _tokens(options):
                keep_alive = False
            elif not http11 and b"keep-alive" in _tokens(options):
                keep_alive = True
    start = head.find(b" ", 9, 16)
    line_end = head.find(b"\r\n")
    reason = head[13:line_end] if start == 12 else b""
    return ResponseHead(parser.get_status_code(), reason, headers, length, keep_alive)


def header(headers: Headers, name: bytes) -> bytes | None:
    """The value of the first field called `name` (lower case), or None."""
    for field, value in headers:
        if field.lower() == name:
            return value
    return None


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip() for token in value.split(b",")]


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
