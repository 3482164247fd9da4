"""Counters. The hot paths only add to ints; whoever shows them reads here."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stats:
    """What happened since the start."""

    requests: int = 0
    published: int = 0
    drops: Counter[str] = field(default_factory=Counter)  # messages or connections lost, by reason
