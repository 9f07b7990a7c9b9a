"""A run: events at their times, until all is calm, quiet and equal, or a promise breaks.

One heap of (time, sequence) is the clock.  `run` is a pure function of the seed, the configuration and the
events: it takes nothing from the real world.
"""

from __future__ import annotations

import heapq
import itertools
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest.mock import patch

from crdtmail import applying, replica, staging
from crdtmail.crdt.clock import Dot, ReplicaId
from crdtmail.effects import Reply
from crdtmail.errors import NotYet, PeerError, PeerUnreachable, RequestError, StoreError, UnknownProtocol
from crdtmail.gossip import conversation, filling, serving
from crdtmail.limits import GOSSIP_TIMEOUT_S, SNAPSHOT_IDLE_S
from crdtmail.store import tables
from crdtmail.views import living_mailboxes, scripts
from simulations import clients
from simulations import machine as machines
from simulations.actions import AnyAction, Deliver, Event
from simulations.chance import generator
from simulations.checks import Checks
from simulations.clients import Client, Looked
from simulations.config import Config, links
from simulations.faults import ShortLog, weather
from simulations.incidents import apply
from simulations.machine import Machine
from simulations.memo import decoded_once
from simulations.network import Network, Request
from simulations.planted import planted
from simulations.trace import Record, trace_hash
from simulations.violation import Violation, expect, in_words

READ_ROUNDS = 12
"""Rounds of everybody reading and everybody exchanging, after which nobody renumbers any more."""
QUIET_INTERVALS = 1
"""Gossip intervals for which the quiet cluster is watched."""
QUIET_WATCHED = 6
"""In one run of so many, for it is a tenth of such a run's work."""
PROBED = 4
"""In one run of so many a node takes one more message at the end, for that is a tenth of a run's work."""
ALL_WRITE = 8
"""In one run of so many each node does, for that takes three times as long."""
CALM_LIMIT_S = 300.0
"""In calm weather everything is everywhere within so many seconds, whatever happened before."""
PRUNING_WATCHED = 5
"""In one run of so many, and where a node was retired, it is waited for that: it takes a while."""
PRUNED_WITHIN = 30
"""When all is quiet, no node keeps any of its log for more intervals."""
PROMPT_S = 0.5
"""Where nothing is wrong a change is at the next node within a grace period and so many seconds."""
AT_ONCE = 10
"""Messages and commits that lie, one after the other, between a change and all whom its node calls."""
MESSAGES_PER_DELTA = 60
"""Messages a node that a run may take for each delta made, besides exchanges and retries at their pace."""
MOST_EVENTS = 2_000_000
"""Steps of a run.  More means that something never comes to rest."""


class ShownMailbox(NamedTuple):
    """A mailbox as clients see it, apart from its messages; `said` is what is out of the ordinary."""

    account: str
    name: str
    said: tuple[str, ...]


@dataclass
class Result:
    """What came of a run."""

    seed: int
    violation: str | None = None
    promise: str = ""
    at_s: float = 0.0
    trace: list[Record] = field(default_factory=list)
    reached: Counter[str] = field(default_factory=Counter)
    figures: dict[str, float] = field(default_factory=dict)
    shown: list[tuple[str, str, int, str, frozenset[str]]] = field(default_factory=list)
    """What all nodes show at the end: account, mailbox, UID, message, keywords."""
    mailboxes: list[ShownMailbox] = field(default_factory=list)
    """All mailboxes at the end, the empty ones too, in the order of their names; only if there is a trace."""
    scripts: list[tuple[str, str, str, bool]] = field(default_factory=list)
    """The scripts then: account, name, content, and whether it is the active one."""
    did_nothing: list[tuple[float, AnyAction, str]] = field(default_factory=list)
    """The events of which nothing came, in the order of time, in seconds since the start, and why; only if
    there is a trace."""

    @property
    def hash(self) -> str:
        """The same for the same run."""
        return trace_hash(self.trace)


