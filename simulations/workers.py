"""Where runs are computed: in processes on this machine, or on the workers of a Dask cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import active_children, get_context, resource_tracker
from typing import TypeVar

from crdtmail.linux import die_with_parent

T = TypeVar("T")

CTRL_C_S = 0.1
"""How long a Ctrl-C may wait: not noticed by who presses it, nothing to who computes."""


def cores() -> int:
    return os.cpu_count() or 1


def _begin(parent: int) -> None:
    """A worker is there: from now on Ctrl-C ends it at once, and without a word; and the end of the process
    for which it works, whatever ends that."""
    die_with_parent(parent)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))


@contextmanager
def _ctrl_c_kept() -> Iterator[None]:
    """Ctrl-C waits until `first_done` looks for it, here and in all processes and threads that are started.

    It would come between any two steps otherwise: a lock of the pool that is taken just then stays taken, and
    a process that is not yet ready ends in a traceback.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))


def first_done(futures: Collection[Future[T]]) -> set[Future[T]]:
    """Wait for the next of them.  Raises KeyboardInterrupt after a Ctrl-C, for which `workers` waits here."""
    while True:
        done = wait(futures, timeout=CTRL_C_S, return_when=FIRST_COMPLETED).done
        if signal.sigtimedwait((signal.SIGINT,), 0):
            raise KeyboardInterrupt
        if done:
            return done


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
        resource_tracker.ensure_running()  # which unblocks Ctrl-C once it has started
        with (
            _ctrl_c_kept(),
            ProcessPoolExecutor(
                jobs, mp_context=context, initializer=_begin, initargs=(os.getpid(),)
            ) as pool,
        ):
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
    with _ctrl_c_kept(), Client(dask) as client, client.get_executor() as executor:  # type: ignore[no-untyped-call]
        yield executor, max(1, sum(client.ncores().values()))
