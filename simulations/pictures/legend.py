"""The foot of a timeline: every mark that it has, drawn as it is above, and what it means."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Final

from matplotlib.figure import Figure

from simulations.pictures import marks as marks
from simulations.pictures.history import History
from simulations.pictures.marks import Board, Flight
from simulations.pictures.plan import Plan
from simulations.pictures.style import EDGE, SMALL_PT, WIDTH, add_axes

LEGEND_ROW: Final = 0.2
"""The height of one line of it, in inches."""

Sample = Callable[[Board, float], None]
"""Draws a mark half an inch wide at a height."""


def choose_legend(history: History, plan: Plan) -> list[list[tuple[Sample, str]]]:
    """A column for what nodes are, one for messages, one for what takes no time; only what is there."""
    lanes, messages = history.lanes, history.messages
    cuts = list(chain.from_iterable(lane.cut_off for lane in lanes))
    kinds = {message.what for message in messages if message.arrivals_us and not message.is_damaged}
    nodes: list[tuple[bool, Sample, str]] = [
        (bool(lanes), lambda b, y: marks.draw_running(b, 0, 0.5, y, plan.shape.has_words), "node runs"),
        (any(lane.down for lane in lanes), lambda b, y: marks.draw_down(b, 0, 0.5, y, 0.06), "down"),
        (
            any(lane.paused for lane in lanes),
            lambda b, y: marks.draw_paused(b, 0, 0.5, y, 0.06),
            "paused: does nothing, forgets nothing",
        ),
        (
            any(not cut.is_alone for cut in cuts),
            lambda b, y: marks.draw_cut(b, 0, 0.5, y - 0.07, y + 0.07, False),
            "its messages cannot reach some peers",
        ),
        (
            any(cut.is_alone for cut in cuts),
            lambda b, y: marks.draw_cut(b, 0, 0.5, y - 0.07, y + 0.07, True),
            "its messages cannot reach any peer",
        ),
    ]
    flights: list[tuple[bool, Sample, str]] = [
        ("push" in kinds, _arrow(marks.PUSH), "push: a new change, sent at once"),
        ("exchange" in kinds, _arrow(marks.EXCHANGE), "exchange: “what do I lack?”"),
        ("answer" in kinds, _arrow(marks.ANSWER), "answer to a push or an exchange"),
        (bool(kinds - set(marks.MESSAGE_COLOURS)), _arrow(marks.OTHER), "snapshot: the mailboxes themselves"),
        (any(not m.arrivals_us and not m.is_refused for m in messages), _lost, "message that never arrived"),
        (
            any(not m.arrivals_us and m.is_refused for m in messages),
            _refused,
            "connection refused: the node is down",
        ),
        (
            any(message.is_damaged for message in messages),
            _damaged,
            "message damaged on the way",
        ),
    ]
    moments: list[tuple[bool, Sample, str]] = [
        (
            any(lane.answers_us for lane in lanes),
            lambda b, y: marks.draw_ticks(b, (0.1, 0.2, 0.35), y + 0.06, -0.12, marks.WRITE, plan.has_dots),
            "a client gets the answer to its write",
        ),
        (
            any(lane.syncs_us for lane in lanes),
            lambda b, y: marks.draw_ticks(b, (0.1, 0.2, 0.35), y - 0.05, 0.1, marks.SYNC, False),
            "new changes made durable on disk (fsync)",
        ),
        (
            any(plan.labels.values()),
            lambda b, y: marks.draw_fault(b, 0.25, y),
            "crash or other fault, on purpose",
        ),
        (
            bool(history.failovers),
            lambda b, y: marks.draw_failover(b, 0.25, y),
            "a client turns to this node (fails over)",
        ),
        (
            bool(history.idle),
            lambda b, y: marks.draw_idle(b, [0.25], y),
            "an event that did nothing",
        ),
        (
            bool(history.violations),
            lambda b, y: marks.draw_violation(b, 0.25, y, "1"),
            "broken promise, see above",
        ),
        (history.calm_us is not None, _calm, "faults stop; now all must become equal"),
        (history.has_equal_rule, _equal, "all equal; then everybody reads all of it"),
    ]
    return [
        [(draw, text) for is_there, draw, text in column if is_there] for column in (nodes, flights, moments)
    ]


def _arrow(colour: str) -> Sample:
    return lambda board, y: marks.draw_flights(board, [Flight(0, y, 0.5, y, 0.5)], colour, 0.07)


def _damaged(board: Board, y: float) -> None:
    marks.draw_damaged(board, [Flight(0, y, 0.5, y, 0.5)], 0.07)


def _lost(board: Board, y: float) -> None:
    marks.draw_half_flights(board, [Flight(0.05, y, 0.75, y, 0.5)], 4.0)


def _refused(board: Board, y: float) -> None:
    marks.draw_half_flights(board, [Flight(0, y, 0.5, y, 0.9)], 4.0, marks.REFUSED)


def _equal(board: Board, y: float) -> None:
    board.axes.plot([0, 0.5], [y, y], color=marks.CALM, lw=1.3, ls=":")


def _calm(board: Board, y: float) -> None:
    board.axes.plot([0, 0.5], [y, y], color=marks.CALM, lw=1.3, ls="--")


def draw_legend(figure: Figure, columns: list[list[tuple[Sample, str]]], top: float) -> None:
    width = (WIDTH - 2 * EDGE) / 3
    for number, column in enumerate(columns):
        left = EDGE + number * width
        height = LEGEND_ROW * max(len(column), 1)
        axes = add_axes(figure, left + 0.05, top, 0.5, height)
        axes.set_axis_off()
        axes.set_xlim(0, 0.5)
        axes.set_ylim(height, 0)
        board = Board(axes, 1, 1)
        for row, (draw, text) in enumerate(column):
            y = (row + 0.5) * LEGEND_ROW
            draw(board, y)
            axes.text(0.6, y, text, size=SMALL_PT, va="center_baseline")
