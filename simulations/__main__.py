"""`python -m simulations`: lists the scenarios; with a command, runs, replays, shrinks or draws them.

Exit codes: 0 every promise held (for `shrink`: a smaller run was found); 1 one was broken, or a campaign
never came upon something that it should; 2 a command line or file that cannot be followed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crdtmail.screen import err, out, table
from simulations import documents, scenarios, sometimes
from simulations.actions import spelt
from simulations.campaign import Tally, campaign
from simulations.config import Config
from simulations.failure import Failure
from simulations.planted import PLANTED
from simulations.report import report, say, switched_on
from simulations.schedule import schedule
from simulations.shrink import shrink
from simulations.workers import cores, workers
from simulations.world import Result, run

FAILURES = Path("failures")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (ValueError, OSError) as error:
        err.print(f"simulations: {_plain(error)}", markup=False)
        return 2
    except KeyboardInterrupt:
        return 130


def _plain(error: ValueError | OSError) -> str:
    """Of a file that cannot be opened its name and why, without the number that the system has for that."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


# Commands -----------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    shown = table("scenario", "nodes", "what happens")
    for name in scenarios.names():
        scenario = scenarios.load(name)
        shown.add_row(name, str(len(scenario.configure(0).nodes)), scenario.summary)
    out.print(shown)
    out.print(
        "Run one: python -m simulations run NAME --seed 1.  Every option: --help, also behind a command."
    )
    return 0


def _run(options: argparse.Namespace) -> int:
    config = _configured(options)
    events = schedule(options.seed, config)
    result = run(options.seed, config, events, strict=options.strict)
    report(result, config, len(events), whole_trace=options.trace)
    if options.picture:
        _draw(result, options.scenario, config, options.picture, part=_part(options))
    if result.violation is None:
        return 0
    failure = _failure(options.scenario, result, config, events)
    file = FAILURES / failure.file_name
    failure.save(file)
    out.print(f"Saved as {file}.  Smaller: python -m simulations shrink {file}", markup=False)
    return 1


def _campaign(options: argparse.Namespace) -> int:
    scenarios.load(options.scenario)
    tally = Tally(
        scenario=options.scenario, first=options.first, seeds=options.seeds, planted=tuple(options.planted)
    )
    if options.state and options.state.exists():
        before, tally = tally, Tally.load(options.state)
        same = ("scenario", "first", "planted")
        if any(getattr(before, name) != getattr(tally, name) for name in same):
            raise ValueError(f"{options.state} is of another campaign")
        tally.seeds = max(tally.seeds, before.seeds)
        if tally.runs:
            out.print(f"{tally.runs:,} of {tally.seeds:,} seeds were done before.")
    stop = not options.all
    began, done_before = time.monotonic(), tally.runs
    with workers(options.jobs, options.dask) as (executor, many), _bar() as bar:
        said = _Lines(tally)
        task = bar.add_task(options.scenario, total=tally.seeds, completed=tally.runs, rate="", failed="")

        def progress(tally: Tally) -> None:
            rate = (tally.runs - done_before) / (time.monotonic() - began)
            failed = f"{len(tally.failures)} failed" if tally.failures else ""
            bar.update(task, completed=tally.runs, rate=f"{rate:.0f} seeds/s", failed=failed)
            said.progress(tally, rate)
            if options.state:
                tally.save(options.state)

        try:
            campaign(executor, many, tally, stop=stop, progress=progress)
        except KeyboardInterrupt:
            _say_stopped(tally, options.state)
            raise
    seconds = time.monotonic() - began
    return _conclude(tally, many, tally.runs - done_before, seconds)


class _Lines:
    """Where no bar can be seen, a line tells of each tenth of a campaign, none soon after another."""

    APART_S = 10.0

    def __init__(self, tally: Tally) -> None:
        self._told, self._told_s = tally.runs, time.monotonic()

    def progress(self, tally: Tally, rate: float) -> None:
        now = time.monotonic()
        if err.is_terminal or now - self._told_s < self.APART_S or tally.runs - self._told < tally.seeds / 10:
            return
        self._told, self._told_s = tally.runs, now
        failed = f", {len(tally.failures)} failed" if tally.failures else ""
        err.print(f"{tally.runs:,} of {tally.seeds:,} seeds, {rate:.0f} seeds/s{failed}", markup=False)


