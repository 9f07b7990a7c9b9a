"""Reading mbox files: where messages begin and end, their flags, sizes, dates and ids."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmail.sources import SourceError, SourceMessage, mbox, open_source

FROM = b"From ada@example.org Sat Jul 18 09:44:25 1998 +0000\n"
FROM_AT = 900755065
MESSAGE = b"Subject: hello\n\nworld\n"
ANNOUNCEMENT = (
    FROM + b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\n"
    b"X-IMAP: 1234567890 0000000001\nStatus: RO\n\nThis text is part of the internal format.\n\n"
)


def read(path: Path, content: bytes) -> list[SourceMessage]:
    path.write_bytes(content)
    [folder] = open_source(path)
    messages = list(folder.messages())
    assert folder.message_count == len(messages)
    return messages


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mbox"


def with_crlf(message: bytes) -> int:
    return len(message) + message.count(b"\n") - message.count(b"\r\n")


@pytest.mark.parametrize(
    ("file_name", "folder_name"),
    [
        ("mbox", "INBOX"),
        ("inbox", "INBOX"),
        ("Inbox.mbox", "INBOX"),
        ("Archive.mbox", "Archive"),
        ("lists.2024", "lists.2024"),
        ("Entw&APw-rfe", "Entwürfe"),
        ("Entwürfe", "Entwürfe"),
    ],
)
def test_the_folder_is_named_like_the_file_and_mbox_or_inbox_is_the_inbox(
    tmp_path: Path, file_name: str, folder_name: str
) -> None:
    (tmp_path / file_name).write_bytes(FROM + MESSAGE)
    [folder] = open_source(tmp_path / file_name)
    assert folder.name == folder_name
    assert folder.is_subscribed


def test_an_empty_file_is_a_folder_without_messages(file: Path) -> None:
    assert read(file, b"") == []


@pytest.mark.parametrize(
    "content", [b"\0\1\2", b"Subject: hello\n\nworld\n", b"From me with love\n\nhello\n", b"\n" + FROM]
)
def test_a_file_that_does_not_begin_with_a_from_line_is_refused(file: Path, content: bytes) -> None:
    with pytest.raises(SourceError, match="not an mbox file"):
        read(file, content)


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        (b"Sat Jul 18 09:44:25 1998 +0000", FROM_AT),
        (b"Sat Jul 18 09:44:25 1998 +0330", FROM_AT - 3 * 3600 - 30 * 60),
        (b"Sat Jul 18 09:44:25 -0100 1998", FROM_AT + 3600),
        (b" sat jul 18 09:44:25 1998 +0000 remote from host", FROM_AT),
        (b"Sat, 18 Jul 1998 09:44:25 +0000", FROM_AT),
        (b"Sat Jul 18 09:44 1998 +0000", FROM_AT - 25),
        (b"Wed Jul  8 09:44:25 1998 +0000", FROM_AT - 10 * 86400),
        (b"Wed Jul 8 09:44:25 1998 +0000", FROM_AT - 10 * 86400),
        (b"Sat Jul 18 09:44:25 UTC 1998 +0000", FROM_AT),
        (b"Wed Dec 31 23:59:59 1969 +0000", 0),
    ],
)
def test_a_message_was_received_when_its_from_line_says(file: Path, date: bytes, seconds: int) -> None:
    assert [message.received_at for message in read(file, b"From ada " + date + b"\n" + MESSAGE)] == [seconds]


def test_a_from_line_without_a_time_zone_is_in_local_time(
    file: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    request.addfinalizer(time.tzset)
    time.tzset()
    [message] = read(file, b"From ada Sat Jul 18 09:44:25 1998\n" + MESSAGE)
    monkeypatch.undo()
    assert message.received_at == FROM_AT + 4 * 3600


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("read_bytes", [6, 7, 11, 64, 1 << 20])
def test_a_message_ends_before_the_empty_line_in_front_of_the_next(
    file: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int, line_end: bytes
) -> None:
    monkeypatch.setattr(mbox, "READ_BYTES", read_bytes)
    texts = [b"Subject: %d\n\n" % number + b"line\n" * number for number in range(5)]
    content = b"".join(FROM + text + b"\n" for text in texts).replace(b"\n", line_end)
    assert [message.size for message in read(file, content)] == [with_crlf(text) for text in texts]


def test_a_message_may_be_all_header_with_or_without_the_empty_line_behind_it(file: Path) -> None:
    messages = read(file, FROM + b"Subject: a\n\n" + FROM + b"Subject: bb\n" + FROM + b"\n" + FROM)
    assert [message.size for message in messages] == [12, 13, 0, 0]


def test_a_header_line_longer_than_what_we_read_at_once_is_one_line(file: Path) -> None:
    text = b"X-Long: ".ljust(mbox.LINE_BYTES, b"x") + FROM + b"Status: R\n\ntext\n"
    [message] = read(file, FROM + text + b"\n")
    assert message.size == with_crlf(text.replace(b"Status: R\n", b""))
    assert message.keywords == {"$seen"}


@pytest.mark.parametrize(
    "line",
    [
        b">From ada@example.org Sat Jul 18 09:44:25 1998",
        b"From ada with love",
        b"From ada@example.org Sat Foo 18 09:44:25 1998",
        b"From ada@example.org Sat Jul 18 1998",
        b" " + FROM.rstrip(),
        b"x" * 70_000 + FROM.rstrip(),
    ],
)
def test_a_line_that_is_no_valid_from_line_parts_nothing(file: Path, line: bytes) -> None:
    text = MESSAGE + line + b"\nmore\n"
    assert [message.size for message in read(file, FROM + text + b"\n")] == [with_crlf(text)]


def test_content_length_is_believed_where_a_message_ends_there_and_only_there(file: Path) -> None:
    quoted = b"From line in the text:\n" + FROM + b"end\n"
    right = FROM + b"Content-Length: %d\n\n" % len(quoted) + quoted + b"\n"
    assert [message.size for message in read(file, right + right)] == [2 + with_crlf(quoted)] * 2
    wrong = FROM + b"Content-Length: %d\n\n" % (len(quoted) - 1) + quoted + b"\n"
    assert len(read(file, wrong)) == 2
    for digits in (11, 30, 5000):
        huge = FROM + b"Content-Length: " + b"9" * digits + b"\n\n" + MESSAGE + b"\n"
        assert len(read(file, huge + huge)) == 2


def test_status_headers_are_keywords(file: Path) -> None:
    headers = [
        b"Status: RO\n",
        b"Status: O\nX-Status: AFTD\n",
        b"X-Keywords: $Label1 Foo\n\t$Forwarded   \n",
        b"STATUS: R\nx-status: F\n",
        b"Subject: R\n Status: R\n",
        b"",
    ]
    messages = read(file, b"".join(FROM + header + b"\ntext\nStatus: R\n\n" for header in headers))
    assert [set(message.keywords) for message in messages] == [
        {"$seen"},
        {"$answered", "$flagged", "$draft", "$deleted"},
        {"$label1", "foo", "$forwarded"},
        {"$seen", "$flagged"},
        set(),
        set(),
    ]


def test_what_mail_programs_write_into_the_headers_counts_neither_in_the_size_nor_in_the_id(
    file: Path,
) -> None:
    written = (
        b"X-IMAPbase: 1 2 a b\nX-UID: 7\nStatus: RO\nX-Status: A\nX-Keywords: a\n b  \nContent-Length: 6\n"
    )
    [before] = read(file, FROM + MESSAGE + b"\n")
    [after] = read(file, FROM + b"Subject: hello\n" + written + b"\nworld\n\n")
    assert after.id == before.id
    assert after.size == before.size == with_crlf(MESSAGE)
    [crlf] = read(file, (FROM + MESSAGE).replace(b"\n", b"\r\n"))
    assert crlf.id == before.id


def test_exact_copies_are_numbered_and_different_messages_have_different_ids(file: Path) -> None:
    other = MESSAGE.replace(b"hello", b"Hello")
    ids = [
        message.id
        for message in read(file, b"\n".join(FROM + text for text in [MESSAGE, other, MESSAGE, MESSAGE]))
    ]
    assert ids[2] == ids[0] + "-2"
    assert ids[3] == ids[0] + "-3"
    assert len(set(ids)) == 4
    assert all(id.startswith("sha256-") and len(id) < 100 for id in ids)


def test_an_id_does_not_depend_on_whether_more_mail_follows(file: Path) -> None:
    [alone] = read(file, FROM + MESSAGE)
    first, _ = read(file, FROM + MESSAGE + b"\n" + FROM + b"Subject: next\n\n")
    assert first.id == alone.id


def test_the_message_that_holds_folder_data_is_left_out_but_only_in_the_first_place(file: Path) -> None:
    [message] = read(file, ANNOUNCEMENT + FROM + MESSAGE)
    assert message.size < with_crlf(MESSAGE)
    assert len(read(file, FROM + MESSAGE + b"\n" + ANNOUNCEMENT)) == 2
    assert read(file, ANNOUNCEMENT) == []


def test_a_file_that_is_cut_while_we_read_is_read_as_far_as_it_goes(file: Path) -> None:
    file.write_bytes((FROM + MESSAGE + b"\n") * 3)
    [folder] = open_source(file)
    messages = folder.messages()
    next(messages)
    with open(file, "rb+") as cut:
        cut.truncate(len(FROM + MESSAGE) + 20)
    with suppress(SourceError):
        assert len(list(messages)) < 3


def test_a_large_message_is_read_in_pieces(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    add = mbox.Content.add

    def add_and_count(content: mbox.Content, piece: bytes) -> None:
        pieces.append(len(piece))
        add(content, piece)

    monkeypatch.setattr(mbox.Content, "add", add_and_count)
    text = b"Subject: " + b"x" * 200_000 + b"\n\n" + b"no line end " * 300_000
    [message] = read(file, FROM + text)
    assert message.size == with_crlf(text)
    assert max(pieces) <= mbox.READ_BYTES
    assert len(pieces) > 4


@given(
    st.lists(
        st.sampled_from(
            [FROM, b"\n", b"\r\n", MESSAGE, b"Content-Length: 1\n", b"X-IMAP: 1 2\n", b"From ", b"x"]
        )
    )
)
def test_whatever_a_file_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    with suppress(SourceError):
        read(tmp_path_factory.getbasetemp() / "any-mbox", FROM + b"".join(pieces))
