"""A replica takes over another one's state by comparing digests, and ends as if it had had every delta."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmail import effects, staging, views
from crdtmail.applying import Editor, alive_digest
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import with_checksum
from crdtmail.crdt.delta import Add, Create, MailboxId
from crdtmail.crdt.message import EMPTY, Instance, Message, MessageId, NewMessage
from crdtmail.crdt.uid import Uid
from crdtmail.effects import Steps
from crdtmail.errors import Overloaded, PeerError, Refusal
from crdtmail.gossip import filling, serving
from crdtmail.gossip.snapshot import (
    Accounts,
    AskAccounts,
    AskDetails,
    AskMessages,
    Begin,
    End,
    Messages,
    decode_begun,
    decode_details,
    decode_messages,
    decode_request,
    encode_accounts,
    encode_details,
    encode_messages,
    encode_request,
)
from crdtmail.limits import MAX_REPLICAS, MAX_SNAPSHOTS, MAX_UID, MAX_UID_JUMP, SNAPSHOT_IDLE_S, SNAPSHOT_S
from crdtmail.replica import KEEP_ALL, Attempt, Keep, Outcome
from crdtmail.store.interface import Table, Transaction
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.tables import Lsn, Modseq, Tables, WritableTables, encode_instances, mailbox_salt
from simulations.commands import ExpungeDeleted, Move
from simulations.permitted import agrees
from simulations.recount import recount
from tests.filling import Source, lose_a_message, take_over
from tests.masters import ACCOUNT, Master, exchange, ids, mail, pair
from tests.programs import Program, programs
from tests.real_world import RealWorld
from tests.reference_world import Reference
from tests.semantics_rows import Row, problems, read_rows
from tests.worlds import World, settle


def source_of(master: Master) -> Source:
    return Source(master.store, master.replica)


def fill(target: Master, source: Master, **options: object) -> int:
    """Fill one master from another; how many messages were sent."""
    return take_over(target.store, target.replica, source_of(source), **options).staged  # type: ignore[arg-type]


def same(one: Master, two: Master) -> bool:
    return (one.clock, one.digest) == (two.clock, two.digest)


def raise_next_uid(txn: Transaction, box: MailboxId, uid_next: int) -> None:
    tables = WritableTables(txn)
    record = tables.mailbox(ACCOUNT, box)
    assert record is not None
    record.uid_next = uid_next
    tables.put_mailbox(ACCOUNT, box, record)


def many(count: int) -> list[str]:
    return [f"m{n}" for n in range(count)]


# As if every delta had come -----------------------------------------------------------------------------


class SnapshotWorld(RealWorld):
    """Replicas that hear of each other by snapshot alone."""

    def deliver(self, source: str, target: str, at_most: int | None = None) -> None:
        if self.clock(source) == self.clock(target):
            assert self.digest(source) == self.digest(target)
            return  # nobody asks who knows the same
        store, replica = self.replica(target)
        take_over(store, replica, Source(*self.replica(source)))

    def clock(self, replica: str) -> Clock:
        store, _ = self.replica(replica)
        with store.snapshot() as snapshot:
            return Tables(snapshot).head().clock


@pytest.mark.parametrize("row", read_rows(), ids=lambda row: f"line {row.line}")
def test_through_a_snapshot_the_replicas_do_what_the_row_says(row: Row) -> None:
    found = problems(row, lambda: SnapshotWorld(MemoryStore))
    assert not found, "\n".join([row.text, *found])


def run_to_the_end(program: Program, *worlds: World) -> None:
    for world in worlds:
        program.run(world)
        settle(world, program.replicas)


@given(programs(without=Move, whole=True))
def test_random_programs_through_snapshots_end_as_the_reference_says(program: Program) -> None:
    reference, world = Reference(), SnapshotWorld(MemoryStore)
    run_to_the_end(program, reference, world)
    for replica in program.replicas:
        agreement = agrees(reference.permitted(replica), world.view(replica))
        assert agreement, f"{replica} at last: {agreement}"
    assert len({world.digest(replica) for replica in program.replicas}) == 1


@given(programs(without=ExpungeDeleted, whole=True))
def test_random_programs_with_moves_end_with_the_same_messages_through_snapshots(program: Program) -> None:
    """Which flags follow a message depends on who has seen what, and a snapshot shows less of that.

    So no program in which the flags decide what is expunged.
    """
    by_delta, by_snapshot = RealWorld(MemoryStore), SnapshotWorld(MemoryStore)
    run_to_the_end(program, by_delta, by_snapshot)
    for replica in program.replicas:
        wanted, found = by_delta.view(replica), by_snapshot.view(replica)
        assert {(box, id) for box, shown in found.items() for id in shown.messages} == {
            (box, id) for box, shown in wanted.items() for id in shown.messages
        }
        with by_snapshot.replica(replica)[0].snapshot() as snapshot:
            recount(Tables(snapshot))
    assert len({by_snapshot.digest(replica) for replica in program.replicas}) == 1


def test_a_new_replica_takes_over_everything() -> None:
    one, two = Master(1), Master(2)
    box = one.create()
    one.add(box, *many(1000), keywords=["$seen"])
    one.mark(box, ids("m5"), add=["$flagged"])
    assert fill(two, one) == 1000
    assert same(one, two)
    assert two.keywords(box) == one.keywords(box)
    two.recount()


def test_only_the_block_that_differs_is_sent() -> None:
    one, two, box = pair()
    one.add(box, *many(1000))
    two.hear(one)
    one.mark(box, ids("m700"), add=["$flagged"])
    assert 1 <= fill(two, one) <= 128
    assert same(one, two)


def test_a_message_that_was_expunged_there_goes_here() -> None:
    one, two, box = pair()
    one.add(box, "a", "b")
    two.hear(one)
    one.expunge(box, ids("a"))
    fill(two, one)
    assert [message.id for message in two.read(box)] == ["b"]
    two.recount()


def test_a_message_that_was_expunged_here_does_not_come_back() -> None:
    one, two, box = pair()
    one.add(box, "a", "b")
    two.hear(one)
    two.expunge(box, ids("a"))
    one.mark(box, ids("a"), add=["$flagged"])
    fill(two, one)
    assert [message.id for message in two.read(box)] == ["b"]


def test_the_uid_of_a_message_that_is_gone_is_not_given_again_by_a_new_replica() -> None:
    one, two = Master(1), Master(2)
    box = one.create()
    one.add(box, "a", "b", "c")
    gone = one.read(box)[-1].uid
    one.expunge(box, ids("c"))
    fill(two, one)
    two.add(box, "d")
    assert two.read(box)[-1].uid > gone


def test_the_uid_of_a_message_that_came_and_went_unseen_is_not_given_again() -> None:
    one, two, box = pair()
    one.add(box, "a")
    two.hear(one)
    one.add(box, *many(5))
    gone = one.read(box)[-1].uid
    one.expunge(box, ids(*many(5)))
    assert fill(two, one) == 0
    assert same(one, two)
    two.add(box, "d")
    assert two.read(box)[-1].uid > gone
    two.recount()


def test_a_mailbox_of_high_uids_takes_more_of_them_after_a_snapshot() -> None:
    one, two, box = pair()
    one.do(lambda _, txn: raise_next_uid(txn, box, 2 * MAX_UID_JUMP))
    one.add(box, "a")
    one.expunge(box, ids("a"))
    fill(two, one)
    one.add(box, "b")
    two.hear(one)
    assert [message.id for message in two.read(box)] == ["b"]


def test_what_was_written_here_and_never_sent_stays() -> None:
    one, two, box = pair()
    two.add(box, "mine")
    two.mark(box, ids("mine"), add=["$seen"])
    one.add(box, "theirs")
    fill(two, one)
    assert two.keywords(box) == {"mine": {"$seen"}, "theirs": frozenset()}
    one.hear(two)
    assert same(one, two)


def test_a_deleted_mailbox_is_deleted_and_one_that_got_mail_here_stays_with_it() -> None:
    one, two, _ = pair()
    gone, kept = one.create("Gone"), one.create("Kept")
    one.add(gone, "a")
    one.add(kept, "b")
    two.hear(one)
    two.add(kept, "c")
    one.delete(gone)
    one.delete(kept)
    fill(two, one)
    assert two.ask(lambda tables: tables.mailbox(ACCOUNT, gone)) is None
    assert [message.id for message in two.read(kept)] == ["c"]
    two.recount()


def moved_and_flagged(*names: str) -> tuple[Master, Master, MailboxId]:
    """The first master has moved messages, which the second has flagged; and where they are now."""
    one, two, box = pair()
    archive = one.create("Archive")
    one.add(box, *names)
    two.hear(one)
    one.move(box, archive, ids(*names))
    two.mark(box, ids(*names), add=["$flagged"])
    return one, two, archive


@pytest.mark.parametrize("how", ["one fills first", "two fills first", "the log was cut"])
def test_what_is_to_be_deleted_does_not_take_a_copy_that_was_moved_with_it(how: str) -> None:
    one, two = Master(1, knows=[2]), Master(2, knows=[1])
    inbox, archive, work = one.create("INBOX"), one.create("Archive"), one.create("Work")
    one.add(inbox, "m1")
    one.add(archive, "m1")
    two.hear(one)
    one.expunge(inbox, ids("m1"))
    one.move(archive, work, ids("m1"))
    two.mark(inbox, ids("m1"), add=["$deleted"])
    if how == "the log was cut":
        prune(one, Clock(), Keep(bytes=0, age_ms=1 << 60))
        one.hear(two)
    elif how == "one fills first":
        fill(one, two)
    fill(two, one)
    if how == "two fills first":
        fill(one, two)
    assert one.keywords(work) == two.keywords(work) == {"m1": frozenset()}


@pytest.mark.parametrize("one_first", [True, False])
def test_a_flag_follows_also_where_the_message_came_anew_with_such_a_flag(one_first: bool) -> None:
    one, two = Master(1, knows=[2]), Master(2, knows=[1])
    inbox, archive = one.create("INBOX"), one.create("Archive")
    one.add(inbox, "m1")
    two.hear(one)
    one.move(inbox, archive, ids("m1"))
    two.mark(inbox, ids("m1"), add=["$flagged"])
    two.add(inbox, "m1", keywords=["$flagged"])
    for target, source in ((one, two), (two, one)) if one_first else ((two, one), (one, two)):
        fill(target, source)
    flagged = {"m1": frozenset({"$flagged"})}
    for master in (one, two):
        assert (master.keywords(inbox), master.keywords(archive)) == (flagged, flagged)


def test_what_was_cut_off_is_forgotten_when_all_members_have_it() -> None:
    one, two, box = pair()
    one.add(box, "a")
    prune(one, two.clock, Keep(bytes=0, age_ms=1 << 60))
    assert one.ask(lambda tables: tables.cut()) == one.clock
    fill(two, one)
    one.add(box, "b")
    two.hear(one)
    prune(one, two.clock)
    assert one.ask(lambda tables: tables.cut()) == Clock()


def test_a_flag_follows_a_message_that_was_moved_elsewhere() -> None:
    one, two, archive = moved_and_flagged("a")
    fill(two, one)
    assert two.keywords(archive) == {"a": {"$flagged"}}
    exchange(one, two)
    assert one.keywords(archive) == {"a": {"$flagged"}}


@pytest.mark.parametrize("filled_first", [True, False])
def test_a_flag_follows_a_message_out_of_a_mailbox_that_was_deleted(filled_first: bool) -> None:
    """Who moved it and deleted the mailbox sees the flag in a snapshot, and is told to have seen it since."""
    one, two, _ = pair()
    box, archive = one.create("Work"), one.create("Archive")
    one.add(box, "a")
    two.hear(one)
    one.move(box, archive, ids("a"))
    one.delete(box)
    two.mark(box, ids("a"), add=["$flagged"])
    if filled_first:
        fill(one, two)
    fill(two, one)
    exchange(one, two)
    for master in (one, two):
        assert master.keywords(archive) == {"a": {"$flagged"}}
        assert master.ask(lambda tables: tables.mailbox(ACCOUNT, box)) is None
        master.recount()
    assert same(one, two)


def test_uids_that_were_shown_here_stay_and_others_move_above_them() -> None:
    one, two, box = pair()
    one.add(box, "a")
    two.hear(one)
    two.add(box, "mine")
    shown = {message.id: message.uid for message in two.read(box)}
    one.add(box, *many(5))
    fill(two, one)
    now = {message.id: message.uid for message in two.read(box)}
    assert {id: now[id] for id in shown} == shown
    assert min(now[id] for id in now.keys() - shown.keys()) > max(shown.values())


def test_a_mailbox_that_a_snapshot_deletes_and_that_comes_back_shows_no_uid_again() -> None:
    """What its readers were shown here is remembered here, though nobody is told of it."""
    one, two, _ = pair()
    three = Master(3)
    box = one.create("Work")
    three.hear(one)
    one.add(box, *many(5))
    two.hear(one)
    shown = {message.uid for message in two.read(box)}
    three.add(box, "b")
    one.delete(box)
    fill(two, one)
    two.hear(three)
    two.add(box, "c")
    assert min(message.uid for message in two.read(box)) > max(shown)


def test_the_log_gives_nothing_that_only_the_snapshot_brought() -> None:
    one, two, three = Master(1), Master(2), Master(3)
    box = one.create()
    one.add(box, "a")
    fill(two, one)
    two.add(box, "b")
    assert two.ask(lambda tables: views.deltas_after(tables, Clock(), max_bytes=1 << 20)) == []
    fill(three, two)
    assert same(two, three)


# While it is going on -----------------------------------------------------------------------------------


def test_a_replica_that_is_being_filled_takes_writes_but_no_deltas() -> None:
    one, two, box = pair()
    one.add(box, *many(300))
    delta = one.log()[-1].delta
    outcomes: list[Outcome] = []

    def meanwhile(asked: int) -> None:
        if asked == 3:
            outcomes.append(two.receive(delta))
            two.add(box, "mine")

    fill(two, one, meanwhile=meanwhile)
    assert outcomes == [Outcome.GAP]
    one.hear(two)
    assert same(one, two)
    assert "mine" in one.keywords(box)


def test_a_delta_that_would_be_half_undone_by_the_snapshot_is_not_taken() -> None:
    """It sets a flag that the snapshot has seen cleared; what was equal when compared must stay so."""
    one, two, box = pair()
    one.add(box, "a")
    two.hear(one)
    one.mark(box, ids("a"), add=["$flagged"])
    one.mark(box, ids("a"), remove=["$flagged"])
    one.create("Other")  # so that the snapshot is more than what two has
    setting = one.log()[2].delta

    def meanwhile(_: int) -> None:
        two.receive(setting)

    fill(two, one, meanwhile=meanwhile)
    assert two.keywords(box) == {"a": frozenset()}
    assert same(one, two)


def test_new_uids_that_a_reader_makes_meanwhile_lose_no_message() -> None:
    """They bring messages into other blocks than those that were compared."""
    one, two, box = pair()
    one.add(box, *many(200))
    two.read(box)
    two.add(box, "high")
    two.read(box)
    two.hear(one, at_most=1)
    one.expunge(box, ids("m0"))

    def meanwhile(asked: int) -> None:
        if asked >= 4:
            two.read(box)

    fill(two, one, meanwhile=meanwhile)
    exchange(one, two)
    assert {message.id for message in two.read(box)} == {"high", *many(200)} - {"m0"}
    two.recount()


THREE_ANSWERS = 16_000
"""So many messages in each of three mailboxes come in three answers."""


@pytest.fixture(scope="module")
def full() -> Master:
    """One that nobody changes."""
    master = Master(1)
    for name in ("INBOX", "Work", "Play"):
        master.add(master.create(name), *many(THREE_ANSWERS))
    return master


@pytest.mark.parametrize("killed_at", range(1, 7))
def test_a_replica_that_is_killed_meanwhile_goes_on_with_what_it_has(full: Master, killed_at: int) -> None:
    two, source = Master(2), source_of(full)

    class KilledError(Exception):
        pass

    def kill(asked: int) -> None:
        if asked == killed_at:
            raise KilledError

    with pytest.raises(KilledError):
        take_over(two.store, two.replica, source, meanwhile=kill)
    first = sum(staged.total for _, _, staged in two.ask(lambda tables: list(tables.staged())))
    assert two.clock == Clock(), "nothing shows before all is there"
    second = take_over(two.store, two.replica, source).staged
    assert first + second <= 3 * THREE_ANSWERS + 128, "what was staged is not fetched again"
    assert same(full, two)
    assert two.ask(lambda tables: list(tables.staged())) == []
    two.recount()


def test_what_the_source_does_meanwhile_is_not_in_the_snapshot() -> None:
    one, two = Master(1), Master(2)
    box = one.create()
    one.add(box, *many(10))

    def meanwhile(asked: int) -> None:
        one.add(box, f"late{asked}")

    fill(two, one, meanwhile=meanwhile)
    assert two.clock.includes(Clock({ReplicaId(1): 3})) is True
    assert same(one, two) is False
    two.hear(one)
    assert same(one, two)


# A peer that is out of order ----------------------------------------------------------------------------


def tampered(change: Callable[[bytes], bytes], at: int) -> Source:
    one = Master(1)
    box = one.create()
    one.add(box, *many(300))
    source = source_of(one)
    honest, asked = source.answer, 0

    def answer(peer: ReplicaId, question: bytes) -> bytes:
        nonlocal asked
        asked += 1
        found = honest(peer, question)
        return change(found) if asked == at else found

    source.answer = answer  # type: ignore[method-assign]
    return source


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: b"", lambda data: data[:20] + b"\0" + data[21:]]
)
def test_an_answer_that_is_damaged_changes_nothing(at: int, change: Callable[[bytes], bytes]) -> None:
    two = Master(2)
    with pytest.raises(PeerError):
        take_over(two.store, two.replica, tampered(change, at))
    assert two.clock == Clock()
    assert two.ask(lambda tables: list(tables.accounts())) == []


def test_other_messages_than_were_announced_are_refused() -> None:
    one, two, three = Master(1), Master(1), Master(3)
    for master, keyword in ((one, "$seen"), (two, "$flagged")):
        box = master.create()
        master.add(box, "a", keywords=[keyword])
    source, other = source_of(one), source_of(two)
    honest = source.answer

    def answer(peer: ReplicaId, question: bytes) -> bytes:
        request = decode_request(question)
        if isinstance(request, Begin):
            other.answer(peer, question)
        wants_messages = question[1:2] == b"\x04"
        return other.answer(peer, question) if wants_messages else honest(peer, question)

    source.answer = answer  # type: ignore[method-assign]
    with pytest.raises(PeerError, match="other messages than it announced"):
        take_over(three.store, three.replica, source)
    assert three.clock == Clock()


@given(st.binary(max_size=200))
def test_no_question_ends_in_anything_but_an_answer_or_a_refusal(data: bytes) -> None:
    with suppress(PeerError):
        decode_request(data)


@pytest.mark.parametrize("value", ["00", "f4", "f90000", "fb0000000000000000"])
def test_a_question_begins_with_a_number_and_nothing_that_equals_it(value: str) -> None:
    data = with_checksum(b"\x81" + bytes.fromhex(value))
    if value == "00":
        assert decode_request(data) == Begin()
    else:
        with pytest.raises(PeerError):
            decode_request(data)


def test_accounts_that_come_again_and_again_are_refused_at_once() -> None:
    """A peer that always has more would be asked for as long as a snapshot may take."""
    one, two = Master(1), Master(2)
    one.create()
    source = source_of(one)
    honest, asked = source.answer, 0

    def answer(peer: ReplicaId, question: bytes) -> bytes:
        nonlocal asked
        found = honest(peer, question)
        if isinstance(decode_request(question), AskAccounts):
            asked += 1
            assert asked < 9, "it is asked for ever"
            return encode_accounts(Accounts(((ACCOUNT, 7),), True))
        return found

    source.answer = answer  # type: ignore[method-assign]
    with pytest.raises(PeerError, match="accounts again") as refused:
        take_over(two.store, two.replica, source)
    assert refused.value.reason is Refusal.NOT_ASKED
    assert two.clock == Clock()


@pytest.mark.parametrize("uid", [MAX_UID + 1, 2**63])
def test_an_answer_that_stops_beyond_all_that_was_asked_is_refused(uid: int) -> None:
    def stop(answer: bytes) -> bytes:
        found = decode_messages(answer).found
        return encode_messages([(place, [it[:3] for it in elements]) for place, elements in found], (0, uid))

    two = Master(2)
    with pytest.raises(PeerError, match="stops beyond") as refused:
        take_over(two.store, two.replica, tampered(stop, at=4))
    assert refused.value.reason is Refusal.NOT_ASKED
    assert two.clock == Clock()


def test_a_message_that_cannot_be_is_refused() -> None:
    good = Message((Instance((ReplicaId(1), 1), Uid(5), 10, 0, {"$seen": ((ReplicaId(1), 1),)}),))

    def encoded(uid: int, id: str, message: Message) -> bytes:
        return encode_messages([(0, [(Uid(uid), id, encode_instances(message))])], None)  # type: ignore[list-item]

    assert isinstance(decode_messages(encoded(5, "a", good)), Messages)
    instance = good.instances[0]
    for bad in (
        encoded(6, "a", good),
        encoded(5, "", good),
        encoded(5, "a", EMPTY),
        encoded(5, "a", Message((instance, instance))),
        encoded(5, "a", Message((instance._replace(size=-1),))),
        encoded(5, "a", Message((instance._replace(keywords={"": instance.keywords["$seen"]}),))),
        encoded(5, "a", Message((instance._replace(keywords={"$seen": ()}),))),
        encoded(5, "a", Message((instance._replace(dot=(ReplicaId(1), 0)),))),
    ):
        with pytest.raises(PeerError):
            decode_messages(bad)


def lie_about_what_keeps_alive(liar: Master, box: MailboxId, alive: Clock) -> None:
    """Say that only these additions keep a mailbox alive; every digest is right."""

    def lie(txn: Transaction) -> None:
        tables = WritableTables(txn)
        record, head, salt = tables.mailbox(ACCOUNT, box), tables.head(), mailbox_salt(ACCOUNT, box)
        assert record is not None
        change = alive_digest(salt, record.alive) ^ alive_digest(salt, alive)
        record.alive = alive
        record.digest ^= change
        head.digest ^= change
        tables.put_mailbox(ACCOUNT, box, record)
        tables.put_head(head)

    liar.store.transact(lie)


@pytest.mark.parametrize("is_deleted_here", [False, True])
def test_a_mailbox_that_holds_a_message_which_does_not_keep_it_alive_is_refused(
    is_deleted_here: bool,
) -> None:
    one, liar, box = pair()
    if is_deleted_here:
        box = one.create("Work")
        liar.hear(one)
        one.delete(box)
    liar.add(box, "a")
    lie_about_what_keeps_alive(liar, box, Clock({ReplicaId(1): liar.record(box).alive[ReplicaId(1)]}))
    with pytest.raises(PeerError, match="not kept alive") as refused:
        fill(one, liar)
    assert refused.value.reason is Refusal.IMPOSSIBLE
    assert not one.clock[ReplicaId(2)]


@pytest.mark.parametrize("tells_of_it", [True, False])
def test_a_message_that_both_have_keeps_its_mailbox_alive(tells_of_it: bool) -> None:
    """Nothing of it is sent, so nobody would look."""
    one, liar = Master(1, knows=[2]), Master(2, knows=[1])
    box = one.create("Work")
    one.add(box, "a")
    liar.hear(one)
    source = source_of(liar)
    if tells_of_it:
        liar.add(box, *many(1))
        lie_about_what_keeps_alive(liar, box, Clock({ReplicaId(2): liar.clock[ReplicaId(2)]}))
    else:
        liar.create("News")
        honest = source.answer

        def answer(peer: ReplicaId, question: bytes) -> bytes:
            found = honest(peer, question)
            if not isinstance(decode_request(question), AskDetails):
                return found
            alive = Clock({ReplicaId(2): 1})
            return encode_details(
                [
                    each._replace(
                        mailboxes=tuple(it._replace(alive=alive, uid_next=9) for it in each.mailboxes)
                    )
                    for each in decode_details(found)
                ]
            )

        source.answer = answer  # type: ignore[method-assign]
    with pytest.raises(PeerError, match="not kept alive"):
        take_over(one.store, one.replica, source)
    one.delete(box)
    one.recount()


def test_what_was_staged_of_a_mailbox_that_is_said_to_live_by_something_else_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message came when it was covered, and need not come again: it is the same there."""
    one, liar, three = Master(1, knows=[2]), Master(2, knows=[1]), Master(3)
    box = one.create("Work")
    liar.hear(one)
    liar.add(box, "a")

    def cut(*_: object, **__: object) -> bool:
        raise PeerError("too late")

    with monkeypatch.context() as patch, pytest.raises(PeerError, match="too late"):
        patch.setattr(three.replica, "merge", cut)
        fill(three, liar)
    assert three.ask(Tables.has_staged)
    lie_about_what_keeps_alive(liar, box, Clock({ReplicaId(1): 1}))
    with pytest.raises(PeerError, match="not kept alive"):
        fill(three, liar)


