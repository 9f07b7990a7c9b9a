"""What a picture of a run shows, worked out from the run's records: intervals, messages, steps, bins.

Plain arithmetic on plain data, tested without a picture.  Nothing here knows matplotlib, colours or inches,
and nothing here knows how a run is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from simulations.trace import Record


class Span(NamedTuple):
    """From `start_us` until just before `end_us`; `label` is why."""

    start_us: int
    end_us: int
    label: str = ""


class CutOff(NamedTuple):
    """While it lasts, the node's messages to these peers go nowhere.  `is_alone`: it has no other peers."""

    start_us: int
    end_us: int
    peers: tuple[str, ...]
    is_alone: bool


class Message(NamedTuple):
    """One message.  A network may deliver it twice; without an arrival it got lost or was still under way."""

    sent_us: int
    source: str
    target: str
    what: str
    size: int
    arrivals_us: tuple[int, ...]
    lost_us: int | None
    is_damaged: bool
    is_refused: bool = False
    """It came to a node that was down, which is why it is lost."""


class Step(NamedTuple):
    """How far the nodes were apart from `at_us` on."""

    at_us: int
    views: int
    missing: int


class Note(NamedTuple):
    """A fault or a violation; `node` is empty where it concerns all of them."""

    at_us: int
    node: str
    name: str
    text: str


@dataclass(frozen=True)
class Lane:
    """One node's part.  `since_us` is when it first ran: a node may join late."""

    name: str
    since_us: int
    down: list[Span]
    paused: list[Span]
    cut_off: list[CutOff]
    syncs_us: list[int]
    answers: list[Note]
    """What clients were told is done."""

    @property
    def answers_us(self) -> list[int]:
        return [answer.at_us for answer in self.answers]


@dataclass(frozen=True)
class History:
    """One run, sorted by what is drawn."""

    end_us: int
    lanes: list[Lane]
    messages: list[Message]
    steps: list[Step]
    faults: list[Note]
    violations: list[Note]
    calm_us: int | None
    equal_us: int | None = None
    """When all nodes were equal for the first time after that."""
    failovers: list[Note] = field(default_factory=list)
    """A client turns to a node."""
    idle: list[Note] = field(default_factory=list)
    """Events that did nothing."""

    @property
    def has_equal_rule(self) -> bool:
        """Whether all became equal so much later than the faults stopped that one sees two lines."""
        if self.calm_us is None or self.equal_us is None:
            return False
        return self.equal_us - self.calm_us > self.end_us / 300


def read_history(records: Sequence[Record], order: Sequence[str] = ()) -> History:
    """Of records in the order in which they happened.  The run ends with the last of them.

    Nodes come in that order, and those that it does not name behind them as people count.
    """
    end_us = records[-1].at_us if records else 0
    messages = _messages(records)
    names = {record.node for record in records if record.node}
    names.update(message.target for message in messages)
    names.update(str(record.details[0]) for record in records if record.kind in ("cut", "join"))
    peers: dict[str, set[str]] = {name: set() for name in names}
    for one, other in [(message.source, message.target) for message in messages] + [
        (record.node, str(record.details[0])) for record in records if record.kind == "cut"
    ]:
        peers[one].add(other)
        peers[other].add(one)
    names_in_order = [name for name in order if name in names]
    names_in_order += sorted(names.difference(order), key=natural_order)
    calm_us = next((record.at_us for record in records if record.kind == "calm"), None)
    steps = [Step(r.at_us, r.details[0], r.details[1]) for r in records if r.kind == "state"]
    by_node: dict[str, list[Record]] = {name: [] for name in names}
    for record in records:
        if record.node:
            by_node[record.node].append(record)
    return History(
        end_us=end_us,
        lanes=[_lane(name, by_node[name], peers[name], end_us) for name in names_in_order],
        messages=messages,
        steps=steps,
        faults=sorted([*_notes(records, "fault"), *_marked(records)], key=lambda note: note.at_us),
        violations=_notes(records, "violation"),
        calm_us=calm_us,
        equal_us=_equal_us(steps, calm_us),
        failovers=_notes(records, "failover"),
        idle=[*_notes(records, "idle"), *_idle(records)],
    )


