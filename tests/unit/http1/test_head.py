"""Heads of messages: which are refused, and what follows from those that are not."""

from typing import Any

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gripproxy.errors import HttpError
from gripproxy.http1.head import (
    CHUNKED,
    UNTIL_CLOSE,
    Headers,
    RequestHead,
    ResponseHead,
    header,
    parse_request,
    parse_response,
    take_response,
)

MAX = 64


def request(
    *fields: bytes, method: bytes = b"GET", target: bytes = b"/", version: bytes = b"1.1"
) -> RequestHead:
    lines = [b"%b %b HTTP/%b" % (method, target, version), *fields, b"", b""]
    return parse_request(b"\r\n".join(lines), MAX)


def response(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> ResponseHead:
    return parse_response(b"\r\n".join([line, *fields, b"", b""]), MAX)


def refusal(*fields: bytes, method: bytes = b"GET", target: bytes = b"/") -> int:
    with pytest.raises(HttpError) as caught:
        request(*fields, method=method, target=target)
    assert str(caught.value)
    return caught.value.status


# -- requests: the line --------------------------------------------------------------------------


def test_a_request_is_told_as_it_was_spelled() -> None:
    head = request(b"Host: A.example:81", b"x-a:  1 2", b"X-A:", b"X-B: \xe4", target=b"/a%2F?b=c&")
    assert (head.method, head.target, head.http11) == (b"GET", b"/a%2F?b=c&", True)
    assert head.host == b"A.example:81"
    assert head.headers == [
        (b"Host", b"A.example:81"),
        (b"x-a", b"1 2"),
        (b"X-A", b""),
        (b"X-B", b"\xe4"),
    ]
    assert (head.length, head.expects_continue, head.websocket) == (0, False, False)


@pytest.mark.parametrize(
    "line",
    [
        b"GET /",
        b"GET / ",
        b"GET / HTTP/0.9",
        b"GET / HTTP/1.2",
        b"GET / HTTP/1.10",
        b"GET / HTTP/01.1",
        b"GET / HTTP/2.0",
        b"GET / HTTP/2",
        b"GET / http/1.1",
        b"GET / RTSP/1.0",
        b"GET / ICE/1.0",
        b"SOURCE / ICE/1.0",
        b"PRI * HTTP/2.0",
        b"FOO / HTTP/2.0",
        b"FOO / RTSP/1.0",
    ],
)
def test_versions_other_than_1_0_and_1_1_are_refused(line: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        parse_request(line + b"\r\nHost: a\r\n\r\n", MAX)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET",
        b"\r\nGET / HTTP/1.1",
        b" GET / HTTP/1.1",
        b" / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"FOO  / HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET /\tHTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET / HTTP/1.1\r",
        b"GET / HTTP/1.1\nHost: b",
        b"GET /a b HTTP/1.1",
        b"GET /\0 HTTP/1.1",
        b"GET /\x01 HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET /\xc3\xa4 HTTP/1.1",
        b"\x16\x03\x01 / HTTP/1.1",
    ],
)
def test_a_line_that_is_not_a_request_line_is_refused(line: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        parse_request(line + b"\r\nHost: a\r\n\r\n", MAX)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "method",
    [
        b"GET",
        b"POST",
        b"HEAD",
        b"PUT",
        b"DELETE",
        b"OPTIONS",
        b"PATCH",
        b"TRACE",
        b"PROPFIND",
        b"FOO",
        b"get",
        b"Get",
        b"M-SEARCH",
        b"SOURCE",
        b"PRI",
        b"#!$%&'*+-.^_`|~9",
        b"M" * 64,
    ],
)
def test_any_token_is_a_method(method: bytes) -> None:
    assert request(b"Content-Length: 3", method=method).method == method


@pytest.mark.parametrize("method", [b"M" * 65, b"A\0", b"A(", b"A:", b"\xc3\x84", b'"A"'])
def test_what_is_not_a_token_is_no_method(method: bytes) -> None:
    assert refusal(method=method) == 400


