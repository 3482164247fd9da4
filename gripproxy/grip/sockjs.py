"""SockJS 0.3.3: the frames that its clients are sent, what they send, and the pages they fetch.

A frame is the same in every transport: `o` opens, `a[...]` carries messages, `h` shows that the
session lives, `c[code,"reason"]` closes. A transport wraps each so that its browser can tell where
it ends.
"""

import hashlib
import html
import json
import re
from collections.abc import Iterable
from enum import Enum
from urllib.parse import unquote_to_bytes

import orjson

OPEN = b"o"
HEARTBEAT = b"h"
GREETING = b"Welcome to SockJS!\n"

# What browsers turn into something else on the way.
_MANGLED = re.compile("[\u200c-\u200f\u2028-\u202f\u2060-\u206f\ufff0-\uffff]")
# A JSON escape: of a pair of surrogates, of one alone (the group), or any other.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
# Anything else could make a program of what is to be a function's name.
_CALLBACK = re.compile(rb"[0-9A-Za-z_.-]{1,128}")

_IFRAME_PATH = re.compile(rb"/iframe[^/]*\.html")
_IFRAME = """\
<!DOCTYPE html>
<html>
<head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
  <script src="{}"></script>
  <script>
    document.domain = document.domain;
    SockJS.bootstrap_iframe();
  </script>
</head>
<body>
  <h2>Don't panic!</h2>
  <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>
</body>
</html>
"""


class Transport(Enum):
    """A way to receive by HTTP, by the last segment of its path."""

    XHR = b"xhr"
    JSONP = b"jsonp"
    XHR_STREAMING = b"xhr_streaming"
    EVENTSOURCE = b"eventsource"

    @property
    def streams(self) -> bool:
        """Whether one response carries many frames."""
        return self is Transport.XHR_STREAMING or self is Transport.EVENTSOURCE

    @property
    def content_type(self) -> bytes:
        """The type of its responses; Pushpin's, where it has the transport."""
        return _CONTENT_TYPES[self]

    @property
    def prelude(self) -> bytes:
        """What a response begins with, for browsers that hold back the first bytes."""
        return _PRELUDES.get(self, b"")


_CONTENT_TYPES = {
    Transport.XHR: b"text/plain",
    Transport.JSONP: b"application/javascript",
    Transport.XHR_STREAMING: b"application/javascript; charset=UTF-8",
    Transport.EVENTSOURCE: b"text/event-stream",
}
_PRELUDES = {Transport.XHR_STREAMING: b"h" * 2048 + b"\n", Transport.EVENTSOURCE: b"\r\n"}
TRANSPORTS = {transport.value: transport for transport in Transport}


# What clients are sent.


def quoted(content: bytes) -> bytes:
    """`content` as a JSON string that arrives unchanged; what is not UTF-8 becomes U+FFFD."""
    if content.isascii():
        return orjson.dumps(content.decode("ascii"))
    text = content.decode("utf-8", "replace")
    if _MANGLED.search(text) is None:
        return orjson.dumps(text)
    return _MANGLED.sub(_escaped, json.dumps(text, ensure_ascii=False)).encode()


def messages(strings: Iterable[bytes]) -> bytes:
    """The frame that carries messages, each as `quoted` made it."""
    return b"a[%b]" % b",".join(strings)


def close(code: int, reason: bytes) -> bytes:
    """The frame that says why the session is closed."""
    return b"c[%d,%b]" % (code, quoted(reason))


def wrapped(frame: bytes, transport: Transport, callback: bytes = b"") -> bytes:
    """`frame` as a response of `transport` carries it; `callback` is the function of JSON-P."""
    if transport is Transport.JSONP:
        return b"/**/%b(%b);\n" % (callback, quoted(frame))
    if transport is Transport.EVENTSOURCE:
        # Its clients decode percent signs.
        return b"data: %b\r\n\r\n" % frame.replace(b"%", b"%25")
    return frame + b"\n"


# What clients send.


def parse_messages(payload: bytes) -> list[bytes] | None:
    """The messages in a JSON array of strings, as UTF-8; None: it is not one.

    A lone surrogate becomes U+FFFD, since a script may send one and no backend can be sent it.
    """
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:
            found = orjson.loads(_ESCAPE.sub(_without_lone_surrogate, payload))
        except orjson.JSONDecodeError:
            return None
    if not isinstance(found, list) or not all(isinstance(message, str) for message in found):
        return None
    return [message.encode() for message in found]


def parameter(form: bytes, *names: bytes) -> bytes | None:
    """The value of the first field called by the first of `names` that `form` (a query, or
    application/x-www-form-urlencoded) has.
    """
    fields: dict[bytes, bytes] = {}
    for field in form.split(b"&"):
        name, _, value = field.partition(b"=")
        fields.setdefault(_decoded(name), value)
    for name in names:
        if name in fields:
            return _decoded(fields[name])
    return None


def is_callback(name: bytes) -> bool:
    """Whether a script may call a function by this name."""
    return _CALLBACK.fullmatch(name) is not None


def session_path(path: bytes) -> tuple[bytes, bytes] | None:
    """The session's id and the last segment of `/<server>/<session>/<what>`; None: another path."""
    parts = path.split(b"/")
    if len(parts) != 4 or parts[0] or not parts[1] or not parts[2]:
        return None
    return parts[2], parts[3]


# Pages.


def info(entropy: int) -> bytes:
    """What a client asks for first; `entropy` is random, of 32 bits."""
    return b'{"cookie_needed":false,"entropy":%d,"origins":["*:*"],"websocket":true}\n' % entropy


def is_iframe(path: bytes) -> bool:
    """Whether `path` is that of the iframe page, in any version."""
    return _IFRAME_PATH.fullmatch(path) is not None


class IframePage:
    """The page through which old browsers cross origins: it loads the client from `sockjs_url`."""

    __slots__ = ("body", "etag")

    def __init__(self, sockjs_url: str) -> None:
        self.body = _IFRAME.format(html.escape(sockjs_url)).encode()
        digest = hashlib.md5(self.body, usedforsecurity=False).hexdigest()
        self.etag = b'"%b"' % digest.encode()

    def is_current(self, if_none_match: bytes) -> bool:
        """Whether a client that asks with this If-None-Match has it already (RFC 9110 §13.1.2)."""
        tags = [tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")]
        return self.etag in tags or tags == [b"*"]


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _without_lone_surrogate(found: re.Match[bytes]) -> bytes:
    return found[0] if found[1] is None else b"\\ufffd"


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))
