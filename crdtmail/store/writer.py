"""The single writer: one thread, one commit for all the writes that wait (group commit).

Each write runs in a nested transaction, so one that fails spoils no other; one fsync makes the whole
group durable, and only then is anybody answered.  On a full disk a group comes to nothing, and the next
is tried as if nothing had been; a failing medium ends the writer for good.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Generic, NamedTuple

from crdtmail.errors import Overloaded, StoreError, StoreFull
from crdtmail.limits import MAX_GROUP, MAX_WRITES_WAITING
from crdtmail.store.interface import NeedsRoom, Snapshot, Store, T, Transaction


class _Write(NamedTuple):
    work: Callable[[Transaction], Any]
    future: Future[Any]
    wants_snapshot: bool


class Snapshotted(NamedTuple, Generic[T]):
    """What a write gave, and the state that its commit left; whoever gets it must close it."""

    result: T
    snapshot: Snapshot
    closing: AbstractContextManager[Snapshot]

    def close(self) -> None:
        self.closing.__exit__(None, None, None)


class Writer:
    """Runs writes on `store`; `committed` is called in the writer's thread after each durable commit."""

    def __init__(self, store: Store, committed: Callable[[], None]) -> None:
        self._store = store
        self._committed = committed
        self._waiting: deque[_Write] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._failure: StoreError | None = None
        self._is_full = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> StoreError | None:
        """Why nothing is written any more, if that is so."""
        return self._failure

    @property
    def is_full(self) -> bool:
        """Whether there was no room for what was to be written last."""
        return self._is_full

    def submit(self, work: Callable[[Transaction], T]) -> Future[T]:
        """Run `work` in the next group.  The future is done when its effects are durable.

        Raises Overloaded if too many writes wait, StoreError if the medium has failed; the future raises
        StoreFull if there is no room.
        """
        return self._enqueue(work, wants_snapshot=False)

    def submit_and_snapshot(self, work: Callable[[Transaction], T]) -> Future[Snapshotted[T]]:
        """Run `work` last in its group, and give with its result the state that the commit left.

        So whatever `work` made sure of is true of the snapshot, however much is being written.
        """
        return self._enqueue(work, wants_snapshot=True)

    def stop(self) -> None:
        """Commit what waits, then end."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _enqueue(self, work: Callable[[Transaction], Any], *, wants_snapshot: bool) -> Future[Any]:
        future: Future[Any] = Future()
        with self._wake:
            if self._failure is not None:
                raise self._failure
            if self._stopping or len(self._waiting) >= MAX_WRITES_WAITING:
                raise Overloaded("the node is stopping" if self._stopping else "too many writes are waiting")
            self._waiting.append(_Write(work, future, wants_snapshot))
            self._wake.notify()
        return future

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return
                group = [self._waiting.popleft() for _ in range(min(MAX_GROUP, len(self._waiting)))]
            wanted = [write for write in group if write.future.set_running_or_notify_cancel()]
            if wanted:
                self._commit(sorted(wanted, key=lambda write: write.wants_snapshot))

    def _commit(self, group: list[_Write]) -> None:
        try:
            outcomes = self._store.transact(lambda txn: run_group(txn, [write.work for write in group]))
        except StoreFull as error:
            self._is_full = True
            for write in group:
                write.future.set_exception(error)
            return
        except Exception as error:
            self._fail(group, error)
            return
        self._is_full = False
        try:
            self._committed()
        except Exception as error:
            self._fail(group, error)
            return
        for write, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Failed):
                write.future.set_exception(outcome.error)
            elif write.wants_snapshot:
                closing = self._store.snapshot()
                try:
                    snapshot = closing.__enter__()
                except Exception as error:  # the write is durable; only this reader goes without
                    write.future.set_exception(error)
                else:
                    write.future.set_result(Snapshotted(outcome, snapshot, closing))
            else:
                write.future.set_result(outcome)

    def _fail(self, group: list[_Write], error: Exception) -> None:
        """The medium failed: nobody knows what is durable, so nothing is written any more."""
        with self._wake:
            self._failure = StoreError(f"the store can no longer be written: {error}")
            group += [write for write in self._waiting if write.future.set_running_or_notify_cancel()]
            self._waiting.clear()
        for write in group:
            write.future.set_exception(self._failure)
        self._committed()


class Failed(NamedTuple):
    """In place of a result: what the write raised.  It has changed nothing."""

    error: Exception


def run_group(txn: Transaction, works: Sequence[Callable[[Transaction], Any]]) -> list[Any]:
    """Run each of the works in a transaction of its own inside `txn`; the result of each, or `Failed`."""
    outcomes: list[Any] = []
    for work in works:
        try:
            with txn.nested() as inner:
                outcomes.append(work(inner))
        except (NeedsRoom, StoreFull):  # the whole group's
            raise
        except Exception as error:  # the write's own failure: its caller's to hear, nobody else's
            outcomes.append(Failed(error))
    return outcomes
