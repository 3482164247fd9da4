"""The door for published items, on a loop whose callbacks and clock the tests drive."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest

from gripproxy.accesslog import AccessLog
from gripproxy.grip.item import Action, HttpResponse, HttpStream, Item
from gripproxy.hub.fanout import SLICE, Batch
from gripproxy.hub.registry import Mode, Registry
from gripproxy.hub.sequencer import Sequencer
from gripproxy.publishing import RATE_OUT_OF_REACH, PublishDoor, PublishLimits
from gripproxy.stats import Stats


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    def __init__(self) -> None:
        self.now = 1000.0
        self.ready: deque[Callable[[], None]] = deque()
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[[], None]) -> None:
        self.ready.append(call)

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        timer = Timer(when, call)
        self.timers.append(timer)
        return timer

    def one_pass(self) -> None:
        """What is ready now, and not what becomes ready meanwhile."""
        for _ in range(len(self.ready)):
            self.ready.popleft()()

    def settle(self) -> int:
        """Run until nothing is ready; how many passes that took."""
        for passes in range(1000):
            if not self.ready:
                return passes
            self.one_pass()
        raise AssertionError("the loop never rests")

    def advance(self, seconds: float) -> None:
        """Let time pass, with all its timers."""
        end = self.now + seconds
        while True:
            live = [timer for timer in self.timers if not timer.cancelled and timer.when <= end]
            if not live:
                break
            timer = min(live, key=lambda timer: timer.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.call()
            self.settle()
        self.now = end


class Listener:
    def __init__(self, bucket: str = "", mode: Mode = Mode.STREAM) -> None:
        self.bucket = bucket
        self.mode = mode
        self.contents: list[bytes] = []

    def deliver(self, batch: Batch) -> None:
        self.contents += [
            item.http_stream.content for item in batch.items if item.http_stream is not None
        ]


class Stage:
    def __init__(self, *, linger: float = 0.0, ttl: float = 0.0, **limits: int) -> None:
        self.loop = FakeLoop()
        self.registry = Registry(linger)
        self.sequencer = Sequencer(id_cache_ttl=ttl, message_wait=5.0)
        self.stats = Stats()
        self.overflows: list[str] = []
        self.door = PublishDoor(
            cast(asyncio.AbstractEventLoop, self.loop),
            self.registry,
            self.sequencer,
            PublishLimits(**limits),
            self.stats,
            AccessLog(log_from=False, log_user_agent=False),
            lambda message, *args: self.overflows.append(message % args),
        )

    def listen(self, channel: str = "a", bucket: str = "") -> Listener:
        listener = Listener(bucket)
        self.registry.subscribe(channel, listener)
        return listener

    def publish(self, *contents: str) -> None:
        self.door.publish([stream(content) for content in contents])


def stream(
    content: str,
    channel: str = "a",
    item_id: str | None = None,
    prev_id: str | None = None,
    size: int | None = None,
) -> Item:
    message = HttpStream(Action.SEND, content.encode())
    return Item(channel, item_id, prev_id, http_stream=message, size=size)


@pytest.fixture
def stage() -> Stage:
    return Stage()


# -- through the door ----------------------------------------------------------------------------


def test_what_is_published_reaches_subscribers_after_the_current_callback(stage: Stage) -> None:
    listener = stage.listen()
    stage.publish("1", "2")
    stage.publish("3")
    assert listener.contents == []
    assert stage.loop.settle() == 1
    assert listener.contents == [b"1", b"2", b"3"]


def test_a_publish_of_nothing_is_nothing(stage: Stage) -> None:
    listener = stage.listen()
    stage.door.publish([])
    stage.loop.settle()
    assert listener.contents == []


def test_a_large_fan_out_leaves_room_for_others(stage: Stage) -> None:
    listeners = [stage.listen() for _ in range(3 * SLICE)]
    stage.publish("1")
    stage.loop.one_pass()
    between: list[int] = []
    stage.loop.call_soon(lambda: between.append(sum(len(each.contents) for each in listeners)))
    stage.loop.settle()
    assert 0 < between[0] < 3 * SLICE
    assert all(each.contents == [b"1"] for each in listeners)


def test_items_are_put_in_order_for_those_who_listen(stage: Stage) -> None:
    listener = stage.listen()
    stage.door.publish([stream("1", item_id="i1")])
    stage.door.publish([stream("3", item_id="i3", prev_id="i2")])
    stage.door.publish([stream("2", item_id="i2", prev_id="i1")])
    stage.loop.settle()
    assert listener.contents == [b"1", b"2", b"3"]


def test_channels_without_subscribers_are_not_put_in_order(stage: Stage) -> None:
    stage.door.publish([stream("1", item_id="i1")])
    listener = stage.listen()
    stage.door.publish([stream("3", item_id="i3", prev_id="i2")])
    stage.loop.settle()
    assert listener.contents == [b"1", b"3"]


def test_an_item_that_was_seen_goes_no_further() -> None:
    stage = Stage(ttl=60.0)
    listener = stage.listen()
    stage.door.publish([stream("1", item_id="i"), stream("2", item_id="i")])
    stage.loop.now += 30
    stage.door.publish([stream("3", item_id="i")])
    stage.loop.settle()
    assert listener.contents == [b"1"]


def test_an_item_waits_for_its_predecessor_for_its_time(stage: Stage) -> None:
    listener = stage.listen()
    stage.door.publish([stream("1", item_id="i1"), stream("3", prev_id="i2")])
    stage.door.tick(stage.loop.now + 4)
    stage.loop.settle()
    assert listener.contents == [b"1"]
    stage.door.tick(stage.loop.now + 5)
    stage.loop.settle()
    assert listener.contents == [b"1", b"3"]


def test_after_a_recovery_nothing_waits_for_what_was_before(stage: Stage) -> None:
    listener = stage.listen()
    stage.door.publish([stream("1", item_id="i1")])
    stage.door.recover()
    stage.door.publish([stream("3", prev_id="i2")])
    stage.loop.settle()
    assert listener.contents == [b"1", b"3"]


def test_what_lingers_ends_with_a_tick() -> None:
    stage = Stage(linger=60.0)
    listener = stage.listen()
    stage.registry.unsubscribe("a", listener, stage.loop.now)
    stage.door.tick(stage.loop.now + 59)
    assert "a" in stage.registry
    stage.door.tick(stage.loop.now + 60)
    assert "a" not in stage.registry
    assert not stage.loop.ready


# -- the bound of the queue ----------------------------------------------------------------------


def test_the_door_is_full_at_its_bound_until_there_is_room() -> None:
    stage = Stage(queue_max=2)
    stage.publish("1")
    assert not stage.door.full
    stage.publish("2")
    assert stage.door.full
    stage.loop.settle()
    assert not stage.door.full


def test_the_bound_counts_bytes_too() -> None:
    stage = Stage(queue_bytes=12)
    stage.publish("123456789")
    assert not stage.door.full
    stage.publish("0")
    assert stage.door.full
    stage.loop.settle()
    assert not stage.door.full


def test_inputs_may_read_again_when_there_is_room_and_hear_of_it_once() -> None:
    stage = Stage(queue_max=2)
    for _ in range(3 * SLICE):
        stage.listen()
    stage.publish("1", "2")
    stage.door.publish([stream("3", "b"), stream("4", "c")])
    resumed: list[str] = []
    for name in ("first", "second"):
        stage.door.when_ready(partial(resumed.append, name))
    assert resumed == []
    stage.loop.one_pass()
    assert stage.door.full
    assert resumed == []
    stage.loop.settle()
    assert resumed == ["first", "second"]
    stage.publish("5")
    stage.loop.settle()
    assert len(resumed) == 2


def test_an_input_that_need_not_wait_is_told_after_the_current_callback(stage: Stage) -> None:
    resumed: list[bool] = []
    stage.door.when_ready(lambda: resumed.append(True))
    assert resumed == []
    stage.loop.settle()
    assert resumed == [True]


def test_an_input_may_fill_the_queue_again_as_soon_as_it_is_told() -> None:
    stage = Stage(queue_max=2)
    listener = stage.listen()
    left = deque(str(number) for number in range(7))

    def read() -> None:
        while left and not stage.door.full:
            stage.publish(left.popleft())
        if left:
            stage.door.when_ready(read)

    read()
    stage.loop.settle()
    assert listener.contents == [b"%d" % number for number in range(7)]


# -- the rate limit ------------------------------------------------------------------------------


def test_deliveries_leave_at_their_rate() -> None:
    stage = Stage(rate=20)
    listeners = [stage.listen() for _ in range(3)]
    stage.publish("1", "2")
    stage.loop.settle()
    assert [len(each.contents) for each in listeners] == [1, 0, 0]
    stage.loop.advance(0.101)
    assert [len(each.contents) for each in listeners] == [1, 1, 1]
    stage.loop.advance(1.0)
    assert all(each.contents == [b"1", b"2"] for each in listeners)
    assert not [timer for timer in stage.loop.timers if not timer.cancelled]


def test_one_timer_runs_for_all_that_waits() -> None:
    stage = Stage(rate=20)
    for _ in range(10):
        stage.listen()
    stage.publish("1")
    stage.publish("2")
    stage.loop.settle()
    stage.publish("3")
    stage.loop.settle()
    assert len(stage.loop.timers) == 1


def test_routes_take_turns() -> None:
    stage = Stage(rate=20)
    many = [stage.listen(bucket="many") for _ in range(10)]
    one = stage.listen(bucket="one")
    stage.publish("1")
    stage.loop.settle()
    stage.loop.advance(0.051)
    assert one.contents == [b"1"]
    assert sum(len(each.contents) for each in many) == 1


@pytest.mark.parametrize("rate", [0, RATE_OUT_OF_REACH])
def test_a_rate_that_limits_nothing_costs_nothing(rate: int) -> None:
    stage = Stage(rate=rate)
    listeners = [stage.listen() for _ in range(100)]
    stage.publish("1", "2")
    stage.loop.settle()
    assert all(each.contents == [b"1", b"2"] for each in listeners)
    assert stage.loop.timers == []


@pytest.mark.parametrize(
    ("size", "block_size", "mark", "dropped"),
    [
        (None, 0, 3, 1),
        (None, 2, 6, 2),  # 5 bytes weigh 3
        (8, 0, 3, 1),
        (8, 4, 6, 1),
        (16, 4, 4, 3),
        (0, 4, 1, 0),
        (8, 4, 0, 0),
    ],
)
def test_deliveries_beyond_the_mark_are_dropped_counted_and_told(
    size: int | None, block_size: int, mark: int, dropped: int
) -> None:
    stage = Stage(rate=20, hwm=mark, block_size=block_size)
    for _ in range(4):
        stage.listen()
    stage.door.publish([stream("12345", size=size)])
    stage.loop.settle()
    assert stage.stats.drops["message-hwm"] == dropped
    assert stage.overflows == ["message dropped by message_hwm: channel=a"] * dropped


# -- the access log ------------------------------------------------------------------------------


def test_each_message_is_logged_with_those_that_it_has_a_format_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gripproxy.access")
    stage = Stage()
    for mode in (Mode.STREAM, Mode.STREAM, Mode.RESPONSE):
        stage.registry.subscribe("a", Listener(mode=mode))
    both = Item(
        "a",
        http_response=HttpResponse(Action.SEND),
        http_stream=HttpStream(Action.SEND, b"1"),
    )
    stage.door.publish([both, stream("2"), stream("3", "b")])
    stage.loop.settle()
    assert caplog.messages == [
        "publish channel=a receivers=3",
        "publish channel=a receivers=2",
        "publish channel=b receivers=0",
    ]


def test_nothing_is_logged_where_nobody_reads_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "gripproxy.access")
    stage = Stage()
    stage.publish("1")
    stage.loop.settle()
    assert caplog.messages == []


# -- the end -------------------------------------------------------------------------------------


def test_after_the_end_nothing_is_dispatched(stage: Stage) -> None:
    listener = stage.listen()
    stage.door.close()
    stage.publish("1")
    stage.loop.settle()
    assert listener.contents == []


def test_the_end_stops_what_is_under_way(stage: Stage) -> None:
    listeners = [stage.listen() for _ in range(3 * SLICE)]
    stage.publish("1")
    stage.loop.one_pass()
    before = sum(len(each.contents) for each in listeners)
    stage.door.close()
    stage.loop.settle()
    assert sum(len(each.contents) for each in listeners) == before


def test_the_end_stops_what_waits_for_its_turn() -> None:
    stage = Stage(rate=20)
    listeners = [stage.listen() for _ in range(3)]
    stage.publish("1")
    stage.loop.settle()
    stage.door.close()
    stage.loop.advance(10.0)
    assert sum(len(each.contents) for each in listeners) == 1
