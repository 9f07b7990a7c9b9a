"""The account directory: the account's mailboxes by name, role, subscription, annotations; its Sieve scripts.

One small Yjs document an account.  This is the only module that knows pycrdt.  Every property is a
register of its own under a flat key, so that two masters who touch different properties of one
mailbox both keep their change; text keys only, text values.  A script is a Yjs text, changed by whole
lines, so that two masters who edit different rules of one script both keep theirs.

Which mailboxes live is not decided here but by the dots in the store; a dead mailbox keeps its entry,
because a message that was added at the same time brings it back with its name.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import pycrdt

from crdtmail.crdt.clock import ReplicaId
from crdtmail.crdt.delta import Account, MailboxId
from crdtmail.crdt.directory_update import check_update
from crdtmail.crdt.names import INBOX, SEPARATOR, check_mailbox_name, make_mailbox_id
from crdtmail.errors import PeerError, Refusal

_BORN, _NAME, _ROLE, _SUBSCRIBED, _ANNOTATION = "born", "name", "role", "subscribed", "annotation/"
_ACTIVE = "active"
_MOST_COMPARISONS = 100_000  # of lines: some milliseconds of the writer
_CLIENT_BITS = 53  # Yjs: what a JavaScript number holds


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory knows of one mailbox.  `name` is the full path, and twins may share it."""

    name: str
    role: str | None = None
    is_subscribed: bool = False
    annotations: dict[str, str] = field(default_factory=dict)


class Directory:
    """One account's document, open for reading and for changes in the name of one replica."""

    def __init__(self, state: bytes, author: ReplicaId) -> None:
        self._doc: Any = pycrdt.Doc(client_id=author & ((1 << _CLIENT_BITS) - 1))
        with self._doc.transaction():  # one for all: each takes as long as the rest
            self._mailboxes: Any = self._doc.get("mailboxes", type=pycrdt.Map)
            self._vacated: Any = self._doc.get("vacated", type=pycrdt.Map)
            self._scripts: Any = self._doc.get("scripts", type=pycrdt.Map)
            self._sieve: Any = self._doc.get("sieve", type=pycrdt.Map)
        if state:
            self._apply(state)

    def state(self) -> bytes:
        """The whole document, as an update to an empty one."""
        return bytes(self._doc.get_update())

    def merge(self, update: bytes) -> list[list[list[str]]]:
        """Apply an update; the `content` that this gives.

        Raises PeerError if it is none; then this object must not be used again.
        """
        check_update(update, self._doc.get_state(), self.state)
        self._apply(update)
        try:
            return self.content()
        except ValueError as error:
            raise PeerError(
                f"a directory update holds what no directory does: {error}", Refusal.IMPOSSIBLE
            ) from error

    def _apply(self, update: bytes) -> None:
        try:
            self._doc.apply_update(update)
        except (ValueError, RuntimeError) as error:
            raise PeerError(
                f"a directory update cannot be read or applied: {error}", Refusal.IMPOSSIBLE
            ) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # how a failed assertion in Yjs's Rust arrives
                raise
            raise PeerError("a directory update breaks the document", Refusal.IMPOSSIBLE) from error

    def content(self) -> list[list[list[str]]]:
        """All that the document says, in order: equal documents give equal lists, whatever way they came."""
        roots = (self._mailboxes, self._vacated, self._scripts, self._sieve)
        return [[[key, value] for key, value in sorted(_texts(root).items())] for root in roots]

    def entries(self) -> dict[MailboxId, Entry]:
        """Every mailbox that ever was, by id.  What another program wrote in another form is passed over."""
        found: dict[MailboxId, dict[str, str]] = {}
        for key, value in _texts(self._mailboxes).items():
            mailbox, _, what = key.partition(":")
            if len(mailbox) == 32:
                try:
                    found.setdefault(MailboxId(bytes.fromhex(mailbox)), {})[what] = value
                except ValueError:
                    continue
        return {mailbox: _entry(mailbox, properties) for mailbox, properties in found.items()}

    def scripts(self) -> dict[str, str]:
        """The account's Sieve scripts by name."""
        return dict(sorted(_texts(self._scripts).items()))

    @property
    def active_script(self) -> str | None:
        """The name of the script that filters new mail."""
        name = _texts(self._sieve).get(_ACTIVE)
        return name if name in self.scripts() else None

    def new_id(self, account: Account, name: str) -> MailboxId:
        """The id under which `name` is created now: the generation counts who has vacated the name."""
        prefix = name + "\0"
        generation = sum(1 for key in _texts(self._vacated) if key.startswith(prefix))
        return make_mailbox_id(account, name, generation)

    def create(self, mailbox: MailboxId, name: str) -> bytes:
        return self._change(lambda: self._set(mailbox, _BORN, name))

    def rename(self, names: Collection[tuple[MailboxId, str, str]]) -> bytes:
        """Give each (mailbox, old name, new name) its new name, in one update."""

        def change() -> None:
            for mailbox, old, new in names:
                self._vacated[f"{old}\0{mailbox.hex()}"] = "renamed"
                self._set(mailbox, _NAME, new)

        return self._change(change)

    def vacate(self, mailbox: MailboxId, name: str) -> bytes:
        """The mailbox is deleted: the name's next mailbox is of a new generation."""
        return self._change(lambda: self._vacated.__setitem__(f"{name}\0{mailbox.hex()}", "deleted"))

    def describe(
        self,
        mailbox: MailboxId,
        *,
        role: str | None = None,
        is_subscribed: bool | None = None,
        annotations: dict[str, str | None] | None = None,
    ) -> bytes:
        """Set properties; None leaves one as it is, an empty role or an annotation of None removes it."""

        def change() -> None:
            if role is not None:
                self._set(mailbox, _ROLE, role)
            if is_subscribed is not None:
                self._set(mailbox, _SUBSCRIBED, "true" if is_subscribed else "")
            for entry, value in (annotations or {}).items():
                self._set(mailbox, _ANNOTATION + entry, value or "")

        return self._change(change)

    def put_script(self, name: str, content: str) -> bytes:
        """Make the script, or change the lines in which it differs."""

        def change() -> None:
            text = self._scripts.get(name)
            if not isinstance(text, pycrdt.Text):
                self._scripts[name] = pycrdt.Text(content)
                return
            old, new = (value.encode().splitlines(keepends=True) for value in (str(text), content))
            offset = 0
            for tag, i, j, k, m in _differences(old, new):
                before, after = b"".join(old[i:j]), b"".join(new[k:m])
                if tag != "equal":
                    del text[offset : offset + len(before)]  # Yjs counts bytes here
                    text.insert(offset, after.decode())
                offset += len(after)
            if str(text) != content:  # another program wrote more than text into it
                self._scripts[name] = pycrdt.Text(content)

        return self._change(change)

    def delete_script(self, name: str) -> bytes:
        return self._change(lambda: self._scripts.pop(name))

    def activate_script(self, name: str) -> bytes:
        """Let this script filter new mail; with an empty name, none."""
        return self._change(lambda: self._sieve.__setitem__(_ACTIVE, name))

    def _set(self, mailbox: MailboxId, what: str, value: str) -> None:
        self._mailboxes[f"{mailbox.hex()}:{what}"] = value

    def _change(self, change: Callable[[], None]) -> bytes:
        before = self._doc.get_state()
        with self._doc.transaction():
            change()
        return bytes(self._doc.get_update(before))


