"""Clients and deliveries, as steps on a node: they do what a mail server would do for its users.

Each uses only what `crdtmail.service` and `crdtmail.views` offer, and hands all that it was told to the
checks.  What a request could not do (no such mailbox, a name that is taken) is no fault.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from crdtmail import service, views
from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.message import MessageId
from crdtmail.crdt.uid import Uid
from crdtmail.effects import Steps, read
from crdtmail.errors import (
    AlreadyExists,
    CannotCalculateChanges,
    CrdtmailError,
    Forbidden,
    NotFound,
    RequestError,
    TooLarge,
)
from crdtmail.replica import IncomingMessage, KeywordChange, Replica, Selection
from crdtmail.service import Written
from crdtmail.store.interface import Transaction
from crdtmail.store.tables import Mailbox, Tables
from simulations import actions, commands
from simulations.violation import expect
from simulations.watched import Commanded, Did, Made, Registered, clock_in

if TYPE_CHECKING:
    from simulations.machine import Machine

TOKEN_WAIT_S = 5.0
ACK_WAIT_S = 3.0
EVERYTHING = 10_000
PAGE = 4
ANNOTATION, OTHER_ANNOTATION = "/private/comment", "/shared/comment"
SCRIPTS = ("holiday", "main")
TWIN = " (*)"


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


class Nothing(NamedTuple):
    """A command that did nothing, and why."""

    why: str


def look(machine: Machine, client: Client, name: str) -> Steps[Looked]:
    """Read a mailbox, not older than the client's token."""
    account, replica, token = client.account, machine.replica, client.token
    yield from service.wait_for_clock(machine.gossip, token, TOKEN_WAIT_S)
    mailbox = yield from _find(machine, account, name)
    looked = yield from service.read_mailbox(replica, account, mailbox, _look)
    machine.world.checks.looked(machine, account, mailbox, looked, token)
    client.token = client.token.join(looked.clock)
    shown = {int(message.uid): message for message in looked.messages}
    client.view = View(mailbox, replica.id, looked.record.number, shown, looked.position)
    return looked


def _look(tables: Tables, box: Mailbox) -> Looked:
    """All messages, page by page."""
    found: list[views.MessageView] = []
    while page := views.messages(tables, box, after=found[-1].uid if found else 0, limit=PAGE):
        found += page
        expect(len(found) <= EVERYTHING, "pages come to an end", f"{len(found)} messages")
    return Looked(tables.head().clock, box, found, views.position_now(box))


def follow(machine: Machine, client: Client) -> Steps[Looked | Nothing]:
    """Bring the client's copy up to date by changes alone, a few at a time, and hold it against all there is.

    Positions are the node's own, so a copy that was read elsewhere cannot be followed here.
    """
    view = client.view
    if view is None or view.replica != machine.replica.id:
        return Nothing("it has read no mailbox here whose changes it could follow")
    account, mailbox, copy, more = client.account, view.mailbox, dict(view.messages), True
    position, pages = view.position, 0
    yield from service.wait_for_clock(machine.gossip, client.token, TOKEN_WAIT_S)
    while more:
        since = position

        def changes(tables: Tables, box: Mailbox, since: tuple[int, int] = since) -> Any:
            if box.number != view.number:
                raise CannotCalculateChanges("the mailbox was deleted and came back")
            page = views.changes(tables, box, since, limit=1 + since[1] % 3)
            if page.has_more:
                return page, None
            again = views.changes(tables, box, page.position, limit=1)
            expect(
                not (again.changed or again.vanished), "what was told is not news", f"{machine.name}: {again}"
            )
            return page, _look(tables, box)

        page, looked = yield from service.read_mailbox(machine.replica, account, mailbox, changes)
        pages += 1
        expect(pages < EVERYTHING, "pages of changes come to an end", f"{machine.name}: {position}")
        machine.world.checks.told_vanished(machine, account, mailbox, page.vanished)
        for uid in page.vanished:
            copy.pop(int(uid), None)
        copy |= {int(message.uid): message for message in page.changed}
        position, more = page.position, page.has_more
    copy = dict(sorted(copy.items()))
    assert isinstance(looked, Looked)
    machine.world.checks.followed(machine, account, mailbox, looked, copy)
    client.view = View(mailbox, view.replica, view.number, copy, position)
    return looked


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
# A command says what it means before it is carried out: the reference is told what was asked for, and never
# what the code under test made of it.


