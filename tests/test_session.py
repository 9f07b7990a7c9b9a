"""The gossip sessions alone: real replicas in memory, a network made of a heap, no time but the test's."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmail import views
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import decode_delta
from crdtmail.crdt.message import MessageId
from crdtmail.gossip.messages import Position
from crdtmail.gossip.peers import Peers
from crdtmail.gossip.session import Action, Exchange, Push, Session, Timing
from crdtmail.limits import BATCH_BYTES, MAX_REPLICAS
from crdtmail.replica import IncomingMessage, Outcome, Replica
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.tables import Tables

ACCOUNT = "alice"
TIMING = Timing(interval_s=5, grace_s=0.5, first_retry_s=0.2, last_retry_s=5)
LATENCY_S = 0.01
POLL_S = 0.005

MESH = {1: [2, 3], 2: [1, 3], 3: [1, 2]}
CHAIN = {1: [2], 2: [1, 3], 3: [2, 4], 4: [3]}
STAR = {1: [2, 3, 4], 2: [1], 3: [1], 4: [1]}
ONE_CALLS = {1: [], 2: [1]}


class Node:
    def __init__(self, number: int, peers: Sequence[int], seed: int) -> None:
        self.store = MemoryStore()
        self._position: Position | None = None
        self.replica = Replica.open(self.store, lambda: ReplicaId(number), lambda: 0)
        chance = random.Random(f"{seed} {number}")
        self.sessions = {
            peer: Session(self.replica.id, TIMING, chance, peers=len(peers), now=0.0) for peer in peers
        }

    @property
    def position(self) -> Position:
        """Read again only after a write: it is asked for at every step of time."""
        if self._position is None:
            with self.store.snapshot() as snapshot:
                head = Tables(snapshot).head()
            self._position = Position(self.replica.id, str(self.replica.id), head.clock, head.digest)
        return self._position

    def lacking(self, clock: Clock, only: ReplicaId | None = None) -> list[bytes]:
        with self.store.snapshot() as snapshot:
            found = views.deltas_after(Tables(snapshot), clock, max_bytes=BATCH_BYTES, own=only)
        return [entry.delta for entry in found]

    def receive(self, deltas: Sequence[bytes]) -> bool:
        """Whether there was no gap."""
        self._position = None
        for data in deltas:
            delta = decode_delta(data)
            if self.store.transact(lambda t, d=delta, b=data: self.replica.receive(t, d, b)) is Outcome.GAP:  # type: ignore[misc]
                return False
        return True

    def session_of(self, peer: ReplicaId) -> Session | None:
        return next((s for s in self.sessions.values() if s.peer and s.peer.replica == peer), None)

    def write(self, number: int) -> None:
        def command(txn):  # type: ignore[no-untyped-def]
            living = views.living_mailboxes(Tables(txn), ACCOUNT)
            box = next(iter(living), None) or self.replica.create_mailbox(txn, ACCOUNT, "INBOX")
            new = IncomingMessage(MessageId(f"m{self.replica.id}-{number}"), 1, 0, frozenset())
            self.replica.add(txn, ACCOUNT, box, [new])

        self.store.transact(command)
        self._position = None


class Network:
    """Carries one action a session at a time, each taking a while, over links that may be cut or lossy."""

    def __init__(self, topology: Mapping[int, Sequence[int]], *, seed: int = 0, loss: float = 0.0) -> None:
        self.now = 0.0
        self.nodes = {number: Node(number, peers, seed) for number, peers in topology.items()}
        self.cut: set[tuple[int, int]] = set()
        self.sent: Counter[str] = Counter()
        self.deltas: Counter[tuple[int, int]] = Counter()
        self._chance = random.Random(seed)
        self._loss = loss
        self._events: list[tuple[float, int, int, int, Action]] = []
        self._order = itertools.count()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            for number, node in self.nodes.items():
                clock = node.position.clock
                for peer, session in node.sessions.items():
                    action = session.next(self.now, clock)
                    if action is not None:
                        event = (self.now + LATENCY_S, next(self._order), number, peer, action)
                        heapq.heappush(self._events, event)
            self.now += POLL_S
            while self._events and self._events[0][0] <= self.now:
                _, _, source, target, action = heapq.heappop(self._events)
                self._perform(source, target, action)

    def _perform(self, source: int, target: int, action: Action) -> None:
        node, peer = self.nodes[source], self.nodes[target]
        session = node.sessions[target]
        self.sent[type(action).__name__] += 1
        if (source, target) in self.cut or self._chance.random() < self._loss:
            session.failed(self.now, "lost")
            return
        if isinstance(action, Exchange):
            ours, theirs = node.position, peer.position
            deltas = peer.lacking(ours.clock)
            if (back := peer.session_of(ours.replica)) is not None:
                back.heard_position(self.now, theirs, ours, answered=bool(deltas))
            node.receive(deltas)
            session.exchanged(self.now, ours, theirs, node.position.clock)
            return
        deltas = node.lacking(action.after, action.only)
        self.deltas[source, target] += len(deltas)
        dots = [decode_delta(data).dot for data in deltas]
        if not peer.receive(deltas):
            session.missed(self.now, peer.position.clock, dots)
            return
        if (back := peer.session_of(node.replica.id)) is not None:
            back.heard_push(self.now, dots)
        session.pushed(self.now, peer.replica.id, dots)

    @property
    def equal(self) -> bool:
        positions = [node.position for node in self.nodes.values()]
        return all((p.clock, p.digest) == (positions[0].clock, positions[0].digest) for p in positions)


@pytest.mark.parametrize(
    "topology", [MESH, CHAIN, STAR, ONE_CALLS], ids=["mesh", "chain", "star", "one calls"]
)
def test_all_nodes_get_everything(topology: Mapping[int, Sequence[int]]) -> None:
    network = Network(topology)
    for turn in range(5):
        for node in network.nodes.values():
            node.write(turn)
        network.run(0.3)
    network.run(20)
    assert network.equal
    assert sum(network.nodes[1].position.clock.values()) == 6 * len(topology), "a create and five adds each"


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([MESH, CHAIN, STAR]))
def test_loss_delays_and_prevents_nothing(seed: int, topology: Mapping[int, Sequence[int]]) -> None:
    network = Network(topology, seed=seed, loss=0.4)
    for turn in range(2):
        for node in network.nodes.values():
            node.write(turn)
        network.run(0.2)
    network.run(30)
    network._loss = 0.0
    network.run(12)
    assert network.equal


def test_in_a_mesh_a_delta_goes_once_to_each_peer() -> None:
    network = Network(MESH)
    network.nodes[1].write(0)
    network.run(2)
    network.deltas.clear()
    for turn in range(1, 61):
        network.nodes[turn % 3 + 1].write(turn)
        network.run(0.05)
    network.run(5)
    assert network.equal
    assert sum(network.deltas.values()) == 60 * 2


def test_a_peer_that_is_cut_off_delays_no_other_and_is_tried_ever_more_rarely() -> None:
    network = Network(MESH)
    network.run(1)
    network.cut = {(a, b) for a in MESH for b in MESH if 3 in (a, b)}
    network.nodes[1].write(0)
    network.run(0.1)
    assert network.nodes[2].position.clock == network.nodes[1].position.clock
    network.run(30)
    network.sent.clear()
    network.run(60)
    assert sum(network.sent.values()) <= 4 * 60 / (TIMING.last_retry_s * 0.5) + 60
    network.cut = set()
    network.run(TIMING.last_retry_s + 1)
    assert network.equal


def test_what_only_a_third_node_has_is_relayed_after_the_grace() -> None:
    network = Network(MESH)
    network.run(1)
    network.cut = {(1, 3), (3, 1)}
    network.nodes[1].write(0)
    network.run(TIMING.grace_s / 2)
    assert not network.nodes[3].position.clock
    network.run(TIMING.grace_s + 0.2)
    assert network.nodes[3].position.clock == network.nodes[1].position.clock


def test_quiet_nodes_exchange_two_small_maps_an_interval_and_nothing_else() -> None:
    network = Network(MESH)
    network.nodes[1].write(0)
    network.run(20)
    network.sent.clear()
    network.run(100)
    assert network.sent["Push"] == 0
    assert network.sent["Exchange"] <= 3 * 100 / (TIMING.interval_s * 0.5)


def test_a_peer_that_takes_nothing_is_not_pressed() -> None:
    network = Network({1: [2], 2: []})
    network.run(1)
    network.nodes[2].receive = lambda deltas: False  # type: ignore[method-assign]
    network.nodes[1].write(0)
    network.run(10)
    network.sent.clear()
    network.run(60)
    assert sum(network.sent.values()) <= 200
    assert network.nodes[1].sessions[2].failing_since is not None


@pytest.mark.parametrize("told", [[{7: 1}, {8: 1}], [{1: 1}, {1: 3}], [{7: n} for n in range(1, 1000)]])
def test_a_peer_that_answers_every_push_with_another_clock_is_not_pressed(told: list[dict[int, int]]) -> None:
    """It may be writing itself while it takes nothing; or it goes back, or makes its clocks up."""
    ours = Clock({ReplicaId(1): 5})
    session = Session(ReplicaId(1), TIMING, random.Random(0), peers=1, now=0.0)
    position = Position(ReplicaId(1), "a", ours, 0)
    now, pushes = 0.0, 0
    while now < 10:
        match session.next(now, ours):
            case Exchange():
                session.exchanged(now, position, Position(ReplicaId(2), "b", Clock(), 1), ours)
            case Push(after):
                clock = Clock({ReplicaId(r): seq for r, seq in told[pushes % len(told)].items()})
                pushes += 1
                session.missed(
                    now, clock, [Dot(ReplicaId(1), seq) for seq in range(after[ReplicaId(1)] + 1, 6)]
                )
        now += 0.01
    assert 2 <= pushes <= 40
    assert session.failing_since is not None


def test_a_peer_that_has_taken_some_of_a_push_gets_the_rest_at_once() -> None:
    one, ours = ReplicaId(1), Clock({ReplicaId(1): 5})
    session = Session(one, TIMING, random.Random(0), peers=1, now=0.0)
    assert isinstance(session.next(0.0, ours), Exchange)
    session.exchanged(0.0, Position(one, "a", ours, 0), Position(ReplicaId(2), "b", Clock(), 1), ours)
    for has in range(5):
        action = session.next(0.0, ours)
        assert isinstance(action, Push)
        session.missed(0.0, Clock({one: has}), [Dot(one, seq) for seq in range(action.after[one] + 1, 6)])
    assert session.failing_since is None


def test_equal_clocks_with_unequal_digests_are_noticed_and_unequal_clocks_are_not() -> None:
    session = Session(ReplicaId(1), TIMING, random.Random(0), peers=1, now=0.0)
    clock, other = Clock({ReplicaId(1): 1}), Clock({ReplicaId(1): 1, ReplicaId(2): 1})
    ours = Position(ReplicaId(1), "a", clock, 7)
    assert isinstance(session.next(0.0, clock), Exchange)
    session.exchanged(0.0, ours, Position(ReplicaId(2), "b", other, 8), other)
    assert not session.diverged
    session.heard_position(0.0, ours, Position(ReplicaId(2), "b", clock, 8), answered=False)
    assert session.diverged


def test_a_peer_that_makes_up_others_each_time_fills_no_memory() -> None:
    peers = Peers(ReplicaId(1), "mx1", ["http://mx2"], TIMING, random.Random(1), 0.0)
    for turn in range(5):
        others = range(turn * MAX_REPLICAS, (turn + 1) * MAX_REPLICAS)
        told = Position(ReplicaId(2), "mx2", Clock({ReplicaId(each): 1 for each in others}), 0)
        peers.hear(0.0, told)
        session = peers.sessions["http://mx2"]
        session.heard_position(0.0, Position(ReplicaId(1), "mx1", Clock(), 0), told, answered=False)
        for kept in (peers.heard[ReplicaId(2)].clock, session.known):
            assert len(kept) <= MAX_REPLICAS
            assert kept.includes(told.clock)
