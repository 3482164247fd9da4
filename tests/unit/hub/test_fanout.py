"""The fan-out: who is given which messages, together with which others, and when."""

import zlib
from collections.abc import Callable, Sequence
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.grip.item import Action, HttpResponse, HttpStream, Item, WsMessage, WsType
from gripproxy.hub import fanout
from gripproxy.hub.fanout import (
    BATCH_BYTES,
    BATCH_ITEMS,
    COST_BYTES,
    SLICE,
    Batch,
    Fanout,
    message_frame,
    modes_of,
)
from gripproxy.hub.registry import Mode, Registry, Subscriber


def stream(content: bytes, channel: str = "a") -> Item:
    return Item(channel, http_stream=HttpStream(Action.SEND, content))


class Listener:
    """A subscriber that keeps what it is given, and then does `then`."""

    mode = Mode.STREAM
    bucket = ""

    def __init__(self, then: Callable[[Batch], None] | None = None) -> None:
        self.batches: list[Batch] = []
        self._then = then

    def deliver(self, batch: Batch) -> None:
        self.batches.append(batch)
        if self._then is not None:
            self._then(batch)

    def contents(self, channel: str = "a") -> list[bytes]:
        """What streams would show of it."""
        items = [item for batch in self.batches if batch.channel == channel for item in batch.items]
        return [item.http_stream.content for item in items if item.http_stream is not None]


class Stage:
    def __init__(self, deliver: Callable[[Subscriber, Batch], None] | None = None) -> None:
        self.registry = Registry(0.0)
        self.begun: list[tuple[str, int, int]] = []  # channel, messages, receivers
        self.fanout = Fanout(self.registry, self._begin, deliver)

    def _begin(self, batch: Batch, receivers: Sequence[Subscriber]) -> None:
        self.begun.append((batch.channel, len(batch.items), len(receivers)))

    def listeners(self, count: int, channel: str = "a") -> list[Listener]:
        listeners = [Listener() for _ in range(count)]
        for listener in listeners:
            self.registry.subscribe(channel, listener)
        return listeners

    def run(self, slices_max: int = 1000) -> int:
        """Do all the work; how many slices it took."""
        for number in range(1, slices_max + 1):
            if not self.fanout.run():
                assert self.fanout.queued == 0
                return number
        raise AssertionError("the work does not end")


@pytest.fixture
def stage() -> Stage:
    return Stage()


# -- who is given what ---------------------------------------------------------------------------


def test_there_is_nothing_to_do_at_first(stage: Stage) -> None:
    assert stage.fanout.queued == 0
    assert stage.fanout.run() is False


def test_every_subscriber_of_the_channel_is_given_the_message_and_no_other(stage: Stage) -> None:
    here, there = stage.listeners(3), stage.listeners(2, "b")
    stage.fanout.add([stream(b"1")])
    stage.run()
    assert [listener.contents() for listener in here] == [[b"1"]] * 3
    assert [listener.batches for listener in there] == [[], []]


def test_a_message_that_nobody_wants_is_told_and_gone(stage: Stage) -> None:
    stage.fanout.add([stream(b"1")])
    assert stage.run() == 1
    assert stage.begun == [("a", 1, 0)]
    (late,) = stage.listeners(1)
    assert stage.fanout.run() is False
    assert late.batches == []


def test_messages_that_wait_leave_together(stage: Stage) -> None:
    here = stage.listeners(2)
    stage.fanout.add([stream(b"1"), stream(b"2")])
    stage.fanout.add([stream(b"3")])
    assert stage.fanout.queued == 3
    stage.run()
    assert stage.begun == [("a", 3, 2)]
    assert [listener.contents() for listener in here] == [[b"1", b"2", b"3"]] * 2
    assert here[0].batches[0] is here[1].batches[0]


def test_messages_leave_in_the_order_in_which_they_came_whatever_their_channels(
    stage: Stage,
) -> None:
    (listener,) = stage.listeners(1)
    stage.registry.subscribe("b", listener)
    stage.fanout.add([stream(b"1"), stream(b"2"), stream(b"x", "b"), stream(b"3")])
    stage.run()
    assert stage.begun == [("a", 2, 1), ("b", 1, 1), ("a", 1, 1)]
    assert listener.contents() == [b"1", b"2", b"3"]
    assert listener.contents("b") == [b"x"]


