"""A figure: what was measured, what it is compared to in the same run, what it should be."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table

_WIDTH = 150  # of the report where it is not read in a terminal


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the report.  `target` is what the design asks for, empty where it asks nothing.

    `values` are the bare numbers, each named with its unit last, for `--json`.
    """

    what: str
    measured: str
    compared: str
    target: str = ""
    met: bool | None = None
    values: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sample:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Sample:
        return cls(tuple(sorted(values)))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def percentile(self, share: float) -> float:
        return self.values[min(len(self.values) - 1, int(len(self.values) * share))]

    def shown(self, unit: str, scale: float = 1.0, digits: int = 1) -> str:
        """The median, and from where to where the measurements went."""
        low, high = self.values[0] * scale, self.values[-1] * scale
        spread = f" ({low:,.{digits}f} to {high:,.{digits}f})" if len(self.values) > 1 else ""
        return f"{self.median * scale:,.{digits}f} {unit}{spread}"


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def sample(work: Callable[[], object], times: int) -> Sample:
    """How many seconds `work` takes, measured so many times."""
    return Sample.of(seconds(work) for _ in range(times))


def show(title: str, figures: Iterable[Figure]) -> None:
    """Print the report."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_lines=True)
    for column, share in (("figure", 4), ("measured", 5), ("compared to, in the same run", 6), ("target", 4)):
        table.add_column(column, ratio=share, overflow="fold")
    table.add_column("met")
    for figure in figures:
        met = {True: "yes", False: "NO", None: ""}[figure.met]
        table.add_row(figure.what, figure.measured, figure.compared, figure.target, met)
    console.print(table)
