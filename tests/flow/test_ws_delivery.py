"""Published messages on their way to WebSockets: all arrive, whole, in order, without delay."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow import links
from tests.flow.holding import Item, Stage, fresh, line, open_stage
from tests.flow.links import Link, link, subscribe
from tests.flow.peers import json_frame, pusher
from tests.flow.sockets import message, relayed, text
from tests.support.proxy import PUSHPIN
from tests.support.websocket import CLOSE, CONT, PING, TEXT, Frame, Socket

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

WAIT_SECONDS = 1.0
BURST = 20_000
# Pushpin 1.36 loses some clients or messages now and then where there are more
CROWDS = [pytest.param(30, marks=shared), 300]
SMALL_QUEUE = 200_000
PIECE = 100_000
PIECES = 200  # together far more than the kernel's buffers and the queue hold


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    handler = {"message_wait": int(WAIT_SECONDS * 1000)}
    async with open_stage(
        *links.routes(), *links.routes("-sub", "", "sub=sub"), "*", handler=handler
    ) as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


@pytest.fixture(params=links.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of backend."""
    return str(request.param)


@contextlib.asynccontextmanager
async def listening(stage: Stage, *channels: str, kind: str = "over-http") -> AsyncIterator[Link]:
    """A link that is subscribed to the channels."""
    async with link(stage, kind, *map(subscribe, channels)) as it:
        await it.settle()
        yield it


async def texts(client: Socket, count: int) -> list[str]:
    return [await client.read_text() for _ in range(count)]


# -- order -----------------------------------------------------------------------------------


def numbered(
    channel: str, id_: str | None, prev_id: str | None = None, no_seq: bool = False
) -> Item:
    """An item whose content is its id."""
    ids = {name: value for name, value in (("id", id_), ("prev-id", prev_id)) if value is not None}
    return message(channel, f"{id_}", item={**ids, "no-seq": no_seq})


@shared
async def test_an_item_waits_for_the_one_before_it(stage: Stage) -> None:
    c = fresh()
    async with listening(stage, c) as it:
        await stage.proxy.publish(
            numbered(c, "1"),
            numbered(c, "3", "2"),
            numbered(c, "x", "w", no_seq=True),
            numbered(c, "2", "1"),
        )
        assert await texts(it.client, 4) == ["1", "x", "2", "3"]


@shared
async def test_items_for_streams_and_for_websockets_are_in_one_order(stage: Stage) -> None:
    c = fresh()
    async with listening(stage, c) as it:
        await stage.proxy.publish(
            numbered(c, "1"), numbered(c, "3", "2"), line(c, "x", item={"id": "2", "prev-id": "1"})
        )
        assert await texts(it.client, 2) == ["1", "3"]


@shared
async def test_the_first_item_that_somebody_hears_waits_for_nothing(stage: Stage) -> None:
    c = fresh()
    await stage.proxy.publish(numbered(c, "1"))
    async with listening(stage, c) as it:
        await stage.proxy.publish(numbered(c, "7", "6"))
        async with asyncio.timeout(WAIT_SECONDS * 0.9):
            assert await it.client.read_text() == "7"


@shared
async def test_what_waits_too_long_is_delivered_all_the_same(stage: Stage) -> None:
    c = fresh()
    start = time.monotonic()
    async with listening(stage, c) as it:
        # one by one, since the age is counted in milliseconds
        await stage.proxy.publish(numbered(c, "1"), numbered(c, "4", "3"))
        await stage.proxy.publish(numbered(c, "5", "4"))
        assert await texts(it.client, 3) == ["1", "4", "5"]
    assert WAIT_SECONDS <= time.monotonic() - start < WAIT_SECONDS + 3


@shared
async def test_an_id_is_delivered_once(stage: Stage) -> None:
    c, d = fresh(), fresh()
    async with listening(stage, c, d) as it:
        await stage.proxy.publish(numbered(c, "1"), numbered(c, "1"), numbered(d, "1"))
        await stage.proxy.publish(numbered(c, "1", no_seq=True), numbered(c, "2"))
        assert await texts(it.client, 3) == ["1", "1", "2"]


@shared
async def test_a_client_of_several_channels_gets_all_in_the_order_of_publishing(
    stage: Stage, kind: str
) -> None:
    channels = b, c, d = fresh(), fresh(), fresh()
    published = [(channels[n * n % 7 % 3], f"{n}") for n in range(60)]
    async with (
        listening(stage, b, c, kind=kind) as one,
        listening(stage, c, d, kind=kind) as two,
    ):
        for start in range(0, 60, 20):
            await stage.proxy.publish(*[message(*item) for item in published[start : start + 20]])
        for it, names in ((one, (b, c)), (two, (c, d))):
            mine = [content for channel, content in published if channel in names]
            assert await texts(it.client, len(mine)) == mine


