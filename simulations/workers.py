"""Where runs are computed: in processes on this machine, or on the workers of a Dask cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context


def cores() -> int:
    return os.cpu_count() or 1


@contextmanager
def workers(jobs: int, dask: str | None = None) -> Iterator[tuple[Executor, int]]:
    """An executor, and how many things it does at once.

    With `dask`, the address of a scheduler (`tcp://host:8786`); its workers must have this code.  Raises
    ValueError if Dask is not installed, OSError if the scheduler cannot be reached.
    """
    if dask is None:
        # Ctrl-C ends a worker at once: one that lives on in the middle of its queue keeps everybody waiting.
        end = (signal.SIGINT, signal.SIG_DFL)
        context = get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=signal.signal, initargs=end) as pool:
            yield pool, jobs
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("Dask is not installed: pip install 'crdtmail[sweeps]'") from error
    with Client(dask) as client, client.get_executor() as executor:  # type: ignore[no-untyped-call]
        yield executor, max(1, sum(client.ncores().values()))
