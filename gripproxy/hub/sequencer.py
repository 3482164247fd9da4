"""The order in which the items of a channel are dispatched, and which of them were seen before.

Two publishers, or two paths from one, may overtake each other. An item that names its predecessor
waits until that one was dispatched, at most `message_wait` and a tick; an item that was seen
already goes no further.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from gripproxy.grip.item import Item, footprint

# All channels together; per channel Pushpin holds back 100 items, and so do we.
_WAITING_MAX = 100_000
_WAITING_BYTES_MAX = 67_108_864


class _Key(NamedTuple):
    """Where an item waits: one per channel and predecessor."""

    channel: str
    prev_id: str


class _Waiting(NamedTuple):
    """An item held back, and since when."""

    since: float
    item: Item
    size: int  # bytes


class Sequencer:
    """Decides for each item whether it is dispatched now, later, or never. Times are seconds."""

    def __init__(
        self,
        *,
        id_cache_ttl: float,
        message_wait: float,
        last_ids_max: int = 1_000_000,
        pending_max: int = 100,
        id_cache_max: int = 1_000_000,
        waiting_max: int = _WAITING_MAX,
        waiting_bytes_max: int = _WAITING_BYTES_MAX,
    ) -> None:
        self._ttl = id_cache_ttl  # 0: ids are not remembered
        self._wait = message_wait
        self._last_ids_max = last_ids_max
        self._pending_max = pending_max  # items held back per channel
        self._id_cache_max = id_cache_max
        self._waiting_max = waiting_max  # items held back in all
        self._waiting_bytes_max = waiting_bytes_max  # and bytes of content in them
        self._waiting_bytes = 0
        # All three are in the order of their times, oldest first; OrderedDict finds and drops its
        # first in O(1).
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._last_ids: OrderedDict[str, str] = OrderedDict()
        self._waiting: OrderedDict[_Key, _Waiting] = OrderedDict()
        self._prev_ids: dict[str, set[str]] = {}  # of the items that wait, by channel
        self.drops: dict[str, int] = {"duplicate": 0, "sequence-full": 0}
        self.ids_evicted = 0  # ids forgotten before their time because the cache was full

    @property
    def waiting(self) -> int:
        """How many items are held back."""
        return len(self._waiting)

    def add(self, item: Item, now: float, *, subscribed: bool) -> Sequence[Item]:
        """What is to be dispatched now, in order: nothing, or `item` and what waited for it.

        `subscribed`: somebody listens to the channel, or did until a moment ago. Other channels are
        not sequenced, so that the first item after a pause is not held against an old id.
        """
        item_id = item.id
        if item_id is not None and self._ttl > 0 and self._is_duplicate(item.channel, item_id, now):
            self.drops["duplicate"] += 1
            return ()
        if not subscribed or item.no_seq:
            return (item,)
        prev_id = item.prev_id
        if prev_id is not None:
            last_id = self._last_ids.get(item.channel)
            if last_id is not None and last_id != prev_id:
                return self._hold(item, prev_id, now)
        return self._send(item)

    def expire(self, now: float) -> Sequence[Item]:
        """What has waited long enough, oldest first, each followed by what waited for it.

        To be called every second.
        """
        ready: list[Item] = []
        threshold = now - self._wait
        while self._waiting:
            key = next(iter(self._waiting))
            if self._waiting[key].since > threshold:
                break
            ready += self._send(self._take(key))
        self._forget_seen(now)
        return ready

    def last_id(self, channel: str) -> str | None:
        """The id of the item dispatched last on `channel`, None where that is unknown."""
        return self._last_ids.get(channel)

    def forget(self, channel: str) -> None:
        """A receiver is out of step: whatever comes next on `channel` is taken as it comes."""
        self._last_ids.pop(channel, None)

    def forget_all(self) -> None:
        """As `forget`, for every channel."""
        self._last_ids.clear()

    def unsubscribe(self, channel: str) -> None:
        """Nobody listens to `channel` any more: forget its last id and what is held back for it."""
        self.forget(channel)
        for prev_id in tuple(self._prev_ids.get(channel, ())):
            self._take(_Key(channel, prev_id))

    def _is_duplicate(self, channel: str, item_id: str, now: float) -> bool:
        """Whether the id was seen within the TTL; if not, it is now. Asking does not prolong it."""
        self._forget_seen(now)
        seen = self._seen
        key = (channel, item_id)
        if key in seen:
            return True
        if len(seen) >= self._id_cache_max:
            seen.popitem(last=False)
            self.ids_evicted += 1
        seen[key] = now + self._ttl
        return False

    def _forget_seen(self, now: float) -> None:
        seen = self._seen
        while seen:
            key = next(iter(seen))
            if seen[key] > now:
                break
            del seen[key]

    def _hold(self, item: Item, prev_id: str, now: float) -> Sequence[Item]:
        prev_ids = self._prev_ids.get(item.channel)
        if prev_ids is not None and (prev_id in prev_ids or len(prev_ids) >= self._pending_max):
            self.drops["sequence-full"] += 1
            return ()
        ready: list[Item] = []
        size = footprint(item)
        while self._waiting and (
            len(self._waiting) >= self._waiting_max
            or self._waiting_bytes + size > self._waiting_bytes_max
        ):
            # The oldest of all waits no longer, as if its time had come: that loses nothing.
            ready += self._send(self._take(next(iter(self._waiting))))
        if ready and self._last_ids.get(item.channel, prev_id) == prev_id:
            ready += self._send(item)  # its predecessor was among them
            return ready
        self._prev_ids.setdefault(item.channel, set()).add(prev_id)
        self._waiting[_Key(item.channel, prev_id)] = _Waiting(now, item, size)
        self._waiting_bytes += size
        return ready

    def _take(self, key: _Key) -> Item:
        prev_ids = self._prev_ids[key.channel]
        prev_ids.discard(key.prev_id)
        if not prev_ids:
            del self._prev_ids[key.channel]
        waiting = self._waiting.pop(key)
        self._waiting_bytes -= waiting.size
        return waiting.item

    def _send(self, item: Item) -> Sequence[Item]:
        """`item` and the chain that waited for it; the last one's id becomes the channel's."""
        channel = item.channel
        last_id = item.id
        ready: Sequence[Item] = (item,)
        if channel in self._prev_ids:
            chain = [item]
            while last_id is not None and last_id in self._prev_ids.get(channel, ()):
                item = self._take(_Key(channel, last_id))
                chain.append(item)
                last_id = item.id
            ready = chain
        last_ids = self._last_ids
        if last_id is None:
            last_ids.pop(channel, None)
            return ready
        if channel in last_ids:
            last_ids.move_to_end(channel)
        elif len(last_ids) >= self._last_ids_max:
            last_ids.popitem(last=False)
        last_ids[channel] = last_id
        return ready
