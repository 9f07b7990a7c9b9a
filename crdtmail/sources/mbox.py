"""Reads an mbox file as one folder, in pieces of bounded size however large the file and its messages are.

Follows Dovecot 2.3 in where a message begins and ends, in its size and in its date. An mbox has no message
ids: a message is named by the hash of what never changes in it, and exact copies are numbered. The folder is
named like the file without `.mbox`; a file named `mbox` or `inbox` is the INBOX. One difference: keywords
count even if the first message does not announce them, as is so in a part that was cut out of an mbox.
"""

from __future__ import annotations

import calendar
import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from crdtmail.errors import SourceError
from crdtmail.sources import SourceFolder, SourceMessage, folder_name, keyword, reading, received_at

READ_BYTES = 1 << 20
LINE_BYTES = 1 << 16

NUMBER = re.compile(rb"[0-9]{1,18}")  # what fits 63 bits; no file is longer
MONTHS = (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec")
SEPARATOR = re.compile(
    rb"""From\ (?:"(?:[^"\\\r\n]|\\.)*")?[^ \r\n]*\ +      # the sender, perhaps quoted
    (?:
        .{4}(?P<month>[a-z]{3})\ \ ?(?P<day>\d\d?)\       # Thu Nov  9 22:33[:52] [zone] 2001 [+0300]
        (?P<time>\d\d:\d\d(?::\d\d)?)\ (?:(?P<zone1>[+-]\d{4})\ |[^ \d][^ \r\n]*\ )?(?P<year>\d{4})
    |
        .{4}\ (?P<day2>\d\d?)\ (?P<month2>[a-z]{3})\      # Thu, 9 Nov 2001 22:33[:52] [+0300]
        (?P<year2>\d{4})\ (?P<time2>\d\d:\d\d(?::\d\d)?)
    )
    (?:\ (?P<zone2>[+-]\d{4}))?""",
    re.VERBOSE | re.IGNORECASE,
)

STATUS_FLAGS = {
    b"status": {"R": "$seen"},
    b"x-status": {"A": "$answered", "F": "$flagged", "T": "$draft", "D": "$deleted"},
}
# Mail programs rewrite these in place. They are no part of the message and are not counted in its size.
MAILBOX_HEADERS = frozenset(
    (*STATUS_FLAGS, b"x-uid", b"x-keywords", b"x-imap", b"x-imapbase", b"content-length")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Span:
    """Where in the file a message lies: its headers, its body, its end; and when it was received."""

    received_at: int
    header: int
    body: int
    end: int
    is_folder_data: bool


def open_mbox(path: Path) -> list[SourceFolder]:
    """The one folder of an mbox file, subscribed, since it was chosen; SourceError if it is no mbox."""
    count = sum(1 for _ in read_spans(path))
    return [SourceFolder(name_of(path), True, count, partial(read_messages, path))]


def name_of(path: Path) -> str:
    stem = path.name.removesuffix(".mbox")
    return "INBOX" if stem.lower() in ("mbox", "inbox") else folder_name([os.fsencode(stem)])


def read_messages(path: Path) -> Iterator[SourceMessage]:
    """The messages in the order of the file."""
    copies: Counter[bytes] = Counter()
    with reading(path), open(path, "rb") as file:
        for span in read_spans(path):
            yield read_message(file, span, copies)


def read_spans(path: Path) -> Iterator[Span]:
    """Where each message lies, without what mail programs store in a message of their own."""
    with reading(path), open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        start: int | None = 0 if size > 0 else None
        while start is not None:
            date = read_separator(file, start)
            if date is None:
                raise SourceError(f"{path}: not an mbox file: no From line with a date at byte {start}")
            span, following = read_span(file, date, size)
            if start > 0 or not span.is_folder_data:
                yield span
            start = following


def read_separator(file: BinaryIO, offset: int) -> int | None:
    """The date of the From line at an offset; None if there is no valid one. The file is behind it then."""
    file.seek(offset)
    line = whole_line = file.readline(LINE_BYTES)
    while whole_line and not whole_line.endswith(b"\n"):
        whole_line = file.readline(LINE_BYTES)
    return separator_date(line)


def separator_date(line: bytes) -> int | None:
    """When a From line says that its message came; without a zone it is local time, as for Dovecot."""
    found = SEPARATOR.match(line)
    if found is None:
        return None
    month = (found["month"] or found["month2"]).lower()
    if month not in MONTHS:
        return None
    clock = [int(part) for part in (found["time"] or found["time2"]).split(b":")]
    hour, minute, second = [*clock, 0][:3]
    year, day = int(found["year"] or found["year2"]), int(found["day"] or found["day2"]) or 1
    date = (year, MONTHS.index(month) + 1, day, hour, minute, second)
    zone = found["zone1"] or found["zone2"]
    try:
        if zone is None:
            return int(time.mktime((*date, 0, 0, -1)))
        offset_s = (int(zone[1:3]) * 60 + int(zone[3:5])) * 60
        return calendar.timegm(date) - (-offset_s if zone.startswith(b"-") else offset_s)
    except (ValueError, OverflowError):
        return None


def read_span(file: BinaryIO, date: int, size: int) -> tuple[Span, int | None]:
    """The message whose headers begin here, and where the next one starts."""
    header = position = file.tell()
    content_length, following = None, None
    is_folder_data = has_body = False
    at_line_start = True
    while line := file.readline(LINE_BYTES):
        if at_line_start and separator_date(line) is not None:
            following = position
            break
        position += len(line)
        if at_line_start and line in (b"\n", b"\r\n"):
            has_body = True
            break
        if at_line_start:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length" and NUMBER.fullmatch(value.strip()):
                content_length = int(value)
            is_folder_data |= name.lower() == b"x-imap"
        at_line_start = line.endswith(b"\n")
    if not has_body:
        return Span(received_at(date), header, position, position, is_folder_data), following
    following = start_after_length(file, position, content_length, size)
    if following is None:
        following = next_separator(file, position) or size
    end = before_line_end(file, following, header)
    span = Span(received_at(date), header, min(position, end), end, is_folder_data)
    return span, following if following < size else None


def start_after_length(file: BinaryIO, body: int, length: int | None, size: int) -> int | None:
    """Where the next message, or the end of the file, is if Content-Length is right about it; else None."""
    if length is None:
        return None
    file.seek(body + length)
    line_end = file.read(2)
    for ending in (b"\n", b"\r\n"):
        start = body + length + len(ending)
        if line_end.startswith(ending) and (start == size or read_separator(file, start) is not None):
            return start
    return None


def next_separator(file: BinaryIO, offset: int) -> int | None:
    """Where the next From line with a date is, at or after an offset at which a line begins."""
    marker = b"\nFrom "
    position, chunk = offset - 1, b" " * len(marker)
    while len(chunk) >= len(marker):
        file.seek(position)
        chunk = file.read(READ_BYTES)
        found = chunk.find(marker)
        while found >= 0:
            if read_separator(file, position + found + 1) is not None:
                return position + found + 1
            found = chunk.find(marker, found + 1)
        position += max(len(chunk) - len(marker) + 1, 1)
    return None


def before_line_end(file: BinaryIO, end: int, start: int) -> int:
    """An end without the empty line that parts a message from the next: it belongs to neither."""
    file.seek(max(end - 2, start))
    tail = file.read(end - max(end - 2, start))
    return end - 2 if tail == b"\r\n" else end - 1 if tail.endswith(b"\n") else end


def read_message(file: BinaryIO, span: Span, copies: Counter[bytes]) -> SourceMessage:
    content = Content()
    keywords: set[str] = set()
    name = b""
    for line in lines_between(file, span.header, span.body):
        if not line.startswith((b" ", b"\t")):
            name = line.partition(b":")[0].strip().lower()
        if name in MAILBOX_HEADERS:
            keywords |= keywords_of(name, line)
        else:
            content.add(line)
    position = span.body
    while position < span.end:
        file.seek(position)
        chunk = file.read(min(READ_BYTES, span.end - position))
        if not chunk:
            break
        content.add(chunk)
        position += len(chunk)
    digest = content.digest()
    copies[digest] += 1
    number = f"-{copies[digest]}" if copies[digest] > 1 else ""
    message_id = f"sha256-{digest.hex()}{number}"
    return SourceMessage(message_id, content.size, span.received_at, frozenset(keywords))


def lines_between(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end and (line := file.readline(min(LINE_BYTES, end - start))):
        yield line
        start += len(line)


def keywords_of(header: bytes, line: bytes) -> set[str]:
    """What a line of a Status, X-Status or X-Keywords header says; nothing for any other header."""
    is_continued = line.startswith((b" ", b"\t"))
    value = (line if is_continued else line.partition(b":")[2]).decode("utf-8", errors="replace")
    if header == b"x-keywords":
        return {keyword(name) for name in value.split()}
    letters = STATUS_FLAGS.get(header, {})
    return {letters[letter] for letter in value if letter in letters}


class Content:
    """A message's text as it is added: its size with CRLF line ends, and its hash whatever its line ends are.

    Empty lines at the end are not hashed, because files differ in them at their own end.
    """

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        self._held = b""
        self._last = b""

    def add(self, piece: bytes) -> None:
        self.size += len(piece) + piece.count(b"\n") - (self._last + piece).count(b"\r\n")
        self._last = piece[-1:]
        text = self._held + piece
        kept = text.rstrip(b"\r\n")
        self._held = text[len(kept) :]
        self._hash.update(kept.replace(b"\r\n", b"\n"))

    def digest(self) -> bytes:
        return self._hash.digest()
