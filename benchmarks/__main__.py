"""`python -m benchmarks`: measure gripproxy, side by side with what else is installed.

Prints a table for each scenario, then `RATIO scenario figure target/gripproxy value` (above 1,
gripproxy is ahead) and `FAULT ...` where gripproxy answered wrongly or lost something. Exit
status: 0, 1 after a FAULT, 2 for wrong options.
"""

import argparse
import contextlib
import datetime
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from types import FrameType

from benchmarks import machine, report
from benchmarks.errors import Failure
from benchmarks.processes import Tree, time_limit
from benchmarks.report import Result
from benchmarks.scenarios import SCENARIOS, Scenario, Size, Turn
from benchmarks.targets import ROOT, TARGETS, Stage

PREPARE_SECONDS = 90.0
TURN_SECONDS = 60.0  # beside those that it is to last
INTERRUPTED = 128 + signal.SIGINT
FILES_BESIDE = 500  # open files that are no connections of clients
PORTS = 28_000  # that clients can come from at a time


def main() -> int:
    """Run what the command line asks for; the exit status."""
    options = _parser().parse_args()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, _interrupt)
    # With --markdown only the table goes to standard output, so that it can go into a file.
    progress = sys.stderr if options.markdown else sys.stdout
    results: list[Result] = []
    try:
        with contextlib.ExitStack() as stack:
            directory = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="gripproxy-bench-"))
            )
            chosen, left_out = _choose(options)
            print(*left_out, sep="\n", end="\n" if left_out else "", file=progress, flush=True)
            with time_limit(PREPARE_SECONDS):
                backend = stack.enter_context(_start_backend(directory))
                stage = Stage(backend.port(), directory, options.log_level)
            for scenario, targets in chosen:
                results.append(_run(scenario, targets, stage, options))
                print(report.table(results[-1]), end="\n\n", file=progress, flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Failure as failure:
        print(f"no backend: {failure}", file=sys.stderr)
        return 1
    if options.markdown:
        print(_heading(), report.markdown(results), sep="\n\n")
    ratios = [line for result in results for line in report.ratios(result)]
    faults = [line for result in results for line in report.faults(result)]
    for line in ratios + faults:
        print(line, file=progress)
    return 1 if faults else 0


def _choose(options: argparse.Namespace) -> tuple[list[tuple[Scenario, list[str]]], list[str]]:
    """What to run on which targets, and a line for each reason to leave something out."""
    left_out: dict[str, list[str]] = {}
    targets = []
    for target in options.targets:
        if why := TARGETS[target].missing():
            left_out.setdefault(why, []).append(target)
        else:
            targets.append(target)
    clients = min(machine.raise_open_files() - FILES_BESIDE, PORTS)
    chosen = []
    for name in options.scenarios or SCENARIOS:
        scenario = SCENARIOS[name]
        if why := machine.missing(scenario.tool):
            left_out.setdefault(why, []).append(name)
        elif scenario.connections and _count(scenario, options) > clients:
            left_out.setdefault(f"only {clients:,} connections can be open", []).append(name)
        elif taking_part := [target for target in targets if target in scenario.targets]:
            chosen.append((scenario, taking_part))
    return chosen, [f"{why}: left out {', '.join(what)}" for why, what in left_out.items()]


def _run(
    scenario: Scenario, targets: Sequence[str], stage: Stage, options: argparse.Namespace
) -> Result:
    """Take turns: the targets all run at once, so that what disturbs the machine meets all."""
    seconds = options.seconds or scenario.seconds
    size = Size(_count(scenario, options), seconds, stage.directory)
    result = Result(scenario.name, scenario.about.format(n=f"{size.n:,}", seconds=size.seconds))
    with contextlib.ExitStack() as stack:
        turns: dict[str, Turn] = {}
        for target in targets:
            with _failures_to(result, target), time_limit(PREPARE_SECONDS):
                running = stack.enter_context(TARGETS[target](stage))
                turns[target] = stack.enter_context(scenario.prepare(running, size))
                result.turns[target] = []
        for i in range(1 if scenario.once else 1 + options.reps * scenario.turns):
            order = [target for target in targets if target not in result.failed]
            first = i % max(1, len(order))
            for target in order[first:] + order[:first]:
                with _failures_to(result, target), time_limit(TURN_SECONDS + size.seconds):
                    figures = turns[target]()
                    if i or scenario.once:  # otherwise the first one warms up
                        result.turns[target].append(figures)
    return result


@contextlib.contextmanager
def _failures_to(result: Result, target: str) -> Iterator[None]:
    try:
        yield
    except (Failure, OSError, subprocess.SubprocessError) as error:
        result.failed[target] = str(error)


def _count(scenario: Scenario, options: argparse.Namespace) -> int:
    return int(options.n or scenario.n)


def _start_backend(directory: Path) -> Tree:
    return Tree(
        [sys.executable, "-m", "benchmarks.backend"],
        directory / "backend.log",
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        piped=True,
    )


def _heading() -> str:
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    return (
        f"Measured on {datetime.date.today()} with `{command}` on {machine.described()};\n"
        f"{', '.join(machine.versions())}.\n"
        "The figures are medians. In parentheses: how many times better gripproxy is."
    )


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Only once: ending the processes must not be interrupted in turn.
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure gripproxy, side by side with what else is installed.",
        epilog="scenarios:\n"
        + "\n".join(
            f"  {name:15}{scenario.about.format(n=f'{scenario.n:,}', seconds=scenario.seconds)}"
            for name, scenario in SCENARIOS.items()
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", type=_one_of(SCENARIOS), help="default: all"
    )
    parser.add_argument(
        "--targets",
        type=_some_of(TARGETS),
        default=list(TARGETS),
        help=f"a comma list of {', '.join(TARGETS)} (default: all)",
    )
    parser.add_argument("--reps", type=_between(1, 100), default=3, help="repetitions (default 3)")
    parser.add_argument(
        "--n",
        type=_between(1, 1_000_000),
        help="connections, or messages to one of them (default: the scenario's own)",
    )
    parser.add_argument(
        "--seconds",
        type=_between(1, 300),
        help="how long a turn of requests, echoes or hold-ws lasts (default: the scenario's own)",
    )
    parser.add_argument(
        "--log-level", default="1", help="gripproxy's log_level (default 1, as for the others)"
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="print one table for docs/performance.md, all else to standard error",
    )
    return parser


def _one_of(known: Container[str]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"there is no {text!r}")
        return text

    return convert


def _some_of(known: Container[str]) -> Callable[[str], list[str]]:
    convert = _one_of(known)
    return lambda text: [convert(name) for name in text.split(",")]


def _between(lowest: int, highest: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is not between {lowest} and {highest}")
        return int(text)

    return convert


if __name__ == "__main__":
    sys.exit(main())