def test_a_batch_has_so_many_messages_at_most(stage: Stage) -> None:
    (listener,) = stage.listeners(1)
    stage.fanout.add([stream(b"%d" % number) for number in range(2 * BATCH_ITEMS + 1)])
    stage.run()
    assert [count for _, count, _ in stage.begun] == [BATCH_ITEMS, BATCH_ITEMS, 1]
    assert listener.contents() == [b"%d" % number for number in range(2 * BATCH_ITEMS + 1)]


def test_a_batch_takes_no_further_message_once_it_is_large(stage: Stage) -> None:
    (listener,) = stage.listeners(1)
    half = bytes(BATCH_BYTES // 2)
    stage.fanout.add([stream(half + b"1"), stream(half), stream(half), stream(b""), stream(b"")])
    stage.run()
    assert [count for _, count, _ in stage.begun] == [2, 3]
    assert [batch.size for batch in listener.batches] == [BATCH_BYTES + 1, BATCH_BYTES // 2]


def test_a_message_larger_than_a_batch_leaves_alone(stage: Stage) -> None:
    (listener,) = stage.listeners(1)
    stage.fanout.add([stream(bytes(3 * BATCH_BYTES)), stream(b"2")])
    stage.run()
    assert [len(batch.items) for batch in listener.batches] == [1, 1]


def test_the_contents_of_all_formats_count_towards_the_size(stage: Stage) -> None:
    (listener,) = stage.listeners(1)
    item = Item(
        "a",
        http_response=HttpResponse(Action.SEND, body=b"123"),
        http_stream=HttpStream(Action.SEND, b"12"),
        ws_message=WsMessage(Action.SEND, content=b"1"),
    )
    stage.fanout.add([item, Item("a")])
    stage.run()
    assert listener.batches[0].size == 6


# -- in slices -----------------------------------------------------------------------------------


def test_a_large_fan_out_goes_out_in_slices(stage: Stage) -> None:
    listeners = stage.listeners(3 * SLICE)
    stage.fanout.add([stream(b"1")])
    received = [0]
    while stage.fanout.run():
        received.append(sum(len(listener.batches) for listener in listeners))
        assert 0 < received[-1] - received[-2] <= SLICE
    assert all(listener.contents() == [b"1"] for listener in listeners)
    assert stage.begun == [("a", 1, 3 * SLICE)]


def test_small_fan_outs_share_a_slice(stage: Stage) -> None:
    listeners = stage.listeners(10)
    stage.registry.subscribe("b", listeners[0])
    stage.fanout.add([stream(b"1"), stream(b"x", "b"), stream(b"2")])
    assert stage.fanout.run() is False
    assert listeners[0].contents() == [b"1", b"2"]


def test_large_messages_make_for_shorter_slices(stage: Stage) -> None:
    listeners = stage.listeners(SLICE)
    stage.fanout.add([stream(bytes(3 * COST_BYTES))])
    assert stage.fanout.run() is True
    assert 0 < sum(len(listener.batches) for listener in listeners) <= SLICE // 4


def test_however_large_a_message_is_each_slice_gets_on(stage: Stage) -> None:
    listeners = stage.listeners(3)
    stage.fanout.add([stream(bytes(2 * SLICE * COST_BYTES))])
    for number in (1, 2, 3):
        stage.fanout.run()
        assert sum(len(listener.batches) for listener in listeners) == number
    assert stage.fanout.run() is False


def test_channels_without_subscribers_cost_something_too(stage: Stage) -> None:
    stage.fanout.add([stream(b"1", str(number)) for number in range(2 * SLICE)])
    assert stage.fanout.run() is True
    assert len(stage.begun) == SLICE


def test_messages_that_come_meanwhile_form_the_next_batch(stage: Stage) -> None:
    listeners = stage.listeners(SLICE + 1)
    stage.fanout.add([stream(b"1")])
    stage.fanout.run()
    stage.fanout.add([stream(b"2"), stream(b"3")])
    assert stage.fanout.queued == 2
    stage.run()
    assert [len(batch.items) for batch in listeners[-1].batches] == [1, 2]
    assert all(listener.contents() == [b"1", b"2", b"3"] for listener in listeners)


def test_a_batch_goes_to_those_who_listen_when_it_begins(stage: Stage) -> None:
    stage.fanout.add([stream(b"1")])
    listeners = stage.listeners(SLICE + 1)
    stage.fanout.run()
    (late,) = stage.listeners(1)
    stage.registry.unsubscribe("a", listeners[-1])
    stage.fanout.add([stream(b"2")])
    stage.run()
    assert late.contents() == [b"2"]
    assert listeners[-1].contents() == [b"1"]


def test_a_delivery_may_end_the_subscription(stage: Stage) -> None:
    def leave(batch: Batch) -> None:
        for listener in listeners:
            stage.registry.unsubscribe("a", listener)

    listeners = [Listener(leave) for _ in range(3)]
    for listener in listeners:
        stage.registry.subscribe("a", listener)
    stage.fanout.add([stream(b"1")])
    stage.run()
    stage.fanout.add([stream(b"2")])
    stage.run()
    assert [listener.contents() for listener in listeners] == [[b"1"]] * 3


def test_a_delivery_may_publish(stage: Stage) -> None:
    listener = Listener(
        lambda batch: stage.fanout.add([stream(b"2")]) if len(listener.batches) == 1 else None
    )
    stage.registry.subscribe("a", listener)
    stage.fanout.add([stream(b"1")])
    stage.run()
    assert listener.contents() == [b"1", b"2"]


def test_a_hook_may_stand_before_the_subscribers_and_sees_each_message_alone() -> None:
    held: list[tuple[Subscriber, Batch]] = []
    stage = Stage(lambda subscriber, batch: held.append((subscriber, batch)))
    listeners = stage.listeners(2)
    stage.fanout.add([stream(b"1"), stream(b"2")])
    stage.run()
    assert stage.begun == [("a", 1, 2), ("a", 1, 2)]
    assert [listener.batches for listener in listeners] == [[], []]
    assert [subscriber for subscriber, _ in held] == listeners * 2
    assert [batch.items for _, batch in held] == [[stream(b"1")]] * 2 + [[stream(b"2")]] * 2


# -- whom a message is for ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "modes"),
    [
        (Item("a"), []),
        (Item("a", ws_message=WsMessage(Action.REFRESH)), [Mode.WEBSOCKET]),
        (Item("a", http_stream=HttpStream(Action.SEND)), [Mode.STREAM]),
        (Item("a", http_response=HttpResponse(Action.HINT)), [Mode.RESPONSE]),
        (
            Item(
                "a",
                http_response=HttpResponse(Action.SEND),
                http_stream=HttpStream(Action.CLOSE),
                ws_message=WsMessage(Action.SEND),
            ),
            [Mode.RESPONSE, Mode.STREAM, Mode.WEBSOCKET],
        ),
    ],
)
def test_a_message_is_for_the_kinds_that_it_has_a_format_for(item: Item, modes: list[Mode]) -> None:
    assert modes_of(item) == modes


# -- what a batch shows of itself ----------------------------------------------------------------

SEND, CLOSE = HttpStream(Action.SEND, b"0123456789ab"), HttpStream(Action.CLOSE)
OTHER = Item("a", ws_message=WsMessage(Action.SEND, content=b"ws"))


def batch(*items: Item | HttpStream) -> Batch:
    made = [item if isinstance(item, Item) else Item("a", http_stream=item) for item in items]
    return Batch("a", made, 0)


def test_a_stream_shows_the_contents_one_after_the_other() -> None:
    one = batch(SEND, OTHER, HttpStream(Action.SEND, b"\n"))
    assert one.stream == b"0123456789ab\n"
    assert one.chunks == b"c\r\n0123456789ab\r\n1\r\n\n\r\n"
    assert not one.closes_stream


def test_an_empty_content_makes_no_chunk_which_would_end_the_stream() -> None:
    empty = batch(HttpStream(Action.SEND, b""))
    assert (empty.stream, empty.chunks) == (b"", b"")


@pytest.mark.parametrize("action", [Action.HINT, Action.REFRESH])
def test_other_actions_show_nothing_on_a_stream(action: Action) -> None:
    hint = batch(HttpStream(action, b"x"))
    assert (hint.stream, hint.chunks, hint.closes_stream) == (b"", b"", False)


def test_a_stream_shows_nothing_after_a_close() -> None:
    closing = batch(SEND, CLOSE, HttpStream(Action.SEND, b"late"))
    assert closing.stream == b"0123456789ab"
    assert closing.chunks == b"c\r\n0123456789ab\r\n"
    assert closing.closes_stream


def test_messages_of_other_formats_show_nothing() -> None:
    other = batch(OTHER)
    assert (other.stream, other.chunks, other.closes_stream) == (b"", b"", False)
    assert other.response is None


@pytest.mark.parametrize("action", [Action.SEND, Action.HINT])
def test_a_response_is_answered_with_the_first_message_for_it(action: Action) -> None:
    first, second = HttpResponse(action, body=b"1"), HttpResponse(Action.SEND, body=b"2")
    items = [Item("a", http_response=response) for response in (first, second)]
    assert batch(OTHER, *items).response is first


@pytest.mark.parametrize("action", [Action.CLOSE, Action.REFRESH])
def test_other_actions_mean_nothing_to_a_response(action: Action) -> None:
    ignored = Item("a", http_response=HttpResponse(action))
    answer = HttpResponse(Action.SEND, body=b"1")
    assert batch(ignored).response is None
    assert batch(ignored, Item("a", http_response=answer)).response is answer


def test_a_batch_is_encoded_once() -> None:
    one = batch(SEND)
    assert one.stream is one.stream
    assert one.chunks is one.chunks


@pytest.mark.parametrize(
    ("size", "cost"), [(0, 1), (COST_BYTES - 1, 1), (COST_BYTES, 2), (10 * COST_BYTES, 11)]
)
def test_a_large_batch_costs_more(size: int, cost: int) -> None:
    assert Batch("a", [], size).cost == cost


# -- what it says to WebSockets ------------------------------------------------------------------

TEXT, BINARY = WsMessage(Action.SEND, content=b"ab"), WsMessage(Action.SEND, WsType.BINARY, b"\xff")
PING, PONG = WsMessage(Action.SEND, WsType.PING, b"p"), WsMessage(Action.SEND, WsType.PONG)
WS_HINT, WS_CLOSE = WsMessage(Action.HINT), WsMessage(Action.CLOSE, code=1000)


def sockets(*messages: WsMessage) -> Batch:
    return batch(*[Item("a", ws_message=message) for message in messages])


def test_the_messages_for_websockets_are_in_order_and_without_the_others() -> None:
    assert batch(SEND, *sockets(TEXT, WS_CLOSE).items, CLOSE).messages == [TEXT, WS_CLOSE]
    assert batch(SEND).messages == []


@pytest.mark.parametrize(
    ("messages", "sends"),
    [
        ([], False),
        ([WS_HINT, WS_CLOSE], False),
        ([WS_HINT, PING], True),
        ([TEXT._replace(content=b"")], True),
    ],
)
def test_not_all_messages_send_something(messages: list[WsMessage], sends: bool) -> None:
    assert sockets(*messages).sends is sends


@pytest.mark.parametrize(
    ("messages", "same"),
    [
        ([], True),
        ([TEXT, BINARY, PING, PONG, WS_HINT], True),
        ([TEXT, WS_CLOSE], False),
        ([WsMessage(Action.REFRESH)], False),
        ([TEXT._replace(content_filters=())], True),
        ([TEXT, TEXT._replace(content_filters=("build-id",))], False),
    ],
)
def test_what_each_websocket_must_judge_for_itself_is_not_the_same_for_all(
    messages: list[WsMessage], same: bool
) -> None:
    assert sockets(*messages).same_for_all is same


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (TEXT, b"\x81\x02ab"),
        (BINARY, b"\x82\x01\xff"),
        (PING, b"\x89\x01p"),
        (PONG, b"\x8a\x00"),
        (TEXT._replace(content=b""), b"\x81\x00"),
    ],
)
def test_a_message_is_a_frame_of_its_type(message: WsMessage, expected: bytes) -> None:
    assert message_frame(message, 0) == expected
    assert sockets(message).frames() == expected


