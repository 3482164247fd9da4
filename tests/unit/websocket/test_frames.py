"""Frames as they are sent: heads, masks, and what a close frame says."""

import importlib.util
import sys
from collections.abc import Generator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame as OtherFrame
from websockets.frames import Opcode
from websockets.streams import StreamReader

from gripproxy.websocket import frames
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
    parse_close,
    sendable_code,
)

MASK = b"\x37\xfa\x21\x3d"
OPCODES = (CONT, TEXT, BINARY, CLOSE, PING, PONG)


def other_reads(data: bytes, *, mask: bool) -> OtherFrame:
    """The one frame in `data` as another implementation reads it."""
    stream = StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    parser: Generator[None, None, OtherFrame] = OtherFrame.parse(stream.read_exact, mask=mask)
    with pytest.raises(StopIteration) as ended:
        next(parser)
    left = stream.at_eof()
    with pytest.raises(StopIteration) as stopped:
        next(left)
    assert stopped.value.value is True, "there is something behind the frame"
    found = ended.value.value
    assert isinstance(found, OtherFrame)
    return found


# -- what RFC 6455 §5.7 shows --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (frame(TEXT, b"Hello"), "81 05 48 65 6c 6c 6f"),
        (masked_frame(TEXT, b"Hello", MASK), "81 85 37 fa 21 3d 7f 9f 4d 51 58"),
        (frame(TEXT, b"Hel", fin=False), "01 03 48 65 6c"),
        (frame(CONT, b"lo"), "80 02 6c 6f"),
        (frame(PING, b"Hello"), "89 05 48 65 6c 6c 6f"),
        (masked_frame(PONG, b"Hello", MASK), "8a 85 37 fa 21 3d 7f 9f 4d 51 58"),
        (frame(CLOSE, b""), "88 00"),
        (masked_frame(CONT, b"", MASK, fin=False), "00 80 37 fa 21 3d"),
    ],
)
def test_frames_are_as_the_standard_shows_them(made: bytes, shown: str) -> None:
    assert made == bytes.fromhex(shown)


def test_the_first_frame_of_a_compressed_message_is_marked() -> None:
    assert frame(TEXT, b"x", rsv1=True) == b"\xc1\x01x"
    assert frame(BINARY, b"x", fin=False, rsv1=True) == b"\x42\x01x"
    assert masked_frame(TEXT, b"x", b"\0\0\0\0", rsv1=True) == b"\xc1\x81\0\0\0\0x"


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, "82 00"),
        (125, "82 7d"),
        (126, "82 7e 00 7e"),
        (127, "82 7e 00 7f"),
        (65535, "82 7e ff ff"),
        (65536, "82 7f 00 00 00 00 00 01 00 00"),
    ],
)
def test_a_length_takes_as_few_bytes_as_it_can(length: int, head: str) -> None:
    payload, start = bytes(length), bytes.fromhex(head)
    assert frame(BINARY, payload) == start + payload
    start = start[:1] + bytes([start[1] | 0x80]) + start[2:]
    assert masked_frame(BINARY, payload, b"\0\0\0\0") == start + b"\0\0\0\0" + payload


@settings(max_examples=100, deadline=None)
@given(
    opcode=st.sampled_from(OPCODES),
    payload=st.binary(max_size=125) | st.binary(min_size=126, max_size=300),
    mask=st.binary(min_size=4, max_size=4),
    fin=st.booleans(),
    rsv1=st.booleans(),
)
def test_another_implementation_reads_our_frames(
    opcode: int, payload: bytes, mask: bytes, fin: bool, rsv1: bool
) -> None:
    fin = fin or opcode >= CLOSE  # which others refuse to read
    payload = payload[:125] if opcode >= CLOSE else payload
    expected = OtherFrame(Opcode(opcode), payload, fin=fin)
    # That a message is compressed is for an extension to read.
    first = bytes([frame(opcode, payload, fin=fin, rsv1=rsv1)[0] ^ (0x40 if rsv1 else 0)])
    plain = first + frame(opcode, payload, fin=fin, rsv1=rsv1)[1:]
    masked = first + masked_frame(opcode, payload, mask, fin=fin, rsv1=rsv1)[1:]
    assert other_reads(plain, mask=False) == expected
    assert other_reads(masked, mask=True) == expected


def test_a_frame_ends_its_message_unless_it_says_otherwise() -> None:
    assert Frame(TEXT, b"x") == (TEXT, b"x", True)


def test_masking_needs_no_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    assert frames.__file__ is not None
    spec = importlib.util.spec_from_file_location("frames_without_speedups", frames.__file__)
    assert spec is not None
    assert spec.loader is not None
    slow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slow)
    assert slow.apply_mask.__module__ == "websockets.utils"
    for length in (0, 5, 200):
        payload = bytes(range(length))
        assert slow.masked_frame(TEXT, payload, MASK) == masked_frame(TEXT, payload, MASK)


# -- close frames --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (b"", None, b""),
        (b"\x03", None, b""),
        (b"\x03\xe8", 1000, b""),
        (b"\x03\xe8bye", 1000, b"bye"),
        (b"\x00\x00", 0, b""),
        (b"\xff\xff\xff", 65535, b"\xff"),
    ],
)
def test_a_close_frame_says_a_code_and_a_reason(
    payload: bytes, code: int | None, reason: bytes
) -> None:
    assert parse_close(payload) == (code, reason)


@pytest.mark.parametrize(
    ("code", "reason", "payload"),
    [
        (None, b"", b""),
        (None, b"a reason needs a code", b""),
        (1000, b"", b"\x03\xe8"),
        (4000, b"bye", b"\x0f\xa0bye"),
        (1000, b"x" * 123, b"\x03\xe8" + b"x" * 123),
        (1000, b"x" * 124, b"\x03\xe8" + b"x" * 123),
        (1000, b"x" * 122 + "é".encode(), b"\x03\xe8" + b"x" * 122),
        (1000, b"x" * 121 + "éx".encode(), b"\x03\xe8" + b"x" * 121 + "é".encode()),
    ],
)
def test_the_payload_of_a_close_frame_fits_into_one(
    code: int | None, reason: bytes, payload: bytes
) -> None:
    assert close_payload(code, reason) == payload


@pytest.mark.parametrize(
    ("code", "sent"),
    [
        *((code, 1000) for code in (0, 1, 999, 1005, 1006, 1015, 65536, 65536 + 1005)),
        *((code, code) for code in (1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999)),
        *((code, 1000) for code in (1004, 1016, 2999, 5000, 65535)),
        (65536 + 4000, 4000),
    ],
)
def test_only_codes_that_a_frame_may_carry_are_sent(code: int, sent: int) -> None:
    assert sendable_code(code) == sent