MARKED = {
    "Slow": "slow",
    "SetClock": "wall clock set",
    "Drift": "clock drifts",
    "Clog": "link held up",
    "Replay": "old request again",
    "Overtake": "change out of turn",
    "Stranger": "stranger",
    "Backup": "backup made",
    "Retire": "retires another",
}
"""Events that show in no other way, and what they are called on a lane."""


def _marked(records: Sequence[Record]) -> list[Note]:
    """Those of them that did something."""
    return [
        Note(record.at_us, record.node, MARKED[record.details[0]], _brief(record))
        for record in records
        if record.kind == "event" and record.details[0] in MARKED and not record.details[2]
    ]


def _idle(records: Sequence[Record]) -> list[Note]:
    """Those events of which it was clear at once that nothing would come."""
    return [
        Note(record.at_us, record.node, record.details[0], record.details[2])
        for record in records
        if record.kind == "event" and record.details[2]
    ]


def _brief(record: Record) -> str:
    """What stands in the brackets of an action, its node left out: `54.12` of `Slow('mx1', 54.1234567)`."""
    inside = str(record.details[1]).partition("(")[2].rstrip(")").replace("'", "")
    rounded = re.sub(r"\d+\.\d+", _rounded, inside)
    return rounded.removeprefix(record.node).removeprefix(", ")


def _rounded(number: re.Match[str]) -> str:
    value = float(number[0])
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def _equal_us(steps: Sequence[Step], calm_us: int | None) -> int | None:
    """When all were equal first since it was calm."""
    if calm_us is None:
        return None
    before = [step for step in steps if step.at_us <= calm_us][-1:]
    for step in [*before, *(step for step in steps if step.at_us > calm_us)]:
        if (step.views, step.missing) == (1, 0):
            return max(step.at_us, calm_us)
    return None


def zoomed(records: Sequence[Record], from_us: int, until_us: int) -> list[Record]:
    """The records of a part of the run.  It begins at nought, where all happens that was so by then."""
    lasting = {"up", "down", "pause", "resume", "cut", "join"}
    kept: list[Record] = []
    state: Record | None = None
    for record in records:
        if record.at_us >= from_us:
            break
        if record.kind in lasting:
            kept.append(record._replace(at_us=0))
        elif record.kind == "state":
            state = record._replace(at_us=0)
    kept += [state] if state else []
    inside = [r._replace(at_us=r.at_us - from_us) for r in records if from_us <= r.at_us <= until_us]
    end = Record(min(until_us, records[-1].at_us if records else 0) - from_us, "end", "")
    return [*kept, *inside, end]


