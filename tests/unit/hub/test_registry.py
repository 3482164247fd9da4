"""The registry: who listens to which channel, and when a channel begins and ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.hub.fanout import Batch
from gripproxy.hub.registry import Mode, Registry

LINGER = 60.0


class Listener:
    """A subscriber that is only there."""

    mode = Mode.STREAM
    bucket = ""

    def deliver(self, batch: Batch) -> None:
        raise AssertionError("the registry delivers nothing")


class Watched(Registry):
    """A registry with what it said in `said`: `+channel` for a first and `-channel` for a last."""

    def __init__(self, linger: float = LINGER) -> None:
        super().__init__(linger)
        self.said: list[str] = []
        self.on_first = self._first
        self.on_last = self._last

    def _first(self, channel: str) -> None:
        assert channel in self
        self.said.append("+" + channel)

    def _last(self, channel: str) -> None:
        assert channel not in self
        self.said.append("-" + channel)


@pytest.fixture
def registry() -> Watched:
    return Watched()


def test_nobody_listens_at_first(registry: Watched) -> None:
    assert list(registry.subscribers("a")) == []
    assert "a" not in registry
    assert len(registry) == 0


def test_subscribers_are_told_in_the_order_in_which_they_came(registry: Watched) -> None:
    listeners = [Listener() for _ in range(5)]
    for listener in listeners:
        registry.subscribe("a", listener)
    assert list(registry.subscribers("a")) == listeners
    assert list(registry.subscribers("b")) == []


def test_the_first_subscriber_of_a_channel_is_announced_and_no_other(registry: Watched) -> None:
    registry.subscribe("a", Listener())
    registry.subscribe("a", Listener())
    registry.subscribe("b", Listener())
    assert registry.said == ["+a", "+b"]
    assert len(registry) == 2


def test_subscribing_twice_is_subscribing_once(registry: Watched) -> None:
    listener, other = Listener(), Listener()
    for each in (listener, other, listener):
        registry.subscribe("a", each)
    assert list(registry.subscribers("a")) == [listener, other]
    registry.unsubscribe("a", listener)
    assert list(registry.subscribers("a")) == [other]


def test_a_listener_may_be_on_several_channels(registry: Watched) -> None:
    listener = Listener()
    registry.subscribe("a", listener)
    registry.subscribe("b", listener)
    registry.unsubscribe("a", listener)
    assert list(registry.subscribers("b")) == [listener]
    assert registry.said == ["+a", "+b", "-a"]


def test_a_channel_without_linger_ends_with_its_last_subscriber(registry: Watched) -> None:
    listener, other = Listener(), Listener()
    registry.subscribe("a", listener)
    registry.subscribe("a", other)
    registry.unsubscribe("a", listener)
    assert registry.said == ["+a"]
    registry.unsubscribe("a", other)
    assert registry.said == ["+a", "-a"]
    assert "a" not in registry


@pytest.mark.parametrize("linger_from", [None, 5.0])
def test_unsubscribing_who_did_not_subscribe_changes_nothing(
    registry: Watched, linger_from: float | None
) -> None:
    registry.unsubscribe("a", Listener(), linger_from)
    registry.subscribe("a", Listener())
    registry.unsubscribe("a", Listener(), linger_from)
    assert registry.said == ["+a"]
    assert "a" in registry


def test_a_channel_that_lingers_counts_as_listened_to_until_its_time_is_over(
    registry: Watched,
) -> None:
    listener = Listener()
    registry.subscribe("a", listener)
    registry.unsubscribe("a", listener, 100.0)
    registry.expire(159.9)
    assert "a" in registry
    assert len(registry) == 1
    assert list(registry.subscribers("a")) == []
    assert registry.said == ["+a"]
    registry.expire(160.0)
    assert "a" not in registry
    assert registry.said == ["+a", "-a"]
    registry.expire(1000.0)
    assert registry.said == ["+a", "-a"]


def test_only_the_last_of_a_channel_makes_it_linger(registry: Watched) -> None:
    listener, other = Listener(), Listener()
    registry.subscribe("a", listener)
    registry.subscribe("a", other)
    registry.unsubscribe("a", listener, 100.0)
    registry.expire(1000.0)
    assert list(registry.subscribers("a")) == [other]


def test_a_channel_that_is_listened_to_again_lingers_no_longer(registry: Watched) -> None:
    listener, other = Listener(), Listener()
    registry.subscribe("a", listener)
    registry.unsubscribe("a", listener, 100.0)
    registry.subscribe("a", other)
    registry.expire(1000.0)
    assert list(registry.subscribers("a")) == [other]
    assert registry.said == ["+a"]


def test_lingering_begins_anew_with_each_last_subscriber(registry: Watched) -> None:
    listener = Listener()
    for channel in ("a", "b"):
        registry.subscribe(channel, listener)
        registry.unsubscribe(channel, listener, 100.0)
    registry.subscribe("a", listener)
    registry.unsubscribe("a", listener, 150.0)
    registry.expire(160.0)
    assert registry.said == ["+a", "+b", "-b"]
    registry.expire(210.0)
    assert registry.said == ["+a", "+b", "-b", "-a"]


def test_a_channel_whose_client_left_for_good_does_not_linger_after_it_lingered(
    registry: Watched,
) -> None:
    listener = Listener()
    registry.subscribe("a", listener)
    registry.unsubscribe("a", listener, 100.0)
    registry.subscribe("a", listener)
    registry.unsubscribe("a", listener)
    assert registry.said == ["+a", "-a"]
    registry.expire(1000.0)
    assert registry.said == ["+a", "-a"]


def test_without_a_linger_time_nothing_lingers() -> None:
    registry = Watched(0.0)
    listener = Listener()
    registry.subscribe("a", listener)
    registry.unsubscribe("a", listener, 100.0)
    assert registry.said == ["+a", "-a"]


def test_nobody_has_to_listen_to_the_registry() -> None:
    registry, listener = Registry(0.0), Listener()
    registry.subscribe("a", listener)
    registry.unsubscribe("a", listener)
    assert "a" not in registry


CHANNEL, NUMBER = st.sampled_from("ab"), st.integers(0, 2)
STEPS = st.lists(
    st.tuples(st.sampled_from(["subscribe", "unsubscribe", "linger"]), CHANNEL, NUMBER)
    | st.tuples(st.just("wait"), st.just("a"), st.sampled_from([10, 40, 70])),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_firsts_and_lasts_take_turns_and_agree_with_who_listens(
    steps: list[tuple[str, str, int]],
) -> None:
    registry = Watched()
    listeners = [Listener() for _ in range(3)]
    now = 0.0
    model: dict[str, list[Listener]] = {"a": [], "b": []}
    until: dict[str, float] = {}  # of the channels that linger
    for kind, channel, number in steps:
        who, there = listeners[number % 3], model[channel]
        if kind == "subscribe":
            registry.subscribe(channel, who)
            if who not in there:
                there.append(who)
            until.pop(channel, None)
        elif kind == "wait":
            now += number
            registry.expire(now)
            until = {name: time for name, time in until.items() if time > now}
        else:
            registry.unsubscribe(channel, who, now if kind == "linger" else None)
            if there == [who] and kind == "linger":
                until[channel] = now + LINGER
            if who in there:
                there.remove(who)
        for name in model:
            assert list(registry.subscribers(name)) == model[name]
            assert (name in registry) is bool(model[name] or name in until)
            announced = [word[0] for word in registry.said if word[1:] == name]
            assert announced == [("+", "-")[turn % 2] for turn in range(len(announced))]
            assert (len(announced) % 2 == 1) is (name in registry)
