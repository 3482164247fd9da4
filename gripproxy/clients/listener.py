"""The sockets that clients connect to."""

import asyncio
import contextlib
import errno
import grp
import logging
import os
import pwd
import socket
import ssl
import stat
from collections.abc import Callable
from typing import Protocol

from gripproxy.config import TcpAddress, UnixAddress
from gripproxy.errors import ConfigError

log = logging.getLogger("gripproxy.clients")

BACKLOG = 4096
# Seconds for a TLS handshake; until its end a client is not counted by `Gate`.
HANDSHAKE_TIMEOUT = 10.0


def bind_tcp(address: TcpAddress) -> socket.socket:
    """A listening socket. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}: {_explain(error)}") from error


def _explain(error: OSError) -> str:
    """The reason without what the socket module adds to it, and what to do about it."""
    reason = os.strerror(error.errno) if error.errno is not None else str(error)
    if error.errno == errno.EACCES:
        return f"{reason}; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE"
    return reason


def bind_unix(address: UnixAddress) -> socket.socket:
    """A listening Unix socket with its mode and owner, in place of a stale one.

    Raises ConfigError.
    """
    path = address.path
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        listener.bind(str(path))
        if address.mode is not None:
            os.chmod(path, address.mode)
        if address.user is not None or address.group is not None:
            uid = pwd.getpwnam(address.user).pw_uid if address.user is not None else -1
            gid = grp.getgrnam(address.group).gr_gid if address.group is not None else -1
            os.chown(path, uid, gid)
        listener.listen(BACKLOG)
    except (OSError, KeyError) as error:
        listener.close()
        raise ConfigError(f"cannot listen on {path}: {error}") from error
    return listener


class Listener:
    """One listening socket, which can stop accepting and leave new clients to the kernel's
    backlog.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        connection: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = loop
        self._socket = listener
        self._connection = connection
        self._tls = tls
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self._socket.getsockname()[1])

    async def accept(self) -> None:
        """Take clients."""
        if self._server is None:
            # A server closes its socket with itself, so it gets a copy.
            self._server = await self._loop.create_server(
                self._connection,
                sock=self._socket.dup(),
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else HANDSHAKE_TIMEOUT,
                backlog=BACKLOG,
            )

    def pause(self) -> None:
        """Take no more clients for now; they wait in the kernel's backlog."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        """Take no more clients; those that wait are refused."""
        self.pause()
        path = self._socket.getsockname() if self._socket.family == socket.AF_UNIX else None
        self._socket.close()
        if isinstance(path, str):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


class Client(Protocol):
    """A client's connection, as the gate and its neighbours know it."""

    queued: int  # bytes of messages unread
    blocked_since: float  # loop time since when it takes no more
    transport: asyncio.Transport

    def cut_off(self) -> None:
        """Close it, since it leaves too much unread."""


class Gate:
    """Counts the clients of all listeners and stops accepting at the bound."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bound: int) -> None:
        self._loop = loop
        self._bound = bound
        self._task: asyncio.Task[None] | None = None
        self._paused = False
        self._closed = False
        self.listeners: list[Listener] = []
        self.connections: set[Client] = set()

    async def open(self) -> None:
        """Accept on all listeners."""
        for listener in self.listeners:
            await listener.accept()

    def enter(self, connection: Client, transport: asyncio.Transport) -> None:
        """A client has come."""
        self.connections.add(connection)
        if len(self.connections) > 2 * self._bound:
            transport.abort()  # handshakes that were under way must not add up
        elif len(self.connections) >= self._bound and not self._paused:
            self._paused = True
            log.warning(
                "%d connections: no more are accepted for now (client_maxconn)",
                len(self.connections),
            )
            for listener in self.listeners:
                listener.pause()

    def leave(self, connection: Client) -> None:
        """A client has gone."""
        self.connections.discard(connection)
        if self._paused and not self._closed and len(self.connections) < self._bound:
            self._paused = False
            self._task = self._loop.create_task(self.open())

    async def close(self) -> None:
        """Accept nothing more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for listener in self.listeners:
            listener.close()
