"""Control messages: what a backend tells the proxy inside a WebSocket connection."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flow import links
from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.links import Link, link, subscribe, unsubscribe
from tests.flow.sockets import message, text
from tests.support.websocket import Event, control

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

IMPLICIT = ("implicit", "pre-implicit")
MOST = 5  # subscriptions of a connection


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    targets = ",".join(f"sub={channel}" for channel in IMPLICIT)
    conditions = [
        *links.routes(),
        *links.routes("-pre", "prefix=pre-"),
        *links.routes("-sub", "prefix=pre-", targets),
        *links.routes("-debug", "prefix=pre-,debug"),
        "*",
    ]
    async with open_stage(*conditions, handler={"connection_subscription_max": MOST}) as it:
        yield it


@pytest.fixture(params=links.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of backend."""
    return str(request.param)


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


async def heard(it: Link, *channels: str, by: str) -> list[str]:
    """Those of the channels (full names) that the client is subscribed to.

    It must be subscribed to the channel `by`, and have read all that came before.
    """
    end = fresh("end")
    await it.stage.proxy.publish(*[message(c, c) for c in channels], message(by, end))
    got = []
    while (content := await it.client.read_text()) != end:
        got.append(content)
    return got


# -- subscriptions ---------------------------------------------------------------------------


@shared
async def test_a_subscription_is_to_the_channel_after_the_prefix_of_the_route(
    stage: Stage, kind: str
) -> None:
    c = fresh()
    async with link(stage, kind, subscribe(c), area="-pre", subscribed=[f"pre-{c}"]) as it:
        await stage.proxy.publish(message(c, "bad"), message(f"pre-{c}", "good"))
        assert await it.client.read_text() == "good"
        await stage.proxy.wait_log(rf"publish channel={c} receivers=0")
        await stage.proxy.wait_log(rf"publish channel=pre-{c} receivers=1")


@shared
async def test_the_log_names_url_and_channel(stage: Stage, kind: str) -> None:
    c = fresh()
    async with link(stage, kind, subscribe(c), query="?a=b"):
        await stage.proxy.wait_log(rf"subscribe ws://localhost/{kind}/\w+\?a=b channel={c}$")


@shared
async def test_one_connection_listens_to_many_channels(stage: Stage, kind: str) -> None:
    channels = [fresh() for _ in range(3)]
    async with link(stage, kind, *map(subscribe, channels), subscribed=channels) as it:
        await stage.proxy.publish(*[message(c, c) for c in (*channels, *channels)])
        for c in (*channels, *channels):
            assert await it.client.read_text() == c


@shared
async def test_a_second_subscription_to_a_channel_is_none(stage: Stage, kind: str) -> None:
    c, d = fresh(), fresh()
    opening = [subscribe(c), subscribe(c), subscribe(d)]
    async with link(stage, kind, *opening, subscribed=[c, d]) as it:
        await stage.proxy.publish(message(c, "once"), message(c, "end"))
        assert [await it.client.read_text() for _ in range(2)] == ["once", "end"]
        await it.tell(unsubscribe(c))
        await it.settle()
        assert await heard(it, c, by=d) == []


@shared
async def test_a_second_subscription_replaces_the_filters(stage: Stage, kind: str) -> None:
    """Items say for which filters they are."""
    c = fresh()
    changing = message(c, "changing", content_filters=["var-subst"])
    plain = message(c, "plain", content_filters=[])
    async with link(stage, kind, subscribe(c), subscribed=[c]) as it:
        await stage.proxy.publish(changing, plain)
        assert await it.client.read_text() == "plain"
        await it.tell(subscribe(c, filters=["var-subst"]))
        await it.settle()
        await stage.proxy.publish(plain, changing)
        assert await it.client.read_text() == "changing"
        await it.tell(subscribe(c))
        await it.settle()
        await stage.proxy.publish(changing, plain)
        assert await it.client.read_text() == "plain"


@shared
@pytest.mark.parametrize("names", [["unheard-of"], [""], ["skip-self"] * 5])
async def test_filters_that_do_nothing_are_no_error(
    stage: Stage, kind: str, names: list[str]
) -> None:
    c = fresh()
    async with link(stage, kind, subscribe(c, filters=names), subscribed=[c]) as it:
        await stage.proxy.publish(message(c, "x"))
        assert await it.client.read_text() == "x"


