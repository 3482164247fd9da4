"""SockJS for HTTP clients: its pages, and the requests that receive and send for a session.

What a route's `sockjs` begins is answered here; the session goes to the route's targets as a
WebSocket. Pushpin knows xhr and jsonp only.
"""

import secrets
from typing import TYPE_CHECKING

from gripproxy.backend.request import Outgoing
from gripproxy.clients.front import Front
from gripproxy.clients.response import ResponseWriter
from gripproxy.clients.sockjssession import SockJsSession
from gripproxy.clients.sockjssocket import as_websocket, sockjs_path
from gripproxy.errors import HttpError
from gripproxy.grip import sockjs
from gripproxy.grip.sockjs import TRANSPORTS, Transport
from gripproxy.http1.head import Headers, RequestHead, header
from gripproxy.http1.status import reason_phrase

if TYPE_CHECKING:
    from gripproxy.clients.connection import ClientConnection

# Bytes, as in Pushpin.
BODY_MAX = 100_000
# Bytes of a streaming response, all of which browsers keep until its end.
STREAM_MAX = 131_072

_OPENERS = {
    Transport.XHR: (b"POST",),
    Transport.XHR_STREAMING: (b"POST",),
    Transport.JSONP: (b"GET", b"POST"),
    Transport.EVENTSOURCE: (b"GET",),
}
_SENDS = (b"xhr_send", b"jsonp_send")
_GETS = (b"GET", b"HEAD")
_TEXT = (b"Content-Type", b"text/plain")
# What a browser may send across origins; Pushpin leaves that out.
_PREFLIGHT = [
    (b"Access-Control-Allow-Methods", b"OPTIONS, GET, POST"),
    (b"Access-Control-Max-Age", b"3600"),
]


def take(
    front: Front, client: "ClientConnection", request: RequestHead, outgoing: Outgoing
) -> bool:
    """Whether it is a request for SockJS, which occupies the connection in that case."""
    path = sockjs_path(outgoing)
    if path is None:
        return False
    exchange = SockJsExchange(front, client, request, outgoing, path)
    client.exchange = exchange
    exchange.begin()
    return True


