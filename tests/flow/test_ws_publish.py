"""Publishing to WebSockets: what an item makes of itself, by every input."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flow import links
from tests.flow.holding import Stage, base64_text, fresh, hold, line, open_stage, reply
from tests.flow.links import link, subscribe
from tests.flow.peers import json_frame
from tests.flow.sockets import message, over_http, receive_events, relayed, text
from tests.support.backend import response
from tests.support.websocket import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Event,
    accept,
    control,
    events,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage(*links.routes(), *links.routes("-debug", "debug"), "*") as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


@pytest.fixture(params=links.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of backend."""
    return str(request.param)


# -- messages --------------------------------------------------------------------------------

Sent = tuple[dict[str, Any], int, bytes]
MESSAGES: list[Sent] = [
    ({"content": "grüße €"}, TEXT, "grüße €".encode()),
    ({"content": ""}, TEXT, b""),
    ({"content": "x", "type": "text"}, TEXT, b"x"),
    ({"content": "x", "type": "binary"}, BINARY, b"x"),
    ({"content-bin": base64_text(b"\0\xff")}, BINARY, b"\0\xff"),
    ({"content-bin": base64_text(b"x"), "type": "text"}, TEXT, b"x"),
    ({"content-bin": ""}, BINARY, b""),
    ({"content-bin": base64_text(b"x"), "content": "y"}, BINARY, b"x"),
    ({"content": "", "type": "ping"}, PING, b""),
    ({"content": "x" * 125, "type": "ping"}, PING, b"x" * 125),
    ({"content-bin": base64_text(b"\xff"), "type": "pong"}, PONG, b"\xff"),
    ({"content": "x", "action": "send"}, TEXT, b"x"),
    ({"content": "m:x"}, TEXT, b"m:x"),
    ({"content": 'c:{"type":"detach"}'}, TEXT, b'c:{"type":"detach"}'),
]


@shared
async def test_a_message_of_every_kind(stage: Stage, kind: str) -> None:
    """Neither prefixed nor looked at."""
    c = fresh()
    async with link(stage, kind, subscribe(c), subscribed=[c]) as it:
        for fields, opcode, content in MESSAGES:
            await stage.proxy.publish(message(c, **fields))
            frame = await it.client.read_frame()
            assert (frame.opcode, frame.payload) == (opcode, content), fields
        await it.client.send_text("next")
        assert await it.next_event() == text("next")


@pytest.mark.parametrize(("name", "opcode"), [("ping", PING), ("pong", PONG)])
async def test_pings_and_pongs_need_no_content(
    stage: Stage, kind: str, name: str, opcode: int
) -> None:
    """Pushpin 1.36 sends nothing."""
    c = fresh()
    async with link(stage, kind, subscribe(c), subscribed=[c]) as it:
        await stage.proxy.publish(message(c, type=name))
        frame = await it.client.read_frame()
        assert (frame.opcode, frame.payload) == (opcode, b"")


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "ping", "content": "x" * 126},
        {"type": "pong", "content-bin": base64_text(b"x" * 126)},
        {"action": "close", "code": 4000, "reason": "x" * 124},
    ],
)
async def test_what_fits_no_control_frame_is_a_400(stage: Stage, fields: dict[str, Any]) -> None:
    """Pushpin 1.36 drops the client."""
    c = fresh()
    async with link(stage, "relay", subscribe(c), subscribed=[c]) as it:
        body = json_frame({"items": [message(c, **fields)]})[1:]
        r = await stage.proxy.control("POST", "/publish/", body)
        assert (r.status, r.text.partition(":")[0]) == (400, "Invalid format")
        await stage.proxy.publish(message(c, "end"))
        assert await it.client.read_text() == "end"


@shared
async def test_a_message_longer_than_any_buffer(stage: Stage, kind: str) -> None:
    """However it is cut into frames."""
    c = fresh()
    content = "".join(f"{n:07d} " for n in range(12_500))
    async with link(stage, kind, subscribe(c), subscribed=[c]) as it:
        await stage.proxy.publish(message(c, content))
        assert await it.client.read_text() == content


@shared
async def test_a_hint_has_no_effect(stage: Stage, kind: str) -> None:
    c = fresh()
    async with link(stage, kind, subscribe(c), subscribed=[c]) as it:
        await stage.proxy.publish(message(c, "x", action="hint"), message(c, "end"))
        assert await it.client.read_text() == "end"


@shared
async def test_each_kind_of_client_gets_its_own_format(stage: Stage) -> None:
    c = fresh()
    item = {
        "channel": c,
        "formats": line("", "S")["formats"]
        | reply("", "R")["formats"]
        | message("", "W")["formats"],
    }
    async with (
        stage.held(hold("response", c), c) as poll,
        stage.streaming(c, count=2) as (stream, _),
        link(stage, "over-http", subscribe(c)) as it,
    ):
        await it.settle()
        await stage.proxy.publish(line(c, "for streams"), item)
        assert await it.client.read_text() == "W"
        assert await stream.read_bytes(12) == b"for streamsS"
        assert (await poll.read_response()).body == b"R"
        await stage.proxy.wait_log(rf"publish channel={c} receivers=3")


