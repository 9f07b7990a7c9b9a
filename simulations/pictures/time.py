"""How a run's length is told: the unit, the ticks of the axis, the bins of what is counted over time."""

from __future__ import annotations

from typing import Final, NamedTuple

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US

_UNITS: Final[list[tuple[int, int, str, tuple[float, ...]]]] = [
    # up to this long a run, this unit, its name, and the steps that a reader can count in
    (SECOND_US, 1000, "ms", (1, 2, 5, 10, 20, 50, 100)),
    (10 * MINUTE_US, SECOND_US, "s", (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60)),
    (3 * HOUR_US, MINUTE_US, "min", (0.5, 1, 2, 5, 10, 15, 30)),
    (4 * DAY_US, HOUR_US, "h", (0.5, 1, 2, 3, 6, 12)),
    (10**30, DAY_US, "days", (1, 2, 5, 7, 10, 14, 28, 50, 100, 200, 500, 1000)),
]

_ROUNDS_US: Final = [
    *(seconds * SECOND_US for seconds in (1, 2, 5, 10, 20, 30)),
    *(minutes * MINUTE_US for minutes in (1, 2, 5, 10, 20, 30)),
    *(hours * HOUR_US for hours in (1, 2, 4, 6, 12)),
]


class TimeAxis(NamedTuple):
    """The unit in which a run is told, a step that a reader can count in, and where the axis ends."""

    unit_us: int
    unit: str
    step: float
    end_us: int

    def say(self, at_us: int, digits: int) -> str:
        return f"{at_us / self.unit_us:.{digits}g} {self.unit}"

    def tick(self, place: float) -> str:
        """What stands at a tick: minutes with their seconds, all else as it is."""
        if self.unit == "min":
            seconds = round(place * 60)
            return f"{seconds // 60}:{seconds % 60:02}"
        return f"{place:,.6g}"

    @property
    def label(self) -> str:
        return f"simulated time ({'min:s' if self.unit == 'min' else self.unit})"

    def ticks(self, from_us: int) -> list[float]:
        """Where the ticks are if the axis shows a part of the run, from `from_us` on."""
        step_us = self.step * self.unit_us
        first = -from_us % step_us
        return [
            (first + n * step_us) / self.unit_us for n in range(int((self.end_us - first) // step_us) + 1)
        ]


def time_axis(end_us: int, from_us: int = 0) -> TimeAxis:
    """At most some twelve ticks; a run that ends a little before the next tick gets that tick.  A part of a
    run from `from_us` on is told in seconds at least."""
    if from_us and end_us <= SECOND_US:
        step = next((s for s in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05) if end_us / SECOND_US / s <= 13), 0.1)
        return TimeAxis(SECOND_US, "s", step, max(end_us, 1000))
    _, unit_us, unit, steps = next(row for row in _UNITS if end_us <= row[0])
    step = next((step for step in steps if end_us / unit_us / step <= 13), steps[-1])
    step_us = round(step * unit_us)
    last_us = -(-end_us // step_us) * step_us
    # Not a run without length: its axis needs two different ends.
    near = last_us - end_us <= end_us / 50
    return TimeAxis(unit_us, unit, step, max(last_us if near else end_us, 1000))


def say_duration(duration_us: int) -> str:
    """`45 s`, `2.5 min`, `25 days`."""
    for unit_us, unit in ((DAY_US, "days"), (HOUR_US, "h"), (MINUTE_US, "min"), (SECOND_US, "s")):
        if duration_us >= (2 * unit_us if unit == "days" else unit_us):
            return f"{duration_us / unit_us:.3g} {unit}"
    return f"{duration_us / 1000:.3g} ms"


def round_for(end_us: int) -> int:
    """How long a bin is, in microseconds, when nobody says: a second, or longer to stay below 240 bins."""
    if end_us < 10 * SECOND_US:
        return SECOND_US // 10
    return next((one for one in _ROUNDS_US if end_us / one <= 240), DAY_US * -(-end_us // (240 * DAY_US)))
