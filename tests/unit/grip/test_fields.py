"""Fields of JSON objects, read with Pushpin's leniency."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.errors import InstructError, ItemError
from gripproxy.grip import fields


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b' {"a": [1, 2.5, null, true, "x"]} ', {"a": [1, 2.5, None, True, "x"]}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":"x\ny\tz"}', {"a": "x\ny\tz"}),
        (b'{"a":"\\ud800x"}', {"a": "?x"}),
        (b'{"a":1,"a":2}', {"a": 2}),
    ],
)
def test_json_is_read_as_leniently_as_pushpin_does(data: bytes, value: object) -> None:
    assert fields.load_json(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b'{"a":1,}',
        b"{} x",
        b'{"a":01}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'"\xff"',
        b"[" * 100_000,
        b"[" * 5000 + b"]" * 5000,
        b'{"a":"\xff\n"}',
    ],
)
def test_other_text_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        fields.load_json(data)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        (" +5 ", 5),
        ("010", 10),
        ("-1", -1),
        ("2147483647", 2147483647),
        ("2147483648", None),
        ("99999999999", None),
        ("", None),
        ("1.5", None),
        ("0x10", None),
        ("\u0663", None),
    ],
)
def test_decimal_numbers_have_32_bits(text: str, value: int | None) -> None:
    assert fields.decimal(text) == value


@pytest.mark.parametrize(
    ("given_value", "number"),
    [
        (3, 3),
        (True, 1),
        (1.5, 2),
        (1.4, 1),
        (-0.4, 0),
        (-0.6, -1),
        ("7", 7),
        ("x", 0),
        ("", 0),
        ("1.5", 0),
        (None, None),
        ([], None),
        ({}, None),
    ],
)
def test_whole_numbers_are_made_of_most_values(given_value: object, number: int | None) -> None:
    assert fields.integer(given_value) == number


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("eHg=", b"xx"),
        ("eHg", b"xx"),
        ("e H\ng!", b"xx"),
        ("eA==eA==", b"x\x07\x80"),
        ("eHgé", b"xx"),
        ("####", b""),
        ("", b""),
        ("e", b""),
        ("eHhge", b"xx`"),
        ("-_-_", b""),
    ],
)
def test_base64_skips_what_it_does_not_know(text: str, data: bytes) -> None:
    assert fields.decode_base64(text) == data


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=50), st.text(max_size=50))
def test_base64_reads_what_others_write_and_any_text(data: bytes, text: str) -> None:
    assert fields.decode_base64(base64.b64encode(data).decode()) == data
    fields.decode_base64(text)


def test_numbers_have_bounds_and_a_type() -> None:
    assert fields.number({"n": "7"}, "n", "thing", ItemError) == 7
    assert fields.number({"n": 999}, "n", "thing", ItemError, 999) == 999
    with pytest.raises(ItemError, match=r"^thing contains 'n' with wrong type$"):
        fields.number({"n": None}, "n", "thing", ItemError)
    for value in (-1, 1000, 1e30):
        with pytest.raises(InstructError, match=r"^thing contains 'n' with invalid value$"):
            fields.number({"n": value}, "n", "thing", InstructError, 999)


def test_text_must_be_a_string() -> None:
    assert fields.text({"t": ""}, "t", "thing", ItemError) == ""
    with pytest.raises(ItemError, match=r"^thing contains 't' with wrong type$"):
        fields.text({"t": 1}, "t", "thing", ItemError)


def test_a_reason_that_would_break_the_status_line_is_refused() -> None:
    assert fields.reason({"reason": "Fine é"}, "thing", ItemError) == "Fine é".encode()
    for text in ("a\r\nb", "a\nb", "\0"):
        with pytest.raises(ItemError, match=r"^thing contains 'reason' with invalid value$"):
            fields.reason({"reason": text}, "thing", ItemError)


def test_meta_is_an_object_of_strings_and_the_first_wrong_name_is_reported() -> None:
    assert fields.meta({"meta": {"a": "b"}}, "thing", ItemError) == {"a": "b"}
    with pytest.raises(ItemError, match=r"^thing contains 'meta' with wrong type$"):
        fields.meta({"meta": []}, "thing", ItemError)
    with pytest.raises(ItemError, match=r"^'meta' contains 'a' with wrong type$"):
        fields.meta({"meta": {"b": 1, "a": None, "0": ""}}, "thing", ItemError)


def test_headers_in_a_list_keep_their_order_and_in_an_object_are_sorted() -> None:
    pairs = [["b", "1"], ["a", "é"], ["b", ""]]
    assert fields.headers({"headers": pairs}, "thing", ItemError) == (
        (b"b", b"1"),
        (b"a", "é".encode()),
        (b"b", b""),
    )
    mapping = {"b": "1", "a": "2", "B": "3"}
    assert fields.headers({"headers": mapping}, "thing", ItemError) == (
        (b"B", b"3"),
        (b"a", b"2"),
        (b"b", b"1"),
    )


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (1, "thing contains 'headers' with wrong type"),
        (None, "thing contains 'headers' with wrong type"),
        ([1], "headers contains element with wrong type"),
        (["ab"], "headers contains element with wrong type"),
        ([["a"]], "headers contains list with wrong number of elements"),
        ([["a", "b", "c"]], "headers contains list with wrong number of elements"),
        ([[1, 2]], "header contains name element with wrong type"),
        ([["a", None]], "header contains value element with wrong type"),
        ({"b": 1, "a": 2}, "headers contains 'a' with wrong type"),
        ([["a", "x\r\ny: z"]], "thing contains 'headers' with invalid value"),
        ({"a": "x\0"}, "thing contains 'headers' with invalid value"),
        ([["a b", "x"]], "thing contains 'headers' with invalid value"),
        ([["", "x"]], "thing contains 'headers' with invalid value"),
        ([["a\n", "x"]], "thing contains 'headers' with invalid value"),
    ],
)
def test_other_headers_are_refused_in_pushpins_words(headers: object, message: str) -> None:
    with pytest.raises(ItemError) as caught:
        fields.headers({"headers": headers}, "thing", ItemError)
    assert str(caught.value) == message


def test_messages_can_be_written_whatever_bytes_they_quote() -> None:
    with pytest.raises(ItemError) as caught:
        fields.meta({"meta": {"a\udcff": 1}}, "thing", ItemError)
    assert str(caught.value).encode() == b"'meta' contains 'a?' with wrong type"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(json.dumps).map(str.encode))
def test_any_bytes_are_json_or_a_value_error(data: bytes) -> None:
    try:
        value = fields.load_json(data)
    except ValueError:
        return
    json.dumps(value, ensure_ascii=False).encode()
