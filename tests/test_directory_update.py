"""What reaches Yjs: all that a directory makes, and nothing that stands deeper or builds on nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmail.crdt.clock import ReplicaId
from crdtmail.crdt.delta import MailboxId
from crdtmail.crdt.directory import Directory
from crdtmail.crdt.directory_update import check_update
from crdtmail.errors import PeerError

BOX = MailboxId(b"a" * 16)
NOTHING = b"\0"  # the state vector of an empty document, and an empty document
SCRIPT = b"\x27\x01\x07scripts\x04main\x02"  # the map "scripts" gets a text under "main"
VALUE = b"\x28\x01\x05sieve\x06active\x01w\x01x"


def update(*blocks: bytes, client: int = 1, clock: int = 0, deletions: bytes = NOTHING) -> bytes:
    return bytes([1, len(blocks), client, clock]) + b"".join(blocks) + deletions


def check(data: bytes) -> None:
    check_update(data, NOTHING, lambda: b"\0\0")


NAMES = st.sampled_from(["a", "é", "🎺"])
TEXTS = st.lists(st.sampled_from(["keep;\n", "é🎺\n", "stop;\n", "x"]), max_size=5).map("".join)
Edit = Callable[[Directory], bytes]
EDITS: st.SearchStrategy[Edit] = st.one_of(
    st.builds(lambda name: lambda d: d.create(BOX, name), NAMES),
    st.builds(lambda old, new: lambda d: d.rename([(BOX, old, new)]), NAMES, NAMES),
    st.builds(lambda name: lambda d: d.vacate(BOX, name), NAMES),
    st.builds(lambda v: lambda d: d.describe(BOX, role=v, annotations={v: v or None}), TEXTS),
    st.builds(lambda name, text: lambda d: d.put_script(name, text), NAMES, TEXTS),
    st.builds(lambda name: lambda d: d.delete_script(name) if name in d.scripts() else b"\0\0", NAMES),
    st.builds(lambda name: lambda d: d.activate_script(name), NAMES),
)


@given(st.lists(st.tuples(st.integers(0, 2), EDITS, st.booleans()), max_size=15))
def test_every_update_that_directories_make_passes(steps: list[tuple[int, Edit, bool]]) -> None:
    """`merge` checks; some edits are made before the others are heard of, and the documents pass as well."""
    directories = [Directory(b"", ReplicaId(number)) for number in range(3)]
    unheard: list[list[bytes]] = [[], [], []]
    for number, edit, hears_first in steps:
        if hears_first:
            hear(directories[number], unheard[number])
        made = edit(directories[number])
        for other in range(3):
            if other != number:
                unheard[other].append(made)
    for number, directory in enumerate(directories):
        hear(directory, unheard[number])
    contents = [directory.content() for directory in directories]
    assert contents[0] == contents[1] == contents[2]
    for directory in directories:
        assert Directory(b"", ReplicaId(9)).merge(directory.state()) == contents[0]


def hear(directory: Directory, updates: list[bytes]) -> None:
    for each in updates:
        directory.merge(each)
    updates.clear()


def test_updates_by_hand_pass() -> None:
    """So that what follows is refused for its own reason."""
    check(update(VALUE))
    check(update(SCRIPT, b"\x04\x00\x01\x00\x02ab", b"\xa7\x01\x00\x02"))
    check(update(VALUE, deletions=b"\x01\x01\x01\x00\x01"))


REFUSED = {
    "an array in a map": update(b"\x27\x01\x07scripts\x04main\x00"),
    "a map in a map": update(b"\x27\x01\x09mailboxes\x01a\x01"),
    "a text where no script stands": update(b"\x27\x01\x05sieve\x04main\x02"),
    "a text in a text": update(SCRIPT, b"\x07\x00\x01\x00\x02"),
    "a text beside a script's letters": update(SCRIPT, b"\x04\x00\x01\x00\x01a", b"\xa7\x01\x01\x02"),
    "a text in front of a script's letters": update(SCRIPT, b"\x04\x00\x01\x00\x01a", b"\x47\x01\x01\x02"),
    "a text beside a value": update(VALUE, b"\xa7\x01\x00\x02"),
    "an embedded object": update(SCRIPT, b"\x05\x00\x01\x00\x02{}"),
    "a format": update(SCRIPT, b"\x06\x00\x01\x00\x01b\x02{}"),
    "a list as a value": update(b"\x28\x01\x05sieve\x01a\x01\x75\x01\x77\x01x"),
    "a number as a value": update(b"\x28\x01\x05sieve\x01a\x01\x7d\x01"),
    "two values": update(b"\x28\x01\x05sieve\x01a\x02w\x01xw\x01x"),
    "a fifth map": update(b"\x28\x01\x05other\x01a\x01w\x01x"),
    "a value in a list": update(b"\x08\x01\x05sieve\x01w\x01x"),
    "a document": update(b"\x29\x01\x05sieve\x01a\x01x\x00"),
    "a move": update(b"\x0b\x01\x05sieve\x00"),
    "a block that is left out": update(b"\x0a\x01", VALUE),
    "a beginning that is not there": update(VALUE, clock=3),
    "a neighbour that is not there": update(b"\xa8\x07\x00\x01w\x01x"),
    "a neighbour that comes later": update(b"\xa8\x01\x01\x01w\x01x", VALUE),
    "a deletion of what is not there": update(VALUE, deletions=b"\x01\x01\x01\x00\x02"),
    "more clients than bytes": b"\xff\xff\xff\xff\x07",
    "more blocks than bytes": b"\x01\xff\xff\xff\xff\x07\x01\x00",
    "a length of nothing": update(b"\x00\x00"),
    "a length of everything": update(b"\x00\xff\xff\xff\xff\x0f"),
    "a number without an end": b"\xff" * 40,
    "something behind it": update(VALUE) + b"\0",
    "half of it": update(VALUE)[:-4],
    "text that is not UTF-8": update(b"\x28\x01\x05sieve\x01a\x01w\x01\xff"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_directory_makes_is_refused(what: str) -> None:
    with pytest.raises(PeerError):
        check(REFUSED[what])


def test_what_stands_below_a_value_that_can_hold_nothing_is_refused_by_yjs() -> None:
    below = update(VALUE, b"\x04\x00\x01\x00\x01a")
    check(below)
    with pytest.raises(PeerError):
        Directory(b"", ReplicaId(2)).merge(below)


DEEP = """
from crdtmail.crdt.clock import ReplicaId
from crdtmail.crdt.directory import Directory
from crdtmail.errors import PeerError
deep = b"\\x75\\x01" * 20_000 + b"w\\x01x"
try:
    Directory(b"", ReplicaId(1)).merge(b"\\x01\\x01\\x01\\x00\\x28\\x01\\x05sieve\\x01a\\x01" + deep + b"\\0")
except PeerError:
    print("refused")
"""


def test_arrays_nested_20_000_deep_do_not_end_the_process() -> None:
    """In a process of its own, which they would end."""
    done = subprocess.run([sys.executable, "-c", DEEP], stdout=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"refused\n")


@given(st.binary(max_size=60))
def test_any_bytes_pass_or_are_refused(data: bytes) -> None:
    try:
        check(data)
    except PeerError:
        return
    Directory(b"", ReplicaId(1)).merge(data)
