"""Power is cut at any moment: the store opens, and has all that was answered and nothing half.

`python -m tests.long power` cuts 1,000 times.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests import power

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the recorder is compiled with gcc")

WITHOUT = """
import sys, lmdb
from crdtmail.cli import main
as_wanted = lmdb.open
lmdb.open = lambda *arguments, **options: as_wanted(*arguments, **{{**options, {option!r}: False}})
raise SystemExit(main(sys.argv[1:]))
"""


def test_after_a_power_cut_everything_answered_is_there(tmp_path: Path) -> None:
    records = power.record(tmp_path, writes=60)
    kinds = Counter(record.kind for record in records)
    assert kinds["W"] > kinds["S"] > 20, "writes and syncs are seen"
    assert kinds["A"] == 61, "every write is answered"
    assert power.cut(tmp_path, records, cuts=60, seed=1) > 10, "something is under way when the power goes"


def test_a_new_data_folder_is_durable_before_anything_is_answered(tmp_path: Path) -> None:
    """The folder in the one above it, and the name of the file in it."""
    disk = power.Disk()
    records = power.record(tmp_path, writes=3)
    for record in records[: next(n for n, record in enumerate(records) if record.kind == "A")]:
        disk.take(record)
    assert disk.names == ("data.mdb",)
    assert {str(tmp_path), str(tmp_path / "recorded")} <= set(disk.folders)


@pytest.mark.parametrize("option", ["sync", "metasync"])
def test_a_store_that_does_not_sync_is_caught(tmp_path: Path, option: str) -> None:
    records = power.record(tmp_path, writes=60, program=("-c", WITHOUT.format(option=option)))
    with pytest.raises(AssertionError, match=r"does not open|answered is lost|damaged|covers"):
        power.cut(tmp_path, records, cuts=100, seed=1)
