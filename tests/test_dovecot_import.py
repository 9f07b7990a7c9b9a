"""End to end with a real Dovecot: what `crdtmail import` makes of its Maildir is what its IMAP says."""

from __future__ import annotations

import imaplib
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crdtmail.importing import import_mail
from crdtmail.screen import keyword
from tests.dovecot import Layout, running_dovecot
from tests.nodes import node_process

pytestmark = pytest.mark.skipif(shutil.which("dovecot") is None, reason="no Dovecot is installed")
ALICE = "alice@example.org"


def quoted(name: str) -> str:
    return f'"{name}"'


def append(imap: imaplib.IMAP4, folder: str, number: int, flags: str) -> None:
    text = f"Subject: {number}\r\n\r\n" + f"line {number}\r\n" * (number + 1)
    when = datetime(2026, 1, 1 + number, 3, 4, 5, tzinfo=UTC)
    status, _ = imap.append(quoted(folder), flags, imaplib.Time2Internaldate(when), text.encode())
    assert status == "OK"


def as_imap_says(imap: imaplib.IMAP4, folder: str) -> list[tuple[frozenset[str], int, str]]:
    """Flags, size and date of each message, in the order of its UID."""
    imap.select(quoted(folder), readonly=True)
    status, rows = imap.uid("FETCH", "1:*", "(FLAGS INTERNALDATE RFC822.SIZE)")
    assert status == "OK"
    found = []
    for row in rows:
        if row is None:
            continue
        text = (row if isinstance(row, bytes) else row[0]).decode()
        flags = re.search(r"FLAGS \(([^)]*)\)", text)
        size = re.search(r"RFC822\.SIZE (\d+)", text)
        date = re.search(r'INTERNALDATE "([^"]+)"', text)
        uid = re.search(r"UID (\d+)", text)
        assert flags
        assert size
        assert date
        assert uid
        when = datetime.strptime(date[1].strip(), "%d-%b-%Y %H:%M:%S %z").astimezone(UTC)
        names = frozenset(keyword(flag) for flag in flags[1].split() if flag != "\\Recent")
        found.append((int(uid[1]), names, int(size[1]), when.strftime("%Y-%m-%dT%H:%M:%SZ")))
    return [row[1:] for row in sorted(found)]


@pytest.mark.parametrize("layout", ["maildir++", "fs"])
def test_an_imported_maildir_shows_what_dovecots_imap_shows(tmp_path: Path, layout: Layout) -> None:
    with running_dovecot(tmp_path / "dovecot", layout) as dovecot:
        imap = dovecot.imap()
        for folder in ("Work", "Work/2026", "Entw&APw-rfe", "Empty"):
            assert imap.create(quoted(folder))[0] == "OK"
        for folder in ("Work/2026", "Entw&APw-rfe"):
            imap.subscribe(quoted(folder))
        for number in range(6):
            append(imap, "INBOX", number, ("", "(\\Seen)", "(\\Flagged Project)", "(\\Draft)")[number % 4])
        append(imap, "Work/2026", 7, "(\\Answered \\Seen)")
        append(imap, "Entw&APw-rfe", 8, "(\\Deleted)")
        imap.select("INBOX")
        imap.uid("STORE", "1", "+FLAGS", "(\\Answered Later)")
        imap.uid("STORE", "3", "-FLAGS", "(\\Flagged)")
        imap.uid("STORE", "2", "+FLAGS", "(\\Deleted)")
        imap.expunge()
        imap.uid("COPY", "5", quoted("Work"))
        imap.uid("COPY", "1", quoted("INBOX"))  # two messages of one GUID in one folder
        imap.uid("MOVE", "4", quoted("Work"))
        _, listed = imap.list()
        folders = [
            re.sub(rb'^\(.*?\) "/" ', b"", row).strip(b'"').decode()
            for row in listed
            if isinstance(row, bytes)
        ]
        _, lsub = imap.lsub()
        subscribed = {
            re.sub(rb'^\(.*?\) "/" ', b"", row).strip(b'"').decode() for row in lsub if isinstance(row, bytes)
        }
        said = {folder: as_imap_says(imap, folder) for folder in folders}
        with node_process(tmp_path / "node") as it:
            client = it.client()
            import_mail(client, ALICE, dovecot.maildir)
            made = {box["name"]: box for box in client.mailboxes(ALICE)}
            assert set(made) == {name.replace("&APw-", "ü") for name in folders}
            for folder in folders:
                name = folder.replace("&APw-", "ü")
                messages = client.mailbox(ALICE, name)["messages"]
                assert [(frozenset(m["keywords"]), m["size"], m["receivedAt"]) for m in messages] == said[
                    folder
                ], name
                assert made[name]["isSubscribed"] == (folder in subscribed)
            assert sum(map(len, said.values())) == 9
