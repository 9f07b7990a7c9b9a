"""How every test with real nodes ends: all of them equal, all of them stopped, all of their stores sound."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from crdtmail import LmdbStore
from crdtmail.checking import check
from crdtmail.client import Client
from crdtmail.verify import Verdict
from tests.nodes import PATIENCE_S


def end_well(ask: Callable[[], Verdict], stop: Callable[[], None], folders: Iterable[Path]) -> None:
    """`crdtmail verify` (which is what `ask` gives) must say equal, in clocks, too; then all are stopped, and
    `crdtmail check` must find nothing wrong in any folder."""
    until_equal(ask)
    stop()
    assert_sound(folders)


def until_equal(ask: Callable[[], Verdict], patience_s: float = 2 * PATIENCE_S) -> None:
    """Wait until the nodes have applied the same changes and hold the same."""
    deadline = time.monotonic() + patience_s
    while True:
        verdict = ask()
        if verdict.agrees and verdict.in_step:
            return
        assert time.monotonic() < deadline, f"the nodes do not become equal: {verdict}"
        time.sleep(0.02)


def asking(address: str) -> closing[Client]:
    """A connection to a node for the length of a block."""
    return closing(Client(address, timeout_s=PATIENCE_S))


def assert_sound(folders: Iterable[Path]) -> None:
    """The command itself, on each of these data folders of stopped nodes."""
    command = [sys.executable, "-m", "crdtmail", "check", "--data"]
    running = [
        subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for folder in folders
    ]
    said = [(process.communicate()[0], process.returncode) for process in running]
    wrong = [text for text, code in said if code != 0]
    assert not wrong, "crdtmail check: " + "\n".join(wrong)


def findings(folder: Path) -> list[str]:
    """What `crdtmail check` says of one folder, without a process for it."""
    with closing(LmdbStore(folder)) as store, store.snapshot() as snapshot:
        return [finding.text for finding in check(snapshot)]