def deliver(machine: Machine, action: actions.Deliver, *, is_certain: bool = False) -> Steps[None]:
    """New mail, into a mailbox that is made if there is none of that name; it `is_certain` that as many
    others get it as are waited for."""
    account, keywords, world = action.account, frozenset(action.keywords), machine.world
    mailbox = yield from _mailbox_named(machine, account, action.mailbox)
    box = _identity(machine, account, mailbox)
    where = (machine.name, account, box)
    new = [mail(id, keywords) for id in action.messages]
    shown: dict[int, MessageId] = {}

    def run(replica: Replica, txn: Transaction, did: list[Did]) -> None:
        did += [Did(commands.Add(box, message.id, keywords)) for message in new]
        before = _uids(txn, account, mailbox, new)
        added = replica.add(txn, account, mailbox, new)
        promise, seen = "what was delivered is told", "{}, {}, {}: {} came in, and {} was told"
        expect(added == [m.id for m in new], promise, seen, *where, action.messages, added)
        after = _uids(txn, account, mailbox, new)
        kept = all(after[id] == uid for id, uid in before.items())
        promise, seen = "a message that is there keeps its UID", "{}, {}, {}: {}, then {}"
        expect(kept, promise, seen, *where, before, after)
        _expect_order([after[m.id] for m in new if m.id not in before], where)
        if action.wants_uids:
            told = replica.show_uids(txn, account, mailbox, added)
            shown.update(_shown(txn, account, mailbox))
            expect(
                told == {id: uid for uid, id in shown.items() if id in told} and len(told) == len(added),
                "the UIDs that are told are those that are shown",
                "{}, {}, {}: {} were told, and {} are shown",
                *where,
                told,
                shown,
            )

    disks_lost = len(world.disks_lost)
    written = yield from _write(machine, account, f"mail to {action.mailbox}", run)
    if shown:
        world.checks.told_uids(machine, account, mailbox, shown)
    if action.ack and written.dot is not None:
        began, pace = machine.now(), machine.pace
        reached = yield from service.wait_for_replicas(machine.gossip, written.dot, action.ack, ACK_WAIT_S)
        late = reached >= action.ack and machine.now() - began >= ACK_WAIT_S and machine.pace == pace
        late = late and not machine.is_talking  # what it has just heard is told when that is over
        promise, seen = "an acknowledgement comes as soon as enough have it", "{} has {} of {}, {}"
        is_prompt, how = not late and (reached >= action.ack or not is_certain), "late" if late else "at last"
        expect(is_prompt, promise, seen, machine.name, reached, action.ack, how)
        world.checks.acknowledged(machine, written.dot, reached, disks_lost)


def import_mail(machine: Machine, action: actions.Import) -> Steps[None]:
    """Mail that may be there already, and then is left alone."""
    account = action.account
    mailbox = yield from _mailbox_named(machine, account, action.mailbox)
    box = _identity(machine, account, mailbox)
    new = [mail(id) for id in action.messages]

    def run(replica: Replica, txn: Transaction, did: list[Did]) -> None:
        did += [Did(commands.Add(box, message.id), if_absent=True) for message in new]
        before = _uids(txn, account, mailbox, new)
        added = replica.add(txn, account, mailbox, new, if_absent=True)
        absent = [message.id for message in new if message.id not in before]
        promise, seen = "an import adds what is absent", "{}, {}, {}: {}, not {}"
        expect(added == absent, promise, seen, machine.name, account, box, added, absent)

    yield from _write(machine, account, f"imported to {action.mailbox}", run)


