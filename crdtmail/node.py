"""A running node below the web: the replica on its store, with its writer, its peers and all who wait.

Belongs to one event loop.  It orders the effects: what a write or a peer changed is durable before its
future is done, and sessions are told only of what is durable.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakValueDictionary

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import decode_delta
from crdtmail.crdt.delta import Account, Delta, MailboxId
from crdtmail.errors import NotFound, NotYet, PeerError, StoreError
from crdtmail.gossip.messages import ExchangeAnswer, Position
from crdtmail.gossip.peers import Peers
from crdtmail.gossip.session import Timing
from crdtmail.limits import BATCH_BYTES
from crdtmail.replica import Outcome, Replica
from crdtmail.store.interface import Store, Table, Transaction
from crdtmail.store.tables import Head, LogEntry, Mailbox, PeerRecord, Tables
from crdtmail.store.writer import Snapshotted, Writer
from crdtmail.views import deltas_after, is_fit_to_show

T = TypeVar("T")

_READ_THREADS = 4
_REMEMBER_PEERS_EVERY_S = 60.0
_SMALL_BATCH = 64 * 1024
_MOST_SHOWN = 64  # snapshots on their way from the writer; far fewer than LMDB's reader slots


@dataclass(frozen=True, slots=True)
class Written:
    """What a write gave: the delta that it made (none if it changed nothing) and the clock that covers it."""

    dot: Dot | None
    clock: Clock


@dataclass(frozen=True, slots=True)
class Reception:
    """What became of deltas from a peer: their dots, as far as they could be read, our clock after them,
    whether they stopped at a gap, and the reason where one was refused."""

    dots: tuple[Dot, ...]
    clock: Clock
    gap: bool = False
    refusal: str | None = None


class Node:
    """One replica in service.  Made inside the event loop that it belongs to."""

    def __init__(
        self,
        store: Store,
        name: str,
        addresses: Sequence[str],
        *,
        timing: Timing,
        chance: random.Random,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self.name = name
        self.replica = Replica.open(
            store, lambda: ReplicaId(chance.getrandbits(64)), lambda: time.time_ns() // 1_000_000
        )
        self.peers = Peers(self.replica.id, addresses, timing, chance, self.now())
        with store.snapshot() as snapshot:
            tables = Tables(snapshot)
            self.head = tables.head()
            for replica, record in tables.peers().items():
                self.peers.hear(self.now(), Position(replica, record.name, record.clock, 0))
        self.refused = 0
        self.stopping = False
        self._writer = Writer(store, self._committed)
        self._readers = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="reader")
        # These threads have their snapshot already, so they never wait for the store to grow.
        self._showers = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="shower")
        self._may_show = asyncio.Semaphore(_MOST_SHOWN)
        # Whoever holds a snapshot must not queue behind readers that wait until the store has grown, for
        # which it waits until no snapshot is open.
        self._snapshot_readers = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="snapshot-reader")
        self._remembered_at: dict[ReplicaId, float] = {}
        self._watched: WeakValueDictionary[Account, asyncio.Event] = WeakValueDictionary()
        self.progress = Signal()
        self.peer_progress = Signal()
        self.failed = asyncio.Event()

    def now(self) -> float:
        """Seconds on a clock that nobody sets."""
        return self._loop.time()

    @property
    def failure(self) -> StoreError | None:
        """Why nothing can be written any more, if that is so."""
        return self._writer.failure

    def stop_waiting(self) -> None:
        """Send everybody who waits for something home with what there is: the node is about to close."""
        self.stopping = True
        self.progress.fire()
        self.peer_progress.fire()
        for event in list(self._watched.values()):
            event.set()

    def close(self) -> None:
        """Commit what waits, then let go of the store."""
        self._writer.stop()
        self._readers.shutdown(cancel_futures=True)
        self._showers.shutdown()
        self._snapshot_readers.shutdown()
        self._store.close()

    # Reading --------------------------------------------------------------------------------------------

    async def read(self, query: Callable[[Tables], T]) -> T:
        """Run `query` on a snapshot, in another thread."""
        return await self._loop.run_in_executor(self._readers, self._query, query)

    async def read_mailbox(
        self, account: Account, mailbox: MailboxId, query: Callable[[Tables, Mailbox], T]
    ) -> T:
        """Run `query` on a snapshot in which every UID of the mailbox may be shown.  Raises NotFound."""

        def fit(tables: Tables) -> tuple[bool, T | None]:
            box = _mailbox(tables, account, mailbox)
            return (True, query(tables, box)) if is_fit_to_show(box) else (False, None)

        done, result = await self.read(fit)
        if done:
            return result  # type: ignore[return-value]
        async with self._may_show:
            shown = await self._shown(account, mailbox)

            def query_shown() -> T:
                try:
                    tables = Tables(shown.snapshot)
                    return query(tables, _mailbox(tables, account, mailbox))
                finally:
                    shown.close()

            # Shielded: it runs, and closes the snapshot, even if nobody waits for the result any more.
            return await asyncio.shield(self._loop.run_in_executor(self._showers, query_shown))

    async def _shown(self, account: Account, mailbox: MailboxId) -> Snapshotted[None]:
        """The state in which the mailbox has just been made fit to be shown, durably."""
        future = self._writer.submit_and_snapshot(lambda txn: self.replica.show(txn, account, mailbox))
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            future.add_done_callback(_close_unused)
            raise

    def _query(self, query: Callable[[Tables], T]) -> T:
        with self._store.snapshot() as snapshot:
            return query(Tables(snapshot))

    async def table_sizes(self) -> dict[Table, int]:
        """Bytes that each table takes."""
        return await self._loop.run_in_executor(self._readers, self._store.size)

    # Writing --------------------------------------------------------------------------------------------

    async def write(self, work: Callable[[Replica, Transaction], T]) -> tuple[T, Written]:
        """Run a command; done when its effects are durable.

        Raises RequestError as the command does, StoreError if nothing can be written any more.
        """

        def run(txn: Transaction) -> tuple[T, Written]:
            tables = Tables(txn)
            before = tables.head()
            result = work(self.replica, txn)
            after = tables.head()
            dot = Dot(self.replica.id, after.clock[self.replica.id]) if after.lsn > before.lsn else None
            return result, Written(dot, after.clock)

        return await asyncio.wrap_future(self._writer.submit(run))

    async def wait_for_clock(self, clock: Clock, timeout_s: float) -> None:
        """Until everything that `clock` covers is applied here.  Raises NotYet after `timeout_s`."""
        await self.progress.until(lambda: self.stopping or self.head.clock.includes(clock), timeout_s)
        if not self.head.clock.includes(clock):
            lacking = clock.count_missing_from(self.head.clock)
            raise NotYet(f"{lacking} changes that the token covers have not arrived here")

    async def wait_for_replicas(self, dot: Dot, count: int, timeout_s: float) -> int:
        """Until `count` other replicas have the delta, or the time is over; how many have it."""
        await self.peer_progress.until(
            lambda: self.stopping or self.peers.count_covering(dot) >= count, timeout_s
        )
        return self.peers.count_covering(dot)

    def watch(self, account: Account) -> asyncio.Event:
        """An event that is set when something in the account changes after this call."""
        event = self._watched.get(account)
        if event is None:
            self._watched[account] = event = asyncio.Event()
        return event

    # Gossip ---------------------------------------------------------------------------------------------

    def position(self) -> Position:
        return Position(self.replica.id, self.name, self.head.clock, self.head.digest)

    async def deltas_after(self, clock: Clock, only: ReplicaId | None = None) -> list[LogEntry]:
        """One batch of what `clock` does not cover, in LSN order."""
        return await self.read(lambda tables: deltas_after(tables, clock, max_bytes=BATCH_BYTES, own=only))

    async def answer_exchange(self, theirs: Position) -> ExchangeAnswer:
        """A replica told its position: ours, and the first deltas that it lacks."""
        ours = self.position()
        entries = [] if theirs.clock.includes(ours.clock) else await self.deltas_after(theirs.clock)
        await self.hear(theirs)
        if (session := self.peers.session_of(theirs.replica)) is not None:
            session.heard_position(self.now(), ours, theirs, answered=bool(entries))
        self.progress.fire()
        # Our position as it was before the deltas were read: what was committed since is news for later.
        return ExchangeAnswer(ours, tuple(entry.delta for entry in entries))

    async def receive(self, encoded: Sequence[bytes]) -> Reception:
        """Apply deltas from another replica in order, up to the first gap or refusal; durable when done."""
        if sum(map(len, encoded)) > _SMALL_BATCH:
            deltas, refusal = await self._loop.run_in_executor(self._readers, _decode, encoded)
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

        reception = await asyncio.wrap_future(self._writer.submit(apply))
        if reception.refusal is not None:
            self.refused += 1
        return reception

    def heard_push(self, sender: ReplicaId, dots: Sequence[Dot]) -> None:
        """`sender` pushed these deltas and they are durable here."""
        self.peers.hear_dots(self.now(), sender, dots)
        if (session := self.peers.session_of(sender)) is not None:
            session.heard_push(self.now(), dots)
        self.peer_progress.fire()

    async def hear(self, position: Position) -> None:
        """Take note of where another replica stands; a new one is remembered durably."""
        if position.replica == self.replica.id:
            return
        if position.clock[self.replica.id] > self.head.clock[self.replica.id]:
            # The peer may have a delta that was committed a moment ago: only the store knows for sure.
            head = await self.read(lambda tables: tables.head())
            self.replica.lost_writes |= position.clock[self.replica.id] > head.clock[self.replica.id]
        self.peers.hear(self.now(), position)
        self.peer_progress.fire()
        last = self._remembered_at.get(position.replica)
        if last is None or self.now() - last > _REMEMBER_PEERS_EVERY_S:
            record = PeerRecord(position.name, position.clock, time.time_ns() // 1_000_000)
            await asyncio.wrap_future(
                self._writer.submit(lambda txn: self.replica.meet(txn, position.replica, record))
            )
            self.replica.members |= {position.replica}
            self._remembered_at[position.replica] = self.now()

    # ----------------------------------------------------------------------------------------------------

    def _committed(self) -> None:
        """In the writer's thread, after a durable commit, or its failure, before anybody hears of it."""
        if self._writer.failure is not None:
            self._loop.call_soon_threadsafe(self.failed.set)
            return
        touched = self.replica.take_touched()
        with self._store.snapshot() as snapshot:
            head = Tables(snapshot).head()
        self._loop.call_soon_threadsafe(self._advance, head, touched)

    def _advance(self, head: Head, touched: set[Account]) -> None:
        self.head = head
        for account in touched:
            if (event := self._watched.pop(account, None)) is not None:
                event.set()
        self.progress.fire()


class Signal:
    """Something that changes now and then, and those who wait until it has changed enough."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """An event that is set the next time that this fires."""
        return self._event

    async def until(self, true: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it has become true in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not true():
                    await self._event.wait()
        except TimeoutError:
            return False
        return True


def _mailbox(tables: Tables, account: Account, mailbox: MailboxId) -> Mailbox:
    box = tables.mailbox(account, mailbox)
    if box is None:
        raise NotFound(f"there is no mailbox with the id {mailbox.hex()} in this account")
    return box


def _decode(encoded: Sequence[bytes]) -> tuple[list[Delta], str | None]:
    """The deltas up to the first that cannot be read, and why that one cannot."""
    deltas: list[Delta] = []
    for data in encoded:
        try:
            deltas.append(decode_delta(data))
        except PeerError as error:
            return deltas, str(error)
    return deltas, None


def _close_unused(future: Future[Snapshotted[None]]) -> None:
    """Nobody waits any more for the snapshot that this write gives."""
    if not future.cancelled() and future.exception() is None:
        future.result().close()