# Snapshots that are held --------------------------------------------------------------------------------


def begin(source: Source, peer: int) -> int:
    return decode_begun(source.answer(ReplicaId(peer), encode_request(Begin()))).snapshot


def ask(source: Source, peer: int, snapshot: int) -> bytes:
    return source.answer(ReplicaId(peer), encode_request(AskAccounts(snapshot, "")))


def test_a_snapshot_is_held_for_who_asks_and_given_up_when_nobody_does() -> None:
    source = source_of(Master(1))
    snapshot = begin(source, 2)
    ask(source, 2, snapshot)
    with pytest.raises(PeerError, match="not held any more"):
        ask(source, 3, snapshot)
    source.now += SNAPSHOT_IDLE_S + 1
    with pytest.raises(PeerError, match="not held any more"):
        ask(source, 2, snapshot)


def test_a_snapshot_is_given_up_however_often_somebody_asks() -> None:
    source = source_of(Master(1))
    snapshot = begin(source, 2)
    with pytest.raises(PeerError):
        for _ in range(int(SNAPSHOT_S / SNAPSHOT_IDLE_S) + 2):
            ask(source, 2, snapshot)
            source.now += SNAPSHOT_IDLE_S
    assert len(source.snapshots) == 0


def test_only_so_many_snapshots_are_held_and_one_a_peer() -> None:
    source = source_of(Master(1))
    begin(source, 2)
    held = [begin(source, 2 + n) for n in range(MAX_SNAPSHOTS)]
    with pytest.raises(Overloaded):
        begin(source, 99)
    source.answer(ReplicaId(2), encode_request(End(held[0])))
    begin(source, 99)


