"""One server: performs the steps of the real core on a simulated disk, clock and network, life after life.

It does what `crdtmail.node` does in service, in one thread: one writer with group commit, reads on the last
committed state, one conversation a peer at a time.  A crash drops everything that is under way; what the
disk holds is what the next life begins with.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.crdt.delta import Account
from crdtmail.effects import (
    PROTOCOL,
    Call,
    Compute,
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
from crdtmail.errors import CrdtmailError, PeerError, PeerUnreachable, StoreError, StoreFull, UnknownProtocol
from crdtmail.gossip import conversation
from crdtmail.gossip.codec import decode_push
from crdtmail.gossip.conversation import Gossip
from crdtmail.gossip.session import Timing
from crdtmail.limits import GOSSIP_TIMEOUT_S, MAX_GROUP, MAX_WRITES_WAITING
from crdtmail.store.interface import Snapshot, Transaction
from crdtmail.store.memory_store import Changes, Image
from crdtmail.store.tables import Head, Tables
from crdtmail.store.writer import Failed, run_group
from crdtmail.views import living_mailboxes
from simulations.chance import generator
from simulations.disk import DISK_FAILURES, Disk, PowerCut
from simulations.faults import log_kept
from simulations.memo import decoded_answer, decoded_delta, decoded_position
from simulations.network import Request
from simulations.violation import expect
from simulations.watched import Note, WatchedReplica

if TYPE_CHECKING:
    from simulations.world import World

Done = Callable[[Any, Exception | None], None]

BOUNDARIES = ("now", "before persist", "in persist", "after persist", "before send", "in recovery")
"""When a node can be made to crash."""

_READ_US = (20, 800)  # a read: from a page in memory to one from the disk
_RESTART_US = 50_000
_HOUSE = 1.0  # of the interval at which nodes talk
_ADVANCE_US = 30  # from a commit in the writer's thread until the event loop hears of it


class _Write(NamedTuple):
    work: Callable[[Transaction], Any]
    query: Callable[[Tables], Any] | None
    resume: Done


class _Batch(NamedTuple):
    """A group of writes that have run, and what they would change."""

    writes: list[_Write]
    outcomes: list[Any]
    changes: Changes
    notes: list[Note]
    touched: set[Account]


_Answer = tuple[Any, Exception | None]


class _Held:
    """A state of the disk that is kept for reading."""

    def __init__(self, closing: AbstractContextManager[Snapshot]) -> None:
        self._closing = closing
        self._snapshot: Snapshot | None = closing.__enter__()

    def query(self, machine: Machine, query: Callable[[Tables], Any]) -> _Answer:
        if self._snapshot is None:
            return None, PeerError("that snapshot is given up")
        try:
            return query(Tables(self._snapshot)), None
        except CrdtmailError as error:
            machine.store_failed(error)
            return None, error

    def release(self) -> None:
        if self._snapshot is not None:
            self._snapshot = None
            self._closing.__exit__(None, None, None)


class _Waiter(NamedTuple):
    condition: Callable[[], bool]
    resume: Done


class Machine:
    """A node by name, whatever replica lives on it at the time."""

    def __init__(self, world: World, name: str, peers: tuple[str, ...]) -> None:
        self.world = world
        self.name = name
        self.disk = Disk(name.encode())
        self.is_up = False
        self.has_left = False
        self.life = 0
        self.crash_at = ""
        """The boundary at which it is to crash next."""
        self.protocol = PROTOCOL
        """The newest version that its program speaks."""
        self.slowness = 1.0
        self.drift = 1.0
        self.wall_offset_s = 0.0
        self.wall_frozen_at: float | None = None
        self.pace = 0
        """As long as this is the same, the machine has gone on without a stop, and its clock with it."""
        self.is_paused = False
        self.held: list[Callable[[], None]] = []
        """What was to be done while it stood still."""
        self.addresses = peers
        self.replica: WatchedReplica
        self.gossip: Gossip
        self._chance: random.Random
        """How long the disk takes in this life."""
        self._id: ReplicaId | None = None
        self._ids = 0
        self._ids_before: set[ReplicaId | None] = set()
        """The ids of replicas whose disk was taken away from here."""
        self._now_base = (0.0, 0.0)  # this machine's time, and the world's, when the drift last changed
        self._under_way = 0  # commits of which the core has yet to hear
        self.requests = 0
        """Requests of clients that it is at work on."""
        self.serving: dict[Callable[[Reply | Exception], None], None] = {}
        """How it is to answer the requests that it is at work on."""
        self._waiting: deque[_Write] = deque()
        self._is_writing = False
        self._waiters: list[_Waiter] = []
        self._timers: dict[str, int] = {}
        self._failed: dict[str, list[float]] = {}
        """When the calls of each peer failed, since one succeeded."""
        self._renewed = 0
        self.retired = 0
        """How often its id was retired."""
        self._held: list[_Held] = []
        self.disks = 0
        """How often its disk was taken away."""
        self.known_retired: set[ReplicaId] = set()
        """The replicas that it was told are gone, and has noted, on the disk that it has."""
        self.met: set[str] = set()
        """The nodes that have told this one where they stand, since it has this disk."""
        self._may_be_new = True
        """Whether it may take another id at its next start: its disk is another one, or not yet at home."""
        self._told: dict[str, tuple[bytes, int]] = {}
        """What each peer has answered to the exchange that is under way, and in which version."""
        self._answered_at: dict[str, float] = {}
        """When each peer was last given deltas for which it had asked."""
        self._since_answer: dict[str, float] = {}
        """How long before the conversation with each peer began that was."""
        self.exchanged_at: dict[str, float] = {}
        """When each peer last answered to an exchange in this life."""
        self._gaps: dict[str, tuple[bytes, list[float]]] = {}
        """When each peer took nothing of what it was sent, and said the same each time."""

    # Clocks ---------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds on this machine's monotonic clock."""
        own, worlds = self._now_base
        return own + (self.world.now_us / 1e6 - worlds) * self.drift

    def set_slowness(self, factor: float) -> None:
        self.pace += 1
        self.slowness = factor

    def set_drift(self, rate: float) -> None:
        self.pace += 1
        self._now_base = (self.now(), self.world.now_us / 1e6)
        self.drift = rate

    def wall_ms(self) -> int:
        """Milliseconds since 1970 on this machine's wall clock, which anybody may set."""
        now = self.world.now_us / 1e6 if self.wall_frozen_at is None else self.wall_frozen_at
        return int((1_700_000_000 + now + self.wall_offset_s) * 1000)

    # Lives ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a life with what the disk holds; it may end before it has begun."""
        if self.is_up or self.has_left:
            return
        world = self.world
        self.life += 1
        seed, life = world.seed, self.life
        before = None if self._may_be_new or self.disk.is_damaged else self.disk.durable().replica()
        if self.crash_at == "in recovery":
            self.crash_at, self._may_be_new = "", True
            self.disk.cut_power(keep=generator(seed, "recovery", self.name, life).randrange(2))
        try:
            replica = WatchedReplica.open(self.disk, self._new_id, self.wall_ms)
        except PowerCut:
            world.reached["crash in recovery"] += 1
            world.record("down", self.name, "crashed in recovery")
            world.after(_RESTART_US, self.start)
            return
        except (StoreError, StoreFull) as error:
            if str(error) in DISK_FAILURES:
                self._may_be_new = True
                world.reached[f"{error} at the start"] += 1
                world.after(_RESTART_US, self.start)
                return
            expect(self.disk.is_damaged, "a store that is not damaged opens", f"{self.name}: {error}")
            world.reached["wrong checksum noticed"] += 1
            self.replace_disk("damaged", {})
            return
        assert isinstance(replica, WatchedReplica)
        expect(
            replica.id not in self._ids_before,
            "a copied or lost disk never brings an old id back",
            "{} has the id of {} again",
            self.name,
            replica.id,
        )
        expect(
            before in (None, replica.id),
            "a node that starts on its own disk keeps its id",
            "{} had the id of {}, and has {}",
            self.name,
            before,
            replica.id,
        )
        self._may_be_new = False
        self.replica = replica
        self._id = replica.id
        self.is_up = True
        self._chance = generator(seed, "pace", self.name, life)
        tables = self.disk.durable()
        config = world.config
        self.gossip = Gossip(
            replica,
            self.name,
            tables.head(),
            tables.peers(),
            self.addresses,
            timing=Timing(
                interval_s=config.interval_s, grace_s=config.grace_s, last_retry_s=config.last_retry_s
            ),
            chance=generator(seed, "sessions", self.name, life),
            now=self.now,
            protocol=self.protocol,
            cluster=config.cluster,
        )
        forgotten = self.known_retired - self.gossip.retired
        promise, seen = "who is gone for good stays so across a restart", "{} no longer knows it of {}"
        expect(not forgotten, promise, seen, self.name, forgotten)
        self._renewed = 0
        world.record("up", self.name, f"{replica.id:016x}")
        world.name_replica(replica.id, self.name)
        self._pump_all()
        if world.keeps_house:
            self._later(int(_HOUSE * self.world.config.interval_s * 1e6), self._keep_house)

    def _keep_house(self) -> None:
        """Now and then: prune the log, give up old snapshots."""
        kept = log_kept(self.world.config)
        had, life = self.gossip.head.log_bytes, self.life

        def done(_: Any, error: Exception | None) -> None:
            self.requests -= 1
            if error is not None and not self.disk.may_fail(error):
                raise error
            if self.life == life:
                if error is None:
                    self.world.checks.kept_house(self, kept)
                self.world.reached["log pruned"] += self.gossip.head.log_bytes < had
                self.world.reached["another id taken"] += self.gossip.renewed - self._renewed
                self._renewed = self.gossip.renewed

        self.requests += 1
        self.perform(self.gossip.keep_house(kept), done)
        if self.life == life:
            self._later(int(_HOUSE * self.world.config.interval_s * 1e6), self._keep_house)

    def retire(self, replicas: list[ReplicaId]) -> None:
        """An operator says that these are gone for good."""

        def done(_: Any, error: Exception | None) -> None:
            self.requests -= 1
            if error is not None and not self.disk.may_fail(error):
                raise error
            if error is None and self.life == life:
                self.known_retired |= set(replicas)

        life = self.life
        self.requests += 1
        for machine in self.world.machines.values():
            machine.retired += machine.was_ever_up and machine.replica.id in replicas
        self.perform(self.gossip.retire(replicas), done)

    def call_no_more(self, names: set[str]) -> None:
        """An operator takes these out of the node's peers."""
        self.addresses = tuple(name for name in self.addresses if name not in names)
        if self.is_up:
            self.gossip.change_peers(self.addresses)

    @property
    def was_ever_up(self) -> bool:
        """Whether it has come to be a replica; one that has died in each of its starts has not."""
        return self._id is not None

    def lives_as(self, replica: ReplicaId) -> bool:
        return self._id == replica

    def _new_id(self) -> ReplicaId:
        self._ids += 1
        return ReplicaId(generator(self.world.seed, "replica", self.name, self._ids).getrandbits(64))

    def crash(self, why: str, keep: int = 0) -> None:
        """End this life at once; of what was committed but not synced, `keep` commits reached the disk."""
        if not self.is_up:
            return
        self.is_up = False
        self.life += 1
        self.resume()
        self.crash_at = ""
        self.world.record("down", self.name, why)
        synced = self.disk.synced
        self.disk.crash(keep)
        if keep == 0 and not self.disk.is_damaged:
            now = self.disk.head()
            promise, seen = "a reopened store is what was synced last", "{} has {}, and had synced {}"
            expect(now == synced, promise, seen, self.name, now.clock, synced.clock)
        self._waiting.clear()
        self._is_writing = False
        self.requests = self._under_way = 0
        serving, self.serving = self.serving, {}
        for reply in serving:
            reply(PeerUnreachable("the connection was reset"))
        self._waiters.clear()
        for held in self._held:
            held.release()
        self._held.clear()
        self._timers.clear()
        self._failed.clear()
        self._gaps.clear()
        self._told.clear()
        self._answered_at.clear()
        self.exchanged_at.clear()
        self.world.checks.crashed(self)

    def leave(self) -> None:
        """Go for good."""
        self.crash("left for good")
        self.world.checks.disk_gone(self, {})
        self.has_left = True

    def replace_disk(self, what: str, image: Image) -> None:
        """An operator gives the node, which is down, another disk, and starts it."""
        instead = {"another's": "a copy of another's"}.get(what, what) if image else "an empty one"
        self.world.record("fault", self.name, f"disk replaced by {instead}")
        self.world.reached[f"disk replaced: {what}"] += 1
        self.world.checks.disk_gone(self, image)
        self.disk.swap(image)
        self.disks += 1
        self._may_be_new = True
        self.met.clear()
        self.known_retired.clear()
        self._ids_before |= {self._id, self.disk.durable().replica()} - {None}
        self.world.after(_RESTART_US, self.start)

    def install(self, protocol: int) -> bool:
        """Stop it, and start it with a program that speaks this version of the protocol at most; whether it
        spoke another one before."""
        if self.protocol == protocol:
            return False
        self.protocol = protocol
        self.crash("another version is installed")
        self.world.after(_RESTART_US, self.start)
        return True

    def pause(self, seconds: float) -> None:
        """Stand still for so long."""
        self.world.reached["node paused"] += 1
        self.pace += 1
        self.world.record("pause", self.name)
        self.is_paused = True
        self.world.after(int(seconds * 1e6), self.resume)

    def resume(self) -> None:
        """Go on with all that waited meanwhile."""
        if self.is_paused:
            self.is_paused = False
            self.world.record("resume", self.name)
            held, self.held = self.held, []
            for what in held:
                self.world.after(0, what, self)

    def set_wall_clock(self, by: float, *, frozen: bool) -> None:
        self.wall_offset_s += by
        self.wall_frozen_at = self.world.now_us / 1e6 if frozen else None

    def calm_down(self) -> None:
        """Go on, at the usual pace, on a disk that works."""
        self.resume()
        self.crash_at = ""
        self.install(PROTOCOL)
        self.set_slowness(1.0)
        self.set_drift(1.0)
        self.disk.fail_no_more()
        if self.disk.is_damaged:
            promise, seen = "a damaged record is noticed", "{} found nothing wrong on its damaged disk"
            expect(self.disk.scan() is not None, promise, seen, self.name)
            self.crash("its disk is damaged")
            self.replace_disk("damaged", {})
        self.world.after(1, self.start)

    def stale_mailboxes(self, account: str) -> list[str]:
        """The account's mailboxes that cannot be shown here without new UIDs."""
        living = living_mailboxes(self.disk.durable(), account)
        return sorted(its.name for its in living.values() if its.record.stale)

    # Steps ----------------------------------------------------------------------------------------------

    def perform(self, steps: Steps[Any], done: Done) -> None:
        """Have the steps performed to their end, unless this life ends first."""
        self._go_on(steps, self.life, None, None, done)

    def _go_on(self, steps: Steps[Any], life: int, value: Any, error: Exception | None, done: Done) -> None:
        if self.life != life:
            return
        result, failed, effect = None, None, None
        try:
            effect = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            result = end.value
        except CrdtmailError as failure:
            failed = failure
        if effect is None:
            done(result, failed)
            return

        def resume(value: Any, error: Exception | None) -> None:
            self._go_on(steps, life, value, error, done)

        match effect:
            case Persist(work):
                self._enqueue(_Write(work, None, resume))
            case PersistThenRead(work, query):
                self._enqueue(_Write(work, query, resume))
            case Read(query):
                self._after_read(lambda: resume(*self._query(query)))
            case Hold():
                self._after_read(lambda: resume(self._hold(), None))
            case ReadHeld(held, query):
                assert isinstance(held, _Held)
                self._after_read(lambda: resume(*held.query(self, query)))
            case Compute(work):
                self._after_read(lambda: resume(*self._compute(work)))
            case Call():
                self._call(effect, resume)
            case Wait(condition, timeout_s):
                self._wait(condition, timeout_s, resume)

    def _after_read(self, then: Callable[[], None]) -> None:
        least, most = _READ_US
        drawn = self._chance.random()
        self._later(int((least + (most - least) * drawn * drawn) * self.slowness), then)

    def _later(self, delay_us: int, then: Callable[[], None]) -> None:
        """Do something after so long, if this life lasts so long."""
        life = self.life
        self.world.after(delay_us, lambda: then() if self.life == life else None, self)

    def _hold(self) -> _Held:
        held = _Held(self.disk.snapshot())
        self._held.append(held)
        return held

    def _compute(self, work: Callable[[], Any]) -> _Answer:
        try:
            return work(), None
        except CrdtmailError as error:
            return None, error

    def _query(self, query: Callable[[Tables], Any]) -> _Answer:
        """What a query on the last committed state gives, or what it raises."""
        try:
            with self.disk.snapshot() as snapshot:
                return query(Tables(snapshot)), None
        except CrdtmailError as error:
            self.store_failed(error)
            return None, error

    def store_failed(self, error: CrdtmailError) -> None:
        if isinstance(error, StoreError):
            expect(self.disk.is_damaged, "a store that is not damaged can be read", f"{self.name}: {error}")
            self.world.reached["wrong checksum noticed"] += 1

    def _wait(self, condition: Callable[[], bool], timeout_s: float, resume: Done) -> None:
        if condition():
            resume(True, None)
            return
        waiter = _Waiter(condition, resume)
        self._waiters.append(waiter)

        def give_up() -> None:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                resume(condition(), None)

        self.world.after(self._until_us(timeout_s), give_up, self)

    @property
    def is_talking(self) -> bool:
        """Whether a conversation with a peer is under way."""
        return bool(self.serving) or any(self.gossip.wait_s(address) is None for address in self.addresses)

    @property
    def is_at_rest(self) -> bool:
        """Whether it is at work on nothing that anybody asked of it."""
        return not (self.requests or self.serving or self._waiting or self._is_writing or self._under_way)

    def progress(self) -> None:
        """Something was committed, or heard of a peer."""
        ready = [waiter for waiter in self._waiters if waiter.condition()]
        self._waiters = [waiter for waiter in self._waiters if waiter not in ready]
        for waiter in ready:
            waiter.resume(True, None)
        self._pump_all()

    # Writing --------------------------------------------------------------------------------------------

    def _enqueue(self, write: _Write) -> None:
        promise, seen = "every queue keeps within its limit", "{} has {} writes waiting"
        expect(len(self._waiting) < MAX_WRITES_WAITING, promise, seen, self.name, len(self._waiting))
        self._waiting.append(write)
        self._write_next()

    def _write_next(self) -> None:
        if self._is_writing or not self._waiting:
            return
        self._is_writing = True
        group = [self._waiting.popleft() for _ in range(min(MAX_GROUP, len(self._waiting)))]
        # Who wants to read what the commit left comes last in it, as in the real writer.
        group.sort(key=lambda write: write.query is not None)
        # The works run now, in a transaction of which nobody sees anything until it is durable.
        outcomes, changes = self.disk.prepare(
            lambda txn: run_group(txn, [self._noted(write) for write in group])
        )
        batch = _Batch(group, outcomes, changes, self.replica.take_notes(), self.replica.take_touched())
        least, most = self.world.config.fsync_s
        delay = int((least + (most - least) * self._chance.random()) * 1e6 * self.slowness)
        self._later(delay, lambda: self._commit(batch))

    def _noted(self, write: _Write) -> Callable[[Transaction], Any]:
        """The work; if it is undone, so is what the replica has noted of it."""

        def work(txn: Transaction) -> Any:
            place = len(self.replica.notes)
            try:
                return write.work(txn)
            except CrdtmailError:
                self.replica.undo(place)
                raise

        return work

    def _commit(self, batch: _Batch) -> None:
        if self._crashes("before persist"):
            return
        world = self.world
        try:
            self.disk.commit(batch.changes)
        except StoreFull as error:
            self._has_no_room(batch, error)
            return
        except StoreError as error:
            self._fail(batch, error)
            return
        if self.crash_at == "in persist":
            keep = self._chance.randrange(2)
            world.reached["commit kept by a crash" if keep else "commit lost by a crash"] += 1
            if keep:
                world.checks.durable(self, batch.notes, batch.touched)
            self._crashes("in persist", keep)
            return
        try:
            self.disk.sync()
            id = self.replica.identity(self.disk.durable())
        except StoreError as error:
            self.store_failed(error)
            self.crash("its store is damaged")
            self.replace_disk("damaged", {})
            return
        world.checks.durable(self, batch.notes, batch.touched)
        if self._crashes("after persist"):
            return
        read = [self._query(write.query) if write.query is not None else None for write in batch.writes]
        # The writer goes on at once; the rest of the node hears of the commit a moment later.
        head = self.disk.synced
        self._under_way += 1
        self._later(_ADVANCE_US, lambda: self._advance(batch, head, id, read))
        self._is_writing = False
        self._write_next()

    def _advance(self, batch: _Batch, head: Head, id: ReplicaId, read: list[_Answer | None]) -> None:
        """A commit is durable: the core hears of it, and then whoever waited for it."""
        self._under_way -= 1
        self.gossip.head, self.replica.id = head, id
        life = self.life
        self.progress()
        for write, outcome, answer in zip(batch.writes, batch.outcomes, read, strict=True):
            if self.life != life:
                return
            if isinstance(outcome, Failed):
                if not isinstance(outcome.error, CrdtmailError):
                    raise outcome.error
                self.store_failed(outcome.error)
                write.resume(None, outcome.error)
            elif answer is not None:
                write.resume(*answer)
            else:
                write.resume(outcome, None)

    def _has_no_room(self, batch: _Batch, error: StoreFull) -> None:
        """The whole group comes to nothing, and the writer goes on."""
        self.world.reached[str(error)] += 1
        self.world.record("fault", self.name, str(error))
        self._is_writing = False
        life = self.life
        for write in batch.writes:
            if self.life == life:
                write.resume(None, error)
        if self.life == life:
            self._write_next()

    def _fail(self, batch: _Batch, error: StoreError) -> None:
        """The medium fails: everybody hears that, and the node stops rather than go on."""
        self.world.reached[str(error)] += 1
        life = self.life
        for write in [*batch.writes, *self._waiting]:
            if self.life == life:
                write.resume(None, error)
        self.crash(str(error))
        self.world.after(_RESTART_US, self.start)

    def _crashes(self, boundary: str, keep: int = 0) -> bool:
        if self.crash_at != boundary:
            return False
        self.world.reached[f"crash {boundary}"] += 1
        self.crash(f"crashed {boundary}", keep)
        self.world.after(_RESTART_US, self.start)
        return True

    # Peers ----------------------------------------------------------------------------------------------

    def _pump_all(self) -> None:
        for address in self.addresses:
            if not self.is_up:
                return
            self._pump(address)

    def _pump(self, address: str) -> None:
        """Have the conversation that the session wants now, or look again when it will want one."""
        if address not in self.addresses:
            return  # it was taken out
        steps = self.gossip.converse(address)
        if steps is not None:
            self._since_answer[address] = self.now() - self._answered_at.get(address, -math.inf)

            def over(_: Any, error: Exception | None) -> None:
                if error is not None:
                    raise error
                if address not in self.addresses:
                    return  # it was taken out meanwhile
                peer = self.gossip.peers.sessions[address].peer
                if peer is not None:
                    self._meet(peer.replica)
                if address in self.exchanged_at:
                    self.exchanged_at[address] = self.now()
                if (told := self._told.pop(address, None)) is not None:
                    self.world.checks.exchanged(self, address, *told)
                self.world.checks.talked(self, address)
                self.progress()

            self.perform(steps, over)
            return
        wait_s = self.gossip.wait_s(address)
        if wait_s is None:
            return
        due = self.world.now_us + self._until_us(wait_s)
        if self.world.now_us < self._timers.get(address, 0) <= due:
            return  # it is looked at before, anyway
        self._timers[address] = due
        life = self.life

        def look_again() -> None:
            if self.life == life and self._timers.get(address) == due:
                self._pump(address)

        self.world.at(due, look_again, self)

    def _until_us(self, seconds: float) -> int:
        """World's microseconds until so many seconds have passed on this machine, and one more."""
        return math.ceil(seconds / self.drift * 1e6) + 1

    def _call(self, call: Call, resume: Done) -> None:
        if self._crashes("before send"):
            return
        world, life, peer = self.world, self.life, call.address
        self._check_sent(call)
        if call.kind is Kind.PUSH and not world.machines[peer].has_left:
            pushed = len(decode_push(call.body))
            world.sent_deltas += pushed
            world.pushed_deltas += pushed
        if call.kind is Kind.EXCHANGE:
            world.exchanges += 1
        is_over = False

        def finish(value: Reply | None, error: Exception | None) -> None:
            nonlocal is_over
            if not is_over and self.life == life:
                is_over = True
                if call.kind is not Kind.SNAPSHOT:
                    self._note_gap(peer, value)
                failed = self._failed.setdefault(peer, [])
                if error is None:
                    failed.clear()
                    if call.kind is Kind.EXCHANGE and value is not None:
                        self._told[peer] = value.body, call.protocol
                        self.exchanged_at[peer] = self.now()
                    elif call.kind is Kind.SNAPSHOT:
                        self._told.pop(peer, None)  # with which it says anew where it stands
                # An older version is asked in another one; who asks in vain for more of a snapshot, or says
                # that it is done with it, may have had what it wanted.
                elif not isinstance(error, UnknownProtocol) and call.kind is not Kind.SNAPSHOT:
                    failed.append(self.now())
                    world.checks.failed_again(self, peer, failed)
                resume(value, error)

        world.checks.told_id(self)
        request = Request(call.kind, self.replica.id, call.body, call.protocol)
        world.network.requests[self.name, peer].append(request)
        world.carry(self, peer, request, partial(self._take, call, finish))

        def give_up() -> None:
            if not is_over and self.life == life:
                world.reached["call timed out"] += 1
            finish(None, PeerUnreachable("no answer in time"))

        world.after(self._until_us(GOSSIP_TIMEOUT_S), give_up, self)

    def _take(self, call: Call, finish: Done, reply: Reply | PeerError) -> None:
        """The answer to a call is there."""
        reached = self.world.reached
        if self.is_paused:
            self.held.append(partial(self._take, call, finish, reply))
        elif isinstance(reply, Reply):
            reached["older version spoken"] += call.protocol < self.protocol
            reached["gap answered"] += reply.status == 409
            finish(reply, None)
        else:
            finish(None, reply)

    def _note_gap(self, peer: str, reply: Reply | None) -> None:
        """Who takes nothing, and stands where it stood, is asked ever more rarely."""
        if reply is None or reply.status != 409:
            self._gaps.pop(peer, None)
            return
        body, at = self._gaps.get(peer, (b"", []))
        if body != reply.body:
            at = []
        at.append(self.now())
        self._gaps[peer] = reply.body, at
        self.world.checks.took_nothing_again(self, peer, at)

    def _meet(self, replica: ReplicaId) -> None:
        """This replica has said where it stands; on a full disk that is not remembered."""
        if replica in self.replica.members:
            self.met |= {m.name for m in self.world.machines.values() if m.lives_as(replica)}

    def serve(self, request: Request, body: bytes, reply: Callable[[Reply | Exception], None]) -> None:
        """A peer, or a stranger, asks.  If this life ends meanwhile, the connection does too."""
        self.serving[reply] = None
        self._failed.clear()  # whoever calls is there, and is called back at once
        self._gaps.clear()

        def done(value: Any, error: Exception | None) -> None:
            del self.serving[reply]
            self._failed.clear()  # it has been heard only now
            if error is None:
                self._check_answered(request, value)
                if request.kind is Kind.SNAPSHOT:
                    self.world.checks.answered_about_a_snapshot(self, request, value)
                if request.kind is Kind.EXCHANGE:
                    self._note_answer(request, value)
                    self._meet(request.sender)
            reply(value if error is None else error)
            if self.is_up:
                self.progress()

        self.perform(self.gossip.answer(request.kind, request.sender, body, request.protocol), done)

    def _note_answer(self, request: Request, reply: Reply) -> None:
        """Who was just given deltas for which it asked need not be sent them yet."""
        for address, session in self.gossip.peers.sessions.items():
            if session.peer is not None and session.peer.replica == request.sender:
                self._answered_at.pop(address, None)
                if decoded_answer(reply.body, request.protocol).deltas:
                    self._answered_at[address] = self.now()

    # What is said must be durable -----------------------------------------------------------------------

    def _check_sent(self, call: Call) -> None:
        if call.kind in (Kind.SNAPSHOT, Kind.OFFER):
            return
        if call.kind is Kind.EXCHANGE:
            position = decoded_position(call.body, call.protocol)
            self.world.checks.told_clock(self, position.clock)
            self.world.checks.told_retired(self, position.retired)
        else:
            self._check_deltas(decode_push(call.body))
            self.world.checks.pushed(self, call.address, self._since_answer[call.address])

    def _check_answered(self, request: Request, reply: Reply) -> None:
        if request.kind is Kind.PUSH and not reply.body:  # all of it was taken
            taken = [decoded_delta(data).dot for data in decode_push(request.body)]
            self.world.checks.told_clock(self, Clock.of(taken))
        if request.kind is Kind.EXCHANGE:
            answer = decoded_answer(reply.body, protocol=request.protocol)
            self.world.checks.told_clock(self, answer.position.clock)
            self.world.checks.told_retired(self, answer.position.retired)
            self._check_deltas(answer.deltas)
            self.world.sent_deltas += len(answer.deltas)

    def _check_deltas(self, deltas: tuple[bytes, ...]) -> None:
        size = sum(map(len, deltas))
        limit: int = vars(conversation)["BATCH_BYTES"]  # which a run may have drawn in
        promise, seen = "a batch keeps within its limit", "{} sent {} changes of {} bytes, more than {}"
        expect(len(deltas) <= 1 or size <= limit, promise, seen, self.name, len(deltas), size, limit)
        self.world.checks.told_deltas(self, [decoded_delta(data).dot for data in deltas])
