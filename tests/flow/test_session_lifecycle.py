"""From the first subscription of a held client to its end, whoever ends it."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.flow.holding import (
    Stage,
    fresh,
    hold,
    in_turn,
    instruct,
    line,
    open_stage,
    reply,
)
from tests.flow.peers import Publisher, publisher
from tests.support.backend import Exchange, response
from tests.support.client import Client, Truncated, connect, encode_request, get

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


class Watched(NamedTuple):
    """A stage, and a publisher that sees who subscribes."""

    stage: Stage
    publisher: Publisher


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched() -> AsyncIterator[Watched]:
    conditions = (
        "*,path_beg=/implied/,prefix=pre- -> sub=implied,sub=too",
        "*,path_beg=/outer/,prefix=pre-",
        "*",
    )
    handler = {"connection_subscription_max": 3, "subscription_linger": 1}
    async with (
        open_stage(*conditions, handler=handler) as stage,
        publisher(connect=stage.proxy.sub_spec) as pub,
    ):
        yield Watched(stage, pub)


@pytest.fixture
def stage(watched: Watched) -> Iterator[Stage]:
    yield watched.stage
    watched.stage.backend.reset()


# -- subscribing -----------------------------------------------------------------------------


@shared
async def test_channels_beyond_the_most_are_left_out(stage: Stage) -> None:
    c = [fresh() for _ in range(4)]
    async with stage.held(hold("stream", ",".join(c)), *c[:3]) as client:
        await client.read_head()
        await stage.proxy.publish(line(c[3], "beyond"), line(c[2], "third"))
        assert await client.read_bytes(5) == b"third"


@shared
async def test_a_channel_named_twice_counts_twice(stage: Stage) -> None:
    c, d, e = fresh(), fresh(), fresh()
    document = {"hold": {"mode": "stream", "channels": [{"name": name} for name in (c, c, d, e)]}}
    async with stage.held(instruct(document), c, d) as client:
        await client.read_head()
        await stage.proxy.publish(line(e, "beyond"), line(c, "first"))
        assert await client.read_bytes(5) == b"first"


@shared
async def test_channels_of_the_target_come_on_top_and_without_prefix(watched: Watched) -> None:
    stage, c = watched.stage, [fresh() for _ in range(4)]
    names = ["pre-" + name for name in c[:3]]
    async with stage.held(hold("stream", ",".join(c)), *names, path="/implied/x") as client:
        await client.read_head()
        for name in ("implied", "too"):
            await watched.publisher.wait(True, name)
        unheard = ["pre-" + c[3], c[0], "pre-implied"]
        await stage.proxy.publish(*[line(name, "unheard") for name in unheard])
        await stage.proxy.publish(line(names[0], "1"), line("implied", "2"), line("too", "3"))
        assert await client.read_bytes(3) == b"123"
    await watched.publisher.wait(False, "too")


@shared
async def test_channels_of_the_target_suffice(watched: Watched) -> None:
    answer = response(200, {"Grip-Hold": "response"})
    async with watched.stage.held(answer, path="/implied/y") as client:
        await watched.publisher.wait(True, "too", count=2)
        await watched.stage.proxy.publish(reply("too", "x"))
        assert (await client.read_response()).body == b"x"


# -- leaving ---------------------------------------------------------------------------------


async def leave(client: Client, how: str) -> None:
    """End a connection by FIN in both directions, by RST or by FIN in one direction."""
    if how == "close":
        await client.close()
    elif how == "reset":
        client.abort()
    else:
        client.finish_sending()


@shared
@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
async def test_a_client_that_leaves_its_stream_is_unsubscribed(watched: Watched, how: str) -> None:
    """The end of what a client sends is its end, as for Pushpin."""
    c = fresh()
    async with watched.stage.streaming(c) as (client, _):
        await watched.publisher.wait(True, c)
        await leave(client, how)
        await watched.publisher.wait(False, c)


@shared
async def test_a_client_that_does_not_read_and_leaves_is_unsubscribed(watched: Watched) -> None:
    c = fresh()
    async with watched.stage.streaming(c, receive_buffer=4096) as (client, _):
        await watched.publisher.wait(True, c)
        for _ in range(12):
            await watched.stage.proxy.publish(line(c, "x" * 500_000))
        client.abort()
        await watched.publisher.wait(False, c)


@shared
async def test_clients_that_leave_their_polls_are_unsubscribed(watched: Watched) -> None:
    """In one test for all ways, since the channels of polls linger for a second."""
    channels = {how: fresh() for how in ("close", "reset", "half-close")}
    async with contextlib.AsyncExitStack() as stack:
        for how, c in channels.items():
            held = watched.stage.held(hold("response", c), c)
            await leave(await stack.enter_async_context(held), how)
        for c in channels.values():
            await watched.publisher.wait(False, c)


@shared
async def test_a_client_that_sent_ahead_and_leaves_is_unsubscribed(watched: Watched) -> None:
    c = fresh()
    async with watched.stage.streaming(c) as (client, _):
        await watched.publisher.wait(True, c)
        await client.send(encode_request("GET", "/ahead") * 3)
    await watched.publisher.wait(False, c)
    assert not [r for r in watched.stage.backend.requests if r.target == "/ahead"]


@shared
async def test_the_others_stay_when_one_leaves(watched: Watched) -> None:
    c, stage = fresh(), watched.stage
    async with stage.streaming(c) as (one, _), stage.streaming(c, count=2) as (two, _):
        async with stage.streaming(c, count=3) as (three, _):
            three.abort()
        await stage.proxy.publish(line(c, "news"))
        assert await one.read_bytes(4) == await two.read_bytes(4) == b"news"


@shared
async def test_nobody_receives_what_is_published_after_the_last_left(watched: Watched) -> None:
    c = fresh()
    async with watched.stage.streaming(c):
        await watched.publisher.wait(True, c)
    await watched.publisher.wait(False, c)
    await watched.stage.proxy.publish(line(c, "news"))
    await watched.stage.proxy.wait_log(rf"publish channel={c} receivers=0")


@shared
async def test_a_client_that_leaves_during_a_retry_takes_its_request_back(stage: Stage) -> None:
    c = fresh()
    gone = asyncio.Event()
    asked = 0

    async def answer(exchange: Exchange) -> bytes | None:
        nonlocal asked
        asked += 1
        if asked == 1:
            return hold("response", c)
        await exchange.wait_closed()
        gone.set()
        exchange.close()
        return None

    async with stage.held(answer, c, path="/retried") as client:
        await stage.proxy.publish(reply(c, action="hint"))
        await stage.requests_for("/retried", 2)
        client.abort()
        async with asyncio.timeout(10):
            await gone.wait()


@shared
async def test_many_clients_come_and_go_without_a_trace(watched: Watched) -> None:
    stage, pub = watched.stage, watched.publisher
    stage.backend.on("/many", hold("stream", "many"))

    async def come_and_go(count: int) -> None:
        for _ in range(count):
            async with connect(stage.proxy.port) as client:
                await client.send(encode_request("GET", "/many"))
                await client.read_head()

    async def rest() -> int:
        """Open files once nobody listens; the last client's socket may be a moment behind."""
        await pub.wait(False, "many", count=pub.about("many").count(True) or 1)
        await get(stage.proxy.port, "/nobody")
        return stage.proxy.open_files()

    await come_and_go(20)
    before = await rest()
    await come_and_go(200)
    assert await rest() <= before + 5


