"""The backend of every run, made to be cheap: `python -m benchmarks.backend` says "PORT N".

GET /plain     200 and a body of 6 bytes
GET /instruct  the same with an instruction that holds nobody
GET /stream    an instruction to hold a stream
GET /poll      an instruction to hold a response
"""

import asyncio
from typing import cast

import uvloop

from benchmarks.message import CHANNEL, Hold

HEAD_END = b"\r\n\r\n"
PLAIN_BODY = b"hello\n"


def _answer(fields: str, body: bytes = b"") -> bytes:
    head = f"HTTP/1.1 200 OK\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _hold(mode: str) -> bytes:
    return _answer(
        f"Content-Type: text/event-stream\r\nGrip-Hold: {mode}\r\nGrip-Channel: {CHANNEL}\r\n"
    )


ANSWERS = {
    b"/plain": _answer("Content-Type: text/plain\r\n", PLAIN_BODY),
    b"/instruct": _answer("Content-Type: text/plain\r\nGrip-Set-Meta: a=b\r\n", PLAIN_BODY),
    Hold.STREAM.path.encode(): _hold("stream"),
    Hold.POLL.path.encode(): _hold("response"),
}
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Connection(asyncio.Protocol):
    """Answers requests without a body, as they come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._received = (self._received + data).split(HEAD_END)
        for head in heads:
            self._transport.write(ANSWERS.get(head.split(b" ", 2)[1], NOT_FOUND))


async def main() -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print("PORT", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
