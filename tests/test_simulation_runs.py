"""A simulated run is a function of its seed, and of nothing else; any part of it is a run as well."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations import scenarios
from simulations.config import Config
from simulations.failure import Failure
from simulations.faults import FAULTS
from simulations.schedule import schedule
from simulations.trace import Record, trace_hash
from simulations.world import Result, run
from tests.simulated import first_failure, run_seed, swarm

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
BUG = "expunge-takes-the-unseen"
"""Planted, it lets runs fail, and what they say of it tells of keywords, which are sets."""
BUGGY_SEEDS = 24


def outcome(result: Result) -> tuple[object, ...]:
    """All that there is to a run but its trace."""
    return result.violation, result.promise, result.at_s, result.reached, result.figures


# Determinism ----------------------------------------------------------------------------------------------


def test_a_seed_does_the_same_every_time() -> None:
    first = [run_seed(seed, swarm(seed)).trace for seed in SEEDS]
    assert [run_seed(seed, swarm(seed)).trace for seed in SEEDS] == first


def test_another_seed_does_something_else() -> None:
    traces = {seed: run_seed(seed, Config()).trace for seed in SEEDS}
    assert len({trace_hash(trace) for trace in traces.values()}) == len(SEEDS)


def test_the_hash_is_of_everything_that_a_trace_tells() -> None:
    record = Record(5, "sync", "mx1", (2,))
    others = [record._replace(**{field: other}) for field, other in OTHER.items()]
    hashes = {trace_hash([each]) for each in [record, *others]} | {trace_hash([record, record])}
    assert len(hashes) == len(OTHER) + 2


OTHER: dict[str, Any] = {"at_us": 6, "kind": "up", "node": "mx2", "details": (3,)}


@cache
def hashes_elsewhere(python: str = sys.executable, hash_seed: str = "1") -> str:
    """What `described` says in a process of its own; skips if that Python lacks what is needed."""
    found = subprocess.run(
        [python, "-m", "tests.simulated", str(BUGGY_SEEDS), BUG],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    if "ModuleNotFoundError" in found.stderr or "command not found" in found.stderr:
        pytest.skip(f"{python} lacks something: {found.stderr.strip().splitlines()[-1]}")
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_runs_that_break_a_promise_and_others_are_compared() -> None:
    ends = [line.endswith(" None") for line in hashes_elsewhere().splitlines()]
    assert len(ends) == BUGGY_SEEDS
    assert set(ends) == {True, False}


def test_the_order_in_which_python_keeps_a_set_decides_nothing() -> None:
    assert hashes_elsewhere(hash_seed="2") == hashes_elsewhere()


def other_pythons() -> Iterator[str]:
    """Those of other versions that can be found here."""
    for minor in range(11, 16):
        if minor == sys.version_info.minor:
            continue
        versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        installed = [str(found) for found in sorted(versions.glob(f"3.{minor}.*/bin/python"))]
        yield from installed[:1] or filter(None, [shutil.which(f"python3.{minor}")])


@pytest.mark.parametrize("python", list(other_pythons()))
def test_another_python_does_the_same(python: str) -> None:
    assert hashes_elsewhere(python) == hashes_elsewhere()


def test_keeping_no_records_changes_nothing_else() -> None:
    for seed in SEEDS:
        without = run_seed(seed, swarm(seed), records=False)
        assert outcome(without) == outcome(run_seed(seed, swarm(seed)))
        assert without.trace == []


def test_a_strict_run_is_the_same_run() -> None:
    for seed in SEEDS:
        ordinary, strict = run_seed(seed, swarm(seed)), run_seed(seed, swarm(seed), strict=True)
        assert outcome(strict) == outcome(ordinary)
        assert strict.hash == ordinary.hash


def test_a_strict_run_finds_a_wrong_counter_at_the_commit_that_left_it() -> None:
    earlier = []
    for seed in range(5):
        failure = first_failure("counter-not-decremented", range(seed, 100))
        assert failure is not None
        strict, ordinary = failure.replay(strict=True), failure.replay()
        assert strict.promise == "counters, digests and indices equal a recount"
        earlier.append(ordinary.at_s - strict.at_s)
    assert min(earlier) >= 0
    assert max(earlier) > 1


# Any part of a schedule -----------------------------------------------------------------------------------


@settings(max_examples=settings().max_examples // 3)
@given(
    seed=st.integers(0, 10_000),
    share=st.sampled_from([0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97]),
    chance=st.integers(0, 10_000),
)
def test_any_part_of_a_schedule_is_a_schedule(seed: int, share: float, chance: int) -> None:
    config, draw = swarm(seed), random.Random(chance)
    events = [event for event in schedule(seed, config) if draw.random() < share]
    assert run(seed, config, events, records=False).violation is None


def test_nothing_happens_where_there_are_no_events() -> None:
    result = run(0, Config(), [])
    assert result.violation is None
    assert not {"down", "fault", "lost", "damaged"} & {record.kind for record in result.trace}


@pytest.mark.parametrize("smaller", [{"nodes": ("mx1", "mx2")}, {"accounts": Config().accounts[1:]}])
def test_events_may_name_what_is_not_there(smaller: dict[str, object]) -> None:
    """Shrinking takes nodes and accounts away, and the events that name them stay."""
    config = Config(faults=dict.fromkeys(FAULTS, "high"))
    for seed in SEEDS:
        events = schedule(seed, config)
        assert run(seed, msgspec.structs.replace(config, **smaller), events).violation is None


def test_switching_a_fault_off_leaves_the_other_events_as_they_were() -> None:
    for seed in SEEDS:
        config = swarm(seed, faults=dict.fromkeys(FAULTS, "on"))
        everything = set(schedule(seed, config))
        alone = {
            name: set(schedule(seed, msgspec.structs.replace(config, faults={name: "on"}))) for name in FAULTS
        }
        assert set.union(*alone.values()) == everything
        workload = set(schedule(seed, msgspec.structs.replace(config, faults={})))
        assert all(workload <= some for some in alone.values())


def test_a_schedule_is_in_the_order_of_time_and_ends_when_it_is_calm() -> None:
    config = swarm(0, faults=dict.fromkeys(FAULTS, "high"))
    times = [event.at for event in schedule(0, config)]
    assert times == sorted(times)
    assert times[-1] <= config.seconds


# Files ----------------------------------------------------------------------------------------------------


def test_a_run_survives_a_file(tmp_path: Path) -> None:
    for seed in SEEDS:
        config = swarm(seed, faults=dict.fromkeys(FAULTS, "on"))
        events = schedule(seed, config)
        saved = Failure(
            scenario="swarm", seed=seed, promise="p", violation="p: v", config=config, events=events
        )
        saved.save(tmp_path / "new folder" / "run.json")
        loaded = Failure.load(tmp_path / "new folder" / "run.json")
        assert loaded == saved
        assert loaded.replay().hash == run(seed, config, events).hash


def test_what_holds_no_run_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"{}", b"\xff\xfe", b'{"scenario": "swarm"}', b"[]"):
        file = tmp_path / "run.json"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"run\.json holds no run that can be replayed"):
            Failure.load(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"faults": {"los": "on"}}, "there is no fault 'los'"),
        ({"faults": {"loss": "low"}}, "the fault 'loss' is on or high, not 'low'"),
        ({"topology": "circle"}, "there is no topology 'circle'"),
        ({"planted": ("a-wasp",)}, "there is no planted bug 'a-wasp'"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(change: dict[str, object], said: str) -> None:
    config = msgspec.structs.replace(Config(), **change)
    with pytest.raises(ValueError, match=said):
        run_seed(1, config)
    with pytest.raises(ValueError, match=said):
        run(1, config, [])


@pytest.mark.parametrize("nodes", [("mx1",), ("mx1", "mx2")])
@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("accounts", [("alice",), ("alice", "bob")])
def test_a_scenario_may_be_small(nodes: tuple[str, ...], clients: int, accounts: tuple[str, ...]) -> None:
    config = Config(nodes=nodes, clients=clients, accounts=accounts, seconds=5)
    for seed in range(5):
        assert run_seed(seed, config, records=False).violation is None


def test_one_node_alone_has_no_links_that_could_fail() -> None:
    with pytest.raises(ValueError, match="one node alone has no links"):
        schedule(1, Config(nodes=("mx1",), faults={"clogging": "high"}))


# Scenarios and regressions --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", scenarios.names())
def test_every_scenario_keeps_every_promise(name: str) -> None:
    assert run_seed(1, scenarios.load(name).configure(1), records=False).violation is None


REGRESSIONS = sorted((ROOT / "simulations" / "regressions").glob("*"))


def test_there_are_regressions() -> None:
    assert REGRESSIONS
    assert {file.suffix for file in REGRESSIONS} == {".json"}


@pytest.mark.parametrize("file", REGRESSIONS, ids=lambda file: file.stem)
def test_what_was_mended_stays_mended(file: Path) -> None:
    assert Failure.load(file).replay(strict=True).violation is None
