"""What is asked and answered about a snapshot, and its bytes: `docs/protocol.md` has the conversation.

Every body is one CBOR value with its checksum behind it.  Decoding raises PeerError and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from crdtmail.crdt.clock import Clock
from crdtmail.crdt.codec import plain_clock, read, without_checksum
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.message import UNDELETED, Message, MessageId
from crdtmail.crdt.names import check_account, check_keyword, check_message_id
from crdtmail.crdt.uid import Uid
from crdtmail.errors import PeerError, Refusal
from crdtmail.gossip.codec import clock_of, plain_position, position_from_plain, sealed
from crdtmail.gossip.messages import Position
from crdtmail.limits import MAX_SEQ, MAX_SIZE, MAX_TIME, MAX_UID
from crdtmail.staging import Element
from crdtmail.store.tables import BLOCK, encode_instances

_Replica = Annotated[int, Meta(ge=0)]  # an integer of MessagePack has at most 64 bits
_Dot = tuple[_Replica, Annotated[int, Meta(gt=0, le=MAX_SEQ)]]


class _Strict(NamedTuple):
    """An `Instance` with its bounds, which the decoder sees to."""

    dot: _Dot
    uid: Annotated[int, Meta(gt=0, le=MAX_UID)]
    size: Annotated[int, Meta(ge=0, le=MAX_SIZE)]
    received_at: Annotated[int, Meta(ge=0, le=MAX_TIME)]
    keywords: dict[str, tuple[_Dot, ...]]
    is_moved: bool


_Block = Annotated[int, Meta(ge=0, le=MAX_UID // BLOCK)]
_NextUid = Annotated[int, Meta(gt=0, le=MAX_UID + 1)]
_STRICT = msgspec.msgpack.Decoder(tuple[_Strict, ...]).decode
UidRange = tuple[int, int]

BEGIN, ACCOUNTS, DETAILS, BLOCKS, MESSAGES, END = range(6)


@dataclass(frozen=True, slots=True)
class Begin:
    """Hold a snapshot for me."""


@dataclass(frozen=True, slots=True)
class Begun:
    """It is held under this number; where the replica stood, and how many messages there are."""

    snapshot: int
    position: Position
    messages: int


@dataclass(frozen=True, slots=True)
class AskAccounts:
    snapshot: int
    after: Account


class Accounts(NamedTuple):
    """Accounts in order, each with the digest of all that is in it."""

    digests: tuple[tuple[Account, int], ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class AskDetails:
    """Each account with the digest of its directory here."""

    snapshot: int
    accounts: tuple[tuple[Account, int], ...]


class TheirMailbox(NamedTuple):
    """A mailbox, what keeps it alive, its digest, and the lowest UID above all that are used up."""

    id: MailboxId
    alive: Clock
    digest: int
    uid_next: int


class Details(NamedTuple):
    """One account: the clock of its directory, the document if it differs, its mailboxes."""

    account: Account
    clock: Clock
    document: bytes | None
    mailboxes: tuple[TheirMailbox, ...]


@dataclass(frozen=True, slots=True)
class AskBlocks:
    snapshot: int
    mailboxes: tuple[tuple[Account, MailboxId], ...]


Blocks = tuple[tuple[int, int], ...]
"""Of one mailbox: block of UIDs, digest."""


@dataclass(frozen=True, slots=True)
class AskMessages:
    """The messages of mailboxes that lie in these ranges of UIDs, which ascend."""

    snapshot: int
    wanted: tuple[tuple[Account, MailboxId, tuple[UidRange, ...]], ...]


class Messages(NamedTuple):
    """As many as fit: by place in the question; `rest` is where it stopped, a place and the next UID."""

    found: tuple[tuple[int, tuple[Element, ...]], ...]
    rest: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class End:
    """Thank you."""

    snapshot: int


Request = Begin | AskAccounts | AskDetails | AskBlocks | AskMessages | End


def encode_request(request: Request) -> bytes:
    """`[what, snapshot, ...]`"""
    match request:
        case Begin():
            return sealed([BEGIN])
        case AskAccounts(snapshot, after):
            return sealed([ACCOUNTS, snapshot, after])
        case AskDetails(snapshot, accounts):
            return sealed([DETAILS, snapshot, accounts])
        case AskBlocks(snapshot, mailboxes):
            return sealed([BLOCKS, snapshot, mailboxes])
        case AskMessages(snapshot, wanted):
            return sealed([MESSAGES, snapshot, wanted])
        case End(snapshot):
            return sealed([END, snapshot])


def decode_request(data: bytes) -> Request:
    """Accounts and mailboxes are checked: what nobody can have is not looked for."""
    asked = _opened(data)
    if type(asked) is not list or not asked or type(asked[0]) is not int:  # 0.0 and false equal 0
        raise PeerError("nobody can ask that about a snapshot")
    match asked:
        case [0]:
            return Begin()
        case [1, *rest]:
            snapshot, after = _convert(rest, tuple[int, str])
            return AskAccounts(snapshot, after and _checked(check_account, after))
        case [2, *rest]:
            snapshot, accounts = _convert(rest, tuple[int, tuple[tuple[str, int], ...]])
            return AskDetails(snapshot, tuple((_checked(check_account, a), key) for a, key in accounts))
        case [3, *rest]:
            snapshot, mailboxes = _convert(rest, tuple[int, tuple[tuple[str, bytes], ...]])
            return AskBlocks(snapshot, tuple((_checked(check_account, a), _id(m)) for a, m in mailboxes))
        case [4, *rest]:
            kind = tuple[int, tuple[tuple[str, bytes, tuple[tuple[int, int], ...]], ...]]
            snapshot, wanted = _convert(rest, kind)
            return AskMessages(
                snapshot, tuple((_checked(check_account, a), _id(m), _ranges(r)) for a, m, r in wanted)
            )
        case [5, *rest]:
            (snapshot,) = _convert(rest, tuple[int])
            return End(snapshot)
    raise PeerError("nobody can ask that about a snapshot")


def encode_numbered(number: int, body: bytes) -> bytes:
    """`[number, body]`: a question in answer to an offer, and the answer to that question."""
    return sealed([number, body])


def decode_numbered(data: bytes) -> tuple[int, bytes]:
    number, body = _convert(_opened(data), tuple[int, bytes])
    return number, body


def encode_begun(begun: Begun) -> bytes:
    """`[snapshot, position, messages]`"""
    return sealed([begun.snapshot, plain_position(begun.position), begun.messages])


def decode_begun(data: bytes) -> Begun:
    snapshot, position, messages = _convert(_opened(data), tuple[int, Any, int])
    return Begun(snapshot, position_from_plain(position), messages)


def encode_accounts(accounts: Accounts) -> bytes:
    """`[[account, digest] ..., has more]`"""
    return sealed([accounts.digests, accounts.has_more])


def decode_accounts(data: bytes) -> Accounts:
    digests, has_more = _convert(_opened(data), tuple[tuple[tuple[str, int], ...], bool])
    names = [_checked(check_account, account) for account, _ in digests]
    if names != sorted(set(names), key=str.encode) or (has_more and not names):
        raise PeerError("accounts come in order, each once")
    for _, digest in digests:
        _digest(digest)
    return Accounts(digests, has_more)


def encode_details(details: Sequence[Details]) -> bytes:
    """`[[account, clock, document or null, [[mailbox, alive, digest, next UID] ...]] ...]`"""
    return sealed(
        [
            [
                each.account,
                plain_clock(each.clock),
                each.document,
                [[box.id, plain_clock(box.alive), box.digest, box.uid_next] for box in each.mailboxes],
            ]
            for each in details
        ]
    )


def decode_details(data: bytes) -> list[Details]:
    kind = list[tuple[str, Any, bytes | None, list[tuple[bytes, Any, int, _NextUid]]]]
    found = []
    for account, clock, document, mailboxes in _convert(_opened(data), kind):
        boxes = tuple(
            TheirMailbox(_id(id), clock_of(alive), _digest(digest), uid)
            for id, alive, digest, uid in mailboxes
        )
        if len({box.id for box in boxes}) != len(boxes) or not all(box.alive for box in boxes):
            raise PeerError("a mailbox is told of once, and with what keeps it alive")
        found.append(Details(_checked(check_account, account), clock_of(clock), document, boxes))
    return found


def encode_blocks(blocks: Sequence[Blocks]) -> bytes:
    """`[[[block, digest] ...] ...]`, a list a mailbox"""
    return sealed(blocks)


def decode_blocks(data: bytes) -> list[Blocks]:
    found: list[Blocks] = _convert(_opened(data), list[tuple[tuple[_Block, int], ...]])
    for blocks in found:
        for _, digest in blocks:
            _digest(digest)
    return found


def encode_messages(
    found: Sequence[tuple[int, Sequence[tuple[Uid, MessageId, bytes]]]], rest: tuple[int, int] | None
) -> bytes:
    """`[[[place, [[uid, id, instances] ...]] ...], [place, uid] or null]`"""
    return sealed([found, rest])


def decode_messages(data: bytes) -> Messages:
    kind = tuple[list[tuple[int, list[tuple[int, str, bytes]]]], tuple[int, int] | None]
    found, rest = _convert(_opened(data), kind)
    return Messages(
        tuple((place, tuple(_element(*element) for element in elements)) for place, elements in found), rest
    )


def _element(uid: int, id: str, body: bytes) -> Element:
    """A message as its replica keeps it.  Every value in it is checked as that of a delta is."""
    try:
        message = Message(_STRICT(body))  # type: ignore[arg-type]
        instances = message.instances
        if encode_instances(message) != body or not instances:
            raise ValueError("a record is not in its one encoding")
        if len(instances) > 1 and any(a.dot >= b.dot for a, b in pairwise(instances)):
            raise ValueError("instances are in order, each once")
        for instance in instances:
            for keyword, dots in instance.keywords.items():
                _known_keyword(keyword)
                if not dots:
                    raise ValueError("a keyword has dots")
        if message.uid != uid:
            raise ValueError("a message stands under its UID")
        return Element(Uid(uid), check_message_id(id), body, message)
    except (ValueError, msgspec.MsgspecError) as error:
        raise PeerError(f"a snapshot holds a message that cannot be: {error}", Refusal.IMPOSSIBLE) from error


@lru_cache(maxsize=4096)
def _known_keyword(keyword: str) -> None:
    if keyword != UNDELETED:
        check_keyword(keyword)


def _digest(value: int) -> int:
    if not 0 <= value < 2**64:
        raise PeerError("a digest has 64 bits")
    return value


def _id(value: bytes) -> MailboxId:
    if len(value) != 16:
        raise PeerError("a mailbox's id has 16 bytes")
    return MailboxId(value)


def _ranges(value: tuple[UidRange, ...]) -> tuple[UidRange, ...]:
    last = -1
    for first, end in value:
        if not last < first <= end <= MAX_UID:
            raise PeerError("ranges of UIDs ascend")
        last = end
    return value


def _checked(check: Any, value: Any) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise PeerError(str(error)) from error


def _convert(value: object, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise PeerError(f"that is not how one speaks about a snapshot: {error}") from error


def _opened(data: bytes) -> Any:
    return read(without_checksum(data))


ENDED = sealed(None)
"""The answer to `End`."""


def joined(ranges: Iterable[UidRange]) -> tuple[UidRange, ...]:
    """The same ranges, those in one where they touch."""
    found: list[UidRange] = []
    for first, last in ranges:
        if found and found[-1][1] + 1 == first:
            found[-1] = found[-1][0], last
        else:
            found.append((first, last))
    return tuple(found)