# Repair -------------------------------------------------------------------------------------------------


def test_after_a_repair_both_have_what_either_had() -> None:
    one, two, box = pair()
    one.add(box, "a", "b")
    two.hear(one)
    one.do(lambda _, txn: lose_a_message(txn, ACCOUNT, "a"))
    two.do(lambda _, txn: lose_a_message(txn, ACCOUNT, "b"))
    assert not same(one, two)
    fill(one, two, is_repair=True)
    fill(two, one, is_repair=True)
    assert same(one, two)
    assert {message.id for message in one.read(box)} == {"a", "b"}


# Pruning ------------------------------------------------------------------------------------------------


def prune(master: Master, covered: Clock, keep: Keep = KEEP_ALL) -> None:
    master.do(lambda replica, txn: replica.prune(txn, covered, keep))


def log_length(master: Master) -> int:
    return len(master.rows()[Table.LOG])


def test_the_log_loses_what_every_member_has_and_keeps_the_rest() -> None:
    one, two, box = pair()
    one.add(box, "a")
    one.add(box, "b")
    prune(one, Clock({ReplicaId(1): 2}))
    assert log_length(one) == 1
    two.hear(one, at_most=1)
    one.recount()


def test_who_lacks_what_was_pruned_gets_no_deltas_but_a_snapshot() -> None:
    one, two, box = pair()
    one.add(box, "a")
    one.add(box, "b")
    prune(one, one.clock)
    assert one.ask(lambda tables: views.deltas_after(tables, two.clock, max_bytes=1 << 20)) == []
    fill(two, one)
    assert same(one, two)
    one.add(box, "c")
    two.hear(one)
    assert same(one, two)


