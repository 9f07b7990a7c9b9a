"""What many runs say together: each picture shows one quantity against one condition.

A row is one run, a dict of plain data.  Every run is drawn, faint; lines and bands sum them up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from simulations.pictures.sheet import (
    LEAST_FOR_A_SPREAD,
    Look,
    Sheet,
    draw_curve,
    looks_for,
    scale_x,
    scale_y,
    spread,
)
from simulations.pictures.style import INK, QUIET, SMALL_PT, drawing, say_bytes, say_number, write_files
from simulations.pictures.time import say_duration

Row = Mapping[str, Any]

_SUMMARY: Final = "Line: median of the runs; band: from the 10th to the 90th percentile; dots: single runs."

_CONVERGENCE: Final = "Time from the last write until all nodes hold the same mailboxes."

_TOPOLOGIES: Final = {
    "mesh": "mesh: all with all",
    "ring": "ring: two neighbours each",
    "star": "star: all through one",
    "chain": "chain: in a row",
}
"""What the words mean, in the order in which they are shown; others follow."""

_NAMES: Final[dict[str, Callable[[Any], str]]] = {
    "topology": lambda name: _say_topology(name),
    "nodes": lambda count: f"{count:,} nodes",
    "masters": lambda count: f"{count} masters" if count != 1 else "1 master",
    "loss": lambda part: f"{100 * part:g} % of messages lost" if part else "no message lost",
}
"""What a value is called in a legend or above a panel."""

_ORIGINS: Final[list[tuple[str, dict[str, Any]]]] = [
    ("solid: measured in simulated runs", {"ms": 5, "lw": 1.6, "mec": "white", "mew": 0.6}),
    ("dashed and hollow: computed from a model", {"ms": 5, "lw": 1.2, "ls": "--", "mfc": "white"}),
]


def runs_a_point(rows: Sequence[Row]) -> str:
    """`5 runs a point`, or from the fewest to the most."""
    point = [
        name for name in ("topology", "nodes", "loss", "partition_s", "masters") if rows and name in rows[0]
    ]
    many = Counter(tuple(row[name] for name in point) for row in rows).values()
    least, most = min(many, default=0), max(many, default=0)
    often = f"{least}" if least == most else f"{least} to {most}"
    return f"{often} run{'' if most == 1 else 's'} a point."


def _said(what: str, rows: Sequence[Row]) -> list[str]:
    return [what, f"{_SUMMARY} {runs_a_point(rows)}"]


def convergence_against_loss(rows: Sequence[Row], file: Path) -> list[Path]:
    """Rows with `loss` (0 to 1), `nodes`, `topology`, and `seconds` from the last write to equality."""
    title = "How message loss delays the moment when all nodes are equal"
    with drawing():
        sheet = _sheet_of_curves(
            title, _said(_CONVERGENCE, rows), rows, ("topology", "nodes"), _loss_percent, "seconds"
        )
        for axes in sheet.panels:
            scale_x(axes, map(_loss_percent, rows), "messages lost (%)", say_number, may_be_log=False)
        sheet.label_y("time until all are equal (s)", [row["seconds"] for row in rows])
        return write_files(sheet.figure, file)


def convergence_against_nodes(rows: Sequence[Row], file: Path) -> list[Path]:
    """The same rows against the number of nodes."""
    title = "How the time until all nodes are equal grows with their number"
    with drawing():
        sheet = _sheet_of_curves(
            title, _said(_CONVERGENCE, rows), rows, ("loss", "topology"), _node_count, "seconds"
        )
        for axes in sheet.panels:
            scale_x(axes, map(_node_count, rows), "nodes", say_number)
        sheet.label_y("time until all are equal (s)", [row["seconds"] for row in rows])
        return write_files(sheet.figure, file)


def renumberings_against_partition(rows: Sequence[Row], file: Path) -> list[Path]:
    """Rows with `partition_s`, `masters` and `renumberings`: how many new UIDs a message got."""
    title = "How many new UIDs a message gets after a partition, by its length"
    what = (
        "A UID that comes in below what readers have seen cannot be shown and is replaced. "
        "Here every master has a reader who looks at everything at once."
    )
    said = _said(what, rows)
    with drawing():
        sheet = _sheet_of_curves(title, said, rows, ("", "masters"), _partition_s, "renumberings")
        for axes in sheet.panels:
            scale_x(axes, map(_partition_s, rows), "length of the partition", _say_seconds)
        sheet.label_y("new UIDs per message", [row["renumberings"] for row in rows])
        return write_files(sheet.figure, file)


def redundancy_by_topology(rows: Sequence[Row], file: Path) -> list[Path]:
    """Rows with `topology`, `nodes` and `redundancy`: times a delta is sent per node that needed it."""
    said = [
        "Every node but the one that made a change needs it once, so 1 is the least possible.",
        "Bar: median of the runs; box: from the 10th to the 90th percentile; dots: single runs. "
        + runs_a_point(rows),
    ]
    topologies, counts = _values(rows, "topology"), _values(rows, "nodes")
    looks = looks_for([_NAMES["nodes"](count) for count in counts], is_ordered=True)
    with drawing():
        least = ("least possible", Line2D([], [], color=INK, lw=1.0, ls="--"))
        title = "How often a change is sent for each node that needs it, by topology"
        sheet = Sheet(title, said, looks, marks=[least])
        (axes,) = sheet.panels
        step = min(0.8 / max(len(counts), 1), 0.25)
        for place, topology in enumerate(topologies):
            for number, (count, look) in enumerate(zip(counts, looks, strict=True)):
                part = [row for row in rows if row["topology"] == topology and row["nodes"] == count]
                at = place + (number - (len(counts) - 1) / 2) * step
                _draw_box(axes, at, 0.4 * step, [row["redundancy"] for row in part], look)
        axes.set_xticks(
            range(len(topologies)), [_say_topology(name).replace(": ", ":\n") for name in topologies]
        )
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.6, max(len(topologies), 1) - 0.4)
        axes.grid(False, axis="x")
        if rows:
            axes.axhline(1, color=INK, lw=1.0, ls="--")
        values = [row["redundancy"] for row in rows]
        sheet.label_y("times sent per node that needs it", values, _below_one(values))
        return write_files(sheet.figure, file)


def growth(rows: Sequence[Row], file: Path) -> list[Path]:
    """Rows with `nodes`, `topology`, `rounds`, `bytes`, `redundancy`; `is_model` where computed."""
    names = _values(rows, "topology")
    looks = looks_for([_say_topology(name) for name in names], is_ordered=False)
    said = [
        "What it takes to bring one change to every node of a cluster that is quiet otherwise. In the first "
        "round it goes to the peers of its origin, in each further one, half a second later, to theirs.",
        f"Points: median of the runs, {runs_a_point([row for row in rows if not row.get('is_model')])} "
        "Dotted line: the least possible.",
    ]
    with drawing():
        sheet = Sheet(
            "What more nodes cost: time, traffic and repetition",
            said,
            looks,
            ("Rounds until every node has it", "Bytes that all nodes send", "Times sent per node needing it"),
            shares_y=False,
            marks=[(label, Line2D([], [], color=QUIET, marker="o", **how)) for label, how in _ORIGINS],
        )
        for axes, quantity in zip(sheet.panels, ("rounds", "bytes", "redundancy"), strict=True):
            for name, look in zip(names, looks, strict=True):
                part = [row for row in rows if row["topology"] == name]
                _draw_growth(axes, [row for row in part if row.get("is_model")], quantity, look, True)
                _draw_growth(axes, [row for row in part if not row.get("is_model")], quantity, look, False)
            values = [row[quantity] for row in rows]
            scale_x(axes, map(_node_count, rows), "nodes", say_number)
            if scale_y(axes, values, _below_one(values) if quantity == "redundancy" else 0.0, 20):
                axes.set_ylabel("log scale", size=SMALL_PT, labelpad=0)
        if rows:
            sheet.panels[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: say_bytes(value)))
            sheet.panels[2].axhline(1, color=INK, lw=1.0, ls=":")
        return write_files(sheet.figure, file)


def _draw_growth(axes: Axes, rows: Sequence[Row], quantity: str, look: Look, is_model: bool) -> None:
    points = _points(rows, _node_count, quantity)
    middles = [spread(points[x]).middle for x in sorted(points)]
    _, how = _ORIGINS[is_model]
    axes.plot(sorted(points), middles, color=look.colour, marker=look.marker, **how)


# Parts ---------------------------------------------------------------------------------------------------


def _sheet_of_curves(
    title: str,
    said: Sequence[str],
    rows: Sequence[Row],
    keys: tuple[str, str],
    x: Callable[[Row], float],
    quantity: str,
) -> Sheet:
    """A panel for each value of the first key, if there is one, and a curve for each value of the second."""
    panel_key, series_key = keys
    panels = _values(rows, panel_key) if panel_key else []
    series = _values(rows, series_key)
    looks = looks_for([_NAMES[series_key](value) for value in series], series_key != "topology")
    sheet = Sheet(title, said, looks, [_NAMES[panel_key](panel) for panel in panels] or [""])
    for axes, panel in zip(sheet.panels, panels or [None], strict=True):
        in_panel = [row for row in rows if not panel_key or row[panel_key] == panel]
        for value, look in zip(series, looks, strict=True):
            draw_curve(
                axes, _points((row for row in in_panel if row[series_key] == value), x, quantity), look
            )
    return sheet


def _say_topology(name: str) -> str:
    kind, _, number = name.partition(" ")
    if kind == "random" and number:
        return f"random: {number} peers each"
    if kind == "hubs" and number:
        return f"hubs: all through {number}"
    return _TOPOLOGIES.get(name, name)


def _loss_percent(row: Row) -> float:
    return round(100 * float(row["loss"]), 6)


def _node_count(row: Row) -> float:
    return float(row["nodes"])


def _partition_s(row: Row) -> float:
    return float(row["partition_s"])


def _below_one(values: Sequence[float]) -> float:
    """Where an axis begins so that the line at 1 is seen and what lies above it has the room."""
    return min([1.0, *values]) - 0.05 * max(max(values, default=1.0) - 1.0, 0.2)


def _values(rows: Iterable[Row], key: str) -> list[Any]:
    return sorted({row[key] for row in rows}, key=_order)


def _order(value: Any) -> Any:
    """Numbers by size; topologies in their own order."""
    if isinstance(value, tuple):
        return tuple(_order(part) for part in value)
    if isinstance(value, str):
        known = list(_TOPOLOGIES)
        return (known.index(value) if value in known else len(known), value)
    return value


def _points(rows: Iterable[Row], x: Callable[[Row], float], quantity: str) -> dict[float, list[float]]:
    points: dict[float, list[float]] = {}
    for row in rows:
        points.setdefault(x(row), []).append(row[quantity])
    return points


def _draw_box(axes: Axes, at: float, half: float, values: Sequence[float], look: Look) -> None:
    if not values:
        return
    low, middle, high = spread(values)
    if len(values) >= LEAST_FOR_A_SPREAD:
        axes.add_patch(
            Rectangle((at - half, low), 2 * half, high - low, fc=look.colour, ec="none", alpha=0.2)
        )
    axes.plot([at - half, at + half], [middle, middle], color=look.colour, lw=2.2, solid_capstyle="butt")
    axes.plot([at] * len(values), values, "o", color=look.colour, ms=3, mew=0, alpha=0.35)
    axes.plot([at], [middle], look.marker, color=look.colour, ms=6, mec="white", mew=0.6)


def _say_seconds(length_s: float) -> str:
    return "none" if length_s <= 0 else say_duration(round(length_s * 1_000_000))
