"""Arbitrary deltas, as any replica might make them."""

from __future__ import annotations

from hypothesis import strategies as st

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.delta import (
    Add,
    Create,
    DeleteMailbox,
    Delta,
    DirectoryUpdate,
    Expunge,
    Keywords,
    MailboxId,
    Move,
    Renumber,
)
from crdtmail.crdt.message import MessageId, NewMessage
from crdtmail.crdt.uid import Uid

REPLICAS = st.integers(0, 2**64 - 1).map(ReplicaId)
SEQS = st.integers(1, 2**63 - 1)
DOTS = st.builds(Dot, REPLICAS, SEQS)
CLOCKS = st.dictionaries(REPLICAS, SEQS, max_size=4).map(Clock)
MAILBOXES = st.binary(min_size=16, max_size=16).map(MailboxId)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
IDS = TEXT.map(MessageId)
KEYWORD = st.from_regex(r"[$a-z0-9!#&+.:;<=>?@\[^_`|}~-]{1,12}", fullmatch=True)
KEYWORDS = st.sets(KEYWORD, max_size=4).map(lambda found: tuple(sorted(found)))
UIDS = st.integers(1, 2**32 - 1).map(Uid)
MESSAGES = st.lists(
    st.builds(NewMessage, IDS, UIDS, st.integers(0, 2**63 - 1), st.integers(0, 253402300799), KEYWORDS),
    min_size=1,
    max_size=4,
    unique_by=lambda message: message.id,
).map(tuple)
ID_LISTS = st.lists(IDS, min_size=1, max_size=4, unique=True).map(tuple)


@st.composite
def keyword_changes(draw: st.DrawFn) -> Keywords:
    names = draw(st.lists(KEYWORD, min_size=1, max_size=5, unique=True))
    cut = draw(st.integers(0, len(names)))
    add, remove = tuple(sorted(names[:cut])), tuple(sorted(names[cut:]))
    return Keywords(draw(MAILBOXES), draw(ID_LISTS), add, remove, draw(CLOCKS))


OPERATIONS = st.one_of(
    st.builds(Create, MAILBOXES),
    st.builds(Add, MAILBOXES, MESSAGES, CLOCKS),
    st.builds(Move, MAILBOXES, MAILBOXES, MESSAGES, CLOCKS).filter(lambda move: move.source != move.target),
    keyword_changes(),
    st.builds(Expunge, MAILBOXES, ID_LISTS, CLOCKS),
    st.builds(
        Renumber,
        MAILBOXES,
        st.lists(st.tuples(IDS, UIDS), min_size=1, max_size=4, unique_by=lambda p: p[0]).map(tuple),
        CLOCKS,
    ),
    st.builds(DirectoryUpdate, st.binary(max_size=20), CLOCKS),
    st.builds(DeleteMailbox, MAILBOXES, CLOCKS),
)
DELTAS = st.builds(Delta, DOTS, TEXT, st.lists(OPERATIONS, min_size=1, max_size=4).map(tuple))
