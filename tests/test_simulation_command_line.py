"""`python -m simulations`: what each command says, what it leaves behind, and its exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from simulations import scenarios, sweep
from simulations.__main__ import _Lines, main
from simulations.actions import spelt
from simulations.campaign import Tally
from simulations.failure import Failure
from tests.simulated import run_seed, swarm

ROOT = Path(__file__).parents[1]
BUG = "expunge-takes-the-unseen"
SEED = 2
"""Of the swarm; it fails with the planted bug, and not without it."""


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Commands:
    """Runs commands in a folder of their own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Said:
        code = main(arguments)
        said = self._capsys.readouterr()
        return Said(code, said.out, said.err)


@pytest.fixture
def simulations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    monkeypatch.chdir(tmp_path)
    return Commands(capsys)


@pytest.fixture
def failed(simulations: Commands) -> Path:
    """The file of a run that has failed."""
    assert simulations("run", "swarm", "--seed", str(SEED), "--planted", BUG).code == 1
    return Path("failures") / f"swarm-{SEED}-{BUG}.json"


# What there is --------------------------------------------------------------------------------------------


def test_without_a_command_every_scenario_is_listed_with_what_happens_in_it(simulations: Commands) -> None:
    said = simulations()
    assert (said.code, said.err) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.out.splitlines() if "│" in line]
    assert [name for name, _, _ in rows] == scenarios.names()
    for name, nodes, summary in rows:
        module = (ROOT / "simulations" / "scenarios" / f"{name.replace('-', '_')}.py").read_text()
        first_line = module.split('"""')[1].split("\n")[0].replace("\\\\", "\\")
        assert summary == first_line
        assert int(nodes) == len(scenarios.load(name).configure(0).nodes)


