"""Compression of WebSocket messages (RFC 7692) between the proxy and either side."""

import contextlib
import random
import zlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.flow.holding import BAD_ORIGIN, Stage, fresh, open_stage
from tests.flow.sockets import OVER_HTTP, message, over_http, receive_events, relayed
from tests.support.client import Truncated
from tests.support.websocket import (
    BINARY,
    CONT,
    GRIP,
    PING,
    PONG,
    TEXT,
    Event,
    Frame,
    Socket,
    SocketBackend,
    accept,
    control,
    encode_frame,
    events,
    refused,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

EXTENSIONS = "Sec-WebSocket-Extensions"
DEFLATE = "permessage-deflate"
OFFER = (EXTENSIONS, DEFLATE)
RSV1 = 4
TAIL = b"\x00\x00\xff\xff"
INFLATE_MAX = 100_000
# more than a window of 512 bytes sees, and not compressible but for being twice the same
TWICE = random.Random(1).randbytes(4000) * 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    settings = {"allow_compression": True, "ws_inflate_max": INFLATE_MAX}
    async with open_stage("*", "*,path_beg=/plain,no_grip", OVER_HTTP, runner=settings) as it:
        yield it


class Compressor:
    """Compresses messages, each with what the ones before have left in the window."""

    def __init__(self, bits: int = 15) -> None:
        self.stream = zlib.compressobj(wbits=-bits)

    def __call__(self, content: bytes) -> bytes:
        data = self.stream.compress(content) + self.stream.flush(zlib.Z_SYNC_FLUSH)
        assert data.endswith(TAIL)
        return data[:-4]


def compressed(content: bytes) -> bytes:
    return Compressor()(content)


def inflated(payload: bytes, bits: int = 15) -> bytes:
    """The content of a message that depends on no other."""
    return zlib.decompressobj(-bits).decompress(payload + TAIL)


async def read_compressed(socket: Socket, bits: int = 15) -> tuple[int, bytes]:
    """The next message, which must be compressed, by itself, and marked so on its first frame."""
    frame = first = await socket.read_frame()
    assert first.opcode in (TEXT, BINARY) and first.rsv == RSV1, first
    payload = first.payload
    while not frame.fin:
        frame = await socket.read_frame()
        assert (frame.opcode, frame.rsv) == (CONT, 0), frame
        payload += frame.payload
    return first.opcode, inflated(payload, bits)


async def failure(client: Socket) -> int | None:
    """The code of the close frame that ends the connection."""
    code, _ = await client.read_close()
    await client.wait_dropped()
    return code


def text(content: bytes) -> Event:
    return Event("TEXT", content)


# -- what clients offer ------------------------------------------------------------------------


@pytest.mark.parametrize(("offers", "more"), [
    ("", ""),
    ("; server_no_context_takeover", ""),
    ("; client_no_context_takeover", "client_no_context_takeover"),
    ("; client_max_window_bits", ""),
    ("; client_max_window_bits=8", ""),
    ("; server_max_window_bits=15", "server_max_window_bits=15"),
    ("; server_max_window_bits=9", "server_max_window_bits=9"),
    ('; server_max_window_bits="12"', "server_max_window_bits=12"),
    ("; client_no_context_takeover; server_max_window_bits=10; client_max_window_bits=11",
     "client_no_context_takeover; server_max_window_bits=10"),
    (", permessage-deflate; client_no_context_takeover", ""),
    ("; unknown, permessage-deflate; client_no_context_takeover", "client_no_context_takeover"),
    ("; server_max_window_bits=16, x-other; a=1, permessage-deflate", ""),
])  # fmt: skip
async def test_first_acceptable_offer_is_accepted(stage: Stage, offers: str, more: str) -> None:
    async with relayed(stage, headers=[(EXTENSIONS, DEFLATE + offers)]) as (client, inner):
        name, *parameters = (client.response.header(EXTENSIONS) or "").split("; ")
        assert name == DEFLATE
        expected = {"server_no_context_takeover", *filter(None, more.split("; "))}
        assert sorted(parameters) == sorted(expected)
        await inner.send_text("m:content")
        assert await read_compressed(client) == (TEXT, b"content")


async def test_offers_may_come_in_several_fields(stage: Stage) -> None:
    offers = [(EXTENSIONS, "x-other"), (EXTENSIONS, DEFLATE + "; unknown"), OFFER]
    async with relayed(stage, headers=offers) as (client, _):
        assert (client.response.header(EXTENSIONS) or "").startswith(DEFLATE)


@pytest.mark.parametrize("offer", [
    None,
    "x-other",
    "permessage-deflate; unknown",
    "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
    "permessage-deflate; server_no_context_takeover=1",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; server_max_window_bits=7",
    "permessage-deflate; server_max_window_bits=8",
    "permessage-deflate; server_max_window_bits=16",
    "permessage-deflate; server_max_window_bits=012",
    "permessage-deflate; client_max_window_bits=16",
])  # fmt: skip
async def test_any_other_offer_is_declined(stage: Stage, offer: str | None) -> None:
    """zlib has no window of 256 bytes, so that 8 is declined as well."""
    async with relayed(stage, headers=[(EXTENSIONS, offer)] if offer else []) as (client, inner):
        assert client.response.header(EXTENSIONS) is None
        await inner.send_text("m:content")
        assert await client.read_text() == "content"
        await client.send(TEXT, compressed(b"content"), rsv=RSV1)
        assert await failure(client) == 1002


@pytest.mark.parametrize("offer", ["permessage-deflate; =1", 'permessage-deflate; a="', "a b"])
async def test_malformed_offer_is_400(stage: Stage, offer: str) -> None:
    assert (await refused(stage.proxy.port, "/", [(EXTENSIONS, offer)])).status == 400


@shared
async def test_without_the_setting_offers_are_ignored() -> None:
    async with open_stage("*") as stage, relayed(stage, headers=[OFFER]) as (client, inner):
        assert client.response.header(EXTENSIONS) is None
        assert inner.request.all(EXTENSIONS) == ["grip"]


# -- to the client -----------------------------------------------------------------------------


async def test_relayed_messages_are_compressed_each_by_itself(stage: Stage) -> None:
    sent = [(TEXT, b"text"), (TEXT, b"text"), (BINARY, bytes(50_000)), (TEXT, b""), (BINARY, TWICE)]
    async with relayed(stage, headers=[OFFER]) as (client, inner):
        for opcode, content in sent:
            await inner.send(opcode, b"m:" + content)
        assert [await read_compressed(client) for _ in sent] == sent


async def test_messages_over_http_are_compressed(stage: Stage) -> None:
    opening = accept(text(b"m:content"), ("BINARY", b"m:" + TWICE), text(b"m:"))
    async with over_http(stage, opening, [OFFER]) as (client, _):
        assert await read_compressed(client) == (TEXT, b"content")
        assert await read_compressed(client) == (BINARY, TWICE)
        assert await read_compressed(client) == (TEXT, b"")


async def test_fragments_are_compressed_as_they_come(stage: Stage) -> None:
    async with relayed(stage, (), [OFFER]) as (client, inner):
        await inner.send(TEXT, b"one ", fin=False)
        first = await client.read_frame()
        assert (first.opcode, first.fin, first.rsv) == (TEXT, False, RSV1)
        stream = zlib.decompressobj(-15)
        assert stream.decompress(first.payload) == b"one "
        await inner.send(PING)
        assert await client.read_frame() == Frame(PING, b"")
        await inner.send(CONT, b"two")
        last = await client.read_frame()
        assert (last.opcode, last.fin, last.rsv) == (CONT, True, 0)
        assert stream.decompress(last.payload + TAIL) == b"two"
        await inner.send_text("next")
        assert await read_compressed(client) == (TEXT, b"next")


async def test_large_message_is_compressed(stage: Stage) -> None:
    content = TWICE * 250
    async with relayed(stage, (), [OFFER]) as (client, inner):
        await inner.send(BINARY, content)
        assert await read_compressed(client) == (BINARY, content)


async def test_control_frames_are_not_compressed(stage: Stage) -> None:
    async with relayed(stage, headers=[OFFER]) as (client, inner):
        for opcode in (PING, PONG):
            await inner.send(opcode, b"x" * 100)
            assert await client.read_frame() == Frame(opcode, b"x" * 100)
        await inner.send_close(4000, b"x" * 100)
        assert await client.read_close() == (4000, b"x" * 100)


async def test_published_message_is_compressed_for_those_who_agreed(stage: Stage) -> None:
    channel = fresh()
    opening = accept(control(type="subscribe", channel=channel))
    small = (EXTENSIONS, DEFLATE + "; server_max_window_bits=9")
    async with (
        over_http(stage, opening) as (plain, _),
        over_http(stage, opening, [OFFER]) as (large, _),
        over_http(stage, opening, [small]) as (little, _),
    ):
        await stage.proxy.wait_subscribed(channel, 3)
        content = TWICE.hex()
        items = [message(channel, "one"), message(channel, content), message(channel, type="ping")]
        await stage.proxy.publish(*items)
        expected = [(TEXT, b"one"), (TEXT, content.encode())]
        assert [await plain.read_message() for _ in expected] == expected
        assert [await read_compressed(large) for _ in expected] == expected
        assert [await read_compressed(little, bits=9) for _ in expected] == expected
        for client in (plain, large, little):
            assert await client.read_frame() == Frame(PING, b"")


async def test_window_is_as_small_as_the_client_asks(stage: Stage) -> None:
    small = (EXTENSIONS, DEFLATE + "; server_max_window_bits=9")
    async with relayed(stage, (), [small]) as (client, inner):
        await inner.send(BINARY, TWICE)
        assert await read_compressed(client, bits=9) == (BINARY, TWICE)
        await inner.send(BINARY, TWICE[:5000], fin=False)
        await inner.send(CONT, TWICE[5000:])
        assert await read_compressed(client, bits=9) == (BINARY, TWICE)


# -- from the client ---------------------------------------------------------------------------

HELLO = {
    "one block": "f248cdc9c90700",
    "a block without compression": "000500faff48656c6c6f00",
    "a final block": "f348cdc9c9070000",
    "two blocks": "f24805000000ffffcac9c90700",
}


@pytest.mark.parametrize("payload", HELLO.values(), ids=HELLO)
async def test_message_may_be_compressed_in_any_way(stage: Stage, payload: str) -> None:
    """The examples of RFC 7692 §7.2.3."""
    async with over_http(stage, headers=[OFFER]) as (client, backend):
        for _ in range(2):
            await client.send(TEXT, bytes.fromhex(payload), rsv=RSV1)
            assert await backend.next_events() == [text(b"Hello")]


@pytest.mark.parametrize("resets", [True, False], ids=["each by itself", "with takeover"])
async def test_backend_gets_what_the_client_compressed(stage: Stage, resets: bool) -> None:
    offer = (EXTENSIONS, DEFLATE + ("; client_no_context_takeover" if resets else ""))
    shrink = Compressor()
    sent = [(TEXT, b"text"), (TEXT, b"text"), (BINARY, TWICE), (TEXT, b""), (BINARY, TWICE)]
    async with (
        over_http(stage, headers=[offer]) as (first, backend),
        relayed(stage, (), [offer]) as (second, inner),
    ):
        for opcode, content in sent:
            payload = compressed(content) if resets else shrink(content)
            await first.send(opcode, payload, rsv=RSV1)
            await second.send(opcode, payload, rsv=RSV1)
        got = [event.content or b"" for event in await receive_events(backend, len(sent))]
        assert got == [content for _, content in sent]
        assert [await inner.read_message() for _ in sent] == sent


async def test_client_may_leave_messages_uncompressed(stage: Stage) -> None:
    async with over_http(stage, headers=[OFFER]) as (client, backend):
        await client.send_text("plain")
        await client.send(TEXT, compressed(b"compressed"), rsv=RSV1)
        await client.send(TEXT, b"pl", fin=False)
        await client.send(CONT, b"ain")
        expected = [text(b"plain"), text(b"compressed"), text(b"plain")]
        assert await receive_events(backend, 3) == expected


async def test_compressed_message_may_be_fragmented(stage: Stage) -> None:
    payload = compressed(b"content" * 10)
    async with over_http(stage, headers=[OFFER]) as (client, backend):
        await client.send(TEXT, payload[:1], fin=False, rsv=RSV1)
        await client.send(CONT, b"", fin=False)
        await client.send(PING, b"between")
        for n in range(1, len(payload)):
            await client.send(CONT, payload[n : n + 1], fin=False)
        await client.send(CONT)
        expected = [Event("PING", b"between"), text(b"content" * 10)]
        assert await receive_events(backend, 2) == expected


@pytest.mark.parametrize(("frames", "codes"), [
    ([(PING, b"", True, RSV1)], [1002]),
    ([(TEXT, b"", False, RSV1), (CONT, b"", True, RSV1)], [1002]),
    ([(TEXT, b"x", True, RSV1 | 2)], [1002]),
    ([(TEXT, compressed(b"\xff"), True, RSV1)], [1007]),
    ([(TEXT, b"\xff\xff\xff\xff", True, RSV1)], [1002, 1007]),
], ids=["ping", "continuation", "RSV2", "not UTF-8", "not compressed"])  # fmt: skip
async def test_faulty_compression_ends_the_connection(
    stage: Stage, frames: list[tuple[int, bytes, bool, int]], codes: list[int]
) -> None:
    async with over_http(stage, headers=[OFFER]) as (client, _):
        for opcode, payload, fin, rsv in frames:
            await client.send(opcode, payload, fin=fin, rsv=rsv)
        assert await failure(client) in codes


@pytest.mark.parametrize("pieces", [1, 7])
async def test_message_that_inflates_beyond_the_bound_ends_the_connection(
    stage: Stage, pieces: int
) -> None:
    async with relayed(stage, (), [OFFER]) as (client, inner):
        for content in (bytes(INFLATE_MAX), b"x", bytes(INFLATE_MAX)):
            await client.send(BINARY, compressed(content), rsv=RSV1)
            assert await inner.read_message() == (BINARY, content)
        payload = compressed(bytes(INFLATE_MAX + 1))
        step = -(-len(payload) // pieces)
        for at in range(0, len(payload), step):
            piece, fin = payload[at : at + step], at + step >= len(payload)
            await client.send(CONT if at else BINARY, piece, fin=fin, rsv=0 if at else RSV1)
        assert await failure(client) == 1009


async def test_bomb_takes_no_memory(stage: Stage) -> None:
    bomb = compressed(bytes(64_000_000))
    before = stage.proxy.peak_memory()
    async with over_http(stage, headers=[OFFER]) as (client, _):
        with contextlib.suppress(ConnectionError):
            await client.send(BINARY, bomb, rsv=RSV1)
        assert await failure(client) == 1009
    assert stage.proxy.peak_memory() - before < 16 * 1024


async def test_many_small_bombs_wait_for_the_backend(stage: Stage) -> None:
    """Each is within the bound; together they are far more than a backend leaves unread."""
    bomb = encode_frame(BINARY, compressed(bytes(INFLATE_MAX)), rsv=RSV1, masked=True)
    before = stage.proxy.peak_memory()
    async with relayed(stage, (), [OFFER]) as (client, inner):
        await client.send_raw(bomb * 640)
        await client.send_close(4000)
        for _ in range(640):
            assert await inner.read_message() == (BINARY, bytes(INFLATE_MAX))
        assert await inner.read_close() == (4000, b"")
    assert stage.proxy.peak_memory() - before < 32 * 1024


async def test_many_small_bombs_wait_for_an_answer_over_http(stage: Stage) -> None:
    bomb = encode_frame(BINARY, compressed(bytes(INFLATE_MAX)), rsv=RSV1, masked=True)
    before = stage.proxy.peak_memory()
    async with over_http(stage, headers=[OFFER]) as (client, backend):
        first = backend.hold()
        await client.send_raw(bomb * 640)
        assert len(await backend.next_events()) in (1, 2)
        first.set_result(events())
        got = [event.content for event in await receive_events(backend, 20)]
        assert got == [bytes(INFLATE_MAX)] * 20
    assert stage.proxy.peak_memory() - before < 32 * 1024


# -- to WebSocket backends ---------------------------------------------------------------------


@pytest.mark.parametrize("offer", [[], [OFFER]], ids=["client offers nothing", "client offers"])
async def test_backend_is_offered_compression_in_a_field_of_its_own(
    stage: Stage, offer: list[tuple[str, str]]
) -> None:
    async with relayed(stage, (), offer) as (_, inner):
        assert sorted(inner.request.all(EXTENSIONS)) == ["grip", DEFLATE]
    async with relayed(stage, (), offer, base="/plain") as (_, inner):
        assert inner.request.all(EXTENSIONS) == [DEFLATE]


ACCEPTED = {
    "two fields": [GRIP, OFFER],
    "a list": [(EXTENSIONS, DEFLATE + "; server_no_context_takeover, grip")],
    "a list in the other order": [(EXTENSIONS, "grip; message-prefix=m:, " + DEFLATE)],
    "own window": [GRIP, (EXTENSIONS, DEFLATE + "; server_max_window_bits=10")],
}


@pytest.mark.parametrize("accepted", ACCEPTED.values(), ids=ACCEPTED)
@pytest.mark.parametrize("offer", [[], [OFFER]], ids=["client offers nothing", "client offers"])
async def test_what_the_backend_compressed_is_inflated_first(
    stage: Stage, accepted: list[tuple[str, str]], offer: list[tuple[str, str]]
) -> None:
    resets = "server_no_context_takeover" in accepted[-1][1]
    channel, shrink = fresh(), Compressor(bits=10)
    async with relayed(stage, accepted, offer) as (client, inner):
        read = read_compressed if offer else Socket.read_message
        subscribe = control(type="subscribe", channel=channel).content or b""
        for content in (subscribe, b"m:one", b"none", b"m:one"):
            payload = compressed(content) if resets else shrink(content)
            await inner.send(TEXT, payload, rsv=RSV1)
        await inner.send(TEXT, b"m:plain")
        assert [await read(client) for _ in range(3)] == [
            (TEXT, b"one"), (TEXT, b"one"), (TEXT, b"plain"),
        ]  # fmt: skip
        await stage.proxy.wait_subscribed(channel)
        await stage.proxy.publish(message(channel, "published"))
        assert await read(client) == (TEXT, b"published")


@pytest.mark.parametrize("resets", [True, False], ids=["each by itself", "with takeover"])
@pytest.mark.parametrize("offer", [[], [OFFER]], ids=["client offers nothing", "client offers"])
async def test_backend_that_accepted_can_inflate_what_it_gets(
    stage: Stage, resets: bool, offer: list[tuple[str, str]]
) -> None:
    answer = (EXTENSIONS, DEFLATE + ("; client_no_context_takeover" if resets else ""))
    sent = [(TEXT, b"text"), (TEXT, b"text"), (BINARY, TWICE), (TEXT, b"")]
    async with relayed(stage, [answer], offer) as (client, inner):
        stream = zlib.decompressobj(-15)
        for opcode, content in sent:
            if offer:
                await client.send(opcode, compressed(content), rsv=RSV1)
            else:
                await client.send(opcode, content)
            frame = await inner.read_frame()
            assert (frame.opcode, frame.fin) == (opcode, True)
            if frame.rsv == RSV1:
                stream = zlib.decompressobj(-15) if resets else stream
                assert stream.decompress(frame.payload + TAIL) == content
            else:
                assert (frame.rsv, frame.payload) == (0, content)


@pytest.mark.parametrize("answer", [
    [DEFLATE, DEFLATE],
    [DEFLATE + ", " + DEFLATE],
    [DEFLATE + "; unknown"],
    [DEFLATE + "; client_max_window_bits=10"],
], ids=["twice", "twice in a list", "unknown parameter", "parameter not offered"])  # fmt: skip
async def test_backend_may_not_accept_what_was_not_offered(stage: Stage, answer: list[str]) -> None:
    path = "/" + fresh("p")
    async with SocketBackend(stage.backend, path, [(EXTENSIONS, value) for value in answer]):
        r = await refused(stage.proxy.port, path)
        assert (r.status, r.body) == (502, BAD_ORIGIN)


async def test_backend_may_not_accept_compression_unasked() -> None:
    async with open_stage("*") as stage, SocketBackend(stage.backend, "/ws", [GRIP, OFFER]):
        assert (await refused(stage.proxy.port, "/ws", [OFFER])).status == 502


async def test_backend_that_accepted_nothing_may_not_compress(stage: Stage) -> None:
    async with relayed(stage, ()) as (client, inner):
        await inner.send(TEXT, compressed(b"content"), rsv=RSV1)
        with contextlib.suppress(Truncated):
            await client.read_close()
        await client.wait_dropped()
