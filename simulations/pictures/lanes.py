"""The upper part of a timeline: a lane a node, the messages between the lanes, the faults above them.

What is drawn was chosen by the plan.  Thin lanes, those of many nodes, say with colour what others say in
words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from matplotlib.axes import Axes

from simulations.pictures import marks as marks
from simulations.pictures.history import (
    Block,
    CutOff,
    History,
    Lane,
    Message,
    Note,
    Span,
    merge_cut_offs,
    name_peers,
    usual_flight_us,
)
from simulations.pictures.marks import Board, Flight
from simulations.pictures.plan import ROW, Plan, state_words
from simulations.pictures.style import INK, QUIET, SMALL_PT, TEXT_PT, Placed, shorten


def draw_lanes(board: Board, history: History, plan: Plan) -> None:
    shape, names = plan.shape, [lane.name for lane in history.lanes]
    tops = [plan.top + number * shape.height for number in range(len(names))]
    lines = {name: top + shape.line for name, top in zip(names, tops, strict=True)}
    _draw_names(board.axes, lines, plan)
    _draw_messages(board, history, lines, plan)
    if not names:
        marks.write(board, 0, plan.height / 2, "no records", SMALL_PT, QUIET)
    for block in merge_cut_offs(history.lanes):
        # Lanes with room for words have a band each; thin ones share the block and its words with neighbours.
        if shape.has_words:
            for top in tops[block.first : block.last + 1]:
                y = top + (shape.band_top + shape.band_bottom) / 2
                _draw_cut(board, block.cut, top + shape.band_top, top + shape.band_bottom, y, names)
        else:
            y = lines[_lane_for_words(block, history.lanes, board).name]
            _draw_cut(board, block.cut, tops[block.first], tops[block.last] + shape.height, y, names)
    for lane in history.lanes:
        told_us = {note.at_us for note, _ in plan.labels[lane.name]}
        _draw_lane(board, lane, lines[lane.name], plan, told_us, history.end_us)
        for note, label in plan.labels[lane.name]:
            # Without a label it stands on the lane: above it, the label of another might hide it.
            _draw_fault(board, note, label, lines[lane.name] - (shape.line - 0.07 if label else 0))
        _draw_words(board, plan, lane, lines[lane.name])
        _draw_idle(board, history.idle, plan, lane, lines[lane.name])
    marks.draw_idle(board, [note.at_us for note in history.idle if note.node not in lines], 0.5 * ROW)
    for note in history.failovers:
        marks.draw_failover(board, note.at_us, lines[note.node])
    for note, label in plan.labels[""]:
        _draw_fault(board, note, label, (1.5 + label.row if label else 0.5) * ROW)
    for number, note in enumerate(history.violations[:50], 1):
        marks.draw_violation(board, note.at_us, lines.get(note.node, 0.5 * ROW), str(number))


def _draw_names(axes: Axes, lines: dict[str, float], plan: Plan) -> None:
    # A name takes about a sixth of an inch; of thinner lanes only some have theirs.
    every = max(1, -(-16 // round(100 * plan.shape.height)))
    named = list(lines)[::every]
    size = TEXT_PT if plan.shape.has_words else SMALL_PT
    axes.set_yticks([lines[name] for name in named], [shorten(name, 1.5, size) for name in named], size=size)
    axes.tick_params(axis="y", length=0)
    if plan.rows:
        axes.annotate(
            "all nodes",
            (0, 1.5 * ROW),
            (-4, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            size=SMALL_PT,
            color=QUIET,
            ha="right",
            va="center_baseline",
            annotation_clip=False,
        )


def _draw_lane(board: Board, lane: Lane, y: float, plan: Plan, told_us: set[int], end_us: int) -> None:
    shape = plan.shape
    marks.draw_running(board, lane.since_us, end_us, y, shape.has_words)
    marks.draw_ticks(board, lane.syncs_us, y, shape.sync, marks.SYNC, dot=False)
    marks.draw_ticks(board, lane.answers_us, y, -shape.answer, marks.WRITE, dot=plan.has_dots)
    for span in lane.down:
        marks.draw_down(board, span.start_us, span.end_us, y, shape.half_block)
        if shape.has_words:
            words = _state_wordings("down", span, told_us)
            marks.write_in_box(board, span.start_us, span.end_us, y, words, "white", marks.DOWN)
    for span in lane.paused:
        marks.draw_paused(board, span.start_us, span.end_us, y, shape.half_block)
        if shape.has_words:
            words = _state_wordings("paused", span, told_us)
            marks.write_in_box(board, span.start_us, span.end_us, y, words, INK, "white")


def _draw_words(board: Board, plan: Plan, lane: Lane, y: float) -> None:
    """What clients were told above the lane, each at a longer tick than the others; who they are below it."""
    above, below = y - (plan.shape.line - 0.07), y + (plan.shape.band_top - plan.shape.line) / 2
    for note, label in plan.told.get(lane.name, ()):
        marks.draw_ticks(board, [note.at_us], y, above - y, marks.WRITE, dot=False)
        marks.write(board, label.left * board.us_per_inch, above, label.text, SMALL_PT, marks.WRITE)
    for _, label in plan.turned.get(lane.name, ()):
        marks.write(board, label.left * board.us_per_inch, below, label.text, SMALL_PT, marks.FAILOVER)


def _draw_idle(board: Board, idle: Sequence[Note], plan: Plan, lane: Lane, y: float) -> None:
    """On the lane, or where it is a block, at the edge of that: there are words in it."""
    size = 5.0 if plan.shape.has_words else 3.5
    ats_us = [note.at_us for note in idle if note.node == lane.name]
    blocks = [*lane.down, *lane.paused]
    inside = [at_us for at_us in ats_us if any(span.start_us <= at_us < span.end_us for span in blocks)]
    marks.draw_idle(board, inside, y + plan.shape.half_block, size)
    marks.draw_idle(board, [at_us for at_us in ats_us if at_us not in inside], y, size)


def _state_wordings(state: str, span: Span, told_us: set[int]) -> list[str]:
    """The reason stands in the block, unless the label of the fault above it says it already."""
    return [state] if span.start_us in told_us else [state_words(state, span), state]


def _draw_cut(board: Board, cut: CutOff, top: float, bottom: float, y: float, names: list[str]) -> None:
    """The band, and in it at the height `y` the peers, where there is room for words."""
    marks.draw_cut(board, cut.start_us, cut.end_us, top, bottom, cut.is_alone)
    if bottom - top > 0.13:
        said = name_peers(cut.peers, names)
        words = [f"cannot reach {said}", said]
        if len(cut.peers) > 1:
            words += [f"cannot reach {len(cut.peers)} peers", f"{len(cut.peers)} peers"]
        ground = marks.CUT_FROM_ALL if cut.is_alone else marks.CUT_FROM_SOME
        marks.write_in_box(board, cut.start_us, cut.end_us, y, words, INK, ground)


def _lane_for_words(block: Block, lanes: list[Lane], board: Board) -> Lane:
    """The lane nearest to the middle of the block on which the words cover neither a crash nor a pause."""
    middle_us = (block.cut.start_us + block.cut.end_us) / 2
    reach_us = min(block.cut.end_us - middle_us, 1.0 * board.us_per_inch)
    middle = (block.first + block.last) // 2
    for number in sorted(range(block.first, block.last + 1), key=lambda number: abs(number - middle)):
        covered = chain(lanes[number].down, lanes[number].paused)
        if all(
            span.end_us < middle_us - reach_us or span.start_us > middle_us + reach_us for span in covered
        ):
            return lanes[number]
    return lanes[middle]


def _draw_fault(board: Board, note: Note, label: Placed | None, y: float) -> None:
    marks.draw_fault(board, note.at_us, y)
    if label:
        marks.write(board, label.left * board.us_per_inch, y, label.text, SMALL_PT, marks.FAULT)


# Messages ------------------------------------------------------------------------------------------------


def _draw_messages(board: Board, history: History, lines: dict[str, float], plan: Plan) -> None:
    """The calm ones first, so that what went wrong lies above them."""
    head = 0.07 if plan.shape.has_words else 0.05
    for what in ("answer", "exchange", "push"):
        flights = _flights((message for message in plan.shown.arrived if message.what == what), lines)
        marks.draw_flights(board, flights, marks.MESSAGE_COLOURS[what], head)
    others = (message for message in plan.shown.arrived if message.what not in marks.MESSAGE_COLOURS)
    marks.draw_flights(board, _flights(others, lines), marks.OTHER, head)
    usual_us = usual_flight_us(history.messages)
    cross = 4.0 if plan.shape.has_words else 3.0
    lost = [_half_flight(m, usual_us, lines) for m in plan.shown.never if not m.is_refused]
    marks.draw_half_flights(board, lost, cross)
    refused = [_refused_flight(m, lines, plan.shape.half_block) for m in plan.shown.never if m.is_refused]
    marks.draw_half_flights(board, refused, cross, marks.REFUSED)
    marks.draw_damaged(board, _flights(plan.shown.damaged, lines), head)


def _flights(messages: Iterable[Message], lines: dict[str, float]) -> list[Flight]:
    return [_flight(message, at_us, lines) for message in messages for at_us in message.arrivals_us]


def _half_flight(message: Message, usual_us: int, lines: dict[str, float]) -> Flight:
    """As slow as the others if it was lost in the moment of sending; else half way when it was lost."""
    flight = _flight(message, message.sent_us + usual_us, lines)
    if message.lost_us is None or message.lost_us <= message.sent_us:
        return flight
    return flight._replace(end_us=message.sent_us + (message.lost_us - message.sent_us) / flight.middle)


def _refused_flight(message: Message, lines: dict[str, float], half_block: float) -> Flight:
    """It comes as far as the block of the node that is down."""
    assert message.lost_us is not None
    flight = _flight(message, message.lost_us, lines)
    way = abs(flight.end_y - flight.start_y) or 1.0
    return flight._replace(middle=max(0.5, 1 - (half_block + 0.04) / way))


def _flight(message: Message, end_us: int, lines: dict[str, float]) -> Flight:
    names = list(lines)
    lanes = abs(names.index(message.target) - names.index(message.source))
    middle = 0.5 if lanes % 2 or lanes == 0 else (lanes - 1) / 2 / lanes
    return Flight(message.sent_us, lines[message.source], end_us, lines[message.target], middle)
