"""The real replicas held against `docs/semantics.md`, row by row, and against the reference model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given

from crdtmail.store.interface import Store
from crdtmail.store.lmdb_store import LmdbStore
from crdtmail.store.memory_store import MemoryStore
from crdtmail.store.tables import Tables
from simulations.permitted import agrees
from simulations.recount import recount
from tests.programs import Program, programs
from tests.real_world import RealWorld
from tests.reference_world import Reference
from tests.semantics_rows import Row, problems, read_rows
from tests.worlds import settle

ROWS = read_rows()


@contextmanager
def lmdb_stores() -> Iterator[Callable[[], Store]]:
    """Makes LMDB stores in a folder that goes with the block."""
    with tempfile.TemporaryDirectory() as folder:
        made: list[LmdbStore] = []

        def make() -> Store:
            made.append(LmdbStore(Path(folder) / str(len(made))))
            return made[-1]

        try:
            yield make
        finally:
            for store in made:
                store.close()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"line {row.line}")
def test_the_replicas_do_what_the_row_says(row: Row) -> None:
    found = problems(row, lambda: RealWorld(MemoryStore))
    assert not found, "\n".join([row.text, *found])


def check_against_the_reference(program: Program, make_store: Callable[[], Store]) -> None:
    """After every step each replica shows what the reference permits; once settled all show the same."""
    reference, world = Reference(), RealWorld(make_store)
    for step in program.steps:
        step.run(reference)
        step.run(world)
        for replica in program.replicas:
            agreement = agrees(reference.permitted(replica), world.view(replica))
            assert agreement, f"{replica} after {step}: {agreement}"
    settle(reference, program.replicas)
    settle(world, program.replicas)
    for replica in program.replicas:
        agreement = agrees(reference.permitted(replica), world.view(replica))
        assert agreement, f"{replica} at last: {agreement}"
    assert len({str(sorted(world.view(replica).items())) for replica in program.replicas}) == 1
    assert len({world.digest(replica) for replica in program.replicas}) == 1
    for replica in program.replicas:
        with world.replica(replica)[0].snapshot() as snapshot:
            recount(Tables(snapshot))


@given(programs())
def test_random_programs_end_as_the_reference_says(program: Program) -> None:
    check_against_the_reference(program, MemoryStore)


@given(programs(max_steps=15))
def test_random_programs_end_as_the_reference_says_on_disk(program: Program) -> None:
    with lmdb_stores() as make_store:
        check_against_the_reference(program, make_store)
