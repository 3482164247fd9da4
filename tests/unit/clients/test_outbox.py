"""The outbox: what is offered to a backend, and what is left once it has accepted some of it."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.clients.outbox import EVENT_COST, Accepted, Outbox
from gripproxy.errors import EventsError
from gripproxy.grip.wsevents import Event
from gripproxy.websocket.frames import BINARY, CONT, PING, PONG, TEXT, Frame

BOUND = 1000  # bytes
CLOSE = Event(b"CLOSE", b"\x03\xe8")


def text(content: bytes) -> Event:
    return Event(b"TEXT", content)


def fill(outbox: Outbox, *contents: bytes) -> Outbox:
    """Add text messages."""
    for content in contents:
        assert outbox.add(Frame(TEXT, content))
    return outbox


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(BOUND, one_event=False)


@pytest.fixture
def single() -> Outbox:
    """One that offers one event at a time."""
    return Outbox(BOUND, one_event=True)


# -- what the client says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "event"),
    [
        (Frame(TEXT, b"hello"), Event(b"TEXT", b"hello")),
        (Frame(BINARY, bytes(16)), Event(b"BINARY", bytes(16))),
        (Frame(PING, b"p"), Event(b"PING", b"p")),
        (Frame(PONG, b""), Event(b"PONG")),
        (Frame(TEXT, b""), Event(b"TEXT")),
    ],
)
def test_a_message_is_an_event(outbox: Outbox, frame: Frame, event: Event) -> None:
    assert not outbox.fresh
    assert outbox.add(frame)
    assert outbox.fresh
    assert outbox.offer() == [event]
    assert not outbox.fresh


def test_an_empty_outbox_offers_nothing(outbox: Outbox, single: Outbox) -> None:
    for box in (outbox, single):
        assert box.offer() == []
        assert box.accept(None) is Accepted.SOMETHING
        assert box.accept(0) is Accepted.SOMETHING
        assert not (box.fresh or box.full or box.close_due or box.replayed)


def test_a_message_is_offered_once_it_is_whole(outbox: Outbox) -> None:
    assert outbox.add(Frame(BINARY, b"a", False))
    assert outbox.add(Frame(PING, b"p"))
    assert outbox.add(Frame(CONT, b"b", False))
    assert outbox.offer() == [Event(b"PING", b"p")]
    outbox.accept(None)
    assert outbox.add(Frame(CONT, b"", False))
    assert not outbox.fresh
    assert outbox.offer() == []
    outbox.accept(None)
    assert outbox.add(Frame(CONT, b"c"))
    assert outbox.fresh
    assert outbox.offer() == [Event(b"BINARY", b"abc")]


def test_a_message_may_consist_of_empty_pieces(outbox: Outbox) -> None:
    assert outbox.add(Frame(TEXT, b"", False))
    assert outbox.add(Frame(CONT, b""))
    assert outbox.offer() == [text(b"")]


def test_what_comes_during_an_offer_is_in_the_next(outbox: Outbox) -> None:
    offer = fill(outbox, b"a").offer()
    fill(outbox, b"b")
    assert offer == [text(b"a")]
    assert outbox.fresh
    outbox.accept(None)
    assert outbox.offer() == [text(b"b")]


def test_what_is_cleared_is_not_offered(outbox: Outbox) -> None:
    fill(outbox, b"a")
    outbox.close(b"")
    outbox.add(Frame(TEXT, bytes(BOUND), False))
    outbox.clear()
    assert not (outbox.fresh or outbox.full or outbox.close_due)
    assert outbox.add(Frame(CONT, b"b"))
    assert outbox.offer() == []
    assert not fill(outbox, b"c").full


# -- how much may wait ---------------------------------------------------------------------------


def test_messages_fill_it_with_their_content_and_something_besides() -> None:
    outbox = fill(Outbox(200_000, one_event=False), bytes(199_999 - EVENT_COST))
    assert not outbox.full
    assert fill(outbox, b"b").full


def test_empty_messages_fill_it_too() -> None:
    outbox = fill(Outbox(10 * EVENT_COST, one_event=False), *[b""] * 9)
    assert not outbox.full
    assert fill(outbox, b"").full
    outbox.offer()
    outbox.accept(None)
    assert not outbox.full


def test_what_is_on_its_way_when_it_is_full_is_taken(outbox: Outbox) -> None:
    contents = [b"a" * BOUND, b"b" * BOUND, b"c"]
    assert fill(outbox, *contents).offer() == [text(content) for content in contents]
    outbox.accept(None)
    assert not outbox.full


def test_it_stays_full_until_enough_is_accepted(single: Outbox) -> None:
    fill(single, b"a", b"b" * BOUND)
    assert single.offer() == [text(b"a")]
    single.accept(None)
    assert single.full
    assert not single.is_stuck
    single.offer()
    single.accept(None)
    assert not single.full


def test_it_stays_full_when_a_close_drops_what_filled_it(outbox: Outbox) -> None:
    fill(outbox, b"a")
    outbox.add(Frame(TEXT, bytes(BOUND), False))
    outbox.close(b"")
    assert outbox.full
    outbox.offer()
    outbox.accept(None)
    assert not outbox.full


@pytest.mark.parametrize(
    "frames",
    [
        [Frame(TEXT, bytes(BOUND + 1))],
        [Frame(TEXT, bytes(BOUND), False)],
        [Frame(TEXT, bytes(BOUND - 1), False), Frame(CONT, b"a", False)],
        [Frame(TEXT, bytes(BOUND - 1), False), Frame(CONT, b"ab")],
    ],
)
def test_a_message_over_the_bound_is_given_up(outbox: Outbox, frames: list[Frame]) -> None:
    for frame in frames[:-1]:
        assert outbox.add(frame)
    assert not outbox.add(frames[-1])
    assert not outbox.full
    assert outbox.offer() == []


@pytest.mark.parametrize(
    "frames",
    [
        [Frame(TEXT, bytes(BOUND))],
        [Frame(TEXT, bytes(BOUND - 1), False), Frame(CONT, b"\0")],
    ],
)
def test_a_message_of_the_bound_is_not(outbox: Outbox, frames: list[Frame]) -> None:
    for frame in frames:
        assert outbox.add(frame)
    assert outbox.full
    assert outbox.offer() == [text(bytes(BOUND))]


def test_the_rest_of_a_message_that_was_given_up_is_ignored(outbox: Outbox) -> None:
    assert not outbox.add(Frame(TEXT, bytes(BOUND), False))
    assert outbox.add(Frame(CONT, b"a", False))
    assert outbox.add(Frame(CONT, b"b"))
    assert not outbox.fresh
    assert outbox.add(Frame(TEXT, b"c", False))
    assert outbox.add(Frame(CONT, b"d"))
    assert outbox.offer() == [text(b"cd")]


def test_a_message_that_has_begun_waits_for_room(outbox: Outbox) -> None:
    fill(outbox, b"a")
    assert outbox.add(Frame(TEXT, b"b" * (BOUND - 1), False))
    assert outbox.full
    outbox.offer()
    outbox.accept(None)
    assert not outbox.full
    assert outbox.add(Frame(CONT, b"c"))
    assert outbox.offer() == [text(b"b" * (BOUND - 1) + b"c")]


def test_it_is_stuck_when_such_a_message_takes_all_the_room(outbox: Outbox) -> None:
    fill(outbox, b"a")
    outbox.add(Frame(TEXT, bytes(BOUND), False))
    assert not outbox.is_stuck
    outbox.offer()
    outbox.accept(None)
    assert outbox.is_stuck
    outbox.drop_partial()
    assert outbox.add(Frame(CONT, b"b"))
    assert outbox.offer() == []


def test_what_was_not_accepted_counts_towards_the_bound(outbox: Outbox) -> None:
    fill(outbox, bytes(BOUND - 1 - EVENT_COST)).offer()
    outbox.accept(10)
    assert not outbox.full
    assert fill(outbox, b"").full
    outbox.offer()
    outbox.accept(EVENT_COST)
    assert not outbox.full


# -- what the backend accepts of it --------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "left"),
    [
        (0, [text(b"ab"), Event(b"BINARY", b"cd"), Event(b"PING", b"e")]),
        (1, [text(b"b"), Event(b"BINARY", b"cd"), Event(b"PING", b"e")]),
        (2, [Event(b"BINARY", b"cd"), Event(b"PING", b"e")]),
        (3, [Event(b"BINARY", b"d"), Event(b"PING", b"e")]),
        (4, [Event(b"PING", b"e")]),
        (5, []),
        (None, []),
    ],
)
def test_what_is_left_is_offered_again(
    outbox: Outbox, count: int | None, left: list[Event]
) -> None:
    for frame in (Frame(TEXT, b"ab"), Frame(BINARY, b"cd"), Frame(PING, b"e")):
        outbox.add(frame)
    outbox.offer()
    assert outbox.accept(count) is (Accepted.SOMETHING if count != 0 else Accepted.NOTHING)
    assert not outbox.fresh
    assert outbox.replayed == (0 if count is None else 5 - count)
    fill(outbox, b"f")
    assert outbox.offer() == [*left, text(b"f")]


def test_more_cannot_be_accepted_than_was_offered(outbox: Outbox) -> None:
    fill(outbox, b"ab").offer()
    fill(outbox, b"c")
    with pytest.raises(EventsError, match="more content than it was offered"):
        outbox.accept(3)


def test_one_event_is_offered_by_itself(single: Outbox) -> None:
    fill(single, b"a", b"", b"")
    single.close(CLOSE.content)
    offers = []
    while single.fresh or single.close_due:
        offers.append(single.offer())
        accepted = single.accept(None)
        assert accepted is (Accepted.CLOSE if CLOSE in offers[-1] else Accepted.SOMETHING)
    assert offers == [[text(b"a")], [text(b"")], [text(b"")], [CLOSE]]


def test_with_one_event_something_must_be_accepted_while_more_waits(single: Outbox) -> None:
    fill(single, b"ab", b"c").offer()
    single.accept(1)
    assert single.fresh
    assert single.offer() == [text(b"b")]
    with pytest.raises(EventsError, match="nothing"):
        single.accept(0)


def test_nothing_may_be_accepted_of_all_that_there_is(single: Outbox) -> None:
    fill(single, b"ab").offer()
    fill(single, b"c")
    assert single.accept(0) is Accepted.NOTHING
    assert single.offer() == [text(b"ab")]
    with pytest.raises(EventsError, match="nothing"):
        single.accept(0)


def test_a_full_outbox_of_which_nothing_is_accepted_is_an_error(outbox: Outbox) -> None:
    fill(outbox, bytes(BOUND)).offer()
    with pytest.raises(EventsError, match="nothing"):
        outbox.accept(0)


def test_unless_more_has_come_that_was_not_offered(outbox: Outbox) -> None:
    fill(outbox, b"a").offer()
    assert fill(outbox, bytes(BOUND)).full
    assert outbox.accept(0) is Accepted.NOTHING
    assert outbox.offer() == [text(b"a"), text(bytes(BOUND))]


def test_a_full_outbox_of_which_a_little_is_accepted_goes_on(outbox: Outbox) -> None:
    fill(outbox, bytes(BOUND)).offer()
    assert outbox.accept(1) is Accepted.SOMETHING
    assert outbox.full  # with what each message occupies besides
    outbox.offer()
    assert outbox.accept(EVENT_COST) is Accepted.SOMETHING
    assert not outbox.full


# -- the close -----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\x03\xe8bye"])
def test_a_close_comes_after_the_messages_and_without_half_a_one(
    outbox: Outbox, content: bytes
) -> None:
    fill(outbox, b"a")
    outbox.add(Frame(TEXT, b"b", False))
    outbox.close(content)
    assert outbox.close_due
    assert outbox.offer() == [text(b"a"), Event(b"CLOSE", content)]
    assert not outbox.close_due
    assert outbox.accept(1 + len(content)) is Accepted.CLOSE
    assert not outbox.close_due


def test_a_close_may_wait_for_an_offer(outbox: Outbox) -> None:
    fill(outbox, b"a").offer()
    outbox.close(CLOSE.content)
    assert outbox.accept(None) is Accepted.SOMETHING
    assert outbox.close_due
    assert outbox.offer() == [CLOSE]
    assert outbox.accept(None) is Accepted.CLOSE


def test_a_close_is_due_again_when_something_before_it_was_not_accepted(outbox: Outbox) -> None:
    fill(outbox, b"abc")
    outbox.close(CLOSE.content)
    outbox.offer()
    assert outbox.accept(1) is Accepted.SOMETHING
    assert outbox.close_due
    assert outbox.offer() == [text(b"bc"), CLOSE]
    assert outbox.replayed == 2
    assert outbox.accept(0) is Accepted.NOTHING
    assert outbox.close_due
    assert outbox.offer() == [text(b"bc"), CLOSE]
    assert outbox.accept(4) is Accepted.CLOSE


@pytest.mark.parametrize("count", [2, 3])
def test_a_close_cannot_be_left_out_of_what_is_accepted(outbox: Outbox, count: int) -> None:
    fill(outbox, b"ab")
    outbox.close(CLOSE.content)
    outbox.offer()
    with pytest.raises(EventsError, match="everything but the close"):
        outbox.accept(count)


def test_a_close_is_repeated_alone(outbox: Outbox) -> None:
    outbox.repeat_close()
    assert not outbox.close_due
    fill(outbox, b"a")
    outbox.close(CLOSE.content)
    outbox.offer()
    outbox.accept(None)
    outbox.repeat_close()
    assert outbox.close_due
    assert outbox.offer() == [CLOSE]


@pytest.mark.parametrize(("count", "known"), [(None, True), (4, True), (2, False), (0, False)])
def test_a_backend_knows_of_a_close_once_it_has_all_of_it(
    outbox: Outbox, count: int | None, known: bool
) -> None:
    fill(outbox, b"ab")
    assert not outbox.knows_close(None)
    outbox.close(CLOSE.content)
    assert not outbox.knows_close(None)
    outbox.offer()
    outbox.clear()  # by which what was offered does not change
    assert outbox.knows_close(count) is known


# -- whatever happens ----------------------------------------------------------------------------

STEPS = st.lists(
    st.sampled_from(
        ["send"] * 3 + ["part", "end"] + ["offer"] * 3 + ["all", "half", "one", "none"]
    ),
    max_size=40,
)
Said = list[tuple[bytes, int]]  # the bytes, each with the type of its message


def said(events: list[Event]) -> Said:
    return [(kind, byte) for kind, content in events for byte in content]


class Talk:
    """A client that says the alphabet, and a backend that takes as much as it likes of it."""

    def __init__(self, one_event: bool) -> None:
        self.outbox = Outbox(10**6, one_event=one_event)
        self.one_event = one_event
        self.letters = itertools.cycle(b"abcdefghijklmnopqrstuvwxyz")
        self.kinds = itertools.cycle([(TEXT, b"TEXT"), (BINARY, b"BINARY"), (PING, b"PING")])
        self.sent: Said = []
        self.partial = b""
        self.taken = 0
        self.offered = 0  # bytes from the beginning that were offered at least once
        self.offer: list[Event] | None = None

    def say(self, count: int) -> bytes:
        return bytes(itertools.islice(self.letters, count))

    def do(self, step: str) -> None:
        outbox = self.outbox
        if step == "send" and not self.partial:
            opcode, kind = next(self.kinds)
            content = self.say(3)
            self.sent += said([Event(kind, content)])
            assert outbox.add(Frame(opcode, content))
        elif step == "part":
            content = self.say(2)
            assert outbox.add(Frame(CONT if self.partial else BINARY, content, False))
            self.partial += content
        elif step == "end" and self.partial:
            assert outbox.add(Frame(CONT, b""))
            self.sent += said([Event(b"BINARY", self.partial)])
            self.partial = b""
        elif step == "offer" and self.offer is None:
            self.begin_offer()
        elif step in ("all", "half", "one", "none") and self.offer is not None:
            self.end_offer(step)
        assert outbox.fresh == (len(self.sent) > self.offered)
        assert not outbox.full

    def begin_offer(self) -> None:
        before = self.offered - self.taken
        assert self.outbox.replayed == before
        self.offer = self.outbox.offer()
        assert len(self.offer) <= 1 or not self.one_event
        content = said([event for event in self.offer if event != CLOSE])
        assert content == self.sent[self.taken : self.taken + len(content)]
        self.offered = max(self.offered, self.taken + len(content))
        assert self.one_event or self.offered == len(self.sent)

    def end_offer(self, step: str) -> Accepted:
        assert self.offer is not None
        size = sum(len(event.content) for event in self.offer if event != CLOSE)
        count = {"all": size, "half": size // 2, "one": min(1, size), "none": 0}[step]
        if self.one_event and not count:
            count = size  # or the backend would be given up
        self.taken += count
        self.offer = None
        return self.outbox.accept(None if count == size else count)


@settings(max_examples=150, deadline=None)
@given(STEPS, STEPS, st.booleans())
def test_the_backend_gets_every_byte_once_and_in_order_whatever_it_accepts(
    steps: list[str], after_close: list[str], one_event: bool
) -> None:
    talk = Talk(one_event)
    for step in [*steps, "end"]:
        talk.do(step)
    talk.outbox.close(CLOSE.content)
    accepted = Accepted.SOMETHING
    for step in itertools.chain(after_close, itertools.repeat("all", 100)):
        if step in ("send", "part", "end", "offer"):
            continue
        if talk.offer is None:
            assert talk.outbox.fresh or talk.outbox.close_due
            talk.begin_offer()
        accepted = talk.end_offer(step)
        if accepted is Accepted.CLOSE:
            break
    assert accepted is Accepted.CLOSE
    assert talk.taken == len(talk.sent)
