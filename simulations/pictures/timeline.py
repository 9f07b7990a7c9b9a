"""One run as one picture: lanes and messages above, how far the nodes are apart below, a legend at the foot.

This module lays the parts out; what they show is worked out in `history`, how marks look is in
`marks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter

from simulations.pictures import marks as marks
from simulations.pictures.history import History, read_history, zoomed
from simulations.pictures.lanes import draw_lanes
from simulations.pictures.legend import LEGEND_ROW, choose_legend, draw_legend
from simulations.pictures.marks import Board
from simulations.pictures.panels import draw_panels
from simulations.pictures.plan import plan_lanes
from simulations.pictures.style import (
    ALARM,
    EDGE,
    QUIET,
    SMALL_PT,
    TEXT_PT,
    TITLE_PT,
    WIDTH,
    add_axes,
    drawing,
    new_figure,
    text_width,
    wrap,
    write_files,
    write_text,
)
from simulations.pictures.time import TimeAxis, round_for, time_axis
from simulations.trace import Record

_RIGHT: Final = 0.3
_PANEL: Final = 0.55
_PANEL_STEP: Final = 0.90
_VIOLATIONS_TOLD: Final = 4


def timeline(
    records: Sequence[Record],
    title: str,
    file: Path,
    round_s: float | None = None,
    *,
    order: Sequence[str] = (),
    facts: Sequence[str] = (),
    part_us: tuple[int, int] | None = None,
) -> list[Path]:
    """The picture of one run, as PNG and SVG.

    `round_s` is how long a bin of sent bytes is; a fitting one if not given.  Nodes stand in that `order`.
    `facts` are more lines below the title.  `part_us` is the part of the run that is drawn.
    """
    from_us, facts = 0, list(facts)
    if part_us is not None and records:
        from_us, until_us = part_us[0], min(part_us[1], records[-1].at_us)
        if from_us >= until_us:
            raise ValueError(
                f"there is nothing between {from_us / 1e6:g} s and {until_us / 1e6:g} s of the run"
            )
        whole = f"of {records[-1].at_us / 1e6:.4g} s"
        facts.insert(0, f"A part: from {from_us / 1e6:.6g} s to {until_us / 1e6:.6g} s {whole}")
        records = zoomed(records, from_us, until_us)
    history = read_history(records, order)
    axis = time_axis(history.end_us, from_us)
    round_us = round(round_s * 1_000_000) if round_s else round_for(history.end_us)
    with drawing():
        names = max((text_width(lane.name, TEXT_PT) for lane in history.lanes), default=0.0)
        left = max(0.85, min(names, 1.5) + 0.3)
        width = WIDTH - left - _RIGHT
        us_per_inch = axis.end_us / width
        plan = plan_lanes(history, us_per_inch, width)
        legend = choose_legend(history, plan)

        heading = _Heading(
            title, [_say_facts(history, axis), *facts, *plan.said], _say_violations(history, axis)
        )
        lanes_top = heading.height + 0.1
        panels_top = lanes_top + plan.height + 0.3
        legend_top = panels_top + 3 * _PANEL_STEP + 0.3
        figure = new_figure(legend_top + LEGEND_ROW * max(map(len, legend)) + EDGE)
        heading.write(figure)
        axes = add_axes(figure, left, lanes_top, width, plan.height)
        panels = [
            add_axes(figure, left, panels_top + number * _PANEL_STEP, width, _PANEL) for number in range(3)
        ]
        for each in (axes, *panels):
            each.set_xlim(0, axis.end_us / axis.unit_us)
            each.xaxis.set_major_locator(FixedLocator(axis.ticks(from_us)))
            each.xaxis.set_major_formatter(
                FuncFormatter(lambda place, _: axis.tick(place + from_us / axis.unit_us))
            )
            each.tick_params(axis="x", labelbottom=each is panels[-1], length=3 if each is panels[-1] else 0)
        axes.set_ylim(plan.height, 0)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        panels[-1].set_xlabel(axis.label)

        draw_lanes(Board(axes, axis.unit_us, us_per_inch), history, plan)
        draw_panels(panels, history, round_us, axis.unit_us)
        _draw_rules([axes, *panels], history, axis.unit_us)
        draw_legend(figure, legend, legend_top)
        return write_files(figure, file)


class _Heading:
    """Title, facts and broken promises, in lines that fit the width."""

    def __init__(self, title: str, facts: list[str], broken: list[str]) -> None:
        width = WIDTH - 2 * EDGE
        self._title = wrap(title, width, TITLE_PT, 2, bold=True)
        self._facts = [line for fact in facts for line in wrap(fact, width, SMALL_PT, 2)]
        self._broken = [line for each in broken for line in wrap(each, width - 0.3, TEXT_PT, 3)]
        self._facts_top = EDGE + 0.24 * len(self._title) + 0.02
        self._broken_top = self._facts_top + 0.17 * len(self._facts) + 0.1
        self._broken_height = 0.19 * len(self._broken) + 0.12 if self._broken else 0.0
        self.height = self._broken_top + self._broken_height

    def write(self, figure: Figure) -> None:
        for number, line in enumerate(self._title):
            write_text(figure, EDGE, EDGE + 0.24 * number, line, TITLE_PT, weight="bold")
        for number, line in enumerate(self._facts):
            write_text(figure, EDGE, self._facts_top + 0.17 * number, line, SMALL_PT, color=QUIET)
        if self._broken:
            axes = add_axes(figure, EDGE, self._broken_top, WIDTH - 2 * EDGE, self._broken_height)
            axes.set_axis_off()
            axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, fc="#fdeaee", ec=ALARM, lw=2))
        for number, line in enumerate(self._broken):
            top = self._broken_top + 0.07 + 0.19 * number
            weight = "normal" if number else "bold"
            write_text(figure, EDGE + 0.12, top, line, TEXT_PT, color=ALARM, weight=weight)


def _say_facts(history: History, axis: TimeAxis) -> str:
    never = sum(not message.arrivals_us for message in history.messages)
    damaged = sum(message.is_damaged for message in history.messages)
    said = [f"{len(history.lanes)} node{'' if len(history.lanes) == 1 else 's'}", axis.say(history.end_us, 3)]
    said.append(f"{len(history.messages):,} messages")
    refused = sum(not message.arrivals_us and message.is_refused for message in history.messages)
    if never:
        said.append(f"{never:,} of them never arrived" + (f" ({refused:,} refused)" if refused else ""))
    if damaged:
        said.append(f"{damaged:,} damaged")
    return ", ".join(said)


def _say_violations(history: History, axis: TimeAxis) -> list[str]:
    if not history.violations:
        return []
    said = ["BROKEN PROMISE" if len(history.violations) == 1 else "BROKEN PROMISES"]
    for number, note in enumerate(history.violations[:_VIOLATIONS_TOLD], 1):
        where = f", {note.node}" if note.node else ""
        seen = f": {note.text}" if note.text else ""
        said.append(f"{number}: at {axis.say(note.at_us, 4)}{where}: {note.name}{seen}")
    if len(history.violations) > _VIOLATIONS_TOLD:
        said.append(f"and {len(history.violations) - _VIOLATIONS_TOLD} more")
    return said


def _draw_rules(all_axes: list[Axes], history: History, unit_us: int) -> None:
    """Where the faults stop, and where a promise broke."""
    for note in history.violations[:50]:
        for axes in all_axes:
            marks.draw_rule(axes, note.at_us / unit_us, ALARM)
    if history.calm_us is None:
        return
    for axes in all_axes:
        marks.draw_rule(axes, history.calm_us / unit_us, marks.CALM, "--")
        if history.has_equal_rule:
            assert history.equal_us is not None
            marks.draw_rule(axes, history.equal_us / unit_us, marks.CALM, ":")
    # The words stand right of the line unless the edge, or the line of a broken promise, is in their way.
    taken_us = 0.15 * history.end_us
    ends_us = [history.end_us, *(note.at_us for note in history.violations)]
    is_left = any(0 <= end_us - history.calm_us < taken_us for end_us in ends_us)
    all_axes[0].annotate(
        "faults stop here"
        if history.has_equal_rule or history.equal_us is None
        else "faults stop, all equal",
        (history.calm_us / unit_us, 0.09),
        (-5 if is_left else 5, 0),
        textcoords="offset points",
        ha="right" if is_left else "left",
        va="center_baseline",
        size=SMALL_PT,
        color=marks.CALM,
        weight="bold",
        zorder=marks.Z_TEXT,
    )
