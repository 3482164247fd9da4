"""Responses to clients: their framing, and every byte of them."""

import pytest

from gripproxy.clients.crossorigin import Jsonp
from gripproxy.clients.response import Framing, ResponseWriter, framing, response_head
from gripproxy.http1.head import Headers, parse_request, parse_response

GET, GET10 = b"GET / HTTP/1.1", b"GET / HTTP/1.0"
KEEP10 = b"GET / HTTP/1.0\r\nConnection: keep-alive"
HEAD, CLOSE = b"HEAD / HTTP/1.1", b"GET / HTTP/1.1\r\nConnection: close"
TEXT: Headers = [(b"Content-Type", b"text/plain")]


class Client:
    """A client's connection that keeps what is written to it."""

    def __init__(self, keep_alive: bool = True) -> None:
        self.keep_alive = keep_alive
        self.receiving = False
        self.writes: list[bytes] = []
        self.finished = False
        self.broken_off: bool | None = None

    def write(self, data: bytes) -> None:
        assert not self.finished
        assert data
        self.writes.append(data)

    def finish(self) -> None:
        assert not self.finished
        self.finished = True

    def break_off(self, *, unframed: bool) -> None:
        self.broken_off = unframed

    @property
    def sent(self) -> bytes:
        return b"".join(self.writes)


def begin(head: bytes = GET, cross_origin: bool = False) -> tuple[Client, ResponseWriter]:
    request = parse_request(head + b"\r\n\r\n", 64)
    client = Client(request.keep_alive)
    return client, ResponseWriter(client, request, cross_origin)


# -- which framing -------------------------------------------------------------------------------

BODILESS = [
    (method, http11, code, length)
    for method, code in [
        (b"HEAD", 200),
        (b"GET", 204),
        (b"GET", 304),
        (b"GET", 100),
        (b"HEAD", 404),
    ]
    for http11 in (True, False)
    for length in (None, 0, 7)
]


@pytest.mark.parametrize(("method", "http11", "code", "length"), BODILESS)
def test_some_responses_have_no_body(
    method: bytes, http11: bool, code: int, length: int | None
) -> None:
    assert framing(method, http11, code, length) is Framing.NONE


@pytest.mark.parametrize("method", [b"GET", b"POST", b"FOO"])
@pytest.mark.parametrize(
    ("http11", "length", "kind"),
    [
        (True, 0, Framing.LENGTH),
        (True, 7, Framing.LENGTH),
        (False, 0, Framing.LENGTH),
        (False, 7, Framing.LENGTH),
        (True, None, Framing.CHUNKED),
        (False, None, Framing.CLOSE),
    ],
)
@pytest.mark.parametrize("code", [200, 205, 404, 502])
def test_other_bodies_end_as_the_client_understands(
    method: bytes, http11: bool, code: int, length: int | None, kind: Framing
) -> None:
    assert framing(method, http11, code, length) is kind


# -- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "length", "http11", "keep_alive", "fields"),
    [
        (Framing.LENGTH, 7, True, True, b"Content-Length: 7\r\n"),
        (Framing.LENGTH, 0, True, False, b"Connection: close\r\nContent-Length: 0\r\n"),
        (Framing.LENGTH, 7, False, False, b"Content-Length: 7\r\n"),
        (Framing.LENGTH, 7, False, True, b"Connection: keep-alive\r\nContent-Length: 7\r\n"),
        (
            Framing.CHUNKED,
            None,
            True,
            True,
            b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            Framing.CHUNKED,
            None,
            True,
            False,
            b"Connection: close\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
        ),
        (Framing.CLOSE, None, False, False, b""),
        (Framing.CLOSE, None, True, False, b"Connection: close\r\n"),
        (Framing.NONE, None, True, True, b""),
        (Framing.NONE, 7, True, True, b"Content-Length: 7\r\n"),
        (Framing.NONE, None, False, True, b"Connection: keep-alive\r\n"),
    ],
)
def test_a_head_says_how_the_body_and_the_connection_end(
    kind: Framing, length: int | None, http11: bool, keep_alive: bool, fields: bytes
) -> None:
    head = response_head(200, b"OK", TEXT, kind, length, http11=http11, keep_alive=keep_alive)
    line = b"HTTP/1.1 200 OK\r\n" if http11 else b"HTTP/1.0 200 OK\r\n"
    assert head == line + b"Content-Type: text/plain\r\n" + fields + b"\r\n"


