"""The laws of one message: what concurrent operations give does not depend on who is heard first.

A history is made as replicas make it: each acts on what it has seen, and hears of the others' operations
in the order in which each of them made them, causes before effects.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.message import DELETED, EMPTY, UNDELETED, Message, MessageId, NewMessage, expand
from crdtmail.crdt.uid import Uid

R1, R2, R3 = ReplicaId(1), ReplicaId(2), ReplicaId(3)
KEYWORDS = ("$flagged", "$seen", DELETED)
SETS = st.frozensets(st.sampled_from(KEYWORDS))


@dataclass(frozen=True)
class Operation:
    """One of the four things that happen to a message, and the dots that it has seen of it."""

    dot: Dot
    kind: str
    add: frozenset[str] = frozenset()
    remove: frozenset[str] = frozenset()
    uid: int = 1
    context: Clock = field(default_factory=Clock)

    def on(self, message: Message) -> Message:
        match self.kind:
            case "add":
                return message.with_instance(self.dot, new(self.uid, *self.add))
            case "expunge":
                return message.without(self.context)
            case "renumber":
                return message.with_uid(Uid(self.uid), self.context)
        return message.with_keywords(self.dot, *expand(self.add, self.remove), self.context)


def new(uid: int = 1, *keywords: str) -> NewMessage:
    return NewMessage(MessageId("m"), Uid(uid), 10, 20, tuple(sorted(keywords)))


@dataclass
class Replica:
    """What one replica holds of the message, and the operations that it has made or heard, in order."""

    id: ReplicaId
    message: Message = EMPTY
    log: list[Operation] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def do(
        self, kind: str, add: frozenset[str] = frozenset(), remove: frozenset[str] = frozenset(), uid: int = 1
    ) -> None:
        touched = set().union(*expand(add, remove)) if kind == "keywords" else set()
        context = Clock.of(self.message.dots(touched))
        dot = Dot(self.id, self.clock[self.id] + 1)
        self.take(Operation(dot, kind, add, remove, uid, context))

    def take(self, operation: Operation) -> None:
        if not self.clock.covers(operation.dot):
            self.message = operation.on(self.message)
            self.log.append(operation)
            self.clock = self.clock.with_dot(operation.dot)

    def hear(self, other: Replica) -> None:
        for operation in list(other.log):
            self.take(operation)


@st.composite
def histories(draw: st.DrawFn) -> list[Replica]:
    """Three replicas in the middle of something, each of which may lack what the others did."""
    replicas = [Replica(R1), Replica(R2), Replica(R3)]
    if draw(st.booleans()):
        replicas[0].do("add", draw(SETS))
        for other in replicas[1:]:
            other.hear(replicas[0])
    for _ in range(draw(st.integers(0, 12))):
        one = draw(st.sampled_from(replicas))
        match draw(st.sampled_from(("hear", "add", "keywords", "keywords", "expunge", "renumber"))):
            case "hear":
                one.hear(draw(st.sampled_from(replicas)))
            case "keywords":
                add = draw(SETS)
                one.do("keywords", add, draw(SETS) - add)
            case "add":
                one.do("add", draw(SETS), uid=draw(st.integers(1, 9)))
            case kind:
                one.do(kind, uid=draw(st.integers(1, 9)))
    return replicas


@given(histories(), st.permutations([0, 1, 2]), st.permutations([0, 1, 2]))
def test_all_who_have_heard_everything_hold_the_same(
    replicas: list[Replica], one_order: list[int], another_order: list[int]
) -> None:
    one, another = Replica(ReplicaId(8)), Replica(ReplicaId(9))
    for at in one_order:
        one.hear(replicas[at])
    for at in another_order:
        another.hear(replicas[at])
    assert one.message == another.message
    for replica in replicas:
        replica.hear(one)
        assert replica.message == one.message


@given(histories())
def test_an_operation_that_is_heard_twice_changes_nothing_more(replicas: list[Replica]) -> None:
    for replica in replicas:
        for operation in replica.log[-1:]:
            if operation.kind != "expunge":
                assert operation.on(replica.message) == replica.message


@given(histories())
def test_after_everything_was_expunged_nothing_is_left(replicas: list[Replica]) -> None:
    first = replicas[0]
    for other in replicas[1:]:
        first.hear(other)
    first.do("expunge")
    assert first.message == EMPTY


@given(histories())
def test_after_every_keyword_was_removed_only_the_undeletion_is_left_and_a_deletion_takes_that(
    replicas: list[Replica],
) -> None:
    first = replicas[0]
    for other in replicas[1:]:
        first.hear(other)
    first.do("keywords", remove=frozenset(KEYWORDS))
    assert all(instance.keywords.keys() == {UNDELETED} for instance in first.message.instances)
    first.do("keywords", add=frozenset({DELETED}))
    assert all(instance.keywords.keys() == {DELETED} for instance in first.message.instances)


@given(SETS)
def test_a_keyword_that_comes_and_goes_leaves_no_dot(keywords: frozenset[str]) -> None:
    replica = Replica(R1)
    replica.do("add")
    before = replica.message
    keywords -= {DELETED}
    for _ in range(3):
        replica.do("keywords", add=keywords)
        replica.do("keywords", remove=keywords)
    assert replica.message == before


@given(histories(), histories())
def test_a_removal_takes_exactly_what_its_context_covers(one: list[Replica], other: list[Replica]) -> None:
    message, context = one[0].message, other[0].clock
    left = message.without(context)
    assert left.instances == tuple(i for i in message.instances if not context.covers(i.dot))
    without_keywords = message.with_keywords(Dot(R1, 99), (), KEYWORDS, context)
    for before, after in zip(message.instances, without_keywords.instances, strict=True):
        for keyword in KEYWORDS:
            dots = before.keywords.get(keyword, ())
            kept = tuple(dot for dot in dots if not (context.covers(before.dot) and context.covers(dot)))
            assert after.keywords.get(keyword, ()) == kept


def two_masters(*keywords: str) -> tuple[Replica, Replica]:
    """Two masters that both hold the message with these keywords."""
    one, two = Replica(R1), Replica(R2)
    one.do("add", frozenset(keywords))
    two.hear(one)
    return one, two


def merged(one: Replica, two: Replica) -> Message:
    one.hear(two)
    two.hear(one)
    assert one.message == two.message
    return one.message


def test_of_adding_and_removing_a_keyword_at_once_adding_wins() -> None:
    one, two = two_masters("$flagged")
    one.do("keywords", add=frozenset({"$flagged"}))
    two.do("keywords", remove=frozenset({"$flagged"}))
    assert merged(one, two).keywords == {"$flagged"}


def test_of_deleting_and_undeleting_at_once_undeleting_wins() -> None:
    one, two = two_masters(DELETED)
    one.do("keywords", add=frozenset({DELETED}))
    two.do("keywords", remove=frozenset({DELETED}))
    assert merged(one, two).keywords == frozenset()


def test_undeleting_wins_on_a_message_that_was_not_deleted_yet() -> None:
    one, two = two_masters()
    one.do("keywords", add=frozenset({DELETED}))
    two.do("keywords", remove=frozenset({DELETED}))
    assert merged(one, two).keywords == frozenset()


def test_a_deletion_that_has_seen_the_undeletion_counts() -> None:
    one, two = two_masters(DELETED)
    two.do("keywords", remove=frozenset({DELETED}))
    merged(one, two)
    one.do("keywords", add=frozenset({DELETED}))
    message = merged(one, two)
    assert message.keywords == {DELETED}
    assert UNDELETED not in message.instances[0].keywords


def test_a_keyword_change_never_brings_an_expunged_message_back() -> None:
    one, two = two_masters()
    one.do("expunge")
    two.do("keywords", add=frozenset({"$flagged"}))
    assert merged(one, two) == EMPTY


def test_of_expunging_and_adding_at_once_the_new_instance_stays_with_its_own_keywords() -> None:
    one, two = two_masters("$flagged")
    one.do("expunge")
    two.do("add", frozenset({"$seen"}))
    assert merged(one, two).keywords == {"$seen"}


def test_a_message_that_two_masters_add_is_one_with_the_keywords_of_both() -> None:
    one, two = Replica(R1), Replica(R2)
    one.do("add", frozenset({"$seen"}), uid=3)
    two.do("add", frozenset({"$flagged"}), uid=8)
    message = merged(one, two)
    assert message.keywords == {"$seen", "$flagged"}
    assert message.uid == 8, "the highest UID wins"
    assert message.first.dot == Dot(R1, 1), "size and date are those of the least dot"


def test_a_lower_uid_changes_nothing() -> None:
    one, _ = two_masters()
    one.do("renumber", uid=9)
    one.do("renumber", uid=4)
    assert one.message.uid == 9


def test_a_message_is_unread_while_it_is_neither_seen_nor_a_draft() -> None:
    one, two = two_masters("$flagged")
    assert one.message.is_unread
    one.do("keywords", add=frozenset({"$seen"}))
    two.do("keywords", add=frozenset({"$draft"}))
    assert not one.message.is_unread
    assert not two.message.is_unread


def test_keywords_are_kept_in_order_so_that_equal_messages_have_equal_bytes() -> None:
    one, _ = two_masters()
    one.do("keywords", add=frozenset({"b", "a", "c"}))
    assert list(one.message.instances[0].keywords) == ["a", "b", "c"]