def test_a_log_over_its_size_or_age_is_cut_off_whoever_lacks_it() -> None:
    one, _, box = pair()
    for n in range(5):
        one.add(box, f"m{n}")
    prune(one, Clock(), Keep(bytes=200, age_ms=1 << 60))
    assert 0 < one.ask(lambda tables: tables.head().log_bytes) <= 200
    one.replica.time_ms = lambda: 1000
    prune(one, Clock(), Keep(bytes=1 << 60, age_ms=999))
    assert log_length(one) == 0
    one.recount()


def test_nothing_that_readers_see_depends_on_the_log() -> None:
    one, _, box = pair()
    one.add(box, "a")
    before, changes = one.read(box), one.changes(box)
    prune(one, one.clock)
    assert one.read(box) == before
    assert one.changes(box) == changes
    assert mail("a").id == before[0].id


# What goes wrong meanwhile ------------------------------------------------------------------------------


def test_an_answer_that_is_full_where_a_mailbox_ends_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "BATCH_BYTES", 150)
    one, two = Master(1), Master(2)
    for name in ("A", "B", "C"):
        one.add(one.create(name), *many(7))
    fill(two, one)
    assert same(one, two)


def test_an_answer_about_mailboxes_that_many_replicas_keep_alive_ends_in_time() -> None:
    many_replicas = Clock({ReplicaId((1 << 63) + n): 1 << 62 for n in range(500)})
    one = Master(1)
    for account in ("a", "b", "c"):
        for n in range(100):
            name = f"box{n}"
            box = one.do(lambda replica, txn, to=account, its=name: replica.create_mailbox(txn, to, its))  # type: ignore[misc]

            def keep_alive(txn: Transaction, account: str = account, box: MailboxId = box) -> None:
                tables = WritableTables(txn)
                record = tables.mailbox(account, box)
                assert record is not None
                record.alive = many_replicas
                tables.put_mailbox(account, box, record)

            one.store.transact(keep_alive)
    source = source_of(one)
    snapshot = begin(source, 2)
    question = encode_request(AskDetails(snapshot, (("a", 0), ("b", 0), ("c", 0))))
    answer = source.answer(ReplicaId(2), question)
    assert [each.account for each in decode_details(answer)] == ["a"]


