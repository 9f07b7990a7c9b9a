"""What a node says of itself and of its peers.  Nothing here is a guess: what is not known is null."""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import StrEnum
from math import inf
from typing import Any

import crdtmail
from crdtmail.crdt.clock import Clock
from crdtmail.gossip.peers import Heard
from crdtmail.gossip.session import Session
from crdtmail.limits import ALONE_S, LEAST_FREE, SILENT_S
from crdtmail.node import Node
from crdtmail.store.interface import Room, Table
from crdtmail.store.tables import Tables
from crdtmail.views import first_missing
from crdtmail.web import documents
from crdtmail.web.listener import Listener


class Alarm(StrEnum):
    """What an operator has to do something about.  The names stay."""

    STORE_FULL = "store-full"
    DAMAGED = "damaged"
    DIVERGED = "diverged"
    SAME_NAME = "same-name"
    SILENT_MEMBER = "silent-member"
    MISTRUST = "mistrust"
    ALONE = "alone"


async def node_status(node: Node, listener: Listener) -> dict[str, Any]:
    """The node's identity, clock, digest and log, how far each peer is behind it, and what was refused."""
    known = {
        address: session.known for address, session in node.gossip.peers.sessions.items() if session.peer
    }

    def query(tables: Tables) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        head = tables.head()
        state = {
            "clock": documents.clock(head.clock),
            "digest": documents.digest(head.digest),
            "messages": head.messages,
            "log": {
                "deltas": tables.log_length(),
                "bytes": head.log_bytes,
                "diskBytes": sizes[Table.LOG] + sizes[Table.LOG_INDEX],
            },
        }
        return state, {address: _lag(tables, head.clock, clock) for address, clock in known.items()}

    sizes, disk = await node.table_sizes(), await node.disk()
    state, lags = await node.read(query)
    gossip = node.gossip
    unauthenticated = gossip.refusals.unauthenticated
    return {
        "replica": f"{node.replica.id:016x}",
        "name": node.name,
        "version": crdtmail.__version__,
        **state,
        "disk": None if disk is None else {"storeBytes": disk.taken, "freeBytes": disk.free},
        "connections": listener.connections,
        "writes": {"answered": node.written, "withoutRoom": node.not_written},
        "alarms": [{"kind": kind.value, "text": text} for kind, text in _alarms(node, disk)],
        "refusedFromPeers": gossip.refusals.faults,
        "refusals": [
            {
                "peer": peer,
                "name": None if peer is None else gossip.peers.name_of(peer),
                "reason": reason.value,
                "count": refused.count,
                "lastSeconds": _age(node, refused.at),
                "last": refused.text,
            }
            for peer, reason, refused in gossip.refusals
        ],
        "unauthenticated": {
            "requests": unauthenticated.count if unauthenticated else 0,
            "last": unauthenticated.text if unauthenticated else None,
        },
        "members": _members(node),
        "filling": _filling(node),
        "lastFilling": _last_filling(node),
        "snapshotsServed": len(gossip.snapshots),
        "peers": [
            _peer(node, address, session, lags.get(address))
            for address, session in gossip.peers.sessions.items()
        ],
    }


def silence(node: Node, member: Heard) -> str:
    """What there is to say about a member of which nothing is heard."""
    seconds = node.now() - member.at
    time = f"{seconds / 3600:.1f} hours" if seconds < 2 * 86_400 else f"{seconds / 86_400:.1f} days"
    held = node.gossip.held_back(member)
    log = f"has grown by {held} change(s)" if held else "will grow with the next change"
    return (
        f"member {member.name} is silent for {time}, and the log {log}, kept for it: mend it, or say that it "
        f"is gone for good: crdtmail retire {member.name}"
    )


def _alarms(node: Node, disk: Room | None) -> Iterator[tuple[Alarm, str]]:
    if node.is_full:
        yield (
            Alarm.STORE_FULL,
            "there is no room left for this node's store: it takes no writes, and nothing from its peers. "
            "Make room on the disk of its data folder; it goes on by itself",
        )
    elif disk is not None and disk.free < LEAST_FREE:
        yield (
            Alarm.STORE_FULL,
            "no room is left for more than a small write to this node's store: "
            f"{disk.free:,} bytes are free. Make room on the disk of its data folder",
        )
    if node.damage is not None:
        yield (
            Alarm.DAMAGED,
            f"this node's store is damaged ({node.damage}): what touches that record is refused, also what "
            "comes from peers.  Stop the node and run crdtmail check",
        )
    for address, session in node.gossip.peers.sessions.items():
        if session.diverged:
            yield (
                Alarm.DIVERGED,
                f"{address} has the same clock but another digest: one of the two stores is damaged",
            )
        if session.peer is not None and session.peer.name == node.name:
            yield (
                Alarm.SAME_NAME,
                f"{address} has this node's name, {node.name}: give each node one of its own",
            )
    for member in node.gossip.silent_members(SILENT_S):
        yield Alarm.SILENT_MEMBER, silence(node, member)
    for text in twins(node):
        yield Alarm.SAME_NAME, text
    if node.is_taking_over_all and node.gossip.filling is None:
        seconds = node.now() - node.gossip.lacking_since
        if seconds > ALONE_S:
            yield (
                Alarm.ALONE,
                "this node is new and shows no mailboxes before it has taken over those of another one, and "
                f"nobody has given it any for {seconds:.0f} s.  If all that have them are gone for good, "
                "restart this node: it goes on with what it has",
            )
    yield from _alarms_of_peers(node)


