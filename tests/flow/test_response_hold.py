"""Response holds (long-poll): what answers them, and with what."""

import json
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
    line,
    open_stage,
    reply,
    visible,
)
from tests.support.backend import response
from tests.support.client import connect, encode_request

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

TOO_LARGE = 100_001


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage(
        "*,path_beg=/outer/,prefix=pre-,replace_beg=/inner/", "*,path_beg=/debug/,debug", "*"
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


async def test_a_hold_begins_when_the_request_has_come_whole(stage: Stage) -> None:
    """The backend may answer before it has read all of the request; Pushpin 1.36 fails then."""
    c = fresh()
    body = b"x" * 50_000
    stage.backend.on("/early", hold("response", c), stream=True)
    async with connect(stage.proxy.port) as client:
        wire = encode_request("POST", "/early", {}, body)
        await client.send(wire[:-20_000])
        await stage.requests_for("/early", 1)
        await client.send(wire[-20_000:])
        await stage.proxy.wait_subscribed(c)
        await stage.proxy.publish(reply(c, "news"))
        r = await client.read_response()
        assert (r.status, r.body) == (200, b"news")


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


# -- sizes -----------------------------------------------------------------------------------


@shared
async def test_a_request_body_of_100000_bytes_is_held(stage: Stage) -> None:
    c, body = fresh(), b"x" * 100_000
    r = await stage.answer_to(hold("response", c), c, reply(c, "x"), method="POST", body=body)
    assert r.body == b"x"


@shared
async def test_a_request_body_over_100000_bytes_cannot_be_held(stage: Stage) -> None:
    r = await stage.ask(hold("response", fresh()), method="POST", body=b"x" * TOO_LARGE)
    assert (r.status, r.reason) == (400, "Bad Request")
    assert r.body == b"Request too large to accept GRIP instruct.\n"


@shared
@pytest.mark.parametrize("debug", [False, True])
async def test_an_instruction_over_100000_bytes_is_a_502(stage: Stage, debug: bool) -> None:
    r = await stage.ask(hold("response", fresh(), body=b"x" * TOO_LARGE), debug=debug)
    text = f"GRIP instruct response too large from {stage.backend.address}\n".encode()
    assert (r.status, r.body) == (502, text if debug else BAD_ORIGIN)


@shared
async def test_an_instruction_of_100000_bytes_is_held(stage: Stage) -> None:
    c = fresh()
    patch = [{"op": "remove", "path": "/x"}]
    body = json.dumps({"x": "y" * 99_991}).encode()
    assert len(body) == 100_000
    r = await stage.answer_to(hold("response", c, body=body), c, reply(c, body_patch=patch))
    assert r.body == b"{}"
