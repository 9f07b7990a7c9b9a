"""What a sweep is: points, a measurement at each of them, and a picture of the rows that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Point = Any
"""Plain data that pickles: what one worker measures at a time."""

Row = dict[str, Any]
"""Plain data: one line of the table."""


@dataclass(frozen=True)
class Sweep:
    """One quantity against one condition."""

    what: str
    """A title."""
    points: Callable[[bool], Iterable[Point]]
    """Where to measure; if asked to be quick, at few and small points."""
    measure: Callable[[Any], list[Row]]
    """The rows of a point.  They depend on nothing else."""
    draw: Callable[[Sequence[Row], Path], list[Path]] | None = None
    """Draws the rows; the files that were written.  Needs matplotlib."""