def _say_stopped(tally: Tally, state: Path | None) -> None:
    then = (
        "the same command goes on" if state else "with --state FILE, the same command would go on from there"
    )
    out.print(f"Stopped after {tally.runs:,} of {tally.seeds:,} seeds; {then}.")
    _save_failures(tally)


def _save_failures(tally: Tally) -> None:
    """Save what failed, and say how to see it again."""
    for failure in tally.failures[:10]:
        file = FAILURES / failure.file_name
        failure.save(file)
        out.print(f"seed {failure.seed}: {failure.violation}", markup=False)
        out.print(f"  again:   python -m simulations replay {file}", markup=False)
        out.print(f"  smaller: python -m simulations shrink {file}", markup=False)
    if len(tally.failures) > 10:
        out.print(f"and {len(tally.failures) - 10} more that failed, which are not saved")


def _conclude(tally: Tally, many: int, runs: int, seconds: float) -> int:
    rate = runs / seconds if seconds else 0.0
    out.print(
        f"{tally.runs:,} seeds of {tally.scenario} from {tally.first}: {len(tally.failures)} broke a promise."
    )
    out.print(f"{rate:.1f} seeds/s in {many} workers, start-up included; {seconds:.0f} s.")
    _save_failures(tally)
    shown = table("what happened", ">times")
    for name, times in sorted(tally.reached.items(), key=lambda pair: -pair[1]):
        shown.add_row(name, f"{times:,}")
    out.print(shown)
    if tally.failures:
        return 1
    if tally.scenario == "swarm" and tally.runs >= sometimes.ENOUGH_SEEDS:
        if never := sometimes.never_reached(tally.reached):
            out.print(f"Never came upon: {', '.join(never)}", markup=False)
            return 1
        out.print(f"All {len(sometimes.SWARM)} things that a swarm should come upon happened.")
    return 0


def _replay(options: argparse.Namespace) -> int:
    worst = 0
    for file in options.files:
        failure = Failure.load(file)
        result = failure.replay(strict=options.strict)
        if len(options.files) > 1:
            said = "holds" if result.violation is None else result.violation
            out.print(f"{file}: {said}", markup=False)
        else:
            report(result, failure.config, len(failure.events), whole_trace=options.trace)
        if options.picture:
            note = " (shrunk)" if failure.is_shrunk else ""
            _draw(result, failure.scenario, failure.config, options.picture, note=note, part=_part(options))
        worst = max(worst, int(result.violation is not None))
    return worst


def _shrink(options: argparse.Namespace) -> int:
    failure = Failure.load(options.file)
    if failure.replay().promise != failure.promise:
        raise ValueError(f"{options.file} does not break its promise here: {failure.promise}")
    before = len(failure.events)
    with _bar() as bar:
        task = bar.add_task("shrinking", total=options.runs, rate="", failed="")

        def progress(runs: int, left: int) -> None:
            bar.update(task, completed=runs, rate=f"{left} events left")

        smaller = shrink(failure, most_runs=options.runs, progress=progress)
    result = smaller.replay()
    report(result, smaller.config, len(smaller.events), whole_trace=options.trace)
    out.print(f"{before} events became {len(smaller.events)}, on {len(smaller.config.nodes)} nodes:")
    for event in smaller.events:
        out.print(f"  {event.at:9.4f} s  {spelt(event.action)}", markup=False)
    file = options.to or options.file.with_suffix(".small.json")
    smaller.save(file)
    out.print(f"Saved as {file}.  Again: python -m simulations replay {file}", markup=False)
    return 0


def _plot(options: argparse.Namespace) -> int:
    config = _configured(options)
    result = run(options.seed, config, schedule(options.seed, config))
    _draw(result, options.scenario, config, options.to, part=_part(options))
    return 0 if result.violation is None else 1