@shared
async def test_the_log_counts_those_who_might_be_sent_it(stage: Stage, kind: str) -> None:
    """Hints and what content filters keep back are counted too."""
    c = fresh()
    async with link(stage, kind, subscribe(c), subscribed=[c]) as it:
        await stage.proxy.publish(
            message(c, "1"),
            message(c, action="hint"),
            message(c, "2", content_filters=["var-subst"]),
            message(c, "3"),
        )
        assert [await it.client.read_text() for _ in range(2)] == ["1", "3"]
        await stage.proxy.wait_log(rf"publish channel={c} receivers=1", count=4)
        await stage.proxy.publish(line(c, "x"))
        await stage.proxy.wait_log(rf"publish channel={c} receivers=0")


@shared
async def test_content_filters_are_those_of_the_subscription(stage: Stage) -> None:
    """Of these the ones that change content, in their order; otherwise it is for others."""
    c = fresh()
    cases: list[list[str]] = [
        [],
        ["skip-self"],
        ["var-subst"],
        ["skip-self", "var-subst", "skip-users"],
        ["build-id", "var-subst"],
        ["var-subst", "build-id"],
    ]
    opening = [control(type="set-meta", name="id_format", value="x")]
    opening += [subscribe(f"{c}-{n}", filters=filters) for n, filters in enumerate(cases)]
    names = [[], ["var-subst"], ["build-id", "var-subst"], ["var-subst", "build-id"]]
    wanted = [[0], [0], [1], [1], [2], [3]]
    async with link(stage, "over-http", *opening) as it:
        await it.settle()
        for n in range(len(cases)):
            d = f"{c}-{n}"
            await stage.proxy.publish(
                *[message(d, str(m), content_filters=name) for m, name in enumerate(names)],
                message(d, "-", content_filters=["skip-self"]),
                message(d, "end"),
            )
            expected = [str(m) for m in wanted[n]] + ["end"]
            assert [await it.client.read_text() for _ in expected] == expected, cases[n]


async def test_with_debug_other_content_filters_close(stage: Stage, kind: str) -> None:
    """As in Pushpin 2.0, which says which."""
    c = fresh()
    opening = subscribe(c, filters=["skip-self", "build-id", "var-subst"])
    async with link(stage, kind, opening, area="-debug", subscribed=[c]) as it:
        same = message(c, "same", content_filters=["build-id", "var-subst"])
        await stage.proxy.publish(same, message(c, "any"))
        assert [await it.client.read_text() for _ in range(2)] == ["same", "any"]
        await stage.proxy.publish(message(c, "other", content_filters=["var-subst", "build-id"]))
        mismatch = "subscription=build-id,var-subst message=var-subst,build-id"
        reason = f"content filter mismatch: {mismatch}".encode()
        assert await it.client.read_close() == (1011, reason)
        assert await it.backend_close() == (None, b"")


# -- close -----------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({}, 1000, ""),
        ({"code": 4000}, 4000, ""),
        ({"code": 4000, "reason": "grüße"}, 4000, "grüße"),
        ({"code": "4001", "reason": "x" * 123}, 4001, "x" * 123),
        ({"code": 3000.6}, 3001, ""),
        ({"reason": "without code"}, 1000, ""),
        ({"code": 65536 + 4000, "reason": "16 bits"}, 4000, "16 bits"),
        ({"code": 4000, "type": 1, "content": 1}, 4000, ""),
    ],
)
async def test_a_close_closes_both_ends(
    stage: Stage, kind: str, fields: dict[str, Any], code: int, reason: str
) -> None:
    """The backend hears of it at once, without code."""
    c = fresh()
    async with link(stage, kind, subscribe(c), subscribed=[c]) as it:
        await stage.proxy.publish(message(c, action="close", **fields))
        assert await it.client.read_close() == (code, reason.encode())
        assert await it.backend_close() == (None, b"")
        await it.client.send_close(code)
        await it.client.wait_dropped()


@pytest.mark.parametrize("code", [0, "garbage", 999, 1005, 1006, 1015])
async def test_a_code_that_no_frame_may_carry_is_1000(stage: Stage, code: Any) -> None:
    """Pushpin 1.36 sends it."""
    c = fresh()
    async with link(stage, "over-http", subscribe(c), subscribed=[c]) as it:
        await stage.proxy.publish(message(c, action="close", code=code, reason="bye"))
        assert await it.client.read_close() == (1000, b"bye")


@shared
async def test_nothing_is_published_after_a_close(stage: Stage, kind: str) -> None:
    c, d = fresh(), fresh()
    opening = [subscribe(c), subscribe(d)]
    async with link(stage, kind, *opening, subscribed=[c, d]) as it:
        await stage.proxy.publish(
            message(c, "1"),
            message(d, "2"),
            message(c, action="close", code=4000),
            message(c, "too late"),
            message(d, action="close", code=4001),
        )
        assert [await it.client.read_text() for _ in range(2)] == ["1", "2"]
        assert await it.client.read_close() == (4000, b"")
        await stage.proxy.publish(message(d, "too late"))
        await it.client.send_text("too late")
        assert await it.backend_close() == (None, b"")
        await it.client.send_close(4002)
        await it.client.wait_dropped()


