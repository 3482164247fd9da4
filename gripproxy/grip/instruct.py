"""Instructions: what a backend's response tells the proxy to do with the client's request.

They come in `Grip-*` headers, in an `application/grip-instruct` body, or in both, which then
combine. Messages are Pushpin's, since routes in debug mode show them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from urllib.parse import urlsplit

from gripproxy.errors import InstructError
from gripproxy.grip import bodypatch, fields, params
from gripproxy.grip.instructbody import NOT_JSON, add_body
from gripproxy.grip.item import HttpResponse
from gripproxy.grip.terms import (
    HOLD_TIMEOUT,
    HOLD_TIMEOUT_MIN,
    HOP_BY_HOP,
    KEEP_ALIVE_TIMEOUT,
    LINK_TIMEOUT,
    Channel,
    HoldMode,
    Instruct,
    KeepAlive,
    KeepAliveMode,
    NextLink,
    Response,
    checked,
)
from gripproxy.http1.status import reason_phrase

__all__ = [
    "Channel",
    "HoldMode",
    "Instruct",
    "KeepAlive",
    "KeepAliveMode",
    "NextLink",
    "Response",
    "is_instruct",
    "may_relay",
    "parse",
    "parse_headers_only",
    "respond",
]

INSTRUCT_TYPE = b"application/grip-instruct"

# Of a published response; its body may well be encoded.
_FRAMING = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"content-length"))

_CSTRING = re.compile(rb"\\(?:([\\rn])|x([0-9A-Fa-f]{2})|([^x]))|(\\)", re.DOTALL)
_ESCAPES = {b"\\": b"\\", b"r": b"\r", b"n": b"\n"}
_NOT_URI = re.compile(rb"[^!-~]")

_Headers = Sequence[tuple[bytes, bytes]]
_Fields = tuple[tuple[bytes, bytes], ...]

_HOLD_MODES = {mode.value: mode for mode in HoldMode}
_KEEP_ALIVE_MODES = {mode.value.encode(): mode for mode in KeepAliveMode}


def is_instruct(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the response with these headers is for the proxy to read.

    It has a `Grip-*` field, or its content type up to any `;` is application/grip-instruct.
    """
    # Runs for each response, hence the cheap tests before the exact ones; 0x2D is `-`.
    for name, value in headers:
        length = len(name)
        if length > 4 and name[4] == 0x2D and name[:5].lower() == b"grip-":
            return True
        if length == 12 and value.startswith(INSTRUCT_TYPE) and _is_json(name, value):
            return True
    return False


def may_relay(headers: _Headers) -> bool:
    """Whether a response too large to be read as an instruction may be sent on first, then held.

    Pushpin: as a stream hold, or as a stream that a next link continues, if no channel asks for
    `build-id`, which would have to change the body.
    """
    grip = _grip_fields(headers)
    if any(_is_json(name, value) for name, value in headers):
        return False
    if b"hold" in grip:
        if grip[b"hold"][0] != b"stream":
            return False
    else:
        links = params.parse_elements(grip.get(b"link", ()))
        if not any(params.get(link, b"rel") == b"next" for link in links):
            return False
    channels = params.parse_elements(grip.get(b"channel", ()))
    return not any((b"filter", b"build-id") in channel.params for channel in channels)


def parse(code: int, reason: bytes, headers: _Headers, body: bytes) -> Instruct:
    """The instruction in a response for which `is_instruct` holds. Raises InstructError."""
    grip = _grip_fields(headers)
    as_json = any(_is_json(name, value) for name, value in headers)
    if as_json:
        instruct = _from_headers(grip, Response(code, reason, (), b""))
        if code != 200:
            raise InstructError(f"response code for {INSTRUCT_TYPE.decode()} content must be 200")
        instruct = add_body(instruct, body)
    else:
        kept = _kept(headers)
        exposed = _exposed(grip.get(b"expose-headers", ()))
        if exposed is not None:
            kept = tuple(field for field in kept if field[0].lower() in exposed)
        instruct = _from_headers(grip, Response(code, reason, kept, body))
    if instruct.timeout < HOLD_TIMEOUT_MIN:
        instruct = replace(instruct, timeout=HOLD_TIMEOUT_MIN)
    return instruct


