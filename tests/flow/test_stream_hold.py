"""Stream holds (HTTP streaming, SSE): how they start, what they deliver, how they end."""

import asyncio
import contextlib
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
    instruct,
    line,
    open_stage,
    reply,
    visible,
)
from tests.support.backend import Exchange, response
from tests.support.client import Client, Truncated, encode_request

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*,path_beg=/debug/,debug", "*") as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


async def expect_next(stage: Stage, client: Client) -> None:
    """The connection must serve another request."""
    stage.backend.on("/next", response(body=b"next"))
    assert (await client.request("GET", "/next")).body == b"next"


# -- the start -------------------------------------------------------------------------------


@shared
async def test_the_head_comes_at_once_and_the_body_is_chunked(stage: Stage) -> None:
    c = fresh()
    headers = {"A": "1", "Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    async with stage.streaming(c, headers) as (_, r):
        assert (r.version, r.status, r.reason, r.framing) == ("HTTP/1.1", 200, "OK", "chunked")
        assert visible(r) == list(headers.items())
        assert r.all("Content-Length") == []


@shared
async def test_status_and_exposed_headers_are_those_of_the_instruction(stage: Stage) -> None:
    c = fresh()
    headers = {
        "Grip-Status": "404 Gone fishing",
        "Grip-Expose-Headers": "a, x",
        "A": "1",
        "B": "2",
        "X": "3",
    }
    async with stage.streaming(c, headers) as (_, r):
        assert (r.status, r.reason, visible(r)) == (404, "Gone fishing", [("A", "1"), ("X", "3")])


@shared
@pytest.mark.parametrize("size", [0, 1, 99_999, 100_000, 100_001, 300_000])
async def test_an_initial_body_of_any_size_comes_before_the_items(stage: Stage, size: int) -> None:
    c = fresh()
    body = bytes(i % 251 for i in range(size))
    async with stage.streaming(c, {"A": "1", "Grip-Status": "202 Fine"}, body) as (client, r):
        assert (r.status, r.reason, r.framing, visible(r)) == (202, "Fine", "chunked", [("A", "1")])
        await stage.proxy.publish(line(c, "news"))
        assert await client.read_bytes(size) == body
        assert await client.read_bytes(4) == b"news"


@shared
async def test_a_large_start_shows_every_header_but_those_of_grip(stage: Stage) -> None:
    """Over 100,000 bytes the head goes out before the instruction is obeyed."""
    c = fresh()
    headers = {"Grip-Expose-Headers": "A", "A": "1", "B": "2", "Grip-Other": "3"}
    async with stage.streaming(c, headers, b"x" * 100_001) as (_, r):
        assert visible(r) == [("A", "1"), ("B", "2")]


@shared
async def test_a_chunked_start(stage: Stage) -> None:
    c = fresh()
    answer = response(200, {"Grip-Hold": "stream", "Grip-Channel": c}, [b"two ", b"pieces "])
    async with stage.held(answer, c) as client:
        assert (await client.read_head()).framing == "chunked"
        await stage.proxy.publish(line(c, "news"))
        assert await client.read_bytes(15) == b"two pieces news"


@shared
async def test_a_large_start_is_relayed_while_it_comes(stage: Stage) -> None:
    c = fresh()
    go_on = asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        head = response(
            200,
            {"Grip-Hold": "stream", "Grip-Channel": c, "Content-Length": "300000"},
            length=False,
        )
        await exchange.write(head + b"1" * 200_000)
        await go_on.wait()
        await exchange.write(b"2" * 100_000)

    async with stage.held(slowly) as client:
        await client.read_head()
        # how much is kept back is the proxy's affair, but not everything
        assert await client.read_bytes(100_000) == b"1" * 100_000
        go_on.set()
        await stage.proxy.wait_subscribed(c)
        await stage.proxy.publish(line(c, "news"))
        assert await client.read_bytes(200_004) == b"1" * 100_000 + b"2" * 100_000 + b"news"


async def test_a_large_start_that_is_cut_ends_visibly(stage: Stage) -> None:
    """Pushpin 1.36 leaves the client waiting or ends the body as if it were whole."""
    c = fresh()

    async def cut(exchange: Exchange) -> None:
        head = response(
            200,
            {"Grip-Hold": "stream", "Grip-Channel": c, "Content-Length": "300000"},
            length=False,
        )
        await exchange.write(head + b"1" * 200_000)
        exchange.abort()

    async with stage.held(cut) as client:
        await client.read_head()
        with pytest.raises(Truncated):
            await client.read_rest()


async def test_a_small_start_that_is_cut_is_a_502(stage: Stage) -> None:
    c = fresh()

    async def cut(exchange: Exchange) -> None:
        head = response(
            200, {"Grip-Hold": "stream", "Grip-Channel": c, "Content-Length": "300"}, length=False
        )
        await exchange.write(head + b"1" * 200)
        exchange.abort()

    r = await stage.ask(cut)
    assert (r.status, r.body) == (502, BAD_ORIGIN)


@shared
async def test_a_large_start_with_build_id_is_a_502(stage: Stage) -> None:
    r = await stage.ask(hold("stream", f"{fresh()}; filter=build-id", body=b"x" * 100_001))
    assert (r.status, r.body) == (502, BAD_ORIGIN)


# -- HTTP/1.0 and HEAD -----------------------------------------------------------------------


@shared
@pytest.mark.parametrize("size", [5, 200_001])
async def test_an_http_1_0_client_reads_to_the_end_of_the_connection(
    stage: Stage, size: int
) -> None:
    c = fresh()
    async with stage.streaming(c, {"A": "1"}, b"x" * size, version="HTTP/1.0") as (client, r):
        assert (r.version, r.status, r.framing, visible(r)) == (
            "HTTP/1.0",
            200,
            "close",
            [("A", "1")],
        )
        await stage.proxy.publish(line(c, "news"))
        await stage.proxy.publish(line(c, action="close"))
        assert await client.read_rest() == b"x" * size + b"news"


async def test_a_stream_ends_an_http_1_0_connection_that_asked_to_be_kept(stage: Stage) -> None:
    """Pushpin 1.36 leaves it open, so the client never learns of the end."""
    c = fresh()
    async with stage.streaming(c, version="HTTP/1.0", headers={"Connection": "keep-alive"}) as (
        client,
        r,
    ):
        assert r.framing == "close" and "keep-alive" not in r.all("Connection")
        await stage.proxy.publish(line(c, "news"))
        await stage.proxy.publish(line(c, action="close"))
        assert await client.read_rest() == b"news"


async def test_a_stream_asked_for_by_head_has_no_body(stage: Stage) -> None:
    """Pushpin 1.36 sends chunks, which breaks the connection."""
    c = fresh()
    async with stage.held(hold("stream", c, {"A": "1"}, b"initial"), method="HEAD") as client:
        r = await client.read_head(to_head=True)
        assert (r.status, visible(r)) == (200, [("A", "1")])
        await stage.proxy.publish(line(c, "news"))
        await stage.proxy.publish(line(c, action="close"))
        await expect_next(stage, client)


# -- delivery --------------------------------------------------------------------------------


@shared
async def test_items_come_in_the_order_of_publishing(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(*[line(c, f"{n}\n") for n in range(50)])
        await stage.proxy.publish(*[line(c, f"{n}\n") for n in range(50, 100)])
        await stage.proxy.publish(line(c, "end"))
        assert await client.read_until(b"end") == b"".join(b"%d\n" % n for n in range(100)) + b"end"


@shared
async def test_an_item_of_several_hundred_kilobytes(stage: Stage) -> None:
    c = fresh()
    content = "0123456789" * 50_000
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(line(c, content))
        await stage.proxy.publish(line(c, "end"))
        assert await client.read_bytes(500_003) == content.encode() + b"end"


@shared
async def test_content_bin_is_base64_and_wins_over_content(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(line(c, "text", content_bin=base64_text(b"\0\xff\r\n")))
        assert await client.read_bytes(4) == b"\0\xff\r\n"


@shared
async def test_an_item_without_content_writes_nothing(stage: Stage) -> None:
    """An empty chunk would end the body."""
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(line(c, ""), line(c, content_bin=""), line(c, "news"))
        assert await client.read_bytes(4) == b"news"


@shared
async def test_an_item_for_polls_only_is_not_for_streams(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(reply(c, "for polls"), line(c, "for streams"))
        assert await client.read_bytes(11) == b"for streams"


@shared
async def test_an_item_may_serve_polls_and_streams(stage: Stage) -> None:
    c = fresh()
    both = line(c, "S")
    both["formats"] |= reply(c, "R")["formats"]
    async with (
        stage.streaming(c) as (stream, _),
        stage.held(hold("response", c), c, count=2) as poll,
    ):
        await stage.proxy.publish(both)
        assert await stream.read_bytes(1) == b"S"
        assert (await poll.read_response()).body == b"R"


@shared
async def test_a_hint_without_a_link_has_no_effect(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(line(c, action="hint"), line(c, "news"))
        assert await client.read_bytes(4) == b"news"


async def test_a_refresh_has_no_effect(stage: Stage) -> None:
    """Pushpin 1.36 does not know the action."""
    c = fresh()
    async with stage.streaming(c) as (client, _):
        await stage.proxy.publish(line(c, action="refresh"), line(c, "news"))
        assert await client.read_bytes(4) == b"news"


# -- the end ---------------------------------------------------------------------------------


@shared
async def test_a_close_ends_the_body_and_keeps_the_connection(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c, {}, b"first ") as (client, _):
        await stage.proxy.publish(line(c, "news"), line(c, action="close"), line(c, "too late"))
        assert await client.read_rest() == b"first news"
        await expect_next(stage, client)


@shared
async def test_a_close_waits_for_a_client_that_reads_slowly(stage: Stage) -> None:
    c = fresh()
    async with stage.streaming(c, receive_buffer=4096) as (client, _):
        for n in range(8):
            await stage.proxy.publish(line(c, f"{n}" * 100_000))
        await stage.proxy.publish(line(c, action="close"))
        assert await client.read_rest() == b"".join(b"%d" % n * 100_000 for n in range(8))
        await expect_next(stage, client)


@shared
async def test_a_close_ends_the_connection_if_the_client_asked_so(stage: Stage) -> None:
    c = fresh()
    answer = hold("stream", c)
    async with stage.held(answer, c, headers={"Connection": "close"}) as client:
        r = await client.read_head()
        assert "close" in r.all("Connection")
        await stage.proxy.publish(line(c, "news"), line(c, action="close"))
        assert await client.read_rest() == b"news"
        assert await client.at_eof()


@shared
@pytest.mark.parametrize("size", [5, 100_001])
@pytest.mark.parametrize("debug", [False, True])
async def test_prev_id_without_a_next_link_is_an_error_after_the_body(
    stage: Stage, size: int, debug: bool
) -> None:
    r = await stage.ask(hold("stream", "c; prev-id=3", body=b"x" * size), debug=debug)
    message = b"\n\nchannel 'c' specifies prev-id, but no next link found\n" if debug else b""
    assert (r.status, r.body) == (200, b"x" * size + message)


@pytest.mark.parametrize("debug", [False, True])
async def test_a_bad_instruction_of_a_large_start_is_a_502(stage: Stage, debug: bool) -> None:
    """Pushpin relays the body first, and ends it without a sign unless debugging is on."""
    answer = hold("stream", fresh(), {"Grip-Timeout": "soon"}, b"x" * 100_001)
    r = await stage.ask(answer, debug=debug)
    message = b"Failed to parse accept instructions: failed to parse Grip-Timeout\n"
    assert (r.status, r.body) == (502, message if debug else BAD_ORIGIN)


# -- keep-alive ------------------------------------------------------------------------------


def keep_alive(value: str) -> dict[str, str]:
    return {"Grip-Keep-Alive": value}


@shared
async def test_keep_alive_bytes_in_every_format_again_and_again(stage: Stage) -> None:
    """A timeout of one second fires after at most that, each time anew."""
    document: dict[str, Any] = {
        "text": {"content": "json\n", "timeout": 1},
        "binary": {"content-bin": base64_text(b"\0\xff\n"), "timeout": 0},
    }
    cases: dict[str, bytes] = {
        "ping; timeout=1": b"ping",
        "ping; format=raw; timeout=0": b"ping",
        "a\\nb; format=raw; mode=interval; timeout=1": b"a\\nb",
        '"quoted"; timeout=1': b'"quoted"',
        "a, b; timeout=1": b"a, b",
        "a\\r\\n\\x41\\\\\\q; format=cstring; timeout=1": b"a\r\nA\\",
        "AP8=; format=base64; timeout=1; mode=idle": b"\0\xff",
    }
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for value, data in cases.items():
            client, _ = await stack.enter_async_context(stage.streaming(fresh(), keep_alive(value)))
            clients.append((value, client, data))
        for kind, data in {"text": b"json\n", "binary": b"\0\xff\n"}.items():
            c = fresh()
            answer = instruct(
                {
                    "hold": {
                        "mode": "stream",
                        "channels": [{"name": c}],
                        "keep-alive": document[kind],
                    }
                }
            )
            client = await stack.enter_async_context(stage.held(answer, c))
            await client.read_head()
            clients.append((kind, client, data))
        for value, client, data in clients:
            assert await client.read_bytes(2 * len(data)) == 2 * data, value


@shared
@pytest.mark.parametrize("value", ["", "!!; format=base64"])
async def test_no_keep_alive_bytes_are_no_error(stage: Stage, value: str) -> None:
    c = fresh()
    async with stage.streaming(c, keep_alive(value)) as (client, _):
        await stage.proxy.publish(line(c, "news"))
        assert await client.read_bytes(4) == b"news"


@shared
async def test_items_put_off_the_keep_alive_in_idle_mode_only(stage: Stage) -> None:
    """With a timeout of 2 nothing fires before 1.001 s; items come every 0.3 s."""
    idle, interval, by_json = fresh(), fresh(), fresh()
    document = {
        "hold": {
            "mode": "stream",
            "channels": [{"name": by_json}],
            "keep-alive": {"content": "K", "timeout": 2},
        }
    }
    async with (
        stage.streaming(idle, keep_alive("K; timeout=2")) as (idle_client, _),
        stage.streaming(interval, keep_alive("K; timeout=2; mode=interval")) as (
            interval_client,
            _,
        ),
        stage.held(instruct(document), by_json) as json_client,
    ):
        await json_client.read_head()
        fired = asyncio.gather(interval_client.read_until(b"K"), json_client.read_until(b"K"))
        while not fired.done():
            await stage.proxy.publish(*[line(c, ".") for c in (idle, interval, by_json)])
            await asyncio.wait([fired], timeout=0.3)
        assert all(len(seen) > 3 for seen in fired.result())
        await stage.proxy.publish(line(idle, "end"))
        assert b"K" not in await idle_client.read_until(b"end")


@shared
async def test_the_keep_alive_stops_with_the_stream(stage: Stage) -> None:
    c, other = fresh(), fresh()
    async with (
        stage.streaming(c, keep_alive("K; timeout=1")) as (client, _),
        stage.streaming(other, keep_alive("K; timeout=1; mode=interval")) as (clock, _),
    ):
        await stage.proxy.publish(line(c, action="close"))
        assert set(await client.read_rest()) <= set(b"K")
        await clock.read_bytes(3)
        stage.backend.on("/next", response(body=b"next"))
        await client.send(encode_request("GET", "/next"))
        assert (await client.read_response()).body == b"next"


@shared
async def test_the_keep_alive_comes_back_when_a_slow_client_has_caught_up(stage: Stage) -> None:
    c, other = fresh(), fresh()
    pieces, size = 12, 500_000
    async with (
        stage.streaming(c, keep_alive("K; timeout=1"), receive_buffer=4096) as (client, _),
        stage.streaming(other, keep_alive("K; timeout=1; mode=interval")) as (clock, _),
    ):
        for _ in range(pieces):
            await stage.proxy.publish(line(c, "x" * size))
        await clock.read_bytes(3)
        left = pieces * size
        while left:
            left -= (await client.read_chunk()).count(b"x")
        assert await client.read_until(b"K")
