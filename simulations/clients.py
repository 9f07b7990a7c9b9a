"""Clients and deliveries, as steps on a node: they do what a mail server would do for its users.

Each uses only what `crdtmail.service` and `crdtmail.views` offer, and hands all that it was told to the
checks.  What a request could not do (no such mailbox, a name that is taken) is no fault.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crdtmail import service, views
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.message import MessageId
from crdtmail.effects import Steps, read
from crdtmail.errors import AlreadyExists, CannotCalculateChanges, NotFound, RequestError
from crdtmail.replica import IncomingMessage, KeywordChange, Replica, Selection
from crdtmail.service import Written
from crdtmail.store.interface import Transaction
from crdtmail.store.tables import Mailbox, Tables
from simulations import actions, commands
from simulations.violation import expect
from simulations.watched import Commanded, Did, Registered, WatchedReplica, clock_in

if TYPE_CHECKING:
    from simulations.machine import Machine

TOKEN_WAIT_S = 5.0
ACK_WAIT_S = 3.0
EVERYTHING = 100_000
ANNOTATION = "/private/comment"
SCRIPT = "main"


@dataclass
class View:
    """What a client holds of the mailbox that it read last, and where it read it: numbers and positions mean
    something to that replica alone, and as long as it has not made the mailbox anew."""

    mailbox: MailboxId
    replica: ReplicaId
    number: int
    messages: dict[int, views.MessageView]
    position: tuple[int, int]


@dataclass
class Client:
    """A user's program: where it is connected, and what it knows."""

    name: str
    account: Account
    node: str
    token: Clock = field(default_factory=Clock)
    view: View | None = None
    life: int = 0
    """The life of its node in which it asked last."""
    is_busy: bool = False
    """One thing at a time: what it is told to do while it waits for an answer, it does not do."""

    def part(self, part: tuple[float, float]) -> list[views.MessageView]:
        """The messages of its view from one fraction to another."""
        if self.view is None:
            return []
        shown = list(self.view.messages.values())
        return shown[
            int(part[0] * len(shown)) : max(int(part[1] * len(shown)), int(part[0] * len(shown)) + 1)
        ]


@dataclass(frozen=True)
class Looked:
    """What a reader was shown of a mailbox, and the clock of the state that it was read from."""

    clock: Clock
    record: Mailbox
    messages: list[views.MessageView]
    position: tuple[int, int]


def mail(id: str, keywords: Iterable[str] = ()) -> IncomingMessage:
    """The message of this id: wherever it comes in, it has the same size and date."""
    drawn = zlib.crc32(id.encode())
    return IncomingMessage(MessageId(id), drawn % 50_000, 1_600_000_000 + drawn % 10**8, frozenset(keywords))


# Reading ------------------------------------------------------------------------------------------------


def look(machine: Machine, client: Client, name: str) -> Steps[None]:
    """Read a mailbox, not older than the client's token."""
    account, replica, token = client.account, machine.replica, client.token
    yield from service.wait_for_clock(machine.gossip, token, TOKEN_WAIT_S)
    mailbox = yield from read(lambda tables: views.find_mailbox(tables, account, name))
    looked = yield from service.read_mailbox(replica, account, mailbox, _look)
    machine.world.checks.looked(machine, account, mailbox, looked, token)
    client.token = client.token.join(looked.clock)
    shown = {int(message.uid): message for message in looked.messages}
    client.view = View(mailbox, replica.id, looked.record.number, shown, looked.position)


def _look(tables: Tables, box: Mailbox) -> Looked:
    found = views.messages(tables, box, limit=EVERYTHING)
    return Looked(tables.head().clock, box, found, views.position_now(box))


def follow(machine: Machine, client: Client) -> Steps[None]:
    """Bring the client's copy up to date by changes alone, a few at a time, and hold it against all there is.

    Positions are the node's own, so a copy that was read elsewhere cannot be followed here.
    """
    view = client.view
    if view is None or view.replica != machine.replica.id:
        return
    account, mailbox, copy, more = client.account, view.mailbox, dict(view.messages), True
    position = view.position
    yield from service.wait_for_clock(machine.gossip, client.token, TOKEN_WAIT_S)
    while more:
        since = position

        def changes(tables: Tables, box: Mailbox, since: tuple[int, int] = since) -> Any:
            if box.number != view.number:
                raise CannotCalculateChanges("the mailbox was deleted and came back")
            page = views.changes(tables, box, since, limit=3)
            return page, None if page.has_more else _look(tables, box)

        page, looked = yield from service.read_mailbox(machine.replica, account, mailbox, changes)
        for uid in page.vanished:
            copy.pop(int(uid), None)
        copy |= {int(message.uid): message for message in page.changed}
        position, more = page.position, page.has_more
    copy = dict(sorted(copy.items()))
    machine.world.checks.followed(machine, account, mailbox, looked, copy)
    client.view = View(mailbox, view.replica, view.number, copy, position)


