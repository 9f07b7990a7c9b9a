"""What of a run there is room for: how high its lanes are, which messages are shown, which faults have words.

Decided before anything is drawn, so that the picture can say what it leaves out and be as high as it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from simulations.pictures.history import History, Lane, Message, Note, Span
from simulations.pictures.style import BAND_EDGE, BAND_PT, SMALL_PT, Placed, place_labels, shorten, text_width
from simulations.pictures.thinning import one_of_how_many, thin

ROW: Final = 0.18
"""Of a label above the lanes, in inches."""

ARRIVED_SHOWN: Final = 150
LOST_SHOWN: Final = 60
DAMAGED_SHOWN: Final = 20
"""More arrows than these hide the lanes; damaged ones are the loudest, so there may be the fewest."""


ANSWERS_SAID: Final = 12
"""Of more answers than these on a lane the words would hide the arrows, but for those that one looks for."""
LOOKED_FOR: Final = ("moved", "expunged", "deleted", "renamed")
"""What moves or destroys; how its answers begin."""


class Shape(NamedTuple):
    """Where things lie in a lane, in inches from its upper edge.  Thin lanes have no room for words."""

    height: float
    line: float
    answer: float
    sync: float
    half_block: float
    band_top: float
    band_bottom: float
    has_words: bool


def shape_for(nodes: int) -> Shape:
    if nodes <= 4:
        return Shape(0.86, 0.38, 0.16, 0.12, 0.10, 0.58, 0.74, True)
    if nodes <= 8:
        return Shape(0.72, 0.32, 0.12, 0.09, 0.08, 0.51, 0.65, True)
    height = max(0.04, min(0.34, 7.0 / nodes))
    return Shape(height, height / 2, 0.4 * height, 0.4 * height, 0.32 * height, 0.0, height, False)


class Shown(NamedTuple):
    """The messages that are drawn, by what became of them, and how many of which those stand for."""

    arrived: list[Message]
    never: list[Message]
    damaged: list[Message]
    said: str


def choose_messages(messages: Sequence[Message]) -> Shown:
    """Each kind of fate is thinned for itself, else the rare ones would vanish."""
    fates = [
        ([m for m in messages if m.arrivals_us and not m.is_damaged], ARRIVED_SHOWN, "that arrived whole"),
        ([m for m in messages if not m.arrivals_us], LOST_SHOWN, "that never arrived"),
        ([m for m in messages if m.arrivals_us and m.is_damaged], DAMAGED_SHOWN, "that arrived damaged"),
    ]
    everies = [one_of_how_many(len(fate), limit) for fate, limit, _ in fates]
    arrived, never, damaged = (thin(fate, every) for (fate, _, _), every in zip(fates, everies, strict=True))
    said = ""
    if max(everies) > 1:
        said = "Messages shown: " + ", ".join(
            f"1 of {every:,} {which}" if every > 1 else f"all {which}"
            for (fate, _, which), every in zip(fates, everies, strict=True)
            if fate
        )
    return Shown(arrived, never, damaged, said)


class Plan(NamedTuple):
    """All of that.  `labels` are of faults, by node; under "" of all nodes, and those have so many `rows`."""

    shape: Shape
    shown: Shown
    labels: dict[str, list[tuple[Note, Placed | None]]]
    told: dict[str, list[tuple[Note, Placed]]]
    """Of the answers on each lane, as far as they find room beside those."""
    turned: dict[str, list[tuple[Note, Placed]]]
    """Of the clients that turn to each node, below its lane."""
    unsaid: str
    """How many of either found none."""
    rows: int
    has_dots: bool
    top: float
    height: float

    @property
    def said(self) -> list[str]:
        """What is left out, for people."""
        labels = [label for labels in self.labels.values() for _, label in labels]
        bare = labels.count(None)
        faults = f"{bare} of {len(labels)} faults stand without their names, for want of room" if bare else ""
        return [line for line in (self.shown.said, faults, self.unsaid) if line]


def plan_lanes(history: History, us_per_inch: float, width: float) -> Plan:
    shape = shape_for(len(history.lanes))
    names = ["", *(lane.name for lane in history.lanes)]
    notes = {name: [note for note in history.faults if note.node == name] for name in names}
    for lane in history.lanes if shape.has_words else []:
        notes[lane.name] += _crashes(lane, notes[lane.name], us_per_inch)
        notes[lane.name].sort(key=lambda note: note.at_us)
    wanted = {
        name: [(note.at_us / us_per_inch, *_wordings(note)) for note in of_node]
        for name, of_node in notes.items()
    }
    placed = {
        name: _place(of_node, width, 1) if shape.has_words else [None] * len(of_node)
        for name, of_node in wanted.items()
    }
    labels = {name: list(zip(notes[name], placed[name], strict=True)) for name in names if name}
    worded = history.lanes if shape.has_words else []
    told = {lane.name: _place_answers(lane, labels[lane.name], us_per_inch, width) for lane in worded}
    turned = {lane.name: _place_turns(lane, history.failovers, us_per_inch, width) for lane in worded}
    rows = 0
    for rows in range(1 if notes[""] else 0, 4):
        placed[""] = _place(wanted[""], width, rows)
        if [label and label.text for label in placed[""]] == [whole for _, whole, _ in wanted[""]]:
            break
    # One more row belongs to the words at the line where the faults stop.
    top = (rows + 1) * ROW + 0.06
    return Plan(
        shape=shape,
        shown=choose_messages(history.messages),
        labels={"": list(zip(notes[""], placed[""], strict=True)), **labels},
        told=told,
        turned=turned,
        unsaid=_say_unsaid(history, told, turned),
        rows=rows,
        # More dots than these run into a bar.
        has_dots=shape.has_words and all(len(lane.answers_us) <= 10 * width for lane in history.lanes),
        top=top,
        height=top + shape.height * len(history.lanes),
    )


def _place_answers(
    lane: Lane, faults: Sequence[tuple[Note, Placed | None]], us_per_inch: float, width: float
) -> list[tuple[Note, Placed]]:
    """Words for the answers to clients where faults leave room: what one looks for comes first, and what
    comes all the time only if it is little."""
    sought = [note for note in lane.answers if note.name.startswith(LOOKED_FOR)]
    others = [note for note in lane.answers if note not in sought]
    notes = [*sought, *(others if len(lane.answers) <= ANSWERS_SAID else [])]
    taken = [
        (min(at, label.left), max(at, label.left + text_width(label.text, SMALL_PT)))
        for at, label in ((note.at_us / us_per_inch, label) for note, label in faults)
        if label is not None
    ]
    return _place_names(notes, taken, us_per_inch, width)


def _place_turns(
    lane: Lane, failovers: Sequence[Note], us_per_inch: float, width: float
) -> list[tuple[Note, Placed]]:
    """The names of the clients that turn to this node, below its lane, where no block is in their way."""
    notes = [note for note in failovers if note.node == lane.name]
    blocks = [(span.start_us / us_per_inch, span.end_us / us_per_inch) for span in [*lane.down, *lane.paused]]
    return _place_names(notes, blocks, us_per_inch, width)


def _place_names(
    notes: Sequence[Note], taken: Sequence[tuple[float, float]], us_per_inch: float, width: float
) -> list[tuple[Note, Placed]]:
    words = [(note.at_us / us_per_inch, (shorten(note.name, 2.0, SMALL_PT),)) for note in notes]
    placed = place_labels(words, width, SMALL_PT, 1, taken)
    return [(note, label) for note, label in zip(notes, placed, strict=True) if label is not None]


def _say_unsaid(
    history: History, told: dict[str, list[tuple[Note, Placed]]], turned: dict[str, list[tuple[Note, Placed]]]
) -> str:
    answers, first = sum(len(lane.answers) for lane in history.lanes), "first those that move or destroy"
    writes, turns = sum(map(len, told.values())), sum(map(len, turned.values()))
    said = [f"{writes} of {answers:,} writes" + (f", {first}" if writes else "")] if writes < answers else []
    if turns < len(history.failovers):
        said.append(f"{turns} of {len(history.failovers):,} clients that turn to another node")
    return f"Labels: {'; '.join(said)}" if said else ""


def _crashes(lane: Lane, told: Sequence[Note], us_per_inch: float) -> list[Note]:
    """Why the node went down, where the block has no room for it and no fault at that moment says it."""
    told_us = {note.at_us for note in told}
    crashes: list[Note] = []
    for span in lane.down:
        room = (span.end_us - span.start_us) / us_per_inch - BAND_EDGE
        if span.start_us not in told_us and text_width(state_words("down", span), BAND_PT) > room:
            crashes.append(Note(span.start_us, lane.name, span.label or "down", ""))
    return crashes


def state_words(state: str, span: Span) -> str:
    return f"{state}: {span.label}" if span.label else state


def _place(wanted: list[tuple[float, str, str]], width: float, rows: int) -> list[Placed | None]:
    """In full where there is room; but if more labels find room when all say only the name, only the name."""
    full = place_labels([(at, (whole, name)) for at, whole, name in wanted], width, SMALL_PT, rows)
    short = place_labels([(at, (name,)) for at, _, name in wanted], width, SMALL_PT, rows)
    return short if short.count(None) < full.count(None) else full


def _wordings(note: Note) -> tuple[str, str]:
    whole = f"{note.name}: {note.text}" if note.text not in ("", note.name) else note.name
    return shorten(whole, 3.6, SMALL_PT), shorten(note.name, 2.0, SMALL_PT)
