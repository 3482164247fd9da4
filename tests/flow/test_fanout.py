"""Many messages and many clients: everything arrives, in order, and nobody waits for the slow."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh, hold, line, open_stage, reply
from tests.flow.peers import json_frame, pusher
from tests.support.client import Client, Truncated, connect, encode_request
from tests.support.proxy import PUSHPIN

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

BURST = 20_000
PER_POST = 100
# Pushpin 1.36 loses some clients or messages now and then where there are more
CROWDS = [pytest.param(40, marks=shared), 500]
SMALL_QUEUE = 200_000
PIECE = 100_000
PIECES = 200  # together far more than the kernel's buffers and the queue hold


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*") as it:
        yield it


@contextlib.asynccontextmanager
async def crowd(stage: Stage, mode: str, channel: str, count: int) -> AsyncIterator[list[Client]]:
    """Held clients on one channel; they come a few at a time, or Pushpin loses some."""
    at_once = 5 if PUSHPIN else 100
    path = "/" + fresh("crowd")
    stage.backend.on(path, hold(mode, channel))
    async with contextlib.AsyncExitStack() as stack:
        clients: list[Client] = []
        while len(clients) < count:
            few = [
                await stack.enter_async_context(connect(stage.proxy.port))
                for _ in range(min(at_once, count - len(clients)))
            ]
            for client in few:
                await client.send(encode_request("GET", path))
            clients += few
            await stage.proxy.wait_subscribed(channel, len(clients))
        yield clients


# -- many clients ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", CROWDS)
async def test_every_stream_gets_every_message_once(stage: Stage, count: int) -> None:
    c = fresh()
    async with crowd(stage, "stream", c, count) as clients:
        await stage.proxy.publish(line(c, "one "))
        await stage.proxy.publish(line(c, "two "), line(c, "end"))
        await stage.proxy.publish(line(c, action="close"))
        for client in clients:
            assert (await client.read_response()).body == b"one two end"


@pytest.mark.parametrize("count", CROWDS)
async def test_every_poll_gets_one_answer(stage: Stage, count: int) -> None:
    c = fresh()
    async with crowd(stage, "response", c, count) as clients:
        await stage.proxy.publish(reply(c, "one"), reply(c, "two"))
        for client in clients:
            assert (await client.read_response()).body == b"one"


@shared
async def test_a_client_of_several_channels_gets_all_in_the_order_of_publishing(
    stage: Stage,
) -> None:
    channels = b, c, d = fresh(), fresh(), fresh()
    published = [(channels[n * n % 7 % 3], f"{n:02d} ") for n in range(90)]
    async with (
        stage.held(hold("stream", f"{b},{c}"), b, c) as first,
        stage.held(hold("stream", f"{c},{d}"), d) as second,
    ):
        await stage.proxy.wait_subscribed(c, 2)
        for start in range(0, 90, 30):
            await stage.proxy.publish(*[line(*item) for item in published[start : start + 30]])
        for client, names in ((first, (b, c)), (second, (c, d))):
            await client.read_head()
            mine = "".join(text for channel, text in published if channel in names)
            assert (await client.read_bytes(len(mine))).decode() == mine


@shared
async def test_a_close_comes_after_what_was_published_to_other_channels(stage: Stage) -> None:
    c, d = fresh(), fresh()
    async with stage.held(hold("stream", f"{c},{d}"), c, d) as client:
        items = [line(c, "1"), line(d, "2"), line(c, "3"), line(c, action="close"), line(d, "4")]
        await stage.proxy.publish(*items)
        assert (await client.read_response()).body == b"123"


@shared
async def test_the_first_item_answers_whatever_its_channel(stage: Stage) -> None:
    c, d = fresh(), fresh()
    async with stage.held(hold("response", f"{c},{d}"), c, d) as client:
        await stage.proxy.publish(line(c, "stream"), reply(d, "first"), reply(c, "second"))
        assert (await client.read_response()).body == b"first"


# -- many messages ---------------------------------------------------------------------------


def numbered(n: int) -> str:
    return f"{n:06d} {'x' * 92}\n"


def everything(count: int) -> bytes:
    return "".join(map(numbered, range(count))).encode()


async def post(stage: Stage, channel: str, count: int) -> None:
    """Publish `count` numbered lines in requests of many items, on one connection."""
    async with connect(stage.proxy.http_control) as client:
        for start in range(0, count, PER_POST):
            items = [line(channel, numbered(n)) for n in range(start, start + PER_POST)]
            body = json.dumps({"items": items}).encode()
            assert (await client.request("POST", "/publish/", body=body)).status == 200


@contextlib.asynccontextmanager
async def pushed(stage: Stage, channel: str, count: int) -> AsyncIterator[None]:
    """Publish `count` numbered lines as fast as ZeroMQ takes them; the socket stays open."""
    async with pusher(stage.proxy.pull_spec) as push:
        for n in range(count):
            await push.send(json_frame(line(channel, numbered(n))))
        yield


async def test_a_burst_by_zeromq_arrives_whole_and_in_order(stage: Stage) -> None:
    """Of such a burst about 3,000 items arrive through Pushpin 1.36."""
    c = fresh()
    async with stage.streaming(c) as (client, _):
        expected = everything(BURST)
        reading = asyncio.create_task(client.read_bytes(len(expected)))
        async with pushed(stage, c, BURST):
            assert await reading == expected


async def test_a_burst_by_http_arrives_whole_and_in_order(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        expected = everything(BURST)
        reading = asyncio.create_task(client.read_bytes(len(expected)))
        await post(stage, c, BURST)
        assert await reading == expected


async def test_a_burst_waits_for_a_client_that_reads_later(stage: Stage) -> None:
    """It is less than the bytes that a connection may leave unread."""
    c, count = fresh(), 10_000
    async with stage.streaming(c, receive_buffer=4096) as (client, _):
        await post(stage, c, count)
        expected = everything(count)
        assert await client.read_bytes(len(expected)) == expected


async def test_a_burst_through_a_short_queue_arrives_whole_too() -> None:
    """The inputs wait while it is full."""
    c, d, count = fresh(), fresh(), 2_000
    async with open_stage("*", handler={"publish_queue_max": 10}) as stage:
        expected = everything(count)
        async with stage.streaming(c) as (one, _), stage.streaming(d) as (two, _):
            by_zmq = asyncio.create_task(one.read_bytes(len(expected)))
            by_http = asyncio.create_task(two.read_bytes(len(expected)))
            async with pushed(stage, c, count):
                await post(stage, d, count)
                assert await by_zmq == await by_http == expected


async def test_publishers_beyond_the_most_wait_for_their_turn() -> None:
    async with open_stage("*", handler={"push_in_http_maxconn": 2}) as stage:
        control = stage.proxy.http_control
        async with connect(control) as first, connect(control) as second, connect(control) as third:
            assert (await first.request("GET", "/")).status == 200
            assert (await second.request("GET", "/")).status == 200
            asking = asyncio.create_task(third.request("GET", "/"))
            assert (await first.request("GET", "/")).status == 200
            assert not asking.done()
            await second.close()
            assert (await asking).status == 200


@shared
async def test_message_rate_and_hwm_cap_the_deliveries() -> None:
    """Twenty a second, one at a time, and no more than five may wait."""
    c = fresh()
    limits = {"message_rate": 20, "message_hwm": 5}
    async with open_stage("*", handler=limits) as stage, stage.streaming(c) as (client, _):
        start = time.monotonic()
        await stage.proxy.publish(*[line(c, f"{n:02d}") for n in range(20)])
        assert await client.read_bytes(10) == b"0001020304"
        assert time.monotonic() - start > 0.15
        await stage.proxy.publish(line(c, "later"))
        assert await client.read_until(b"later") in (b"later", b"05later", b"0506later")


# -- clients that do not read ----------------------------------------------------------------


def piece(n: int) -> str:
    return f"{n:06d} {'x' * (PIECE - 8)}\n"


@contextlib.asynccontextmanager
async def with_a_lazy_client(**runner: object) -> AsyncIterator[tuple[Stage, Client, str]]:
    """A stage, a client that has read no more than the head of its stream, and the channel.

    Another client of the channel must get all that is published meanwhile: far more than the
    kernel's buffers and the bound hold.
    """
    c = fresh()
    async with (
        open_stage("*", runner=runner) as stage,
        stage.streaming(c, receive_buffer=4096) as (lazy, _),
        stage.streaming(c, count=2) as (eager, _),
    ):
        before = stage.proxy.peak_memory()
        reading = asyncio.create_task(eager.read_bytes(PIECES * PIECE))
        for n in range(PIECES):
            await stage.proxy.publish(line(c, piece(n)))
        got = await reading
        assert [got[at : at + 6] for at in range(0, len(got), PIECE)] == [
            b"%06d" % n for n in range(PIECES)
        ]
        assert stage.proxy.peak_memory() - before < PIECES * PIECE / 1024 / 2
        yield stage, lazy, c


async def test_a_client_that_never_reads_is_closed_and_sees_it() -> None:
    async with with_a_lazy_client(client_queue_bytes=SMALL_QUEUE) as (stage, lazy, c):
        await stage.proxy.wait_log(rf"\[WARN(ING)?\].*closed: it reads too slowly, channel={c}")
        with pytest.raises(Truncated):
            await lazy.read_rest()
        await stage.proxy.publish(line(c, "news"))
        await stage.proxy.wait_log(rf"publish channel={c} receivers=1")


async def test_all_clients_together_may_not_leave_more_unread_than_the_total() -> None:
    async with with_a_lazy_client(client_queue_total_bytes=SMALL_QUEUE) as (stage, lazy, c):
        await stage.proxy.wait_log(rf"\[WARN(ING)?\].*closed: it reads too slowly, channel={c}")
        with pytest.raises(Truncated):
            await lazy.read_rest()


async def test_items_are_dropped_instead_if_the_operator_wants_so() -> None:
    settings = {"client_queue_bytes": SMALL_QUEUE, "client_queue_full": "drop"}
    async with with_a_lazy_client(**settings) as (stage, lazy, c):
        await stage.proxy.wait_log(rf"\[WARN(ING)?\].*messages dropped: channel={c}")
        reading = asyncio.create_task(lazy.read_until(b"end\n"))
        while not reading.done():  # the first may be dropped as well
            await stage.proxy.publish(line(c, "end\n"))
            await asyncio.wait([reading], timeout=0.1)
        *pieces, last = (await reading).decode().splitlines(keepends=True)
        numbers = [int(text[:6]) for text in pieces]
        assert (last, pieces) == ("end\n", [piece(n) for n in numbers])
        assert numbers == sorted(set(numbers)) and 0 < len(numbers) < PIECES


async def test_a_close_ends_the_stream_of_a_client_that_loses_messages() -> None:
    settings = {"client_queue_bytes": SMALL_QUEUE, "client_queue_full": "drop"}
    async with with_a_lazy_client(**settings) as (stage, lazy, c):
        await stage.proxy.wait_log(rf"\[WARN(ING)?\].*messages dropped: channel={c}")
        await stage.proxy.publish(line(c, piece(PIECES)), line(c, action="close"))
        await stage.proxy.wait_log(rf"publish channel={c} receivers=2", count=PIECES + 2)
        await lazy.read_rest()


async def test_when_all_leave_too_much_unread_the_one_blocked_longest_goes() -> None:
    """A client that lags for a moment is not closed for the sake of those who never read."""
    c, d = fresh(), fresh()
    runner = {"client_queue_bytes": 100_000_000, "client_queue_total_bytes": 20_000_000}
    async with (
        open_stage("*", runner=runner) as stage,
        stage.streaming(c, receive_buffer=4096) as (lazy, _),
        stage.streaming(d, receive_buffer=4096) as (late, _),
    ):
        for _ in range(16):  # more than the kernel takes
            await stage.proxy.publish(*[line(c, piece(0)) for _ in range(8)])
        count = 0
        while "closed" not in stage.proxy.log():
            await stage.proxy.publish(*[line(d, piece(1)) for _ in range(8)])
            count += 8
        await stage.proxy.wait_log(r"closed: of all it is blocked longest")
        with pytest.raises(Truncated):
            await lazy.read_rest()
        assert await late.read_bytes(count * PIECE) == count * piece(1).encode()
