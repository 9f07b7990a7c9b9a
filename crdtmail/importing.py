"""`crdtmail import`: a Maildir tree or an mbox into a node, through its API.

Importing again, or the same mail on another master, adds nothing twice: a message is known by its id,
and what is there already is left as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from crdtmail.client import Client, Refused
from crdtmail.errors import SourceError
from crdtmail.screen import progress
from crdtmail.sources import SourceFolder, SourceMessage, message_id, open_source

_BATCH = 1000
_SPOOLS = (Path("/var/mail"), Path("/var/spool/mail"))
"""Where an mbox file is called like its user, and is the INBOX."""


@dataclass(slots=True)
class Imported:
    """What one folder came to."""

    folder: str
    added: int = 0
    present: int = 0


def import_mail(client: Client, account: str, path: Path, *, into: str | None = None) -> list[Imported]:
    """Import every folder below `path`; an mbox file `into` that mailbox.

    Raises SourceError, Unreachable, Refused.
    """
    folders = open_source(path)
    if into is None and path.is_file() and path.absolute().parent in _SPOOLS:
        into = "INBOX"
    if into is not None:
        if not path.is_file():
            raise SourceError(f"{path}: only an mbox file goes into one mailbox; a Maildir has its own")
        folders = [replace(folder, name=into) for folder in folders]
    results = []
    with progress() as bar:
        task = bar.add_task("reading", total=sum(folder.message_count for folder in folders))
        for folder in folders:
            bar.update(task, description=folder.name)
            result = Imported(folder.name)
            results.append(result)
            _prepare(client, account, folder)
            for batch in _batches(_told_apart(folder.messages())):
                body = {"messages": [_document(message) for message in batch], "ifAbsent": True}
                added = client.at(account, folder.name, "POST", "/messages", body)["messages"]
                result.added += len(added)
                result.present += len(batch) - len(added)
                bar.advance(task, len(batch))
    return results


def _prepare(client: Client, account: str, folder: SourceFolder) -> None:
    """Make the mailbox if it is not there."""
    try:
        client.create_mailbox(account, folder.name, isSubscribed=folder.is_subscribed)
    except Refused as refusal:
        if refusal.type != "already-exists":
            raise


def _told_apart(messages: Iterable[SourceMessage]) -> Iterator[SourceMessage]:
    """Dovecot gives a copy of a message in its own folder the same GUID.  Here the second is `GUID-2`."""
    copies: Counter[str] = Counter()
    for message in messages:
        copies[message.id] += 1
        if (number := copies[message.id]) > 1:
            message = replace(message, id=message_id(f"{message.id}-{number}".encode()))
        yield message


def _batches(messages: Iterable[SourceMessage]) -> Iterator[list[SourceMessage]]:
    remaining = iter(messages)
    while batch := list(islice(remaining, _BATCH)):
        yield batch


def _document(message: SourceMessage) -> dict[str, object]:
    return {
        "id": message.id,
        "size": message.size,
        "receivedAt": datetime.fromtimestamp(message.received_at, UTC).isoformat(),
        "keywords": dict.fromkeys(sorted(message.keywords), True),
    }
