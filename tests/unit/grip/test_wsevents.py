"""WebSocket events in HTTP bodies: written as Pushpin writes them, read as it reads them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.errors import EventsError
from gripproxy.grip.wsevents import Event, content_size, decode, encode, unaccepted

TYPES = [b"OPEN", b"TEXT", b"BINARY", b"PING", b"PONG", b"CLOSE", b"DISCONNECT"]

event = st.builds(Event, st.sampled_from(TYPES), st.binary(max_size=40))
# What may be accepted in part: messages, and a CLOSE after them or none.
message = st.builds(Event, st.sampled_from(TYPES[1:5]), st.binary(max_size=6))
offer = st.lists(message, max_size=6).flatmap(
    lambda messages: st.one_of(
        st.just(messages),
        st.binary(max_size=6).map(lambda content: [*messages, Event(b"CLOSE", content)]),
    )
)
# Bytes that steer the parser, and a few that do not.
steering = st.lists(
    st.sampled_from([b"TEXT", b"OPEN", b"NEW", b" ", b"\r\n", b"1", b"a", b"-", b"_", b"\xff"]),
    max_size=12,
).map(b"".join)


@pytest.mark.parametrize(
    ("events", "body"),
    [
        ([], b""),
        ([Event(b"OPEN")], b"OPEN\r\n"),
        ([Event(b"TEXT", b"hello")], b"TEXT 5\r\nhello\r\n"),
        ([Event(b"BINARY", bytes(26))], b"BINARY 1a\r\n" + bytes(26) + b"\r\n"),
        ([Event(b"TEXT", b"")], b"TEXT\r\n"),
        ([Event(b"CLOSE", b"\x03\xe8bye")], b"CLOSE 5\r\n\x03\xe8bye\r\n"),
        (
            [Event(b"PING"), Event(b"PONG", b"\r\n"), Event(b"DISCONNECT")],
            b"PING\r\nPONG 2\r\n\r\n\r\nDISCONNECT\r\n",
        ),
    ],
)
def test_events_are_types_sizes_and_contents(events: list[Event], body: bytes) -> None:
    assert encode(events) == body
    assert decode(body) == events


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"TEXT A\r\n0123456789\r\n", [Event(b"TEXT", b"0123456789")]),
        (b"TEXT 005\r\nhello\r\n", [Event(b"TEXT", b"hello")]),
        (b"TEXT 0\r\n\r\nOPEN\r\n", [Event(b"TEXT"), Event(b"OPEN")]),
        (b"TEXT 5\r\nhell", [Event(b"TEXT", b"hell")]),
        (b"TEXT 5\r\n", [Event(b"TEXT")]),
        (b"TEXT 5\r\nhello", [Event(b"TEXT", b"hello")]),
        (b"TEXT 5\r\nhelloxxPING\r\n", [Event(b"TEXT", b"hello"), Event(b"PING")]),
        (b"TEXT 7fffffff\r\nx", [Event(b"TEXT", b"x")]),
    ],
)
def test_bodies_are_read_as_leniently_as_pushpin_does(body: bytes, events: list[Event]) -> None:
    assert decode(body) == events


@pytest.mark.parametrize("skipped", [b"NEW\r\n", b"text 4\r\nOPEN\r\n", b"\r\n", b" 2\r\nxx\r\n"])
def test_events_of_unknown_types_are_skipped_with_their_content(skipped: bytes) -> None:
    assert decode(b"OPEN\r\n" + skipped + b"PING\r\n") == [Event(b"OPEN"), Event(b"PING")]


@pytest.mark.parametrize(
    "body",
    [
        b"OPEN",
        b"OPEN\r",
        b"OPEN\n",
        b"OPEN\r\nTEXT 5",
        b"TEXT \r\n\r\n",
        b"TEXT x\r\n\r\n",
        b"TEXT 1 2\r\nx\r\n",
        b"TEXT -1\r\nx\r\n",
        b"TEXT -0x5\r\nx\r\n",
        b"TEXT 1_0\r\nx\r\n",
        b"TEXT 1.0\r\nx\r\n",
        b"TEXT 80000000\r\nx\r\n",
        b"TEXT " + b"f" * 10_000 + b"\r\nx\r\n",
        b"NEW x\r\n",
    ],
)
def test_a_line_without_end_or_with_a_bad_size_is_an_error(body: bytes) -> None:
    with pytest.raises(EventsError):
        decode(body)


@settings(max_examples=100, deadline=None)
@given(st.lists(event, max_size=5))
def test_events_survive_the_body(events: list[Event]) -> None:
    assert decode(encode(events)) == events


@settings(max_examples=200, deadline=None)
@given(st.one_of(steering, st.binary(max_size=60)))
def test_any_other_bytes_are_events_or_the_documented_error(body: bytes) -> None:
    try:
        events = decode(body)
    except EventsError:
        return
    assert content_size(events) <= len(body)
    assert decode(encode(events)) == events


def test_the_size_of_the_content_is_that_of_all_events() -> None:
    assert content_size([Event(b"TEXT", b"abc"), Event(b"PING"), Event(b"CLOSE", b"\x03\xe8")]) == 5
    assert content_size([]) == 0


class TestUnaccepted:
    def test_a_half_accepted_message_goes_on_as_one_of_its_type(self) -> None:
        events = [Event(b"TEXT", b"[foo][hello")]
        left = unaccepted(events, 5)
        assert left == [Event(b"TEXT", b"[hello")]
        assert unaccepted([*left, Event(b"TEXT", b" world]")], 13) == []
        assert unaccepted([Event(b"BINARY", b"ab"), Event(b"PING", b"cd")], 3) == [
            Event(b"PING", b"d")
        ]

    def test_nothing_accepted_leaves_everything(self) -> None:
        events = [Event(b"TEXT"), Event(b"TEXT", b"a")]
        assert unaccepted(events, 0) == events
        assert unaccepted([], 0) == []

    def test_empty_events_go_with_what_is_accepted_before_or_after_them(self) -> None:
        events = [Event(b"PING"), Event(b"TEXT", b"ab"), Event(b"TEXT"), Event(b"BINARY", b"c")]
        assert unaccepted(events, 1) == [Event(b"TEXT", b"b"), *events[2:]]
        assert unaccepted(events, 2) == [Event(b"BINARY", b"c")]

    def test_a_close_is_never_split(self) -> None:
        close = Event(b"CLOSE", b"\x03\xe8bye")
        events = [Event(b"TEXT", b"ab"), close]
        assert unaccepted(events, 2) == [close]
        assert unaccepted(events, 6) == [close]
        assert unaccepted(events, 7) == []

    def test_a_close_without_content_goes_with_the_message_before_it(self) -> None:
        events = [Event(b"TEXT", b"ab"), Event(b"CLOSE")]
        assert unaccepted(events, 1) == [Event(b"TEXT", b"b"), Event(b"CLOSE")]
        assert unaccepted(events, 2) == []

    def test_no_more_can_be_accepted_than_was_offered(self) -> None:
        with pytest.raises(EventsError):
            unaccepted([Event(b"TEXT", b"ab"), Event(b"CLOSE", b"\x03\xe8")], 5)
        with pytest.raises(EventsError):
            unaccepted([], 1)

    def test_the_offered_events_stay_as_they_are(self) -> None:
        events = [Event(b"TEXT", b"ab")]
        assert unaccepted(events, 0) is not events
        unaccepted(events, 1)
        assert events == [Event(b"TEXT", b"ab")]

    @settings(max_examples=100, deadline=None)
    @given(offer, st.data())
    def test_no_content_is_lost_or_repeated(self, events: list[Event], data: st.DataObject) -> None:
        total = content_size(events)
        accepted = data.draw(st.integers(0, total))
        left = unaccepted(events, accepted)
        content = b"".join(event.content for event in events)
        if left and left[0].type == b"CLOSE":
            assert left == events[-1:]
        else:
            assert b"".join(event.content for event in left) == content[accepted:]
        if left:
            assert [event.type for event in left] == [event.type for event in events[-len(left) :]]
        if total and accepted == total:
            assert left == []
