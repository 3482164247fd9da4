"""The figures of a run as text: tables, how they compare, and what was wrong."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

OURS = "gripproxy"


class Figure(NamedTuple):
    """What a figure means: its name for readers, which way is better, what it must be."""

    label: str
    better: str = ""  # "lower" or "higher" where it can be compared
    must_be: float | None = None


FIGURES = {
    "cpu_us_each": Figure("CPU each (µs)", "lower"),
    "cpu_us_per_delivery": Figure("CPU per delivery (µs)", "lower"),
    "kib_per_connection": Figure("memory per connection (KiB)", "lower"),
    "idle_mib": Figure("memory when idle (MiB)", "lower"),
    "per_s": Figure("per second", "higher"),
    "p50_ms": Figure("median latency (ms)", "lower"),
    "p99_ms": Figure("99th percentile of latency (ms)", "lower"),
    "last_ms": Figure("latency of the last one (ms)", "lower"),
    "last_p50_ms": Figure("until the last client has it, median (ms)", "lower"),
    "last_p99_ms": Figure("the same, 99th percentile (ms)", "lower"),
    "last_max_ms": Figure("the same, at most (ms)", "lower"),
    "delivered_pct": Figure("delivered (%)", must_be=100),
    "bad": Figure("wrong or missing answers", must_be=0),
    "lost": Figure("connections refused or closed", must_be=0),
}


@dataclass(slots=True)
class Result:
    """What a scenario gave: for each target the figures of each of its turns."""

    scenario: str
    about: str
    turns: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # why there are no more turns

    def medians(self) -> dict[str, dict[str, float]]:
        """For each target that has any turns, the median of each figure."""
        return {
            target: {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
            for target, turns in self.turns.items()
            if turns
        }


def table(result: Result) -> str:
    """The medians for a terminal: a line for each target."""
    medians = result.medians()
    names = list(next(iter(medians.values()), {}))
    rows = [["", *names]] + [
        [target, *(number(figures[name]) for name in names)] for target, figures in medians.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    title = f"{result.scenario}: {result.about}"
    failed = [f"{target}: {why}" for target, why in result.failed.items()]
    return "\n".join(line.rstrip() for line in (title, *(lines if medians else []), *failed))


def markdown(results: Sequence[Result]) -> str:
    """The medians of all scenarios as one table.

    What can be compared is followed by the ratio of the RATIO line.
    """
    medians = {result.scenario: result.medians() for result in results}
    targets = list(dict.fromkeys(target for found in medians.values() for target in found))
    lines = [_row(["", "", *targets]), _row(["---", "---"] + ["---:"] * len(targets))]
    for result in results:
        found = medians[result.scenario]
        title = f"**{result.scenario}**: {result.about}"
        for name in next(iter(found.values()), {}):
            cells = [_cell(name, target, found) for target in targets]
            lines.append(_row([title, FIGURES[name].label, *cells]))
            title = ""
    return "\n".join(lines)


def ratios(result: Result) -> Iterator[str]:
    """A line for each figure of another target that compares: above 1, gripproxy is ahead."""
    medians = result.medians()
    for target, figures in medians.items():
        for name in figures if target != OURS else ():
            if (value := ratio(name, target, medians)) is not None:
                yield f"RATIO {result.scenario} {name} {target}/{OURS} {value:.2f}"


def faults(result: Result) -> Iterator[str]:
    """A line for everything that gripproxy did wrong in any turn."""
    if OURS in result.failed:
        yield f"FAULT {result.scenario} {OURS} {result.failed[OURS]}"
    turns = result.turns.get(OURS) or [{}]
    for name in turns[0]:
        must_be = FIGURES[name].must_be
        if must_be is not None:
            worst = max((turn[name] for turn in turns), key=lambda v: abs(v - must_be))
            if worst != must_be:
                yield (
                    f"FAULT {result.scenario} {OURS} {name} is {worst:.6g}, should be {must_be:g}"
                )


def ratio(name: str, target: str, medians: dict[str, dict[str, float]]) -> float | None:
    """How many times better gripproxy is than `target`, or None where that means nothing."""
    ours, theirs = medians.get(OURS, {}).get(name), medians[target].get(name)
    if not ours or not theirs or not FIGURES[name].better:
        return None
    return theirs / ours if FIGURES[name].better == "lower" else ours / theirs


def number(value: float) -> str:
    """A value to three digits, or to the unit when that is more."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 if abs(value) < 10 else 1}f}"


def _cell(name: str, target: str, medians: dict[str, dict[str, float]]) -> str:
    if name not in medians.get(target, {}):
        return ""
    text = number(medians[target][name])
    value = ratio(name, target, medians) if target != OURS else None
    return (
        text
        if value is None
        else f"{text} ({value:.1f})"
        if value >= 1
        else f"{text} ({value:.2f})"
    )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