@pytest.mark.parametrize("bits", [9, 15])
@pytest.mark.parametrize("message", [TEXT, BINARY])
def test_data_can_be_compressed(message: WsMessage, bits: int) -> None:
    frame = message_frame(message, bits)
    assert frame[0] == message_frame(message, 0)[0] | 0x40
    assert frame[1] == len(frame) - 2
    inflated = zlib.decompress(frame[2:] + b"\0\0\xff\xff\x03\0", wbits=-bits)
    assert inflated == message.content


@pytest.mark.parametrize("message", [PING, PONG])
def test_control_frames_are_never_compressed(message: WsMessage) -> None:
    assert message_frame(message, 15) == message_frame(message, 0)


@pytest.mark.parametrize("bits", [0, 9, 15])
def test_the_frames_are_those_of_all_messages_that_are_sent(bits: int) -> None:
    frames = sockets(TEXT, WS_HINT, PING, BINARY).frames(bits)
    assert frames == b"".join(message_frame(message, bits) for message in (TEXT, PING, BINARY))


def test_frames_are_made_once_for_each_window() -> None:
    one = sockets(TEXT)
    assert len({one.frames(), one.frames(9), one.frames(15)}) > 1
    assert [one.frames(bits) is one.frames(bits) for bits in (0, 9, 15)] == [True] * 3


