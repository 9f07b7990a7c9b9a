"""Campaigns: many seeds over processes, added up the same however they were run, interrupted and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from simulations import sometimes
from simulations.__main__ import main
from simulations.campaign import CHUNK, Tally, campaign
from simulations.workers import workers

ROOT = Path(__file__).parents[1]
PATIENCE_S = 60.0
QUICK = "two-servers"
"""A scenario whose runs take milliseconds."""
BUG = ("healed-uids-too-low",)
"""Planted, it breaks a promise in a few of these seeds of the swarm."""
FIRST, SEEDS = 3, 30


class Here(Executor):
    """Runs in this process, at once, and remembers which seeds it was given."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        _, first, seeds, *_ = args
        self.seeds += range(first, first + seeds)
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def ignore(tally: Tally) -> None:
    pass


def run_here(tally: Tally, *, stop: bool = False, progress: Callable[[Tally], None] = ignore) -> list[int]:
    """The seeds that were run."""
    here = Here()
    campaign(here, 1, tally, stop=stop, progress=progress)
    return here.seeds


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with workers(2) as (executor, many):
        assert many == 2
        yield executor


# What a campaign comes upon -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swarm(pool: Executor) -> Tally:
    tally = Tally(scenario="swarm", first=0, seeds=400)
    campaign(pool, 2, tally, stop=False, progress=ignore)
    return tally


def test_a_short_campaign_of_the_swarm_breaks_no_promise(swarm: Tally) -> None:
    assert [failure.violation for failure in swarm.failures] == []
    assert swarm.runs == 400


def test_a_short_campaign_comes_upon_everything_that_a_long_one_must(swarm: Tally) -> None:
    assert sometimes.never_reached(swarm.reached) == []
    assert len(sometimes.SWARM) == len(set(sometimes.SWARM))


def test_what_was_never_come_upon_is_named() -> None:
    reached = dict.fromkeys(sometimes.SWARM, 1)
    assert sometimes.never_reached(reached | {"node left": 0, "something else": 0}) == ["node left"]
    del reached["message lost"]
    assert sometimes.never_reached(reached) == ["message lost"]


# However it is run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collected() -> Tally:
    """All failures of some seeds, which were run here."""
    tally = Tally(scenario="swarm", first=FIRST, seeds=SEEDS, planted=BUG)
    run_here(tally)
    return tally


def test_two_processes_find_what_one_finds(pool: Executor, collected: Tally) -> None:
    tally = Tally(scenario="swarm", first=FIRST, seeds=SEEDS, planted=BUG)
    campaign(pool, 2, tally, stop=False, progress=ignore)
    assert tally == collected


def test_every_seed_is_run_once() -> None:
    tally = Tally(scenario=QUICK, first=3, seeds=CHUNK + 4)
    assert run_here(tally) == list(range(3, 3 + CHUNK + 4))
    assert tally.runs == CHUNK + 4


def test_progress_is_told_after_every_chunk() -> None:
    told: list[int] = []
    run_here(
        Tally(scenario=QUICK, first=0, seeds=2 * CHUNK + 1), progress=lambda tally: told.append(tally.runs)
    )
    assert told == [CHUNK, 2 * CHUNK, 2 * CHUNK + 1]


def test_a_campaign_without_seeds_is_over() -> None:
    assert run_here(Tally(scenario=QUICK, first=0, seeds=0)) == []


# Failures -------------------------------------------------------------------------------------------------


def test_all_failures_can_be_collected(collected: Tally) -> None:
    assert collected.runs == SEEDS
    assert len(collected.failures) > 1
    for failure in collected.failures:
        assert failure.config.planted == BUG
        assert failure.replay().violation == failure.violation


def test_a_campaign_stops_at_the_first_failure(collected: Tally) -> None:
    tally = Tally(scenario="swarm", first=FIRST, seeds=5 * CHUNK, planted=BUG)
    run_here(tally, stop=True)
    assert tally.failures[0] == collected.failures[0]
    assert tally.runs <= 2 * CHUNK


def test_the_failure_at_which_a_campaign_stops_is_the_first_that_there_is() -> None:
    """Whichever worker is ahead: here the second chunk ends before the first."""
    tally = Tally(scenario="swarm", first=0, seeds=5 * CHUNK, planted=("remove-wins",))
    alone = Tally(scenario="swarm", first=0, seeds=5 * CHUNK, planted=("remove-wins",))
    run_here(alone, stop=True)

    class Backwards(Executor):
        def __init__(self) -> None:
            self.held: list[tuple[Future[Any], Callable[[], Any]]] = []

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            self.held.append((future, lambda: fn(*args, **kwargs)))
            if len(self.held) == 4:
                threading.Thread(target=self.go).start()
            return future

        def go(self) -> None:
            for future, work in reversed(self.held):
                if future.set_running_or_notify_cancel():
                    future.set_result(work())

    campaign(Backwards(), 2, tally, stop=True, progress=ignore)
    assert tally.failures[0] == alone.failures[0]


