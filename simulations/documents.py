"""What `docs/` has from the simulations themselves: tables made from the code and by runs, and pictures.

`python -m simulations docs` writes all of it anew.  The seeds at which planted bugs are found shift with
every change of what the swarm does; `python -m simulations docs planted` is then all that it takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

from simulations import actions
from simulations.campaign import Chunk, run_chunk
from simulations.planted import PLANTED
from simulations.story import CHOICES
from simulations.workers import first_done

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = DOCS / "pictures"
MOST_SEEDS = 2000
"""Of the swarm, in which a planted bug is looked for."""
SHOWN_BUG = "remove-wins"
"""The planted bug that docs/simulations.md walks through."""
ACTIONS_HEADER = "| action | what it does |\n|---|---|\n"
PLANTED_HEADER = "| planted bug | first seed | the promise that breaks |\n|---|---|---|\n"


class Run(NamedTuple):
    """A run that is drawn."""

    scenario: str
    seed: int


TIMELINES = {"cut-cable": Run("cut-cable", 7)}
"""Pictures of runs by the names of their files."""
SWEEPS = ("convergence", "redundancy", "renumberings", "scaling")
"""The sweeps whose pictures are in the documents, under their own names."""


def actions_table() -> str:
    """All actions with their fields, what each says of itself, and what a field can be if that is not all."""
    rows = []
    for action in actions.AnyAction.__args__:
        said = " ".join((action.__doc__ or "").split())
        field, choices = CHOICES.get(action, ("", ()))
        if not all(f"`{choice}`" in said for choice in choices):
            said += f" `{field}`: {', '.join(f'`{choice}`' for choice in choices)}."
        spelt = actions.signature(action).replace("|", r"\|")  # which would end the cell
        rows.append(f"| `{spelt}` | {said} |\n")
    return ACTIONS_HEADER + "".join(rows)


def planted_table(executor: Executor, progress: Callable[[int], None] = lambda done: None) -> str:
    """For each planted bug the first seed of the swarm that finds it, and what breaks there."""
    found = [executor.submit(first_failure, bug) for bug in PLANTED]
    rows = []
    for bug, future in zip(PLANTED, found, strict=True):
        first_done([future])
        failures = future.result().failures
        seed, promise = (
            (failures[0].seed, failures[0].promise) if failures else (f"not in {MOST_SEEDS:,}", "")
        )
        rows.append(f"| {bug} | {seed} | {promise} |\n")
        progress(len(rows))
    return PLANTED_HEADER + "".join(rows)


def first_failure(bug: str, seeds: int = MOST_SEEDS) -> Chunk:
    return run_chunk("swarm", 0, seeds, (bug,), True)


def documented_seeds(text: str) -> dict[str, tuple[int | None, str]]:
    """What a document says of each planted bug: the seed, if any, and the promise."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]*) \|$", _table(text, PLANTED_HEADER), re.MULTILINE)
    return {
        bug: (int(seed) if seed.isdecimal() else None, promise.strip())
        for bug, seed, promise in rows
        if bug in PLANTED
    }


def _table(text: str, header: str) -> str:
    """The table with this header in a document."""
    found = re.search(re.escape(header) + r"(?:\|.*\n)*", text)
    if found is None:
        raise ValueError(f"no document has the table {header.splitlines()[0]}")
    return found[0]


def replace_table(file: Path, header: str, table: str) -> None:
    text = file.read_text("utf-8")
    file.write_text(text.replace(_table(text, header), table), "utf-8")


def write_actions() -> None:
    replace_table(DOCS / "simulations.md", ACTIONS_HEADER, actions_table())


def write_planted(executor: Executor, progress: Callable[[int], None]) -> None:
    """The table in docs/testing.md, and the seed in the walk-through of docs/simulations.md."""
    file = DOCS / "testing.md"
    replace_table(file, PLANTED_HEADER, planted_table(executor, progress))
    seed, _ = documented_seeds(file.read_text("utf-8"))[SHOWN_BUG]
    if seed is None:
        raise ValueError(f"{SHOWN_BUG} is not found in {MOST_SEEDS:,} seeds: walk through another bug")
    guide = DOCS / "simulations.md"
    text = re.sub(rf"swarm-\d+-{SHOWN_BUG}", f"swarm-{seed}-{SHOWN_BUG}", guide.read_text("utf-8"))
    guide.write_text(re.sub(r"stops at seed \d+", f"stops at seed {seed}", text), "utf-8")
