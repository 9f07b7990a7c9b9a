"""Many seeds of one scenario, over processes or over many machines.

A campaign can be resumed, and stops at the first failure unless all are to be collected.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from pathlib import Path

import msgspec

from simulations import scenarios
from simulations.failure import Failure
from simulations.schedule import schedule
from simulations.workers import first_done
from simulations.world import run

CHUNK = 25
"""Seeds that a worker runs at a time."""


class Tally(msgspec.Struct, kw_only=True):
    """How far a campaign has come, and what it has found."""

    scenario: str
    first: int
    seeds: int
    planted: tuple[str, ...] = ()
    done: dict[int, int] = msgspec.field(default_factory=dict)
    """How many seeds of each chunk were run, by its first."""
    runs: int = 0
    reached: dict[str, int] = msgspec.field(default_factory=dict)
    failures: list[Failure] = msgspec.field(default_factory=list)

    def take(self, chunk: Chunk) -> None:
        start = chunk.first - (chunk.first - self.first) % CHUNK
        self.done[start] = chunk.first + chunk.runs - start
        self.runs += chunk.runs
        self.reached = dict(Counter(self.reached) + Counter(chunk.reached))
        self.failures = sorted([*self.failures, *chunk.failures], key=lambda failure: failure.seed)

    def lacks(self) -> Iterator[tuple[int, int]]:
        """The first seed and the number of those that are yet to be run, chunk by chunk."""
        end = self.first + self.seeds
        for start in range(self.first, end, CHUNK):
            first = start + self.done.get(start, 0)
            if first < min(start + CHUNK, end):
                yield first, min(start + CHUNK, end) - first

    def save(self, file: Path) -> None:
        """Replace the file, so that it is whole whenever this is interrupted."""
        new = file.with_name(f"{file.name}.new")
        new.write_bytes(msgspec.json.encode(self))
        new.replace(file)

    @classmethod
    def load(cls, file: Path) -> Tally:
        """Raises ValueError if the file holds no campaign, OSError if it cannot be read."""
        try:
            return msgspec.json.decode(file.read_bytes(), type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{file} holds no campaign: {error}") from error


class Chunk(msgspec.Struct, kw_only=True):
    """What came of some seeds, up to the first failure if that was to be the end."""

    first: int
    runs: int = 0
    reached: dict[str, int]
    failures: list[Failure]


def run_chunk(name: str, first: int, seeds: int, planted: tuple[str, ...], stop: bool) -> Chunk:
    """Run some seeds, up to the first failure if `stop`."""
    scenario, reached, failures = scenarios.load(name), Counter[str](), []
    collecting = gc.isenabled()
    gc.disable()
    runs = 0
    try:
        for seed in range(first, first + seeds):
            config = msgspec.structs.replace(scenario.configure(seed), planted=planted)
            events = schedule(seed, config)
            result = run(seed, config, events, records=False)
            gc.collect(0)  # a run keeps nothing of what it made: to look just once is a fifth faster
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
    return Chunk(first=first, runs=runs, reached=dict(reached), failures=failures)


def campaign(
    executor: Executor, workers: int, tally: Tally, *, stop: bool, progress: Callable[[Tally], None]
) -> None:
    """Run what the tally lacks, and add it up there; `progress` is called after each chunk."""
    lacking = tally.lacks()
    running: dict[Future[Chunk], int] = {}
    try:
        while True:
            # After a failure only the seeds before it are waited for: it is to be the first.
            failed = tally.failures[0].seed if stop and tally.failures else None
            if failed is None:
                running |= _submit(executor, 2 * workers - len(running), lacking, tally, stop)
            awaited = [future for future, first in running.items() if failed is None or first < failed]
            if not awaited:
                break
            for future in first_done(awaited):
                del running[future]
                tally.take(future.result())
                progress(tally)
    except KeyboardInterrupt:
        raise  # a future that is cancelled, and whose worker ends then, ends in an InvalidStateError
    except BaseException:
        _cancel(running)
        raise
    _cancel(running)


def _cancel(running: Iterable[Future[Chunk]]) -> None:
    for future in running:
        future.cancel()


def _submit(
    executor: Executor, many: int, lacking: Iterator[tuple[int, int]], tally: Tally, stop: bool
) -> dict[Future[Chunk], int]:
    """Futures of chunks, with the first seed of each."""
    return {
        executor.submit(run_chunk, tally.scenario, first, seeds, tally.planted, stop): first
        for first, seeds in islice(lacking, many)
    }
