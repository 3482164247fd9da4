"""A transport in memory, for protocols of either end."""

import asyncio
from typing import Any


class Transport(asyncio.Transport):
    """Keeps what is written to it. Its end is only noted: the test says when it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.writes = 0
        self.unread = 0  # bytes that the other end has not read
        self.reading = True
        self.ended = self.closed = self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not (self.ended or self.is_closing())
        self.written += data
        self.writes += 1

    def take(self) -> bytes:
        """What was written since the last call."""
        written, self.written, self.writes = self.written, b"", 0
        return written

    def get_write_buffer_size(self) -> int:
        return self.unread

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.9", 1) if name == "peername" else default

    def pause_reading(self) -> None:
        assert not self.is_closing()
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.is_closing()
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True
