"""permessage-deflate: what is agreed on, and messages smaller than they were."""

import tracemalloc
import zlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as OtherFrame
from websockets.frames import Opcode

from gripproxy.errors import HttpError, WebSocketError
from gripproxy.websocket.deflate import (
    OFFER,
    Agreement,
    Deflater,
    Inflater,
    accepted,
    compress,
    negotiate,
)

BOUND = 100_000
TAIL = b"\x00\x00\xff\xff"

ANSWER = b"permessage-deflate; server_no_context_takeover"


# -- what a client offers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "agreement", "parameters"),
    [
        (b"", Agreement(), b""),
        (b"; client_max_window_bits", Agreement(), b""),
        (b"; client_max_window_bits=8", Agreement(), b""),
        (b"; server_no_context_takeover", Agreement(), b""),
        (b"; client_no_context_takeover", Agreement(15, True), b"; client_no_context_takeover"),
        (b"; server_max_window_bits=9", Agreement(9), b"; server_max_window_bits=9"),
        (b"; server_max_window_bits=15", Agreement(15), b"; server_max_window_bits=15"),
        (b'; server_max_window_bits="10"', Agreement(10), b"; server_max_window_bits=10"),
        (
            b";server_max_window_bits=12 ; client_max_window_bits=15;client_no_context_takeover"
            b";server_no_context_takeover",
            Agreement(12, True),
            b"; client_no_context_takeover; server_max_window_bits=12",
        ),
    ],
)
def test_an_acceptable_offer_is_answered(
    offer: bytes, agreement: Agreement, parameters: bytes
) -> None:
    assert negotiate([b"permessage-deflate" + offer]) == (agreement, ANSWER + parameters)


UNACCEPTABLE = [
    b"grip",
    b"Permessage-Deflate",
    b"x-webkit-deflate-frame",
    b"permessage-deflate; unknown",
    b"permessage-deflate; server_no_context_takeover=1",
    b"permessage-deflate; client_no_context_takeover=1",
    b"permessage-deflate; server_max_window_bits",
    b"permessage-deflate; server_max_window_bits=8",
    b"permessage-deflate; server_max_window_bits=16",
    b"permessage-deflate; server_max_window_bits=7",
    b"permessage-deflate; server_max_window_bits=09",
    b"permessage-deflate; server_max_window_bits=+9",
    b"permessage-deflate; client_max_window_bits=7",
    b"permessage-deflate; client_max_window_bits=16",
    b"permessage-deflate; client_no_context_takeover; client_no_context_takeover",
    b"permessage-deflate; client_max_window_bits; client_max_window_bits=9",
]


@pytest.mark.parametrize("offer", UNACCEPTABLE)
def test_another_offer_is_not(offer: bytes) -> None:
    assert negotiate([offer]) is None


def test_without_an_offer_there_is_no_compression() -> None:
    assert negotiate([]) is None


def test_the_first_acceptable_offer_is_taken() -> None:
    good = b"permessage-deflate; server_max_window_bits=11"
    later = b"permessage-deflate"
    expected = (Agreement(11), ANSWER + b"; server_max_window_bits=11")
    assert negotiate([b", ".join([*UNACCEPTABLE, good, later])]) == expected
    assert negotiate([*UNACCEPTABLE, good, later]) == expected


