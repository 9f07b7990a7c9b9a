"""What may be a name, and the ids made from names."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crdtmail.crdt.delta import MailboxId
from crdtmail.crdt.names import (
    check_account,
    check_keyword,
    check_mailbox_name,
    check_message_id,
    check_script_name,
    make_mailbox_id,
    normalised_mailbox_name,
    uid_validity,
)

ANYTHING = st.text() | st.none() | st.integers() | st.binary() | st.booleans() | st.lists(st.text())
CHECKS: list[Callable[[object], object]] = [
    check_account,
    check_message_id,
    check_keyword,
    check_mailbox_name,
    check_script_name,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@given(value=ANYTHING)
def test_a_value_is_given_back_as_it_was_or_refused_with_a_reason(
    check: Callable[[object], object], value: object
) -> None:
    with suppress(ValueError):
        assert check(value) == value
        assert isinstance(value, str)
        assert value


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("value", ["", "a\0b", "a\nb", "\x7f", "\ud800", "x" * 1025, None, b"abc", 7])
def test_what_is_never_a_name(check: Callable[[object], object], value: object) -> None:
    with pytest.raises(ValueError):
        check(value)


@pytest.mark.parametrize(
    ("check", "bytes_allowed"),
    [(check_account, 255), (check_message_id, 255), (check_mailbox_name, 1024), (check_script_name, 512)],
)
def test_the_limit_is_in_bytes_not_characters(check: Callable[[object], object], bytes_allowed: int) -> None:
    check("x" * bytes_allowed)
    check("é" * (bytes_allowed // 2))
    with pytest.raises(ValueError, match="at most"):
        check("é" * (bytes_allowed // 2 + 1))


@pytest.mark.parametrize("keyword", ["$seen", "a", "~", "!x", "$" * 255, "a'b", "1", "x[", "a^b"])
def test_a_keyword_is_visible_ascii_in_lower_case(keyword: str) -> None:
    assert check_keyword(keyword) == keyword


@pytest.mark.parametrize(
    "keyword", ["$Seen", "A", "a b", "é", "a(", "a)", "a{", "a]", "a%", "a*", 'a"', "a\\", "x" * 256, "a\n"]
)
def test_a_keyword_is_nothing_that_rfc_8621_forbids(keyword: str) -> None:
    with pytest.raises(ValueError):
        check_keyword(keyword)


@pytest.mark.parametrize("name", ["INBOX", "INBOX/a", "Work", "a/b/c", "Über", "inboxes", "a/inbox", " "])
def test_a_mailbox_name_in_its_normal_form_is_taken(name: str) -> None:
    assert check_mailbox_name(name) == name


@pytest.mark.parametrize("name", ["/", "/a", "a/", "a//b", "inbox", "Inbox/a", "U\u0308ber"])
def test_an_empty_level_or_another_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        check_mailbox_name(name)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example("ınbox")
@example("inbox/U\u0308")
def test_normalising_once_is_enough(name: str) -> None:
    normal = normalised_mailbox_name(name)
    assert normalised_mailbox_name(normal) == normal
    assert unicodedata.is_normalized("NFC", normal)


@pytest.mark.parametrize("name", ["inbox", "InBoX", "INBOX"])
def test_inbox_is_one_mailbox_in_any_case(name: str) -> None:
    assert normalised_mailbox_name(name) == "INBOX"
    assert normalised_mailbox_name(name + "/inbox") == "INBOX/inbox"


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9)
BORN = st.tuples(TEXT, TEXT, st.integers(0, 70_000))


@given(BORN, BORN)
def test_a_mailbox_id_says_account_name_and_generation(
    one: tuple[str, str, int], other: tuple[str, str, int]
) -> None:
    assert (make_mailbox_id(*one) == make_mailbox_id(*other)) == (one == other)
    assert len(make_mailbox_id(*one)) == 16


def test_where_account_ends_and_name_begins_is_part_of_the_id() -> None:
    assert make_mailbox_id("ab", "c", 0) != make_mailbox_id("a", "bc", 0)


@given(TEXT, TEXT, st.integers(0, 4094))
def test_the_uidvalidity_grows_with_the_generation(account: str, name: str, generation: int) -> None:
    earlier, later = (make_mailbox_id(account, name, g) for g in (generation, generation + 1))
    assert uid_validity(earlier) < uid_validity(later)


@given(st.binary(min_size=16, max_size=16).map(MailboxId))
@example(MailboxId(b"\xff" * 16))
@example(MailboxId(b"\0" * 16))
def test_the_uidvalidity_fits_32_bits_and_is_not_zero(mailbox: MailboxId) -> None:
    assert 0 < uid_validity(mailbox) < 2**32
