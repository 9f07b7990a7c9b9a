"""What a node says of itself and of its peers.  Nothing here is a guess: what is not known is null."""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import crdtmail
from crdtmail.crdt.clock import Clock
from crdtmail.gossip.peers import Heard
from crdtmail.gossip.refusals import OTHERS
from crdtmail.gossip.session import Session
from crdtmail.limits import SILENT_S
from crdtmail.node import Node
from crdtmail.store.interface import Table
from crdtmail.store.tables import Tables
from crdtmail.views import first_missing
from crdtmail.web import documents
from crdtmail.web.listener import Listener


class Alarm(StrEnum):
    """What an operator has to do something about.  The names stay."""

    STORE_FULL = "store-full"
    DIVERGED = "diverged"
    SAME_NAME = "same-name"
    SILENT_MEMBER = "silent-member"


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
                "deltas": sum(head.clock.values()) - sum(head.floor.values()),
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
        "alarms": [{"kind": kind.value, "text": text} for kind, text in _alarms(node)],
        "refusedFromPeers": gossip.refusals.faults,
        "refusals": [
            {
                "peer": peer,
                "name": _name_of(node, peer),
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


def _alarms(node: Node) -> Iterator[tuple[Alarm, str]]:
    if node.is_full:
        yield (
            Alarm.STORE_FULL,
            "there is no room left for this node's store: it takes no writes, and nothing from its peers. "
            "Make room on the disk of its data folder; it goes on by itself",
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


def _members(node: Node) -> list[dict[str, Any]]:
    gossip = node.gossip
    counting = gossip.peers.members(gossip.retired)
    return [
        {
            "replica": f"{replica:016x}",
            "name": heard.name,
            "lastHeardSeconds": _age(node, heard.at),
            "isRetired": replica in gossip.retired,
            "counts": replica in counting,
            "heldBack": gossip.held_back(heard) if replica in counting else 0,
        }
        for replica, heard in sorted(gossip.peers.heard.items())
    ]


def _name_of(node: Node, peer: str | None) -> str | None:
    """What whoever `Refusals` names is called; None if that is not known."""
    if peer is None or peer == OTHERS:
        return None
    if (session := node.gossip.peers.sessions.get(peer)) is not None:
        return None if session.peer is None else session.peer.name
    for replica, heard in node.gossip.peers.heard.items():
        if f"{replica:016x}" == peer:
            return heard.name
    return None


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
    failing = session.failing_since
    return {
        "address": address,
        "replica": None if session.peer is None else f"{session.peer.replica:016x}",
        "name": None if session.peer is None else session.peer.name,
        "reachable": failing is None and session.peer is not None,
        "lag": lag,
        "lastHeardSeconds": _age(node, session.heard_at),
        "failingSeconds": _age(node, failing),
        "error": session.last_error,
        "diverged": session.diverged,
    }


def _lag(tables: Tables, ours: Clock, theirs: Clock) -> dict[str, Any]:
    """What the peer is not known to have: how many deltas, and how long the oldest has been here."""
    lsn = first_missing(tables, tables.head(), theirs)
    entry = None if lsn is None else tables.log_entry(lsn)
    seconds = 0.0 if entry is None else max(0.0, time.time() - entry.applied_at_ms / 1000)
    return {"deltas": ours.count_missing_from(theirs), "seconds": round(seconds, 3)}


def _age(node: Node, at: float | None) -> float | None:
    return None if at is None else round(node.now() - at, 3)