# -- many ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", CROWDS)
async def test_every_client_gets_every_message_once(stage: Stage, kind: str, count: int) -> None:
    c = fresh()
    at_once = 5 if PUSHPIN else 50
    async with contextlib.AsyncExitStack() as stack:
        clients: list[Socket] = []
        while len(clients) < count:
            for _ in range(at_once):
                it = await stack.enter_async_context(link(stage, kind, subscribe(c)))
                clients.append(it.client)
            await stage.proxy.wait_subscribed(c, len(clients))
        await stage.proxy.publish(message(c, "1"), message(c, "2"))
        await stage.proxy.publish(message(c, "3"), message(c, action="close", code=4000))
        for client in clients:
            assert await texts(client, 3) == ["1", "2", "3"]
            assert await client.read_close() == (4000, b"")


def content(n: int, size: int = 100) -> str:
    return f"{n:06d} ".ljust(size, "x")


async def test_a_burst_in_one_request_arrives_whole(stage: Stage, kind: str) -> None:
    """Of such a burst 9 messages arrive through Pushpin 1.36."""
    c = fresh()
    async with listening(stage, c, kind=kind) as it:
        contents = [content(n, 1000) for n in range(20)]
        await stage.proxy.publish(*[message(c, each) for each in contents])
        assert await texts(it.client, 20) == contents


async def test_a_burst_by_zeromq_arrives_whole_and_in_order(stage: Stage) -> None:
    """Of such a burst about 3,000 messages arrive through Pushpin 1.36."""
    c = fresh()
    async with listening(stage, c) as it, pusher(stage.proxy.pull_spec) as push:
        reading = asyncio.create_task(texts(it.client, BURST))
        for n in range(BURST):
            await push.send(json_frame(message(c, content(n))))
        assert await reading == [content(n) for n in range(BURST)]


async def test_a_burst_waits_for_a_client_that_reads_later(stage: Stage) -> None:
    """It is less than the bytes that a connection may leave unread."""
    c, count = fresh(), 3_000
    async with link(stage, "relay", subscribe(c), subscribed=[c], receive_buffer=4096) as it:
        for start in range(0, count, 500):
            await stage.proxy.publish(
                *[message(c, content(n, 1000)) for n in range(start, start + 500)]
            )
        await stage.proxy.wait_log(rf"publish channel={c} receivers=1", count)
        assert await texts(it.client, count) == [content(n, 1000) for n in range(count)]


@shared
async def test_message_rate_and_hwm_cap_the_deliveries() -> None:
    """Twenty a second, one at a time, and no more than five may wait."""
    c = fresh()
    limits = {"message_rate": 20, "message_hwm": 5}
    async with (
        open_stage(*links.routes(), "*", handler=limits) as stage,
        listening(stage, c) as it,
    ):
        start = time.monotonic()
        await stage.proxy.publish(*[message(c, f"{n}") for n in range(20)])
        assert await texts(it.client, 5) == ["0", "1", "2", "3", "4"]
        assert time.monotonic() - start > 0.15
        await stage.proxy.publish(message(c, "later"))
        seen = [await it.client.read_text()]
        while seen[-1] != "later":
            seen.append(await it.client.read_text())
        assert seen[:-1] in ([], ["5"], ["5", "6"])


# -- large messages --------------------------------------------------------------------------


async def test_large_messages_arrive_whole(stage: Stage, kind: str) -> None:
    """Through Pushpin 1.36 the first."""
    c = fresh()
    sizes = [1_000_000, 65_535, 65_536, 126, 125, 0, 3_000_000, 100_000, 100_000, 100_000]
    async with listening(stage, c, kind=kind) as it, pusher(stage.proxy.pull_spec) as push:
        for size in sizes:
            await push.send(json_frame(message(c, "x" * size)))
        assert [len(each) for each in await texts(it.client, len(sizes))] == sizes


# -- inside a message of the backend ---------------------------------------------------------


@pytest.mark.parametrize("grip", [True, False])
async def test_what_is_published_inside_a_message_of_the_backend_comes_after_it(
    stage: Stage, grip: bool
) -> None:
    """From Pushpin 1.36 it does not come at all. A ping may come at once."""
    c = fresh() if grip else "sub"
    base = "/relay" if grip else "/relay-sub"
    accepted = {"Sec-WebSocket-Extensions": "grip"} if grip else {}
    async with relayed(stage, accepted, base=base) as (client, backend):
        if grip:
            await backend.send(TEXT, subscribe(c).content or b"")
            await stage.proxy.wait_subscribed(c)
        await backend.send(TEXT, b"m:one " if grip else b"one ", fin=False)
        assert await client.read_frame() == Frame(TEXT, b"one ", False)
        large = "x" * 100_000
        await stage.proxy.publish(
            message(c, "published"), message(c, "p", type="ping"), message(c, large)
        )
        await stage.proxy.wait_log(rf"publish channel={c} receivers=1", count=3)
        await backend.send(CONT, b"two ", fin=False)
        await backend.send(CONT, b"three")
        await backend.send_text("m:then" if grip else "then")
        got = [await client.read_frame() for _ in range(6)]
        assert Frame(PING, b"p") in got
        got.remove(Frame(PING, b"p"))
        assert got[:2] == [Frame(CONT, b"two ", False), Frame(CONT, b"three")]
        assert Frame(TEXT, b"then") in got
        got.remove(Frame(TEXT, b"then"))
        assert got[2:] == [Frame(TEXT, b"published"), Frame(TEXT, large.encode())]


