"""What a change does to an account, once it is clear what its origin saw.

Owns the record of it, which is final: nothing that is learnt later alters a change. A message can arrive in
a mailbox more than once. Each arrival is named by the change that brought it, has keywords of its own and is
taken away on its own.
"""

from __future__ import annotations

from typing import NamedTuple

from simulations.commands import Mailbox


class Created(NamedTuple):
    mailbox: Mailbox


class Renamed(NamedTuple):
    mailbox: Mailbox
    to: str
    vacated: frozenset[str]  # The name given up; several where nobody said which.


class Deleted(NamedTuple):
    mailbox: Mailbox
    vacated: frozenset[str]


class Arrived(NamedTuple):
    mailbox: Mailbox
    message: str
    keywords: frozenset[str]


class Edited(NamedTuple):
    mailbox: Mailbox
    message: str
    arrivals: int  # The set of those that are meant: a move's follow-up means one of perhaps several.
    add: frozenset[str]
    remove: frozenset[str]


class Left(NamedTuple):
    mailbox: Mailbox
    message: str
    moved_to: Mailbox | None = None


Effect = Created | Renamed | Deleted | Arrived | Edited | Left


class Change(NamedTuple):
    origin: str
    seen: int  # The set of the changes that the origin had seen: bit i stands for change i.
    effects: tuple[Effect, ...]
