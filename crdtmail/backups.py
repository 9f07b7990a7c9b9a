"""Copies of a store: made while its node runs, checked before they count, put back without losing anything.

A copy is written beside the place where it is to be and moved there when it is whole and durable, so what
bears a backup's name is one.  It holds no `place`: a node that is started on it takes it for a copy.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from crdtmail.checking import Reading, check
from crdtmail.crdt.clock import Clock
from crdtmail.errors import ConfigError, StoreError
from crdtmail.store.interface import DamagedRecord, Snapshot
from crdtmail.store.lmdb_store import copy_store, data_file, holding, reading
from crdtmail.store.migrations import check_format
from crdtmail.store.tables import FORMAT, Tables


@dataclass(frozen=True, slots=True)
class Contents:
    """What a copy holds; `size` in bytes."""

    size: int
    clock: Clock
    mailboxes: int
    messages: int


def backup(data: Path, target: Path) -> Contents:
    """Copy the store in the folder `data` to `target`: a new file if it ends in `.mdb`, else a new folder.

    Raises ConfigError, StoreError.
    """
    if target.exists():
        raise ConfigError(f"{target} exists already, and a backup overwrites nothing")
    with _beside(target) as made:
        copy_store(data, data_file(made))
        with reading(data_file(made)) as rows:
            contents = _contents(rows, data_file(made))
        if target.suffix == ".mdb":
            os.link(data_file(made), target)  # which, unlike a renaming, overwrites nothing
        else:
            made.rename(target)
    _sync(target.parent)
    return contents


def restore(source: Path, data: Path, *, replace: bool, read: Reading) -> tuple[Contents, Path | None]:
    """Put the backup `source` (a file, or a folder that holds one) in the place of the folder `data`.

    Answers what it holds, and with `replace` where the old folder is now; otherwise nothing may be there.
    Raises ConfigError, and StoreError if the backup is damaged; then nothing was changed.
    """
    if not data_file(source).is_file():
        raise ConfigError(f"there is no backup at {source}")
    data = data.resolve()
    is_taken = data.exists() and any(data.iterdir())
    if is_taken and not replace:
        raise ConfigError(f"{data} is not empty; with --replace it is moved aside, and nothing is deleted")
    with reading(data_file(source)) as rows:
        contents = _verified(rows, source, read)
    with _beside(data) as made:
        shutil.copyfile(data_file(source), data_file(made))
        _sync(data_file(made))
        aside = None
        if data.exists():
            _take_owner(data, made)
        if is_taken:
            with holding(data):
                aside = _free_name(data)
                data.rename(aside)
                made.rename(data)
        else:
            made.rename(data)
    _sync(data.parent)
    return contents, aside


def _contents(rows: Snapshot, file: Path) -> Contents:
    """Raises StoreError if this version cannot read it."""
    tables = Tables(rows)
    found = tables.format()
    if found is None:
        raise StoreError(f"{file} holds no node's state")
    check_format(found)
    totals = [box.total for _, _, box in tables.every_mailbox()]
    return Contents(file.stat().st_size, tables.head().clock, len(totals), sum(totals))


def _verified(rows: Snapshot, source: Path, read: Reading) -> Contents:
    """What a backup holds.  Raises StoreError if anything is wrong with it."""
    try:
        if Tables(rows).format() == FORMAT:  # an older one can be checked when it has been brought up to date
            found = [finding.text for finding in check(rows, read)]
            if found:
                more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
                raise StoreError(f"the backup {source} is damaged: {found[0]}{more}")
        return _contents(rows, data_file(source))
    except DamagedRecord as error:
        raise StoreError(f"the backup {source} is damaged: {error}") from error


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A new folder next to `target`, to be renamed to it; whatever fails, it does not stay."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            yield made
        finally:
            if made.exists():  # it has no new name
                shutil.rmtree(made)
    except OSError as error:
        raise ConfigError(f"{error.filename or target} cannot be used: {error.strerror}") from error


def _free_name(folder: Path) -> Path:
    names = (folder.with_name(f"{folder.name}.replaced-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def _take_owner(old: Path, new: Path) -> None:
    """Restored by root, it is still the node's."""
    status = old.stat()
    for path in (new, data_file(new)):
        os.chown(path, status.st_uid, status.st_gid)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
