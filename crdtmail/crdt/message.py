"""One message in one mailbox: an observed-remove set of instances, and on each one of keywords.

Pure values: every change gives a new `Message`.  A removal takes away exactly the dots that its
context covers, so nothing is left behind by it (optimized OR-set: Bieniusa et al. 2012; a context that
is the origin's whole observation: Almeida et al. 2018).  Nothing here knows of mailboxes or of storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, NewType

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.uid import Uid

MessageId = NewType("MessageId", str)
"""1-255 bytes of text: Dovecot's GUID, a JMAP Email id, or one that a node made."""

SEEN = "$seen"
DRAFT = "$draft"
DELETED = "$deleted"
UNDELETED = "(undeleted)"
"""What `-$deleted` adds.  While it is there `$deleted` does not show, so for `$deleted` remove wins;
`+$deleted` removes the ones that it has seen.  The brackets keep it apart from every real keyword
(RFC 8621 section 4.1.1), and it is never shown or sent."""

StoredDot = tuple[ReplicaId, int]
"""A dot without its name: what a record gives back.  Every `Dot` is one."""

Dots = tuple[StoredDot, ...]


class Instance(NamedTuple):
    """One addition of the message, named by the delta that made it.  The message lives while one does.

    `keywords` are in the order of their names, so that equal instances have equal bytes.
    """

    dot: StoredDot
    uid: Uid
    size: int
    received_at: int
    keywords: Mapping[str, Dots]
    is_moved: bool = False
    """Whether a move made it: keywords that the move had not seen follow it."""


class NewMessage(NamedTuple):
    """What an addition says of a message.  `size` in bytes, `received_at` in seconds since 1970 UTC."""

    id: MessageId
    uid: Uid
    size: int
    received_at: int
    keywords: tuple[str, ...]


class Message(NamedTuple):
    """The living instances of one message, by dot.  A message without any is not kept."""

    instances: tuple[Instance, ...]

    @property
    def uid(self) -> Uid:
        """A register in which the highest value wins."""
        instances = self.instances
        return instances[0].uid if len(instances) == 1 else max(instance.uid for instance in instances)

    @property
    def first(self) -> Instance:
        """The instance whose size and date are shown: the least dot, the same on every replica."""
        return self.instances[0]

    @property
    def keywords(self) -> frozenset[str]:
        """What shows: the union over the instances, `$deleted` only where nothing un-deletes it."""
        raw: set[str] = set()
        for instance in self.instances:
            raw.update(instance.keywords)
        if UNDELETED in raw:
            raw -= {UNDELETED, DELETED}
        return frozenset(raw)

    @property
    def is_unread(self) -> bool:
        """Neither `$seen` nor `$draft` (JMAP's unreadEmails, RFC 8621 section 2)."""
        for instance in self.instances:
            if SEEN in instance.keywords or DRAFT in instance.keywords:
                return False
        return True

    def dots(self, keywords: Iterable[str]) -> Iterable[StoredDot]:
        """The dots of the instances and of these keywords on them."""
        for instance in self.instances:
            yield instance.dot
            for keyword in keywords:
                yield from instance.keywords.get(keyword, ())

    def with_instance(self, dot: Dot, new: NewMessage, *, is_moved: bool = False) -> Message:
        """Add an instance.  A dot names one addition only: a second one under it changes nothing."""
        if any(instance.dot == dot for instance in self.instances):
            return self
        keywords = dict.fromkeys(new.keywords, (dot,))
        added = Instance(dot, new.uid, new.size, new.received_at, keywords, is_moved)
        return Message(tuple(sorted((*self.instances, added), key=_by_dot)))

    def with_keywords(self, dot: Dot, add: Iterable[str], remove: Iterable[str], context: Clock) -> Message:
        """Add and remove keywords on the instances that `context` covers."""
        covered = context.entries
        instances = []
        for instance in self.instances:
            replica, seq = instance.dot
            if covered.get(replica, 0) >= seq:
                keywords = dict(instance.keywords)
                for keyword in remove:
                    left = _uncovered(keywords.pop(keyword, ()), covered)
                    if left:
                        keywords[keyword] = left
                for keyword in add:
                    left = _uncovered(keywords.get(keyword, ()), covered)
                    keywords[keyword] = tuple(sorted({*left, dot})) if left else (dot,)
                instance = instance._replace(keywords=dict(sorted(keywords.items())))
            instances.append(instance)
        return Message(tuple(instances))

    def with_uid(self, uid: Uid, context: Clock) -> Message:
        """Raise the UID of the instances that `context` covers; a lower one changes nothing."""
        return Message(
            tuple(i._replace(uid=uid) if uid > i.uid and context.covers(i.dot) else i for i in self.instances)
        )

    def without(self, context: Clock) -> Message:
        """Expunge: take away the instances that `context` covers, with whatever keywords they carry."""
        return Message(tuple(i for i in self.instances if not context.covers(i.dot)))

    def merged(self, there: Message, ours: Clock, theirs: Clock) -> Message:
        """This message as replica `ours` has it, merged with what a replica at clock `theirs` has.

        A dot that both have stays.  What only one has stays unless the other's clock covers it, for then the
        other has removed it (Bieniusa et al. 2012).
        """
        mine = {instance.dot: instance for instance in self.instances}
        other = {instance.dot: instance for instance in there.instances}
        instances = []
        for dot in sorted(mine.keys() | other.keys()):
            a, b = mine.get(dot), other.get(dot)
            if a is not None and b is not None:
                keywords = {}
                for keyword in sorted(a.keywords.keys() | b.keywords.keys()):
                    had, has = set(a.keywords.get(keyword, ())), set(b.keywords.get(keyword, ()))
                    dots = {d for d in had if d in has or not theirs.covers(d)}
                    dots |= {d for d in has if d in had or not ours.covers(d)}
                    if dots:
                        keywords[keyword] = tuple(sorted(dots))
                instances.append(
                    Instance(
                        dot,
                        max(a.uid, b.uid),
                        # What is of the addition alone differs where one of the two is damaged: agree on one.
                        max(a.size, b.size),
                        max(a.received_at, b.received_at),
                        keywords,
                        a.is_moved or b.is_moved,
                    )
                )
            elif a is not None and not theirs.covers(dot):
                instances.append(a)
            elif b is not None and not ours.covers(dot):
                instances.append(b)
        return Message(tuple(instances))


EMPTY = Message(())


def expand(add: Iterable[str], remove: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """What a keyword change really adds and removes: un-deleting adds a mark, deleting removes it."""
    adds, removes = frozenset(add), frozenset(remove)
    if DELETED in adds:
        removes |= {UNDELETED}
    if DELETED in removes:
        adds |= {UNDELETED}
    return adds, removes


def _by_dot(instance: Instance) -> StoredDot:
    return instance.dot


def _uncovered(dots: Dots, covered: Mapping[ReplicaId, int]) -> Dots:
    return tuple(dot for dot in dots if covered.get(dot[0], 0) < dot[1])
