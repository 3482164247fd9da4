"""The wheel of deadlines, on a loop whose clock the tests move."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gripproxy.deadlines import NEVER, TICK, Alarm, Deadlines, Timed
from tests.unit.clock import FakeLoop

EPSILON = 1e-6


class Thing(Timed):
    """Notes when it expires, and then does `then`."""

    def __init__(self, loop: FakeLoop, then: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.loop = loop
        self.then = then
        self.expiries: list[float] = []

    def expired(self, now: float) -> None:
        assert now == self.loop.now
        assert self.deadline == NEVER
        self.expiries.append(now)
        if self.then is not None:
            self.then()


class Stage:
    def __init__(self, lag: float = 0.0) -> None:
        self.loop = FakeLoop(lag=lag)
        self.wheel = Deadlines(cast(asyncio.AbstractEventLoop, self.loop))

    def thing(self, at: float | None = None, then: Callable[[], None] | None = None) -> Thing:
        thing = Thing(self.loop, then)
        if at is not None:
            self.wheel.set(thing, at)
        return thing


@pytest.fixture
def stage() -> Stage:
    return Stage()


def on_time(thing: Thing, at: float) -> bool:
    """Whether `thing` expired once: not before `at`, and at most one tick after it."""
    return len(thing.expiries) == 1 and at <= thing.expiries[0] <= at + TICK + EPSILON


@pytest.mark.parametrize("at", [100.0, 100.05, 100.1, 100.0999999, 103.7, 1e6 + 0.3])
def test_a_deadline_is_met_once_and_within_a_tick(stage: Stage, at: float) -> None:
    thing = stage.thing(at)
    stage.loop.run_until(at + 10)
    assert on_time(thing, at)


def test_a_deadline_is_never_met_early(stage: Stage) -> None:
    thing = stage.thing(103.77)
    stage.loop.run_until(103.769)
    assert thing.expiries == []


def test_a_deadline_that_has_passed_already_is_met_at_once(stage: Stage) -> None:
    thing = stage.thing(42.0)
    assert thing.expiries == []
    stage.loop.run_until(100.0)
    assert thing.expiries == [100.0]


def test_what_has_no_deadline_never_expires(stage: Stage) -> None:
    thing = stage.thing()
    stage.thing(101.0)
    stage.loop.run_until(1000.0)
    assert thing.expiries == []


def test_a_later_deadline_replaces_the_earlier(stage: Stage) -> None:
    thing = stage.thing(101.0)
    stage.wheel.set(thing, 105.0)
    stage.loop.run_until(104.999)
    assert thing.expiries == []
    stage.loop.run_until(200.0)
    assert on_time(thing, 105.0)


def test_a_later_deadline_is_only_an_assignment(stage: Stage) -> None:
    thing = stage.thing(101.0)
    slot, timers = thing.slot, stage.loop.timers_made
    for at in (102.0, 150.0, 120.0):
        stage.wheel.set(thing, at)
    assert (thing.slot, stage.loop.timers_made) == (slot, timers)
    assert thing.deadline == 120.0


def test_an_earlier_deadline_replaces_the_later(stage: Stage) -> None:
    thing = stage.thing(150.0)
    stage.wheel.set(thing, 103.0)
    stage.loop.run_until(200.0)
    assert on_time(thing, 103.0)


def test_a_deadline_may_go_forth_and_back_within_its_slot(stage: Stage) -> None:
    thing = stage.thing(103.02)
    stage.wheel.set(thing, 103.08)
    stage.wheel.set(thing, 103.04)
    stage.loop.run_until(200.0)
    assert on_time(thing, 103.04)


def test_a_cleared_deadline_is_forgotten(stage: Stage) -> None:
    thing, other = stage.thing(103.0), stage.thing(103.0)
    stage.wheel.clear(thing)
    assert thing.deadline == NEVER
    stage.loop.run_until(200.0)
    assert thing.expiries == []
    assert on_time(other, 103.0)


def test_what_has_no_deadline_may_be_cleared(stage: Stage) -> None:
    thing = stage.thing()
    stage.wheel.clear(thing)
    stage.wheel.clear(thing)
    assert stage.loop.timers == 0


def test_a_cleared_deadline_may_be_set_again(stage: Stage) -> None:
    thing = stage.thing(103.0)
    stage.wheel.clear(thing)
    stage.wheel.set(thing, 104.0)
    stage.loop.run_until(200.0)
    assert on_time(thing, 104.0)


def test_deadlines_are_met_in_the_order_of_their_slots(stage: Stage) -> None:
    things = {at: stage.thing(at) for at in (105.0, 101.0, 103.0, 102.0, 104.0)}
    stage.loop.run_until(200.0)
    assert all(on_time(thing, at) for at, thing in things.items())
    assert sorted(things, key=lambda at: things[at].expiries) == sorted(things)


def test_many_deadlines_share_one_timer(stage: Stage) -> None:
    things = [stage.thing(101.0 + number / 100) for number in range(1000)]
    assert stage.loop.timers == 1
    stage.loop.run_until(200.0)
    assert all(thing.expiries for thing in things)
    assert stage.loop.timers == 0


def test_what_has_expired_may_set_its_next_deadline(stage: Stage) -> None:
    thing = stage.thing(101.0)
    thing.then = lambda: (
        stage.wheel.set(thing, stage.loop.now + 10) if stage.loop.now < 130 else None
    )
    stage.loop.run_until(200.0)
    assert [round(at) for at in thing.expiries] == [101, 111, 121, 131]


def test_what_has_expired_may_set_a_deadline_that_has_passed(stage: Stage) -> None:
    thing = stage.thing(101.0)
    left = iter(range(3))
    thing.then = lambda: stage.wheel.set(thing, 50.0) if next(left, None) is not None else None
    stage.loop.run_until(102.0)
    assert len(thing.expiries) == 4


def test_one_that_expires_may_clear_another_of_the_same_turn(stage: Stage) -> None:
    def clear_others() -> None:
        for thing in things:
            if not thing.expiries:
                stage.wheel.clear(thing)

    things = [stage.thing(101.0, clear_others) for _ in range(3)]
    stage.loop.run_until(200.0)
    assert sum(len(thing.expiries) for thing in things) == 1


def test_one_that_expires_may_postpone_another_of_the_same_turn(stage: Stage) -> None:
    def postpone_others() -> None:
        for thing in things:
            if not thing.expiries:
                stage.wheel.set(thing, 150.0)

    things = [stage.thing(101.0, postpone_others) for _ in range(3)]
    stage.loop.run_until(149.0)
    assert sum(len(thing.expiries) for thing in things) == 1
    stage.loop.run_until(200.0)
    assert [len(thing.expiries) for thing in things] == [1, 1, 1]


def test_nothing_is_called_after_the_end(stage: Stage) -> None:
    things = [stage.thing(101.0), stage.thing(102.0)]
    stage.wheel.close()
    assert stage.loop.timers == 0
    stage.loop.run_until(200.0)
    assert [thing.expiries for thing in things] == [[], []]


def test_the_end_may_come_in_the_middle_of_a_turn(stage: Stage) -> None:
    things = [stage.thing(101.0, stage.wheel.close) for _ in range(3)]
    stage.loop.run_until(200.0)
    assert sum(len(thing.expiries) for thing in things) == 1


def test_a_wheel_that_never_turned_may_be_closed(stage: Stage) -> None:
    stage.wheel.close()
    stage.wheel.close()
    assert stage.loop.timers == 0


def test_clearing_after_the_end_does_no_harm(stage: Stage) -> None:
    thing = stage.thing(101.0)
    stage.wheel.close()
    stage.wheel.clear(thing)
    assert thing.deadline == NEVER


def test_what_does_not_say_what_expiring_means_cannot_expire() -> None:
    with pytest.raises(NotImplementedError):
        Timed().expired(0.0)


def test_an_alarm_calls_its_function_each_time_that_it_is_set(stage: Stage) -> None:
    calls: list[float] = []
    alarm = Alarm(lambda: calls.append(stage.loop.now))
    stage.wheel.set(alarm, 101.0)
    stage.loop.run_until(110.0)
    stage.wheel.set(alarm, 120.0)
    stage.loop.run_until(200.0)
    assert [round(at) for at in calls] == [101, 120]


def test_an_alarm_can_be_cleared(stage: Stage) -> None:
    calls: list[None] = []
    alarm = Alarm(lambda: calls.append(None))
    stage.wheel.set(alarm, 101.0)
    stage.wheel.clear(alarm)
    stage.loop.run_until(200.0)
    assert calls == []


# Whatever is set, cleared and waited for: three things, and a model that only remembers deadlines.
SET = st.tuples(st.just("set"), st.integers(0, 2), st.floats(-0.5, 3.0))
CLEAR = st.tuples(st.just("clear"), st.integers(0, 2), st.just(0.0))
WAIT = st.tuples(st.just("wait"), st.just(0), st.floats(0.0, 1.0))


@settings(max_examples=200, deadline=None)
@given(st.lists(SET | CLEAR | WAIT, max_size=30), st.sampled_from([0.0, 0.03, 0.25]))
@example([("set", 0, 0.3), ("set", 1, 0.6), ("wait", 0, 0.3), ("wait", 0, 1.0)], 0.0)
def test_every_deadline_is_met_in_time_whatever_happens_to_the_others(
    steps: list[tuple[str, int, float]], lag: float
) -> None:
    stage = Stage(lag)
    loop, wheel = stage.loop, stage.wheel
    things = [stage.thing() for _ in range(3)]
    # When each is due: not before the first time, and at the latest at the second.
    due: dict[Thing, tuple[float, float]] = {}
    for kind, number, seconds in [*steps, ("wait", 0, 10.0)]:
        thing = things[number]
        if kind == "set":
            at = loop.now + seconds
            wheel.set(thing, at)
            due[thing] = (at, max(at, loop.now) + TICK + lag + EPSILON)
        elif kind == "clear":
            wheel.clear(thing)
            due.pop(thing, None)
        else:
            loop.run_until(loop.now + seconds)
            for thing in things:
                if thing.expiries:
                    first, last = due.pop(thing)
                    assert [first <= at <= last for at in thing.expiries] == [True]
                    thing.expiries.clear()
                else:
                    assert thing not in due or due[thing][1] >= loop.now
    assert due == {}
    assert loop.timers == 0


def test_one_that_fails_does_not_keep_the_others_from_being_called() -> None:
    failures: list[object] = []

    class Patient(FakeLoop):
        def call_exception_handler(self, context: dict[str, Any]) -> None:
            failures.append(context["exception"])

    loop = Patient()
    wheel = Deadlines(cast(asyncio.AbstractEventLoop, loop))
    called: list[int] = []
    for number in (0, 1, 0, 1):
        wheel.set(Alarm(partial(lambda each: called.append(1 // each), number)), loop.now + 1)
    loop.run_until(loop.now + 2)
    assert called == [1, 1]
    assert [type(failure) for failure in failures] == [ZeroDivisionError] * 2
