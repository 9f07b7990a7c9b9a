"""How every picture looks, and how it is written: colours, type, text that fits, PNG and SVG.

All sizes are in inches and points of a figure ten inches wide, which a page shows about 1000 pixels wide.
Nothing is drawn here that has a meaning, and matplotlib's global state stays as it was.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

WIDTH: Final = 10.0
"""Of every figure."""

EDGE: Final = 0.15
"""Nothing is drawn nearer to the edge of a figure."""

INK: Final = "#222222"
QUIET: Final = "#666666"
ALARM: Final = "#cc0033"
"""Kept for what must not be missed: damage and broken promises."""

SERIES: Final = ("#4477aa", "#cc7722", "#228866", "#882255", "#77bfe0", "#998866")
"""Told apart in the common kinds of colour blindness (after Paul Tol); each has its own marker as well."""

MARKERS: Final = ("o", "s", "^", "D", "v", "P")

TITLE_PT: Final = 12.5
TEXT_PT: Final = 9.5
SMALL_PT: Final = 8.5
BAND_PT: Final = 8.0
BAND_EDGE: Final = 0.06
"""The words in blocks and bands, and the room that they leave at both ends together."""

_FONT: Final = "DejaVu Sans"  # It comes with matplotlib, so every machine draws the same.

_STYLE: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": TEXT_PT,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.family": [_FONT],
    "font.size": TEXT_PT,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "crdtmail",
    "text.color": INK,
    "text.parse_math": False,  # $Junk and $MDNSent are keywords, no formulas.
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "xtick.labelsize": SMALL_PT,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
    "ytick.labelsize": SMALL_PT,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Our style and nothing of the user's own, for as long as a picture is made and written."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the upper left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def write_text(figure: Figure, left: float, top: float, text: str, size: float, **how: Any) -> None:
    """Text whose upper left corner is at a place in inches from the upper left corner of the figure."""
    across, down = figure.get_size_inches()
    figure.text(left / across, 1 - top / down, text, size=size, va="top", **how)


def write_files(figure: Figure, file: Path) -> list[Path]:
    """`file` as PNG and as SVG.  The same figure gives the same bytes: no date and no version is written."""
    stem = file.with_suffix("") if file.suffix in (".png", ".svg") else file
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".svg")
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return [png, svg]


# Text that fits ------------------------------------------------------------------------------------------


@lru_cache(maxsize=10_000)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """In inches."""
    font = FontProperties(family=_FONT, weight="bold" if bold else "normal", size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return width / 72


def first_that_fits(candidates: Sequence[str], width: float, size: float) -> str:
    """The first text that is at most so wide, or none."""
    return next((text for text in candidates if text_width(text, size) <= width), "")


def shorten(text: str, width: float, size: float, bold: bool = False) -> str:
    """As much of the text as fits."""
    if text_width(text, size, bold) <= width:
        return text
    lengths = range(1, len(text) + 1)
    fits = bisect_left(lengths, True, key=lambda length: text_width(text[:length] + "…", size, bold) > width)
    return text[:fits].rstrip() + "…"


def wrap(text: str, width: float, size: float, lines: int, bold: bool = False) -> list[str]:
    """The text in at most so many lines; what is longer ends in an ellipsis."""
    wrapped: list[str] = []
    words = text.split()
    while words:
        taken = 1
        while taken < len(words) and text_width(" ".join(words[: taken + 1]), size, bold) <= width:
            taken += 1
        if len(wrapped) == lines - 1:
            taken = len(words)
        wrapped.append(shorten(" ".join(words[:taken]), width, size, bold))
        words = words[taken:]
    return wrapped


class Placed(NamedTuple):
    """A label that found room: its row, where it starts in inches, and as much of it as fits."""

    row: int
    left: float
    text: str


def place_labels(
    wanted: Sequence[tuple[float, Sequence[str]]],
    width: float,
    size: float,
    rows: int,
    taken: Sequence[tuple[float, float]] = (),
) -> list[Placed | None]:
    """Labels next to their places on a strip, none over another, over the edge, or over what is `taken`.

    Who comes first is served first.  Each comes with its wordings, the longest first, and stands right of its
    place, or left of it if it hides fewer of the others' places there.  What finds no room is None.
    """
    spans: list[list[tuple[float, float]]] = [list(taken) for _ in range(rows)]
    places = [at for at, _ in wanted]
    placed: list[Placed | None] = []

    for at, wordings in wanted:
        found: Placed | None = None
        for text in wordings:
            long = text_width(text, size)
            ways = (
                (sum(left < place < left + long for place in places), left)
                for left in (at + 0.07, at - 0.07 - long)
            )
            sides = [left for _, left in sorted(ways, key=lambda way: way[0])]
            for row, there in enumerate(spans):
                for left in sides:
                    begin, end = min(left, at), max(left + long, at)
                    is_free = all(end + 0.1 <= one or other + 0.1 <= begin for one, other in there)
                    if found is None and is_free and begin >= 0.07 and end <= width:
                        found = Placed(row, left, text)
                        there.append((begin, end))
        placed.append(found)
    return placed


def say_bytes(count: float) -> str:
    """`950 B`, `1.5 kB`, `20 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def say_number(count: float) -> str:
    """With commas between thousands, and without a needless point."""
    return f"{count:,.0f}" if count == int(count) else f"{count:,g}"
