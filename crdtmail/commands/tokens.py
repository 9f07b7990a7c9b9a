"""`crdtmail token`: make, list and revoke the tokens of one node's clients, in the file beside its data."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from crdtmail import config, screen
from crdtmail.errors import ConfigError
from crdtmail.limits import MAX_PATTERN, MAX_PATTERNS, MAX_TOKEN_NAME
from crdtmail.security import tokens
from crdtmail.security.tokens import TOKEN_BYTES, Scope

Commands = argparse._SubParsersAction


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    token = commands.add_parser("token", help="let clients in: make, list and revoke tokens").add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )
    create = _parser(token, "create", "make a token and print it, once")
    create.add_argument("name", help="what you will know it by, to revoke it")
    create.add_argument(
        "--scope",
        action="append",
        choices=[scope.value for scope in Scope],
        required=True,
        help="what it permits; may be given often",
    )
    create.add_argument(
        "--account",
        action="append",
        metavar="PATTERN",
        help="whose mail, like '*@example.org'; may be given often",
    )
    create.set_defaults(command=_create)
    _parser(token, "list", "list the tokens, without what they are").set_defaults(command=_list)
    revoke = _parser(token, "revoke", "take a token away")
    revoke.add_argument("name")
    revoke.set_defaults(command=_revoke)


def _create(options: argparse.Namespace) -> int:
    scopes, accounts = [Scope(each) for each in options.scope], options.account or []
    if not accounts and scopes != [Scope.ADMIN]:
        raise ConfigError(
            "say whose mail it is for, like --account '*@example.org', or --account '*' for all"
        )
    if not options.name.isprintable() or not 0 < len(options.name) <= MAX_TOKEN_NAME:
        raise ConfigError(f"a token's name is printable text of at most {MAX_TOKEN_NAME} characters")
    if len(accounts) > MAX_PATTERNS or any(len(pattern) > MAX_PATTERN for pattern in accounts):
        raise ConfigError(f"at most {MAX_PATTERNS} patterns of at most {MAX_PATTERN} characters")
    for pattern in accounts:
        if not pattern or not pattern.isprintable():
            raise ConfigError(f"--account {pattern!r} fits no account")
    text = tokens.create(_data(options), options.name, scopes, accounts, secrets.token_bytes(TOKEN_BYTES))
    screen.err.print("The token, which is not shown again; a node that runs takes it at SIGHUP:")
    screen.out.print(text, markup=False)
    return 0


def _list(options: argparse.Namespace) -> int:
    table = screen.table("name", "scopes", "accounts")
    data = _data(options)
    tokens.check_folder(data)
    known = tokens.load(data)
    for token in () if known is None else known.all:
        table.add_row(token.name, " ".join(scope.value for scope in token.scopes), " ".join(token.accounts))
    screen.out.print("no token was ever made" if known is None else table)
    return 0


def _revoke(options: argparse.Namespace) -> int:
    tokens.revoke(_data(options), options.name)
    screen.out.print(f"{options.name} is revoked; a node that runs lets it in until SIGHUP", markup=False)
    return 0


def _data(options: argparse.Namespace) -> Path:
    """The data folder of the node whose tokens they are."""
    return config.load(options.config, {"data": options.data}).data


def _parser(commands: Commands[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--config", type=Path, metavar="FILE", help="the node's configuration, which names its data"
    )
    where.add_argument("--data", metavar="FOLDER", help="the node's data folder")
    return parser