def test_a_campaign_that_has_failed_goes_no_further_unless_all_are_collected(collected: Tally) -> None:
    tally = Tally(scenario="swarm", first=FIRST, seeds=CHUNK, planted=BUG)
    run_here(tally, stop=True)
    stopped = tally.failures[0].seed
    assert run_here(tally, stop=True) == []
    tally.seeds = SEEDS
    assert run_here(tally, stop=False) == list(range(stopped + 1, FIRST + SEEDS))
    assert tally == collected


# Interrupted and resumed ----------------------------------------------------------------------------------


def reloaded(tally: Tally, file: Path) -> Tally:
    tally.save(file)
    return Tally.load(file)


def test_a_state_file_keeps_everything(collected: Tally, tmp_path: Path) -> None:
    assert reloaded(collected, tmp_path / "state") == collected


def test_a_resumed_campaign_runs_only_what_it_lacks(tmp_path: Path) -> None:
    whole = Tally(scenario=QUICK, first=0, seeds=2 * CHUNK)
    run_here(whole)
    part = Tally(scenario=QUICK, first=0, seeds=CHUNK)
    run_here(part)
    part = reloaded(part, tmp_path / "state")
    part.seeds = 2 * CHUNK
    assert run_here(part) == list(range(CHUNK, 2 * CHUNK))
    assert part == whole
    assert run_here(part) == []


def test_a_campaign_that_ended_within_a_chunk_is_resumed_there(tmp_path: Path) -> None:
    part = Tally(scenario=QUICK, first=0, seeds=5)
    run_here(part)
    part = reloaded(part, tmp_path / "state")
    part.seeds = CHUNK + 1
    assert run_here(part) == list(range(5, CHUNK + 1))
    assert part.runs == CHUNK + 1


def test_an_interrupted_campaign_has_saved_what_it_had(tmp_path: Path) -> None:
    file = tmp_path / "state"

    def interrupted(tally: Tally) -> None:
        tally.save(file)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here(Tally(scenario=QUICK, first=0, seeds=CHUNK + 1), progress=interrupted)
    rest = Tally.load(file)
    done = rest.runs
    assert 0 < done <= CHUNK
    assert len(run_here(rest)) == CHUNK + 1 - done


def test_a_state_file_is_whole_at_every_moment(tmp_path: Path) -> None:
    """It is replaced, never written over: who holds the old one open still reads all of it."""
    file = tmp_path / "state"
    Tally(scenario=QUICK, first=0, seeds=1).save(file)
    with file.open("rb") as old:
        Tally(scenario=QUICK, first=0, seeds=2).save(file)
        assert msgspec.json.decode(old.read(), type=Tally).seeds == 1
    assert Tally.load(file).seeds == 2
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_no_state_file_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"{}", b"\xff", b'{"scenario": "swarm"}'):
        file = tmp_path / "state"
        file.write_bytes(content)
        with pytest.raises(ValueError, match="state holds no campaign"):
            Tally.load(file)


