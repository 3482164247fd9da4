"""The ZeroMQ inputs: PULL takes from those who push, SUB from those who publish.

Both are drained from the event loop in bounded batches. A socket's descriptor only tells that
something changed (it is edge-triggered), so after each batch, and after each call that may have
consumed the edge, the socket itself is asked whether it has more.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Sequence

import zmq

from gripproxy.control.publisher import Publisher
from gripproxy.errors import ConfigError, ItemError
from gripproxy.grip.item import Item, parse_frame

log = logging.getLogger("gripproxy.control")

# What one batch takes before others get their turn, in messages and in bytes of them.
BATCH_MESSAGES = 100
BATCH_BYTES = 1_000_000
# Messages that libzmq holds for us, of each peer, before PUSH sockets wait. As in Pushpin.
PULL_HWM = 101_000
# A longer one ends the connection of the peer that sends it. Pushpin has no bound.
MESSAGE_MAX = 64 * 1024 * 1024
# Connected SUB sockets notice a dead peer by TCP keep-alive: idle, count, interval. As in Pushpin.
_KEEPALIVE = (
    (zmq.TCP_KEEPALIVE_IDLE, 30),
    (zmq.TCP_KEEPALIVE_CNT, 6),
    (zmq.TCP_KEEPALIVE_INTVL, 5),
)
# Seconds between two warnings about invalid messages; those in between are counted.
_WARNING_INTERVAL = 1.0


class _Input:
    """A socket whose messages become items."""

    def __init__(self, name: str, socket: "zmq.Socket[bytes]", publisher: Publisher) -> None:
        self._name = name
        self._socket = socket
        self._publisher = publisher
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(socket.getsockopt(zmq.FD))
        self._watching = False
        self._again: asyncio.Handle | None = None
        self._unreported = 0  # invalid messages since the last warning
        self._next_warning = 0.0
        self.received = 0  # messages
        self.invalid = 0  # messages that were no item

    def start(self) -> None:
        """Begin to take messages."""
        self._watch()

    def close(self) -> None:
        """Take no more messages; what was not taken is lost with the socket."""
        self._unwatch()
        self._socket.close(linger=0)

    @property
    def endpoint(self) -> str:
        """Where it is bound, or what it connected to last."""
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def _parse(self, frames: Sequence[bytes]) -> Item:
        raise NotImplementedError

    def _watch(self) -> None:
        self._watching = True
        self._loop.add_reader(self._descriptor, self._drain)
        self._check()

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._descriptor)
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _check(self) -> None:
        """Come back if there are messages: the descriptor may never tell."""
        # Asking takes the edge from the descriptor, so the answer must be acted upon.
        if self._watching and self._again is None and self._has_messages():
            self._again = self._loop.call_soon(self._drain)

    def _has_messages(self) -> bool:
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def _drain(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if not self._publisher.full:
            items = self._take_batch()
            if items:
                self._publisher.publish(items)
        if self._publisher.full:
            # Peers wait with us: libzmq's queues fill, then the kernel's, then theirs.
            self._unwatch()
            self._publisher.when_ready(self._resume)
        else:
            self._check()

    def _resume(self) -> None:
        if not self._watching and not self._socket.closed:
            self._watch()

    def _take_batch(self) -> list[Item]:
        items: list[Item] = []
        socket = self._socket
        size = messages = 0
        while messages < BATCH_MESSAGES and size < BATCH_BYTES:
            try:
                frames = [socket.recv(zmq.NOBLOCK)]
            except zmq.Again:
                break
            while socket.getsockopt(zmq.RCVMORE):
                frames.append(socket.recv(zmq.NOBLOCK))
            messages += 1
            size += sum(map(len, frames))
            try:
                items.append(self._parse(frames))
            except ItemError as error:
                self._reject(error)
        self.received += messages
        return items

    def _reject(self, error: ItemError) -> None:
        self.invalid += 1
        self._unreported += 1
        now = self._loop.time()
        if now < self._next_warning:
            return
        others = f", and {self._unreported - 1} before it" if self._unreported > 1 else ""
        reason = str(error).encode("ascii", "backslashreplace").decode()
        log.warning("%s: invalid message skipped%s: %s", self._name, others, reason)
        self._unreported = 0
        self._next_warning = now + _WARNING_INTERVAL


class PullInput(_Input):
    """The PULL socket: each message is one frame, an item."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        spec: str,
        publisher: Publisher,
        *,
        ipc_file_mode: int | None = None,
        message_max: int = MESSAGE_MAX,
    ) -> None:
        """Bind to `spec`. Raises ConfigError."""
        socket = context.socket(zmq.PULL)
        socket.set_hwm(PULL_HWM)
        socket.setsockopt(zmq.MAXMSGSIZE, message_max)
        _bind(socket, "push_in_spec", spec, ipc_file_mode)
        super().__init__("push_in_spec", socket, publisher)

    def _parse(self, frames: Sequence[bytes]) -> Item:
        if len(frames) != 1:
            raise ItemError(f"message has {len(frames)} frames, not 1")
        return parse_frame(frames[0])


class SubInput(_Input):
    """The SUB socket: each message is two frames, a channel and an item.

    ZeroMQ matches by prefix, so longer channels than those subscribed to arrive too; they are
    published as they are.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        specs: Sequence[str],
        publisher: Publisher,
        *,
        connect: bool = False,
        ipc_file_mode: int | None = None,
        message_max: int = MESSAGE_MAX,
    ) -> None:
        """Bind to the first of `specs`, or connect to all of them. Raises ConfigError."""
        socket = context.socket(zmq.SUB)
        # No bound on the subscriptions under way: one that is lost would never come again.
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, message_max)
        if connect:
            socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                socket.setsockopt(option, value)
            for spec in specs:
                _connect(socket, "push_in_sub_specs", spec)
        else:
            _bind(socket, "push_in_sub_specs", specs[0], ipc_file_mode)
        super().__init__("push_in_sub_specs", socket, publisher)

    def subscribe(self, channel: str) -> None:
        """Somebody listens to `channel` now."""
        self._tell(zmq.SUBSCRIBE, channel)

    def unsubscribe(self, channel: str) -> None:
        """Nobody listens to `channel` any more."""
        self._tell(zmq.UNSUBSCRIBE, channel)

    def _tell(self, option: zmq.SocketOption, channel: str) -> None:
        if not self._socket.closed:  # connections that end after it still unsubscribe
            self._socket.setsockopt(option, channel.encode(errors="surrogateescape"))
            self._check()

    def _parse(self, frames: Sequence[bytes]) -> Item:
        if len(frames) != 2:
            raise ItemError(f"message has {len(frames)} frames, not 2")
        topic, payload = frames
        return parse_frame(payload, topic)


def _bind(socket: "zmq.Socket[bytes]", option: str, spec: str, ipc_file_mode: int | None) -> None:
    try:
        socket.bind(spec)
        path = spec.removeprefix("ipc://")
        if path != spec and not path.startswith("@") and ipc_file_mode is not None:
            os.chmod(path, ipc_file_mode)
    except (zmq.ZMQError, OSError) as error:
        socket.close(linger=0)
        raise ConfigError(f"{option}: cannot bind to {spec}: {_reason(error)}") from error


def _connect(socket: "zmq.Socket[bytes]", option: str, spec: str) -> None:
    try:
        socket.connect(spec)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise ConfigError(f"{option}: cannot connect to {spec}: {_reason(error)}") from error


def _reason(error: zmq.ZMQError | OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        reason += "; if Pushpin or another gripproxy runs here, --id N moves these ports"
    return reason
