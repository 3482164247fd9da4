"""A connection to a WebSocket backend: its handshake, and its frames both ways."""

import asyncio
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from gripproxy.backend.websocket import BackendSocket, SocketLimits, new_key
from gripproxy.errors import BackendError, ResponseError
from gripproxy.http1.head import ResponseHead
from gripproxy.websocket.deflate import Inflater
from gripproxy.websocket.frames import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    close_payload,
    frame,
    masked_frame,
)
from gripproxy.websocket.receiver import Receiver
from tests.unit.transport import Transport

# RFC 6455 §1.3
KEY, ACCEPT = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
REQUEST = b"GET / HTTP/1.1\r\n\r\n"
LIMITS = SocketLimits(head_max=400, headers_max=8, refusal_max=10, inflate_max=1_000_000)
Heard = tuple[object, ...]


def switching(*fields: bytes, accept: bytes = ACCEPT) -> bytes:
    """The head of an acceptance."""
    lines = [b"Upgrade: websocket", b"Connection: Upgrade", *fields]
    head = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %b\r\n" % accept
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


class Peer:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.connected = self.reads = 0
        self.head: ResponseHead | None = None
        self.error: BackendError | None = None
        self.then: Callable[[], None] | None = None  # what it does when it hears something
        self.wakes = asyncio.Event()

    def note(self, *words: object) -> None:
        self.heard.append(words)
        self.wakes.set()
        if self.then is not None:
            self.then()

    def on_connected(self) -> None:
        self.connected += 1

    def on_upgraded(self, head: ResponseHead) -> None:
        self.head = head
        self.note("upgraded")

    def on_refused(self, head: ResponseHead, body: bytes) -> None:
        self.note("refused", head.code, head.reason, body)

    def on_failed(self, error: BackendError) -> None:
        self.error = error
        self.note("failed")

    def on_read(self) -> None:
        self.reads += 1

    def on_frame(self, received: Frame) -> None:
        self.note("frame", *received)

    def on_close(self, code: int | None, reason: bytes) -> None:
        self.note("close", code, reason)

    def on_lost(self) -> None:
        self.note("lost")

    def on_blocked(self) -> None:
        self.note("blocked")

    def on_ready(self) -> None:
        self.note("ready")


class Stage:
    """A connection in memory."""

    def __init__(self, *, offers_deflate: bool = False) -> None:
        self.peer = Peer()
        self.transport = Transport()
        self.socket = BackendSocket(self.peer, REQUEST, KEY, LIMITS, offers_deflate=offers_deflate)

    def connect(self) -> "Stage":
        self.socket.connection_made(self.transport)
        return self

    def receive(self, *parts: bytes) -> None:
        for part in parts:
            if not self.transport.is_closing():
                self.socket.data_received(part)

    def open(self, *fields: bytes) -> "Stage":
        """The backend accepts, and what was heard and written until then is forgotten."""
        self.connect()
        self.receive(switching(*fields))
        assert self.peer.heard == [("upgraded",)]
        self.peer.heard.clear()
        self.transport.take()
        return self

    def lose(self, error: Exception | None = None) -> None:
        self.socket.connection_lost(error)

    def sent(self, inflater: Inflater | None = None) -> list[Frame]:
        """The frames that the backend has got."""
        receiver = Receiver(masked=True, check_text=True, inflater=inflater)
        frames = receiver.feed(self.transport.written)
        assert receiver.failure is None
        return frames


DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"


@pytest.fixture
def stage() -> Stage:
    return Stage().open()


@pytest.fixture
def deflating() -> Stage:
    return Stage(offers_deflate=True).open(DEFLATE)


# -- the handshake -------------------------------------------------------------------------------


def test_the_request_is_sent_once_there_is_a_connection() -> None:
    stage = Stage()
    assert stage.peer.connected == 0
    stage.connect()
    assert stage.transport.written == REQUEST
    assert stage.peer.connected == 1
    assert stage.peer.heard == []


def test_keys_are_sixteen_random_bytes() -> None:
    keys = {new_key() for _ in range(20)}
    assert len(keys) == 20
    assert {len(b64decode(key, validate=True)) for key in keys} == {16}


