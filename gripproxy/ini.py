"""The INI dialect of pushpin.conf, which is the one that Qt reads."""

import re
from pathlib import Path
from typing import NamedTuple

from gripproxy.errors import ConfigError


class Value(NamedTuple):
    """What stands after `=`, without quotes and escapes."""

    text: str
    items: tuple[str, ...] = ()  # the same, cut at the commas that were not quoted


class Entry(NamedTuple):
    """One `key=value` of a file."""

    section: str  # "" before the first section header
    key: str
    value: Value
    source: Path | None
    line: int


_LINE_END = re.compile(r"\r\n|\n|\r")
_HEADER = re.compile(r"\[([^\[\]]*)\]\s*(?:[;#].*)?")
_PIECE = re.compile(r'"((?:[^"\\]|\\.)*)"|(\\.?)|([,;])|([^"\\,;]+)')
_ESCAPE = re.compile(r"\\(.?)")
_ESCAPED = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "r": "\r", "t": "\t"}


def read(path: Path) -> list[Entry]:
    """The entries of the file at `path`, in its order. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot be read: {reason}", path) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # as Qt 5 reads every file, so that old comments are no error
    return parse(text, path)


def parse(text: str, source: Path | None) -> list[Entry]:
    """The entries of `text`. Raises ConfigError for a line that is no section, entry or comment."""
    entries: list[Entry] = []
    section = ""
    for number, line in enumerate(_LINE_END.split(text), 1):
        line = line.strip()
        if not line or line[0] in ";#":
            continue
        if "\0" in line:
            raise ConfigError("contains a NUL byte", source, number)
        if line[0] == "[":
            header = _HEADER.fullmatch(line)
            if header is None:
                raise ConfigError("a section header must be [name]", source, number)
            section = header[1].strip()
            continue
        key, separator, raw = line.partition("=")
        key = key.strip()
        if not separator or not key:
            raise ConfigError("expected key=value, [section] or a comment", source, number)
        try:
            value = _value(raw)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}", source, number) from error
        entries.append(Entry(section, key, value, source, number))
    return entries


def _value(raw: str) -> Value:
    """Raises ValueError for an open quote or an escape that does not exist."""
    texts: list[_Text] = [_Text()]
    whole = _Text()
    position = 0
    while position < len(raw):
        piece = _PIECE.match(raw, position)
        if piece is None:
            raise ValueError('a quote " is not closed')
        position = piece.end()
        quoted, escape, separator, plain = piece.groups()
        if separator == ";":
            break  # a comment, unless quoted
        if separator == ",":
            texts.append(_Text())
            whole.add(",", keep=False)
            continue
        if plain is not None:
            addition, keep = plain, False
        else:
            addition, keep = _ESCAPE.sub(_unescape, quoted if escape is None else escape), True
        texts[-1].add(addition, keep=keep)
        whole.add(addition, keep=keep)
    return Value(whole.trimmed(), tuple(text.trimmed() for text in texts))


def _unescape(escape: re.Match[str]) -> str:
    try:
        return _ESCAPED[escape[1]]
    except KeyError:
        raise ValueError(f"{escape[0]!r} is no escape; a backslash is written \\\\") from None


class _Text:
    """Text under way: spaces at its ends go unless they were quoted."""

    def __init__(self) -> None:
        self._text = ""
        self._kept = 0  # how much of it may not be trimmed

    def add(self, addition: str, *, keep: bool) -> None:
        if not self._text and not keep:
            addition = addition.lstrip()
        self._text += addition
        if keep:
            self._kept = len(self._text)

    def trimmed(self) -> str:
        return self._text[: self._kept] + self._text[self._kept :].rstrip()
