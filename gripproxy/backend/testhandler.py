"""The `test` target: a backend inside the proxy, to try holds and publishes without one.

Pushpin: proxy/testhttprequest.cpp.
"""

import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

Headers = tuple[tuple[bytes, bytes], ...]

MAX_REQUEST_BODY_BYTES = 100_000  # as for every request that is answered by an instruction

_TEXT = (b"Content-Type", b"text/plain")
NOT_FOUND = 404, b"Not Found", (_TEXT,), b"no such test resource\n"
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


def strip_base(target: bytes, path_beg: bytes) -> bytes:
    """`target` without the route's `path_beg`, whose closing slash stays.

    A path that was rewritten, and so does not begin with it, is left alone. Pushpin cuts as many
    bytes off that, too.
    """
    return target.removeprefix(path_beg.removesuffix(b"/"))


def answer(
    method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> tuple[int, bytes, Headers, bytes]:
    """Code, reason, headers and body of a backend's answer, to be read as any other.

    `target` is what strip_base returns. As in Pushpin, `method` and `headers` make no difference.
    """
    if len(body) > MAX_REQUEST_BODY_BYTES:
        return 400, b"Bad Request", (_TEXT,), b"request too large\n"
    path, query = _split(target)
    if path == b"/":
        return 200, b"OK", (_TEXT,), b"Hello from the Pushpin test handler!\n"
    if path == b"/response":
        return 200, b"OK", _hold(b"response", query), b"nothing for now\n"
    if path == b"/stream":
        return 200, b"OK", _hold(b"stream", query), b"[stream opened]\n"
    return NOT_FOUND


def websocket_channels(target: bytes) -> list[str] | None:
    """The channels that a WebSocket at `target` listens to; None: there is none."""
    path, query = _split(target)
    if path != b"/ws":
        return None
    return [channel.decode("utf-8", "replace") for channel in _channels(query)]


def _split(target: bytes) -> tuple[bytes, bytes]:
    """The decoded path and the query."""
    path, _, query = target.partition(b"?")
    path = unquote_to_bytes(path)
    return (path.removesuffix(b"/") if len(path) > 1 else path), query


def _hold(mode: bytes, query: bytes) -> Headers:
    # With no_grip the client gets this header, and must not write others into it.
    channels = [_CONTROL.sub(_percent, channel) for channel in _channels(query)]
    return (
        _TEXT,
        (b"Grip-Hold", mode),
        (b"Grip-Channel", b", ".join(channels)),
    )


def _channels(query: bytes) -> list[bytes]:
    channels = []
    for field in query.split(b"&"):
        name, _, value = field.partition(b"=")
        if unquote_to_bytes(name) == b"channel":
            channels.append(unquote_to_bytes(value))
    return channels or [b"test"]


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]