def parse_headers_only(code: int, reason: bytes, headers: _Headers) -> Instruct:
    """The instruction of a response whose body is sent on as it comes.

    Pushpin: Grip-Expose-Headers is not obeyed then. Raises InstructError, also when the instruction
    would be in the body.
    """
    if any(_is_json(name, value) for name, value in headers):
        raise InstructError(NOT_JSON)
    instruct = _from_headers(_grip_fields(headers), Response(code, reason, _kept(headers), b""))
    return replace(instruct, timeout=max(instruct.timeout, HOLD_TIMEOUT_MIN))


def respond(held: Response, item: HttpResponse) -> Response:
    """The answer to a request held with `held` as its response, when `item` (action send) comes.

    Pushpin: code, reason and body are the item's; headers are those of `held` whose name the item
    does not have, then the item's. `Grip-*` fields of the item go nowhere; its Grip-Expose-Headers,
    if any, *removes* the fields that it names from the result. Raises PatchError when the item's
    patch does not fit the body of `held`: Pushpin 2.0 then sends an empty body, where 1.36 and its
    documentation make it an error (502), which is left to the caller.
    """
    headers = _merged(held.headers, item.headers) if item.headers else held.headers
    body = item.body
    if item.body_patch is not None:
        body = bodypatch.apply_to_body(held.body, item.body_patch)
    return Response(item.code, item.reason, headers, body)


def _merged(held: _Fields, published: _Fields) -> _Fields:
    grip = _grip_fields(published)
    hidden = _FRAMING.union(_exposed(grip.get(b"expose-headers", ())) or ())
    own = tuple(field for field in published if _survives(field[0].lower(), hidden))
    replaced = hidden.union(name.lower() for name, _ in own)
    return tuple(field for field in held if field[0].lower() not in replaced) + own


def _kept(headers: _Headers) -> _Fields:
    return tuple(field for field in headers if _survives(field[0].lower(), HOP_BY_HOP))


def _is_json(name: bytes, value: bytes) -> bool:
    return name.lower() == b"content-type" and value.partition(b";")[0] == INSTRUCT_TYPE


