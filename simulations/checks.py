"""What must be true after every step, and when all is quiet.  Raises `Violation`.

Owns what the world knows from outside: what was answered, what each disk was known to hold, what each reader
was shown.  What clients ought to see is the reference's to say (`ledger`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.message import MessageId
from crdtmail.effects import Reply
from crdtmail.errors import Refusal
from crdtmail.gossip.session import Timing
from crdtmail.gossip.snapshot import ENDED
from crdtmail.replica import Keep
from crdtmail.service import Written
from crdtmail.store.interface import DamagedRecord
from crdtmail.store.memory_store import Image, MemoryStore
from crdtmail.store.tables import Lsn, Mailbox, Tables
from crdtmail.views import LivingMailbox, MessageView, Script, living_mailboxes, messages, scripts
from simulations.clients import ANNOTATION, EVERYTHING, OTHER_ANNOTATION, SCRIPTS, Looked, mail
from simulations.commands import Shown
from simulations.faults import BitFlips, Strangers, Truncation
from simulations.ledger import Ledger
from simulations.memo import decoded_answer
from simulations.permitted import Permitted, agrees
from simulations.recount import recount
from simulations.violation import Violation, expect
from simulations.watched import Filled, Made, Note, Pruned, Received, Showed

if TYPE_CHECKING:
    from simulations.machine import Machine
    from simulations.network import Request
    from simulations.world import World

RECOUNT_EVERY = 40
"""Commits of a node.  Besides, one node is recounted at the end; in a strict run each, after every commit."""


IMPOSSIBLE = frozenset({Refusal.IMPOSSIBLE, Refusal.NOT_ASKED, Refusal.OVER_LIMIT})
FALSE_WORDS = frozenset({BitFlips.name, Truncation.name, Strangers.name})
"""The faults under which a node may be sent what no other has said."""


LOOK_EVERY = 6
"""Commits of a node after which all its mailboxes are looked at, if it has just received something."""


@dataclass
class _Readers:
    """What the readers of one mailbox on one replica were shown; `where` is that, for people."""

    where: str
    shown: dict[int, str] = field(default_factory=dict)
    highest: int = 0


_Shown = list[tuple[object, ...]]
"""All that clients can see on a node, piece by piece."""


class Checks:
    """The promises, held against one run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ledger = Ledger(world.config.accounts)
        self._answered: dict[Dot, str] = {}
        self._lost_with_disk: list[tuple[ReplicaId, int, int]] = []
        self._digests: dict[tuple[tuple[ReplicaId, int], ...], tuple[int, str]] = {}
        self._readers: dict[tuple[ReplicaId, Account, MailboxId], _Readers] = {}
        self._commits: Counter[str] = Counter()
        self._lists: dict[tuple[ReplicaId, Account], tuple[int, Mapping[MailboxId, object]]] = {}
        """The mailboxes of an account as they were looked at last on each replica, with their modseq."""
        self._numbers: dict[
            tuple[Account, MailboxId, int, frozenset[ReplicaId]], tuple[ReplicaId, MessageId]
        ] = {}
        """Who has given each UID to which message, knowing whom."""
        self._given: set[tuple[Account, MailboxId, MessageId, int]] = set()
        self._showed: dict[tuple[str, Account, MailboxId], set[int]] = defaultdict(set)
        """The UIDs that could be shown on each node, whoever was shown them."""
        self._used: dict[tuple[Account, MailboxId], dict[int, Dot]] = defaultdict(dict)
        """The UIDs that arrivals were given, each with a delta that did."""
        self.last_shown: list[tuple[str, str, int, str, frozenset[str]]] = []
        """What was shown when all were last compared: account, mailbox, UID, message, keywords."""
        self.received: Counter[Dot] = Counter()
        """How many nodes have applied each delta, its origin apart."""

    # Durability -----------------------------------------------------------------------------------------

    def durable(self, machine: Machine, notes: list[Note], touched: set[Account]) -> None:
        """A commit of this node has reached its disk; those who wait for `touched` accounts are woken."""
        changed = {note.account for note in notes if isinstance(note, Made | Received)}
        for note in notes:
            match note:
                case Filled():
                    changed |= note.changed
                case Made():
                    self._numbered(machine, note)
                case Pruned(gone):
                    self.pruned(machine, gone)
                case Showed(account, mailbox, uids):
                    self._showed[machine.name, account, mailbox] |= uids
        asleep = sorted(changed - touched)
        promise, seen = "who waits for a change is woken", "{} wakes nobody in the accounts {}"
        expect(not asleep, promise, seen, machine.name, asleep)
        world = self.world
        self.ledger.enter(machine.replica.author, notes)
        received = [note.dot for note in notes if isinstance(note, Received)]
        self.received.update(received)
        head = machine.disk.synced
        if world.keeps_records:
            news = sum(isinstance(note, Made | Received | Filled) for note in notes)
            world.record("sync", machine.name, news)
        key = tuple(sorted(head.clock.entries.items()))
        digest, first = self._digests.setdefault(key, (head.digest, machine.name))
        if digest != head.digest:
            apart = self._in_which_mailboxes(machine, world.machines[first])
            seen = (
                f"{machine.name} and {first} have seen the same, {head.clock}, and hold different mailboxes"
            )
            raise Violation("equal clocks mean equal digests", seen + apart)
        self._commits[machine.name] += 1
        if self._commits[machine.name] % RECOUNT_EVERY == 0 or world.is_strict:
            self.recount(machine)
        is_filled = any(isinstance(note, Filled) for note in notes)
        world.reached["snapshot merged"] += is_filled
        if is_filled:
            self._expect_used_up(machine)
        if is_filled or (received and (self._commits[machine.name] % LOOK_EVERY == 0 or world.is_strict)):
            self._look_at_everything(machine)
        world.changed(machine)

    @staticmethod
    def _in_which_mailboxes(one: Machine, other: Machine) -> str:
        """In which mailboxes two nodes differ, unless one has seen more by now."""
        if one.disk.synced.clock != other.disk.synced.clock:
            return ""
        held = [
            {(a, id): box.digest for a in tables.accounts() for id, box in tables.mailboxes(a)}
            for tables in (one.disk.durable(), other.disk.durable())
        ]
        apart = sorted(key for key in held[0].keys() | held[1].keys() if held[0].get(key) != held[1].get(key))
        said = ", ".join(f"{mailbox.hex()} of {account}" for account, mailbox in apart)
        return f": {said or 'their directories differ'}"

    def crashed(self, machine: Machine) -> None:
        """Everything that was answered is on the disk that is left."""
        self._expect_no_blame(machine)
        self._expect_durable(machine, self._own(machine))

    def _expect_no_blame(self, machine: Machine) -> None:
        """Where nothing is damaged under way, nobody is sent what no sound node sends."""
        if not FALSE_WORDS.isdisjoint(self.world.config.faults):
            return
        for peer, reason, refused in machine.gossip.refusals:
            promise, seen = "no sound node is refused for what it said", "{} refused {}: {}"
            expect(reason not in IMPOSSIBLE, promise, seen, machine.name, peer, refused.text)

    def _look_at_everything(self, machine: Machine) -> None:
        """Whether a node holds what it ought to with what it has seen; nobody is shown a UID."""
        if machine.disk.is_damaged:
            return
        tables, clock = machine.disk.durable(), machine.disk.synced.clock
        for account in self.world.config.accounts:
            listed = living_mailboxes(tables, account)
            self._list(machine.name, account, clock, listed)
            self._expect_news(machine, account, tables.account(account).modseq, listed)
            for id, its in listed.items():
                found = messages(tables, its.record, limit=EVERYTHING)
                self._content(f"{machine.name}, {account}", account, id, clock, found)

    def _expect_news(
        self, machine: Machine, account: Account, modseq: int, listed: Mapping[MailboxId, LivingMailbox]
    ) -> None:
        """Who keeps a copy of the list is told that it has changed."""
        now = {id: (its.name, its.role, its.is_subscribed, its.annotations) for id, its in listed.items()}
        before, then = self._lists.get((machine.replica.id, account), (0, {}))
        news = modseq > before if now != then else modseq >= before
        promise, seen = (
            "a list that changed has a higher modseq",
            "{}, {}: it changed since modseq {}, and shows {}",
        )
        expect(news, promise, seen, machine.name, account, before, modseq)
        self._lists[machine.replica.id, account] = modseq, now

    def _expect_used_up(self, machine: Machine) -> None:
        """The next UID is above all that were ever given to what this node has seen, gone or not."""
        if machine.disk.is_damaged:
            return
        tables, clock = machine.disk.durable(), machine.disk.synced.clock
        for (account, mailbox), used in self._used.items():
            box = tables.mailbox(account, mailbox)
            identity = self.ledger.identity(account, mailbox)
            if box is None or self.ledger.history(account).was_ever_deleted(identity):
                continue  # who has not seen it live before does not know what was used up then
            highest = max((uid for uid, dot in used.items() if clock.covers(dot)), default=0)
            promise, seen = (
                "a UID that is used up is not given again",
                "{}, {}: the next is {}, and {} was given",
            )
            expect(box.uid_next > highest, promise, seen, machine.name, identity, box.uid_next, highest)

    def any_retired(self) -> bool:
        """Whether any node was told that a member is gone."""
        return any(machine.gossip.retired for machine in self.world.members)

    def recount(self, machine: Machine) -> None:
        """Counters, digests and indices are what the records say."""
        if machine.disk.is_damaged:
            return
        try:
            recount(machine.disk.durable())
        except AssertionError as error:
            raise Violation(
                "counters, digests and indices equal a recount", f"{machine.name}: {error}"
            ) from error

    def _own(self, machine: Machine) -> list[Dot]:
        id = machine.replica.id
        return [dot for dot in self._answered if dot.replica == id]

    def _expect_durable(self, machine: Machine, dots: list[Dot]) -> None:
        clock = machine.disk.durable_clock()
        promise, seen = "what was answered is on the disk", "{} lacks {}: {}"
        for dot in dots:
            expect(clock.covers(dot), promise, seen, machine.name, dot, self._answered[dot])

    def answered(self, machine: Machine, written: Written, what: str) -> None:
        """A client was told that its write is done."""
        self.world.record("answer", machine.name, what)
        if written.dot is None:
            return
        clock = machine.disk.durable_clock()
        expect(
            clock.covers(written.dot),
            "an answered write is durable",
            "{} lacks {}: {}",
            machine.name,
            written.dot,
            what,
        )
        promise, seen = "a token covers the write that it is for", "{} does not cover {}"
        expect(written.clock.covers(written.dot), promise, seen, written.clock, written.dot)
        promise, seen = "a token covers what is durable", "{} gave the token {} and has {}"
        expect(clock.includes(written.clock), promise, seen, machine.name, written.clock, clock)
        self._answered[written.dot] = what
        self.world.wrote()

    def acknowledged(self, machine: Machine, dot: Dot, count: int, disks_lost: int) -> None:
        """A client was told that so many other nodes have its write; before it, `disks_lost` were gone."""
        others = [m for m in self.world.machines.values() if m is not machine]
        holding = {m.name for m in others if m.disk.durable_clock().covers(dot)}
        had = holding | set(self.world.disks_lost[disks_lost:]) - {machine.name}
        expect(
            len(had) >= count,
            "an acknowledgement counts disks",
            "{} said that {} others have {}; {} have it",
            machine.name,
            count,
            dot,
            sorted(holding),
        )
        if count:
            self.world.reached["acknowledged by another node"] += 1

    def told_clock(self, machine: Machine, clock: Clock) -> None:
        """This node tells another that it has so much."""
        own = machine.disk.durable_clock()
        expect(
            own.includes(clock),
            "nothing is told that is not durable",
            "{} told {}, and has {}",
            machine.name,
            clock,
            own,
        )

    def told_id(self, machine: Machine) -> None:
        """This node tells another who it is."""
        if not machine.gossip.renewed:
            return
        promise, seen = "nothing is told that is not durable", "{} calls itself what its disk does not"
        with suppress(DamagedRecord):
            expect(machine.disk.durable().replica() == machine.replica.id, promise, seen, machine.name)

    def told_retired(self, machine: Machine, retired: Collection[ReplicaId]) -> None:
        """This node tells another that these are gone for good."""
        if not retired or machine.disk.is_damaged:
            return
        noted = {replica for replica, it in machine.disk.durable().peers().items() if it.is_retired}
        promise, seen = "nothing is told that is not durable", "{} told that {} are retired, and noted {}"
        expect(noted.issuperset(retired), promise, seen, machine.name, sorted(retired), sorted(noted))

    def told_deltas(self, machine: Machine, dots: list[Dot]) -> None:
        """This node sends these deltas, in this order."""
        own = machine.disk.durable_clock()
        for dot in dots:
            expect(own.covers(dot), "nothing is sent that is not durable", "{} sent {}", machine.name, dot)

    def talked(self, machine: Machine, address: str) -> None:
        """This node has had a conversation with a peer."""
        session = machine.gossip.peers.sessions[address]
        promise, seen = "no sound node is called damaged", "{} says so of {}"
        expect(not session.diverged, promise, seen, machine.name, address)
        expect(
            machine.gossip.renewed <= machine.retired,
            "no sound node takes its writes for lost",
            "{} has taken another id {} times, and was retired {} times",
            machine.name,
            machine.gossip.renewed,
            machine.retired,
        )

    def exchanged(self, machine: Machine, address: str, answer: bytes, protocol: int) -> None:
        """This node has asked a peer where it stands, and was told: what it lacks it asks for at once."""
        session, head = machine.gossip.peers.sessions[address], machine.gossip.head
        if session.failures or head.clock.includes(decoded_answer(answer, protocol).position.clock):
            return
        wait_s = machine.gossip.wait_s(address)
        promise, seen = "who has more is asked again at once", "{} lacks what {} has, and waits for {} s"
        expect(wait_s == 0.0, promise, seen, machine.name, address, wait_s)

    def kept_house(self, machine: Machine, keep: Keep) -> None:
        """This node has just pruned its log."""
        size = machine.gossip.head.log_bytes
        first = next(machine.disk.durable().log_from(Lsn(0)), None) if size else None
        age_ms = machine.wall_ms() - first.applied_at_ms if first is not None else 0
        expect(
            size <= keep.bytes and age_ms <= keep.age_ms,
            "the log keeps within its limits",
            f"{machine.name} keeps {size} bytes, the oldest for {age_ms} ms",
        )

    def answered_about_a_snapshot(self, machine: Machine, request: Request, reply: Reply) -> None:
        """A peer that is done with a snapshot, and said so, has none any more."""
        if reply.body == ENDED:
            held = [served.peer for served in machine.gossip.snapshots._served.values()]
            promise, seen = "a snapshot is not held for nobody", "{} still holds one for {}, which is done"
            expect(request.sender not in held, promise, seen, machine.name, request.sender)

    def pushed(self, machine: Machine, address: str, after_s: float) -> None:
        """This node sends a peer deltas, `after_s` after it gave that peer some for which it had asked."""
        promise, seen = (
            "who asks is not sent the same besides",
            "{} sent deltas to {} {} s after it had asked",
        )
        expect(after_s >= self.world.config.grace_s, promise, seen, machine.name, address, after_s)

    def failed_again(self, machine: Machine, address: str, at: list[float]) -> None:
        """Calls of a peer have failed at these times, one after the other: the pauses must have grown."""
        first, last = Timing().first_retry_s, self.world.config.last_retry_s
        least = sum(0.5 * min(last, first * 2.0**n) for n in range(len(at) - 1))
        expect(
            at[-1] - at[0] >= 0.9 * least,
            "a peer that is out of reach is tried ever more rarely",
            f"{machine.name}: {address} failed {len(at)} times in {at[-1] - at[0]:.1f} s",
        )

    def took_nothing_again(self, machine: Machine, address: str, at: list[float]) -> None:
        """A peer has answered with one and the same gap at these times, one after the other."""
        if len(at) > 8:
            expect(
                at[-1] - at[-8] >= Timing().first_retry_s,
                "a peer that takes nothing is asked ever more rarely",
                f"{machine.name}: {address} took nothing 8 times in {at[-1] - at[-8]:.3f} s",
            )

    def pruned(self, machine: Machine, gone: Clock) -> None:
        """This node has taken deltas off its log that were not over its limit: all members have them.

        Members are those that ever told it where they stand, but for who is retired or has lost its disk.
        """
        for name in sorted(machine.met):
            member = self.world.machines[name]
            if member.retired or member.disks or not member.life:
                continue
            has = member.disk.durable_clock()
            promise, seen = "the log is kept for those that lack it", "{} pruned up to {}, and {} has {}"
            expect(has.includes(gone), promise, seen, machine.name, gone, name, has)
        if self.world.config.topology == "mesh":
            heard = {heard.name for heard in machine.gossip.peers.heard.values()}
            never = sorted({*machine.addresses} - heard)
            promise = "the log is kept for those that were never met"
            expect(
                not never, promise, "{} pruned up to {}, and knows nothing of {}", machine.name, gone, never
            )

    def _numbered(self, machine: Machine, note: Made) -> None:
        """Two that know the same replicas never give one UID to two messages."""
        for mailbox, id, uid in note.uids:
            if (note.account, mailbox, id, uid) in self._given:
                continue  # a message that is there already keeps its UID when it is added again
            self._given.add((note.account, mailbox, id, uid))
            self._used[note.account, mailbox].setdefault(uid, note.dot)
            key = (note.account, mailbox, uid, note.known)
            other, message = self._numbers.setdefault(key, (note.dot.replica, id))
            expect(
                other == note.dot.replica or message == id,
                "two that know each other never give the same UID",
                "{}, {}, {}: UID {} for {}, and on {} for {}",
                machine.name,
                note.account,
                mailbox.hex(),
                uid,
                id,
                other,
                message,
            )

    def disk_gone(self, machine: Machine, image: Image) -> None:
        """This node's disk is about to be replaced; what is on no other one is lost with it."""
        others = [m.disk.durable_clock() for m in self.world.members if m is not machine]
        kept = Clock()
        for clock in others:
            kept = kept.join(clock)
        if image:
            kept = kept.join(_clock_of(image))
        own = machine.disk.durable_clock()
        self._lost_with_disk += [
            (replica, kept[replica], seq) for replica, seq in own.items() if kept[replica] < seq
        ]
        if not machine.has_left:
            self.world.disks_lost.append(machine.name)

    def _is_lost(self, dot: Dot) -> bool:
        """Whether the last disk that had this delta is gone."""
        return any(r == dot.replica and after < dot.seq <= up_to for r, after, up_to in self._lost_with_disk)

    # What clients see -----------------------------------------------------------------------------------

    def told_uids(
        self, machine: Machine, account: Account, mailbox: MailboxId, shown: Mapping[int, MessageId]
    ) -> None:
        """A client was told UIDs of what it has just added (RFC 4315); all of the mailbox count as shown."""
        readers = self._readers_of(machine, account, mailbox)
        highest = readers.highest
        for uid, id in shown.items():
            self._show(readers, uid, id, highest)
        self._expect_mark(machine, account, mailbox, readers)

    def _readers_of(self, machine: Machine, account: Account, mailbox: MailboxId) -> _Readers:
        key = machine.replica.id, account, mailbox
        if key not in self._readers:
            self._readers[key] = _Readers(f"{machine.name}, {account}, {mailbox.hex()}")
        return self._readers[key]

    def _show(self, readers: _Readers, uid: int, id: str, highest: int) -> None:
        """A reader is shown a message under this UID; `highest` is the highest that was shown before."""
        known = readers.shown.get(uid)
        if known is not None:
            same = known == id
            promise, seen = "a shown UID never changes its meaning", "{}: UID {} was {}, and is {}"
            expect(same, promise, seen, readers.where, uid, known, id)
        else:
            promise, seen = "a new UID is above all that were shown", "{}: UID {} for {} after {} was shown"
            expect(uid > highest, promise, seen, readers.where, uid, id, highest)
            readers.shown[uid] = id
            readers.highest = max(readers.highest, uid)

    def _expect_mark(self, machine: Machine, account: Account, mailbox: MailboxId, readers: _Readers) -> None:
        box = machine.disk.durable().mailbox(account, mailbox)
        holds = box is None or box.shown >= readers.highest
        promise, seen = "the shown mark is durable before a UID is shown", "{}: UID {} was shown"
        expect(holds, promise, seen, readers.where, readers.highest)

    def looked(
        self, machine: Machine, account: Account, mailbox: MailboxId, looked: Looked, token: Clock
    ) -> None:
        """A reader was shown a mailbox."""
        where = f"{machine.name}, {account}"
        self._not_older(machine, looked.clock, token)
        found = looked.messages
        self._content(where, account, mailbox, looked.clock, found)
        self._counters(where, mailbox, looked.record, found)
        readers = self._readers_of(machine, account, mailbox)
        uids = [int(message.uid) for message in found]
        promise = "every message has a UID of its own, ascending"
        expect(uids == sorted(set(uids)), promise, readers.where, uids)
        highest = readers.highest
        for message in found:
            self._show(readers, int(message.uid), message.id, highest)
        self._expect_mark(machine, account, mailbox, readers)
        self.world.reached["mailbox read"] += 1

    def followed(
        self,
        machine: Machine,
        account: Account,
        mailbox: MailboxId,
        looked: Looked,
        copy: Mapping[int, MessageView],
    ) -> None:
        """A reader that follows the changes holds this copy; one that reads everything is shown `looked`."""
        self.looked(machine, account, mailbox, looked, Clock())
        if list(copy.values()) != looked.messages:
            instead = f"{_said(copy.values())} instead of {_said(looked.messages)}"
            where = f"{machine.name}, {account}, {mailbox.hex()}"
            raise Violation("changes lead from one state to the next", f"{where}: {instead}")
        self.world.reached["changes followed"] += 1

    def told_vanished(
        self, machine: Machine, account: Account, mailbox: MailboxId, vanished: Collection[int]
    ) -> None:
        """A reader was told that these UIDs are no more."""
        never = set(vanished) - self._showed[machine.name, account, mailbox]
        promise, seen = "what nobody was shown does not vanish", "{}, {}, {}: UIDs {}"
        expect(not never or machine.disks > 0, promise, seen, machine.name, account, mailbox.hex(), never)

    def _not_older(self, machine: Machine, clock: Clock, token: Clock) -> None:
        lacking = token.without(clock)
        promise, seen = "a client with a token never reads older state", "{} was read without {}"
        expect(not lacking, promise, seen, machine.name, lacking)

    def _content(
        self, where: str, account: Account, mailbox: MailboxId, clock: Clock, found: list[MessageView]
    ) -> None:
        """Exactly the messages and keywords that the semantics want, where so much was seen."""
        identity = self.ledger.identity(account, mailbox)
        seen = self.ledger.seen(account, clock)
        wanted = dict(self.ledger.history(account).messages(seen, identity))
        shown = {str(message.id): message.keywords for message in found}
        if shown != wanted:
            for id in sorted(wanted.keys() | shown.keys()):
                if not self.ledger.is_certain(account, seen, identity, id):
                    self.world.reached["shown before its cause"] += 1
                    wanted.pop(id, None)
                    shown.pop(id, None)
        if shown != wanted:
            raise Violation(
                "a mailbox shows what the semantics table says",
                f"{where}, {identity}: {_difference(wanted, shown)}",
            )
        for message in found:
            sent = mail(message.id)
            expect(
                (message.size, message.received_at) == (sent.size, sent.received_at),
                "size and date are those of the message",
                "{}, {}: {} has {} bytes and came at {}, instead of {} and {}",
                where,
                identity,
                message.id,
                message.size,
                message.received_at,
                sent.size,
                sent.received_at,
            )

    @staticmethod
    def _counters(where: str, mailbox: MailboxId, record: Mailbox, found: list[MessageView]) -> None:
        unread = sum(not {"$seen", "$draft"} & message.keywords for message in found)
        expect(
            (record.total, record.unread) == (len(found), unread),
            "the counters count the messages",
            "{}, {}: {} and {} unread instead of {} and {}",
            where,
            mailbox.hex(),
            record.total,
            record.unread,
            len(found),
            unread,
        )

    def listed(
        self,
        machine: Machine,
        account: Account,
        clock: Clock,
        listed: Mapping[MailboxId, LivingMailbox],
        token: Clock,
    ) -> None:
        """A client was shown the list of its mailboxes."""
        self._not_older(machine, clock, token)
        self._list(machine.name, account, clock, listed)

    def _list(
        self,
        where: str,
        account: Account,
        clock: Clock,
        listed: Mapping[MailboxId, LivingMailbox],
    ) -> None:
        """The mailboxes by their names; their messages are looked at one by one."""
        history, seen = self.ledger.history(account), self.ledger.seen(account, clock)
        permitted = {m: Permitted(names, {}) for m, names in history.mailboxes(seen).items()}
        view = {}
        for id, its in listed.items():
            identity = self.ledger.identity(account, id)
            view[identity] = Shown(its.name, {})
        found = agrees(permitted, view)
        expect(bool(found), "mailboxes are what the semantics table says", f"{where}, {account}: {found}")
        for id, its in listed.items():
            role = "inbox" if its.base_name == "INBOX" else ""
            for key, shown, default in (
                ("annotation", its.annotations.get(ANNOTATION, ""), ""),
                ("other annotation", its.annotations.get(OTHER_ANNOTATION, ""), ""),
                ("subscribed", str(its.is_subscribed), "False"),
                ("role", its.role or "", role),
            ):
                self._register(where, account, clock, (id.hex(), key), shown, default)

    def _register(
        self, where: str, account: Account, clock: Clock, key: tuple[str, ...], shown: str, default: str
    ) -> None:
        """A property of the directory shows a value that nobody who had seen it has replaced."""
        last, _ = self.ledger.register(account, key, clock)
        wanted = last or [default]
        if shown not in wanted:
            what = f"{where}, {account}: {', '.join(key)}"
            permitted = " or ".join(map(repr, sorted(wanted)))
            raise Violation("a property is what was set last", f"{what}: is {shown!r}, not {permitted}")

    # When all is quiet ----------------------------------------------------------------------------------

    def settled(self, machines: list[Machine]) -> None:
        """Faults have stopped and nothing is under way: all nodes hold the same, and what they ought to."""
        heads = [machine.disk.durable().head() for machine in machines]
        for machine, head in zip(machines, heads, strict=True):
            expect(
                head.clock == heads[0].clock,
                "all nodes come to have everything",
                "{} has {}, {} has {}",
                machine.name,
                head.clock,
                machines[0].name,
                heads[0].clock,
            )
            for dot, what in self._answered.items():
                kept = head.clock.covers(dot) or self._is_lost(dot)
                expect(kept, "no answered write is lost", "{} is not on {}: {}", dot, machine.name, what)
        for machine in machines:
            self._expect_no_blame(machine)
            self._expect_used_up(machine)
        for machine in machines if self.world.is_strict else [machines[self.world.seed % len(machines)]]:
            self.recount(machine)
        for machine in machines:
            for (replica, account, mailbox), readers in self._readers.items():
                box = machine.disk.durable().mailbox(account, mailbox)
                if replica == machine.replica.id and box is not None:
                    above = box.uid_next > readers.highest
                    expect(
                        above,
                        "a UID is never given twice",
                        "{}: the next is {}, and {} was shown",
                        readers.where,
                        box.uid_next,
                        readers.highest,
                    )
        self.agree(machines)

    def agree(self, machines: list[Machine]) -> None:
        """All nodes hold the same, and it is what they ought to hold."""
        heads = [machine.disk.durable().head() for machine in machines]
        first = machines[0]
        views = [self._everything(machine, heads[0].clock) for machine in machines]
        for machine, head, view in zip(machines, heads, views, strict=True):
            same = view == views[0]
            expect(
                same == (head.digest == heads[0].digest),
                "digests are equal exactly when views are",
                f"{first.name} and {machine.name} show {'the same' if same else 'different things'}",
            )
            if not same:
                apart = _apart(first.name, views[0], machine.name, view)
                raise Violation("all nodes show the same, UIDs included", apart)

    def _everything(self, machine: Machine, clock: Clock) -> _Shown:
        """All that clients can see on a node.  One node's is held against the reference; the others' must be
        the same."""
        tables, where = machine.disk.durable(), machine.name
        is_judged = machine is self.world.members[0]
        seen: _Shown = []
        for account in self.world.config.accounts:
            listed = living_mailboxes(tables, account)
            written = scripts(tables, account)
            if is_judged:
                self.last_shown = [] if account == self.world.config.accounts[0] else self.last_shown
                self._list(where, account, clock, listed)
                self._scripts(where, account, clock, written)
            for id, its in listed.items():
                found = messages(tables, its.record, limit=EVERYTHING)
                self._counters(f"{where}, {account}", id, its.record, found)
                if is_judged:
                    self._content(f"{where}, {account}", account, id, clock, found)
                    self.last_shown += [(account, its.name, int(m.uid), m.id, m.keywords) for m in found]
                seen.append((account, its.name, id.hex(), its.role, its.is_subscribed, its.annotations))
                seen += [(account, its.name, *message[:5]) for message in found]
            seen += [(account, *script) for script in written]
        return seen

    def _scripts(self, where: str, account: Account, clock: Clock, written: list[Script]) -> None:
        active = next((script.name for script in written if script.is_active), "")
        shown = {script.name: script.content for script in written}
        chosen, _ = self.ledger.register(account, ("active",), clock)
        if active or shown.keys() >= set(chosen):  # or it was deleted while somebody else chose it
            self._register(where, account, clock, ("active",), active, "")
        for name in SCRIPTS:
            self._script(where, account, clock, ("script", name), shown.get(name, ""))

    def _script(self, where: str, account: Account, clock: Clock, key: tuple[str, ...], shown: str) -> None:
        last, ever = self.ledger.register(account, key, clock)
        where = f"{where}, {account}, {' '.join(key)}"
        if len(last) == 1:
            promise, seen = "a script is what was written last", "{}: '{}', not '{}'"
            expect(shown in last, promise, seen, where, shown, last[0])
        merged = self.ledger.merged_lines(account, key, clock)
        if merged is not None:
            self.world.reached["script written on two nodes at once"] += 1
            expect(
                set(shown.splitlines()) == merged,
                "a script written twice at once holds what both wrote",
                "{}: '{}', not the lines {}",
                where,
                shown,
                merged,
            )
        lines = {line for value in ever for line in value.splitlines()}
        promise, seen = "a script holds lines that were written", "{}: '{}', of the lines {}"
        expect(set(shown.splitlines()) <= lines, promise, seen, where, shown, lines)


