"""The chat's backend: one short handler. gripproxy, in front of it, holds the WebSockets.

A request to `/chat` has what one client did, as a list of events, and the answer is a list of
events too: what to do with that client's connection. What everyone shall get is published. No
connection stays here and nothing is remembered, so the backend can be restarted while people chat.

    python examples/chat/backend.py             then open it through gripproxy, on port 7999
"""

import argparse
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout, web

PAGE = Path(__file__).with_name("index.html")
PUBLISH_URL = "http://127.0.0.1:5561/publish/"
MAX_NAME, MAX_TEXT = 40, 500
SUBSCRIBE = b'c:{"type": "subscribe", "channel": "chat"}'

session_key = web.AppKey("session", ClientSession)


class Chat:
    """The application; `publish_url` is where gripproxy takes messages for everyone."""

    def __init__(self, publish_url: str = PUBLISH_URL) -> None:
        self.publish_url = publish_url

    def app(self) -> web.Application:
        app = web.Application()
        app.cleanup_ctx.append(_client_session)
        app.router.add_get("/", self.page)
        app.router.add_post("/chat", self.chat)
        return app

    async def page(self, request: web.Request) -> web.Response:
        headers = {"Cache-Control": "no-store"}
        return web.Response(body=PAGE.read_bytes(), content_type="text/html", headers=headers)

    async def chat(self, request: web.Request) -> web.Response:
        answer = b""
        headers = {"Content-Type": "application/websocket-events"}
        messages = []
        for kind, content in decode(await request.read()):
            if kind == b"OPEN":  # accept the client, and let it have what is published
                answer += encode(b"OPEN") + encode(b"TEXT", SUBSCRIBE)
                headers["Sec-WebSocket-Extensions"] = "grip"
            elif kind == b"TEXT" and (message := checked(content)):
                messages.append({"channel": "chat", "formats": {"ws-message": message}})
            elif kind == b"PING":
                answer += encode(b"PONG", content)
            elif kind == b"CLOSE":
                answer += encode(b"CLOSE", content)
        if messages:
            session = request.app[session_key]
            async with session.post(self.publish_url, json={"items": messages}) as published:
                published.raise_for_status()
        return web.Response(body=answer, headers=headers)


def checked(content: bytes) -> dict[str, str] | None:
    """What to publish of a client's message: its name and text, and nothing else it may have."""
    try:
        message = json.loads(content)
        name, text = message["name"].strip(), message["text"].strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not (0 < len(name) <= MAX_NAME and 0 < len(text) <= MAX_TEXT):
        return None
    return {"content": json.dumps({"name": name, "text": text})}


def decode(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The events of a request: each is `TYPE\\r\\n`, or `TYPE LENGTH\\r\\nCONTENT\\r\\n`."""
    while body:
        head, _, body = body.partition(b"\r\n")
        kind, _, length = head.partition(b" ")
        content = b""
        if length:
            end = int(length, 16)
            content, body = body[:end], body[end + 2 :]
        yield kind, content


def encode(kind: bytes, content: bytes = b"") -> bytes:
    return b"%s %x\r\n%s\r\n" % (kind, len(content), content) if content else kind + b"\r\n"


async def _client_session(app: web.Application) -> AsyncIterator[None]:
    async with ClientSession(timeout=ClientTimeout(total=10)) as session:
        app[session_key] = session
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description="The backend of the chat.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--publish-url", default=PUBLISH_URL)
    options = parser.parse_args()
    web.run_app(Chat(options.publish_url).app(), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