def test_ctrl_c_ends_a_campaign_quietly_and_it_can_be_resumed(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    command = [sys.executable, "-m", "simulations", "campaign", QUICK, "--jobs", "1", "--state", str(state)]
    with started([*command, "--seeds", "1000000"], ROOT) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not state.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the campaign gets it
        out, err = process.communicate(timeout=PATIENCE_S)
    tally = Tally.load(state)
    said = f"Stopped after {tally.runs:,} of 1,000,000 seeds; the same command goes on.\n"
    assert (process.returncode, out, err) == (130, said, "")
    assert 0 < tally.runs < 1_000_000
    done = tally.runs
    tally.seeds = done + CHUNK
    assert len(run_here(tally)) == CHUNK


@pytest.mark.parametrize("has_state", [True, False])
def test_a_campaign_that_is_stopped_says_how_far_it_came_and_how_to_go_on(
    has_state: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupted(_: Executor, __: int, tally: Tally, **___: Any) -> None:
        tally.runs += 150
        tally.save(Path("state"))
        raise KeyboardInterrupt

    monkeypatch.setattr("simulations.__main__.campaign", interrupted)
    command = ["campaign", QUICK, "--seeds", "300", "--jobs", "1"]
    assert main([*command, *(["--state", "state"] if has_state else [])]) == 130
    then = "the same command goes on"
    if not has_state:
        then = "with --state FILE, the same command would go on from there"
    assert capsys.readouterr().out == f"Stopped after 150 of 300 seeds; {then}.\n"
    if has_state:
        assert main([*command, "--state", "state"]) == 130
        assert capsys.readouterr().out == (
            "150 of 300 seeds were done before.\nStopped after 300 of 300 seeds; the same command goes on.\n"
        )


@pytest.mark.parametrize("command", ["campaign swarm --seeds 100000", "sweep convergence"])
@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize("worked_s", [0.0, 0.2, 1.0], ids=["started", "loading", "at work"])
def test_ctrl_c_at_any_time_leaves_no_traceback(
    command: str, whole_group: bool, worked_s: float, tmp_path: Path
) -> None:
    """From the moment at which there is a worker; before that the program is still being loaded."""
    with started([sys.executable, "-m", "simulations", *command.split(), "--jobs", "2"], tmp_path) as process:
        wait_for_workers(process.pid, worked_s)
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (130, "")


def test_workers_end_with_the_campaign_whatever_ends_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "simulations", "campaign", "swarm", "--seeds", "100000", "--jobs", "2"]
    with started(command, tmp_path) as process:
        wait_for_workers(process.pid, 0.2)
        workers = workers_of(process.pid)
        process.kill()
        process.wait()
        deadline = time.monotonic() + PATIENCE_S
        while any(map(is_alive, workers)):
            assert time.monotonic() < deadline, "a worker goes on"
            time.sleep(0.005)


@contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The program, in a process group of its own, of which nothing is left afterwards."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for_workers(campaign: int, worked_s: float) -> None:
    """Until one has used so much processor time."""
    deadline = time.monotonic() + PATIENCE_S
    while not (worked := [seconds_worked(each) for each in workers_of(campaign)]) or max(worked) < worked_s:
        assert time.monotonic() < deadline, "the workers do not come so far"
        time.sleep(0.005)


def is_alive(process: Path) -> bool:
    """Whether it has not ended, taken note of or not."""
    try:
        return stat_of(process)[0] not in "ZX"
    except OSError:
        return False


def stat_of(process: Path) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5)).  Raises OSError if it is gone."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def workers_of(campaign: int) -> list[Path]:
    """What /proc says of the processes that were started to run seeds."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            parent = stat_of(process)[1]
            if int(parent) == campaign and b"spawn_main" in (process / "cmdline").read_bytes():
                found.append(process)
    return found


def seconds_worked(process: Path) -> float:
    """The processor time that it has used."""
    fields = stat_of(process)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# What it says in the end ----------------------------------------------------------------------------------


def concluded(tally: Tally, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of a campaign that has nothing left to run, and what it said."""
    tally.done = dict.fromkeys(range(tally.first, tally.first + tally.seeds, CHUNK), CHUNK)
    tally.runs = tally.seeds
    tally.save(tmp_path / "state")
    arguments = [
        tally.scenario,
        "--seeds",
        str(tally.seeds),
        "--state",
        str(tmp_path / "state"),
        "--jobs",
        "1",
    ]
    code = main(["campaign", *arguments])
    return code, capsys.readouterr().out


def test_a_campaign_that_came_upon_everything_succeeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally(scenario="swarm", first=0, seeds=500, reached=dict.fromkeys(sometimes.SWARM, 1234))
    code, said = concluded(tally, tmp_path, capsys)
    assert code == 0
    assert "500 seeds of swarm from 0: 0 broke a promise." in said
    assert "1,234" in said
    assert f"All {len(sometimes.SWARM)} things that a swarm should come upon happened." in said


def test_a_campaign_that_never_came_upon_something_says_so_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reached = dict.fromkeys(sometimes.SWARM, 1) | {"node left": 0, "disk full": 0}
    code, said = concluded(Tally(scenario="swarm", first=0, seeds=500, reached=reached), tmp_path, capsys)
    assert code == 1
    assert "Never came upon: node left, disk full" in said or "Never came upon: disk full, node left" in said


@pytest.mark.parametrize(("scenario", "seeds"), [("swarm", 499), (QUICK, 500)])
def test_what_is_short_or_no_swarm_need_not_come_upon_everything(
    scenario: str, seeds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = concluded(Tally(scenario=scenario, first=0, seeds=seeds), tmp_path, capsys)
    assert code == 0
    assert "Never" not in said
