"""A response on its way to a client: its head, and the framing of its body (RFC 9112 §6)."""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Protocol

from gripproxy.clients.crossorigin import (
    Jsonp,
    JsonpEncoder,
    cors_headers,
    jsonp_held_response,
    jsonp_response,
)
from gripproxy.errors import CrossOriginError
from gripproxy.http1.body import LAST_CHUNK, chunk
from gripproxy.http1.head import RequestHead
from gripproxy.http1.status import reason_phrase

# The connection's own fields, which are made anew. Content-Encoding stays: it describes bytes that
# pass unchanged.
_OWN = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"content-length"))
_TEXT = ((b"Content-Type", b"text/plain"),)


class Framing(Enum):
    """How a client learns where the body ends."""

    NONE = auto()  # there is none
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()  # the connection ends with it


def framing(method: bytes, http11: bool, code: int, length: int | None) -> Framing:
    """The framing of a response with a body of `length` bytes; None: it is not known yet."""
    if method == b"HEAD" or code == 204 or code == 304 or code < 200:
        return Framing.NONE
    if length is not None:
        return Framing.LENGTH
    return Framing.CHUNKED if http11 else Framing.CLOSE


def response_head(
    code: int,
    reason: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    framing: Framing,
    length: int | None,
    *,
    http11: bool,
    keep_alive: bool,
) -> bytes:
    """The head on the wire: `headers` in their order, then what says how the body ends.

    Without a body, `length` is what a GET would have been told (None: leave it out).
    """
    lines = [b"HTTP/1.%d %d %b\r\n" % (http11, code, reason)]
    lines += [b"%b: %b\r\n" % field for field in headers if field[0].lower() not in _OWN]
    if http11 is not keep_alive:
        lines.append(b"Connection: close\r\n" if http11 else b"Connection: keep-alive\r\n")
    if framing is Framing.CHUNKED:
        # Pushpin names the field here, and clients may compare.
        lines.append(b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n")
    elif length is not None and framing is not Framing.CLOSE:
        lines.append(b"Content-Length: %d\r\n\r\n" % length)
    else:
        lines.append(b"\r\n")
    return b"".join(lines)


class Connection(Protocol):
    """The client's connection, as a response needs it."""

    keep_alive: bool

    @property
    def receiving(self) -> bool: ...

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None: ...

    def break_off(self, *, unframed: bool) -> None: ...


class ResponseWriter:
    """Writes one response; `code` and `sent` (bytes of body) tell what became of it."""

    __slots__ = (
        "_connection",
        "_encoder",
        "_request",
        "code",
        "cross_origin",
        "framing",
        "jsonp",
        "sent",
    )

    def __init__(self, connection: Connection, request: RequestHead, cross_origin: bool) -> None:
        self._connection = connection
        self._request = request
        self._encoder: JsonpEncoder | None = None
        self.cross_origin = cross_origin
        self.jsonp: Jsonp | None = None  # the client wants a script
        self.framing = Framing.NONE
        self.code = 0  # 0: nothing was sent
        self.sent = 0

    def start(
        self,
        code: int,
        reason: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        length: int | None,
        content: bytes = b"",
        finished: bool = False,
    ) -> None:
        """Send the head and the first `content`.

        `length` is of the whole body, None: not known yet.
        """
        if self.jsonp is None:
            if self.cross_origin:
                headers = [*headers, *cors_headers(self._request.headers, headers)]
            self._start(code, reason, headers, length, content, finished)
        elif finished:
            try:
                headers, content = jsonp_response(self.jsonp, code, reason, headers, content)
            except CrossOriginError as error:
                message = f"{error}\n".encode()
                self._start(
                    error.status, reason_phrase(error.status), _TEXT, len(message), message, True
                )
            else:
                self._start(200, b"OK", headers, len(content), content, True)
        else:
            encoder = self._encoder = JsonpEncoder(self.jsonp, code, reason, headers)
            self._start(
                200, b"OK", encoder.headers, None, encoder.start() + encoder.feed(content), False
            )

    def send(self, content: bytes, finished: bool = False) -> None:
        """Send more of the body."""
        if self._encoder is not None:
            content = self._encoder.feed(content) + (self._encoder.finish() if finished else b"")
        data = self._encode(content, finished)
        if data:
            self._connection.write(data)
        if finished:
            self._connection.finish()

    def respond(
        self,
        code: int,
        reason: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        *,
        held: bool = False,
    ) -> None:
        """Send a whole response.

        `held`: it is the answer of a hold, which JSON-P shows in another form.
        """
        if held and self.jsonp is not None:
            headers, body = jsonp_held_response(self.jsonp, code, reason, headers, body)
            self._start(200, b"OK", headers, len(body), body, True)
        else:
            self.start(code, reason, headers, len(body), body, True)

    def break_off(self) -> None:
        """The rest of the body will not come: let the client see it."""
        self._connection.break_off(unframed=self.framing is Framing.CLOSE)

    def _start(
        self,
        code: int,
        reason: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        length: int | None,
        content: bytes,
        finished: bool,
    ) -> None:
        request, connection = self._request, self._connection
        self.framing = kind = framing(request.method, request.http11, code, length)
        if kind is Framing.NONE and request.method != b"HEAD":
            length = None
        if kind is Framing.CLOSE or connection.receiving:
            connection.keep_alive = False
        self.code = code
        head = response_head(
            code,
            reason,
            headers,
            kind,
            length,
            http11=request.http11,
            keep_alive=connection.keep_alive,
        )
        connection.write(head + self._encode(content, finished))
        if finished:
            connection.finish()

    def _encode(self, content: bytes, finished: bool) -> bytes:
        kind = self.framing
        if kind is Framing.NONE:
            return b""
        self.sent += len(content)
        if kind is Framing.CHUNKED:
            if not content:
                return LAST_CHUNK if finished else b""
            return chunk(content) + LAST_CHUNK if finished else chunk(content)
        return content