def _grip_fields(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    """The values of all `Grip-*` fields by the rest of their name, lower case."""
    grip: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        key = name.lower()
        if key.startswith(b"grip-"):
            grip.setdefault(key[5:], []).append(value)
    return grip


def _exposed(values: Iterable[bytes]) -> frozenset[bytes] | None:
    """The lower-case names that a Grip-Expose-Headers lists; None: it is absent or empty."""
    names = params.split_list(values)
    return frozenset(name.lower() for name in names) if names else None


def _survives(name: bytes, hidden: Set[bytes]) -> bool:
    return name not in hidden and not name.startswith(b"grip-")


def _from_headers(grip: Mapping[bytes, Sequence[bytes]], response: Response) -> Instruct:
    hold = None
    if b"hold" in grip:
        hold = _HOLD_MODES.get(_text(grip[b"hold"][0]))
        if hold is None:
            raise InstructError("Grip-Hold must be set to either 'response' or 'stream'")
    channels = tuple(map(_channel, params.parse_elements(grip.get(b"channel", ()))))
    timeout = HOLD_TIMEOUT
    if b"timeout" in grip:
        timeout = _seconds(grip[b"timeout"][0], "Grip-Timeout", "")
    keep_alive = _keep_alive(grip[b"keep-alive"][0]) if b"keep-alive" in grip else None
    meta = _meta(grip[b"set-meta"]) if b"set-meta" in grip else {}
    if b"status" in grip and grip[b"status"][0]:
        response = _status(grip[b"status"][0], response)
    next_link, gone_link = _links(grip[b"link"]) if b"link" in grip else (None, None)
    return Instruct(hold, channels, timeout, keep_alive, meta, response, next_link, gone_link)


def _channel(element: params.Element) -> Channel:
    prev_id = params.get(element, b"prev-id")
    # Pushpin: the name of this parameter alone must be lower case.
    filters = [value for name, value in element.params if name == b"filter" and value is not None]
    return checked(
        Channel(
            _text(element.value),
            None if prev_id is None else _text(prev_id),
            tuple(map(_text, filters)),
        )
    )


def _keep_alive(value: bytes) -> KeepAlive | None:
    if not value:
        return None
    element = params.parse_element(value)
    if element is None:
        return None
    if not element.value:
        raise InstructError("Grip-Keep-Alive cannot be empty")
    mode = KeepAliveMode.IDLE
    given = params.get(element, b"mode")
    if given:
        if given not in _KEEP_ALIVE_MODES:
            raise InstructError(f"no such Grip-Keep-Alive mode '{fields.shown(_text(given))}'")
        mode = _KEEP_ALIVE_MODES[given]
    content = _keep_alive_content(element.value, params.get(element, b"format") or b"raw")
    timeout = KEEP_ALIVE_TIMEOUT
    given = params.get(element, b"timeout")
    if given is not None:
        timeout = _seconds(given, "Grip-Keep-Alive timeout", " value")
    return KeepAlive(content, max(timeout, 1), mode) if content else None


def _keep_alive_content(data: bytes, encoding: bytes) -> bytes:
    if encoding == b"raw":
        return data
    if encoding == b"base64":
        return fields.decode_base64(_text(data))
    if encoding != b"cstring":
        raise InstructError(f"no such Grip-Keep-Alive format '{fields.shown(_text(encoding))}'")
    content = _CSTRING.sub(_unescape, data)
    if not content:
        raise InstructError("failed to parse Grip-Keep-Alive cstring format")
    return content


def _unescape(match: re.Match[bytes]) -> bytes:
    letter, digits, unknown, _ = match.groups()
    if letter:
        return _ESCAPES[letter]
    if digits:
        return bytes((int(digits, 16),))
    if unknown:
        return b""
    raise InstructError("failed to parse Grip-Keep-Alive cstring format")


def _meta(values: Sequence[bytes]) -> dict[str, str]:
    meta: dict[str, str] = {}
    for pairs in params.parse_pairs(values):
        if not pairs:
            raise InstructError("Grip-Set-Meta cannot be empty")
        name, value = pairs[0]
        if value is not None:
            meta[_text(name)] = _text(value)
    return meta


def _status(value: bytes, response: Response) -> Response:
    digits, _, reason = value.partition(b" ")
    code = fields.decimal(_text(digits))
    if code is None or not 0 <= code <= 999:
        raise InstructError("Grip-Status contains invalid status code")
    return replace(response, code=code, reason=reason or reason_phrase(code))


def _links(values: Sequence[bytes]) -> tuple[NextLink | None, str | None]:
    next_link: NextLink | None = None
    gone_link: str | None = None
    for element in params.parse_elements(values):
        if not element.params:
            continue
        uri = _link_uri(element.value)
        relation = params.get(element, b"rel")
        if relation == b"next":
            timeout = LINK_TIMEOUT
            given = params.get(element, b"timeout")
            if given is not None:
                timeout = _seconds(given, "Grip-Link timeout", " value")
            next_link = NextLink(uri, timeout)
        elif relation == b"gone":
            gone_link = uri
    return next_link, gone_link


def _link_uri(value: bytes) -> str:
    """The URI reference between brackets, percent-encoded where a request line needs it."""
    inner = value[1:-1].strip()
    if not (inner and value.startswith(b"<") and value.endswith(b">")):
        raise InstructError("failed to parse Grip-Link value")
    uri = _NOT_URI.sub(lambda match: b"%%%02X" % match[0][0], inner).decode()
    try:
        parts = urlsplit(uri)
        valid = not uri.startswith(":") and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise InstructError("Grip-Link contains invalid link")
    return uri


def _seconds(value: bytes, what: str, unreadable: str) -> int:
    seconds = fields.decimal(_text(value))
    if seconds is None:
        raise InstructError(f"failed to parse {what}{unreadable}")
    if seconds < 0:
        raise InstructError(f"{what} has invalid value")
    return seconds


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