@pytest.mark.parametrize(
    "value",
    [
        b";",
        b"a b",
        b"permessage-deflate;",
        b"permessage-deflate; server_max_window_bits=",
        b'permessage-deflate; server_max_window_bits=""',
        b'permessage-deflate; server_max_window_bits="9',
        b"\xe4",
    ],
)
def test_a_malformed_offer_is_a_bad_request(value: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        negotiate([value])
    assert caught.value.status == 400


# -- what a backend accepts ----------------------------------------------------------------------


def test_an_empty_value_offers_nothing() -> None:
    assert negotiate([b""]) is None
    assert negotiate([b"", b"permessage-deflate", b""]) is not None


def test_what_is_offered_to_a_backend_leaves_it_the_choice() -> None:
    assert OFFER == b"permessage-deflate"


@pytest.mark.parametrize(
    ("values", "agreement"),
    [
        ([], None),
        ([b""], None),
        ([b"grip"], None),
        ([b"grip; message-prefix=m:"], None),
        ([b'grip; message-prefix=""'], None),
        ([b"grip; message-prefix="], None),
        ([b'grip; message-prefix="a, permessage-deflate'], None),
        ([b'grip; message-prefix="a, permessage-deflate"'], None),
        ([b"Grip"], None),
        ([b"x-webkit-deflate-frame"], None),
        ([b"permessage-deflate grip"], None),
        ([b"permessage-deflate"], Agreement()),
        ([b"permessage-deflate; server_no_context_takeover"], Agreement(15, True)),
        ([b"permessage-deflate; client_no_context_takeover"], Agreement()),
        ([b"permessage-deflate; server_max_window_bits=8"], Agreement()),
        ([b'grip; message-prefix="", permessage-deflate'], Agreement()),
        ([b"permessage-deflate,grip;message-prefix="], Agreement()),
        ([b"grip", b"permessage-deflate; server_no_context_takeover"], Agreement(15, True)),
    ],
)
def test_a_backend_accepts(values: list[bytes], agreement: Agreement | None) -> None:
    assert accepted(values) == agreement


@pytest.mark.parametrize(
    "values",
    [
        [b"permessage-deflate; client_max_window_bits=15"],
        [b"permessage-deflate; client_max_window_bits"],
        [b"permessage-deflate; server_max_window_bits"],
        [b"permessage-deflate; unknown"],
        [b"permessage-deflate; server_no_context_takeover; server_no_context_takeover"],
        [b"permessage-deflate, permessage-deflate"],
        [b"permessage-deflate", b"permessage-deflate"],
        [b"permessage-deflate;"],
    ],
)
def test_a_backend_accepts_only_what_was_offered(values: list[bytes]) -> None:
    with pytest.raises(WebSocketError) as caught:
        accepted(values)
    assert caught.value.code == 1010


# -- messages inflated ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payloads",
    [
        ["f2 48 cd c9 c9 07 00"],
        ["f2 48 cd", "c9 c9 07 00"],
        ["00 05 00 fa ff 48 65 6c 6c 6f 00"],
        ["f3 48 cd c9 c9 07 00 00"],
        ["f2 48 05 00 00 00 ff ff ca c9 c9 07 00"],
        ["f3 48 cd c9 c9 07 00", "00"],
    ],
)
def test_what_the_standard_shows_is_inflated(payloads: list[str]) -> None:
    inflater = Inflater(True, BOUND)
    *first, last = map(bytes.fromhex, payloads)
    parts = [inflater.inflate(payload, False) for payload in first]
    assert b"".join([*parts, inflater.inflate(last, True)]) == b"Hello"


def test_a_peer_may_refer_to_its_earlier_messages() -> None:
    """What RFC 7692 §7.2.3.2 shows."""
    inflater = Inflater(False, BOUND)
    assert inflater.inflate(bytes.fromhex("f2 48 cd c9 c9 07 00"), True) == b"Hello"
    assert inflater.inflate(bytes.fromhex("f2 00 11 00 00"), True) == b"Hello"


def test_a_peer_that_agreed_not_to_may_not() -> None:
    inflater = Inflater(True, BOUND)
    assert inflater.inflate(bytes.fromhex("f2 48 cd c9 c9 07 00"), True) == b"Hello"
    with pytest.raises(WebSocketError) as caught:
        inflater.inflate(bytes.fromhex("f2 00 11 00 00"), True)
    assert caught.value.code == 1007


@pytest.mark.parametrize("forgets", [True, False])
def test_a_final_block_ends_neither_the_message_nor_the_connection(forgets: bool) -> None:
    inflater = Inflater(forgets, BOUND)
    blocks = b""
    for part in (b"one ", b"two ", b"three"):
        stream = zlib.compressobj(wbits=-15)
        blocks += stream.compress(part) + stream.flush(zlib.Z_FINISH)
    for _ in range(3):
        assert inflater.inflate(blocks + b"\x00", True) == b"one two three"


@pytest.mark.parametrize("payload", [b"\x07", b"\xff\xff", b"\x06\xff", b"Hello"])
def test_what_is_not_compressed_is_refused(payload: bytes) -> None:
    with pytest.raises(WebSocketError) as caught:
        Inflater(True, BOUND).inflate(payload, True)
    assert caught.value.code == 1007


def test_a_message_may_be_as_large_as_the_bound_and_no_larger() -> None:
    inflater = Inflater(False, 1000)
    for _ in range(3):
        assert inflater.inflate(compress(bytes(1000)), True) == bytes(1000)
    with pytest.raises(WebSocketError) as caught:
        inflater.inflate(compress(bytes(1001)), True)
    assert caught.value.code == 1009


def test_the_bound_holds_for_all_the_pieces_of_a_message() -> None:
    inflater, deflater = Inflater(False, 1000), Deflater()
    assert inflater.inflate(deflater.feed(bytes(600), False), False) == bytes(600)
    assert inflater.inflate(deflater.feed(bytes(400), False), False) == bytes(400)
    with pytest.raises(WebSocketError) as caught:
        inflater.inflate(deflater.feed(b"x", False), False)
    assert caught.value.code == 1009


def test_the_bound_holds_across_final_blocks() -> None:
    stream = zlib.compressobj(wbits=-15)
    block = stream.compress(bytes(600)) + stream.flush(zlib.Z_FINISH)
    with pytest.raises(WebSocketError) as caught:
        Inflater(False, 1000).inflate(block + block + b"\x00", True)
    assert caught.value.code == 1009