@shared
async def test_the_client_answers_a_close_and_the_backend_hears_no_more(stage: Stage) -> None:
    c = fresh()
    async with link(stage, "over-http", subscribe(c), subscribed=[c]) as it:
        await stage.proxy.publish(message(c, action="close", code=4000))
        await it.client.read_close()
        assert await it.backend_close() == (None, b"")
        await it.client.send_close(4002, b"whatever")
        await it.client.wait_dropped()
        assert await it.backend_is_silent(0.2)


@shared
async def test_the_backend_gets_what_the_client_sent_before_a_close(stage: Stage) -> None:
    c = fresh()
    async with over_http(stage, accept(subscribe(c)), base="/over-http") as (client, backend):
        await stage.proxy.wait_subscribed(c)
        answer = backend.hold()
        await client.send_text("1")
        assert await backend.next_events() == [text("1")]
        await client.send_text("2")
        await client.send_text("3")
        await stage.ask(response())  # that takes the same way, so the proxy has them now
        await stage.proxy.publish(message(c, action="close", code=4000))
        assert await client.read_close() == (4000, b"")
        answer.set_result(events(("TEXT", "m:too late")))
        assert await receive_events(backend, 3) == [text("2"), text("3"), Event("CLOSE")]
        await client.send_close(4000)
        await client.wait_dropped()


@shared
async def test_a_client_that_has_closed_is_published_to_until_the_backend_answers(
    stage: Stage,
) -> None:
    """And a published close is an answer."""
    c = fresh()
    async with (
        over_http(stage, accept(subscribe(c)), base="/over-http") as (one, woh),
        relayed(stage, base="/relay") as (two, backend),
    ):
        await backend.send(TEXT, subscribe(c).content or b"")
        await stage.proxy.wait_subscribed(c, 2)
        answer = woh.hold()
        for client in (one, two):
            await client.send_close(4001)
        assert await woh.next_events() == [Event("CLOSE", b"\x0f\xa1")]
        assert await backend.read_close() == (4001, b"")
        await stage.proxy.publish(message(c, "x"), message(c, action="close", code=4000))
        for client in (one, two):
            assert await client.read_text() == "x"
            assert await client.read_close() == (4000, b"")
            await client.wait_dropped()
        answer.set_result(events())


@shared
async def test_a_close_for_those_whose_content_filters_differ_is_for_all(stage: Stage) -> None:
    c = fresh()
    async with link(stage, "over-http", subscribe(c), subscribed=[c]) as it:
        await stage.proxy.publish(message(c, action="close", code=4000, content_filters=["x"]))
        assert await it.client.read_close() == (4000, b"")


# -- refresh ---------------------------------------------------------------------------------


async def test_a_refresh_asks_the_backend(stage: Stage) -> None:
    """Pushpin 1.36 does not know the action, here and below."""
    c = fresh()
    async with over_http(stage, accept(subscribe(c)), base="/over-http") as (client, backend):
        backend.answers.append(events(("TEXT", "m:fresh")))
        await stage.proxy.publish(message(c, action="refresh"))
        request, got = await backend.next()
        assert (request.body, got) == (b"", [])
        assert await client.read_text() == "fresh"


async def test_refreshes_and_messages_during_a_request_become_one(stage: Stage) -> None:
    c = fresh()
    async with over_http(stage, accept(subscribe(c)), base="/over-http") as (client, backend):
        answer = backend.hold()
        await stage.proxy.publish(message(c, action="refresh"))
        assert await backend.next_events() == []
        await client.send_text("1")
        for _ in range(3):
            await stage.proxy.publish(message(c, action="refresh"))
        await client.send_text("2")
        await stage.ask(response())  # that takes the same way, so the proxy has it now
        await stage.proxy.publish(message(c, "sent meanwhile"))
        assert await client.read_text() == "sent meanwhile"
        answer.set_result(events())
        assert await backend.next_events() == [text("1"), text("2")]
        assert await backend.is_silent(0.2)


async def test_refreshes_during_a_request_become_one_empty_one(stage: Stage) -> None:
    c = fresh()
    async with over_http(stage, accept(subscribe(c)), base="/over-http") as (client, backend):
        answer = backend.hold()
        await client.send_text("1")
        assert await backend.next_events() == [text("1")]
        for _ in range(3):
            await stage.proxy.publish(message(c, action="refresh"))
        await stage.proxy.publish(message(c, "end"))
        assert await client.read_text() == "end"
        answer.set_result(events())
        assert await backend.next_events() == []
        assert await backend.is_silent(0.2)


async def test_a_refresh_is_nothing_to_a_websocket_backend(stage: Stage) -> None:
    c = fresh()
    async with link(stage, "relay", subscribe(c), subscribed=[c]) as it:
        await stage.proxy.publish(message(c, action="refresh"), message(c, "end"))
        assert await it.client.read_text() == "end"
        await it.client.send_text("next")
        assert await it.next_event() == text("next")
