"""The HTTP control port: its exact answers, and that what it refuses is not published at all."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flow.holding import Item, Stage, fresh, line, open_stage
from tests.support.client import Response, connect, encode_request

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

NOTHING = b'{"items": []}'
STREAM: Item = {"http-stream": {"content": "x"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*") as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


async def raw(stage: Stage, data: bytes) -> tuple[Response, bytes]:
    """What the control port answers to these bytes, and what comes before it closes."""
    async with connect(stage.proxy.http_control) as client:
        await client.send(data)
        r = await client.read_response()
        return r, await client.read_all()


async def post(stage: Stage, document: Any, headers: dict[str, str] | None = None) -> Response:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    fields = {"Connection": "close", **(headers or {})}
    r, rest = await raw(stage, encode_request("POST", "/publish/", fields, body))
    assert rest == b""
    return r


# -- requests --------------------------------------------------------------------------------

TOO_LONG = b"Request header too large.\n"
BAD_HEADER = b"Failed to parse request header.\n"
NO_LENGTH = b"Request requires Content-Length.\n"
BAD_LENGTH = b"Bad Content-Length.\n"
LARGE = b"Request body too large.\n"
EXCEEDED = b"Request body exceeded Content-Length.\n"
EMPTY = "Content-Length: 0"
JSON = "Accept: application/json"
WELCOME = b"Pushpin API\n"
NOT_FOUND = b"Not Found\n"
UNACCEPTABLE = b"Not Acceptable. Supported formats are text/plain and application/json.\n"


@shared
@pytest.mark.parametrize(
    ("request_line", "fields", "status", "body"),
    [
        ("GET / HTTP/1.1", "", "200 OK", WELCOME),
        ("GET // HTTP/1.1", "", "200 OK", WELCOME),
        ("DELETE / HTTP/1.0", "", "200 OK", WELCOME),
        ("OPTIONS / HTTP/1.1", "", "200 OK", WELCOME),
        ("POST / HTTP/1.1", EMPTY, "200 OK", WELCOME),
        ("FROB / HTTP/1.1", EMPTY, "200 OK", WELCOME),
        ("GET /other HTTP/1.1", "", "404 Not Found", NOT_FOUND),
        ("GET /?x=1 HTTP/1.1", "", "404 Not Found", NOT_FOUND),
        ("GET /publish?x=1 HTTP/1.1", "", "404 Not Found", NOT_FOUND),
        ("GET /publish// HTTP/1.1", "", "404 Not Found", NOT_FOUND),
        ("GET /Publish HTTP/1.1", "", "404 Not Found", NOT_FOUND),
        ("GET /publish HTTP/1.1", "", "405 Method Not Allowed", b"Method not allowed: GET.\n"),
        ("GET /publish/ HTTP/1.0", "", "405 Method Not Allowed", b"Method not allowed: GET.\n"),
        ("PUT /publish HTTP/1.1", EMPTY, "405 Method Not Allowed", b"Method not allowed: PUT.\n"),
        ("GET /recover HTTP/1.1", "", "405 Method Not Allowed", b"Method not allowed: GET.\n"),
        ("POST /recover HTTP/1.1", EMPTY, "200 OK", b"Updated\n"),
        ("POST /recover/ HTTP/1.1", f"{EMPTY}\r\n{JSON}", "200 OK", b'{"message":"Updated"}\n'),
        ("POST /publish HTTP/1.1", "", "411 Length Required", NO_LENGTH),
        ("PUT /other HTTP/1.1", "", "411 Length Required", NO_LENGTH),
        ("FROB / HTTP/1.1", "", "411 Length Required", NO_LENGTH),
        ("GET / HTTP/1.1", "Transfer-Encoding: chunked", "411 Length Required", NO_LENGTH),
        ("POST /publish HTTP/1.1", "Transfer-Encoding: chunked", "411 Length Required", NO_LENGTH),
        ("POST /publish HTTP/1.1", "Content-Length: ten", "400 Bad Request", BAD_LENGTH),
        ("POST /publish HTTP/1.1", "Content-Length: 1000001", "400 Bad Request", LARGE),
        ("POST /other HTTP/1.1", "Content-Length: 1000001", "400 Bad Request", LARGE),
        ("GET / HTTP/1.1", "Accept: image/png", "406 Not Acceptable", UNACCEPTABLE),
        ("GET /other HTTP/1.1", "Accept: image/png", "406 Not Acceptable", UNACCEPTABLE),
        ("GET / HTTP/1.1", JSON, "200 OK", WELCOME),
        ("GARBAGE", "", "400 Bad Request", BAD_HEADER),
        ("GET /", "", "400 Bad Request", BAD_HEADER),
    ],
)  # fmt: skip
async def test_answers(
    stage: Stage, request_line: str, fields: str, status: str, body: bytes
) -> None:
    wire = [request_line, "Connection: close", *filter(None, [fields]), "", ""]
    r, rest = await raw(stage, "\r\n".join(wire).encode())
    assert (f"{r.status} {r.reason}", r.body, rest) == (status, body, b"")
    json_answer = body.startswith(b"{")
    assert r.header("Content-Type") == ("application/json" if json_answer else "text/plain")
    assert r.header("Allow") == ("POST" if r.status == 405 else None)
    assert r.header("Content-Length") == str(len(body))
    assert r.version == ("HTTP/1.0" if "HTTP/1.0" in request_line else "HTTP/1.1")


@shared
async def test_a_connection_to_be_closed_says_so_and_closes(stage: Stage) -> None:
    r = await post(stage, NOTHING)
    assert [n for n, _ in r.headers] == ["Content-Type", "Connection", "Content-Length"]
    assert r.header("Connection") == "close"


@shared
async def test_bytes_beyond_the_length_are_an_error(stage: Stage) -> None:
    wire = encode_request("POST", "/publish/", {"Connection": "close"}, NOTHING) + b"x"
    r, _ = await raw(stage, wire)
    assert (r.status, r.body) == (400, EXCEEDED)


@shared
@pytest.mark.parametrize("ended", [True, False])
async def test_a_header_of_more_than_10000_bytes_is_too_large(stage: Stage, ended: bool) -> None:
    r, _ = await raw(stage, b"GET / HTTP/1.1\r\nX: " + b"a" * 12_000 + b"\r\n\r\n" * ended)
    assert (r.status, r.body) == (400, TOO_LONG)


@shared
async def test_a_header_of_nearly_10000_bytes_is_not_too_large(stage: Stage) -> None:
    wire = b"GET / HTTP/1.1\r\nConnection: close\r\nX: " + b"a" * 9_940 + b"\r\n\r\n"
    assert (await raw(stage, wire))[0].body == WELCOME


@shared
async def test_a_body_of_1000000_bytes_is_not_too_large(stage: Stage) -> None:
    body = NOTHING + b" " * (1_000_000 - len(NOTHING))
    assert (await post(stage, body)).body == b"Published\n"


@shared
async def test_expect_100_continue_is_answered(stage: Stage) -> None:
    async with connect(stage.proxy.http_control) as client:
        head = encode_request(
            "POST", "/publish/", {"Expect": "100-continue", "Connection": "close"}, NOTHING
        )
        await client.send(head[: -len(NOTHING)])
        assert (await client.read_head()).status == 100
        await client.send(NOTHING)
        assert (await client.read_response()).body == b"Published\n"


@shared
async def test_a_request_may_come_in_single_bytes(stage: Stage) -> None:
    async with connect(stage.proxy.http_control) as client:
        for byte in encode_request("POST", "/publish", {"Connection": "close"}, NOTHING):
            await client.send(bytes([byte]))
        assert (await client.read_response()).body == b"Published\n"


@shared
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/plain", "text"),
        ("text/*", "text"),
        ("*/*", "text"),
        ("*", "text"),
        ("application/json", "json"),
        ("application/*", "json"),
        ("text/plain, application/json", "json"),
        ("application/json, text/plain", "text"),
        ("application/json, image/png", "json"),
        ("application/json;q=0.1, text/plain;q=0", "text"),
        ("image/png", None),
        ("text/html", None),
        ("", None),
    ],
)  # fmt: skip
async def test_the_last_acceptable_type_wins(stage: Stage, accept: str, kind: str | None) -> None:
    r = await post(stage, NOTHING, {"Accept": accept})
    if kind is None:
        assert (r.status, r.body) == (406, UNACCEPTABLE)
    else:
        body = b"Published\n" if kind == "text" else b'{"message":"Published"}\n'
        assert (r.status, r.reason, r.body) == (200, "OK", body)
        assert r.header("Content-Type") == ("text/plain" if kind == "text" else "application/json")


@shared
async def test_errors_are_text_whatever_is_accepted(stage: Stage) -> None:
    r = await post(stage, {}, {"Accept": "application/json"})
    assert (r.status, r.header("Content-Type")) == (400, "text/plain")


@shared
async def test_the_type_of_the_request_does_not_matter(stage: Stage) -> None:
    assert (await post(stage, NOTHING, {"Content-Type": "image/png"})).body == b"Published\n"


@shared
async def test_many_publish_at_once(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        async with asyncio.TaskGroup() as group:
            for n in range(20):
                items = [line(c, f"{n:02d}"), line(c, f"{n:02d}")]
                group.create_task(stage.proxy.publish(*items))
        seen = (await client.read_bytes(80)).decode()
        assert sorted(seen[at : at + 2] for at in range(0, 80, 2)) == [
            f"{n // 2:02d}" for n in range(40)
        ]


async def test_the_bounds_of_a_request_can_be_set() -> None:
    """Pushpin 1.36 reads other names."""
    handler = {"push_in_http_max_headers_size": 200, "push_in_http_max_body_size": 100}
    async with open_stage("*", handler=handler) as stage:
        control = stage.proxy.control
        assert (await control("POST", "/publish/", NOTHING.ljust(100))).body == b"Published\n"
        assert (await control("POST", "/publish/", NOTHING.ljust(101))).body == LARGE
        assert (await control("GET", "/", headers={"X": "x" * 100})).body == WELCOME
        assert (await control("GET", "/", headers={"X": "x" * 200})).body == TOO_LONG


async def test_a_connection_serves_several_requests(stage: Stage) -> None:
    """Pushpin closes after each."""
    async with connect(stage.proxy.http_control) as client:
        for _ in range(3):
            r = await client.request("POST", "/publish/", body=NOTHING)
            assert (r.body, r.header("Connection")) == (b"Published\n", None)
        assert (await client.request("GET", "/")).body == WELCOME
        assert (await client.request("GET", "/other")).status == 404


@pytest.mark.parametrize(
    "wire", [b"GARBAGE\r\n\r\n", b"POST /publish HTTP/1.1\r\nContent-Length: ten\r\n\r\n"]
)
async def test_a_request_that_is_not_understood_ends_the_connection(
    stage: Stage, wire: bytes
) -> None:
    r, rest = await raw(stage, wire)
    assert (r.status, r.header("Connection"), rest) == (400, "close", b"")


# -- requests that fail ------------------------------------------------------------------------


@shared
async def test_a_request_with_excess_bytes_publishes_nothing(stage: Stage) -> None:
    c = fresh()
    body = json.dumps({"items": [line(c, "too much")]}).encode()
    async with stage.streaming(c) as (client, _):
        r, _ = await raw(
            stage, encode_request("POST", "/publish/", {"Connection": "close"}, body) + b"x"
        )
        assert r.status == 400
        await stage.proxy.publish(line(c, "end"))
        assert await client.read_bytes(3) == b"end"


@shared
async def test_a_request_that_is_cut_publishes_nothing(stage: Stage) -> None:
    c = fresh()
    body = json.dumps({"items": [line(c, "cut")]}).encode()
    async with stage.streaming(c) as (client, _):
        async with connect(stage.proxy.http_control) as publisher:
            await publisher.send(encode_request("POST", "/publish/", {}, body)[:-1])
            publisher.finish_sending()
            await publisher.read_all()
        await stage.proxy.publish(line(c, "end"))
        assert await client.read_bytes(3) == b"end"
