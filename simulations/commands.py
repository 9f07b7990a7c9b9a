"""What a user can do to a mail account, and what a client then sees of it: commands in, views out.

Owns the vocabulary that the reference model, the simulations, the rows of `docs/semantics.md` and the
random programs have in common. It must never know who performs a command, nor how a view comes about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

DELETED = "$deleted"


class Mailbox(NamedTuple):
    """The identity of a mailbox: its name at creation, and how many distinct mailboxes had vacated
    that name, as known to the replica that created it. Renaming changes the name, never this."""

    name: str
    generation: int = 0

    def __str__(self) -> str:
        return f"{self.name}#{self.generation}"


@dataclass(frozen=True)
class Create:
    name: str


@dataclass(frozen=True)
class Rename:
    mailbox: Mailbox
    to: str


@dataclass(frozen=True)
class Delete:
    mailbox: Mailbox


@dataclass(frozen=True)
class Add:
    mailbox: Mailbox
    message: str
    keywords: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Keywords:
    """One STORE: the same keywords added to and removed from all these messages."""

    mailbox: Mailbox
    messages: tuple[str, ...]
    add: frozenset[str] = frozenset()
    remove: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.add & self.remove:
            raise ValueError(f"one command both adds and removes {sorted(self.add & self.remove)}")


@dataclass(frozen=True)
class Expunge:
    mailbox: Mailbox
    messages: tuple[str, ...]


@dataclass(frozen=True)
class ExpungeDeleted:
    """IMAP's EXPUNGE: every message that shows `$deleted` at that replica now."""

    mailbox: Mailbox


@dataclass(frozen=True)
class Move:
    source: Mailbox
    target: Mailbox
    messages: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    source: Mailbox
    target: Mailbox
    messages: tuple[str, ...]


Command = Create | Rename | Delete | Add | Keywords | Expunge | ExpungeDeleted | Move | Copy


@dataclass(frozen=True)
class Shown:
    """A living mailbox as a client sees it: its name, and each message with its keywords."""

    name: str
    messages: Mapping[str, frozenset[str]]


View = Mapping[Mailbox, Shown]


def describe(view: View) -> str:
    """A view in one line, for messages of failed tests."""
    mailboxes = []
    for mailbox, shown in sorted(view.items()):
        messages = ", ".join(
            f"{message} [{' '.join(sorted(keywords))}]" if keywords else message
            for message, keywords in sorted(shown.messages.items())
        )
        mailboxes.append(f"{mailbox} as {shown.name}: {messages or 'empty'}")
    return "; ".join(mailboxes) or "no mailbox"
