"""kill -9 of a node under load: every write that was answered is there when it is started again.

`python -m tests.long kills` does it 500 times.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import kills
from tests.campaign import Campaign
from tests.ledger import Ledger

ANSWERS_TOO_EARLY = """
import sys, time
from crdtmail.cli import main
from crdtmail.store.writer import Failed, Writer, run_group

commit = Writer._commit

def answer_then_commit(self, group):
    class GivenUp(Exception):
        pass

    def try_out(txn):
        for write, outcome in zip(group, run_group(txn, [write.work for write in group])):
            if not isinstance(outcome, Failed) and not write.wants_snapshot:
                write.future.set_result(outcome)
        raise GivenUp

    try:
        self._store.transact(try_out)
    except GivenUp:
        pass
    time.sleep(0.02)
    unanswered = [w._replace(future=type(w.future)()) if w.future.done() else w for w in group]
    commit(self, unanswered)

Writer._commit = answer_then_commit
raise SystemExit(main(sys.argv[1:]))
"""

PLANTED = {
    "what is staged is forgotten": (
        "being filled",
        "the snapshot began anew",
        """
def compare(self, txn, attempt, compare=Replica.compare):
    staging.discard(WritableTables(txn))
    return compare(self, txn, attempt)

Replica.compare = compare
""",
    ),
    "the clock is committed before what is merged": (
        "merging",
        "raises an alarm|do not become equal",
        """
def merge(self, txn, attempt, comparison, theirs, *, is_repair, merge=Replica.merge):
    tables = WritableTables(txn)
    head = tables.head()
    before = self.__dict__.pop("before", None)
    if before is None:
        self.before = head.clock
        head.clock, head.floor = head.clock.join(theirs), head.floor.join(theirs)
        tables.put_head(head)
        return False
    head.clock = before.join(Clock({r: seq for r, seq in head.clock.items() if r == self.id}))
    tables.put_head(head)
    return merge(self, txn, attempt, comparison, theirs, is_repair=is_repair)

Replica.merge = merge
""",
    ),
    "a repair takes away what only one has": (
        "repairing",
        "are lost",
        """
def merge(self, txn, attempt, comparison, theirs, *, is_repair, merge=Replica.merge):
    return merge(self, txn, attempt, comparison, theirs, is_repair=False)

Replica.merge = merge
""",
    ),
    "one delta too many is pruned": (
        "pruning",
        "snapshots were taken over|the log is kept",
        """
def prune(self, txn, covered, keep, prune=Replica.prune):
    prune(self, txn, covered, keep)
    tables = WritableTables(txn)
    head = tables.head()
    for entry in list(tables.log_from(0))[:1]:
        tables.delete_from_log(entry)
        head.log_bytes -= len(entry.delta)
        head.floor = head.floor.with_dot(entry.dot)
    tables.put_head(head)

Replica.prune = prune
""",
    ),
}
"""A bug, the phase in which it shows, what is said of it, and how it comes into a node."""

PLANTING = """
import sys
from crdtmail import staging
from crdtmail.crdt.clock import Clock
from crdtmail.replica import Replica
from crdtmail.store.tables import WritableTables
from tests import stepwise
{bug}
sys.exit(stepwise.main())
"""


def test_a_node_that_answers_before_it_commits_is_caught(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match=r"lost|do not become equal|raises an alarm|has refused"),
        Campaign(tmp_path, seed=1, program=("-c", ANSWERS_TOO_EARLY)) as campaign,
    ):
        for number in range(6):
            kills.kill(campaign, number, "delivery")


@pytest.mark.parametrize("bug", PLANTED)
def test_a_bug_that_shows_only_in_a_rare_moment_is_caught(tmp_path: Path, bug: str) -> None:
    """By the first kill, or on a busy machine by a later one."""
    phase, said, code = PLANTED[bug]
    with pytest.raises(AssertionError, match=said):
        kills.run(tmp_path, 8, 1, phases=[phase], program=("-c", PLANTING.format(bug=code)))


def test_every_answered_write_is_there_after_kill_9(tmp_path: Path) -> None:
    """Once in every phase, or until it was hit; afterwards the nodes are equal, and their stores sound."""
    it = kills.run(tmp_path, kills=len(kills.PHASES), seed=1)
    assert set(+it.hits) == set(kills.PHASES)


def test_the_ledger_notices_what_is_lost() -> None:
    ledger = Ledger()
    ledger.present("alice", "INBOX", "m1", "m2")
    ledger.flagged("alice", "m2")
    ledger.absent("alice", "INBOX", "m3")
    ledger.named("alice", "Work", True)
    ledger.named("alice", "Gone", False)
    right = {"INBOX": {"m1": set[str](), "m2": {"$flagged"}}}
    ledger.check("alice", right, {"Work"})
    for boxes, names in (
        ({"INBOX": {"m2": {"$flagged"}}}, {"Work"}),
        ({"INBOX": {"m1": set[str](), "m2": set[str]()}}, {"Work"}),
        ({"INBOX": {**right["INBOX"], "m3": set[str]()}}, {"Work"}),
        (right, set[str]()),
        (right, {"Work", "Gone"}),
    ):
        with pytest.raises(AssertionError):
            ledger.check("alice", boxes, names)
