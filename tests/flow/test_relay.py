"""WebSockets relayed to a WebSocket backend: frames both ways, and the end of either."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, open_stage
from tests.flow.sockets import relayed
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    Socket,
    close_payload,
    encode_frame,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
both_ways = pytest.mark.parametrize("to_backend", [True, False], ids=["up", "down"])
endings = pytest.mark.parametrize("how", ["FIN", "RST"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*") as it:
        yield it


async def end(socket: Socket, how: str) -> None:
    """Close TCP, with no close frame."""
    if how == "FIN":
        await socket.close()
    else:
        socket.abort()


# -- frames both ways --------------------------------------------------------------------------


@shared
@both_ways
async def test_messages_arrive_in_order_with_their_type(stage: Stage, to_backend: bool) -> None:
    async with relayed(stage, ()) as (client, inner):
        sender, receiver = (client, inner) if to_backend else (inner, client)
        messages = [(TEXT, "t\u00e9xt".encode()), (BINARY, b"\x00\xff"), (TEXT, b""), (BINARY, b"")]
        messages += [(TEXT, b"%d" % n) for n in range(30)]
        for message in messages:
            await sender.send(*message)
        assert [await receiver.read_message() for _ in messages] == messages


@shared
@both_ways
async def test_frames_are_relayed_before_their_message_ends(stage: Stage, to_backend: bool) -> None:
    async with relayed(stage, ()) as (client, inner):
        sender, receiver = (client, inner) if to_backend else (inner, client)
        for opcode in (TEXT, BINARY):
            await sender.send(opcode, b"one ", fin=False)
            assert await receiver.read_frame() == Frame(opcode, b"one ", False)
            await sender.send(CONT, b"two ", fin=False)
            assert await receiver.read_frame() == Frame(CONT, b"two ", False)
            await sender.send(CONT, b"three")
            assert await receiver.read_frame() == Frame(CONT, b"three", True)


@shared
@both_ways
async def test_pings_are_left_to_the_other_end(stage: Stage, to_backend: bool) -> None:
    async with relayed(stage) as (client, inner):
        sender, receiver = (client, inner) if to_backend else (inner, client)
        await sender.send(PING)
        assert await receiver.read_frame() == Frame(PING, b"")
        # an answer of the proxy's own would have come before this
        await receiver.send(PONG)
        assert await sender.read_frame() == Frame(PONG, b"")
        await receiver.send(TEXT, b"m:last" if to_backend else b"last")
        assert await sender.read_text() == "last"


@both_ways
async def test_pings_and_pongs_keep_their_content(stage: Stage, to_backend: bool) -> None:
    async with relayed(stage) as (client, inner):
        sender, receiver = (client, inner) if to_backend else (inner, client)
        for opcode in (PING, PONG):
            for content in (b"x", bytes(range(125))):
                await sender.send(opcode, content)
                assert await receiver.read_frame() == Frame(opcode, content)


@both_ways
async def test_ping_between_fragments_passes_between_them(stage: Stage, to_backend: bool) -> None:
    async with relayed(stage, ()) as (client, inner):
        sender, receiver = (client, inner) if to_backend else (inner, client)
        await sender.send(TEXT, b"one ", fin=False)
        await sender.send(PING, b"between")
        await sender.send(CONT, b"two")
        got = [await receiver.read_frame() for _ in range(3)]
        assert got == [Frame(TEXT, b"one ", False), Frame(PING, b"between"), Frame(CONT, b"two")]


# -- the end -----------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize(("code", "reason"), [
    (1000, b""), (1001, b"moved"), (3000, b"x" * 123), (4999, "gr\u00fc\u00df".encode()),
])  # fmt: skip
@both_ways
async def test_close_passes_with_code_and_reason_and_so_does_its_answer(
    stage: Stage, to_backend: bool, code: int, reason: bytes
) -> None:
    async with relayed(stage) as (client, inner):
        sender, receiver = (client, inner) if to_backend else (inner, client)
        await sender.send_close(code, reason)
        assert await receiver.read_close() == (code, reason)
        await receiver.send_close(4001, b"answer")
        if to_backend:
            assert await client.read_close() == (4001, b"answer")
        else:
            assert await inner.read_close() == (4001, b"answer")
        await client.wait_dropped()
        await inner.wait_dropped()


@shared
async def test_the_backend_answers_the_client_s_close(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        await client.send_close(4000, b"bye")
        await inner.read_close()
        await inner.send_text("m:late")
        assert await client.read_text() == "late"
        await inner.send_close(4001)
        assert await client.read_close() == (4001, b"")


@shared
async def test_the_client_may_send_until_it_answers_a_close(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        await inner.send_close(4000, b"bye")
        assert await client.read_close() == (4000, b"bye")
        await client.send_text("late")
        assert await inner.read_text() == "late"
        await client.send_close(4000)
        assert await inner.read_close() == (4000, b"")


@pytest.mark.parametrize(
    ("answer", "seen"),
    [((1002, b"torn"), (4000, b"")), ((4001, b"so"), (4001, b"so"))],
)
async def test_a_close_inside_a_message_is_no_error_of_the_client(
    stage: Stage, answer: tuple[int, bytes], seen: tuple[int, bytes]
) -> None:
    """The backend sees a message that is torn, and may call that a protocol error."""
    async with relayed(stage) as (client, inner):
        await client.send(TEXT, b"half a ", fin=False)
        await client.send_close(4000, b"enough")
        assert await inner.read_frame() == Frame(TEXT, b"half a ", fin=False)
        assert await inner.read_close() == (4000, b"enough")
        await inner.send_close(*answer)
        assert await client.read_close() == seen


@shared
async def test_closes_that_cross_answer_each_other(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        client.writer.write(encode_frame(CLOSE, close_payload(4000, b"up"), masked=True))
        inner.writer.write(encode_frame(CLOSE, close_payload(4001, b"down")))
        assert await client.read_close() == (4001, b"down")
        assert await inner.read_close() == (4000, b"up")
        await client.wait_dropped()
        await inner.wait_dropped()


@shared
async def test_close_of_the_backend_without_a_code_is_1000(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        await inner.send_close()
        assert await client.read_close() == (1000, b"")


async def test_close_of_the_client_without_a_code_is_1000(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        await client.send_close()
        assert await inner.read_close() == (1000, b"")


@pytest.mark.parametrize("code", [0, 999, 1005, 1006, 1015])
async def test_code_that_no_frame_may_carry_becomes_1000(stage: Stage, code: int) -> None:
    async with relayed(stage) as (client, inner):
        await inner.send_close(code, b"why")
        assert await client.read_close() == (1000, b"why")


@shared
@endings
async def test_backend_that_is_lost_drops_the_client(stage: Stage, how: str) -> None:
    async with relayed(stage) as (client, inner):
        await inner.send_text("m:last")
        assert await client.read_text() == "last"
        await end(inner, how)
        await client.wait_dropped()


@shared
@endings
async def test_client_that_is_lost_drops_the_backend(stage: Stage, how: str) -> None:
    async with relayed(stage) as (client, inner):
        await client.send_text("last")
        assert await inner.read_text() == "last"
        await end(client, how)
        await inner.wait_dropped()


@shared
async def test_backend_that_ends_with_its_close_has_closed_all_the_same(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        await inner.send_close(4000, b"bye")
        await inner.close()
        assert await client.read_close() == (4000, b"bye")
        await client.send_close(4000)
        await client.wait_dropped()


async def test_nothing_is_lost_that_the_backend_sent_before_it_ended(stage: Stage) -> None:
    """Pushpin 1.36 loses messages that a close follows at once."""
    async with relayed(stage) as (client, inner):
        await inner.send_raw(b"".join(encode_frame(TEXT, b"m:%d" % n) for n in range(100)))
        await inner.send_close(4000, b"bye")
        await inner.close()
        assert [await client.read_text() for _ in range(100)] == [str(n) for n in range(100)]
        assert await client.read_close() == (4000, b"bye")


@shared
async def test_client_that_ends_with_its_close_has_closed_all_the_same(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        await client.send_text("last")
        await client.send_close(4000, b"bye")
        await client.close()
        assert await inner.read_text() == "last"
        assert await inner.read_close() == (4000, b"bye")
        await inner.send_close(4000)
        await inner.wait_dropped()


@shared
@endings
@both_ways
async def test_end_that_vanishes_without_answering_a_close_drops_the_other(
    stage: Stage, to_backend: bool, how: str
) -> None:
    async with relayed(stage) as (client, inner):
        sender, receiver = (client, inner) if to_backend else (inner, client)
        await sender.send_close(4000, b"bye")
        assert await receiver.read_close() == (4000, b"bye")
        await end(receiver, how)
        await sender.wait_dropped()
