"""Where runs are computed: in processes on this machine, or on the workers of a Dask cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context

from crdtmail.linux import die_with_parent


def cores() -> int:
    return os.cpu_count() or 1


def _begin(parent: int) -> None:
    """A worker is there: from now on Ctrl-C ends it at once, and without a word; and the end of the process
    for which it works, whatever ends that."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))


def _start(pool: Executor, jobs: int) -> None:
    """Start all workers now, deaf to Ctrl-C, which would end one that is not yet ready in a traceback."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        for _ in range(jobs):
            pool.submit(cores)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))


@contextmanager
def workers(jobs: int, dask: str | None = None) -> Iterator[tuple[Executor, int]]:
    """An executor, and how many things it does at once.

    With `dask`, the address of a scheduler (`tcp://host:8786`); its workers must have this code.  Raises
    ValueError for no jobs or if Dask is not installed, OSError if the scheduler cannot be reached.
    """
    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}; it takes at least one process")
    if dask is None:
        context = get_context("spawn")
        with ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_begin, initargs=(os.getpid(),)
        ) as pool:
            _start(pool, jobs)
            try:
                yield pool, jobs
            except KeyboardInterrupt:
                # One that lives on in the middle of its queue would keep everybody waiting.
                for worker in active_children():
                    worker.terminate()
                raise
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("Dask is not installed: pip install 'crdtmail[sweeps]'") from error
    with Client(dask) as client, client.get_executor() as executor:  # type: ignore[no-untyped-call]
        yield executor, max(1, sum(client.ncores().values()))
