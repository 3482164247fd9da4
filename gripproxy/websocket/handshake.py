"""The request that opens a WebSocket, and the key that answers it (RFC 6455 §4.2)."""

from base64 import b64encode
from hashlib import sha1

from gripproxy.errors import HttpError
from gripproxy.http1.head import RequestHead, header

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_key(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def check_request(head: RequestHead) -> bytes:
    """The key of a request with `Upgrade: websocket`.

    Raises HttpError (400), which says in one line what is wrong. Connection is not examined, and
    neither is what the key looks like.
    """
    if head.method != b"GET":
        raise HttpError("not a WebSocket request: the method is not GET")
    if not head.http11:
        raise HttpError("not a WebSocket request: the version is not HTTP/1.1")
    if head.length:
        raise HttpError("not a WebSocket request: it has a body")
    if header(head.headers, b"sec-websocket-version") != b"13":
        raise HttpError("not a WebSocket request: Sec-WebSocket-Version is not 13")
    key = header(head.headers, b"sec-websocket-key")
    if key is None:
        raise HttpError("not a WebSocket request: Sec-WebSocket-Key is missing")
    return key