@pytest.mark.parametrize("area", ["-pre", "-debug"])
async def test_more_than_five_filters_end_the_connection(
    stage: Stage, kind: str, area: str
) -> None:
    """Only a route with `debug` says why. Pushpin 1.36 has no such limit."""
    c = fresh()
    async with link(stage, kind, subscribe(c, filters=["skip-self"] * 6), area=area) as it:
        reason = f"too many filters for channel '{c}'" if area == "-debug" else ""
        assert await it.client.read_close() == (1011, reason.encode())
        assert await it.backend_close() == (None, b"")


@shared
async def test_unsubscribe(stage: Stage, kind: str) -> None:
    b, c = f"pre-{fresh()}", f"pre-{fresh()}"
    opening = [subscribe(channel.removeprefix("pre-")) for channel in (b, c)]
    async with link(stage, kind, *opening, area="-pre", prefix="pre-", subscribed=[b, c]) as it:
        await it.tell(unsubscribe(b), unsubscribe(c.removeprefix("pre-")), unsubscribe(fresh()))
        await it.settle()
        assert await heard(it, b, c, by=b) == [b]
        await stage.proxy.wait_log(rf"publish channel={c} receivers=0")


@shared
async def test_subscribing_again_after_unsubscribing(stage: Stage, kind: str) -> None:
    c = fresh()
    again = subscribe(c), unsubscribe(c), subscribe(c)
    async with link(stage, kind, *again, subscribed=[c]) as it:
        await it.settle()
        assert await heard(it, c, by=c) == [c]


@shared
async def test_one_connection_does_not_unsubscribe_another(stage: Stage, kind: str) -> None:
    c, d = fresh(), fresh()
    async with (
        link(stage, kind, subscribe(c), subscribed=[c]) as one,
        link(stage, kind, subscribe(d), subscribe(c), unsubscribe(c)) as two,
    ):
        await two.settle()
        assert await heard(two, c, by=d) == []
        assert await heard(one, by=c) == [c]


# -- their number ----------------------------------------------------------------------------


@shared
async def test_beyond_the_most_a_subscription_is_ignored(stage: Stage, kind: str) -> None:
    channels = [fresh() for _ in range(MOST + 1)]
    *allowed, excess = channels
    async with link(stage, kind, *map(subscribe, channels), subscribed=allowed) as it:
        assert await heard(it, *channels, by=allowed[-1]) == allowed
        await it.tell(unsubscribe(allowed.pop(0)), subscribe(excess))
        await stage.proxy.wait_subscribed(excess)
        assert await heard(it, *channels, by=excess) == [*allowed, excess]


@shared
async def test_at_the_most_filters_are_not_replaced(stage: Stage, kind: str) -> None:
    channels = [fresh() for _ in range(MOST)]
    c = channels[0]
    opening = [subscribe(c, filters=["var-subst"]), *map(subscribe, channels[1:]), subscribe(c)]
    async with link(stage, kind, *opening, subscribed=channels) as it:
        await it.tell(unsubscribe(channels.pop()))
        await it.settle()
        await stage.proxy.publish(
            message(c, "new", content_filters=[]), message(c, "old", content_filters=["var-subst"])
        )
        assert await it.client.read_text() == "old"


# -- those of the target ---------------------------------------------------------------------


@shared
@pytest.mark.parametrize("grip", [True, False])
async def test_a_target_subscribes_without_prefix_and_without_being_asked(
    stage: Stage, kind: str, grip: bool
) -> None:
    c = fresh()
    # a connection later than this one tells when it has been subscribed
    async with link(stage, kind, area="-sub", grip=grip) as it, link(stage, kind) as later:
        await later.settle()
        await stage.proxy.publish(*[message(channel, channel) for channel in IMPLICIT])
        assert {await it.client.read_text() for _ in IMPLICIT} == set(IMPLICIT)
        await stage.proxy.publish(message(c, "bad"), message(IMPLICIT[0], "end"))
        assert await it.client.read_text() == "end"


@shared
async def test_the_subscriptions_of_a_target_stay(stage: Stage, kind: str) -> None:
    """`pre-implicit` is one of them, and what the backend calls `implicit`."""
    opening = [unsubscribe("implicit"), subscribe("implicit"), unsubscribe("implicit")]
    async with link(stage, kind, *opening, area="-sub", prefix="pre-") as it:
        await it.settle()
        assert await heard(it, *IMPLICIT, by=IMPLICIT[0]) == list(IMPLICIT)


