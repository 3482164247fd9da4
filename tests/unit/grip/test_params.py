"""List headers, as Pushpin reads them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.grip.params import (
    Element,
    get,
    parse_element,
    parse_elements,
    parse_pairs,
    split_list,
)

# Bytes that steer the parser, and a few that do not.
header = st.lists(st.sampled_from(list(b'";,=\\ ab\xff')), max_size=40).map(bytes)


@pytest.mark.parametrize(
    ("values", "pieces"),
    [
        ([], []),
        ([b""], []),
        ([b"a"], [b"a"]),
        ([b" a , b "], [b"a", b"b"]),
        ([b"a", b"b,c"], [b"a", b"b", b"c"]),
        ([b"a,"], [b"a"]),
        ([b"a, "], [b"a"]),
        ([b","], [b""]),
        ([b"a,,b"], [b"a", b"", b"b"]),
        ([b'a"b,c"d'], [b'a"b,c"d']),
        ([b'x="b\\"c,d",e'], [b'x="b\\"c,d"', b"e"]),
        ([b'x="b\\\\",e'], [b'x="b\\\\"', b"e"]),
        ([b'a,"b,c'], [b"a", b'"b,c']),
        ([b'a,"b\\'], [b"a", b'"b\\']),
    ],
)
def test_lists_are_split_at_commas_outside_quotes(values: list[bytes], pieces: list[bytes]) -> None:
    assert split_list(values) == pieces


def test_an_element_is_a_value_and_parameters_in_order() -> None:
    assert parse_elements([b"a; x=1 ;y = 2 ;x=3", b"b"]) == [
        Element(b"a", ((b"x", b"1"), (b"y", b"2"), (b"x", b"3"))),
        Element(b"b", ()),
    ]


def test_the_value_of_an_element_keeps_its_quotes_and_ends_at_a_semicolon_inside_them() -> None:
    assert parse_elements([b'"q;r"']) == [Element(b'"q', ((b'r"', None),))]


def test_a_quoted_parameter_is_unescaped_and_what_follows_the_quote_is_ignored() -> None:
    assert parse_elements([b'a;x="b;\\"c\\"\\\\"zzz ;y=1']) == [
        Element(b"a", ((b"x", b'b;"c"\\'), (b"y", b"1")))
    ]
    assert parse_elements([b'a;x="b"zzz']) == [Element(b"a", ((b"x", b"b"),))]


def test_only_a_value_that_begins_with_a_quote_is_quoted() -> None:
    assert parse_elements([b'a;x= "b";y=c"d']) == [Element(b"a", ((b"x", b'"b"'), (b"y", b'c"d')))]


def test_a_parameter_without_equals_has_no_value_and_empty_ones_do_not_count() -> None:
    element = parse_elements([b"a;prev-id;;y=;"])[0]
    assert element == Element(b"a", ((b"prev-id", None), (b"y", b"")))
    assert get(element, b"prev-id") is None
    assert get(element, b"y") == b""


def test_an_element_with_an_unterminated_quoted_value_is_as_if_absent() -> None:
    assert parse_elements([b'a, b;x="y, c']) == [Element(b"a", ())]


def test_parameters_are_found_in_any_spelling_and_the_first_counts() -> None:
    element = Element(b"a", ((b"other", b"0"), (b"Prev-ID", b"1"), (b"prev-id", b"2")))
    assert get(element, b"prev-id") == b"1"
    assert get(element, b"absent") is None


def test_a_single_element_may_contain_commas() -> None:
    assert parse_element(b"q,r;timeout=1") == Element(b"q,r", ((b"timeout", b"1"),))
    assert parse_element(b'q;a="b') is None


def test_pairs_begin_with_a_parameter() -> None:
    assert parse_pairs([b'a=b=c; d="e,f", g', b';h=i,j="k']) == [
        ((b"a", b"b=c"), (b"d", b"e,f")),
        ((b"g", None),),
        ((b"h", b"i"),),
    ]
    assert parse_pairs([b"a=b,,c=d"])[1] == ()


@settings(max_examples=300, deadline=None)
@given(st.lists(header, max_size=3))
def test_any_bytes_are_read(values: list[bytes]) -> None:
    assert len(parse_elements(values)) <= len(split_list(values))
    parse_pairs(values)
    for value in values:
        parse_element(value)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=20), max_size=5))
def test_quoted_values_survive_whatever_they_contain(contents: list[bytes]) -> None:
    quoted = [content.replace(b"\\", b"\\\\").replace(b'"', b'\\"') for content in contents]
    value = b", ".join(b'e;x="%b"' % content for content in quoted)
    assert [get(element, b"x") for element in parse_elements([value])] == contents