def _expect_order(uids: list[Uid], where: tuple[str, Account, commands.Mailbox]) -> None:
    """New UIDs are in the order in which messages were named (RFC 9051 section 6.3.12, RFC 3502)."""
    expect(uids == sorted(uids), "messages keep their order", "{}, {}, {}: new UIDs {}", *where, uids)


def _uids(
    txn: Transaction,
    account: Account,
    mailbox: MailboxId,
    new: Iterable[IncomingMessage | views.MessageView],
) -> dict[MessageId, Uid]:
    """The UIDs of those of the messages that are there."""
    tables = Tables(txn)
    box = tables.mailbox(account, mailbox)
    if box is None:
        return {}
    found = ((message.id, tables.uid(box.number, message.id)) for message in new)
    return {id: uid for id, uid in found if uid is not None}


def _shown(txn: Transaction, account: Account, mailbox: MailboxId) -> dict[int, MessageId]:
    """All messages of a mailbox by UID."""
    tables = Tables(txn)
    box = tables.mailbox(account, mailbox)
    assert box is not None, "something was just added to it"
    return {int(uid): id for uid, id, _ in tables.messages(box.number)}


def _find(machine: Machine, account: Account, name: str) -> Steps[MailboxId]:
    """The mailbox of this name.  Raises NotFound, which the reference must not know better."""
    ledger = machine.world.checks.ledger
    found, clock = yield from read(lambda tables: (_named(tables, account, name), tables.head().clock))
    if found is None:
        taken = ledger.history(account).is_taken(ledger.seen(account, clock), name)
        promise, seen = "a mailbox is found by its name", "{}, {}: {} is there, and was not found"
        expect(taken is not True, promise, seen, machine.name, account, name)
        raise NotFound(f"there is no mailbox named {name!r}")
    return found


def _named(tables: Tables, account: Account, name: str) -> MailboxId | None:
    """The mailbox of this name; `Work (*)` is one that is shown as `Work` with whatever suffix."""
    if name.endswith(TWIN):
        beginning = name.removesuffix("*)")
        shown = ((its.name, id) for id, its in views.living_mailboxes(tables, account).items())
        return min(((n, id) for n, id in shown if n.startswith(beginning)), default=(name, None))[1]
    try:
        return views.find_mailbox(tables, account, name)
    except NotFound:
        return None


def _mailbox_named(machine: Machine, account: Account, name: str) -> Steps[MailboxId]:
    """The mailbox of this name, which is made if there is none."""
    while True:
        try:
            return (yield from _find(machine, account, name))
        except NotFound:
            if name.endswith(TWIN):
                raise
        with suppress(AlreadyExists):  # somebody else has just made it
            yield from _create(machine, account, name, None)


def act(machine: Machine, client: Client, action: Any) -> Steps[Nothing | None]:
    """What a client changes; afterwards it carries the token of its change."""
    account = client.account
    match action:
        case actions.CreateMailbox(name=name, role=role):
            written = yield from _create(machine, account, name, role)
        case actions.RenameMailbox(name=name, to=to):
            written = yield from _rename(machine, account, name, to)
        case actions.DeleteMailbox(name=name):
            written = yield from _delete(machine, account, name)
        case actions.Annotate():
            written = yield from _annotate(machine, account, action)
        case actions.PutScript():
            written = yield from _put_script(machine, account, action)
        case actions.DeleteScript(name=name):
            written = yield from _delete_script(machine, account, name)
        case _:
            written = yield from _change_messages(machine, client, action)
    client.token = client.token.join(written.clock)
    return Nothing("there was nothing to change") if written.dot is None else None


