"""Everything that was ever made durable, told to the reference in the terms of clients, never of the code.

A change of the reference is one command of one client, or what a replica had to say again because of a move;
what a replica has seen of them is a set, kept as a bit mask.  Clocks only serve to find that set again.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.names import make_mailbox_id, uid_validity
from simulations.commands import Add, Command, Copy, Expunge, ExpungeDeleted, Keywords, Mailbox, Move
from simulations.reference import Disagreement, History
from simulations.violation import Violation, expect
from simulations.watched import Commanded, Filled, Made, Note, Received, Registered


class _Seen:
    """One account: its history, and for each replica the changes in its first n deltas, for every n."""

    def __init__(self) -> None:
        self.history = History()
        self.masks: dict[ReplicaId, list[int]] = {}
        self.changes: dict[Dot, list[int]] = {}
        self.identities: dict[MailboxId, Mailbox] = {}
        self.moves: dict[int, Move] = {}
        self.uncertain: set[tuple[Mailbox, str]] = set()
        self.registers: dict[tuple[str, ...], list[tuple[Dot, Clock, str]]] = {}


def _said(note: Commanded) -> str:
    return f"{type(note.did.what).__name__} in {note.account}, having seen {note.seen}"


_Written = tuple[Dot, Clock, str]


def _not_replaced(written: list[_Written]) -> list[_Written]:
    """Those values of a register that nobody who had seen them has replaced."""
    return [w for w in written if not any(seen.covers(w[0]) for _, seen, _ in written)]


class Ledger:
    """The histories of all accounts."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._accounts = {account: _Seen() for account in accounts}
        self.left_open = 0
        """Commands given on a message of which their node had seen an effect before the cause."""
        self.flags_followed = 0
        """How often a flag was put after a message that had been moved elsewhere."""
        self.made: dict[ReplicaId, int] = {}
        """How many deltas of each replica were ever durable anywhere."""

    def history(self, account: Account) -> History:
        return self._accounts[account].history

    def seen(self, account: Account, clock: Clock) -> int:
        """The changes in this account that the clock covers."""
        masks = self._accounts[account].masks
        seen = 0
        for replica, seq in clock.entries.items():
            made = self.made.get(replica, 0)
            promise, seen_of = "a clock covers only what was made", "{} has made {}, not {}"
            expect(seq <= made, promise, seen_of, f"{replica:016x}", made, seq)
            seen |= masks[replica][seq]
        return seen

    def identity(self, account: Account, mailbox: MailboxId) -> Mailbox:
        """What the reference calls a mailbox."""
        found = self._accounts[account].identities.get(mailbox)
        if found is None:
            raise Violation("no mailbox lives that nobody created", mailbox.hex())
        return found

    def name_mailbox(self, account: Account, mailbox: MailboxId, name: str) -> Mailbox:
        """A client has just created this mailbox."""
        found = Mailbox(name, int.from_bytes(mailbox[:2], "big"))
        expected = make_mailbox_id(account, name, found.generation)
        expect(mailbox == expected, "a mailbox's id is made from its name", f"{name!r}: {mailbox.hex()}")
        identities = self._accounts[account].identities
        for other, its in identities.items():
            if its.name == name and its.generation < found.generation:
                grows = uid_validity(other) < uid_validity(mailbox)
                expect(grows, "UIDVALIDITY grows with each mailbox of a name", f"{its} and {found}")
        identities[mailbox] = found
        return found

    # What became durable --------------------------------------------------------------------------------

    def enter(self, replica: ReplicaId, notes: list[Note]) -> None:
        """Take up what a replica has made durable, in the order in which it happened."""
        for place, note in enumerate(notes):
            match note:
                case Made(dot):
                    self._make(dot)
                case Received():
                    caused = takewhile(lambda later: isinstance(later, Made), notes[place + 1 :])
                    self._follow_up(replica, note, len(list(caused)))
                case Filled():
                    self._fill(replica, note)
                case Commanded():
                    self._command(replica, note)

    def _make(self, dot: Dot) -> None:
        made = self.made.get(dot.replica, 0)
        expect(dot.seq == made + 1, "deltas are numbered one by one", "{} came after {}", dot, made)
        self.made[dot.replica] = dot.seq
        for account in self._accounts.values():
            masks = account.masks.setdefault(dot.replica, [0])
            masks.append(masks[-1])
            for change in account.changes.get(dot, ()):
                masks[-1] |= 1 << change

    def _follow_up(self, replica: ReplicaId, note: Received, caused: int) -> None:
        """The next `caused` deltas of the replica, which are yet to be entered, are because of this one."""
        account = self._accounts[note.account]
        for name, mailbox, id in note.followed:
            account.uncertain.add((self.identity(name, mailbox), id))
        seen = self.seen(note.account, note.seen)
        for change in account.changes.get(note.dot, ()):
            if (move := account.moves.get(change)) is not None:
                self._spread(note.account, seen, move)
                if any((move.target, id) in account.uncertain for id in move.messages):
                    # What is said again of the others would be said in the same delta.
                    account.uncertain |= {(move.target, id) for id in move.messages}
                    continue
            said = account.history.follow_up(f"{replica:x}", seen, change)
            if said is None:
                continue
            expect(
                caused > 0, "a flag follows the message that was moved elsewhere", "not after {}", note.dot
            )
            self.flags_followed += 1
            last = Dot(replica, self.made.get(replica, 0) + caused)
            account.changes.setdefault(last, []).append(said)

    def _fill(self, replica: ReplicaId, note: Filled) -> None:
        """Many deltas at once, of which only the sum was seen.

        Where a message was moved away from under this replica's own flags, these follow it; of several moves
        only the last is seen, and a copy looks like a move.  So that is left open.
        """
        for account, it in self._accounts.items():
            seen = self.seen(account, note.seen)
            news = self.seen(account, note.now) & ~seen
            while news:
                change = (news & -news).bit_length() - 1
                news &= news - 1
                if change in it.moves:
                    for message in it.history.would_follow(f"{replica:x}", seen, change):
                        it.uncertain |= {(box, message) for box in it.identities.values()}
                seen |= 1 << change
        for account, mailbox, id in note.followed:
            self._accounts[account].uncertain.add((self.identity(account, mailbox), id))

    def _command(self, replica: ReplicaId, note: Commanded) -> None:
        it, did = self._accounts[note.account], note.did
        if isinstance(did.what, Registered):
            if note.dot is not None:
                it.registers.setdefault(did.what.key, []).append((note.dot, note.seen, did.what.value))
            return
        seen = self.seen(note.account, note.seen)
        if did.if_absent and isinstance(did.what, Add) and self._is_there(it, seen, did.what):
            return
        is_certain = not self._spread(note.account, seen, did.what)
        try:
            change = it.history.record(
                f"{replica:x}",
                seen,
                did.what,
                refused=did.refused,
                made=did.made,
                vacated=did.vacated,
            )
        except Disagreement as error:
            raise Violation("a command does what it would on a single server", str(error)) from error
        if change is None or (note.dot is None and not is_certain):
            return
        if isinstance(did.what, Move):
            it.moves[change] = did.what
        expect(note.dot is not None, "a command that changes something is told to others", _said(note))
        assert note.dot is not None
        self._attach(note.account, note.dot, change)

    def _spread(self, account: Account, seen: int, command: Command) -> bool:
        """Take note of what the semantics leave open because of this command, if anything.

        A replica applies a change as soon as it has what it builds on, which may be before another one that
        its origin had seen (a flag that was cleared, and set again elsewhere).  What a command given in
        between does to the same message is not for the reference to say, here or where it goes to.
        """
        it = self._accounts[account]
        match command:
            case (
                Keywords(box, messages)
                | Expunge(box, messages)
                | Move(box, _, messages)
                | Copy(box, _, messages)
            ):
                pass
            case ExpungeDeleted(box):
                messages = tuple(it.history.messages(seen, box))
            case _:
                return False
        found = [id for id in messages if not self.is_certain(account, seen, box, id)]
        self.left_open += len(found)
        it.uncertain.update((box, id) for id in found)
        if isinstance(command, Move | Copy):
            it.uncertain.update((command.target, id) for id in found)
        return bool(found)

    def is_certain(self, account: Account, seen: int, mailbox: Mailbox, message: str) -> bool:
        """Whether the semantics say what is shown of a message where so much is seen."""
        it = self._accounts[account]
        return (mailbox, message) not in it.uncertain and it.history.is_whole(seen, mailbox, message)

    @staticmethod
    def _is_there(it: _Seen, seen: int, addition: Add) -> bool:
        return it.history.keywords(seen, addition.mailbox, addition.message) is not None

    def register(self, account: Account, key: tuple[str, ...], clock: Clock) -> tuple[list[str], set[str]]:
        """What a register may show where so much is seen, and everything it was ever set to: a value that was
        set by one who had seen another's replaces it."""
        written = [w for w in self._accounts[account].registers.get(key, ()) if clock.covers(w[0])]
        last = [value for _, _, value in _not_replaced(written)]
        return last, {value for _, _, value in written}

    def merged_lines(self, account: Account, key: tuple[str, ...], clock: Clock) -> set[str] | None:
        """The lines of a text that two wrote at once, each of whom had seen the same text before; where that
        is not how it came, None."""
        written = [w for w in self._accounts[account].registers.get(key, ()) if clock.covers(w[0])]
        last = _not_replaced(written)
        began = [_not_replaced([w for w in written if seen.covers(w[0])]) for _, seen, _ in last]
        if len(last) != 2 or began[0] != began[1] or len(began[0]) != 1 or not began[0][0][2]:
            return None
        one, other = (set(value.splitlines()) for _, _, value in last)
        base = set(began[0][0][2].splitlines())
        return (one & other) | (one - base) | (other - base)

    def _attach(self, account: Account, dot: Dot, change: int) -> None:
        """The change is part of this delta."""
        it = self._accounts[account]
        masks = it.masks[dot.replica]
        for seq in range(dot.seq, len(masks)):
            masks[seq] |= 1 << change
        it.changes.setdefault(dot, []).append(change)
