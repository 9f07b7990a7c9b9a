"""Many seeds of one scenario, over processes or over many machines.

A campaign can be resumed, and stops at the first failure unless all are to be collected.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path

import msgspec

from simulations import scenarios
from simulations.failure import Failure
from simulations.schedule import schedule
from simulations.world import run

CHUNK = 25
"""Seeds that a worker runs at a time."""


class Tally(msgspec.Struct, kw_only=True):
    """How far a campaign has come, and what it has found."""

    scenario: str
    first: int
    seeds: int
    planted: tuple[str, ...] = ()
    done: set[int] = msgspec.field(default_factory=set)
    """The chunks that were run, by their first seeds."""
    runs: int = 0
    reached: dict[str, int] = msgspec.field(default_factory=dict)
    failures: list[Failure] = msgspec.field(default_factory=list)

    def take(self, chunk: Chunk) -> None:
        self.done.add(chunk.first)
        self.runs += chunk.runs
        self.reached = dict(Counter(self.reached) + Counter(chunk.reached))
        self.failures += chunk.failures

    def save(self, file: Path) -> None:
        file.write_bytes(msgspec.json.encode(self))

    @classmethod
    def load(cls, file: Path) -> Tally:
        """Raises ValueError if the file holds no campaign, OSError if it cannot be read."""
        try:
            return msgspec.json.decode(file.read_bytes(), type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{file} holds no campaign: {error}") from error


class Chunk(msgspec.Struct, kw_only=True):
    """What came of some seeds."""

    first: int
    runs: int = 0
    reached: dict[str, int]
    failures: list[Failure]


def run_chunk(name: str, first: int, seeds: int, planted: tuple[str, ...], stop: bool) -> Chunk:
    """Run some seeds, up to the first failure if `stop`."""
    scenario, reached, failures = scenarios.load(name), Counter[str](), []
    collecting = gc.isenabled()
    gc.disable()  # a run makes much and keeps nothing: one collection after each chunk is a fifth faster
    runs = 0
    try:
        for seed in range(first, first + seeds):
            config = msgspec.structs.replace(scenario.configure(seed), planted=planted)
            events = schedule(seed, config)
            result = run(seed, config, events, records=False)
            runs += 1
            reached.update(result.reached)
            if result.violation is not None:
                failures.append(
                    Failure(
                        scenario=name,
                        seed=seed,
                        promise=result.promise,
                        violation=result.violation,
                        config=config,
                        events=events,
                    )
                )
                if stop:
                    break
    finally:
        if collecting:
            gc.enable()
            gc.collect()
    return Chunk(first=first, runs=runs, reached=dict(reached), failures=failures)


def campaign(
    executor: Executor, workers: int, tally: Tally, *, stop: bool, progress: Callable[[Tally], None]
) -> None:
    """Run what the tally lacks, and add it up there; `progress` is called after each chunk."""
    lacking = (
        first for first in range(tally.first, tally.first + tally.seeds, CHUNK) if first not in tally.done
    )
    running: set[Future[Chunk]] = set()
    try:
        while True:
            running |= set(_submit(executor, 2 * workers - len(running), lacking, tally, stop))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                tally.take(future.result())
                progress(tally)
            if stop and tally.failures:
                return
    finally:
        for future in running:
            future.cancel()


def _submit(
    executor: Executor, many: int, lacking: Iterator[int], tally: Tally, stop: bool
) -> Iterator[Future[Chunk]]:
    end = tally.first + tally.seeds
    for _ in range(many):
        first = next(lacking, None)
        if first is None:
            return
        yield executor.submit(run_chunk, tally.scenario, first, min(CHUNK, end - first), tally.planted, stop)