def test_what_is_over_the_bound_is_not_inflated() -> None:
    bomb = compress(bytes(20_000_000))
    assert len(bomb) < 20_000
    inflater = Inflater(False, BOUND)
    tracemalloc.start()
    try:
        with pytest.raises(WebSocketError):
            inflater.inflate(bomb, True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * BOUND


def test_a_payload_of_final_blocks_alone_is_refused() -> None:
    empty = b"\x03\x00"
    assert Inflater(False, BOUND).inflate(empty * 50 + b"\x00", True) == b""
    with pytest.raises(WebSocketError) as caught:
        Inflater(False, BOUND).inflate(empty * 30_000 + b"\x00", True)
    assert caught.value.code == 1007


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_garbage_raises_nothing_else(payload: bytes, fin: bool) -> None:
    inflater = Inflater(False, 1000)
    try:
        assert len(inflater.inflate(payload, fin)) <= 1000
    except WebSocketError as error:
        assert error.code in (1007, 1009)


# -- messages compressed -------------------------------------------------------------------------

CONTENT = st.binary(max_size=300) | st.sampled_from(
    [b"", b"Hello", b"Hello, hello, hello", bytes(5000), bytes(range(256)) * 8]
)


def other(bits: int = 15, *, remote: bool = True, local: bool = True) -> PerMessageDeflate:
    """The other end, in another implementation; `remote`, `local`: who forgets messages."""
    return PerMessageDeflate(remote, local, bits, bits)


def test_an_empty_message_is_one_byte() -> None:
    assert compress(b"") == b"\x00"


@settings(max_examples=60, deadline=None)
@given(st.lists(CONTENT, max_size=4), st.integers(9, 15), st.booleans())
def test_what_we_compress_others_inflate(contents: list[bytes], bits: int, forgets: bool) -> None:
    end, ours = other(bits, remote=forgets), Inflater(forgets, BOUND)
    for content in contents:
        payload = compress(content, bits)
        coded = OtherFrame(Opcode.BINARY, payload, fin=True, rsv1=True)
        assert end.decode(coded).data == content
        assert ours.inflate(payload, True) == content


def inflate_with_window(payload: bytes, bits: int) -> bytes:
    """The content, by an end that keeps no more of it than agreed."""
    stream, content, rest = zlib.decompressobj(-bits), b"", payload + TAIL
    while rest:
        content += stream.decompress(rest, 100)
        rest = stream.unconsumed_tail
    return content


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_a_window_is_no_larger_than_agreed(bits: int) -> None:
    block = Random(1).randbytes(300)
    content = block + bytes(20_000) + block
    assert inflate_with_window(compress(content, bits), bits) == content
    assert inflate_with_window(Deflater(bits).feed(content, True), bits) == content


def test_a_window_is_as_large_as_agreed() -> None:
    block = Random(1).randbytes(300)
    content = block + bytes(20_000) + block
    for small, large in (
        (compress(content, 9), compress(content)),
        (Deflater(9).feed(content, True), Deflater().feed(content, True)),
    ):
        assert len(large) < len(small) - 200
    with pytest.raises(zlib.error):
        inflate_with_window(compress(content), 9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(CONTENT, min_size=1, max_size=4), max_size=3), st.integers(9, 15))
def test_what_we_compress_in_pieces_others_inflate(messages: list[list[bytes]], bits: int) -> None:
    deflater, end, ours = Deflater(bits), other(bits), Inflater(True, BOUND)
    for pieces in messages:
        content = b""
        for number, piece in enumerate(pieces, 1):
            fin = number == len(pieces)
            payload = deflater.feed(piece, fin)
            opcode = Opcode.BINARY if number == 1 else Opcode.CONT
            coded = OtherFrame(opcode, payload, fin=fin, rsv1=number == 1)
            content += end.decode(coded).data
            # Nothing of a piece waits for the next.
            assert ours.inflate(payload, fin) == piece
        assert content == b"".join(pieces)


def test_a_message_may_end_without_anything_new() -> None:
    deflater, inflater = Deflater(), Inflater(False, BOUND)
    for _ in range(2):
        assert inflater.inflate(deflater.feed(b"Hello", False), False) == b"Hello"
        assert deflater.feed(b"", True) == b"\x00"
        assert inflater.inflate(b"\x00", True) == b""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(CONTENT, min_size=1, max_size=4), max_size=3), st.booleans())
def test_what_others_compress_we_inflate(messages: list[list[bytes]], forgets: bool) -> None:
    end, inflater = other(local=forgets), Inflater(forgets, BOUND)
    for pieces in messages:
        content = b""
        for number, piece in enumerate(pieces, 1):
            # Others do not flush twice with nothing in between.
            piece = piece or b"x"
            opcode = Opcode.BINARY if number == 1 else Opcode.CONT
            frame = end.encode(OtherFrame(opcode, piece, fin=number == len(pieces)))
            content += inflater.inflate(bytes(frame.data), frame.fin)
        assert content == b"".join(piece or b"x" for piece in pieces)