def test_connect_is_not_supported() -> None:
    assert refusal(method=b"CONNECT", target=b"a.example:443") == 501


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        (b"http://b", b"b", b"/"),
        (b"http://b/", b"b", b"/"),
        (b"http://b:81/x?y#", b"b:81", b"/x?y#"),
        (b"https://b?y=/", b"b", b"/?y=/"),
        (b"HTTP://b/x", b"b", b"/x"),
        (b"http://[::1]:81/x", b"[::1]:81", b"/x"),
    ],
)
def test_an_absolute_target_overrules_the_host(target: bytes, host: bytes, path: bytes) -> None:
    for fields in ([], [b"Host: a"]):
        head = request(*fields, target=target)
        assert (head.host, head.target) == (host, path)


@pytest.mark.parametrize(
    "target",
    [
        b"x",
        b"x/y",
        b"?x",
        b"ftp://b/",
        b"http:///x",
        b"http://",
        b"http:b/",
        b"b:80",
        b"http://u@b/",
        b"http://b:x/",
        b"http://b\xe4/",
    ],
)
def test_other_targets_are_refused(target: bytes) -> None:
    assert refusal(target=target) == 400
    assert refusal(target=target, method=b"FOO") == 400


def test_an_absolute_target_does_not_excuse_two_hosts() -> None:
    assert refusal(b"Host: b", b"Host: b", target=b"http://b/") == 400


def test_a_request_may_be_for_the_server_as_a_whole() -> None:
    head = request(b"Host: a", method=b"OPTIONS", target=b"*")
    assert (head.host, head.target) == (b"a", b"*")


def test_slashes_that_begin_a_path_name_no_authority() -> None:
    head = request(b"Host: a", target=b"//b/c")
    assert (head.host, head.target) == (b"a", b"//b/c")


# -- requests: the fields ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        b"X-A: 1\r\n 2",
        b"X-A: 1\r\n\t2",
        b"X-A:\r\n 2",
        b" X-A: 1",
        b"X-A : 1",
        b"X-A\t: 1",
        b"X-A",
        b": 1",
        b"X A: 1",
        b"X(: 1",
        b"X\xe4: 1",
        b"X-A: 1\nX-B: 2",
        b"X-A: 1\n\nGET / HTTP/1.1",
        b"X-A: 1\r\n\nGET / HTTP/1.1",
        b"X-A: 1\rX-B: 2",
        b"X-A: 1\r",
        b"X-A: 1\0",
        b"X\0: 1",
        b"X-A: 1\x0b",
        b"X-A: 1\x7f",
    ],
)
def test_malformed_fields_are_refused(fields: bytes) -> None:
    assert refusal(fields) == 400
    assert refusal(b"Host: a", fields, b"X-Z: 1") == 400


@pytest.mark.parametrize("end", [b" ", b"\t", b" \t "])
def test_white_space_around_a_value_is_not_part_of_it(end: bytes) -> None:
    head = request(
        b"Host:" + end + b"a" + end,
        b"Content-Length:" + end + b"5" + end,
        b"Upgrade:" + end + b"websocket" + end,
        b"Expect:" + end + b"100-continue" + end,
        b"X-A:" + end + b"1 \t2" + end,
        b"X-B:" + end,
    )
    assert [value for _, value in head.headers] == [
        b"a",
        b"5",
        b"websocket",
        b"100-continue",
        b"1 \t2",
        b"",
    ]
    assert (head.host, head.length) == (b"a", 5)
    assert head.websocket
    assert head.expects_continue


def test_as_many_fields_as_allowed_are_accepted() -> None:
    assert len(request(*[b"X-A: 1"] * 64).headers) == 64


def test_one_field_more_is_refused() -> None:
    assert refusal(*[b"X-A: 1"] * 65) == 400


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a",
        b"A.b-c_d.example:8080",
        b"127.0.0.1:",
        b"[::1]",
        b"[fe80::1]:80",
        b"a%20b",
        b":80",
    ],
)
def test_a_host_is_a_name_or_an_address_and_perhaps_a_port(host: bytes) -> None:
    assert request(b"Host: " + host).host == host


def test_a_host_may_be_absent() -> None:
    assert request().host is None


