"""Who listens to which channel."""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gripproxy.hub.fanout import Batch


class Mode(Enum):
    """The kinds of subscribers: GRIP's two ways to hold, and WebSockets."""

    RESPONSE = "response"
    STREAM = "stream"
    WEBSOCKET = "websocket"


class Subscriber(Protocol):
    """A held connection, as the hub knows it."""

    @property
    def mode(self) -> Mode:
        """Which of an item's formats is for it."""

    @property
    def bucket(self) -> str:
        """Whose share of the message rate its deliveries take.

        The explicit id of its route, or an empty string.
        """

    def deliver(self, batch: "Batch") -> None:
        """Take the messages of `batch`, in their order, without waiting for anything."""


class Registry:
    """Channels and their subscribers, in the order in which they came.

    A client that polls is gone between two requests. So a channel that loses its last subscriber
    may linger for a while, and counts as one that somebody listens to until then.
    """

    def __init__(self, linger: float) -> None:
        self._linger = linger  # seconds
        self._channels: dict[str, dict[Subscriber, None]] = {}
        self._lingering: dict[str, float] = {}  # until when; in the order of these times
        # Called with a channel that gets its first subscriber, or that nobody listens to any more.
        self.on_first: Callable[[str], None] = _ignore
        self.on_last: Callable[[str], None] = _ignore

    def subscribe(self, channel: str, subscriber: Subscriber) -> None:
        """From now on `subscriber` is given what is published to `channel`."""
        subscribers = self._channels.get(channel)
        if subscribers is None:
            self._channels[channel] = {subscriber: None}
            self.on_first(channel)
        else:
            if not subscribers:
                del self._lingering[channel]
            subscribers[subscriber] = None

    def unsubscribe(
        self, channel: str, subscriber: Subscriber, linger_from: float | None = None
    ) -> None:
        """`subscriber` is given nothing more of `channel`, which lingers if `linger_from` (now)
        is given.
        """
        subscribers = self._channels.get(channel)
        if subscribers is None or subscriber not in subscribers:
            return
        del subscribers[subscriber]
        if subscribers:
            return
        if linger_from is not None and self._linger > 0:
            self._lingering[channel] = linger_from + self._linger
        else:
            self._remove(channel)

    def expire(self, now: float) -> None:
        """Remove the channels that have lingered long enough."""
        while self._lingering:
            channel, until = next(iter(self._lingering.items()))
            if until > now:
                return
            del self._lingering[channel]
            self._remove(channel)

    def subscribers(self, channel: str) -> Mapping[Subscriber, None]:
        """Those who listen to `channel` now."""
        return self._channels.get(channel, _NOBODY)

    def __contains__(self, channel: str) -> bool:
        return channel in self._channels

    def __len__(self) -> int:
        return len(self._channels)

    def _remove(self, channel: str) -> None:
        del self._channels[channel]
        self.on_last(channel)


def _ignore(channel: str) -> None:
    """Nobody wants to know."""


_NOBODY: Mapping[Subscriber, None] = {}
