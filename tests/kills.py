"""kill -9 of nodes: three nodes in processes; one of them dies at a random moment, over and over.

Owns what is going on while a node is killed: one entry of `PHASES` each.  What must be true afterwards is in
`Campaign.check` and `Ledger`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import kill_moments
from tests.campaign import MISSED, Campaign, until
from tests.load import (
    WRITERS,
    Load,
    Work,
    deliver,
    deliver_much,
    folders,
    load,
    move,
    read,
)
from tests.nodes import READY, starting
from tests.stepwise import PROGRAM

ROUNDS_AN_ACCOUNT = 10  # so that what is read after each kill stays small

Phase = Callable[[Campaign, str, int], str]
"""One kill, in this account, with this number: gets the nodes to it, and the dead one back to life; where it
hit, or `MISSED`."""


def under(*works: Work) -> Phase:
    """A node is killed while clients do all of this to it."""

    def phase(it: Campaign, account: str, number: int) -> str:
        victim = it.chance.choice(tuple(it.nodes))
        others = [it.nodes[other] for other in it.others(victim)]
        with load(Load(account, it.nodes[victim], others, it.ledger), works, str(number)) as clients:
            clients.wait_for_answers(it.chance.randrange(3, 25))
            it.pause(0.02)  # somewhere between two answers, also in a commit
            it.kill(victim)
        it.start(victim)
        return "before an answer"

    return phase


def opening(it: Campaign, account: str, number: int) -> str:
    """A node is killed when it has its data file and is not yet in service."""
    victim = it.chance.choice(tuple(it.nodes))
    it.kill(victim)
    it.end(victim)
    given = it.command(victim)
    arguments = given.pop("arguments")
    with starting(it.folder(victim), *arguments, **given) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        until(lambda: "data.mdb" in maps.read_text(), f"{victim} opens its data file")
        it.pause(0.01)
        process.kill()
        process.wait()
        assert process.stdout is not None
        is_ready = READY.search(process.stdout.read().decode()) is not None
    it.start(victim)
    return MISSED if is_ready else "before it listens"


PHASES: dict[str, Phase] = {
    "delivery": under(*[deliver] * WRITERS),
    "large changes": under(deliver_much, deliver),
    "moves": under(*[move] * WRITERS),
    "readers": under(*[read] * WRITERS),
    "folders": under(folders, folders, deliver),
    "everything": under(deliver, deliver_much, move, read, folders),
    "opening": opening,
    "being filled": kill_moments.being_filled,
    "serving a snapshot": kill_moments.serving,
    "merging": kill_moments.merging,
    "repairing": kill_moments.repairing,
    "pruning": kill_moments.pruning,
    "migrating": kill_moments.migrating,
}

_TAKE_SNAPSHOTS = {"being filled", "serving a snapshot", "merging", "repairing"}
_TRIES = 10
"""Kills more in a phase that was never hit, before that counts as a failure."""


def kill(it: Campaign, number: int, name: str) -> None:
    """Kill a node in this phase, start it again, and hold all three against what was answered."""
    account = f"user{number // ROUNDS_AN_ACCOUNT}"
    it.prepare(account)
    before = it.fillings()
    hit = PHASES[name](it, account, number)
    it.check(account, may_differ=name == "repairing")
    if name not in _TAKE_SNAPSHOTS:
        taken = {node: last for node, last in it.fillings().items() if last not in (None, before[node])}
        assert not taken, f"snapshots were taken over, though every log reached back: {taken}"
    it.kills[name] += 1
    if hit != MISSED:
        it.hits[name] += 1
        it.moments[name, hit] += 1


def run(
    folder: Path,
    kills: int,
    seed: int,
    *,
    phases: Sequence[str] = tuple(PHASES),
    program: Sequence[str] = PROGRAM,
    say: Callable[[str], None] = lambda _: None,
) -> Campaign:
    """So many kills, in these phases in turn.  Raises AssertionError also if one of them was never hit."""
    begun = time.monotonic()
    with Campaign(folder, seed, program) as it:
        number = 0
        while number < kills or (missed := _missed(it, phases[:kills])):
            name = phases[number % len(phases)] if number < kills else missed[0]
            kill(it, number, name)
            number += 1
            if number % 10 == 0:
                say(f"{number} kills, {it.ledger.answers} answers kept, {time.monotonic() - begun:.0f} s")
        it.finish()
        return it


def _missed(it: Campaign, phases: Sequence[str]) -> list[str]:
    missed = [name for name in phases if not it.hits[name]]
    for name in missed:
        assert it.kills[name] < _TRIES, f"{it.kills[name]} kills, and none of them hit: {name}"
    return missed
