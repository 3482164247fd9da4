"""What the HTTP control port makes of the items in a request."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flow.holding import Item, Stage, base64_text, fresh, hold, line, open_stage, reply
from tests.support.backend import response
from tests.support.client import Response

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

STREAM: Item = {"http-stream": {"content": "x"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*") as it:
        yield it


async def post(stage: Stage, document: Any) -> Response:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return await stage.proxy.control("POST", "/publish/", body)


def item(**fields: Any) -> dict[str, Any]:
    """A request with one item on channel c; underscores in names become hyphens."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return {"items": [{"channel": "c", **named}]}


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


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": [["X", "a\r\nInjected: 1"]]},
        {"headers": {"X: 1\r\nInjected": "1"}},
        {"headers": [["X", "a\0b"]]},
        {"headers": [["", "1"]]},
        {"headers": [["X Y", "1"]]},
        {"reason": "OK\r\nInjected: 1"},
    ],
)
async def test_an_item_cannot_write_lines_of_its_own(stage: Stage, fields: Any) -> None:
    """Pushpin 1.36 lets it."""
    c = fresh()
    async with stage.held(hold("response", c), c) as client:
        r = await post(stage, {"items": [reply(c, "bad", **fields)]})
        assert (r.status, r.text.partition(":")[0]) == (400, "Invalid format")
        await stage.proxy.publish(reply(c, "good"))
        assert (await client.read_response()).body == b"good"


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
