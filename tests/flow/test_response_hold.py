"""Response holds (long-poll): what answers them, and when they go back to the backend."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flow.holding import (
    BAD_ORIGIN,
    Stage,
    base64_text,
    fresh,
    hold,
    in_turn,
    instruct,
    line,
    open_stage,
    reply,
    visible,
)
from tests.support.backend import Exchange, response
from tests.support.client import Client, connect, encode_request

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

TOO_LARGE = 100_001


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage(
        "*,path_beg=/outer/,prefix=pre-,replace_beg=/inner/",
        "*,path_beg=/debug/,debug",
        "*",
        handler={"message_wait": 1000},
    ) as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


# -- the answer ------------------------------------------------------------------------------


@shared
async def test_a_published_item_answers_the_request(stage: Stage) -> None:
    c = fresh()
    r = await stage.answer_to(hold("response", c, body=b"nothing yet"), c, reply(c, "news\n"))
    assert (r.status, r.reason, r.framing, r.body) == (200, "OK", "length", b"news\n")


@shared
async def test_the_status_of_the_instruction_is_not_inherited(stage: Stage) -> None:
    c = fresh()
    answer = hold("response", c, {"Grip-Status": "404 Nothing"}, status=202)
    r = await stage.answer_to(answer, c, reply(c, "news"))
    assert (r.status, r.reason) == (200, "OK")


@shared
@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"code": 404}, 404, "Not Found"),
        ({"code": 404, "reason": "Gone fishing"}, 404, "Gone fishing"),
        ({"reason": "Fine"}, 200, "Fine"),
        ({"code": 299}, 299, "Undefined Reason"),
        ({"code": "404"}, 404, "Not Found"),
        ({"code": 999}, 999, "Undefined Reason"),
    ],
)
async def test_the_item_sets_code_and_reason(
    stage: Stage, fields: Any, status: int, reason: str
) -> None:
    c = fresh()
    r = await stage.answer_to(hold("response", c), c, reply(c, "x", **fields))
    assert (r.status, r.reason, r.body) == (status, reason, b"x")


@shared
async def test_item_headers_replace_those_of_the_same_name_and_follow_the_rest(
    stage: Stage,
) -> None:
    c = fresh()
    answer = hold("response", c, [("A", "1"), ("B", "2"), ("A", "3"), ("Content-Type", "text/x")])
    r = await stage.answer_to(
        answer, c, reply(c, "x", headers=[["a", "9"], ["C", "1"], ["a", "8"]])
    )
    assert visible(r) == [
        ("B", "2"),
        ("Content-Type", "text/x"),
        ("a", "9"),
        ("C", "1"),
        ("a", "8"),
    ]


@shared
async def test_item_headers_given_as_an_object_come_sorted_by_name(stage: Stage) -> None:
    c = fresh()
    r = await stage.answer_to(
        hold("response", c), c, reply(c, "x", headers={"Z": "1", "B": "2", "M": "3"})
    )
    assert visible(r) == [("B", "2"), ("M", "3"), ("Z", "1")]


@shared
async def test_grip_headers_of_the_item_stay_inside(stage: Stage) -> None:
    c = fresh()
    headers = [["Grip-Hold", "stream"], ["grip-other", "1"], ["X", "1"]]
    r = await stage.answer_to(hold("response", c), c, reply(c, "x", headers=headers))
    assert (visible(r), r.framing) == ([("X", "1")], "length")


@shared
async def test_expose_headers_in_the_item_takes_the_listed_ones_out(stage: Stage) -> None:
    c = fresh()
    answer = hold("response", c, {"X": "1", "Y": "2"})
    r = await stage.answer_to(
        answer, c, reply(c, "x", headers=[["Grip-Expose-Headers", "X"], ["Z", "3"]])
    )
    assert visible(r) == [("Y", "2"), ("Z", "3")]


@shared
async def test_expose_headers_in_the_instruction_leaves_only_the_listed_ones(stage: Stage) -> None:
    c = fresh()
    answer = hold("response", c, {"Grip-Expose-Headers": "x", "X": "1", "Y": "2"})
    r = await stage.answer_to(answer, c, reply(c, "x", headers=[["Z", "3"]]))
    assert visible(r) == [("X", "1"), ("Z", "3")]


@shared
async def test_the_item_cannot_change_the_framing(stage: Stage) -> None:
    c = fresh()
    headers = [["Content-Length", "99"], ["Transfer-Encoding", "chunked"], ["Connection", "close"]]
    async with stage.held(hold("response", c), c) as client:
        await stage.proxy.publish(reply(c, "four", headers=headers))
        r = await client.read_response()
        assert (r.framing, r.header("Content-Length"), r.body) == ("length", "4", b"four")
        stage.backend.on("/next", response(body=b"same connection"))
        assert (await client.request("GET", "/next")).body == b"same connection"


@shared
async def test_body_bin_is_base64_and_wins_over_body(stage: Stage) -> None:
    c = fresh()
    r = await stage.answer_to(
        hold("response", c), c, reply(c, "text", body_bin=base64_text(b"\0\xff"))
    )
    assert r.body == b"\0\xff"


@shared
async def test_an_empty_body_is_an_answer(stage: Stage) -> None:
    c = fresh()
    r = await stage.answer_to(hold("response", c, body=b"nothing yet"), c, reply(c, ""))
    assert (r.status, r.header("Content-Length"), r.body) == (200, "0", b"")


@shared
async def test_a_204_has_neither_body_nor_length(stage: Stage) -> None:
    c = fresh()
    async with stage.held(hold("response", c), c) as client:
        await stage.proxy.publish(reply(c, "dropped", code=204))
        r = await client.read_response()
        assert (r.status, r.all("Content-Length"), r.framing) == (204, [], "none")
        stage.backend.on("/next", response(body=b"next"))
        assert (await client.request("GET", "/next")).body == b"next"


async def test_a_304_has_no_body(stage: Stage) -> None:
    c = fresh()
    async with stage.held(hold("response", c), c) as client:
        await stage.proxy.publish(reply(c, "dropped", code=304))
        assert (await client.read_response()).status == 304
        stage.backend.on("/next", response(body=b"next"))
        assert (await client.request("GET", "/next")).body == b"next"


async def test_a_held_head_request_is_answered_without_a_body(stage: Stage) -> None:
    """Pushpin 1.36 sends the body, which breaks the connection."""
    c = fresh()
    async with stage.held(hold("response", c), c, method="HEAD") as client:
        await stage.proxy.publish(reply(c, "four", headers=[["X", "1"]]))
        r = await client.read_response(to_head=True)
        assert (r.status, visible(r), r.header("Content-Length")) == (200, [("X", "1")], "4")
        stage.backend.on("/next", response(body=b"next"))
        assert (await client.request("GET", "/next")).body == b"next"


@shared
async def test_an_http_1_0_client_gets_a_length_and_the_end(stage: Stage) -> None:
    c = fresh()
    async with stage.held(hold("response", c), c, version="HTTP/1.0") as client:
        await stage.proxy.publish(reply(c, "news"))
        r = await client.read_response()
        assert (r.version, r.status, r.header("Content-Length"), r.body) == (
            "HTTP/1.0",
            200,
            "4",
            b"news",
        )
        assert await client.at_eof()


@shared
async def test_an_http_1_0_client_may_keep_the_connection(stage: Stage) -> None:
    c = fresh()
    keep = {"Connection": "keep-alive"}
    async with stage.held(hold("response", c), c, version="HTTP/1.0", headers=keep) as client:
        await stage.proxy.publish(reply(c, "news"))
        r = await client.read_response()
        assert (r.header("Connection"), r.body) == ("keep-alive", b"news")
        stage.backend.on("/next", response(body=b"next"))
        await client.send(encode_request("GET", "/next", keep, version="HTTP/1.0"))
        assert (await client.read_response()).body == b"next"


@shared
async def test_a_large_body_is_published(stage: Stage) -> None:
    c = fresh()
    body = "é" * 150_000
    r = await stage.answer_to(hold("response", c), c, reply(c, body))
    assert r.text == body


# -- which item ------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize("which", [0, 1, 2])
async def test_any_of_several_channels_answers(stage: Stage, which: int) -> None:
    channels = [fresh(), fresh(), fresh()]
    async with stage.held(hold("response", ", ".join(channels)), *channels) as client:
        await stage.proxy.publish(reply(channels[which], "news"))
        assert (await client.read_response()).body == b"news"


@shared
async def test_only_the_first_item_answers(stage: Stage) -> None:
    c, other = fresh(), fresh()
    async with stage.held(hold("response", c), c) as client:
        await stage.proxy.publish(reply(c, "one"), reply(c, "two"))
        assert (await client.read_response()).body == b"one"
        stage.backend.on("/again", hold("response", other))
        await client.send(encode_request("GET", "/again"))
        await stage.proxy.wait_subscribed(other)
        await stage.proxy.publish(reply(c, "three"), reply(other, "four"))
        assert (await client.read_response()).body == b"four"


@shared
async def test_an_item_for_streams_only_does_not_answer(stage: Stage) -> None:
    c = fresh()
    r = await stage.answer_to(hold("response", c), c, line(c, "for streams"), reply(c, "for polls"))
    assert r.body == b"for polls"


@shared
async def test_a_close_item_has_no_effect(stage: Stage) -> None:
    c = fresh()
    r = await stage.answer_to(hold("response", c), c, reply(c, action="close"), reply(c, "news"))
    assert r.body == b"news"


async def test_a_refresh_item_has_no_effect(stage: Stage) -> None:
    """Pushpin 1.36 does not know the action."""
    c = fresh()
    r = await stage.answer_to(hold("response", c), c, reply(c, action="refresh"), reply(c, "news"))
    assert r.body == b"news"


@shared
async def test_every_held_request_of_the_channel_is_answered(stage: Stage) -> None:
    c = fresh()
    stage.backend.on("/many", hold("response", c))
    async with (
        connect(stage.proxy.port) as one,
        connect(stage.proxy.port) as two,
        connect(stage.proxy.port) as three,
    ):
        clients = (one, two, three)
        for client in clients:
            await client.send(encode_request("GET", "/many"))
        await stage.proxy.wait_subscribed(c, 3)
        await stage.proxy.publish(reply(c, "news"))
        assert [(await client.read_response()).body for client in clients] == [b"news"] * 3


@shared
async def test_the_route_prefix_belongs_to_the_channel(stage: Stage) -> None:
    c = fresh()
    async with stage.held(
        hold("response", c), "pre-" + c, path="/inner/x", target="/outer/x"
    ) as client:
        await stage.proxy.publish(reply(c, "bare"), reply("pre-" + c, "prefixed"))
        assert (await client.read_response()).body == b"prefixed"


# -- body-patch ------------------------------------------------------------------------------


def change(op: str, path: str, **more: Any) -> dict[str, Any]:
    return {"op": op, "path": path, **more}


@shared
@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        ('{"b": {"d": "é"}, "a": 1}', [], '{"a":1,"b":{"d":"é"}}'),
        ('{"a": 1}\n', [change("add", "/b", value=[2])], '{"a":1,"b":[2]}\n'),
        ('{"a": 1}\r\n', [change("remove", "/a")], "{}\r\n"),
        ("[1, 2]", [change("add", "/0", value=9)], "[9,2]"),
        ("[1, 2]", [change("add", "/-", value=3)], "[1,2,3]"),
        ("[1, 2]", [change("remove", "/0")], "[2]"),
        ('{"a": 1}', [change("replace", "/a", value="x")], '{"a":"x"}'),
        ("[1, 2]", [change("replace", "/", value={"z": 1})], '{"z":1}'),
        ('{"a": 1}', [{"op": "move", "from": "/a", "path": "/b"}], '{"b":1}'),
        ('{"a": 1}', [{"op": "copy", "from": "/a", "path": "/b"}], '{"a":1,"b":1}'),
        (
            '{"a": 1.4, "b": 5}',
            [change("test", "/a", value=1.2), change("test", "/b", value="5")],
            '{"a":1.4,"b":5}',
        ),
    ],
)
async def test_body_patch_changes_the_body_of_the_instruction(
    stage: Stage, before: str, patch: Any, after: str
) -> None:
    c = fresh()
    answer = hold("response", c, {"Content-Type": "application/json"}, before.encode())
    r = await stage.answer_to(answer, c, reply(c, body_patch=patch, code=201))
    assert (r.status, r.text, visible(r)) == (201, after, [("Content-Type", "application/json")])


@shared
@pytest.mark.parametrize(
    ("before", "patch"),
    [
        ("not JSON", [change("add", "/a", value=1)]),
        ('"a string"', []),
        ("[1]", [change("add", "/5", value=1)]),
        ("[1]", [change("replace", "/", value=3)]),
        ('{"a": null}', [change("test", "/a", value=None)]),
        ('{"a": 1}', [change("test", "/a", value=2)]),
        ('{"a": 1}', [change("remove", "/b")]),
        ('{"a": 1}', [change("add", "", value=1)]),
        ('{"a": 1}', [change("add", "/b//c", value=1)]),
        ('{"a": 1}', [change("add", "b", value=1)]),
        ('{"a": {}}', [{"op": "move", "from": "/a", "path": "/a/b"}]),
        ('{"a": 1}', [change("turn", "/a", value=1)]),
        ('{"a": 1}', [{"op": "add", "path": "/b"}]),
    ],
)
async def test_a_body_patch_that_does_not_apply_is_a_502(
    stage: Stage, before: str, patch: Any
) -> None:
    c = fresh()
    r = await stage.answer_to(
        hold("response", c, body=before.encode()), c, reply(c, body_patch=patch)
    )
    assert (r.status, r.reason, r.body) == (502, "Bad Gateway", BAD_ORIGIN)


@shared
async def test_body_patch_applies_to_a_json_instruction(stage: Stage) -> None:
    c = fresh()
    document = {
        "hold": {"channels": [{"name": c}]},
        "response": {"headers": {"Q": "1"}, "body": '{"a": 1}'},
    }
    r = await stage.answer_to(
        instruct(document), c, reply(c, body_patch=[change("add", "/b", value=2)])
    )
    assert (r.body, visible(r)) == (b'{"a":1,"b":2}', [("Q", "1")])


# -- going back to the backend ---------------------------------------------------------------


@shared
async def test_a_hint_sends_the_same_request_again_with_grip_last(stage: Stage) -> None:
    c = fresh()
    first = hold("response", f"{c}; prev-id=1", body=b"first")
    second = response(404, {"X": "1"}, b"second")
    sent = {"X-A": "1", "Grip-Last": "made up", "Grip-Other": "2"}
    async with stage.held(
        in_turn(first, second),
        "pre-" + c,
        path="/inner/again",
        target="/outer/again?q=1&r=2",
        method="PUT",
        headers=sent,
        body=b"the body",
    ) as client:
        await stage.proxy.publish(reply("pre-" + c, action="hint"))
        r = await client.read_response()
    assert (r.status, visible(r), r.body) == (404, [("X", "1")], b"second")
    before, after = await stage.requests_for("/inner/again", 2)
    for request in (before, after):
        assert (request.method, request.target, request.body) == (
            "PUT",
            "/inner/again?q=1&r=2",
            b"the body",
        )
        assert (request.header("X-A"), request.header("Grip-Other")) == ("1", None)
    assert (before.all("Grip-Last"), after.all("Grip-Last")) == ([], [f"{c}; last-id=1"])


@shared
async def test_a_retry_repeats_a_body_of_100000_bytes(stage: Stage) -> None:
    c, body = fresh(), b"x" * 100_000
    answer = in_turn(hold("response", c), response(body=b"second"))
    async with stage.held(answer, c, path="/large", method="POST", body=body) as client:
        await stage.proxy.publish(reply(c, action="hint"))
        assert (await client.read_response()).body == b"second"
    assert [r.body == body for r in await stage.requests_for("/large", 2)] == [True, True]


@shared
async def test_channels_without_prev_id_add_no_grip_last(stage: Stage) -> None:
    c, d = fresh(), fresh()
    answer = in_turn(hold("response", f"{c}, {d}"), response(body=b"second"))
    async with stage.held(answer, c, d, path="/plain") as client:
        await stage.proxy.publish(reply(d, action="hint"))
        assert (await client.read_response()).body == b"second"
    assert (await stage.requests_for("/plain", 2))[1].all("Grip-Last") == []


@shared
async def test_a_retry_names_the_last_id_of_each_channel(stage: Stage) -> None:
    b, c, d = fresh(), fresh(), fresh()
    answer = in_turn(
        hold("response", f'{b}; prev-id=7, {c}, {d}; prev-id="x y"'), response(body=b"second")
    )
    async with stage.held(answer, b, c, d, path="/ids") as client:
        await stage.proxy.publish(reply(c, action="hint"))
        assert (await client.read_response()).body == b"second"
    again = (await stage.requests_for("/ids", 2))[1]
    assert sorted(again.all("Grip-Last")) == sorted([f"{b}; last-id=7", f"{d}; last-id=x y"])


@shared
async def test_items_seen_advance_the_last_id(stage: Stage) -> None:
    c = fresh()
    answer = in_turn(hold("response", f"{c}; prev-id=1"), response(body=b"second"))
    async with stage.held(answer, c, path="/advance") as client:
        await stage.proxy.publish(reply(c, action="close", item={"id": "2", "prev-id": "1"}))
        await stage.proxy.publish(reply(c, action="hint", item={"id": "3", "prev-id": "2"}))
        assert (await client.read_response()).body == b"second"
    assert (await stage.requests_for("/advance", 2))[1].all("Grip-Last") == [f"{c}; last-id=3"]


@shared
async def test_the_answer_to_a_retry_may_hold_elsewhere(stage: Stage) -> None:
    c, d = fresh(), fresh()
    answer = in_turn(hold("response", c, {"X": "1"}), hold("response", d, {"Y": "2"}))
    async with stage.held(answer, c) as client:
        await stage.proxy.publish(reply(c, action="hint"))
        await stage.proxy.wait_subscribed(d)
        await stage.proxy.publish(reply(c, "left behind"), reply(d, "news"))
        r = await client.read_response()
    assert (r.body, visible(r)) == (b"news", [("Y", "2")])


@shared
async def test_ids_of_earlier_holds_stay_in_grip_last(stage: Stage) -> None:
    c, d = fresh(), fresh()
    answer = in_turn(
        hold("response", f"{c}; prev-id=1"),
        hold("response", f"{d}; prev-id=9"),
        response(body=b"third"),
    )
    async with stage.held(answer, c, path="/carried") as client:
        await stage.proxy.publish(reply(c, action="hint"))
        await stage.proxy.wait_subscribed(d)
        await stage.proxy.publish(reply(d, action="hint"))
        assert (await client.read_response()).body == b"third"
    third = (await stage.requests_for("/carried", 3))[2]
    assert sorted(third.all("Grip-Last")) == sorted([f"{c}; last-id=1", f"{d}; last-id=9"])


@shared
async def test_the_answer_to_a_retry_may_stream(stage: Stage) -> None:
    c, d = fresh(), fresh()
    async with stage.held(
        in_turn(hold("response", c), hold("stream", d, body=b"open\n")), c
    ) as client:
        await stage.proxy.publish(reply(c, action="hint"))
        await stage.proxy.wait_subscribed(d)
        await stage.proxy.publish(line(d, "news\n"))
        assert (await client.read_head()).framing == "chunked"
        assert await client.read_bytes(10) == b"open\nnews\n"


@shared
async def test_a_bad_instruction_after_a_retry_is_a_502(stage: Stage) -> None:
    c = fresh()
    r = await stage.answer_to(
        in_turn(hold("response", c), hold("never", c)), c, reply(c, action="hint")
    )
    assert (r.status, r.body) == (502, BAD_ORIGIN)


@shared
async def test_a_backend_that_dies_on_a_retry_is_a_502(stage: Stage) -> None:
    c = fresh()
    asked: list[Exchange] = []

    def answer(exchange: Exchange) -> bytes | None:
        asked.append(exchange)
        if len(asked) == 1:
            return hold("response", c)
        exchange.abort()
        return None

    async with stage.held(answer, c) as client:
        await stage.proxy.publish(reply(c, action="hint"))
        assert (await client.read_response()).status == 502


@shared
async def test_every_held_request_goes_back_on_its_own(stage: Stage) -> None:
    c = fresh()
    asked: dict[str, int] = {}

    def answer(exchange: Exchange) -> bytes:
        who = exchange.request.target.partition("?")[2]
        asked[who] = asked.get(who, 0) + 1
        return hold("response", c) if asked[who] == 1 else response(body=who.encode())

    async with (
        stage.held(answer, c, path="/each", target="/each?one") as one,
        stage.held(answer, c, path="/each", target="/each?two", count=2) as two,
    ):
        await stage.proxy.publish(reply(c, action="hint"))
        assert (await one.read_response()).body == b"one"
        assert (await two.read_response()).body == b"two"


# -- previous ids ----------------------------------------------------------------------------


@shared
async def test_an_item_that_follows_the_prev_id_answers(stage: Stage) -> None:
    c = fresh()
    item = reply(c, "news", item={"id": "2", "prev-id": "1"})
    r = await stage.answer_to(hold("response", f"{c}; prev-id=1"), c, item)
    assert r.body == b"news"


@shared
@pytest.mark.parametrize("ids", [{"id": "6", "prev-id": "5"}, {"id": "6"}, {}])
async def test_an_item_that_does_not_follow_the_prev_id_sends_the_request_back(
    stage: Stage, ids: dict[str, str]
) -> None:
    c = fresh()
    path = "/" + fresh("gap")
    answer = in_turn(hold("response", f"{c}; prev-id=1"), response(body=b"caught up"))
    async with stage.held(answer, c, path=path) as client:
        await stage.proxy.publish(reply(c, "too far", item=ids))
        assert (await client.read_response()).body == b"caught up"
    assert (await stage.requests_for(path, 2))[1].all("Grip-Last") == [f"{c}; last-id=1"]


@shared
async def test_a_hold_that_missed_an_item_goes_back_at_once_and_once(stage: Stage) -> None:
    """The backend answered before the item was published, so the item would never come."""
    c = fresh()
    async with stage.held(hold("response", c), c) as other:
        await stage.proxy.publish(reply(c, "news", item={"id": "2", "prev-id": "1"}))
        assert (await other.read_response()).body == b"news"
    stage.backend.on(
        "/late", in_turn(hold("response", f"{c}; prev-id=1"), response(body=b"caught up"))
    )
    async with connect(stage.proxy.port) as client:
        assert (await client.request("GET", "/late")).body == b"caught up"
    assert (await stage.requests_for("/late", 2))[1].all("Grip-Last") == [f"{c}; last-id=1"]
    # the conflict made the proxy forget id 2, so the same prev-id is held now
    r = await stage.answer_to(
        hold("response", f"{c}; prev-id=1"),
        c,
        reply(c, "again", item={"id": "3", "prev-id": "1"}),
        count=2,
    )
    assert r.body == b"again"


@shared
async def test_a_hold_with_the_recorded_id_waits(stage: Stage) -> None:
    c = fresh()
    async with stage.held(hold("response", c), c) as other:
        await stage.proxy.publish(reply(c, "news", item={"id": "2", "prev-id": "1"}))
        await other.read_response()
    item = reply(c, "next", item={"id": "3", "prev-id": "2"})
    r = await stage.answer_to(hold("response", f"{c}; prev-id=2"), c, item, count=2)
    assert r.body == b"next"


# -- sizes -----------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize("size", [100_000, TOO_LARGE])
async def test_a_request_body_over_100000_bytes_cannot_be_held(stage: Stage, size: int) -> None:
    c = fresh()
    body = b"x" * size
    if size == TOO_LARGE:
        r = await stage.ask(hold("response", c), method="POST", body=body)
        assert (r.status, r.reason, r.body) == (
            400,
            "Bad Request",
            b"Request too large to accept GRIP instruct.\n",
        )
    else:
        r = await stage.answer_to(
            hold("response", c), c, reply(c, "held"), method="POST", body=body
        )
        assert r.body == b"held"


@shared
@pytest.mark.parametrize("debug", [False, True])
async def test_an_instruction_over_100000_bytes_is_a_502(stage: Stage, debug: bool) -> None:
    r = await stage.ask(hold("response", fresh(), body=b"x" * TOO_LARGE), debug=debug)
    text = f"GRIP instruct response too large from {stage.backend.address}\n".encode()
    assert (r.status, r.body) == (502, text if debug else BAD_ORIGIN)


@shared
async def test_an_instruction_of_100000_bytes_is_held(stage: Stage) -> None:
    c = fresh()
    patch = [change("remove", "/x")]
    body = json.dumps({"x": "y" * 99_991}).encode()
    assert len(body) == 100_000
    r = await stage.answer_to(hold("response", c, body=body), c, reply(c, body_patch=patch))
    assert r.body == b"{}"


# -- timeout ---------------------------------------------------------------------------------


async def timed_out(stage: Stage, client: Client, wire: bytes) -> tuple[float, Any]:
    start = time.monotonic()
    await client.send(wire)
    r = await client.read_response()
    return time.monotonic() - start, r


@shared
async def test_a_timeout_answers_with_the_instruction(stage: Stage) -> None:
    """One test for all of them, since five seconds is the least that a hold lasts."""
    document = {
        "hold": {
            "channels": [{"name": fresh()}],
            "timeout": 5,
            "keep-alive": {"content": "k", "timeout": 1},
        },
        "response": {"code": 299, "reason": "Late", "headers": {"X": "2"}, "body-bin": "AP8="},
    }
    keep_alive = {"Grip-Keep-Alive": "k; timeout=1"}
    late = {"Grip-Status": "404 Nothing", "Grip-Expose-Headers": "X", "X": "1", "Y": "2"}
    cases: dict[str, tuple[bytes, str, float]] = {
        "/short": (
            hold("response", fresh(), {"Grip-Timeout": "1", **late, **keep_alive}, b"none"),
            "HTTP/1.1",
            5,
        ),
        "/zero": (hold("response", fresh(), {"Grip-Timeout": "0"}, b"zero"), "HTTP/1.1", 5),
        "/json": (instruct(document), "HTTP/1.1", 5),
        "/longer": (hold("response", fresh(), {"Grip-Timeout": "6"}, b"six"), "HTTP/1.1", 6),
        "/old": (hold("response", fresh(), {"Grip-Timeout": "5"}, b"old"), "HTTP/1.0", 5),
        "/nowhere": (
            response(200, {"Grip-Hold": "response", "Grip-Timeout": "5"}, b"nowhere"),
            "HTTP/1.1",
            5,
        ),
    }
    results: dict[str, tuple[float, Any]] = {}
    for path, (answer, _, _) in cases.items():
        stage.backend.on(path, answer)

    async def run(path: str, version: str) -> None:
        async with connect(stage.proxy.port) as client:
            results[path] = await timed_out(
                stage, client, encode_request("GET", path, version=version)
            )
            if path == "/short":
                stage.backend.on("/next", response(body=b"next"))
                assert (await client.request("GET", "/next")).body == b"next"

    async with stage.streaming(still := fresh(), {"Grip-Timeout": "5"}) as (stream, _):
        async with asyncio.TaskGroup() as group:
            for path, (_, version, _) in cases.items():
                group.create_task(run(path, version))
        await stage.proxy.publish(line(still, "still open"))
        assert await stream.read_bytes(10) == b"still open"
    for path, (_, _, seconds) in cases.items():
        # Pushpin asks the backend again after one second, which starts the time anew
        assert seconds - 0.05 <= results[path][0] <= seconds + 3, path
    answers = {path: r for path, (_, r) in results.items()}
    assert (answers["/short"].status, answers["/short"].reason, answers["/short"].body) == (
        404,
        "Nothing",
        b"none",
    )
    assert visible(answers["/short"]) == [("X", "1")]
    assert answers["/zero"].body == b"zero"
    assert (answers["/json"].status, answers["/json"].reason, answers["/json"].body) == (
        299,
        "Late",
        b"\0\xff",
    )
    assert visible(answers["/json"]) == [("X", "2")]
    assert answers["/longer"].body == b"six"
    assert (answers["/old"].version, answers["/old"].framing, answers["/old"].body) == (
        "HTTP/1.0",
        "length",
        b"old",
    )
    assert answers["/nowhere"].body == b"nowhere"
