"""The backend of every run, made to be cheap: `python -m benchmarks.backend` says "PORT N".

GET /plain     200 and a body of 6 bytes
GET /instruct  the same with an instruction that holds nobody
GET /stream    an instruction to hold a stream
GET /poll      an instruction to hold a response
POST /ws       WebSocket events: OPEN is accepted and subscribed, all else comes back
"""

import asyncio
import re
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


def _event(kind: bytes, content: bytes) -> bytes:
    return b"%s %x\r\n%s\r\n" % (kind, len(content), content)


CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
ANSWERS = {
    b"/plain": _answer("Content-Type: text/plain\r\n", PLAIN_BODY),
    b"/instruct": _answer("Content-Type: text/plain\r\nGrip-Set-Meta: a=b\r\n", PLAIN_BODY),
    Hold.STREAM.path.encode(): _hold("stream"),
    Hold.POLL.path.encode(): _hold("response"),
}
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"

EVENTS_PATH = Hold.WEBSOCKET.path.encode()
EVENTS_FIELDS = "Content-Type: application/websocket-events\r\nSec-WebSocket-Extensions: grip\r\n"
SUBSCRIBE = f'c:{{"type":"subscribe","channel":"{CHANNEL}"}}'
OPENED = b"OPEN\r\n" + _event(b"TEXT", SUBSCRIBE.encode())
REPLIES = {  # the event that answers one of a client, and what is put before its content
    b"TEXT": (b"TEXT", b"m:"),
    b"BINARY": (b"BINARY", b"m:"),
    b"PING": (b"PONG", b""),
    b"CLOSE": (b"CLOSE", b""),
}


def _answer_events(events: bytes) -> bytes:
    answers = b""
    while events:
        line, _, events = events.partition(b"\r\n")
        kind, _, digits = line.partition(b" ")
        size = int(digits or b"0", 16)
        if kind == b"OPEN":
            answers += OPENED
        elif kind in REPLIES:
            reply, prefix = REPLIES[kind]
            answers += _event(reply, prefix + events[:size])
        if digits:
            events = events[size + 2 :]
    return _answer(EVENTS_FIELDS, answers)


class Connection(asyncio.Protocol):
    """Answers requests as they come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        data = self._received + data
        done = 0
        while (end := data.find(HEAD_END, done)) >= 0:
            length = CONTENT_LENGTH.search(data, done, end)
            body = end + len(HEAD_END)
            after = body + (int(length[1]) if length else 0)
            if len(data) < after:
                break
            path = data[done:end].split(b" ", 2)[1]
            self._transport.write(
                _answer_events(data[body:after])
                if path == EVENTS_PATH
                else ANSWERS.get(path, NOT_FOUND)
            )
            done = after
        self._received = data[done:]


async def main() -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print("PORT", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