def test_fields_keep_their_order_and_spelling() -> None:
    fields = [(b"x-b", b"2"), (b"X-A", b""), (b"x-B", b"\xe4"), (b"Content-Encoding", b"gzip")]
    head = response_head(299, b"Odd", fields, Framing.NONE, None, http11=True, keep_alive=True)
    assert head == (
        b"HTTP/1.1 299 Odd\r\nx-b: 2\r\nX-A: \r\nx-B: \xe4\r\nContent-Encoding: gzip\r\n\r\n"
    )


def test_the_backend_s_own_framing_and_connection_are_not_passed_on() -> None:
    fields = [
        (b"Connection", b"close"),
        (b"KEEP-ALIVE", b"timeout=5"),
        (b"transfer-encoding", b"chunked"),
        (b"Content-length", b"99"),
        (b"X-A", b"1"),
    ]
    head = response_head(200, b"OK", fields, Framing.LENGTH, 3, http11=True, keep_alive=True)
    assert head == b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 3\r\n\r\n"


def test_a_reason_may_be_empty() -> None:
    head = response_head(200, b"", [], Framing.NONE, None, http11=True, keep_alive=True)
    assert head == b"HTTP/1.1 200 \r\n\r\n"


# -- bodies --------------------------------------------------------------------------------------


def test_a_whole_response_leaves_in_one_write() -> None:
    client, writer = begin()
    writer.respond(200, b"OK", TEXT, b"hello")
    assert client.writes == [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
    ]
    assert client.finished
    assert client.keep_alive
    assert (writer.code, writer.sent) == (200, 5)


def test_a_body_of_known_length_is_sent_as_it_is() -> None:
    client, writer = begin()
    writer.start(200, b"OK", [], 5, b"he")
    writer.send(b"ll")
    assert not client.finished
    writer.send(b"o", True)
    assert client.sent == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    assert client.finished
    assert writer.sent == 5