def _texts(root: Any) -> dict[str, str]:
    """What one of the root maps says.  All of it as JSON, for Yjs hands values out one by one much slower."""
    return {key: value for key, value in json.loads(str(root)).items() if isinstance(value, str)}


def _differences(old: list[bytes], new: list[bytes]) -> list[tuple[str, int, int, int, int]]:
    """What to change, as `difflib` says it.  Its time is the product of the lengths at least, so what lies
    between the first and the last difference is replaced as a whole where that is a lot."""
    start = next(
        (n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
    )
    most = min(len(old), len(new)) - start
    same = (n for n in range(most) if old[-1 - n] != new[-1 - n])
    end = next(same, most)
    before, after = old[start : len(old) - end], new[start : len(new) - end]
    if len(before) * len(after) > _MOST_COMPARISONS:
        middle = [("replace", 0, len(before), 0, len(after))]
    else:
        middle = list(difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes())
    shifted = [(tag, i + start, j + start, k + start, m + start) for tag, i, j, k, m in middle]
    return [("equal", 0, start, 0, start), *shifted]


def shown_names(names: dict[MailboxId, str]) -> dict[MailboxId, str]:
    """The names of the living mailboxes with twins told apart, the same on every replica.

    Of several mailboxes with one name the least id shows it bare; the others show `name (ab12)`, with
    as many digits of their id as it takes to be alone.
    """
    shown: dict[MailboxId, str] = {}
    taken: set[str] = set()
    twins = []
    for mailbox in sorted(names):
        if names[mailbox] in taken:
            twins.append(mailbox)
        else:
            shown[mailbox] = names[mailbox]
            taken.add(names[mailbox])
    for mailbox in twins:
        digits = mailbox.hex()[4:]
        candidates = (f"{names[mailbox]} ({digits[:n]})" for n in range(4, len(digits) + 1))
        name = next(candidate for candidate in candidates if candidate not in taken)
        shown[mailbox] = name
        taken.add(name)
    return shown


def below(parent: str, name: str) -> bool:
    """Whether `name` lies in the hierarchy below `parent`."""
    return name.startswith(parent + SEPARATOR)


def _entry(mailbox: MailboxId, properties: dict[str, str]) -> Entry:
    name = properties.get(_NAME) or properties.get(_BORN, "")
    try:
        check_mailbox_name(name)
    except ValueError:
        name = lost_name(mailbox)
    annotations = {
        what.removeprefix(_ANNOTATION): value
        for what, value in sorted(properties.items())
        if what.startswith(_ANNOTATION) and value
    }
    return Entry(
        name=name,
        role=properties.get(_ROLE) or ("inbox" if name == INBOX else None),
        is_subscribed=bool(properties.get(_SUBSCRIBED)),
        annotations=annotations,
    )


def lost_name(mailbox: MailboxId) -> str:
    """What a living mailbox shows whose name nobody knows, so that its mail is not lost from sight."""
    return f"Recovered {mailbox.hex()[4:12]}"
