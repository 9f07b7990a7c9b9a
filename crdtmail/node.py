"""A node in service, below the web: performs the steps of the core on an event loop, threads and a store.

Belongs to one event loop.  It keeps the order of effects: what a write or a peer changed is durable, and the
core knows it, before any steps go on.  What is to be done is decided in `service`, `gossip` and `replica`.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakSet, WeakValueDictionary

from crdtmail import service
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.effects import (
    PROTOCOL,
    Call,
    Compute,
    Effect,
    Hold,
    Kind,
    Persist,
    PersistThenRead,
    Read,
    ReadHeld,
    Reply,
    Steps,
    Wait,
)
from crdtmail.errors import Overloaded, PeerError, Refusal, StoreError, StoreFull
from crdtmail.gossip.conversation import Gossip
from crdtmail.gossip.peers import Heard
from crdtmail.gossip.session import Timing
from crdtmail.journal import Journal
from crdtmail.namesakes import Namesakes
from crdtmail.replica import KEEP_ALL, Keep, Replica
from crdtmail.service import Written
from crdtmail.store.interface import DamagedRecord, Room, Snapshot, Store, Table, Transaction
from crdtmail.store.tables import Head, Mailbox, Tables
from crdtmail.store.writer import Snapshotted, Writer

T = TypeVar("T")
Caller = Callable[[Call], Awaitable[Reply]]

_READ_THREADS = 4
_MOST_SHOWN = 64  # snapshots on their way from the writer; far fewer than LMDB's reader slots


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the last conversation with a peer came to nothing, as far as it is known beside its error."""

    waits: str | None = None
    """What it waits for, where nobody is at fault and one of the two cannot take anything just now."""
    is_mistrust: bool = False
    """The peer and this node do not know each other, by certificate or secret, or are of two clusters."""


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
        keep: Keep = KEEP_ALL,
        cluster: str = "",
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        with store.snapshot() as snapshot:
            before = Tables(snapshot).replica()
        self.replica = Replica.open(
            store, lambda: ReplicaId(chance.getrandbits(64)), lambda: time.time_ns() // 1_000_000
        )
        with store.snapshot() as snapshot:
            tables = Tables(snapshot)
            self.gossip = Gossip(
                self.replica,
                name,
                tables.head(),
                tables.peers(),
                addresses,
                timing=timing,
                chance=chance,
                now=self.now,
                cluster=cluster,
            )
        self._is_new = not self.head.clock
        self.journal = Journal(self.gossip, before, self.now)
        self.troubles: dict[str, Trouble] = {}
        """Of the peers with which the last conversation came to nothing, by address."""
        self._namesakes = Namesakes()
        self.stopping = False
        self.keep = keep
        """How much of the log is kept for members that are away."""
        self._writer = Writer(store, self._committed)
        self._readers = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="reader")
        self._holders = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="holder")
        # These threads have their snapshot already, so they never wait for the store to grow.
        self._showers = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="shower")
        self._may_show = asyncio.Semaphore(_MOST_SHOWN)
        self._watched: WeakValueDictionary[Account, asyncio.Event] = WeakValueDictionary()
        self.damage: DamagedRecord | None = None
        """The first damaged record that was come upon since the start."""
        self.written = 0
        """Clients' writes that were answered as durable, since the start."""
        self.not_written = 0
        """Clients' writes that were refused for want of room."""
        self.progress = Signal()
        """Fires after every commit, and whenever something was heard of a peer."""
        self.failed = asyncio.Event()
        self._held: WeakSet[_HeldSnapshot] = WeakSet()

    @property
    def name(self) -> str:
        return self.gossip.name

    @property
    def head(self) -> Head:
        """What is durable."""
        return self.gossip.head

    @property
    def is_taking_over_all(self) -> bool:
        """Whether this is a new node that takes over its first snapshot, at whichever attempt: until it has,
        whoever reads its mailboxes would believe that the mail is gone."""
        own = (self.replica.id,)
        self._is_new = self._is_new and all(replica in own for replica in self.head.clock)
        return self._is_new and self.gossip.lacks_snapshot

    def now(self) -> float:
        """Seconds on a clock that nobody sets."""
        return self._loop.time()

    @property
    def failure(self) -> StoreError | None:
        """Why nothing can be written any more, if that is so."""
        return self._writer.failure

    @property
    def is_full(self) -> bool:
        """Whether there was no room for what was to be written last."""
        return self._writer.is_full

    def stop_waiting(self) -> None:
        """Send everybody who waits for something home with what there is: the node is about to close."""
        self.stopping = True
        self.progress.fire()
        for event in list(self._watched.values()):
            event.set()

    def close(self) -> None:
        """Commit what waits, and how far the peers are, then let go of the store."""
        with suppress(StoreError, Overloaded):
            self._writer.submit(self.gossip.remember_peers)
        self._writer.stop()
        for held in list(self._held):
            held.release()
        self._readers.shutdown(cancel_futures=True)
        self._holders.shutdown(cancel_futures=True)
        self._showers.shutdown()
        self._store.close()

    # For clients ----------------------------------------------------------------------------------------

    async def read(self, query: Callable[[Tables], T]) -> T:
        """Run `query` on a snapshot, in another thread."""
        try:
            return await self._loop.run_in_executor(self._readers, self._query, query)
        except DamagedRecord as error:
            self._notice(error)
            raise

    async def read_mailbox(
        self, account: Account, mailbox: MailboxId, query: Callable[[Tables, Mailbox], T]
    ) -> T:
        """Run `query` on a snapshot in which every UID of the mailbox may be shown.  Raises NotFound."""
        return await self.perform(service.read_mailbox(self.replica, account, mailbox, query))

    async def write(self, work: Callable[[Replica, Transaction], T]) -> tuple[T, Written]:
        """Run a command; done when its effects are durable.

        Raises RequestError as the command does, StoreFull if there is no room, StoreError if nothing can be
        written any more.
        """
        try:
            result = await self.perform(service.write(self.replica, work))
        except StoreFull:
            self.not_written += 1
            raise
        finally:
            self.journal.look(is_full=self.is_full)
        self.written += 1
        return result

    async def wait_for_clock(self, clock: Clock, timeout_s: float) -> None:
        """Until everything that `clock` covers is applied here.  Raises NotYet after `timeout_s`."""
        await self.perform(service.wait_for_clock(self.gossip, clock, timeout_s))

    async def wait_for_replicas(self, dot: Dot, count: int, timeout_s: float) -> int:
        """Until `count` other replicas have the delta, or the time is over; how many have it."""
        return await self.perform(service.wait_for_replicas(self.gossip, dot, count, timeout_s))

    def watch(self, account: Account) -> asyncio.Event:
        """An event that is set when something in the account changes after this call."""
        event = self._watched.get(account)
        if event is None:
            self._watched[account] = event = asyncio.Event()
        return event

    async def table_sizes(self) -> dict[Table, int]:
        """Bytes that each table takes."""
        return await self._loop.run_in_executor(self._readers, self._store.size)

    async def disk(self) -> Room | None:
        """What the store takes and what is left for it; None if it lies on no disk."""
        return await self._loop.run_in_executor(self._readers, self._store.disk)

    # For peers ------------------------------------------------------------------------------------------

    async def answer(self, kind: Kind, sender: ReplicaId, body: bytes, protocol: int = PROTOCOL) -> Reply:
        """What a peer that asks is told.  Raises PeerError with the reason if it is refused."""
        try:
            return await self.perform(self.gossip.answer(kind, sender, body, protocol))
        finally:
            self.journal.look(is_full=self.is_full)
            self.progress.fire()

    async def converse(self, steps: Steps[None], call: Caller) -> None:
        """Have a conversation that `gossip.converse` wants; `call` reaches the peer."""
        try:
            await self.perform(steps, call)
        finally:
            self.journal.look(is_full=self.is_full)
            self.progress.fire()

    async def keep_house(self) -> None:
        """Prune the log and give up old snapshots: to be done now and then."""
        await self.perform(self.gossip.keep_house(self.keep))

    async def retire(self, member: str, *, force: bool) -> tuple[list[ReplicaId], bool]:
        """This member, a name or an id, is gone for good; the replicas that it was, and whether all of them
        were retired already.

        Raises NotFound, Ambiguous, Forbidden, StillHeard.
        """
        found = service.whom_to_retire(self.gossip, member, self.now(), force=force)
        was_already = self.gossip.retired.issuperset(found)
        await self.perform(self.gossip.retire(found))
        self.journal.look(is_full=self.is_full, asked=found)
        return found, was_already

    def namesakes(self) -> dict[str, list[ReplicaId]]:
        """The names under which several nodes live, this one among them; to be asked now and then."""
        peers = self.gossip.peers
        living = {r: it for r, it in peers.heard.items() if r not in self.gossip.retired}
        living[self.replica.id] = Heard(self.name, self.head.clock, self.now())
        return self._namesakes.look(living, self.now())

    # Performing -----------------------------------------------------------------------------------------

    async def perform(self, steps: Steps[T], call: Caller | None = None) -> T:
        """Do what the steps ask for, one effect after the other, to their end."""
        try:
            effect = next(steps)
            while True:
                try:
                    result = await self._do(effect, call)
                except Exception as error:
                    if isinstance(error, DamagedRecord):
                        self._notice(error)
                    effect = steps.throw(error)
                else:
                    effect = steps.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            steps.close()

    def _notice(self, damage: DamagedRecord) -> None:
        """A record that was to be read is damaged; whoever met the first is told of, until the next start."""
        if self.damage is None:
            self.damage = damage
            self.journal.damaged(damage)

    async def _do(self, effect: Effect, call: Caller | None) -> Any:
        match effect:
            case Persist(work):
                return await asyncio.wrap_future(self._writer.submit(work))
            case Read(query):
                return await self.read(query)
            case PersistThenRead(work, query):
                return await self._persist_then_read(work, query)
            case Call():
                assert call is not None, "only conversations call"
                return await call(effect)
            case Wait(condition, timeout_s):
                await self.progress.until(lambda: self.stopping or condition(), timeout_s)
                return condition()
            case Hold():
                return await self._loop.run_in_executor(self._holders, self._hold)
            case ReadHeld(held, query):
                assert isinstance(held, _HeldSnapshot)
                return await self._loop.run_in_executor(self._holders, held.query, query)
            case Compute(work):
                return await self._loop.run_in_executor(self._readers, work)

    async def _persist_then_read(
        self, work: Callable[[Transaction], None], query: Callable[[Tables], T]
    ) -> T:
        async with self._may_show:
            future = self._writer.submit_and_snapshot(work)
            try:
                persisted = await asyncio.shield(asyncio.wrap_future(future))
            except asyncio.CancelledError:
                future.add_done_callback(_close_unused)
                raise

            def query_and_close() -> T:
                try:
                    return query(Tables(persisted.snapshot))
                finally:
                    persisted.close()

            # Shielded: it runs, and closes the snapshot, even if nobody waits for the result any more.
            return await asyncio.shield(self._loop.run_in_executor(self._showers, query_and_close))

    def _hold(self) -> _HeldSnapshot:
        held = _HeldSnapshot(self._store.snapshot())
        self._held.add(held)
        return held

    def _query(self, query: Callable[[Tables], T]) -> T:
        with self._store.snapshot() as snapshot:
            return query(Tables(snapshot))

    def _committed(self) -> None:
        """In the writer's thread, after a durable commit, or its failure, before anybody hears of it."""
        if self._writer.failure is not None:
            self._loop.call_soon_threadsafe(self.failed.set)
            return
        touched = self.replica.take_touched()
        with self._store.snapshot() as snapshot:
            tables = Tables(snapshot)
            head, id = tables.head(), self.replica.identity(tables)
        self._loop.call_soon_threadsafe(self._advance, head, id, touched)

    def _advance(self, head: Head, id: ReplicaId, touched: set[Account]) -> None:
        self.gossip.head, self.replica.id = head, id
        for account in touched:
            if (event := self._watched.pop(account, None)) is not None:
                event.set()
        self.progress.fire()


