"""The two ends of a WebSocket session, as the session between them knows them."""

from typing import TYPE_CHECKING, Protocol

from gripproxy.errors import WebSocketError
from gripproxy.grip.item import WsMessage
from gripproxy.http1.head import Headers
from gripproxy.hub.fanout import Batch
from gripproxy.websocket.frames import Frame

if TYPE_CHECKING:
    from gripproxy.clients.connection import ClientConnection


class Downstream(Protocol):
    """The client's end: it tells the session of what the client does, and is told what to do."""

    @property
    def number(self) -> int:
        """What logs call the client's connection."""

    @property
    def unread(self) -> int:
        """Bytes that the client has left unread."""

    @property
    def direct(self) -> "ClientConnection | None":
        """Where published frames can be written as they are, as long as it is not blocked."""

    def accept(self, fields: Headers, grip: bytes | None) -> None:
        """The backend has accepted, with these fields.

        `grip`: the extension that a trusted client is to be told of.
        """

    def refuse(self, code: int, reason: bytes, fields: Headers, body: bytes) -> None:
        """The backend has not accepted, or there is none."""

    def send(self, piece: Frame) -> None:
        """Relay a frame, or a piece of one, that came from the backend; it may wait for `flush`."""

    def flush(self) -> None:
        """The backend has sent no more than that for now."""

    def publish(self, batch: Batch) -> None:
        """Send what was published, which is the same for all."""

    def publish_one(self, batch: Batch, index: int) -> None:
        """Send one of the messages that were published."""

    def send_message(self, message: WsMessage) -> None:
        """Send a message that is for this client only."""

    def close(self, code: int | None, reason: bytes) -> None:
        """Begin the closing handshake, or answer the client's; nothing is sent after that."""

    def finish(self) -> None:
        """Both ends have closed."""

    def drop(self) -> None:
        """End without a close frame, once what was sent is out."""

    def fail(self, error: WebSocketError) -> None:
        """The client did what it must not: tell it so, and count it as lost."""

    def pause(self) -> None:
        """Take no more from the client for now."""

    def resume(self) -> None:
        """Take more from the client."""


class Upstream(Protocol):
    """The backend's end: it tells the session of what the backend does, and is told what to do."""

    def begin(self) -> None:
        """Ask the backend to accept."""

    def send(self, piece: Frame) -> None:
        """Take a frame, or a piece of one, of the client."""

    def flush(self) -> None:
        """The client has sent no more than that for now."""

    def close(self, code: int | None, reason: bytes) -> None:
        """The client has closed, or has answered the backend's close."""

    def detach(self) -> None:
        """The proxy closes, on its own account or the publisher's; nothing more is wanted."""

    def lost(self) -> None:
        """The client is gone without closing; nothing more is wanted."""

    def pause(self) -> None:
        """The client reads more slowly than the backend sends."""

    def resume(self) -> None:
        """The client has caught up."""

    def refresh(self) -> None:
        """Give the backend an occasion to say something."""
