"""One node's part in all conversations with its peers, as steps: what it asks, and what it answers.

`session` decides what is to be said to a peer and when; here it is said, and what comes in is taken.  A
request that is malformed, or that a peer has no business to make, changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import decode_delta
from crdtmail.crdt.delta import Delta
from crdtmail.effects import Kind, Reply, Steps, call, compute, persist, read
from crdtmail.errors import PeerError, RequestError, StoreError, StoreFull
from crdtmail.gossip.codec import (
    decode_answer,
    decode_clock,
    decode_position,
    decode_push,
    encode_answer,
    encode_clock,
    encode_position,
    encode_push,
)
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.gossip.peers import Peers
from crdtmail.gossip.session import Action, Exchange, Push, Session, Timing
from crdtmail.limits import BATCH_BYTES
from crdtmail.replica import Outcome, Replica
from crdtmail.store.interface import Transaction
from crdtmail.store.tables import Head, LogEntry, PeerRecord, Tables
from crdtmail.views import deltas_after

_REMEMBER_PEERS_EVERY_S = 60.0
_SMALL_BATCH = 64 * 1024
_TAKEN, _GAP, _OK = 204, 409, 200


@dataclass(frozen=True, slots=True)
class Reception:
    """What became of deltas from a peer: their dots, as far as they could be read, our clock after them,
    whether they stopped at a gap, and the reason where one was refused."""

    dots: tuple[Dot, ...]
    clock: Clock
    gap: bool = False
    refusal: str | None = None


class Gossip:
    """What a node knows of its peers, and every conversation that it can have with them.

    `now` gives seconds on a clock that nobody sets.
    """

    def __init__(
        self,
        replica: Replica,
        name: str,
        head: Head,
        remembered: Mapping[ReplicaId, PeerRecord],
        addresses: Iterable[str],
        *,
        timing: Timing,
        chance: random.Random,
        now: Callable[[], float],
    ) -> None:
        self.replica = replica
        self.name = name
        self.head = head
        """What is durable here.  Whoever performs the steps sets it after each commit, before they go on."""
        self.peers = Peers(replica.id, addresses, timing, chance, now())
        for peer, record in remembered.items():
            self.peers.hear(now(), Position(peer, record.name, record.clock, 0))
        self.refused = 0
        """How often something was refused that a peer sent, whoever called."""
        self._now = now
        self._remembered_at: dict[ReplicaId, float] = {}

    @property
    def position(self) -> Position:
        return Position(self.replica.id, self.name, self.head.clock, self.head.digest)

    # What we ask ----------------------------------------------------------------------------------------

    def converse(self, address: str) -> Steps[None] | None:
        """The conversation that the session with this peer wants now, if any.

        Whatever comes of it, the session is told; the steps raise nothing that a peer or the medium causes.
        """
        session = self.peers.sessions[address]
        action = session.next(self._now(), self.head.clock)
        return None if action is None else self._perform(address, session, action)

    def wait_s(self, address: str) -> float | None:
        """How long `converse` has nothing to say unless something happens; None while it is under way."""
        return self.peers.sessions[address].wait_s(self._now(), self.head.clock)

    def _perform(self, address: str, session: Session, action: Action) -> Steps[None]:
        try:
            match action:
                case Exchange():
                    yield from self._exchange(address, session)
                case Push(after, only):
                    yield from self._push(address, session, after, only)
        except (PeerError, RequestError, StoreError) as error:
            session.failed(self._now(), str(error))

    def _push(self, address: str, session: Session, after: Clock, only: ReplicaId | None) -> Steps[None]:
        entries = yield from read(lambda tables: _batch(tables, after, only))
        reply = yield from call(address, Kind.PUSH, encode_push([entry.delta for entry in entries]))
        if reply.status == _GAP:
            session.missed(self._now(), decode_clock(reply.body))
            return
        sent = [entry.dot for entry in entries]
        session.pushed(self._now(), reply.replica, sent)
        self.peers.hear_dots(self._now(), reply.replica, sent)

    def _exchange(self, address: str, session: Session) -> Steps[None]:
        ours = self.position
        reply = yield from call(address, Kind.EXCHANGE, encode_position(ours))
        with self._refusing():
            answer = decode_answer(reply.body)
            theirs = answer.position
            if theirs.replica == ours.replica:
                raise PeerError("this is the node itself, or a copy of its data folder")
        yield from self._hear(theirs)
        after = ours.clock
        if answer.deltas:
            try:
                reception = yield from self._receive(answer.deltas)
            except StoreFull as error:
                session.has_no_room(self._now(), ours, theirs, str(error))
                return
            if reception.refusal is not None:
                raise PeerError(reception.refusal)
            after = reception.clock
        session.exchanged(self._now(), ours, theirs, after)

    # What we answer -------------------------------------------------------------------------------------

    def answer(self, kind: Kind, sender: ReplicaId, body: bytes) -> Steps[Reply]:
        """A replica asks.  Raises PeerError with the reason if it is refused, StoreError, Overloaded."""
        match kind:
            case Kind.EXCHANGE:
                return (yield from self._answer_exchange(body))
            case Kind.PUSH:
                return (yield from self._answer_push(sender, body))

    def _answer_exchange(self, body: bytes) -> Steps[Reply]:
        """Our position, and the first deltas that the asker lacks."""
        with self._refusing():
            theirs = decode_position(body)
            if theirs.replica == self.replica.id:
                raise PeerError("a node's peers must not name the node itself")
        ours = self.position
        entries: list[LogEntry] = []
        if not theirs.clock.includes(ours.clock):
            entries = yield from read(lambda tables: _batch(tables, theirs.clock))
        yield from self._hear(theirs)
        if (session := self.peers.session_of(theirs.replica)) is not None:
            session.heard_position(self._now(), ours, theirs, answered=bool(entries))
        # Our position as it was before the deltas were read: what was committed since is news for later.
        return Reply(
            _OK, self.replica.id, encode_answer(ExchangeAnswer(ours, tuple(entry.delta for entry in entries)))
        )

    def _answer_push(self, sender: ReplicaId, body: bytes) -> Steps[Reply]:
        """204 when all is durable here; 409 with our clock at a gap."""
        with self._refusing():
            deltas = decode_push(body)
        reception = yield from self._receive(deltas)
        if reception.gap:
            return Reply(_GAP, self.replica.id, encode_clock(reception.clock))
        if reception.refusal is not None:
            raise PeerError(reception.refusal)
        self.peers.hear_dots(self._now(), sender, reception.dots)
        if (session := self.peers.session_of(sender)) is not None:
            session.heard_push(self._now(), reception.dots)
        return Reply(_TAKEN, self.replica.id, b"")

    # What both have in common ---------------------------------------------------------------------------

    def _receive(self, encoded: Sequence[bytes]) -> Steps[Reception]:
        """Apply deltas from another replica in order, up to the first gap or refusal; durable when over."""
        if sum(map(len, encoded)) > _SMALL_BATCH:
            deltas, refusal = yield from compute(lambda: _decode(encoded))
        else:
            deltas, refusal = _decode(encoded)
        dots = tuple(delta.dot for delta in deltas)

        def apply(txn: Transaction) -> Reception:
            for delta, data in zip(deltas, encoded, strict=False):
                try:
                    with txn.nested() as inner:
                        outcome = self.replica.receive(inner, delta, data)
                except PeerError as error:
                    return Reception(dots, Tables(txn).head().clock, refusal=str(error))
                if outcome is Outcome.GAP:
                    return Reception(dots, Tables(txn).head().clock, gap=True)
            return Reception(dots, Tables(txn).head().clock, refusal=refusal)

        reception = yield from persist(apply)
        self.refused += reception.refusal is not None
        return reception

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Count what is refused of a peer."""
        try:
            yield
        except PeerError:
            self.refused += 1
            raise

    def _hear(self, position: Position) -> Steps[None]:
        """Take note of where another replica stands; a new one is remembered durably."""
        own = self.replica.id
        if position.clock[own] > self.head.clock[own]:
            # The peer may have a delta that was committed a moment ago: only the store knows for sure.
            head = yield from read(lambda tables: tables.head())
            self.replica.lost_writes |= position.clock[own] > head.clock[own]
        self.peers.hear(self._now(), position)
        last = self._remembered_at.get(position.replica)
        if last is None or self._now() - last > _REMEMBER_PEERS_EVERY_S:
            try:
                yield from persist(
                    lambda txn: self.replica.meet(txn, position.replica, position.name, position.clock)
                )
            except StoreFull:
                return  # what is here already is told all the same; the peer is remembered another time
            self.replica.members |= {position.replica}
            self._remembered_at[position.replica] = self._now()


def _batch(tables: Tables, after: Clock, only: ReplicaId | None = None) -> list[LogEntry]:
    """One batch of what `after` does not cover, in LSN order."""
    return deltas_after(tables, after, max_bytes=BATCH_BYTES, own=only)


def _decode(encoded: Sequence[bytes]) -> tuple[list[Delta], str | None]:
    """The deltas up to the first that cannot be read, and why that one cannot."""
    deltas: list[Delta] = []
    for data in encoded:
        try:
            deltas.append(decode_delta(data))
        except PeerError as error:
            return deltas, str(error)
    return deltas, None
