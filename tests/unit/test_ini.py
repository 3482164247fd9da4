"""The INI dialect of pushpin.conf."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.errors import ConfigError
from gripproxy.ini import Entry, Value, parse, read

SOURCE = Path("pushpin.conf")


def value(raw: str) -> Value:
    (entry,) = parse(f"[a]\nkey={raw}", SOURCE)
    return entry.value


def test_an_entry_knows_its_section_key_value_file_and_line() -> None:
    text = "[proxy]\n\ndebug = true\n[ handler ]\npush_in_spec=x"
    assert parse(text, SOURCE) == [
        Entry("proxy", "debug", Value("true", ("true",)), SOURCE, 3),
        Entry("handler", "push_in_spec", Value("x", ("x",)), SOURCE, 5),
    ]


def test_lines_that_begin_with_a_semicolon_or_a_hash_are_comments() -> None:
    assert parse('; a=1\n  # b="2\n#c=3\n', SOURCE) == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_counts(end: str) -> None:
    assert [entry.line for entry in parse(end.join(["[a]", "b=1", "c=2"]), SOURCE)] == [2, 3]


@pytest.mark.parametrize(
    ("raw", "text", "items"),
    [
        ("", "", ("",)),
        ("  a b  ", "a b", ("a b",)),
        ("a, b ,c", "a, b ,c", ("a", "b", "c")),
        ('"a, b"', "a, b", ("a, b",)),
        ('"a,b",c', "a,b,c", ("a,b", "c")),
        ('" a "', " a ", (" a ",)),
        (' x" "  ', "x ", ("x ",)),
        ("2 ; two", "2", ("2",)),
        ('"a;b" ; c', "a;b", ("a;b",)),
        ("a#b=c", "a#b=c", ("a#b=c",)),
        (r'"say \"hi\" \\ \n"', 'say "hi" \\ \n', ('say "hi" \\ \n',)),
        (r"a\\b", r"a\b", (r"a\b",)),
        (";", "", ("",)),
    ],
)
def test_quotes_protect_and_commas_make_lists(raw: str, text: str, items: tuple[str, ...]) -> None:
    assert value(raw) == Value(text, items)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("debug", "expected key=value, [section] or a comment"),
        ("=1", "expected key=value, [section] or a comment"),
        ("[proxy", "a section header must be [name]"),
        ("[a] b", "a section header must be [name]"),
        ('key="open', 'key: a quote " is not closed'),
        (r"key=\d", r"key: '\\d' is no escape; a backslash is written \\"),
        ("key=a\\", r"key: '\\' is no escape; a backslash is written \\"),
        ("key=\0", "contains a NUL byte"),
    ],
)
def test_other_lines_are_refused_with_file_and_line(line: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[a]\nb=1\n{line}", SOURCE)
    assert str(caught.value) == f"pushpin.conf:3: {reason}"


def test_a_comment_may_follow_a_section_header() -> None:
    assert parse("[a] ; first\nb=1", SOURCE)[0].section == "a"


def test_a_file_in_utf_8_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_bytes(b"\xef\xbb\xbf[a]\nb=\xc3\xa9")
    assert read(path)[0].value.text == "é"


def test_a_file_that_is_not_utf_8_is_latin_1(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_bytes(b"# soci\xe9t\xe9\n[a]\nb=\xe9")
    assert read(path)[0].value.text == "é"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.conf: cannot be read: No such file"):
        read(tmp_path / "missing.conf")
    with pytest.raises(ConfigError, match="cannot be read: embedded null"):
        read(tmp_path / "a\0b")


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('ab=[];#",\\\n\r \t\0é'), max_size=60))
def test_garbage_raises_only_config_errors(text: str) -> None:
    try:
        entries = parse(text, SOURCE)
    except ConfigError as error:
        assert error.path == SOURCE
        assert error.line is not None
    else:
        assert all(entry.key for entry in entries)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), max_size=40))
def test_a_quoted_value_comes_back_as_it_was(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    assert value(f'"{quoted}"') == Value(text, (text,))
