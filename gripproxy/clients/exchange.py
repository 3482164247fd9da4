"""One request of a client and its answer: routed, taken to a backend, relayed or held.

Everything here runs in callbacks of the event loop and nothing awaits. An exchange ends once: with
its response, by becoming a stream (`StreamHold` takes its place), or because the client has left.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gripproxy.backend.request import KEPT_MAX, BackendRequest, Outgoing, RequestBody
from gripproxy.clients import sockjs
from gripproxy.clients.crossorigin import jsonp_request
from gripproxy.clients.front import Front, Pause
from gripproxy.clients.hold import ResponseHold, StreamHold, Subscriptions
from gripproxy.clients.response import Framing, ResponseWriter
from gripproxy.clients.routing import route_request
from gripproxy.errors import (
    BackendError,
    BlockedError,
    ConnectError,
    CrossOriginError,
    HttpError,
    InstructError,
    PatchError,
)
from gripproxy.grip import instruct as grip
from gripproxy.grip import item
from gripproxy.grip.instruct import HoldMode, Instruct
from gripproxy.http1.head import RequestHead, ResponseHead, header
from gripproxy.http1.status import reason_phrase
from gripproxy.routes import Target

if TYPE_CHECKING:
    from gripproxy.clients.connection import ClientConnection

log = logging.getLogger("gripproxy.clients")

# Bytes of a request's body that are awaited before the backend is asked (all of it, if it is
# shorter), as in Pushpin.
PREFETCH = 10_000

_TEXT = ((b"Content-Type", b"text/plain"),)
_ORIGIN_FAILED = "Error while proxying to origin."
_NO_BODY = RequestBody(0)


class Exchange:
    """A request and what becomes of it."""

    __slots__ = (
        "_asked",
        "_body",
        "_client",
        "_collected",
        "_front",
        "_hold",
        "_instruct",
        "_last_ids",
        "_outgoing",
        "_relaying",
        "_request",
        "_response",
        "_target",
        "_upstream",
        "_writer",
    )

    def __init__(self, front: Front, client: "ClientConnection", request: RequestHead) -> None:
        self._front = front
        self._client = client
        self._request = request
        self._body = RequestBody(request.length) if request.length else _NO_BODY
        self._writer = ResponseWriter(client, request, front.cross_origin)
        self._outgoing: Outgoing | None = None  # None: no route
        self._asked = False  # the backend is being asked, was, or will be in its turn
        self._upstream: BackendRequest | None = None  # set while a backend is asked
        self._target: Target | None = None  # who was asked last
        self._response: ResponseHead | None = None
        self._collected: bytearray | None = None  # the body of an instruction
        self._relaying: Instruct | None = None  # begins behind a response that passes by
        self._instruct: Instruct | None = None  # to be obeyed when all of the request is here
        self._hold: ResponseHold | None = None
        self._last_ids: dict[str, str] = {}

    @property
    def held(self) -> bool:
        """Whether the client waits for a message rather than for the backend."""
        return self._hold is not None

    # The request.

    def begin(self) -> None:
        """Find a route, and ask its backend as soon as enough of the request's body is here."""
        front, request = self._front, self._request
        try:
            outgoing = self._outgoing = route_request(front, self._client, request)
        except HttpError as error:
            self._answer_error(error.status, str(error))
            return
        if outgoing.route.sockjs is not None and sockjs.take(
            front, self._client, request, outgoing
        ):
            return
        if outgoing.route.cross_origin or front.cross_origin:
            if not self._cross_origin(outgoing):
                return
            outgoing = self._outgoing
        if not outgoing.sender.trusted and _sends_events(outgoing):
            self._answer_error(403, "Client not allowed to send WebSocket events directly.")
            return
        if not self._body.length:
            self._ask()
        elif request.expects_continue:
            self._client.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_request_content(self, content: bytes, finished: bool) -> None:
        self._body.add(content, finished)
        if self._outgoing is None:
            return
        if self._upstream is not None:
            self._upstream.forward(content)
        elif self._asked:
            if finished and self._instruct is not None:
                self._obey(self._instruct)
        elif finished or self._body.size >= PREFETCH:
            self._ask()

    def on_request_broken(self, error: HttpError) -> None:
        self._drop_upstream()
        if self._writer.code:
            self._writer.break_off()
        else:
            self._answer_error(error.status, f"Failed to parse request: {error}")

    # The backend.

    def on_response(self, head: ResponseHead, content: bytes, finished: bool) -> None:
        outgoing, upstream = self._outgoing, self._upstream
        assert outgoing is not None and upstream is not None
        self._target = upstream.target
        self._response = head
        if finished:
            self._end_upstream()
        passes = outgoing.route.no_grip or outgoing.sender.trusted
        if not passes and grip.is_instruct(head.headers):
            self._collected = bytearray()
            self._collect(content, finished)
            return
        length = head.length if head.length >= 0 else None
        if finished and length is None and self._request.method != b"HEAD":
            length = len(content)
        self._writer.start(head.code, head.reason, head.headers, length, content, finished)
        if finished:
            self._log_end()

    def on_content(self, content: bytes, finished: bool) -> None:
        if finished:
            self._end_upstream()
        if self._collected is not None:
            self._collect(content, finished)
        elif self._relaying is not None:
            self._writer.send(content)
            if finished:
                self._begin_stream(self._relaying)
        else:
            self._writer.send(content, finished)
            if finished:
                self._log_end()

    def on_failed(self, error: BackendError) -> None:
        if self._upstream is not None:
            self._target = self._upstream.target
        self._end_upstream()
        if self._writer.code:
            self._writer.break_off()
            self._log_end("error")
        else:
            self._front.warn("%s: %s", self._url(), error.__cause__ or error)
            shown = str(error) if isinstance(error, ConnectError | BlockedError) else None
            self._answer_error(502, _ORIGIN_FAILED, shown)

    def on_upload_blocked(self) -> None:
        # Only while something is to be read: a paused client could leave unnoticed.
        if self._client.receiving:
            self._client.pause_reading(Pause.UPLOAD)

    def on_upload_ready(self) -> None:
        self._client.resume_reading(Pause.UPLOAD)

    # The client's connection.

    def on_client_lost(self) -> None:
        self._drop_upstream()
        if self._hold is not None:
            self._hold.end()
        else:
            self._log_end("error")

    def on_client_blocked(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def on_client_ready(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    # The hold.

    def answer(self, instruct: grip.Response, response: item.HttpResponse | None) -> None:
        self._hold = None
        if response is not None:
            try:
                instruct = grip.respond(instruct, response)
            except PatchError as error:
                self._answer_error(502, _ORIGIN_FAILED, f"Failed to patch the response: {error}")
                return
        self._respond(instruct, held=True)

    def retry(self, last_ids: Mapping[str, str]) -> None:
        self._hold = None
        self._last_ids.update(last_ids)
        self._instruct = None
        self._response = None
        self._ask()

    # Steps.

    def _cross_origin(self, outgoing: Outgoing) -> bool:
        """Obey the browser's rules for other origins; False: the request is answered."""
        writer = self._writer
        writer.cross_origin = True
        try:
            jsonp = jsonp_request(
                outgoing.method, outgoing.target, outgoing.headers, outgoing.route
            )
        except CrossOriginError as error:
            self._answer_error(error.status, str(error))
            return False
        if jsonp is None:
            return True
        writer.jsonp = jsonp
        self._outgoing = outgoing._replace(
            method=jsonp.method, target=jsonp.target, headers=list(jsonp.headers)
        )
        if self._client.receiving:
            self._answer_error(400, "A JSON-P request has no body.")
            return False
        self._body = RequestBody(0)
        if jsonp.body:
            self._body.add(jsonp.body, True)
        return True

    def _ask(self) -> None:
        """Take the request to a backend, if need be in its turn."""
        self._asked = True
        turnstile = self._front.turnstile
        if turnstile is None or turnstile.enter(self):
            self.on_turn()
        else:
            self.on_upload_blocked()

    def on_turn(self) -> None:
        """The request may go now."""
        assert self._outgoing is not None
        if self._client.exchange is not self:
            self._end_upstream()  # the client has left
            return
        self.on_upload_ready()
        self._upstream = BackendRequest(
            self._front.pool, self, self._outgoing, self._body, self._last_ids
        )
        self._upstream.start()

    def _end_upstream(self) -> None:
        """The backend has nothing more to do with it."""
        self._upstream = None
        self.on_upload_ready()  # what is left of the request is not held back any more
        if self._front.turnstile is not None:
            self._front.turnstile.leave()

    def _drop_upstream(self) -> None:
        """The backend need not answer any more."""
        if self._upstream is not None:
            self._upstream.abandon()
            self._end_upstream()
        elif self._front.turnstile is not None and self._asked and self._response is None:
            self._front.turnstile.give_up(self)

    def _collect(self, content: bytes, finished: bool) -> None:
        """Gather a response that carries an instruction, then obey it."""
        collected, head = self._collected, self._response
        assert collected is not None and head is not None and self._target is not None
        collected += content
        try:
            if len(collected) > KEPT_MAX:
                if not grip.may_relay(head.headers):
                    self._drop_upstream()
                    self._answer_error(
                        502,
                        _ORIGIN_FAILED,
                        f"GRIP instruct response too large from {self._target.name}",
                    )
                    return
                self._collected = None
                self._relay_large(
                    grip.parse_headers_only(head.code, head.reason, head.headers),
                    bytes(collected),
                    finished,
                )
            elif finished:
                self._collected = None
                self._obey(grip.parse(head.code, head.reason, head.headers, bytes(collected)))
        except InstructError as error:
            self._drop_upstream()
            message = f"Failed to parse accept instructions: {error}"
            self._front.warn("%s: %s", self._url(), message)
            self._answer_error(502, _ORIGIN_FAILED, message)

    def _obey(self, instruct: Instruct) -> None:
        if self._body.size > KEPT_MAX:
            self._answer_error(400, "Request too large to accept GRIP instruct.")
        elif self._client.receiving:
            self._instruct = instruct  # once all of the request has come
        else:
            self._accept(instruct)

    def _accept(self, instruct: Instruct) -> None:
        response = instruct.response
        if instruct.hold is HoldMode.RESPONSE:
            self._begin_wait(instruct)
        elif instruct.hold is HoldMode.STREAM:
            if self._is_interim(response):
                return
            self._writer.jsonp = None  # a script has an end
            self._writer.start(
                response.code, response.reason, response.headers, None, response.body
            )
            self._begin_stream(instruct)
        elif instruct.next_link is not None:
            message = "Grip-Link without Grip-Hold is not supported."
            log.warning("%s: %s", self._url(), message)
            self._answer_error(502, _ORIGIN_FAILED, message)
        else:
            self._respond(response)

    def _begin_wait(self, instruct: Instruct) -> None:
        front = self._front
        subscriptions = self._subscriptions(instruct)
        conflicts = [
            channel
            for channel, previous in (subscriptions.previous or {}).items()
            if front.sequencer.last_id(channel) not in (None, previous)
        ]
        if conflicts:
            # Something was published between the backend's answer and now, so it must answer anew.
            for channel in conflicts:
                front.sequencer.forget(channel)
            self.retry(subscriptions.last_ids())
            return
        self._hold = ResponseHold(front, self, subscriptions, instruct.response)
        self._hold.begin(instruct.timeout)
        self._client.keep_reading()
        self._log_accept(subscriptions)

    def _begin_stream(self, instruct: Instruct) -> None:
        front, client = self._front, self._client
        if self._writer.framing is Framing.NONE:
            client.finish()
            self._log_end()
            return
        unlinked = [channel.name for channel in instruct.channels if channel.prev_id is not None]
        if unlinked and instruct.next_link is None:
            self._fail_stream(f"channel '{unlinked[0]}' specifies prev-id, but no next link found")
            return
        subscriptions = self._subscriptions(instruct)
        hold = StreamHold(front, client, subscriptions, instruct.keep_alive, self._writer.framing)
        client.exchange = hold
        hold.begin()
        client.keep_reading()
        self._log_accept(subscriptions)

    def _relay_large(self, instruct: Instruct, content: bytes, finished: bool) -> None:
        """Pass by what is too large to be gathered; the stream begins behind it."""
        if self._body.size > KEPT_MAX:
            self._drop_upstream()
            self._answer_error(400, "Request too large to accept GRIP instruct.")
            return
        response = instruct.response
        if response.code < 200:
            self._drop_upstream()
        if self._is_interim(response):
            return
        self._relaying = instruct
        self._writer.start(response.code, response.reason, response.headers, None, content)
        if finished:
            self._begin_stream(instruct)

    def _is_interim(self, response: grip.Response) -> bool:
        """Whether `response` would leave the client waiting for a final one; it is told so."""
        if response.code >= 200:
            return False
        self._answer_error(502, _ORIGIN_FAILED, f"Status {response.code} cannot end a request.")
        return True

    def _fail_stream(self, message: str) -> None:
        """End a response whose status is out already."""
        self._writer.send(f"\n\n{message}\n".encode() if self._debug() else b"", True)
        self._log_end()

    def _respond(self, response: grip.Response, *, held: bool = False) -> None:
        if self._is_interim(response):
            return
        self._writer.respond(
            response.code, response.reason, response.headers, response.body, held=held
        )
        self._log_end()

    def _answer_error(self, code: int, text: str, debug_text: str | None = None) -> None:
        """Answer on the proxy's own account.

        `debug_text` replaces the text where debugging is on.
        """
        if debug_text is not None and self._debug():
            text = debug_text
        body = f"{text}\n".encode()
        headers = (*_TEXT, (b"Content-Length", b"%d" % len(body)))  # which JSON-P shows
        self._writer.respond(code, reason_phrase(code), headers, body)
        self._log_end()

    def _subscriptions(self, instruct: Instruct) -> Subscriptions:
        assert self._outgoing is not None and self._target is not None
        channels = instruct.channels[: self._front.limits.subscriptions_max]
        if not channels and not self._target.subs:
            self._front.warn("held without a channel, so nothing can reach it: %s", self._url())
        if any(channel.filters for channel in channels):
            self._front.warn("filters have no effect in this version: %s", self._url())
        return Subscriptions(self._outgoing.route, channels, self._target.subs)

    def _debug(self) -> bool:
        return self._front.debug or (self._outgoing is not None and self._outgoing.route.debug)

    # Logging.

    def _is_quiet(self) -> bool:
        return self._outgoing is not None and self._outgoing.route.quiet

    def _url(self) -> str:
        outgoing = self._outgoing
        if outgoing is None:
            return self._request.target.decode("latin-1")
        return outgoing.url

    def _log_end(self, outcome: str = "") -> None:
        access = self._front.access
        if access.enabled and not self._is_quiet():
            access.exchange(
                self._request,
                self._url(),
                self._client,
                self._outgoing.route.id if self._outgoing is not None else None,
                self._target.name if self._target is not None else None,
                outcome or f"code={self._writer.code} {self._writer.sent}",
                self._last_ids,
            )

    def _log_accept(self, subscriptions: Subscriptions) -> None:
        access = self._front.access
        if access.enabled and not self._is_quiet():
            self._log_end("accept")
            for channel in subscriptions.channels:
                access.subscribe(self._url(), channel, retry=bool(self._last_ids))


def _sends_events(outgoing: Outgoing) -> bool:
    """Whether a client speaks to a backend as only a proxy may."""
    content_type = header(outgoing.headers, b"content-type")
    return (
        content_type is not None
        and content_type.partition(b";")[0].strip().lower() == b"application/websocket-events"
        and any(target.over_http for target in outgoing.route.targets)
    )