async def test_a_close_may_come_inside_a_message_of_the_backend(stage: Stage) -> None:
    c = fresh()
    async with relayed(stage) as (client, backend):
        await backend.send(TEXT, subscribe(c).content or b"")
        await stage.proxy.wait_subscribed(c)
        await backend.send(TEXT, b"m:one ", fin=False)
        assert await client.read_frame() == Frame(TEXT, b"one ", False)
        await stage.proxy.publish(message(c, "x"), message(c, action="close", code=4000))
        assert await client.read_close() == (4000, b"")
        await backend.send(CONT, b"two")
        await client.send_close(4000)
        await client.wait_dropped()


# -- clients that do not read ----------------------------------------------------------------


@contextlib.asynccontextmanager
async def with_a_lazy_client(kind: str, **runner: object) -> AsyncIterator[tuple[Link, str]]:
    """A client that reads nothing, and its channel.

    Another client of the channel must get all that is published meanwhile, as it comes: far more
    than the kernel's buffers and the bound hold.
    """
    c = fresh()
    async with (
        open_stage(*links.routes(), "*", runner=runner) as stage,
        link(stage, kind, subscribe(c), receive_buffer=4096) as lazy,
        listening(stage, c) as eager,
    ):
        await stage.proxy.wait_subscribed(c, 2)
        before = stage.proxy.peak_memory()
        for n in range(PIECES):
            await stage.proxy.publish(message(c, content(n, PIECE)))
            assert await eager.client.read_text() == content(n, PIECE)
        assert stage.proxy.peak_memory() - before < PIECES * PIECE / 1024 / 2
        yield lazy, c


async def read_pieces(client: Socket) -> tuple[list[int], Frame]:
    """The numbers of the whole pieces that come next, and the frame of another opcode or size
    that follows them.
    """
    numbers: list[int] = []
    while (frame := await client.read_frame()).opcode == TEXT and len(frame.payload) == PIECE:
        numbers.append(int(frame.payload[:6]))
        assert frame == Frame(TEXT, content(numbers[-1], PIECE).encode())
    return numbers, frame


@pytest.mark.parametrize("bound", ["client_queue_bytes", "client_queue_total_bytes"])
async def test_a_client_that_never_reads_is_closed_and_sees_it(bound: str) -> None:
    async with with_a_lazy_client("over-http", **{bound: SMALL_QUEUE}) as (lazy, _):
        proxy = lazy.stage.proxy
        await proxy.wait_log(r"\[WARN(ING)?\].*connection \d+ closed: it reads too slowly")
        await proxy.wait_log(r"dropped since the start: client-queue=\d+$")
        assert (await lazy.next_event()).type in ("CLOSE", "DISCONNECT")
        numbers, frame = await read_pieces(lazy.client)
        assert numbers == list(range(len(numbers))) and len(numbers) < PIECES
        assert (frame.opcode, frame.payload[:2]) == (CLOSE, (1013).to_bytes(2, "big"))
        await lazy.client.send_close(1013)
        await lazy.client.wait_dropped()


async def test_messages_are_dropped_instead_if_the_operator_wants_so() -> None:
    """Whole ones, and the connection goes on."""
    settings = {"client_queue_bytes": SMALL_QUEUE, "client_queue_full": "drop"}
    async with with_a_lazy_client("relay", **settings) as (lazy, c):
        proxy = lazy.stage.proxy
        await proxy.wait_log(r"\[WARN(ING)?\].*messages dropped")
        await proxy.wait_log(r"dropped since the start: client-queue=\d+$")
        reading = asyncio.create_task(read_pieces(lazy.client))
        while not reading.done():  # the first may be dropped as well
            await proxy.publish(message(c, "end"))
            await asyncio.wait([reading], timeout=0.1)
        numbers, frame = await reading
        assert frame == Frame(TEXT, b"end")
        assert numbers == sorted(set(numbers)) and 0 < len(numbers) < PIECES
        await lazy.client.send_text("still there")
        assert await lazy.next_event() == text("still there")


async def test_a_close_ends_a_client_that_loses_messages() -> None:
    settings = {"client_queue_bytes": SMALL_QUEUE, "client_queue_full": "drop"}
    async with with_a_lazy_client("over-http", **settings) as (lazy, c):
        await lazy.stage.proxy.wait_log(r"\[WARN(ING)?\].*messages dropped")
        await lazy.stage.proxy.publish(message(c, action="close", code=4000))
        assert await lazy.backend_close() == (None, b"")
        _, frame = await read_pieces(lazy.client)
        assert (frame.opcode, frame.payload) == (CLOSE, b"\x0f\xa0")
