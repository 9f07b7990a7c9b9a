"""What we read from a Maildir is what Dovecot answers over IMAP, for mailboxes that a real Dovecot made."""

from __future__ import annotations

import imaplib
import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from crdtmail.sources import SourceMessage, open_source, utf7
from tests import dovecot
from tests.dovecot import Dovecot, Layout, running_dovecot

pytestmark = pytest.mark.skipif(
    not dovecot.is_installed(), reason="needs the program dovecot (dovecot-imapd)"
)

FOLDERS = ["Work", "Work/2024", "Work/2024/März", "Entwürfe", "Café/日本語", "A & B", "🙂", "Empty"]
SUBSCRIBED = ["INBOX", "Work/2024", "Entwürfe", "Café/日本語", "A & B"]

LARGE = b"line\n" * 300_000

LIST_LINE = re.compile(rb'\((?P<flags>[^)]*)\) "/" (?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<atom>.*))')
FETCH_LINE = re.compile(
    rb'\d+ \(UID \d+ FLAGS \((?P<flags>[^)]*)\) INTERNALDATE "(?P<date>[^"]*)" RFC822.SIZE (?P<size>\d+)\)'
)
SYSTEM_FLAGS = {
    "\\seen": "$seen",
    "\\answered": "$answered",
    "\\flagged": "$flagged",
    "\\draft": "$draft",
    "\\deleted": "$deleted",
}


class Seen(NamedTuple):
    """A message as Dovecot describes it."""

    id: str
    size: int
    received_at: int
    keywords: frozenset[str]


def quoted(name: str) -> str:
    return '"' + utf7.encode(name) + '"'


def succeed(answer: tuple[str, Sequence[object]]) -> None:
    assert answer[0] == "OK", answer


def append(client: imaplib.IMAP4, folder: str, flags: str, date: str, message: bytes) -> None:
    # imaplib would turn every line end into CRLF; Dovecot is to see what the client sent.
    client.literal = message  # type: ignore[assignment]
    succeed(client._simple_command("APPEND", quoted(folder), f"({flags})", f'"{date}"'))


def names_in(listing: tuple[str, Sequence[object]]) -> set[str]:
    """The selectable names of a LIST or LSUB answer."""
    names = set()
    for line in listing[1]:
        if not isinstance(line, bytes):
            continue
        found = LIST_LINE.fullmatch(line)
        assert found is not None, line
        if b"\\noselect" not in found["flags"].lower():
            name = found["atom"] if found["quoted"] is None else re.sub(rb"\\(.)", rb"\1", found["quoted"])
            names.add(utf7.decode(name.decode("ascii")))
    return names


def seen_by_dovecot(server: Dovecot, client: imaplib.IMAP4, folder: str) -> list[Seen]:
    succeed(client.select(quoted(folder), readonly=True))
    status, lines = client.uid("FETCH", "1:*", "(UID FLAGS INTERNALDATE RFC822.SIZE)")
    assert status == "OK", server.log
    guids = re.findall(r"guid: (.*)", server.doveadm("fetch", "-u", server.user, "guid", "mailbox", folder))
    found = [FETCH_LINE.fullmatch(line) for line in lines if line is not None]
    return [seen(guid, line) for guid, line in zip(guids, found, strict=True) if line is not None]


def seen(guid: str, line: re.Match[bytes]) -> Seen:
    date = datetime.strptime(line["date"].decode().strip(), "%d-%b-%Y %H:%M:%S %z")
    flags = {flag for flag in line["flags"].decode().lower().split() if flag != "\\recent"}
    keywords = frozenset(SYSTEM_FLAGS.get(flag, flag) for flag in flags)
    return Seen(guid, int(line["size"]), int(date.timestamp()), keywords)


def seen_by_us(messages: Iterator[SourceMessage]) -> list[Seen]:
    return [Seen(each.id, each.size, each.received_at, each.keywords) for each in messages]


def assert_we_see_what_dovecot_sees(server: Dovecot, client: imaplib.IMAP4, source: Path) -> None:
    folders = open_source(source)
    assert {folder.name for folder in folders} == names_in(client.list())
    subscribed = {folder.name for folder in folders if folder.is_subscribed}
    assert subscribed == names_in(client.lsub()) & {folder.name for folder in folders}
    for folder in folders:
        expected = seen_by_dovecot(server, client, folder.name)
        assert seen_by_us(folder.messages()) == expected, folder.name
        assert folder.message_count == len(expected), folder.name