def _clock_of(image: Image) -> Clock:
    store = MemoryStore()
    store.load(image)
    with store.snapshot() as snapshot:
        return Tables(snapshot).head().clock


def _apart(one: str, shown: _Shown, other: str, its: _Shown) -> str:
    """What each of two nodes shows that the other does not."""
    return "; ".join(
        f"{name} alone shows {', '.join(alone) or 'nothing'}"
        for name, alone in (
            (one, [_plain(each) for each in shown if each not in its]),
            (other, [_plain(each) for each in its if each not in shown]),
        )
    )


def _plain(shown: tuple[object, ...]) -> str:
    words = (f"[{' '.join(sorted(of))}]" if isinstance(of, frozenset) else str(of) for of in shown)
    return f"({' '.join(words)})"


def _said(found: Iterable[MessageView]) -> str:
    said = [f"{message.uid} {message.id} [{' '.join(sorted(message.keywords))}]" for message in found]
    return ", ".join(said) or "nothing"


def _difference(wanted: Mapping[str, frozenset[str]], shown: Mapping[str, frozenset[str]]) -> str:
    said = []
    for id in sorted(wanted.keys() | shown.keys()):
        if id not in shown:
            said.append(f"{id} is missing")
        elif id not in wanted:
            said.append(f"{id} should not be there")
        elif wanted[id] != shown[id]:
            has, ought = (" ".join(sorted(keywords)) for keywords in (shown[id], wanted[id]))
            said.append(f"{id} shows [{has}] instead of [{ought}]")
    return "; ".join(said)