def test_more_messages_under_one_uid_than_fit_an_answer_are_told_of_when_they_have_been_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "MAX_GOSSIP_BODY", 84 * 1024)
    monkeypatch.setattr(serving, "BATCH_BYTES", 10 * 1024)
    one, two, box = Master(1), Master(3), MailboxId(b"x" * 16)
    messages = tuple(NewMessage(MessageId(f"m{n}"), Uid(1), 1, 1, ()) for n in range(1000))
    one.receive_from(2, 1, Create(box), Add(box, messages, Clock()))
    with pytest.raises(PeerError, match=f"until mailbox {box.hex()} is read"):
        fill(two, one)
    one.read(box)
    fill(two, one)
    assert same(one, two)


def test_what_lies_in_more_ranges_than_fit_one_question_is_asked_for_in_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """UIDs that lie far apart are one range each, and a question over the limit is refused each time."""
    monkeypatch.setattr(filling, "MAX_RANGES_PER_QUESTION", 4)
    one, two = Master(1), Master(3)
    boxes = [MailboxId(bytes([n]) * 16) for n in range(3)]
    seq = 0
    for box in boxes:
        seq += 1
        for master in (one, two):
            first = NewMessage(MessageId("m"), Uid(1), 1, 1, ())
            master.receive_from(2, seq, Create(box), Add(box, (first,), Clock()))
    for box, count in zip(boxes, (3, 9, 1), strict=True):
        seq += 1
        messages = [NewMessage(MessageId(f"m{n}"), Uid(256 * n), 1, 1, ()) for n in range(1, count + 1)]
        one.receive_from(2, seq, Add(box, tuple(messages), Clock()))
    source = source_of(one)
    honest, ranges = source.answer, []

    def answer(peer: ReplicaId, question: bytes) -> bytes:
        request = decode_request(question)
        if isinstance(request, AskMessages):
            ranges.append(sum(len(wanted) for _, _, wanted in request.wanted))
        return honest(peer, question)

    source.answer = answer  # type: ignore[method-assign]
    take_over(two.store, two.replica, source)
    assert same(one, two)
    assert ranges == [4, 4, 4, 1]


