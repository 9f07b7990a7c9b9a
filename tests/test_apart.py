"""Work that is done in a process of its own, and what of its end is told."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crdtmail.apart import apart
from crdtmail.errors import ConfigError, DamagedStore, StoreError
from crdtmail.store.interface import DamagedRecord, Table


def die(how: signal.Signals) -> None:
    os.kill(os.getpid(), how)
    time.sleep(60)


@pytest.mark.parametrize("how", [signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV])
def test_who_dies_of_what_was_read_has_read_something_damaged(how: signal.Signals) -> None:
    with pytest.raises(DamagedStore, match=f"the store is damaged: .*{how.name}"):
        apart("the store", lambda: die(how))


def test_who_was_killed_says_nothing_of_what_was_read() -> None:
    with pytest.raises(StoreError, match="ended by SIGKILL") as told:
        apart("the store", lambda: die(signal.SIGKILL))
    assert not isinstance(told.value, DamagedStore)


def test_the_answer_and_what_is_raised_come_back() -> None:
    assert apart("x", lambda: (os.getpid(), b"answer"))[1] == b"answer"
    assert apart("x", os.getpid) != os.getpid()
    for error, kind in (
        (ConfigError("so"), ConfigError),
        (DamagedStore("so"), DamagedStore),
        (DamagedRecord(Table.LOG, b"key"), StoreError),
        (BrokenPipeError(errno.EPIPE, "so"), BrokenPipeError),
        (PermissionError(errno.EACCES, "so", "file"), PermissionError),
    ):

        def work(error: Exception = error) -> None:
            raise error

        with pytest.raises(kind) as told:
            apart("x", work)
        assert type(told.value) is kind
        assert str(told.value) == str(error)


def test_a_length_beyond_all_memory_is_damage() -> None:
    def work() -> None:
        raise MemoryError

    with pytest.raises(DamagedStore, match="beyond all memory"):
        apart("x", work)


def test_what_a_library_says_before_it_dies_is_not_shown_and_what_we_say_is(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def work() -> None:
        os.write(2, b"Assertion failed")
        print("progress", file=sys.stderr)

    apart("x", work)
    assert capfd.readouterr().err == "progress\n"


def test_the_work_ends_with_whoever_has_asked_for_it(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys, time\n"
        "from crdtmail.apart import apart\n"
        "def work():\n"
        "    pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "apart('x', work)\n"
    )
    told = tmp_path / "pid"
    asker = subprocess.Popen([sys.executable, "-c", code, str(told)])
    deadline = time.monotonic() + 30
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    asker.kill()
    asker.wait()
    while Path(f"/proc/{told.read_text()}/cmdline").exists() and is_alive(int(told.read_text())):
        assert time.monotonic() < deadline, "the work goes on"
        time.sleep(0.01)


def is_alive(process: int) -> bool:
    """A process that has ended stays listed until somebody asks how."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
