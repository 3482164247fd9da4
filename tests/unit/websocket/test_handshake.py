"""The request that opens a WebSocket."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.utils import accept_key as other_accept_key

from gripproxy.errors import HttpError
from gripproxy.http1.head import RequestHead, parse_request
from gripproxy.websocket.handshake import accept_key, check_request


def request(
    *fields: bytes, line: bytes = b"GET /ws HTTP/1.1", version: bytes | None = b"13"
) -> RequestHead:
    """A request that asks for a WebSocket."""
    lines = [line, b"Host: a.test", b"Upgrade: websocket", *fields]
    if version is not None:
        lines.append(b"Sec-WebSocket-Version: " + version)
    return parse_request(b"\r\n".join([*lines, b"", b""]), 50)


KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def test_a_key_is_answered_as_the_standard_shows() -> None:
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_a_key_is_answered_as_others_answer_it(key: str) -> None:
    assert accept_key(key.encode()) == other_accept_key(key).encode()


@pytest.mark.parametrize(
    ("head", "key"),
    [
        (request(b"Connection: Upgrade", KEY), b"dGhlIHNhbXBsZSBub25jZQ=="),
        (request(KEY), b"dGhlIHNhbXBsZSBub25jZQ=="),
        (request(b"Connection: close", b"sec-websocket-key: short"), b"short"),
        (request(b"Sec-WebSocket-Key:"), b""),
        (request(KEY, b"Content-Length: 0"), b"dGhlIHNhbXBsZSBub25jZQ=="),
    ],
)
def test_a_request_has_a_key(head: RequestHead, key: bytes) -> None:
    assert check_request(head) == key


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (request(KEY, line=b"POST /ws HTTP/1.1"), "the method is not GET"),
        (request(KEY, line=b"get /ws HTTP/1.1"), "the method is not GET"),
        (request(KEY, line=b"GET /ws HTTP/1.0"), "the version is not HTTP/1.1"),
        (request(KEY, b"Content-Length: 1"), "it has a body"),
        (request(KEY, b"Transfer-Encoding: chunked"), "it has a body"),
        (request(KEY, version=None), "Sec-WebSocket-Version is not 13"),
        (request(KEY, version=b"8"), "Sec-WebSocket-Version is not 13"),
        (request(KEY, version=b"13, 8"), "Sec-WebSocket-Version is not 13"),
        (request(), "Sec-WebSocket-Key is missing"),
    ],
)
def test_what_is_wrong_with_a_request_is_said_in_one_line(head: RequestHead, reason: str) -> None:
    with pytest.raises(HttpError) as caught:
        check_request(head)
    assert caught.value.status == 400
    assert str(caught.value) == f"not a WebSocket request: {reason}"
