"""What can happen in a run: everything that clients do, and everything that goes wrong.  Plain data.

An `Event` is an action at a time.  Actions name nodes, clients, mailboxes and messages by name; one that does
not apply when its time comes (its node is down, there is no such mailbox) does nothing, so every subset of a
schedule is a schedule.  What the actions do is the world's business.
"""

from __future__ import annotations

import msgspec
from msgspec import structs


class Action(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """One thing that happens."""


# Mail arrives -------------------------------------------------------------------------------------------


class Deliver(Action, frozen=True):
    """New mail comes in at a node, which makes the mailbox first if it has none of that name."""

    node: str
    messages: tuple[str, ...]
    mailbox: str = "INBOX"
    keywords: tuple[str, ...] = ()
    account: str = "alice"
    ack: int = 0
    """Wait until that many other nodes have it."""
    wants_uids: bool = False
    """Have the UIDs told (RFC 4315's APPENDUID), which shows them."""


class Import(Action, frozen=True):
    """As `Deliver`, but what is there already is left as it is."""

    node: str
    messages: tuple[str, ...]
    mailbox: str = "INBOX"
    account: str = "alice"


# Clients ------------------------------------------------------------------------------------------------
# A client has an account, a node that it talks to, a token of the last that it was told, and the view of the
# mailbox that it read last.  It is made when it is first named, by `Connect`.


class Connect(Action, frozen=True):
    """A client turns to a node, with its token if it has one: the first time, or to fail over."""

    client: str
    node: str
    account: str = "alice"


class Look(Action, frozen=True):
    """A client reads a mailbox: it is shown UIDs."""

    client: str
    mailbox: str = "INBOX"


class Follow(Action, frozen=True):
    """A client brings the copy of the mailbox that it read last up to date, by what changed since."""

    client: str


class List(Action, frozen=True):
    """A client lists the mailboxes."""

    client: str


class Mark(Action, frozen=True):
    """A client adds and removes keywords on a part of what it read last, from one fraction to another."""

    client: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    part: tuple[float, float] = (0.0, 1.0)
    by_uid: bool = True
    """By the UIDs that it was shown, where these are valid; else by message ids."""


class Expunge(Action, frozen=True):
    """A client expunges a part of what it read last; without a part, all that shows `$deleted`."""

    client: str
    part: tuple[float, float] | None = None
    by_uid: bool = True
    """By the UIDs that it was shown, where these are valid; else by message ids."""


class Move(Action, frozen=True):
    """A client moves a part of what it read last to another mailbox."""

    client: str
    to: str
    part: tuple[float, float] = (0.0, 1.0)
    by_uid: bool = True
    """By the UIDs that it was shown, where these are valid; else by message ids."""


class Copy(Action, frozen=True):
    """A client copies a part of what it read last to another mailbox."""

    client: str
    to: str
    part: tuple[float, float] = (0.0, 1.0)
    by_uid: bool = True
    """By the UIDs that it was shown, where these are valid; else by message ids."""


class CreateMailbox(Action, frozen=True):
    """A client makes a mailbox, perhaps with a role (`archive`, `sent` and the like)."""

    client: str
    name: str
    role: str | None = None


class RenameMailbox(Action, frozen=True):
    """A client renames a mailbox, and those below it."""

    client: str
    name: str
    to: str


class DeleteMailbox(Action, frozen=True):
    """A client deletes a mailbox with all that it shows."""

    client: str
    name: str


class Annotate(Action, frozen=True):
    """A client sets an annotation of a mailbox, its subscription, its role (`""`: none)."""

    client: str
    mailbox: str
    value: str = ""
    subscribed: bool | None = None
    role: str | None = None


class PutScript(Action, frozen=True):
    """A client writes the lines of a Sieve script, and makes it the active one or not."""

    client: str
    lines: tuple[str, ...]
    active: bool = True
    name: str = "main"


class DeleteScript(Action, frozen=True):
    """A client deletes a Sieve script, which must not be the active one."""

    client: str
    name: str = "main"


# Nodes --------------------------------------------------------------------------------------------------


class Crash(Action, frozen=True):
    """A node dies: `now`, or at the next boundary of its effects that has this name.

    `before persist`, `in persist` (what of the commit reached the disk is chance), `after persist` (nobody
    was told yet), `before send`, `in recovery` (the next time that it starts).
    """

    node: str
    when: str = "now"


class Start(Action, frozen=True):
    """A node that is down starts; the first time, on an empty disk."""

    node: str


class Install(Action, frozen=True):
    """A node is stopped, and started with a program that speaks this version of the protocol at most."""

    node: str
    protocol: int


class Leave(Action, frozen=True):
    """A node stops for good."""

    node: str


class Retire(Action, frozen=True):
    """An operator tells a node that another one is gone for good, whether it is or not."""

    node: str
    other: str


class Pause(Action, frozen=True):
    """A node stands still (SIGSTOP, a virtual machine that is moved), then goes on as if nothing had been."""

    node: str
    seconds: float


class Slow(Action, frozen=True):
    """Whatever a node does takes so many times as long from now on."""

    node: str
    factor: float


class SetClock(Action, frozen=True):
    """A node's wall clock jumps by so many seconds; `frozen`, it stands still from then on."""

    node: str
    by: float = 0.0
    frozen: bool = False


class Drift(Action, frozen=True):
    """A node's monotonic clock runs so many times as fast from now on."""

    node: str
    rate: float


# Disks --------------------------------------------------------------------------------------------------


class FailDisk(Action, frozen=True):
    """The nth commit from now fails, and so many with it.

    After an `I/O error` the node stops, and is started again; on a `disk full` it goes on without writing.
    """

    node: str
    commits: int = 1
    how: str = "I/O error"
    lasts: int = 1


class DamageRecord(Action, frozen=True):
    """A bit of a record flips on the disk: the first one of that table behind a fraction of them."""

    node: str
    table: str
    where: float = 0.5


class EmptyDisk(Action, frozen=True):
    """A node's disk is lost; it gets an empty one and starts anew."""

    node: str


class Backup(Action, frozen=True):
    """A node's disk is copied as it is now."""

    node: str


class RestoreBackup(Action, frozen=True):
    """A node's disk is replaced by the last copy made of it."""

    node: str


class MountDiskOf(Action, frozen=True):
    """A node's disk is replaced by a copy of another node's, as it is now."""

    node: str
    other: str


# The network --------------------------------------------------------------------------------------------


class Cut(Action, frozen=True):
    """Nothing gets from these nodes to those any more."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    both_ways: bool = True


class Isolate(Action, frozen=True):
    """Nothing gets to this node or from it."""

    node: str


class Heal(Action, frozen=True):
    """Every cut is undone; with nodes, only what is cut between these and those, while others last."""

    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


class Clog(Action, frozen=True):
    """What goes from one node to another is held up, and comes through when the link is released."""

    source: str
    target: str
    seconds: float


class Replay(Action, frozen=True):
    """A request that once went from one node to another arrives again: the one before so many others."""

    source: str
    target: str
    back: int = 0


class Overtake(Action, frozen=True):
    """The newest change in a node's log that another node cannot take yet reaches that one all the same,
    before those that come before it."""

    source: str
    target: str


class Stranger(Action, frozen=True):
    """Somebody who is no member sends a node what it must refuse.

    `noise`, `newer delta`, `damaged position`, `forged own delta`, `broken directory`.
    """

    node: str
    what: str = "noise"


AnyAction = (
    Deliver
    | Import
    | Connect
    | Look
    | Follow
    | List
    | Mark
    | Expunge
    | Move
    | Copy
    | CreateMailbox
    | RenameMailbox
    | DeleteMailbox
    | Annotate
    | PutScript
    | DeleteScript
    | Crash
    | Start
    | Leave
    | Install
    | Retire
    | Pause
    | Slow
    | SetClock
    | Drift
    | FailDisk
    | DamageRecord
    | EmptyDisk
    | Backup
    | RestoreBackup
    | MountDiskOf
    | Cut
    | Isolate
    | Heal
    | Clog
    | Replay
    | Overtake
    | Stranger
)


ClientAction = (
    Look
    | Follow
    | List
    | Mark
    | Expunge
    | Move
    | Copy
    | CreateMailbox
    | RenameMailbox
    | DeleteMailbox
    | Annotate
    | PutScript
    | DeleteScript
)


class Event(msgspec.Struct, frozen=True):
    """An action, and when: seconds since the start."""

    at: float
    action: AnyAction


def spelt(action: Action) -> str:
    """An action as one would write it into a story, what it leaves at its default left out."""
    said = []
    for field in structs.fields(action):
        value = getattr(action, field.name)
        if value != field.default:
            said.append(repr(value) if field.required else f"{field.name}={value!r}")
    return f"{type(action).__name__}({', '.join(said)})"


def signature(action: type[Action]) -> str:
    """The fields of an action in their order, with their types and defaults."""
    said = []
    for field in structs.fields(action):
        kind = action.__annotations__[field.name]
        said.append(f"{field.name}: {kind}" + ("" if field.required else f" = {field.default!r}"))
    return f"{action.__name__}({', '.join(said)})"