def make_mailboxes(client: imaplib.IMAP4) -> None:
    """A user's mail life: nested and non-ASCII folders, mail of all kinds, flags, expunges, copies, moves."""
    for folder in FOLDERS:
        succeed(client.create(quoted(folder)))
    for folder in SUBSCRIBED:
        succeed(client.subscribe(quoted(folder)))

    append(client, "INBOX", "", "01-Jan-1998 00:00:00 +0000", b"Subject: crlf\r\n\r\none\r\ntwo\r\n")
    append(client, "INBOX", "\\Seen", "17-Jul-1996 02:44:25 -0700", b"Subject: lf\n\none\ntwo\n")
    append(
        client, "INBOX", "\\Seen $Forwarded NonJunk", "29-Feb-2024 23:59:59 +0530", b"Subject: both\r\n\nend"
    )
    append(client, "INBOX", "\\Draft", "24-Mar-2019 12:00:00 +0100", b"Subject: large\n\n" + LARGE)
    append(client, "INBOX", "\\Flagged", "24-Mar-2019 12:00:01 +0100", b"Subject: no body\r\n")
    append(client, "Work", "\\Answered", "05-May-2020 05:05:05 +0000", b"Subject: work\n\nto do\n")
    append(client, "🙂", "", "06-Jun-2021 06:06:06 +0000", b"Subject: smile\n\n\xf0\x9f\x99\x82\r\rx\n")
    for number in range(20):
        append(client, "Work/2024", "", "07-Jul-2022 07:07:07 +0000", b"Subject: %d\n\nx\n" % number)

    succeed(client.select(quoted("INBOX")))
    succeed(client.uid("STORE", "1", "+FLAGS", "(\\Flagged $Label1 todo)"))
    succeed(client.uid("STORE", "3", "-FLAGS", "(NonJunk)"))
    succeed(client.uid("COPY", "1:3", quoted("Work/2024/März")))
    succeed(client.uid("COPY", "2", quoted("Work/2024/März")))
    succeed(client.uid("MOVE", "2", quoted("Café/日本語")))
    succeed(client.uid("STORE", "5", "+FLAGS", "(\\Deleted)"))
    succeed(client.select(quoted("Work/2024")))
    succeed(client.uid("STORE", "3:7,20", "+FLAGS", "(\\Deleted \\Seen)"))
    succeed(client.expunge())
    succeed(client.uid("STORE", "10:12", "+FLAGS", "(\\Seen KW0 KW1 KW2 KW3)"))
    succeed(client.rename(quoted("Entwürfe"), quoted("Work/Entwürfe")))
    succeed(client.unsubscribe(quoted("A & B")))


@pytest.mark.parametrize("layout", ["maildir++", "fs"])
def test_a_maildir_that_dovecot_made_is_read_as_dovecot_reads_it(tmp_path: Path, layout: Layout) -> None:
    with running_dovecot(tmp_path, layout) as server:
        client = server.imap()
        make_mailboxes(client)
        assert_we_see_what_dovecot_sees(server, client, server.maildir)


@pytest.mark.parametrize("layout", ["maildir++", "fs"])
def test_a_maildir_that_dovecot_never_saw_gets_the_ids_and_the_order_that_dovecot_gives_it(
    tmp_path: Path, layout: Layout
) -> None:
    with running_dovecot(tmp_path, layout) as server:
        for part in ("cur", "new", "tmp"):
            (server.maildir / part).mkdir()
        (server.maildir / "dovecot-keywords").write_text("0 Foo\n2 $Label1\n")
        files = [
            "cur/1700000000.M5P1.host:2,Sax",
            "cur/1600000000.M10P2.host:2,",
            "cur/1600000000.M2P3.host",
            "cur/zzz:2,F",
            "cur/10abc:2,RSTD",
            "cur/lies,S=3,W=99:2,S",
            "cur/1500000001.half,W=12x",
            "cur/other-info:1,S",
            "cur/experimental:2,S,b",
            "new/1600000000.M9P1.host",
            "new/1500000000.flagged-in-new:2,Sc",
            "new/" + "long" * 60,
        ]
        for number, name in enumerate(files):
            file = server.maildir / name
            file.write_bytes(b"Subject: %d\n\n\r\nx\n" % number)
            os.utime(file, (1, 1_000_000_000 + number))
        ours = seen_by_us(open_source(server.maildir)[0].messages())
        server.give(server.maildir)
        client = server.imap()
        assert ours == seen_by_dovecot(server, client, "INBOX")
        assert_we_see_what_dovecot_sees(server, client, server.maildir)


def test_odd_maildir_folder_names_are_shown_as_dovecot_shows_them(tmp_path: Path) -> None:
    with running_dovecot(tmp_path) as server:
        for name in [".", ".bad&name", ".&AC8-", ".inbox.kid", ".INBOX.INBOX", ".utf-é"]:
            for part in ("cur", "new", "tmp"):
                (server.maildir / name / part).mkdir(parents=True)
        server.give(server.maildir)
        names = names_in(server.imap().list())
    assert {folder.name for folder in open_source(server.maildir)} == names


def test_a_folder_without_a_message_is_still_a_folder(tmp_path: Path) -> None:
    with running_dovecot(tmp_path) as server:
        succeed(server.imap().create("Empty"))
    folder = next(folder for folder in open_source(server.maildir) if folder.name == "Empty")
    assert folder.message_count == 0
    assert list(folder.messages()) == []


