"""`python -m tests.stepwise`: crdtmail, with whatever is done in steps done in many small ones.

Housekeeping is done all the time, so few messages suffice to be killed in the middle; on stderr it says what
a kill waits for.

Nothing else differs from the command that users run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from crdtmail import cli, replica
from crdtmail.gossip import serving
from crdtmail.replica import Replica
from crdtmail.store import migrations
from crdtmail.web import housekeeping
from tests.old_stores import OLD, migration

P = ParamSpec("P")
T = TypeVar("T")

PROGRAM = ("-m", "tests.stepwise")
MERGES = "begins to merge\n"
MIGRATES = "begins to migrate\n"


def announced(text: str, work: Callable[P, T]) -> Callable[P, T]:
    """The same, after saying so."""

    @wraps(work)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> T:
        sys.stderr.write(text)
        sys.stderr.flush()
        return work(*arguments, **options)

    return wrapped


def main() -> int:
    housekeeping.HOUSE_S = 0.2  # type: ignore[attr-defined]
    replica.MAX_ROWS_CLEARED = 20  # type: ignore[attr-defined]
    serving.BATCH_BYTES = 16 * 1024  # type: ignore[attr-defined]
    Replica.merge = announced(MERGES, Replica.merge)  # type: ignore[method-assign]
    migrations.MIGRATIONS[OLD] = announced(MIGRATES, migration())
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
