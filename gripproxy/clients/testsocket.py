"""The `test` target for WebSockets: a backend inside the proxy that echoes, and listens."""

from typing import TYPE_CHECKING

import orjson

from gripproxy.backend import testhandler
from gripproxy.backend.request import Outgoing
from gripproxy.http1.head import Headers
from gripproxy.websocket.frames import BINARY, PING, PONG, TEXT, Frame

if TYPE_CHECKING:
    from gripproxy.clients.session import Session

_FIELDS: Headers = [(b"Sec-WebSocket-Extensions", b"grip")]


class TestSocket:
    """A session's backend end without a backend."""

    __test__ = False  # it is not a test, whatever its name says
    __slots__ = ("_channels", "_grip", "_session")

    def __init__(self, session: "Session", outgoing: Outgoing) -> None:
        self._session = session
        path = testhandler.strip_base(outgoing.target, outgoing.route.path_beg)
        self._grip = outgoing.transform.rules.grip
        self._channels = testhandler.websocket_channels(path)

    def begin(self) -> None:
        if self._channels is None:
            code, reason, headers, body = testhandler.NOT_FOUND
            self._session.on_backend_refused(code, reason, list(headers), body)
            return
        self._session.on_backend_accepted(_FIELDS if self._grip else [])
        for channel in self._channels if self._grip else ():
            control = orjson.dumps({"type": "subscribe", "channel": channel})
            self._session.on_backend_frame(Frame(TEXT, b"c:" + control))

    def send(self, piece: Frame) -> None:
        opcode, payload, fin = piece
        if opcode in (TEXT, BINARY) and self._grip:
            payload = b"m:" + payload
        elif opcode == PING:
            opcode = PONG
        elif opcode == PONG:
            return
        self._session.on_backend_frame(Frame(opcode, payload, fin))

    def flush(self) -> None:
        self._session.on_backend_read()

    def close(self, code: int | None, reason: bytes) -> None:
        self._session.on_backend_close(code, reason)

    def detach(self) -> None:
        """Nothing: there is nobody to hear of it."""

    def lost(self) -> None:
        """The same."""

    def pause(self) -> None:
        self._session.on_backend_blocked()  # an echo has to wait for its reader

    def resume(self) -> None:
        self._session.on_backend_ready()

    def refresh(self) -> None:
        """Nothing to say."""
