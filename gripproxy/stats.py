"""Counters. The hot paths only add to ints; whoever shows them reads here."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stats:
    """What happened since the start."""

    drops: Counter[str] = field(default_factory=Counter)  # messages or connections lost, by reason
