"""What all client connections share.

The settings, the routes of the moment and the ways to the other packages.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Flag, auto
from random import Random
from typing import TYPE_CHECKING, Protocol

from gripproxy.accesslog import AccessLog
from gripproxy.backend.pool import Pool
from gripproxy.clients.listener import Gate
from gripproxy.clients.routing import Routing
from gripproxy.deadlines import Deadlines
from gripproxy.grip.signature import Key
from gripproxy.grip.sockjs import IframePage
from gripproxy.hub.registry import Registry
from gripproxy.hub.sequencer import Sequencer
from gripproxy.stats import Stats

if TYPE_CHECKING:
    from gripproxy.clients.sockjssession import SockJsSession


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds on what one client may cost; sizes in bytes, times in seconds."""

    head_max: int = 8192
    headers_max: int = 64
    queue_bytes: int = (
        8_388_608  # of held messages that the kernel did not take, for one connection
    )
    queue_total_bytes: int = 268_435_456  # the same for all connections
    drop_when_full: bool = False  # drop the message rather than close the connection
    pipeline_bytes: int = 65_536  # that came ahead of their turn
    idle_timeout: float = 60.0
    inactivity_timeout: float = 1800.0
    subscriptions_max: int = 20
    ws_queue_bytes: int = 200_000  # from a client, for a WebSocket-over-HTTP backend
    ws_inflate_max: int = 16_777_216  # of a client's compressed message, once inflated
    ws_close_timeout: float = 30.0
    sockjs_sessions_max: int = 50_000


class Pause(Flag):
    """Why a client is not read for now."""

    AHEAD = auto()  # it sends requests faster than they are answered
    UPLOAD = auto()  # it sends a body or messages faster than the backend takes them


class Waiter(Protocol):
    """Who waits at a turnstile."""

    def on_turn(self) -> None:
        """It may go now."""


class Turnstile:
    """Lets a number of requests go to backends at a time; the others wait in line."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bound: int) -> None:
        self._loop = loop
        self._free = bound
        self._line: deque[Waiter] = deque()

    def enter(self, waiter: Waiter) -> bool:
        """Whether `waiter` may go now; if not, it is called when its turn has come."""
        if self._free:
            self._free -= 1
            return True
        self._line.append(waiter)
        return False

    def leave(self) -> None:
        """One that went is back, and the next in line may go."""
        if self._line:
            # Not at once: one that fails at once would call the next, and so on through the line.
            self._loop.call_soon(self._line.popleft().on_turn)
        else:
            self._free += 1

    def give_up(self, waiter: Waiter) -> None:
        """`waiter` waits no longer; if its turn has come already, it gives it back in `on_turn`."""
        with contextlib.suppress(ValueError):
            self._line.remove(waiter)


@dataclass(slots=True)
class Front:
    """The surroundings of every client connection."""

    loop: asyncio.AbstractEventLoop
    deadlines: Deadlines
    limits: ClientLimits
    routing: Routing
    pool: Pool
    gate: Gate
    registry: Registry
    sequencer: Sequencer
    stats: Stats
    access: AccessLog
    warn: Callable[..., None]  # a warning, of which a flood is cut short
    debug: bool = False
    cross_origin: bool = False
    allow_compression: bool = False
    accept_forwarded_proto: bool = False
    accept_pushpin_route: bool = False
    upstream_key: Key | None = None
    turnstile: Turnstile | None = None  # None: no bound
    sockjs_page: IframePage = field(default_factory=lambda: IframePage(""))
    sockjs_sessions: "dict[tuple[str, bytes], SockJsSession]" = field(default_factory=dict)
    stopping: bool = False
    queued_bytes: int = 0  # what all clients together have not taken
    random: Random = field(default_factory=Random)

    def keep_alive_at(self, timeout: int) -> float:
        """The loop time of a keep-alive that is due `timeout` seconds from now.

        It is spread over a second, so that clients that came together do not stay in step.
        """
        return self.loop.time() + max(timeout - self.random.random(), 0.0)
