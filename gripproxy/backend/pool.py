"""Connections to backends: made, shared, kept for reuse and bounded for each target."""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from gripproxy.backend.connection import BackendConnection
from gripproxy.backend.resolver import Resolver, is_private
from gripproxy.deadlines import Deadlines, Timed
from gripproxy.errors import BackendError, BlockedError, ConnectError
from gripproxy.routes import Target

log = logging.getLogger("gripproxy.backend")

P = TypeVar("P", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a pool; times in seconds."""

    connect_timeout: float = 10.0  # for each address
    response_timeout: float = 1800.0  # until the response's head
    inactivity_timeout: float = 1800.0  # without a byte of the response
    connections_max: int = 1000  # for each target
    waiting_max: int = 10_000  # requests for each target
    waiting_timeout: float = 10.0
    idle_timeout: float = 55.0
    idle_max: int = 256  # for each target
    dns_ttl: float = 30.0
    head_max: int = 8192  # bytes of a response's head
    headers_max: int = 64


class Waiter(Protocol):
    """Who needs a connection."""

    def on_connected(self, connection: BackendConnection) -> None:
        """Here it is; use it at once."""

    def on_unconnected(self, error: BackendError) -> None:
        """There is none to be had."""


class _Key(NamedTuple):
    host: str
    port: int
    tls_name: str | None  # None: plain
    insecure: bool
    untrusted: bool
    client_cert: Path | None
    client_key: Path | None

    @classmethod
    def of(cls, target: Target, tls_name: str | None) -> "_Key":
        return cls(
            target.host,
            target.port,
            tls_name,
            target.insecure,
            target.untrusted,
            target.client_cert,
            target.client_key,
        )


class _Waiting(NamedTuple):
    since: float
    waiter: Waiter
    fresh: bool  # only a new connection will do


class _Place:
    """A host and a port. Its bounds hold for all names that clients may ask it for together."""

    __slots__ = ("count", "idle", "origins")

    def __init__(self) -> None:
        self.count = 0  # connections, also those that are being made
        self.idle = 0
        self.origins: dict[_Origin, None] = {}


class _Origin(Timed):
    """A place, and the way to speak to it. `count` includes connections that are being made."""

    __slots__ = ("connecting", "count", "idle", "key", "owner", "place", "waiting")

    def __init__(self, key: _Key, place: _Place, owner: "Pool") -> None:
        super().__init__()
        self.key = key
        self.place = place
        self.owner = owner
        self.idle: list[BackendConnection] = []
        self.waiting: deque[_Waiting] = deque()
        self.connecting = 0
        self.count = 0

    def expired(self, now: float) -> None:
        self.owner.give_up_waiting(self, now)


class Pool:
    """All connections to all backends."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deadlines: Deadlines, limits: Limits
    ) -> None:
        self._loop = loop
        self._deadlines = deadlines
        self._limits = limits
        self._origins: dict[_Key, _Origin] = {}
        self._places: dict[tuple[str, int], _Place] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._contexts: dict[tuple[bool, Path | None, Path | None, int], ssl.SSLContext] = {}
        self._resolver = Resolver(loop, limits.dns_ttl)
        self._closed = False
        self.response_timeout = limits.response_timeout
        self.inactivity_timeout = limits.inactivity_timeout
        self.head_max = limits.head_max
        self.headers_max = limits.headers_max

    def acquire(
        self, target: Target, tls_name: str | None, waiter: Waiter, *, fresh: bool = False
    ) -> BackendConnection | None:
        """A free connection to `target`, or None: `waiter` hears of one, or of an error, later.

        `tls_name` is the name that the backend's certificate must carry; None means plain HTTP.
        `fresh` passes over connections that have been idle, since one of them has just turned out
        to be dead. Raises ConnectError when too many requests wait already.
        """
        key = _Key.of(target, tls_name)
        origin = self._origins.get(key)
        if origin is None:
            origin = self._add_origin(key)
        while origin.idle and not fresh:
            connection = origin.idle.pop()
            origin.place.idle -= 1
            self._deadlines.clear(connection)
            if not connection.transport.is_closing():
                return connection
        if (
            origin.place.count >= self._limits.connections_max
            and len(origin.waiting) - origin.connecting >= self._limits.waiting_max
        ):
            raise ConnectError(f"{self._limits.waiting_max} requests wait for a connection already")
        now = self._loop.time()
        origin.waiting.append(_Waiting(now, waiter, fresh))
        if not self._connect(origin) and origin.deadline > now + self._limits.waiting_timeout:
            self._deadlines.set(origin, now + self._limits.waiting_timeout)
        return None

    def cancel(self, waiter: Waiter) -> None:
        """`waiter` needs no connection any more."""
        for origin in self._origins.values():
            for entry in origin.waiting:
                if entry.waiter is waiter:
                    origin.waiting.remove(entry)
                    self._drop_if_unused(origin)
                    return

    def open(
        self,
        target: Target,
        tls_name: str | None,
        protocol: asyncio.Protocol,
        on_failed: Callable[[BackendError], None],
    ) -> asyncio.Task[None]:
        """Connect `protocol` to `target`, or tell `on_failed` why not; cancelling tells nobody.

        Such a connection belongs to one client, so the bounds on clients bound it, and not those of
        the pool.
        """
        task = self._loop.create_task(
            self._open_own(_Key.of(target, tls_name), protocol, on_failed)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Close every connection and end every attempt; waiters hear nothing."""
        self._closed = True
        for origin in self._origins.values():
            origin.waiting.clear()
            self._deadlines.clear(origin)
            for connection in origin.idle:
                connection.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._resolver.close()

    # What connections and origins call.

    def watch(self, connection: BackendConnection, seconds: float) -> None:
        self._deadlines.set(connection, self._loop.time() + seconds)

    def unwatch(self, connection: BackendConnection) -> None:
        self._deadlines.clear(connection)

    def release(self, connection: BackendConnection) -> None:
        origin = connection.origin
        assert isinstance(origin, _Origin)
        waiting = _first_for(connection, origin.waiting)
        if waiting is not None:
            origin.waiting.remove(waiting)
            waiting.waiter.on_connected(connection)
        elif origin.waiting and origin.place.count >= self._limits.connections_max:
            connection.transport.abort()  # its place is for a new one
        elif self._closed or origin.place.idle >= self._limits.idle_max or self._is_wanted(origin):
            connection.transport.abort()
        else:
            origin.idle.append(connection)
            origin.place.idle += 1
            self.watch(connection, self._limits.idle_timeout)

    def lost(self, connection: BackendConnection) -> None:
        origin = connection.origin
        assert isinstance(origin, _Origin)
        if connection in origin.idle:
            origin.idle.remove(connection)
            origin.place.idle -= 1
        self._give_place_back(origin)

    def give_up_waiting(self, origin: _Origin, now: float) -> None:
        """Requests that waited too long are told.

        Those that a connection is being made for are not among them.
        """
        oldest = now - self._limits.waiting_timeout
        late: list[Waiter] = []
        while len(origin.waiting) > origin.connecting and origin.waiting[0].since <= oldest:
            late.append(origin.waiting.popleft().waiter)
        if origin.waiting:
            self._deadlines.set(
                origin, max(origin.waiting[0].since + self._limits.waiting_timeout, now + 1)
            )
        self._drop_if_unused(origin)
        for waiter in late:
            waiter.on_unconnected(
                ConnectError(f"no connection became free within {self._limits.waiting_timeout:g} s")
            )

    # Making connections.

    def _connect(self, origin: _Origin) -> bool:
        """Start an attempt if a request waits that no attempt is under way for.

        False: the target is at its cap.
        """
        if len(origin.waiting) <= origin.connecting:
            return True
        place = origin.place
        if place.count >= self._limits.connections_max:
            self._close_idle(place)  # of another name; `lost` comes back here then
            return False
        origin.connecting += 1
        origin.count += 1
        place.count += 1
        task = self._loop.create_task(self._attempt(origin))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _attempt(self, origin: _Origin) -> None:
        try:
            connection = await self._open(origin.key, partial(BackendConnection, self, origin))
        except BackendError as error:
            origin.connecting -= 1
            waiter = origin.waiting.popleft().waiter if origin.waiting else None
            self._give_place_back(origin)
            if waiter is not None:
                waiter.on_unconnected(error)
        else:
            origin.connecting -= 1
            if not connection.transport.is_closing():
                self.release(connection)
            elif origin.waiting:  # it was closed as soon as it was made
                origin.waiting.popleft().waiter.on_unconnected(
                    ConnectError("closed by the backend at once")
                )
            self._drop_if_unused(origin)

    async def _open_own(
        self, key: _Key, protocol: asyncio.Protocol, on_failed: Callable[[BackendError], None]
    ) -> None:
        try:
            await self._open(key, lambda: protocol)
        except BackendError as error:
            on_failed(error)

    async def _open(self, key: _Key, factory: Callable[[], P]) -> P:
        addresses = await self._resolver.addresses(key.host)
        if key.untrusted:
            addresses = [address for address in addresses if not is_private(address)]
            if not addresses:
                raise BlockedError("Error: Origin host/IP blocked.")
        context = None
        if key.tls_name is not None:
            try:
                key.tls_name.encode("idna")  # as ssl will, which leaves the socket open then
            except UnicodeError as error:
                raise ConnectError(f"no certificate can carry this name: {error}") from error
            context = self._tls_context(key)
        failures: list[str] = []
        for address in addresses:
            try:
                async with asyncio.timeout(self._limits.connect_timeout):
                    _, protocol = await self._loop.create_connection(
                        factory,
                        address,
                        key.port,
                        ssl=context,
                        server_hostname=key.tls_name if context else None,
                    )
                return protocol
            except TimeoutError:
                failures.append(f"{address}: no answer within {self._limits.connect_timeout:g} s")
            except (OSError, ssl.CertificateError) as error:
                failures.append(f"{address}: {error}")
        reason = "; ".join(failures) or "the name has no address"
        log.debug("cannot connect to %s:%d: %s", key.host, key.port, reason)
        raise ConnectError(reason)

    def _tls_context(self, key: _Key) -> ssl.SSLContext:
        """Raises ConnectError when the client certificate cannot be loaded."""
        files = [path for path in (key.client_cert, key.client_key) if path is not None]
        try:
            changed = max((path.stat().st_mtime_ns for path in files), default=0)
        except OSError as error:
            raise ConnectError(f"client certificate {key.client_cert}: {error}") from error
        kind = (key.insecure, key.client_cert, key.client_key, changed)
        context = self._contexts.get(kind)
        if context is None:
            context = ssl.create_default_context()
            if key.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if key.client_cert is not None:
                try:
                    context.load_cert_chain(key.client_cert, key.client_key)
                except (OSError, ssl.SSLError) as error:
                    raise ConnectError(f"client certificate {key.client_cert}: {error}") from error
            self._contexts[kind] = context
        return context

    # Accounts.

    def _add_origin(self, key: _Key) -> _Origin:
        place = self._places.setdefault((key.host, key.port), _Place())
        origin = self._origins[key] = _Origin(key, place, self)
        place.origins[origin] = None
        return origin

    def _give_place_back(self, origin: _Origin) -> None:
        """A connection is gone, or was not made: who waits may have its place."""
        place = origin.place
        origin.count -= 1
        place.count -= 1
        for other in tuple(place.origins) if len(place.origins) > 1 else (origin,):
            while len(other.waiting) > other.connecting and self._connect(other):
                pass
        self._drop_if_unused(origin)

    def _drop_if_unused(self, origin: _Origin) -> None:
        if origin.count or origin.waiting:
            return
        self._deadlines.clear(origin)
        self._origins.pop(origin.key, None)
        origin.place.origins.pop(origin, None)
        if not origin.place.origins:
            self._places.pop((origin.key.host, origin.key.port), None)

    def _is_wanted(self, origin: _Origin) -> bool:
        """Whether requests by another name wait for a connection to the same place."""
        place = origin.place
        return (
            len(place.origins) > 1
            and place.count >= self._limits.connections_max
            and any(other.waiting for other in place.origins)
        )

    def _close_idle(self, place: _Place) -> None:
        """Close a connection to `place` that nobody uses, if there is one."""
        if not place.idle:
            return
        for origin in place.origins:
            for connection in origin.idle:
                if not connection.transport.is_closing():
                    connection.transport.abort()
                    return


def _first_for(connection: BackendConnection, waiting: Iterable[_Waiting]) -> _Waiting | None:
    """Who has waited longest of those whom `connection` will do."""
    return next((entry for entry in waiting if not (entry.fresh and connection.used)), None)
