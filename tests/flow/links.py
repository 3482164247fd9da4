"""A WebSocket client with a backend of either kind, which a test tells the same things.

async with link(stage, kind, control(type="subscribe", channel="fruit")) as it:
    await it.tell(control(type="unsubscribe", channel="fruit"))
    await it.settle()                                   # all that has taken effect
    assert await it.client.read_text() == "apple"
    assert await it.backend_close() == (None, b"")
"""

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from tests.flow.holding import Stage, fresh
from tests.flow.sockets import over_http, relayed, text
from tests.support.client import TIMEOUT, Fields, Truncated
from tests.support.websocket import (
    BINARY,
    CLOSE,
    GRIP,
    PING,
    PONG,
    TEXT,
    Event,
    Socket,
    WohBackend,
    accept,
    control,
    encode_frame,
    events,
)

KINDS = ("over-http", "relay")
OPCODES = {"TEXT": TEXT, "BINARY": BINARY, "PING": PING, "PONG": PONG, "CLOSE": CLOSE}
NAMES = {opcode: name for name, opcode in OPCODES.items()}


def routes(area: str = "", condition: str = "", target: str = "") -> list[str]:
    """Conditions for `open_stage`: a route to a backend of each kind, for the links of `area`."""
    return [
        f"{','.join(filter(None, [f'*,path_beg=/{kind}{area}/', condition]))} -> "
        + ",".join(filter(None, ["over_http" if kind == "over-http" else "", target]))
        for kind in KINDS
    ]


def subscribe(channel: str, **fields: Any) -> Event:
    return control(type="subscribe", channel=channel, **fields)


def unsubscribe(channel: str) -> Event:
    return control(type="unsubscribe", channel=channel)


def detach() -> Event:
    return control(type="detach")


class Link:
    """A client and its backend. Make it with `link`."""

    def __init__(self, stage: Stage, prefix: str, client: Socket) -> None:
        self.stage = stage
        self.client = client
        self._prefix = prefix

    async def tell(self, *messages: Event) -> None:
        """Let the backend send these, all at once."""
        raise NotImplementedError

    async def next_event(self, timeout: float = TIMEOUT) -> Event:
        """What the backend gets next; no content and empty content are the same."""
        raise NotImplementedError

    async def backend_is_silent(self, seconds: float) -> bool:
        """True when the backend hears nothing within `seconds`, the end of a connection included.

        Nothing can be read from it after that.
        """
        raise NotImplementedError

    async def settle(self) -> None:
        """Wait until all that the backend has told the proxy has taken effect.

        This takes a subscription.
        """
        c = fresh()
        await self.tell(subscribe(c))
        await self.stage.proxy.wait_subscribed(self._prefix + c)

    async def backend_close(self) -> tuple[int | None, bytes]:
        """Code and reason of the close that the backend gets next."""
        kind, content = await self.next_event()
        assert kind == "CLOSE", (kind, content)
        if not content:
            return None, b""
        return int.from_bytes(content[:2], "big"), content[2:]


class _OverHttp(Link):
    def __init__(self, stage: Stage, prefix: str, client: Socket, backend: WohBackend) -> None:
        super().__init__(stage, prefix, client)
        self._backend = backend
        self._events: deque[Event] = deque()

    async def tell(self, *messages: Event) -> None:
        self._backend.answers.append(events(*messages))
        await self.client.send_text("tell")
        assert await self.next_event() == text("tell")

    async def next_event(self, timeout: float = TIMEOUT) -> Event:
        while not self._events:
            self._events += await self._backend.next_events(timeout)
        kind, content = self._events.popleft()
        return Event(kind, content or None)

    async def backend_is_silent(self, seconds: float) -> bool:
        return not self._events and await self._backend.is_silent(seconds)


class _Relay(Link):
    def __init__(self, stage: Stage, prefix: str, client: Socket, backend: Socket) -> None:
        super().__init__(stage, prefix, client)
        self.backend = backend

    async def tell(self, *messages: Event) -> None:
        frames = [encode_frame(OPCODES[kind], content or b"") for kind, content in messages]
        await self.backend.send_raw(b"".join(frames))

    async def next_event(self, timeout: float = TIMEOUT) -> Event:
        try:
            frame = await self.backend.read_frame(timeout)
        except Truncated:
            return Event("DISCONNECT")
        if frame.opcode == CLOSE:  # as an HTTP backend answers it unscripted
            await self.backend.send(CLOSE, frame.payload)
        return Event(NAMES[frame.opcode], frame.payload or None)

    async def backend_is_silent(self, seconds: float) -> bool:
        return await self.backend.is_silent(seconds)


@contextlib.asynccontextmanager
async def link(
    stage: Stage,
    kind: str,
    *messages: Event,
    area: str = "",
    prefix: str = "",
    grip: bool = True,
    subscribed: Sequence[str] = (),
    **options: Any,
) -> AsyncIterator[Link]:
    """An accepted client; `messages` are the first that the backend sends.

    `area` is that of `routes`, `prefix` what its route puts before channels. The link is there as
    soon as the channels in `subscribed` (full names) were subscribed once.
    """
    base = f"/{kind}{area}"
    it: Link
    async with contextlib.AsyncExitStack() as stack:
        if kind == "over-http":
            opening = accept(*messages, grip=grip)
            pair = await stack.enter_async_context(over_http(stage, opening, base=base, **options))
            it = _OverHttp(stage, prefix, *pair)
        else:
            accepted: Fields = (GRIP,) if grip else ()
            ends = await stack.enter_async_context(relayed(stage, accepted, base=base, **options))
            it = _Relay(stage, prefix, *ends)
            await it.tell(*messages)
        for channel in subscribed:
            await stage.proxy.wait_subscribed(channel)
        yield it