def test_it_is_a_program(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "simulations", "replay", str(tmp_path / "nowhere.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("simulations: ")
    assert "nowhere.json" in said.stderr
    assert said.stderr.count("\n") == 1


# run ------------------------------------------------------------------------------------------------------


def test_a_run_in_which_every_promise_held_succeeds_and_says_its_hash(simulations: Commands) -> None:
    said = simulations("run", "swarm", "--seed", str(SEED))
    assert (said.code, said.err) == (0, "")
    assert "Every promise held." in said.out
    assert f"trace {run_seed(SEED, swarm(SEED)).hash}, " in said.out
    assert not Path("failures").exists()


def test_a_strict_run_has_the_same_hash(simulations: Commands) -> None:
    arguments = ("run", "two-servers", "--seed", "5")
    assert simulations(*arguments, "--strict").out == simulations(*arguments).out


def test_everything_that_happened_is_printed_when_it_is_asked_for(simulations: Commands) -> None:
    config = scenarios.load("two-servers").configure(1)
    trace = run_seed(1, config).trace
    said = simulations("run", "two-servers", "--trace")
    assert len(said.out.splitlines()) > len(trace) > len(simulations("run", "two-servers").out.splitlines())
    assert f"{trace[-1].at_us / 1e6:.6f}" in said.out


def test_a_run_that_breaks_a_promise_fails_says_what_and_saves_itself(simulations: Commands) -> None:
    said = simulations("run", "swarm", "--seed", str(SEED), "--planted", BUG)
    assert (said.code, said.err) == (1, "")
    file = Path("failures") / f"swarm-{SEED}-{BUG}.json"
    failure = Failure.load(file)
    assert f"BROKEN: {failure.violation}" in said.out
    assert f"python -m simulations shrink {file}" in said.out
    assert failure.replay().violation == failure.violation
    assert failure.config.planted == (BUG,)


def test_a_scenario_of_ones_own_is_run_from_its_file(simulations: Commands, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text(
        "from simulations.config import Config\nCONFIG = Config(nodes=('a', 'b'), seconds=5)\n"
    )
    assert simulations("run", "own/mine.py").code == 0
    said = simulations("run", str(tmp_path / "own" / "mine.py"), "--planted", "no-fsync-before-answer")
    assert said.code == 1
    assert Failure.load(tmp_path / "failures" / "mine-1-no-fsync-before-answer.json").config.nodes == (
        "a",
        "b",
    )


# replay ---------------------------------------------------------------------------------------------------


def test_replaying_a_failure_fails_as_it_did(simulations: Commands, failed: Path) -> None:
    said = simulations("replay", str(failed))
    assert (said.code, said.err) == (1, "")
    assert f"BROKEN: {Failure.load(failed).violation}" in said.out


def test_each_of_several_files_is_replayed_and_one_that_fails_is_enough(
    simulations: Commands, failed: Path
) -> None:
    sound = ROOT / "simulations" / "regressions" / "a-flipped-bit-in-gossip-is-refused.json"
    said = simulations("replay", str(sound), str(failed), str(sound))
    assert said.code == 1
    assert said.out.splitlines() == [
        f"{sound}: holds",
        f"{failed}: {Failure.load(failed).violation}",
        f"{sound}: holds",
    ]
    assert simulations("replay", str(sound), str(sound)).code == 0


# shrink ---------------------------------------------------------------------------------------------------


def test_a_shrunk_failure_is_saved_beside_and_can_be_replayed(simulations: Commands, failed: Path) -> None:
    said = simulations("shrink", str(failed))
    assert (said.code, said.err) == (0, "")
    large, small = Failure.load(failed), Failure.load(failed.with_suffix(".small.json"))
    nodes = len(small.config.nodes)
    assert f"{len(large.events)} events became {len(small.events)}, on {nodes} nodes:" in said.out
    assert all(spelt(event.action) in said.out for event in small.events)
    assert small.promise == large.promise
    assert simulations("replay", str(failed.with_suffix(".small.json"))).code == 1


def test_a_shrinking_can_be_short_and_go_elsewhere(simulations: Commands, failed: Path) -> None:
    assert simulations("shrink", str(failed), "--runs", "1", "--to", "elsewhere.json").code == 0
    assert Failure.load(Path("elsewhere.json")).promise == Failure.load(failed).promise
    assert not failed.with_suffix(".small.json").exists()


def test_what_does_not_fail_cannot_be_shrunk(simulations: Commands) -> None:
    sound = ROOT / "simulations" / "regressions" / "a-flipped-bit-in-gossip-is-refused.json"
    said = simulations("shrink", str(sound), "--to", "small.json")
    assert (said.code, said.out) == (2, "")
    assert "does not break its promise here" in said.err
    assert not Path("small.json").exists()


# plot -----------------------------------------------------------------------------------------------------


def test_a_run_is_drawn(simulations: Commands) -> None:
    pytest.importorskip("matplotlib")
    said = simulations("plot", "two-servers", "--to", "folder/drawn")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == ["Drawn: folder/drawn.png", "Drawn: folder/drawn.svg"]
    assert all(Path(f"folder/drawn.{suffix}").stat().st_size > 1000 for suffix in ("png", "svg"))


def test_a_run_that_breaks_a_promise_is_drawn_all_the_same(simulations: Commands) -> None:
    pytest.importorskip("matplotlib")
    said = simulations("plot", "two-servers", "--planted", "no-fsync-before-answer")
    assert said.code == 1
    assert Path("run.png").exists()
    said = simulations("run", "two-servers", "--planted", "no-fsync-before-answer", "--picture", "broken")
    assert said.code == 1
    assert Path("broken.png").exists()
    assert (
        simulations("replay", "failures/two-servers-1-no-fsync-before-answer.json", "--picture", "again").code
        == 1
    )
    assert Path("again.png").exists()


# campaign -------------------------------------------------------------------------------------------------


def test_a_campaign_stops_at_a_failure_or_collects_them_all_and_says_how_to_see_them_again(
    simulations: Commands,
) -> None:
    arguments = ("campaign", "two-servers", "--seeds", "3", "--jobs", "1", "--first", "7")
    planted = ("--planted", "no-fsync-before-answer")
    stopped = simulations(*arguments, *planted, "--state", "state.json")
    assert (stopped.code, stopped.err) == (1, "")
    assert "1 seeds of two-servers from 7: 1 broke a promise." in stopped.out
    collected = simulations(*arguments, *planted, "--state", "state.json", "--all")
    assert (collected.code, collected.err) == (1, "")
    assert "3 seeds of two-servers from 7: 3 broke a promise." in collected.out
    for seed in (7, 8, 9):
        file = Path("failures") / f"two-servers-{seed}-no-fsync-before-answer.json"
        assert f"seed {seed}: {Failure.load(file).violation}" in collected.out
        assert f"python -m simulations replay {file}" in collected.out


def test_a_campaign_without_a_screen_tells_of_each_tenth_but_not_all_the_time(
    simulations: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("campaign", "two-servers", "--seeds", "50", "--jobs", "1")
    assert simulations(*arguments).err == ""
    monkeypatch.setattr(_Lines, "APART_S", 0.0)
    said = simulations(*arguments).err.splitlines()
    assert [line.split(", ")[0] for line in said] == ["25 of 50 seeds", "50 of 50 seeds"]


def test_the_state_of_another_campaign_is_refused(simulations: Commands) -> None:
    Tally(scenario="two-servers", first=1, seeds=5).save(Path("state.json"))
    for other in (
        ["swarm", "--first", "1"],
        ["two-servers"],
        ["two-servers", "--first", "1", "--planted", BUG],
    ):
        said = simulations("campaign", *other, "--state", "state.json")
        assert (said.code, said.out) == (2, "")
        assert said.err == "simulations: state.json is of another campaign\n"


# What cannot be followed ----------------------------------------------------------------------------------

FILES = {
    "empty.json": "",
    "other.json": '{"scenario": "swarm"}',
    "unknown-fault.json": '{"scenario": "s", "seed": 1, "promise": "p", "violation": "v", '
    '"config": {"faults": {"los": "on"}}, "events": []}',
    "syntax.py": "CONFIG = ",
    "nothing.py": "",
    "typo.py": "from simulations.config import Config\nCONFIG = Config(node=('a', 'b'))",
    "fault.py": "from simulations.config import Config\nCONFIG = Config(faults={'los': 'on'})",
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("run nowhere", "there is no scenario 'nowhere'; there are big-swarm, "),
        ("plot nowhere", "there is no scenario 'nowhere'"),
        ("campaign nowhere", "there is no scenario 'nowhere'"),
        ("run nowhere.py", "there is no scenario file nowhere.py"),
        ("run syntax.py", "syntax.py is no scenario: "),
        ("run nothing.py", "nothing.py defines no CONFIG"),
        ("run typo.py", "typo.py is no scenario: Unexpected keyword argument 'node'"),
        ("run fault.py", "there is no fault 'los'; there are loss, "),
        ("run two-servers --planted a-wasp", "there is no planted bug 'a-wasp'; there are "),
        ("plot two-servers --planted a-wasp", "there is no planted bug 'a-wasp'"),
        ("campaign two-servers --jobs 1 --planted a-wasp", "there is no planted bug 'a-wasp'"),
        ("campaign two-servers --state empty.json", "empty.json holds no campaign"),
        ("replay nowhere.json", "simulations: nowhere.json: No such file or directory\n"),
        ("replay empty.json", "empty.json holds no run that can be replayed"),
        ("replay other.json", "other.json holds no run that can be replayed"),
        ("replay unknown-fault.json", "there is no fault 'los'"),
        ("shrink nowhere.json", "simulations: nowhere.json: No such file or directory\n"),
        ("shrink empty.json", "empty.json holds no run that can be replayed"),
    ],
)
def test_what_cannot_be_followed_is_said_in_one_sentence(
    arguments: str, said: str, simulations: Commands
) -> None:
    for name, content in FILES.items():
        Path(name).write_text(content)
    told = simulations(*arguments.split())
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith("simulations: ")
    assert said in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("arguments", ["fly", "run", "run swarm --seed one", "replay", "shrink", "sweep"])
def test_a_command_line_that_makes_no_sense_is_refused_with_the_usage(
    arguments: str, simulations: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        simulations(*arguments.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m simulations")


# Small things ---------------------------------------------------------------------------------------------


def test_the_scenarios_are_listed_by_a_command_of_their_own(simulations: Commands) -> None:
    assert simulations("list") == simulations()


@pytest.mark.parametrize("command", ["campaign two-servers", "sweep sizes --quick"])
def test_no_process_at_all_is_refused(command: str, simulations: Commands) -> None:
    said = simulations(*command.split(), "--jobs", "0")
    assert (said.code, said.err) == (2, "simulations: --jobs is 0; it takes at least one process\n")


def test_a_sweep_without_a_picture_is_refused_before_it_is_measured(
    simulations: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "measure", lambda *_: pytest.fail("it was measured"))
    said = simulations("sweep", "sizes", "--to", "picture")
    assert said.code == 2
    assert "is a table, there is no picture of it: leave --to out" in said.err


def test_failures_stand_before_the_table_with_whole_commands(simulations: Commands) -> None:
    arguments = ("campaign", "two-servers", "--seeds", "1", "--jobs", "1")
    said = simulations(*arguments, "--planted", "no-fsync-before-answer").out
    file = "failures/two-servers-0-no-fsync-before-answer.json"
    assert f"smaller: python -m simulations shrink {file}" in said
    assert said.index(file) < said.index("what happened")


def test_a_part_of_a_run_is_drawn(simulations: Commands) -> None:
    pytest.importorskip("matplotlib")
    said = simulations("plot", "two-servers", "--from", "3", "--until", "4.5", "--to", "part")
    assert said.code == 0
    assert "A part: from 3 s to 4.5 s of " in Path("part.svg").read_text()
    said = simulations("plot", "two-servers", "--from", "900", "--to", "nothing")
    assert said.code == 2
    assert "there is nothing between 900 s" in said.err
