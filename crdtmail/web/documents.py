"""What the API answers, as JSON-ready values: JMAP's names and spelling (RFC 8621)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from crdtmail import views
from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.names import uid_validity
from crdtmail.errors import CannotCalculateChanges
from crdtmail.store.tables import Mailbox, Tables
from crdtmail.views import ChangesPage, LivingMailbox, MessageView, Script

encode = msgspec.json.Encoder().encode
"""A document's bytes.  A moment in UTC becomes JMAP's UTCDate (RFC 8620 section 1.4)."""


def mailbox(id: MailboxId, living: LivingMailbox) -> dict[str, Any]:
    """A mailbox as it stands in a list.  It shows no UID, so listing never makes one be renumbered."""
    return {
        "id": id.hex(),
        "name": living.name,
        "role": living.role,
        "isSubscribed": living.is_subscribed,
        "annotations": living.annotations,
        "uidValidity": uid_validity(id),
        "totalEmails": living.record.total,
        "unreadEmails": living.record.unread,
    }


def mailbox_state(
    tables: Tables,
    replica: ReplicaId,
    account: Account,
    id: MailboxId,
    box: Mailbox,
    *,
    after: int,
    limit: int,
) -> dict[str, Any]:
    """A mailbox's merged state, with one page of its messages."""
    found = views.messages(tables, box, after=after, limit=limit + 1)
    page = found[:limit]
    return {
        **mailbox(id, views.living_mailboxes(tables, account)[id]),
        "uidNext": box.uid_next,
        "state": encode_state(replica, box, views.position_now(box)),
        "messages": [message(each) for each in page],
        "hasMore": len(found) > limit,
    }


def script(script: Script) -> dict[str, Any]:
    """RFC 9661's name and isActive; `size` in bytes."""
    return {"name": script.name, "isActive": script.is_active, "size": len(script.content.encode())}


def message(view: MessageView) -> dict[str, Any]:
    return {
        "uid": view.uid,
        "id": view.id,
        "keywords": dict.fromkeys(sorted(view.keywords), True),
        "receivedAt": datetime.fromtimestamp(view.received_at, UTC),
        "size": view.size,
    }


def changes(replica: ReplicaId, box: Mailbox, page: ChangesPage) -> dict[str, Any]:
    return {
        "changed": [message(each) for each in page.changed],
        "vanished": page.vanished,
        "state": encode_state(replica, box, page.position),
        "hasMore": page.has_more,
    }


def encode_state(replica: ReplicaId, box: Mailbox, position: tuple[int, int]) -> str:
    """A place in this replica's history of a mailbox; says nothing to a client.

    A mailbox that came back after it was deleted has another number, and no memory of what vanished.
    """
    return f"{replica:016x}-{box.number:x}-{position[0]:x}-{position[1]:x}"


def decode_state(replica: ReplicaId, box: Mailbox, state: str) -> tuple[int, int]:
    """Raises CannotCalculateChanges unless this replica has given the state."""
    try:
        by, number, modseq, uid = (int(part, 16) for part in state.split("-"))
    except ValueError:
        by = number = modseq = uid = -1
    if (
        (by, number) != (replica, box.number)
        or len(state) > 64
        or not (0 <= modseq <= box.modseq and 0 <= uid < 2**32)
    ):
        raise CannotCalculateChanges("the state is not one that this node gave for this mailbox")
    return modseq, uid


def etag(tables: Tables, replica: ReplicaId, account: Account, box: Mailbox) -> str:
    """Changes whenever anything does that a mailbox's document says; read without its messages."""
    listed = tables.account(account).modseq
    return f'"{replica:016x}-{box.number:x}-{box.modseq:x}-{listed:x}"'


def clock(value: Clock) -> dict[str, int]:
    return {f"{replica:016x}": seq for replica, seq in sorted(value.items())}


def digest(value: int) -> str:
    return f"{value:016x}"


def account_digest(directory: int, mailboxes: Iterable[int]) -> int:
    """One digest for all of an account."""
    for each in mailboxes:
        directory ^= each
    return directory


def account_digests(tables: Tables, account: Account) -> dict[str, Any]:
    """The digests of an account's directory and of each mailbox, for comparison with another node."""
    directory, mailboxes = views.digests(tables, account)
    names: Mapping[MailboxId, LivingMailbox] = views.living_mailboxes(tables, account)
    return {
        "account": account,
        "digest": digest(account_digest(directory, mailboxes.values())),
        "directory": digest(directory),
        "mailboxes": [
            {"id": id.hex(), "name": names[id].name, "digest": digest(each)} for id, each in mailboxes.items()
        ],
    }
