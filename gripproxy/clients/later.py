"""What a WebSocket client is sent later: keep-alives, and one message that was put off."""

from gripproxy.clients.ends import Downstream
from gripproxy.clients.front import Front
from gripproxy.deadlines import Alarm
from gripproxy.grip.item import WsMessage
from gripproxy.grip.terms import KeepAliveMode


class Later:
    """The timers of one session."""

    __slots__ = ("_delayed", "_down", "_front", "_kept_alive", "_rearms", "_timer")

    def __init__(self, front: Front, down: Downstream) -> None:
        self._front = front
        self._down = down
        self._kept_alive: tuple[WsMessage, int] | None = None  # by what, and after what time
        self._rearms = False  # any frame restarts the wait
        self._timer = Alarm(self._keep_alive)
        self._delayed: tuple[WsMessage, Alarm] | None = None

    def keep_alive(self, message: WsMessage | None, timeout: int, mode: KeepAliveMode) -> None:
        """Send `message` whenever `timeout` seconds have passed; None: no more.

        When it is idle, what the client is sent in between counts.
        """
        self._front.deadlines.clear(self._timer)
        self._rearms = mode is KeepAliveMode.IDLE
        self._kept_alive = None
        if message is not None:
            self._kept_alive = message, timeout
            self._wait(timeout)

    def on_sent(self) -> None:
        """The client was sent something."""
        if self._rearms and self._kept_alive is not None:
            self._wait(self._kept_alive[1])

    def delay(self, message: WsMessage, timeout: int) -> None:
        """Send `message` after `timeout` seconds, and at once what was put off before."""
        self.flush_delayed()
        self._delayed = message, Alarm(self.flush_delayed)
        self._front.deadlines.set(self._delayed[1], self._front.loop.time() + timeout)

    def flush_delayed(self) -> None:
        """Send at once what was put off."""
        if self._delayed is not None:
            (message, alarm), self._delayed = self._delayed, None
            self._front.deadlines.clear(alarm)
            self._down.send_message(message)
            self.on_sent()

    def stop(self) -> None:
        """Send nothing more."""
        self._kept_alive = None
        self._front.deadlines.clear(self._timer)
        if self._delayed is not None:
            self._front.deadlines.clear(self._delayed[1])
            self._delayed = None

    def _keep_alive(self) -> None:
        if self._kept_alive is not None:
            message, timeout = self._kept_alive
            if not self._down.unread:  # otherwise it is kept alive by what it has to read
                self._down.send_message(message)
            self._wait(timeout)

    def _wait(self, timeout: int) -> None:
        self._front.deadlines.set(self._timer, self._front.keep_alive_at(timeout))
