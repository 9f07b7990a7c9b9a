"""Runs for the tests of the simulator: a seed of the swarm, and the first in which a planted bug shows."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from simulations import scenarios
from simulations.config import Config
from simulations.failure import Failure
from simulations.schedule import schedule
from simulations.world import Result, run


def swarm(seed: int, **changes: Any) -> Config:
    """What the standard campaign has for this seed, with some changes."""
    return msgspec.structs.replace(scenarios.load("swarm").configure(seed), **changes)


def run_seed(seed: int, config: Config, *, records: bool = True, strict: bool = False) -> Result:
    return run(seed, config, schedule(seed, config), records=records, strict=strict)


def first_failure(bug: str, seeds: Iterable[int], **changes: Any) -> Failure | None:
    """The first of these seeds of the swarm, changed so, that breaks a promise with the bug in the code."""
    for seed in seeds:
        config = swarm(seed, planted=(bug,), **changes)
        events = schedule(seed, config)
        result = run(seed, config, events, records=False)
        if result.violation is not None:
            return Failure(
                scenario="swarm",
                seed=seed,
                promise=result.promise,
                violation=result.violation,
                config=config,
                events=events,
            )
    return None


def described(seed: int, bug: str) -> str:
    """A run with a planted bug in a line: its hash, and what it broke if it broke anything."""
    result = run_seed(seed, swarm(seed, planted=(bug,)))
    return f"{seed} {result.hash} {result.violation}"


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        print(described(number, sys.argv[2]))