class World:
    """Everything that there is in one run."""

    def __init__(self, seed: int, config: Config, *, records: bool, strict: bool) -> None:
        self.seed = seed
        self.config = config
        self.is_strict = strict
        self.now_us = 0
        self.reached: Counter[str] = Counter()
        self.trace: list[Record] = []
        self.keeps_records = records
        self.mailboxes: list[ShownMailbox] = []
        self.scripts: list[tuple[str, str, str, bool]] = []
        self.idle: list[tuple[float, AnyAction, str]] = []
        self._names: dict[int, str] = {}
        self._heap: list[tuple[int, int, Callable[[], None], Machine | None]] = []
        self._order = itertools.count()
        self.is_calm = False
        self.last_write_us = 0
        self.sent_deltas = self.pushed_deltas = self.exchanges = 0
        self.disks_lost: list[str] = []
        """The nodes whose disks were taken away, one after the other."""
        self.checks = Checks(self)
        self.network = Network(
            seed,
            config.latency_s,
            weather(config),
            self._now,
            self.at,
            self.record,
            self.reached,
            lambda node: self.machines[node].is_up,
        )
        self.machines = {name: Machine(self, name, peers) for name, peers in links(config).items()}
        self.clients: dict[str, Client] = {}

    def _now(self) -> int:
        return self.now_us

    # Time -----------------------------------------------------------------------------------------------

    def at(self, at_us: int, what: Callable[[], None], machine: Machine | None = None) -> None:
        """Do something at a time; what a machine does waits while the machine is paused."""
        heapq.heappush(self._heap, (at_us, next(self._order), what, machine))

    def after(self, delay_us: int, what: Callable[[], None], machine: Machine | None = None) -> None:
        self.at(self.now_us + delay_us, what, machine)

    def run_until(self, until_us: int, stop: Callable[[], bool] | None = None) -> bool:
        """Let time pass; whether `stop` held before the time was over."""
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            at_us, _, what, machine = heapq.heappop(heap)
            self.now_us = max(self.now_us, at_us)
            if machine is not None and machine.is_paused:
                machine.held.append(what)
                continue
            self.steps += 1
            expect(self.steps < MOST_EVENTS, "a run comes to an end", f"{self.steps} steps")
            what()
            if stop is not None and stop():
                return True
        self.now_us = max(self.now_us, until_us)
        return False

    steps = 0
    keeps_house = True
    """Whether nodes prune their logs."""

    def record(self, kind: str, node: str, *details: Any) -> None:
        if self.keeps_records:
            self.trace.append(Record(self.now_us, kind, node, details))

    def did_nothing(self, at_us: int, action: AnyAction, why: str) -> None:
        """An event came to nothing."""
        if self.keeps_records:
            self.idle.append((at_us / 1e6, action, why))

    def name_replica(self, id: ReplicaId, node: str) -> None:
        """The replica of this id lives on this node; a node that has lost its disk has had several."""
        if id not in self._names:
            ids = sum(name.split("'")[0] == node for name in self._names.values())
            self._names[id] = node + "'" * ids

    def _name_all(self) -> None:
        """Nodes may have taken other ids since they were started."""
        for machine in self.machines.values():
            if machine.was_ever_up:
                self.name_replica(machine.replica.id, machine.name)

    def in_words(self, seen: str) -> str:
        self._name_all()
        return in_words(seen, self._names, self.checks.ledger.names())

    # What the parts tell --------------------------------------------------------------------------------

    def changed(self, machine: Machine) -> None:
        """A node has made something durable."""
        if self.keeps_records:
            running = {m.disk.synced.digest for m in self.machines.values() if m.is_up}
            held = [m.disk.synced.clock.entries for m in self.members if m.life]
            # What some have and some do not: of each replica, its changes from the least that a node has on.
            most: dict[ReplicaId, int] = {}
            for entries in held:
                for replica, seq in entries.items():
                    if seq > most.get(replica, 0):
                        most[replica] = seq
            missing = sum(
                seq - min(entries.get(replica, 0) for entries in held) for replica, seq in most.items()
            )
            self.record("state", "", len(running), missing)

    def wrote(self) -> None:
        """A client's write was answered."""
        self.last_write_us = self.now_us

    def carry(
        self, source: Machine, target: str, request: Request, answered: Callable[[Reply | PeerError], None]
    ) -> None:
        """Take a request to a node and its answer back."""
        machine = self.machines[target]
        back = source.name
        if machine.has_left:
            refused = PeerUnreachable("nobody is there any more")
            self.after(1000, lambda: answered(refused), source)
            return

        def arrive(body: bytes) -> None:
            if not machine.is_up:
                # The kernel refuses the connection; a machine whose process is gone answers that much.
                self.reached["connection refused"] += 1
                if (target, back) not in self.network.cut:
                    self.after(100, lambda: answered(PeerUnreachable("connection refused")), source)
                return
            self.serve(machine, request, body, lambda outcome: self._answer(machine, back, outcome, answered))

        self.network.send(back, target, request.kind.value, request.body, arrive)

    def serve(
        self, machine: Machine, request: Request, body: bytes, reply: Callable[[Reply | Exception], None]
    ) -> None:
        """Have a node answer a request, once it no longer stands still."""
        if machine.is_paused:
            machine.held.append(lambda: self.serve(machine, request, body, reply))
        elif machine.is_up:
            machine.serve(request, body, reply)

    def _answer(
        self,
        machine: Machine,
        back: str,
        outcome: Reply | Exception,
        answered: Callable[[Reply | PeerError], None],
    ) -> None:
        match outcome:
            case Reply():
                reply = outcome
                self.network.send(
                    machine.name, back, "answer", reply.body, lambda body: answered(reply._replace(body=body))
                )
            case PeerError() | RequestError() | StoreError():
                if isinstance(outcome, PeerError) and not isinstance(outcome, PeerUnreachable):
                    self.reached["peer refused"] += 1
                refusal = (
                    outcome
                    if isinstance(outcome, PeerUnreachable)
                    else type(outcome)(str(outcome), None)
                    if isinstance(outcome, UnknownProtocol)
                    else PeerError(str(outcome), None)
                )
                self.network.send(machine.name, back, "answer", b"", lambda _: answered(refusal))
            case _:
                raise outcome

    # Clients --------------------------------------------------------------------------------------------

    def perform_for(
        self, machine: Machine, steps: Any, client: Client | None, action: AnyAction | None = None
    ) -> None:
        """Have a client's request performed.  If the node dies, the client never hears of it."""
        life, began_us = machine.life, self.now_us
        machine.requests += 1
        if client is not None:
            client.is_busy = True

        def done(result: Any, error: Exception | None) -> None:
            machine.requests -= 1
            if client is not None:
                client.is_busy = False
            if self.keeps_records and action is not None:
                why = str(error) if error is not None else getattr(result, "why", None)
                who = client.name if client is not None else ""
                if why is not None:
                    self.record("idle", machine.name, who, type(action).__name__, why)
                    self.did_nothing(began_us, action, why)
                elif client is not None:
                    self.record("client", machine.name, who, type(action).__name__, _said(result))
            if error is None:
                return
            if isinstance(error, NotYet):
                self.reached["token not yet covered"] += 1
            elif isinstance(error, RequestError):
                self.reached["request refused"] += 1
            elif not (isinstance(error, StoreError) and machine.disk.may_fail(error)):
                raise error

        machine.perform(steps, done)
        if client is not None and machine.life != life:
            client.is_busy = False

    # The end --------------------------------------------------------------------------------------------

    def calm_down(self) -> None:
        """From now on nothing goes wrong, and everything that was wrong is put right."""
        self.is_calm = True
        self.record("calm", "")
        network = self.network
        network.weather = weather(None)
        network.heal()
        network.release_all()
        for machine in self.machines.values():
            machine.calm_down()

    @property
    def members(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if not machine.has_left]

    def are_equal(self) -> bool:
        """Whether all members are up and have applied the same."""
        members = self.members
        first = members[0].disk.synced.clock
        return all(machine.is_up and machine.disk.synced.clock == first for machine in members)

    def settle(self) -> None:
        """Wait until all are equal; read everywhere until nobody has to renumber any more; then be quiet."""
        start = self.now_us
        # What was under way when it became calm is part of the storm.
        rest = self.now_us + int(CALM_LIMIT_S * 1e6)
        if not self.run_until(rest, self._is_at_rest):
            busy = ", ".join(machine.name for machine in self.members if not machine.is_at_rest)
            seen = f"at work: {busy or 'nobody'}; {self.network.under_way} messages under way"
            raise Violation("every request is answered", seen)
        self._become_equal("all nodes come to have everything")
        self.figures["convergence_s"] = round((self.now_us - start) / 1e6, 3)
        for rounds in range(READ_ROUNDS):
            self.figures["read_rounds"] = rounds
            before = self.members[0].disk.synced.clock
            for machine in self.members:
                self._read_everything(machine)
            self._become_equal("all nodes come to have everything again after reading")
            if self.members[0].disk.synced.clock == before:
                break
            self.reached["renumbered after healing"] += 1
        else:
            raise Violation("renumbering comes to an end", f"it went on for {READ_ROUNDS} rounds")
        self.checks.settled(self.members)
        self._wait_until_quiet()
        if self.seed % QUIET_WATCHED == 0:
            self._watch_quiet()
        if self.seed % PRUNING_WATCHED == 0 or self.checks.any_retired():
            self._watch_pruning()
            self._watch_snapshots()
        shown = self.checks.last_shown
        if self.keeps_records:
            self._list_what_is_shown()
        if (self.seed % PROBED == 0 or self._renewed()) and self._everybody_writes():
            self.checks.agree(self.members)
        self.checks.last_shown = shown  # without the probes
        self._expect_little_traffic()

    def _list_what_is_shown(self) -> None:
        """The mailboxes and scripts that all nodes show now."""
        tables = self.members[0].disk.durable()
        for account in self.config.accounts:
            for its in sorted(living_mailboxes(tables, account).values(), key=lambda its: its.name):
                said = [f"role {its.role}"] if its.role else []
                said += ["subscribed"] if its.is_subscribed else []
                said += [f"{name}: {value}" for name, value in sorted(its.annotations.items())]
                self.mailboxes.append(ShownMailbox(account, its.name, tuple(said)))
            for script in scripts(tables, account):
                self.scripts.append((account, script.name, script.content, script.is_active))

    def _become_equal(self, promise: str, within_s: float = CALM_LIMIT_S) -> None:
        limit = self.now_us + int(within_s * 1e6)
        if not self.are_equal() and not self.run_until(limit, self.are_equal):
            heads = ", ".join(f"{m.name} has {m.disk.synced.clock}" for m in self.members)
            raise Violation(promise, f"not within {within_s:.1f} s: {heads}")

    def _everybody_writes(self) -> bool:
        """Whatever happened to a node, it takes mail again, and the others get it.

        All of them in one run of `ALL_WRITE`; in the others those that have taken another id, or just one.
        Whether it was all.
        """
        self.record("probe", "")
        members = self.members
        self.run_until(self.now_us + int(self.config.grace_s * 1e6))  # nobody is about to ask anybody again
        if not self._is_at_rest():  # or just asking
            self.run_until(self.now_us + int(CALM_LIMIT_S * 1e6), self._is_at_rest)
        pushed, exchanges, made = self.pushed_deltas, self.exchanges, self._made()
        one = members[self.seed % len(members)]
        writers = members if self.seed % ALL_WRITE == 0 else self._renewed() or [one]
        account, lacking = self.config.accounts[0], {machine.name for machine in writers}
        # Of a change that a short log has let go of already, the others hear by snapshot.
        is_mesh = self.config.topology == "mesh" and ShortLog.name not in self.config.faults
        ack = len(members) - 1 if is_mesh and self.seed % 16 == 4 else 0

        def deliver(machine: Machine) -> None:
            def done(_: Any, error: Exception | None) -> None:
                if error is not None:
                    raise Violation("every node takes mail again", f"{machine.name}: {error}")
                lacking.discard(machine.name)

            new = Deliver(machine.name, (f"last of {machine.name}",), account=account, ack=ack)
            machine.perform(clients.deliver(machine, new, is_certain=True), done)

        for machine in writers:
            deliver(machine)
        limit = self.now_us + int(CALM_LIMIT_S * 1e6)
        if not self.run_until(limit, lambda: not lacking):
            raise Violation("every node takes mail again", f"{sorted(lacking)} did not answer")
        if is_mesh and AT_ONCE * self._step_s() < self.config.grace_s:
            at_once = self.now_us + int(AT_ONCE * self._step_s() * 1e6)
            expect(
                self.are_equal() or self.run_until(at_once, self.are_equal) or self.exchanges > exchanges,
                "a node's own changes are told at once",
                f"the last mail was not everywhere after {AT_ONCE * self._step_s():.3f} s",
            )
        self._become_equal("all nodes get the last mail", self._prompt_s())
        if self.config.topology in ("mesh", "chain", "star") and ShortLog.name not in self.config.faults:
            self.run_until(self.now_us + int(self.config.grace_s / 2 * 1e6), self._is_at_rest)
            if self.exchanges == exchanges:
                self._expect_senders_known(writers)
            self.run_until(self.now_us + int((self.config.grace_s + PROMPT_S) * 1e6))
            most = (self._made() - made) * (len(members) - 1)
            expect(
                self.pushed_deltas - pushed <= most,
                "when all is well, a change is sent to each once",
                f"{self.pushed_deltas - pushed} were sent instead of {most}",
            )
        return writers is members

    def _renewed(self) -> list[Machine]:
        """Those that live under another id than they were started with."""
        return [machine for machine in self.members if machine.gossip.renewed]

    def _expect_senders_known(self, writers: list[Machine]) -> None:
        """Who talks with one that has just sent its change around knows that it has it."""
        for writer in writers:
            last = Dot(writer.replica.id, self.checks.ledger.made[writer.replica.id])
            for machine in self.members:
                session = machine.gossip.peers.session_of(writer.replica.id)
                expect(
                    session is None or session.known.covers(last),
                    "who has sent a change is known to have it",
                    f"{machine.name} does not know it of {writer.name}",
                )

    def _made(self) -> int:
        return sum(self.checks.ledger.made.values())

    def _prompt_s(self) -> float:
        """How long a change may take to the furthest node when nothing is wrong."""
        config = self.config
        if config.topology == "one way":  # who is not called asks, once an interval
            return CALM_LIMIT_S
        if ShortLog.name in config.faults:  # it may come with a snapshot
            return CALM_LIMIT_S
        hops = {"mesh": 1, "star": 2}.get(config.topology, len(self.members))
        return hops * (config.grace_s + PROMPT_S + 20 * self._step_s())

    def _step_s(self) -> float:
        """What a message and a commit take together."""
        return self.config.latency_s[1] + self.config.fsync_s[1]

    def _expect_little_traffic(self) -> None:
        """Nobody has said the same over and over."""
        config, nodes = self.config, len(self.machines)
        seconds = self.now_us / 1e6
        calls = sum(len(machine.addresses) for machine in self.machines.values())
        paced = 2 * calls * (4 * seconds / config.interval_s + 20)
        most = paced + MESSAGES_PER_DELTA * nodes * sum(self.checks.ledger.made.values())
        self.figures["traffic"] = self.network.messages / most
        expect(
            self.network.messages < most,
            "nobody says the same over and over",
            f"{self.network.messages} messages",
        )

    def _is_at_rest(self) -> bool:
        """Whether nobody is at work on anything, and nothing is under way."""
        return self.network.under_way == 0 and all(machine.is_at_rest for machine in self.members)

    def _read_everything(self, machine: Machine) -> None:
        for account in self.config.accounts:
            reader = Client(f"last reader of {machine.name}", account, machine.name)
            for name in machine.stale_mailboxes(account):
                self.perform_for(machine, clients.look(machine, reader, name), None)
        self.run_until(self.now_us + 200_000)

    def _wait_until_quiet(self) -> None:
        """Everybody learns that all have everything."""
        # A call of stormy times may have yet to time out and to be tried again.
        limit_s = 2 * (GOSSIP_TIMEOUT_S + self.config.last_retry_s) + 1  # on a clock at half its pace
        if not self._all_know() and not self.run_until(self.now_us + int(limit_s * 1e6), self._all_know):
            waiting = ", ".join(self._unsettled()) or "somebody is at work"
            raise Violation("deltas stop flowing", f"not within {limit_s:.0f} s: {waiting}")

    def _watch_quiet(self) -> None:
        """Nothing but small exchanges goes between nodes that are equal, and few of them."""
        members = self.members
        interval = self.config.interval_s
        deltas, messages, size = self.sent_deltas, self.network.messages, self.network.bytes
        watched_s = QUIET_INTERVALS * interval * max(1, *(len(m.addresses) for m in members))
        self.run_until(self.now_us + int(watched_s * 1e6))
        expect(
            self.sent_deltas == deltas, "deltas stop flowing", f"{self.sent_deltas - deltas} were still sent"
        )
        sent, took = self.network.messages - messages, self.network.bytes - size
        # A node makes one exchange an interval on average, of two messages, half an interval apart at least.
        most = 2 * len(members) * (1.5 * watched_s / interval + 3)
        expect(
            sent <= most,
            "a quiet cluster says little",
            f"{sent} messages in {watched_s:.0f} s, not {most:.0f}",
        )
        for machine in members:
            most_s = 1.5 * interval * max(1, len(machine.addresses)) + PROMPT_S + 20 * self._step_s()
            for address, at in machine.exchanged_at.items():
                expect(
                    machine.now() - at <= most_s or self.machines[address].has_left,
                    "every peer is asked once in a while",
                    f"{machine.name} has not asked {address} for {machine.now() - at:.1f} s",
                )
            if "disk full" not in self.config.faults:  # where there is no room, a peer is noted another time
                sessions = machine.gossip.peers.sessions.values()
                met = {session.peer.replica for session in sessions if session.peer is not None}
                known = machine.replica.members | machine.gossip.head.clock.keys()
                promise = "who was met is reckoned with when UIDs are given"
                expect(met <= known, promise, f"{machine.name} does not know all of {sorted(met)}")
        each = 64 + 20 * len(self.checks.ledger.made)
        expect(took <= sent * each, "bytes a round are bounded", f"{took} bytes in {sent} messages")
        self.figures["quiet_bytes_per_node_and_s"] = took / watched_s / len(members)

    def _watch_snapshots(self) -> None:
        """Nobody holds a snapshot for long of which nothing is asked any more."""
        if any(len(machine.gossip.snapshots) for machine in self.members):
            self.run_until(self.now_us + int((SNAPSHOT_IDLE_S + 2 * self.config.interval_s) * 1e6))
        for machine in self.members:
            held = len(machine.gossip.snapshots)
            expect(not held, "a snapshot is not held for nobody", f"{machine.name} holds {held}")

    def _watch_pruning(self) -> None:
        """When all have everything, and who is gone is known to be, no log is kept for anybody."""
        absent = {name for name, machine in self.machines.items() if machine.has_left}
        self._name_all()
        # All that they ever were: the others may not have heard of the last.
        gone = [ReplicaId(id) for id, name in self._names.items() if name.split("'")[0] in absent]
        if gone:
            self.members[0].retire(gone)
        for machine in self.members:
            machine.call_no_more({m.name for m in self.machines.values() if m.has_left})
        limit = self.now_us + int(PRUNED_WITHIN * self.config.interval_s * 1e6)
        self.run_until(limit, self._is_pruned)
        retired = self.members[0].gossip.retired
        for machine in self.members:
            is_back = machine.replica.id not in retired
            promise = "who was retired comes back under another id"
            expect(is_back, promise, f"{machine.name} still has its old id")
            left = machine.gossip.head.log_bytes
            # Elsewhere it may know a member from another's disk with which it never talks.
            expect(
                left == 0 or self.config.topology != "mesh",
                "the log is pruned to nothing",
                f"{machine.name} keeps {left} bytes",
            )
            if any(machine.disk.durable().garbage()):
                # Of a moment ago; or one that offered was gone before it heard that all is taken over.
                patience_s = GOSSIP_TIMEOUT_S + 3 * self.config.interval_s
                self.run_until(self.now_us + int(patience_s * 1e6))
            garbage = list(machine.disk.durable().garbage())
            promise = "nothing is left of snapshots that were taken over"
            expect(not garbage, promise, f"{machine.name} has {len(garbage)} mailboxes of garbage")

    def _is_pruned(self) -> bool:
        retired = self.members[0].gossip.retired
        return all(
            machine.gossip.head.log_bytes == 0 and machine.replica.id not in retired
            for machine in self.members
        )

    def _all_know(self) -> bool:
        """Whether each member knows of each that it calls that it has everything, the last call was answered,
        and nothing is said."""
        return self._is_at_rest() and next(self._unsettled(), None) is None

    def _unsettled(self) -> Iterator[str]:
        """Who is not done with whom."""
        for machine in self.members:
            for address, session in machine.gossip.peers.sessions.items():
                is_settled = (
                    session.known.includes(machine.gossip.head.clock)
                    and machine.gossip.wait_s(address) is not None
                    and not session.failures
                )
                if not is_settled and not self.machines[address].has_left:
                    yield f"{machine.name} with {address}"

    figures: dict[str, float]