@shared
async def test_the_subscriptions_of_a_target_count(stage: Stage, kind: str) -> None:
    channels = [fresh() for _ in range(MOST - len(IMPLICIT) + 1)]
    allowed = [f"pre-{c}" for c in channels[:-1]]
    opening = map(subscribe, channels)
    async with link(stage, kind, *opening, area="-sub", subscribed=allowed) as it:
        assert await heard(it, *[f"pre-{c}" for c in channels], by=IMPLICIT[0]) == allowed


# -- what nobody sees ------------------------------------------------------------------------


@shared
async def test_session_and_meta_are_taken_in_silence(stage: Stage, kind: str) -> None:
    c = fresh()
    opening = [
        control(type="session", id="s"),
        control(type="session", id=""),
        control(type="session"),
        control(type="set-meta", name="user", value="alice"),
        control(type="set-meta", name="user", value=""),
        control(type="set-meta", name="user"),
        control(type="set-meta", name="never"),
        subscribe(c, unheard_of={"a": [1]}),
    ]
    async with link(stage, kind, *opening, subscribed=[c]) as it:
        assert await heard(it, c, by=c) == [c]
        await it.client.send_text("next")
        assert await it.next_event() == text("next")


def bad(c: str) -> list[bytes]:
    documents: list[Any] = [
        [{"type": "subscribe", "channel": c}],
        {"type": "unheard-of", "channel": c},
        {"type": "Subscribe", "channel": c},
        {"type": None, "channel": c},
        {"type": 1, "channel": c},
        {"channel": c},
        {"type": "subscribe"},
        {"type": "subscribe", "channel": ""},
        {"type": "subscribe", "channel": None},
        {"type": "subscribe", "channel": 1},
        {"type": "subscribe", "channel": [c]},
        {"type": "subscribe", "channel": c, "filters": "skip-self"},
        {"type": "subscribe", "channel": c, "filters": {}},
        {"type": "subscribe", "channel": c, "filters": None},
        {"type": "subscribe", "channel": c, "filters": [1]},
        {"type": "unsubscribe"},
        {"type": "unsubscribe", "channel": ""},
        {"type": "unsubscribe", "channel": 1},
        {"type": "session", "id": 1},
        {"type": "set-meta"},
        {"type": "set-meta", "name": ""},
        {"type": "set-meta", "name": 1, "value": "x"},
        {"type": "set-meta", "name": "x", "value": 1},
        {"type": "detached"},
        "detach",
        1,
        None,
    ]
    texts = [b"", b" ", b"{", b"{}x", b'{"type": detach}', b"\xff", b'{"type": "\xff"}']
    return texts + [json.dumps(document).encode() for document in documents]


@shared
async def test_what_does_not_parse_has_no_effect(stage: Stage, kind: str) -> None:
    c, d = fresh(), fresh()
    async with link(stage, kind, subscribe(d), subscribed=[d]) as it:
        await it.tell(*[Event("TEXT", b"c:" + content) for content in bad(c)])
        await it.settle()
        assert await heard(it, c, d, by=d) == [d]
        await it.client.send_text("next")
        assert await it.next_event() == text("next")


# -- order -----------------------------------------------------------------------------------


async def test_a_subscription_is_there_before_the_client_is_accepted(stage: Stage) -> None:
    """Pushpin 1.36 subscribes whenever it gets round to it, here and below."""
    for area in ("-pre", "-sub"):
        c = f"pre-{fresh()}" if area == "-pre" else IMPLICIT[0]
        opening = [subscribe(c.removeprefix("pre-"))] if area == "-pre" else []
        async with link(stage, "over-http", *opening, area=area) as it:
            await stage.proxy.publish(message(c, c))
            assert await it.client.read_text() == c


async def test_a_subscription_is_there_before_what_the_backend_sends_next(
    stage: Stage, kind: str
) -> None:
    c, d = fresh(), fresh()
    opening = [subscribe(c), Event("TEXT", b"m:now"), unsubscribe(c), subscribe(d)]
    async with link(stage, kind, *opening, Event("TEXT", b"m:then")) as it:
        assert await it.client.read_text() == "now"
        assert await it.client.read_text() == "then"
        await stage.proxy.publish(message(c, c), message(d, d))
        assert await it.client.read_text() == d
