"""What the tests of holds and publishing share: instructions, items and held clients."""

import asyncio
import base64
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from tests.support.backend import Backend, Exchange, Handler, Request, response, start_backend
from tests.support.client import TIMEOUT, Client, Fields, Response, connect, encode_request, pairs
from tests.support.proxy import PUSHPIN, Proxy, start_proxy

INSTRUCT_TYPE = "application/grip-instruct"
BAD_ORIGIN = b"Error while proxying to origin.\n"
Item = dict[str, Any]
_numbers = itertools.count(1)


def fresh(kind: str = "c") -> str:
    """A name that no other test of the run uses, for a channel or a path."""
    return f"{kind}{next(_numbers)}"


def hold(
    mode: str, channels: str, headers: Fields = (), body: bytes = b"", status: int = 200
) -> bytes:
    """A backend's answer that holds by headers; `channels` is the value of Grip-Channel."""
    return response(
        status, [("Grip-Hold", mode), ("Grip-Channel", channels), *pairs(headers)], body
    )


def instruct(document: Any, headers: Fields = (), status: int = 200) -> bytes:
    """A backend's answer of the type application/grip-instruct; bytes are sent as they are."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return response(status, [("Content-Type", INSTRUCT_TYPE), *pairs(headers)], body)


def in_turn(*answers: bytes) -> Callable[[Exchange], bytes]:
    """A handler that gives the answers one after the other, then the last one again and again."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def reply(
    channel: str, body: str | None = None, *, item: Item | None = None, **fields: Any
) -> Item:
    """An item that answers response holds; underscores in field names become hyphens."""
    if body is not None:
        fields["body"] = body
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return {"channel": channel, **(item or {}), "formats": {"http-response": named}}


def line(
    channel: str, content: str | None = None, *, item: Item | None = None, **fields: Any
) -> Item:
    """An item that adds to streams; underscores in field names become hyphens."""
    if content is not None:
        fields["content"] = content
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return {"channel": channel, **(item or {}), "formats": {"http-stream": named}}


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Stage(NamedTuple):
    """One backend and one proxy that a module's tests share."""

    backend: Backend
    proxy: Proxy

    @contextlib.asynccontextmanager
    async def held(
        self,
        answer: Handler,
        *channels: str,
        path: str | None = None,
        target: str | None = None,
        method: str = "GET",
        headers: Fields = (),
        body: bytes | None = None,
        version: str = "HTTP/1.1",
        count: int = 1,
        receive_buffer: int | None = None,
    ) -> AsyncIterator[Client]:
        """A client whose request the backend answers by a hold, once every channel is subscribed.

        `path` is where the backend serves the answer, `target` what the client asks for. `count`
        says how often the channels were subscribed in all, this time included.
        """
        path = path or "/" + fresh("p")
        self.backend.on(path, answer)
        async with connect(self.proxy.port) as client:
            await client.send(
                encode_request(method, target or path, headers, body, version=version)
            )
            for channel in channels:
                await self.proxy.wait_subscribed(channel, count)
            yield client

    @contextlib.asynccontextmanager
    async def streaming(
        self,
        channel: str,
        headers: Fields = (),
        body: bytes = b"",
        *,
        subscribed: str | None = None,
        **request: Any,
    ) -> AsyncIterator[tuple[Client, Response]]:
        """A held stream on one channel, with the head of its response.

        `subscribed` is the channel's full name where the route has a prefix.
        """
        answer = hold("stream", channel, headers, body)
        async with self.held(answer, subscribed or channel, **request) as client:
            yield client, await client.read_head()

    async def ask(self, answer: Handler, *, debug: bool = False, **request: Any) -> Response:
        """The response to a request that the backend answers by `answer`.

        Debug routes are under /debug/.
        """
        path = ("/debug/" if debug else "/") + fresh("p")
        self.backend.on(path, answer)
        async with connect(self.proxy.port) as client:
            return await client.request(request.pop("method", "GET"), path, **request)

    async def answer_to(
        self, answer: Handler, channel: str, *items: Item, **request: Any
    ) -> Response:
        """The response to a request held on `channel`, once the items were published one by one."""
        async with self.held(answer, channel, **request) as client:
            for item in items:
                await self.proxy.publish(item)
            return await client.read_response(to_head=request.get("method") == "HEAD")

    async def requests_for(self, path: str, count: int) -> list[Request]:
        """The requests that the backend got for `path`, as soon as there are `count`."""
        while (
            len(found := [r for r in self.backend.requests if r.target.partition("?")[0] == path])
            < count
        ):
            await self.backend.next_request()
        return found


def visible(r: Response) -> list[tuple[str, str]]:
    """The header fields that a backend or a publisher chose, not those of the connection."""
    own = {"connection", "content-length", "transfer-encoding", "date", "server"}
    return [(n, v) for n, v in r.headers if n.lower() not in own]


@contextlib.asynccontextmanager
async def open_stage(*conditions: str, **settings: Any) -> AsyncIterator[Stage]:
    """Start a backend and a proxy with one route to it for each condition.

    What follows ` -> ` in a condition becomes parameters of the target. `settings` go to
    `start_proxy`. Whatever the tests do, the proxy must not log an exception that nobody caught.
    """
    async with start_backend() as backend:
        routes = []
        for condition in conditions:
            before, _, parameters = condition.partition(" -> ")
            routes.append(",".join(filter(None, [f"{before} {backend.address}", parameters])))
        async with start_proxy(routes, **settings) as proxy:
            stage = Stage(backend, proxy)
            if PUSHPIN:
                await _until_it_holds(stage)
            yield stage
            assert "Traceback" not in proxy.log(), proxy.log()


async def _until_it_holds(stage: Stage) -> None:
    """Pushpin answers 500 to instructions, or nothing at all, until its parts found each other."""
    stage.backend.on("*", hold("stream", "warm-up"))
    async with asyncio.timeout(TIMEOUT):
        held = False
        while not held:
            with contextlib.suppress(TimeoutError):
                async with connect(stage.proxy.port, timeout=0.2) as client:
                    await client.send(encode_request("GET", "/warm-up"))
                    held = (await client.read_head()).status == 200
    stage.backend.reset()
