"""The HTTP control port: its exact answers, and that what it refuses is not published at all."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flow.holding import Item, Stage, base64_text, fresh, hold, line, open_stage, reply
from tests.support.backend import response
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


def item(**fields: Any) -> dict[str, Any]:
    """One item on channel c; underscores in names become hyphens."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return {"items": [{"channel": "c", **named}]}


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


# -- items -----------------------------------------------------------------------------------

ITEM = "publish item object"


@shared
@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "Body is not valid JSON."),
        (b"{", "Body is not valid JSON."),
        (b'"x"', "Body is not valid JSON."),
        (b"null", "Body is not valid JSON."),
        (b"\xff", "Body is not valid JSON."),
        ([], "Invalid format."),
        ({}, "Invalid format: object does not contain 'items'"),
        ({"items": {}}, "Invalid format: object contains 'items' with wrong type"),
        ({"items": None}, "Invalid format: object contains 'items' with wrong type"),
        ({"items": [1]}, f"Invalid format: {ITEM} is not an object"),
        ({"items": [None]}, f"Invalid format: {ITEM} is not an object"),
        ({"items": [{}]}, f"Invalid format: {ITEM} does not contain 'channel'"),
        ({"items": [{"channel": 1}]}, f"Invalid format: {ITEM} contains 'channel' with wrong type"),
        (
            {"items": [{"channel": None}]},
            f"Invalid format: {ITEM} contains 'channel' with wrong type",
        ),
        (item(), "Invalid format: no formats specified"),
        (item(formats={}), "Invalid format: no formats specified"),
        (item(formats=[]), f"Invalid format: {ITEM} contains 'formats' with wrong type"),
        (item(id=1, **STREAM), f"Invalid format: {ITEM} contains 'id' with wrong type"),
        (item(id=None, **STREAM), f"Invalid format: {ITEM} contains 'id' with wrong type"),
        (item(prev_id=1, **STREAM), f"Invalid format: {ITEM} contains 'prev-id' with wrong type"),
        (item(meta=1, **STREAM), f"Invalid format: {ITEM} contains 'meta' with wrong type"),
        (item(meta={"k": 1}, **STREAM), "Invalid format: 'meta' contains 'k' with wrong type"),
        (item(size=-1, **STREAM), f"Invalid format: {ITEM} contains 'size' with invalid value"),
        (item(size=[], **STREAM), f"Invalid format: {ITEM} contains 'size' with wrong type"),
        (item(no_seq=1, **STREAM), f"Invalid format: {ITEM} contains 'no-seq' with wrong type"),
    ],
)
async def test_an_item_that_does_not_parse_is_a_400(
    stage: Stage, document: Any, message: str
) -> None:
    r = await post(stage, document)
    assert (r.status, r.reason, r.text) == (400, "Bad Request", message + "\n")


@shared
@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("http-stream", 1, "'http-stream' is not an object"),
        ("http-stream", {}, "'http-stream' does not contain 'content' or 'content-bin'"),
        ("http-stream", {"content": 1}, "'http-stream' contains 'content' with wrong type"),
        ("http-stream", {"content-bin": 1}, "'http-stream' contains 'content-bin' with wrong type"),
        ("http-stream", {"action": 1}, "'http-stream' contains 'action' with wrong type"),
        ("http-stream", {"action": "shout"}, ""),
        ("http-stream", {"action": ""}, ""),
        (
            "http-stream",
            {"content": "x", "content-filters": "x"},
            "'http-stream' contains 'content-filters' with wrong type",
        ),
        (
            "http-stream",
            {"content": "x", "content-filters": [1]},
            "content-filters contains element with wrong type",
        ),
        ("http-response", None, "'http-response' is not an object"),
        (
            "http-response",
            {},
            "'http-response' does not contain 'body', 'body-bin', or 'body-patch'",
        ),
        ("http-response", {"body": 1}, "'http-response' contains 'body' with wrong type"),
        ("http-response", {"body-bin": 1}, "'http-response' contains 'body-bin' with wrong type"),
        (
            "http-response",
            {"body-patch": 1},
            "'http-response' contains 'body-patch' with wrong type",
        ),
        (
            "http-response",
            {"body": "", "code": 1000},
            "'http-response' contains 'code' with invalid value",
        ),
        (
            "http-response",
            {"body": "", "code": []},
            "'http-response' contains 'code' with wrong type",
        ),
        (
            "http-response",
            {"body": "", "reason": 1},
            "'http-response' contains 'reason' with wrong type",
        ),
        (
            "http-response",
            {"body": "", "headers": 1},
            "'http-response' contains 'headers' with wrong type",
        ),
        (
            "http-response",
            {"body": "", "headers": ["A"]},
            "headers contains element with wrong type",
        ),
        (
            "http-response",
            {"body": "", "headers": [["A"]]},
            "headers contains list with wrong number of elements",
        ),
        (
            "http-response",
            {"body": "", "headers": [[1, "x"]]},
            "header contains name element with wrong type",
        ),
        (
            "http-response",
            {"body": "", "headers": [["A", 1]]},
            "header contains value element with wrong type",
        ),
        (
            "http-response",
            {"body": "", "headers": {"A": 1}},
            "headers contains 'A' with wrong type",
        ),
        ("ws-message", {}, "'ws-message' does not contain 'content' or 'content-bin'"),
        ("ws-message", {"content": 1}, "'ws-message' contains 'content' with wrong type"),
        ("ws-message", {"content": "x", "type": 1}, "'ws-message' contains 'type' with wrong type"),
        (
            "ws-message",
            {"content": "x", "type": "x"},
            "'ws-message' contains 'type' with unknown value",
        ),
        (
            "ws-message",
            {"action": "close", "code": -1},
            "'ws-message' contains 'code' with invalid value",
        ),
        (
            "ws-message",
            {"action": "close", "reason": 1},
            "'ws-message' contains 'reason' with wrong type",
        ),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