# -- the connection --------------------------------------------------------------------------


@shared
async def test_one_connection_polls_again_and_again(stage: Stage) -> None:
    c = fresh()
    stage.backend.on("/poll", hold("response", c))
    async with connect(stage.proxy.port) as client:
        for n in range(1, 6):
            await client.send(encode_request("GET", "/poll"))
            await stage.proxy.wait_subscribed(c, n)
            await stage.proxy.publish(reply(c, f"{n}"))
            assert (await client.read_response()).body == b"%d" % n


@shared
@pytest.mark.parametrize("mode", ["response", "stream"])
async def test_a_request_behind_a_hold_waits_for_its_end(stage: Stage, mode: str) -> None:
    c = fresh()
    stage.backend.on("/behind", response(body=b"behind"))
    async with stage.held(hold(mode, c), c) as client:
        await client.send(encode_request("GET", "/behind"))
        await client.send(encode_request("GET", "/behind"))
        news = (
            [reply(c, "news")] if mode == "response" else [line(c, "news"), line(c, action="close")]
        )
        await stage.proxy.publish(*news)
        assert (await client.read_response()).body == b"news"
        assert (await client.read_response()).body == b"behind"
        assert (await client.read_response()).body == b"behind"


@shared
async def test_requests_sent_together_are_held_one_after_the_other(stage: Stage) -> None:
    c, d = fresh(), fresh()
    stage.backend.on("/both", in_turn(hold("response", c), hold("stream", d, body=b"open ")))
    async with connect(stage.proxy.port) as client:
        await client.send(encode_request("GET", "/both") * 2)
        await stage.proxy.wait_subscribed(c)
        await stage.proxy.publish(reply(c, "first"))
        await stage.proxy.wait_subscribed(d)
        await stage.proxy.publish(line(d, "second"))
        assert (await client.read_response()).body == b"first"
        await client.read_head()
        assert await client.read_bytes(11) == b"open second"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient() -> AsyncIterator[Stage]:
    """With the least of everything that a client may take."""
    runner: dict[str, object] = {
        "client_idle_timeout": 0.5,
        "client_inactivity_timeout": 2.5,
        "client_pipeline_bytes": 1000,
    }
    async with open_stage("*", runner=runner) as it:
        yield it


