"""What a node does for its clients, as steps: writing, reading a mailbox, waiting for others.

Nothing here knows of HTTP, threads or a clock; `effects` says how the steps are performed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.effects import Steps, persist, persist_then_read, read, wait
from crdtmail.errors import Ambiguous, Forbidden, NotFound, NotYet, StillHeard
from crdtmail.gossip.conversation import Gossip
from crdtmail.limits import ALIVE_S
from crdtmail.replica import Replica
from crdtmail.store.interface import T, Transaction
from crdtmail.store.tables import Mailbox, Tables
from crdtmail.views import is_fit_to_show


@dataclass(frozen=True, slots=True)
class Written:
    """What a write gave: the delta that it made (none if it changed nothing) and the clock that covers it."""

    dot: Dot | None
    clock: Clock


def write(replica: Replica, work: Callable[[Replica, Transaction], T]) -> Steps[tuple[T, Written]]:
    """Run a command; over when its effects are durable.

    Raises RequestError as the command does, StoreError if nothing can be written any more.
    """

    def run(txn: Transaction) -> tuple[T, Written]:
        tables = Tables(txn)
        before = tables.head()
        result = work(replica, txn)
        after = tables.head()
        dot = Dot(replica.author, after.clock[replica.author]) if after.lsn > before.lsn else None
        return result, Written(dot, after.clock)

    return persist(run)


def read_mailbox(
    replica: Replica, account: Account, mailbox: MailboxId, query: Callable[[Tables, Mailbox], T]
) -> Steps[T]:
    """Run `query` on a snapshot in which every UID of the mailbox may be shown.  Raises NotFound."""

    def if_fit(tables: Tables) -> tuple[bool, T | None]:
        box = _mailbox(tables, account, mailbox)
        return (True, query(tables, box)) if is_fit_to_show(box) else (False, None)

    done, result = yield from read(if_fit)
    if done:
        return result  # type: ignore[return-value]
    return (
        yield from persist_then_read(
            lambda txn: replica.show(txn, account, mailbox),
            lambda tables: query(tables, _mailbox(tables, account, mailbox)),
        )
    )


def wait_for_clock(gossip: Gossip, clock: Clock, timeout_s: float) -> Steps[None]:
    """Until everything that `clock` covers is applied here.  Raises NotYet after `timeout_s`."""
    if not (yield from wait(lambda: gossip.head.clock.includes(clock), timeout_s)):
        lacking = clock.count_missing_from(gossip.head.clock)
        raise NotYet(f"{lacking} change(s) that the token covers have not arrived here")


def wait_for_replicas(gossip: Gossip, dot: Dot, count: int, timeout_s: float) -> Steps[int]:
    """Until `count` other replicas have the delta, or the time is over; how many have it."""
    yield from wait(lambda: gossip.peers.count_covering(dot) >= count, timeout_s)
    return gossip.peers.count_covering(dot)


def whom_to_retire(gossip: Gossip, member: str, now: float, *, force: bool) -> list[ReplicaId]:
    """The replicas that an operator means who calls `member`, a name or an id, gone for good.

    A name means the server that bears it now, and what it was before: each new folder gave it another id.
    Those that are retired already are meant only if there are no others.
    Raises NotFound, Ambiguous, Forbidden for the node itself, StillHeard unless it is forced.
    """
    own, heard = gossip.replica.id, gossip.peers.heard
    found = {r: now - it.at for r, it in heard.items() if r != own and member in (it.name, f"{r:016x}")}
    if member in (gossip.name, f"{own:016x}"):
        found[own] = 0.0
    if not found:
        raise NotFound(f"no member is known as {member!r}")
    left = sorted(found.keys() - gossip.retired, key=lambda replica: found[replica])
    alive = [replica for replica in left if found[replica] < ALIVE_S]
    if len(alive) > 1:
        each = ", ".join(
            f"{r:016x} ({'this node' if r == own else f'heard of {found[r]:.0f} s ago'})" for r in left
        )
        raise Ambiguous(
            f"{len(alive)} replicas that were heard of within a minute are called {member}; "
            f"name one of them by its id: {each}"
        )
    if own in left:
        raise Forbidden("a node cannot retire itself; stop it, and say so to another node")
    if alive and not force:
        raise StillHeard(
            f"{heard[alive[0]].name} ({alive[0]:016x}) was heard of {found[alive[0]]:.0f} s ago: "
            "stop it first and wait a minute, or use force (--force) if you mean it"
        )
    return left or sorted(found)


def _mailbox(tables: Tables, account: Account, mailbox: MailboxId) -> Mailbox:
    box = tables.mailbox(account, mailbox)
    if box is None:
        raise NotFound(f"there is no mailbox with the id {mailbox.hex()} in this account")
    return box
