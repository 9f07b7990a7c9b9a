"""What a client may write into a request, and how it is read.  Raises RequestError with a reason."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from aiohttp import web

from crdtmail.crdt.clock import Clock
from crdtmail.crdt.codec import clock_from_plain, dump, load, plain_clock
from crdtmail.crdt.delta import MailboxId
from crdtmail.crdt.message import MessageId
from crdtmail.crdt.names import check_keyword, check_mailbox_name, check_message_id, normalised_mailbox_name
from crdtmail.errors import NotFound, PeerError, RequestError, TooLarge
from crdtmail.limits import (
    MAX_KEYWORDS_PER_MESSAGE,
    MAX_MESSAGES_PER_OPERATION,
    MAX_SIZE,
    MAX_TIME,
    MAX_TOKEN,
    MAX_UID,
    MAX_UID_RANGES,
    MAX_VALUES,
    MAX_WAIT_S,
)
from crdtmail.replica import IncomingMessage, KeywordChange, Selection
from crdtmail.web.load import BODY

T = TypeVar("T")
_UID_RANGE = re.compile(r"([1-9][0-9]{0,9})(?::([1-9][0-9]{0,9}|\*))?", re.ASCII)
_KEYWORD_PATH = "keywords/"


def json_object(request: web.Request) -> dict[str, Any]:
    """The body, which must be one JSON object."""
    given = request[BODY]
    # Whatever stands between them, each value has one of these before it.
    if sum(map(given.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise TooLarge(f"the body has more than {MAX_VALUES} values")
    try:
        body = json.loads(given, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    return as_object(body, "the body")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What programs in front of us make of a name that stands twice, nobody knows."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a property stands in it twice")
    return found


def as_object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"{what} must be a JSON object")
    return value


def only(body: Mapping[str, object], allowed: Iterable[str]) -> None:
    """Refuse what we would otherwise quietly ignore."""
    unknown = sorted(body.keys() - set(allowed))
    if unknown:
        raise RequestError(f"unknown property {unknown[0]!r}; known are {', '.join(sorted(allowed))}")


def checked(check: Callable[[object], T], value: object) -> T:
    """`value` as a `check_*` function of `names` has it."""
    try:
        return check(value)
    except ValueError as error:
        raise RequestError(str(error)) from None


def boolean(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise RequestError(f"{what} must be true or false")
    return value


def text(value: object, what: str, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise RequestError(f"{what} must be text of at most {limit} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{what} holds half a surrogate pair") from None
    return value


def label(value: object, what: str, limit: int) -> str:
    """Text that is shown in one line."""
    found = text(value, what, limit)
    if any(ord(each) < 0x20 or 0x7F <= ord(each) < 0xA0 for each in found):
        raise RequestError(f"{what} holds a control character")
    return found


def mailbox_name(value: object) -> str:
    try:
        return check_mailbox_name(normalised_mailbox_name(value) if isinstance(value, str) else value)
    except ValueError as error:
        raise RequestError(str(error)) from None


def mailbox_id(value: object) -> MailboxId:
    """32 hexadecimal digits.  Raises NotFound for anything else: no mailbox has such an id."""
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value, re.ASCII):
        return MailboxId(bytes.fromhex(value))
    raise NotFound("a mailbox is named by its id (32 hexadecimal digits) or as name:NAME")


def number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    """A whole number in the query."""
    value = request.query.get(name)
    if value is None:
        return default
    if not re.fullmatch("[0-9]{1,12}", value, re.ASCII) or not least <= int(value) <= most:
        raise RequestError(f"{name} must be a whole number from {least} to {most}")
    return int(value)


def seconds(request: web.Request, name: str, default: float) -> float:
    """A time to wait in the query, capped at the longest wait."""
    value = request.query.get(name)
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value, re.ASCII):
        raise RequestError(f"{name} must be a number of seconds")
    return min(float(value), MAX_WAIT_S)


# Tokens -------------------------------------------------------------------------------------------------


def encode_token(clock: Clock) -> str:
    """A clock as text that says nothing to a client."""
    return base64.urlsafe_b64encode(dump(plain_clock(clock))).rstrip(b"=").decode()


def decode_token(token: str) -> Clock:
    if len(token) > MAX_TOKEN:
        raise RequestError("the token is over the limit")
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        return clock_from_plain(load(base64.b64decode(padded, altchars=b"-_", validate=True)))
    except (ValueError, binascii.Error, PeerError):
        raise RequestError("the token is not one that a node gave") from None


# Messages -----------------------------------------------------------------------------------------------


def selection(body: Mapping[str, object]) -> Selection:
    """`{"ids": [...]}` or `{"uids": "1:5,9,20:*"}`."""
    if ("ids" in body) == ("uids" in body):
        raise RequestError("name the messages by either ids or uids")
    if "uids" in body:
        return Selection(uids=uid_set(body["uids"]))
    return Selection(ids=message_ids(body["ids"]))


def message_ids(value: object) -> tuple[MessageId, ...]:
    if not isinstance(value, list):
        raise RequestError("ids must be a list")
    check_count(value)
    return tuple(dict.fromkeys(checked(check_message_id, id) for id in value))


def uid_set(value: object) -> tuple[tuple[int, int], ...]:
    """An IMAP sequence set of UIDs (RFC 9051 section 9); `*` only ends a range, which it leaves open."""
    if not isinstance(value, str):
        raise RequestError('uids must be text like "1:5,9,20:*"')
    parts = value.split(",", MAX_UID_RANGES)
    if len(parts) > MAX_UID_RANGES:
        raise TooLarge(f"at most {MAX_UID_RANGES} ranges of UIDs")
    ranges = []
    for part in parts:
        match = _UID_RANGE.fullmatch(part)
        if match is None:
            raise RequestError(f"{part[:40]!r} is no UID and no range of UIDs")
        first = int(match[1])
        last = MAX_UID if match[2] == "*" else int(match[2] or first)
        if max(first, last) > MAX_UID:
            raise RequestError(f"a UID is at most {MAX_UID}")
        ranges.append((min(first, last), max(first, last)))
    return tuple(ranges)


def incoming(value: object, *, now: int, new_id: Callable[[], str]) -> list[IncomingMessage]:
    """The messages of an addition; ids that are not given are made, dates that are not given are `now`."""
    if not isinstance(value, list) or not value:
        raise RequestError("messages must be a list that is not empty")
    check_count(value)
    messages = []
    for item in value:
        item = as_object(item, "a message")
        only(item, {"id", "size", "receivedAt", "keywords"})
        size = item.get("size")
        if type(size) is not int or not 0 <= size <= MAX_SIZE:
            raise RequestError("size must be a number of bytes")
        messages.append(
            IncomingMessage(
                checked(check_message_id, item["id"] if "id" in item else new_id()),
                size,
                moment(item["receivedAt"]) if "receivedAt" in item else now,
                keyword_set(item.get("keywords", {})),
            )
        )
    if len({message.id for message in messages}) != len(messages):
        raise RequestError("a message is named twice")
    return messages


def keyword_set(value: object) -> frozenset[str]:
    """JMAP's keywords: `{"$seen": true}` (RFC 8621 section 4.1.1)."""
    keywords = as_object(value, "keywords")
    if any(given is not True for given in keywords.values()):
        raise RequestError("every keyword's value must be true")
    return _limited(frozenset(keyword(name) for name in keywords))


