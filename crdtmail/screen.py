"""What the command line shows a person: tables, flags in IMAP's spelling, progress bars."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from crdtmail.crdt.names import check_keyword, printable
from crdtmail.errors import ConfigError

# Only a screen has an edge: a table that another program reads is not folded at its 80th column.
_width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 10_000


class _Screen(Console):
    """Shows what others have written as it is, and obeys nothing in it."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(_tame(each) if isinstance(each, str) else each for each in objects), **options)


class _Table(Table):
    def add_row(self, *cells: Any, **options: Any) -> None:
        """Cells are text, in which brackets are brackets."""
        super().add_row(
            *(Text(printable(each)) if isinstance(each, str) else each for each in cells), **options
        )


def _tame(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


out = _Screen(highlight=False, soft_wrap=True, width=_width)
err = _Screen(stderr=True, highlight=False, soft_wrap=True)

_SYSTEM = {f"${name.lower()}": f"\\{name}" for name in ("Seen", "Answered", "Flagged", "Draft", "Deleted")}
_FROM_IMAP = {
    spelling: keyword
    for keyword, flag in _SYSTEM.items()
    for spelling in (keyword, flag.lower(), flag.lower().removeprefix("\\"))
}


def flags(keywords: Iterable[str]) -> str:
    """JMAP keywords as IMAP flags, system flags first."""
    shown = [_SYSTEM.get(keyword, keyword) for keyword in keywords]
    return " ".join(sorted(shown, key=lambda flag: (not flag.startswith("\\"), flag)))


def keyword(flag: str) -> str:
    """A flag as an operator types it (`\\Seen`, `$seen`, `Seen` when the shell ate the backslash, `Work`)."""
    found = _FROM_IMAP.get(flag.lower())
    if found is not None:
        return found
    try:
        return check_keyword(flag.lower())
    except ValueError:
        raise ConfigError(
            f"{flag} is no flag: \\Seen, \\Answered, \\Flagged, \\Draft and \\Deleted are, and words of "
            'visible ASCII without ( ) { ] % * " \\'
        ) from None


def counted(number: int, what: str) -> str:
    """So many of it, as people say it."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def table(*columns: str, title: str | None = None) -> Table:
    made = _Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        name = column.removeprefix(">")
        made.add_column(name, justify="right" if column.startswith(">") else "left", overflow="fold")
    return made


def progress() -> Progress:
    """A bar for work that takes a while; silent where nobody watches."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def messages(document: dict[str, Any]) -> Table:
    """A mailbox's messages."""
    made = table(">UID", "flags", "received", ">size", "id")
    for message in document["messages"]:
        made.add_row(
            str(message["uid"]),
            flags(message["keywords"]),
            message["receivedAt"],
            f"{message['size']:,}",
            message["id"],
        )
    return made
