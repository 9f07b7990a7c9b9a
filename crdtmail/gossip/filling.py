"""A node gets from another one's snapshot what no log holds for it any more.

Compare digests, by account, by mailbox, by block of UIDs; fetch the blocks that differ, and stage them; merge
them all in one transaction.  A node that is killed meanwhile compares again, and finds what it had staged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from crdtmail import views
from crdtmail.crdt.clock import Clock
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.directory import Directory
from crdtmail.effects import Kind, Steps, call, compute, persist, read
from crdtmail.errors import PeerError, Refusal
from crdtmail.gossip.messages import Position
from crdtmail.gossip.snapshot import (
    AskAccounts,
    AskBlocks,
    AskDetails,
    AskMessages,
    Begin,
    Begun,
    Blocks,
    Details,
    End,
    Messages,
    Request,
    TheirMailbox,
    UidRange,
    decode_accounts,
    decode_begun,
    decode_blocks,
    decode_details,
    decode_messages,
    encode_request,
    joined,
)
from crdtmail.limits import MAX_ACCOUNTS_PER_ANSWER, MAX_RANGES_PER_QUESTION, MAX_UID, SNAPSHOT_S
from crdtmail.replica import Attempt, Replica
from crdtmail.staging import Wanted, check_staged, expect_mailbox, forget_blocks, stage
from crdtmail.store.interface import Transaction
from crdtmail.store.tables import BLOCK, Mailbox, StagedDirectory, Tables, WritableTables

_ATTEMPTS = 5  # at a merge: a reader may make new UIDs meanwhile, once in each mailbox
_MAILBOXES_AT_ONCE = 500


@dataclass(slots=True)
class Filling:
    """How far it is.  `messages` counts all that the other replica has, `staged` what has come of them,
    `directories` the documents that have come; `bytes` are those of all questions and answers."""

    peer: str
    began: float
    messages: int = 0
    staged: int = 0
    directories: int = 0
    bytes: int = 0
    took_s: float = 0.0
    attempt: Attempt = field(default_factory=Attempt)


_Planned = tuple[Wanted, tuple[UidRange, ...]]
"""A mailbox, and the UIDs whose messages have to be fetched."""


def fill(
    replica: Replica,
    address: str,
    filling: Filling,
    *,
    hear: Callable[[Position], Steps[None]],
    now: Callable[[], float],
    is_repair: bool,
) -> Steps[Position]:
    """Take over what the replica at `address` has; gives its position, which is now included here, or after a
    repair all that it has.

    `hear` is told that position before anything is compared with it.  It is a repair also where that position
    shows two states with one clock.  Raises PeerError, with nothing merged; what was staged serves the next
    attempt.
    """
    asking = _Asking(address, filling, now)
    began = decode_begun((yield from asking.ask(Begin())))
    yield from hear(began.position)
    filling.messages = began.messages
    theirs, attempt = began.position.clock, filling.attempt
    # Deltas may have been faster; but where ids are in doubt, a clock does not tell.
    head, doubts = yield from read(lambda tables: (tables.head(), tables.doubts()))
    is_repair |= began.position.contradicts(head.clock, head.digest)
    is_over = head.clock.includes(theirs) and not doubts and not is_repair
    for _ in range(_ATTEMPTS):
        if is_over:
            break
        comparison = yield from persist(lambda txn: replica.compare(txn, attempt))
        yield from _Comparison(replica, asking, began, comparison).run()
        is_over = yield from persist(
            lambda txn, at=comparison: replica.merge(txn, attempt, at, theirs, is_repair=is_repair)  # type: ignore[misc]
        )
    if not is_over:
        raise PeerError(
            "readers here made new UIDs faster than a snapshot could be compared", Refusal.NOT_NOW
        )
    attempt.is_on = False
    with suppress(PeerError):  # who does not hear that we are done finds out by itself
        yield from asking.ask(End(began.snapshot))
    return began.position


class _Asking:
    def __init__(self, address: str, filling: Filling, now: Callable[[], float]) -> None:
        self._address = address
        self._now = now
        self.filling = filling

    def ask(self, request: Request) -> Steps[bytes]:
        if self._now() - self.filling.began > SNAPSHOT_S:
            raise PeerError("taking over the snapshot took too long")
        question = encode_request(request)
        reply = yield from call(self._address, Kind.SNAPSHOT, question)
        self.filling.bytes += len(question) + len(reply.body)
        return reply.body


class _Comparison:
    """One pass over everything, on one snapshot."""

    def __init__(self, replica: Replica, asking: _Asking, began: Begun, number: int) -> None:
        self._replica = replica
        self._asking = asking
        self._snapshot = began.snapshot
        self._clock = began.position.clock
        self._number = number

    def run(self) -> Steps[None]:
        after, has_more = "", True
        while has_more:
            answer = yield from self._asking.ask(AskAccounts(self._snapshot, after))
            digests, has_more = yield from compute(partial(decode_accounts, answer))
            if digests and digests[0][0].encode() <= after.encode():
                raise PeerError("a peer tells of accounts again, which has no end", Refusal.NOT_ASKED)
            there = dict(digests)
            last = digests[-1][0] if has_more else None
            here = yield from self._accounts_here(after, last)
            both = sorted(there.keys() | here.keys(), key=str.encode)
            differing = [account for account in both if there.get(account) != here.get(account)]
            while differing:
                differing = differing[(yield from self._accounts(differing)) :]
            after = last or ""

    def _accounts_here(self, after: Account, last: Account | None) -> Steps[dict[Account, int]]:
        found: dict[Account, int] = {}
        while True:
            page = yield from read(_account_keys(after, last))
            found.update(page)
            if len(page) < MAX_ACCOUNTS_PER_ANSWER:
                return found
            after = page[-1][0]

    def _accounts(self, accounts: Sequence[Account]) -> Steps[int]:
        """Compare the first of these accounts, as many as one answer tells of; how many those were."""
        asked = accounts[:MAX_ACCOUNTS_PER_ANSWER]
        keys, staged = yield from read(_directory_keys(asked))
        answer = yield from self._asking.ask(AskDetails(self._snapshot, keys))
        details = yield from compute(partial(decode_details, answer))
        if not details or [each.account for each in details] != list(asked[: len(details)]):
            raise PeerError("the peer tells of other accounts than it was asked about", Refusal.NOT_ASKED)
        for each in details:
            if each.document:
                yield from self._stage_directory(each.account, each)
            elif each.account in staged:
                yield from self._keep_directory(each.account)
        wanted, known = yield from read(lambda tables: _differing(tables, details))
        for some in _in_turn(wanted, _MAILBOXES_AT_ONCE):
            yield from self._mailboxes(some, known)
        return len(details)

    def _stage_directory(self, account: Account, details: Details) -> Steps[None]:
        document = details.document
        assert document
        if not self._clock.includes(details.clock):
            raise PeerError("a directory holds what its replica has not seen", Refusal.IMPOSSIBLE)
        directory = Directory(b"", self._replica.id)
        content = yield from compute(lambda: directory.merge(document))  # or it is refused, not at the merge
        key = views.key_of_directory(account, content, details.clock)
        staged = StagedDirectory(self._number, details.clock, key, document)
        yield from persist(lambda txn: WritableTables(txn).put_staged_directory(account, staged))
        self._asking.filling.directories += 1

    def _keep_directory(self, account: Account) -> Steps[None]:
        """An earlier attempt has staged it, and it is still the same there."""

        def keep(txn: Transaction) -> None:
            tables = WritableTables(txn)
            staged = tables.staged_directory(account)
            assert staged is not None, "nobody else takes it away"
            tables.put_staged_directory(account, staged._replace(comparison=self._number))

        yield from persist(keep)

    def _mailboxes(self, wanted: Sequence[Wanted], known: set[tuple[Account, MailboxId]]) -> Steps[None]:
        """Stage what differs in these mailboxes: by block, where something is here or staged of them."""
        by_block = [each for each in wanted if (each.account, each.mailbox) in known and each.blocks is None]
        blocks: dict[tuple[Account, MailboxId], Blocks] = {}
        while len(blocks) < len(by_block):
            asked = tuple((each.account, each.mailbox) for each in by_block[len(blocks) :])
            answer = yield from self._asking.ask(AskBlocks(self._snapshot, asked))
            found = yield from compute(partial(decode_blocks, answer))
            if not found:
                raise PeerError("the peer tells of no mailbox that it was asked about", Refusal.NOT_ASKED)
            blocks |= dict(zip(asked, found, strict=False))
        plan = yield from persist(lambda txn: self._plan(txn, wanted, blocks))
        for part in _questions(plan):
            yield from self._fetch(part)
        yield from persist(lambda txn: self._check(txn, wanted, blocks))

    def _plan(
        self, txn: Transaction, wanted: Sequence[Wanted], blocks: dict[tuple[Account, MailboxId], Blocks]
    ) -> list[_Planned]:
        """Take note of what differs; what has to be fetched of it."""
        tables = WritableTables(txn)
        plan: list[_Planned] = []
        for each in wanted:
            told = blocks.get((each.account, each.mailbox))
            there = None if told is None else dict(told)
            box = tables.mailbox(each.account, each.mailbox)
            if there is not None and box is not None:
                here = {known.block: known.digest for known in tables.ranges(box.number)}
                differing = sorted(b for b in there.keys() | here.keys() if there.get(b) != here.get(b))
                each = each._replace(blocks=differing)
            if each.blocks is not None and box is not None:
                _check_alive(tables, box, each, self._clock)
            expect_mailbox(tables, self._number, each)
            staged = tables.staged_mailbox(each.account, each.mailbox)
            assert staged is not None
            if there is None:
                if each.blocks is None:
                    plan.append((each, ((0, MAX_UID),)))
                continue
            have = {known.block: known.digest for known in tables.ranges(staged.number)}
            asked = there.keys() if each.blocks is None else there.keys() & set(each.blocks)
            lacking = sorted(block for block in asked if have.get(block) != there[block])
            wrong = [block for block, digest in have.items() if there.get(block) != digest]
            forget_blocks(tables, each.account, each.mailbox, wrong)
            if lacking:
                plan.append((each, joined((b * BLOCK, b * BLOCK + BLOCK - 1) for b in lacking)))
        return plan

    def _fetch(self, plan: list[_Planned]) -> Steps[None]:
        while plan:
            asked = tuple((each.account, each.mailbox, ranges) for each, ranges in plan)
            answer = yield from self._asking.ask(AskMessages(self._snapshot, asked))
            messages = yield from compute(partial(decode_messages, answer))
            _check_answer(plan, messages, self._clock)
            self._asking.filling.staged += yield from persist(_keeping(plan, messages))
            if messages.rest is None:
                return
            place, uid = messages.rest
            each, ranges = plan[place]
            left = tuple((max(first, uid), last) for first, last in ranges if last >= uid)
            plan = [(each, left), *plan[place + 1 :]]

    def _check(
        self, txn: Transaction, wanted: Sequence[Wanted], blocks: dict[tuple[Account, MailboxId], Blocks]
    ) -> None:
        """Raises PeerError if what has come is not what was announced."""
        tables = WritableTables(txn)
        for each in wanted:
            staged = tables.staged_mailbox(each.account, each.mailbox)
            assert staged is not None
            there = dict(blocks.get((each.account, each.mailbox), ()))
            announced = {block: there.get(block, 0) for block in staged.blocks or ()}
            if not check_staged(tables, each.account, each.mailbox, announced):
                raise PeerError(
                    "a peer's snapshot holds other messages than it announced", Refusal.IMPOSSIBLE
                )


def _questions(plan: Sequence[_Planned]) -> Iterator[list[_Planned]]:
    """The plan in parts, none of which has more ranges than fit one question."""
    part: list[_Planned] = []
    room = MAX_RANGES_PER_QUESTION
    for each, ranges in plan:
        while ranges:
            taken, ranges = ranges[:room], ranges[room:]
            part.append((each, taken))
            room -= len(taken)
            if room == 0:
                yield part
                part, room = [], MAX_RANGES_PER_QUESTION
    if part:
        yield part


def _keeping(plan: Sequence[_Planned], messages: Messages) -> Callable[[Transaction], int]:
    def keep(txn: Transaction) -> int:
        for place, elements in messages.found:
            if elements:
                stage(WritableTables(txn), plan[place][0].account, plan[place][0].mailbox, elements)
        return sum(len(elements) for _, elements in messages.found)

    return keep


def _directory_keys(
    accounts: Sequence[Account],
) -> Callable[[Tables], tuple[tuple[tuple[Account, int], ...], set[Account]]]:
    """The key of each account's directory, and the accounts where it is that of one that is staged."""

    def query(tables: Tables) -> tuple[tuple[tuple[Account, int], ...], set[Account]]:
        staged = {account: tables.staged_directory(account) for account in accounts}
        keys = tuple(
            (account, views.directory_key(tables, account) if each is None else each.key)
            for account, each in staged.items()
        )
        return keys, {account for account, each in staged.items() if each is not None}

    return query