def test_a_backend_switches_protocols() -> None:
    stage = Stage().connect()
    stage.receive(switching(b"X-A: 1"))
    assert stage.peer.heard == [("upgraded",)]
    assert stage.peer.head is not None
    assert (b"X-A", b"1") in stage.peer.head.headers


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_answer_may_come_in_pieces_and_frames_with_it(size: int) -> None:
    stage = Stage().connect()
    data = switching() + frame(TEXT, b"hello") + frame(PING, b"p")
    stage.receive(*[data[start : start + size] for start in range(0, len(data), size)])
    assert stage.peer.heard == [
        ("upgraded",),
        ("frame", TEXT, b"hello", True),
        ("frame", PING, b"p", True),
    ]


def test_interim_answers_come_before_the_one_that_counts() -> None:
    stage = Stage().connect()
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    stage.receive(interim[:30], interim[30:] + switching())
    assert stage.peer.heard == [("upgraded",)]


@pytest.mark.parametrize(
    "answer",
    [
        switching(accept=b"x"),
        switching(accept=ACCEPT.lower()),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        switching(DEFLATE),
        b"hello\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\nSec-WebSocket-Accept: x\n\n",
        b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 500,
        b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 500 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: y\r\n" * 9 + b"\r\n",
        b"HTTP/1.1 403 No\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ],
)
def test_an_answer_that_breaks_the_protocol_is_a_failure(answer: bytes) -> None:
    stage = Stage().connect()
    stage.receive(answer, frame(TEXT, b"late"))
    assert stage.peer.heard == [("failed",)]
    assert isinstance(stage.peer.error, ResponseError)
    assert stage.transport.aborted
    stage.lose()
    assert stage.peer.heard == [("failed",)]


@pytest.mark.parametrize("more", [b"; client_max_window_bits=9", b"; x", b", permessage-deflate"])
def test_what_was_offered_must_be_accepted_as_it_was_offered(more: bytes) -> None:
    stage = Stage(offers_deflate=True).connect()
    stage.receive(switching(DEFLATE + more))
    assert stage.peer.heard == [("failed",)]


@pytest.mark.parametrize("fields", [(), (b"Sec-WebSocket-Extensions: grip",)])
def test_what_was_offered_need_not_be_accepted(fields: tuple[bytes, ...]) -> None:
    stage = Stage(offers_deflate=True).open(*fields)
    stage.socket.send(Frame(TEXT, b"hello"))
    stage.socket.flush()
    assert stage.sent() == [Frame(TEXT, b"hello")]


@pytest.mark.parametrize(
    "extension", [b"grip", b"grip; message-prefix=x", b'grip; a=""', b"x", b"="]
)
def test_other_extensions_are_not_those_of_the_connection(extension: bytes) -> None:
    stage = Stage().open(b"Sec-WebSocket-Extensions: " + extension)
    stage.receive(frame(TEXT, b"hello"))
    assert stage.peer.heard == [("frame", TEXT, b"hello", True)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(None, "connection closed by the backend"), (OSError("reset"), "connection lost: reset")],
)
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Swi", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_backend_that_leaves_without_an_answer_has_failed(
    answer: bytes, error: Exception | None, reason: str
) -> None:
    stage = Stage().connect()
    if answer:
        stage.receive(answer)
    stage.lose(error)
    assert stage.peer.heard == [("failed",)]
    assert str(stage.peer.error) == reason


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"Content-Length: 4\r\n\r\nbody", b"body"),
        (b"Content-Length: 0\r\n\r\n", b""),
        (b"Content-Length: 10\r\n\r\n0123456789", b"0123456789"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n", b"body"),
    ],
)
def test_another_answer_is_a_refusal(answer: bytes, body: bytes, size: int) -> None:
    stage = Stage().connect()
    data = b"HTTP/1.1 403 No Way\r\n" + answer
    stage.receive(*[data[start : start + size] for start in range(0, len(data), size)])
    assert stage.peer.heard == [("refused", 403, b"No Way", body)]
    assert stage.transport.aborted
    stage.lose()
    assert len(stage.peer.heard) == 1