@pytest.mark.parametrize("bits", [0, 9])
def test_a_single_frame_is_made_once_for_each_window(bits: int) -> None:
    some = sockets(TEXT, WS_HINT, BINARY)
    assert some.frame(2, bits) == message_frame(BINARY, bits)
    assert some.frame(0, bits) == message_frame(TEXT, bits)
    assert some.frame(0, bits) is some.frame(0, bits)


@pytest.mark.parametrize(
    ("messages", "sends"), [((), False), ((WS_HINT,), False), ((WS_HINT, PING), True)]
)
def test_whether_clients_see_something_of_it(messages: tuple[WsMessage, ...], sends: bool) -> None:
    assert sockets(*messages).sends is sends


def test_other_encodings_are_asked_for_once() -> None:
    asked: list[Batch] = []

    def encode(batch: Batch) -> int:
        asked.append(batch)
        return len(asked)

    one = sockets(TEXT)
    assert [one.encoded("a", encode), one.encoded("a", encode), one.encoded("b", encode)] == [
        1,
        1,
        2,
    ]
    assert asked == [one, one]


def test_so_is_the_frame_of_one_message() -> None:
    one = sockets(TEXT, WS_CLOSE, PING)
    assert [one.frame(index, 0) for index in (0, 2)] == [b"\x81\x02ab", b"\x89\x01p"]
    assert one.frame(0, 15) == message_frame(TEXT, 15)
    assert [one.frame(0, bits) is one.frame(0, bits) for bits in (0, 15)] == [True] * 2


