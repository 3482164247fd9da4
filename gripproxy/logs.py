"""Where log lines go, and how they look.

`[INFO] 2026-01-31 12:00:00.000 message`, as Pushpin's do.
"""

import logging
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gripproxy.config import LogLevels
from gripproxy.errors import ConfigError

# Pushpin's levels by number; it names them by three to five letters.
_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, 1)
_NAMES = {
    logging.ERROR: "ERR",
    logging.WARNING: "WARN",
    logging.INFO: "INFO",
    logging.DEBUG: "DEBUG",
}
# Which of Pushpin's services does the work of a package here.
_SERVICES = {
    "gripproxy.clients": "connmgr",
    "gripproxy.backend": "proxy",
    "gripproxy.access": "proxy",
    "gripproxy.control": "handler",
    "gripproxy.hub": "handler",
}


# Channels and ids come from publishers: none of them may end a line and begin another.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class _Formatter(logging.Formatter):
    def __init__(self, name_service: bool) -> None:
        super().__init__()
        self._name_service = name_service
        self._second = 0
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        name = _NAMES.get(record.levelno, "TRACE" if record.levelno < logging.DEBUG else "ERR")
        service = f"[{_SERVICES.get(record.name, 'runner')}] " if self._name_service else ""
        message = record.getMessage()
        if not message.isprintable():
            message = _CONTROL.sub(_escape, message).encode("utf-8", "backslashreplace").decode()
        line = f"[{name}] {self._stamp}.{int(record.msecs):03d} {service}{message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class Logs:
    """The destination of all log lines."""

    def __init__(self, path: Path | None, levels: LogLevels, *, name_service: bool) -> None:
        """Raises ConfigError when the file cannot be written."""
        self._path = path
        self._handler: logging.Handler | None = None
        self._formatter = _Formatter(name_service)
        root = logging.getLogger("gripproxy")
        root.propagate = False
        root.setLevel(_LEVELS[min(levels.of("runner"), 4)])
        for name, service in _SERVICES.items():
            logging.getLogger(name).setLevel(_LEVELS[min(levels.of(service), 4)])
        self.reopen()

    def reopen(self) -> None:
        """Open the file anew, since another program may have moved it. Raises ConfigError."""
        handler: logging.Handler
        if self._path is None:
            handler = logging.StreamHandler(sys.stdout)
        else:
            try:
                handler = logging.FileHandler(
                    self._path, encoding="utf-8", errors="backslashreplace"
                )
            except OSError as error:
                raise ConfigError(f"cannot write the log: {error.strerror}", self._path) from error
        handler.setFormatter(self._formatter)
        root = logging.getLogger("gripproxy")
        old, self._handler = self._handler, handler
        root.addHandler(handler)
        if old is not None:
            root.removeHandler(old)
            old.close()


def limited(
    warn: Callable[..., None], clock: Callable[[], float], per_second: int = 5
) -> Callable[..., None]:
    """`warn`, of which at most `per_second` calls in a second come through.

    The next one tells how many did not.
    """
    window = passed = suppressed = 0

    def call(message: str, *args: object) -> None:
        nonlocal window, passed, suppressed
        now = int(clock())
        if now != window:
            window, passed = now, 0
        if passed >= per_second:
            suppressed += 1
            return
        passed += 1
        if suppressed:
            warn("%d warnings like the next one were left out", suppressed)
            suppressed = 0
        warn(message, *args)

    return call
