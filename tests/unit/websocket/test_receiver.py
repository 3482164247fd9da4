"""Frames as they are read: whole or in pieces, checked, however the bytes arrive."""

import sys
from collections.abc import Generator, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as OtherFrame
from websockets.frames import Opcode
from websockets.streams import StreamReader

from gripproxy.errors import WebSocketError
from gripproxy.websocket import receiver as module
from gripproxy.websocket.deflate import Deflater, Inflater, compress
from gripproxy.websocket.frames import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    frame,
    masked_frame,
)
from gripproxy.websocket.receiver import PIECE_BYTES, Receiver

MASK = b"\x12\x34\x56\x78"
BOUND = 10_000


def client(inflater: Inflater | None = None) -> Receiver:
    """What reads a client."""
    return Receiver(masked=True, check_text=True, inflater=inflater)


def backend(inflater: Inflater | None = None) -> Receiver:
    """What reads a backend."""
    return Receiver(masked=False, check_text=False, inflater=inflater)


def sent(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A frame from a client."""
    return masked_frame(opcode, payload, MASK, fin=fin, rsv1=rsv1)


def chopped(data: bytes, step: int) -> Iterator[bytes]:
    return (data[start : start + step] for start in range(0, len(data), step))


def read(receiver: Receiver, parts: Iterable[bytes]) -> list[Frame]:
    """All that comes of `parts`."""
    frames = []
    for part in parts:
        frames += receiver.feed(part)
        while receiver.more:
            frames += receiver.feed(b"")
    return frames


def messages(frames: Iterable[Frame]) -> list[tuple[int, bytes]]:
    """What `frames` say, their pieces put together, in the order of their ends."""
    found = []
    kind, content = CONT, b""
    for opcode, payload, fin in frames:
        if opcode >= CLOSE:
            assert fin
            found.append((opcode, payload))
            continue
        assert (opcode == CONT) is (kind != CONT)
        assert payload or fin
        kind, content = kind or opcode, content + payload
        if fin:
            found.append((kind, content))
            kind, content = CONT, b""
    return found


def refused(receiver: Receiver, data: bytes) -> WebSocketError:
    """Why `data` is refused."""
    receiver.feed(data)
    assert receiver.failure is not None
    return receiver.failure


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 8)


# -- whole frames --------------------------------------------------------------------------------

LENGTHS = (0, 1, 5, 124, 125, 126, 127, 132, 1000, 20_000, 65_535, 65_536, 70_000)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_whole_message_is_given_out_at_once(opcode: int, length: int) -> None:
    payload = (b"0123456789abc" * 6000)[:length]
    ours, theirs = client(), backend()
    for _ in range(2):
        assert ours.feed(sent(opcode, payload)) == [Frame(opcode, payload)]
        assert theirs.feed(frame(opcode, payload)) == [Frame(opcode, payload)]
    assert isinstance(ours.feed(sent(opcode, payload))[0], Frame)


@pytest.mark.parametrize("length", [0, 125])
@pytest.mark.parametrize("opcode", [PING, PONG])
def test_control_frames_are_whole(opcode: int, length: int) -> None:
    payload = bytes(range(length))
    assert client().feed(sent(opcode, payload)) == [Frame(opcode, payload)]
    assert read(backend(), chopped(frame(opcode, payload), 1)) == [Frame(opcode, payload)]


def test_frames_that_come_together_are_taken_apart() -> None:
    data = sent(TEXT, b"one") + sent(PING, b"two") + sent(BINARY, b"\xff") + sent(TEXT)
    expected = [Frame(TEXT, b"one"), Frame(PING, b"two"), Frame(BINARY, b"\xff"), Frame(TEXT, b"")]
    assert client().feed(data) == expected
    assert read(client(), chopped(data, 1)) == expected


def test_a_length_may_take_more_bytes_than_it_must() -> None:
    assert client().feed(b"\x82\xfe\x00\x01" + bytes(4) + b"x") == [Frame(BINARY, b"x")]


@pytest.mark.parametrize("head", [b"\x81\xfe\x00\x7c", b"\x82\xff" + bytes(7) + b"\x77"])
def test_a_long_frame_of_the_right_size_is_not_taken_for_a_short_one(head: bytes) -> None:
    """Its number of bytes is what it would be if the second byte were a length."""
    data = head + bytes(4) + b"x" * head[-1]
    assert len(data) == head[1] - 0x80 + 6
    assert client().feed(data) == [Frame(head[0] & 0x0F, b"x" * head[-1])]


def test_nothing_makes_nothing() -> None:
    assert client().feed(b"") == []
    assert not client().closed
    assert client().failure is None


# -- fragments -----------------------------------------------------------------------------------


def test_fragments_are_given_out_as_they_come() -> None:
    receiver = client()
    assert receiver.feed(sent(TEXT, b"a", fin=False)) == [Frame(TEXT, b"a", False)]
    assert receiver.feed(sent(PING, b"p")) == [Frame(PING, b"p")]
    assert receiver.feed(sent(CONT, b"b", fin=False)) == [Frame(CONT, b"b", False)]
    assert receiver.feed(sent(CONT, b"c")) == [Frame(CONT, b"c")]


def test_empty_fragments_are_given_out_only_at_the_end() -> None:
    receiver = client()
    assert receiver.feed(sent(BINARY, fin=False) + sent(CONT, fin=False)) == []
    assert receiver.feed(sent(CONT, b"a", fin=False)) == [Frame(BINARY, b"a", False)]
    assert receiver.feed(sent(CONT, fin=False)) == []
    assert receiver.feed(sent(CONT)) == [Frame(CONT, b"")]
    assert receiver.feed(sent(TEXT, fin=False) + sent(CONT)) == [Frame(TEXT, b"")]


# -- large frames --------------------------------------------------------------------------------


def test_a_large_frame_comes_in_pieces() -> None:
    content = b"0123456789abc" * 40_000
    receiver = client()
    frames = read(receiver, chopped(sent(TEXT, content), 1460))
    assert messages(frames) == [(TEXT, content)]
    assert [frame.opcode for frame in frames] == [TEXT] + [CONT] * (len(frames) - 1)
    assert [frame.fin for frame in frames] == [False] * (len(frames) - 1) + [True]
    sizes = [len(frame.payload) for frame in frames[:-1]]
    assert PIECE_BYTES <= min(sizes) <= max(sizes) < PIECE_BYTES + 1460


def test_a_piece_is_given_out_once_it_is_large_enough() -> None:
    receiver = client()
    data = sent(BINARY, bytes(PIECE_BYTES + 1))
    head = len(data) - PIECE_BYTES - 1
    assert receiver.feed(data[:head]) == []
    assert receiver.feed(data[head : head + PIECE_BYTES - 1]) == []
    assert receiver.feed(data[head + PIECE_BYTES - 1 : -1]) == [
        Frame(BINARY, bytes(PIECE_BYTES), False)
    ]
    assert receiver.feed(data[-1:]) == [Frame(CONT, b"\0")]


def test_a_smaller_frame_waits_until_it_is_whole() -> None:
    receiver = client()
    data = sent(BINARY, bytes(PIECE_BYTES))
    assert receiver.feed(data[:-1]) == []
    assert receiver.feed(data[-1:]) == [Frame(BINARY, bytes(PIECE_BYTES))]


def test_pieces_of_a_fragment_do_not_end_the_message() -> None:
    receiver = client()
    data = sent(BINARY, bytes(PIECE_BYTES + 1), fin=False)
    assert receiver.feed(data[:-1]) == [Frame(BINARY, bytes(PIECE_BYTES), False)]
    assert receiver.feed(data[-1:] + sent(CONT, b"x")) == [
        Frame(CONT, b"\0", False),
        Frame(CONT, b"x"),
    ]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("step", range(1, 14))
def test_the_mask_turns_with_the_pieces(step: int) -> None:
    content = bytes(range(100))
    frames = read(client(), chopped(sent(BINARY, content) + sent(PING, b"p"), step))
    assert messages(frames) == [(BINARY, content), (PING, b"p")]


def test_what_is_kept_between_messages_is_small() -> None:
    receiver = client()
    read(receiver, chopped(sent(TEXT, b"x" * 200_000, fin=False) + sent(CONT, b"x" * 1000), 1460))
    kept = [getattr(receiver, name) for name in Receiver.__slots__]
    buffers = sum(map(len, {part for part in kept if isinstance(part, bytes | bytearray)}))
    assert sys.getsizeof(receiver) < 250
    assert buffers <= 4  # a mask


# -- text ----------------------------------------------------------------------------------------

GOOD = "κόσμε \U0001f600 é \uffff \U0010ffff"
BAD = [
    b"\xff",
    b"\x80",
    b"\xc0\xaf",
    b"\xc3x",
    b"\xe0\x80\x80",
    b"\xed\xa0\x80",
    b"\xf0\x80\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
]
CUT = [b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98"]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("padding", [0, 200])
def test_text_may_be_split_within_a_character(step: int, padding: int) -> None:
    content = GOOD.encode() + b"x" * padding
    assert messages(read(client(), chopped(sent(TEXT, content), step))) == [(TEXT, content)]
    *parts, last = chopped(content, step)
    fragments = [
        sent(CONT if number else TEXT, part, fin=False) for number, part in enumerate(parts)
    ]
    fragments.append(sent(CONT if parts else TEXT, last))
    assert messages(read(client(), fragments)) == [(TEXT, content)]
    assert messages(client().feed(b"".join(fragments))) == [(TEXT, content)]


@pytest.mark.parametrize("bad", BAD + CUT)
@pytest.mark.parametrize("padding", [0, 200])
def test_text_that_is_not_utf_8_is_refused(bad: bytes, padding: int) -> None:
    content = b"x" * padding + bad
    receiver = client()
    before = sent(TEXT, b"before")
    assert receiver.feed(before + sent(TEXT, content) + before) == [Frame(TEXT, b"before")]
    assert receiver.failure is not None
    assert receiver.failure.code == 1007
    assert refused(client(), sent(TEXT, content)).code == 1007
    assert refused(client(), sent(TEXT, fin=False) + sent(CONT, content)).code == 1007


@pytest.mark.parametrize("cut", CUT)
def test_a_character_may_not_be_left_unfinished(cut: bytes) -> None:
    receiver = client()
    receiver.feed(sent(TEXT, cut, fin=False))
    assert receiver.failure is None
    assert refused(receiver, sent(CONT)).code == 1007


@pytest.mark.parametrize("bad", BAD)
def test_an_error_in_text_is_found_before_its_frame_is_whole(bad: bytes) -> None:
    data = sent(TEXT, GOOD.encode() + bad + b"x" * 100)
    receiver = client()
    for byte in data[: -100 - len(bad)]:
        assert receiver.feed(bytes([byte])) == []
        assert receiver.failure is None
    for byte in data[-100 - len(bad) : -100 + 1]:
        receiver.feed(bytes([byte]))
    assert receiver.failure is not None
    assert receiver.failure.code == 1007


def test_an_error_in_text_is_found_at_its_first_byte() -> None:
    """U+110000 would be F4 90 80 80; what begins so is wrong at the second byte."""
    receiver = client()
    data = sent(TEXT, b"\xf4\x90\x80\x80")
    assert receiver.feed(data[:7]) == []
    assert receiver.failure is None
    assert refused(receiver, data[7:8]).code == 1007


def test_only_text_is_text() -> None:
    data = sent(BINARY, b"\xff", fin=False) + sent(PING, b"\xff") + sent(CONT, b"\xff")
    assert messages(client().feed(data)) == [(PING, b"\xff"), (BINARY, b"\xff\xff")]


def test_what_a_backend_sends_is_passed_on() -> None:
    receiver = backend()
    data = frame(TEXT, b"\xff") + frame(TEXT, b"\xff", fin=False) + frame(CONT, b"\xff" * 200)
    assert messages(read(receiver, chopped(data, 100))) == [(TEXT, b"\xff"), (TEXT, b"\xff" * 201)]
    assert receiver.feed(frame(CLOSE, b"\x00\x00\xff")) == [Frame(CLOSE, b"\x00\x00\xff")]
    assert receiver.failure is None
    lenient = Receiver(masked=True, check_text=False)
    assert lenient.feed(sent(TEXT, b"\xff")) == [Frame(TEXT, b"\xff")]


# -- closing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999])
def test_a_client_may_close_with_a_code(code: int) -> None:
    payload = code.to_bytes(2, "big") + "Grüße".encode()
    receiver = client()
    assert receiver.feed(sent(CLOSE, payload)) == [Frame(CLOSE, payload)]
    assert receiver.closed
    assert receiver.failure is None


@pytest.mark.parametrize(
    "code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
)
def test_a_client_may_not_close_with_every_code(code: int) -> None:
    receiver = client()
    assert refused(receiver, sent(CLOSE, code.to_bytes(2, "big"))).code == 1002
    assert not receiver.closed


@pytest.mark.parametrize(("receiver", "make"), [(client(), sent), (backend(), frame)])
def test_half_a_code_is_none(receiver: Receiver, make: type) -> None:
    assert refused(receiver, make(CLOSE, b"\x03")).code == 1002


@pytest.mark.parametrize("bad", BAD + CUT)
def test_a_reason_is_text(bad: bytes) -> None:
    assert refused(client(), sent(CLOSE, b"\x03\xe8bye" + bad)).code == 1007


@pytest.mark.parametrize("step", [1, 1000])
def test_what_follows_a_close_frame_is_ignored(step: int) -> None:
    receiver = client()
    data = sent(TEXT, b"x", fin=False) + sent(CLOSE) + sent(TEXT, b"y") + b"\xff\xff"
    assert read(receiver, chopped(data, step)) == [Frame(TEXT, b"x", False), Frame(CLOSE, b"")]
    assert receiver.closed
    assert receiver.failure is None
    assert receiver.feed(sent(PING)) == []


# -- what is refused -----------------------------------------------------------------------------

BEGUN = sent(TEXT, b"x", fin=False)


def with_first(first: int) -> bytes:
    """A masked frame without payload that begins with this byte."""
    return bytes([first, 0x80]) + MASK


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(TEXT, b"not masked"), id="not masked"),
        pytest.param(frame(PING, b""), id="control not masked"),
        *(pytest.param(with_first(0x82 | bit), id=f"bit {bit:#x}") for bit in (0x10, 0x20, 0x40)),
        *(pytest.param(with_first(0x89 | bit), id=f"ping {bit:#x}") for bit in (0x10, 0x20, 0x40)),
        *(pytest.param(with_first(0x80 | code), id=f"opcode {code}") for code in (3, 4, 5, 6, 7)),
        *(pytest.param(with_first(0x80 | code), id=f"opcode {code}") for code in range(11, 16)),
        pytest.param(sent(PING, b"x", fin=False), id="fragmented ping"),
        pytest.param(sent(CLOSE, fin=False), id="fragmented close"),
        pytest.param(sent(PONG, bytes(126)), id="long pong"),
        pytest.param(sent(CLOSE, bytes(70_000)), id="long close"),
        pytest.param(sent(CONT, b"x"), id="continuation of nothing"),
        pytest.param(sent(CONT, b"x", fin=False), id="fragment of nothing"),
        pytest.param(BEGUN + sent(TEXT, b"y"), id="text in a message"),
        pytest.param(BEGUN + sent(BINARY, b"y", fin=False), id="binary in a message"),
        pytest.param(BEGUN + sent(CONT, rsv1=True), id="marked continuation"),
        pytest.param(BEGUN + sent(CONT) + sent(CONT), id="continuation after the end"),
        pytest.param(b"\x82\xff\x80" + bytes(7) + MASK, id="64 bits"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_a_client_that_breaks_the_protocol_is_refused(data: bytes, step: int) -> None:
    receiver = client()
    before = sent(TEXT, b"before")
    found = messages(read(receiver, chopped(before + data + before, step)))
    assert found[0] == (TEXT, b"before")
    assert receiver.failure is not None
    assert receiver.failure.code == 1002
    assert str(receiver.failure)
    assert not receiver.closed
    assert receiver.feed(before) == []


def test_a_backend_must_not_mask() -> None:
    assert refused(backend(), sent(TEXT, b"x")).code == 1002
    assert refused(backend(), sent(PING, b"x")).code == 1002


def test_a_long_head_is_refused_before_its_payload_comes() -> None:
    assert refused(client(), sent(PING, bytes(126))[:2]).code == 1002
    assert refused(client(), b"\x82\xff\xff" + bytes(7)).code == 1002


def test_frames_may_be_larger_than_memory() -> None:
    receiver = client()
    assert receiver.feed(b"\x82\xff\x7f" + b"\xff" * 7 + bytes(4)) == []
    assert receiver.feed(bytes(PIECE_BYTES)) == [Frame(BINARY, bytes(PIECE_BYTES), False)]
    assert receiver.failure is None


# -- compressed messages -------------------------------------------------------------------------


def inflating(bound: int = BOUND) -> Receiver:
    return client(Inflater(False, bound))


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_compressed_message_is_given_out_inflated(step: int) -> None:
    content = GOOD.encode() * 3
    data = sent(TEXT, compress(content), rsv1=True) + sent(TEXT, b"plain") + sent(PING)
    expected = [Frame(TEXT, content), Frame(TEXT, b"plain"), Frame(PING, b"")]
    assert read(inflating(), chopped(data, step)) == expected


def test_compression_may_be_agreed_on_later() -> None:
    receiver = client()
    receiver.inflater = Inflater(False, BOUND)
    assert receiver.feed(sent(TEXT, compress(b"x"), rsv1=True)) == [Frame(TEXT, b"x")]


def test_fragments_of_a_compressed_message_are_inflated_as_they_come() -> None:
    deflater, receiver = Deflater(), inflating()
    first, second, last = (
        deflater.feed(b"one", False),
        deflater.feed("é".encode(), False),
        deflater.feed(b"", True),
    )
    assert receiver.feed(sent(TEXT, first, fin=False, rsv1=True)) == [Frame(TEXT, b"one", False)]
    assert receiver.feed(sent(PING)) == [Frame(PING, b"")]
    assert receiver.feed(sent(CONT, second, fin=False)) == [Frame(CONT, "é".encode(), False)]
    assert receiver.feed(sent(CONT, last)) == [Frame(CONT, b"")]
    assert receiver.feed(sent(TEXT, b"plain", fin=False)) == [Frame(TEXT, b"plain", False)]


def test_what_a_compressed_fragment_does_not_say_yet_is_not_given_out() -> None:
    payload, receiver = compress(b"Hello"), inflating()
    assert receiver.feed(sent(TEXT, payload[:1], fin=False, rsv1=True)) == []
    assert messages(receiver.feed(sent(CONT, payload[1:]))) == [(TEXT, b"Hello")]


def test_an_empty_compressed_message_is_a_message() -> None:
    assert inflating().feed(sent(BINARY, compress(b""), rsv1=True)) == [Frame(BINARY, b"")]


@pytest.mark.usefixtures("small_pieces")
def test_a_large_compressed_frame_is_inflated_in_pieces() -> None:
    content = bytes(range(256)) * 2
    frames = read(inflating(), chopped(sent(BINARY, compress(content), rsv1=True), 3))
    assert len(frames) > 10
    assert messages(frames) == [(BINARY, content)]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x07", 1007),
        (compress(b"\xff"), 1007),
        (compress("é".encode()[:1]), 1007),
        (compress(bytes(BOUND + 1)), 1009),
    ],
)
def test_a_compressed_message_that_is_none_is_refused(payload: bytes, code: int) -> None:
    assert refused(inflating(), sent(TEXT, payload, rsv1=True)).code == code


@pytest.mark.parametrize(
    "data", [sent(PING, rsv1=True), sent(CLOSE, rsv1=True), BEGUN + sent(CONT, rsv1=True)]
)
def test_only_the_start_of_a_message_says_that_it_is_compressed(data: bytes) -> None:
    assert refused(inflating(), data).code == 1002


def test_a_call_inflates_only_so_much() -> None:
    """A few bytes can be many messages of the largest size."""
    receiver, content = inflating(), bytes(BOUND * 3 // 4)
    large = sent(BINARY, compress(content), rsv1=True)
    receiver.feed(sent(PING))
    assert receiver.feed(large * 5 + sent(PING)) == [Frame(BINARY, content)] * 2
    assert receiver.more
    assert receiver.feed(b"") == [Frame(BINARY, content)] * 2
    assert receiver.more
    assert receiver.feed(sent(PONG)) == [Frame(BINARY, content), Frame(PING, b""), Frame(PONG, b"")]
    assert not receiver.more
    assert receiver.feed(large * 2) == [Frame(BINARY, content)] * 2
    assert not receiver.more


@pytest.mark.parametrize("end", [sent(CLOSE), b"\xff\xff"])
def test_nothing_more_comes_after_the_end(end: bytes) -> None:
    receiver = inflating()
    large = sent(BINARY, compress(bytes(BOUND)), rsv1=True)
    receiver.feed(large * 2 + end)
    assert receiver.more
    receiver.feed(b"")
    assert receiver.more
    receiver.feed(b"")
    assert not receiver.more
    assert receiver.closed is not (receiver.failure is not None)


# -- any bytes -----------------------------------------------------------------------------------


class Message(NamedTuple):
    opcode: int
    parts: list[bytes]  # one for each frame
    compressed: bool
    mask: bytes


CONTROL = st.builds(
    Message,
    st.sampled_from([PING, PONG]),
    st.lists(st.binary(max_size=125), min_size=1, max_size=1),
    st.just(False),
    st.binary(min_size=4, max_size=4),
)
PART = st.binary(max_size=40) | st.sampled_from([bytes(126), bytes(300)])
BINARIES = st.builds(
    Message,
    st.just(BINARY),
    st.lists(PART, min_size=1, max_size=4),
    st.booleans(),
    st.binary(min_size=4, max_size=4),
)
TEXTS = st.builds(
    lambda text, step, compressed, mask: Message(
        TEXT, list(chopped(text.encode(), step)) or [b""], compressed, mask
    ),
    st.text(max_size=60),
    st.integers(1, 50),
    st.booleans(),
    st.binary(min_size=4, max_size=4),
)
MESSAGES = st.lists(CONTROL | BINARIES | TEXTS, max_size=6)
CUTS = st.lists(st.integers(0, 600), max_size=12)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at these places; some parts may be empty."""
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def encode(found: list[Message], *, masked: bool = True) -> bytes:
    """What a client sends, or, not masked, a backend."""
    data = b""
    for opcode, parts, compressed, mask in found:
        deflater = Deflater()
        for number, part in enumerate(parts):
            fin, start = number == len(parts) - 1, number == 0
            payload = deflater.feed(part, fin) if compressed else part
            code, rsv1 = opcode if start else CONT, start and compressed
            if masked:
                data += masked_frame(code, payload, mask, fin=fin, rsv1=rsv1)
            else:
                data += frame(code, payload, fin=fin, rsv1=rsv1)
    return data


@settings(max_examples=150, deadline=None)
@given(MESSAGES, CUTS, st.booleans())
def test_any_split_gives_the_same_messages(
    found: list[Message], cuts: list[int], masked: bool
) -> None:
    data = encode(found, masked=masked)
    expected = [(message.opcode, b"".join(message.parts)) for message in found]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_BYTES", 16)
        for parts in ([data], split(data, cuts), chopped(data, 1)):
            receiver = (client if masked else backend)(Inflater(True, BOUND))
            assert messages(read(receiver, parts)) == expected
            assert receiver.failure is None


TOKENS = st.sampled_from(
    [
        sent(TEXT, b"abc"),
        sent(TEXT, b"abc", fin=False),
        sent(BINARY, bytes(130)),
        sent(CONT, "é".encode()[:1], fin=False),
        sent(CONT, "é".encode()[1:]),
        sent(CONT),
        sent(PING, b"p"),
        sent(CLOSE, b"\x03\xe8"),
        sent(TEXT, b"\xff"),
        b"\x81\xfe",
        b"\x82\xff" + bytes(6),
        b"\x01\x83",
        MASK,
        b"\x00\x20",
    ]
)
SOUP = st.lists(TOKENS, max_size=8).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(SOUP | st.binary(max_size=40), CUTS)
@example(sent(TEXT, b"\xc3\xa9\xff" + bytes(20))[:-5], [8, 10])
def test_garbage_is_refused_in_the_same_way_however_it_arrives(
    data: bytes, cuts: list[int]
) -> None:
    whole, parts = client(), client()
    found, found_in_parts = whole.feed(data), read(parts, split(data, cuts))
    assert messages(found_in_parts) == messages(found)
    assert parts.closed is whole.closed
    assert repr(parts.failure) == repr(whole.failure)
    assert whole.failure is None or whole.failure.code in (1002, 1007)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(TOKENS | st.binary(max_size=30).map(lambda x: sent(TEXT, x, rsv1=True)), max_size=6)
)
def test_compressed_garbage_is_refused_too(parts: list[bytes]) -> None:
    receiver = inflating(1000)
    frames = read(receiver, parts)
    assert all(len(frame.payload) <= 1000 for frame in frames)
    assert receiver.failure is None or receiver.failure.code in (1002, 1007, 1009)


