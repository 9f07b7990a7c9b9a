"""The pictures of simulated runs: the arithmetic behind them, and that every one of them gets written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

from simulations.pictures import plot
from simulations.pictures.history import (
    Block,
    CutOff,
    Message,
    Span,
    bytes_per_round,
    cut_offs,
    merge_cut_offs,
    name_peers,
    natural_order,
    read_history,
    spans,
    zoomed,
)
from simulations.pictures.plan import Plan, choose_messages, plan_lanes, shape_for
from simulations.pictures.sheet import spread, with_room
from simulations.pictures.style import drawing, place_labels, say_bytes, say_number, text_width, wrap
from simulations.pictures.thinning import one_of_how_many, thin, thin_steps
from simulations.pictures.time import round_for, say_duration, time_axis
from simulations.trace import Record

S = 1_000_000
DAY = 86_400 * S


# Intervals -----------------------------------------------------------------------------------------------


def test_a_node_is_down_from_its_crash_to_its_start() -> None:
    records = [
        Record(0, "up", "mx1", ("00",)),
        Record(3 * S, "down", "mx1", ("kill -9",)),
        Record(5 * S, "up", "mx1", ("00",)),
        Record(8 * S, "down", "mx1", ("power cut",)),
    ]
    expected = [Span(3 * S, 5 * S, "kill -9"), Span(8 * S, 9 * S, "power cut")]
    assert spans(records, {"down"}, {"up"}, 9 * S) == expected


def test_beginnings_inside_and_ends_outside_of_an_interval_change_nothing() -> None:
    kinds = ["resume", "pause", "pause", "resume", "resume"]
    records = [Record(at, kind, "mx1") for at, kind in enumerate(kinds)]
    assert spans(records, {"pause"}, {"resume"}, 9) == [Span(1, 3)]


def test_an_interval_without_length_is_none() -> None:
    assert spans([Record(4, "down", "mx1", ("at the end",))], {"down"}, {"up"}, 4) == []


def test_a_paused_node_that_is_killed_is_down_and_no_longer_paused() -> None:
    history = read_history(
        [
            Record(0, "up", "mx1", ("00",)),
            Record(1, "pause", "mx1"),
            Record(4, "down", "mx1", ("kill -9",)),
            Record(6, "up", "mx1", ("00",)),
            Record(9, "calm", ""),
        ]
    )
    (lane,) = history.lanes
    assert (lane.paused, lane.down) == ([Span(1, 4)], [Span(4, 6, "kill -9")])


def test_a_node_that_joins_late_has_no_lane_before() -> None:
    history = read_history([Record(0, "up", "mx1", ("00",)), Record(7, "up", "mx2", ("01",))])
    assert [(lane.name, lane.since_us, lane.down) for lane in history.lanes] == [
        ("mx1", 0, []),
        ("mx2", 7, []),
    ]


def test_cuts_are_counted_for_the_direction_that_they_concern() -> None:
    history = read_history([Record(2, "cut", "mx1", ("mx2",)), Record(5, "join", "mx1", ("mx2",))])
    assert [(lane.name, lane.cut_off) for lane in history.lanes] == [
        ("mx1", [CutOff(2, 5, ("mx2",), True)]),
        ("mx2", []),
    ]


def test_each_set_of_unreachable_peers_is_an_interval() -> None:
    records = [
        Record(1, "cut", "mx1", ("mx10",)),
        Record(1, "cut", "mx1", ("mx2",)),
        Record(4, "join", "mx1", ("mx10",)),
        Record(6, "join", "mx1", ("mx2",)),
        Record(8, "cut", "mx1", ("mx3",)),
    ]
    assert cut_offs(records, {"mx2", "mx3", "mx10"}, 9) == [
        CutOff(1, 4, ("mx2", "mx10"), False),
        CutOff(4, 6, ("mx2",), False),
        CutOff(8, 9, ("mx3",), False),
    ]


def test_what_is_joined_and_cut_in_the_same_instant_stayed_cut() -> None:
    records = [
        Record(at, kind, "mx1", ("mx2",)) for at, kind in [(1, "cut"), (3, "join"), (3, "cut"), (5, "join")]
    ]
    assert cut_offs(records, {"mx2"}, 9) == [CutOff(1, 5, ("mx2",), True)]


def test_nodes_of_one_side_that_stand_together_are_one_block() -> None:
    sides = [("abd", "c"), ("c", "abd")]
    records = [Record(1, "cut", one, (other,)) for side, far in sides for one in side for other in far]
    everybody = [
        Record(0, "send", one, (other, one + other, "push", 1)) for one in "abcd" for other in "abcd"
    ]
    blocks = merge_cut_offs(read_history([*everybody, *records, Record(5, "calm", "")]).lanes)
    from_c = CutOff(1, 5, ("c",), False)
    assert blocks == [
        Block(0, 1, from_c),
        Block(2, 2, CutOff(1, 5, ("a", "b", "d"), False)),
        Block(3, 3, from_c),
    ]


# Messages, states, bins ----------------------------------------------------------------------------------


def test_a_message_is_put_together_from_what_is_told_of_it() -> None:
    history = read_history(
        [
            Record(1, "send", "mx1", ("mx2", 1, "push", 100)),
            Record(1, "damaged", "mx1", (1,)),
            Record(2, "send", "mx2", ("mx1", 2, "exchange", 50)),
            Record(3, "arrive", "mx2", (1,)),
            Record(4, "arrive", "mx2", (1,)),
            Record(5, "lost", "mx2", (2,)),
            Record(6, "send", "mx2", ("mx1", 3, "answer", 20)),
            Record(7, "arrive", "mx9", (4,)),
        ]
    )
    assert history.messages == [
        Message(1, "mx1", "mx2", "push", 100, (3, 4), None, True),
        Message(2, "mx2", "mx1", "exchange", 50, (), 5, False),
        Message(6, "mx2", "mx1", "answer", 20, (), None, False),
    ]
    assert bytes_per_round(history.messages, 2, history.end_us) == [100, 50, 0, 20]


def test_rare_messages_stay_when_frequent_ones_are_thinned() -> None:
    messages = [Message(at, "mx1", "mx2", "push", 1, (at + 1,), None, False) for at in range(5000)]
    messages += [
        Message(1, "mx1", "mx2", "push", 1, (2,), None, True),
        Message(1, "mx1", "mx2", "push", 1, (), 1, False),
    ]
    shown = choose_messages(messages)
    assert (len(shown.arrived), len(shown.never), len(shown.damaged)) == (100, 1, 1)
    assert shown.said == (
        "Messages shown: 1 of 50 that arrived whole, all that never arrived, all that arrived damaged"
    )
    assert choose_messages(messages[:10]).said == ""


@pytest.mark.parametrize(
    ("count", "every"),
    [(0, 1), (120, 1), (121, 2), (241, 5), (601, 10), (1201, 20), (60_000, 500), (60_001, 1000)],
)
def test_one_of_a_round_number_is_shown(count: int, every: int) -> None:
    assert one_of_how_many(count, 120) == every


def test_thinning_takes_one_of_each_batch_but_not_always_the_same() -> None:
    chosen = thin(list(range(1000)), 10)
    assert [one // 10 for one in chosen] == list(range(100))
    assert len({one % 10 for one in chosen}) == 10
    assert thin([1, 2, 3], 1) == [1, 2, 3]


def test_a_thinned_curve_keeps_its_peaks() -> None:
    steps = [(at, 1000 if at == 5003 else at % 7) for at in range(10_000)]
    kept = thin_steps(steps, 9_999, 10)
    assert len(kept) <= 44
    assert (5003, 1000) in kept
    assert kept == sorted(kept)
    assert kept[0] == steps[0]
    assert kept[-1] == steps[-1]


# Words ---------------------------------------------------------------------------------------------------


def test_names_are_ordered_as_people_count_and_neighbours_become_ranges() -> None:
    names = sorted([f"mx{number}" for number in range(1, 13)], key=natural_order)
    assert names[-1] == "mx12"
    assert name_peers(["mx1", "mx9", "mx10", "mx11", "mx5", "mx6"], names) == "mx1, mx5, mx6, mx9–mx11"
    assert sorted(["½", "3x", "x"], key=natural_order) == ["x", "½", "3x"]


def test_a_message_to_a_node_that_is_down_is_refused_and_never_arrives() -> None:
    history = read_history(
        [Record(1, "send", "mx1", ("mx2", 1, "push", 100)), Record(3, "refused", "mx2", (1,))]
    )
    assert history.messages == [Message(1, "mx1", "mx2", "push", 100, (), 3, False, is_refused=True)]


def test_lanes_stand_in_the_order_of_the_scenario() -> None:
    records = [Record(0, "up", name, ("00",)) for name in ("graz", "mx10", "mx2", "vienna")]
    lanes = read_history(records, ("vienna", "graz", "nowhere")).lanes
    assert [lane.name for lane in lanes] == ["vienna", "graz", "mx2", "mx10"]


def test_faults_that_did_something_and_clients_that_turn_are_marked() -> None:
    history = read_history(
        [
            Record(1, "event", "mx1", ("Slow", "Slow('mx1', 54.1234567)", "")),
            Record(2, "event", "mx1", ("Backup", "Backup('mx1')", "(did nothing: it is damaged)")),
            Record(3, "event", "mx1", ("Look", "Look('phone')", "")),
            Record(3, "idle", "mx1", ("phone", "Look", "there is no mailbox named 'INBOX'")),
            Record(4, "fault", "mx2", ("disk replaced by an empty one",)),
            Record(5, "failover", "mx2", ("phone", "mx1")),
            Record(6, "sync", "mx2", (0,)),
            Record(7, "sync", "mx2", (2,)),
        ]
    )
    faults = [(note.at_us, note.node, note.name, note.text) for note in history.faults]
    assert faults == [(1, "mx1", "slow", "54.12"), (4, "mx2", "disk replaced by an empty one", "")]
    assert [(note.at_us, note.node, note.name) for note in history.failovers] == [(5, "mx2", "phone")]
    assert [(note.at_us, note.node) for note in history.idle] == [(3, "mx1"), (2, "mx1")]
    assert history.lanes[1].syncs_us == [7]  # a commit without changes is not shown


def test_it_is_marked_when_all_are_equal_after_the_faults() -> None:
    records = [Record(1, "state", "", (1, 0)), Record(3, "state", "", (2, 1)), Record(5 * S, "calm", "")]
    assert read_history(records).equal_us is None
    later = read_history([*records, Record(8 * S, "state", "", (1, 0)), Record(9 * S, "state", "", (1, 0))])
    assert (later.equal_us, later.has_equal_rule) == (8 * S, True)
    at_once = read_history([records[0], records[2], Record(9 * S, "state", "", (1, 0))])
    assert (at_once.equal_us, at_once.has_equal_rule) == (5 * S, False)


def test_a_part_of_a_run_begins_with_what_was_so_then() -> None:
    records = [
        Record(0, "up", "mx1", ("00",)),
        Record(2 * S, "cut", "mx1", ("mx2",)),
        Record(3 * S, "send", "mx1", ("mx2", 1, "push", 9)),
        Record(4 * S, "state", "", (2, 7)),
        Record(6 * S, "join", "mx1", ("mx2",)),
        Record(9 * S, "calm", ""),
    ]
    history = read_history(zoomed(records, 5 * S, 8 * S))
    assert (history.end_us, history.messages, history.calm_us) == (3 * S, [], None)
    assert [step[1:] for step in history.steps] == [(2, 7)]
    (cut,) = history.lanes[0].cut_off
    assert (cut.start_us, cut.end_us) == (0, S)


def test_the_ticks_of_a_part_are_those_of_the_whole() -> None:
    axis = time_axis(10 * S, 31_500_000)
    assert [place + 31.5 for place in axis.ticks(31_500_000)] == [32 + n for n in range(10)]
    assert (axis.tick(32), time_axis(1200 * S).tick(12.5)) == ("32", "12:30")
    assert time_axis(S // 5, 3710 * S).unit == "s"


@pytest.mark.parametrize(
    ("end_us", "unit", "step"),
    [
        (0, "ms", 1),
        (S, "ms", 100),
        (3 * S, "s", 0.5),
        (60 * S, "s", 5),
        (600 * S, "s", 60),
        (601 * S, "min", 1),
        (1200 * S, "min", 2),
        (DAY, "h", 2),
        (30 * DAY, "days", 5),
    ],
)
def test_the_axis_counts_in_a_unit_that_fits_the_run(end_us: int, unit: str, step: float) -> None:
    axis = time_axis(end_us)
    assert (axis.unit, axis.step) == (unit, step)
    assert axis.end_us >= max(end_us, 1)


def test_the_axis_reaches_a_tick_that_is_near() -> None:
    assert time_axis(59_900_000).end_us == 60 * S
    assert time_axis(57_000_000).end_us == 57 * S


def test_rounds_get_longer_with_the_run() -> None:
    assert round_for(60 * S) == S
    assert 100 < 30 * DAY / round_for(30 * DAY) <= 240
    assert 100 < 5000 * DAY / round_for(5000 * DAY) <= 240


def test_quantities_are_said_for_people() -> None:
    assert [say_duration(us) for us in (500, 45 * S, 150 * S, DAY, 25 * DAY)] == [
        "0.5 ms",
        "45 s",
        "2.5 min",
        "24 h",
        "25 days",
    ]
    assert [say_bytes(count) for count in (0, 950, 1500, 2 * 10**7, 10**15)] == [
        "0 B",
        "950 B",
        "1.5 kB",
        "20 MB",
        "1e+03 TB",
    ]
    assert [say_number(count) for count in (3, 1000, 0.5)] == ["3", "1,000", "0.5"]


@pytest.mark.parametrize(("answers", "said"), [(2, 2), (13, 0)])
def test_what_clients_were_told_is_done_stands_there_in_words_if_it_is_little(
    answers: int, said: int
) -> None:
    records = [Record(0, "up", "mx1", ())]
    records += [Record((n + 1) * S, "answer", "mx1", (f"mail to box{n}",)) for n in range(answers)]
    with drawing():
        plan = plan_lanes(read_history([*records, Record(20_000_000, "end", "")]), 500_000, 40.0)
    assert [label.text for _, label in plan.told["mx1"]] == [f"mail to box{n}" for n in range(said)]


def planned(*records: Record, end_s: int = 20) -> Plan:
    """At an inch a second, for one node and another."""
    nodes = [Record(0, "up", "mx1", ()), Record(0, "up", "mx2", ())]
    with drawing():
        return plan_lanes(read_history([*nodes, *records, Record(end_s * S, "end", "")]), S, float(end_s))


def test_what_moves_or_destroys_has_its_words_before_what_comes_all_the_time() -> None:
    said = ["mail to INBOX", "moved to Work", "+$seen", "expunged", "created Work"]
    plan = planned(*(Record(5 * S + n * S // 5, "answer", "mx1", (what,)) for n, what in enumerate(said)))
    assert [label.text for _, label in plan.told["mx1"]] == ["moved to Work", "expunged"]
    assert plan.said == ["Labels: 2 of 5 writes, first those that move or destroy"]
    many = planned(
        *(Record(n * S, "answer", "mx1", ("mail" if n != 9 else "deleted Work",)) for n in range(20))
    )
    assert [label.text for _, label in many.told["mx1"]] == ["deleted Work"]


def test_a_client_that_turns_to_a_node_is_named_below_its_lane_but_not_over_a_block() -> None:
    plan = planned(
        Record(2 * S, "failover", "mx2", ("phone", "mx1")),
        Record(4 * S, "down", "mx2", ("crashed",)),
        Record(5 * S, "failover", "mx2", ("laptop", "mx1")),
        Record(7 * S, "up", "mx2", ()),
        Record(9 * S, "failover", "mx1", ("phone", "mx2")),
    )
    named = {node: [label.text for _, label in labels] for node, labels in plan.turned.items()}
    assert named == {"mx1": ["phone"], "mx2": ["phone"]}
    assert plan.said == ["Labels: 2 of 3 clients that turn to another node"]


def test_a_label_stands_where_it_hides_no_place_of_another() -> None:
    with drawing():
        first, second = place_labels([(4.0, ["moved to Archive"]), (4.5, ["expunged"])], 9.0, 8.5, 1)
    assert first is not None
    assert second is not None
    assert first.left < 4.0 < 4.5 < second.left


def test_an_event_that_did_nothing_leaves_a_mark_with_its_legend(tmp_path: Path) -> None:
    for place, node in enumerate(("mx1", "mx2", "")):  # on a lane, on a block, of all nodes
        records = [
            Record(0, "up", "mx1", ("00",)),
            Record(S, "down", "mx2", ("crashed",)),
            Record(3 * S, "event", node, ("Heal", "Heal()", "(did nothing: nothing is cut there)")),
            Record(9 * S, "calm", ""),
        ]
        _, svg = plot.timeline(records, "Idle", tmp_path / str(place))
        assert "<!-- an event that did nothing -->" in svg.read_text()


def test_no_label_lies_over_another_or_over_the_edge() -> None:
    with drawing():
        wanted = [(at / 4, ("a crash in the middle of a commit", "crash")) for at in range(32)]
        placed = place_labels(wanted, 8.0, 8.5, 2)
        for row in (0, 1):
            in_row = [label for label in placed if label and label.row == row]
            assert len(in_row) > 2
            ends = [0.0, *(label.left + text_width(label.text, 8.5) for label in in_row)]
            assert all(label.left >= end for label, end in zip(in_row, ends, strict=False))
            assert ends[-1] <= 8.0
        assert wrap("a text that is rather long for its place", 1.0, 9, 2)[-1].endswith("…")
        assert with_room([(0, 1), (0.5, 1), (2, 1), (3.0, 1), (4, 1)]) == [0, 2, 4]


def test_the_band_is_from_the_tenth_to_the_ninetieth_percentile() -> None:
    assert spread(range(101)) == (10, 50, 90)
    assert spread([4.0]) == (4, 4, 4)
    assert spread([2.0, 1.0]) == pytest.approx((1.1, 1.5, 1.9))


@pytest.mark.parametrize("nodes", [1, 4, 5, 8, 9, 50, 500])
def test_lanes_of_many_nodes_get_thin_so_that_the_picture_stays_on_a_screen(nodes: int) -> None:
    shape = shape_for(nodes)
    assert shape.has_words == (nodes <= 8)
    assert 0 < shape.height * nodes <= 20
    assert shape.line + shape.half_block <= shape.height


# Files ---------------------------------------------------------------------------------------------------


def run_of(nodes: int, seconds: int, every: int = 1) -> list[Record]:
    """A made-up run in which everything happens that a record can tell."""
    names = [f"mx{number}" for number in range(1, nodes + 1)]
    records = [Record(0, "up", name, ("00" * 8,)) for name in names]
    number = 0
    for second in range(0, seconds, every):
        at = second * S
        for place, name in enumerate(names):
            number += 1
            target = names[(place + second) % nodes]
            records.append(
                Record(
                    at, "send", name, (target, number, ["push", "exchange", "answer", "x"][number % 4], 90)
                )
            )
            if number % 7 == 0:
                records.append(Record(at + number % 2, "lost", name, (number,)))
                continue
            if number % 11 == 0:
                records.append(Record(at, "damaged", name, (number,)))
            records.append(Record(at + 9000, "arrive", target, (number,)))
            records.append(Record(at + 9000, "sync", target, (1,)))
            records.append(Record(at + 9999, "answer", target, ("added",)))
        records.append(Record(at, "state", "", (1 + second % nodes, second % 5)))
    tenth = max(seconds // 10, 1) * S
    first, last = names[0], names[-1]
    records += [
        Record(tenth, "fault", "", ("partition", f"{first} | $the $rest")),
        Record(tenth, "cut", first, (last,)),
        Record(2 * tenth, "fault", last, ("crash", "kill -9")),
        Record(2 * tenth, "down", last, ("kill -9",)),
        Record(3 * tenth, "up", last, ("00" * 8,)),
        Record(3 * tenth, "join", first, (last,)),
        Record(4 * tenth, "pause", first),
        Record(5 * tenth, "resume", first),
        Record(6 * tenth, "calm", ""),
        Record(7 * tenth, "violation", last, ("answered writes survive", "UID 7 is missing " * 20)),
        Record(7 * tenth, "violation", "", ("all are equal",)),
    ]
    return sorted(records, key=lambda record: record.at_us)


MESSAGE_KINDS = ("send", "arrive", "lost", "damaged")

RUNS: dict[str, list[Record]] = {
    "nothing": [],
    "one record": [Record(0, "up", "mx1", ("00" * 8,))],
    "only a fault": [Record(5, "fault", "", ("loss",))],
    "only a violation": [Record(0, "violation", "mx1", ("promise",))],
    "one node": run_of(1, 5),
    "no messages": [
        record for record in run_of(3, 60) if record.kind not in ("send", "arrive", "lost", "damaged")
    ],
    "three nodes": run_of(3, 60),
    "eight nodes": run_of(8, 120),
    "fifty nodes": run_of(50, 60),
    "a month": run_of(3, 30 * 86_400, every=3600),
    "many violations": [Record(at, "violation", "mx1", ("promise", "broken")) for at in range(200)],
    "a long name": [Record(S, "cut", "mx." + "long." * 60, ("mx2" * 30,)), Record(9 * S, "calm", "")],
}

CONVERGENCE = [
    {"loss": loss, "nodes": nodes, "topology": topology, "seconds": seed * nodes / (1 - loss)}
    for loss in (0.0, 0.1, 0.3)
    for nodes in (3, 50)
    for topology in ("mesh", "chain", "unheard of")
    for seed in range(3)
]
REDUNDANCY = [
    {"topology": topology, "nodes": nodes, "redundancy": 1 + seed / nodes}
    for topology in ("star", "mesh")
    for nodes in range(3, 12)
    for seed in range(3)
]
RENUMBERINGS = [
    {"partition_s": length, "masters": masters, "renumberings": masters * length / 1000}
    for length in (0, 60, 86_400)
    for masters in (1, 2, 3)
]
GROWTH = [
    {
        "nodes": nodes,
        "topology": "mesh",
        "fanout": 3,
        "rounds": nodes / 3,
        "bytes": nodes**3,
        "redundancy": 1.1,
        "is_model": is_model,
    }
    for nodes in (3, 10, 1000)
    for is_model in (False, True)
]

SWEEPS: list[tuple[Callable[[Sequence[Any], Path], list[Path]], list[dict[str, Any]]]] = [
    (plot.convergence_against_loss, CONVERGENCE),
    (plot.convergence_against_nodes, CONVERGENCE),
    (plot.redundancy_by_topology, REDUNDANCY),
    (plot.renumberings_against_partition, RENUMBERINGS),
    (plot.growth, GROWTH),
]


def assert_pictures(files: list[Path], stem: Path) -> None:
    assert files == [stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".svg")]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert ElementTree.fromstring(files[1].read_bytes()).tag.endswith("svg")


@pytest.mark.parametrize("name", RUNS)
def test_every_run_gets_its_timeline(name: str, tmp_path: Path) -> None:
    stem = tmp_path / "a new folder" / "seed-1.5"
    assert_pictures(plot.timeline(RUNS[name], f"A run: {name}", stem), stem)


@pytest.mark.parametrize(("draw", "rows"), SWEEPS)
def test_every_sweep_gets_its_picture(
    draw: Callable[[Sequence[Any], Path], list[Path]], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    for number, some in enumerate([rows, rows[:1], []]):
        stem = tmp_path / f"{number}"
        assert_pictures(draw(some, stem.with_suffix(".svg")), stem)


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        plot.timeline(RUNS["three nodes"], "Twice", folder / "timeline", round_s=5)
        plot.growth(GROWTH, folder / "growth")
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_a_violation_is_said_in_the_picture(tmp_path: Path) -> None:
    _, svg = plot.timeline(RUNS["three nodes"], "Broken", tmp_path / "broken")
    said = svg.read_text()
    assert "BROKEN PROMISES" in said
    assert "mx3: answered writes survive: UID 7 is missing" in said


def test_a_crash_too_short_for_words_is_named_above_the_lane(tmp_path: Path) -> None:
    records = [
        Record(0, "up", "mx1", ("00" * 8,)),
        Record(10 * S, "down", "mx1", ("crashed before send",)),
        Record(10 * S + 5000, "up", "mx1", ("00" * 8,)),
        Record(30 * S, "down", "mx1", ("power cut",)),
        Record(60 * S, "calm", ""),
    ]
    _, svg = plot.timeline(records, "Two crashes", tmp_path / "crashes")
    said = svg.read_text()
    assert "<!-- crashed before send -->" in said
    assert "<!-- down: power cut -->" in said


def test_the_picture_says_which_faults_are_on_and_which_bug_is_planted(tmp_path: Path) -> None:
    facts = ["Faults: loss (high)", "Planted bug: remove-wins"]
    _, svg = plot.timeline(RUNS["three nodes"], "Facts", tmp_path / "facts", facts=facts)
    assert all(f"<!-- {fact} -->" in svg.read_text() for fact in facts)


def test_a_sheet_says_how_many_runs_a_point_has_and_draws_no_band_of_a_few(tmp_path: Path) -> None:
    few, many = ([row for row in CONVERGENCE for _ in range(n)] for n in (1, 2))
    said = [
        plot.convergence_against_loss(rows, tmp_path / f"{len(rows)}")[1].read_text() for rows in (few, many)
    ]
    assert "3 runs a point." in said[0]
    assert "6 runs a point." in said[1]
    assert said[0].count("PolyCollection") + said[0].count("FillBetween") < said[1].count(
        "PolyCollection"
    ) + said[1].count("FillBetween")


def test_the_users_own_settings_neither_show_nor_change(tmp_path: Path) -> None:
    import matplotlib

    plot.growth(GROWTH, tmp_path / "plain")
    with matplotlib.rc_context({"lines.linewidth": 20, "font.size": 30}):
        plot.growth(GROWTH, tmp_path / "odd")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "odd.svg").read_bytes()
