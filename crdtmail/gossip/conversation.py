"""One node's part in all conversations with its peers, as steps: what it asks, and what it answers.

`session` decides what is to be said to a peer and when; here it is said, and what comes in is taken.  A
request that is malformed, or that a peer has no business to make, changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import decode_delta
from crdtmail.crdt.delta import Delta
from crdtmail.effects import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    Call,
    Kind,
    Reply,
    Steps,
    call,
    compute,
    persist,
    read,
)
from crdtmail.errors import PeerError, Refusal, RequestError, StoreError, StoreFull, UnknownProtocol
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
from crdtmail.gossip.filling import Filling, fill
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.gossip.peers import Heard, Peers
from crdtmail.gossip.refusals import Refusals
from crdtmail.gossip.serving import Snapshots
from crdtmail.gossip.session import Action, Exchange, Push, Session, Timing
from crdtmail.gossip.snapshot import (
    Begin,
    Begun,
    decode_begun,
    decode_numbered,
    decode_request,
    encode_numbered,
)
from crdtmail.limits import (
    BATCH_BYTES,
    GOSSIP_TIMEOUT_S,
    MAX_NEW_IDS,
    MAX_REPLICAS,
    OFFERS_PAUSE_S,
    RECEIVE_S,
    STAGED_S,
)
from crdtmail.replica import Keep, Outcome, Replica
from crdtmail.store.interface import T, Transaction
from crdtmail.store.tables import Head, LogEntry, PeerRecord, Tables
from crdtmail.views import deltas_after

_REMEMBER_PEERS_EVERY_S = 60.0
_MOMENT_S = 0.002  # more than is lost where it is remembered in ms
_SMALL_BATCH = 64 * 1024
_TAKEN, _GAP, _OK = 204, 409, 200


@dataclass(frozen=True, slots=True)
class Reception:
    """What became of deltas from a peer: their dots, as far as they could be read, our clock after them,
    the one at which they stopped because it builds on what is not here, and why where one was refused; or
    how many were taken in the time that there was."""

    dots: tuple[Dot, ...]
    clock: Clock
    gap: Dot | None = None
    refusal: PeerError | None = None
    taken: int | None = None


@dataclass(slots=True)
class _Offered:
    """A peer's snapshot that is being taken over in answers to what that peer sends."""

    sender: ReplicaId
    steps: Steps[Position]
    answered_at: float
    questions: int = 0
    asked: int = 0
    """The number of the question that waits for its answer; 0 while something else is done."""


