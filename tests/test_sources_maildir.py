"""Reading Maildir trees: names, order, ids, flags, subscriptions, and trees that change or are damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmail.sources import SourceError, SourceFolder, SourceMessage, maildir, open_source, utf7

TEXT = b"Subject: hello\n\nworld\n"
UIDLIST = "3 V1700000000 N9 G0123456789abcdef0123456789abcdef\n"


def make_folder(path: Path, *files: str, text: bytes = TEXT) -> Path:
    for part in ("cur", "new", "tmp"):
        (path / part).mkdir(parents=True, exist_ok=True)
    for file in files:
        (path / file).write_bytes(text)
    return path


def open_inbox(path: Path) -> SourceFolder:
    folder = open_source(path)[0]
    assert folder.name == "INBOX"
    return folder


def read_inbox(path: Path) -> list[SourceMessage]:
    return list(open_inbox(path).messages())


def ids(path: Path) -> list[str]:
    return [message.id for message in read_inbox(path)]


def keywords(path: Path) -> list[set[str]]:
    return [set(message.keywords) for message in read_inbox(path)]


def names(path: Path) -> list[str]:
    return [folder.name for folder in open_source(path)]


# Folders ---------------------------------------------------------------------------------------------


def test_a_maildir_plus_plus_folder_has_its_levels_between_dots(tmp_path: Path) -> None:
    make_folder(tmp_path)
    make_folder(tmp_path / ".Sent")
    make_folder(tmp_path / ".Sent.2024")
    assert names(tmp_path) == ["INBOX", "Sent", "Sent/2024"]


def test_a_nested_folder_has_its_levels_in_directories_and_may_have_dots_in_its_name(tmp_path: Path) -> None:
    make_folder(tmp_path)
    make_folder(tmp_path / "Sent")
    make_folder(tmp_path / "Sent" / "v1.0")
    make_folder(tmp_path / "only-a-parent" / ".child")
    assert names(tmp_path) == ["INBOX", "Sent", "Sent/v1.0", "only-a-parent/.child"]


def test_both_layouts_may_be_mixed_and_no_folder_is_lost_where_they_collide(tmp_path: Path) -> None:
    make_folder(tmp_path)
    make_folder(tmp_path / ".Work.2024", "cur/a")
    make_folder(tmp_path / "Work" / "2024", "cur/b")
    make_folder(tmp_path / ".Inbox")
    assert names(tmp_path) == ["INBOX", "Work/2024", "Work/2024 (2)"]


def test_directories_without_cur_or_new_are_no_folders(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / ".spamassassin").mkdir()
    (tmp_path / "sieve").mkdir()
    (tmp_path / "cur" / "lost" / "cur").mkdir(parents=True)
    assert names(tmp_path) == ["INBOX"]
    assert open_inbox(tmp_path).message_count == 0


def test_links_that_run_in_circles_are_followed_once(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "mail")
    make_folder(root / "Work")
    (root / "Work" / "up").symlink_to(root)
    (root / "alias").symlink_to(root / "Work")
    make_folder(tmp_path / "elsewhere" / "Shared")
    (root / "Linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    assert names(root) == ["INBOX", "Linked/Shared", "Work"]


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (".Entw&APw-rfe", "Entwürfe"),
        (".Tom &- Anna", "Tom & Anna"),
        (".&ZeVnLIqe-.&2D3eQg-", "日本語/🙂"),
        (".bad&name", "bad&name"),
        (".&AC8-", "&AC8-"),
        (".inbox.Lists", "INBOX/Lists"),
        (".a..b.", "a/b"),
        (".cafe\u0301", "caf\u00e9"),
        (".bell\x07", "bell\\x07"),
        (".latin\udce9", "latin\\xe9"),
    ],
)
def test_folder_names_are_decoded_and_what_cannot_be_decoded_is_shown_as_it_is(
    tmp_path: Path, stored: str, shown: str
) -> None:
    make_folder(tmp_path)
    make_folder(tmp_path / stored)
    assert names(tmp_path) == ["INBOX", shown]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_modified_utf7_gives_back_every_name(name: str) -> None:
    encoded = utf7.encode(name)
    assert encoded.isascii()
    assert encoded.isprintable()
    assert utf7.decode(encoded) == name


@given(st.text("&AC8-,é+/ \x01"))
def test_modified_utf7_has_one_spelling_for_each_name(text: str) -> None:
    with suppress(ValueError):
        assert utf7.encode(utf7.decode(text)) == text


def test_modified_utf7_is_what_the_rfc_says() -> None:
    assert utf7.encode("~peter/mail/台北/日本語") == "~peter/mail/&U,BTFw-/&ZeVnLIqe-"
    assert utf7.decode("Hi Mom -&Jjo--!") == "Hi Mom -☺-!"


@pytest.mark.parametrize("subscriptions", ["V\t2\n\nINBOX\nWork\t2024\nGone\n", "INBOX\nWork.2024\nGone\n"])
def test_subscriptions_are_read_in_both_versions_of_the_file(tmp_path: Path, subscriptions: str) -> None:
    make_folder(tmp_path)
    make_folder(tmp_path / ".Work")
    make_folder(tmp_path / ".Work.2024")
    (tmp_path / "subscriptions").write_text(subscriptions)
    assert {folder.name: folder.is_subscribed for folder in open_source(tmp_path)} == {
        "INBOX": True,
        "Work": False,
        "Work/2024": True,
    }


def test_subscriptions_of_nested_folders_have_slashes_and_may_have_escaped_tabs(tmp_path: Path) -> None:
    make_folder(tmp_path / "a.b" / "c")
    make_folder(tmp_path / "tab\there")
    (tmp_path / "subscriptions").write_text("a.b/c\n")
    assert [folder.name for folder in open_source(tmp_path) if folder.is_subscribed] == ["a.b/c"]
    (tmp_path / "subscriptions").write_text("V\t2\n\ntab\x01there\n")
    assert [folder.name for folder in open_source(tmp_path) if folder.is_subscribed] == ["tab\\x09here"]


@pytest.mark.parametrize("path", ["missing", "empty-folder"])
def test_what_is_no_maildir_is_refused_in_plain_words(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty-folder").mkdir()
    with pytest.raises(SourceError, match=path):
        open_source(tmp_path / path)


# Messages --------------------------------------------------------------------------------------------


def test_messages_come_in_the_order_of_the_uidlist_then_by_the_time_in_their_names(tmp_path: Path) -> None:
    make_folder(
        tmp_path, "cur/30.M1.h:2,S", "cur/40.M1.h:2,", "cur/20.M9.h:2,", "new/20.M10.h", "new/7.h", "cur/x"
    )
    (tmp_path / "dovecot-uidlist").write_text(UIDLIST + "4 :40.M1.h\n7 :gone\n8 :30.M1.h\n")
    assert ids(tmp_path) == ["40.M1.h", "30.M1.h", "x", "7.h", "20.M9.h", "20.M10.h"]


def test_the_first_version_of_the_uidlist_is_read_too(tmp_path: Path) -> None:
    make_folder(tmp_path, "cur/1.a:2,S", "cur/2.b:2,")
    (tmp_path / "dovecot-uidlist").write_text("1 1700000000 12\n3 2.b:2,F\n11 1.a\n")
    assert ids(tmp_path) == ["2.b", "1.a"]


def test_the_id_is_the_guid_of_the_uidlist_else_the_name_up_to_the_colon(tmp_path: Path) -> None:
    make_folder(tmp_path, "cur/1.a,S=22,W=25:2,S", "cur/2.b:2,", "new/3.c")
    (tmp_path / "dovecot-uidlist").write_text(UIDLIST + "1 W25 Gthe-guid :1.a,S=22,W=25\n2 G :2.b\n")
    assert ids(tmp_path) == ["the-guid", "2.b", "3.c"]


def test_a_name_that_cannot_be_an_id_is_replaced_by_a_hash_that_stays_the_same(tmp_path: Path) -> None:
    make_folder(tmp_path, "cur/1.latin\udce9:2,", "cur/2.control\x01:2,")
    (tmp_path / "dovecot-uidlist").write_text(
        UIDLIST + "8 G" + "g" * 256 + " :1.latin\udce9\n", errors="surrogateescape"
    )
    before = ids(tmp_path)
    assert all(id.startswith("sha256-") and len(id) == 71 for id in before)
    assert len(set(before)) == 2
    os.rename(tmp_path / "cur" / "2.control\x01:2,", tmp_path / "cur" / "2.control\x01:2,S")
    assert ids(tmp_path) == before


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_size_counts_every_line_end_as_two_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(maildir, "READ_BYTES", count)
    make_folder(tmp_path, "cur/1", text=b"a\nb\r\n\r\r\n\n\nc\r")
    assert [message.size for message in read_inbox(tmp_path)] == [len(b"a\r\nb\r\n\r\r\n\r\n\r\nc\r")]


def test_the_size_is_taken_from_the_file_name_or_the_uidlist_where_it_is_known(tmp_path: Path) -> None:
    make_folder(tmp_path, "cur/1,S=1,W=111:2,", "cur/2,W=broken:2,", "cur/3:2,", "cur/4,S=4:2,")
    (tmp_path / "dovecot-uidlist").write_text(UIDLIST + "1 W5 :1,S=1,W=111\n3 W333 S3 :3\n")
    sizes = {message.id: message.size for message in read_inbox(tmp_path)}
    computed = len(TEXT) + TEXT.count(b"\n")
    assert sizes == {"1,S=1,W=111": 111, "2,W=broken": computed, "3": 333, "4,S=4": computed}


def test_a_number_that_is_no_size_is_passed_over(tmp_path: Path) -> None:
    name = f"1,W={'9' * 40}"
    make_folder(tmp_path, f"cur/{name}:2,", "cur/2:2,")
    (tmp_path / "dovecot-uidlist").write_text(UIDLIST + f"3 W{'9' * 5000} :2\n")
    computed = len(TEXT) + TEXT.count(b"\n")
    assert {message.id: message.size for message in read_inbox(tmp_path)} == {name: computed, "2": computed}


@pytest.mark.parametrize(("time_ns", "seconds"), [(1_700_000_000_999_999_999, 1_700_000_000), (-1, 0)])
def test_a_message_was_received_at_the_time_of_its_file_in_whole_seconds(
    tmp_path: Path, time_ns: int, seconds: int
) -> None:
    make_folder(tmp_path, "cur/1")
    os.utime(tmp_path / "cur" / "1", ns=(0, time_ns))
    assert [message.received_at for message in read_inbox(tmp_path)] == [seconds]


def test_flags_are_capitals_after_the_colon_and_user_keywords_are_small_letters(tmp_path: Path) -> None:
    make_folder(tmp_path, "cur/1:2,DFPRST", "cur/2:2,Sabz", "cur/3", "new/4:2,F", "cur/5:1,S", "cur/6:2,S,F")
    (tmp_path / "dovecot-keywords").write_text('0 $Label1\n1 Odd"Name)\n2 Other\nnonsense\n99 x\n5\n')
    assert keywords(tmp_path) == [
        {"$draft", "$flagged", "$forwarded", "$answered", "$seen", "$deleted"},
        {"$seen", "$label1", "odd_name_", "unknown-25"},
        set(),
        {"$flagged"},
        set(),
        {"$seen"},
    ]


def test_dot_files_and_directories_among_the_messages_are_none(tmp_path: Path) -> None:
    make_folder(tmp_path, "cur/1", "cur/.nfs0001", "tmp/2")
    (tmp_path / "cur" / "folder").mkdir()
    assert ids(tmp_path) == ["1"]
    assert open_inbox(tmp_path).message_count == 1


def test_two_messages_of_one_name_are_both_kept_but_two_names_of_one_message_are_not(tmp_path: Path) -> None:
    make_folder(tmp_path, "new/1", "cur/1:2,S")
    assert sorted(ids(tmp_path)) == ["1", "1:2,S"]
    (tmp_path / "new" / "1").unlink()
    os.link(tmp_path / "cur" / "1:2,S", tmp_path / "new" / "1")
    assert ids(tmp_path) == ["1"]


# Trees that change or are damaged -----------------------------------------------------------------------


def test_the_messages_are_read_anew_each_time(tmp_path: Path) -> None:
    make_folder(tmp_path, "new/1")
    inbox = open_inbox(tmp_path)
    assert len(list(inbox.messages())) == 1
    make_folder(tmp_path, "new/2")
    assert len(list(inbox.messages())) == 2
    assert inbox.message_count == 1


def test_a_message_that_gets_a_flag_while_we_read_is_read_with_that_flag(tmp_path: Path) -> None:
    make_folder(tmp_path, "new/1", "new/2", "cur/3:2,")
    messages = open_inbox(tmp_path).messages()
    assert next(messages).id == "1"
    os.rename(tmp_path / "new" / "2", tmp_path / "cur" / "2:2,F")
    os.rename(tmp_path / "cur" / "3:2,", tmp_path / "cur" / "3:2,S")
    assert [(message.id, set(message.keywords)) for message in messages] == [
        ("2", {"$flagged"}),
        ("3", {"$seen"}),
    ]


def test_a_message_that_vanishes_while_we_read_is_left_out(tmp_path: Path) -> None:
    make_folder(tmp_path, "cur/1", "cur/2", "cur/3")
    messages = open_inbox(tmp_path).messages()
    next(messages)
    (tmp_path / "cur" / "2").unlink()
    assert [message.id for message in messages] == ["3"]


def test_a_message_that_is_always_gone_when_we_look_does_not_hold_us_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path, "cur/1", "cur/2")
    see = fleeting(maildir.read_message, b"1")
    monkeypatch.setattr(maildir, "read_message", see)
    assert ids(tmp_path) == ["2"]


def fleeting(read: Callable[..., SourceMessage], vanishing: bytes) -> Callable[..., SourceMessage]:
    """`read_message`, for which one message is never there."""

    def read_what_is_there(base: bytes, *arguments: object) -> SourceMessage:
        if base == vanishing:
            raise FileNotFoundError
        return read(base, *arguments)

    return read_what_is_there


def test_a_file_that_one_reading_of_the_directory_missed_is_found_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path, "cur/1:2,", "cur/2:2,")
    (tmp_path / "dovecot-uidlist").write_text(UIDLIST + "1 :1\n2 :2\n")
    inbox = open_inbox(tmp_path)
    scan, missed = maildir.scan, [b"1"]

    def scan_with_a_gap(folder: bytes) -> dict[bytes, bytes]:
        found = scan(folder)
        if missed:
            del found[missed.pop()]
        return found

    monkeypatch.setattr(maildir, "scan", scan_with_a_gap)
    assert [message.id for message in inbox.messages()] == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("not a uidlist\n", "line 1"),
        ("2 1 2\n", "line 1"),
        ("3 V0 N1\n", "line 1"),
        ("3 V1\n", "line 1"),
        (UIDLIST + "1 :1\nx\n", "line 3"),
        (UIDLIST + "1 :../../etc/passwd\n", "line 2"),
        (UIDLIST + "2 :1\n1 :2\n", "UID 1 after UID 2"),
        (UIDLIST + "0 :1\n", "UID 0"),
        (UIDLIST + "1\n", "line 2"),
        (UIDLIST + "9" * 5000 + " :1\n", "line 2"),
    ],
)
def test_a_damaged_uidlist_is_refused_and_the_reason_says_where(
    tmp_path: Path, content: str, reason: str
) -> None:
    make_folder(tmp_path, "cur/1", "cur/2")
    (tmp_path / "dovecot-uidlist").write_text(content)
    with pytest.raises(SourceError, match=f"dovecot-uidlist.*{reason}"):
        read_inbox(tmp_path)


@pytest.mark.parametrize("content", ["", "3 V1", UIDLIST, UIDLIST + "1 :2"])
def test_a_uidlist_that_is_being_written_is_read_as_far_as_it_goes(tmp_path: Path, content: str) -> None:
    make_folder(tmp_path, "cur/1", "cur/2")
    (tmp_path / "dovecot-uidlist").write_text(content)
    assert ids(tmp_path) == ["1", "2"]


def test_a_message_that_came_back_after_an_expunge_has_its_later_place(tmp_path: Path) -> None:
    make_folder(tmp_path, "cur/1", "cur/2")
    (tmp_path / "dovecot-uidlist").write_text(UIDLIST + "1 :1\n2 :2\n3 :1\n")
    assert ids(tmp_path) == ["2", "1"]


@given(st.binary() | st.builds(lambda tail: UIDLIST.encode() + tail, st.binary()))
def test_whatever_a_uidlist_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    root = make_folder(tmp_path_factory.getbasetemp() / "any-uidlist", "cur/1", "cur/2")
    (root / "dovecot-uidlist").write_bytes(content)
    with suppress(SourceError):
        assert len(read_inbox(root)) == 2


def test_what_the_system_refuses_is_a_source_error_that_names_the_file(tmp_path: Path) -> None:
    make_folder(tmp_path, "cur/1")
    (tmp_path / "dovecot-keywords").mkdir()
    with pytest.raises(SourceError, match="dovecot-keywords: Is a directory"):
        read_inbox(tmp_path)
