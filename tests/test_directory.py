"""The account directory: all edits kept, one name a mailbox, nothing taken from garbage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pycrdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmail.crdt.clock import ReplicaId
from crdtmail.crdt.delta import MailboxId
from crdtmail.crdt.directory import Directory, lost_name, shown_names
from crdtmail.crdt.names import make_mailbox_id
from crdtmail.errors import PeerError

A, B = MailboxId(b"a" * 16), MailboxId(b"b" * 16)
ACCOUNT = "alice"


class Masters:
    """Directories of one account, each with the updates that it made itself."""

    def __init__(self, count: int = 2, state: bytes = b"") -> None:
        self.all = [Directory(state, ReplicaId(number)) for number in range(1, count + 1)]
        self.updates: list[list[bytes]] = [[] for _ in self.all]

    def at(self, number: int, edit: Callable[[Directory], bytes]) -> None:
        self.updates[number].append(edit(self.all[number]))

    def exchange(self) -> None:
        for target, directory in enumerate(self.all):
            for source, updates in enumerate(self.updates):
                if source != target:
                    for update in updates:
                        directory.merge(update)


def common_past() -> bytes:
    directory = Directory(b"", ReplicaId(9))
    directory.create(A, "Work")
    directory.create(B, "Play")
    return directory.state()


def edits() -> st.SearchStrategy[Callable[[Directory], bytes]]:
    boxes, names = st.sampled_from([A, B]), st.sampled_from(["Work", "Play", "Attic", "ü/ö"])
    texts = st.sampled_from(["", "one", "two 🎺"])
    return st.one_of(
        st.builds(lambda box, name: lambda d: d.create(box, name), boxes, names),
        st.builds(lambda box, old, new: lambda d: d.rename([(box, old, new)]), boxes, names, names),
        st.builds(lambda box, name: lambda d: d.vacate(box, name), boxes, names),
        st.builds(lambda box, role: lambda d: d.describe(box, role=role), boxes, texts),
        st.builds(lambda box, is_on: lambda d: d.describe(box, is_subscribed=is_on), boxes, st.booleans()),
        st.builds(lambda box, v: lambda d: d.describe(box, annotations={"/c": v or None}), boxes, texts),
        st.builds(lambda name, text: lambda d: d.put_script(name, text), names, texts),
    )


@given(st.lists(st.tuples(st.integers(0, 2), edits()), max_size=12))
def test_masters_that_have_exchanged_everything_say_the_same(
    steps: list[tuple[int, Callable[[Directory], bytes]]],
) -> None:
    masters = Masters(3, common_past())
    for number, edit in steps:
        masters.at(number, edit)
    masters.exchange()
    first, *others = masters.all
    assert all(other.content() == first.content() for other in others)
    again = Directory(first.state(), ReplicaId(77))
    assert again.content() == first.content(), "a document reads as it was written"
    assert again.entries() == first.entries()


def test_properties_of_one_mailbox_that_two_masters_set_at_once_are_all_kept() -> None:
    masters = Masters(2, common_past())
    masters.at(0, lambda d: d.rename([(A, "Work", "Attic")]))
    masters.at(0, lambda d: d.describe(A, annotations={"/comment": "mine"}))
    masters.at(1, lambda d: d.describe(A, role="archive", is_subscribed=True))
    masters.at(1, lambda d: d.describe(A, annotations={"/color": "red"}))
    masters.exchange()
    for directory in masters.all:
        entry = directory.entries()[A]
        assert (entry.name, entry.role, entry.is_subscribed) == ("Attic", "archive", True)
        assert entry.annotations == {"/comment": "mine", "/color": "red"}


def test_a_mailbox_renamed_twice_at_once_has_one_of_the_two_names() -> None:
    masters = Masters(2, common_past())
    masters.at(0, lambda d: d.rename([(A, "Work", "One")]))
    masters.at(1, lambda d: d.rename([(A, "Work", "Two")]))
    masters.exchange()
    (name,) = {directory.entries()[A].name for directory in masters.all}
    assert name in ("One", "Two")


def test_what_is_not_named_stays_as_it_is_and_what_is_emptied_goes() -> None:
    directory = Directory(common_past(), ReplicaId(1))
    directory.describe(A, role="archive", is_subscribed=True, annotations={"/c": "x", "/d": "y"})
    directory.describe(A, annotations={"/c": None})
    entry = directory.entries()[A]
    assert (entry.role, entry.is_subscribed, entry.annotations) == ("archive", True, {"/d": "y"})
    directory.describe(A, role="", is_subscribed=False)
    entry = directory.entries()[A]
    assert (entry.role, entry.is_subscribed) == (None, False)


def test_inbox_has_its_role_without_being_told() -> None:
    directory = Directory(b"", ReplicaId(1))
    directory.create(A, "INBOX")
    assert directory.entries()[A].role == "inbox"


def test_a_name_is_of_a_new_generation_after_each_mailbox_that_vacated_it() -> None:
    directory = Directory(common_past(), ReplicaId(1))
    assert directory.new_id(ACCOUNT, "Work") == make_mailbox_id(ACCOUNT, "Work", 0)
    directory.vacate(A, "Work")
    assert directory.new_id(ACCOUNT, "Work") == make_mailbox_id(ACCOUNT, "Work", 1)
    directory.rename([(B, "Work", "Play")])
    assert directory.new_id(ACCOUNT, "Work") == make_mailbox_id(ACCOUNT, "Work", 2)
    directory.vacate(A, "Work")
    assert directory.new_id(ACCOUNT, "Work") == make_mailbox_id(ACCOUNT, "Work", 2), "each counts once"
    assert directory.new_id(ACCOUNT, "Wor") == make_mailbox_id(ACCOUNT, "Wor", 0)


def test_two_masters_that_create_the_same_name_create_the_same_mailbox() -> None:
    masters = Masters()
    for number in (0, 1):
        masters.at(number, lambda d: d.create(d.new_id(ACCOUNT, "Work"), "Work"))
    masters.exchange()
    assert [len(directory.entries()) for directory in masters.all] == [1, 1]


# Twins ----------------------------------------------------------------------------------------------------

IDS = st.binary(min_size=16, max_size=16).map(MailboxId)
LIVING = st.dictionaries(IDS, st.sampled_from(["Work", "Play", "Work (6161)"]), max_size=8)


@given(LIVING)
def test_shown_names_are_unique_and_tell_the_name(names: dict[MailboxId, str]) -> None:
    shown = shown_names(names)
    assert shown.keys() == names.keys()
    assert len(set(shown.values())) == len(shown)
    for mailbox, name in shown.items():
        assert name == names[mailbox] or name.startswith(f"{names[mailbox]} ({mailbox.hex()[4:8]}")
    assert set(names.values()) <= set(shown.values()), "of several twins one shows the name bare"


@given(LIVING, st.randoms(use_true_random=False))
def test_shown_names_do_not_depend_on_the_order(names: dict[MailboxId, str], chance: object) -> None:
    items = list(names.items())
    chance.shuffle(items)  # type: ignore[attr-defined]
    assert shown_names(dict(items)) == shown_names(names)


def test_a_suffix_has_as_many_digits_as_it_takes() -> None:
    ids = [MailboxId(b"\0\0" + bytes.fromhex(tail) + b"\0" * 11) for tail in ("111111", "222222", "222233")]
    shown = shown_names(dict.fromkeys(ids, "Work"))
    assert list(shown.values()) == ["Work", "Work (2222)", "Work (22223)"]


# What others send -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a//b", "inbox", "x" * 1025, "a\0b"])
def test_a_name_that_no_mailbox_may_have_is_not_shown(name: str) -> None:
    directory = Directory(b"", ReplicaId(1))
    directory.create(A, name)
    assert directory.entries()[A].name == lost_name(A)


def mutated(update: bytes, changes: list[tuple[int, int, int]]) -> bytes:
    """The update with bits flipped, bytes put in, taken out or set to what a length likes to be."""
    found = bytearray(update)
    for kind, where, what in changes:
        at = where % (len(found) or 1)
        match kind:
            case 0 if found:
                found[at] ^= 1 << what % 8
            case 1:
                found.insert(at, what)
            case 2 if found:
                del found[at]
            case 3 if found:
                found[at] = (0, 1, 127, 128, 255)[what % 5]
    return bytes(found)


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4
)


def use(directory: Directory) -> None:
    """Everything that is ever asked of a document."""
    directory.content()
    directory.entries()
    directory.scripts()
    assert directory.active_script is None or isinstance(directory.active_script, str)
    directory.new_id(ACCOUNT, "Work")
    Directory(directory.state(), ReplicaId(3)).create(A, "x")


def sample_updates() -> list[bytes]:
    directory = Directory(b"", ReplicaId(1))
    updates = [
        directory.create(A, "Work"),
        directory.describe(A, role="archive", annotations={"/c": "é"}),
        directory.put_script("main", "keep;\nstop;\n"),
        directory.put_script("main", "keep;\ndiscard;\n"),
        directory.rename([(A, "Work", "Play")]),
        directory.delete_script("main"),
    ]
    return [*updates, directory.state()]


@settings(max_examples=5 * settings().max_examples)
@given(st.sampled_from(sample_updates()), MUTATIONS, st.booleans())
def test_a_damaged_update_is_refused_or_gives_a_document_that_can_be_used(
    update: bytes, changes: list[tuple[int, int, int]], on_a_full_document: bool
) -> None:
    directory = Directory(sample_updates()[-1] if on_a_full_document else b"", ReplicaId(2))
    with suppress(PeerError):
        directory.merge(mutated(update, changes))
        use(directory)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_give_a_document_that_can_be_used(update: bytes) -> None:
    directory = Directory(common_past(), ReplicaId(2))
    with suppress(PeerError):
        directory.merge(update)
        use(directory)


FORMS: dict[str, Callable[[], object]] = {
    "plain text": lambda: "text",
    "number": lambda: 3,
    "nothing": lambda: None,
    "bytes": lambda: b"\0\xff",
    "list": lambda: [1, "two"],
    "object": lambda: {"a": 1},
    "Text": lambda: pycrdt.Text("text"),
    "Map": lambda: pycrdt.Map({"a": "b"}),
    "Array": lambda: pycrdt.Array(["a"]),
    "document": pycrdt.Doc,
    "XML": pycrdt.XmlFragment,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("root", ["mailboxes", "vacated", "scripts", "sieve"])
@pytest.mark.parametrize("key", ["main", "active", A.hex() + ":name", "\u00fc:\u00e9", "a\0b"])
def test_a_value_in_another_form_is_refused_or_passed_over(root: str, key: str, form: str) -> None:
    other: Any = pycrdt.Doc()
    other.get(root, type=pycrdt.Map)[key] = FORMS[form]()
    directory = Directory(common_past(), ReplicaId(1))
    with suppress(PeerError):
        directory.merge(other.get_update())
        use(directory)
        directory.put_script(key, "keep;\n")
        directory.activate_script(key)
        assert (directory.scripts()[key], directory.active_script) == ("keep;\n", key)


@pytest.mark.parametrize("kind", [pycrdt.Array, pycrdt.Text, pycrdt.XmlFragment])
def test_a_root_of_another_kind_is_refused_or_passed_over(kind: type) -> None:
    other: Any = pycrdt.Doc()
    root = other.get("mailboxes", type=kind)
    if kind is pycrdt.XmlFragment:
        root.children.append(pycrdt.XmlElement("p"))
    else:
        root.insert(0, "x")
    directory = Directory(common_past(), ReplicaId(1))
    with suppress(PeerError):
        directory.merge(other.get_update())
        use(directory)


def test_a_script_into_which_another_program_wrote_more_than_text_is_refused() -> None:
    other: Any = pycrdt.Doc()
    scripts = other.get("scripts", type=pycrdt.Map)
    scripts["main"] = text = pycrdt.Text("")
    text.insert(0, "keep;\nstop;\n")
    text.insert_embed(2, {"an": "image"})
    with pytest.raises(PeerError):
        Directory(b"", ReplicaId(1)).merge(other.get_update())