def list_mailboxes(machine: Machine, client: Client) -> Steps[None]:
    """List the account's mailboxes with all that is known of them."""
    account, token = client.account, client.token
    yield from service.wait_for_clock(machine.gossip, token, TOKEN_WAIT_S)
    clock, listed = yield from read(
        lambda tables: (tables.head().clock, views.living_mailboxes(tables, account))
    )
    machine.world.checks.listed(machine, account, clock, listed, token)
    client.token = client.token.join(clock)


# Writing ------------------------------------------------------------------------------------------------


def deliver(machine: Machine, action: actions.Deliver) -> Steps[None]:
    """New mail, into a mailbox that is made if there is none of that name."""
    account, keywords = action.account, frozenset(action.keywords)
    mailbox = yield from _mailbox_named(machine, account, action.mailbox)
    box = _identity(machine, account, mailbox)
    new = [mail(id, keywords) for id in action.messages]

    def run(replica: Replica, txn: Transaction) -> list[Did]:
        return [Did(commands.Add(box, id, keywords)) for id in replica.add(txn, account, mailbox, new)]

    written = yield from _write(machine, account, "delivered", run)
    if action.ack and written.dot is not None:
        reached = yield from service.wait_for_replicas(machine.gossip, written.dot, action.ack, ACK_WAIT_S)
        machine.world.checks.acknowledged(machine, written.dot, reached)


def import_mail(machine: Machine, action: actions.Import) -> Steps[None]:
    """Mail that may be there already, and then is left alone."""
    account = action.account
    mailbox = yield from _mailbox_named(machine, account, action.mailbox)
    box = _identity(machine, account, mailbox)
    new = [mail(id) for id in action.messages]

    def run(replica: Replica, txn: Transaction) -> list[Did]:
        added = replica.add(txn, account, mailbox, new, if_absent=True)
        return [Did(commands.Add(box, id)) for id in added]

    yield from _write(machine, account, "imported", run)


def _mailbox_named(machine: Machine, account: Account, name: str) -> Steps[MailboxId]:
    """The mailbox of this name, which is made if there is none."""
    while True:
        try:
            return (yield from read(lambda tables: views.find_mailbox(tables, account, name)))
        except NotFound:
            yield from _create(machine, account, name)  # unless somebody else has just made it


def act(machine: Machine, client: Client, action: Any) -> Steps[None]:
    """What a client changes; afterwards it carries the token of its change."""
    account = client.account
    match action:
        case actions.CreateMailbox(name=name):
            written = yield from _create(machine, account, name)
        case actions.RenameMailbox(name=name, to=to):
            written = yield from _rename(machine, account, name, to)
        case actions.DeleteMailbox(name=name):
            written = yield from _delete(machine, account, name)
        case actions.Annotate():
            written = yield from _annotate(machine, account, action)
        case actions.PutScript(lines=lines):
            written = yield from _put_script(machine, account, lines)
        case _:
            written = yield from _change_messages(machine, client, action)
    client.token = client.token.join(written.clock)


def _create(machine: Machine, account: Account, name: str) -> Steps[Written]:
    ledger, replica = machine.world.checks.ledger, machine.replica
    command = commands.Create(name)

    def run(_: Replica, txn: Transaction) -> list[Did]:
        try:
            mailbox = replica.create_mailbox(txn, account, name)
        except AlreadyExists:
            return [Did(command, refused=True)]
        return [Did(command, made=ledger.name_mailbox(account, mailbox, name))]

    return (yield from _write(machine, account, f"created {name}", run))


def _change_messages(machine: Machine, client: Client, action: OnMessages) -> Steps[Written]:
    """Keywords, expunge, move and copy on what the client has read."""
    view, account = client.view, client.account
    assert view is not None, "a client without a view changes nothing"
    target = view.mailbox
    if isinstance(action, actions.Move | actions.Copy):
        name = action.to
        target = yield from read(lambda tables: views.find_mailbox(tables, account, name))
    chosen = client.part(action.part) if action.part is not None else []
    if action.part is not None and not chosen:
        return Written(None, client.token)
    # The numbers of a view mean something where they were shown; elsewhere messages go by their ids.
    by_uid = action.by_uid and view.replica == machine.replica.id
    if by_uid:
        which = Selection(uids=tuple((int(m.uid), int(m.uid)) for m in chosen))
    else:
        which = Selection(ids=tuple(m.id for m in chosen))
    box, there = _identity(machine, account, view.mailbox), _identity(machine, account, target)

    def run(replica: Replica, txn: Transaction) -> list[Did]:
        meant = _meant(Tables(txn), account, view.mailbox, chosen) if by_uid else [m.id for m in chosen]
        command, found = _perform(replica, txn, account, view.mailbox, target, action, which, (box, there))
        if action.part is not None:
            expect(
                set(found) <= set(meant) and (not by_uid or set(found) == set(meant)),
                "a UID that was shown means the message that it was shown for",
                f"{machine.name}: {sorted(meant)} were meant, {sorted(found)} were taken",
            )
        return [Did(command)]

    return (yield from _write(machine, account, type(action).__name__, run))


OnMessages = actions.Mark | actions.Expunge | actions.Move | actions.Copy