@pytest.mark.parametrize("code", [b"204", b"304"])
def test_some_refusals_have_no_body(code: bytes) -> None:
    stage = Stage().connect()
    stage.receive(b"HTTP/1.1 %b No\r\n\r\n" % code)
    assert stage.peer.heard == [("refused", int(code), b"No", b"")]


def test_a_refusal_may_end_with_its_connection() -> None:
    stage = Stage().connect()
    stage.receive(b"HTTP/1.1 200 OK\r\n\r\nbo", b"dy")
    assert stage.peer.heard == []
    stage.lose()
    assert stage.peer.heard == [("refused", 200, b"OK", b"body")]


def test_a_refusal_that_is_cut_short_is_a_failure() -> None:
    stage = Stage().connect()
    stage.receive(b"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\nbody")
    stage.lose()
    assert stage.peer.heard == [("failed",)]


@pytest.mark.parametrize("head", [b"Content-Length: 11\r\n", b""])
def test_a_refusal_that_is_too_large_is_a_failure(head: bytes) -> None:
    stage = Stage().connect()
    stage.receive(b"HTTP/1.1 403 No\r\n%b\r\n0123456789" % head, b"a")
    assert stage.peer.heard == [("failed",)]
    assert stage.transport.aborted


# -- frames to the backend -----------------------------------------------------------------------

FRAMES = [
    Frame(TEXT, b"hello"),
    Frame(BINARY, b"", False),
    Frame(PING, b"p"),
    Frame(CONT, b"\xff" * 70_000, False),
    Frame(CONT, b""),
    Frame(PONG, b""),
    Frame(TEXT, b""),
]


def test_frames_are_sent_when_they_are_flushed(stage: Stage) -> None:
    stage.socket.flush()
    for message in (Frame(TEXT, b"a"), Frame(PING, b"p"), Frame(BINARY, b"b")):
        stage.socket.send(message)
    assert stage.transport.writes == 0
    stage.socket.flush()
    assert stage.sent() == [Frame(TEXT, b"a"), Frame(PING, b"p"), Frame(BINARY, b"b")]
    stage.socket.flush()
    assert stage.transport.writes == 1


def test_every_frame_is_masked_anew(stage: Stage) -> None:
    for _ in range(20):
        stage.socket.send(Frame(TEXT, bytes(4)))
    stage.socket.flush()
    masks = {stage.transport.written[start + 2 : start + 6] for start in range(0, 200, 10)}
    assert len(masks) == 20


def test_pieces_go_as_they_come(stage: Stage) -> None:
    for message in (Frame(TEXT, b"a", False), Frame(CONT, b"b", False), Frame(CONT, b"c")):
        stage.socket.send(message)
    stage.socket.flush()
    opcodes = [stage.transport.written[start] for start in (0, 7, 14)]
    assert opcodes == [TEXT, CONT, 0x80 | CONT]


@pytest.mark.parametrize(
    ("code", "reason", "payload"), [(1000, b"bye", b"\x03\xe8bye"), (None, b"", b"")]
)
def test_a_close_frame_is_sent_at_once(
    stage: Stage, code: int | None, reason: bytes, payload: bytes
) -> None:
    stage.socket.send(Frame(TEXT, b"a"))
    stage.socket.close(code, reason)
    assert stage.sent() == [Frame(TEXT, b"a"), Frame(CLOSE, payload)]
    assert not stage.transport.is_closing()


# -- frames from the backend ---------------------------------------------------------------------


def test_frames_come_as_they_are(stage: Stage) -> None:
    stage.receive(frame(TEXT, b"\xff") + frame(PONG, b"p"))
    assert stage.peer.reads == 1
    stage.receive(frame(BINARY, b"a", fin=False))
    stage.receive(frame(CONT, b"b", fin=False), frame(PING, b""), frame(CONT, b"c"))
    assert stage.peer.heard == [
        ("frame", TEXT, b"\xff", True),
        ("frame", PONG, b"p", True),
        ("frame", BINARY, b"a", False),
        ("frame", CONT, b"b", False),
        ("frame", PING, b"", True),
        ("frame", CONT, b"c", True),
    ]


