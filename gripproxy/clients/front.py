"""What all client connections share.

The settings, the routes of the moment and the ways to the other packages.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Generic, TypeVar

from gripproxy.accesslog import AccessLog
from gripproxy.backend.pool import Pool
from gripproxy.clients.listener import Gate
from gripproxy.clients.routing import Routing
from gripproxy.deadlines import Deadlines
from gripproxy.grip.signature import Key
from gripproxy.hub.registry import Registry
from gripproxy.hub.sequencer import Sequencer
from gripproxy.stats import Stats

if TYPE_CHECKING:
    from gripproxy.clients.exchange import Exchange

T = TypeVar("T")


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


class Turnstile(Generic[T]):
    """Lets a number of requests go to backends at a time; the others wait in line."""

    def __init__(self, bound: int) -> None:
        self._free = bound
        self._line: deque[T] = deque()

    def enter(self, request: T) -> bool:
        """Whether `request` may go now; if not, `leave` names it when its turn has come."""
        if self._free:
            self._free -= 1
            return True
        self._line.append(request)
        return False

    def leave(self) -> T | None:
        """A request is back; the one that takes its place, if any waits."""
        if self._line:
            return self._line.popleft()
        self._free += 1
        return None

    def give_up(self, request: T) -> None:
        """`request` waits no longer."""
        self._line.remove(request)


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
    overflow_log: Callable[..., None]  # a warning, of which a flood is cut short
    debug: bool = False
    cross_origin: bool = False
    accept_forwarded_proto: bool = False
    accept_pushpin_route: bool = False
    upstream_key: Key | None = None
    turnstile: "Turnstile[Exchange] | None" = None  # None: no bound
    queued_bytes: int = 0  # what all clients together have not taken
    random: Random = field(default_factory=Random)