def test_what_is_left_of_a_snapshot_that_was_cleared_in_part_is_not_taken_for_what_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The node is killed while it takes away what it had staged; all that differs must be fetched again."""
    monkeypatch.setattr(staging, "MAX_ROWS_CLEARED", 50)
    one, two, box = pair()
    one.add(box, *many(300))
    two.hear(one)
    one.mark(box, ids(*many(300)), add=["$flagged"])
    fill(two, one, clears=False)
    two.do(lambda replica, txn: replica.clear_garbage(txn))
    one.mark(box, ids("m5"), add=["$answered"])
    two.mark(box, ids("m200"), add=["$seen"])
    fill(two, one)
    assert len(two.read(box)) == 300
    two.recount()


def test_a_node_that_was_rolled_back_keeps_what_it_took_before_it_met_its_peers() -> None:
    """Its new deltas have the names of those that it lost, and the peer's clock covers them all."""
    one, two, box = pair()
    one.do(lambda replica, txn: replica.meet(txn, two.replica.id, "two", two.clock))
    one.add(box, "before")
    old = one.store.image()
    one.add(box, "lost")
    one.mark(box, ids("before"), add=["$flagged"])
    two.hear(one)
    one.store.load(old)
    one.add(box, "precious")
    one.mark(box, ids("before"), add=["$answered"])
    one.new_id = 77
    one.do(lambda replica, txn: replica.renew(txn, replica.id, is_ambiguous=True))
    fill(one, two)
    assert {message.id for message in one.read(box)} == {"before", "lost", "precious"}
    assert one.keywords(box)["before"] >= {"$flagged", "$answered"}
    one.recount()


