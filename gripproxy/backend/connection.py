"""One connection to a backend: a request goes out, its response is handed over as it arrives.

Invariant: `_receiver` is set from `send` until the response has ended or failed, and it hears of
exactly one end: `on_response` or `on_content` with `finished`, or `on_failed`.
"""

import asyncio
import contextlib
import os
import socket
from typing import Protocol, cast

from gripproxy.deadlines import Timed
from gripproxy.errors import BackendError, HttpError, ResponseError, ResponseTimeout
from gripproxy.http1.body import BodyReader, body_reader
from gripproxy.http1.head import ResponseHead, take_response


class Receiver(Protocol):
    """Who asked."""

    def on_response(self, head: ResponseHead, content: bytes, finished: bool) -> None:
        """The response begins, with the first `content` that came with it."""

    def on_content(self, content: bytes, finished: bool) -> None:
        """More of the response's body."""

    def on_failed(self, error: BackendError, retriable: bool) -> None:
        """No response, or no more of it.

        `retriable`: a reused connection ended before a byte came back.
        """

    def on_upload_blocked(self) -> None:
        """The backend does not take the request's body as fast as it comes."""

    def on_upload_ready(self) -> None:
        """The backend takes more of the request's body."""


class Owner(Protocol):
    """Where connections come from and go back to."""

    response_timeout: float
    inactivity_timeout: float
    head_max: int
    headers_max: int

    def watch(self, connection: "BackendConnection", seconds: float) -> None:
        """Call `connection.expired` after `seconds` without another `watch`."""

    def unwatch(self, connection: "BackendConnection") -> None:
        """Forget the connection's deadline."""

    def release(self, connection: "BackendConnection") -> None:
        """The connection has nothing to do and may be reused."""

    def lost(self, connection: "BackendConnection") -> None:
        """The connection is gone."""


class BackendConnection(asyncio.Protocol, Timed):
    """The protocol of one connection to a backend."""

    __slots__ = (
        "_buffer",
        "_head_only",
        "_keep_alive",
        "_owner",
        "_reader",
        "_receiver",
        "_silent",
        "_upload_ended",
        "_uses",
        "origin",
        "transport",
    )

    def __init__(self, owner: Owner, origin: object) -> None:
        Timed.__init__(self)
        self._owner = owner
        self.origin = origin  # the owner's note of where this leads
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._uses = 0
        self._receiver: Receiver | None = None
        self._buffer = b""  # the part of a response head that has come
        self._reader: BodyReader | None = None
        self._head_only = False  # the response has no body because of the request's method
        self._keep_alive = False
        self._silent = True  # not a byte of the response has come
        self._upload_ended = True

    @property
    def used(self) -> bool:
        """Whether a request was sent on it before."""
        return self._uses > 0

    # What the receiver calls.

    def send(self, receiver: Receiver, method: bytes, data: bytes, *, complete: bool) -> None:
        """Send a request's head, and its body so far; `complete`: that is all of it."""
        self._receiver = receiver
        self._uses += 1
        self._head_only = method == b"HEAD"
        self._silent = True
        self._upload_ended = complete
        self._watch_upload()
        self.transport.write(data)

    def send_content(self, data: bytes, *, complete: bool) -> None:
        """Send more of the request's body, as it must stand on the wire."""
        self._upload_ended = complete
        self._watch_upload()
        if data:
            self.transport.write(data)

    def abandon(self) -> None:
        """The receiver wants no more of it: the connection is closed, which tells the backend."""
        self._receiver = None
        self.transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            self.transport.abort()  # bytes that nobody asked for: out of step, of no more use
            return
        self._silent = False
        reader = self._reader
        if reader is None:
            self._take_head(receiver, data)
            return
        try:
            content = reader.feed(data)
        except HttpError as error:
            self._fail(ResponseError(str(error)))
            return
        self._after(reader)
        receiver.on_content(content, reader.finished)

    def eof_received(self) -> None:
        """The transport closes itself; `connection_lost` says what that means."""

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._receiver is not None:
            self._read_rest()
        self._owner.unwatch(self)
        self._owner.lost(self)
        receiver = self._receiver
        if receiver is None:
            return
        self._receiver = None
        if self._reader is not None and self._reader.closes() and exc is None:
            receiver.on_content(b"", True)
            return
        reason = (
            f"connection lost: {exc}" if exc is not None else "connection closed by the backend"
        )
        receiver.on_failed(ResponseError(reason), self._uses > 1 and self._silent)

    def pause_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.on_upload_blocked()

    def resume_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.on_upload_ready()

    def expired(self, now: float) -> None:
        self._fail(
            ResponseTimeout("no response in time")
            if self._silent
            else ResponseError("the response stopped")
        )

    # The response.

    def _read_rest(self) -> None:
        """Take what the backend said before it stopped listening.

        A backend may answer without reading all of the request, and close. Sending then fails
        before the event loop has read the answer, which the kernel still has (RFC 9112 §9.6).
        """
        lost = self.transport.get_extra_info("socket")
        if lost is None or self.transport.get_extra_info("sslcontext") is not None:
            return
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(lost.fileno())) as rest:
            while self._receiver is not None and (data := rest.recv(65536, socket.MSG_DONTWAIT)):
                self.data_received(data)

    def _watch_upload(self) -> None:
        # The backend's time runs from the end of the request: a slow client is not its fault.
        owner = self._owner
        owner.watch(
            self, owner.response_timeout if self._upload_ended else owner.inactivity_timeout
        )

    def _take_head(self, receiver: Receiver, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        try:
            head, data = take_response(data, self._owner.head_max, self._owner.headers_max)
            if head is None:
                self._buffer = data
                return
            if head.code == 101:
                raise HttpError("switched protocols unasked", 502)
            length = head.length
            if self._head_only or head.code == 204 or head.code == 304:
                length = 0
            self._keep_alive = head.keep_alive
            if 0 <= length <= len(data):
                self._end(reusable=head.keep_alive and len(data) == length)
                receiver.on_response(head, data[:length], True)
                return
            reader = self._reader = body_reader(length)
            content = reader.feed(data)
        except HttpError as error:
            self._fail(ResponseError(str(error)))
            return
        self._after(reader)
        receiver.on_response(head, content, reader.finished)

    def _after(self, reader: BodyReader) -> None:
        if reader.finished:
            self._end(reusable=self._keep_alive and not reader.rest)
        else:
            self._owner.watch(self, self._owner.inactivity_timeout)

    def _end(self, *, reusable: bool) -> None:
        """The response is complete.

        The connection is free before the receiver hears of it, who may use it again.
        """
        self._receiver = None
        self._reader = None
        if reusable and self._upload_ended and not self.transport.is_closing():
            self._owner.release(self)
        else:
            self.transport.abort()

    def _fail(self, error: BackendError) -> None:
        receiver, self._receiver = self._receiver, None
        self._reader = None
        self.transport.abort()
        if receiver is not None:
            receiver.on_failed(error, False)