def _sweep(options: argparse.Namespace) -> int:
    from simulations.sweep import SWEEPS, draw, expect_picture, measure, medians

    if options.name not in SWEEPS:
        raise ValueError(f"there is no sweep {options.name!r}; there are {', '.join(SWEEPS)}")
    if options.to:
        expect_picture(options.name)
    with workers(options.jobs, options.dask) as (executor, _), _bar() as bar:
        points = list(SWEEPS[options.name].points(options.quick))
        task = bar.add_task(options.name, total=len(points), rate="", failed="")
        rows = measure(executor, options.name, points, lambda done: bar.update(task, completed=done))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
    shown = table(*(f">{name}" for name in rows[0]), title=SWEEPS[options.name].what)
    for row in rows:
        shown.add_row(*map(_cell, row.values()))
    out.print(shown)
    if middle := medians(rows):
        shown = table(*(f">{name}" for name in middle[0]), title="Medians")
        for row in middle:
            shown.add_row(*map(_cell, row.values()))
        out.print(shown)
    if options.to:
        for file in draw(options.name, rows, options.to):
            out.print(f"Drawn: {file}", markup=False)
    return 0


def _docs(options: argparse.Namespace) -> int:
    parts = options.parts or list(_DOCS)
    for part in parts:
        if part == "actions":
            documents.write_actions()
        elif part == "planted":
            with workers(options.jobs) as (executor, _):
                _write_planted(executor)
        elif part == "timelines":
            for name, drawn in documents.TIMELINES.items():
                config = scenarios.load(drawn.scenario).configure(drawn.seed)
                result = run(drawn.seed, config, schedule(drawn.seed, config))
                _draw(result, drawn.scenario, config, documents.PICTURES / f"{name}.png")
        else:
            with workers(options.jobs) as (executor, _):
                _draw_sweeps(executor)
    for file in documents.PICTURES.glob("*.svg"):  # the documents show the PNGs
        file.unlink()
    return 0


_DOCS = {
    "actions": "the table of actions",
    "planted": "the seeds of the planted bugs, a minute or two",
    "timelines": "the pictures of runs",
    "sweeps": "the pictures of sweeps, long",
}


def _write_planted(executor: Executor) -> None:
    with _bar() as bar:
        task = bar.add_task("planted", total=len(PLANTED), rate="", failed="")
        documents.write_planted(executor, lambda done: bar.update(task, completed=done))


def _draw_sweeps(executor: Executor) -> None:
    from simulations.sweep import SWEEPS, draw, measure

    for name in documents.SWEEPS:
        rows = measure(executor, name, list(SWEEPS[name].points(False)))
        for file in draw(name, rows, documents.PICTURES / name):
            out.print(f"Drawn: {file}", markup=False)


# What they have in common ---------------------------------------------------------------------------------


def _cell(value: object) -> str:
    if value is None:
        return ""
    return say(value) if isinstance(value, float) else str(value)


def _configured(options: argparse.Namespace) -> Config:
    config = scenarios.load(options.scenario).configure(options.seed)
    return msgspec.structs.replace(config, planted=tuple(options.planted))


def _failure(scenario: str, result: Result, config: Config, events: list) -> Failure:  # type: ignore[type-arg]
    assert result.violation is not None
    return Failure(
        scenario=scenario,
        seed=result.seed,
        promise=result.promise,
        violation=result.violation,
        config=config,
        events=events,
    )


def _draw(
    result: Result, scenario: str, config: Config, file: Path, *, note: str = "", part: Part = None
) -> None:
    """The picture of a run; `note` says what is special about it."""
    try:
        from simulations.pictures.plot import timeline
    except ImportError as error:
        raise ValueError("pictures need matplotlib: pip install -e '.[pictures]'") from error
    records = result.trace
    if result.violation is None:  # the probe at the end would look as if something had gone wrong
        records = records[: next((n for n, r in enumerate(records) if r.kind == "probe"), None)]
    facts = [f"Faults: {', '.join(switched_on(config))}"] if config.faults else []
    if config.planted:
        facts.append(f"Planted bug: {', '.join(config.planted)}")
    title = f"{Path(scenario).stem}, seed {result.seed}{note}"
    if summary := _summary(scenario):
        title += f": {summary.rstrip('.')}"
    part_us = None if part is None else (int(part[0] * 1e6), int(part[1] * 1e6))
    for written in timeline(records, title, file, order=config.nodes, facts=facts, part_us=part_us):
        out.print(f"Drawn: {written}", markup=False)


Part = tuple[float, float] | None


def _part(options: argparse.Namespace) -> Part:
    """The part of the run that is to be drawn, in seconds."""
    if options.begin is None and options.until is None:
        return None
    return options.begin or 0.0, options.until if options.until is not None else 1e9