def _create(machine: Machine, account: Account, name: str, role: str | None) -> Steps[Written]:
    ledger = machine.world.checks.ledger

    def run(replica: Replica, txn: Transaction, did: list[Did]) -> None:
        did.append(Did(commands.Create(name)))
        subscribed = role is not None or None
        mailbox = replica.create_mailbox(txn, account, name, role=role, is_subscribed=subscribed)
        did[0] = did[0]._replace(made=ledger.name_mailbox(account, mailbox, name))
        if role is not None:
            did.append(Did(Registered((mailbox.hex(), "role"), role)))
            did.append(Did(Registered((mailbox.hex(), "subscribed"), str(subscribed))))

    return (yield from _write(machine, account, f"created {name}", run))


def _in_words(action: OnMessages) -> str:
    """What was done to messages, for people."""
    match action:
        case actions.Mark():
            return " ".join([*(f"+{each}" for each in action.add), *(f"-{each}" for each in action.remove)])
        case actions.Move(to=to):
            return f"moved to {to}"
        case actions.Copy(to=to):
            return f"copied to {to}"
        case actions.Expunge():
            return "expunged"


def _change_messages(machine: Machine, client: Client, action: OnMessages) -> Steps[Written]:
    """Keywords, expunge, move and copy on what the client has read."""
    view, account = client.view, client.account
    assert view is not None, "a client without a view changes nothing"
    target = view.mailbox
    # What it means is settled now: while it waits it may read something else, elsewhere.
    chosen = client.part(action.part) if action.part is not None else []
    if isinstance(action, actions.Move | actions.Copy):
        target = yield from _find(machine, account, action.to)
    if action.part is not None and not chosen:
        return Written(None, client.token)
    # The numbers of a view mean something where they were shown; elsewhere messages go by their ids.
    by_uid = action.by_uid and view.replica == machine.replica.id
    if by_uid and chosen:
        first, middle, last = (int(chosen[n].uid) for n in (0, len(chosen) // 2, -1))
        which = Selection(uids=((first, last), (middle, middle)))
    else:
        which = Selection(ids=tuple(m.id for m in chosen))
    box, there = _identity(machine, account, view.mailbox), _identity(machine, account, target)

    def run(replica: Replica, txn: Transaction, did: list[Did]) -> None:
        meant = _meant(Tables(txn), account, view.mailbox, chosen, by_uid=by_uid)
        did.append(Did(_command(action, box, there, tuple(meant))))
        there_before = _uids(txn, account, target, chosen)
        is_allowed = target != view.mailbox or not isinstance(action, actions.Move | actions.Copy)
        with _allowed(machine, is_allowed, f"{type(action).__name__} into the mailbox itself"):
            found = _perform(replica, txn, account, view.mailbox, target, action, which)
        if isinstance(action, actions.Move | actions.Copy):
            there_now = _uids(txn, account, target, chosen)
            new = [uid for id, uid in there_now.items() if id not in there_before]
            _expect_order(new, (machine.name, account, there))
        if action.part is not None:
            expect(
                set(found) == set(meant),
                "a command takes the messages that were meant",
                "{}, {}, {}, {}: {} were meant, {} were taken",
                machine.name,
                account,
                box,
                type(action).__name__,
                meant,
                found,
            )

    return (yield from _write(machine, account, _in_words(action), run))


OnMessages = actions.Mark | actions.Expunge | actions.Move | actions.Copy


def _meant(
    tables: Tables, account: Account, mailbox: MailboxId, chosen: list[views.MessageView], *, by_uid: bool
) -> list[MessageId]:
    """Those of the chosen messages that are still there; by UID, under the one that the client knows."""
    box = tables.mailbox(account, mailbox)
    if box is None:
        return []
    number = box.number
    there = [(m, tables.uid(number, m.id)) for m in chosen]
    if not by_uid:
        return [m.id for m, uid in there if uid is not None]
    return [m.id for m, uid in there if uid == m.uid and not tables.is_stale(number, m.id)]


def _command(
    action: OnMessages, box: commands.Mailbox, there: commands.Mailbox, ids: tuple[str, ...]
) -> commands.Command:
    """The command as the reference understands it."""
    match action:
        case actions.Mark(add=add, remove=remove):
            return commands.Keywords(box, ids, frozenset(add), frozenset(remove))
        case actions.Expunge(part=None):
            return commands.ExpungeDeleted(box)
        case actions.Expunge():
            return commands.Expunge(box, ids)
        case actions.Move():
            return commands.Move(box, there, ids)
        case actions.Copy():
            return commands.Copy(box, there, ids)


def _perform(
    replica: Replica,
    txn: Transaction,
    account: Account,
    mailbox: MailboxId,
    target: MailboxId,
    action: OnMessages,
    which: Selection,
) -> list[MessageId]:
    """Carry it out; the messages that it took."""
    match action:
        case actions.Mark(add=add, remove=remove):
            half = len(which.ids) // 2  # several changes at once are one delta
            parts = [Selection(ids=which.ids[:half]), Selection(ids=which.ids[half:])] if half else [which]
            changes = [KeywordChange(part, frozenset(add), frozenset(remove)) for part in parts]
            return replica.change_keywords(txn, account, mailbox, changes)
        case actions.Expunge(part=None):
            return replica.expunge(txn, account, mailbox, None)
        case actions.Expunge():
            return replica.expunge(txn, account, mailbox, which)
        case actions.Move():
            return replica.move(txn, account, mailbox, target, which)
        case actions.Copy():
            return replica.copy(txn, account, mailbox, target, which)


def _write(
    machine: Machine,
    account: Account,
    what: str,
    run: Callable[[Replica, Transaction, list[Did]], None],
) -> Steps[Written]:
    """Run a command that says what it means in the reference's terms; note it with its delta or refusal."""
    replica, is_done = machine.replica, False
    dots: list[Dot | None] = []

    def noted(_: Replica, txn: Transaction) -> None:
        nonlocal is_done, dots
        seen, place = clock_in(txn), len(replica.notes)
        did: list[Did] = []
        try:
            run(replica, txn, did)
        except CrdtmailError as error:
            replica.undo(place)
            # A rename of several may be refused because of one; what is never allowed says nothing of names.
            is_small = machine.world.config.has_small_limits
            is_fair = is_small or not isinstance(error, TooLarge)
            expect(is_fair, "what is small is not too large", "{}, {}: {}", machine.name, what, error)
            if len(did) == 1 and isinstance(error, NotFound | AlreadyExists):
                replica.notes.append(Commanded(account, did[0]._replace(refused=True), seen, None))
            raise
        made = [note.dot for note in replica.notes[place:] if isinstance(note, Made)]
        dot = made[0] if made else None  # a renumbering may have come behind it
        replica.notes += [Commanded(account, each, seen, dot) for each in did]
        is_done, dots = True, [*made] or [None]

    try:
        _, written = yield from service.write(replica, noted)
    except RequestError as error:
        is_sound = not is_done or machine.disk.may_fail(error)
        promise = "who is refused has changed nothing"
        expect(is_sound, promise, "{} {} all the same: {}", machine.name, what, error)
        raise
    expect(
        is_done and written.dot in dots,
        "a command's answer is its own",
        "{} {}: the answer was of {}, it made {}",
        machine.name,
        what,
        written.dot,
        dots,
    )
    machine.world.checks.answered(machine, written, what)
    return written


def _rename(machine: Machine, account: Account, name: str, to: str) -> Steps[Written]:
    """Rename a mailbox and with it those below; each is a rename of its own to the reference."""
    mailbox = yield from _find(machine, account, name)

    def run(replica: Replica, txn: Transaction, did: list[Did]) -> None:
        before = views.living_mailboxes(Tables(txn), account)
        shown = before[mailbox].name if mailbox in before else name
        for id, its in before.items():
            if id == mailbox or its.name.startswith(f"{shown}/"):
                new = to + its.name[len(shown) :]
                if new != its.name:
                    command = commands.Rename(_identity(machine, account, id), new)
                    did.append(Did(command, vacated=its.base_name))
        is_allowed = "INBOX" not in (shown, to) and not to.startswith(f"{shown}/")
        with _allowed(machine, is_allowed or mailbox not in before, f"rename {shown} to {to}"):
            replica.rename_mailbox(txn, account, mailbox, to)

    return (yield from _write(machine, account, f"renamed {name} to {to}", run))


def _delete(machine: Machine, account: Account, name: str) -> Steps[Written]:
    mailbox = yield from _find(machine, account, name)

    def run(replica: Replica, txn: Transaction, did: list[Did]) -> None:
        before = views.living_mailboxes(Tables(txn), account)
        vacated = before[mailbox].base_name if mailbox in before else None
        did.append(Did(commands.Delete(_identity(machine, account, mailbox)), vacated=vacated))
        with _allowed(machine, vacated != "INBOX", f"delete {name}"):
            replica.delete_mailbox(txn, account, mailbox)

    return (yield from _write(machine, account, f"deleted {name}", run))


@contextmanager
def _allowed(machine: Machine, is_allowed: bool, what: str) -> Iterator[None]:
    """Expect a command to be Forbidden exactly where it is not allowed."""
    try:
        yield
    except Forbidden:
        expect(not is_allowed, "what is allowed is not forbidden", machine.name, what)
        raise
    expect(is_allowed, "what is never allowed is forbidden", machine.name, what)


def _annotate(machine: Machine, account: Account, action: actions.Annotate) -> Steps[Written]:
    mailbox = yield from _find(machine, account, action.mailbox)

    def run(replica: Replica, txn: Transaction, did: list[Did]) -> None:
        annotations: dict[str, str | None] = {ANNOTATION: action.value or None}
        if action.subscribed is not None:
            annotations[OTHER_ANNOTATION] = str(action.subscribed)
        replica.describe_mailbox(
            txn,
            account,
            mailbox,
            role=action.role,
            is_subscribed=action.subscribed,
            annotations=annotations,
        )
        if action.role is not None:
            did.append(Did(Registered((mailbox.hex(), "role"), action.role)))
        did.append(Did(Registered((mailbox.hex(), "annotation"), action.value)))
        if action.subscribed is not None:
            did.append(Did(Registered((mailbox.hex(), "subscribed"), str(action.subscribed))))
            did.append(Did(Registered((mailbox.hex(), "other annotation"), str(action.subscribed))))

    return (yield from _write(machine, account, f"described {action.mailbox}", run))


def _put_script(machine: Machine, account: Account, action: actions.PutScript) -> Steps[Written]:
    content = "".join(f"{line}\n" for line in action.lines)
    name, active = action.name, action.active

    def run(replica: Replica, txn: Transaction, did: list[Did]) -> None:
        had = {script.name: script for script in views.scripts(Tables(txn), account)}
        was_active = name in had and had[name].is_active
        is_same = name in had and had[name].content == content
        replica.change_script(txn, account, name, content=None if is_same else content, is_active=active)
        did.append(Did(Registered(("script", name), content)))
        if active or was_active:
            did.append(Did(Registered(("active",), name if active else "")))

    return (yield from _write(machine, account, f"wrote the script {name}", run))


def _delete_script(machine: Machine, account: Account, name: str) -> Steps[Written]:
    def run(replica: Replica, txn: Transaction, did: list[Did]) -> None:
        is_active = any(s.is_active and s.name == name for s in views.scripts(Tables(txn), account))
        with _allowed(machine, not is_active, f"delete the script {name}"):
            replica.delete_script(txn, account, name)
        did.append(Did(Registered(("script", name), "")))

    return (yield from _write(machine, account, f"deleted the script {name}", run))


def _identity(machine: Machine, account: Account, mailbox: MailboxId) -> commands.Mailbox:
    return machine.world.checks.ledger.identity(account, mailbox)
