"""What a directory update may hold: read structurally before Yjs is given it.

Yjs applies whatever its format can say: arrays in arrays, which end the process with its stack, or a count of
2^32, for which it asks for memory at once.  Directories are flat: four root maps of text, and the texts of
scripts in one of them.  So nothing else is let through.  Nor is an update that Yjs could not apply yet: it
would keep it and send it on in this replica's own updates.  The encoding is lib0's and Yjs's version 1
(https://github.com/yjs/yjs/blob/main/INTERNALS.md); nothing here knows what the keys and texts mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from crdtmail.errors import PeerError, Refusal

ROOTS = frozenset({"mailboxes", "vacated", "scripts", "sieve"})
_TEXTS = "scripts"  # the one root whose values are Yjs texts

_HAS_ORIGIN, _HAS_RIGHT_ORIGIN, _HAS_KEY = 0x80, 0x40, 0x20
_GC, _DELETED, _STRING, _TYPE, _ANY = 0, 1, 4, 7, 8
_ANY_STRING = 119
_TEXT = 2  # of the shared types
_MAX_CLIENT = 2**53 - 1
_MAX_CLOCK = 2**31 - 1  # Yjs counts in 32 bits

Id = tuple[int, int]
"""A client and a place among all that it ever wrote."""


@dataclass(frozen=True, slots=True)
class _Item:
    """One block.  `root` is the map in which it says that it stands; else its neighbour or parent says."""

    client: int
    clock: int
    length: int
    needs: tuple[Id, ...] = ()
    origin: Id | None = None
    root: str | None = None
    is_text: bool = False


@dataclass(slots=True)
class _Update:
    items: dict[int, list[_Item]] = field(default_factory=dict)
    deletions: list[tuple[int, int]] = field(default_factory=list)
    """Per deletion, the client and the end of what it deletes."""


def check_update(update: bytes, state_vector: bytes, state: Callable[[], bytes]) -> None:
    """Refuse what no directory makes, or what does not fit on a document with this state vector.

    `state` gives the document itself.  It is read only if a script is put where one was deleted.
    Raises PeerError.
    """
    try:
        parsed = _Reader(update).update()
        known = _Reader(state_vector).state_vector()
        _check_complete(parsed, known)
        texts = [
            item for items in parsed.items.values() for item in items if item.is_text and item.root is None
        ]
        if texts:
            _check_texts(texts, [parsed, _Reader(state()).update()])
    except (ValueError, IndexError) as error:
        raise PeerError(
            f"a directory update is none that a directory makes: {error}", Refusal.IMPOSSIBLE
        ) from error


def _check_complete(parsed: _Update, known: dict[int, int]) -> None:
    """Everything that the update builds on is in the document or in front of it in the update."""
    waiting = {client: list(reversed(items)) for client, items in parsed.items.items()}
    for client, items in parsed.items.items():
        if items and items[0].clock > known.get(client, 0):
            raise ValueError("it leaves something out")
    progress = True
    while progress and waiting:
        progress = False
        for client, items in list(waiting.items()):
            while items and all(known.get(other, 0) > clock for other, clock in items[-1].needs):
                item = items.pop()
                known[client] = max(known.get(client, 0), item.clock + item.length)
                progress = True
            if not items:
                del waiting[client]
    if waiting or any(end > known.get(client, 0) for client, end in parsed.deletions):
        raise ValueError("it builds on what is not there")


def _check_texts(texts: list[_Item], documents: list[_Update]) -> None:
    """Each of these texts replaces an earlier value in the map of texts; it does not lie in another text."""
    for item in texts:
        at: _Item | None = item
        steps = sum(len(items) for document in documents for items in document.items.values())
        while at is not None and at.root is None and at.origin is not None and steps > 0:
            at, steps = _find(at.origin, documents), steps - 1
        if at is None or at.root != _TEXTS:
            raise ValueError("a text stands in another")


def _find(id: Id, documents: list[_Update]) -> _Item | None:
    for document in documents:
        for item in document.items.get(id[0], ()):
            if item.clock <= id[1] < item.clock + item.length:
                return item
    return None


class _Reader:
    """One pass over the bytes.  Raises ValueError or IndexError; every count is held against what is left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def update(self) -> _Update:
        update = _Update()
        for _ in range(self._count()):
            blocks, client, clock = self._count(), self._number(_MAX_CLIENT), self._number(_MAX_CLOCK)
            if client in update.items:
                raise ValueError("a client stands in it twice")
            items = update.items[client] = []
            for _ in range(blocks):
                item = self._block(client, clock)
                clock += item.length
                if not item.length or clock > _MAX_CLOCK:
                    raise ValueError("a length is out of range")
                items.append(item)
        for _ in range(self._count()):
            client = self._number(_MAX_CLIENT)
            for _ in range(self._count()):
                clock, length = self._number(_MAX_CLOCK), self._number(_MAX_CLOCK)
                update.deletions.append((client, clock + length))
        self._end()
        return update

    def state_vector(self) -> dict[int, int]:
        found = {self._number(_MAX_CLIENT): self._number(_MAX_CLOCK) for _ in range(self._count())}
        self._end()
        return found

    def _block(self, client: int, clock: int) -> _Item:
        info = self._byte()
        if info == _GC:
            return _Item(client, clock, self._number(_MAX_CLOCK))
        origin = self._id() if info & _HAS_ORIGIN else None
        right = self._id() if info & _HAS_RIGHT_ORIGIN else None
        needs = [id for id in (origin, right) if id is not None]
        root = None
        says_where = not needs
        if says_where:
            if self._number(1):
                root = self._string()
                if root not in ROOTS or not info & _HAS_KEY:
                    raise ValueError("something stands outside the four maps")
                self._string()  # the key
            else:
                needs.append(self._id())
                if info & _HAS_KEY:
                    raise ValueError("a text has properties")
        kind = info & 0x1F
        length, is_text = self._content(kind)
        if kind == _STRING and root is not None:
            raise ValueError("a map holds loose text")
        if kind == _ANY and says_where and root is None:
            raise ValueError("a text holds a value")
        if is_text and (right is not None or (says_where and root != _TEXTS)):
            raise ValueError("a text stands where no script does")
        return _Item(client, clock, length, tuple(needs), origin, root, is_text)

    def _content(self, kind: int) -> tuple[int, bool]:
        """How long the content of an item is, and whether it is a text of its own."""
        if kind == _DELETED:
            return self._number(_MAX_CLOCK), False
        if kind == _STRING:
            return len(self._string().encode("utf-16-le")) // 2, False
        if kind == _TYPE:
            if self._number(_MAX_CLOCK) != _TEXT:
                raise ValueError("a shared type is no text")
            return 1, True
        if kind == _ANY:
            if self._number(_MAX_CLOCK) != 1 or self._byte() != _ANY_STRING:
                raise ValueError("a value is no text")
            self._string()
            return 1, False
        raise ValueError(f"content of kind {kind}")

    def _id(self) -> Id:
        return self._number(_MAX_CLIENT), self._number(_MAX_CLOCK)

    def _string(self) -> str:
        length = self._count()
        self._at += length
        return self._data[self._at - length : self._at].decode()

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _count(self) -> int:
        """A number of things that follow, each of a byte at least."""
        count = self._number(_MAX_CLOCK)
        if count > len(self._data) - self._at:
            raise ValueError("a count is larger than the update")
        return count

    def _number(self, most: int) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 63:
                raise ValueError("a number does not end")
        if number > most:
            raise ValueError(f"a number is over {most}")
        return number

    def _end(self) -> None:
        if self._at != len(self._data):
            raise ValueError("something stands behind it")
