"""From a failing run to a small one that breaks the same promise: events first, then nodes, then the rest.

Delta debugging (Zeller and Hildebrandt 2002): any subset of a schedule is a schedule, and chance does not
depend on what was left out, so a candidate is simply run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from simulations.actions import Event
from simulations.config import Config
from simulations.failure import Failure
from simulations.world import run

Progress = Callable[[int, int], None]
"""Called with the runs made so far and the events that are left."""


def shrink(
    failure: Failure, *, most_runs: int = 2000, progress: Progress = lambda runs, left: None
) -> Failure:
    """The smallest run found that breaks the same promise, in at most so many tries."""
    return _Shrinking(failure, most_runs, progress).result()


class _Shrinking:
    def __init__(self, failure: Failure, most_runs: int, progress: Progress) -> None:
        self._best = failure
        self._runs = 0
        self._most_runs = most_runs
        self._progress = progress

    def result(self) -> Failure:
        before = None
        while before != self._best and self._runs < self._most_runs:
            before = self._best
            self._fewer_events()
            self._fewer_nodes()
            self._simpler_configuration()
        return self._best

    def _fails(self, config: Config, events: Sequence[Event]) -> bool:
        """Whether this still breaks the promise; then it is the best so far."""
        if self._runs >= self._most_runs:
            return False
        self._runs += 1
        result = run(self._best.seed, config, events, records=False)
        if result.promise != self._best.promise or result.violation is None:
            return False
        self._best = msgspec.structs.replace(
            self._best, config=config, events=list(events), violation=result.violation, is_shrunk=True
        )
        self._progress(self._runs, len(events))
        return True

    def _fewer_events(self) -> None:
        """Leave out ever smaller parts, as long as it fails without them."""
        config, parts = self._best.config, 2
        while self._best.events:
            events = self._best.events
            size = max(1, len(events) // parts)
            starts = range(0, len(events), size)
            if any(self._fails(config, events[:start] + events[start + size :]) for start in starts):
                parts = max(2, parts - 1)
            elif size == 1:
                return
            else:
                parts = min(len(events), 2 * parts)

    def _fewer_nodes(self) -> None:
        for node in self._best.config.nodes:
            config = self._best.config
            if len(config.nodes) > 2:
                nodes = tuple(name for name in config.nodes if name != node)
                late = tuple(name for name in config.late if name != node)
                self._fails(msgspec.structs.replace(config, nodes=nodes, late=late), self._best.events)

    def _simpler_configuration(self) -> None:
        for fault in self._best.config.faults:
            faults = {name: level for name, level in self._best.config.faults.items() if name != fault}
            self._fails(msgspec.structs.replace(self._best.config, faults=faults), self._best.events)
        for simpler in ({"late": ()}, {"topology": "mesh"}, {"accounts": self._best.config.accounts[:1]}):
            config = msgspec.structs.replace(self._best.config, **simpler)
            if config != self._best.config:
                self._fails(config, self._best.events)
        last = max((event.at for event in self._best.events), default=0.0)
        config = msgspec.structs.replace(
            self._best.config, seconds=float(int(last) + 1), story=(), operations=0
        )
        if config != self._best.config:
            self._fails(config, self._best.events)
