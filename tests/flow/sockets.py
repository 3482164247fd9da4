"""What the tests of WebSockets share: items, and clients connected to a backend of either kind."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.flow.holding import Item, Stage, fresh
from tests.support.client import Fields
from tests.support.websocket import (
    GRIP,
    Event,
    Socket,
    SocketBackend,
    WohAnswer,
    WohBackend,
    open_socket,
)

OVER_HTTP = "*,path_beg=/woh -> over_http"
OPEN = [Event("OPEN")]
DISCONNECT = [Event("DISCONNECT")]


def message(
    channel: str, content: str | None = None, *, item: Item | None = None, **fields: Any
) -> Item:
    """An item for WebSockets; underscores in field names become hyphens."""
    if content is not None:
        fields["content"] = content
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return {"channel": channel, **(item or {}), "formats": {"ws-message": named}}


def text(content: str) -> Event:
    """A text message as an event."""
    return Event("TEXT", content.encode())


@contextlib.asynccontextmanager
async def over_http(
    stage: Stage,
    opening: WohAnswer | None = None,
    headers: Fields = (),
    *,
    base: str = "/woh",
    query: str = "",
    **options: Any,
) -> AsyncIterator[tuple[Socket, WohBackend]]:
    """An accepted client with its WebSocket-over-HTTP backend, which has taken the OPEN.

    `opening` is the answer to that, `base` how the path begins, `options` go to `open_socket`.
    """
    backend = WohBackend(stage.backend, base + "/" + fresh("s"))
    if opening is not None:
        backend.answers.append(opening)
    target = backend.path + query
    async with open_socket(stage.proxy.port, target, headers, **options) as client:
        assert await backend.next_events() == OPEN
        yield client, backend


@contextlib.asynccontextmanager
async def relayed(
    stage: Stage,
    accepted: Fields = (GRIP,),
    headers: Fields = (),
    *,
    base: str = "/ws",
    query: str = "",
    **options: Any,
) -> AsyncIterator[tuple[Socket, Socket]]:
    """An accepted client with its connection at a WebSocket backend.

    `accepted` are header fields of the backend's 101, the rest is as for `over_http`.
    """
    path = base + "/" + fresh("s")
    async with (
        SocketBackend(stage.backend, path, accepted) as server,
        open_socket(stage.proxy.port, path + query, headers, **options) as client,
    ):
        yield client, await server.next()


async def receive_events(backend: WohBackend, count: int) -> list[Event]:
    """The next events, over as many requests as they take; exactly `count` in all."""
    got: list[Event] = []
    while len(got) < count:
        got += await backend.next_events()
    assert len(got) == count, got
    return got
