"""A sheet of panels that show many runs: heading, legend, axes, and curves with the spread of the runs.

What the quantities mean is said by whoever fills the sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from simulations.pictures.style import (
    EDGE,
    MARKERS,
    QUIET,
    SERIES,
    SMALL_PT,
    TEXT_PT,
    TITLE_PT,
    WIDTH,
    add_axes,
    new_figure,
    say_number,
    text_width,
    wrap,
    write_text,
)

_LEFT: Final = 0.85
_GAP: Final = 0.25
_PANELS_IN_A_ROW: Final = 4


LEAST_FOR_A_SPREAD: Final = 5
"""Of fewer runs the dots say more than a band."""


class Look(NamedTuple):
    """How a series is drawn and what it is called."""

    label: str
    colour: str
    marker: str


def looks_for(labels: Sequence[str], is_ordered: bool) -> list[Look]:
    """Colours that follow one another for numbers, colours that stand apart for names."""
    count = len(labels)
    shades = [to_hex(colormaps["viridis"](0.78 * place / max(count - 1, 1))) for place in range(count)]
    return [
        Look(
            label,
            shades[number] if is_ordered and count > 1 else SERIES[number % len(SERIES)],
            MARKERS[number % len(MARKERS)],
        )
        for number, label in enumerate(labels)
    ]


class Spread(NamedTuple):
    low: float
    middle: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """The median, and the 10th and 90th percentile, between two values if they fall there."""
    ordered = sorted(values)

    def at(part: float) -> float:
        place = part * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return Spread(at(0.1), median(ordered), at(0.9))


class Sheet:
    """Panels beside each other, below a heading and a legend.  `shares_y`: one y axis is enough for all."""

    def __init__(
        self,
        title: str,
        said: Sequence[str],
        looks: Sequence[Look],
        panels: Sequence[str] = ("",),
        shares_y: bool = True,
        marks: Sequence[tuple[str, Line2D]] = (),
    ) -> None:
        width = WIDTH - 2 * EDGE
        heading = wrap(title, width, TITLE_PT, 2, bold=True)
        facts = [line for each in said for line in wrap(each, width, SMALL_PT, 3)]
        legends = [entries for entries in ([_entry(look) for look in looks], list(marks)) if entries]
        legends_top = EDGE + 0.24 * len(heading) + 0.17 * len(facts) + 0.12
        top = legends_top + sum(map(_legend_height, legends)) + (0.3 if any(panels) else 0.1)
        across = min(len(panels), _PANELS_IN_A_ROW)
        gap = _GAP if shares_y else _LEFT - 0.1
        wide = (WIDTH - _LEFT - 0.3 - gap * (across - 1)) / across
        high = 3.3 if len(panels) == 1 else 2.6

        self.figure = new_figure(top + -(-len(panels) // across) * (high + 0.85) - 0.25)
        for number, line in enumerate(heading):
            write_text(self.figure, EDGE, EDGE + 0.24 * number, line, TITLE_PT, weight="bold")
        for number, line in enumerate(facts):
            below = EDGE + 0.24 * len(heading) + 0.02 + 0.17 * number
            write_text(self.figure, EDGE, below, line, SMALL_PT, color=QUIET)
        for entries in legends:
            self._add_legend(entries, legends_top)
            legends_top += _legend_height(entries)
        self.panels: list[Axes] = []
        for number, name in enumerate(panels):
            row, column = divmod(number, across)
            place = (_LEFT + column * (wide + gap), top + row * (high + 0.85))
            axes = add_axes(self.figure, *place, wide, high)
            axes.set_title(name, loc="left", size=TEXT_PT, pad=5)
            axes.tick_params(axis="y", labelleft=column == 0 or not shares_y)
            self.panels.append(axes)
        self._first_column = self.panels[::across]

    def _add_legend(self, entries: Sequence[tuple[str, Line2D]], top: float) -> None:
        self.figure.legend(
            [handle for _, handle in entries],
            [label for label, _ in entries],
            loc="upper left",
            bbox_to_anchor=(EDGE / WIDTH, 1 - top / self.figure.get_figheight()),
            ncols=_columns(entries),
            fontsize=SMALL_PT,
            frameon=False,
            borderaxespad=0,
            borderpad=0,
            columnspacing=1.6,
            labelspacing=0.4,
        )

    def label_y(self, label: str, values: Sequence[float], least: float = 0.0) -> None:
        """One scale for all panels."""
        for axes in self.panels:
            is_log = scale_y(axes, values, least, 200)
            if axes in self._first_column:
                axes.set_ylabel(f"{label}, log scale" if is_log else label)


def _entry(look: Look) -> tuple[str, Line2D]:
    return look.label, Line2D([], [], color=look.colour, marker=look.marker, ms=5, lw=1.6)


def _columns(entries: Sequence[tuple[str, Line2D]]) -> int:
    """As many columns as fit, each as wide as the longest label and the sample before it."""
    widest = max(text_width(label, SMALL_PT) for label, _ in entries)
    return max(1, min(len(entries), int((WIDTH - 2 * EDGE) / (widest + 0.7))))


def _legend_height(entries: Sequence[tuple[str, Line2D]]) -> float:
    return 0.19 * -(-len(entries) // _columns(entries)) + 0.02


def scale_y(axes: Axes, values: Sequence[float], least: float, most_times: float) -> bool:
    """From `least`, or logarithmic where the largest value is so many times the smallest; which it is."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: say_number(value)))
    if not values:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no runs", transform=axes.transAxes, ha="center", va="center", color=QUIET)
        return False
    if min(values) > 0 and max(values) > most_times * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: say_number(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(min(values) / 1.4, max(values) * 1.4)
        return True
    room = max(0.06 * (max(values) - least), 0.02 * abs(max(values)))
    axes.set_ylim(least, max(values) + (room or 1))
    return False


def scale_x(
    axes: Axes, values: Iterable[float], label: str, say: Callable[[float], str], may_be_log: bool = True
) -> None:
    """Ticks at the values themselves where their names have room; logarithmic if the values multiply."""
    places = sorted(set(values))
    axes.set_xlabel(label)
    axes.xaxis.set_minor_locator(NullLocator())
    if not places:
        axes.xaxis.set_major_locator(NullLocator())
        return
    positive = [place for place in places if place > 0]
    if may_be_log and positive and positive[-1] > 6 * positive[0]:
        axes.set_xlabel(f"{label}, log scale")
        # Nought, which has no logarithm, stands as far left of the first value as a doubling would.
        axes.set_xscale("symlog", linthresh=positive[0], linscale=0.3)
        low = positive[0] / 1.2 if len(positive) == len(places) else -0.2 * positive[0]
        axes.set_xlim(low, positive[-1] * 1.2)
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        room = 0.06 * (places[-1] - places[0]) or 0.5 * places[0] or 1.0
        axes.set_xlim(places[0] - room, places[-1] + room)
    at = [axes.transData.transform((place, 0))[0] / axes.figure.dpi for place in places]
    names = [say(place) for place in places]
    kept = with_room(list(zip(at, (text_width(name, SMALL_PT) for name in names), strict=True)))
    axes.xaxis.set_major_locator(FixedLocator([places[number] for number in kept]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: say(value)))


def with_room(labels: Sequence[tuple[float, float]]) -> list[int]:
    """Which of the labels (middle and width) are written: the last, and from the first on those that fit."""
    kept: list[int] = []
    for number, (middle, width) in enumerate(labels):
        last, before = labels[-1], labels[kept[-1]] if kept else None
        clears_last = number == len(labels) - 1 or middle + width / 2 + 0.1 <= last[0] - last[1] / 2
        if clears_last and (before is None or before[0] + before[1] / 2 + 0.1 <= middle - width / 2):
            kept.append(number)
    return kept


def draw_curve(axes: Axes, points: Mapping[float, Sequence[float]], look: Look) -> None:
    """The values at each x: their median as a line, their spread as a band, each of them as a dot."""
    xs = sorted(points)
    spreads = [spread(points[x]) for x in xs]
    if min(map(len, points.values()), default=0) >= LEAST_FOR_A_SPREAD:
        lows, highs = [one.low for one in spreads], [one.high for one in spreads]
        axes.fill_between(xs, lows, highs, color=look.colour, alpha=0.16, lw=0)
    dots = [(x, value) for x in xs for value in points[x]]
    axes.plot(
        [x for x, _ in dots], [value for _, value in dots], "o", color=look.colour, ms=3, mew=0, alpha=0.3
    )
    middles = [one.middle for one in spreads]
    # Not clipped, so that a marker at nought is whole; the axes hold all values anyhow.
    axes.plot(
        xs, middles, color=look.colour, marker=look.marker, ms=5, lw=1.6, mec="white", mew=0.6, clip_on=False
    )