class Gossip:
    """What a node knows of its peers, and every conversation that it can have with them.

    `now` gives seconds on a clock that nobody sets; `protocol` is the newest version that it speaks; nodes of
    another `cluster` are refused.
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
        protocol: int = PROTOCOL,
        cluster: str = "",
    ) -> None:
        self.replica = replica
        self.name = name
        self.head = head
        """What is durable here.  Whoever performs the steps sets it after each commit, before they go on."""
        self.peers = Peers(replica.id, name, addresses, timing, chance, now())
        at, wall_ms = now(), replica.time_ms()
        for peer, record in sorted(remembered.items(), key=lambda each: each[1].seen_at_ms, reverse=True):
            # In the order in which they were heard, also where the wall clock has been set back since.
            at = min(at - _MOMENT_S, now() - (wall_ms - record.seen_at_ms) / 1000)
            self.peers.hear(at, Position(peer, record.name, record.clock, 0))
        self.retired = frozenset(peer for peer, record in remembered.items() if record.is_retired)
        """The replicas that are gone for good."""
        self.filling: Filling | None = None
        """The snapshot that is being taken over, if any."""
        self.lacks_snapshot = False
        """Whether a peer has told of one that this node needs, and none has come to its end since."""
        self.lacking_since = now()
        """Since when it is lacking and none of it has come, if it is."""
        self.snapshots = Snapshots(chance, now)
        """Those that are held for others."""
        self.last_filling: Filling | None = None
        """The last one that has been taken over since the start."""
        self.refusals = Refusals(now)
        """What was refused of peers, whoever called, and of others that are none."""
        self.renewed = 0
        """How often this node has taken another id, because the old one was no longer its own."""
        self.was_retired = False
        """Whether the last time it was because an operator had retired it, and for no other reason."""
        self._now = now
        self.protocol = protocol
        self.cluster = cluster
        self._staged_at = now()
        """When something of a snapshot has come last."""
        self._takes_offers_at = now()
        self._remembered_at: dict[ReplicaId, float] = {}
        self._asked: list[bytes] = []
        self._offered: _Offered | None = None

    @property
    def position(self) -> Position:
        return Position(
            self.replica.id, self.name, self.head.clock, self.head.digest, self.retired, self.cluster
        )

    def change_peers(self, addresses: Iterable[str]) -> None:
        """Call these from now on.  No conversation with another one may be under way."""
        self.peers.change(addresses, self._now())

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
            if isinstance(error, PeerError):
                self.refusals.refuse(address, error)
            session.failed(self._now(), str(error))
        except Exception as error:
            # A bug.  The peer is tried again all the same, for the next answer may be another one.
            session.failed(self._now(), f"this node has a bug: {error!r}")
            raise

    def _push(self, address: str, session: Session, after: Clock, only: ReplicaId | None) -> Steps[None]:
        entries = yield from read(lambda tables: _batch(tables, after, only))
        if not entries:  # the log does not reach back so far
            yield from self._offer(address, session)
            return
        reply = yield from call(
            address, Kind.PUSH, encode_push([entry.delta for entry in entries]), session.protocol
        )
        sent = [entry.dot for entry in entries]
        if reply.status == _GAP:
            session.missed(self._now(), decode_clock(reply.body), sent)
            return
        session.pushed(self._now(), reply.replica, sent)
        self.peers.hear_dots(self._now(), reply.replica, sent)

    def _exchange(self, address: str, session: Session) -> Steps[None]:
        known = {replica: heard.clock for replica, heard in self.peers.heard.items()}
        ours, reply = yield from self._ask_position(address, session)
        answer = yield from _parse(partial(decode_answer, protocol=session.protocol), reply.body)
        theirs = answer.position
        if theirs.replica == ours.replica:
            raise PeerError(
                "a copy of this node's data folder answers there, and will take another id", Refusal.OWN_ID
            )
        if not theirs.clock.includes(known.get(theirs.replica, Clock())):
            # Taken all the same: it is how a peer whose disk went back in time gets back what it lost.
            self.refusals.count(
                address, Refusal.CLOCK_WENT_BACK, f"{theirs.name} no longer has all that it once had"
            )
        self._check_cluster(theirs)
        yield from self._hear(theirs)
        after = ours.clock
        is_repair = theirs.contradicts(ours.clock, ours.digest)
        if is_repair or not self.head.clock.includes(answer.floor):
            session.met(ours, theirs)
            self._lack_snapshot()
            theirs = yield from self._fill(address, is_repair=is_repair)
            ours, after = self.position, self.head.clock
            if is_repair and theirs.contradicts(ours.clock, ours.digest):
                yield from self._offer(address, session)  # it lacks something, and may have no way to call
        if answer.deltas:
            try:
                reception = yield from self._receive(address, answer.deltas)
            except StoreFull as error:
                session.has_no_room(self._now(), ours, theirs, str(error))
                return
            if reception.refusal is not None:
                raise reception.refusal
            after = reception.clock
        session.exchanged(self._now(), ours, theirs, after)

    def _ask_position(self, address: str, session: Session) -> Steps[tuple[Position, Reply]]:
        """Our position, and the answer to an exchange that tells of it, in the newest version of the protocol
        that both speak."""
        for protocol in range(self.protocol, OLDEST_PROTOCOL - 1, -1):
            ours = self.position  # anew, for this node may have taken another id since it was answered
            asked = encode_position(ours, protocol)
            self._asked.append(asked)
            try:
                reply = yield from call(address, Kind.EXCHANGE, asked, protocol)
            except UnknownProtocol:
                if protocol == OLDEST_PROTOCOL:
                    raise
            else:
                session.protocol = protocol
                return ours, reply
            finally:
                self._asked.remove(asked)
        raise AssertionError("the oldest version is the last")

    def _offer(self, address: str, session: Session) -> Steps[None]:
        """Have a peer that perhaps cannot call us take over a snapshot of ours: it asks in its answers."""
        if session.protocol < Kind.OFFER.since:
            raise PeerError("the peer needs a snapshot, and its version has none: it must be upgraded")
        reply = yield from call(address, Kind.OFFER, b"")
        begun: Begun | None = None
        while reply.body:
            number, question = yield from _parse(decode_numbered, reply.body)
            request = yield from _parse(decode_request, question)
            # One snapshot is all, and that is given up in time: so this comes to an end, whatever is asked.
            if isinstance(request, Begin) and begun is not None:
                raise PeerError("the peer begins a second snapshot in one offer", Refusal.NOT_ASKED)
            answer = yield from self.snapshots.answer(reply.replica, self.position, request)
            if isinstance(request, Begin):
                begun = decode_begun(answer)
            reply = yield from call(address, Kind.OFFER, encode_numbered(number, answer))
        if begun is None:
            raise PeerError("the peer wanted no snapshot", Refusal.NOT_ASKED)
        session.filled(self._now(), reply.replica, begun.position.clock)

    # What we answer -------------------------------------------------------------------------------------

    def answer(self, kind: Kind, sender: ReplicaId, body: bytes, protocol: int = PROTOCOL) -> Steps[Reply]:
        """A replica asks.  Raises PeerError with the reason if it is refused, StoreError, Overloaded."""
        try:
            if not max(OLDEST_PROTOCOL, kind.since) <= protocol <= self.protocol:
                known = f"{OLDEST_PROTOCOL} to {self.protocol}"
                raise UnknownProtocol(
                    f"{kind.value}: not version {protocol}, this node speaks {known}", Refusal.PROTOCOL
                )
            match kind:
                case Kind.EXCHANGE:
                    return (yield from self._answer_exchange(sender, body, protocol))
                case Kind.PUSH:
                    return (yield from self._answer_push(sender, body))
                case Kind.SNAPSHOT:
                    return (yield from self._answer_snapshot(sender, body))
                case Kind.OFFER:
                    return (yield from self._answer_offer(sender, body))
        except PeerError as error:
            self.refusals.refuse(f"{sender:016x}", error)
            raise

    def _answer_exchange(self, sender: ReplicaId, body: bytes, protocol: int) -> Steps[Reply]:
        """Our position, and the first deltas that the asker lacks."""
        theirs = decode_position(body, protocol)
        if protocol < Kind.SNAPSHOT.since and not theirs.clock.includes(self.head.floor):
            raise PeerError(
                "the log no longer reaches back so far, and your version takes no snapshot", Refusal.PROTOCOL
            )
        if theirs.replica == self.replica.id and body in self._asked:
            raise PeerError("a node's peers must not name the node itself", Refusal.OWN_ID)
        if theirs.replica != sender:
            raise PeerError("the position is another replica's than the sender's", Refusal.IMPOSSIBLE)
        self._check_cluster(theirs)
        if theirs.replica == self.replica.id:
            yield from self._renew(theirs.replica, is_ambiguous=True)
        ours = self.position
        entries: list[LogEntry] = []
        if not theirs.clock.includes(ours.clock):
            entries = yield from read(lambda tables: _batch(tables, theirs.clock))
        yield from self._hear(theirs)
        if (session := self.peers.session_of(theirs.replica)) is not None:
            session.heard_position(self._now(), ours, theirs, answered=bool(entries))
        floor = Clock() if theirs.clock.includes(self.head.floor) else self.head.floor
        # Our position as it was before the deltas were read: what was committed since is news for later.
        return Reply(
            _OK,
            self.replica.id,
            encode_answer(ExchangeAnswer(ours, tuple(entry.delta for entry in entries), floor), protocol),
        )

    def _answer_offer(self, sender: ReplicaId, body: bytes) -> Steps[Reply]:
        """A peer offers its snapshot, or answers our question about it; our next question, or nothing."""
        if not body:
            self._end_offer(by=sender)
            if self._now() < self._takes_offers_at:
                raise PeerError(
                    "other changes have waited for the last snapshot, and come first", Refusal.FILLING
                )
            steps = self._fill(f"{sender:016x}", is_offered=True)
            self._offered = _Offered(sender, steps, self._now())
            value: Any = None
        else:
            number, answer = yield from _parse(decode_numbered, body)
            if self._offered is None or (self._offered.sender, self._offered.asked) != (sender, number):
                raise PeerError("that is no answer to what was asked last", Refusal.NOT_NOW)
            value = Reply(_OK, sender, answer)
        offered = self._offered
        offered.asked = 0  # another copy of this answer is none to what is asked next
        offered.answered_at = self._now()
        try:
            effect = offered.steps.send(value)
            while not isinstance(effect, Call):
                try:
                    value = yield effect
                except Exception as error:
                    effect = offered.steps.throw(error)
                else:
                    effect = offered.steps.send(value)
        except StopIteration:
            self._forget(offered)
            return Reply(_OK, self.replica.id, b"")
        except BaseException:  # refused, or given up by whoever performs it
            offered.steps.close()
            self._forget(offered)
            raise
        offered.questions += 1
        offered.asked = offered.questions
        return Reply(_OK, self.replica.id, encode_numbered(offered.asked, effect.body))

    def _forget(self, offered: _Offered) -> None:
        if self._offered is offered:
            self._offered = None

    def _end_offer(self, by: ReplicaId | None = None) -> None:
        """Give up what is being taken over, unless something is being done for it just now, or another node
        than the one that is taken from wants to begin while that one goes on."""
        if (offered := self._offered) is None:
            return
        is_alive = self._now() - offered.answered_at <= GOSSIP_TIMEOUT_S
        if not offered.asked or (by not in (None, offered.sender) and is_alive):
            raise PeerError("a snapshot is being taken over", Refusal.FILLING)
        offered.steps.close()
        self._offered = None

    def _answer_snapshot(self, sender: ReplicaId, body: bytes) -> Steps[Reply]:
        request = yield from _parse(decode_request, body)
        answer = yield from self.snapshots.answer(sender, self.position, request)
        return Reply(_OK, self.replica.id, answer)

    def _answer_push(self, sender: ReplicaId, body: bytes) -> Steps[Reply]:
        """204 when all is durable here; 409 with our clock at a gap, or where it takes too long."""
        deltas = yield from _parse(decode_push, body)
        reception = yield from self._receive(f"{sender:016x}", deltas)
        if reception.gap is not None or reception.taken is not None:
            return Reply(_GAP, self.replica.id, encode_clock(reception.clock))
        if reception.refusal is not None:
            raise reception.refusal
        self.peers.hear_dots(self._now(), sender, reception.dots)
        if (session := self.peers.session_of(sender)) is not None:
            session.heard_push(self._now(), reception.dots)
        return Reply(_TAKEN, self.replica.id, b"")

    # Keeping house -------------------------------------------------------------------------------------

    def keep_house(self, keep: Keep) -> Steps[None]:
        """What has to be done now and then: give up old snapshots, take away what is left of one that was
        taken over, and prune the log."""
        self.snapshots.give_up_old()
        offered = self._offered
        if offered is not None and offered.asked and self._now() - offered.answered_at > GOSSIP_TIMEOUT_S:
            self._end_offer()
        if self.filling is None:
            if self._now() - self._staged_at > STAGED_S and (yield from read(Tables.has_staged)):
                yield from persist(self.replica.discard_staged)
            if (yield from read(lambda tables: any(tables.garbage()))):
                while (yield from persist(self.replica.clear_garbage)):
                    pass
        while self.head.log_bytes and (
            yield from read(lambda tables: self.replica.may_prune(tables, self.stable(), keep))
        ):
            yield from persist(lambda txn: self.replica.prune(txn, self.stable(), keep))

    def silent_members(self, after_s: float) -> list[Heard]:
        """The members of which nothing was heard for so long."""
        members = self.peers.members(self.retired).values()
        return [member for member in members if self._now() - member.at > after_s]

    def held_back(self, member: Heard) -> int:
        """How many entries of the log are kept for this member: those that it is not known to have."""
        return self.head.clock.count_missing_from(member.clock.join(self.head.floor))

    def stable(self) -> Clock:
        """What every member is known to have, whoever counts as one (`Peers.members`)."""
        return self.peers.stable(self.head.clock, self.retired)

    # What both have in common ---------------------------------------------------------------------------

    def _receive(self, peer: str, encoded: Sequence[bytes]) -> Steps[Reception]:
        """Apply deltas from another replica in order, up to the first gap or refusal; durable when over.

        A commit takes no more of them than it can in a moment, for local writes wait meanwhile; and all take
        no longer than the sender waits for an answer.
        """
        size = sum(map(len, encoded))
        if size > BATCH_BYTES and len(encoded) > 1:
            raise PeerError(f"several deltas at once take at most {BATCH_BYTES} bytes", Refusal.OVER_LIMIT)
        deltas, refusal = yield from _worked(size, lambda: _decode(encoded))
        dots = tuple(delta.dot for delta in deltas)

        def apply(txn: Transaction, first: int) -> Reception:
            until = self._now() + RECEIVE_S
            for number, (delta, data) in enumerate(zip(deltas[first:], encoded[first:], strict=False)):
                if number and self._now() >= until:
                    return Reception(dots, Tables(txn).head().clock, taken=first + number)
                try:
                    with txn.nested() as inner:
                        outcome = self.replica.receive(inner, delta, data)
                except PeerError as error:
                    return Reception(dots, Tables(txn).head().clock, refusal=error)
                if outcome is Outcome.GAP:
                    return Reception(dots, Tables(txn).head().clock, gap=delta.dot)
            return Reception(dots, Tables(txn).head().clock, refusal=refusal)

        until = self._now() + GOSSIP_TIMEOUT_S / 4
        reception = yield from persist(partial(apply, first=0))
        while reception.taken is not None and self._now() < until:
            reception = yield from persist(partial(apply, first=reception.taken))
        if (gap := reception.gap) is not None:
            text = f"delta {gap.seq} of {gap.replica:016x} builds on what is not here"
            self.refusals.count(peer, Refusal.GAP, text)
        return reception

    def _fill(self, address: str, *, is_repair: bool = False, is_offered: bool = False) -> Steps[Position]:
        """Take over what the peer has, from a snapshot; its position, which is included here then."""
        if self.filling is not None:
            raise PeerError(f"a snapshot of {self.filling.peer} is being taken over", Refusal.FILLING)
        self.filling = filling = Filling(address, self._now())
        try:
            theirs = yield from fill(
                self.replica,
                address,
                filling,
                hear=self._hear_of_snapshot,
                now=self._now,
                is_repair=is_repair,
            )
        finally:
            self.filling, filling.attempt.is_on = None, False
            now = self._now()
            if filling.staged or filling.directories:
                self._staged_at = self.lacking_since = now
            # Not after our own: a peer whose snapshot always fails us would keep out all that is offered.
            if is_offered and filling.attempt.has_turned_away:
                self._takes_offers_at = now + min(now - filling.began, OFFERS_PAUSE_S)
        self.lacks_snapshot = False
        self.last_filling, filling.took_s = filling, self._now() - filling.began
        return theirs

    def _hear_of_snapshot(self, position: Position) -> Steps[None]:
        """Whoever only offers has told nothing before."""
        self._check_cluster(position)
        self._lack_snapshot()
        yield from self._hear(position)

    def _lack_snapshot(self) -> None:
        if not self.lacks_snapshot:
            self.lacks_snapshot, self.lacking_since = True, self._now()

    def _check_cluster(self, theirs: Position) -> None:
        if theirs.digest is not None and theirs.cluster != self.cluster:
            raise PeerError(
                f"{theirs.name} belongs to {_called(theirs.cluster)}, {self.name} to {_called(self.cluster)}",
                Refusal.ANOTHER_CLUSTER,
            )

    def _renew(self, old: ReplicaId, *, is_ambiguous: bool) -> Steps[None]:
        """Take a new id, before anything more is written."""
        if self.renewed >= MAX_NEW_IDS:
            raise PeerError(
                "this node has taken new ids often enough; it does not believe that one again", Refusal.OWN_ID
            )
        if (yield from persist(lambda txn: self.replica.renew(txn, old, is_ambiguous=is_ambiguous))):
            self.peers.be(self.replica.id)
            self.renewed += 1
            self.was_retired = not is_ambiguous

    def retire(self, replicas: Iterable[ReplicaId]) -> Steps[None]:
        """These replicas are gone for good; others hear of it with our position.  Raises Forbidden."""
        new = frozenset(replicas) - self.retired
        if new:
            yield from persist(lambda txn: self.replica.retire(txn, new))
            self.retired |= new

    def remember_peers(self, txn: Transaction) -> None:
        """Before the end: what was heard of each since it was last remembered, which tells a restore what
        others have of this node's changes."""
        now = self._now()
        self.replica.remember(
            txn,
            {
                replica: (heard.clock, int((now - heard.at) * 1000))
                for replica, heard in self.peers.heard.items()
            },
        )

    def _hear(self, position: Position) -> Steps[None]:
        """Take note of where another replica stands; a new one is remembered durably."""
        own = self.replica.id
        is_lost = False
        if position.clock[own] > self.head.clock[own]:
            # The peer may have a delta that was committed a moment ago: only the store knows for sure.
            head = yield from read(lambda tables: tables.head())
            is_lost = position.clock[own] > head.clock[own]
        if self.replica.id == own and (is_lost or own in position.retired):
            yield from self._renew(own, is_ambiguous=is_lost)
        known = self.head.clock.keys() | self.peers.heard.keys()
        if position.replica not in known and len(known) >= MAX_REPLICAS:
            raise PeerError(f"{len(known)} replicas are known, more are not", Refusal.OVER_LIMIT)
        yield from self.retire(position.retired & known - {self.replica.id})
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


def _called(cluster: str) -> str:
    return f"cluster {cluster!r}" if cluster else "no cluster"


def _parse(decode: Callable[[bytes], T], body: bytes) -> Steps[T]:
    return _worked(len(body), lambda: decode(body))


def _worked(size: int, work: Callable[[], T]) -> Steps[T]:
    """What comes of `work` on so many bytes; on many, where it holds nobody up."""
    if size <= _SMALL_BATCH:
        return work()
    return (yield from compute(work))


def _batch(tables: Tables, after: Clock, only: ReplicaId | None = None) -> list[LogEntry]:
    """One batch of what `after` does not cover, in LSN order."""
    return deltas_after(tables, after, max_bytes=BATCH_BYTES, own=only)


def _decode(encoded: Sequence[bytes]) -> tuple[list[Delta], PeerError | None]:
    """The deltas up to the first that cannot be read, and why that one cannot."""
    deltas: list[Delta] = []
    for data in encoded:
        try:
            deltas.append(decode_delta(data))
        except PeerError as error:
            return deltas, error
    return deltas, None
