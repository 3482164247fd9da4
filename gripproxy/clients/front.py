"""What all client connections share.

The settings, the routes of the moment and the ways to the other packages.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from gripproxy.accesslog import AccessLog
from gripproxy.backend.headers import HeaderTransform
from gripproxy.backend.pool import Pool
from gripproxy.clients.listener import Gate
from gripproxy.deadlines import Deadlines
from gripproxy.grip.signature import Key
from gripproxy.hub.registry import Registry
from gripproxy.hub.sequencer import Sequencer
from gripproxy.routes import Route, RouteTable
from gripproxy.stats import Stats


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


@dataclass(frozen=True, slots=True)
class Routing:
    """A routes table with what was made of it; a reload swaps the whole."""

    table: RouteTable
    transforms: dict[int, HeaderTransform]  # by id() of the route

    def transform(self, route: Route) -> HeaderTransform:
        return self.transforms[id(route)]


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
    queued_bytes: int = 0  # what all clients together have not taken
    random: Random = field(default_factory=Random)