def test_others_may_encode_it_otherwise_once_for_each_kind() -> None:
    calls: list[Batch] = []

    def encode(given: Batch) -> bytes:
        calls.append(given)
        return b"%d" % len(calls)

    one = sockets(TEXT)
    assert [one.encoded(kind, encode) for kind in ("a", "b", "a")] == [b"1", b"2", b"1"]
    assert calls == [one, one]


def test_most_clients_are_sent_the_frames_as_they_are() -> None:
    one = sockets(TEXT, WS_HINT, PING)
    assert one.plain == one.frames(0)
    assert one.plain is one.plain


def test_without_messages_there_are_no_frames() -> None:
    assert sockets(WS_HINT).frames() == b""
    assert batch(SEND).frames(15) == b""


# -- whatever is published -----------------------------------------------------------------------

CHANNELS = "abc"
# What happens: so many messages for channels, or one slice of work (None).
STEPS = st.lists(st.none() | st.text(CHANNELS, min_size=1, max_size=6), max_size=20)
WHO = st.dictionaries(st.sampled_from(CHANNELS), st.integers(0, 7), min_size=1)


@settings(max_examples=200, deadline=None)
@given(WHO, STEPS, st.integers(1, 9), st.integers(1, 3), st.booleans())
def test_each_subscriber_is_given_each_message_of_its_channels_once_and_in_order(
    who: dict[str, int], steps: list[str | None], budget: int, most: int, hooked: bool
) -> None:
    hook = (lambda subscriber, batch: subscriber.deliver(batch)) if hooked else None
    stage = Stage(hook)
    listeners = {channel: stage.listeners(who.get(channel, 0), channel) for channel in CHANNELS}
    everywhere = Listener()
    for channel in CHANNELS:
        stage.registry.subscribe(channel, everywhere)
    published: list[Item] = []
    with patch.object(fanout, "SLICE", budget), patch.object(fanout, "BATCH_ITEMS", most):
        for number, step in enumerate(steps):
            for channel in step or "":
                item = stream(b"%d" % number, channel)
                stage.fanout.add([item])
                published.append(item)
            if step is None:
                before = sum(len(each.batches) for those in listeners.values() for each in those)
                stage.fanout.run()
                after = sum(len(each.batches) for those in listeners.values() for each in those)
                assert after - before <= budget
        stage.run()
    assert [item for batch in everywhere.batches for item in batch.items] == published
    for channel, those in listeners.items():
        here = [item for item in published if item.channel == channel]
        for listener in those:
            assert [item for batch in listener.batches for item in batch.items] == here
    assert sum(count for _, count, _ in stage.begun) == len(published)
    assert all(receivers == who.get(channel, 0) + 1 for channel, _, receivers in stage.begun)
