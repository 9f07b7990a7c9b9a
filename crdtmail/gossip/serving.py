"""Snapshots held for peers, and what they are told about them.

Everything that a peer is told comes from one state, and is exactly that of the clock that it is told first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from crdtmail import views
from crdtmail.crdt.clock import ReplicaId
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.message import MessageId
from crdtmail.crdt.uid import Uid
from crdtmail.effects import Held, Steps, hold, read_held
from crdtmail.errors import Overloaded, PeerError, Refusal
from crdtmail.gossip.messages import Position
from crdtmail.gossip.snapshot import (
    ENDED,
    Accounts,
    AskAccounts,
    AskBlocks,
    AskDetails,
    AskMessages,
    Begin,
    Begun,
    Blocks,
    Details,
    End,
    Request,
    TheirMailbox,
    UidRange,
    encode_accounts,
    encode_begun,
    encode_blocks,
    encode_details,
    encode_messages,
)
from crdtmail.limits import (
    BATCH_BYTES,
    KIB,
    MAX_ACCOUNTS_PER_ANSWER,
    MAX_BLOCKS_PER_ANSWER,
    MAX_GOSSIP_BODY,
    MAX_SNAPSHOTS,
    SNAPSHOT_IDLE_S,
    SNAPSHOT_S,
)
from crdtmail.store.tables import Tables

_ELEMENT = 24  # bytes of a message beside its id and its instances
_MAILBOX, _ENTRY = 46, 18  # bytes of a mailbox, and of each entry of the clock that keeps it alive


@dataclass(slots=True)
class _Served:
    held: Held
    peer: ReplicaId
    begun_at: float
    asked_at: float


class Snapshots:
    """The snapshots that peers are reading."""

    def __init__(self, chance: random.Random, now: Callable[[], float]) -> None:
        self._chance = chance
        self._now = now
        self._served: dict[int, _Served] = {}
        self._beginning = 0

    def __len__(self) -> int:
        return len(self._served)

    def give_up_old(self) -> None:
        """Release what nobody has asked about for long, and what has been held for too long."""
        now = self._now()
        for number, served in list(self._served.items()):
            if now - served.asked_at > SNAPSHOT_IDLE_S or now - served.begun_at > SNAPSHOT_S:
                self._release(number)

    def release_all(self) -> None:
        for number in list(self._served):
            self._release(number)

    def answer(self, peer: ReplicaId, ours: Position, request: Request) -> Steps[bytes]:
        """What the peer asked; `ours` tells who we are.

        Raises Overloaded, or PeerError for a snapshot that is not held any more.
        """
        self.give_up_old()
        if isinstance(request, Begin):
            return encode_begun((yield from self._begin(peer, ours)))
        served = self._served.get(request.snapshot)
        if served is None or served.peer != peer:
            raise PeerError("that snapshot is not held any more; begin another one", Refusal.NOT_NOW)
        served.asked_at = self._now()
        match request:
            case AskAccounts(_, after):
                return (yield from read_held(served.held, lambda tables: _accounts(tables, after)))
            case AskDetails(_, accounts):
                return (yield from read_held(served.held, lambda tables: _details(tables, accounts)))
            case AskBlocks(_, mailboxes):
                return (yield from read_held(served.held, lambda tables: _blocks(tables, mailboxes)))
            case AskMessages(_, wanted):
                return (yield from read_held(served.held, lambda tables: _messages(tables, wanted)))
            case End(number):
                self._release(number)
                return ENDED

    def _begin(self, peer: ReplicaId, ours: Position) -> Steps[Begun]:
        self._release_all_of(peer)
        if len(self._served) + self._beginning >= MAX_SNAPSHOTS:
            raise Overloaded("snapshots are held for other peers already")
        self._beginning += 1
        try:
            held = yield from hold()
        finally:
            self._beginning -= 1
        self._release_all_of(peer)  # its question may have come twice
        number, now = self._chance.getrandbits(63), self._now()
        self._served[number] = _Served(held, peer, now, now)
        head = yield from read_held(held, lambda tables: tables.head())
        return Begun(number, replace(ours, clock=head.clock, digest=head.digest), head.messages)

    def _release_all_of(self, peer: ReplicaId) -> None:
        """It begins another one, and has forgotten about those."""
        for number, served in list(self._served.items()):
            if served.peer == peer:
                self._release(number)

    def _release(self, number: int) -> None:
        self._served.pop(number).held.release()


def _accounts(tables: Tables, after: Account) -> bytes:
    found = views.account_keys(tables, after, None, MAX_ACCOUNTS_PER_ANSWER + 1)
    kept = tuple(found[:MAX_ACCOUNTS_PER_ANSWER])
    return encode_accounts(Accounts(kept, len(found) > len(kept)))


def _details(tables: Tables, accounts: Sequence[tuple[Account, int]]) -> bytes:
    """Of the first of these accounts, as many as fit."""
    found: list[Details] = []
    size = 0
    for account, key in accounts:
        clock = tables.account(account).clock
        document = tables.directory(account) if key != views.directory_key(tables, account) else None
        boxes = tuple(
            TheirMailbox(id, record.alive, record.digest, record.uid_next)
            for id, record in tables.mailboxes(account)
        )
        size += len(document or b"") + sum(_MAILBOX + _ENTRY * len(box.alive) for box in boxes)
        if found and size > BATCH_BYTES:
            break
        found.append(Details(account, clock, document, boxes))
    return encode_details(found)


def _blocks(tables: Tables, mailboxes: Sequence[tuple[Account, MailboxId]]) -> bytes:
    """Of the first of these mailboxes, as many as fit."""
    found: list[Blocks] = []
    count = 0
    for account, mailbox in mailboxes:
        box = tables.mailbox(account, mailbox)
        blocks = tuple((each.block, each.digest) for each in tables.ranges(box.number)) if box else ()
        count += len(blocks)
        if found and count > MAX_BLOCKS_PER_ANSWER:
            break
        found.append(blocks)
    return encode_blocks(found)


def _messages(tables: Tables, wanted: Sequence[tuple[Account, MailboxId, Sequence[UidRange]]]) -> bytes:
    found: list[tuple[int, list[tuple[Uid, MessageId, bytes]]]] = []
    size = 0
    for place, (account, mailbox, ranges) in enumerate(wanted):
        box = tables.mailbox(account, mailbox)
        elements: list[tuple[Uid, MessageId, bytes]] = []
        found.append((place, elements))
        for first, last in ranges if box is not None else ():
            assert box is not None
            for element in tables.bodies(box.number, first, last):
                uid, id, body = element
                # Messages that share a UID travel together.
                if size > BATCH_BYTES and (not elements or elements[-1][0] != uid):
                    return encode_messages([each for each in found if each[1]], (place, uid))
                if size > MAX_GOSSIP_BODY - 64 * KIB:
                    raise PeerError(
                        f"too many messages share UID {uid}, until mailbox {mailbox.hex()} is read there",
                        Refusal.NOT_NOW,
                    )
                elements.append(element)
                size += len(id) + len(body) + _ELEMENT
    return encode_messages(found, None)