class SockJsExchange:
    """One request and its answer; the connection's occupant until then."""

    __slots__ = (
        "_body",
        "_callback",
        "_client",
        "_front",
        "_outgoing",
        "_path",
        "_request",
        "_sent",
        "_session",
        "_size",
        "_transport",
        "_writer",
    )

    def __init__(
        self,
        front: Front,
        client: "ClientConnection",
        request: RequestHead,
        outgoing: Outgoing,
        path: bytes,
    ) -> None:
        self._front = front
        self._client = client
        self._request = request
        self._outgoing = outgoing
        self._path = path  # behind the prefix
        self._writer = ResponseWriter(client, request, cross_origin=False)
        self._body: list[bytes] = []
        self._size = 0  # bytes of it
        self._session: SockJsSession | None = None  # set while the request waits
        self._transport = Transport.XHR
        self._callback = b""  # of JSON-P
        self._sent = 0  # bytes of frames in a streaming response

    def begin(self) -> None:
        """Answer as soon as all of the request is here."""
        if not self._request.length:
            self._answer()
        elif self._request.expects_continue:
            self._client.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # What the client's connection calls.

    @property
    def held(self) -> bool:
        return self._session is not None

    def on_request_content(self, content: bytes, finished: bool) -> None:
        self._size += len(content)
        if self._size > BODY_MAX:
            self._answer_error(400, "Request too large.")
            return
        self._body.append(content)
        if finished:
            self._answer()

    def on_request_broken(self, error: HttpError) -> None:
        self._answer_error(error.status, f"Failed to parse request: {error}")

    def on_client_lost(self) -> None:
        if self._session is not None:
            self._session.on_lost(self)

    def on_client_blocked(self) -> None:
        """Nothing: the session asks."""

    def on_client_ready(self) -> None:
        if self._session is not None:
            self._session.on_receiver_ready()

    # What the session calls of a request that receives.

    @property
    def blocked(self) -> bool:
        return self._client.blocked

    @property
    def unread(self) -> int:
        return self._client.transport.get_write_buffer_size()

    def send(self, frame: bytes, *, last: bool = False) -> bool:
        transport, writer = self._transport, self._writer
        data = sockjs.wrapped(frame, transport, self._callback)
        self._sent += len(data)
        ends = last or not transport.streams or self._sent >= STREAM_MAX
        if ends:
            self._session = None
        if not transport.streams:
            self._respond(200, b"OK", [(b"Content-Type", transport.content_type)], data)
        elif writer.code:
            writer.send(data, ends)
        else:
            fields = self._fields([(b"Content-Type", transport.content_type)])
            writer.start(200, b"OK", fields, None, transport.prelude + data, ends)
        return ends

    def refuse(self, code: int, reason: bytes, fields: Headers, body: bytes) -> None:
        self._session = None
        self._respond(code, reason, fields, body)

    def abort(self) -> None:
        self._session = None
        self._client.transport.abort()

    def log(self, target: str, outcome: str) -> None:
        front, outgoing = self._front, self._outgoing
        if front.access.enabled and not outgoing.route.quiet:
            front.access.exchange(
                self._request._replace(method=b"GET"),  # so it is asked for
                as_websocket(outgoing).url,
                self._client,
                outgoing.route.id,
                target,
                outcome,
                {},
            )

    # What it calls of a request that sends.

    def sent(self) -> None:
        self._session = None
        self._respond(200, b"OK", [_TEXT], b"ok")

    # What it calls of both.

    def gone(self) -> None:
        self._session = None
        if self._writer.code:
            self._writer.break_off()
        else:
            self._answer_error(410, "Session terminated", b"Gone")

    # Answers.

    def _answer(self) -> None:
        method, path = self._request.method, self._path
        target = sockjs.session_path(path)
        if method == b"OPTIONS":
            self._answer_preflight()
        elif target is not None:
            self._answer_session(*target)
        elif method not in _GETS:
            self._answer_error(404, "Not Found")
        elif path in (b"", b"/"):
            text = (b"Content-Type", b"text/plain; charset=UTF-8")
            self._respond(200, b"OK", [text], sockjs.GREETING)
        elif path == b"/info":
            self._respond(200, b"OK", [_TEXT], sockjs.info(secrets.randbits(32)))
        elif sockjs.is_iframe(path):
            self._answer_iframe()
        else:
            self._answer_error(404, "Not Found")

    def _answer_preflight(self) -> None:
        fields = [_TEXT, *_PREFLIGHT]
        wanted = header(self._request.headers, b"access-control-request-headers")
        if wanted:
            fields.append((b"Access-Control-Allow-Headers", wanted))
        self._respond(204, b"No Content", fields, b"")

    def _answer_iframe(self) -> None:
        page = self._front.sockjs_page
        fields = [(b"ETag", page.etag)]
        if page.is_current(header(self._request.headers, b"if-none-match") or b""):
            self._respond(304, b"Not Modified", fields, b"")
            return
        fields.append((b"Content-Type", b"text/html; charset=UTF-8"))
        fields.append((b"Cache-Control", b"public, max-age=31536000"))
        self._respond(200, b"OK", fields, page.body)

    def _answer_session(self, id: bytes, what: bytes) -> None:
        method, front = self._request.method, self._front
        key = self._outgoing.route.key, id
        session = front.sockjs_sessions.get(key)
        transport = TRANSPORTS.get(what)
        if transport is not None and method in _OPENERS[transport]:
            if self._begin_to_receive(transport):
                if session is not None:
                    self._wait_for(session)
                    session.receive(self)
                else:
                    self._open(key)
        elif session is not None and what in _SENDS and method in (b"POST", b"GET"):
            self._transmit(session, what)
        else:
            self._answer_error(404, "Not Found")

    def _begin_to_receive(self, transport: Transport) -> bool:
        """False: the request lacks something, and was answered."""
        self._transport = transport
        if transport is Transport.JSONP:
            query = self._request.target.partition(b"?")[2]
            self._callback = sockjs.parameter(query, b"callback", b"c") or b""
            if not sockjs.is_callback(self._callback):
                self._answer_error(400, "Bad Request")
                return False
        return True

    def _open(self, key: tuple[str, bytes]) -> None:
        front, client = self._front, self._client
        bound = front.limits.sockjs_sessions_max
        if len(front.sockjs_sessions) >= bound:
            front.warn("a SockJS session was refused: there are %d (sockjs_sessions_max)", bound)
            front.stats.drops["sockjs-sessions"] += 1
            self._answer_error(503, "Too many sessions")
            return
        outgoing = as_websocket(self._outgoing)
        session = SockJsSession(front, outgoing, key, self, client.number)
        self._wait_for(session)
        session.begin()

    def _wait_for(self, session: SockJsSession) -> None:
        self._session = session
        self._body.clear()
        self._client.keep_reading()

    def _transmit(self, session: SockJsSession, what: bytes) -> None:
        if session.closed_by is not None:
            self._respond(200, b"OK", [_TEXT], sockjs.wrapped(session.closed_by, Transport.XHR))
            return
        messages = sockjs.parse_messages(self._payload(what))
        if messages is None:
            self._answer_error(400, "Payload expected")
            return
        self._wait_for(session)
        if not session.transmit(self, messages):
            self._session = None
            self._answer_error(400, "Already sending")

    def _payload(self, what: bytes) -> bytes:
        """The JSON that is sent: the body, or the field `d` of a form."""
        body = b"".join(self._body)
        if self._request.method == b"GET":
            body = self._request.target.partition(b"?")[2]
        elif what == b"xhr_send":
            return body
        else:
            kind = header(self._request.headers, b"content-type") or b""
            if kind.lower().startswith(b"text/plain"):
                return body
        return sockjs.parameter(body, b"d") or b""

    def _answer_error(self, code: int, text: str, reason: bytes = b"") -> None:
        self._respond(code, reason or reason_phrase(code), [_TEXT], f"{text}\n".encode())

    def _respond(self, code: int, reason: bytes, fields: Headers, body: bytes) -> None:
        self._writer.respond(code, reason, self._fields(fields), body)

    def _fields(self, fields: Headers) -> Headers:
        """`fields`, and what every answer has; those of a backend's refusal stay."""
        names = {name.lower() for name, _ in fields}
        own = [
            (b"Access-Control-Allow-Origin", header(self._request.headers, b"origin") or b"*"),
            (b"Access-Control-Allow-Credentials", b"true"),
        ]
        return [
            *fields,
            (b"Cache-Control", b"no-store, no-cache, must-revalidate, max-age=0"),
            *(field for field in own if field[0].lower() not in names),
        ]
