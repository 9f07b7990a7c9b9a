"""Mailboxes kept identical on several mail servers that all accept changes.

What is handed out here is what it takes to embed a replica in a program of your own.  Commands run in a
transaction of a store and become deltas; the deltas of one replica, applied in order by another, make
their mailboxes the same:

>>> def replica(number):
...     store = MemoryStore()  # or LmdbStore(Path("data")), which is durable
...     return store, Replica.open(store, lambda: ReplicaId(number), lambda: 0)
>>> (store1, mx1), (store2, mx2) = replica(1), replica(2)
>>> inbox = store1.transact(lambda txn: mx1.create_mailbox(txn, "alice", "INBOX"))
>>> mail = IncomingMessage(MessageId("m1"), size=1234, received_at=0, keywords=frozenset({"$flagged"}))
>>> _ = store1.transact(lambda txn: mx1.add(txn, "alice", inbox, [mail]))
>>> with store1.snapshot() as state:
...     log = deltas_after(Tables(state), Clock(), max_bytes=1_000_000)
>>> [store2.transact(lambda txn: mx2.receive(txn, decode_delta(e.delta), e.delta)).name for e in log]
['APPLIED', 'APPLIED']
>>> with store2.snapshot() as state:
...     tables = Tables(state)
...     messages(tables, tables.mailbox("alice", inbox), limit=10)[0].keywords
frozenset({'$flagged'})
"""

__version__ = "0.1.0"

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import decode_delta
from crdtmail.crdt.message import MessageId
from crdtmail.errors import CrdtmailError, PeerError, RequestError, StoreError
from crdtmail.replica import IncomingMessage, KeywordChange, Outcome, Replica, Selection
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.tables import Tables
from crdtmail.views import changes, deltas_after, find_mailbox, living_mailboxes, messages

__all__ = [
    "Clock",
    "CrdtmailError",
    "Dot",
    "IncomingMessage",
    "KeywordChange",
    "LmdbStore",
    "MemoryStore",
    "MessageId",
    "Outcome",
    "PeerError",
    "Replica",
    "ReplicaId",
    "RequestError",
    "Selection",
    "StoreError",
    "Tables",
    "__version__",
    "changes",
    "decode_delta",
    "deltas_after",
    "find_mailbox",
    "living_mailboxes",
    "messages",
]