def _summary(scenario: str) -> str:
    """What happens in it, if it is still there."""
    try:
        return scenarios.load(scenario).summary
    except (ValueError, OSError):
        return ""


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
        console=err,
        disable=not err.is_terminal,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulations",
        description="The real replica and gossip on a simulated clock, network and disk, under faults.",
    )
    parser.set_defaults(command=_list)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(
        name: str, function: Callable[[argparse.Namespace], int], help: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(command=function)
        return made

    def of_scenario(made: argparse.ArgumentParser, default: str | None = None) -> None:
        made.add_argument(
            "scenario",
            metavar="SCENARIO",
            nargs="?" if default else None,
            default=default,
            help="one of those that `list` shows, or a file of your own (mine.py)"
            + (f"; default: {default}" if default else ""),
        )
        names = ", ".join(PLANTED)
        made.add_argument(
            "--planted", action="append", default=[], metavar="BUG", help=f"switch a bug on: {names}"
        )

    def of_one(made: argparse.ArgumentParser) -> None:
        of_scenario(made)
        made.add_argument("--seed", type=int, default=1, metavar="N", help="default: 1")

    def shown(made: argparse.ArgumentParser) -> None:
        made.add_argument("--trace", action="store_true", help="print everything that happened")
        made.add_argument("--strict", action="store_true", help="recount all after every commit (slower)")
        made.add_argument("--picture", type=Path, metavar="FILE", help="draw the run there (PNG and SVG)")
        zoom(made)

    def zoom(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--from", dest="begin", type=float, metavar="S", help="draw the run from this second on"
        )
        made.add_argument("--until", type=float, metavar="S", help="draw it up to this second")

    def jobs(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--jobs", type=int, default=cores(), metavar="J", help="processes; default: one a core"
        )

    def spread(made: argparse.ArgumentParser) -> None:
        jobs(made)
        made.add_argument("--dask", metavar="ADDRESS", help="use the workers of this Dask scheduler instead")

    command("list", _list, "list the scenarios, and what happens in them")

    one = command("run", _run, "run one seed of a scenario, and say what came of it")
    of_one(one)
    shown(one)

    many = command("campaign", _campaign, "run many seeds, stop at the first that breaks a promise")
    of_scenario(many, "swarm")
    many.add_argument("--seeds", type=int, default=1000, metavar="N", help="default: 1000")
    many.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them; default: 0")
    many.add_argument("--all", action="store_true", help="go on after a failure, and collect them all")
    many.add_argument("--state", type=Path, metavar="FILE", help="keep the progress there, and go on from it")
    spread(many)

    again = command("replay", _replay, "run saved failures or regressions again")
    again.add_argument("files", nargs="+", type=Path, metavar="FILE")
    shown(again)

    small = command("shrink", _shrink, "find a small run that breaks the same promise as a saved one")
    small.add_argument("file", type=Path, metavar="FILE")
    small.add_argument(
        "--runs", type=int, default=2000, metavar="N", help="try at most so many; default: 2000"
    )
    small.add_argument("--to", type=Path, metavar="FILE", help="save it there; default: FILE.small.json")
    small.add_argument("--trace", action="store_true", help="print everything that happened")

    plot = command("plot", _plot, "draw the timeline of one seed of a scenario")
    of_one(plot)
    zoom(plot)
    plot.add_argument(
        "--to", type=Path, default=Path("run"), metavar="FILE", help="without suffix; default: run"
    )

    sweep = command(
        "sweep",
        _sweep,
        "measure against a parameter: convergence, redundancy, renumberings, scaling, sizes, mailboxes",
    )
    sweep.add_argument("name", metavar="SWEEP")
    sweep.add_argument("--quick", action="store_true", help="few and small points: shows that it runs")
    sweep.add_argument("--to", type=Path, metavar="FILE", help="draw it there (PNG and SVG)")
    sweep.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    spread(sweep)

    docs = command("docs", _docs, "write anew what docs/ has from here: tables and pictures (of a checkout)")
    said = "; ".join(f"{name}: {what}" for name, what in _DOCS.items())
    docs.add_argument("parts", nargs="*", choices=[*_DOCS, []], metavar="PART", help=f"default: all. {said}")
    jobs(docs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
