"""The grammar of a line of a routes file."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.routeline import LineError, Section, sections


def section(value: str, *props: tuple[str, str]) -> Section:
    return Section(value, props)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", []),
        ("   ", []),
        ("# * test", []),
        ("  # * test", []),
        ("* test", [section("*"), section("test")]),
        ("  *   test  ", [section("*"), section("test")]),
        ("* a:1 b:2", [section("*"), section("a:1"), section("b:2")]),
        ("* test # rest", [section("*"), section("test")]),
        ("* te#st", [section("*"), section("te")]),
        ("*\ttest", [section("*\ttest")]),
        ("*,ssl test", [section("*", ("ssl", "")), section("test")]),
        ("*,a=1,b=,c test", [section("*", ("a", "1"), ("b", ""), ("c", "")), section("test")]),
        ("*,a=1=2 test", [section("*", ("a", "1=2")), section("test")]),
        ("id=x test", [section("", ("id", "x")), section("test")]),
        (",id=x test", [section("", ("id", "x")), section("test")]),
        ("  id=x test", [section("", ("id", "x")), section("test")]),
        ('"a b" "c,d#e"', [section("a b"), section("c,d#e")]),
        ('*,a="b c"d test', [section("*", ("a", "b cd")), section("test")]),
        ('*,"a=b,c" test', [section("*", ("a", "b,c")), section("test")]),
        ('"a=b" test', [section("", ("a", "b")), section("test")]),
        (r'*,a="\\ \"" test', [section("*", ("a", '\\ "')), section("test")]),
        (r"*,a=\n test", [section("*", ("a", r"\n")), section("test")]),
        ('"" test', [section(""), section("test")]),
        ("*,a=1,a=2 test", [section("*", ("a", "1"), ("a", "2")), section("test")]),
    ],
)
def test_a_line_is_sections_and_a_section_is_a_value_and_properties(
    line: str, found: list[Section]
) -> None:
    assert sections(line) == found


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('*,a="b test', "unterminated quoted section"),
        ('*,a="b\\', "unterminated escape sequence"),
        (r'*,a="\n" test', "unexpected escape character: 'n'"),
        ("*, test", "expecting prop"),
        ("*,,a test", "expecting prop"),
        ("*,#", "expecting prop"),
        ("* a:1,", "expecting prop"),
        ("*,=a test", "empty prop name"),
        ("=a test", "empty prop name"),
    ],
)
def test_other_lines_are_refused(line: str, reason: str) -> None:
    with pytest.raises(LineError) as caught:
        sections(line)
    assert str(caught.value) == reason


def test_the_last_of_a_repeated_property_counts_or_all_do() -> None:
    (found,) = sections("*,a=1,b=2,a=3")
    assert found.last("a") == "3"
    assert found.all("a") == ("1", "3")
    assert found.last("c") is None
    assert (found.has("b"), found.has("c")) == (True, False)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('a=*, "#\\\t:'), max_size=30))
def test_garbage_raises_only_line_errors(line: str) -> None:
    try:
        found = sections(line)
    except LineError as error:
        assert str(error)
    else:
        assert all(name for section in found for name, _ in section.props)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="="), max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXT, st.lists(st.tuples(TEXT.filter(bool), TEXT))), max_size=3))
def test_what_is_quoted_comes_back_as_it_was(
    words: list[tuple[str, list[tuple[str, str]]]],
) -> None:
    line = " ".join(
        ",".join([quoted(value), *(quoted(f"{name}={v}") for name, v in props)])
        for value, props in words
    )
    assert sections(line) == [Section(value, tuple(props)) for value, props in words]