def test_an_mbox_that_dovecot_made_is_read_as_dovecot_reads_it(tmp_path: Path) -> None:
    with running_dovecot(tmp_path, "mbox") as server:
        client = server.imap()
        append(client, "INBOX", "", "01-Jan-1998 00:00:00 +0000", b"Subject: crlf\r\n\r\none\r\ntwo\r\n")
        append(client, "INBOX", "\\Seen", "17-Jul-1996 02:44:25 -0700", b"Subject: lf\n\none\ntwo")
        from_line = b"From ada@example.org Thu Jul 18 09:44:25 1996"
        quoting = b"Subject: quoting\n\n" + from_line + b"\nx\n"
        append(client, "INBOX", "\\Draft $Forwarded", "24-Mar-2019 12:00:00 +0100", quoting)
        append(client, "INBOX", "\\Flagged", "24-Mar-2019 12:00:01 +0100", b"Subject: blank lines\n\n\n\n\n")
        append(client, "INBOX", "", "24-Mar-2019 12:00:02 +0100", b"Subject: large\n\n" + LARGE)
        append(client, "INBOX", "", "24-Mar-2019 12:00:03 +0100", b"Subject: empty\n\n")
        append(client, "INBOX", "\\Answered", "24-Mar-2019 12:00:04 +0100", b"Subject: only a header\n")
        succeed(client.select("INBOX"))
        succeed(client.uid("STORE", "1", "+FLAGS", "(\\Deleted $Label1 todo)"))
        expected = seen_by_dovecot(server, client, "INBOX")
    [inbox] = open_source(server.maildir / "inbox")
    assert inbox.name == "INBOX"
    assert inbox.message_count == len(expected)
    ours = seen_by_us(inbox.messages())
    assert [each[1:] for each in ours] == [each[1:] for each in expected]


def test_an_mbox_that_dovecot_never_saw_is_read_as_dovecot_reads_it(tmp_path: Path) -> None:
    from_lines = [
        b"From MAILER-DAEMON Thu Jul 18 09:44:25 1996",
        b"From ada@example.org  Thu Jan  1 00:00:00 1998",
        b'From "ada lovelace"@example.org Thu Jan  1 00:00 1998',
        b"From ada@example.org Sat Jul 18 09:44:25 EEST 1998",
        b"From ada@example.org Sat Jul 18 09:44:25 1998 +0300",
        b"From ada Sat, 18 Jul 1998 09:44:25 +0000",
        b"From - Sat Jul 18 09:44:25 1998",
        b"From -  Sat jul 18 09:44:25 1998 and more",
    ]
    bodies = [
        b"",
        b"\n>From the start Sat Jul 18 09:44:25 1998\n",
        b"\nnot a separator:\nFrom ada with love\nFrom Sat Jul 18 09:44:25 1998\nFrom \n",
        b"Status: RO\nX-Status: AFTD\nX-Keywords: $Label1 Foo\n\nflags\n\n\n",
        b"Content-Length: 50\n\n" + b"From x Sat Jul 18 09:44:25 1998\n" + b"x" * 17 + b"\n",
        b"Content-Length: 3\n\nwrong length\n",
        b"status: ro\nX-UID: 7\n\nlower case\n",
        b"X-Keywords: a\n b\nX-Folded: one\n two\n\nfolded\n",
    ]
    data = (
        b"From MAILER-DAEMON Thu Jul 18 09:44:25 1996\n"
        b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\n"
        b"X-IMAP: 1234567890 0000000000 $Label1 Foo a b\n\ntext\n\n"
    )
    for number, (from_line, body) in enumerate(zip(from_lines, bodies, strict=True)):
        data += from_line + b"\nSubject: %d\n" % number + body + b"\n"
    with running_dovecot(tmp_path, "mbox") as server:
        file = server.maildir / "inbox"
        file.write_bytes(data)
        [inbox] = open_source(file)
        ours = seen_by_us(inbox.messages())
        server.give(server.maildir)
        expected = seen_by_dovecot(server, server.imap(), "INBOX")
        assert [each[1:] for each in ours] == [each[1:] for each in expected]
        assert inbox.message_count == len(expected) == len(bodies)
        [again] = open_source(file)
        assert seen_by_us(again.messages()) == ours, "Dovecot's own headers must not change an id"


def test_mbox_messages_without_a_body_are_read_as_dovecot_reads_them(tmp_path: Path) -> None:
    separator = b"From ada Wed Jul 8 09:44:25 1998\n"
    with running_dovecot(tmp_path, "mbox") as server:
        file = server.maildir / "inbox"
        texts = [
            b"Subject: 1\n\nx\n\n",
            b"Subject: 2\n",
            b"Subject: 3\n\n",
            b"Subject: 4\n\nno empty line behind\n",
        ]
        file.write_bytes(b"".join(separator + text for text in texts))
        [inbox] = open_source(file)
        ours = seen_by_us(inbox.messages())
        server.give(server.maildir)
        expected = seen_by_dovecot(server, server.imap(), "INBOX")
        assert [each[1:] for each in ours] == [each[1:] for each in expected]
