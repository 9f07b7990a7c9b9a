"""What a run tells a person: mistakes in a scenario, every event, what came to nothing, names in words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from simulations import actions, scenarios
from simulations.__main__ import main
from simulations.actions import (
    Clog,
    Connect,
    Crash,
    Cut,
    DamageRecord,
    Deliver,
    Drift,
    Event,
    Expunge,
    FailDisk,
    Follow,
    Heal,
    Install,
    Look,
    Mark,
    RenameMailbox,
    Start,
    Stranger,
)
from simulations.config import Config
from simulations.documents import (
    SHOWN_BUG,
    actions_table,
    documented_seeds,
)
from simulations.failure import Failure
from simulations.faults import FAULTS
from simulations.planted import PLANTED
from simulations.report import line, say
from simulations.schedule import schedule
from simulations.story import checked
from simulations.trace import equal_after_heal_s
from simulations.violation import MOST_WORDS, Violation, expect, in_words
from simulations.world import Result, run
from tests.simulated import run_seed, swarm
from tests.test_docs import blocks, read

ROOT = Path(__file__).parents[1]


def told(*story: Event, nodes: tuple[str, ...] = ("a", "b"), seconds: float = 60) -> Result:
    config = Config(nodes=nodes, operations=0, seconds=seconds, story=story, accounts=("alice",))
    result = run(1, checked(config), list(story))
    assert result.violation is None
    return result


def kinds(result: Result, kind: str) -> list[Any]:
    return [record for record in result.trace if record.kind == kind]


# Mistakes in a scenario ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (DamageRecord("a", "state"), "DamageRecord at 1 s: table is 'state'; it can be META, LOG, "),
        (FailDisk("a", how="fire"), "FailDisk at 1 s: how is 'fire'; it can be I/O error, disk full"),
        (Stranger("a", "soap"), "Stranger at 1 s: what is 'soap'; it can be noise, "),
        (Install("a", 99), "Install at 1 s: protocol is 99; it can be "),
        (
            Cut("a", ("b",)),  # type: ignore[arg-type]
            r"Cut at 1 s: sources is 'a', and must be a tuple, as in \('a',\): Cut\(sources: ",
        ),
        (Mark("phone", part=(5, 10)), r"Mark at 1 s: part is \(5, 10\); it is from one fraction to another"),
        (Expunge("phone", part=(0.5, 0.1)), r"Expunge at 1 s: part is \(0.5, 0.1\); it is"),
        (Drift("a", 0.0), "Drift at 1 s: rate is 0; it is at least 0.001"),
        (FailDisk("a", 0), "FailDisk at 1 s: commits is 0; it is at least 1"),
        (DamageRecord("a", "LOG", 7.0), "DamageRecord at 1 s: where is 7; it is a fraction, from 0 to 1"),
        (Heal(("a",)), "Heal at 1 s names sources or targets alone"),
        (Heal(("a",), ("x",)), "Heal at 1 s names the node 'x'; there are a, b"),
    ],
)
def test_a_name_or_field_that_cannot_be_meant_is_said_with_what_there_is(action: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        story = (Event(0, Connect("phone", "a")), Event(1, action))
        checked(Config(nodes=("a", "b"), operations=0, story=story))


def test_what_is_no_event_is_said() -> None:
    with pytest.raises(ValueError, match="which is not an Event"):
        checked(Config(story=(Connect("phone", "mx1"),)))  # type: ignore[arg-type]


def test_an_unknown_topology_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"mesh, chain, ring, star, one way, hubs N .*, random N "):
        checked(Config(topology="tree"))


def test_a_field_that_does_not_exist_is_said_with_its_line_and_those_that_there_are(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from simulations.actions import Pause\n\nPause('mx1', second=5)\n")
    with pytest.raises(ValueError, match=r"'second' \(line 3\); Pause\(node: str, seconds: float\)"):
        scenarios.load(str(file))


# Every event --------------------------------------------------------------------------------------------


def test_every_event_has_a_line_in_the_trace_and_says_if_it_did_nothing() -> None:
    for seed in range(3):
        config = swarm(seed, faults=dict.fromkeys(FAULTS, "on"))
        result = run_seed(seed, config)
        events = kinds(result, "event")
        assert [e.details[1] for e in events] == [actions.spelt(e.action) for e in schedule(seed, config)]


def test_an_event_is_spelt_as_in_a_story() -> None:
    for action in (Cut(("a",), ("b",), both_ways=False), Clog("a", "b", 2.5), Heal(), Look("x", "Work")):
        assert eval(actions.spelt(action), {**vars(actions)}) == action
    assert actions.spelt(Look("x")) == "Look('x')"
    assert line(told(Event(1, Crash("a")), Event(2, Start("a"))).trace[-1])


def test_what_did_nothing_is_told_with_the_reason() -> None:
    result = told(
        Event(1, Connect("phone", "a")),
        Event(2, Mark("phone", add=("$seen",))),
        Event(3, Follow("phone")),
        Event(4, Deliver("a", ("mail",))),
        Event(5, RenameMailbox("phone", "Projetcs", "Projects")),
        Event(6, Heal()),
        Event(7, Crash("b")),
        Event(8, Crash("b")),
        Event(9, Deliver("b", ("late",))),
        Event(10, Start("b")),
        Event(11, Start("b")),
        Event(12, Look("phone")),
        Event(13, Mark("phone", remove=("$seen",))),
    )
    assert [(at, why) for at, _, why in result.did_nothing] == [
        (2, "phone has read nothing yet"),
        (3, "it has read no mailbox here whose changes it could follow"),
        (5, "there is no mailbox named 'Projetcs'"),
        (6, "nothing is cut there"),
        (8, "b is down"),
        (9, "b is down"),
        (11, "b runs already"),
        (13, "there was nothing to change"),
    ]


def test_the_end_of_a_run_tells_what_did_nothing_and_everything_that_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from simulations.actions import *\nfrom simulations.config import Config\n"
        "CONFIG = Config(nodes=('a', 'b'), operations=0, story=(Event(1, Connect('phone', 'a')),"
        "Event(2, CreateMailbox('phone', 'Old', role='archive')), Event(3, PutScript('phone', ('keep;',))),"
        "Event(4, Annotate('phone', 'Old', 'mine', True)), Event(5, Cut(('a',), ('b',))), Event(9, Heal()),"
        "Event(10, RenameMailbox('phone', 'Projetcs', 'P'))))"
    )
    assert main(["run", str(file)]) == 0
    said = capsys.readouterr().out
    assert "1 event of the story did nothing:" in said
    assert said.endswith("Every promise held. But 1 of the 7 events of the story did nothing: see above.\n")
    assert "10 s RenameMailbox('phone', 'Projetcs', 'P'): there is no mailbox named 'Projetcs'" in said
    assert "(empty)" in said
    assert "alice, Old: role archive, subscribed, /private/comment: mine" in said
    assert "alice, script main (active): keep;" in said
    assert "seconds from when the last cut was healed until all nodes were equal" in said


def test_a_look_tells_how_much_it_was_shown() -> None:
    result = told(
        Event(1, Deliver("a", ("one", "two"))), Event(2, Connect("phone", "a")), Event(3, Look("phone"))
    )
    (looked,) = kinds(result, "client")
    uid = result.shown[-1][2]
    assert looked.details == ("phone", "Look", f"done: 2 messages, highest UID {uid}")


def test_a_client_that_turns_to_another_node_is_told_once_for_each_turn() -> None:
    result = told(*(Event(at, Connect("phone", node)) for at, node in enumerate("aabba", 1)))
    assert [(record.node, record.details) for record in kinds(result, "failover")] == [
        ("b", ("phone", "a")),
        ("a", ("phone", "b")),
    ]


def test_what_did_nothing_is_told_in_the_order_of_time_whenever_it_was_known() -> None:
    """A client waits in vain for what it has seen elsewhere, while another event does nothing at once."""
    result = told(
        Event(1, Connect("phone", "a")),
        Event(2, Cut(("a",), ("b",))),
        Event(3, Deliver("a", ("mail",))),
        Event(4, Look("phone")),
        Event(5, Connect("phone", "b")),
        Event(6, Look("phone")),
        Event(7, Start("b")),
    )
    assert [(at, type(action)) for at, action, _ in result.did_nothing] == [(6, Look), (7, Start)]


# Messages, cuts, what is missing ------------------------------------------------------------------------


def test_nothing_arrives_at_a_node_that_is_down() -> None:
    result = told(Event(5, Crash("b")), Event(30, Start("b")))
    at = [(r.kind, r.at_us) for r in result.trace if r.node == "b" and r.kind in ("arrive", "refused")]
    assert {kind for kind, us in at if 5e6 < us < 30e6} == {"refused"}
    assert {kind for kind, us in at if not 5e6 < us < 30e6} == {"arrive"}


def test_one_cut_is_healed_while_another_lasts() -> None:
    result = told(
        Event(1, Cut(("a",), ("b", "c"))),
        Event(5, Heal(("b",), ("a",))),
        Event(9, Heal()),
        nodes=("a", "b", "c"),
    )
    joined = {(r.at_us // 10**6, r.node, r.details[0]) for r in kinds(result, "join")}
    assert joined == {(5, "a", "b"), (5, "b", "a"), (9, "a", "c"), (9, "c", "a")}


def test_what_is_missing_is_what_some_have_and_others_lack() -> None:
    """Each of two nodes that are cut apart lacks what the other has: both count."""
    result = told(
        Event(2, Deliver("a", ("before",))),
        Event(10, Cut(("a",), ("b",))),
        *(Event(11 + n, Deliver("a", (f"a{n}",))) for n in range(3)),
        *(Event(11 + n, Deliver("b", (f"b{n}",))) for n in range(3)),
        Event(30, Heal()),
    )
    cut = [r.details for r in kinds(result, "state") if 14e6 < r.at_us < 30e6]
    assert set(cut) <= {(2, 6)}
    assert max(r.details[1] for r in kinds(result, "state")) == 6


def test_it_is_told_how_long_after_the_last_heal_all_were_equal() -> None:
    story = (Event(1, Cut(("a",), ("b",))), Event(2, Deliver("a", ("mail",))), Event(20, Heal()))
    result = told(*story)
    first = next(r for r in kinds(result, "state") if r.at_us > 20e6 and r.details == (1, 0))
    assert equal_after_heal_s(result.trace) == pytest.approx(first.at_us / 1e6 - 20)
    assert equal_after_heal_s(told(Event(2, Deliver("a", ("mail",)))).trace) is None


# Words --------------------------------------------------------------------------------------------------


def test_what_was_seen_is_put_into_a_sentence_with_names() -> None:
    one, other = ReplicaId(0x0123456789ABCDEF), ReplicaId(0xFEDCBA9876543210)
    names = {int(one): "mx1", int(other): "mx2'"}
    with pytest.raises(Violation) as broken:
        expect(False, "a promise", "{} lacks {} and has {}", "mx1", Dot(other, 5), Clock({one: 3}))
    assert in_words(broken.value.seen, names) == "mx1 lacks change 5 of mx2' and has [mx1 3]"
    assert in_words(str(Clock()), names) == "[nothing]"
    assert len(in_words("word " * 1000, names)) <= MOST_WORDS + 2
    with pytest.raises(Violation, match=r"a promise: mx1: \{\}"):
        expect(False, "a promise", "mx1", {})


@pytest.mark.parametrize("bug", ["remove-wins", "expunge-takes-the-unseen", "no-fsync-before-answer"])
def test_a_broken_promise_is_told_in_words(bug: str) -> None:
    seed, promise = documented_seeds(read("testing.md"))[bug]
    assert seed is not None
    violation = run_seed(seed, swarm(seed, planted=(bug,)), records=False).violation
    assert violation is not None
    assert violation.startswith(f"{promise}: ")
    for code in ("Clock(", "Dot(", "Reply(", "Head("):
        assert code not in violation


def test_a_flag_that_stays_behind_is_told_with_its_node_message_mailbox_and_account() -> None:
    seed, _ = documented_seeds(read("testing.md"))["flags-do-not-follow-a-move"]
    assert seed is not None
    violation = run_seed(seed, swarm(seed, planted=("flags-do-not-follow-a-move",)), records=False).violation
    assert violation is not None
    said = (
        r"mx\d did not put [+-]\$?\w+ after [\w-]+, now in \w+ of alice2?, when it took change \d+ of mx\d$"
    )
    assert re.search(said, violation)


def test_a_mailbox_goes_by_its_name_and_by_a_number_only_if_there_were_several() -> None:
    said = in_words("00ff of alice and 01ff", {}, {"00ff": "INBOX#0", "01ff": "Work#1"})
    assert said == "INBOX of alice and Work#1"


def test_numbers_have_no_exponents() -> None:
    assert [say(n) for n in (0.0, 3, 85812.0, 85812.7, 1.23456, 0.00004)] == [
        "0",
        "3",
        "85,812",
        "85,813",
        "1.235",
        "0.00004",
    ]


# What the documents say ---------------------------------------------------------------------------------


def promises() -> Iterator[str]:
    """Every promise that the simulations hold a run against."""
    for file in (ROOT / "simulations").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Assign | ast.Call):
                yield from _promises_in(node)


def _promises_in(node: ast.Assign | ast.Call) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        place = {"expect": 1, "Violation": 0, "_become_equal": 0}.get(name)
        values = node.args[place : place + 1] if place is not None else []
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
        "promise",
        "(promise, seen)",
        "(promise, seen_of)",
    ):
        value = node.value
        values = value.elts[:1] if isinstance(value, ast.Tuple) else [value]
    else:
        values = []
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def test_every_promise_is_found_in_the_document_as_a_run_words_it() -> None:
    text = " ".join(read("testing.md").split())
    found = set(promises())
    assert len(found) > 60
    assert sorted(promise for promise in found if promise not in text) == []


def test_no_promise_is_documented_that_nobody_checks() -> None:
    table = (
        read("testing.md")
        .split("| what a run that breaks it calls it |\n|---|---|---|\n")[1]
        .split("\n\n")[0]
    )
    named = [name for row in table.splitlines() for name in row.split(" | ")[2].rstrip(" |").split("; ")]
    assert sorted(set(named) - set(promises()) - {"no unhandled exception"}) == []


def test_the_table_of_actions_is_what_the_actions_are() -> None:
    """If not: `python -m simulations docs actions`."""
    assert actions_table() in read("simulations.md")


def test_planted_bugs_are_found_where_the_document_says() -> None:
    """If not, the swarm has changed: `python -m simulations docs planted` writes the table anew."""
    documented = documented_seeds(read("testing.md"))
    assert documented.keys() == PLANTED.keys()
    for bug, (seed, promise) in documented.items():
        if seed is not None:
            assert run_seed(seed, swarm(seed, planted=(bug,)), records=False).promise == promise, bug
            early = range(max(0, seed - 3), seed)
            assert not any(run_seed(n, swarm(n, planted=(bug,)), records=False).violation for n in early), bug


def test_the_walkthrough_of_a_planted_bug_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks("simulations.md") if block.info == "walkthrough"]
    seed, promise = documented_seeds(read("testing.md"))[SHOWN_BUG]
    assert f"stops at seed {seed}," in block.text
    codes = []
    for command in block.text.splitlines():
        words = command.split("#")[0].split()
        assert words[:3] == ["python", "-m", "simulations"]
        codes.append(main([*words[3:], *(["--jobs", "1"] if words[3] == "campaign" else [])]))
        said = capsys.readouterr().out
        # A strict replay looks at everything after every commit, so it may see another promise break before.
        assert promise in said or ("--strict" in words and "BROKEN" in said)
    assert codes == [1, 1, 1, 0, 1]
    assert len(Failure.load(Path(f"failures/swarm-{seed}-{SHOWN_BUG}.small.json")).events) < 12
    assert all(Path(name).exists() for name in ("failed.png", "small.png"))


def test_failures_with_different_bugs_are_different_files() -> None:
    files = {
        Failure(
            scenario="swarm", seed=1, promise="p", violation="v", config=Config(planted=bugs), events=[]
        ).file_name
        for bugs in ((), ("remove-wins",), ("remove-wins", "digest-forgotten"))
    }
    assert files == {"swarm-1.json", "swarm-1-remove-wins.json", "swarm-1-remove-wins-digest-forgotten.json"}
