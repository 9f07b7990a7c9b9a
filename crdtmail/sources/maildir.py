"""Reads a Maildir tree: Maildir++ (`.Work.2024`) and Dovecot's LAYOUT=fs (`Work/2024`), also mixed.

Follows Dovecot 2.3 in what a file name means, in the order of messages and in their GUIDs. Other programs may
change the tree meanwhile: a renamed file is looked for again, a vanished one is left out. A damaged
`dovecot-uidlist` is an error rather than ignored: without it messages would get other ids than elsewhere.
Keywords that Dovecot keeps in its index alone (beyond the 26 letters of a folder) are not seen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cmp_to_key, partial
from pathlib import Path

from crdtmail.errors import SourceError
from crdtmail.sources import (
    SourceFolder,
    SourceMessage,
    folder_name,
    keyword,
    message_id,
    reading,
    received_at,
)

SYSTEM_FLAGS = {
    "S": "$seen",
    "R": "$answered",
    "F": "$flagged",
    "D": "$draft",
    "T": "$deleted",
    "P": "$forwarded",
}

PARTS = (b"new", b"cur", b"tmp")
READ_BYTES = 1 << 20
NANOSECONDS = 1_000_000_000

NUMBER = re.compile(rb"\d{1,18}")
DIGITS = re.compile("[0-9]{1,2}")
UIDLIST_HEADER_V1 = re.compile(rb"1 +0*[1-9]\d* +0*[1-9]\d*")
UIDLIST_HEADER_V3 = re.compile(rb"3(?=.* V0*[1-9])(?=.* N0*[1-9]).*")
UIDLIST_RECORD_V1 = re.compile(rb"(\d{1,18}) +()([^ /][^/]*)")
UIDLIST_RECORD_V3 = re.compile(rb"(\d{1,18}) +((?:[^: ][^ ]* +)*):([^/]+)")
SIZE_IN_NAME = re.compile(rb",W=(\d{1,18})(?:,|$)")  # a number beyond 63 bits is no size
NAME_ORDER = re.compile(rb"(\d*)((?:\.[^.M]*M(\d*))?.*)", re.DOTALL)
SUBSCRIPTIONS_V2 = b"V\t2\n\n"
TAB_ESCAPES = {b"0": b"\0", b"1": b"\1", b"t": b"\t", b"r": b"\r", b"n": b"\n"}


@dataclass(frozen=True, slots=True)
class Place:
    """A folder on disk: its path, the levels of its name as stored, and what separates them there."""

    path: bytes
    levels: tuple[bytes, ...]
    separator: bytes


@dataclass(frozen=True, slots=True)
class UidlistRecord:
    """What `dovecot-uidlist` says of one message."""

    guid: bytes | None = None
    size: int | None = None


def open_maildir(root: Path) -> list[SourceFolder]:
    """All folders of the tree, INBOX first, then by name; SourceError if there is none."""
    subscribed = {separator: read_subscriptions(root, separator) for separator in (b".", b"/")}
    folders: dict[str, SourceFolder] = {}
    for place in find_places(os.fsencode(root)):
        count = len(scan(place.path))
        name = folder_name(place.levels)
        if name in folders and count == 0:
            continue
        name = free_name(name, folders)
        is_subscribed = place.levels in subscribed[place.separator]
        folders[name] = SourceFolder(name, is_subscribed, count, partial(read_messages, place.path))
    if not folders:
        raise SourceError(f"{root}: not a Maildir: neither it nor a folder below it has a cur or new folder")
    return sorted(folders.values(), key=lambda folder: (folder.name != "INBOX", folder.name))


def free_name(name: str, taken: dict[str, SourceFolder]) -> str:
    """The name, or the first of `name (2)`, `name (3)` … that no other folder has: both are kept."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free


def find_places(root: bytes) -> Iterator[Place]:
    """The root as INBOX, then Maildir++ folders, then nested ones; those that are no folder are left out."""
    if is_folder(root):
        yield Place(root, (b"INBOX",), b"/")
    for name in subfolders(root, root):
        path = os.path.join(root, name)
        if name.startswith(b".") and is_folder(path):
            yield Place(path, tuple(name[1:].split(b".")), b".")
    yield from find_nested(root, root, (), set())