def _account_keys(after: Account, last: Account | None) -> Callable[[Tables], list[tuple[Account, int]]]:
    return lambda tables: views.account_keys(tables, after, last, MAX_ACCOUNTS_PER_ANSWER)


def _differing(
    tables: Tables, details: Iterable[Details]
) -> tuple[list[Wanted], set[tuple[Account, MailboxId]]]:
    """The mailboxes that are not the same here, and those of them of which there is something here."""
    wanted: list[Wanted] = []
    known: set[tuple[Account, MailboxId]] = set()
    for account, _, _, mailboxes in details:
        here = dict(tables.mailboxes(account))
        there = {box.id: box for box in mailboxes}
        for mailbox in sorted(here.keys() | there.keys()):
            record = here.get(mailbox)
            told = there.get(mailbox) or TheirMailbox(mailbox, Clock(), 0, 1)
            is_same = record is not None and mailbox in there and record.digest == told.digest
            if record is None or not is_same or record.uid_next < told.uid_next:
                wanted.append(Wanted(account, *told, [] if is_same else None))
                staged = tables.staged_mailbox(account, mailbox)
                if record is not None or (staged is not None and staged.total):
                    known.add((account, mailbox))
    return wanted, known


def _check_answer(plan: Sequence[_Planned], messages: Messages, clock: Clock) -> None:
    """Raises PeerError unless these are messages that were asked for, in order, of a replica at `clock`."""
    at: tuple[int, int, str] = (-1, 0, "")
    for place, elements in messages.found:
        if not at[0] < place < len(plan):
            raise PeerError("a peer answers what it was not asked", Refusal.NOT_ASKED)
        at = (place, 0, "")
        ranges: Iterator[tuple[int, int]] = iter(plan[place][1])
        first, last = next(ranges)
        for element in elements:
            uid, id, message = int(element.uid), str(element.id), element.message
            while uid > last:
                first, last = next(ranges, (MAX_UID + 1, MAX_UID + 1))
            if uid < first or (place, uid, id) <= at:
                raise PeerError(
                    "a peer sends messages that it was not asked for, or out of order", Refusal.NOT_ASKED
                )
            at = (place, uid, id)
            for instance in message.instances:
                dots = (instance.dot, *(dot for dots in instance.keywords.values() for dot in dots))
                if not all(map(clock.covers, dots)):
                    raise PeerError("a message holds what its replica has not seen", Refusal.IMPOSSIBLE)
    if messages.rest is not None:
        place, uid = messages.rest
        if not (at[0] >= 0 and at[2] and (place, uid) > at[:2] and place < len(plan)):
            raise PeerError("a peer stops before it has answered anything", Refusal.NOT_ASKED)
        if uid > plan[place][1][-1][1]:
            raise PeerError("a peer stops beyond what it was asked for", Refusal.NOT_ASKED)


def _check_alive(tables: Tables, box: Mailbox, wanted: Wanted, clock: Clock) -> None:
    """Raises PeerError if the mailbox lost what keeps it alive, to a replica at `clock`, while it keeps
    messages that this replica says to have, too."""
    if all(wanted.alive[replica] >= seq or clock[replica] < seq for replica, seq in box.alive.items()):
        return
    differing = set(wanted.blocks or ())
    for each in tables.ranges(box.number):
        if each.block in differing:
            continue  # what they have there comes, and is looked at then
        for _, _, stored in tables.block(box.number, each.block):
            if not all(wanted.alive.covers(instance.dot) for instance in stored.message.instances):
                raise PeerError("a mailbox is not kept alive by a message in it", Refusal.IMPOSSIBLE)


def _in_turn(items: Sequence[Wanted], size: int) -> Iterator[Sequence[Wanted]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