# -- beside another implementation ---------------------------------------------------------------


def other_end() -> PerMessageDeflate:
    """Another implementation's compression, which refers to earlier messages."""
    return PerMessageDeflate(True, False, 15, 15)


@settings(max_examples=60, deadline=None)
@given(MESSAGES, CUTS, st.booleans(), st.booleans())
def test_we_read_what_others_write(
    found: list[Message], cuts: list[int], masked: bool, compressed: bool
) -> None:
    data, expected = b"", []
    extensions = [other_end()] if compressed else []
    for opcode, parts, _, _ in found:
        # To flush twice with nothing in between is beyond the other implementation.
        contents = [part or b"x" for part in parts]
        expected.append((opcode, b"".join(contents)))
        for number, content in enumerate(contents, 1):
            code, fin = Opcode(opcode if number == 1 else CONT), number == len(contents)
            data += OtherFrame(code, content, fin=fin).serialize(mask=masked, extensions=extensions)
    receiver = (client if masked else backend)(Inflater(False, BOUND) if compressed else None)
    assert messages(read(receiver, split(data, cuts))) == expected
    assert receiver.failure is None


@settings(max_examples=60, deadline=None)
@given(MESSAGES, st.booleans())
def test_others_read_what_we_write(found: list[Message], masked: bool) -> None:
    stream, extension = StreamReader(), PerMessageDeflate(True, True, 15, 15)
    stream.feed_data(encode(found, masked=masked))
    frames = []
    for _ in range(sum(len(message.parts) for message in found)):
        parser: Generator[None, None, OtherFrame] = OtherFrame.parse(
            stream.read_exact, mask=masked, extensions=[extension]
        )
        with pytest.raises(StopIteration) as ended:
            next(parser)
        other = ended.value.value
        frames.append((int(other.opcode), bytes(other.data), other.fin))
    assert frames == [
        (CONT if number else opcode, part, number == len(parts) - 1)
        for opcode, parts, _, _ in found
        for number, part in enumerate(parts)
    ]
