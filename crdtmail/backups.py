"""Copies of a store: made while its node runs, checked before they count, put back without losing anything.

A copy is written beside the place where it is to be and moved there when it is whole and durable, so what
bears a backup's name is one.  It holds no `place`, so a node that is started on it takes it for a copy, also
where it was put over the node's own file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from crdtmail.apart import apart
from crdtmail.checking import NONSENSE, Reading, check
from crdtmail.crdt.clock import Clock, ReplicaId
from crdtmail.errors import ConfigError, DamagedStore, StoreError
from crdtmail.linux import exchange, rename_to_new
from crdtmail.security import tokens
from crdtmail.store.interface import DamagedRecord, Snapshot
from crdtmail.store.lmdb_store import (
    assure_pages,
    changing,
    copy_store,
    data_file,
    disk_errors,
    has_lock,
    holding,
    reading,
    store_in,
)
from crdtmail.store.migrations import check_format
from crdtmail.store.tables import FORMAT, Tables, WritableTables

_NOT_READABLE = "this user may not read it"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a copy holds; `size` in bytes."""

    size: int
    clock: Clock
    mailboxes: int
    messages: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore has done; `aside` is where the old folder is now, if there was one."""

    contents: Contents
    aside: Path | None
    has_tokens: bool
    owner_is_root: bool
    """Whether it lies in a new folder that nobody but root can use."""


Watch = Callable[[], AbstractContextManager[Reading]]
"""Shows how far a check has come, in the process that does it."""


def backup(data: Path, target: Path) -> Contents:
    """Copy the store in the folder `data` to `target`: a new file if it ends in `.mdb`, else a new folder.

    Raises ConfigError, StoreError.
    """
    store_in(data)
    with _writing(target):
        _assure_nothing_is_at(target)
        if not target.parent.exists():
            # Made here it would fill the root disk, where the one for backups is not mounted.
            raise ConfigError(f"there is no folder {target.parent}: make it, or mount the disk that has it")
        with _beside(target) as made:
            contents = apart(f"the store in {data}", lambda: _copied(data, data_file(made)))
            _name(data_file(made) if target.suffix == ".mdb" else made, target)
        _sync(target.parent)
    return contents


def restore(source: Path, data: Path, *, replace: bool, lose_changes: bool, watch: Watch) -> Restored:
    """Put the backup `source` (a file, or a folder that holds one) in the place of the folder `data`.

    Without `replace` nothing may be there.  What is replaced is moved aside, and with it, unless it is known
    that others have them, changes that only this node had: that must be agreed to by `lose_changes`.
    Raises ConfigError, also where a node runs on `source`, and StoreError if the backup is damaged; then
    nothing was changed.
    """
    with disk_errors(f"the backup {source}", _NOT_READABLE):
        if not data_file(source).is_file():
            raise ConfigError(f"there is no backup at {source}")
    data = data.resolve()
    with ExitStack() as until_done, _writing(data):
        if data.exists() and not data.is_dir():
            raise ConfigError(f"{data} is no folder, and a data folder is one")
        is_taken = data.exists() and any(data.iterdir())
        if is_taken and (replace or has_lock(data)):
            until_done.enter_context(holding(data))
        if is_taken and not replace:
            raise ConfigError(
                f"{data} is not empty; with --replace it is moved aside, and nothing is deleted"
            )
        _hold_still(source, data, until_done)
        contents = _verified(source, watch)
        if is_taken and not lose_changes:
            _assure_that_others_have_its_changes(data, contents.clock)
        with _beside(data) as made:
            shutil.copyfile(data_file(source), data_file(made))
            _sync(data_file(made))
            has_tokens = is_taken and _carry_over(data / tokens.FILE, made)
            owner_is_root = not data.exists() and _give_to_owner_of(_nearest(data), made)
            if data.exists():
                _give_to_owner_of(data, made)
            aside = _put(made, data) if is_taken else None
            if aside is None:
                made.rename(data)
        _sync(data.parent)
    return Restored(contents, aside, has_tokens, owner_is_root)


# What is in them ------------------------------------------------------------------------------------------


def _copied(data: Path, copy: Path) -> Contents:
    copy_store(data, copy)
    with _sound(f"the store in {data}"), reading(copy) as rows:
        contents = _contents(rows, copy)
    with changing(copy) as txn:
        WritableTables(txn).forget_place()
    return replace(contents, size=copy.stat().st_size)


def _contents(rows: Snapshot, file: Path) -> Contents:
    """Raises StoreError if this version cannot read it."""
    tables = Tables(rows)
    found = tables.format()
    if found is None:
        raise StoreError(f"{file} holds no node's state")
    check_format(found)
    try:
        totals = [box.total for _, _, box in tables.every_mailbox()]
        return Contents(file.stat().st_size, tables.head().clock, len(totals), sum(totals))
    except NONSENSE as error:
        if found == FORMAT:
            raise
        raise StoreError(
            f"{file} has format {found}, which only a node that starts on it brings up to date: start one, "
            "and make a backup then"
        ) from error


def _verified(source: Path, watch: Watch) -> Contents:
    """What a backup holds.  Raises StoreError if anything is wrong with it."""
    what, file = f"the backup {source}", data_file(source)

    def work() -> Contents:
        with _sound(what), reading(file) as rows, watch() as read:
            if Tables(rows).format() == FORMAT:  # an older one is checked when it has been brought up to date
                found = [finding.text for finding in check(rows, read)]
                if found:
                    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
                    raise DamagedStore(f"{what} is damaged: {found[0]}{more}")
            return _contents(rows, file)

    try:
        with disk_errors(what, _NOT_READABLE):
            apart(what, lambda: assure_pages(file))
            return apart(what, work)
    except DamagedStore as error:
        raise StoreError(f"{error}.  Nothing was changed; take another backup, or a healthy peer") from error


def _hold_still(source: Path, held: Path, until_done: ExitStack) -> None:
    """Nobody writes to a backup, but to the folder of a node, unless that is stopped; `held` is ours already.

    Raises ConfigError if one runs there: what is read meanwhile looks damaged, or is of no one state.
    """
    file = data_file(source).resolve()
    folder = file.parent
    if folder == held or file != data_file(folder) or not has_lock(folder):
        return
    try:
        until_done.enter_context(holding(folder, only_to_read=True))
    except ConfigError as error:
        raise ConfigError(
            f"{error}; {source} is that node's own: make a backup with `crdtmail backup`, or stop it"
        ) from error


@contextmanager
def _sound(what: str) -> Iterator[None]:
    try:
        yield
    except (DamagedRecord, *NONSENSE) as error:
        raise DamagedStore(f"{what} is damaged: {error}") from error


def _assure_that_others_have_its_changes(data: Path, backed_up: Clock) -> None:
    """Raises ConfigError where the store that is to be replaced may hold what exists nowhere else."""
    if not data_file(data).is_file():
        return
    try:
        only_here, has_peers = apart(f"the store in {data}", lambda: _only_in(data_file(data), backed_up))
    except StoreError as error:
        raise ConfigError(
            f"{data} cannot be read ({error}), so nobody knows whether it holds changes that no peer has; "
            "with --lose-changes it is moved aside all the same, and nothing is deleted"
        ) from error
    if not only_here:
        return
    how = (
        "start the node, wait until `crdtmail status` says that its peers lack 0 deltas, stop it, "
        "and restore then"
        if has_peers
        else "no peer was ever heard of, so make a backup of it first"
    )
    raise ConfigError(
        f"{data} may hold {sum(only_here.values()):,} change(s) of this node that neither the backup nor any "
        f"peer has: {how}.  With --lose-changes they stay in the folder that is moved aside, and are lost "
        "to all nodes"
    )


def _only_in(file: Path, backed_up: Clock) -> tuple[dict[ReplicaId, int], bool]:
    """By replica, how many changes nobody else is known to have; and whether there are any others.

    Those of a living peer it has itself.
    """
    with _sound("its state"), reading(file) as rows:
        tables = Tables(rows)
        if (found := tables.format()) != FORMAT:
            raise StoreError(f"its format is {found}")
        peers = {replica: peer for replica, peer in tables.peers().items() if not peer.is_retired}
        known = backed_up
        for peer in peers.values():
            known = known.join(peer.clock)
        clock = tables.head().clock
        return {
            replica: seq - known[replica]
            for replica, seq in clock.items()
            if replica not in peers and seq > known[replica]
        }, bool(peers)


# Files and folders ----------------------------------------------------------------------------------------


def _writing(target: Path) -> AbstractContextManager[None]:
    return disk_errors(str(target), "this user may not write there")


def _assure_nothing_is_at(target: Path) -> None:
    try:
        target.lstat()
    except FileNotFoundError:
        return
    raise ConfigError(f"{target} exists already, and a backup overwrites nothing")


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A new folder next to `target`, to be renamed to it; whatever fails, it does not stay."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}-", dir=target.parent))
    try:
        yield made
    finally:
        if made.exists():  # it has no new name
            shutil.rmtree(made)


def _name(made: Path, target: Path) -> None:
    """Give what was made its name, and overwrite nothing.  Not every file system can make that one step."""
    if not rename_to_new(made, target):
        _assure_nothing_is_at(target)
        made.rename(target)


def _put(made: Path, data: Path) -> Path:
    """Put what was made in the place of `data`; where that is now.

    There is a data folder at any moment: else a node that starts after a crash would begin an empty one.
    """
    aside = _free_name(data)
    made.rename(aside)
    try:
        if exchange(aside, data):
            return aside
    except OSError:
        aside.rename(made)
        raise
    aside.rename(made)  # this file system has no exchange
    data.rename(aside)
    made.rename(data)
    return aside


def _free_name(folder: Path) -> Path:
    names = (folder.with_name(f"{folder.name}.replaced-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def _carry_over(file: Path, folder: Path) -> bool:
    """Copy a file with its mode and owner; whether it was there."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return False
    copy = Path(shutil.copy2(file, folder))
    os.chown(copy, status.st_uid, status.st_gid)
    _sync(copy)
    return True


def _nearest(folder: Path) -> Path:
    """The nearest folder above that is there."""
    return next(above for above in folder.parents if above.exists())


def _give_to_owner_of(folder: Path, made: Path) -> bool:
    """Restored by root, it is still the node's.  Whether it is root's, and so perhaps not the node's."""
    if os.geteuid() == 0:
        owner = folder.stat()
        for path in (made, data_file(made)):
            os.chown(path, owner.st_uid, owner.st_gid)
    return made.stat().st_uid == 0


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
