"""What makes the load and times the answers: loadgen for held connections, wrk for requests."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks import machine
from benchmarks.errors import Failure
from benchmarks.message import Hold
from benchmarks.processes import Tree

CONNECTIONS = 32  # of wrk
ANSWER_SECONDS = 30.0
RATE = 1000  # connections, or requests on open ones, per second: at 2000 Pushpin fails some
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Arrivals(NamedTuple):
    """How many messages came, their latencies, and connections that the server closed meanwhile."""

    messages: int
    p50_ms: float
    p99_ms: float
    last_ms: float
    closed: int


class Echoes(NamedTuple):
    """How many messages were sent, the seconds until the last came back, and what arrived."""

    sent: int
    seconds: float
    arrivals: Arrivals


class Load:
    """Connections to 127.0.0.1:`port`, open until the context is left.

    `connected` of them could be opened; but for long-polls that includes the head of the response.
    """

    def __init__(self, port: int, hold: Hold, count: int, directory: Path) -> None:
        program = machine.compiled("loadgen", directory)
        self._tree = Tree(
            [program, str(port), str(count), hold.value, hold.path, str(RATE)],
            directory / f"loadgen-{port}.log",
            piped=True,
        )
        try:
            self.connected = int(report("READY", self._tree.line())["connected"])
            if not self.connected:
                raise self._tree.failure("no client could connect")
        except BaseException:
            self._tree.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tree.stop()

    def ask(self) -> int:
        """Send the request on every connection; on how many that went well."""
        return int(report("ASKED", self._tree.ask("ask"))["count"])

    def arrivals(self, expected: int, seconds: float = ANSWER_SECONDS) -> Arrivals:
        """What came since the last call: `expected` messages, unless they stop coming before.

        It takes at most `seconds`, and a moment more is given to messages that come twice.
        """
        return _arrivals(report("GOT", self._tree.ask(f"expect {expected} {seconds:.3f}")))

    def echoes(self, seconds: float) -> Echoes:
        """Send a message on every connection, and the next one when it is back, for a time."""
        values = report("ECHOED", self._tree.ask(f"echo {seconds}"))
        return Echoes(int(values["sent"]), values["seconds"], _arrivals(values))


def _arrivals(values: dict[str, float]) -> Arrivals:
    return Arrivals(
        int(values["count"]),
        values["p50_ms"],
        values["p99_ms"],
        values["last_ms"],
        int(values["closed"]),
    )


def report(word: str, line: str) -> dict[str, float]:
    """The values of a line `WORD name=value ...` of loadgen. Raises `Failure` for any other."""
    first, *pairs = line.split() or [""]
    try:
        if first == word:
            return {name: float(value) for name, value in (pair.split("=") for pair in pairs)}
    except ValueError:
        pass
    raise Failure(f"loadgen said {line.strip()!r} instead of {word}")


class Requests(NamedTuple):
    """A turn of wrk: answered ones, in how many seconds, and what went wrong."""

    requests: int
    seconds: float
    p99_ms: float
    bad: int  # answered by a status that is neither 2xx nor 3xx
    errors: int  # connections that failed or broke, and requests that had no answer in time


def wrk(port: int, path: str, seconds: int, options: Sequence[str] = ()) -> Requests:
    """Send requests one after the other on each of `CONNECTIONS` connections."""
    command = [machine.installed("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "--latency"]
    done = subprocess.run(
        [*command, *options, f"http://127.0.0.1:{port}{path}"],
        capture_output=True,
        text=True,
        timeout=seconds + 20,
    )
    return wrk_report(done.stdout or done.stderr)


def wrk_report(text: str) -> Requests:
    """What wrk printed. Raises `Failure` for anything else."""
    total = re.search(r"(\d+) requests in ([\d.]+)(m?)s", text)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    if not total or not p99:
        raise Failure(f"wrk said {text.strip()[-200:]!r}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text
    )
    return Requests(
        int(total[1]),
        float(total[2]) * (1e-3 if total[3] else 1),
        float(p99[1]) * MILLISECONDS[p99[2]],
        int(bad[1]) if bad else 0,
        sum(map(int, errors.groups())) if errors else 0,
    )
