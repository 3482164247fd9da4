"""Frames read from the bytes of a connection, and checked (RFC 6455 §5, §7 and §8)."""

from codecs import utf_8_decode

from gripproxy.errors import WebSocketError
from gripproxy.websocket.deflate import Inflater
from gripproxy.websocket.frames import (
    BINARY,
    CLOSE,
    CONT,
    PONG,
    TEXT,
    Frame,
    apply_mask,
    is_sendable,
)

# A data frame's payload is given out before its end once this much of it waits.
PIECE_BYTES = 65_536

_PROTOCOL_ERROR, _INVALID_DATA = 1002, 1007
_FIN_TEXT, _FIN_BINARY = 0x80 | TEXT, 0x80 | BINARY
# From here on a view is cheaper to make than a copy.
_VIEW_BYTES = 16_384
_WHOLE = (_FIN_TEXT, _FIN_BINARY)

# Calling Frame itself takes twice as long.
_tuple = tuple.__new__


class Receiver:
    """Reads what one peer sends, which must be `masked` if that is a client.

    A message comes out as frames that need not be those in which it came: large ones in pieces,
    empty ones only at its end, all inflated. `check_text`: text must be UTF-8, and so must the
    reason of a close frame, whose code must be one that a peer may send.
    """

    __slots__ = (
        "_buffer",
        "_check_text",
        "_fin",
        "_gathered",
        "_idle",
        "_inflated",
        "_inflating",
        "_kind",
        "_left",
        "_mask",
        "_masked",
        "_opcode",
        "_tail",
        "closed",
        "failure",
        "inflater",
        "more",
    )

    def __init__(self, *, masked: bool, check_text: bool, inflater: Inflater | None = None) -> None:
        self.inflater = inflater
        self.failure: WebSocketError | None = None  # the peer broke the protocol; nothing follows
        self.closed = False  # a close frame came; what follows it is ignored
        self.more = False  # feed(b"") gives more: one call inflates only so much
        self._masked = masked
        self._check_text = check_text
        self._idle = True  # open, between messages, and with nothing kept
        self._buffer = b""  # what no frame was made of yet
        self._inflated = 0  # bytes in this call

        # The message that has begun:
        self._kind = CONT  # TEXT, BINARY, or CONT if there is none
        self._opcode = CONT  # of its next piece
        self._inflating: Inflater | None = None  # None: it is not compressed
        self._tail = b""  # the start of a character that has not come whole

        # Its frame that has not come whole:
        self._left = 0  # bytes to come
        self._fin = False
        self._mask = b""  # as it applies to the next byte
        self._gathered: bytearray | None = None  # unmasked, checked, and not given out

    def feed(self, data: bytes) -> list[Frame]:
        """The frames and pieces that `data` completes, in their order.

        At an error `failure` is set, and what came before it is returned. When what is returned
        had to be inflated and is larger than the inflater's bound, the rest waits for the next
        call, and `more` is set.
        """
        # What an echo or a chat sends: a small message in a frame, with nothing around it.
        if self._idle and len(data) > 5 and self._masked:
            first, second = data[0], data[1]
            if 127 < second < 254 and second == len(data) + 122:
                if first == _FIN_TEXT:
                    payload = apply_mask(data[6:], data[2:6])
                    if payload.isascii() or not self._check_text or _is_text(payload):
                        return [_tuple(Frame, (TEXT, payload, True))]
                elif first == _FIN_BINARY:
                    return [_tuple(Frame, (BINARY, apply_mask(data[6:], data[2:6]), True))]
        frames: list[Frame] = []
        if self.failure is not None or self.closed:
            return frames
        try:
            self._take(data, frames)
        except WebSocketError as error:
            # Without a traceback, which would keep alive what it passed through.
            self.failure = WebSocketError(str(error), error.code)
        if self.failure is not None or self.closed:
            self._forget()
        else:
            self._idle = not self._buffer and self._kind == CONT
        return frames

    def _forget(self) -> None:
        """What has come and was not given out counts no more."""
        self._idle = self.more = False
        self._buffer = self._tail = b""
        self._kind = CONT
        self._left = 0
        self._gathered = self._inflating = None

    def _take(self, data: bytes, frames: list[Frame]) -> None:
        """Adds to `frames` what `data` completes, up to an error, which is raised."""
        if self._buffer:
            data = self._buffer + data
        self._inflated = 0
        self.more = False
        masked = self._masked
        mask = b""
        end = len(data)
        position = self._gather(data, 0, frames) if self._left else 0
        while end - position > 1:
            if self._inflated and self._is_enough():
                self.more = True
                break
            first, second = data[position], data[position + 1]
            if first not in _WHOLE or self._kind or (second > 0x7F) is not masked:
                self._check_head(first, second)
            start = position + 2
            length = second & 0x7F
            if length > 125:
                size = 2 if length == 126 else 8
                if end - start < size:
                    break
                length = int.from_bytes(data[start : start + size], "big")
                if length >> 63:
                    raise WebSocketError("invalid length", _PROTOCOL_ERROR)
                start += size
            if masked:
                if end - start < 4:
                    break
                mask = data[start : start + 4]
                start += 4
            after = start + length
            opcode = first & 0x0F
            if after > end:
                if opcode >= CLOSE:
                    break
                self._begin(first)
                self._left = length
                self._fin = first > 0x7F
                self._mask = mask
                self._gathered = bytearray()
                position = self._gather(data, start, frames)
                break
            payload = _unmask(data, start, after, mask) if masked else data[start:after]
            position = after
            if opcode >= CLOSE:
                if opcode == CLOSE:
                    self._check_close(payload)
                    self.closed = True
                frames.append(_tuple(Frame, (opcode, payload, True)))
                if self.closed:
                    break
            elif first == _FIN_BINARY or (
                first == _FIN_TEXT and (payload.isascii() or not self._check_text)
            ):
                # Where the two calls below lead as well.
                frames.append(_tuple(Frame, (opcode, payload, True)))
            else:
                self._begin(first)
                self._give(payload, first > 0x7F, frames)
        self._buffer = data[position:]

    def _begin(self, first: int) -> None:
        """The head of a data frame is complete."""
        opcode = first & 0x0F
        if opcode != CONT:
            self._kind = self._opcode = opcode
            self._inflating = self.inflater if first & 0x40 else None

    def _gather(self, data: bytes, start: int, frames: list[Frame]) -> int:
        """Takes from `start` what belongs to the frame that has not come whole; where that ends."""
        end = min(len(data), start + self._left)
        self._left -= end - start
        if not self._masked:
            part = data[start:end]
        else:
            part = _unmask(data, start, end, self._mask)
            turn = len(part) & 3
            self._mask = self._mask[turn:] + self._mask[:turn]
        fin = self._fin and not self._left
        if self._inflating is None:
            # Now, since the rest may be long in coming.
            self._check_part(part, fin)
        gathered = self._gathered
        assert gathered is not None
        if self._left and len(gathered) + len(part) < PIECE_BYTES:
            gathered += part
            return end
        if gathered:
            part = b"".join((gathered, part))
        self._gathered = bytearray() if self._left else None
        self._give(part, fin, frames, checked=True)
        return end

    def _give(
        self, payload: bytes, fin: bool, frames: list[Frame], *, checked: bool = False
    ) -> None:
        """A piece of a message is there. `fin`: the last; `checked`: as far as it is text."""
        if self._inflating is not None:
            payload = self._inflating.inflate(payload, fin)
            self._inflated += len(payload)
            checked = False
        if not checked:
            self._check_part(payload, fin)
        if payload or fin:
            frames.append(_tuple(Frame, (self._opcode, payload, fin)))
            self._opcode = CONT
        if fin:
            self._kind = CONT

    def _is_enough(self) -> bool:
        return self.inflater is not None and self._inflated >= self.inflater.bound

    def _check_head(self, first: int, second: int) -> None:
        opcode = first & 0x0F
        if first & 0x30:
            problem = "reserved bits are set"
        elif (second > 0x7F) is not self._masked:
            problem = "frame is not masked" if self._masked else "frame is masked"
        elif opcode > PONG or BINARY < opcode < CLOSE:
            problem = "unknown opcode"
        elif opcode >= CLOSE:
            if first < 0x80:
                problem = "fragmented control frame"
            elif first & 0x40:
                problem = "compressed control frame"
            elif second & 0x7F > 125:
                problem = "control frame too long"
            else:
                return
        elif opcode == CONT:
            if self._kind == CONT:
                problem = "continuation of no message"
            elif first & 0x40:
                problem = "reserved bits are set"
            else:
                return
        elif self._kind != CONT:
            problem = "message inside another"
        elif first & 0x40 and self.inflater is None:
            problem = "reserved bits are set"
        else:
            return
        raise WebSocketError(problem, _PROTOCOL_ERROR)

    def _check_part(self, payload: bytes, final: bool) -> None:
        """Checks the next part of a message's content as far as it is text."""
        if self._kind != TEXT or not self._check_text:
            return
        tail = self._tail
        if tail:
            payload = tail + payload
        elif payload.isascii():
            return
        try:
            consumed = utf_8_decode(payload, "strict", final)[1]
        except UnicodeDecodeError as error:
            raise WebSocketError("text is not UTF-8", _INVALID_DATA) from error
        self._tail = payload[consumed:]

    def _check_close(self, payload: bytes) -> None:
        if len(payload) == 1:
            raise WebSocketError("close code is cut short", _PROTOCOL_ERROR)
        if payload and self._check_text:
            code = int.from_bytes(payload[:2], "big")
            if not is_sendable(code):
                raise WebSocketError("invalid close code", _PROTOCOL_ERROR)
            if not _is_text(payload[2:]):
                raise WebSocketError("reason is not UTF-8", _INVALID_DATA)


def _unmask(data: bytes, start: int, end: int, mask: bytes) -> bytes:
    if end - start < _VIEW_BYTES:
        return apply_mask(data[start:end], mask)
    return apply_mask(memoryview(data)[start:end], mask)


def _is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
