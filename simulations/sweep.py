"""The sweeps by name, and how one is run: point by point on an executor, rows in the order of the points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from statistics import median
from typing import Any

from simulations.sweeps import convergence, mailboxes, redundancy, renumberings, scaling, sizes
from simulations.sweeps.point import Point, Row, Sweep
from simulations.workers import first_done

SWEEPS: dict[str, Sweep] = {
    "convergence": convergence.SWEEP,
    "redundancy": redundancy.SWEEP,
    "renumberings": renumberings.SWEEP,
    "scaling": scaling.SWEEP,
    "sizes": sizes.SWEEP,
    "mailboxes": mailboxes.SWEEP,
}


def measure_point(name: str, point: Point) -> list[Row]:
    """The rows of one point, as a worker measures them."""
    return SWEEPS[name].measure(point)


def measure(
    executor: Executor, name: str, points: Sequence[Point], progress: Callable[[int], None] = lambda _: None
) -> list[Row]:
    """The rows of all points, in their order; `progress` is told how many points are done."""
    futures: dict[int, Future[list[Row]]] = {}
    try:
        # The last points are the largest: begun first, they are not what is left when all others are done.
        for place in reversed(range(len(points))):
            futures[place] = executor.submit(measure_point, name, points[place])
        running = set(futures.values())
        while running:
            for future in first_done(running):
                running.remove(future)
                future.result()
                progress(len(futures) - len(running))
        return [row for place in range(len(points)) for row in futures[place].result()]
    except Exception:  # not at a Ctrl-C: see `campaign`
        for future in futures.values():
            future.cancel()
        raise


def medians(rows: Sequence[Row]) -> list[Row]:
    """Of the runs with the same condition and different seeds; nothing where each has one run."""
    if not rows or "seed" not in rows[0]:
        return []
    place = list(rows[0]).index("seed")
    names = [name for name in rows[0] if name != "seed"]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if not row.get("is_model"):
            groups.setdefault(tuple(list(row.values())[:place]), []).append(row)
    if all(len(group) == 1 for group in groups.values()):
        return []
    return [
        {name: key[n] if n < place else _median([row[name] for row in group]) for n, name in enumerate(names)}
        | {"runs": len(group)}
        for key, group in groups.items()
    ]


def _median(values: list[Any]) -> Any:
    numbers = [value for value in values if isinstance(value, int | float)]
    return float(median(numbers)) if len(numbers) == len(values) else None


def expect_picture(name: str) -> None:
    """Raises ValueError if there is no picture of this sweep."""
    if SWEEPS[name].draw is None:
        raise ValueError(f"the sweep {name!r} is a table, there is no picture of it: leave --to out")


def draw(name: str, rows: Sequence[Row], file: Path) -> list[Path]:
    """Pictures of the rows; the files that were written.  Raises ValueError if they cannot be drawn."""
    expect_picture(name)
    sweep = SWEEPS[name]
    assert sweep.draw is not None
    try:
        return sweep.draw(rows, file)
    except ImportError as error:
        raise ValueError("pictures need matplotlib: pip install -e '.[pictures]'") from error
