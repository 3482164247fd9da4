"""Frames, as a server and as a client send them (RFC 6455 §5)."""

from struct import Struct
from typing import NamedTuple

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

__all__ = [
    "BINARY",
    "CLOSE",
    "CONT",
    "FIRST_CONTROL",
    "PING",
    "PONG",
    "TEXT",
    "Frame",
    "apply_mask",
    "close_payload",
    "frame",
    "is_sendable",
    "masked_frame",
    "parse_close",
    "sendable_code",
]

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIRST_CONTROL = 8  # from here on opcodes are those of control frames (§5.5)

# The payload of a control frame has at most 125 bytes, and a code takes two of them.
REASON_MAX = 123

_NORMAL = 1000
# That a close frame may carry, beside those of libraries and applications (RFC 6455 §7.4).
_CODES = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015)))

# The start of a frame by how its length is written; for a short one a look-up is faster.
_BYTES = tuple(bytes((value,)) for value in range(256))
_pack_medium = Struct("!BBH").pack
_pack_long = Struct("!BBQ").pack


class Frame(NamedTuple):
    """A frame, or a piece of a large data frame; the pieces after its first have opcode CONT."""

    opcode: int
    payload: bytes
    fin: bool = True  # the end of its message


def frame(opcode: int, payload: bytes, *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A frame as a server sends it; `rsv1` marks a compressed message's first (RFC 7692 §6)."""
    if fin:
        opcode |= 0x80
    if rsv1:
        opcode |= 0x40
    length = len(payload)
    if length < 126:
        return _BYTES[opcode] + _BYTES[length] + payload
    if length < 0x10000:
        return _pack_medium(opcode, 126, length) + payload
    return _pack_long(opcode, 127, length) + payload


def masked_frame(
    opcode: int, payload: bytes, mask: bytes, *, fin: bool = True, rsv1: bool = False
) -> bytes:
    """The same as a client sends it; `mask` is four bytes that nobody can foresee."""
    if fin:
        opcode |= 0x80
    if rsv1:
        opcode |= 0x40
    length = len(payload)
    payload = apply_mask(payload, mask)
    if length < 126:
        return _BYTES[opcode] + _BYTES[length | 0x80] + mask + payload
    if length < 0x10000:
        return _pack_medium(opcode, 254, length) + mask + payload
    return _pack_long(opcode, 255, length) + mask + payload


def close_payload(code: int | None, reason: bytes = b"") -> bytes:
    """The payload of a close frame, its reason cut to what fits; without a code it is empty."""
    if code is None:
        return b""
    if len(reason) > REASON_MAX:
        # What is cut through a character would not be UTF-8.
        reason = reason[:REASON_MAX].decode(errors="ignore").encode()
    return code.to_bytes(2, "big") + reason


def parse_close(payload: bytes) -> tuple[int | None, bytes]:
    """The code and the reason of a close frame; without a whole code, none."""
    if len(payload) < 2:
        return None, b""
    return int.from_bytes(payload[:2], "big"), payload[2:]


def is_sendable(code: int) -> bool:
    """Whether a close frame may carry `code`."""
    return code in _CODES or 3000 <= code <= 4999


def sendable_code(code: int) -> int:
    """What to send for `code`, of which 16 bits count: 1000 for what no frame may carry."""
    code &= 0xFFFF
    return code if is_sendable(code) else _NORMAL
