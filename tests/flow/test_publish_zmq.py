"""Publishing by ZeroMQ: what the PULL and SUB inputs take, and what they tell of subscriptions."""

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
import zmq.asyncio

from tests.flow.holding import Stage, fresh, hold, line, open_stage, reply
from tests.flow.peers import Publisher, json_frame, publisher, pusher, tnetstring
from tests.support.backend import response
from tests.support.proxy import free_ports

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


class Bound(NamedTuple):
    """A proxy whose inputs are bound, with a peer at each."""

    stage: Stage
    push: zmq.asyncio.Socket
    publisher: Publisher


class Connected(NamedTuple):
    """A proxy that connects to two publishers, and pulls from a Unix socket."""

    stage: Stage
    publishers: tuple[Publisher, Publisher]
    pull_path: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bound() -> AsyncIterator[Bound]:
    async with (
        open_stage("*") as stage,
        pusher(stage.proxy.pull_spec) as push,
        publisher(connect=stage.proxy.sub_spec) as pub,
    ):
        yield Bound(stage, push, pub)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def connected(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Connected]:
    one, two = (f"tcp://127.0.0.1:{port}" for port in free_ports(2))
    path = tmp_path_factory.mktemp("ipc") / "pull"
    handler = {
        "push_in_spec": f"ipc://{path}",
        "push_in_sub_specs": f"{one},{two}",
        "push_in_sub_connect": True,
        "ipc_file_mode": 600,
        "subscription_linger": 1,
    }
    async with (
        publisher(bind=one) as first,
        publisher(bind=two) as second,
        open_stage("*,path_beg=/outer/,prefix=pre-", "*", handler=handler) as stage,
    ):
        yield Connected(stage, (first, second), path)


@pytest.fixture(autouse=True)
def forget(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"bound", "connected"} & set(request.fixturenames):
        request.getfixturevalue(name).stage.backend.reset()


# -- PULL ------------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize("mark", [b"J", b"T", b""])
async def test_pull_takes_json_and_tnetstrings(bound: Bound, mark: bytes) -> None:
    c = fresh()
    item = line(c, "grüße\n", item={"id": "1", "meta": {"k": "v"}, "no-seq": True, "size": 1})
    frame = json_frame(item) if mark == b"J" else mark + tnetstring(item)
    async with bound.stage.streaming(c) as (client, _):
        await bound.push.send(frame)
        assert await client.read_until(b"\n") == "grüße\n".encode()


@shared
async def test_pull_takes_formats_in_the_item_itself(bound: Bound) -> None:
    c = fresh()
    async with bound.stage.streaming(c) as (client, _):
        await bound.push.send(json_frame({"channel": c, "http-stream": {"content": "1"}}))
        await bound.push.send(tnetstring({"channel": c, "http-stream": {"content": "2"}}))
        assert await client.read_bytes(2) == b"12"


@shared
async def test_strings_of_a_tnetstring_are_bytes(bound: Bound) -> None:
    c = fresh()
    async with bound.stage.streaming(c) as (client, _):
        await bound.push.send(tnetstring({"channel": c, "http-stream": {"content": b"\0\xff\r\n"}}))
        assert await client.read_bytes(4) == b"\0\xff\r\n"


@shared
async def test_a_response_by_tnetstring(bound: Bound) -> None:
    c = fresh()
    item = reply(c, code=404, reason="Gone", headers=[["X", "1"]])
    item["formats"]["http-response"]["body"] = b"\xff"
    async with bound.stage.held(hold("response", c), c) as client:
        await bound.push.send(tnetstring(item))
        r = await client.read_response()
    assert (r.status, r.reason, r.header("X"), r.body) == (404, "Gone", "1", b"\xff")


@shared
@pytest.mark.parametrize("name", ["id", "prev-id", "meta"])
async def test_null_in_a_tnetstring_means_absent(bound: Bound, name: str) -> None:
    c = fresh()
    async with bound.stage.streaming(c) as (client, _):
        await bound.push.send(tnetstring(line(c, "x", item={name: None})))
        assert await client.read_bytes(1) == b"x"


def invalid(c: str) -> list[tuple[bytes, ...]]:
    good = line(c, "bad")
    return [
        (b"",),
        (b"J",),
        (b"J{",),
        (b"J[]",),
        (b"Jnull",),
        (b"hello",),
        (b"T",),
        (json_frame(good)[1:],),
        (b" " + json_frame(good)[1:],),
        (tnetstring([good]),),
        (json_frame({"items": [good]}),),
        (json_frame({**good, "id": None}),),
        (json_frame({"channel": c}),),
        (json_frame(line(c, action="shout")),),
        (tnetstring({"channel": c, "http-stream": {"content-bin": "YQ=="}}),),
        (tnetstring({"channel": c, "http-response": {"body-bin": "YQ=="}}),),
        (tnetstring({**good, "formats": {}}),),
        (c.encode(), tnetstring(good)),
        (tnetstring(good), b""),
    ]