def test_a_large_frame_comes_in_pieces(stage: Stage) -> None:
    data = frame(BINARY, bytes(300_000))
    stage.receive(*[data[start : start + 50_000] for start in range(0, len(data), 50_000)])
    pieces = [cast(bytes, words[2]) for words in stage.peer.heard]
    assert b"".join(pieces) == bytes(300_000)
    assert len(pieces) > 2
    assert [words[1] for words in stage.peer.heard] == [BINARY, *[CONT] * (len(pieces) - 1)]
    assert [words[3] for words in stage.peer.heard] == [*[False] * (len(pieces) - 1), True]


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [(b"", None, b""), (b"\x03\xe8bye", 1000, b"bye"), (b"\0\0\xff", 0, b"\xff")],
)
def test_a_close_frame_comes_with_its_code_and_reason_and_nothing_after_it(
    stage: Stage, payload: bytes, code: int | None, reason: bytes
) -> None:
    stage.receive(frame(TEXT, b"a") + frame(CLOSE, payload) + frame(TEXT, b"b"))
    stage.receive(frame(TEXT, b"c"))
    assert stage.peer.heard == [("frame", TEXT, b"a", True), ("close", code, reason)]
    stage.lose()
    assert stage.peer.heard[2:] == [("lost",)]


@pytest.mark.parametrize(
    "data",
    [
        masked_frame(TEXT, b"a", b"mask"),
        frame(3, b""),
        frame(CONT, b""),
        frame(PING, b"", fin=False),
        frame(PING, bytes(126)),
        frame(TEXT, b"", rsv1=True),
        frame(TEXT, b"", fin=False) + frame(TEXT, b""),
    ],
)
def test_a_backend_that_breaks_the_protocol_is_lost(stage: Stage, data: bytes) -> None:
    stage.receive(frame(TEXT, b"a") + data + frame(TEXT, b"late"))
    assert stage.peer.heard[0] == ("frame", TEXT, b"a", True)
    assert stage.peer.heard[-1] == ("lost",)
    assert ("frame", TEXT, b"late", True) not in stage.peer.heard
    assert stage.transport.aborted
    stage.lose()
    assert stage.peer.heard.count(("lost",)) == 1


@pytest.mark.parametrize("error", [None, OSError("reset")])
def test_a_connection_that_ends_is_lost(stage: Stage, error: Exception | None) -> None:
    stage.socket.eof_received()
    assert stage.peer.heard == []
    stage.lose(error)
    assert stage.peer.heard == [("lost",)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=10), st.booleans())
def test_however_the_bytes_are_cut_the_frames_are_the_same(cuts: list[int], deflate: bool) -> None:
    stage = Stage(offers_deflate=deflate).open(*([DEFLATE] if deflate else []))
    data = frame(TEXT, b"a" * 130) + frame(PING, b"p") + frame(BINARY, b"b" * 200, fin=False)
    data += frame(CONT, b"c") + frame(CLOSE, close_payload(1000, b"bye"))
    ends = [*sorted(cuts), len(data)]
    for start, end in zip([0, *ends], ends, strict=False):
        stage.receive(data[start:end])
    messages: list[bytes] = [b""]
    for kind, *words in stage.peer.heard[:-1]:
        assert kind == "frame"
        if words[0] == PING:
            assert words[1] == b"p"
            continue
        messages[-1] += cast(bytes, words[1])
        if words[2]:
            messages.append(b"")
    assert messages == [b"a" * 130, b"b" * 200 + b"c", b""]
    assert stage.peer.heard[-1] == ("close", 1000, b"bye")


# -- compression ---------------------------------------------------------------------------------


def test_messages_to_the_backend_are_compressed(deflating: Stage) -> None:
    deflating.socket.send(Frame(TEXT, b"hello" * 50))
    deflating.socket.send(Frame(PING, b"p"))
    deflating.socket.send(Frame(BINARY, b""))
    deflating.socket.flush()
    assert deflating.transport.written[0] == 0xC0 | TEXT
    assert len(deflating.transport.written) < 60
    assert deflating.sent(Inflater(True, 1000)) == [
        Frame(TEXT, b"hello" * 50),
        Frame(PING, b"p"),
        Frame(BINARY, b""),
    ]