def test_a_snapshot_that_knows_more_of_us_than_we_do_is_not_merged() -> None:
    one, two, box = pair()
    two.add(box, "a")
    one.hear(two)
    lost = two.store.image()
    two.add(box, "b")
    one.hear(two)
    two.store.load(lost)
    with pytest.raises(PeerError, match="its own store has lost"):
        fill(two, one)


def damaged_pair() -> tuple[Master, Master, MailboxId]:
    """Two masters at one clock; the second has lost a message."""
    one, two, box = pair()
    one.add(box, *many(10))
    exchange(one, two)
    two.do(lambda _, txn: lose_a_message(txn, ACCOUNT, "m3"))
    return one, two, box


def test_what_is_expunged_here_during_a_repair_stays_expunged() -> None:
    one, two, box = damaged_pair()
    fill(
        two, one, is_repair=True, meanwhile=lambda asked: two.expunge(box, ids("m5")) if asked == 4 else None
    )
    assert {message.id for message in two.read(box)} == {*many(10)} - {"m5"}
    exchange(one, two)
    assert same(one, two)


def test_what_was_expunged_there_before_a_repair_stays_expunged() -> None:
    one, two, box = damaged_pair()
    one.expunge(box, ids("m5"))
    one.mark(box, ids("m6"), add=["$flagged"])
    fill(two, one, is_repair=True)
    exchange(one, two)
    assert {message.id for message in two.read(box)} == {*many(10)} - {"m5"}
    assert same(one, two)


def test_a_repair_agrees_on_a_size_that_differs() -> None:
    one, two, box = pair()
    one.add(box, "a")
    two.hear(one)
    two.do(lambda _, txn: change_size(txn, box, "a", 7))
    fill(two, one, is_repair=True)
    fill(one, two, is_repair=True)
    assert one.digest == two.digest


def change_size(txn: Transaction, box: MailboxId, id: str, size: int) -> None:
    """As a damaged disk might."""
    tables = WritableTables(txn)
    head = tables.head()
    head.lsn = Lsn(head.lsn + 1)
    with Editor(tables, head, ACCOUNT, box) as editor:
        before = editor.get(MessageId(id))
        assert before is not None
        (instance,) = before.message.instances
        editor.replace(MessageId(id), before, Message((instance._replace(size=size),)))
    tables.put_head(head)


