"""WebSocket backends that speak GRIP: when they do, prefixes, control messages."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.sockets import message, relayed
from tests.support.client import Fields
from tests.support.websocket import BINARY, CONT, GRIP, PING, PONG, TEXT, Frame, Socket

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
kinds = pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
EXTENSIONS = "Sec-WebSocket-Extensions"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage(
        "*",
        "*,path_beg=/plain,no_grip",
        "*,path_beg=/prefix,prefix=pre-",
        "*,path_beg=/sub -> sub=implied",
    ) as it:
        yield it


def extension(value: str) -> Fields:
    return {EXTENSIONS: value}


def control_text(**fields: Any) -> bytes:
    return b"c:" + json.dumps(fields).encode()


async def subscribe(stage: Stage, inner: Socket, *, prefix: str = "") -> str:
    """Subscribe the client to a new channel; its full name."""
    channel = fresh()
    await inner.send(TEXT, control_text(type="subscribe", channel=channel))
    await stage.proxy.wait_subscribed(prefix + channel)
    return prefix + channel


async def seen(client: Socket, inner: Socket, *texts: str) -> list[str]:
    """Which of the texts that the backend sends arrive, as they arrive."""
    for text in texts:
        await inner.send_text(text)
    await inner.send(PONG)
    got = []
    while (frame := await client.read_frame()).opcode != PONG:
        assert (frame.opcode, frame.fin) == (TEXT, True), frame
        got.append(frame.payload.decode())
    return got


# -- when a backend speaks GRIP ----------------------------------------------------------------

PROBE = ("none", "m:one", "x:two", "c:{}", "a;b,c three")


@shared
@pytest.mark.parametrize(("value", "arrived"), [
    ("grip", ["one"]),
    ("x-other, grip", ["one"]),
    ("x-other; message-prefix=x:, grip", ["one"]),
    ("grip; other=1", ["one"]),
    ("grip; message-prefix=x:", ["two"]),
    ("grip;message-prefix=x:", ["two"]),
    ("grip; other=1; message-prefix=x:", ["two"]),
    ('grip; message-prefix="x:"', ["two"]),
    ('grip; message-prefix="a;b,c "', ["three"]),
    ('grip; message-prefix=""', ["none", "m:one", "x:two", "a;b,c three"]),
])  # fmt: skip
async def test_extension_turns_grip_on_and_may_set_the_prefix(
    stage: Stage, value: str, arrived: list[str]
) -> None:
    async with relayed(stage, extension(value)) as (client, inner):
        assert await seen(client, inner, *PROBE) == arrived
        assert client.response.header(EXTENSIONS) is None


@shared
@pytest.mark.parametrize("value", [
    None, "Grip", "x-grip", "grip; message-prefix=", 'grip; message-prefix="x:',
])  # fmt: skip
async def test_anything_else_leaves_everything_as_it_is(stage: Stage, value: str | None) -> None:
    async with relayed(stage, extension(value) if value else ()) as (client, inner):
        assert await seen(client, inner, *PROBE) == list(PROBE)


@shared
async def test_extension_may_come_in_a_field_of_its_own(stage: Stage) -> None:
    fields = [(EXTENSIONS, "x-other"), (EXTENSIONS, "grip; message-prefix=x:")]
    async with relayed(stage, fields) as (client, inner):
        assert await seen(client, inner, *PROBE) == ["two"]


@shared
async def test_route_without_grip_does_not_ask_for_it_and_relays_everything(stage: Stage) -> None:
    async with relayed(stage, base="/plain") as (client, inner):
        assert inner.request.header(EXTENSIONS) is None
        assert inner.request.header("grip-feature") is None
        assert await seen(client, inner, *PROBE) == list(PROBE)


@shared
async def test_backend_without_grip_controls_nothing(stage: Stage) -> None:
    async with relayed(stage, ()) as (client, inner):
        channel = fresh()
        text = control_text(type="subscribe", channel=channel).decode()
        assert await seen(client, inner, text) == [text]
        await stage.proxy.publish(message(channel, "published"))
        await stage.proxy.wait_log(rf"publish channel={channel} receivers=0")
        assert await seen(client, inner, "after") == ["after"]


# -- prefixes ----------------------------------------------------------------------------------


@shared
@kinds
async def test_prefix_is_stripped_and_what_lacks_it_is_dropped(stage: Stage, opcode: int) -> None:
    async with relayed(stage) as (client, inner):
        for content in (b"m:one", b"none", b"m:", b"", b"m", b"M:two", b"m:m:three", b"m:c:four"):
            await inner.send(opcode, content)
        got = [await client.read_message() for _ in range(4)]
        assert got == [(opcode, b"one"), (opcode, b""), (opcode, b"m:three"), (opcode, b"c:four")]


@shared
async def test_client_s_messages_have_no_prefix_and_control_nothing(stage: Stage) -> None:
    sent = [b"plain", b"m:one", control_text(type="detach"), b""]
    async with relayed(stage) as (client, inner):
        for content in sent:
            await client.send(TEXT, content)
            await client.send(BINARY, content)
        for content in sent:
            assert await inner.read_message() == (TEXT, content)
            assert await inner.read_message() == (BINARY, content)


@shared
async def test_pings_and_pongs_pass_without_a_prefix(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        for opcode in (PING, PONG):
            await inner.send(opcode)
            assert await client.read_frame() == Frame(opcode, b"")
            await client.send(opcode)
            assert await inner.read_frame() == Frame(opcode, b"")


async def test_content_of_pings_may_begin_like_anything(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        for content in (b"m:x", b"none", control_text(type="detach")):
            await inner.send(PING, content)
            assert await client.read_frame() == Frame(PING, content)


@shared
async def test_prefix_counts_once_for_all_fragments(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        await inner.send(TEXT, b"m:one ", fin=False)
        assert await client.read_frame() == Frame(TEXT, b"one ", False)
        await inner.send(CONT, b"m:two ", fin=False)
        await inner.send(CONT, b"c:{}")
        assert await client.read_frame() == Frame(CONT, b"m:two ", False)
        assert await client.read_frame() == Frame(CONT, b"c:{}")


@pytest.mark.parametrize("fragments", [
    (b"m", b":content"), (b"m:", b"content"), (b"", b"m:content"), (b"m", b"", b":", b"content"),
])  # fmt: skip
@kinds
async def test_prefix_may_be_split_over_fragments(
    stage: Stage, opcode: int, fragments: tuple[bytes, ...]
) -> None:
    async with relayed(stage) as (client, inner):
        await send_split(inner, opcode, *fragments)
        await inner.send_text("m:next")
        assert await client.read_message() == (opcode, b"content")
        assert await client.read_text() == "next"


@pytest.mark.parametrize("fragments", [
    (b"n", b"m:content"), (b"m", b"m:content"), (b"", b"none"), (b"m", b""), (b"", b"", b""),
])  # fmt: skip
@kinds
async def test_message_without_the_prefix_is_dropped_whole(
    stage: Stage, opcode: int, fragments: tuple[bytes, ...]
) -> None:
    async with relayed(stage) as (client, inner):
        await send_split(inner, opcode, *fragments)
        await inner.send_text("m:next")
        assert await client.read_text() == "next"


async def send_split(socket: Socket, opcode: int, *fragments: bytes) -> None:
    for n, fragment in enumerate(fragments):
        await socket.send(CONT if n else opcode, fragment, fin=n == len(fragments) - 1)


# -- control messages --------------------------------------------------------------------------


@shared
async def test_backend_subscribes_the_client(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        channel = await subscribe(stage, inner)
        await stage.proxy.publish(message(channel, "published"))
        assert await client.read_text() == "published"
        await inner.send(TEXT, control_text(type="unsubscribe", channel=channel))
        other = await subscribe(stage, inner)
        await stage.proxy.publish(message(channel, "lost"), message(other, "after"))
        assert await client.read_text() == "after"


@shared
async def test_prefix_of_the_route_is_put_before_the_channel(stage: Stage) -> None:
    async with relayed(stage, base="/prefix") as (client, inner):
        channel = await subscribe(stage, inner, prefix="pre-")
        await stage.proxy.publish(message(channel, "published"))
        assert await client.read_text() == "published"


@shared
async def test_control_message_in_a_prefixed_or_a_binary_message_is_none(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        text = control_text(type="detach")
        await inner.send(BINARY, text)
        await inner.send(TEXT, b"m:" + text)
        assert await client.read_message() == (TEXT, text)
        await client.send_text("still here")
        assert await inner.read_text() == "still here"


@pytest.mark.parametrize("cut", [0, 1, 2, 10])
async def test_control_message_may_be_fragmented(stage: Stage, cut: int) -> None:
    async with relayed(stage) as (client, inner):
        channel = fresh()
        text = control_text(type="subscribe", channel=channel)
        await send_split(inner, TEXT, text[:cut], text[cut:-3], text[-3:])
        await stage.proxy.wait_subscribed(channel)
        await stage.proxy.publish(message(channel, "published"))
        assert await client.read_text() == "published"


async def test_control_message_may_be_large(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        channel = fresh()
        text = control_text(type="subscribe", channel=channel, other="x" * 40_000)
        await inner.send(TEXT, text)
        await stage.proxy.wait_subscribed(channel)
        await stage.proxy.publish(message(channel, "published"))
        assert await client.read_text() == "published"


@shared
@pytest.mark.parametrize("text", [
    b"c:", b"c:{", b"c:[]", b'c:"subscribe"', b'c:{"type":"unknown"}', b'c:{"type":"subscribe"}',
    b'c:{"type":"subscribe","channel":5}', b'c:{"type":"subscribe","channel":""}',
])  # fmt: skip
async def test_faulty_control_message_is_ignored(stage: Stage, text: bytes) -> None:
    async with relayed(stage) as (client, inner):
        await inner.send(TEXT, text)
        assert await seen(client, inner, "m:after") == ["after"]


@shared
async def test_detached_client_stays_and_its_backend_goes(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        channel = await subscribe(stage, inner)
        await inner.send(TEXT, control_text(type="detach"))
        await inner.read_close()
        await stage.proxy.publish(message(channel, "published"))
        assert await client.read_text() == "published"
        await client.send_text("lost")
        await client.send_close(4000, b"bye")
        assert await client.read_close() == (1000, b"")
        await client.wait_dropped()


@shared
async def test_keep_alive_of_the_backend_reaches_the_client(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        await inner.send(TEXT, control_text(type="keep-alive", content="tick", timeout=1))
        assert await client.read_text() == "tick"


@shared
async def test_published_close_goes_both_ways(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        channel = await subscribe(stage, inner)
        await stage.proxy.publish(message(channel, action="close", code=4000, reason="go"))
        assert await client.read_close() == (4000, b"go")
        await inner.read_close()
        await client.send_close(4000)
        await client.wait_dropped()


@shared
async def test_published_messages_stop_at_the_backend_s_close(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        channel = await subscribe(stage, inner)
        await inner.send_close(4000, b"bye")
        assert await client.read_close() == (4000, b"bye")
        await stage.proxy.publish(message(channel, "lost"))
        await stage.proxy.wait_log(rf"publish channel={channel} receivers=")
        await client.send_close(4000)
        assert await inner.read_close() == (4000, b"")
        await client.wait_dropped()


@shared
async def test_published_messages_go_on_until_the_backend_answers_a_close(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        channel = await subscribe(stage, inner)
        await client.send_close(4000, b"bye")
        assert await inner.read_close() == (4000, b"bye")
        await stage.proxy.publish(message(channel, "late"))
        assert await client.read_text() == "late"
        await inner.send_close(4001)
        assert await client.read_close() == (4001, b"")


@shared
async def test_target_subscribes_whether_its_backend_speaks_grip_or_not(stage: Stage) -> None:
    for count, (accepted, passes) in enumerate([((), ["c:{}"]), ((GRIP,), [])], start=1):
        async with relayed(stage, accepted, base="/sub") as (client, inner):
            await stage.proxy.wait_subscribed("implied", count)
            await stage.proxy.publish(message("implied", "published"))
            assert await client.read_text() == "published"
            assert await seen(client, inner, "c:{}") == passes