def test_messages_in_pieces_are_compressed_as_one(deflating: Stage) -> None:
    for _ in range(2):
        deflating.socket.send(Frame(TEXT, b"hello ", False))
        deflating.socket.send(Frame(PONG, b""))
        deflating.socket.send(Frame(CONT, b"", False))
        deflating.socket.send(Frame(CONT, b"world"))
    deflating.socket.flush()
    frames = deflating.sent(Inflater(True, 1000))
    contents = b"".join(payload for opcode, payload, _ in frames if opcode != PONG)
    assert contents == b"hello world" * 2
    assert [opcode for opcode, _, _ in frames if opcode in (TEXT, BINARY)] == [TEXT, TEXT]
    # Only a message's first frame says that it is compressed.
    receiver = Receiver(masked=True, check_text=True)
    assert receiver.feed(deflating.transport.written) == []
    assert receiver.failure is not None


def compressor() -> Any:
    """What another implementation compresses with, from message to message."""
    return zlib.compressobj(wbits=-15)


def compressed(stream: Any, content: bytes) -> bytes:
    return cast(bytes, stream.compress(content) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_messages_from_the_backend_are_inflated_and_may_refer_to_earlier_ones(
    deflating: Stage,
) -> None:
    stream = compressor()
    for _ in range(2):
        deflating.receive(frame(TEXT, compressed(stream, b"hello"), rsv1=True))
    deflating.receive(frame(TEXT, b"plain"))
    assert [words[2] for words in deflating.peer.heard] == [b"hello", b"hello", b"plain"]


def test_a_backend_may_promise_that_they_do_not() -> None:
    stage = Stage(offers_deflate=True).open(DEFLATE + b"; server_no_context_takeover")
    for _ in range(2):
        stage.receive(frame(TEXT, compressed(compressor(), b"hello"), rsv1=True))
    assert [words[2] for words in stage.peer.heard] == [b"hello", b"hello"]


def test_a_message_that_inflates_to_more_than_its_bound_ends_the_connection(
    deflating: Stage,
) -> None:
    deflating.receive(frame(TEXT, compressed(compressor(), bytes(1_000_001)), rsv1=True))
    assert deflating.peer.heard[-1] == ("lost",)
    assert deflating.transport.aborted


def test_many_messages_may_inflate_to_more_than_that_together(deflating: Stage) -> None:
    messages = [frame(BINARY, compressed(compressor(), bytes(900_000)), rsv1=True)] * 3
    deflating.receive(b"".join(messages) + frame(CLOSE, b""))
    assert deflating.peer.heard[-1] == ("close", None, b"")
    assert sum(len(cast(bytes, words[2])) for words in deflating.peer.heard[:-1]) == 2_700_000


async def test_a_backend_that_waits_inflates_no_further(deflating: Stage) -> None:
    messages = [frame(BINARY, compressed(compressor(), bytes(900_000)), rsv1=True)] * 3
    deflating.peer.then = deflating.socket.pause
    deflating.receive(b"".join(messages))
    assert not deflating.transport.reading
    first = len(deflating.peer.heard)
    deflating.peer.then = None
    await asyncio.sleep(0)
    assert len(deflating.peer.heard) == first
    deflating.socket.resume()
    deflating.socket.pause()  # before it could go on
    await asyncio.sleep(0)
    assert len(deflating.peer.heard) == first
    deflating.socket.resume()
    await asyncio.sleep(0)
    assert sum(len(cast(bytes, words[2])) for words in deflating.peer.heard) == 2_700_000


async def test_nor_does_one_that_has_ended(deflating: Stage) -> None:
    messages = [frame(BINARY, compressed(compressor(), bytes(900_000)), rsv1=True)] * 3
    deflating.peer.then = deflating.socket.pause
    deflating.receive(b"".join(messages))
    first = len(deflating.peer.heard)
    deflating.socket.resume()
    deflating.socket.end()
    await asyncio.sleep(0)
    assert len(deflating.peer.heard) == first


# -- pace, and the end ---------------------------------------------------------------------------


def test_the_peer_hears_how_fast_the_backend_reads(stage: Stage) -> None:
    stage.socket.pause_writing()
    stage.socket.resume_writing()
    assert stage.peer.heard == [("blocked",), ("ready",)]


def test_the_backend_can_be_made_to_wait(stage: Stage) -> None:
    stage.socket.pause()
    assert not stage.transport.reading
    stage.socket.resume()
    assert stage.transport.reading


def test_where_there_is_no_connection_nothing_waits() -> None:
    stage = Stage()
    stage.socket.pause()
    stage.socket.resume()
    stage.socket.flush()
    stage.open()
    stage.transport.abort()
    stage.socket.pause()
    stage.socket.resume()


def test_after_the_end_the_peer_hears_nothing(stage: Stage) -> None:
    stage.socket.send(Frame(TEXT, b"a"))
    stage.socket.end()
    assert stage.sent() == [Frame(TEXT, b"a")]
    assert stage.transport.closed
    stage.socket.data_received(frame(TEXT, b"late"))
    stage.socket.pause_writing()
    stage.socket.resume_writing()
    stage.lose()
    assert stage.peer.heard == []


def test_an_abort_leaves_nothing_behind(stage: Stage) -> None:
    stage.socket.abort()
    assert stage.transport.aborted
    stage.lose()
    assert stage.peer.heard == []


@pytest.mark.parametrize("end", ["end", "abort"])
def test_the_end_may_come_before_the_connection(end: str) -> None:
    stage = Stage()
    getattr(stage.socket, end)()
    stage.connect()
    assert stage.transport.aborted
    assert stage.transport.written == b""
    stage.lose()
    assert stage.peer.heard == []


@pytest.mark.parametrize("answer", [b"HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nbo", b"HTTP/1.1"])
def test_the_end_may_come_during_the_handshake(answer: bytes) -> None:
    stage = Stage().connect()
    stage.receive(answer)
    stage.socket.end()
    stage.socket.data_received(b"dy")
    stage.lose()
    assert stage.peer.heard == []


def test_the_peer_may_end_it_by_what_it_hears() -> None:
    stage = Stage().open()
    stage.peer.then = stage.socket.end
    stage.receive(frame(TEXT, b"a") + frame(TEXT, b"b") + frame(3, b""))
    assert stage.peer.heard == [("frame", TEXT, b"a", True)]


# -- another implementation ----------------------------------------------------------------------


@pytest.fixture(params=[None, "deflate"])
async def echo(request: pytest.FixtureRequest) -> AsyncIterator[tuple[int, bool]]:
    """A real server that echoes: its port, and whether it compresses."""

    async def handle(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(handle, "127.0.0.1", 0, compression=request.param) as server:
        yield next(iter(server.sockets)).getsockname()[1], request.param is not None


async def test_another_implementation_understands_us_and_we_it(echo: tuple[int, bool]) -> None:
    port, deflates = echo
    key, peer = new_key(), Peer()
    request = (
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n" % key
    )
    limits = SocketLimits(8192, 64, 1000, 10**7)
    socket = BackendSocket(peer, request, key, limits, offers_deflate=True)
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: socket, "127.0.0.1", port)

    async def hears(*expected: Heard) -> None:
        """Wait for so much; a server may answer pings before messages that came earlier."""
        async with asyncio.timeout(5):
            while len(peer.heard) < len(expected):
                peer.wakes.clear()
                await peer.wakes.wait()
        assert sorted(map(repr, peer.heard)) == sorted(map(repr, expected))
        peer.heard.clear()

    await hears(("upgraded",))
    assert peer.head is not None
    assert deflates is any(name == b"Sec-WebSocket-Extensions" for name, _ in peer.head.headers)
    for _ in range(3):
        socket.send(Frame(TEXT, "hellö".encode()))
        socket.send(Frame(BINARY, b"\0\xff", False))
        socket.send(Frame(CONT, b"", False))
        socket.send(Frame(PING, b"p"))
        socket.send(Frame(CONT, b"\xff\0"))
        socket.flush()
        await hears(
            ("frame", TEXT, "hellö".encode(), True),
            ("frame", PONG, b"p", True),
            ("frame", BINARY, b"\0\xff\xff\0", True),
        )
    socket.close(4000, b"bye")
    await hears(("close", 4000, b"bye"), ("lost",))
