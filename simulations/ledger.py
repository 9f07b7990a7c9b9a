"""Everything that was ever made durable, told to the reference in the terms of clients, never of the code.

A change of the reference is one command of one client, or what a replica had to say again because of a move;
what a replica has seen of them is a set, kept as a bit mask.  Clocks only serve to find that set again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.names import make_mailbox_id, uid_validity
from simulations.changes import Edited, Effect
from simulations.commands import DELETED, Add, Command, Copy, Expunge, ExpungeDeleted, Keywords, Mailbox, Move
from simulations.reference import Disagreement, History
from simulations.violation import Violation, expect
from simulations.watched import Commanded, CutShort, Filled, Followed, Made, Note, Received, Registered


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


def _behind(replica: ReplicaId, account: Account, effects: Iterable[Effect], cause: Dot | Clock) -> str:
    """Keywords that a replica has not put after their messages on applying `cause`."""
    said = []
    for effect in effects:
        if isinstance(effect, Edited):
            flags = [f"+{each}" for each in sorted(effect.add)] + [
                f"-{each}" for each in sorted(effect.remove)
            ]
            said.append(f"{' '.join(flags)} after {effect.message}, now in {effect.mailbox} of {account}")
    return f"{replica:016x} did not put {'; '.join(said)}, when it took {cause}"


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
        self._cut: dict[ReplicaId, Clock] = defaultdict(Clock)
        """What each replica has taken off its log though members may lack it still."""
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
            raise Violation("no mailbox lives that nobody created", f"{mailbox.hex()} in {account}")
        return found

    def names(self) -> dict[str, str]:
        """All mailboxes, from their ids in digits to what the reference calls them."""
        return {
            id.hex(): str(its)
            for account in self._accounts.values()
            for id, its in account.identities.items()
        }

    def name_mailbox(self, account: Account, mailbox: MailboxId, name: str) -> Mailbox:
        """A client has just created this mailbox."""
        found = Mailbox(name, int.from_bytes(mailbox[:2], "big"))
        expected = make_mailbox_id(account, name, found.generation)
        promise, seen = "a mailbox's id is made from its name", "{} of {} has {}, not {}"
        expect(mailbox == expected, promise, seen, name, account, mailbox.hex(), expected.hex())
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
                    self._follow_up(replica, note)
                case Filled():
                    self._fill(replica, note, notes[place + 1 : place + 1 + note.caused])
                case CutShort(gone, covered):
                    self._cut[replica] = self._cut[replica].join(gone).without(covered)
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

    def _follow_up(self, replica: ReplicaId, note: Received) -> None:
        """What the replica has said again because of this delta, in the deltas of its own that come next."""
        account, origin = self._accounts[note.account], f"{replica:x}"
        seen, last = self.seen(note.account, note.seen), Dot(replica, self.made.get(replica, 0) + note.caused)
        is_open, is_expected = False, bool(note.followed)
        for change in account.changes.get(note.dot, ()):
            if (move := account.moves.get(change)) is not None:
                self._spread(note.account, seen, move)
                if any((move.target, id) in account.uncertain for id in move.messages):
                    # What is said again of the others would be said in the same delta.
                    account.uncertain |= {(move.target, id) for id in move.messages}
                    is_open = True
                    continue
            said = account.history.follow_up(origin, seen, change)
            if said is None:
                continue
            is_expected = True
            if not note.caused:
                promise = "a flag follows the message that was moved elsewhere"
                behind = account.history.changes[said].effects
                raise Violation(promise, _behind(replica, note.account, behind, note.dot))
            self.flags_followed += 1
            account.changes.setdefault(last, []).append(said)
        expect(
            is_open or is_expected or not note.caused,
            "only who set a flag puts it after a message",
            "{} wrote {} more in {} on {}, in which nothing was to be put after any message",
            origin,
            note.caused,
            note.account,
            note.dot,
        )
        if self._cut[replica]:
            self._expect_put_after(replica, account, self._cut[replica], note)
        for each in note.followed:
            for edit in self._word_for(account, note, each):
                account.changes.setdefault(last, []).append(account.history.put_after(origin, edit))

    def _expect_put_after(self, replica: ReplicaId, account: _Seen, cut: Clock, note: Received) -> None:
        """A keyword that comes too late is put after its message by whoever has thrown the move away; but
        `$deleted`, for what was moved may be a copy."""
        seen = self.seen(note.account, note.seen)
        done = {(each.rehoming.move, each.rehoming.id) for each in note.followed}
        moves = {change: dot for dot, all in account.changes.items() if cut.covers(dot) for change in all}
        for change in account.changes.get(note.dot, ()):
            for edit in account.history.changes[change].effects:
                if not isinstance(edit, Edited) or not (edit.add - {DELETED} or DELETED in edit.remove):
                    continue
                living = account.history.arrivals(seen, edit.mailbox, edit.message)
                boxes = account.identities.values()
                if living & edit.arrivals or not all(
                    self.is_certain(note.account, seen, box, edit.message) for box in boxes
                ):
                    continue
                for box, move in account.history.moved(seen, edit.message):
                    if move in moves and (moves[move], edit.message) not in done:
                        promise = "a flag follows the message that was moved elsewhere"
                        behind = [edit._replace(mailbox=box)]
                        raise Violation(promise, _behind(replica, note.account, behind, note.dot))

    def _word_for(self, account: _Seen, note: Received, followed: Followed) -> Iterator[Edited]:
        """What a replica has said for the one whose keywords these are, which may not hear of the move."""
        _, mailbox, id, add, remove = followed.rehoming
        edits = [e for c in account.changes.get(note.dot, ()) for e in account.history.changes[c].effects]
        ours = [e for e in edits if isinstance(e, Edited) and e.message == id]
        meant = any(add <= e.add and remove <= e.remove for e in ours)
        expect(
            followed.is_cut and meant,
            "only who set a flag puts it after a message",
            "{} of {} was put after {} in {}, where its author can do it",
            [*add, *remove],
            note.dot,
            id,
            note.account,
        )
        box = self.identity(note.account, mailbox)
        if not self.is_certain(note.account, self.seen(note.account, note.seen), box, id):
            account.uncertain.add((box, id))
            return
        for change in account.changes.get(followed.rehoming.move, ()):
            yield Edited(box, id, 1 << change, add, remove)

    def _fill(self, replica: ReplicaId, note: Filled, caused: Sequence[Note]) -> None:
        """Many deltas at once.  Flags that one of two had not seen follow their message, as with single ones;
        that is left open where one of them had seen an effect before its cause."""
        for account, it in self._accounts.items():
            seen, theirs = self.seen(account, note.seen), self.seen(account, note.theirs)
            effects = list(it.history.left_behind(seen, theirs))
            named = {effect.message for effect in effects}
            named |= {each.rehoming.id for each in note.followed if each.account == account}
            open = {
                id
                for id in named
                if note.is_in_doubt
                or not all(
                    self.is_certain(account, mask, box, id)
                    for box in it.identities.values()
                    for mask in (seen, theirs, seen | theirs)
                )
            }
            it.uncertain |= {(box, id) for box in it.identities.values() for id in open}
            dots = [made.dot for made in caused if isinstance(made, Made) and made.account == account]
            for edit in effects:
                if edit.message in open:
                    continue
                if not dots:
                    promise = "a flag follows the message that was moved elsewhere"
                    raise Violation(promise, _behind(replica, account, [edit], note.theirs))
                self.flags_followed += 1
                it.changes.setdefault(dots[-1], []).append(it.history.put_after(f"{replica:x}", edit))

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
            promise = "a command does what it would on a single server"
            raise Violation(promise, f"in {note.account}, {error}") from error
        if change is None or (note.dot is None and not is_certain):
            return
        if isinstance(did.what, Move):
            it.moves[change] = did.what
        if note.dot is None:
            seen_of = (
                f"{replica:016x} did {did.what} in {note.account}, having seen {note.seen}, and told nobody"
            )
            raise Violation("a command that changes something is told to others", seen_of)
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
        if not all(value for _, _, value in last):
            return None  # what is deleted takes along what is written into it
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
