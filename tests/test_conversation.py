"""Conversations as steps: what is asked for, and what is made of the answers, without any runtime."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import dump, encode_delta, with_checksum
from crdtmail.crdt.delta import Create, Delta, MailboxId
from crdtmail.effects import Call, Compute, Kind, Persist, Read, Reply, Steps
from crdtmail.errors import PeerError, Refusal, StoreFull
from crdtmail.gossip import filling
from crdtmail.gossip.codec import decode_clock, decode_position, encode_answer, encode_position, encode_push
from crdtmail.gossip.conversation import Gossip
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.gossip.session import Timing
from crdtmail.gossip.snapshot import (
    AskAccounts,
    AskDetails,
    Begin,
    Begun,
    decode_begun,
    decode_numbered,
    decode_request,
    encode_begun,
    encode_numbered,
    encode_request,
)
from crdtmail.limits import GOSSIP_TIMEOUT_S, SNAPSHOT_S, STAGED_S
from crdtmail.replica import KEEP_ALL, Outcome
from crdtmail.store.interface import Transaction
from crdtmail.store.tables import Lsn, PeerRecord, Tables
from tests.filling import Source, perform
from tests.masters import ACCOUNT, Master, mail

PEER, SUCCESSOR = ReplicaId(2), ReplicaId(3)
ADDRESS = "http://peer"
NOTHING = Clock()


class Talker:
    """One replica in memory and its part in conversations; `reply` is what the peer answers next."""

    def __init__(self, remembered: Mapping[ReplicaId, PeerRecord] | None = None, *, wall_ms: int = 0) -> None:
        self.master = Master(1)
        self.master.replica.time_ms = lambda: wall_ms + int(self.now * 1000)
        self.now = 0.0
        self.new_id = ReplicaId(1)
        self.master.replica._new_id = lambda: self.new_id
        self.gossip = Gossip(
            self.master.replica,
            "mx1",
            self.master.ask(lambda tables: tables.head()),
            remembered or {},
            [ADDRESS],
            timing=Timing(),
            chance=random.Random(1),
            now=lambda: self.now,
        )

    def write(self) -> None:
        box = self.master.create()
        self.master.do(lambda replica, txn: replica.add(txn, ACCOUNT, box, [mail("m1")]))
        self.gossip.head = self.master.ask(lambda tables: tables.head())

    def perform(
        self, steps: Steps[Any] | None, reply: Reply | Callable[[Call], Reply] | None = None
    ) -> list[Call]:
        """Have the steps performed; what was asked of the peer.  Their result is `self.result`."""
        assert steps is not None, "there is something to say"
        calls: list[Call] = []
        result: Any = None
        error: PeerError | None = None
        while True:
            try:
                effect = steps.send(result) if error is None else steps.throw(error)
            except StopIteration as end:
                self.result = end.value
                return calls
            error = None
            match effect:
                case Persist(work):
                    result = self.master.store.transact(work)
                    self.master.replica.id = self.master.replica.author
                    self.gossip.head = self.master.ask(lambda tables: tables.head())
                case Read(query):
                    with self.master.store.snapshot() as snapshot:
                        result = query(Tables(snapshot))
                case Compute(work):
                    result = work()
                case Call():
                    calls.append(effect)
                    try:
                        result = reply(effect) if callable(reply) else reply
                    except PeerError as refusal:
                        error = refusal
                case _:
                    raise AssertionError(effect)

    def meet(self, replica: ReplicaId, clock: Clock = NOTHING) -> None:
        """An exchange with a peer, which has only what came from here."""
        digest = self.gossip.head.digest if clock == self.gossip.head.clock else 0
        answer = encode_answer(ExchangeAnswer(Position(replica, "peer", clock, digest), ()))
        (call,) = self.perform(self.gossip.converse(ADDRESS), Reply(200, replica, answer))
        assert call.kind is Kind.EXCHANGE
        assert decode_position(call.body).replica == 1

    def be_offered(self, source: Master, *, answers: int) -> None:
        """A peer offers a snapshot of `source`, and answers at most so many questions about it."""
        served = Source(source.store, source.replica)
        body = b""
        for _ in range(1 + answers):
            self.perform(self.gossip.answer(Kind.OFFER, source.replica.id, body))
            if not self.result.body:
                return
            number, question = decode_numbered(self.result.body)
            body = encode_numbered(number, served.answer(self.master.replica.id, question))

    def be_pushed(self, author: Master) -> int:
        """The status of the answer to all that the author has in its log."""
        deltas = author.ask(lambda tables: [entry.delta for entry in tables.log_from(Lsn(0))])
        self.perform(self.gossip.answer(Kind.PUSH, author.replica.id, encode_push(deltas)))
        return int(self.result.status)


def test_what_a_peer_took_counts_for_that_peer() -> None:
    talker = Talker()
    talker.write()
    talker.meet(PEER)
    (call,) = talker.perform(talker.gossip.converse(ADDRESS), Reply(204, PEER, b""))
    assert call.kind is Kind.PUSH
    assert talker.gossip.peers.count_covering(Dot(ReplicaId(1), 2)) == 1
    assert talker.gossip.converse(ADDRESS) is None


def test_one_disk_never_counts_for_two_replicas() -> None:
    """The peer came back under another id: what that one takes says nothing of the one that was met."""
    talker = Talker()
    talker.write()
    talker.meet(PEER)
    talker.perform(talker.gossip.converse(ADDRESS), Reply(204, SUCCESSOR, b""))
    assert talker.gossip.peers.count_covering(Dot(ReplicaId(1), 2)) == 0
    talker.meet(SUCCESSOR)
    talker.perform(talker.gossip.converse(ADDRESS), Reply(204, SUCCESSOR, b""))
    assert talker.gossip.peers.count_covering(Dot(ReplicaId(1), 2)) == 1


def test_what_is_refused_is_counted_whoever_called() -> None:
    talker = Talker()
    own = encode_delta(Delta(Dot(ReplicaId(1), 99), ACCOUNT, (Create(MailboxId(b"x" * 16)),)))
    position = Position(PEER, "peer", Clock({PEER: 1}), 0)
    answer = encode_answer(ExchangeAnswer(position, (own,)))
    talker.perform(talker.gossip.converse(ADDRESS), Reply(200, PEER, answer))
    assert talker.gossip.refusals.faults == 1
    assert "said to be this replica's own" in str(talker.gossip.peers.sessions[ADDRESS].last_error)
    with pytest.raises(PeerError, match="a position is"):
        talker.perform(talker.gossip.answer(Kind.EXCHANGE, PEER, with_checksum(dump([1]))))
    with pytest.raises(PeerError):
        talker.perform(talker.gossip.answer(Kind.PUSH, PEER, b"noise"))
    assert talker.gossip.refusals.faults == 3


def test_a_node_that_calls_itself_is_told_so_and_one_that_meets_its_copy_takes_another_id() -> None:
    talker = Talker()
    steps = talker.gossip.converse(ADDRESS)
    assert steps is not None
    call = steps.send(None)
    assert isinstance(call, Call)
    with pytest.raises(PeerError, match="must not name the node itself"):
        talker.perform(talker.gossip.answer(Kind.EXCHANGE, PEER, call.body))
    steps.close()
    assert talker.master.replica.id == 1
    copy = encode_position(Position(ReplicaId(1), "copy", Clock(), 0))
    talker.new_id = ReplicaId(7)
    talker.perform(talker.gossip.answer(Kind.EXCHANGE, ReplicaId(1), copy))
    assert talker.master.replica.id == 7
    assert talker.gossip.position.replica == 7


def test_the_log_is_kept_for_a_peer_that_never_answered_whoever_else_calls() -> None:
    """Another node that calls here has all of it.  That says nothing of the one that is called."""
    talker = Talker()
    talker.write()
    caller = encode_position(Position(SUCCESSOR, "caller", talker.gossip.head.clock, 0))
    talker.perform(talker.gossip.answer(Kind.EXCHANGE, SUCCESSOR, caller))
    talker.perform(talker.gossip.keep_house(KEEP_ALL))
    assert talker.gossip.stable() == Clock()
    assert talker.master.ask(lambda tables: tables.log_length()) == 2
    talker.meet(PEER, Clock({ReplicaId(1): 1}))
    talker.perform(talker.gossip.keep_house(KEEP_ALL))
    assert talker.gossip.stable() == Clock({ReplicaId(1): 1})
    assert talker.master.ask(lambda tables: tables.log_length()) == 1


def test_after_a_restart_the_log_is_kept_until_each_peer_has_answered_once() -> None:
    """What is remembered of replicas does not say which of them lives where one is called."""
    everything = Clock({ReplicaId(1): 2})
    talker = Talker({SUCCESSOR: PeerRecord("caller", everything, 0)})
    talker.write()
    assert talker.gossip.stable() == Clock()
    talker.meet(PEER, everything)
    assert talker.gossip.stable() == everything
    talker.gossip.change_peers([ADDRESS, "http://never.answers"])
    assert talker.gossip.stable() == Clock()
    talker.gossip.change_peers([ADDRESS])
    assert talker.gossip.stable() == everything


@pytest.mark.parametrize("set_back", ["between the two", "before the restart"])
def test_a_wall_clock_that_is_set_back_hides_no_member_behind_what_it_was_before(set_back: str) -> None:
    """Nor do restarts that follow, before anything is heard of it."""
    before, now = ReplicaId(9), ReplicaId(2)
    first, day_ms = Talker(), 24 * 3600 * 1000
    wall_ms = 10 * day_ms
    first.master.replica.time_ms = lambda: wall_ms
    first.master.do(lambda replica, txn: replica.meet(txn, before, "mx2", NOTHING))
    if set_back == "between the two":
        wall_ms = day_ms
    first.master.do(lambda replica, txn: replica.meet(txn, now, "mx2", NOTHING))
    wall_ms = day_ms
    for _ in range(3):
        talker = Talker(first.master.ask(lambda tables: tables.peers()), wall_ms=wall_ms)
        assert talker.gossip.peers.members(frozenset()).keys() == {now}
        assert talker.gossip.peers.members(frozenset({before})).keys() == {now}
        talker.now += 1000.25
        wall_ms += 1_000_250
        first.master.do(lambda _, txn, last=talker: last.gossip.remember_peers(txn))  # type: ignore[misc]


def test_an_id_that_could_not_be_written_down_is_told_to_nobody_and_taken_when_there_is_room() -> None:
    talker = Talker()
    talker.write()
    talker.new_id = ReplicaId(7)
    retired = encode_position(Position(PEER, "peer", Clock(), 0, frozenset({ReplicaId(1)})))
    transact = talker.master.store.transact

    def full(work: Callable[[Transaction], Any]) -> Any:
        def fail(txn: Transaction) -> None:
            work(txn)
            raise StoreFull("no room")

        return transact(fail)

    talker.master.store.transact = full  # type: ignore[method-assign]
    with pytest.raises(StoreFull):
        talker.perform(talker.gossip.answer(Kind.EXCHANGE, PEER, retired))
    assert talker.gossip.position.replica == 1
    talker.master.store.transact = transact  # type: ignore[method-assign]
    talker.perform(talker.gossip.answer(Kind.EXCHANGE, PEER, retired))
    assert talker.gossip.position.replica == 7
    talker.master.create("Work")
    assert talker.master.clock[ReplicaId(7)] == 1


def test_a_large_question_about_an_offer_is_read_where_it_holds_nobody_up() -> None:
    talker = Talker()
    steps = talker.gossip._offer(ADDRESS, talker.gossip.peers.sessions[ADDRESS])
    assert isinstance(next(steps), Call)
    question = AskDetails(1, tuple((f"{n:0200}", 0) for n in range(1000)))
    reading = steps.send(Reply(200, PEER, encode_numbered(1, encode_request(question))))
    assert isinstance(reading, Compute)
    reading = steps.send(reading.work())
    assert isinstance(reading, Compute)
    assert reading.work() == question
    steps.close()


def test_a_batch_that_takes_long_is_taken_in_several_commits_and_as_far_as_the_sender_waits() -> None:
    author, talker = Master(2), Talker()
    for name in "abcdefgh":
        author.create(name)
    deltas = author.ask(lambda tables: [entry.delta for entry in tables.log_from(Lsn(0))])
    assert len(deltas) == 8
    receive = talker.master.replica.receive

    def slowly(txn: Transaction, delta: Delta, data: bytes) -> Outcome:
        talker.now += 0.5
        return receive(txn, delta, data)

    talker.master.replica.receive = slowly  # type: ignore[method-assign]
    commits = 0
    transact = talker.master.store.transact

    def counted(work: Callable[[Transaction], Any]) -> Any:
        nonlocal commits
        commits += 1
        return transact(work)

    talker.master.store.transact = counted  # type: ignore[method-assign]
    talker.perform(talker.gossip.answer(Kind.PUSH, ReplicaId(2), encode_push(deltas)))
    assert (talker.result.status, commits) == (409, 5)  # half a second each, a quarter of ten seconds in all
    assert decode_clock(talker.result.body) == talker.master.clock == Clock({ReplicaId(2): 5})
    talker.perform(talker.gossip.answer(Kind.PUSH, ReplicaId(2), encode_push(deltas[5:])))
    assert (talker.result.status, talker.master.clock) == (204, author.clock)


def test_a_snapshot_tells_of_its_node_what_every_other_answer_does() -> None:
    talker = Talker()
    talker.gossip.cluster = "example"
    talker.write()
    perform(talker.gossip.retire([ReplicaId(9)]), talker.master.store)
    steps = talker.gossip.answer(Kind.SNAPSHOT, PEER, encode_request(Begin()))
    reply = perform(steps, talker.master.store)
    assert decode_begun(reply.body).position == talker.gossip.position


@pytest.mark.parametrize("begins_again", [True, False])
def test_an_offer_comes_to_its_end_whatever_the_peer_asks(begins_again: bool) -> None:
    talker = Talker()
    talker.write()
    asked: list[float] = []

    def ask(call: Call) -> Reply:
        asked.append(talker.now)
        talker.now += 20
        if len(asked) == 1 or begins_again:
            question = encode_request(Begin())
        else:
            if len(asked) == 2:
                begun.append(decode_begun(decode_numbered(call.body)[1]))
            question = encode_request(AskAccounts(begun[0].snapshot, ""))
        assert len(asked) < 100, "it goes on for ever"
        return Reply(200, PEER, encode_numbered(len(asked), question))

    begun: list[Begun] = []
    steps = talker.gossip._offer(ADDRESS, talker.gossip.peers.sessions[ADDRESS])
    with pytest.raises(PeerError, match="a second snapshot" if begins_again else "not held any more"):
        perform(steps, talker.master.store, ask)
    assert len(asked) == 2 if begins_again else asked[-1] <= SNAPSHOT_S + 20


@pytest.mark.parametrize("brings", ["nothing", "messages", "mailboxes"])
def test_what_is_staged_is_kept_as_long_as_more_comes_and_not_for_attempts_that_bring_nothing(
    brings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "_MAILBOXES_AT_ONCE", 1)
    talker, source = Talker(), Master(2)
    box, _ = sorted(source.create(name) for name in ("INBOX", "Work"))
    source.add(box, "m0")
    talker.be_offered(source, answers=4)  # of the second mailbox nothing comes
    kept: list[bool] = []
    while talker.now < STAGED_S + 300:
        kept.append(talker.master.ask(Tables.has_staged))
        if brings == "messages":
            source.add(box, f"m{len(kept)}")
        elif brings == "mailboxes":
            source.create(f"Box {len(kept)}")
        talker.now += 60
        talker.perform(talker.gossip.keep_house(KEEP_ALL))
        talker.be_offered(source, answers={"nothing": 2, "messages": 5, "mailboxes": 3}[brings])
    assert all(kept[: int(STAGED_S / 60)])
    assert kept[-1] is (brings != "nothing")


def test_a_snapshot_is_lacking_from_its_beginning_to_the_end_of_any_one() -> None:
    talker, source = Talker(), Master(2)
    source.add(source.create(), "m1")
    assert not talker.gossip.lacks_snapshot
    talker.be_offered(source, answers=2)
    talker.now += GOSSIP_TIMEOUT_S + 1
    talker.perform(talker.gossip.keep_house(KEEP_ALL))
    assert (talker.gossip.filling, talker.gossip.lacks_snapshot) == (None, True)
    talker.be_offered(source, answers=2)
    talker.now += GOSSIP_TIMEOUT_S + 1
    talker.perform(talker.gossip.keep_house(KEEP_ALL))
    assert talker.gossip.lacking_since == 0, "none of it has come in either attempt"
    talker.be_offered(source, answers=9)
    assert talker.master.clock == source.clock
    assert not talker.gossip.lacks_snapshot


@pytest.mark.parametrize("cluster", [None, "another"], ids=["says nothing more", "is of another cluster"])
def test_whoever_offers_a_snapshot_and_tells_of_none_leaves_nothing_lacking(cluster: str | None) -> None:
    """Else one empty request would close a new node to its readers for good."""
    talker = Talker()
    talker.perform(talker.gossip.answer(Kind.OFFER, PEER, b""))
    if cluster is not None:
        begun = Begun(7, Position(PEER, "peer", Clock({PEER: 1}), 0, cluster=cluster), 1)
        with pytest.raises(PeerError, match="another"):
            talker.perform(talker.gossip.answer(Kind.OFFER, PEER, encode_numbered(1, encode_begun(begun))))
    talker.now += GOSSIP_TIMEOUT_S + 1
    talker.perform(talker.gossip.keep_house(KEEP_ALL))
    assert (talker.gossip.filling, talker.gossip.lacks_snapshot) == (None, False)


def test_a_peer_whose_snapshot_always_fails_keeps_out_none_that_is_offered() -> None:
    """It is asked again after a shorter pause than the one in which nothing that is offered is taken."""
    talker, source, offering = Talker(), Master(2), Master(3)
    source.add(source.create(), "m1")
    offering.create("Other")
    served = Source(source.store, source.replica)
    position = Position(PEER, "peer", source.clock, 0)

    def reply(call: Call) -> Reply:
        if call.kind is Kind.EXCHANGE:
            return Reply(200, PEER, encode_answer(ExchangeAnswer(position, (), source.clock)))
        if not isinstance(decode_request(call.body), Begin | AskAccounts):
            assert talker.be_pushed(offering) == 409
            talker.now += GOSSIP_TIMEOUT_S
            raise PeerError("it takes too long")
        return Reply(200, PEER, served.answer(ReplicaId(1), call.body))

    for _ in range(3):
        talker.perform(talker.gossip.converse(ADDRESS), reply)
        talker.now += Timing().last_retry_s
    assert talker.gossip.peers.sessions[ADDRESS].last_error == "it takes too long"
    talker.be_offered(offering, answers=9)
    assert talker.master.clock == offering.clock


def test_who_was_turned_away_while_a_snapshot_came_is_heard_before_another_one_is_begun() -> None:
    """Else a member that offers again and again keeps out what all others have to say."""
    talker, source, author = Talker(), Master(2), Master(3)
    source.create()
    author.create("Other")
    talker.be_offered(source, answers=1)
    talker.be_offered(source, answers=1)  # it may have lost our question, and nobody else was there
    assert talker.be_pushed(author) == 409
    talker.now += GOSSIP_TIMEOUT_S - 1
    for sender in (source, Master(4)):
        with pytest.raises(PeerError) as refused:
            talker.be_offered(sender, answers=1)
        assert refused.value.reason is Refusal.FILLING
    assert talker.be_pushed(author) == 204
    talker.now += GOSSIP_TIMEOUT_S
    talker.be_offered(source, answers=1)
