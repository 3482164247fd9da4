"""The sequencer: which items go on, when, and in which order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.grip.item import Action, HttpStream, Item
from gripproxy.hub.sequencer import Sequencer


def item(
    item_id: str | None = None,
    prev_id: str | None = None,
    channel: str = "c",
    *,
    no_seq: bool = False,
) -> Item:
    return Item(channel=channel, id=item_id, prev_id=prev_id, no_seq=no_seq)


def sequencer(
    *,
    ttl: float = 0,
    wait: float = 5,
    last_ids_max: int = 1000,
    pending_max: int = 100,
    id_cache_max: int = 1000,
    waiting_max: int = 1000,
    waiting_bytes_max: int = 1_000_000,
) -> Sequencer:
    return Sequencer(
        id_cache_ttl=ttl,
        message_wait=wait,
        last_ids_max=last_ids_max,
        pending_max=pending_max,
        id_cache_max=id_cache_max,
        waiting_max=waiting_max,
        waiting_bytes_max=waiting_bytes_max,
    )


def add(seq: Sequencer, *items: Item, now: float = 0, subscribed: bool = True) -> list[str | None]:
    """Add each of `items`; the ids that are dispatched."""
    return [out.id for new in items for out in seq.add(new, now, subscribed=subscribed)]


def expire(seq: Sequencer, now: float) -> list[str | None]:
    return [out.id for out in seq.expire(now)]


# Duplicates.


def test_an_id_seen_within_the_ttl_is_dropped() -> None:
    seq = sequencer(ttl=60)
    assert add(seq, item("1"), now=0) == ["1"]
    assert add(seq, item("1"), now=59.9) == []
    assert seq.drops == {"duplicate": 1, "sequence-full": 0}


def test_an_id_is_forgotten_when_its_ttl_is_over_however_often_it_was_seen() -> None:
    seq = sequencer(ttl=60)
    assert add(seq, item("1"), now=0) == ["1"]
    assert add(seq, item("1"), now=30) == []
    assert add(seq, item("1"), now=60) == ["1"]


def test_the_same_id_on_another_channel_is_no_duplicate() -> None:
    seq = sequencer(ttl=60)
    assert add(seq, item("1", channel="a"), item("1", channel="b")) == ["1", "1"]


def test_an_empty_id_is_an_id() -> None:
    assert add(sequencer(ttl=60), item(""), item("")) == [""]


def test_items_without_id_are_never_duplicates() -> None:
    assert add(sequencer(ttl=60), item(), item()) == [None, None]


def test_duplicates_are_dropped_without_subscribers_and_with_no_seq() -> None:
    seq = sequencer(ttl=60)
    assert add(seq, item("1"), item("1"), subscribed=False) == ["1"]
    assert add(seq, item("2", no_seq=True), item("2", no_seq=True)) == ["2"]


def test_without_a_ttl_ids_are_not_remembered() -> None:
    assert add(sequencer(ttl=0), item("1"), item("1")) == ["1", "1"]


def test_a_full_id_cache_forgets_its_oldest_and_counts_it() -> None:
    seq = sequencer(ttl=60, id_cache_max=2)
    add(seq, item("1"), item("2"), item("3"))
    assert seq.ids_evicted == 1
    assert add(seq, item("3"), item("2")) == []
    assert add(seq, item("1")) == ["1"]


def test_the_tick_frees_the_memory_of_ids_whose_ttl_is_over() -> None:
    seq = sequencer(ttl=60, id_cache_max=1)
    add(seq, item("1"), now=0)
    seq.expire(60)
    add(seq, item("2"), now=60)
    assert seq.ids_evicted == 0


# Order.


def test_an_item_whose_predecessor_was_sent_goes_on() -> None:
    seq = sequencer()
    assert add(seq, item("1"), item("2", "1")) == ["1", "2"]
    assert seq.last_id("c") == "2"


def test_an_item_whose_predecessor_is_missing_waits_for_it() -> None:
    seq = sequencer()
    add(seq, item("1"))
    assert add(seq, item("3", "2")) == []
    assert seq.waiting == 1
    assert add(seq, item("2", "1")) == ["2", "3"]
    assert seq.waiting == 0


def test_a_whole_chain_that_waits_is_released_at_once() -> None:
    seq = sequencer()
    add(seq, item("1"))
    assert add(seq, item("4", "3"), item("3", "2"), item("9", "8")) == []
    assert add(seq, item("2", "1")) == ["2", "3", "4"]
    assert seq.last_id("c") == "4"
    assert seq.waiting == 1


def test_an_item_without_id_ends_the_chain_and_the_knowledge_of_the_last_id() -> None:
    seq = sequencer()
    add(seq, item("1"))
    add(seq, item("3", "2"), item(None, "3"))
    assert add(seq, item("2", "1")) == ["2", "3", None]
    assert seq.last_id("c") is None


def test_an_item_without_prev_id_always_passes() -> None:
    assert add(sequencer(), item("1"), item("7"), item()) == ["1", "7", None]


def test_the_first_item_of_a_channel_passes_whatever_it_follows() -> None:
    assert add(sequencer(), item("8", "7")) == ["8"]


def test_an_empty_prev_id_counts_as_set() -> None:
    seq = sequencer()
    assert add(seq, item("1"), item("2", "")) == ["1"]
    assert add(seq, item("")) == ["", "2"]


def test_channels_do_not_wait_for_each_other() -> None:
    seq = sequencer()
    add(seq, item("1", channel="a"), item("3", "2", channel="a"))
    assert add(seq, item("1", channel="b"), item("2", "1", channel="b")) == ["1", "2"]


def test_no_seq_and_channels_without_subscribers_pass_and_leave_no_trace() -> None:
    seq = sequencer()
    add(seq, item("1"))
    assert add(seq, item("9", "8", no_seq=True)) == ["9"]
    assert add(seq, item("7", "6"), subscribed=False) == ["7"]
    assert seq.last_id("c") == "1"


def test_one_item_waits_for_each_predecessor_and_the_rest_is_dropped() -> None:
    seq = sequencer()
    add(seq, item("1"))
    assert add(seq, item("3", "2"), item("other", "2")) == []
    assert seq.waiting == 1
    assert seq.drops["sequence-full"] == 1
    assert add(seq, item("2")) == ["2", "3"]


def test_a_channel_holds_back_only_so_many_items() -> None:
    seq = sequencer(pending_max=2)
    add(seq, item("1"))
    assert add(seq, item("b", "a"), item("c", "x"), item("d", "y")) == []
    assert seq.waiting == 2
    assert seq.drops["sequence-full"] == 1


# Time.


def test_an_item_that_waited_long_enough_is_sent_at_the_next_tick() -> None:
    seq = sequencer(wait=5)
    add(seq, item("1"))
    add(seq, item("3", "2"), now=1)
    assert expire(seq, 5.9) == []
    assert expire(seq, 6) == ["3"]
    assert seq.last_id("c") == "3"
    assert seq.waiting == 0


def test_expired_items_leave_oldest_first_each_with_its_chain() -> None:
    seq = sequencer(wait=5)
    add(seq, item("1"))
    add(seq, item("4", "3"), now=1)
    add(seq, item("8", "7"), now=2)
    add(seq, item("5", "4"), now=9)
    assert expire(seq, 7) == ["4", "5", "8"]


def test_a_late_predecessor_is_held_back_as_well_and_not_dropped() -> None:
    seq = sequencer(wait=5)
    add(seq, item("1"), item("3", "2"))
    assert expire(seq, 5) == ["3"]
    assert add(seq, item("2", "1"), now=6) == []
    assert expire(seq, 11) == ["2"]


# Bounds and resets.


def test_a_forgotten_channel_takes_the_next_item_as_it_comes() -> None:
    seq = sequencer()
    add(seq, item("1"), item("1", channel="d"))
    seq.forget("c")
    seq.forget("unknown")
    assert seq.last_id("c") is None
    assert add(seq, item("8", "7")) == ["8"]
    assert add(seq, item("8", "7", channel="d")) == []


def test_recovery_forgets_every_last_id_but_nothing_that_waits() -> None:
    seq = sequencer()
    add(seq, item("1"), item("3", "2"), item("1", channel="d"))
    seq.forget_all()
    assert (seq.last_id("c"), seq.last_id("d")) == (None, None)
    assert add(seq, item("2", "9")) == ["2", "3"]


def test_unsubscribing_forgets_the_last_id_and_what_waits() -> None:
    seq = sequencer()
    add(seq, item("1"), item("3", "2"), item("1", channel="d"), item("3", "2", channel="d"))
    seq.unsubscribe("c")
    seq.unsubscribe("unknown")
    assert seq.waiting == 1
    assert seq.last_id("c") is None
    assert expire(seq, 100) == ["3"]


def test_the_channel_set_longest_ago_loses_its_last_id_when_there_are_too_many() -> None:
    seq = sequencer(last_ids_max=2)
    add(seq, item("1", channel="a"), item("1", channel="b"), item("2", channel="a"))
    add(seq, item("1", channel="c"))
    assert [seq.last_id(channel) for channel in "abc"] == ["2", None, "1"]


def test_when_too_much_waits_in_all_the_oldest_goes_on_before_its_time() -> None:
    seq = sequencer(waiting_max=2)
    add(seq, item("1", channel="a"), item("3", "2", channel="a"))
    add(seq, item("1", channel="b"), item("5", "4", channel="b"))
    assert add(seq, item("9", "8", channel="b")) == ["3"]
    assert seq.waiting == 2
    assert seq.drops["sequence-full"] == 0


def test_an_item_need_not_wait_for_the_one_that_its_coming_released() -> None:
    seq = sequencer(waiting_max=1)
    add(seq, item("1"), item("3", "2"))
    assert add(seq, item("4", "3")) == ["3", "4"]
    assert seq.waiting == 0


class Model:
    """The rules in their plainest form: everything is looked for in one list."""

    def __init__(self) -> None:
        self.last: dict[str, str] = {}
        self.seen: dict[tuple[str, str], float] = {}
        self.pending: list[tuple[float, Item]] = []

    def add(self, new: Item, now: float, subscribed: bool) -> list[Item]:
        if new.id is not None:
            key = (new.channel, new.id)
            if key in self.seen and now < self.seen[key] + 10:
                return []
            self.seen[key] = now
        if new.no_seq or not subscribed:
            return [new]
        last = self.last.get(new.channel)
        if last is None or new.prev_id is None or last == new.prev_id:
            return self.send(new)
        mine = [held for _, held in self.pending if held.channel == new.channel]
        if len(mine) < 3 and new.prev_id not in [held.prev_id for held in mine]:
            self.pending.append((now, new))
        return []

    def send(self, new: Item) -> list[Item]:
        self.last.pop(new.channel, None)
        if new.id is None:
            return [new]
        self.last[new.channel] = new.id
        for entry in self.pending:
            if (entry[1].channel, entry[1].prev_id) == (new.channel, new.id):
                self.pending.remove(entry)
                return [new, *self.send(entry[1])]
        return [new]

    def expire(self, now: float) -> list[Item]:
        out = []
        while self.pending and self.pending[0][0] <= now - 5:
            out += self.send(self.pending.pop(0)[1])
        return out

    def unsubscribe(self, channel: str) -> None:
        self.last.pop(channel, None)
        self.pending = [entry for entry in self.pending if entry[1].channel != channel]


ids = st.none() | st.sampled_from(["", "1", "2", "3", "4", "5"])
items = st.builds(
    item, ids, ids, st.sampled_from(["a", "b"]), no_seq=st.sampled_from([False] * 5 + [True])
)
steps = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 3]),
        st.tuples(st.just("add"), items, st.sampled_from([True, True, True, False]))
        | st.tuples(st.sampled_from(["expire", "unsubscribe a", "forget a", "forget all"])),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_any_history_gives_what_the_rules_say(
    history: list[tuple[float, tuple[object, ...]]],
) -> None:
    seq = sequencer(ttl=10, wait=5, pending_max=3)
    model = Model()
    now = 0.0
    for pause, (what, *rest) in history:
        now += pause
        if what == "add":
            new, subscribed = rest
            assert isinstance(new, Item)
            dispatched = list(seq.add(new, now, subscribed=bool(subscribed)))
            assert dispatched == model.add(new, now, bool(subscribed))
        elif what == "expire":
            assert list(seq.expire(now)) == model.expire(now)
        elif what == "unsubscribe a":
            seq.unsubscribe("a")
            model.unsubscribe("a")
        elif what == "forget a":
            seq.forget("a")
            model.last.pop("a", None)
        else:
            seq.forget_all()
            model.last.clear()
        assert seq.waiting == len(model.pending)
        assert {c: seq.last_id(c) for c in "ab"} == {c: model.last.get(c) for c in "ab"}


def test_the_oldest_goes_on_when_what_waits_weighs_too_much() -> None:
    """Its content would stay in memory otherwise, and dropping it would lose it."""
    seq = sequencer(waiting_bytes_max=40)
    add(seq, item("1"))
    heavy = [
        item(str(number), "missing" + str(number))._replace(
            http_stream=HttpStream(Action.SEND, b"123456")
        )
        for number in (3, 5, 7)
    ]
    assert add(seq, *heavy[:2]) == []
    assert add(seq, heavy[2]) == ["3"]
    assert seq.waiting == 2


def test_what_went_on_weighs_nothing_any_more() -> None:
    seq = sequencer(waiting_bytes_max=11)
    for round in range(3):
        add(seq, item("1", no_seq=False), now=round)
        waits = item("9", "8")._replace(http_stream=HttpStream(Action.SEND, b"12345678"))
        assert add(seq, waits) == []
        seq.unsubscribe("c")
        assert seq.waiting == 0