def run(
    seed: int, config: Config, events: Sequence[Event], *, records: bool = True, strict: bool = False
) -> Result:
    """Replay the events.  With `strict`, everything is recounted after every commit, to find the first fault.

    Raises ValueError for a configuration that makes no sense, and nothing for what went wrong in the run.
    """
    result = Result(seed)
    with planted(config.planted), _limits(seed, config), decoded_once():
        world = World(seed, config, records=records, strict=strict)
        world.figures = result.figures
        try:
            _play(world, config, events)
            result.shown = world.checks.last_shown
        except Violation as violation:
            result.promise = violation.promise
            result.violation = f"{violation.promise}: {world.in_words(violation.seen)}"
        except Exception as error:  # whatever it is, the code under test or the simulator has a bug
            where = traceback.extract_tb(error.__traceback__)[-1]
            result.promise = f"no unhandled exception ({type(error).__name__} in {where.name})"
            result.violation = f"{result.promise}: {error} (line {where.lineno})"
    if result.violation is not None:
        world.record("violation", "", result.violation)
    result.at_s = world.now_us / 1e6
    result.trace = world.trace
    result.did_nothing = sorted(world.idle, key=lambda idle: idle[0])
    result.mailboxes, result.scripts = world.mailboxes, world.scripts
    result.reached = world.reached
    ledger = world.checks.ledger
    for name, times in (
        ("flag followed a move", ledger.flags_followed),
        ("left open by the semantics", ledger.left_open),
    ):
        if times:
            result.reached[name] += times
    needed = sum(world.checks.received.values())
    if needed:
        result.figures["redundancy"] = world.sent_deltas / needed
    result.figures["bytes"] = world.network.bytes
    result.figures["messages"] = world.network.messages
    return result


