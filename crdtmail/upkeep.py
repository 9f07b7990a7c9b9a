"""The commands that work on a data folder itself: `backup`, `restore`, `check`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from crdtmail import config, screen
from crdtmail.errors import ConfigError, DamagedStore, StoreError

if TYPE_CHECKING:
    from crdtmail.backups import Contents
    from crdtmail.checking import Reading
    from crdtmail.store.interface import Table

_SHOW_EVERY = 1000  # records
_UNREPAIRED = (
    "What is named cannot be derived from anything here.  If the node has peers, move the data folder away, "
    "copy its tokens.json into a new one, and start the node: it gets everything from them.  Else restore a "
    "backup.  Keep the old folder."
)
_REPAIRABLE = "`crdtmail check --repair` puts right what can be."
_NO_BACKUP = "It will not be restored: take another backup."
_NO_TOKENS = (
    "There are no tokens in it, for a backup has none.  If clients show tokens, copy tokens.json (mode 0600) "
    "from the old folder or from another node, or make new ones with `crdtmail token create`, before you "
    "start it: a node on loopback without any lets everybody in."
)
_OF_ROOT = "It belongs to root.  If the node runs as another user: chown -R USER: "


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these commands to the command line."""
    backup = _parser(commands, "backup", "copy the store, also while the node runs", _backup)
    backup.add_argument("target", type=Path, help="a new folder, or a new file if it ends in .mdb")

    restore = _parser(commands, "restore", "put a backup in the place of the data folder", _restore)
    restore.add_argument("source", type=Path, help="what `crdtmail backup` made")
    restore.add_argument(
        "--replace", action="store_true", help="move what is in its place aside; nothing is deleted"
    )
    restore.add_argument(
        "--lose-changes",
        action="store_true",
        help="replace it even if it may hold changes that no other node has",
    )

    check = _parser(
        commands,
        "check",
        "read the whole store of a node that is stopped; exit code 1 if anything is wrong",
        _check,
    )
    check.add_argument("--repair", action="store_true", help="put right what can be derived from the rest")


def _backup(options: argparse.Namespace) -> int:
    from crdtmail.backups import backup  # as in `cli`: a client command needs none of it

    contents = backup(_data(options), options.target)
    screen.out.print(f"{options.target}: {_described(contents)}", markup=False)
    return 0


def _restore(options: argparse.Namespace) -> int:
    from crdtmail.backups import restore

    data = _data(options)
    restored = restore(
        options.source,
        data,
        replace=options.replace,
        lose_changes=options.lose_changes,
        watch=lambda: _progress("checking the backup"),
    )
    screen.out.print(f"{data} now holds {_described(restored.contents)}", markup=False)
    if restored.aside is not None:
        screen.out.print(f"what was there before is in {restored.aside}", markup=False)
    if not restored.has_tokens:
        screen.out.print(_NO_TOKENS, markup=False)
    if restored.owner_is_root:
        screen.out.print(f"{_OF_ROOT}{data}", markup=False)
    screen.out.print(
        "Start the node: it takes a new replica id, for the old one may have written more than the backup "
        "holds, and gets from its peers what they have and it lacks, also of its own later changes."
    )
    return 0


class _Verdict(NamedTuple):
    problems: int
    advice: str


def _check(options: argparse.Namespace) -> int:
    from crdtmail.apart import apart
    from crdtmail.store.lmdb_store import assure_pages, disk_errors, holding, store_in

    folder = _data(options)
    is_one_file = os.path.isfile(folder)
    if is_one_file and folder.name == "data.mdb":  # a node may run on it, so it is the folder's
        folder, is_one_file = folder.parent, False
    if is_one_file and options.repair:
        raise ConfigError(f"{folder} is a file, as a backup is one: it is checked, and not repaired")
    file, what = (folder, str(folder)) if is_one_file else (store_in(folder), f"the store in {folder}")
    try:
        with (
            nullcontext() if is_one_file else holding(folder, only_to_read=not options.repair),
            disk_errors(what, "it must belong to the user that runs this"),
        ):
            apart(what, lambda: assure_pages(file))
            verdict = apart(what, lambda: _looked_at(file, only_file=options.repair))
        if options.repair and not verdict.problems:
            verdict = apart(what, lambda: _repaired(folder))
    except DamagedStore as error:
        screen.out.print(f"WRONG: {error}", markup=False)
        verdict = _Verdict(1, _UNREPAIRED)
    except StoreError as error:
        raise ConfigError(f"{what} cannot be checked: {error}") from error
    if verdict.problems:
        advice = _NO_BACKUP if is_one_file else verdict.advice
        screen.out.print(f"{verdict.problems} problem(s).  {advice}", markup=False)
        return 1
    screen.out.print(f"{folder}: nothing is wrong", markup=False)
    return 0


def _looked_at(file: Path, *, only_file: bool) -> _Verdict:
    """What is wrong with a store, told as it is found; `only_file` leaves out what a repair will look at."""
    from crdtmail.checking import Finding, check, flaws
    from crdtmail.store.lmdb_store import reading

    problems, may_repair, is_of_file = 0, False, False
    with reading(file) as rows, _progress("checking") as read:
        found = (Finding(text, is_of_file=True) for text in flaws(rows)) if only_file else check(rows, read)
        for finding in found:
            _print_wrong(finding.text)
            problems += 1
            may_repair |= finding.repair is not None
            is_of_file |= finding.is_of_file
    return _Verdict(problems, _REPAIRABLE if may_repair and not is_of_file else _UNREPAIRED)


def _repaired(folder: Path) -> _Verdict:
    from crdtmail.checking import repair
    from crdtmail.store.lmdb_store import LmdbStore

    with closing(LmdbStore(folder)) as store, _progress("checking") as read:
        repaired = repair(store, read)
    for text in repaired.done:
        screen.out.print(f"REPAIRED: {text}", markup=False)
    for text in repaired.left:
        _print_wrong(text)
    return _Verdict(len(repaired.left), _UNREPAIRED)


def _print_wrong(text: str) -> None:
    screen.out.print(f"WRONG: {text}", markup=False)


def _described(contents: Contents) -> str:
    clock = ", ".join(f"{replica:016x}: {seq}" for replica, seq in contents.clock.items())
    return (
        f"{contents.mailboxes:,} mailboxes with {contents.messages:,} messages, {contents.size:,} bytes\n"
        f"clock  {clock}"
    )


@contextmanager
def _progress(what: str) -> Iterator[Reading]:
    """How many records were read so far, where somebody watches."""
    with screen.progress() as bar:
        task = bar.add_task(what, total=None)
        number = 0

        def read(table: Table) -> None:
            nonlocal number
            number += 1
            if number % _SHOW_EVERY == 0:
                bar.update(task, completed=number, description=f"{what}: {table.value.decode()}")

        yield read


def _data(options: argparse.Namespace) -> Path:
    return config.load(options.config, {"data": options.data}).data


def _parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    command: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data", metavar="FOLDER", help=f"the node's data folder ({config.default_data()})")
    where.add_argument("--config", type=Path, metavar="FILE", help="the node's configuration, which names it")
    parser.set_defaults(command=command)
    return parser
