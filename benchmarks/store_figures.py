"""Figures of the replica on its store, and of bytes on wire and disk, beside one Yjs document a mailbox."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.material import ACCOUNT, fill, filled, folder, message_id, open_replica
from benchmarks.report import Figure, Sizes, median_s, seconds
from benchmarks.yjs import YjsMailbox
from crdtmail import Clock, KeywordChange, LmdbStore, MemoryStore, Replica, Selection, Tables
from crdtmail.crdt.codec import decode_delta
from crdtmail.crdt.delta import MailboxId
from crdtmail.gossip.codec import encode_answer, encode_position, encode_push
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.store.interface import Store, Table
from crdtmail.views import deltas_after

_ALL = Selection(uids=((1, 2**32 - 1),))


def _flag(
    store: Store, replica: Replica, box: MailboxId, chosen: Selection, keyword: str, on: bool = True
) -> None:
    wanted = frozenset({keyword})
    change = KeywordChange(chosen, wanted if on else frozenset(), frozenset() if on else wanted)
    store.transact(lambda txn: replica.change_keywords(txn, ACCOUNT, box, [change]))


def _log(store: Store, after: Clock) -> list[bytes]:
    with store.snapshot() as snapshot:
        entries = deltas_after(Tables(snapshot), after, max_bytes=1 << 40)
    return [entry.delta for entry in entries]


def _clock(store: Store) -> Clock:
    with store.snapshot() as snapshot:
        return Tables(snapshot).head().clock


def bulk_flag(sizes: Sizes) -> Iterator[Figure]:
    """One delta that flags every message of a mailbox: made here, and received there."""
    count = sizes.messages
    yjs = YjsMailbox()
    ids = [message_id(n) for n in range(count)]
    yjs.add(ids)
    theirs = seconds(lambda: yjs.flag(ids, "$flagged", "a"))
    update = yjs.state()
    merge = seconds(lambda: YjsMailbox(update, client=2))
    with filled(count) as (_, store, replica, box), folder() as other:
        there = LmdbStore(other)
        receiver = open_replica(there, 2)
        for data in _log(store, Clock()):
            there.transact(lambda txn, d=data: receiver.receive(txn, decode_delta(d), d))  # type: ignore[misc]
        here_s, there_s = [], []
        for keyword in ("one", "two", "three"):
            before = _clock(store)
            here_s.append(seconds(lambda k=keyword: _flag(store, replica, box, _ALL, k)))  # type: ignore[misc]
            (data,) = _log(store, before)

            def receive(data: bytes = data) -> None:
                there.transact(lambda txn: receiver.receive(txn, decode_delta(data), data))

            there_s.append(seconds(receive))
        there.close()
    mine, others = (statistics.median(times) / count * 1e6 for times in (here_s, there_s))
    yield Figure(
        f"one delta flags {count:,} messages, where it is made",
        f"{mine:.1f} us a message, durable",
        f"Yjs in memory, not durable: {theirs / count * 1e6:.1f} us",
        "<= 15 us",
        mine <= 15,
    )
    yield Figure(
        "the same delta, where it is received",
        f"{others:.1f} us a message, durable",
        f"Yjs: load and merge the document: {merge / count * 1e6:.1f} us",
        "<= 15 us",
        others <= 15,
    )


def cold_flag(sizes: Sizes) -> Iterator[Figure]:
    """One flag in a mailbox that nobody has touched since the start, large and small."""
    times = {}
    for count in (100, sizes.large):
        with filled(count) as (data, store, _, box):
            store.close()
            times[count] = statistics.median(_cold(data, box, count) for _ in range(7)) * 1000
    yjs = YjsMailbox()
    yjs.add([message_id(n) for n in range(sizes.messages)])
    state = yjs.state()
    load_s = median_s(lambda: YjsMailbox(state).flag([message_id(1)], "$seen", "b"))
    yield Figure(
        f"one flag in a cold mailbox of {sizes.large:,}",
        f"{times[sizes.large]:.2f} ms, durable",
        f"of 100: {times[100]:.2f} ms; Yjs with {sizes.messages:,}: {load_s * 1000:.0f} ms to load and flag",
        "as of 100, but for noise",
        times[sizes.large] <= 2 * times[100] + 2,
    )


def _cold(data: Path, box: MailboxId, count: int) -> float:
    """Open the store with none of it in the page cache; one flag in the middle of the mailbox."""
    with (data / "data.mdb").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    store = LmdbStore(data)
    replica = open_replica(store)
    chosen = Selection(ids=(message_id(count // 2),))
    took = seconds(lambda: _flag(store, replica, box, chosen, "$flagged"))
    store.close()
    return took


def wire(sizes: Sizes) -> Iterator[Figure]:
    """Bytes of one keyword change between two nodes, HTTP apart."""
    store = MemoryStore()
    replica = open_replica(store)
    box = fill(store, replica, "INBOX", 100)
    for _ in range(
        70_000 if sizes.messages >= 100_000 else 300
    ):  # sequence numbers as they are after a while
        _flag(store, replica, box, Selection(ids=(message_id(1),)), "$seen")
    before = _clock(store)
    _flag(store, replica, box, Selection(ids=(message_id(5),)), "$seen")
    (delta,) = _log(store, before)
    body = encode_push([delta])
    named = len(ACCOUNT) + len(box) + len(message_id(5))
    yjs = YjsMailbox(client=2**52)
    yjs.add([message_id(n) for n in range(100)])
    update = yjs.flag([message_id(5)], "$seen", "a1b2c3d4")
    yield Figure(
        "one keyword change on the wire, HTTP apart",
        f"{len(body) - named} bytes and {named} of the ids named; the answer has none",
        f"the Yjs update alone: {len(update)} bytes, account and mailbox not named in it",
        "<= 60 bytes and the ids named",
        len(body) - named <= 60,
    )


def equal_mailboxes(sizes: Sizes) -> Iterator[Figure]:
    """What it takes two nodes to find out that all their mailboxes are equal."""
    store = MemoryStore()
    replica = open_replica(store)
    per_account = 100
    for account in range(sizes.mailboxes // per_account):
        for n in range(per_account):
            name = f"folder {n}"
            store.transact(lambda txn, a=account, m=name: replica.create_mailbox(txn, f"user{a}", m))  # type: ignore[misc]
    with store.snapshot() as snapshot:
        head = Tables(snapshot).head()
    position = Position(replica.id, "mx1.example.org", head.clock, head.digest)
    asked, answered = encode_position(position), encode_answer(ExchangeAnswer(position, ()))
    yield Figure(
        f"{sizes.mailboxes:,} mailboxes are equal",
        f"1 request, {len(asked)} + {len(answered)} bytes",
        "Dovecot 2.3.19 dsync: 41 kB for 200 mailboxes with one change",
        "1 request, <= 1 kB",
        len(asked) + len(answered) <= 1000,
    )


def disk(sizes: Sizes) -> Iterator[Figure]:
    """Bytes on disk a message."""
    with filled(sizes.messages) as (data, store, _, _):
        tables = store.size()
        total = (data / "data.mdb").stat().st_blocks * 512
    ids = [message_id(n) for n in range(sizes.messages)]
    bare = sum(len(id) for id in ids) + 16 * len(ids)
    yjs = YjsMailbox()
    yjs.add(ids)
    log = (tables[Table.LOG] + tables[Table.LOG_INDEX]) / sizes.messages
    yield Figure(
        "disk a message",
        f"{total / sizes.messages:.0f} bytes, of which the log {log:.0f}",
        f"id, UID, size, date and flags alone: {bare / sizes.messages:.0f}; "
        f"Yjs document: {len(yjs.state()) / sizes.messages:.0f}",
    )


def toggles(sizes: Sizes) -> Iterator[Figure]:
    """What many toggles of one keyword on one message leave behind."""
    store = MemoryStore()
    replica = open_replica(store)
    box = fill(store, replica, "INBOX", 1)
    chosen = Selection(ids=(message_id(0),))
    _flag(store, replica, box, chosen, "$flagged")
    before = _state_bytes(store)
    for n in range(sizes.toggles // 2):
        _flag(store, replica, box, chosen, "$flagged", on=False)
        _flag(store, replica, box, chosen, "$flagged")
        if n % 20_000 == 0:
            _forget_log(store)
    after = _state_bytes(store)
    clock = len(encode_position(Position(replica.id, "mx1", _clock(store), 0)))
    yjs = YjsMailbox()
    ids = [message_id(n) for n in range(1000)]
    yjs.add(ids)
    plain = len(yjs.state())
    for tag in range(100):
        for id in ids:
            yjs.flag([id], "$flagged", str(tag))
            yjs.unflag(id, "$flagged", str(tag))
    yield Figure(
        f"{sizes.toggles:,} toggles of one keyword: growth of the state",
        f"{after - before} bytes, the log apart; an exchange then takes {clock} bytes",
        f"Yjs, 100 toggles of each of 1,000 flags: {len(yjs.state()) - plain:,} bytes",
        "none beyond the log (some bytes where numbers got longer)",
        after - before <= 32,
    )


def _state_bytes(store: MemoryStore) -> int:
    return sum(size for table, size in store.size().items() if table not in (Table.LOG, Table.LOG_INDEX))


def _forget_log(store: MemoryStore) -> None:
    """Keep this process small: drop the log, which this version of a node keeps for ever."""
    for table in (Table.LOG, Table.LOG_INDEX):
        with store.snapshot() as snapshot:
            keys = [key for key, _ in snapshot.scan(table, b"")]
        store.transact(lambda txn, t=table, k=keys: [txn.delete(t, key) for key in k])  # type: ignore[misc]