def _said(result: object) -> str:
    """What came of a client's request, in a few words."""
    if not isinstance(result, Looked):
        return "done"
    highest = f", highest UID {result.messages[-1].uid}" if result.messages else ""
    return f"done: {len(result.messages)} messages{highest}"


@contextmanager
def _limits(seed: int, config: Config) -> Iterator[None]:
    """The code's own limits, drawn in so far that small runs reach them."""
    if not config.has_small_limits:
        yield
        return
    chance = generator(seed, "limits")

    def among(*values: int) -> int:
        return chance.choice(values)

    accounts, block, rows = among(1, 1, 2), among(2, 4, 8), among(3, 20)
    with ExitStack() as stack:
        for where, name, value in (
            (conversation, "BATCH_BYTES", 300),
            (conversation, "_SMALL_BATCH", 150),
            (conversation, "RECEIVE_S", chance.choice((0.0, 0.2))),  # time stands still in a commit
            (conversation, "GOSSIP_TIMEOUT_S", 0.1),  # a slow disk does not take all of a push in that time
            (machines, "MAX_GROUP", 3),
            # Snapshots come in pages, mailboxes in blocks.
            (serving, "BATCH_BYTES", among(60, 150, 600)),
            (serving, "MAX_ACCOUNTS_PER_ANSWER", accounts),
            (filling, "MAX_ACCOUNTS_PER_ANSWER", accounts),
            (serving, "MAX_BLOCKS_PER_ANSWER", among(1, 3, 10)),
            (filling, "_MAILBOXES_AT_ONCE", among(1, 2, 5)),
            *((module, "MAX_ROWS_CLEARED", rows) for module in (staging, replica)),
            (replica, "MAX_MESSAGES_PER_OPERATION", among(4, 100_000)),
            *((module, "BLOCK", block) for module in (tables, staging, filling, applying)),
        ):
            stack.enter_context(patch.object(where, name, value))
        yield


def _play(world: World, config: Config, events: Sequence[Event]) -> None:
    for name, machine in world.machines.items():
        if name not in config.late:
            world.at(0, machine.start)
    for event in events:
        world.at(int(event.at * 1e6), lambda event=event: apply(world, event.action))  # type: ignore[misc]
    world.run_until(int(config.seconds * 1e6))
    world.calm_down()
    world.settle()