async def test_a_held_client_may_not_send_ahead_more_than_the_bound(impatient: Stage) -> None:
    c = fresh()
    async with impatient.streaming(c) as (client, _):
        await client.send(encode_request("GET", "/ahead", {"X": "x" * 1000}))
        with pytest.raises(Truncated):
            await client.read_rest()
    await impatient.proxy.wait_log("sends without waiting")


async def test_what_is_held_outlives_the_idle_timeout(impatient: Stage) -> None:
    """The keep-alive of one tells the time: it comes after one second to two."""
    c, d = fresh(), fresh()
    async with (
        impatient.held(hold("response", d), d) as client,
        impatient.streaming(c, {"Grip-Keep-Alive": "k; timeout=2"}) as (clock, _),
    ):
        assert await clock.read_bytes(1) == b"k"
        await impatient.proxy.publish(reply(d, "news"))
        assert (await client.read_response()).body == b"news"


async def test_a_held_client_without_a_byte_either_way_is_given_up(impatient: Stage) -> None:
    c = fresh()
    async with impatient.streaming(c) as (client, _):
        with pytest.raises(Truncated):
            await client.read_rest()
    await impatient.proxy.wait_log("closed: no bytes for")


# -- the proxy -------------------------------------------------------------------------------


async def ended(client: Client) -> bytes:
    """What a client still reads of a body that must not look complete."""
    try:
        await client.read_rest()
    except Truncated as error:
        return bytes(error.args[0])
    raise AssertionError("the body looks complete")


@shared
async def test_a_reload_of_the_routes_leaves_the_held_alone() -> None:
    c, d = fresh(), fresh()
    async with (
        open_stage("*") as stage,
        stage.streaming(c) as (stream, _),
        stage.held(hold("response", d), d) as poll,
    ):
        stage.proxy.write_routes(["elsewhere.example 127.0.0.1:1"])
        stage.proxy.signal(signal.SIGHUP)
        await stage.proxy.wait_log("routes loaded", count=2)
        assert (await get(stage.proxy.port, "/now")).status == 502
        await stage.proxy.publish(line(c, "news"), reply(d, "news"))
        assert await stream.read_bytes(4) == b"news"
        assert (await poll.read_response()).body == b"news"


@shared
async def test_a_shutdown_cuts_what_is_held() -> None:
    """No answer and no last chunk, so that clients notice and come back."""
    c, d = fresh(), fresh()
    async with contextlib.AsyncExitStack() as stack:
        stage = await stack.enter_async_context(open_stage("*"))
        stream, _ = await stack.enter_async_context(stage.streaming(c, {}, b"open"))
        poll = await stack.enter_async_context(stage.held(hold("response", d, body=b"late"), d))
        status = await stage.proxy.stop()
        assert status == 0
        assert await ended(stream) == b"open"
        assert await poll.read_all() == b""