class _HeldSnapshot:
    """A snapshot that one question of a peer after the other is answered from, in whatever thread.

    Whoever lets go of it does not wait for the question that is being answered.
    """

    def __init__(self, closing: AbstractContextManager[Snapshot]) -> None:
        self._lock = threading.Lock()
        self._is_released = False
        self._closing = closing
        self._snapshot: Snapshot | None = closing.__enter__()

    def query(self, query: Callable[[Tables], T]) -> T:
        try:
            with self._lock:
                if self._is_released or self._snapshot is None:
                    raise PeerError("that snapshot was held for too long, and is given up", Refusal.NOT_NOW)
                return query(Tables(self._snapshot))
        finally:
            if self._is_released:
                self._close()

    def release(self) -> None:
        """Let go of it, at the latest after the query that is under way."""
        self._is_released = True
        self._close()

    def _close(self) -> None:
        if self._lock.acquire(blocking=False):  # or whoever has it closes it
            try:
                if self._snapshot is not None:
                    self._snapshot = None
                    self._closing.__exit__(None, None, None)
            finally:
                self._lock.release()


class Signal:
    """Something that changes now and then, and those who wait until it has changed enough.

    It looks for each of them whether it has: to wake them all to look for themselves takes several times as
    long.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}

    def fire(self) -> None:
        self._event.set()
        self._event = asyncio.Event()
        for future, true in self._waiting.items():
            if not future.done() and true():
                future.set_result(None)

    def next(self) -> asyncio.Event:
        """An event that is set the next time that this fires."""
        return self._event

    async def until(self, true: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it has become true in time."""
        if true():
            return True
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = true
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            del self._waiting[future]
        return True


def _close_unused(future: Future[Snapshotted[None]]) -> None:
    """Nobody waits any more for the snapshot that this write gives."""
    if not future.cancelled() and future.exception() is None:
        future.result().close()
