"""Response holds that go back to the backend: hints, and gaps that prev-id shows."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow.holding import (
    BAD_ORIGIN,
    Stage,
    fresh,
    hold,
    in_turn,
    line,
    open_stage,
    reply,
    visible,
)
from tests.support.backend import Exchange, response
from tests.support.client import connect

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*,path_beg=/outer/,prefix=pre-,replace_beg=/inner/", "*") as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


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
async def test_a_gap_makes_the_proxy_forget_the_last_id(stage: Stage) -> None:
    """So the backend may hold again from where the client is, without being asked a third time."""
    c = fresh()
    path = "/" + fresh("again")
    async with stage.held(hold("response", f"{c}; prev-id=1"), c, path=path) as client:
        await stage.proxy.publish(reply(c, "too far", item={"id": "6", "prev-id": "5"}))
        await stage.proxy.wait_subscribed(c, 2)
        await stage.proxy.publish(reply(c, "next", item={"id": "2", "prev-id": "1"}))
        assert (await client.read_response()).body == b"next"
    assert len(await stage.requests_for(path, 2)) == 2


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