def find_nested(root: bytes, parent: bytes, levels: tuple[bytes, ...], seen: set[bytes]) -> Iterator[Place]:
    """The folders of LAYOUT=fs below a parent. At the root, a name with a leading dot is Maildir++."""
    for name in subfolders(root, parent):
        path = os.path.join(parent, name)
        real = os.path.realpath(path)
        if name in PARTS or real in seen or (not levels and name.startswith(b".")):
            continue
        seen.add(real)
        if is_folder(path):
            yield Place(path, (*levels, name), b"/")
        yield from find_nested(root, path, (*levels, name), seen)


def subfolders(root: bytes, parent: bytes) -> list[bytes]:
    """The names of the directories in one, but not of links within the tree: those would be seen twice."""
    with os.scandir(parent) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not is_inner_link(root, entry))


def is_inner_link(root: bytes, entry: os.DirEntry[bytes]) -> bool:
    """Whether an entry is a link to something in the tree, or to something that holds the tree."""
    if not entry.is_symlink():
        return False
    tree, target = os.path.realpath(root), os.path.realpath(entry.path)
    return os.path.commonpath((tree, target)) in (tree, target)


def is_folder(path: bytes) -> bool:
    """Whether a directory holds mail; programs that deliver may not have made `cur` yet."""
    return any(os.path.isdir(os.path.join(path, part)) for part in (b"cur", b"new"))


def read_subscriptions(root: Path, separator: bytes) -> frozenset[tuple[bytes, ...]]:
    """The levels of each subscribed name. The first version of the file has the layout's own separator."""
    try:
        content = (root / "subscriptions").read_bytes()
    except FileNotFoundError:
        return frozenset()
    if not content.startswith(SUBSCRIPTIONS_V2):
        return frozenset(tuple(line.split(separator)) for line in content.splitlines())
    lines = content.removeprefix(SUBSCRIPTIONS_V2).split(b"\n")
    return frozenset(tuple(map(without_tab_escapes, line.split(b"\t"))) for line in lines)


def without_tab_escapes(text: bytes) -> bytes:
    return re.sub(rb"\x01(.)", lambda escape: TAB_ESCAPES.get(escape[1], escape[1]), text)


def read_messages(folder: bytes) -> Iterator[SourceMessage]:
    """The messages of a folder: in the order of its uidlist, then those that Dovecot has not numbered yet."""
    with reading(Path(os.fsdecode(folder))):
        uidlist = read_uidlist(folder)
        keyword_names = read_keyword_names(folder)
        listing = scan(folder)
        if not uidlist.keys() <= listing.keys():
            # Reading a directory can miss a file that is renamed just then; seldom twice.
            listing |= scan(folder)
        unnumbered = sorted(listing.keys() - uidlist.keys(), key=cmp_to_key(compare_names))
        for base in [*uidlist, *unnumbered]:
            record = uidlist.get(base, UidlistRecord())
            for _ in range(2):
                if base not in listing:
                    break
                try:
                    message = read_message(base, listing[base], record, keyword_names)
                except FileNotFoundError:
                    listing = scan(folder)
                else:
                    yield message
                    break