@pytest.mark.parametrize(
    "host",
    [
        b"a b",
        b"a, b",
        b"a/b",
        b"a?b",
        b"a#b",
        b"u@a",
        b"a:x",
        b"a:1:2",
        b"a:123456",
        b"[::1",
        b"::1",
        b"[::1]a",
        b"[a/b]",
        b"\xc3\xa4",
        b'"a"',
        b"<a>",
        b"a\\b",
    ],
)
def test_a_host_that_is_neither_is_refused(host: bytes) -> None:
    assert refusal(b"Host: " + host) == 400


@pytest.mark.parametrize("second", [b"Host: a", b"Host: b", b"HOST: a", b"Host:"])
def test_two_hosts_are_refused(second: bytes) -> None:
    assert refusal(b"Host: a", second) == 400
    assert refusal(second, b"X-A: 1", b"Host: a") == 400


# -- requests: the body's framing ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "length"), [(b"0", 0), (b"7", 7), (b"007", 7), (b"9" * 18, 10**18 - 1)]
)
def test_content_length_is_the_body_s_length(value: bytes, length: int) -> None:
    assert request(b"content-length: " + value, method=b"POST").length == length


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"+3",
        b"-3",
        b"-0",
        b"0x3",
        b"1_0",
        b"3, 3",
        b"3,3",
        b"3 3",
        b"3;",
        b"3.0",
        b"1e3",
        b"abc",
        b"9" * 19,
        b"18446744073709551617",
        "\u0663".encode(),
    ],
)
def test_other_content_lengths_are_refused(value: bytes) -> None:
    assert refusal(b"Content-Length: " + value, method=b"POST") == 400


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED", b" \tchunked "])
def test_chunked_is_the_transfer_coding(value: bytes) -> None:
    assert request(b"transfer-encoding: " + value, method=b"POST").length == CHUNKED


LENGTH, CODING = b"Content-Length: 3", b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "fields",
    [
        [LENGTH, CODING],
        [CODING, LENGTH],
        [LENGTH, LENGTH],
        [LENGTH, b"content-length: 4"],
        [CODING, CODING],
        [b"Content-Length: 0", CODING],
        [b"Transfer-Encoding: gzip", CODING, LENGTH],
    ],
)
@pytest.mark.parametrize("method", [b"POST", b"GET", b"FOO"])
def test_a_body_that_could_be_framed_in_two_ways_is_refused(
    fields: list[bytes], method: bytes
) -> None:
    assert refusal(*fields, method=method) == 400
    assert refusal(fields[0], b"X-A: 1", *fields[1:], method=method) == 400


@pytest.mark.parametrize("value", [b"gzip, chunked", b"gzip,chunked", b"identity, chunked"])
def test_codings_besides_chunked_are_not_supported(value: bytes) -> None:
    assert refusal(b"Transfer-Encoding: " + value, method=b"POST") == 501


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"gzip",
        b"identity",
        b"xchunked",
        b"chunkedx",
        b"chunked, gzip",
        b"chunked, chunked",
        b"chunked,",
        b"chunked;x",
        b"chunked chunked",
        b"\x0bchunked",
        b'"chunked"',
    ],
)
def test_a_request_whose_last_coding_is_not_chunked_is_refused(value: bytes) -> None:
    # RFC 9112 §6.3: its end could not be known.
    assert refusal(b"Transfer-Encoding: " + value, method=b"POST") == 400


@pytest.mark.parametrize("fields", [[CODING], [b"Connection: keep-alive", CODING]])
def test_a_transfer_coding_in_http_1_0_is_refused(fields: list[bytes]) -> None:
    with pytest.raises(HttpError) as caught:
        request(*fields, method=b"POST", version=b"1.0")
    assert caught.value.status == 400


# -- requests: the connection --------------------------------------------------------------------

