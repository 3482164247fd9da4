"""Tagged netstrings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.errors import TnetstringError
from gripproxy.grip.tnetstring import DEPTH_MAX, dumps, loads

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=30)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"0:,", b""),
        (b"5:hello,", b"hello"),
        (b"005:hello,", b"hello"),
        (b"2:-5#", -5),
        (b"3:1.5^", 1.5),
        (b"2:10^", 10.0),
        (b"4:1e-3^", 0.001),
        (b"4:true!", True),
        (b"5:false!", False),
        (b"0:~", None),
        (b"0:]", []),
        (b"0:}", {}),
        (b"8:1:a,1:1#]", [b"a", 1]),
        (b"16:1:a,1:1#1:b,1:2#}", {b"a": 1, b"b": 2}),
        (b"6:0:]0:}]", [[], {}]),
    ],
)
def test_reads_every_type(data: bytes, value: object) -> None:
    assert loads(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"5",
        b":,",
        b"-1:,",
        b"+1:a,",
        b"x:a,",
        b"1_0:aaaaaaaaaa,",
        b"00000000001:a,",
        b"5:hell,",
        b"5:hello",
        b"5:hello,x",
        b"9999999999:,",
        b"1:a?",
        b"0:#",
        b"3:1_0#",
        b"2: 1#",
        b"19:9999999999999999999#",
        b"19:9223372036854775808#",
        b"3:nan^",
        b"5:1e999^",
        b"2:.5^",
        b"0:!",
        b"4:True!",
        b"1:a~",
        b"3:1:a]",
        b"4:1:a,}",
        b"8:1:1#1:a,}",
        b"8:1:a,9:b,}",
    ],
)
def test_refuses_what_is_not_one_value(data: bytes) -> None:
    with pytest.raises(TnetstringError):
        loads(data)


def test_a_value_inside_a_list_cannot_reach_beyond_it() -> None:
    with pytest.raises(TnetstringError):
        loads(b"10:3:2:a]9:b,]....,")


def test_writes_the_shapes_that_peers_expect() -> None:
    assert dumps({"a": [1, b"x", "é"], b"b": (True, None, 0.5)}) == (
        b"45:1:a,13:1:1#1:x,2:\xc3\xa9,]1:b,16:4:true!0:~3:0.5^]}"
    )


def test_text_that_came_as_other_bytes_is_written_as_those_bytes() -> None:
    assert dumps(b"\xff".decode("utf-8", "surrogateescape")) == b"1:\xff,"


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**63, -(2**63) - 1, object(), {1: 2}, "\ud800", {1, 2}]
)
def test_refuses_to_write_what_has_no_form(value: object) -> None:
    with pytest.raises(TnetstringError):
        dumps(value)


def test_nesting_is_bounded_both_ways() -> None:
    deepest: object = b"x"
    for _ in range(DEPTH_MAX):
        deepest = [deepest]
    data = dumps(deepest)
    assert loads(data) == deepest
    with pytest.raises(TnetstringError, match="nested"):
        dumps([deepest])
    with pytest.raises(TnetstringError, match="nested"):
        loads(b"%d:%b]" % (len(data), data))


@settings(max_examples=200, deadline=None)
@given(values)
def test_what_is_written_is_read_back(value: object) -> None:
    assert loads(dumps(value)) == value


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text("0123456789:,#^!~]}-.etru", max_size=60).map(str.encode))
def test_garbage_raises_only_our_error(data: bytes) -> None:
    try:
        value = loads(data)
    except TnetstringError:
        return
    assert loads(dumps(value)) == value


@settings(max_examples=100, deadline=None)
@given(values, st.data())
def test_a_cut_value_is_refused(value: object, data: st.DataObject) -> None:
    encoded = dumps(value)
    with pytest.raises(TnetstringError):
        loads(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
