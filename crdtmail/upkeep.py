"""The commands that work on a data folder itself: `backup`, `restore`, `check`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crdtmail import config, screen
from crdtmail.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from crdtmail.backups import Contents
    from crdtmail.checking import Reading
    from crdtmail.store.interface import Table

_SHOW_EVERY = 1000  # records
_UNREPAIRED = (
    "What is named cannot be derived from anything here.  If the node has peers, move the data folder away "
    "and start the node anew: it gets everything from them.  Else restore a backup.  Keep the folder."
)


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these commands to the command line."""
    backup = _parser(commands, "backup", "copy the store, also while the node runs", _backup)
    backup.add_argument("target", type=Path, help="a new folder, or a new file if it ends in .mdb")

    restore = _parser(commands, "restore", "put a backup in the place of the data folder", _restore)
    restore.add_argument("source", type=Path, help="what `crdtmail backup` made")
    restore.add_argument(
        "--replace", action="store_true", help="move what is in its place aside; nothing is deleted"
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
    with _progress("checking the backup") as read:
        contents, aside = restore(options.source, data, replace=options.replace, read=read)
    screen.out.print(f"{data} now holds {_described(contents)}", markup=False)
    if aside is not None:
        screen.out.print(f"what was there before is in {aside}", markup=False)
    screen.out.print(
        "Start the node: it takes a new replica id, for the old one may have written more than the backup "
        "holds, and gets what it lacks from its peers, its own later changes among it."
    )
    return 0


def _check(options: argparse.Namespace) -> int:
    from crdtmail.checking import check, repair
    from crdtmail.store.lmdb_store import LmdbStore, data_file

    folder = _data(options)
    if not data_file(folder).is_file():
        raise ConfigError(f"there is no store in {folder}")
    problems = 0
    try:
        with closing(LmdbStore(folder)) as store, _progress("checking") as read:
            if options.repair:
                repaired = repair(store, read)
                for text in repaired.done:
                    screen.out.print(f"REPAIRED: {text}", markup=False)
                problems = _print(repaired.left)
            else:
                with store.snapshot() as rows:
                    problems = _print(finding.text for finding in check(rows, read))
    except StoreError as error:
        raise ConfigError(f"the store in {folder} cannot be checked: {error}") from error
    if problems:
        advice = _UNREPAIRED if options.repair else "`crdtmail check --repair` puts right what can be."
        screen.out.print(f"{problems} problem(s).  {advice}", markup=False)
        return 1
    screen.out.print(f"{folder}: nothing is wrong", markup=False)
    return 0


def _print(texts: Iterator[str] | list[str]) -> int:
    """Print each as it comes; how many there were."""
    number = 0
    for number, text in enumerate(texts, 1):  # noqa: B007
        screen.out.print(f"WRONG: {text}", markup=False)
    return number


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