KEEP_ALIVE = [
    # version, Connection fields, whether another request may follow
    (b"1.1", [], True),
    (b"1.1", [b"keep-alive"], True),
    (b"1.1", [b"close"], False),
    (b"1.1", [b"Close"], False),
    (b"1.1", [b"x, close ,y"], False),
    (b"1.1", [b"close, keep-alive"], False),
    (b"1.1", [b"keep-alive, close"], False),
    (b"1.1", [b"keep-alive", b"close"], False),
    (b"1.1", [b"close", b"keep-alive"], False),
    (b"1.1", [b"closed"], True),
    (b"1.1", [b"not-close"], True),
    (b"1.1", [b""], True),
    (b"1.0", [], False),
    (b"1.0", [b"keep-alive"], True),
    (b"1.0", [b"Keep-Alive"], True),
    (b"1.0", [b"x ,keep-alive, y"], True),
    (b"1.0", [b"x", b"keep-alive"], True),
    (b"1.0", [b"close"], False),
    (b"1.0", [b"close, keep-alive"], False),
    (b"1.0", [b"keep-alive, close"], False),
    (b"1.0", [b"keep-alive", b"close"], False),
    (b"1.0", [b"close", b"keep-alive"], False),
    (b"1.0", [b"keep-alives"], False),
]


@pytest.mark.parametrize(("version", "values", "alive"), KEEP_ALIVE)
def test_whether_a_connection_lives_on(version: bytes, values: list[bytes], alive: bool) -> None:
    fields = [b"connection: " + value for value in values]
    assert request(*fields, version=version).keep_alive is alive
    assert response(*fields, line=b"HTTP/%b 200 OK" % version).keep_alive is alive


def test_proxy_connection_means_nothing() -> None:
    assert request(b"Proxy-Connection: close").keep_alive
    assert not request(b"Proxy-Connection: keep-alive", version=b"1.0").keep_alive


@pytest.mark.parametrize(
    ("version", "value", "expected"),
    [
        (b"1.1", b"100-continue", True),
        (b"1.1", b"100-Continue", True),
        (b"1.1", b"100-continued", False),
        (b"1.1", b"", False),
        (b"1.0", b"100-continue", False),
    ],
)
def test_whether_100_continue_is_expected(version: bytes, value: bytes, expected: bool) -> None:
    head = request(b"expect: " + value, LENGTH, method=b"POST", version=version)
    assert head.expects_continue is expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([b"Upgrade: websocket"], True),
        ([b"UPGRADE: WebSocket", b"Connection: Upgrade"], True),
        ([b"Upgrade: websocket", b"Connection: keep-alive"], True),
        ([b"Upgrade: h2c", b"Upgrade: websocket"], True),
        ([b"Upgrade: websocket", b"Upgrade: h2c"], True),
        ([b"Upgrade: websocket, h2c"], False),
        ([b"Upgrade: h2c", b"Connection: Upgrade"], False),
        ([b"Upgrade:"], False),
        ([b"Connection: websocket"], False),
    ],
)
def test_a_websocket_is_asked_for_by_an_upgrade_field_alone(
    fields: list[bytes], expected: bool
) -> None:
    assert request(*fields).websocket is expected


@pytest.mark.parametrize("method", [b"POST", b"GET", b"FOO"])
def test_a_request_that_offers_h2c_keeps_its_body(method: bytes) -> None:
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    assert request(*upgrade, LENGTH, method=method).length == 3
    assert request(*upgrade, CODING, method=method).length == CHUNKED


# -- responses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.0 404 Not Found", 404, b"Not Found"),
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.1 299 a\tb \xe4", 299, b"a\tb \xe4"),
        (b"HTTP/1.1 999 x", 999, b"x"),
        (b"HTTP/1.1 100 Continue", 100, b"Continue"),
    ],
)
def test_a_response_has_a_code_and_a_reason(line: bytes, code: int, reason: bytes) -> None:
    head = response(b"X-A: 1", b"x-a: 2", line=line)
    assert (head.code, head.reason) == (code, reason)
    assert head.headers == [(b"X-A", b"1"), (b"x-a", b"2")]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"ICY 200 OK",
        b"ICE/1.0 200 OK",
        b"RTSP/1.0 200 OK",
        b"http/1.1 200 OK",
        b"HTTP/0.9 200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 -20 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 000 OK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 200 OK\nX-A: 1",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/1.1 200 O\x01K",
        b"HTTP/1.1 200 O\x7fK",
    ],
)
def test_a_line_that_is_not_a_status_line_is_refused(line: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        response(line=line)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    "fields",
    [b"X-A : 1", b"X-A: 1\r\n 2", b"X-A", b"X-A: 1\nX-B: 2", b"X-A: 1\0", b" X-A: 1", b": 1"],
)
def test_malformed_fields_of_a_response_are_refused(fields: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        response(fields)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([], UNTIL_CLOSE),
        ([b"Content-Length: 0"], 0),
        ([b"content-length: 12"], 12),
        ([b"Content-Length: 12 \t"], 12),
        ([b"Transfer-Encoding: chunked"], CHUNKED),
        ([b"transfer-encoding: Chunked"], CHUNKED),
        ([b"Transfer-Encoding:\tchunked "], CHUNKED),
    ],
)
def test_the_length_of_a_response(fields: list[bytes], length: int) -> None:
    assert response(*fields).length == length


