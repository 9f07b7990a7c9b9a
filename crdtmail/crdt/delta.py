"""The delta, and the operations that it is made of.

A delta is the atomic unit of change and of gossip: one dot, one account, a list of operations.  The
values here say what happened; `codec` knows their bytes and `applying` what they do to the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from crdtmail.crdt.clock import Clock, Dot, ReplicaId
from crdtmail.crdt.message import MessageId, NewMessage
from crdtmail.crdt.uid import Uid

MailboxId = NewType("MailboxId", bytes)
"""16 bytes: a hash of account, name at creation, and the generation of that name."""

Account = str
"""Whose mailboxes they are, as the mail server names its user: 1-255 bytes of text."""


@dataclass(frozen=True, slots=True)
class Create:
    """The mailbox lives.  Its name comes with a `DirectoryUpdate`."""

    mailbox: MailboxId


@dataclass(frozen=True, slots=True)
class Add:
    """Messages come into a mailbox; each gets an instance named by the delta's dot.

    An addition must not overtake the creation of its mailbox: `context` covers what keeps it alive, unless a
    delta of the same origin does.
    """

    mailbox: MailboxId
    messages: tuple[NewMessage, ...]
    context: Clock


@dataclass(frozen=True, slots=True)
class Move:
    """The covered instances leave `source`, and the messages come into `target` with these keywords.

    `context` is all that the origin had applied: a keyword that it saw cleared must not seem unseen.
    """

    source: MailboxId
    target: MailboxId
    messages: tuple[NewMessage, ...]
    context: Clock


@dataclass(frozen=True, slots=True)
class Keywords:
    """Keywords are added to and removed from the covered instances of some messages."""

    mailbox: MailboxId
    messages: tuple[MessageId, ...]
    add: tuple[str, ...]
    remove: tuple[str, ...]
    context: Clock


@dataclass(frozen=True, slots=True)
class Expunge:
    """The covered instances of some messages are taken away."""

    mailbox: MailboxId
    messages: tuple[MessageId, ...]
    context: Clock


@dataclass(frozen=True, slots=True)
class Renumber:
    """The covered instances of some messages get new, higher UIDs."""

    mailbox: MailboxId
    uids: tuple[tuple[MessageId, Uid], ...]
    context: Clock


@dataclass(frozen=True, slots=True)
class DirectoryUpdate:
    """An update of the account's Yjs document; `context` covers the updates that it builds on."""

    update: bytes
    context: Clock


@dataclass(frozen=True, slots=True)
class DeleteMailbox:
    """All that `context` covers in the mailbox goes, and with it the mailbox if nothing else is there."""

    mailbox: MailboxId
    context: Clock


Operation = Create | Add | Move | Keywords | Expunge | Renumber | DirectoryUpdate | DeleteMailbox


@dataclass(frozen=True, slots=True)
class Delta:
    """One atomic change, as its origin made it."""

    dot: Dot
    account: Account
    operations: tuple[Operation, ...]

    @property
    def replica(self) -> ReplicaId:
        return self.dot.replica

    @property
    def context(self) -> Clock:
        """Everything that must have been applied before this delta can be, its predecessor apart."""
        joined = Clock()
        for operation in self.operations:
            if not isinstance(operation, Create):
                joined = joined.join(operation.context)
        return joined
