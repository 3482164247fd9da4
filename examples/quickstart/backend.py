"""The quickstart's backend: an ordinary web application that holds no connection itself.

It answers every request at once. The Grip- headers of two of its answers ask gripproxy, which
stands in front of it, to keep the client and wait for what is published to a channel. No GRIP
library is used here, so that everything on the wire can be seen.

    python examples/quickstart/backend.py       then open it through gripproxy, on port 7999
"""

import argparse
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout, web

CHANNEL = "messages"
PUBLISH_URL = "http://127.0.0.1:5561/publish/"
PROXY_URL = "http://localhost:7999/"
PAGE = Path(__file__).with_name("index.html")
MAX_TEXT = 500

session_key = web.AppKey("session", ClientSession)


class Quickstart:
    """The application: the last few messages, and the answers about them."""

    def __init__(self, publish_url: str = PUBLISH_URL, proxy_url: str = PROXY_URL) -> None:
        self.publish_url = publish_url
        self.proxy_url = proxy_url
        self.recent: deque[tuple[int, str]] = deque(maxlen=50)
        # Numbers go on rising after a restart, so that pages which stay open miss nothing.
        self.last = int(time.time())

    def app(self) -> web.Application:
        app = web.Application()
        app.cleanup_ctx.append(_client_session)
        app.router.add_get("/", self.page)
        app.router.add_get("/events", self.events)
        app.router.add_get("/poll", self.poll)
        app.router.add_post("/messages", self.post_message)
        return app

    async def page(self, request: web.Request) -> web.Response:
        """The page; opened at this backend directly, it says where to go instead."""
        html = PAGE.read_text(encoding="utf-8")
        html = html.replace('data-last=""', f'data-last="{self.last}"')
        if not _through_proxy(request):
            html = html.replace("<!-- notice -->", self._notice())
        return web.Response(
            text=html, content_type="text/html", headers={"Cache-Control": "no-store"}
        )

    async def events(self, request: web.Request) -> web.Response:
        """Server-sent events: gripproxy keeps the response open and appends what is published."""
        if not _through_proxy(request):
            return self._not_held()
        # A browser that lost its connection says which event it saw last.
        position = request.headers.get("Last-Event-ID", request.query.get("after"))
        missed = self._after(position)
        return web.Response(
            text="retry: 2000\n\n" + "".join(_event(number, text) for number, text in missed),
            content_type="text/event-stream",
            headers={
                "Cache-Control": "no-store",
                "Grip-Hold": "stream",
                "Grip-Channel": CHANNEL,
                "Grip-Keep-Alive": r":\n\n; format=cstring; timeout=20",
            },
        )

    async def poll(self, request: web.Request) -> web.Response:
        """Long-polling: what came after `?after=NUMBER`, else gripproxy waits for the next one."""
        if not _through_proxy(request):
            return self._not_held()
        headers = {"Cache-Control": "no-store", "Last-Message": str(self.last)}
        missed = self._after(request.query.get("after"))
        if not missed:
            # After 25 seconds without a message the client gets this answer as it is: empty.
            headers |= {"Grip-Hold": "response", "Grip-Channel": CHANNEL, "Grip-Timeout": "25"}
        return web.Response(text="".join(f"{text}\n" for _, text in missed), headers=headers)

    async def post_message(self, request: web.Request) -> web.Response:
        """The form: publish a message to everyone who waits."""
        field = (await request.post()).get("text")
        text = " ".join(field.split()) if isinstance(field, str) else ""
        if not 0 < len(text) <= MAX_TEXT:
            raise web.HTTPBadRequest(text=f"The message must have 1 to {MAX_TEXT} characters.\n")
        self.last += 1
        self.recent.append((self.last, text))
        item = {
            "channel": CHANNEL,
            "formats": {
                "http-stream": {"content": _event(self.last, text)},
                "http-response": {
                    "headers": {"Last-Message": str(self.last)},
                    "body": f"{text}\n",
                },
            },
        }
        try:
            async with request.app[session_key].post(
                self.publish_url, json={"items": [item]}
            ) as answer:
                answer.raise_for_status()
        except (ClientError, TimeoutError) as e:
            raise web.HTTPBadGateway(text=f"gripproxy did not take the message: {e}\n") from e
        if "text/html" in request.headers.get("Accept", ""):
            raise web.HTTPSeeOther("/")  # a browser without scripts sent the form itself
        return web.Response(text="Published\n")

    def _after(self, position: str | None) -> list[tuple[int, str]]:
        if position is None or not position.isdecimal():
            return []
        return [(number, text) for number, text in self.recent if number > int(position)]

    def _not_held(self) -> web.Response:
        text = f"Only gripproxy can hold this answer. Ask it instead: {self.proxy_url}\n"
        return web.Response(status=501, text=text)

    def _notice(self) -> str:
        link = f'<a href="{self.proxy_url}">{self.proxy_url}</a>'
        return (
            '<p id="notice" class="notice">This page came straight from the backend, which cannot '
            f"hold connections. Open it through gripproxy: {link}</p>"
        )


def _through_proxy(request: web.Request) -> bool:
    # gripproxy tells every backend what it can do. A backend that must be sure checks Grip-Sig.
    return "Grip-Feature" in request.headers


def _event(number: int, text: str) -> str:
    return f"id: {number}\ndata: {text}\n\n"


async def _client_session(app: web.Application) -> AsyncIterator[None]:
    async with ClientSession(timeout=ClientTimeout(total=10)) as session:
        app[session_key] = session
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description="The backend of the quickstart.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--publish-url", default=PUBLISH_URL)
    parser.add_argument("--proxy-url", default=PROXY_URL)
    options = parser.parse_args()
    quickstart = Quickstart(options.publish_url, options.proxy_url)
    web.run_app(quickstart.app(), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
