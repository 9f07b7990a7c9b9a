"""Half a minute of steady load and faults: no node leaks files or memory.

`python -m tests.long soak` does it for half an hour, and judges closely.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests import soak
from tests.soak import Limits, Sample
from tests.stepwise import PROGRAM

LEVEL = [Sample(float(n), 60 << 20, 30, 10 << 20, 400, 40 << 10) for n in range(30)]
GROWING = {
    "open files": [replace(each, files=30 + n) for n, each in enumerate(LEVEL)],
    "memory": [replace(each, rss=(60 + n) << 20) for n, each in enumerate(LEVEL)],
    "the data file": [replace(each, disk=(10 + n) << 20) for n, each in enumerate(LEVEL)],
    "the log": [replace(each, deltas=400 + 200 * n) for n, each in enumerate(LEVEL)],
    "the bytes of the log": [replace(each, log=(40 + 20 * n) << 10) for n, each in enumerate(LEVEL)],
}


def test_a_node_under_load_and_faults_stays_level(tmp_path: Path) -> None:
    soak.run(tmp_path, seconds=20, rate=50, seed=1, limits=soak.COARSE, program=PROGRAM)


@pytest.mark.parametrize("what", GROWING)
def test_what_grows_is_named(what: str) -> None:
    with pytest.raises(AssertionError, match=f"{what} ha(s|ve) grown"):
        soak.judge(GROWING[what], Limits())


def test_what_is_level_or_grows_only_at_first_passes() -> None:
    soak.judge(LEVEL, Limits(rss=0, files=0, disk=0, deltas=0, log=0))
    soak.judge([*GROWING["memory"][:10], *[replace(each, rss=90 << 20) for each in LEVEL[10:]]], Limits())
