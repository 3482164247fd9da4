"""Message bodies: from the bytes of a connection to content and back (RFC 9112 §6-7)."""

import re
from typing import Protocol

from gripproxy.errors import HttpError
from gripproxy.http1.head import CHUNKED, UNTIL_CLOSE

LAST_CHUNK = b"0\r\n\r\n"

# A chunk-size line with its extensions, which nobody uses, needs no more.
_SIZE_LINE_MAX = 256
_TRAILERS_MAX = 8192
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n")


class BodyReader(Protocol):
    """Takes the bytes that follow a head and gives the content that they carry."""

    finished: bool  # the body's end was seen
    rest: bytes  # once finished: what was fed beyond the end

    def feed(self, data: bytes) -> bytes:
        """The content in `data`. Raises HttpError when the framing is broken."""

    def closes(self) -> bool:
        """The connection ended: was that the end of the body?"""


def body_reader(length: int) -> BodyReader:
    """A reader for a body of `length` bytes, CHUNKED or UNTIL_CLOSE."""
    if length == CHUNKED:
        return ChunkedReader()
    if length == UNTIL_CLOSE:
        return CloseReader()
    return LengthReader(length)


def chunk(content: bytes) -> bytes:
    """`content`, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(content), content)


class LengthReader:
    """A body of a known number of bytes."""

    __slots__ = ("finished", "left", "rest")

    def __init__(self, length: int) -> None:
        self.left = length
        self.finished = length == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        left = self.left - len(data)
        if left > 0:
            self.left = left
            return data
        content = data
        if left:
            content, self.rest = data[:left], data[left:]
        self.left = 0
        self.finished = True
        return content

    def closes(self) -> bool:
        return False


class CloseReader:
    """A body that lasts until its connection is closed."""

    __slots__ = ("finished", "rest")

    def __init__(self) -> None:
        self.finished = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        return data

    def closes(self) -> bool:
        return True


class ChunkedReader:
    """A body in chunks. Chunk extensions and trailers are checked for form and dropped."""

    __slots__ = ("_in_trailers", "_left", "_line", "_trailers", "finished", "rest")

    def __init__(self) -> None:
        self._left = 0  # bytes of the current chunk still to come, its closing CRLF included
        self._line = b""  # the part of a line that has come
        self._in_trailers = False
        self._trailers = 0  # bytes of trailers so far
        self.finished = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        if self._line:
            data = self._line + data
            self._line = b""
        position, end = 0, len(data)
        while position < end:
            if self._left > 2:
                taken = min(self._left - 2, end - position)
                pieces.append(data[position : position + taken])
                position += taken
                self._left -= taken
            elif self._left:
                expected = b"\r\n"[2 - self._left :]
                found = data[position : position + self._left]
                if not expected.startswith(found):
                    raise HttpError("chunk does not end with CRLF")
                position += len(found)
                self._left -= len(found)
            else:
                line_end = data.find(b"\n", position) + 1
                if not line_end:
                    self._keep(data[position:])
                    break
                self._take_line(data[position:line_end])
                position = line_end
                if self.finished:
                    self.rest = data[position:]
                    break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def closes(self) -> bool:
        return False

    def _keep(self, part: bytes) -> None:
        if len(part) > (_TRAILERS_MAX if self._in_trailers else _SIZE_LINE_MAX):
            raise HttpError("chunk header too long")
        self._line = part

    def _take_line(self, line: bytes) -> None:
        if self._in_trailers:
            self._trailers += len(line)
            if self._trailers > _TRAILERS_MAX:
                raise HttpError("trailers too long")
            if line == b"\r\n":
                self.finished = True
            elif _TRAILER.fullmatch(line) is None:
                raise HttpError("invalid trailer")
            return
        match = _SIZE.fullmatch(line) if len(line) <= _SIZE_LINE_MAX else None
        if match is None:
            raise HttpError("invalid chunk size")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._in_trailers = True
