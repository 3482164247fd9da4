"""What the tests of SockJS share: a stage, and a client that shows the bytes of its transports."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable
from typing import ClassVar

from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.sockets import OPEN, text
from tests.support.backend import Answer, Exchange
from tests.support.client import Client, Fields, Response, connect, encode_request, fetch
from tests.support.proxy import PUSHPIN
from tests.support.websocket import EventLike, WohAnswer, WohBackend, events

SOCKJS_URL = "http://cdn.example/sockjs.min.js"
NO_STORE = "no-store, no-cache, must-revalidate, max-age=0"
STILL_OPEN = b'c[2010,"Another connection still open"]\n'
# The first sees a path of its own, the second a WebSocket, the third the paths of SockJS.
ROUTES = (
    "*,sockjs=/sock,sockjs_as_path=/woh -> over_http",
    "*,path_beg=/direct,sockjs=/direct,sockjs_as_path=/ws",
    "*,path_beg=/plain,sockjs=/plain -> over_http",
)


@contextlib.asynccontextmanager
async def open_sockjs_stage() -> AsyncIterator[Stage]:
    """A stage with `ROUTES`."""
    # Pushpin does not survive being stopped while a close frame is being repeated.
    status = None if PUSHPIN else 0
    async with open_stage(*ROUTES, proxy={"sockjs_url": SOCKJS_URL}, exit_status=status) as stage:
        yield stage


class SessionBackend(WohBackend):
    """The backend of one session of many on the same path, known by its query."""

    _known: ClassVar[dict[str, "SessionBackend"]] = {}

    def __init__(self, stage: Stage, path: str = "/woh") -> None:
        self.query = fresh("q") + "=1"
        self._known[self.query] = self
        super().__init__(stage.backend, path)

    async def _answer(self, exchange: Exchange) -> Answer:
        names = exchange.request.target.partition("?")[2].split("&")
        mine = [self._known[name] for name in names if name in self._known]
        # What tests before this one left goes on to an end that nobody looks at.
        return await WohBackend._answer(mine[0], exchange) if mine else events()


class Session:
    """A client with one session; each request is one on a connection of its own."""

    def __init__(self, port: int, query: str = "", prefix: str = "/sock") -> None:
        self.port = port
        self.query = query
        self.path = f"{prefix}/000/{fresh('s')}"

    def target(self, what: str, query: str = "") -> str:
        """The target of a request; the query leads to this session's backend."""
        asked = "&".join(filter(None, (query, self.query)))
        return f"{self.path}/{what}" + ("?" + asked if asked else "")

    async def post(self, what: str, body: bytes = b"", headers: Fields = ()) -> Response:
        return await fetch(self.port, "POST", self.target(what), headers, body)

    async def get(self, what: str, query: str = "", headers: Fields = ()) -> Response:
        return await fetch(self.port, "GET", self.target(what, query), headers)

    async def poll(self) -> bytes:
        """What an xhr request is answered with."""
        r = await self.post("xhr")
        assert (r.status, r.header("content-type")) == (200, "text/plain"), r
        return r.body

    async def script(self, callback: str = "f") -> bytes:
        """What a JSON-P request is answered with."""
        r = await self.get("jsonp", f"c={callback}")
        assert (r.status, r.header("content-type")) == (200, "application/javascript"), r
        return r.body

    async def send(self, *messages: str) -> None:
        """Send messages, which must be taken."""
        r = await self.post("xhr_send", json.dumps(messages).encode())
        assert (r.status, r.header("content-type"), r.body) == (200, "text/plain", b"ok"), r

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, what: str, query: str = "", body: bytes | None = b""
    ) -> AsyncIterator[Client]:
        """A request that was sent, and whose answer the test reads."""
        async with connect(self.port) as client:
            body = None if method == "GET" else body
            await client.send(encode_request(method, self.target(what, query), (), body))
            yield client

    @contextlib.asynccontextmanager
    async def waiting(self) -> AsyncIterator[Client]:
        """A poll that has reached the proxy, which has nothing for it yet.

        That is known by another one, which is turned away.
        """
        async with self.request("POST", "xhr") as one, self.request("POST", "xhr") as other:
            reading = {asyncio.create_task(it.read_response()): it for it in (one, other)}
            done, left = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            assert [task.result().body for task in done] == [STILL_OPEN]
            yield reading[left.pop()]


async def open_session(
    stage: Stage, opening: WohAnswer | None = None
) -> tuple[Session, SessionBackend]:
    """A session by polling, with its backend, which has taken the OPEN by answering `opening`."""
    backend = SessionBackend(stage)
    if opening is not None:
        backend.answers.append(opening)
    session = Session(stage.proxy.port, backend.query)
    assert await session.poll() == b"o\n"
    assert await backend.next_events() == OPEN
    return session, backend


async def say(session: Session, backend: SessionBackend, *said: EventLike) -> None:
    """Let the backend say something, by giving it an occasion to."""
    backend.answers.append(events(*said))
    await session.send("go")
    assert await backend.next_events() == [text("go")]


async def answer_of(request: Awaitable[Response]) -> tuple[int, bytes]:
    """Status and body of the answer."""
    r = await request
    return r.status, r.body
