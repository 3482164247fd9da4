"""The rate limiter: how many deliveries leave, when, and whose turn it is."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.hub.ratelimit import RateLimiter, weight


def limiter(rate: int, hwm: int = 0, queue_max: int = 100_000) -> RateLimiter[str]:
    return RateLimiter(rate, hwm, queue_max)


def fill(limit: RateLimiter[str], count: int, bucket: str = "", each: int = 1) -> None:
    for number in range(count):
        assert limit.add(bucket, each, f"{bucket}{number}")


def run(limit: RateLimiter[str], now: float, until: float) -> list[tuple[float, list[str]]]:
    """What leaves when `due` is called exactly when it asks to be."""
    batches = []
    while limit.next_at is not None and max(limit.next_at, now) <= until:
        now = max(limit.next_at, now)
        batches.append((round(now, 6), limit.due(now)))
    return batches


@pytest.mark.parametrize(
    ("size", "block", "expected"),
    [(0, 0, 1), (5000, -1, 1), (0, 100, 0), (1, 100, 1), (100, 100, 1), (101, 100, 2)],
)
def test_an_item_weighs_its_blocks_or_one_where_no_block_size_is_set(
    size: int, block: int, expected: int
) -> None:
    assert weight(size, block) == expected


def test_nothing_waits_at_first() -> None:
    limit = limiter(100)
    assert limit.next_at is None
    assert limit.due(1.0) == []


def test_the_first_batch_is_due_at_once() -> None:
    limit = limiter(400)
    fill(limit, 15)
    assert limit.next_at is not None
    assert limit.next_at <= 0
    assert len(limit.due(50.0)) == 10


def test_from_40_per_second_a_batch_leaves_every_25_ms() -> None:
    limit = limiter(100)
    fill(limit, 7)
    batches = run(limit, 10.0, 20.0)
    assert [len(batch) for _, batch in batches] == [3, 3, 1]
    assert [at for at, _ in batches] == [10.0, 10.025, 10.05]
    assert limit.next_at is None


def test_below_40_per_second_deliveries_leave_one_by_one() -> None:
    limit = limiter(20)
    fill(limit, 3)
    assert run(limit, 10.0, 20.0) == [(10.0, ["0"]), (10.05, ["1"]), (10.1, ["2"])]


def test_nothing_leaves_before_its_time() -> None:
    limit = limiter(20)
    fill(limit, 2)
    limit.due(10.0)
    assert limit.due(10.049) == []
    assert limit.due(10.05) == ["1"]


def test_a_queue_that_ran_empty_still_keeps_the_interval() -> None:
    limit = limiter(20)
    fill(limit, 1)
    limit.due(10.0)
    fill(limit, 1)
    assert limit.next_at == pytest.approx(10.05)


def test_a_timer_that_is_always_a_little_late_does_not_lower_the_rate() -> None:
    limit = limiter(1000)
    fill(limit, 5000)
    left, now = 0, 10.0
    while now < 12.0:
        left += len(limit.due(now))
        assert limit.next_at is not None
        now = limit.next_at + 0.004
    assert left >= 1975


def test_time_lost_to_a_long_pause_is_not_caught_up_in_a_burst() -> None:
    limit = limiter(1000)
    fill(limit, 500)
    limit.due(10.0)
    assert len(limit.due(20.0)) == 25
    assert limit.due(20.02) == []


def test_routes_take_turns() -> None:
    limit = limiter(160)
    fill(limit, 4, "a")
    fill(limit, 2, "b")
    assert [batch for _, batch in run(limit, 10.0, 20.0)] == [
        ["a0", "b0", "a1", "b1"],
        ["a2", "a3"],
    ]


def test_the_turn_goes_on_where_the_last_batch_ended() -> None:
    limit = limiter(20)
    fill(limit, 2, "a")
    fill(limit, 2, "b")
    assert [batch for _, batch in run(limit, 10.0, 20.0)] == [["a0"], ["b0"], ["a1"], ["b1"]]


def test_a_heavy_delivery_takes_as_many_turns_as_it_weighs() -> None:
    limit = limiter(80)  # batches of 2
    limit.add("", 5, "heavy")
    limit.add("", 1, "light")
    batches = run(limit, 10.0, 20.0)
    assert [batch for _, batch in batches] == [["heavy"], [], ["light"]]


def test_the_debt_of_one_route_delays_the_others_only_by_their_turns() -> None:
    limit = limiter(80)
    limit.add("a", 4, "heavy")
    fill(limit, 2, "b")
    assert [batch for _, batch in run(limit, 10.0, 20.0)] == [["heavy"], ["b0"], ["b1"]]


def test_a_debt_outlives_the_queue() -> None:
    limit = limiter(20)
    limit.add("", 3, "heavy")
    assert limit.due(10.0) == ["heavy"]
    limit.add("", 1, "light")
    assert run(limit, 10.0, 20.0) == [(10.05, []), (10.1, []), (10.15, ["light"])]


def test_a_delivery_that_weighs_nothing_takes_one_turn() -> None:
    limit = limiter(20)
    fill(limit, 2, each=0)
    assert run(limit, 10.0, 20.0) == [(10.0, ["0"]), (10.05, ["1"])]


def test_a_bucket_takes_no_more_than_its_hwm() -> None:
    limit = limiter(20, hwm=5)
    assert limit.add("a", 3, "x")
    assert not limit.add("a", 3, "y")
    assert limit.add("a", 2, "z")
    assert limit.add("b", 5, "of another route")
    assert limit.waiting == 3


def test_what_has_left_makes_room_under_the_hwm() -> None:
    limit = limiter(20, hwm=1)
    assert limit.add("", 1, "x")
    assert not limit.add("", 1, "y")
    limit.due(10.0)
    assert limit.add("", 1, "y")


def test_a_delivery_heavier_than_the_hwm_is_never_taken() -> None:
    limit = limiter(20, hwm=4)
    assert not limit.add("", 5, "x")
    assert limit.next_at is None


@pytest.mark.parametrize("each", [0, 1])
def test_without_an_hwm_the_number_of_deliveries_is_bounded(each: int) -> None:
    limit = limiter(20, hwm=0, queue_max=3)
    fill(limit, 2, "a", each)
    fill(limit, 1, "b", each)
    assert not limit.add("a", each, "x")


additions = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 9), st.integers(0, 80)),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), additions)
def test_everything_taken_leaves_in_order_and_no_faster_than_the_rate(
    rate: int, added: list[tuple[str, int, int]]
) -> None:
    limit: RateLimiter[tuple[str, int, int]] = RateLimiter(rate, 0)
    now, left, batches = 10.0, [], []
    for number, (bucket, heavy, pause_ms) in enumerate(added):
        assert limit.add(bucket, heavy, (bucket, number, heavy))
        end = now + pause_ms / 1000
        while limit.next_at is not None and limit.next_at <= end:
            now = max(now, limit.next_at)
            batches.append((now, limit.due(now)))
        now = end
    while limit.next_at is not None:
        now = max(now, limit.next_at)
        batches.append((now, limit.due(now)))
    left = [delivery for _, batch in batches for delivery in batch]
    assert limit.waiting == 0
    assert len(left) == len(added)
    for name in "abc":
        numbers = [number for bucket, number, _ in left if bucket == name]
        assert numbers == sorted(numbers)
    interval = 0.025 if rate >= 40 else 1 / rate
    per_batch = -(-rate // 40) if rate >= 40 else 1
    times = [at for at, _ in batches]
    assert all(b - a >= interval - 1e-9 for a, b in pairwise(times))
    # Each batch but for the weight of its last delivery, whose excess becomes a debt.
    for _, batch in batches:
        assert sum(max(heavy, 1) for _, _, heavy in batch[:-1]) < per_batch
