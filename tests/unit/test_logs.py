"""Log lines: how they look, which are written, and where they go."""

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest

from gripproxy.config import LogLevels
from gripproxy.errors import ConfigError
from gripproxy.logs import Logs, limited

ROOT = logging.getLogger("gripproxy")
NAMES = [f"gripproxy.{part}" for part in ("clients", "backend", "access", "control", "hub", "x")]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Loggers are global: give them back as they were."""
    levels = {name: logging.getLogger(name).level for name in ["gripproxy", *NAMES]}
    handlers, propagate = list(ROOT.handlers), ROOT.propagate
    yield
    for handler in set(ROOT.handlers) - set(handlers):
        ROOT.removeHandler(handler)
        handler.close()
    ROOT.propagate = propagate
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def logs(path: Path | None, levels: LogLevels | None = None, *, name_service: bool = False) -> Logs:
    return Logs(path, levels or LogLevels(4), name_service=name_service)


def test_a_line_has_its_level_and_the_local_time_and_the_message(tmp_path: Path) -> None:
    logs(tmp_path / "log")
    logging.getLogger("gripproxy.hub").info("%s and %d", "one", 2)
    line = (tmp_path / "log").read_text()
    assert re.fullmatch(r"\[INFO\] \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} one and 2\n", line)


def test_the_time_is_that_of_each_record(tmp_path: Path) -> None:
    logs(tmp_path / "log")
    for seconds in (1e9 + 0.5, 1e9 + 0.75, 1e9 + 86400.25):
        record = logging.makeLogRecord({"name": "gripproxy", "levelno": 20, "msg": "x"})
        record.created, record.msecs = seconds, seconds % 1 * 1000
        ROOT.handle(record)
    stamps = [line[7:30] for line in (tmp_path / "log").read_text().splitlines()]
    assert [stamp[-4:] for stamp in stamps] == [".500", ".750", ".250"]
    assert stamps[0][:-4] == stamps[1][:-4] != stamps[2][:-4]


@pytest.mark.parametrize(
    ("level", "name"),
    [(1, "TRACE"), (10, "DEBUG"), (20, "INFO"), (30, "WARN"), (40, "ERR"), (50, "ERR")],
)
def test_levels_have_pushpin_s_names(tmp_path: Path, level: int, name: str) -> None:
    logs(tmp_path / "log")
    ROOT.log(level, "x")
    assert (tmp_path / "log").read_text().startswith(f"[{name}] ")


@pytest.mark.parametrize(
    ("logger", "service"),
    [
        ("gripproxy", "runner"),
        ("gripproxy.x", "runner"),
        ("gripproxy.clients", "connmgr"),
        ("gripproxy.backend", "proxy"),
        ("gripproxy.access", "proxy"),
        ("gripproxy.control", "handler"),
        ("gripproxy.hub", "handler"),
    ],
)
def test_lines_may_name_the_service_of_pushpin(tmp_path: Path, logger: str, service: str) -> None:
    logs(tmp_path / "log", name_service=True)
    logging.getLogger(logger).info("x")
    assert (tmp_path / "log").read_text().endswith(f" [{service}] x\n")


@pytest.mark.parametrize(
    ("number", "names"),
    [
        (0, ["ERR"]),
        (1, ["WARN", "ERR"]),
        (2, ["INFO", "WARN", "ERR"]),
        (3, ["DEBUG", "INFO", "WARN", "ERR"]),
        (4, ["TRACE", "DEBUG", "INFO", "WARN", "ERR"]),
        (9, ["TRACE", "DEBUG", "INFO", "WARN", "ERR"]),
    ],
)
def test_a_level_lets_through_what_is_as_important(
    tmp_path: Path, number: int, names: list[str]
) -> None:
    logs(tmp_path / "log", LogLevels(number))
    for level in (1, 10, 20, 30, 40):
        ROOT.log(level, "x")
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line[1 : line.index("]")] for line in lines] == names


def test_each_service_has_its_level(tmp_path: Path) -> None:
    logs(tmp_path / "log", LogLevels(1, (("connmgr", 3), ("proxy", 3), ("handler", 0))))
    for name in ["gripproxy", *NAMES]:
        for level in (logging.DEBUG, logging.WARNING):
            logging.getLogger(name).log(level, name)
    lines = (tmp_path / "log").read_text().splitlines()
    written = [(line.split()[0], line.split()[-1]) for line in lines]
    assert written == [
        ("[WARN]", "gripproxy"),
        ("[DEBUG]", "gripproxy.clients"),
        ("[WARN]", "gripproxy.clients"),
        ("[DEBUG]", "gripproxy.backend"),
        ("[WARN]", "gripproxy.backend"),
        ("[DEBUG]", "gripproxy.access"),
        ("[WARN]", "gripproxy.access"),
        ("[WARN]", "gripproxy.x"),
    ]


def test_an_exception_is_written_below_its_line(tmp_path: Path) -> None:
    logs(tmp_path / "log")
    try:
        raise ValueError("why")
    except ValueError:
        ROOT.exception("what")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0].endswith(" what")
    assert lines[1].startswith("Traceback")
    assert lines[-1] == "ValueError: why"


@contextmanager
def standard_output() -> Iterator[io.BytesIO]:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    with redirect_stdout(stream):
        yield raw


def test_without_a_file_lines_go_to_standard_output() -> None:
    with standard_output() as written:
        logs(None)
        ROOT.info("hello")
        assert written.getvalue().endswith(b" hello\n")


# Channels may be any bytes; text that is no UTF-8 has surrogates.
@pytest.mark.parametrize("name", ["\udcff", "\udce4b"])
def test_text_that_is_no_utf_8_is_written_all_the_same(tmp_path: Path, name: str) -> None:
    with standard_output() as written:
        logs(tmp_path / "log")
        logs(None)
        ROOT.info("channel=%s", name)
        end = b" channel=" + name.encode("utf-8", "backslashreplace") + b"\n"
        assert (tmp_path / "log").read_bytes().endswith(end)
        assert written.getvalue().endswith(end)


def test_a_message_cannot_pass_for_two(tmp_path: Path) -> None:
    logs(tmp_path / "log")
    ROOT.info("channel=%s", "a\n[INFO] 2026-01-31 12:00:00.000 forged\r")
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_lines_are_appended_to_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("old\n")
    logs(tmp_path / "log")
    ROOT.info("new")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "old"
    assert lines[1].endswith(" new")


def test_lines_go_nowhere_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs(tmp_path / "log")
    ROOT.warning("x")
    assert caplog.records == []


def test_a_file_that_was_moved_is_begun_anew(tmp_path: Path) -> None:
    written = logs(tmp_path / "log")
    ROOT.info("one")
    (tmp_path / "log").rename(tmp_path / "log.1")
    ROOT.info("two")
    written.reopen()
    ROOT.info("three")
    old, new = [(tmp_path / name).read_text().splitlines() for name in ("log.1", "log")]
    assert [line.split()[-1] for line in old] == ["one", "two"]
    assert [line.split()[-1] for line in new] == ["three"]


def test_standard_output_may_be_reopened() -> None:
    with standard_output() as written:
        logs(None).reopen()
        ROOT.info("x")
        assert written.getvalue().count(b"\n") == 1


def test_a_file_that_cannot_be_written_is_the_operator_s_error(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "log"
    with pytest.raises(ConfigError) as caught:
        logs(path)
    assert str(caught.value) == f"{path}: cannot write the log: No such file or directory"


def test_if_the_file_cannot_be_reopened_the_old_one_is_written_on(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    written = logs(directory / "log")
    directory.rename(tmp_path / "old")
    with pytest.raises(ConfigError):
        written.reopen()
    ROOT.info("x")
    assert (tmp_path / "old" / "log").read_text().endswith(" x\n")


# -- warnings that could come in floods ----------------------------------------------------------


class Flood:
    """What came through, and a clock that stands still between calls of `at`."""

    def __init__(self, per_second: int = 5) -> None:
        self.now = 100.0
        self.lines: list[str] = []
        self.warn = limited(self._warn, lambda: self.now, per_second)

    def _warn(self, message: str, *args: object) -> None:
        self.lines.append(message % args)

    def at(self, now: float, count: int) -> list[str]:
        """What comes through of so many warnings."""
        self.now = now
        self.lines.clear()
        for number in range(count):
            self.warn("w%d", number)
        return list(self.lines)


def test_so_many_warnings_in_a_second_come_through() -> None:
    flood = Flood()
    assert flood.at(100.0, 3) == ["w0", "w1", "w2"]
    assert flood.at(100.9, 9) == ["w0", "w1"]


def test_the_first_after_a_flood_tells_how_many_did_not() -> None:
    flood = Flood()
    flood.at(100.0, 12)
    assert flood.at(107.0, 2) == ["7 warnings like the next one were left out", "w0", "w1"]


def test_the_number_is_told_once() -> None:
    flood = Flood(1)
    flood.at(100.0, 2)
    flood.at(101.0, 1)
    assert flood.at(102.0, 1) == ["w0"]


def test_floods_of_several_seconds_add_up() -> None:
    flood = Flood(1)
    flood.at(100.0, 4)
    assert flood.at(101.0, 4)[0] == "3 warnings like the next one were left out"
    assert flood.at(102.0, 1)[0] == "3 warnings like the next one were left out"