def natural_order(name: str) -> tuple[tuple[bool, int, str], ...]:
    """A sort key that puts mx2 before mx10."""
    return tuple(
        (part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in re.findall(r"[0-9]+|[^0-9]+", name)
    )


def _lane(name: str, records: list[Record], peers: set[str], end_us: int) -> Lane:
    lives = [record for record in records if record.kind in ("up", "down")]
    return Lane(
        name=name,
        since_us=lives[0].at_us if lives and lives[0].kind == "up" else 0,
        down=spans(records, {"down"}, {"up"}, end_us),
        # A process that is killed while it is stopped is down, no longer paused.
        paused=spans(records, {"pause"}, {"resume", "down", "up"}, end_us),
        cut_off=cut_offs(records, peers, end_us),
        syncs_us=[record.at_us for record in records if record.kind == "sync" and record.details[0]],
        answers=_notes(records, "answer"),
    )


def spans(records: Iterable[Record], begins: set[str], ends: set[str], end_us: int) -> list[Span]:
    """The intervals from a record that begins one to the next that ends it, or to the end of the run.

    A beginning inside an interval changes nothing, nor does an end outside of one.
    """
    found: list[Span] = []
    start: Record | None = None
    for record in records:
        if start is None and record.kind in begins:
            start = record
        elif start is not None and record.kind in ends:
            found.append(_span(start, record.at_us))
            start = None
    if start is not None:
        found.append(_span(start, end_us))
    return [span for span in found if span.end_us > span.start_us]


def _span(start: Record, end_us: int) -> Span:
    return Span(start.at_us, end_us, " ".join(str(detail) for detail in start.details))


def cut_offs(records: Iterable[Record], peers: set[str], end_us: int) -> list[CutOff]:
    """The intervals in which one and the same set of peers could not be reached, from one node's records."""
    found: list[CutOff] = []
    cut: set[str] = set()
    since_us = 0

    def close(at_us: int) -> None:
        if not cut or at_us == since_us:
            return
        now = CutOff(since_us, at_us, tuple(sorted(cut, key=natural_order)), cut >= peers)
        # Links that are cut and joined in the same instant leave two intervals that are one.
        if found and found[-1].end_us == now.start_us and found[-1].peers == now.peers:
            found[-1] = found[-1]._replace(end_us=at_us)
        else:
            found.append(now)

    for record in records:
        if record.kind not in ("cut", "join"):
            continue
        close(record.at_us)
        since_us = record.at_us
        if record.kind == "cut":
            cut.add(str(record.details[0]))
        else:
            cut.discard(str(record.details[0]))
    close(end_us)
    return found


def _messages(records: Iterable[Record]) -> list[Message]:
    """In the order in which they were sent.  What is told of a message that nobody sent is not drawn."""
    messages: dict[object, Message] = {}
    for record in records:
        if record.kind == "send":
            target, number, what, size = record.details
            messages[number] = Message(record.at_us, record.node, target, what, size, (), None, False)
        elif record.kind in ("arrive", "lost", "damaged", "refused") and record.details[0] in messages:
            message = messages[record.details[0]]
            if record.kind == "arrive":
                message = message._replace(arrivals_us=(*message.arrivals_us, record.at_us))
            elif record.kind == "lost":
                message = message._replace(lost_us=record.at_us)
            elif record.kind == "refused":
                message = message._replace(lost_us=record.at_us, is_refused=True)
            else:
                message = message._replace(is_damaged=True)
            messages[record.details[0]] = message
    return list(messages.values())


def _notes(records: Iterable[Record], kind: str) -> list[Note]:
    return [
        Note(
            record.at_us,
            record.node,
            str(record.details[0]) if record.details else kind,
            " ".join(str(detail) for detail in record.details[1:]),
        )
        for record in records
        if record.kind == kind
    ]


def usual_flight_us(messages: Iterable[Message]) -> int:
    """How long a message takes, by the median: what a lost one would have taken."""
    flights = sorted(message.arrivals_us[0] - message.sent_us for message in messages if message.arrivals_us)
    return flights[len(flights) // 2] if flights else 0


def bytes_per_round(messages: Iterable[Message], round_us: int, end_us: int) -> list[int]:
    """Bytes sent in each round; the last one may be cut short by the end of the run."""
    rounds = [0] * (end_us // round_us + 1)
    for message in messages:
        rounds[message.sent_us // round_us] += message.size
    return rounds


def name_peers(peers: Iterable[str], order: Sequence[str]) -> str:
    """`mx1, mx4–mx7`: three or more neighbours in `order` become a range."""
    positions = sorted(order.index(peer) for peer in peers)
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    said: list[str] = []
    for run in runs:
        if len(run) > 2:
            said.append(f"{order[run[0]]}–{order[run[-1]]}")
        else:
            said.extend(order[position] for position in run)
    return ", ".join(said)


class Block(NamedTuple):
    """Neighbouring lanes, from the first to the last, that cannot reach the same peers at the same time."""

    first: int
    last: int
    cut: CutOff


def merge_cut_offs(lanes: Sequence[Lane]) -> list[Block]:
    """One side of a partition is one block where its nodes stand together."""
    blocks: list[Block] = []
    open_blocks: dict[CutOff, Block] = {}
    for number, lane in enumerate(lanes):
        continued = {cut: open_blocks.get(cut, Block(number, number, cut)) for cut in lane.cut_off}
        blocks.extend(block for cut, block in open_blocks.items() if cut not in continued)
        open_blocks = {cut: block._replace(last=number) for cut, block in continued.items()}
    return [*blocks, *open_blocks.values()]