async def test_a_format_that_does_not_parse_is_a_400(
    stage: Stage, name: str, fields: Any, message: str, nested: bool
) -> None:
    formats = {name: fields}
    document = {
        "items": [{"channel": "c", "formats": formats} if nested else {"channel": "c", **formats}]
    }
    r = await post(stage, document)
    assert (r.status, r.text) == (400, f"Invalid format: {message}\n")


@shared
@pytest.mark.parametrize(
    "document",
    [
        {"items": []},
        {"items": [], "other": 1},
        item(formats={"unheard-of": 1}),
        item(size="a", **STREAM),
        item(size=0, no_seq=True, meta={}, id="", prev_id="", **STREAM),
        item(http_stream={"action": "hint"}),
        item(http_stream={"action": "close", "content": 1}),
        item(http_response={"body-patch": []}),
        item(http_response={"body": "", "code": "x"}),
        item(ws_message={"type": "ping"}),
        item(ws_message={"type": "pong"}),
        item(ws_message={"action": "close"}),
        item(ws_message={"action": "close", "code": 1000, "reason": "bye"}),
    ],
)
async def test_an_odd_item_may_be_published(stage: Stage, document: Any) -> None:
    r = await post(stage, document)
    assert (r.status, r.body) == (200, b"Published\n")


async def test_the_action_refresh_is_known(stage: Stage) -> None:
    """New in Pushpin 1.41."""
    formats = {
        name: {"action": "refresh"} for name in ("http-response", "http-stream", "ws-message")
    }
    assert (await post(stage, item(formats=formats))).body == b"Published\n"


# -- publishing ------------------------------------------------------------------------------


@shared
async def test_one_request_publishes_its_items_in_order(stage: Stage) -> None:
    c, d = fresh(), fresh()
    async with stage.held(hold("stream", f"{c}, {d}"), c, d) as client:
        await client.read_head()
        r = await post(stage, {"items": [line(c, "1"), line(d, "2"), line(c, "3")]})
        assert r.body == b"Published\n"
        assert await client.read_bytes(3) == b"123"


@shared
async def test_formats_may_stand_in_the_item_itself(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        assert (await post(stage, {"items": [{"channel": c, **STREAM}]})).status == 200
        assert await client.read_bytes(1) == b"x"


@shared
@pytest.mark.parametrize(
    "bad", [1, {}, {"channel": "c"}, line("c", action="shout"), line("c", "x", item={"id": 1})]
)
@pytest.mark.parametrize("first", [True, False])
async def test_one_bad_item_publishes_none(stage: Stage, bad: Any, first: bool) -> None:
    c = fresh()
    good = line(c, "from a bad batch")
    async with stage.streaming(c) as (client, _):
        assert (await post(stage, {"items": [bad, good] if first else [good, bad]})).status == 400
        await stage.proxy.publish(line(c, "end"))
        assert await client.read_bytes(3) == b"end"


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


@shared
async def test_names_and_content_are_utf8(stage: Stage) -> None:
    c = fresh("kanal-ä")
    body = json.dumps({"items": [line(c, "grüße €")]}, ensure_ascii=False).encode()
    answer = response(
        200, [("Grip-Hold", "stream"), ("Grip-Channel", c.encode().decode("latin-1"))]
    )
    async with stage.held(answer, c) as client:
        await client.read_head()
        assert (await post(stage, body)).status == 200
        assert (await client.read_bytes(len("grüße €".encode()))).decode() == "grüße €"


@shared
async def test_publishing_to_nobody_is_fine(stage: Stage) -> None:
    c = fresh()
    r = await post(stage, {"items": [line(c, "x"), reply(c, body_bin=base64_text(b"x"))]})
    assert r.body == b"Published\n"
    await stage.proxy.wait_log(rf"publish channel={c} receivers=0")


@shared
async def test_the_log_says_how_many_received(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c), stage.held(hold("response", c), c, count=2) as poll:
        await stage.proxy.publish(line(c, "x"))
        await stage.proxy.wait_log(rf"publish channel={c} receivers=1")
        await stage.proxy.publish(reply(c, "x"))
        assert (await poll.read_response()).body == b"x"
