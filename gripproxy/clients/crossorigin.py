"""Requests from other origins: CORS headers, and JSON-P translated to and from plain HTTP.

For routes with `aco`, and for all with `auto_cross_origin`; whether that is so, callers know.

JSON-P is a GET whose query names a JavaScript function, and perhaps a method, headers and a body.
The backend gets that request as a plain one; its answer becomes a script that calls the function.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import unquote_to_bytes

import orjson

from gripproxy.errors import CrossOriginError

Header = tuple[bytes, bytes]

_METHODS = b"OPTIONS, HEAD, GET, POST, PUT, DELETE"
# Scripts of other origins may read these anyway.
_READABLE = frozenset(
    (
        b"cache-control",
        b"content-language",
        b"content-length",
        b"content-type",
        b"expires",
        b"last-modified",
        b"pragma",
    )
)

# A page may choose a function, not write a program: `cb`, `a.b`, `a[0]`, `a["b"]`, in any alphabet.
_NAME = r"(?:[^\W\d]|\$)[\w$]*"
_CALLBACK = re.compile(rf"{_NAME}(?:\.{_NAME}|\[[0-9]+\]|\[\"[\w$.-]+\"\]|\['[\w$.-]+'\])*")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

# Framing belongs to whoever sends the request on, and Host and Accept have places of their own.
_NOT_FROM_CLIENT = frozenset(
    (b"host", b"accept", b"content-length", b"transfer-encoding", b"expect")
)
_NOT_FROM_QUERY = _NOT_FROM_CLIENT | {b"connection", b"keep-alive"}

# Between neighbours on the wire only: the client's connection has its own.
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"transfer-encoding"))

# No script may read cookies marked HttpOnly, not even through CORS; Pushpin shows them.
_NOT_TO_SCRIPT = _HOP_BY_HOP | {b"set-cookie", b"set-cookie2"}

# JSON allows these two raw in a string, JavaScript before ES2019 does not.
_LINE_ENDS = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029"})


class JsonpRoute(Protocol):
    """The JSON-P settings of a route."""

    @property
    def jsonp_mode(self) -> str: ...
    @property
    def jsonp_cb(self) -> str: ...
    @property
    def jsonp_body(self) -> str | None: ...
    @property
    def jsonp_defcb(self) -> str | None: ...
    @property
    def jsonp_defmethod(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Jsonp:
    """The request that a JSON-P request stands for, and how its answer is to be wrapped.

    `target` is the client's without the parameters that JSON-P uses, otherwise byte for byte.
    `headers` name no length: `body` is whole, and replaces whatever body the GET had.
    """

    callback: bytes
    mode: Literal["basic", "extended"]
    method: bytes
    target: bytes
    headers: tuple[Header, ...]
    body: bytes


def cors_headers(
    request_headers: Sequence[Header], response_headers: Sequence[Header]
) -> list[Header]:
    """The CORS headers that a response lacks, to be appended in this order.

    Pushpin: core/cors.cpp.
    """
    method = _values(request_headers, b"access-control-request-method")
    wanted = b", ".join(filter(None, _values(request_headers, b"access-control-request-headers")))
    origin = _values(request_headers, b"origin")
    exposed: dict[bytes, bytes] = {}
    for name, _ in response_headers:
        low = name.lower()
        if low in _READABLE or low in _HOP_BY_HOP:
            continue
        if not low.startswith((b"access-control-", b"grip-")):
            exposed.setdefault(low, name)

    present = {name.lower() for name, _ in response_headers}
    headers = (
        (b"Access-Control-Allow-Methods", (method and method[0]) or _METHODS),
        (b"Access-Control-Allow-Headers", wanted),
        (b"Access-Control-Expose-Headers", b", ".join(exposed.values())),
        (b"Access-Control-Allow-Credentials", b"true"),
        (b"Access-Control-Allow-Origin", (origin and origin[0]) or b"*"),
        (b"Access-Control-Max-Age", b"3600"),
    )
    return [(name, value) for name, value in headers if value and name.lower() not in present]


def jsonp_request(
    method: bytes, target: bytes, headers: Sequence[Header], route: JsonpRoute
) -> Jsonp | None:
    """The request inside a JSON-P request, or None where it is an ordinary one.

    Stricter than Pushpin 1.36, which takes any text as the callback, the method and headers.

    Raises CrossOriginError (400), whose text lacks only the newline that errors end with.
    """
    path, mark, query = target.partition(b"?")
    if method != b"GET" or not mark:
        return None
    callback_name = _bytes(route.jsonp_cb)
    body_name = _bytes(route.jsonp_body or "_body")
    used: dict[bytes, bytes] = {}
    kept = []
    for field in query.split(b"&"):
        name, _, value = field.partition(b"=")
        name = unquote_to_bytes(name)
        if name in (callback_name, b"_method", b"_headers", body_name):
            used.setdefault(name, unquote_to_bytes(value))
        else:
            kept.append(field)

    if callback_name in used:
        callback = used[callback_name]
        if not _is_callback(callback):
            raise CrossOriginError("Invalid callback parameter.", 400)
    elif route.jsonp_defcb and route.jsonp_body and body_name in used:
        callback = _bytes(route.jsonp_defcb)
    else:
        return None

    verb = used.get(b"_method", _bytes(route.jsonp_defmethod))
    if not _TOKEN.fullmatch(verb):
        raise CrossOriginError("Invalid _method parameter.", 400)
    asked = _query_headers(used[b"_headers"]) if b"_headers" in used else []
    body = used.get(body_name)
    if body == b"":
        what = "body" if route.jsonp_body else "_body"
        raise CrossOriginError(f"Invalid {what} parameter.", 400)

    dropped = _NOT_FROM_CLIENT
    if body is not None and route.jsonp_body:
        dropped |= {b"content-type"}
        asked = [h for h in asked if h[0].lower() != b"content-type"]
        asked.append((b"Content-Type", b"application/json"))
    rest = b"&".join(kept)
    return Jsonp(
        callback=callback,
        mode="basic" if route.jsonp_mode == "basic" else "extended",
        method=verb,
        target=path + b"?" + rest if rest else path,
        headers=(
            *(h for h in headers if h[0].lower() == b"host"),
            *asked,
            (b"Accept", b"*/*"),
            *(h for h in headers if h[0].lower() not in dropped),
        ),
        body=body or b"",
    )


def jsonp_response(
    jsonp: Jsonp, code: int, reason: bytes, headers: Sequence[Header], body: bytes
) -> tuple[list[Header], bytes]:
    """Headers and body of the `200 OK` that wraps a whole answer which was not held.

    Raises CrossOriginError (500) when there is no body to make an argument of, in basic mode.
    """
    if jsonp.mode == "basic" and not body:
        raise CrossOriginError("Upstream response could not be JSON-P encoded.", 500)
    encoder = JsonpEncoder(jsonp, code, reason, headers)
    script = encoder.start() + encoder.feed(body) + encoder.finish()
    return [
        *encoder.headers,
        *(h for h in headers if h[0].lower() == b"cache-control"),
        (b"Content-Length", b"%d" % len(script)),
    ], script


def jsonp_held_response(
    jsonp: Jsonp, code: int, reason: bytes, headers: Sequence[Header], body: bytes
) -> tuple[list[Header], bytes]:
    """Headers and body of the `200 OK` that wraps the answer of a response hold.

    Not the bytes of jsonp_response: the JSON is compact with sorted keys, repeated headers are
    joined, and the headers are sent as well, with another Content-Type. Pushpin:
    handler/httpsession.cpp.
    """
    if jsonp.mode == "basic":
        argument = _without_newline(body)
    else:
        merged: dict[bytes, tuple[bytes, list[bytes]]] = {}
        for name, value in _for_script(headers):
            if name.lower() != b"content-length":
                merged.setdefault(name.lower(), (name, []))[1].append(value)
        argument = b'{"body":%b,"code":%d,"headers":%b,"reason":%b}' % (
            _quoted(_text(body)),
            code,
            _json_headers((name, b", ".join(values)) for name, values in merged.values()),
            _quoted(_text(reason)),
        )
    script = b"/**/%b(%b);\n" % (jsonp.callback, argument)
    replaced = (b"content-type", b"content-length")
    return [
        *(h for h in headers if h[0].lower() not in replaced),
        (b"Content-Type", b"application/javascript"),
        (b"Content-Length", b"%d" % len(script)),
    ], script


class JsonpEncoder:
    """Wraps an answer whose body arrives in pieces; send what start, each feed, and finish return.

    The pieces add up to the same script whatever their borders, even inside a character. A body
    that is cut short must not be finished: without the tail, the script does not run.
    """

    __slots__ = ("_basic", "_decode", "_held", "_start", "headers")

    def __init__(self, jsonp: Jsonp, code: int, reason: bytes, headers: Sequence[Header]) -> None:
        self.headers: list[Header] = [(b"Content-Type", b"application/javascript")]
        self._basic = jsonp.mode == "basic"
        self._held = b""
        self._decode: Callable[[bytes, bool], str] = codecs.getincrementaldecoder("utf-8")(
            "replace"
        ).decode
        self._start = b"/**/%b(" % jsonp.callback
        if not self._basic:
            first: dict[bytes, bytes] = {}
            for name, value in _for_script(headers):
                first.setdefault(name, value)
            self._start += b'{"code": %d, "reason": %b, "headers": %b, "body": "' % (
                code,
                _quoted(_text(reason)),
                _json_headers(first.items()),
            )

    def start(self) -> bytes:
        """What comes before the body."""
        return self._start

    def feed(self, data: bytes) -> bytes:
        """The next piece of the body, as far as it can be known; may be empty."""
        if not self._basic:
            return _quoted(self._decode(data, False))[1:-1]
        data = self._held + data
        certain = _without_newline(data[:-1] if data.endswith(b"\r") else data)
        self._held = data[len(certain) :]
        return certain

    def finish(self) -> bytes:
        """What comes after the body."""
        if self._basic:
            return _without_newline(self._held) + b");\n"
        return _quoted(self._decode(b"", True))[1:-1] + b'"});\n'


def _is_callback(name: bytes) -> bool:
    try:
        return _CALLBACK.fullmatch(name.decode()) is not None
    except UnicodeDecodeError:
        return False


def _query_headers(text: bytes) -> list[Header]:
    """The headers that `_headers` asks for, sorted by name as Pushpin sends them."""
    try:
        asked = orjson.loads(text)
    except orjson.JSONDecodeError:
        asked = None
    error = CrossOriginError("Invalid _headers parameter.", 400)
    if not isinstance(asked, dict):
        raise error
    headers = []
    for name, value in sorted(asked.items()):
        if not isinstance(value, str):
            raise error
        header = (name.encode(), value.encode().strip(b" \t"))
        if not _TOKEN.fullmatch(header[0]) or _CONTROL.search(header[1]):
            raise error
        if header[0].lower() not in _NOT_FROM_QUERY:
            headers.append(header)
    return headers


def _values(headers: Iterable[Header], name: bytes) -> list[bytes]:
    return [v for n, v in headers if n.lower() == name]


def _for_script(headers: Iterable[Header]) -> list[Header]:
    return [h for h in headers if h[0].lower() not in _NOT_TO_SCRIPT]


def _json_headers(pairs: Iterable[Header]) -> bytes:
    members = (_quoted(_text(n)) + b":" + _quoted(_text(v)) for n, v in sorted(pairs))
    return b"{" + b",".join(members) + b"}"


def _quoted(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).translate(_LINE_ENDS).encode()


def _bytes(setting: str) -> bytes:
    return setting.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _without_newline(data: bytes) -> bytes:
    return data[:-2] if data.endswith(b"\r\n") else data.removesuffix(b"\n")
