"""Where `crdtmail import` reads mail from: the folders and messages of a Maildir tree or an mbox file.

This package only reads. It owns what a source looks like to the importer; how the layouts on disk are read
is in `maildir` and `mbox`. Where the two could disagree with Dovecot, Dovecot is right.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crdtmail.crdt.names import SEPARATOR, check_message_id, normalised_mailbox_name
from crdtmail.errors import SourceError
from crdtmail.limits import MAX_KEYWORD, MAX_TIME
from crdtmail.sources import utf7

__all__ = ["SourceError", "SourceFolder", "SourceMessage", "open_source"]

NOT_IN_A_KEYWORD = re.compile(r'[^\x21-\x7e]|[(){\]%*"\\]')
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class SourceMessage:
    """A message as IMAP describes it, without its text.

    `id` is Dovecot's GUID where there is one, `size` counts CRLF line ends (RFC822.SIZE), `received_at` is
    the INTERNALDATE in seconds since 1970 UTC, `keywords` are in JMAP's spelling.
    """

    id: str
    size: int
    received_at: int
    keywords: frozenset[str]


@dataclass(frozen=True, slots=True)
class SourceFolder:
    """A folder by its full path; its messages are read anew, in UID order, each time they are asked for."""

    name: str
    is_subscribed: bool
    message_count: int
    messages: Callable[[], Iterator[SourceMessage]]


def open_source(path: Path) -> list[SourceFolder]:
    """The folders of a Maildir tree or an mbox file, INBOX first; SourceError if it is neither."""
    # The readers build the records above, so they can only be imported after them.
    from crdtmail.sources.maildir import open_maildir
    from crdtmail.sources.mbox import open_mbox

    with reading(path):
        if path.is_dir():
            return open_maildir(path)
        if path.is_file():
            return open_mbox(path)
    raise SourceError(f"{path}: there is no such file or folder")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the operating system complains about into a SourceError."""
    try:
        yield
    except OSError as error:
        file = error.filename if isinstance(error.filename, str | bytes) else path
        raise SourceError(f"{os.fsdecode(file)}: {error.strerror}") from error


def message_id(name: bytes) -> str:
    """A message id for a name on disk: the name, or its hash where the name cannot be an id."""
    try:
        return check_message_id(name.decode("utf-8"))
    except ValueError:
        return "sha256-" + hashlib.sha256(name).hexdigest()


def received_at(seconds: int) -> int:
    """A time on disk as a time that a message can have: neither before 1970 nor after the year 9999."""
    return min(max(seconds, 0), MAX_TIME)


def keyword(imap_name: str) -> str:
    """JMAP's spelling of an IMAP keyword: lower case; what JMAP forbids in one becomes `_`."""
    return NOT_IN_A_KEYWORD.sub("_", imap_name.lower())[:MAX_KEYWORD]


def folder_name(levels: Iterable[bytes]) -> str:
    """A folder's name from the levels of its name on disk; the inbox is INBOX in any spelling."""
    return normalised_mailbox_name(SEPARATOR.join(level_name(level) for level in levels if level))


def level_name(level: bytes) -> str:
    """A level that is not modified UTF-7 is shown as it is, as Dovecot does."""
    try:
        name = utf7.decode(level.decode("ascii"))
    except ValueError:
        name = level.decode("utf-8", errors="backslashreplace")
    return CONTROL_CHARACTER.sub(lambda control: f"\\x{ord(control[0]):02x}", name)
