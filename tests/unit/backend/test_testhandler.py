"""The `test` target: what the built-in backend answers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.backend.testhandler import answer, strip_base, websocket_channels

TEXT = (b"Content-Type", b"text/plain")


def get(target: bytes) -> tuple[int, bytes, tuple[tuple[bytes, bytes], ...], bytes]:
    return answer(b"GET", target, [], b"")


@pytest.mark.parametrize(
    ("target", "path_beg", "rest"),
    [
        (b"/response?x=1", b"", b"/response?x=1"),
        (b"/response", b"/", b"/response"),
        (b"/t/response", b"/t", b"/response"),
        (b"/t/response", b"/t/", b"/response"),
        (b"/t/", b"/t/", b"/"),
        (b"/t", b"/t", b""),
        (b"/rewritten/", b"/t", b"/rewritten/"),
    ],
)
def test_the_path_loses_path_beg(target: bytes, path_beg: bytes, rest: bytes) -> None:
    assert strip_base(target, path_beg) == rest


@pytest.mark.parametrize("target", [b"/", b"//", b"/?x=1"])
@pytest.mark.parametrize("method", [b"GET", b"POST", b"FOO"])
def test_the_root_says_hello_to_any_method(method: bytes, target: bytes) -> None:
    hello = b"Hello from the Pushpin test handler!\n"
    assert answer(method, target, [(b"X", b"1")], b"body") == (200, b"OK", (TEXT,), hello)


@pytest.mark.parametrize("target", [b"/response", b"/response/", b"/%72esponse", b"/response?x"])
def test_response_is_held(target: bytes) -> None:
    headers = (TEXT, (b"Grip-Hold", b"response"), (b"Grip-Channel", b"test"))
    assert get(target) == (200, b"OK", headers, b"nothing for now\n")


def test_stream_is_held_open() -> None:
    headers = (TEXT, (b"Grip-Hold", b"stream"), (b"Grip-Channel", b"test"))
    assert get(b"/stream") == (200, b"OK", headers, b"[stream opened]\n")


@pytest.mark.parametrize("target", [b"", b"?x", b"x", b"/nope", b"/response/x", b"/RESPONSE"])
def test_there_is_nothing_else(target: bytes) -> None:
    assert get(target) == (404, b"Not Found", (TEXT,), b"no such test resource\n")


@pytest.mark.parametrize(
    ("query", "channels"),
    [
        (b"channel=a", b"a"),
        (b"channel=a&x=1&channel=b", b"a, b"),
        (b"channel=a%20b+c&chann%65l=%C3%A9", b"a b+c, \xc3\xa9"),
        (b"channel=", b""),
        (b"Channel=a", b"test"),
    ],
)
def test_the_query_names_the_channels(query: bytes, channels: bytes) -> None:
    assert (b"Grip-Channel", channels) in get(b"/stream?" + query)[2]


def test_a_channel_cannot_break_out_of_its_header() -> None:
    headers = get(b"/response?channel=a%0D%0AX:%20y%00")[2]
    assert headers[-1] == (b"Grip-Channel", b"a%0D%0AX: y%00")


def test_a_body_that_no_instruction_may_answer_is_refused() -> None:
    assert answer(b"POST", b"/", [], b"x" * 100_000)[0] == 200
    refusal = (400, b"Bad Request", (TEXT,), b"request too large\n")
    assert answer(b"POST", b"/nope", [], b"x" * 100_001) == refusal


@pytest.mark.parametrize(
    ("target", "channels"),
    [
        (b"/ws", ["test"]),
        (b"/ws/", ["test"]),
        (b"/%77s?x=1", ["test"]),
        (b"/ws?channel=a&x=1&channel=b%20c", ["a", "b c"]),
        (b"/ws?channel=%C3%A9%FF", ["\xe9\ufffd"]),
        (b"/", None),
        (b"/wss", None),
        (b"/stream", None),
        (b"/ws/x", None),
        (b"", None),
    ],
)
def test_a_websocket_listens_to_the_channels_that_the_query_names(
    target: bytes, channels: list[str] | None
) -> None:
    assert websocket_channels(target) == channels


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=30) | st.binary(max_size=20).map(b"/stream?channel=".__add__))
def test_no_target_makes_a_header_of_more_than_one_line(target: bytes) -> None:
    _, _, headers, _ = get(target)
    assert not any(set(value) & set(b"\r\n\0") for _, value in headers)
