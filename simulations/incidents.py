"""What each action does to the world.  One that does not apply does nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import VERSION, encode_delta, with_checksum
from crdtmail.crdt.delta import Create, Delta, DirectoryUpdate, MailboxId
from crdtmail.crdt.names import make_mailbox_id
from crdtmail.effects import PROTOCOL, Kind, Reply, Steps
from crdtmail.errors import PeerError, PeerUnreachable
from crdtmail.gossip.codec import encode_position, encode_push
from crdtmail.gossip.messages import Position
from crdtmail.store.interface import Table
from crdtmail.store.tables import Lsn
from simulations import actions, clients
from simulations.chance import generator
from simulations.clients import Client
from simulations.network import Request
from simulations.trace import Record
from simulations.violation import expect

if TYPE_CHECKING:
    from simulations.machine import Machine
    from simulations.world import World

_STRANGER = ReplicaId(0xBAD)


def _where(world: World, action: actions.AnyAction) -> str:
    """The node that it concerns most; of what a client does, the one to which that has turned."""
    client = world.clients.get(getattr(action, "client", ""))
    node: str = getattr(action, "node", getattr(action, "source", client.node if client is not None else ""))
    return node


Why = str | None
"""Why an action did nothing; None if it did something, or has begun to."""


def apply(world: World, action: actions.AnyAction) -> None:
    """Let it happen now."""
    if not world.keeps_records:
        _apply(world, action)
        return
    place, why = len(world.trace), None
    try:
        why = _apply(world, action)
    finally:  # before what comes of it
        said = (type(action).__name__, actions.spelt(action), f"(did nothing: {why})" if why else "")
        world.trace.insert(place, Record(world.now_us, "event", _where(world, action), said))
    if why is not None:
        world.did_nothing(world.now_us, action, why)


def _apply(world: World, action: actions.AnyAction) -> Why:
    account = getattr(action, "account", world.config.accounts[0])
    if account not in world.config.accounts:
        return f"there is no account {account}"
    match action:
        case actions.Deliver() | actions.Import():
            if (machine := _up(world, action.node)) is None:
                return f"{action.node} is down"
            world.perform_for(machine, _incoming(machine, action), None, action)
        case actions.Connect(client, node, account):
            _connect(world, client, node, account)
        case actions.Cut() | actions.Isolate() | actions.Heal() | actions.Clog():
            return _on_the_network(world, action)
        case actions.Replay() | actions.Overtake():
            return _out_of_turn(world, action)
        case actions.Stranger():
            return _stranger(world, action)
        case _ if isinstance(action, actions.ClientAction):
            return _client_acts(world, action)
        case _:
            machine = world.machines.get(action.node)
            if machine is None or machine.has_left:
                return f"there is no {action.node} any more"
            return _on_a_node(world, machine, action)
    return None


def _incoming(machine: Machine, action: actions.Deliver | actions.Import) -> Steps[None]:
    if isinstance(action, actions.Deliver):
        return clients.deliver(machine, action)
    return clients.import_mail(machine, action)


def _up(world: World, name: str) -> Machine | None:
    machine = world.machines.get(name)
    return machine if machine is not None and machine.is_up else None


# Clients ------------------------------------------------------------------------------------------------


def _connect(world: World, name: str, node: str, account: str) -> None:
    client = world.clients.get(name)
    if client is None:
        world.clients[name] = Client(name, account, node)
    elif client.node != node:
        world.reached["client failed over"] += 1
        world.record("failover", node, name, client.node)
        client.node = node
        client.is_busy = False


def _client_acts(world: World, action: actions.ClientAction) -> Why:
    client = world.clients.get(action.client)
    if client is None:
        return f"{action.client} is not connected"
    machine = _up(world, client.node)
    if machine is None:
        return f"{client.node} is down"
    if client.life != machine.life:
        client.is_busy, client.life = False, machine.life  # whatever it waited for died with the node
    if client.is_busy:
        return f"{client.name} still waits for an answer"
    match action:
        case actions.Look(mailbox=mailbox):
            steps: Steps[Any] = clients.look(machine, client, mailbox)
        case actions.Follow():
            steps = clients.follow(machine, client)
        case actions.List():
            steps = clients.list_mailboxes(machine, client)
        case actions.Mark() | actions.Expunge() | actions.Move() | actions.Copy() if client.view is None:
            return f"{client.name} has read nothing yet"
        case _:
            steps = clients.act(machine, client, action)
    world.perform_for(machine, steps, client, action)
    return None


# Nodes --------------------------------------------------------------------------------------------------


def _on_a_node(world: World, machine: Machine, action: actions.AnyAction) -> Why:
    is_down = None if machine.is_up else f"{machine.name} is down"
    match action:
        case actions.Start():
            if machine.is_up:
                return f"{machine.name} runs already"
            if machine.life == 0:
                world.reached["node joined late"] += 1
            machine.start()
        case actions.Crash(when="now"):
            if is_down:
                return is_down
            world.reached["crash now"] += 1
            machine.crash("crashed")
        case actions.Crash(when="in recovery"):
            machine.crash_at = "in recovery"
        case actions.Crash(when=when):
            if is_down:
                return is_down
            machine.crash_at = when
        case actions.Install(protocol=protocol):
            if not machine.life:
                return f"{machine.name} has not joined yet"
            world.reached["older version installed" if protocol < PROTOCOL else "node upgraded"] += 1
            if not machine.install(protocol):
                return f"{machine.name} speaks that version already"
        case actions.Leave():
            if not machine.life:
                return f"{machine.name} has not joined yet"
            if len(world.members) <= 2 or world.config.topology not in ("mesh", "one way"):
                return "the others would not hang together any more"
            world.reached["node left"] += 1
            machine.leave()
        case actions.Retire(other=other):
            gone = world.machines.get(other)
            if is_down:
                return is_down
            if gone is None or not gone.was_ever_up or gone is machine:
                return f"{other} is no other node that was ever there"
            world.reached["node retired"] += 1
            machine.retire([gone.replica.id])
        case actions.Pause(seconds=seconds):
            if is_down:
                return is_down
            machine.pause(seconds)
        case actions.Slow(factor=factor):
            world.reached["node slow"] += 1
            machine.set_slowness(factor)
        case actions.SetClock(by=by, frozen=frozen):
            world.reached["wall clock frozen" if frozen else "wall clock jumped"] += 1
            machine.set_wall_clock(by, frozen=frozen)
        case actions.Drift(rate=rate):
            world.reached["clock drifted"] += 1
            machine.set_drift(rate)
        case _:
            return _on_a_disk(world, machine, action)
    return None


def _on_a_disk(world: World, machine: Machine, action: actions.AnyAction) -> Why:
    match action:
        case actions.FailDisk(commits=commits, how=how, lasts=lasts):
            machine.disk.fail(commits, how, lasts)
        case actions.DamageRecord(table=table, where=where):
            if not machine.disk.damage(Table[table], where):
                return f"{machine.name} has no record of {table} that could be damaged"
            world.reached["record damaged"] += 1
            world.record("fault", machine.name, f"a record of {table.lower()} is damaged")
        case actions.EmptyDisk():
            machine.crash("its disk is lost")
            machine.replace_disk("lost", {})
        case actions.Backup():
            if machine.disk.is_damaged:
                return f"the disk of {machine.name} is damaged"
            machine.disk.backup = machine.disk.image()
        case actions.RestoreBackup():
            if machine.disk.backup is None:
                return f"there is no backup of {machine.name}"
            machine.crash("restored from a backup")
            machine.replace_disk("an old backup", machine.disk.backup)
        case actions.MountDiskOf(other=other):
            if other not in world.machines or other == machine.name or world.machines[other].disk.is_damaged:
                return f"{other} is no other node with a sound disk"
            machine.crash("mounts another's disk")
            machine.replace_disk("another's", world.machines[other].disk.image())
    return None


# The network --------------------------------------------------------------------------------------------


def _on_the_network(world: World, action: actions.AnyAction) -> Why:
    network = world.network
    match action:
        case actions.Cut(sources, targets, both_ways):
            world.reached["partition" if both_ways else "one-way partition"] += 1
            for source in sources:
                for target in targets:
                    network.cut_off(source, target)
                    if both_ways:
                        network.cut_off(target, source)
        case actions.Isolate(node):
            world.reached["node isolated"] += 1
            for other in world.machines:
                if other != node:
                    network.cut_off(node, other)
                    network.cut_off(other, node)
        case actions.Heal(sources, targets):
            if not network.heal(sources, targets):
                return "nothing is cut there"
        case actions.Clog(source, target, seconds):
            network.clog(source, target)
            world.after(int(seconds * 1e6), lambda: network.release(source, target))
    return None


def _out_of_turn(world: World, action: actions.Replay | actions.Overtake) -> Why:
    """A node is asked what it was, or will be, in another moment."""
    machine = _up(world, action.target)
    if machine is None:
        return f"{action.target} is down"
    match action:
        case actions.Replay(source, target, back):
            stale = world.network.requests[source, target]
            if len(stale) <= back:
                return f"{source} has not asked {target} so much yet"
            world.reached["stale request replayed"] += 1
            request = stale[-1 - back]
        case actions.Overtake(source, target):
            other, clock = world.machines.get(source), machine.gossip.head.clock
            if other is None or not other.was_ever_up or other.disk.is_damaged:
                return f"{source} has no log that can be read"
            log = list(other.disk.durable().log_from(Lsn(0)))
            later = next(
                (entry for entry in reversed(log) if clock[entry.dot.replica] + 1 < entry.dot.seq), None
            )
            if later is None:
                return f"{source} has nothing that {target} cannot take yet"
            world.reached["change out of turn"] += 1
            request = Request(Kind.PUSH, other.replica.id, encode_push([later.delta]), machine.protocol)
    world.serve(machine, request, request.body, lambda _: None)
    return None


def _stranger(world: World, action: actions.Stranger) -> Why:
    """Somebody asks for what must be refused, and nothing may come of it."""
    machine = _up(world, action.node)
    if machine is None or machine.is_paused:
        return f"{action.node} is down or paused"
    before, is_filling = machine.gossip.refusals.faults, machine.gossip.filling is not None
    request = replace(_strange(world, machine, action.what), protocol=machine.protocol)

    def answered(outcome: Reply | Exception) -> None:
        if isinstance(outcome, PeerUnreachable) or machine.disk.may_fail(outcome):  # type: ignore[arg-type]
            return
        if isinstance(outcome, Reply) and outcome.status == 409 and is_filling:
            return  # while it takes over a snapshot it takes nothing from anybody
        refused = isinstance(outcome, PeerError) and machine.gossip.refusals.faults > before
        how = f"answered with {outcome.status}" if isinstance(outcome, Reply) else f"refused: {outcome}"
        promise, seen = (
            "what is malformed is refused and counted",
            "{} was sent a {} by a stranger; it was {}",
        )
        expect(refused, promise, seen, machine.name, action.what, how)
        expect(
            machine.gossip.head.clock[_STRANGER] == 0,
            "a refused message changes nothing",
            "{} took what a stranger sent: {}",
            machine.name,
            action.what,
        )
        world.reached[f"stranger: {action.what}"] += 1

    machine.serve(request, request.body, answered)
    return None


def _strange(world: World, machine: Machine, what: str) -> Request:
    box = make_mailbox_id(world.config.accounts[0], "Stranger", 0)
    own = machine.replica.id
    match what:
        case "newer delta":
            delta = bytearray(encode_delta(Delta(Dot(_STRANGER, 1), "alice", (Create(box),))))
            delta[1] = VERSION + 1
            body = encode_push([with_checksum(bytes(delta[:-5]))])
        case "forged own delta":
            seq = machine.gossip.head.clock[own] + 1000  # far from any that it may make meanwhile
            body = encode_push([encode_delta(Delta(Dot(own, seq), "alice", (Create(MailboxId(box)),)))])
        case "broken directory":
            update = DirectoryUpdate(b"\x01\x02\x03", Clock())
            body = encode_push([encode_delta(Delta(Dot(_STRANGER, 1), "alice", (Create(box), update)))])
        case "damaged position":
            position = bytearray(encode_position(Position(_STRANGER, "x", Clock({own: 10**6}), 0)))
            position[-7] ^= 1
            return Request(Kind.EXCHANGE, _STRANGER, bytes(position))
        case _:
            noise = generator(world.seed, "noise", machine.name, world.now_us).randbytes(7)
            return Request(Kind.EXCHANGE, _STRANGER, noise)
    return Request(Kind.PUSH, _STRANGER, body)