def _meant(
    tables: Tables, account: Account, mailbox: MailboxId, chosen: list[views.MessageView]
) -> list[MessageId]:
    """Those of the chosen messages that are still there under the UID that the client knows."""
    box = tables.mailbox(account, mailbox)
    if box is None:
        return []
    number = box.number
    return [m.id for m in chosen if tables.uid(number, m.id) == m.uid and not tables.is_stale(number, m.id)]


def _perform(
    replica: Replica,
    txn: Transaction,
    account: Account,
    mailbox: MailboxId,
    target: MailboxId,
    action: OnMessages,
    which: Selection,
    identities: tuple[commands.Mailbox, commands.Mailbox],
) -> tuple[commands.Command, list[MessageId]]:
    """The command as the reference understands it, and the messages that it took."""
    box, there = identities
    match action:
        case actions.Mark(add=add, remove=remove):
            change = KeywordChange(which, frozenset(add), frozenset(remove))
            found = replica.change_keywords(txn, account, mailbox, [change])
            return commands.Keywords(box, tuple(found), frozenset(add), frozenset(remove)), found
        case actions.Expunge(part=None):
            return commands.ExpungeDeleted(box), replica.expunge(txn, account, mailbox, None)
        case actions.Expunge():
            found = replica.expunge(txn, account, mailbox, which)
            return commands.Expunge(box, tuple(found)), found
        case actions.Move():
            found = replica.move(txn, account, mailbox, target, which)
            return commands.Move(box, there, tuple(found)), found
        case actions.Copy():
            found = replica.copy(txn, account, mailbox, target, which)
            return commands.Copy(box, there, tuple(found)), found


def _write(
    machine: Machine,
    account: Account,
    what: str,
    run: Callable[[Replica, Transaction], list[Did]],
) -> Steps[Written]:
    """Run a command that says what it did in the reference's terms, and take note of it with the delta."""
    replica = machine.replica

    def noted(_: Replica, txn: Transaction) -> None:
        seen, place = clock_in(txn), len(replica.notes)
        try:
            did = run(replica, txn)
        except RequestError:
            replica.undo(place)
            raise
        dot = _last_dot(replica, txn) if len(replica.notes) > place else None
        replica.notes += [Commanded(account, each, seen, dot) for each in did]

    _, written = yield from service.write(replica, noted)
    machine.world.checks.answered(machine, written, what)
    return written


def _rename(machine: Machine, account: Account, name: str, to: str) -> Steps[Written]:
    """Rename a mailbox and with it those below; each is a rename of its own to the reference."""
    mailbox = yield from read(lambda tables: views.find_mailbox(tables, account, name))

    def run(replica: Replica, txn: Transaction) -> list[Did]:
        before = views.living_mailboxes(Tables(txn), account)
        replica.rename_mailbox(txn, account, mailbox, to)
        after = views.living_mailboxes(Tables(txn), account)
        return [
            Did(commands.Rename(_identity(machine, account, id), after[id].base_name), vacated=its.base_name)
            for id, its in before.items()
            if after[id].base_name != its.base_name
        ]

    return (yield from _write(machine, account, f"renamed {name} to {to}", run))


def _delete(machine: Machine, account: Account, name: str) -> Steps[Written]:
    mailbox = yield from read(lambda tables: views.find_mailbox(tables, account, name))

    def run(replica: Replica, txn: Transaction) -> list[Did]:
        vacated = views.living_mailboxes(Tables(txn), account)[mailbox].base_name
        replica.delete_mailbox(txn, account, mailbox)
        return [Did(commands.Delete(_identity(machine, account, mailbox)), vacated=vacated)]

    return (yield from _write(machine, account, f"deleted {name}", run))


def _annotate(machine: Machine, account: Account, action: actions.Annotate) -> Steps[Written]:
    mailbox = yield from read(lambda tables: views.find_mailbox(tables, account, action.mailbox))

    def run(replica: Replica, txn: Transaction) -> list[Did]:
        annotations: dict[str, str | None] = {ANNOTATION: action.value or None}
        replica.describe_mailbox(
            txn, account, mailbox, is_subscribed=action.subscribed, annotations=annotations
        )
        did = [Did(Registered((mailbox.hex(), "annotation"), action.value))]
        if action.subscribed is not None:
            did.append(Did(Registered((mailbox.hex(), "subscribed"), str(action.subscribed))))
        return did

    return (yield from _write(machine, account, f"described {action.mailbox}", run))


def _put_script(machine: Machine, account: Account, lines: tuple[str, ...]) -> Steps[Written]:
    content = "".join(f"{line}\n" for line in lines)

    def run(replica: Replica, txn: Transaction) -> list[Did]:
        replica.change_script(txn, account, SCRIPT, content=content, is_active=True)
        return [Did(Registered(("script",), content))]

    return (yield from _write(machine, account, "wrote the script", run))


def _identity(machine: Machine, account: Account, mailbox: MailboxId) -> commands.Mailbox:
    return machine.world.checks.ledger.identity(account, mailbox)


def _last_dot(replica: WatchedReplica, txn: Transaction) -> Dot:
    return Dot(replica.id, clock_in(txn)[replica.id])