@shared
@pytest.mark.parametrize("which", range(19))
async def test_what_pull_cannot_read_has_no_effect(bound: Bound, which: int) -> None:
    c = fresh()
    async with bound.stage.streaming(c) as (client, _):
        await bound.push.send_multipart(invalid(c)[which])
        await bound.push.send(tnetstring(line(c, "end")))
        assert await client.read_bytes(3) == b"end"


@shared
async def test_a_channel_may_be_any_bytes(bound: Bound) -> None:
    c = b"\xff\xfe" + fresh().encode()
    item = tnetstring({"channel": c, "http-stream": {"content": "x"}})
    answer = response(200, [("Grip-Hold", "stream"), ("Grip-Channel", c.decode("latin-1"))])
    path = "/" + fresh("bytes")
    async with bound.stage.held(answer, path=path) as client:
        await client.read_head()
        await bound.stage.proxy.wait_log(rf"subscribe \S+{path} ")
        await bound.push.send(item)
        assert await client.read_bytes(1) == b"x"


async def test_what_is_nested_too_deeply_has_no_effect(bound: Bound) -> None:
    c = fresh()
    deep = b""
    for _ in range(20_000):
        deep = b"%d:%s]" % (len(deep), deep)
    async with bound.stage.streaming(c) as (client, _):
        await bound.push.send(deep)
        await bound.push.send(b"J" + b"[" * 100_000)
        await bound.push.send(tnetstring(line(c, "end")))
        assert await client.read_bytes(3) == b"end"


async def test_a_tnetstring_that_is_cut_has_no_effect(bound: Bound) -> None:
    """It ends Pushpin 1.36."""
    c = fresh()
    async with bound.stage.streaming(c) as (client, _):
        await bound.push.send(b"12:short,")
        await bound.push.send(tnetstring(line(c, "bad"))[:-1])
        await bound.push.send(tnetstring(line(c, "end")))
        assert await client.read_bytes(3) == b"end"


@shared
async def test_pushed_items_keep_their_order(bound: Bound) -> None:
    c = fresh()
    async with bound.stage.streaming(c) as (client, _):
        for n in range(50):
            await bound.push.send(json_frame(line(c, f"{n}\n")))
        assert await client.read_until(b"49\n") == b"".join(b"%d\n" % n for n in range(50))


# -- SUB -------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def listened(bound: Bound, channel: str) -> AsyncIterator[Any]:
    """A held stream whose subscription the publisher knows of."""
    async with bound.stage.streaming(channel) as (client, _):
        await bound.publisher.wait(True, channel)
        yield client


@shared
@pytest.mark.parametrize("mark", [b"J", b"T", b""])
async def test_sub_takes_json_and_tnetstrings(bound: Bound, mark: bytes) -> None:
    c = fresh()
    item = line(c, "x")
    frame = json_frame(item) if mark == b"J" else mark + tnetstring(item)
    async with listened(bound, c) as client:
        await bound.publisher.send(c.encode(), frame)
        assert await client.read_bytes(1) == b"x"


@shared
async def test_the_topic_is_the_channel_whatever_the_item_says(bound: Bound) -> None:
    c, d = fresh(), fresh()
    async with listened(bound, c) as client, listened(bound, d) as other:
        await bound.publisher.send(c.encode(), json_frame(line(d, "by topic ")))
        item = line(c, "without channel")
        del item["channel"]
        await bound.publisher.send(c.encode(), json_frame(item))
        assert await client.read_bytes(24) == b"by topic without channel"
        await bound.publisher.send(d.encode(), json_frame(line(d, "end")))
        assert await other.read_bytes(3) == b"end"


@shared
async def test_longer_topics_are_other_channels(bound: Bound) -> None:
    """ZeroMQ matches by prefix, so they arrive."""
    c = fresh() + "-"
    longer = c + "longer"
    async with listened(bound, c) as client, listened(bound, longer) as other:
        await bound.publisher.send(longer.encode(), tnetstring(line(c, "longer")))
        await bound.publisher.send(c.encode(), tnetstring(line(c, "shorter")))
        assert await client.read_bytes(7) == b"shorter"
        assert await other.read_bytes(6) == b"longer"


@shared
async def test_an_empty_topic_leaves_the_channel_to_the_item(bound: Bound) -> None:
    """It arrives once somebody listens to the channel without a name."""
    c = fresh()
    async with bound.stage.held(hold("stream", f"{c},,"), c) as client:
        await client.read_head()
        await bound.publisher.wait(True, "")
        await bound.publisher.send(b"", tnetstring(line(c, "x")))
        assert await client.read_bytes(1) == b"x"
    await bound.publisher.wait(False, "")


