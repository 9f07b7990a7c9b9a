"""`crdtmail demo` as a person runs it: what it shows, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.test_cli import crdtmail

PRESSES = 50


@contextmanager
def demonstration(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One under way, whose temporary files are in `folder`."""
    command = [sys.executable, "-m", "crdtmail", "demo", *arguments]
    environment = {**os.environ, "TMPDIR": str(folder), "COLUMNS": "200"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def nodes_that_run(folder: Path) -> list[str]:
    """The command lines of all processes that have their data in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if str(folder) in command:
            found.append(command)
    return found


@pytest.mark.parametrize("form", [(), ("--chain",)], ids=["mesh", "chain"])
def test_it_ends_with_equal_nodes(form: tuple[str, ...]) -> None:
    result = crdtmail("demo", *form)
    assert (result.returncode, result.stderr) == (0, "")
    apart, final = result.stdout.split("3. The cut is healed.")
    assert "(\\Answered \\Flagged)" in apart
    assert final.count("(\\Answered \\Seen)") == 3
    rows = [line.split("│")[1:-1] for line in final.splitlines() if "│" in line]
    assert {row[0].strip() for row in rows} == {"offer", "minutes", "invoice"}
    for row in rows:
        assert row[1].strip() == row[2].strip() == row[3].strip() != "-", "each node shows the same"
    assert "All three nodes are equal" in final


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_its_nodes_can_be_kept_and_end_with_it(number: signal.Signals, tmp_path: Path) -> None:
    with demonstration(tmp_path, "--keep") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any("left running" in line for line in lines)
        tries = [next(lines).split() for _ in range(3)]
        assert len(nodes_that_run(tmp_path)) == 3
        for command in tries:
            result = crdtmail(*command[1:])
            assert (command[0], result.returncode) == ("crdtmail", 0), "what it tells people to try works"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")
    assert list(tmp_path.iterdir()) == []
    assert nodes_that_run(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_stopped_in_the_middle_and_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    with demonstration(tmp_path) as process:
        assert process.stdout is not None
        assert "Three nodes" in process.stdout.readline()
        for _ in range(PRESSES):  # whoever is impatient gets it no less clean
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert said == ""
    assert list(tmp_path.iterdir()) == []
    assert nodes_that_run(tmp_path) == []
