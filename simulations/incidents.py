"""What each action does to the world.  One that does not apply does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.codec import VERSION, encode_delta, with_checksum
from crdtmail.crdt.delta import Create, Delta, DirectoryUpdate, MailboxId
from crdtmail.crdt.names import make_mailbox_id
from crdtmail.effects import PROTOCOL, Kind, Reply
from crdtmail.errors import PeerError, PeerUnreachable
from crdtmail.gossip.codec import encode_position, encode_push
from crdtmail.gossip.messages import Position
from crdtmail.store.interface import Table
from simulations import actions, clients
from simulations.chance import Draws
from simulations.clients import Client
from simulations.network import Request
from simulations.violation import expect

if TYPE_CHECKING:
    from simulations.machine import Machine
    from simulations.world import World

_STRANGER = ReplicaId(0xBAD)


def apply(world: World, action: actions.AnyAction) -> None:
    """Let it happen now."""
    if getattr(action, "account", world.config.accounts[0]) not in world.config.accounts:
        return
    match action:
        case actions.Deliver():
            if (machine := _up(world, action.node)) is not None:
                world.perform_for(machine, clients.deliver(machine, action), None)
        case actions.Import():
            if (machine := _up(world, action.node)) is not None:
                world.perform_for(machine, clients.import_mail(machine, action), None)
        case actions.Connect(client, node, account):
            _connect(world, client, node, account)
        case actions.Cut() | actions.Isolate() | actions.Heal() | actions.Clog() | actions.Replay():
            _on_the_network(world, action)
        case actions.Stranger():
            _stranger(world, action)
        case _ if isinstance(action, actions.ClientAction):
            _client_acts(world, action)
        case _:
            machine = world.machines.get(action.node)
            if machine is not None and not machine.has_left:
                _on_a_node(world, machine, action)


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
        client.node = node
        client.is_busy = False


def _client_acts(world: World, action: actions.ClientAction) -> None:
    client = world.clients.get(action.client)
    machine = None if client is None else _up(world, client.node)
    if client is None or machine is None:
        return
    if client.life != machine.life:
        client.is_busy, client.life = False, machine.life  # whatever it waited for died with the node
    if client.is_busy:
        return
    match action:
        case actions.Look(mailbox=mailbox):
            steps = clients.look(machine, client, mailbox)
        case actions.Follow():
            steps = clients.follow(machine, client)
        case actions.List():
            steps = clients.list_mailboxes(machine, client)
        case actions.Mark() | actions.Expunge() | actions.Move() | actions.Copy() if client.view is None:
            world.record(
                "client", machine.name, client.name, type(action).__name__, "it has read nothing yet"
            )
            return
        case _:
            steps = clients.act(machine, client, action)
    world.perform_for(machine, steps, client, type(action).__name__)


# Nodes --------------------------------------------------------------------------------------------------


def _on_a_node(world: World, machine: Machine, action: actions.AnyAction) -> None:
    match action:
        case actions.Start():
            if machine.life == 0:
                world.reached["node joined late"] += 1
            machine.start()
        case actions.Crash(when="now"):
            if machine.is_up:
                world.reached["crash now"] += 1
                machine.crash("crashed")
        case actions.Crash(when="in recovery"):
            machine.crash_at = "in recovery"
        case actions.Crash(when=when):
            if machine.is_up:
                machine.crash_at = when
        case actions.Install(protocol=protocol):
            if machine.life:
                world.reached["older version installed" if protocol < PROTOCOL else "node upgraded"] += 1
                machine.install(protocol)
        case actions.Leave():
            if machine.life and len(world.members) > 2 and world.config.topology in ("mesh", "one way"):
                world.reached["node left"] += 1
                machine.leave()
        case actions.Retire(other=other):
            gone = world.machines.get(other)
            if machine.is_up and gone is not None and gone.life and gone is not machine:
                world.reached["node retired"] += 1
                machine.retire([gone.replica.id])
        case actions.Pause(seconds=seconds):
            if machine.is_up:
                machine.pause(seconds)
        case actions.Slow(factor=factor):
            world.reached["node slow"] += 1
            machine.slowness = factor
        case actions.SetClock(by=by, frozen=frozen):
            world.reached["wall clock frozen" if frozen else "wall clock jumped"] += 1
            machine.set_wall_clock(by, frozen=frozen)
        case actions.Drift(rate=rate):
            world.reached["clock drifted"] += 1
            machine.set_drift(rate)
        case actions.FailDisk(commits=commits, how=how, lasts=lasts):
            machine.disk.fail(commits, how, lasts)
        case actions.DamageRecord(table=table, where=where):
            if machine.disk.damage(Table[table], where):
                world.reached["record damaged"] += 1
                world.record("fault", machine.name, f"a record of {table.lower()} is damaged")
        case actions.EmptyDisk():
            machine.crash("its disk is lost")
            machine.replace_disk("lost", {})
        case actions.Backup():
            if not machine.disk.is_damaged:
                machine.disk.backup = machine.disk.image()
        case actions.RestoreBackup():
            if machine.disk.backup is not None:
                machine.crash("restored from a backup")
                machine.replace_disk("an old backup", machine.disk.backup)
        case actions.MountDiskOf(other=other):
            if (
                other in world.machines
                and other != machine.name
                and not world.machines[other].disk.is_damaged
            ):
                machine.crash("mounts another's disk")
                machine.replace_disk("another's", world.machines[other].disk.image())


# The network --------------------------------------------------------------------------------------------


def _on_the_network(world: World, action: actions.AnyAction) -> None:
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
        case actions.Heal():
            network.heal()
        case actions.Clog(source, target, seconds):
            network.clog(source, target)
            world.after(int(seconds * 1e6), lambda: network.release(source, target))
        case actions.Replay(source, target, back):
            stale = network.requests[source, target]
            machine = _up(world, target)
            if machine is not None and len(stale) > back:
                world.reached["stale request replayed"] += 1
                request = stale[-1 - back]
                world.serve(machine, request, request.body, lambda _: None)


def _stranger(world: World, action: actions.Stranger) -> None:
    """Somebody asks for what must be refused, and nothing may come of it."""
    machine = _up(world, action.node)
    if machine is None or machine.is_paused or machine.protocol < PROTOCOL:
        return  # of an older version it says just that
    before, is_filling = machine.gossip.refusals.faults, machine.gossip.filling is not None
    request = _strange(world, machine, action.what)

    def answered(outcome: Reply | Exception) -> None:
        if isinstance(outcome, PeerUnreachable) or machine.disk.may_fail(outcome):  # type: ignore[arg-type]
            return
        if isinstance(outcome, Reply) and outcome.status == 409 and is_filling:
            return  # while it takes over a snapshot it takes nothing from anybody
        refused = isinstance(outcome, PeerError) and machine.gossip.refusals.faults > before
        expect(refused, "what is malformed is refused and counted", f"{action.what}: {outcome}")
        expect(machine.gossip.head.clock[_STRANGER] == 0, "a refused message changes nothing", action.what)
        world.reached[f"stranger: {action.what}"] += 1

    machine.serve(request, request.body, answered)


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
            draws = Draws(world.seed, "noise", machine.name, world.now_us)
            body = bytes(int(draws.take() * 256) for _ in range(7))
            return Request(Kind.EXCHANGE, _STRANGER, body)
    return Request(Kind.PUSH, _STRANGER, body)
