"""Kills in the middle of what a node does rarely: snapshots, merges, repairs, pruning, migrations.

Each function is one kill: it brings the nodes to the moment, waits until it is really there, kills after a
short while more, and starts the node again.  It waits for what nodes say, never for a time, and says whether
the kill hit what it was meant for, by what is on the disk of the dead node.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from crdtmail import LmdbStore
from crdtmail.client import Client
from crdtmail.crdt.delta import MailboxId
from crdtmail.crdt.message import MessageId
from crdtmail.limits import MIB
from tests import endings, old_stores
from tests.campaign import BOXES, KEEP_MB, MISSED, Campaign, Disk, covers, until
from tests.filling import lose_messages
from tests.load import Load, deliver, load
from tests.nodes import starting
from tests.stepwise import MERGES, MIGRATES

MANY = 3000
"""Messages of which a snapshot takes some half a second: their deltas are more than a log keeps."""
SOME = 1500
"""Messages whose merge takes some 0.1 s."""
BACKLOG = 400
"""Deltas that are pruned in some 20 commits."""
_AT_ONCE = 500
_PADDING = "-" * 150
_BLOCK = 128


@dataclass
class Bulk:
    """A mailbox of its own with many messages, which goes when the kill is over."""

    account: str
    name: str
    id: str
    ids: list[str]


@contextmanager
def bulk(
    it: Campaign, account: str, number: int, *, at: str, count: int, may_differ: bool = False
) -> Iterator[Bulk]:
    """The mailbox, filled at one node.  It is deleted when all that was answered of it has been checked."""
    name = f"Bulk-{number}"
    with endings.asking(it.address(at)) as client:
        made = Bulk(account, name, client.create_mailbox(account, name)["id"], [])
        add(it, client, made, "first", count)
    yield made
    it.check(account, may_differ=may_differ)
    it.ledger.forget(account, name)
    with endings.asking(it.address(at)) as client:
        client.at(account, name, "DELETE")


def add(it: Campaign, client: Client, to: Bulk, prefix: str, count: int) -> None:
    for start in range(0, count, _AT_ONCE):
        ids = [f"{prefix}-{n}{_PADDING}" for n in range(start, min(count, start + _AT_ONCE))]
        new = {"messages": [{"id": id, "size": 1} for id in ids]}
        client.at(to.account, to.name, "POST", "/messages", new)
        it.ledger.present(to.account, to.name, *ids)
        to.ids += ids


# Snapshots ----------------------------------------------------------------------------------------------


def being_filled(it: Campaign, account: str, number: int) -> str:
    """The node that takes over a snapshot.  It must go on with what had come."""
    filled, source, _ = _roles(it)
    it.kill(filled)
    with bulk(it, account, number, at=source, count=MANY) as box:
        target = _log_is_cut(it, filled)
        slack = _slack(it, account, source)
        enough = it.chance.uniform(0.1, 0.9) * MANY
        it.start(filled)
        with _delivering(it, account, f"{number}", filled):
            is_there = _wait_until_staged(it, filled, enough)
            _a_moment(it)
            it.kill(filled)
        disk = it.disk(filled)
        before = disk.staged.get(box.id, 0)
        it.start(filled)
        if covers(disk.clock, target):
            return MISSED
        _went_on(it, filled, target, MANY - before + slack)
        return "some are staged" if is_there is not None and before > slack else MISSED


def serving(it: Campaign, account: str, number: int) -> str:
    """The node that gives a snapshot.  Who takes it must go on with what had come, from whomever."""
    filled, source, other = _roles(it)
    it.kill(filled)
    with bulk(it, account, number, at=source, count=MANY) as box:
        target = _log_is_cut(it, filled)
        slack = _slack(it, account, source)
        enough = it.chance.uniform(0.1, 0.9) * MANY
        it.start(filled)
        filling = _wait_until_staged(it, filled, enough)
        server = _who(it, filling["from"], (source, other)) if filling else source
        with _delivering(it, account, f"{number}", server):
            _a_moment(it)
            it.kill(server)
        killed_at = time.monotonic()
        is_hit = filling is not None and not covers(it.status(filled)["clock"], target)
        it.start(server)
        if is_hit:
            assert filling is not None
            _went_on(it, filled, target, MANY - filling["messagesStaged"] + slack, since=killed_at)
        assert box.ids
        return "some are staged" if filling and is_hit and filling["messagesStaged"] > slack else MISSED


def merging(it: Campaign, account: str, number: int) -> str:
    """The node that merges a snapshot into what it has written alone."""
    filled, source, _ = _roles(it)
    with bulk(it, account, number, at=source, count=SOME) as box:
        it.check(account)
        it.kill(filled)
        _write_alone(it, filled, box)
        with endings.asking(it.address(source)) as client:
            mark_flagged(it, client, box, box.ids[SOME // 10 : SOME])
            add(it, client, box, "second", MANY - SOME)
        target = _log_is_cut(it, filled)
        since = it.log_size(filled)
        it.start(filled)
        with _delivering(it, account, f"{number}", filled):
            until(lambda: MERGES in it.said(filled, since), f"{filled} merges")
            it.pause(0.15)
            it.kill(filled)
        disk = it.disk(filled)
        it.start(filled)
        return _hit_of_a_merge(disk, is_merged=covers(disk.clock, target))


def repairing(it: Campaign, account: str, number: int) -> str:
    """The node whose disk has lost messages of which its clock knows, and which takes them back."""
    filled, source, _ = _roles(it)
    with bulk(it, account, number, at=source, count=SOME, may_differ=True) as box:
        it.check(account)
        it.kill(filled)
        digest = it.disk(filled).digest
        with closing(LmdbStore(it.folder(filled))) as store:
            lost = [MessageId(id) for id in it.chance.sample(box.ids, SOME // 2)]
            store.transact(lambda txn: lose_messages(txn, account, MailboxId(bytes.fromhex(box.id)), lost))
        since = it.log_size(filled)
        it.start(filled)
        until(lambda: MERGES in it.said(filled, since), f"{filled} repairs")
        it.pause(0.04)
        it.kill(filled)
        disk = it.disk(filled)
        it.start(filled)
        return _hit_of_a_merge(disk, is_merged=disk.digest == digest)


def _hit_of_a_merge(disk: Disk, *, is_merged: bool) -> str:
    if not is_merged:
        return "before it is committed"
    return "before all staged is cleared" if disk.staged else MISSED


def _roles(it: Campaign) -> tuple[str, str, str]:
    """Who is killed or filled, and the two others."""
    one = it.chance.choice(tuple(it.nodes))
    return (one, *it.chance.sample(it.others(one), 2))  # type: ignore[return-value]


def _log_is_cut(it: Campaign, away: str) -> dict[str, int]:
    """Wait until the logs of the others hold no more than is kept, which is less than what was written since
    this node is away; the clock that it has to reach."""
    others = it.others(away)
    endings.until_equal(lambda: it.verify(*others))
    for name in others:
        until(lambda name=name: it.status(name)["log"]["bytes"] <= KEEP_MB * MIB, f"{name} cuts its log")  # type: ignore[misc]
    clock: dict[str, int] = it.status(others[0])["clock"]
    return clock


def _slack(it: Campaign, account: str, source: str) -> int:
    """What may be fetched twice: blocks that had come in part, and mailboxes that somebody writes to."""
    with endings.asking(it.address(source)) as client:
        boxes = [box for box in client.mailboxes(account) if box["name"] in BOXES]
    return 2 * _BLOCK + sum(int(box["totalEmails"]) for box in boxes)


def _wait_until_staged(it: Campaign, name: str, enough: float) -> dict[str, Any] | None:
    """Wait until so many messages have come; None if the snapshot was merged before that was seen."""
    found: dict[str, Any] | None = None

    def is_there(client: Client) -> bool:
        nonlocal found
        status = client.status()
        found = status["filling"]
        return (found is not None and found["messagesStaged"] >= enough) or status["lastFilling"] is not None

    with endings.asking(it.address(name)) as client:
        until(lambda: is_there(client), f"{name} takes over a snapshot")
    return found


def _went_on(it: Campaign, name: str, target: dict[str, int], most: int, since: float = 0.0) -> None:
    """Wait until the node is filled.  In no attempt since then may more have come than was lacking."""
    come = 0

    def is_filled(client: Client) -> bool:
        nonlocal come
        status = client.status()
        now = time.monotonic()
        for each in (status["filling"], status["lastFilling"]):
            if each is not None and each["seconds"] < now - since:
                come = max(come, int(each["messagesStaged"]))
        return covers(status["clock"], target)

    with endings.asking(it.address(name)) as client:
        until(lambda: is_filled(client), f"{name} is filled")
        is_filled(client)
    assert come <= most, f"the snapshot began anew: {come} messages came, {most} were lacking"


def _who(it: Campaign, source: str, names: Sequence[str]) -> str:
    """The node that a filling is from: it was called at its address, or its replica has called."""
    return next(name for name in names if source in (it.address(name), it.status(name)["replica"]))


def _write_alone(it: Campaign, name: str, box: Bulk) -> None:
    """Let a dead node live for a while where nobody finds it, and change the mailbox there."""
    with closing(Client(it.start(name, alone=True).address)) as client:
        gone = box.ids[: SOME // 10]
        it.ledger.absent(box.account, box.name, *gone)
        client.at(box.account, box.name, "POST", "/expunge", {"ids": gone})
        mark_flagged(it, client, box, box.ids[SOME // 10 : SOME // 5])
        add(it, client, box, "alone", 50)
    it.kill(name)


def mark_flagged(it: Campaign, client: Client, box: Bulk, ids: list[str]) -> None:
    patch = {"ids": ids, "patch": {"keywords/$flagged": True}}
    client.at(box.account, box.name, "PATCH", "/messages", patch)
    it.ledger.flagged(box.account, *ids)


@contextmanager
def _delivering(it: Campaign, account: str, prefix: str, name: str) -> Iterator[None]:
    """Somebody delivers to the node, which the block kills."""
    others = [it.nodes[other] for other in it.others(name)]
    with load(Load(account, it.nodes[name], others, it.ledger), [deliver], prefix):
        yield


# Pruning ------------------------------------------------------------------------------------------------


def pruning(it: Campaign, account: str, number: int) -> str:
    """A node that takes off its log what it had kept for another one, which is back."""
    away, pruned, other = _roles(it)
    it.kill(away)
    with endings.asking(it.address(other)) as client:
        id = f"{number}-backlog"
        client.at(account, "INBOX", "POST", "/messages", {"messages": [{"id": id, "size": 1}]})
        it.ledger.present(account, "INBOX", id)
    with endings.asking(it.address(other)) as client:
        for n in range(BACKLOG):
            patch = {"ids": [id], "patch": {"keywords/$x": True if n % 2 == 0 else None}}
            client.at(account, "INBOX", "PATCH", "/messages", patch)
    endings.until_equal(lambda: it.verify(pruned, other))
    full = int(it.status(pruned)["log"]["deltas"])
    assert full > BACKLOG, "the log is kept for who is away"
    few = it.chance.uniform(0.2, 1.0) * full
    it.start(away)
    with _delivering(it, account, f"{number}", pruned), endings.asking(it.address(pruned)) as client:
        until(lambda: client.status()["log"]["deltas"] < few, f"{pruned} prunes its log")
        _a_moment(it)
        it.kill(pruned)
    lsns = it.disk(pruned).log
    it.start(pruned)
    return "some are pruned" if 0 < len(lsns) < full else MISSED


# Migrations ---------------------------------------------------------------------------------------------


def migrating(it: Campaign, account: str, number: int) -> str:
    """A node that starts with a store of the older format.  Killed, it has that one whole, or today's."""
    name, source, _ = _roles(it)
    with bulk(it, account, number, at=source, count=SOME):
        it.check(account)
        it.kill(name)
        it.end(name)
        old_stores.make_old(it.folder(name))
        since = it.log_size(name)
        given = it.command(name)
        arguments = given.pop("arguments")
        with starting(it.folder(name), *arguments, **given) as process:
            until(lambda: MIGRATES in it.said(name, since), f"{name} migrates its store")
            it.pause(0.03)
            process.kill()
        left = it.disk(name).format
        it.start(name)
        return "before it is committed" if left == old_stores.OLD else MISSED


def _a_moment(it: Campaign) -> None:
    """Somewhere between two steps, also in one."""
    it.pause(0.02)
