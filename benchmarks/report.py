"""A figure: what was measured, what it is compared to, what it should be."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report.  `target` is what the design asks for, empty where it asks nothing."""

    what: str
    measured: str
    compared: str
    target: str = ""
    met: bool | None = None

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    messages: int
    large: int
    mailboxes: int
    toggles: int
    requests: int
    samples: int


FULL = Sizes(
    messages=100_000, large=1_000_000, mailboxes=100_000, toggles=1_000_000, requests=6400, samples=300
)
QUICK = Sizes(messages=5_000, large=20_000, mailboxes=500, toggles=5_000, requests=640, samples=30)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_s(work: Callable[[], object], times: int = 3) -> float:
    return statistics.median(seconds(work) for _ in range(times))


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
