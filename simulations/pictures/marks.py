"""The marks of a timeline: how a tick, an arrow, a block and a flag look.

Lanes and legend draw with the same functions, so the legend cannot show a mark that the lanes do not have.
Places are microseconds across and inches down; what is to be drawn is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import hypot
from typing import Final, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Outline

from simulations.pictures.style import ALARM, BAND_EDGE, BAND_PT, INK, QUIET, SMALL_PT, first_that_fits

PUSH: Final = "#4477aa"
EXCHANGE: Final = "#227755"
ANSWER: Final = "#77bfe0"
OTHER: Final = "#222222"
NEVER_ARRIVED: Final = "#999999"
REFUSED: Final = "#cc6677"
FAILOVER: Final = "#332288"
SYNC: Final = "#555555"
WRITE: Final = "#aa4499"
DOWN: Final = "#777777"
PAUSED: Final = "#7788aa"
CUT_FROM_SOME: Final = "#f7ddb4"
CUT_FROM_ALL: Final = "#efb562"
CALM: Final = "#117733"
FAULT: Final = "#995500"
IDLE: Final = "#888888"

MESSAGE_COLOURS: Final = {"push": PUSH, "exchange": EXCHANGE, "answer": ANSWER}

# What lies over what.
Z_BAND, Z_ARROW, Z_LINE, Z_TICK, Z_BLOCK, Z_RULE, Z_FLAG, Z_TEXT = range(2, 10)


_TICKS_APART: Final = 0.02


class Board(NamedTuple):
    """Axes whose x is time in some unit and whose y is inches, downward."""

    axes: Axes
    unit_us: float
    us_per_inch: float

    def x(self, at_us: float) -> float:
        return at_us / self.unit_us

    def inches(self, at_us: float) -> float:
        return at_us / self.us_per_inch

    def x_of_inches(self, inches: float) -> float:
        return inches * self.us_per_inch / self.unit_us


class Flight(NamedTuple):
    """An arrow, from a time and a height to a time and a height.

    `middle` is the part of the way after which a mark on it lies between two lanes: on the lane of a third
    node it would look like that node's doing.
    """

    start_us: float
    start_y: float
    end_us: float
    end_y: float
    middle: float

    @property
    def middle_us(self) -> float:
        return self.start_us + (self.end_us - self.start_us) * self.middle

    @property
    def middle_y(self) -> float:
        return self.start_y + (self.end_y - self.start_y) * self.middle


def draw_ticks(board: Board, ats_us: Iterable[float], y: float, reach: float, colour: str, dot: bool) -> None:
    """Short strokes from `y` to `y + reach`, those for answers with a dot at the end.

    Of ticks nearer to each other than an eye tells apart, one is drawn.
    """
    places = sorted({round(board.inches(at_us) / _TICKS_APART) * _TICKS_APART for at_us in ats_us})
    if not places:
        return
    xs = [board.x_of_inches(place) for place in places]
    _draw_strokes(board, [(x, y, x, y + reach) for x in xs], colour, 1.0, Z_TICK)
    if dot:
        ends = [y + reach] * len(xs)
        board.axes.plot(xs, ends, "o", color=colour, ms=3.2, mew=0, zorder=Z_TICK, clip_on=False)


def draw_flights(
    board: Board, flights: Sequence[Flight], colour: str, head: float, width: float = 0.8
) -> None:
    """Arrows with heads of that length."""
    strokes: list[tuple[float, float, float, float]] = []
    heads: list[tuple[float, float]] = []
    for flight in flights:
        across = board.inches(flight.end_us - flight.start_us)
        down = flight.end_y - flight.start_y
        length = hypot(across, down) or 1.0
        back_across, back_down = across / length * head, down / length * head
        end = board.inches(flight.end_us)
        neck_x, neck_y = end - back_across, flight.end_y - back_down
        strokes.append((board.x(flight.start_us), flight.start_y, board.x_of_inches(neck_x), neck_y))
        heads += [
            (board.x(flight.end_us), flight.end_y),
            (board.x_of_inches(neck_x - back_down * 0.35), neck_y + back_across * 0.35),
            (board.x_of_inches(neck_x + back_down * 0.35), neck_y - back_across * 0.35),
            (board.x(flight.end_us), flight.end_y),
        ]
    _draw_strokes(board, strokes, colour, width, Z_ARROW)
    if heads:
        codes = [Outline.MOVETO, Outline.LINETO, Outline.LINETO, Outline.CLOSEPOLY] * len(flights)
        board.axes.add_patch(PathPatch(Outline(heads, codes), fc=colour, ec="none", zorder=Z_ARROW))


def draw_damaged(board: Board, flights: Sequence[Flight], head: float) -> None:
    """Red, and with a star half way, since red and green are one colour to some."""
    draw_flights(board, flights, ALARM, head, 1.1)
    xs, ys = [board.x(flight.middle_us) for flight in flights], [flight.middle_y for flight in flights]
    board.axes.plot(xs, ys, "*", color=ALARM, ms=7, mew=0, zorder=Z_ARROW)


def draw_half_flights(
    board: Board, flights: Sequence[Flight], cross: float, colour: str = NEVER_ARRIVED
) -> None:
    """Messages that got lost on the way: a line that ends before its end in a cross."""
    strokes = [(board.x(f.start_us), f.start_y, board.x(f.middle_us), f.middle_y) for f in flights]
    _draw_strokes(board, strokes, colour, 0.7, Z_ARROW)
    xs, ys = [stroke[2] for stroke in strokes], [stroke[3] for stroke in strokes]
    board.axes.plot(xs, ys, "x", color=colour, ms=cross, mew=0.9, zorder=Z_ARROW)


def _draw_strokes(
    board: Board, strokes: Sequence[tuple[float, float, float, float]], colour: str, width: float, z: int
) -> None:
    """All in one path: thousands of lines would be thousands of elements in the SVG."""
    if strokes:
        places = [place for x0, y0, x1, y1 in strokes for place in ((x0, y0), (x1, y1))]
        outline = Outline(places, [Outline.MOVETO, Outline.LINETO] * len(strokes))
        board.axes.add_patch(PathPatch(outline, fc="none", ec=colour, lw=width, zorder=z))


def draw_running(board: Board, start_us: float, end_us: float, y: float, is_strong: bool) -> None:
    colour, width = (INK, 1.4) if is_strong else (QUIET, 0.5)
    board.axes.plot([board.x(start_us), board.x(end_us)], [y, y], color=colour, lw=width, zorder=Z_LINE)


def draw_down(board: Board, start_us: float, end_us: float, y: float, half: float) -> None:
    _draw_box(board, start_us, end_us, y - half, y + half, Z_BLOCK, fc=DOWN, ec="none")


def draw_paused(board: Board, start_us: float, end_us: float, y: float, half: float) -> None:
    look = {"fc": "white", "ec": PAUSED, "lw": 0.8, "hatch": "////"}
    _draw_box(board, start_us, end_us, y - half, y + half, Z_BLOCK, **look)


def draw_cut(board: Board, start_us: float, end_us: float, top: float, bottom: float, is_alone: bool) -> None:
    """The white rim keeps the two sides of a partition apart."""
    colour = CUT_FROM_ALL if is_alone else CUT_FROM_SOME
    _draw_box(board, start_us, end_us, top, bottom, Z_BAND, fc=colour, ec="white", lw=1.2)


def _draw_box(
    board: Board, start_us: float, end_us: float, top: float, bottom: float, z: int, **look: object
) -> None:
    # A crash of a second in a run of a month is still seen.
    width = max(board.x(end_us - start_us), board.x_of_inches(0.05))
    corner = (board.x(start_us), top)
    board.axes.add_patch(Rectangle(corner, width, bottom - top, zorder=z, **look))  # type: ignore[arg-type]


def write_in_box(
    board: Board, start_us: float, end_us: float, y: float, wordings: Sequence[str], colour: str, ground: str
) -> None:
    """The first wording that fits between the two ends, centred, or none."""
    text = first_that_fits(wordings, board.inches(end_us - start_us) - BAND_EDGE, BAND_PT)
    if text:
        write(board, (start_us + end_us) / 2, y, text, BAND_PT, colour, ground, "center")


def write(
    board: Board,
    at_us: float,
    y: float,
    text: str,
    size: float,
    colour: str,
    ground: str = "white",
    align: Literal["left", "center", "right"] = "left",
    weight: str = "normal",
) -> None:
    """Words on a ground that hides the arrows behind them."""
    board.axes.text(
        board.x(at_us),
        y,
        text,
        size=size,
        color=colour,
        weight=weight,
        ha=align,
        va="center_baseline",
        zorder=Z_TEXT,
        bbox={"facecolor": ground, "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
    )


def draw_fault(board: Board, at_us: float, y: float) -> None:
    """A small flag that points down to where it happens."""
    x, half = board.x(at_us), board.x_of_inches(0.04)
    corners = [(x - half, y - 0.045), (x + half, y - 0.045), (x, y + 0.045)]
    board.axes.add_patch(Polygon(corners, fc=FAULT, ec="white", lw=0.4, zorder=Z_FLAG, clip_on=False))


def draw_failover(board: Board, at_us: float, y: float) -> None:
    """A client turns to this node."""
    place = [board.x(at_us)], [y]
    board.axes.plot(*place, "D", color=FAILOVER, ms=5, mec="white", mew=0.5, zorder=Z_FLAG, clip_on=False)


def draw_idle(board: Board, ats_us: Sequence[float], y: float, size: float = 5.0) -> None:
    """Nothing came of an event."""
    xs, ys = [board.x(at_us) for at_us in ats_us], [y] * len(ats_us)
    board.axes.plot(xs, ys, "o", ms=size, mfc="white", mec=IDLE, mew=1.0, zorder=Z_FLAG, clip_on=False)


def draw_violation(board: Board, at_us: float, y: float, number: str) -> None:
    x = board.x(at_us)
    board.axes.plot([x], [y], "o", ms=13, mfc=ALARM, mec="white", mew=1.2, zorder=Z_FLAG, clip_on=False)
    board.axes.text(
        x,
        y,
        number,
        color="white",
        size=SMALL_PT,
        weight="bold",
        ha="center",
        va="center_baseline",
        zorder=Z_TEXT,
        clip_on=False,
    )


def draw_rule(axes: Axes, x: float, colour: str, style: str = "-") -> None:
    """A vertical line through all of these axes: something that concerns the whole run."""
    axes.axvline(x, color=colour, lw=1.3, ls=style, zorder=Z_RULE)
