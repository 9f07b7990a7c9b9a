"""Sieve scripts: edited on several masters, by whole lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmail import views
from crdtmail.crdt.clock import ReplicaId
from crdtmail.crdt.directory import Directory
from crdtmail.errors import Forbidden, NotFound, TooLarge
from crdtmail.limits import MAX_SCRIPTS
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.tables import Tables
from tests.real_world import ACCOUNT, RealWorld

LINES = st.lists(
    st.sampled_from(["keep;\n", "stop;\n", "# é 🎺\r\n", "discard;\n", "\n", "no end"]), max_size=8
)


class Masters:
    """Two masters that exchange when told to."""

    def __init__(self) -> None:
        self.world = RealWorld(MemoryStore)

    def put(
        self, at: str, content: str | None = None, *, name: str = "main", active: bool | None = None
    ) -> None:
        store, replica = self.world.replica(at)
        store.transact(
            lambda txn: replica.change_script(txn, ACCOUNT, name, content=content, is_active=active)
        )

    def delete(self, at: str, name: str = "main") -> None:
        store, replica = self.world.replica(at)
        store.transact(lambda txn: replica.delete_script(txn, ACCOUNT, name))

    def exchange(self) -> None:
        self.world.deliver("mx1", "mx2")
        self.world.deliver("mx2", "mx1")

    def scripts(self, at: str) -> list[views.Script]:
        store, _ = self.world.replica(at)
        with store.snapshot() as snapshot:
            return views.scripts(Tables(snapshot), ACCOUNT)

    def content(self, at: str) -> str:
        (script,) = self.scripts(at)
        return script.content


def test_edits_of_different_lines_on_two_masters_are_both_kept() -> None:
    masters = Masters()
    masters.put("mx1", "require [];\nif a {stop;}\nif b {stop;}\nkeep;\n")
    masters.exchange()
    masters.put("mx1", "require [];\nif A {stop;}\nif b {stop;}\nkeep;\n")
    masters.put("mx2", "require [];\nif a {stop;}\nif b {stop;}\nif c {stop;}\nkeep;\n")
    masters.exchange()
    assert masters.content("mx1") == "require [];\nif A {stop;}\nif b {stop;}\nif c {stop;}\nkeep;\n"
    assert masters.scripts("mx1") == masters.scripts("mx2")


@given(LINES, LINES)
def test_a_script_reads_as_it_was_put_whatever_it_was_before(before: list[str], after: list[str]) -> None:
    directory = Directory(b"", ReplicaId(1))
    directory.put_script("main", "".join(before))
    directory.put_script("main", "".join(after))
    assert directory.scripts() == {"main": "".join(after)}


@given(LINES, LINES, LINES)
def test_masters_end_with_one_script_whatever_they_did_to_it(
    base: list[str], one: list[str], other: list[str]
) -> None:
    masters = Masters()
    masters.put("mx1", "".join(base))
    masters.exchange()
    masters.put("mx1", "".join(one))
    masters.put("mx2", "".join(other))
    masters.exchange()
    assert masters.content("mx1") == masters.content("mx2")
    assert masters.world.digest("mx1") == masters.world.digest("mx2")


def test_one_script_at_most_is_active() -> None:
    masters = Masters()
    masters.put("mx1", "keep;", name="one")
    masters.put("mx1", "stop;", name="two")
    masters.exchange()
    masters.put("mx1", name="one", active=True)
    masters.put("mx2", name="two", active=True)
    masters.exchange()
    assert sum(script.is_active for script in masters.scripts("mx1")) == 1
    assert masters.scripts("mx1") == masters.scripts("mx2")


def test_the_active_script_cannot_be_deleted_and_an_inactive_one_can() -> None:
    masters = Masters()
    masters.put("mx1", "keep;", active=True)
    with pytest.raises(Forbidden):
        masters.delete("mx1")
    masters.put("mx1", active=False)
    masters.delete("mx1")
    assert masters.scripts("mx1") == []


def test_what_is_not_there_cannot_be_deleted_or_activated() -> None:
    masters = Masters()
    with pytest.raises(NotFound):
        masters.delete("mx1")
    with pytest.raises(NotFound):
        masters.put("mx1", active=True)


def test_an_account_has_a_bounded_number_of_scripts() -> None:
    masters = Masters()
    for number in range(MAX_SCRIPTS):
        masters.put("mx1", "keep;", name=str(number))
    masters.put("mx1", "stop;", name="0")
    with pytest.raises(TooLarge):
        masters.put("mx1", "keep;", name="one more")
    assert len(masters.scripts("mx1")) == MAX_SCRIPTS


def test_a_long_script_may_be_replaced_by_another_as_long() -> None:
    """Comparing all lines with all others would keep the writer busy for minutes."""
    masters = Masters()
    masters.put("mx1", "require [];\n" + "\n" * 20_000 + "keep;\n")
    masters.put("mx1", "require [];\n" + "#\n\n" * 20_000 + "keep;\n")
    assert masters.content("mx1") == "require [];\n" + "#\n\n" * 20_000 + "keep;\n"
