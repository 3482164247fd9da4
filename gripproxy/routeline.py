"""The grammar of one line of a routes file: a line to sections, before they mean anything.

Pushpin: a line is a list of sections, separated by spaces: the condition, then the targets. A
section is a value and properties, separated by commas. Double quotes protect spaces, commas, `#`.
"""

import re
from typing import NamedTuple


class LineError(ValueError):
    """Why a line is skipped; `gripproxy.routesfile` makes a Complaint of it."""


class Section(NamedTuple):
    """One word of a line: `value,name=value,name`."""

    value: str
    props: tuple[tuple[str, str], ...]

    def last(self, name: str) -> str | None:
        """The value of a property, the last if there are several, or None."""
        for known, value in reversed(self.props):
            if known == name:
                return value
        return None

    def has(self, name: str) -> bool:
        return any(known == name for known, _ in self.props)

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of a property, as listed."""
        return tuple(value for known, value in self.props if known == name)


# Only the space separates: a tab is part of a word, as in Pushpin.
_PLAIN = re.compile('[^", #]*')
_QUOTED = re.compile(r'(?:[^"\\]|\\["\\])*')


def sections(line: str) -> list[Section]:
    """The sections of a line; none if it is empty or a comment. Raises LineError."""
    found: list[Section] = []
    position = 0
    while True:
        while line[position : position + 1] == " ":
            position += 1
        if line[position : position + 1] in ("", "#"):
            return found
        fields = []
        while True:
            field, position = _field(line, position)
            fields.append(field)
            if line[position : position + 1] != ",":
                break
            position += 1
        # Pushpin looks for `=` after the quotes are gone, so that quotes do not protect it.
        value = "" if "=" in fields[0] else fields.pop(0)
        found.append(Section(value, tuple(map(_prop, fields))))


def _field(line: str, position: int) -> tuple[str, int]:
    """The text up to a comma, a space, `#` or the end, and where that is."""
    text = ""
    while True:
        plain = _PLAIN.match(line, position)
        assert plain is not None  # it matches ""
        text += plain[0]
        position = plain.end()
        if line[position : position + 1] != '"':
            return text, position
        quoted = _QUOTED.match(line, position + 1)
        assert quoted is not None  # it matches ""
        position = quoted.end()
        end = line[position : position + 2]
        if not end:
            raise LineError("unterminated quoted section")
        if end[0] == "\\":
            if len(end) == 1:
                raise LineError("unterminated escape sequence")
            raise LineError(f"unexpected escape character: {end[1]!r}")
        text += re.sub(r"\\(.)", r"\1", quoted[0])
        position += 1


def _prop(field: str) -> tuple[str, str]:
    if not field:
        raise LineError("expecting prop")
    name, _, value = field.partition("=")
    if not name:
        raise LineError("empty prop name")
    return name, value