def read_message(
    base: bytes, path: bytes, record: UidlistRecord, keyword_names: dict[int, str]
) -> SourceMessage:
    status = os.stat(path)
    in_name = SIZE_IN_NAME.search(base)
    if in_name:
        size = int(in_name[1])
    elif record.size is not None:
        size = record.size
    else:
        size = size_with_crlf(path)
    return SourceMessage(
        id=message_id(record.guid or base),
        size=size,
        received_at=received_at(status.st_mtime_ns // NANOSECONDS),
        keywords=keywords_of(os.path.basename(path), keyword_names),
    )


def scan(folder: bytes) -> dict[bytes, bytes]:
    """The path of each message by its base name: the file name up to the colon.

    `new` comes first: a message that moves from there to `cur` meanwhile is met twice rather than not at all.
    Two messages of one base name cannot both have it: the second goes by its whole file name.
    """
    found: dict[bytes, bytes] = {}
    for part in (b"new", b"cur"):
        try:
            entries = os.scandir(os.path.join(folder, part))
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                if entry.name.startswith(b".") or entry.is_dir():
                    continue
                base = entry.name.partition(b":")[0]
                if base in found and is_other_message(found[base], entry.path):
                    base = entry.name
                found[base] = entry.path
    return found


def is_other_message(known: bytes, path: bytes) -> bool:
    """Whether two files of one base name are two messages, rather than one that was renamed meanwhile."""
    try:
        return not os.path.samefile(known, path)
    except FileNotFoundError:
        return False


def keywords_of(file_name: bytes, keyword_names: dict[int, str]) -> frozenset[str]:
    """The flags of `name:2,FLAGS`: capitals are IMAP's own, `a` to `z` the folder's keywords by number."""
    _, _, info = file_name.partition(b":")
    if not info.startswith(b"2,"):
        return frozenset()
    keywords = set()
    for letter in info[2:].partition(b",")[0].decode("latin-1"):
        if letter in SYSTEM_FLAGS:
            keywords.add(SYSTEM_FLAGS[letter])
        elif "a" <= letter <= "z":
            number = ord(letter) - ord("a")
            # Dovecot gives the same name to a letter whose name is lost.
            keywords.add(keyword_names.get(number, f"unknown-{number}"))
    return frozenset(keywords)


def read_keyword_names(folder: bytes) -> dict[int, str]:
    """The folder's keywords by number; lines that make no sense are ignored, as by Dovecot."""
    try:
        with open(os.path.join(folder, b"dovecot-keywords"), encoding="utf-8", errors="replace") as lines:
            fields = [line.rstrip("\n").partition(" ") for line in lines]
    except FileNotFoundError:
        return {}
    return {int(number): keyword(name) for number, _, name in fields if name and DIGITS.fullmatch(number)}


def read_uidlist(folder: bytes) -> dict[bytes, UidlistRecord]:
    """What `dovecot-uidlist` knows, by base name, in the order of the UIDs; SourceError if it is damaged."""
    path = os.path.join(folder, b"dovecot-uidlist")
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return {}
    # A last line without its line end is being written at this moment.
    lines.pop()
    if not lines:
        return {}
    if UIDLIST_HEADER_V3.fullmatch(lines[0]):
        form = UIDLIST_RECORD_V3
    elif UIDLIST_HEADER_V1.fullmatch(lines[0]):
        form = UIDLIST_RECORD_V1
    else:
        raise uidlist_error(path, 1, "a header that is neither version 1 nor version 3")
    records: dict[bytes, UidlistRecord] = {}
    last_uid = 0
    for number, line in enumerate(lines[1:], start=2):
        fields = form.fullmatch(line)
        if fields is None:
            raise uidlist_error(path, number, "a record that cannot be read")
        uid = int(fields[1])
        if uid <= last_uid:
            raise uidlist_error(path, number, f"UID {uid} after UID {last_uid}")
        last_uid = uid
        base = fields[3].partition(b":")[0]
        # An expunged file that came back has a second record: its later UID counts.
        records.pop(base, None)
        records[base] = uidlist_record(fields[2])
    return records


def uidlist_record(extensions: bytes) -> UidlistRecord:
    values = {field[:1]: field[1:] for field in extensions.split()}
    size = values.get(b"W", b"")
    return UidlistRecord(guid=values.get(b"G") or None, size=int(size) if NUMBER.fullmatch(size) else None)


def uidlist_error(path: bytes, line: int, what: str) -> SourceError:
    return SourceError(f"{os.fsdecode(path)}, line {line}: {what}; let Dovecot repair it, or remove the file")


def compare_names(first: bytes, second: bytes) -> int:
    """The order in which Dovecot numbers new files: by seconds, microseconds if both have them, and name."""
    one, other = NAME_ORDER.fullmatch(first), NAME_ORDER.fullmatch(second)
    assert one is not None
    assert other is not None
    difference = int(one[1] or 0) - int(other[1] or 0)
    if difference == 0 and one[3] is not None and other[3] is not None:
        difference = int(one[3] or 0) - int(other[3] or 0)
    if difference == 0:
        difference = (one[2] > other[2]) - (one[2] < other[2])
    return difference


def size_with_crlf(path: bytes) -> int:
    """The size of a file if every line ended in CRLF."""
    size, last = 0, b""
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(READ_BYTES):
            size += len(chunk) + chunk.count(b"\n") - (last + chunk).count(b"\r\n")
            last = chunk[-1:]
    return size