@pytest.mark.parametrize(
    "fields",
    [
        [LENGTH, LENGTH],
        [LENGTH, b"Content-Length: 4"],
        [LENGTH, CODING],
        [CODING, LENGTH],
        [CODING, CODING],
        [b"Content-Length: x"],
        [b"Content-Length: -1"],
        [b"Content-Length:"],
        [b"Content-Length: 3, 3"],
        [b"Content-Length: " + b"9" * 19],
        [b"Transfer-Encoding: gzip"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding:"],
    ],
)
def test_a_response_that_is_framed_in_no_one_way_is_refused(fields: list[bytes]) -> None:
    with pytest.raises(HttpError) as caught:
        response(*fields)
    assert caught.value.status == 502


def test_a_transfer_coding_in_a_response_of_http_1_0_is_refused() -> None:
    with pytest.raises(HttpError) as caught:
        response(CODING, line=b"HTTP/1.0 200 OK")
    assert caught.value.status == 502


def test_the_fields_of_a_response_are_bounded() -> None:
    assert len(response(*[b"X-A: 1"] * 64).headers) == 64
    with pytest.raises(HttpError) as caught:
        response(*[b"X-A: 1"] * 65)
    assert caught.value.status == 502


@pytest.mark.parametrize("line", [b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 200 OK"])
def test_an_upgrade_in_a_response_hides_nothing_of_its_head(line: bytes) -> None:
    head = response(b"Connection: upgrade", b"Upgrade: h2c", LENGTH, b"X-A: 1", line=line)
    assert len(head.headers) == 4
    assert head.length == 3


# -- any bytes -----------------------------------------------------------------------------------

TOKEN = st.text("!#$%&'*+-.^_`|~0123456789abcxyzABCXYZ", min_size=1, max_size=12).map(str.encode)
VALUE = st.binary(max_size=20).map(
    lambda raw: bytes(byte for byte in raw if byte == 9 or 32 <= byte != 127).strip(b" \t")
)
FIELDS = st.lists(st.tuples(TOKEN.map(b"X-".__add__), VALUE), max_size=8)
PATH = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(str.encode)


def join(line: bytes, fields: Headers) -> bytes:
    return line + b"\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"


@settings(max_examples=100, deadline=None)
@given(TOKEN.filter(lambda token: token != b"CONNECT"), PATH.map(b"/".__add__), FIELDS)
def test_every_well_formed_request_is_read_as_it_was_written(
    method: bytes, target: bytes, fields: Headers
) -> None:
    head = parse_request(join(b"%b %b HTTP/1.1" % (method, target), fields), MAX)
    assert (head.method, head.target, head.headers) == (method, target, fields)


@settings(max_examples=100, deadline=None)
@given(st.integers(100, 999), VALUE, FIELDS)
def test_every_well_formed_response_is_read_as_it_was_written(
    code: int, reason: bytes, fields: Headers
) -> None:
    head = parse_response(join(b"HTTP/1.1 %d %b" % (code, reason), fields), MAX)
    assert (head.code, head.reason, head.headers) == (code, reason, fields)


# Random bytes are refused at their first; these come further.
PIECES = [
    b"GET ",
    b"POST ",
    b"FOO ",
    b"CONNECT ",
    b"/",
    b"*",
    b"http://a",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b"HTTP/1.1 ",
    b"200",
    b" OK\r\n",
    b"Host: a\r\n",
    b"Host:",
    b"Content-Length: 3\r\n",
    b"Content-Length:",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:",
    b"Connection: ",
    b"Upgrade: ",
    b"websocket",
    b"upgrade",
    b"close",
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b",",
    b"\0",
    b"abc",
    b"0\r\n",
    b"GET / HTTP/1.1\r\n",
]
GARBAGE = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=14).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(GARBAGE.map(lambda data: data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"))
@example(b"\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
@example(b"PRI * HTTP/2.0\r\n\r\n")
def test_garbage_is_refused_with_a_status_and_nothing_else(head: bytes) -> None:
    try:
        parsed = parse_request(head, MAX)
    except HttpError as error:
        assert error.status in (400, 501)
    else:
        assert parsed.length >= 0 or parsed.length == CHUNKED
        assert not any(set(value) & set(b"\r\n\0") for _, value in parsed.headers)
    try:
        answer = parse_response(head, MAX)
    except HttpError as error:
        assert error.status == 502
    else:
        assert 100 <= answer.code <= 999


class Lenient:
    """A tokeniser that accepts what it can: llhttp was like that, and has flags to be so again."""

    def __init__(self, fields: Any) -> None:
        self._fields = fields

    def feed_data(self, data: bytes) -> None:
        for text in filter(None, data.splitlines()[1:]):
            name, _, value = text.partition(b":")
            self._fields.on_header(name, value.strip())


@pytest.mark.parametrize(
    "fields",
    [
        [LENGTH, LENGTH],
        [LENGTH, CODING],
        [CODING, LENGTH],
        [CODING, CODING],
        [b"Content-Length: +3"],
        [b"Content-Length:"],
    ],
)
def test_no_body_of_two_framings_is_accepted_whatever_the_tokeniser_lets_through(
    fields: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httptools, "HttpRequestParser", Lenient)
    assert refusal(*fields, method=b"POST") == 400
    with pytest.raises(HttpError):
        response(*fields)


# -- looking up ----------------------------------------------------------------------------------


EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize("before", [b"", EARLY, EARLY + EARLY])
@pytest.mark.parametrize("after", [b"", b"ok", b"\r\n\r\n"])
def test_interim_responses_are_passed_over(before: bytes, after: bytes) -> None:
    head, rest = take_response(before + FINAL + after, 64, 8)
    assert head is not None
    assert (head.code, head.length, rest) == (200, 2, after)


def test_a_response_that_switches_protocols_is_final() -> None:
    head, rest = take_response(EARLY + b"HTTP/1.1 101 S\r\n\r\n\x81", 64, 8)
    assert head is not None
    assert (head.code, rest) == (101, b"\x81")


@pytest.mark.parametrize("part", [b"", b"H", FINAL[:-1], EARLY, EARLY + b"HTTP/1.1 200 OK\r\n"])
def test_a_response_that_has_not_come_is_awaited(part: bytes) -> None:
    head, rest = take_response(part, 64, 8)
    assert head is None
    assert part.removeprefix(EARLY) == rest


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (FINAL[:-2] + b"A: " + b"x" * 64, "too large"),
        (FINAL[:-2] + b"A: " + b"x" * 64 + b"\r\n\r\n", "too large"),
        (b"HTTP/1.1 200 OK\nA: b", "without CR"),
        (EARLY + b"HTTP/1.1 200 OK\n", "without CR"),
        (b"HTP/1.1 200 OK\r\n\r\n", "status line"),
    ],
)
def test_what_is_not_a_response_is_not_awaited(data: bytes, reason: str) -> None:
    with pytest.raises(HttpError, match=reason) as caught:
        take_response(data, 64, 8)
    assert caught.value.status == 502


def test_the_first_field_of_a_name_in_any_case_is_found() -> None:
    fields = [(b"X", b"0"), (b"Foo", b"1"), (b"FOO", b"2")]
    assert header(fields, b"foo") == b"1"
    assert header(fields, b"bar") is None