@shared
@pytest.mark.parametrize("frames", [1, 3])
async def test_sub_takes_messages_of_two_frames_only(bound: Bound, frames: int) -> None:
    c = fresh()
    item = tnetstring(line(c, "bad"))
    async with listened(bound, c) as client:
        await bound.publisher.send(*[c.encode() + item] if frames == 1 else [c.encode(), item, b""])
        await bound.publisher.send(c.encode(), b"not an item")
        await bound.publisher.send(c.encode(), tnetstring(line(c, "end")))
        assert await client.read_bytes(3) == b"end"


# -- what publishers see ---------------------------------------------------------------------


@shared
async def test_the_first_listener_subscribes_and_the_last_unsubscribes(bound: Bound) -> None:
    c = fresh()
    async with listened(bound, c):
        async with bound.stage.streaming(c, count=2):
            pass
        # one of the two has gone; a channel that comes after it tells that nothing was sent
        async with listened(bound, fresh()):
            assert bound.publisher.about(c) == [True]
    await bound.publisher.wait(False, c)
    async with bound.stage.streaming(c, count=3):
        await bound.publisher.wait(True, c, count=2)
    await bound.publisher.wait(False, c, count=2)
    assert bound.publisher.about(c) == [True, False, True, False]


@shared
async def test_a_publisher_that_comes_late_learns_who_listens(bound: Bound) -> None:
    c = fresh()
    async with (
        listened(bound, c) as client,
        publisher(connect=bound.stage.proxy.sub_spec) as late,
    ):
        await late.wait(True, c)
        await late.send(c.encode(), tnetstring(line(c, "late")))
        assert await client.read_bytes(4) == b"late"


@shared
async def test_a_stream_that_is_closed_unsubscribes(bound: Bound) -> None:
    c = fresh()
    async with listened(bound, c) as client:
        await bound.publisher.send(c.encode(), tnetstring(line(c, action="close")))
        assert await client.read_rest() == b""
        await bound.publisher.wait(False, c)


# -- connecting ------------------------------------------------------------------------------


@shared
async def test_the_proxy_connects_to_every_publisher(connected: Connected) -> None:
    c = fresh()
    async with connected.stage.streaming(c) as (client, _):
        for number, pub in enumerate(connected.publishers):
            await pub.wait(True, c)
            await pub.send(c.encode(), json_frame(line(c, f"{number}")))
            assert await client.read_bytes(1) == b"%d" % number
    for pub in connected.publishers:
        await pub.wait(False, c)


@shared
async def test_subscriptions_have_the_prefix_of_the_route(connected: Connected) -> None:
    c, pub = fresh(), connected.publishers[0]
    async with connected.stage.streaming(c, path="/outer/x", subscribed="pre-" + c) as (client, _):
        await pub.wait(True, "pre-" + c)
        await pub.send(f"pre-{c}".encode(), tnetstring(line(c, "x")))
        assert await client.read_bytes(1) == b"x"


@shared
async def test_a_poll_lingers_so_that_the_next_one_changes_nothing(connected: Connected) -> None:
    stage, pub = connected.stage, connected.publishers[0]
    c = fresh()
    r = await stage.answer_to(hold("response", c), c, reply(c, "1"))
    await pub.wait(True, c)
    r = await stage.answer_to(hold("response", c), c, reply(c, "2"), count=2)
    answered = time.monotonic()
    assert r.body == b"2"
    await pub.wait(False, c)
    assert time.monotonic() - answered > 0.9
    assert pub.about(c) == [True, False]


@shared
async def test_an_abandoned_poll_lingers_too(connected: Connected) -> None:
    stage, pub = connected.stage, connected.publishers[0]
    c = fresh()
    async with stage.held(hold("response", c), c):
        await pub.wait(True, c)
    left = time.monotonic()
    await pub.wait(False, c)
    assert time.monotonic() - left > 0.9


@shared
async def test_pull_on_a_unix_socket_with_its_mode(connected: Connected) -> None:
    c = fresh()
    assert connected.pull_path.stat().st_mode & 0o777 == 0o600
    async with (
        pusher(f"ipc://{connected.pull_path}") as push,
        connected.stage.streaming(c) as (client, _),
    ):
        await push.send(json_frame(line(c, "x")))
        assert await client.read_bytes(1) == b"x"


@shared
async def test_an_invalid_message_is_logged(connected: Connected) -> None:
    async with pusher(f"ipc://{connected.pull_path}") as push:
        await push.send(b"not an item")
        await connected.stage.proxy.wait_log(r"\[WARN(ING)?\].*skip")