CHUNKED_HEAD = (
    b"HTTP/1.1 200 OK\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def test_a_body_of_unknown_length_is_sent_in_chunks() -> None:
    client, writer = begin()
    writer.start(200, b"OK", [], None)
    writer.send(b"0123456789")
    writer.send(b"")
    writer.send(b"x")
    writer.send(b"", True)
    assert client.writes == [CHUNKED_HEAD, b"a\r\n0123456789\r\n", b"1\r\nx\r\n", b"0\r\n\r\n"]
    assert client.finished
    assert writer.sent == 11


def test_the_last_content_and_the_last_chunk_leave_together() -> None:
    client, writer = begin()
    writer.start(200, b"OK", [], None, b"he")
    writer.send(b"llo", True)
    assert client.writes == [CHUNKED_HEAD + b"2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n"]


def test_a_chunked_body_may_be_complete_at_once() -> None:
    client, writer = begin()
    writer.start(200, b"OK", [], None, b"hello", True)
    assert client.writes == [CHUNKED_HEAD + b"5\r\nhello\r\n0\r\n\r\n"]
    assert client.finished


@pytest.mark.parametrize("head", [GET10, KEEP10])
def test_to_http_1_0_a_body_of_unknown_length_ends_with_the_connection(head: bytes) -> None:
    client, writer = begin(head)
    writer.start(200, b"OK", [], None, b"he")
    writer.send(b"llo", True)
    assert client.sent == b"HTTP/1.0 200 OK\r\n\r\nhello"
    assert client.finished
    assert not client.keep_alive


def test_to_http_1_0_a_body_of_known_length_may_leave_the_connection_open() -> None:
    client, writer = begin(KEEP10)
    writer.respond(200, b"OK", [], b"hello")
    assert client.sent == (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello"
    )
    assert client.keep_alive


def test_a_client_that_wants_the_connection_closed_is_told_so() -> None:
    client, writer = begin(CLOSE)
    writer.respond(200, b"OK", [], b"")
    assert client.sent == b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def test_a_response_before_the_end_of_the_request_closes_the_connection() -> None:
    client, writer = begin(b"POST / HTTP/1.1\r\nContent-Length: 9")
    client.receiving = True
    writer.respond(413, b"Request Entity Too Large", [], b"no")
    assert b"\r\nConnection: close\r\n" in client.sent
    assert not client.keep_alive


@pytest.mark.parametrize("length", [None, 5])
def test_a_head_request_is_told_the_length_and_sent_no_body(length: int | None) -> None:
    client, writer = begin(HEAD)
    writer.start(200, b"OK", [], length, b"he")
    writer.send(b"llo", True)
    told = b"" if length is None else b"Content-Length: 5\r\n"
    assert client.sent == b"HTTP/1.1 200 OK\r\n" + told + b"\r\n"
    assert client.finished
    assert client.keep_alive
    assert writer.sent == 0


@pytest.mark.parametrize("code", [204, 304])
def test_a_response_that_cannot_have_a_body_names_no_length(code: int) -> None:
    client, writer = begin()
    writer.start(code, b"No", [(b"Content-Length", b"5")], 5, b"hello", True)
    assert client.sent == b"HTTP/1.1 %d No\r\n\r\n" % code
    assert client.keep_alive


@pytest.mark.parametrize(("head", "unframed"), [(GET, False), (GET10, True)])
def test_a_body_that_is_broken_off_says_whether_its_end_would_pass_unnoticed(
    head: bytes, unframed: bool
) -> None:
    client, writer = begin(head)
    writer.start(200, b"OK", [], None, b"he")
    writer.break_off()
    assert client.broken_off is unframed
    assert not client.finished


# -- cross-origin --------------------------------------------------------------------------------


def test_cross_origin_responses_carry_cors_fields() -> None:
    client, writer = begin(GET + b"\r\nOrigin: http://page.example", cross_origin=True)
    writer.respond(200, b"OK", TEXT, b"")
    head = parse_response(client.sent, 64)
    assert (b"Access-Control-Allow-Origin", b"http://page.example") in head.headers
    assert head.headers[0] == TEXT[0]


def test_other_responses_carry_none() -> None:
    client, writer = begin(GET + b"\r\nOrigin: http://page.example")
    writer.respond(200, b"OK", TEXT, b"")
    assert b"Access-Control" not in client.sent


def scripted(mode: str = "extended") -> tuple[Client, ResponseWriter]:
    client, writer = begin(cross_origin=True)
    assert mode in ("basic", "extended")
    writer.jsonp = Jsonp(b"cb", "basic" if mode == "basic" else "extended", b"GET", b"/", (), b"")
    return client, writer


def body(client: Client) -> bytes:
    head, _, rest = client.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"application/javascript" in head
    assert b"Access-Control" not in head
    return rest


def test_json_p_turns_a_whole_response_into_a_script() -> None:
    client, writer = scripted()
    writer.respond(404, b"Not Found", TEXT, b"no\n")
    assert body(client) == (
        b'/**/cb({"code": 404, "reason": "Not Found", '
        b'"headers": {"Content-Type":"text/plain"}, "body": "no\\n"});\n'
    )
    assert b"\r\nContent-Length: %d\r\n" % len(body(client)) in client.sent
    assert client.finished


def test_json_p_turns_a_response_that_arrives_in_pieces_into_one_script() -> None:
    client, writer = scripted()
    writer.start(200, b"OK", TEXT, None, b'a"')
    writer.send(b"b")
    writer.send(b"c", True)
    chunks, script = body(client), b""
    while chunks != b"0\r\n\r\n":
        size, _, rest = chunks.partition(b"\r\n")
        script += rest[: int(size, 16)]
        chunks = rest[int(size, 16) + 2 :]
    assert script.startswith(b'/**/cb({"code": 200, ')
    assert script.endswith(b'"body": "a\\"bc"});\n')
    assert client.finished


def test_json_p_that_cannot_be_encoded_is_an_error_in_plain_text() -> None:
    client, writer = scripted("basic")
    writer.respond(200, b"OK", [], b"")
    assert client.sent.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert client.sent.endswith(b"\r\n\r\nUpstream response could not be JSON-P encoded.\n")
    assert (writer.code, client.finished) == (500, True)


def test_json_p_wraps_the_answer_of_a_hold_in_its_own_way() -> None:
    client, writer = scripted("basic")
    writer.respond(200, b"OK", TEXT, b'{"a": 1}\n', held=True)
    assert body(client) == b'/**/cb({"a": 1});\n'
    assert client.finished


def test_the_answer_of_a_hold_is_an_ordinary_response_without_json_p() -> None:
    client, writer = begin()
    writer.respond(200, b"OK", [], b"hello", held=True)
    assert client.sent == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