def _members(node: Node) -> list[dict[str, Any]]:
    gossip = node.gossip
    counting = gossip.peers.members(gossip.retired)
    namesakes = {replica for replicas in node.namesakes().values() for replica in replicas}
    return [
        {
            "replica": f"{replica:016x}",
            "name": heard.name,
            "lastHeardSeconds": _age(node, heard.at),
            "isRetired": replica in gossip.retired,
            "counts": replica in counting,
            "isTwin": replica in namesakes,
            "heldBack": gossip.held_back(heard) if replica in counting else 0,
        }
        for replica, heard in sorted(gossip.peers.heard.items())
    ]


def twins(node: Node) -> list[str]:
    """Nodes that call themselves the same."""
    return [
        f"{len(replicas)} nodes call themselves {name} ({', '.join(f'{each:016x}' for each in replicas)}): "
        "a cloned data folder?  Stop one, or give each a name of its own"
        for name, replicas in node.namesakes().items()
    ]


def _alarms_of_peers(node: Node) -> Iterator[tuple[Alarm, str]]:
    """What stops exchange with a peer until somebody mends it, or with all of them."""
    sessions, troubles = node.gossip.peers.sessions, node.troubles
    for address, trouble in troubles.items():
        if trouble.is_mistrust and address in sessions:
            text = f"{address} and this node do not let each other in: {sessions[address].last_error}"
            yield Alarm.MISTRUST, text
    failing = [
        node.now() - session.failing_since
        for address, session in sessions.items()
        if session.failing_since is not None and not _waits(node, address)
    ]
    if failing and len(failing) == len(sessions):
        # Who takes nothing may still tell what it has, and who cannot be called may call.
        silent = min((node.now() - heard.at for heard in node.gossip.peers.heard.values()), default=inf)
        if (seconds := min(*failing, silent)) > ALONE_S:
            yield Alarm.ALONE, f"nothing was exchanged with any peer for {seconds:.0f} s"


def _waits(node: Node, address: str) -> str | None:
    """What a peer that is well waits for, if it or this node cannot take anything just now."""
    trouble = node.troubles.get(address)
    return None if trouble is None else trouble.waits


def _filling(node: Node) -> dict[str, Any] | None:
    """How far this node is with taking over another one's snapshot."""
    filling = node.gossip.filling
    if filling is None:
        return None
    return {
        "from": filling.peer,
        "seconds": _age(node, filling.began),
        "messagesThere": filling.messages,
        "messagesStaged": filling.staged,
        "bytes": filling.bytes,
    }


def _last_filling(node: Node) -> dict[str, Any] | None:
    """The last snapshot that was taken over since the start."""
    filling = node.gossip.last_filling
    if filling is None:
        return None
    return {
        "from": filling.peer,
        "seconds": round(filling.took_s, 3),
        "messagesStaged": filling.staged,
        "bytes": filling.bytes,
    }


def _peer(node: Node, address: str, session: Session, lag: dict[str, Any] | None) -> dict[str, Any]:
    waits = _waits(node, address)
    failing = session.failing_since if waits is None else None
    return {
        "address": address,
        "replica": None if session.peer is None else f"{session.peer.replica:016x}",
        "name": None if session.peer is None else session.peer.name,
        "reachable": waits is not None or (failing is None and session.peer is not None),
        "lag": lag,
        "lastHeardSeconds": _age(node, session.heard_at),
        "failingSeconds": _age(node, failing),
        "error": session.last_error if waits is None else None,
        "waits": waits,
        "diverged": session.diverged,
    }


def _lag(tables: Tables, ours: Clock, theirs: Clock) -> dict[str, Any]:
    """What the peer is not known to have: how many deltas, and how long the oldest has been here; nobody
    knows that where the log does not reach back to it."""
    head = tables.head()
    lsn = first_missing(tables, head, theirs)
    entry = None if lsn is None else tables.log_entry(lsn)
    seconds = 0.0 if entry is None else round(max(0.0, time.time() - entry.applied_at_ms / 1000), 3)
    return {
        "deltas": ours.count_missing_from(theirs),
        "seconds": seconds if theirs.includes(head.floor) else None,
    }


def _age(node: Node, at: float | None) -> float | None:
    return None if at is None else round(node.now() - at, 3)