def test_a_mailbox_that_is_deleted_here_while_it_is_compared_stays_deleted() -> None:
    one, two, _ = pair()
    mine = two.create("Mine")
    one.create("Another")
    asked: list[int] = []

    def meanwhile(number: int) -> None:
        asked.append(number)
        if number == 4:
            two.delete(mine)

    fill(two, one, meanwhile=meanwhile)
    assert 4 in asked
    assert two.ask(lambda tables: tables.mailbox(ACCOUNT, mine)) is None
    two.recount()


def test_housekeeping_does_not_discard_what_has_just_begun_to_come() -> None:
    """It has seen that nothing is being taken over, and comes to its turn when something is."""
    one, two, box = pair()
    two.add(box, *many(3))

    def meanwhile(question: int) -> None:
        if question == 5:
            one.do(lambda replica, txn: replica.discard_staged(txn))

    take_over(one.store, one.replica, source_of(two), meanwhile=meanwhile)
    assert same(one, two)
    assert len(one.read(box)) == 3


def test_a_merge_that_was_given_up_merges_nothing() -> None:
    one, two, box = pair()
    one.add(box, "a")
    attempt = Attempt()
    number = two.do(lambda replica, txn: replica.compare(txn, attempt))
    attempt.is_on = False
    two.hear(one)
    with pytest.raises(PeerError, match="given up"):
        two.do(lambda replica, txn: replica.merge(txn, attempt, number, one.clock, is_repair=False))


def test_a_directory_that_was_staged_is_not_sent_again() -> None:
    one, two = Master(1), Master(2)
    one.add(one.create(), *many(10))
    sizes: list[int] = []

    def die(asked: int) -> None:
        if asked == 4:
            raise PeerError("the line is dead")

    with pytest.raises(PeerError, match="dead"):
        fill(two, one, meanwhile=die)
    assert two.ask(lambda tables: tables.staged_directory(ACCOUNT)) is not None
    source = source_of(one)
    honest = source.answer

    def answer(peer: ReplicaId, question: bytes) -> bytes:
        found = honest(peer, question)
        if isinstance(decode_request(question), AskDetails):
            sizes.extend(len(each.document or b"") for each in decode_details(found))
        return found

    source.answer = answer  # type: ignore[method-assign]
    take_over(two.store, two.replica, source)
    assert sizes == [0]
    assert same(one, two)


def test_a_snapshot_that_holds_a_message_twice_is_refused() -> None:
    one, two = Master(1), Master(2)
    box = one.create()
    one.add(box, "a", "b")

    def work(txn: Transaction) -> None:
        tables = WritableTables(txn)
        record = tables.mailbox(ACCOUNT, box)
        assert record is not None
        body = encode_instances(Message((Instance(Dot(ReplicaId(1), 2), Uid(9), 1, 1, {}),)))
        tables.put_message(record.number, MessageId("a"), Uid(9), Modseq(9), body)

    one.store.transact(work)
    with pytest.raises(PeerError, match="twice"):
        fill(two, one)


def test_flags_that_follow_many_messages_take_one_delta() -> None:
    one, two, archive = moved_and_flagged(*many(200))
    before = two.clock[two.replica.id]
    fill(two, one)
    assert all("$flagged" in keywords for keywords in two.keywords(archive).values())
    assert two.clock[two.replica.id] - before == 1


def test_a_flag_that_came_after_the_move_follows_although_its_author_hears_of_the_move_by_snapshot() -> None:
    one, two, archive = moved_and_flagged("a")
    one.do(lambda replica, txn: replica.prune(txn, Clock(), Keep(bytes=0, age_ms=0)))
    one.hear(two)
    fill(two, one)
    exchange(one, two)
    for master in (one, two):
        assert master.keywords(archive) == {"a": {"$flagged"}}
    assert same(one, two)


def test_every_answer_of_whatever_size_is_read_where_it_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    depth = 0
    read = set()

    def compute(work: Callable[[], Any]) -> Steps[Any]:
        def computing() -> Any:
            nonlocal depth
            depth += 1
            try:
                return work()
            finally:
                depth -= 1

        return effects.compute(computing)

    def watch(name: str) -> None:
        decode = getattr(filling, name)

        def watched(answer: bytes) -> Any:
            assert depth, f"{name} holds up the event loop"
            read.add(name)
            return decode(answer)

        monkeypatch.setattr(filling, name, watched)

    names = {"decode_accounts", "decode_details", "decode_blocks", "decode_messages"}
    monkeypatch.setattr(filling, "compute", compute)
    for name in names:
        watch(name)
    one, two, box = pair()
    one.add(box, "a")
    fill(two, one)
    assert read == names


def test_a_clock_that_nobody_could_be_told_is_not_merged() -> None:
    one, two, _ = pair()
    one.do(lambda _, txn: raise_clock(txn, MAX_REPLICAS))
    with pytest.raises(PeerError, match="at most"):
        two.do(
            lambda replica, txn: replica.merge(
                txn, attempt := Attempt(), replica.compare(txn, attempt), one.clock, is_repair=False
            )
        )


def raise_clock(txn: Transaction, replicas: int) -> None:
    tables = WritableTables(txn)
    head = tables.head()
    head.clock = head.clock.join(Clock({ReplicaId(1000 + n): 1 for n in range(replicas)}))
    tables.put_head(head)
