"""Ids of published items: the order that prev-id asks for, gaps, and duplicates."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.flow.holding import Item, Stage, fresh, line, open_stage, reply

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

WAIT_SECONDS = 1.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    handler = {"message_wait": int(WAIT_SECONDS * 1000), "id_cache_ttl": 60}
    async with open_stage("*", handler=handler) as it:
        yield it


def numbered(
    channel: str, id_: str | None, prev_id: str | None = None, no_seq: bool = False
) -> Item:
    """An item whose content is its id."""
    ids = {name: value for name, value in (("id", id_), ("prev-id", prev_id)) if value is not None}
    return line(channel, f"[{id_}]", item={**ids, "no-seq": no_seq})


# -- order -----------------------------------------------------------------------------------


@shared
async def test_an_item_waits_for_the_one_before_it(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(
            numbered(c, "1"), numbered(c, "3", "2"), numbered(c, "4", "3"), numbered(c, "2", "1")
        )
        assert await client.read_bytes(12) == b"[1][2][3][4]"


@shared
async def test_the_first_item_that_somebody_hears_waits_for_nothing(stage: Stage) -> None:
    c = fresh()
    await stage.proxy.publish(numbered(c, "1"))
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(numbered(c, "7", "6"))
        assert await client.read_bytes(3) == b"[7]"


@shared
async def test_items_without_prev_id_never_wait(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(numbered(c, "1"), numbered(c, "5"), numbered(c, "6", "5"))
        assert await client.read_bytes(9) == b"[1][5][6]"


@shared
async def test_an_item_without_id_makes_the_last_one_forgotten(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(numbered(c, "1"), numbered(c, None), numbered(c, "9", "8"))
        assert await client.read_bytes(12) == b"[1][None][9]"


@shared
async def test_no_seq_goes_past_those_that_wait(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(
            numbered(c, "1"),
            numbered(c, "3", "2"),
            numbered(c, "x", "w", no_seq=True),
            numbered(c, "2", "1"),
        )
        assert await client.read_bytes(12) == b"[1][x][2][3]"


@shared
async def test_channels_do_not_wait_for_each_other(stage: Stage) -> None:
    c, d = fresh(), fresh()
    async with stage.streaming(c) as (one, _), stage.streaming(d) as (two, _):
        await stage.proxy.publish(numbered(c, "1"), numbered(c, "3", "2"), numbered(d, "1"))
        await stage.proxy.publish(numbered(d, "2", "1"), numbered(c, "2", "1"))
        assert await two.read_bytes(6) == b"[1][2]"
        assert await one.read_bytes(9) == b"[1][2][3]"


@shared
async def test_items_for_polls_are_in_the_same_order_as_those_for_streams(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(
            numbered(c, "1"), numbered(c, "3", "2"), reply(c, "x", item={"id": "2", "prev-id": "1"})
        )
        assert await client.read_bytes(6) == b"[1][3]"


@shared
async def test_what_waits_too_long_is_delivered_all_the_same(stage: Stage) -> None:
    """In the order of age; what comes late waits as long, and is not dropped either."""
    c, d = fresh(), fresh()
    start = time.monotonic()
    async with stage.streaming(c) as (one, _), stage.streaming(d) as (two, _):
        # one by one, since the age is counted in milliseconds
        await stage.proxy.publish(numbered(c, "1"), numbered(c, "4", "3"))
        await stage.proxy.publish(numbered(d, "9"), numbered(d, "2", "1"))
        await stage.proxy.publish(numbered(c, "7", "6"))
        await stage.proxy.publish(numbered(c, "5", "4"), numbered(c, "8", "7"))
        assert await one.read_bytes(15) == b"[1][4][5][7][8]"
        assert await two.read_bytes(6) == b"[9][2]"
    assert WAIT_SECONDS <= time.monotonic() - start < WAIT_SECONDS + 3


@shared
async def test_recover_forgets_the_last_ids(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(numbered(c, "1"))
        assert await client.read_bytes(3) == b"[1]"
        assert (await stage.proxy.control("POST", "/recover", b"")).body == b"Updated\n"
        await stage.proxy.publish(numbered(c, "9", "8"))
        async with asyncio.timeout(WAIT_SECONDS * 0.9):
            assert await client.read_bytes(3) == b"[9]"


@shared
async def test_the_last_id_is_forgotten_when_nobody_listens(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(numbered(c, "1"))
        assert await client.read_bytes(3) == b"[1]"
        await stage.proxy.publish(line(c, action="close"))
        assert await client.read_rest() == b""
    async with stage.streaming(c, count=2) as (client, _):
        await stage.proxy.publish(numbered(c, "9", "8"))
        async with asyncio.timeout(WAIT_SECONDS * 0.9):
            assert await client.read_bytes(3) == b"[9]"


# -- duplicates ------------------------------------------------------------------------------


@shared
async def test_an_id_is_delivered_once(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(numbered(c, "1"), numbered(c, "1"))
        await stage.proxy.publish(numbered(c, "1"), numbered(c, "1", no_seq=True))
        await stage.proxy.publish(numbered(c, "2"))
        assert await client.read_bytes(6) == b"[1][2]"


@shared
async def test_ids_belong_to_their_channel(stage: Stage) -> None:
    c, d = fresh(), fresh()
    async with stage.streaming(c) as (one, _), stage.streaming(d) as (two, _):
        await stage.proxy.publish(numbered(c, "1"), numbered(d, "1"))
        assert await one.read_bytes(3) == await two.read_bytes(3) == b"[1]"


@shared
async def test_items_without_id_are_no_duplicates(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(numbered(c, None), numbered(c, None))
        assert await client.read_bytes(12) == b"[None][None]"


@shared
async def test_an_id_that_nobody_heard_counts_too(stage: Stage) -> None:
    c = fresh()
    await stage.proxy.publish(numbered(c, "1"))
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(numbered(c, "1"), numbered(c, "2"))
        assert await client.read_bytes(3) == b"[2]"
