"""Processes that a run starts: what they use, by the kernel's account, and how they end."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple, Self

from benchmarks.errors import Failure

STOP_SECONDS = 5.0


class Process(NamedTuple):
    """One process for certain: an id may be given to another one later."""

    pid: int
    started: int


class Tree:
    """A process and all that it starts; leaving the context ends every one of them."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        piped: bool = False,
    ) -> None:
        """Start `command`, its error output going to the file `log`.

        So does its output unless it is `piped`, with its input, for `ask` and `line`.
        """
        self.name = Path(command[0]).name
        self._log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                cwd=cwd,
                env=env,
                start_new_session=True,  # Ctrl-C is for us: we end the others in turn
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def failure(self, what: str) -> Failure:
        """`what` went wrong, with the last that the process said."""
        status = self._popen.poll()
        ended = "" if status is None else f" (it ended with status {status})"
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return Failure(f"{what}{ended}" + (f": {lines[-1]}" if lines else ""))

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def ask(self, line: str) -> str:
        """Write a line to the process, and return the line that it says next."""
        try:
            pipe = _opened(self._popen.stdin)
            pipe.write(line + "\n")
            pipe.flush()
        except BrokenPipeError:
            raise self.failure(f"{self.name} is gone") from None
        return self.line()

    def line(self) -> str:
        """The next line that the process says."""
        if not (line := _opened(self._popen.stdout).readline()):
            raise self.failure(f"{self.name} said nothing")
        return line

    def port(self) -> int:
        """The port that it says it listens on."""
        return int(self.line().removeprefix("PORT "))

    def processes(self) -> list[Process]:
        """All that run now, the first one first."""
        children: dict[int, list[Process]] = {}
        first = None
        for parent, process in _all_processes():
            children.setdefault(parent, []).append(process)
            if process.pid == self._popen.pid:
                first = process
        found = [first] if first else []
        for process in found:  # grows while it is walked
            found += children.get(process.pid, [])
        return found

    def cpu_seconds(self) -> float:
        """CPU time that all of them have used so far."""
        # schedstat counts nanoseconds per thread; the ticks of stat are too coarse for short turns.
        nanoseconds = 0
        for process in self.processes():
            with contextlib.suppress(OSError):  # it has ended in between, as may a thread
                for thread in Path(f"/proc/{process.pid}/task").iterdir():
                    with contextlib.suppress(OSError):
                        nanoseconds += int((thread / "schedstat").read_text().split()[0])
        return nanoseconds / 1e9

    def pss_kib(self) -> int:
        """Memory of all of them: what is shared counts for each sharer in part."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        return total

    def stop(self) -> None:
        """End them: SIGTERM to the first, which is to end its own; SIGKILL to what is left."""
        processes = self.processes()
        if self.running:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(STOP_SECONDS)
        left = {*processes, *self.processes()}
        deadline = time.monotonic() + STOP_SECONDS
        while left := left & {process for _, process in _all_processes()}:
            if time.monotonic() > deadline:
                raise Failure(f"{self.name} does not end: {sorted(left)}")
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.01)  # it ends when the kernel comes to it
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _opened(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None, "started with piped=True"
    return pipe


def _all_processes() -> Iterator[tuple[int, Process]]:
    """Every process of the machine that is not a zombie, with its parent's id."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name, in parentheses, may hold anything; the fields from the third follow it.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    yield int(fields[1]), Process(int(entry.name), int(fields[19]))


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [s.getsockname()[1] for s in sockets]


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End what runs inside by a `Failure` after so many seconds. Limits do not nest."""

    def overdue(_number: int, _frame: FrameType | None) -> None:
        raise Failure(f"still not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
