"""What clients may send (RFC 6455), and what becomes of those who send anything else."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Protocol

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.sockets import DISCONNECT, OVER_HTTP, message, over_http, receive_events, relayed
from tests.support.client import Truncated
from tests.support.proxy import PUSHPIN
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    Socket,
    WohBackend,
    accept,
    close_payload,
    control,
    encode_frame,
    events,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
both_kinds = pytest.mark.parametrize("kind", ["over HTTP", "relayed"])

PROTOCOL_ERROR, INVALID_DATA, TOO_LARGE = 1002, 1007, 1009
CLOSE_TIMEOUT = 1.0
# a message over HTTP has about this many bytes at most
OVER_HTTP_MAX = 200_000
OPCODES = {"TEXT": TEXT, "BINARY": BINARY, "PING": PING, "PONG": PONG, "CLOSE": CLOSE}
Message = tuple[int, bytes]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    settings = {} if PUSHPIN else {"ws_close_timeout": CLOSE_TIMEOUT}
    async with open_stage("*", OVER_HTTP, runner=settings) as it:
        yield it


class Peer(Protocol):
    """A backend of either kind."""

    async def receive(self, count: int) -> list[Message]:
        """The next messages and control frames, as opcode and content."""

    async def wait_lost(self) -> None:
        """Wait until it is told that the client is gone; anything else before that fails."""


class HttpPeer:
    def __init__(self, backend: WohBackend) -> None:
        self.backend = backend

    async def receive(self, count: int) -> list[Message]:
        got = await receive_events(self.backend, count)
        return [(OPCODES[event.type], event.content or b"") for event in got]

    async def wait_lost(self) -> None:
        assert await self.backend.next_events() == DISCONNECT


class SocketPeer:
    def __init__(self, socket: Socket) -> None:
        self.socket = socket

    async def receive(self, count: int) -> list[Message]:
        got: list[Message] = []
        parts: list[Frame] = []
        while len(got) < count:
            frame = await self.socket.read_frame()
            if frame.opcode >= CLOSE:
                got.append((frame.opcode, frame.payload))
                continue
            parts.append(frame)
            if frame.fin:
                got.append((parts[0].opcode, b"".join(part.payload for part in parts)))
                parts.clear()
        return got

    async def wait_lost(self) -> None:
        await self.socket.wait_dropped()


@contextlib.asynccontextmanager
async def connected(stage: Stage, kind: str) -> AsyncIterator[tuple[Socket, Peer]]:
    if kind == "relayed":
        async with relayed(stage) as (client, inner):
            yield client, SocketPeer(inner)
    else:
        async with over_http(stage, accept()) as (client, backend):
            yield client, HttpPeer(backend)


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    return encode_frame(opcode, payload, fin=fin, rsv=rsv, masked=True)


async def failure(client: Socket) -> int | None:
    """The code of the close frame that ends the connection; None where it just ends."""
    code = None
    with contextlib.suppress(Truncated):
        code, _ = await client.read_close()
    await client.wait_dropped()
    return code


async def check_fails(stage: Stage, kind: str, data: bytes, code: int) -> None:
    """What ends the connection with `code` does so without one in Pushpin."""
    async with connected(stage, kind) as (client, peer):
        await client.send_raw(data)
        assert await failure(client) == (None if PUSHPIN else code)
        await peer.wait_lost()


# -- what is allowed ---------------------------------------------------------------------------


@shared
@both_kinds
async def test_fragments_are_one_message(stage: Stage, kind: str) -> None:
    async with connected(stage, kind) as (client, peer):
        for opcode in (TEXT, BINARY):
            await client.send(opcode, b"one ", fin=False)
            await client.send(CONT, b"", fin=False)
            await client.send(CONT, b"two ", fin=False)
            await client.send(CONT, b"")
            await client.send(opcode, b"", fin=False)
            await client.send(CONT, b"three")
            assert await peer.receive(2) == [(opcode, b"one two "), (opcode, b"three")]


@shared
@both_kinds
async def test_empty_message_is_one(stage: Stage, kind: str) -> None:
    async with connected(stage, kind) as (client, peer):
        sent = [TEXT, BINARY, PING, PONG]
        for opcode in sent:
            await client.send(opcode)
        assert await peer.receive(4) == [(opcode, b"") for opcode in sent]


@shared
@both_kinds
async def test_frames_may_come_byte_by_byte(stage: Stage, kind: str) -> None:
    async with connected(stage, kind) as (client, peer):
        sent = [(TEXT, b"short"), (PING, b""), (BINARY, bytes(200))]
        for byte in b"".join(masked(*it) for it in sent):
            await client.send_raw(bytes([byte]))
            await asyncio.sleep(0)
        assert await peer.receive(3) == sent


@shared
@both_kinds
async def test_binary_messages_have_any_bytes(stage: Stage, kind: str) -> None:
    async with connected(stage, kind) as (client, peer):
        await client.send(BINARY, bytes(range(256)))
        assert await peer.receive(1) == [(BINARY, bytes(range(256)))]


@pytest.mark.parametrize("content", [b"", b"between", bytes(125)], ids=["empty", "some", "full"])
@pytest.mark.parametrize("opcode", [PING, PONG], ids=["ping", "pong"])
@both_kinds
async def test_control_frame_may_come_between_fragments(
    stage: Stage, kind: str, opcode: int, content: bytes
) -> None:
    """Pushpin drops the client."""
    async with connected(stage, kind) as (client, peer):
        await client.send(TEXT, b"one ", fin=False)
        await client.send(opcode, content)
        await client.send(CONT, b"two")
        assert await peer.receive(2) == [(opcode, content), (TEXT, b"one two")]


@both_kinds
async def test_close_between_fragments_discards_their_message(stage: Stage, kind: str) -> None:
    async with connected(stage, kind) as (client, peer):
        await client.send(TEXT, b"", fin=False)
        await client.send_close(4000, b"bye")
        assert await peer.receive(1) == [(CLOSE, close_payload(4000, b"bye"))]


@both_kinds
async def test_character_may_be_split_over_fragments(stage: Stage, kind: str) -> None:
    text = "\u00e9\u20ac\U0001f600".encode()
    async with connected(stage, kind) as (client, peer):
        for n, byte in enumerate(text):
            await client.send(CONT if n else TEXT, bytes([byte]), fin=n == len(text) - 1)
        assert await peer.receive(1) == [(TEXT, text)]


# -- what is not -------------------------------------------------------------------------------


@shared
@both_kinds
@pytest.mark.parametrize("data", [
    *[masked(opcode, b"x") for opcode in (3, 7, 11, 15)],
    masked(CONT, b"x"),
    masked(TEXT, b"x", fin=False) + masked(TEXT, b"y"),
    masked(PING, bytes(126)),
    masked(CLOSE, close_payload(1000, b"x" * 124)),
    masked(PING, fin=False),
    masked(TEXT, b"x", rsv=4),
    masked(TEXT, b"x", fin=False) + masked(CONT, b"y", rsv=4),
], ids=[
    "opcode 3", "opcode 7", "opcode 11", "opcode 15", "continuation of nothing",
    "message in a message", "long ping", "long close", "fragmented ping", "RSV1", "RSV1 later",
])  # fmt: skip
async def test_broken_protocol_ends_the_connection(stage: Stage, kind: str, data: bytes) -> None:
    async with connected(stage, kind) as (client, peer):
        await client.send_raw(data)
        assert await failure(client) == (None if PUSHPIN else PROTOCOL_ERROR)
        if kind == "over HTTP":  # a relay may have passed on what came before
            await peer.wait_lost()


NO_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 2999)


@both_kinds
@pytest.mark.parametrize("data", [
    masked(TEXT, b"x", rsv=2),
    masked(BINARY, b"x", rsv=1),
    masked(PING, b"x", rsv=4),
    encode_frame(TEXT, b"x"),
    encode_frame(PING),
    b"\x82\xff\x80" + bytes(11),
    masked(CLOSE, b"x"),
    *[masked(CLOSE, close_payload(code)) for code in NO_CODES],
], ids=[
    "RSV2", "RSV3", "RSV1 of a ping", "unmasked text", "unmasked ping", "negative length",
    "half a code", *map(str, NO_CODES),
])  # fmt: skip
async def test_what_pushpin_overlooks_ends_the_connection(
    stage: Stage, kind: str, data: bytes
) -> None:
    await check_fails(stage, kind, data, PROTOCOL_ERROR)


INVALID = {
    "start byte": b"\xff",
    "continuation byte": b"a\x80",
    "surrogate": b"\xed\xa0\x80",
    "overlong": b"\xc0\xaf",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "cut character": b"a\xe2\x82",
}


@both_kinds
@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
async def test_text_that_is_not_utf8_ends_the_connection(
    stage: Stage, kind: str, text: bytes
) -> None:
    await check_fails(stage, kind, masked(TEXT, text), INVALID_DATA)


@pytest.mark.parametrize("fragments", [
    (b"good ", b"\xff"), (b"\xe2\x82", b"a"), (b"\xe2", b"\x82", b""),
], ids=["later", "across", "cut"])  # fmt: skip
@both_kinds
async def test_fragmented_text_is_checked_too(
    stage: Stage, kind: str, fragments: tuple[bytes, ...]
) -> None:
    async with connected(stage, kind) as (client, _):
        for n, fragment in enumerate(fragments):
            await client.send(CONT if n else TEXT, fragment, fin=n == len(fragments) - 1)
        assert await failure(client) == INVALID_DATA


@shared
@both_kinds
async def test_continuation_of_a_message_that_has_ended_is_one_of_nothing(
    stage: Stage, kind: str
) -> None:
    async with connected(stage, kind) as (client, peer):
        await client.send(TEXT, b"whole")
        assert await peer.receive(1) == [(TEXT, b"whole")]
        await client.send(CONT, b"more")
        assert await failure(client) == (None if PUSHPIN else PROTOCOL_ERROR)
        await peer.wait_lost()


@shared
@both_kinds
async def test_reason_that_is_not_utf8_ends_the_connection(stage: Stage, kind: str) -> None:
    await check_fails(stage, kind, masked(CLOSE, close_payload(1000, b"\xff")), INVALID_DATA)


@shared
@pytest.mark.parametrize("fragments", [1, 5])
async def test_message_that_is_too_large_for_http_ends_the_connection(
    stage: Stage, fragments: int
) -> None:
    content = b"x" * (OVER_HTTP_MAX * 5 // 4 // fragments)
    async with over_http(stage, accept()) as (client, _):
        with contextlib.suppress(ConnectionError):  # all of it need not be read
            for n in range(fragments):
                await client.send(CONT if n else TEXT, content, fin=n == fragments - 1)
        assert await failure(client) == (None if PUSHPIN else TOO_LARGE)


@shared
async def test_message_that_is_nearly_too_large_for_http_is_not(stage: Stage) -> None:
    content = b"x" * (OVER_HTTP_MAX - 1000)
    async with connected(stage, "over HTTP") as (client, peer):
        await client.send(TEXT, content)
        assert await peer.receive(1) == [(TEXT, content)]


# -- closing -----------------------------------------------------------------------------------


@shared
@both_kinds
async def test_what_follows_the_client_s_close_is_ignored(stage: Stage, kind: str) -> None:
    async with connected(stage, kind) as (client, peer):
        late = masked(TEXT, b"late") + masked(PING) + masked(3)
        await client.send_raw(masked(CLOSE, close_payload(4000, b"bye")) + late)
        assert await peer.receive(1) == [(CLOSE, close_payload(4000, b"bye"))]
        if isinstance(peer, SocketPeer):
            await peer.socket.send_close(4000, b"bye")
        assert await client.read_close() == (4000, b"bye")
        await client.wait_dropped()


@shared
async def test_close_without_a_code_is_answered_by_1000(stage: Stage) -> None:
    async with connected(stage, "over HTTP") as (client, peer):
        await client.send_close()
        assert await peer.receive(1) == [(CLOSE, b"")]
        assert await client.read_close() == (1000, b"")
        await client.wait_dropped()


@pytest.mark.parametrize("code", [
    1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999,
])  # fmt: skip
async def test_client_may_close_with_any_other_code(stage: Stage, code: int) -> None:
    async with connected(stage, "over HTTP") as (client, peer):
        await client.send_close(code, b"x" * 123)
        assert await peer.receive(1) == [(CLOSE, close_payload(code, b"x" * 123))]
        assert await client.read_close() == (code, b"x" * 123)


async def check_bounded(client: Socket) -> None:
    """The client is dropped after the configured time."""
    since = time.monotonic()
    await client.wait_dropped()
    assert CLOSE_TIMEOUT / 2 < time.monotonic() - since < 4 * CLOSE_TIMEOUT


async def test_client_has_some_time_to_answer_a_close(stage: Stage) -> None:
    """Each way in which the proxy closes, all at once to take that time only once."""

    async def by_socket() -> None:
        async with relayed(stage) as (client, inner):
            await inner.send_close(4000)
            assert await client.read_close() == (4000, b"")
            await check_bounded(client)
            await inner.wait_dropped()

    async def by_http() -> None:
        async with over_http(stage, accept()) as (client, backend):
            backend.answers.append(events(("CLOSE", close_payload(4000))))
            await client.send_text("close")
            assert await client.read_close() == (4000, b"")
            await backend.next()
            await check_bounded(client)
            assert await backend.next_events() == DISCONNECT

    async def by_publishing() -> None:
        channel = fresh()
        opening = accept(control(type="subscribe", channel=channel))
        async with over_http(stage, opening) as (client, _):
            await stage.proxy.wait_subscribed(channel)
            await stage.proxy.publish(message(channel, action="close", code=4000))
            assert await client.read_close() == (4000, b"")
            await check_bounded(client)

    async with asyncio.TaskGroup() as tasks:
        for case in (by_socket(), by_http(), by_publishing()):
            tasks.create_task(case)


async def test_client_that_pings_but_does_not_answer_a_close_is_dropped_too(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        await inner.send_close(4000)
        await client.read_close()

        async def ping() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    await client.send(PING)
                    await asyncio.sleep(CLOSE_TIMEOUT / 10)

        pinging = asyncio.create_task(ping())
        await check_bounded(client)
        pinging.cancel()


async def test_socket_backend_has_some_time_to_answer_a_close(stage: Stage) -> None:
    async with relayed(stage) as (client, inner):
        await client.send_close(4000)
        assert await inner.read_close() == (4000, b"")
        async with asyncio.timeout(4 * CLOSE_TIMEOUT):
            await inner.wait_dropped()
            await failure(client)