def keyword(name: str) -> str:
    """Keywords are taken in any case and kept in lower case (RFC 8621 section 4.1.1)."""
    return checked(check_keyword, name.lower())


def keyword_changes(body: Mapping[str, object]) -> list[KeywordChange]:
    """`{"update": {id: patch}}`, or one patch for many: `{"ids" or "uids": ..., "patch": patch}`."""
    if "update" in body:
        only(body, {"update"})
        update = as_object(body["update"], "update")
        check_count(update)
        by_patch: dict[tuple[frozenset[str], frozenset[str]], list[MessageId]] = {}
        for id, changes in update.items():
            by_patch.setdefault(patch(changes), []).append(checked(check_message_id, id))
        return [KeywordChange(Selection(ids=tuple(ids)), *change) for change, ids in by_patch.items()]
    only(body, {"ids", "uids", "patch"})
    return [KeywordChange(selection(body), *patch(body.get("patch")))]


def patch(value: object) -> tuple[frozenset[str], frozenset[str]]:
    """What `{"keywords/$seen": true, "keywords/$flagged": null}` adds and removes (RFC 8620 section 5.3)."""
    add: set[str] = set()
    remove: set[str] = set()
    changes = as_object(value, "a patch")
    if not changes:
        raise RequestError("the patch is empty")
    for path, to in changes.items():
        if not path.startswith(_KEYWORD_PATH):
            raise RequestError(f"{path!r} cannot be patched, only keywords/NAME can")
        if to is not None and to is not True:
            raise RequestError(f"{path!r} can be set to true, or to null to remove it")
        # JSON pointers write "~" as "~0" and "/" as "~1" (RFC 6901).
        name = keyword(path.removeprefix(_KEYWORD_PATH).replace("~1", "/").replace("~0", "~"))
        (add if to else remove).add(name)
    if add & remove:
        raise RequestError("a keyword is both set and removed")
    return _limited(frozenset(add)), _limited(frozenset(remove))


def moment(value: object) -> int:
    """Seconds since 1970 of a date with a time zone (RFC 3339)."""
    try:
        if not isinstance(value, str) or len(value) > 40:
            raise ValueError
        date = datetime.fromisoformat(value)
        if date.tzinfo is None:
            raise ValueError
        at = int(date.timestamp())
        if not 0 <= at <= MAX_TIME:
            raise ValueError
    except (ValueError, OverflowError):
        raise RequestError('receivedAt must be like "2026-11-24T06:51:41Z", from 1970 on') from None
    return at


def check_count(value: list[Any] | dict[str, Any]) -> None:
    if len(value) > MAX_MESSAGES_PER_OPERATION:
        raise TooLarge(f"at most {MAX_MESSAGES_PER_OPERATION} messages at once")


def _limited(keywords: frozenset[str]) -> frozenset[str]:
    if len(keywords) > MAX_KEYWORDS_PER_MESSAGE:
        raise TooLarge(f"at most {MAX_KEYWORDS_PER_MESSAGE} keywords at once")
    return keywords
