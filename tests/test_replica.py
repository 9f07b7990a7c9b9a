"""One replica's commands, receptions and queries: what they do, and that a refused one does nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmail import views
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import decode_delta, encode_delta
from crdtmail.crdt.delta import (
    Add,
    Create,
    DeleteMailbox,
    DirectoryUpdate,
    Keywords,
    MailboxId,
    Move,
    Operation,
    Renumber,
)
from crdtmail.crdt.message import DELETED, MessageId, NewMessage
from crdtmail.crdt.uid import Stripe, Uid
from crdtmail.errors import (
    AlreadyExists,
    Forbidden,
    NotFound,
    Overloaded,
    PeerError,
    RequestError,
    StoreError,
    TooLarge,
    UidsExhausted,
)
from crdtmail.limits import (
    MAX_ANNOTATIONS,
    MAX_KEYWORDS_PER_MESSAGE,
    MAX_MAILBOX_NAME,
    MAX_MESSAGES_PER_OPERATION,
    MAX_OPERATIONS,
    MAX_REPLICAS,
    MAX_UID,
    MAX_UID_JUMP,
)
from crdtmail.replica import KeywordChange, Outcome, Replica, Selection
from crdtmail.store.interface import Table, Transaction
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.tables import WritableTables
from crdtmail.views import MessageView
from tests.masters import ACCOUNT, EVERYTHING, Master, exchange, ids, mail, pair

NOWHERE = MailboxId(b"\0" * 16)
MANY_KEYWORDS = [f"k{n:03}" for n in range(MAX_KEYWORDS_PER_MESSAGE + 1)]
Command = Callable[[Replica, Transaction], Any]


def assert_refused(master: Master, error: type[Exception], command: Command) -> None:
    """The command raises `error`, and even if its transaction is committed nothing has changed."""
    before = master.rows()

    def try_it(txn: Transaction) -> None:
        with pytest.raises(error):
            command(master.replica, txn)

    master.store.transact(try_it)
    assert master.rows() == before


def master_with_mail() -> tuple[Master, MailboxId]:
    master = Master(1)
    box = master.create()
    master.add(box, "a", "b", "c")
    return master, box


# Refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        lambda r, t: r.rename_mailbox(t, ACCOUNT, NOWHERE, "x"),
        lambda r, t: r.describe_mailbox(t, ACCOUNT, NOWHERE, role="sent"),
        lambda r, t: r.delete_mailbox(t, ACCOUNT, NOWHERE),
        lambda r, t: r.add(t, ACCOUNT, NOWHERE, [mail("a")]),
        lambda r, t: r.change_keywords(t, ACCOUNT, NOWHERE, []),
        lambda r, t: r.expunge(t, ACCOUNT, NOWHERE, None),
        lambda r, t: r.move(t, ACCOUNT, NOWHERE, NOWHERE, ids("a")),
        lambda r, t: r.copy(t, ACCOUNT, NOWHERE, NOWHERE, ids("a")),
        lambda r, t: r.show(t, ACCOUNT, NOWHERE),
        lambda r, t: r.show_uids(t, ACCOUNT, NOWHERE, []),
    ],
)
def test_a_mailbox_that_is_not_there_is_not_found(command: Command) -> None:
    master, _ = master_with_mail()
    assert_refused(master, NotFound, command)


def test_a_mailbox_of_another_account_is_not_found() -> None:
    master, box = master_with_mail()
    assert_refused(master, NotFound, lambda r, t: r.expunge(t, "bob", box, None))


def test_a_target_that_is_not_there_keeps_the_messages_where_they_are() -> None:
    master, box = master_with_mail()
    assert_refused(master, NotFound, lambda r, t: r.move(t, ACCOUNT, box, NOWHERE, ids("a")))


def test_a_name_that_is_taken_is_refused() -> None:
    master, _ = master_with_mail()
    work = master.create("Work")
    master.create("Play/a")
    below = master.create("Work/a")
    assert_refused(master, AlreadyExists, lambda r, t: r.create_mailbox(t, ACCOUNT, "Work"))
    assert_refused(master, AlreadyExists, lambda r, t: r.rename_mailbox(t, ACCOUNT, below, "Work"))
    assert_refused(master, AlreadyExists, lambda r, t: r.rename_mailbox(t, ACCOUNT, work, "Play"))


def test_inbox_keeps_its_name_and_stays() -> None:
    master, box = master_with_mail()
    work = master.create("Work")
    assert_refused(master, Forbidden, lambda r, t: r.rename_mailbox(t, ACCOUNT, box, "x"))
    assert_refused(master, Forbidden, lambda r, t: r.rename_mailbox(t, ACCOUNT, work, "INBOX"))
    assert_refused(master, Forbidden, lambda r, t: r.delete_mailbox(t, ACCOUNT, box))


def test_a_mailbox_does_not_go_below_itself() -> None:
    master = Master(1)
    work, done = master.create("Work"), master.create("Work/Done")
    with pytest.raises(Forbidden, match="below itself"):
        master.do(lambda replica, txn: replica.rename_mailbox(txn, ACCOUNT, work, "Work/Done"))
    with pytest.raises(Forbidden, match="below itself"):
        master.do(lambda replica, txn: replica.rename_mailbox(txn, ACCOUNT, done, "Work/Done/Deeper"))


def test_messages_do_not_move_to_where_they_are() -> None:
    master, box = master_with_mail()
    assert_refused(master, Forbidden, lambda r, t: r.move(t, ACCOUNT, box, box, ids("a")))
    assert_refused(master, Forbidden, lambda r, t: r.copy(t, ACCOUNT, box, box, ids("a")))


def test_too_much_at_once_is_refused() -> None:
    master, box = master_with_mail()
    messages = [mail("x")] * (MAX_MESSAGES_PER_OPERATION + 1)
    assert_refused(master, TooLarge, lambda r, t: r.add(t, ACCOUNT, box, messages))
    change = KeywordChange(ids("a"), frozenset({"x"}), frozenset())
    changes = [change] * (MAX_OPERATIONS + 1)
    assert_refused(master, TooLarge, lambda r, t: r.change_keywords(t, ACCOUNT, box, changes))
    annotations: dict[str, str | None] = {f"/{n}": "x" for n in range(MAX_ANNOTATIONS)}
    master.do(lambda r, t: r.describe_mailbox(t, ACCOUNT, box, annotations=annotations))
    one_more: dict[str, str | None] = {"/more": "x"}
    assert_refused(master, TooLarge, lambda r, t: r.describe_mailbox(t, ACCOUNT, box, annotations=one_more))
    one_less: dict[str, str | None] = {"/0": None, **one_more}
    master.do(lambda r, t: r.describe_mailbox(t, ACCOUNT, box, annotations=one_less))


def test_a_rename_that_makes_a_name_below_too_long_is_refused() -> None:
    master = Master(1)
    work = master.create("Work")
    master.create("Work/" + "x" * 100)
    name = "y" * (MAX_MAILBOX_NAME - 50)
    assert_refused(master, TooLarge, lambda r, t: r.rename_mailbox(t, ACCOUNT, work, name))


@pytest.mark.parametrize(
    "command",
    [
        lambda r, t, box: r.add(t, ACCOUNT, box, [mail("x"), mail("x")]),
        lambda r, t, box: r.add(t, ACCOUNT, box, [mail("")]),
        lambda r, t, box: r.add(t, ACCOUNT, box, [mail("x", "$Seen")]),
        lambda r, t, box: r.add(t, ACCOUNT, box, [mail("x", *MANY_KEYWORDS)]),
        lambda r, t, box: r.add(t, ACCOUNT, box, [mail("x")._replace(size=-1)]),
        lambda r, t, box: r.add(t, ACCOUNT, box, [mail("x")._replace(received_at=1 << 60)]),
        lambda r, t, box: r.change_keywords(
            t, ACCOUNT, box, [KeywordChange(ids("a"), frozenset({"x"}), frozenset({"x"}))]
        ),
        lambda r, t, box: r.change_keywords(
            t, ACCOUNT, box, [KeywordChange(ids("a"), frozenset(MANY_KEYWORDS), frozenset())]
        ),
        lambda r, t, box: r.create_mailbox(t, "", "x"),
        lambda r, t, box: r.create_mailbox(t, "b\nob", "x"),
        lambda r, t, box: r.describe_mailbox(t, ACCOUNT, box, annotations={"/c": "x" * (5 << 20)}),
    ],
)
def test_what_no_other_replica_would_read_is_not_written(
    command: Callable[[Replica, Transaction, MailboxId], Any],
) -> None:
    master, box = master_with_mail()
    assert_refused(master, RequestError, lambda r, t: command(r, t, box))


def test_a_message_with_more_keywords_than_an_addition_may_name_stays_where_it_is() -> None:
    master, box = master_with_mail()
    work = master.create("Work")
    master.mark(box, ids("a"), add=MANY_KEYWORDS[:100])
    master.mark(box, ids("a"), add=MANY_KEYWORDS[100:])
    assert_refused(master, RequestError, lambda r, t: r.move(t, ACCOUNT, box, work, ids("a")))


@pytest.mark.parametrize("kind", ["add", "move", "renumber"])
def test_a_delta_of_a_peer_that_would_use_up_the_uids_is_refused(kind: str) -> None:
    master, box = master_with_mail()
    work = master.create("Work")
    high = Uid(MAX_UID_JUMP + 1000)
    message = NewMessage(MessageId("high"), high, 1, 1, ())
    operations: dict[str, Operation] = {
        "add": Add(box, (message,), Clock()),
        "move": Move(work, box, (message,), Clock()),
        "renumber": Renumber(box, ((MessageId("a"), high),), master.clock),
    }
    before = master.rows()
    with pytest.raises(PeerError, match="too far above"):
        master.receive_from(2, 1, operations[kind])
    assert master.rows() == before


def test_the_operations_of_a_delta_of_a_peer_use_up_no_more_uids_than_one_may() -> None:
    master, box = master_with_mail()
    steps = [Uid(each * MAX_UID_JUMP + 1) for each in range(1, 32)]
    messages = [NewMessage(MessageId(f"{uid}"), uid, 1, 1, ()) for uid in steps]
    with pytest.raises(PeerError, match="too far above"):
        master.receive_from(2, 1, *(Add(box, (each,), Clock()) for each in messages))
    master.receive_from(2, 1, Add(box, (messages[0],), Clock()))


def test_no_honest_delta_goes_further_up_than_its_peers_allow() -> None:
    stripe = Stripe(MAX_REPLICAS - 1, MAX_REPLICAS)
    added = islice(stripe.uids_from(1), MAX_MESSAGES_PER_OPERATION)
    healed = islice(stripe.healed_uids(1, 10 * MAX_MESSAGES_PER_OPERATION), MAX_MESSAGES_PER_OPERATION)
    assert max(max(added), max(healed)) <= MAX_UID_JUMP


def test_where_the_uids_end_no_message_comes_in_and_what_is_there_can_be_read() -> None:
    master, box = master_with_mail()
    for seq in range(1, 33):
        high = NewMessage(MessageId(f"{seq}"), Uid(min(seq * MAX_UID_JUMP, MAX_UID)), 1, 1, ())
        master.receive_from(2, seq, Add(box, (high,), Clock()))
    assert_refused(master, UidsExhausted, lambda r, t: r.add(t, ACCOUNT, box, [mail("x")]))
    assert [message.uid for message in master.read(box)][-1] == MAX_UID
    record = master.record(box)
    assert master.ask(lambda tables: views.messages(tables, record, after=MAX_UID, limit=1)) == []
    position = views.position_now(record)
    assert master.ask(lambda tables: views.changes(tables, record, position, limit=1)).changed == []
    master.recount()


def test_a_store_of_another_format_is_not_opened() -> None:
    store = MemoryStore()
    Replica.open(store, lambda: ReplicaId(1), lambda: 0)
    store.transact(lambda txn: txn.put(Table.META, b"format", b"\0\0\0\x63"))
    with pytest.raises(StoreError, match="format 99"):
        Replica.open(store, lambda: ReplicaId(1), lambda: 0)


def test_a_replica_keeps_its_id_and_whom_it_has_met() -> None:
    store = MemoryStore()
    first = Replica.open(store, lambda: ReplicaId(1), lambda: 0)
    store.transact(lambda txn: first.meet(txn, ReplicaId(5), "mx5", Clock()))
    again = Replica.open(store, lambda: ReplicaId(2), lambda: 0)
    assert again.id == 1
    assert again.members == {1, 5}


def test_a_store_that_lies_elsewhere_is_a_copy_and_gets_an_id_of_its_own() -> None:
    store = MemoryStore(place=b"here")
    assert Replica.open(store, lambda: ReplicaId(1), lambda: 0).id == 1
    store.next_place = b"there"
    assert Replica.open(store, lambda: ReplicaId(2), lambda: 0).id == 2
    assert Replica.open(store, lambda: ReplicaId(3), lambda: 0).id == 2, "it stays there now"


def test_a_copy_gets_its_own_lost_deltas_back_from_its_peers() -> None:
    one, two, box = pair()
    backup = one.rows()
    one.add(box, "lost")
    two.hear(one)
    old = Master(7)
    old.store = MemoryStore(place=b"restored")

    def restore(txn: Transaction) -> None:
        for table, rows in backup.items():
            for key, value in rows:
                txn.put(table, key, value)

    old.store.transact(restore)
    old.replica = Replica.open(old.store, lambda: ReplicaId(7), lambda: 0)
    assert old.replica.id == 7
    old.add(box, "new")
    exchange(old, two)
    assert set(old.keywords(box)) == set(two.keywords(box)) == {"lost", "new"}
    assert old.digest == two.digest


# Messages -------------------------------------------------------------------------------------------------


def test_a_message_that_is_there_already_keeps_its_uid_and_survives_an_expunge_elsewhere() -> None:
    one, two, box = pair()
    one.add(box, "a")
    two.hear(one)
    uid = one.read(box)[0].uid
    assert one.add(box, "a") == ["a"]
    two.expunge(box, ids("a"))
    exchange(one, two)
    assert [(message.uid, message.id) for message in one.read(box)] == [(uid, "a")]


def test_what_is_added_only_if_absent_is_left_as_it_is_and_not_named() -> None:
    master, box = master_with_mail()
    before = master.clock
    assert master.do(lambda r, t: r.add(t, ACCOUNT, box, [mail("a", "$seen")], if_absent=True)) == []
    assert master.clock == before
    added = master.do(lambda r, t: r.add(t, ACCOUNT, box, [mail("a"), mail("d")], if_absent=True))
    assert added == ["d"]
    assert master.keywords(box)["a"] == frozenset()


def test_a_keyword_that_was_seen_is_removed_whoever_added_it() -> None:
    one, two, box = pair()
    one.add(box, "a", keywords=["$seen"])
    two.hear(one)
    two.mark(box, ids("a"), add={"x", "y"})
    one.hear(two)
    one.mark(box, ids("a"), remove={"x", "$seen"})
    exchange(one, two)
    assert one.keywords(box) == two.keywords(box) == {"a": {"y"}}


def test_a_selection_names_each_message_once_however_often_it_covers_it() -> None:
    master, box = master_with_mail()
    master.read(box)
    overlapping = Selection(
        ids=(MessageId("b"), MessageId("b"), MessageId("z")), uids=((1, 2), (2, 9), (2, 2))
    )
    assert master.mark(box, overlapping, add={"x"}) == ["b", "a", "c"]


def test_what_is_not_there_is_passed_over_and_alone_it_makes_no_delta() -> None:
    master, box = master_with_mail()
    work = master.create("Work")
    before = master.clock
    assert master.mark(box, ids("z"), add={"x"}) == []
    assert master.expunge(box, ids("z")) == []
    assert master.move(box, work, ids("z")) == []
    assert master.expunge(box) == []
    assert master.mark(box, ids("a"), remove={"$seen"}) == ["a"], (
        "it is there, though there is nothing to remove"
    )
    assert master.clock == before


def test_an_expunge_without_a_selection_takes_what_shows_deleted_here() -> None:
    one, two, box = pair()
    one.add(box, "a", "b", "c")
    two.hear(one)
    one.mark(box, ids("a", "b"), add={DELETED})
    two.mark(box, ids("c"), add={DELETED})
    assert one.expunge(box) == ["a", "b"]
    exchange(one, two)
    assert one.keywords(box) == {"c": {DELETED}}


def test_a_move_takes_keywords_size_and_date_along() -> None:
    master, box = master_with_mail()
    work = master.create("Work")
    master.mark(box, ids("a"), add={"$flagged", "x"})
    before = master.read(box)[0]
    assert master.move(box, work, ids("a")) == ["a"]
    (moved,) = master.read(work)
    assert replace_place(moved, before) == before
    assert [message.id for message in master.read(box)] == ["b", "c"]
    master.recount()


def replace_place(message: MessageView, other: MessageView) -> MessageView:
    return message._replace(uid=other.uid, modseq=other.modseq)


def test_a_copy_leaves_the_message_in_both_places() -> None:
    master, box = master_with_mail()
    work = master.create("Work")
    assert master.do(lambda r, t: r.copy(t, ACCOUNT, box, work, ids("a"))) == ["a"]
    assert [message.id for message in master.read(work)] == ["a"]
    assert [message.id for message in master.read(box)] == ["a", "b", "c"]


def test_the_uids_that_are_told_after_an_addition_are_shown_ones() -> None:
    one, two, box = pair()
    one.read(box)
    two.add(box, *(f"two{n}" for n in range(5)))
    one.add(box, "one")
    one.read(box)
    one.hear(two)
    told = one.do(lambda r, t: r.show_uids(t, ACCOUNT, box, [MessageId("two0"), MessageId("nothing")]))
    assert told == {"two0": next(m.uid for m in one.read(box) if m.id == "two0")}
    one.recount()


# Mailboxes ------------------------------------------------------------------------------------------------


def names(master: Master) -> set[str]:
    return {living.name for living in master.ask(lambda t: views.living_mailboxes(t, ACCOUNT)).values()}


def test_a_rename_takes_the_mailboxes_below_along() -> None:
    master = Master(1)
    work = master.create("Work")
    for name in ("Work/a", "Work/a/b", "Workshop"):
        master.create(name)
    master.do(lambda r, t: r.rename_mailbox(t, ACCOUNT, work, "Play"))
    assert names(master) == {"Play", "Play/a", "Play/a/b", "Workshop"}
    before = master.clock
    master.do(lambda r, t: r.rename_mailbox(t, ACCOUNT, work, "Play"))
    assert master.clock == before, "a rename to the same name is none"


def test_a_deleted_mailbox_leaves_nothing_but_the_uids_it_has_used_up() -> None:
    master = Master(1)
    empty, never_read, read = (master.create(name) for name in "ABC")
    master.delete(empty)
    for box in (never_read, read):
        master.add(box, "a", "b", keywords=["$flagged"])
    master.read(read)
    master.delete(never_read)
    master.delete(read)
    rows = master.rows()
    for table in (Table.MAILBOXES, Table.MESSAGES, Table.MESSAGE_IDS, Table.CHANGES, Table.STALE):
        assert rows[table] == []
    assert len(rows[Table.BURNT]) == 2
    assert names(master) == set()
    master.recount()


def test_a_name_that_is_used_anew_is_another_mailbox() -> None:
    master = Master(1)
    first = master.create("Work")
    master.delete(first)
    assert master.create("Work") != first


def test_a_mailbox_that_an_addition_elsewhere_keeps_alive_never_shows_a_burnt_uid() -> None:
    one, two, _ = pair()
    work = one.create("Work")
    two.hear(one)
    one.add(work, "a", "b", "c")
    highest = one.read(work)[-1].uid
    two.add(work, "late")
    assert two.read(work)[0].uid <= highest
    one.delete(work)
    exchange(one, two)
    (late,) = one.read(work)
    assert (late.id, late.uid > highest) == ("late", True)
    exchange(one, two)
    assert two.read(work)[0].uid == late.uid
    assert one.digest == two.digest
    one.recount()
    two.recount()


def test_a_living_mailbox_whose_name_never_came_is_shown_all_the_same() -> None:
    master = Master(1)
    master.receive_from(2, 1, Create(NOWHERE))
    assert names(master) == {"Recovered 00000000"}


# Deltas from others ---------------------------------------------------------------------------------------


def test_a_delta_that_comes_again_changes_nothing() -> None:
    one, two, box = pair()
    one.add(box, "a")
    two.hear(one)
    before = two.rows()
    for entry in one.log():
        assert two.receive(entry.delta) is Outcome.KNOWN
    assert two.rows() == before


def test_a_delta_whose_predecessor_is_lacking_is_a_gap_and_changes_nothing() -> None:
    one, two, box = pair()
    one.add(box, "a")
    one.add(box, "b")
    before = two.rows()
    assert two.receive(one.log()[-1].delta) is Outcome.GAP
    assert two.rows() == before


def test_a_delta_whose_cause_is_lacking_is_a_gap_and_changes_nothing() -> None:
    one, two, box = pair()
    three = Master(3)
    three.hear(one)
    one.add(box, "a")
    two.hear(one)
    two.mark(box, ids("a"), add={"$seen"})
    before = three.rows()
    assert three.receive(two.log()[-1].delta) is Outcome.GAP
    assert three.rows() == before
    three.hear(one)
    assert three.receive(two.log()[-1].delta) is Outcome.APPLIED


def test_a_delta_that_claims_to_be_ones_own_is_refused() -> None:
    _one, two, box = pair()
    with pytest.raises(PeerError, match="own"):
        two.receive_from(2, 1, Create(box))


def test_a_delta_with_a_broken_directory_update_is_refused() -> None:
    one, _, _ = pair()
    before = one.rows()
    with pytest.raises(PeerError):
        one.receive_from(2, 1, DirectoryUpdate(b"\xff" * 9, Clock()))
    assert one.rows() == before


def test_keywords_that_a_move_has_seen_go_along_and_nobody_adds_them_again() -> None:
    one, two, box = pair()
    work = one.create("Work")
    one.add(box, "m")
    one.mark(box, ids("m"), add={"$flagged"})
    two.hear(one)
    two.move(box, work, ids("m"))
    before = one.clock[ReplicaId(1)]
    one.hear(two)
    assert one.clock[ReplicaId(1)] == before
    assert one.keywords(work) == {"m": {"$flagged"}}


def test_a_keyword_that_a_move_had_not_seen_follows_in_a_delta_of_the_replica_that_added_it() -> None:
    one, two, box = pair()
    three = Master(3)
    work = one.create("Work")
    one.add(box, "m", keywords=[DELETED])
    exchange(one, two, three)
    two.move(box, work, ids("m"))
    one.mark(box, ids("m"), add={"$flagged"}, remove={DELETED})
    clock = three.clock
    exchange(one, two, three)
    assert three.clock[ReplicaId(3)] == clock[ReplicaId(3)], "it is not for a third to put it there"
    for master in (one, two, three):
        assert master.keywords(work) == {"m": {"$flagged"}}
        assert master.keywords(box) == {}
        master.recount()


def test_keywords_of_a_message_in_two_places_follow_one_delta_that_moves_both() -> None:
    """No replica of ours moves twice in one delta, but another program may."""
    one, two, box = pair()
    other, target = one.create("Other"), one.create("Target")
    one.add(box, "m")
    one.add(other, "m")
    seen = one.clock
    for place in (box, other):
        one.mark(place, ids("m"), add={"$flagged"})
    new = (NewMessage(MessageId("m"), Uid(5), 1, 1, ()),)
    moves = (Move(box, target, new, seen), Move(other, target, new, seen))
    assert one.receive_from(3, 1, *moves) is Outcome.APPLIED
    assert one.keywords(target) == {"m": {"$flagged"}}
    two.hear(one)
    assert two.keywords(target) == {"m": {"$flagged"}}


def test_more_keywords_than_one_change_may_name_follow_a_message_that_was_moved_elsewhere() -> None:
    one, two, box = pair()
    work = one.create("Work")
    one.add(box, "m")
    two.hear(one)
    two.move(box, work, ids("m"))
    one.mark(box, ids("m"), add=MANY_KEYWORDS[:100])
    one.mark(box, ids("m"), add=MANY_KEYWORDS[100:])
    exchange(one, two)
    assert two.keywords(work) == {"m": set(MANY_KEYWORDS)}
    assert one.digest == two.digest


def test_what_a_hostile_context_covers_takes_nothing_that_has_not_come_yet() -> None:
    _one, two, box = pair()
    everything = Clock({ReplicaId(1): 1_000_000})
    assert two.receive_from(3, 1, DeleteMailbox(box, everything)) is Outcome.GAP
    assert two.receive_from(3, 1, Keywords(box, (MessageId("a"),), ("x",), (), everything)) is Outcome.GAP


def test_the_accounts_that_were_touched_are_told_once() -> None:
    one, two, box = pair()
    two.replica.take_touched()
    one.add(box, "a")
    two.hear(one)
    assert two.replica.take_touched() == {ACCOUNT}
    assert two.replica.take_touched() == set()


# The log ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=20), st.integers(1, 2000))
def test_batches_that_are_asked_for_until_none_is_left_bring_everything(
    steps: list[tuple[int, int]], max_bytes: int
) -> None:
    masters = [Master(number) for number in (1, 2, 3)]
    box = masters[0].create()
    exchange(*masters)
    for number, (at, source) in enumerate(steps):
        masters[at].add(box, f"m{number}")
        if at != source:
            masters[at].hear(masters[source], at_most=1)
    sender, late = masters[0], Master(9)
    while batch := sender.ask(lambda t: views.deltas_after(t, late.clock, max_bytes=max_bytes)):
        assert len(batch) == 1 or sum(len(entry.delta) for entry in batch) <= max_bytes
        for entry in batch:
            assert late.receive(entry.delta) is Outcome.APPLIED
    assert (late.clock, late.digest) == (sender.clock, sender.digest)


def test_ones_own_deltas_can_be_asked_for_alone() -> None:
    one, two, box = pair()
    one.add(box, "a")
    two.add(box, "b")
    exchange(one, two)
    own = two.ask(lambda t: views.deltas_after(t, Clock(), max_bytes=EVERYTHING, own=ReplicaId(2)))
    assert [entry.dot for entry in own] == [Dot(ReplicaId(2), 1)]
    lacking = two.ask(lambda t: views.deltas_after(t, two.clock, max_bytes=EVERYTHING))
    assert lacking == []


def test_what_is_logged_are_the_bytes_that_came() -> None:
    one, two, box = pair()
    one.add(box, "a")
    two.hear(one)
    assert [entry.delta for entry in one.log()] == [entry.delta for entry in two.log()]
    for entry in one.log():
        assert encode_delta(decode_delta(entry.delta)) == entry.delta


def test_equal_deltas_in_another_order_give_another_log_and_the_same_digest() -> None:
    one, two, box = pair()
    one.add(box, "a")
    two.add(box, "b")
    exchange(one, two)
    assert [entry.dot for entry in one.log()] != [entry.dot for entry in two.log()]
    assert (one.clock, one.digest) == (two.clock, two.digest)


# Changes --------------------------------------------------------------------------------------------------


def test_changes_name_each_message_once_as_it_is_now_and_what_vanished() -> None:
    master, box = master_with_mail()
    master.read(box)
    position = views.position_now(master.record(box))
    master.mark(box, ids("b"), add={"x"})
    master.mark(box, ids("b"), add={"y"})
    master.expunge(box, ids("a"))
    page = master.changes(box, position)
    assert {str(change.id): change.keywords for change in page.changed} == {"b": {"x", "y"}}
    assert page.vanished == [1]
    assert not page.has_more
    nothing = master.changes(box, page.position)
    assert (nothing.changed, nothing.vanished) == ([], [])


def test_a_message_that_nobody_was_shown_does_not_vanish() -> None:
    master, box = master_with_mail()
    position = views.position_now(master.record(box))
    master.add(box, "d")
    master.expunge(box, ids("d"))
    assert master.changes(box, position).vanished == []


class Reader:
    """A client that reads once and from then on only follows the changes, page by page."""

    def __init__(self, master: Master, box: MailboxId) -> None:
        self._master = master
        self._box = box
        self._position = (0, 0)
        self.holds: dict[int, MessageView] = {}

    def read_a_page(self, limit: int) -> bool:
        page = self._master.changes(self._box, self._position, limit)
        assert len(page.changed) + len(page.vanished) <= limit
        for uid in page.vanished:
            self.holds.pop(uid, None)
        for change in page.changed:
            self.holds[change.uid] = change
        self._position = page.position
        return page.has_more

    def holds_the_mailbox(self) -> None:
        assert sorted(self.holds.values()) == self._master.read(self._box)


AT = st.integers(0, 2)
NAMES = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True)
MARKS = st.frozensets(st.sampled_from(["x", "$seen", DELETED]), min_size=1)
STEPS: st.SearchStrategy[tuple[Any, ...]] = st.one_of(
    st.tuples(st.just("add"), AT, NAMES, MARKS),
    st.tuples(st.just("add"), AT, NAMES, MARKS),
    st.tuples(st.just("mark"), AT, NAMES, MARKS, st.booleans()),
    st.tuples(st.just("expunge"), AT, NAMES),
    st.tuples(st.just("move"), AT, NAMES),
    st.tuples(st.just("hear"), AT, AT, st.integers(1, 3) | st.none()),
    st.tuples(st.just("hear"), AT, AT, st.none()),
    st.tuples(st.just("page"), AT, st.integers(1, 4)),
    st.tuples(st.just("page"), AT, st.integers(1, 4)),
)


@settings(max_examples=2 * settings().max_examples)
@given(st.lists(STEPS, max_size=60), st.booleans())
def test_a_reader_who_follows_the_changes_holds_what_one_who_reads_everything_does(
    steps: list[tuple[Any, ...]], acquainted: bool
) -> None:
    masters = [Master(number, knows=[1, 2, 3] if acquainted else []) for number in (1, 2, 3)]
    box, other = masters[0].create(), masters[0].create("Other")
    exchange(*masters)
    readers = [Reader(master, box) for master in masters]
    for what, at, *how in steps:
        master = masters[at]
        match what, how:
            case "add", [named, keywords]:
                master.add(box, *named, keywords=keywords)
            case "mark", [named, keywords, adds]:
                master.mark(box, ids(*named), **{"add" if adds else "remove": keywords})
            case "expunge", [named]:
                master.expunge(box, ids(*named))
            case "move", [named]:
                master.move(box, other, ids(*named))
                master.move(other, box, ids(named[0]))
            case "hear", [source, at_most] if source != at:
                master.hear(masters[source], at_most)
            case "page", [limit]:
                if not readers[at].read_a_page(limit):
                    readers[at].holds_the_mailbox()
        master.recount()
    exchange(*masters)
    for reader in readers:
        while reader.read_a_page(3):
            pass
        reader.holds_the_mailbox()
    for master in masters:
        master.recount()


def test_the_recount_notices_a_counter_that_is_off() -> None:
    master, box = master_with_mail()
    record = replace(master.record(box), total=7)
    master.do(lambda _, txn: WritableTables(txn).put_mailbox(ACCOUNT, box, record))
    with pytest.raises(AssertionError, match="counters"):
        master.recount()


def test_nothing_is_written_until_a_new_id_is_durable() -> None:
    one, _, box = pair()

    class FullError(Exception):
        pass

    def renew(txn: Transaction) -> None:
        one.replica._new_id = lambda: ReplicaId(77)
        assert one.replica.renew(txn, ReplicaId(1), is_ambiguous=False)
        raise FullError

    before = one.clock
    with pytest.raises(FullError):
        one.store.transact(renew)
    with pytest.raises(Overloaded, match="must take another id"):
        one.add(box, "a")
    assert one.clock == before
    assert one.do(lambda replica, txn: replica.renew(txn, ReplicaId(1), is_ambiguous=False))
    assert not one.do(lambda replica, txn: replica.renew(txn, ReplicaId(1), is_ambiguous=False)), (
        "whoever says so second"
    )
    one.add(box, "b")
    assert one.clock[ReplicaId(77)] == 1
