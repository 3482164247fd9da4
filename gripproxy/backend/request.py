"""A request to a route's targets.

The first that can be reached gets it, and it is sent again where that is safe.
"""

import logging
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from gripproxy.backend import testhandler
from gripproxy.backend.connection import BackendConnection
from gripproxy.backend.headers import HeaderTransform, Sender, request_bytes
from gripproxy.backend.pool import Pool
from gripproxy.errors import (
    BackendError,
    BlockedError,
    ConnectError,
    ResponseError,
    ResponseTimeout,
)
from gripproxy.http1.body import LAST_CHUNK, chunk
from gripproxy.http1.head import CHUNKED, Headers, ResponseHead
from gripproxy.routes import Route, Target, rewrite

log = logging.getLogger("gripproxy.backend")

# Bytes of a body that is kept so that it can be sent again, as in Pushpin.
KEPT_MAX = 100_000

_REPEATABLE = frozenset(
    (b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE")
)  # idempotent: RFC 9110 §9.2.2


class RequestBody:
    """A request's body as it arrives.

    All of it is kept until it was sent, and while it is small after that.
    """

    __slots__ = ("_parts", "_sent", "finished", "length", "size")

    def __init__(self, length: int) -> None:
        self.length = length  # as the client announced it, or CHUNKED
        self.size = 0  # bytes so far
        self.finished = length == 0
        self._parts: list[bytes] | None = []
        self._sent = False

    def add(self, content: bytes, finished: bool) -> None:
        """More of it came."""
        self.size += len(content)
        self.finished = finished
        if self._parts is not None:
            self._parts.append(content)
            self._trim()

    @property
    def content(self) -> bytes | None:
        """All that came so far, or None: it was too much to be kept."""
        return None if self._parts is None else b"".join(self._parts)

    @property
    def kept(self) -> bool:
        """Whether `content` is there."""
        return self._parts is not None

    def mark_sent(self) -> None:
        """What came so far is on its way to a backend."""
        self._sent = True
        self._trim()

    def _trim(self) -> None:
        if self._sent and self.size > KEPT_MAX:
            self._parts = None


class Outgoing(NamedTuple):
    """What is asked, before a target is chosen."""

    route: Route
    method: bytes
    target: bytes  # path and query as the client asked
    host: bytes  # authority as the client asked
    scheme: bytes
    headers: Headers
    sender: Sender
    transform: HeaderTransform

    @property
    def url(self) -> str:
        """The whole of what was asked, for logs."""
        return (b"%b://%b%b" % (self.scheme, self.host, self.target)).decode("latin-1")

    def authority(self, target: Target) -> bytes:
        """The Host field for `target`."""
        name = target.host_header or self.route.as_host
        return self.host if name is None else _without_default_port(name, target.ssl)

    def tls_name(self, target: Target) -> str | None:
        """The name that the certificate of `target` must carry; None: no TLS."""
        if not target.ssl:
            return None
        if target.trust_connect_host:
            return target.host
        return _host_of(self.authority(target).decode("latin-1")) or target.host


class Asker(Protocol):
    """Who wants the response."""

    def on_response(self, head: ResponseHead, content: bytes, finished: bool) -> None:
        """The response begins, with the first `content` that came with it."""

    def on_content(self, content: bytes, finished: bool) -> None:
        """More of the response's body."""

    def on_failed(self, error: BackendError) -> None:
        """No response, or no more of it. ConnectError: no target could be reached."""

    def on_upload_blocked(self) -> None:
        """The request's body comes faster than it can be passed on."""

    def on_upload_ready(self) -> None:
        """More of the request's body can be passed on."""


class BackendRequest:
    """One request on its way. `target` is where it is, or was last."""

    __slots__ = (
        "_asker",
        "_body",
        "_connection",
        "_failure",
        "_index",
        "_last_ids",
        "_outgoing",
        "_pool",
        "_repeated",
        "_responded",
        "_upload_held",
        "_upload_length",
        "_waiting",
    )

    def __init__(
        self,
        pool: Pool,
        asker: Asker,
        outgoing: Outgoing,
        body: RequestBody,
        last_ids: Mapping[str, str],
    ) -> None:
        self._pool = pool
        self._asker = asker
        self._outgoing = outgoing
        self._body = body
        self._last_ids = last_ids
        self._index = 0
        self._connection: BackendConnection | None = None
        self._failure: BackendError | None = None  # of the last target that could not be reached
        self._waiting = False  # for a connection
        self._responded = False
        self._upload_held = False  # until there is a connection to send it on
        self._repeated = False
        self._upload_length = 0

    @property
    def target(self) -> Target:
        targets = self._outgoing.route.targets
        return targets[min(self._index, len(targets) - 1)]

    def start(self, *, fresh: bool = False) -> None:
        """Go to the first target, from the current one on, that can be reached."""
        if not self._body.kept:
            self._asker.on_failed(ResponseError("the request's body is gone"))
            return
        targets = self._outgoing.route.targets
        while self._index < len(targets):
            target = targets[self._index]
            if target.test:
                self._ask_test_handler()
                return
            try:
                connection = self._pool.acquire(
                    target, self._outgoing.tls_name(target), self, fresh=fresh
                )
            except ConnectError as error:
                self._failure = error
                self._index += 1
                continue
            if connection is None:
                self._waiting = True
                self._hold_upload()
            else:
                self.on_connected(connection)
            return
        tried = ", ".join(target.name for target in targets)
        failure = ConnectError(f"Unable to connect to any targets. Tried: {tried}")
        failure.__cause__ = self._failure
        self._asker.on_failed(failure)

    def forward(self, content: bytes) -> None:
        """`content` was added to the body; pass it on if what came before it was."""
        if self._connection is None:
            if self.target.test and not self._responded:
                self._ask_test_handler()
            return
        finished = self._body.finished
        if self._upload_length == CHUNKED:
            content = (chunk(content) if content else b"") + (LAST_CHUNK if finished else b"")
        self._connection.send_content(content, complete=finished)

    def pause(self) -> None:
        """Let the backend wait with the rest of its response."""
        if self._connection is not None:
            self._connection.transport.pause_reading()

    def resume(self) -> None:
        """Take the rest of the response."""
        if self._connection is not None:
            self._connection.transport.resume_reading()

    def abandon(self) -> None:
        """The response is not wanted any more.

        The backend can see it by its connection being closed.
        """
        if self._connection is not None:
            self._connection.abandon()
            self._connection = None
        elif self._waiting:
            self._waiting = False
            self._pool.cancel(self)

    # What the pool calls.

    def on_connected(self, connection: BackendConnection) -> None:
        self._waiting = False
        self._connection = connection
        self._release_upload()
        outgoing, body = self._outgoing, self._body
        # A body that is complete goes with its length, however it came.
        length = self._upload_length = body.size if body.finished else body.length
        data = request_bytes(
            outgoing.method,
            rewrite(outgoing.route, outgoing.target),
            outgoing.authority(self.target),
            outgoing.transform.apply(
                outgoing.headers, outgoing.sender, outgoing.scheme, self._last_ids
            ),
            length,
        )
        if body.size:
            content = body.content or b""
            data += chunk(content) if length == CHUNKED else content
            body.mark_sent()
        connection.send(self, outgoing.method, data, complete=body.finished)

    def on_unconnected(self, error: BackendError) -> None:
        self._waiting = False
        self._failure = error
        if isinstance(error, BlockedError):
            self._asker.on_failed(error)
            return
        self._index += 1
        self.start()

    # What the connection calls.

    def on_response(self, head: ResponseHead, content: bytes, finished: bool) -> None:
        self._responded = True
        if finished:
            self._connection = None
        self._asker.on_response(head, content, finished)

    def on_content(self, content: bytes, finished: bool) -> None:
        if finished:
            self._connection = None
        self._asker.on_content(content, finished)

    def on_failed(self, error: BackendError, retriable: bool) -> None:
        self._connection = None
        log.debug("target %s: %s", self.target.name, error)
        if not self._responded and self._body.kept and self._outgoing.method in _REPEATABLE:
            if retriable and not self._repeated:
                self._repeated = True
                self.start(fresh=True)
                return
            if isinstance(error, ResponseTimeout) and self._index + 1 < len(
                self._outgoing.route.targets
            ):
                self._index += 1
                self._hold_upload()
                self.start()
                return
        self._asker.on_failed(error)

    def on_upload_blocked(self) -> None:
        self._asker.on_upload_blocked()

    def on_upload_ready(self) -> None:
        self._asker.on_upload_ready()

    def _hold_upload(self) -> None:
        if not self._upload_held:
            self._upload_held = True
            self._asker.on_upload_blocked()

    def _release_upload(self) -> None:
        if self._upload_held:
            self._upload_held = False
            self._asker.on_upload_ready()

    def _ask_test_handler(self) -> None:
        self._release_upload()
        if not self._body.finished and self._body.size <= testhandler.MAX_REQUEST_BODY_BYTES:
            return  # it takes the body as a whole
        outgoing = self._outgoing
        self._responded = True
        path = testhandler.strip_base(outgoing.target, outgoing.route.path_beg)
        code, reason, headers, body = testhandler.answer(
            outgoing.method, path, outgoing.headers, self._body.content or b""
        )
        self._asker.on_response(
            ResponseHead(code, reason, list(headers), len(body), True), body, True
        )


def _host_of(authority: str) -> str:
    """The host of `host[:port]`, without the brackets of an IPv6 address."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def _without_default_port(authority: str, secure: bool) -> bytes:
    return authority.lower().removesuffix(":443" if secure else ":80").encode()
