"""A short request of the proxy's own, whose whole response is wanted."""

import logging
from typing import Protocol

from gripproxy.backend.connection import BackendConnection
from gripproxy.backend.pool import Pool
from gripproxy.errors import BackendError, ConnectError
from gripproxy.http1.head import ResponseHead
from gripproxy.routes import Target

log = logging.getLogger("gripproxy.backend")


class Fetcher(Protocol):
    """Who wants the response; it hears of exactly one end."""

    def on_head(self, head: ResponseHead) -> int:
        """The response begins: how many bytes of its body are wanted."""

    def on_fetched(self, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The response is here; not `complete`: it has more than was wanted."""

    def on_unfetched(self, error: BackendError, sent: bool) -> None:
        """No response, or not all of it.

        `sent`: the backend may have got all of the request. ConnectError: it got nothing.
        """


class Fetch:
    """One request to one target.

    It is sent anew only where a connection that was kept turns out to be dead without a byte.
    """

    __slots__ = (
        "_connection",
        "_data",
        "_fetcher",
        "_head",
        "_pieces",
        "_pool",
        "_resent",
        "_size",
        "_target",
        "_tls_name",
        "_unsent",
        "_waiting",
        "_wanted",
    )

    def __init__(
        self, pool: Pool, fetcher: Fetcher, target: Target, tls_name: str | None, data: bytes
    ) -> None:
        self._pool = pool
        self._fetcher = fetcher
        self._target = target
        self._tls_name = tls_name
        self._data = data  # head and body, whose method is POST
        self._connection: BackendConnection | None = None
        self._waiting = False  # for a connection
        self._resent = False
        self._unsent = False  # a part of it is still to be sent
        self._head: ResponseHead | None = None
        self._wanted = 0
        self._size = 0
        self._pieces: list[bytes] = []

    @property
    def waits(self) -> bool:
        """Whether it has no connection yet, so that nothing of it was sent."""
        return self._waiting

    def start(self, *, fresh: bool = False) -> None:
        """Send it, as soon as there is a connection."""
        try:
            connection = self._pool.acquire(self._target, self._tls_name, self, fresh=fresh)
        except ConnectError as error:
            self._fetcher.on_unfetched(error, False)
            return
        if connection is None:
            self._waiting = True
        else:
            self.on_connected(connection)

    def abandon(self) -> None:
        """The response is not wanted any more."""
        if self._connection is not None:
            self._connection.abandon()
            self._connection = None
        elif self._waiting:
            self._waiting = False
            self._pool.cancel(self)

    # What the pool calls.

    def on_connected(self, connection: BackendConnection) -> None:
        self._waiting = self._unsent = False
        self._connection = connection
        connection.send(self, b"POST", self._data, complete=True)

    def on_unconnected(self, error: BackendError) -> None:
        self._waiting = False
        self._fetcher.on_unfetched(error, False)

    # What the connection calls.

    def on_response(self, head: ResponseHead, content: bytes, finished: bool) -> None:
        self._head = head
        self._wanted = self._fetcher.on_head(head)
        self.on_content(content, finished)

    def on_content(self, content: bytes, finished: bool) -> None:
        head = self._head
        assert head is not None
        if finished:
            self._connection = None
            if not self._pieces and len(content) <= self._wanted:
                self._fetcher.on_fetched(head, content, True)
                return
        self._pieces.append(content)
        self._size += len(content)
        if finished or self._size > self._wanted:
            self.abandon()
            body = b"".join(self._pieces)
            self._fetcher.on_fetched(head, body[: self._wanted], self._size <= self._wanted)

    def on_failed(self, error: BackendError, retriable: bool) -> None:
        self._connection = None
        log.debug("target %s: %s", self._target.name, error)
        if retriable and not self._resent:
            self._resent = True
            self.start(fresh=True)
        else:
            self._fetcher.on_unfetched(error, not self._unsent)

    def on_upload_blocked(self) -> None:
        self._unsent = True

    def on_upload_ready(self) -> None:
        self._unsent = False
